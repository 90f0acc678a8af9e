"""What fewer operations cost: samplers at few steps, Guidance Interval, Step Cache and fewer super-resolution steps.

    python tests/benchmarks/fewer_operations.py -o runs/fewer                  # hours; prints Markdown tables
    python tests/benchmarks/fewer_operations.py -o runs/fewer --count 20 --renders 4 --rounds 1 --only interval
    python tests/benchmarks/fewer_operations.py -o runs/fewer --write          # the same, and into docs and help pages

Each way paints the same captions of the validation split, from one embedding each and the same seeds, beside the
stack's own settings. Pictures are kept in the output folder in parts, so a stopped run goes on: the same command.
Seconds are of a run that alternates with the stack's own settings, picture by picture; take them on a quiet machine.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from comfyui_unclip.unclip_core.checkpoints.catalog import find, read_stack
from comfyui_unclip.unclip_core.evaluation.context import Context
from comfyui_unclip.unclip_core.evaluation.enlarging import shrunk
from comfyui_unclip.unclip_core.evaluation.experiments.common import right
from comfyui_unclip.unclip_core.evaluation.judge import features_of
from comfyui_unclip.unclip_core.evaluation.report import Plan
from comfyui_unclip.unclip_core.evaluation.results import to_pil
from comfyui_unclip.unclip_core.evaluation.statistics import (
    Measured,
    Reference,
    frechet_over_seeds,
    paired_difference,
    share,
)
from comfyui_unclip.unclip_core.evaluation.storybook import captions_of, real_pictures
from comfyui_unclip.unclip_core.models.unet import DeepFeatures, UNet
from comfyui_unclip.unclip_core.pages import keep_pages
from comfyui_unclip.unclip_core.pictures.drawing import labelled_grid
from comfyui_unclip.unclip_core.pictures.likeness import psnr
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.stages import Decoder, Upsampler
from comfyui_unclip.unclip_core.storybook.draw import render
from comfyui_unclip.unclip_core.types import Embedding

ROOT = Path(__file__).resolve().parents[2]
PART = 25  # captions kept at a time
SHOWN = 8  # captions of the sheet
PAGES = ROOT / "web" / "docs"
SHEET, PICTURE = "together", ROOT / "docs" / "images" / "fewer_operations.webp"  # the table that is shown in pictures


@dataclass(frozen=True)
class Way:
    """A way to paint or to enlarge: arguments of `sample` (None leaves them to the stack), and what the handle carries.

    full: the way of which it is a shortcut, that PSNR compares with; None for a run that no other is measured by.
    """

    sampler: str | None = None
    steps: int | None = None
    interval: tuple[float, float] | None = None
    cache: tuple[int, int] | None = None

    def handle(self, stage: Decoder | Upsampler) -> Decoder | Upsampler:
        """The stage, patched."""
        if self.interval:
            stage = stage.with_guidance_interval(*self.interval)
        return stage.with_step_cache(*self.cache) if self.cache else stage

    @property
    def settings(self) -> dict:
        """Arguments of `sample`."""
        return {name: value for name, value in (("sampler", self.sampler), ("steps", self.steps)) if value is not None}

    @property
    def full(self) -> Way:
        """What it is a shortcut of: samplers without noise of their own lead to one picture, with as many steps as they
        need; those with noise to the one of the stack's own steps."""
        return Way("unipc", 50) if self.sampler in ("ddim", "dpmpp_2m", "unipc") else Way()

    def label(self, language: str, own: dict) -> str:
        """For a table's first cell. own: sampler and steps of the stack."""
        words = {"en": ("steps", "guidance {:g} to {:g}", "cache {}, depth {}", ", "),
                 "zh": ("步", "引导 {:g} 到 {:g}", "缓存间隔 {}，深度 {}", "，")}[language]  # fmt: skip
        steps = self.steps or own["steps"]
        unit = words[0].removesuffix("s") if steps == 1 else words[0]
        parts = [f"{self.sampler or own['sampler']}{words[3]}{steps} {unit}"]
        parts += [words[1].format(*self.interval)] if self.interval else []
        parts += [words[2].format(*self.cache)] if self.cache else []
        return words[3].join(parts)


OWN = Way()
SECTIONS: dict[str, list[Way]] = {
    "samplers": [
        Way(steps=25),
        Way("ddim", 25),
        *(Way("dpmpp_2m", steps) for steps in (20, 10)),
        *(Way("unipc", steps) for steps in (50, 25, 20, 15, 10)),
    ],
    "interval": [Way(interval=ends) for ends in ((0.0, 0.5), (0.0, 0.7), (0.1, 0.7), (0.3, 1.0))],
    "cache": [Way(cache=cut) for cut in ((2, 1), (2, 2), (2, 3), (3, 3), (5, 3))],
    "together": [
        Way("unipc", 20, interval=(0.0, 0.7)),
        Way("unipc", 20, cache=(2, 2)),
        Way("unipc", 20, interval=(0.0, 0.7), cache=(2, 2)),  # workflows/fast_text_to_image.json
        Way("unipc", 15, interval=(0.0, 0.7), cache=(2, 2)),
        Way("unipc", 10, interval=(0.0, 0.7), cache=(2, 2)),
    ],
}
ENLARGING: dict[int, list[Way]] = {
    256: [Way(steps=2), Way(steps=6), Way(steps=6, cache=(2, 1)), Way(steps=6, cache=(3, 1))],
    1024: [Way(steps=4), Way(steps=4, cache=(2, 1))],
}
COLUMNS = {
    "en": ("", "all three right", "against its own settings, points", "object", "colour", "background",
           "Fréchet distance", "PSNR to the full run", "forwards a picture (outer blocks alone)", "fewer operations",
           "faster"),
    "zh": ("", "三个属性都对", "与默认设置之差（百分点）", "物体", "颜色", "背景", "弗雷歇距离", "与完整运行的 PSNR",
           "每张图的前向次数（只算外层的）", "运算减少", "加速"),
}  # fmt: skip
LARGE_COLUMNS = {
    "en": ("", "PSNR to the true picture", "PSNR to its own settings", "forwards (outer blocks alone)",
           "fewer operations", "faster"),
    "zh": ("", "与真图的 PSNR", "与默认设置的 PSNR", "前向次数（只算外层的）", "运算减少", "加速"),
}  # fmt: skip
BRIEF, LARGE_BRIEF = (0, 1, 2, 6, 7, 10), (0, 1, 2, 5)  # the columns of help pages
HEADINGS = {"en": "## Measured", "zh": "## 测得"}


# -- what is counted and timed --


@contextmanager
def forwards(stage: Decoder | Upsampler) -> Iterator[SimpleNamespace]:
    """Counts rows through the stage's U-Net: all of them, and those that ran its middle too."""
    unet = stage.network.on_device().unet
    count = SimpleNamespace(all=0, whole=0)

    def add(name: str) -> Callable:
        return lambda module, args, out: setattr(count, name, getattr(count, name) + len(args[0]))

    handles = [unet.conv_in.register_forward_hook(add("all")), unet.mid_out.register_forward_hook(add("whole"))]
    try:
        yield count
    finally:
        for handle in handles:
            handle.remove()


def operations(stage: Decoder | Upsampler, depth: int) -> tuple[float, float]:
    """Multiplications and additions of a forward of one row, whole and of the outer blocks alone, on tensors without
    data: those that the layers are defined by, whatever kernels compute them with."""

    config = stage.config.unet
    with torch.device("meta"), torch.no_grad():
        unet = UNet(config)
        x = torch.empty(1, config.in_channels, config.image_size, config.image_size)
        features = unet.time_features(torch.empty(1))
        context = unet.project_context(torch.empty(1, 16, config.context_width)) if config.context_width else ()
        deep, found = DeepFeatures(depth), []
        for reuse in (False, True):
            deep.reuse = reuse
            with FlopCounterMode(display=False) as counter:
                unet(x, features, context, deep=deep)
            found.append(float(counter.get_total_flops()))
    return found[0], found[1]


def counted(stage: Decoder | Upsampler, way: Way, sample: Callable) -> dict[str, float]:
    """Forwards of one picture, and their operations. sample(handle, settings) makes one picture."""
    with forwards(stage) as count:
        sample(way.handle(stage), way.settings)
    whole, outer = operations(stage, way.cache[1] if way.cache else 1)
    shallow = count.all - count.whole
    return {"whole": count.whole, "outer": shallow, "operations": count.whole * whole + shallow * outer}


def speed_up(stage: Decoder | Upsampler, way: Way, sample: Callable, rounds: int) -> list[float]:
    """Median seconds of a picture by the stack's own settings, and by this way; the two take turns."""
    seconds: dict[Way, list[float]] = {OWN: [], way: []}
    for turn in range(rounds + 1):
        for each in (OWN, way):
            started = time.perf_counter()
            sample(each.handle(stage), each.settings)
            if turn:  # the first of each packs weights
                seconds[each].append(time.perf_counter() - started)
    return [statistics.median(seconds[each]) for each in (OWN, way)]


# -- the decoder --


class Painted:
    """The captions' pictures by each way, made once."""

    def __init__(self, context: Context, count: int, rounds: int) -> None:

        self.context, self.rounds = context, rounds
        self.scenes = Plan("validation", count).scenes("one")
        self.captions = captions_of(self.scenes)

    def embedding(self, start: int):
        """What the prior imagines of a part's captions, and their encoding."""

        captions, context = self.captions[start : start + PART], self.context

        def make() -> dict[str, torch.Tensor]:
            return {"vector": context.imagine(captions, seed=start)[0].vector}

        kept = context.store.tensors("imagined", context.key("imagined", captions, start), make)
        return Embedding(kept["vector"], context.clip.clip_id), context.clip.encode_text(captions)

    def pictures(self, way: Way) -> torch.Tensor:
        """IMAGE (N, 64, 64, 3)."""

        parts = []
        for start in range(0, len(self.captions), PART):

            def make(start: int = start) -> dict[str, torch.Tensor]:
                embed, text = self.embedding(start)
                decoder = way.handle(self.context.decoder)
                made = self.context.decode(
                    embed, text, seed=start, decoder=decoder, what=way.label("en", self.own), **way.settings
                )
                return {"pictures": (made * 255).round().to(torch.uint8)}

            key = self.context.key(asdict(way), self.captions[start : start + PART], start)
            parts.append(self.context.store.tensors("way", key, make)["pictures"])
        return torch.cat(parts).float() / 255

    @property
    def own(self) -> dict:
        """Sampler and steps of the stack's decoder."""
        return {name: getattr(self.context.decoder.config.sampling, name) for name in ("sampler", "steps")}

    def effort(self, way: Way) -> dict[str, float]:
        """Forwards, operations and seconds of one picture."""

        decoder = self.context.decoder

        def make() -> dict[str, torch.Tensor]:
            embed, text = self.embedding(0)
            one = replace(embed, vector=embed.vector[:1]), text.take(slice(0, 1))

            def sample(handle: Decoder, settings: dict) -> None:
                handle.sample(*one, **settings)

            found = counted(decoder, way, sample)
            found["own"], found["seconds"] = speed_up(decoder, way, sample, self.rounds)
            return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

        key = self.context.key("effort", asdict(way), self.rounds)
        return {name: float(value) for name, value in self.context.store.tensors("effort", key, make).items()}

    @cache  # noqa: B019 (lives as long as the command)
    def cells(self, way: Way) -> list[str]:
        """A line of the table, but for its first cell."""

        judge, made = self.context.judge, self.pictures(way)
        hits = right(judge, made, self.scenes)
        lost = (
            ""
            if way == OWN
            else points(paired_difference(hits["all"], right(judge, self.pictures(OWN), self.scenes)["all"]))
        )
        reference = Reference(features_of(judge, real_pictures(self.scenes)))
        distance = frechet_over_seeds(reference, [features_of(judge, made)], 20)
        close = "" if way == way.full else f"{psnr(made, self.pictures(way.full)):.1f} dB"
        effort, own = self.effort(way), self.effort(OWN)
        return [
            share(hits["all"]).shown("%"),
            lost,
            *(f"{share(hits[name]).value:.1%}" for name in ("object", "colour", "background")),
            distance.shown(),
            close,
            _count(effort),
            f"{own['operations'] / effort['operations']:.2f}x",
            "" if way == OWN else f"{effort['own'] / effort['seconds']:.2f}x",
        ]

    def table(self, section: str, language: str, brief: bool) -> str:
        """Markdown. brief: without the columns that a help page has no room for."""
        rows = [[way.label(language, self.own), *self.cells(way)] for way in (OWN, *SECTIONS[section])]
        return _markdown(COLUMNS[language], rows, BRIEF if brief else None)

    def sheet(self, section: str, path: Path) -> None:
        """The first captions' pictures, a row a way, of the same seeds."""

        ways = (OWN, *SECTIONS[section])
        rows = [self.pictures(way)[:SHOWN] for way in ways]
        to_pil(labelled_grid(rows, [way.label("en", self.own) for way in ways])).save(path)


# -- the upsamplers --


class Enlarged:
    """Renders enlarged by each way, made once."""

    def __init__(self, context: Context, size: int, count: int, rounds: int) -> None:

        self.context, self.size, self.rounds = context, size, rounds
        self.scenes = Plan("validation").scenes("one", count)
        self.upsampler: Upsampler = getattr(context.stack, f"upsampler_{size}")

    def numbers(self, way: Way) -> dict[str, float]:
        """Means over the renders: PSNR to the truth and to the stack's own settings; effort of one picture."""
        kept = [self._one(way, index) for index in range(len(self.scenes))]
        return {name: sum(row[name] for row in kept) / len(kept) for name in kept[0]} | self._effort(way)

    def _low(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(a render of the size, and what is to be enlarged)."""

        true = torch.from_numpy(render(self.scenes[index], self.size, oversample=2).copy()).float()[None] / 255
        return true, shrunk(true, self.size // 4)

    def _one(self, way: Way, index: int) -> dict[str, float]:

        def make() -> dict[str, torch.Tensor]:
            true, low = self._low(index)
            made = way.handle(self.upsampler).sample(low, seed=index, **way.settings)
            found = {"true": psnr(made, true)}
            found["own"] = 0.0 if way == OWN else psnr(made, self.upsampler.sample(low, seed=index))
            self.context.tick(f"enlarge to {self.size}", index + 1, len(self.scenes))
            return {name: torch.tensor(value) for name, value in found.items()}

        key = self.context.key(self.size, asdict(way), asdict(self.scenes[index]), index)
        return {name: float(value) for name, value in self.context.store.tensors("enlarged", key, make).items()}

    def _effort(self, way: Way) -> dict[str, float]:

        def make() -> dict[str, torch.Tensor]:
            low = self._low(0)[1]

            def sample(handle: Upsampler, settings: dict) -> None:
                handle.sample(low, **settings)

            found = counted(self.upsampler, way, sample)
            found["before"], found["seconds"] = speed_up(self.upsampler, way, sample, self.rounds)
            return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

        key = self.context.key("effort", self.size, asdict(way), self.rounds)
        return {name: float(value) for name, value in self.context.store.tensors("effort", key, make).items()}

    @cache  # noqa: B019
    def cells(self, way: Way) -> list[str]:
        """A line of the table, but for its first cell."""
        found, own = self.numbers(way), self._effort(OWN)
        return [
            f"{found['true']:.1f} dB",
            "" if way == OWN else f"{found['own']:.1f} dB",
            _count(found),
            f"{own['operations'] / found['operations']:.2f}x",
            "" if way == OWN else f"{found['before'] / found['seconds']:.2f}x",
        ]

    def table(self, language: str, brief: bool) -> str:
        """Markdown. brief: without the columns that a help page has no room for."""
        sampling = self.upsampler.config.sampling
        settings = {"sampler": sampling.sampler, "steps": sampling.steps}
        rows = [[way.label(language, settings), *self.cells(way)] for way in (OWN, *ENLARGING[self.size])]
        return _markdown(LARGE_COLUMNS[language], rows, LARGE_BRIEF if brief else None)


def points(difference: Measured) -> str:
    """A difference of shares in points, with its interval."""
    value, low, high = (100 * number for number in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def _count(effort: dict[str, float]) -> str:
    return f"{effort['whole']:.0f}" + (f" ({effort['outer']:.0f})" if effort["outer"] else "")


def _markdown(columns: tuple[str, ...], rows: list[list[str]], some: tuple[int, ...] | None) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    lines = [[line[index] for index in some] if some else line for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# -- where it is written --

NOTES = {
    "en": "{stack}, {count} held-out captions, one picture each from the same embeddings and seeds; intervals are of "
    "95 %. PSNR: of samplers without fresh noise against unipc in 50 steps, else against the first line. Fréchet "
    "distance: of a judge's features, to the captions' own renders. Faster: seconds of one picture. {machine}.",
    "zh": "{stack}，{count} 条未参加训练的描述，每条一张图，嵌入和种子都相同；括号内为 95 % 区间。"
    "PSNR：不加新噪声的采样器与 unipc 50 步相比，其余与第一行相比。弗雷歇距离：评判网络的特征与同一描述的真图之间。"
    "加速：单张图片的秒数。{machine}。",
}
LARGE_NOTES = {
    "en": "{stack}, {count} renders shrunk to the size that is enlarged. {machine}.",
    "zh": "{stack}，{count} 张缩小后的真图。{machine}。",
}
TITLES = {
    "samplers": "Samplers at few steps",
    "interval": "Guidance Interval",
    "cache": "Step Cache",
    "together": "Together",
    256: "Enlarging to 256 px",
    1024: "Enlarging to 1024 px",
}
PLACES = {
    "samplers": ("UnCLIPDecoderSample",),
    "interval": ("UnCLIPGuidanceInterval",),
    "cache": ("UnCLIPStepCache",),
    256: ("UnCLIPUpsample256",),
    1024: ("UnCLIPUpsample1024",),
}


def with_section(page: str, language: str, text: str) -> str:
    """A help page with `text` as its section of measurements, which stands before the tables of inputs."""
    heading, inputs = HEADINGS[language], {"en": "## Inputs", "zh": "## 输入"}[language]
    page = re.sub(rf"{re.escape(heading)}\n.*?(?=^## )", "", page, flags=re.DOTALL | re.MULTILINE)
    above, found, below = page.partition(f"{inputs}\n")
    if not found:
        raise SystemExit(f"a help page has no {inputs}; run tests/tools/node_texts.py first")
    return f"{above}{heading}\n\n{text.strip()}\n\n{found}{below}"


def with_tables(page: str, text: str) -> str:
    """docs/approximate.md with `text` as its section on fewer operations, at the end."""
    heading = "## Fewer operations"
    page = re.sub(rf"{re.escape(heading)}\n.*?(?=^## |\Z)", "", page, flags=re.DOTALL | re.MULTILINE)
    return f"{page.rstrip()}\n\n{heading}\n\n{text.strip()}\n"


def main() -> int:
    """Measure, print, and write if asked."""
    names = [*SECTIONS, *map(str, ENLARGING)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/fewer"))
    parser.add_argument("--stack", default="storybook", help="an installed stack, or a folder of stage files")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where the judge lies or is trained")
    parser.add_argument("--count", type=int, default=500, help="captions")
    parser.add_argument("--renders", type=int, default=100, help="pictures that are enlarged")
    parser.add_argument("--rounds", type=int, default=5, help="pictures of each way that are timed")
    parser.add_argument("--only", action="append", choices=names, help="a table; may be given several times")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/approximate.md and help pages")
    options = parser.parse_args()
    if options.write and options.only:
        parser.error("--write with --only would leave the other tables out of docs/approximate.md; leave out --only")

    from storybook import machine

    entry = read_stack(Path(options.stack)) if Path(options.stack).is_dir() else find(options.stack)
    keep_pages()
    with tqdm(dynamic_ncols=True) as bar:

        def tick(what: str, done: int, total: int) -> None:
            bar.set_description(what, refresh=False)
            bar.total, bar.n = total, done
            bar.refresh()

        context = Context(entry, load_stack(entry, "auto"), options.output, options.cache, tick=tick)
        painted = Painted(context, options.count, options.rounds)
        enlarged = {size: Enlarged(context, size, options.renders, options.rounds) for size in ENLARGING}
        texts: dict[str, dict[str | int, str]] = {"en": {}, "zh": {}}
        report = []
        for name in names:
            if options.only and name not in options.only:
                continue
            key = name if name in SECTIONS else int(name)
            count = options.count if name in SECTIONS else options.renders
            notes = NOTES if name in SECTIONS else LARGE_NOTES

            def table(language: str, brief: bool, key: str | int = key) -> str:
                if key in SECTIONS:
                    return painted.table(key, language, brief)
                return enlarged[key].table(language, brief)

            for language, found in texts.items():
                said = notes[language].format(stack=entry.name, count=count, machine=machine())
                found[key] = f"{table(language, brief=True)}\n\n{said}"
            report.append(f"### {TITLES[key]}\n\n{table('en', brief=False)}")
            if name in SECTIONS:
                painted.sheet(name, options.output / f"{name}.png")
            if name == SHEET:
                report.append(f"![{SHEET}]({PICTURE.relative_to(PICTURE.parents[1]).as_posix()})")
        said = NOTES["en"].format(stack=entry.name, count=options.count, machine=machine())
        text = "\n\n".join([*report, f"{said} Enlarged: {options.renders} renders, shrunk."])
    if context.store.by_others:
        print("some pictures are of another version of the code; give another -o for new ones", file=sys.stderr)
    print(text)
    (options.output / "report.md").write_text(text + "\n", encoding="utf-8")
    if options.write:
        write(texts, text)
        with Image.open(options.output / f"{SHEET}.png") as sheet:
            sheet.save(PICTURE, quality=90)
    return 0


def write(texts: dict[str, dict[str | int, str]], report: str) -> None:
    """Put the tables where people look for them."""
    for language, found in texts.items():
        for key, text in found.items():
            for node in PLACES.get(key, ()):
                path = PAGES / node / f"{language}.md"
                path.write_text(with_section(path.read_text(encoding="utf-8"), language, text), encoding="utf-8")
                print(f"wrote {path.relative_to(ROOT)}")
    path = ROOT / "docs" / "approximate.md"
    path.write_text(with_tables(path.read_text(encoding="utf-8"), report), encoding="utf-8")
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
