"""A subject that storybook has never seen, learned from 20 pictures: before and after, as pictures and as numbers.

    python tests/benchmarks/subject.py -o out/subject          # minutes on two cores; goes on after Ctrl-C

The subject is the snail of tests/benchmarks/snail.py, the command is `unclip train subject` with its defaults. The
sheets show it in colours (columns) and on backgrounds (rows) of the 20 pictures and in others: before.png, what the
model made of such captions; after.png. kept.png: other things, without (above) and with the LoRA. table.md says how
often a judge that was taught on drawings alone, of the storybook's objects and of other snails, finds in them what the
caption says; its mistakes on drawings that it never saw stand beside it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from comfyui_unclip.tests.benchmarks import snail
from comfyui_unclip.unclip_core import load
from comfyui_unclip.unclip_core.evaluation.judge import IGNORED, Judge, JudgeTask, trained
from comfyui_unclip.unclip_core.stack import Stack
from comfyui_unclip.unclip_core.storybook.captions import BACKGROUND_PHRASES
from comfyui_unclip.unclip_core.storybook.draw import render
from comfyui_unclip.unclip_core.storybook.scenes import BACKGROUNDS as GROUNDS
from comfyui_unclip.unclip_core.storybook.scenes import COLOURS as PAINTS
from comfyui_unclip.unclip_core.storybook.scenes import OBJECTS, Scene, sample_scene
from comfyui_unclip.unclip_core.training.data import StorybookData, to_model
from comfyui_unclip.unclip_core.training.recipes import Recipe
from comfyui_unclip.workflows.cli import run

COLOURS = (*snail.SEEN_COLOURS[:3], *snail.UNSEEN_COLOURS)
BACKGROUNDS = (*snail.SEEN_BACKGROUNDS[:2], *snail.UNSEEN_BACKGROUNDS)
SHOWN = ("a red boat", "a red mushroom on a meadow", "a blue car in the snow", "a yellow star on a night sky", "a cup")
KEPT = 64  # captions of other things that are counted

SNAIL = "snail"
HEADS = {"object": (*OBJECTS, SNAIL), "colour": PAINTS, "background": GROUNDS}
JUDGE_RECIPE = Recipe(steps=1500, batch=64, lr=1e-3, warmup=50, weight_decay=0.05, ema=0.98, seed=7)
DRAWINGS = 12000  # of the storybook's
SNAILS = 1200
SNAIL_SHARE = 0.2  # of a batch; a third of those is spoilt


class SnailJudgeTask(JudgeTask):
    """The judge of `unclip evaluate` with one more object: all colours, all backgrounds, whole; and half erased or
    blended snails, which are none of these."""

    def __init__(self, data: StorybookData) -> None:
        super().__init__(data)
        rng = random.Random(11)
        self.snails = [drawn_snail(rng) for _ in range(SNAILS)]

    def build(self) -> Judge:
        torch.manual_seed(0)
        return Judge(HEADS)

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict:
        batch = super().batch(rows, rng, generator)
        pictures, labels = batch["pictures"], batch["labels"]
        objects = labels["object"]
        objects[objects == len(OBJECTS)] = len(HEADS["object"])  # none of these is the last class
        for index in range(len(rows)):
            if rng.random() >= SNAIL_SHARE:
                continue
            whole, bare, colour, ground = rng.choice(self.snails)
            found, kind = to_model(whole[None])[0], rng.choice(("whole",) * 4 + ("erased", "blended"))
            objects[index] = len(HEADS["object"]) - (kind == "whole")
            labels["colour"][index], labels["background"][index] = PAINTS.index(colour), GROUNDS.index(ground)
            if kind == "erased":
                found = to_model(half_of(whole, bare, rng)[None])[0]
                labels["colour"][index] = IGNORED
            elif kind == "blended":
                found = torch.lerp(found, pictures[rng.randrange(len(rows))], rng.uniform(0.4, 0.6))
                labels["colour"][index] = labels["background"][index] = IGNORED
            pictures[index] = found + 0.03 * torch.randn(found.shape, generator=generator)
        return batch


def drawn_snail(rng: random.Random) -> tuple[np.ndarray, np.ndarray, str, str]:
    """A snail (64, 64, 3) uint8, its background without it, its colour and background: any."""
    colour, ground = rng.choice(PAINTS), rng.choice(GROUNDS)
    width, seed = rng.uniform(0.45, 0.75), rng.getrandbits(32)
    free = max(0.0, 0.5 - width / 2)
    place = {"x": 0.5 + rng.uniform(-free, free), "y": 0.5 + rng.uniform(-free, free), "width": width}
    whole = np.asarray(snail.draw_snail(colour, ground, 64, **place, seed=seed))
    bare = Image.fromarray(render(Scene((), ground, seed=seed), 256, oversample=1))
    return whole, np.asarray(bare.resize((64, 64), Image.Resampling.BOX)), colour, ground


def half_of(whole: np.ndarray, bare: np.ndarray, rng: random.Random) -> np.ndarray:
    """The picture with 40 to 60 % of what is not its background painted over by it."""
    ys, xs = np.mgrid[0:64, 0:64]
    turn = rng.uniform(0, 2 * np.pi)
    across = np.cos(turn) * xs + np.sin(turn) * ys
    cut = np.quantile(across[(whole != bare).any(-1)], rng.uniform(0.4, 0.6))
    return np.where((across > cut)[..., None], bare, whole)


@torch.no_grad()
def shares(judge: Judge, pictures: torch.Tensor, meant: list[tuple[str, str, str]]) -> dict[str, float]:
    """Of IMAGE (B, 64, 64, 3) the share that the judge reads as meant, by head, and in all three."""
    logits = judge(pictures.float().movedim(-1, 1) * 2 - 1)
    right = {
        head: logits[head].argmax(1) == torch.tensor([HEADS[head].index(words[place]) for words in meant])
        for place, head in enumerate(HEADS)
    }
    right["all three"] = torch.stack(list(right.values())).all(0)
    return {head: values.float().mean().item() for head, values in right.items()}


def small(pictures: torch.Tensor) -> torch.Tensor:
    """IMAGE at 64 px."""
    side = pictures.shape[1]
    return (
        pictures if side == 64 else torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1), side // 64).movedim(1, -1)
    )


def captions(word: str) -> list[str]:
    """Of every colour on every background, row by row."""
    return [f"a {colour} {word} {BACKGROUND_PHRASES[ground][0]}" for ground in BACKGROUNDS for colour in COLOURS]


def paint(stack: Stack, spoken: list[str], steps: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(embeddings of the prior, pictures) of captions."""
    text = stack.clip.encode_text(spoken)
    embed = stack.prior.sample(text, seed=1)
    return embed.vector, stack.decoder.sample(embed, text, seed=1, steps=steps)


def save_sheet(pictures: torch.Tensor, columns: int, path: Path) -> None:
    rows = [torch.cat(list(row), dim=1) for row in pictures.split(columns)]
    pixels = (torch.cat(rows) * 255).round().to(torch.uint8).numpy()
    image = Image.fromarray(pixels)
    image.resize((image.width * 3, image.height * 3), Image.Resampling.BICUBIC).save(path)


def groups() -> dict[str, list[int]]:
    """Cells of the sheets: of seen colours on seen backgrounds, and where one or both are new."""
    found: dict[str, list[int]] = {}
    for index, (ground, colour) in enumerate((ground, colour) for ground in BACKGROUNDS for colour in COLOURS):
        seen = [colour in snail.SEEN_COLOURS, ground in snail.SEEN_BACKGROUNDS]
        name = {2: "seen", 0: "both new"}.get(sum(seen), "new background" if seen[0] else "new colour")
        found.setdefault(name, []).append(index)
    return found


def others(count: int) -> list[tuple[str, str, str]]:
    """(object, colour, background) of things that the storybook knows."""
    rng = random.Random(3)
    return [sample_scene(rng, "train", "one").triples()[0] for _ in range(count)]


def said(kind: str, colour: str, ground: str) -> str:
    return f"a {colour} {kind} {BACKGROUND_PHRASES[ground][0]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/subject"))
    parser.add_argument("--model", default="storybook")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sampling-steps", type=int, default=20, help="of the decoder; 0: the model's own")
    parser.add_argument("train", nargs="*", help="further arguments of `unclip train subject`, after --")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    out = given.output
    snail.write_pictures(out / "pictures")
    clock, cpu = time.perf_counter(), time.process_time()
    arguments = ["--pictures", out / "pictures", "--word", snail.WORD, "--class", snail.CLASS, "--model", given.model]
    arguments += ["--run", out / "run", "--loras", out / "loras", "--cache", out / "cache", "--threads", given.threads]
    if code := run(["train", "subject", *map(str, arguments), *given.train]):
        sys.exit(code)
    print(f"trained in {time.perf_counter() - clock:.0f} s ({time.process_time() - cpu:.0f} s of processor time)")

    stack = load(given.model, dtype="fp32", device="cpu")
    knows = stack.with_lora(out / "loras" / f"{snail.WORD}.safetensors")
    data = StorybookData(out / "cache" / "judge", DRAWINGS, seed=23)
    judge = trained(Judge(HEADS), lambda: SnailJudgeTask(data), out / "judge", None, JUDGE_RECIPE)
    lines = []

    def count(name: str, pictures: torch.Tensor, meant: list[tuple[str, str, str]]) -> None:
        found = shares(judge, small(pictures), meant)
        lines.append(
            f"| {name} | {len(meant)} | " + " | ".join(f"{100 * value:.0f} %" for value in found.values()) + " |"
        )
        print(lines[-1], flush=True)

    rng = random.Random(12)
    drawn = [drawn_snail(rng) for _ in range(200)]
    unseen = StorybookData(out / "cache" / "judge", 400, seed=29)
    rows = [row for row, scene in enumerate(unseen.scenes) if len(scene.things) == 1 and scene.word is None]
    count(
        "snails, drawn",
        torch.from_numpy(np.stack([whole for whole, *_ in drawn])) / 255,
        [(SNAIL, *x[2:]) for x in drawn],
    )
    count(
        "others, drawn", torch.from_numpy(unseen.shard[rows]) / 255, [unseen.scenes[row].triples()[0] for row in rows]
    )
    meant = [(SNAIL, colour, ground) for ground in BACKGROUNDS for colour in COLOURS]
    for name, model, word in (("before", stack, snail.CLASS), ("after", knows, snail.WORD)):
        _, pictures = paint(model, captions(word), given.sampling_steps or None)
        save_sheet(pictures, len(COLOURS), out / f"{name}.png")
        for group, cells in groups().items():
            count(f"{name}: {group}", pictures[cells], [meant[cell] for cell in cells])
        count(f"{name}: all", pictures, meant)
    kept, triples = [], others(KEPT)
    for name, model in (("without", stack), ("with", knows)):
        _, pictures = paint(model, [*SHOWN, *(said(*triple) for triple in triples)], given.sampling_steps or None)
        kept.append(pictures[: len(SHOWN)])
        count(f"other things, {name} the LoRA", pictures[len(SHOWN) :], triples)
    save_sheet(torch.cat(kept), len(SHOWN), out / "kept.png")
    head = "| what | pictures | object | colour | background | all three |\n|---|---|---|---|---|---|\n"
    (out / "table.md").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
