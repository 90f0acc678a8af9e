"""`unclip evaluate storybook`: what a stack trained on storybook scenes is asked to reach, measured part by part.

Everything that takes long is kept in the run folder in parts, so that a stopped run goes on: samples as pictures, what
upsamplers did as numbers. Changed code makes these numbers anew, not the samples. Scenes of two splits exist: choices
are made on "validation", "test" is opened to report, and how often that was done is counted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..disk import write_text
from ..storybook.draw import render
from ..storybook.scenes import Scene
from ..storybook.shards import make_scenes
from . import enlarging, pixels, probes, sources
from .context import Context
from .enlarging import drawn_large, enlargement_scores, shrunk
from .experiments.common import right, truth
from .reader import readings
from .results import Check, digest
from .statistics import Measured, mean, paired_difference, proportion, ratio_of, share
from .storybook import SampleSettings, captions_of, pair_right, real_pictures

SPLITS = {"validation": 2025, "test": 2024}  # seeds of held-out scenes; training uses others and no held-out triple
LEDGER = "test_split.json"
# Samples kept at a time, by a part's captions and seed. It divides the counts of a plan, so that the first 100, which
# the lattice looks at, are whole parts of the 500, as those are of a plan that grows; the context's 32 leaves a rest.
CHUNK = 25
# What a stack is to reach; margins are on differences of the same captions and seeds.
ATTRIBUTES = {"object": 0.90, "colour": 0.95, "background": 0.95, "all": 0.85}
NOT_WORSE, BOUND, READ, CHINESE = -0.02, 0.60, 0.50, -0.02
# Of upsamplers in dB, the mean and the whole interval; the rest are ratios.
GAIN, GAIN_WHOLE, CLEAN_LOSS, LATTICE, HALO, COLD = 2.0, 1.5, -0.1, 3.0, 0.5, 1.2


@dataclass(frozen=True)
class Plan:
    """count: captions of each kind; renders: of each upsampler; asked, fitted: scenes of CLIP's gates.

    large: unselected samples shown at 1024 px.
    """

    split: str = "validation"
    count: int = 500
    renders: int = 100
    asked: int = 500
    fitted: int = 8000
    large: int = 8
    seed: int = 0

    @property
    def scene_seed(self) -> int:
        """Of the split's scenes. Raises ValueError for another split."""
        if self.split not in SPLITS:
            raise ValueError(f"evaluate storybook: split {self.split!r} is unknown; choose {' or '.join(SPLITS)}")
        return SPLITS[self.split]

    def scenes(self, kind: str, count: int | None = None) -> list[Scene]:
        """Held-out scenes of the split; more of them begin with the same."""
        return make_scenes(self.count if count is None else count, self.scene_seed, "heldout", kind)


@dataclass(frozen=True)
class Row:
    """A number of the report; check: with its target. beside: what it compares with, as text."""

    name: str
    measured: Measured
    unit: str = "%"
    beside: str = ""
    check: Check | None = None

    def cells(self) -> list[str]:
        """Name, value with interval, what is beside it, target, verdict."""
        target, verdict = self.check.row()[2:] if self.check else ("", "")
        return [self.name, self.measured.shown(self.unit), self.beside, target, verdict]


def aimed(
    name: str, measured: Measured, target: float, unit: str = "%", *, below: bool = False, beside: str = ""
) -> Row:
    """A row with a target."""
    return Row(name, measured, unit, beside, Check(name, measured, target, unit, below))


@dataclass
class Side:
    """A stack under test, or the one before it: its samples and numbers, made once. context: its own run folder."""

    context: Context
    settings: SampleSettings
    plan: Plan

    def samples(self, kind: str, language: str = "en", count: int | None = None) -> Tensor:
        """IMAGE (N, 64, 64, 3) of the split's captions of a kind, caption i with seed + i."""
        scenes = self.plan.scenes(kind, count)
        captions = captions_of(scenes, language)
        made = []
        for start in range(0, len(captions), CHUNK):  # kept by the context, whatever enlarges them
            part, seed = captions[start : start + CHUNK], self.plan.seed + start
            embed, text = self.context.imagine(part, seed=seed, **self.settings.prior)
            made.append(
                self.context.decode(embed, text, seed=seed, what=f"{kind}, {language}", **self.settings.decoder)
            )
            self.context.tick(f"{kind}, {language}", start + len(part), len(captions))
        return (torch.cat(made) * 255).round() / 255

    def enlarged(self, pictures: Tensor, size: int, seed: int) -> Tensor:
        """By the stack's upsampler of that size."""
        return getattr(self.context.stack, f"upsampler_{size}").sample(pictures, seed=seed)

    def large(self, pictures: Tensor) -> Tensor:
        """IMAGE (N, 64, 64, 3) at 1024 px by both upsamplers, item i with seed + i."""
        made = []
        for index, picture in enumerate(pictures):
            seed = self.plan.seed + index
            made.append(self.enlarged(self.enlarged(picture[None], 256, seed), 1024, seed))
            self.context.tick("samples at 1024 px", index + 1, len(pictures))
        return torch.cat(made)

    @cached_property
    def upsampled(self) -> dict[str, list[float]]:
        """What both upsamplers do to renders: a number a render, each kept."""
        scenes, code = self.plan.scenes("one", self.plan.renders), sources.measuring(enlarging)
        rows = []
        for index, scene in enumerate(scenes):
            seed = self.plan.seed + index
            key = digest(self.context.weights, asdict(scene), seed, code)
            kept = self.context.store.tensors(
                "upsampled", key, lambda scene=scene, seed=seed: self._scores(scene, seed)
            )
            rows.append({name: float(value) for name, value in kept.items()})
            self.context.tick("upsample renders", index + 1, len(scenes))
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _scores(self, scene: Scene, seed: int) -> dict[str, Tensor]:
        large = drawn_large(scene)
        embed, text = self.context.embed(shrunk(large, 64)), self.context.clip.encode_text(captions_of([scene]))

        def enlarged(pictures: Tensor, size: int) -> Tensor:
            return self.enlarged(pictures, size, seed)

        found = enlargement_scores(large, self.context.decoder, embed, text, enlarged, seed=seed)
        return {name: torch.tensor(value) for name, value in found.items()}

    def lattice(self, size: int) -> Measured:
        """Energy of the lattice over its neighbours', in the first samples at 64 or 256 px."""
        made = self.samples("one", count=self.plan.renders)
        if size == 256:
            key = digest(self.context.weights, made, self.plan.seed, sources.measuring(pixels))

            def make() -> dict[str, Tensor]:
                peaks, around = [], []
                for index, picture in enumerate(made):
                    large = self.enlarged(picture[None], 256, self.plan.seed + index)
                    for found, value in zip((peaks, around), pixels.lattice_energies(large, 4), strict=True):
                        found += value
                    self.context.tick("lattice at 256 px", index + 1, len(made))
                return {"peaks": torch.tensor(peaks), "around": torch.tensor(around)}

            kept = self.context.store.tensors("lattice", key, make)
            return ratio_of(kept["peaks"].tolist(), kept["around"].tolist())
        return ratio_of(*pixels.lattice_energies(made, 2))


def one_object(new: Side, old: Side | None) -> list[Row]:
    """All three attributes of one object, by the judge and by the fitter; against the stack before."""
    scenes = new.plan.scenes("one")
    rows, ceilings = [], right(new.context.judge, real_pictures(scenes), scenes)
    seen = right(new.context.judge, new.samples("one"), scenes)
    for head, target in ATTRIBUTES.items():
        name = "one object, all three" if head == "all" else f"one object, {head}"
        rows.append(aimed(name, share(seen[head]), target, beside=_renders(ceilings[head])))
    hits, best = (_fitted(new, made, scenes) for made in (new.samples("one"), real_pictures(scenes)))
    rows.append(Row("one object, all three, by the fitter", share(hits), beside=_renders(best)))
    if old is not None:
        before = right(new.context.judge, old.samples("one"), scenes)["all"]  # one judge for both
        difference = paired_difference(seen["all"], before)
        beside = f"before: {share(before).shown('%')}"
        rows.append(
            aimed("one object, all three, less those of the stack before", difference, NOT_WORSE, beside=beside)
        )
    return rows


def chinese(new: Side, old: Side | None) -> list[Row]:
    """The same scenes by Chinese captions, seeds alike."""
    scenes = new.plan.scenes("one")
    english, other = (
        right(new.context.judge, new.samples("one", language), scenes)["all"] for language in ("en", "zh")
    )
    beside = f"Chinese: {share(other).shown('%')}, English: {share(english).shown('%')}"
    return [
        aimed("one object by Chinese captions, less English", paired_difference(other, english), CHINESE, beside=beside)
    ]


def two_objects(new: Side, old: Side | None) -> list[Row]:
    """Both kinds, both colours and the relation, by either judge."""
    scenes = new.plan.scenes("two")
    rows = []
    for name, judged in (("judge", _pairs_judged), ("fitter", _pairs_fitted)):
        hits, best = judged(new, new.samples("two"), scenes), judged(new, real_pictures(scenes), scenes)
        label = f"two objects, kinds, colours and relation, by the {name}"
        rows.append(aimed(label, share(hits), BOUND, beside=_renders(best)))
        if old is not None:
            before = judged(new, old.samples("two"), scenes)
            beside = f"before: {share(before).shown('%')}"
            rows.append(Row(f"{label}, less those of the stack before", paired_difference(hits, before), beside=beside))
    return rows


def words(new: Side, old: Side | None) -> list[Row]:
    """Words on a card, as the reader reads them."""
    scenes = new.plan.scenes("word")
    hits, best = (_read(new, made, scenes) for made in (new.samples("word"), real_pictures(scenes)))
    rows = [aimed("words on a card read right", share(hits), READ, beside=_renders(best))]
    if old is not None:
        before = _read(new, old.samples("word"), scenes)
        beside = f"before: {share(before).shown('%')}"
        rows.append(
            Row("words read right, less those of the stack before", paired_difference(hits, before), beside=beside)
        )
    return rows


def upsamplers(new: Side, old: Side | None) -> list[Row]:
    """PSNR over bicubic enlargement, of renders that passed the decoder and of clean ones; halos."""
    rows, found = [], new.upsampled
    for size in (256, 1024):
        way = "64 to 256 px" if size == 256 else "64 to 1024 px, both"
        gain = mean(found[f"passed {size} gain"], signed=True)
        beside = f"{mean(found[f'passed {size}']).value:.2f} dB"
        name = f"{way}, renders passed through the decoder, over bicubic"
        rows.append(aimed(name, gain, GAIN_WHOLE, "dB", beside=beside))
        alone = Measured(gain.value, gain.value, gain.value, "the mean alone", exact=True)
        rows.append(aimed(name, alone, GAIN, "dB"))
    for size in (256, 1024):
        way = f"{size // 4} to {size} px"
        gain = mean(found[f"clean {size} gain"], signed=True)
        beside = f"{mean(found[f'clean {size}']).value:.2f} dB"
        rows.append(Row(f"{way}, clean renders, over bicubic", gain, "dB", beside))
        if old is not None:
            before = old.upsampled[f"clean {size}"]
            change = mean([a - b for a, b in zip(found[f"clean {size}"], before, strict=True)], signed=True)
            name = f"{way}, clean renders, less the stack before"
            rows.append(aimed(name, change, CLEAN_LOSS, "dB", beside=f"before: {mean(before).value:.2f} dB"))
    for size in (256, 1024):
        name, halo = f"halo at {size} px, levels of 255 beyond the true colours", found[f"halo {size}"]
        rows.append(Row(name, mean(halo), "", f"bicubic: {mean(found[f'bicubic halo {size}']).shown()}"))
        if old is not None:
            before = old.upsampled[f"halo {size}"]
            beside = f"before: {mean(before).shown()}"
            name = f"halo at {size} px, over that of the stack before"
            rows.append(aimed(name, ratio_of(halo, before), HALO, "x", below=True, beside=beside))
    return rows


def lattice(new: Side, old: Side | None) -> list[Row]:
    """Energy at the lattice's frequencies over that of their neighbours, in samples."""
    rows, scenes = [], new.plan.scenes("one", new.plan.renders)
    for size, period in ((64, 2), (256, 4)):
        drawn = torch.from_numpy(np.stack([render(scene, size) for scene in scenes])).float() / 255
        true = ratio_of(*pixels.lattice_energies(drawn, period))
        beside = f"renders: {true.shown('x')}" + (f"; before: {old.lattice(size).shown('x')}" if old else "")
        name = f"lattice of {period} px at {size} px, energy over its neighbours'"
        rows.append(aimed(name, new.lattice(size), LATTICE, "x", below=True, beside=beside))
    return rows


def gates(new: Side, old: Side | None) -> list[Row]:
    """What CLIP's and the prior's embeddings say of two things: `unclip evaluate binding`."""
    plan, context = new.plan, new.context

    def make() -> dict[str, Tensor]:
        prior = context.prior if "prior" in context.entry.stages else None
        found = probes.gates(context.clip, prior, plan.fitted, plan.asked, lambda what: context.tick(what, 0, 1))
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    key = digest(context.weights, plan.asked, plan.fitted, sources.measuring(probes))
    kept = context.store.tensors("gates", key, make)
    rows = []
    for name, value in sorted(kept.items(), key=lambda item: (item[0] not in probes.TARGETS, item[0])):
        measured = proportion(float(value), probes.RETRIEVED if "retrieval" in name else plan.asked)
        target = probes.TARGETS.get(name)
        rows.append(Row(f"CLIP: {name}", measured) if target is None else aimed(f"CLIP: {name}", measured, target))
    return rows


def cold(new: Sequence[float], old: Sequence[float] | None) -> list[Row]:
    """Seconds of cold `unclip run`s, and their ratio to as many of the stack before."""
    rows = [Row("cold `unclip run` of text_to_image.json", mean(new), "s", f"{len(new)} runs")]
    if old:
        name, beside = "the same, over the stack before", f"before: {mean(old).shown('s')}"
        rows.append(aimed(name, ratio_of(list(new), list(old)), COLD, "x", below=True, beside=beside))
    return rows


PARTS: dict[str, Callable[[Side, Side | None], list[Row]]] = {
    "one": one_object,
    "chinese": chinese,
    "two": two_objects,
    "words": words,
    "upsamplers": upsamplers,
    "lattice": lattice,
    "gates": gates,
}


def _fitted(side: Side, pictures: Tensor, scenes: Sequence[Scene]) -> list[bool]:
    return [said == truth(scene) for said, scene in zip(side.context.fitted(pictures), scenes, strict=True)]


def _pairs_judged(side: Side, pictures: Tensor, scenes: list[Scene]) -> list[bool]:
    return pair_right(side.context.judge, pictures, scenes)["bound"]


def _pairs_fitted(side: Side, pictures: Tensor, scenes: list[Scene]) -> list[bool]:
    return [fit.binds(scene) for fit, scene in zip(side.context.fits(pictures), scenes, strict=True)]


def _read(side: Side, pictures: Tensor, scenes: Sequence[Scene]) -> list[bool]:
    seen = readings(side.context.reader, pictures)
    return [said["word"] == scene.word for said, scene in zip(seen, scenes, strict=True)]


def _renders(hits: Sequence[bool]) -> str:
    return f"renders: {share(hits).shown('%')}"


def opened(cache: Path, weights: str, plan: Plan) -> tuple[int, int]:
    """How often the test split was opened, this time included, and how often with these weights.

    Written to LEDGER in the cache folder before anything is measured. The same measurement taken up again, whose
    samples are the same, is not another opening.
    """
    path = cache / LEDGER
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    entry = {"weights": weights, "plan": asdict(plan)}
    if entry not in [{name: kept[name] for name in entry} for kept in entries]:
        entries.append({**entry, "opened": time.strftime("%Y-%m-%d %H:%M:%S")})
        write_text(path, json.dumps(entries, indent=1), durable=True)
    return len(entries), sum(kept["weights"] == weights for kept in entries)


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown: name, value with its 95 % interval, what it compares with, target, verdict."""
    head = ["measured", "value (95 % interval)", "beside it", "target", "verdict"]
    lines = [head, ["---"] * len(head), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def headline(plan: Plan, context: Context, against: str | None, times: tuple[int, int] | None) -> str:
    """What was measured, on what, and how often the test split has been opened."""
    text = (
        f"Stack `{context.entry.name}` (weights {context.weights})"
        + (f" against `{against}`, one judge for both, on the same captions and seeds" if against else "")
        + f"; {plan.count} held-out captions of each kind of the {plan.split} split, {plan.renders} renders, seed "
        f"{plan.seed}. A target is reached or missed where the whole interval lies on one side of it."
    )
    if times is None:
        return f"{text} The test split was not opened."
    every, own = times
    return f"{text} The test split has been opened {every} time{'s' * (every > 1)} so far, {own} with these weights."


def of_other_code(sides: Sequence[Side]) -> str:
    """A sentence where the present code did not make all that the numbers come from; "" where it did."""
    if not any(side.context.store.by_others for side in sides):
        return ""
    return (
        "**Some of what was kept** in the run folder was made by another version of the networks' and samplers' code; "
        "another `--run` makes it anew."
    )


def as_json(plan: Plan, context: Context, rows: Sequence[Row], times: tuple[int, int] | None) -> dict[str, Any]:
    """The report's numbers, for programs."""
    numbers = [
        {
            "name": row.name,
            **{name: getattr(row.measured, name) for name in ("value", "low", "high")},
            "target": row.check.target if row.check else None,
            "verdict": row.check.verdict if row.check else None,
            "beside": row.beside,
        }
        for row in rows
    ]
    return {"plan": asdict(plan), "weights": context.weights, "test_split_opened": times, "rows": numbers}
