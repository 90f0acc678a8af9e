"""Three decoders alike in all but what they are told, which the shipped one cannot stand in for (§5.1, §5.3).

"image" reads image embeddings and captions, as the paper's decoder; "text" reads text embeddings in their place; and
"caption" reads captions alone, as GLIDE. All begin with the shipped decoder's weights except those through which a
condition comes in: these are drawn anew, so that none of the three has an advantage by what the shipped one was told.
They are trained in rounds, by the same steps on the same pictures, until the one that reads captions alone paints
one object right often enough, or the processor time is used up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.loading import load_network
from ..clip.model import Clip
from ..config import DecoderConfig
from ..disk import write_text
from ..runtime.device import DTYPES, memory_format, pick_dtype
from ..runtime.placement import Placed
from ..stages import Decoder
from ..training.data import StorybookData
from ..training.loop import LoopOptions, Progress, train
from ..training.recipes import Recipe
from ..training.task_decoder import DecoderTask

KINDS = ("caption", "text", "image")
# Through which a condition comes in: the modules before the trunk, and each attention's projection of their tokens.
INPUTS = ("embed_to_", "image_", "text_", "null_")
CONTEXT = ".context_kv."
# The rate does not decay: a run that goes on for another round is the same as one that was asked for both at once.
# Timesteps "noisy": backgrounds are settled where the noise is strongest, and "logit_normal" draws too few there: after
# 1,000 steps a decoder on captions alone had 98 % of the objects, 96 % of the colours and 15 % of the backgrounds.
SIBLING_RECIPE = Recipe(
    steps=6000, batch=32, lr=8e-4, warmup=50, decay=False, weight_decay=0.01, betas=(0.9, 0.99), ema=0.995,
    timesteps="noisy", validation=0.0,
)  # fmt: skip
MEASURED = "measured"  # the folder beside a sibling's weights that says how long it took to measure them
GLIDE_DROP = 0.2  # Nichol et al. 2021: captions of their text-conditional model are dropped so often


@dataclass(frozen=True)
class Upbringing:
    """How siblings are trained. recipe.steps: the most. round: steps between two measurements. minutes: of processor
    time for each sibling, at most. A round is measured on so many validation `captions`, sampled in `steps` at
    `guidance`. seeds: trainings of all three."""

    recipe: Recipe = SIBLING_RECIPE
    round: int = 200
    minutes: float = 35.0
    captions: int = 128
    steps: int = 15
    guidance: float = 3.0
    seeds: int = 1
    enough: float = 0.70  # of the pictures of validation captions with all three attributes right

    @property
    def kept(self) -> dict[str, Any]:
        """What the weights after so many steps depend on."""
        return {**asdict(self.recipe), "steps": None}


UPBRINGING = Upbringing()


@dataclass(frozen=True)
class Round:
    """A measurement: after so many steps this share of validation captions was painted right, all three attributes."""

    steps: int
    right: float


@dataclass(frozen=True)
class Siblings:
    """Those of one training seed. rounds: the measurements of the one that reads captions alone. minutes: of processor
    time that each took."""

    decoders: Mapping[str, Decoder]
    rounds: tuple[Round, ...]
    minutes: Mapping[str, float] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """How far each was trained."""
        return self.rounds[-1].steps


class SiblingTask(DecoderTask):
    """The decoder's training for one kind of sibling."""

    def __init__(self, kind: str, config: DecoderConfig, data: StorybookData, clip: Clip, embeddings, recipe) -> None:
        if kind not in KINDS:
            raise ValueError(f"sibling {kind!r} is unknown; choose one of {', '.join(KINDS)}")
        if kind == "caption":
            recipe = replace(recipe, embed_drop=1.0, text_drop=GLIDE_DROP)
        super().__init__(config, data, clip, embeddings, recipe)
        self.kind = kind

    def build(self) -> nn.Module:
        """The network with fresh weights, where a condition comes in others for each seed."""
        network = super().build()
        torch.manual_seed(self.recipe.seed)
        for name, module in network.named_modules():
            if is_input(f"{name}.") and hasattr(module, "reset_parameters"):
                module.reset_parameters()
        return network

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As DecoderTask's; the one that reads text embeddings gets the caption's in the image embedding's place."""
        batch = super().prepare(batch)
        return {**batch, "z": batch["text"].embed} if self.kind == "text" else batch

    def validate(self, network: nn.Module, rows: list[int], path: Path) -> dict[str, Tensor]:
        """Nothing: rounds are measured by the judge."""
        return {}


def on_trunk(fresh: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's weights to begin with: the trained ones, and fresh ones where a condition comes in.

    What is added to the time embedding begins with zeros, so that the trunk is at first disturbed by nothing.
    """
    found = {name: fresh[name] if is_input(name) else trained[name].float() for name in fresh}
    return found | {name: torch.zeros_like(found[name]) for name in found if name.startswith("embed_to_time.")}


def is_input(name: str) -> bool:
    """Whether a weight of the decoder is one through which a condition comes in."""
    return name.startswith(INPUTS) or CONTEXT in name


@dataclass(frozen=True)
class Nursery:
    """All that siblings are trained with. trunk: weights of the shipped decoder `config`; folder: of their runs;
    data and embeddings are asked for when one is trained. dtype: that they are sampled in. on_spent: called with the
    seconds of processor time that training and measuring take."""

    config: DecoderConfig
    trunk: Callable[[], Mapping[str, Tensor]]
    clip: Clip
    data: Callable[[], StorybookData]
    embeddings: Callable[[StorybookData], Tensor]
    folder: Path
    upbringing: Upbringing
    dtype: torch.dtype = torch.float32
    on_progress: Callable[[str, Progress], None] = lambda kind, progress: None
    on_spent: Callable[[float], None] = lambda seconds: None

    def raised(self, seed: int, measure: Callable[[Decoder], float], steps: int | None = None) -> Siblings:
        """The siblings of a training seed, trained as far as they are not yet. measure: the share that a decoder on
        captions alone paints right. steps: of all; by rounds and their measurements if None."""
        rounds = self._rounds(seed, measure) if steps is None else (self._measured(seed, steps, measure),)
        decoders = {kind: self.grown(kind, seed, rounds[-1].steps) for kind in KINDS}
        return Siblings(decoders, rounds, {kind: Spent(self.place(kind, seed)).seconds / 60 for kind in KINDS})

    def place(self, kind: str, seed: int) -> Path:
        """The folder of a sibling's run."""
        return self.folder / f"{kind}-{seed}"

    def _rounds(self, seed: int, measure: Callable[[Decoder], float]) -> tuple[Round, ...]:
        """Train the one on captions alone until it is good enough or its time is up; what was measured is kept."""
        plan, place = self.upbringing, self.place("caption", seed)
        notes = place / "rounds.json"
        found = [Round(**each) for each in json.loads(notes.read_text())] if notes.exists() else []
        while not found or self._needs_more(found[-1], place):
            steps = min(plan.recipe.steps, (found[-1].steps if found else 0) + plan.round)
            steps = max(steps, _done(place))
            found.append(self._measured(seed, steps, measure))
            write_text(notes, json.dumps([asdict(each) for each in found]))
        return tuple(found)

    def _measured(self, seed: int, steps: int, measure: Callable[[Decoder], float]) -> Round:
        """A round of the one on captions alone; the time of measuring is no part of what training may take."""
        decoder = self.grown("caption", seed, steps)
        spent = Spent(self.place("caption", seed) / MEASURED, self.on_spent)
        right = measure(decoder)
        spent.note()
        return Round(steps, right)

    def _needs_more(self, last: Round, place: Path) -> bool:
        plan = self.upbringing
        if last.right >= plan.enough or last.steps >= plan.recipe.steps:
            return False
        # A round that a kill left trained but not measured is measured, whatever the time.
        return _done(place) > last.steps or Spent(place).seconds < 60 * plan.minutes

    def grown(self, kind: str, seed: int, steps: int) -> Decoder:
        """A sibling after so many steps, which it is trained for as far as it is not yet.

        Raises ValueError where it has been trained for more: its weights of then are gone.
        """
        place = self.place(kind, seed)
        weights, done = place / "decoder.safetensors", _done(place)
        if done > steps:
            raise ValueError(
                f"siblings: {place} was trained for {done} steps, but {steps} are asked for; remove that folder, or "
                "give the time that it was trained with"
            )
        own = replace(self.config, decoder_id=f"{self.config.decoder_id}/{self.folder.name}/{kind}-{seed}-{steps}")
        if done < steps:
            self._train(kind, own, place, replace(self.upbringing.recipe, seed=seed, steps=steps))
        placed = Placed(
            lambda read_as: load_network(weights, read_as, memory_format(self.clip.device)),
            self.clip.device,
            self.dtype,
        )
        return Decoder(own, placed, lambda: self.clip.encode_text([""]))

    def _train(self, kind: str, config: DecoderConfig, place: Path, recipe: Recipe) -> None:
        data = self.data()
        task = SiblingTask(kind, config, data, self.clip, self.embeddings(data), recipe)
        spent = Spent(place, self.on_spent)
        # Checkpoints often, so that a kill costs a minute; sheets are for people who train.
        # The dtype by what the device is, not by timing: rounds that go on elsewhere in the run must not change it.
        dtype = next(name for name, known in DTYPES.items() if known == pick_dtype("auto", self.clip.device))
        options = LoopOptions(device=self.clip.device, dtype=dtype, save_every=50, sheet_every=recipe.steps)
        init = on_trunk(task.build().state_dict(), self.trunk())
        for progress in train(task, task.recipe, place, len(data), init=init, options=options):
            spent.note()
            self.on_progress(kind, progress)
        spent.note()


class Spent:
    """Processor time that all runs together have spent in a folder, which is kept in it. seconds: so far. on_spent:
    called with the seconds of each note."""

    def __init__(self, folder: Path, on_spent: Callable[[float], None] = lambda seconds: None) -> None:
        self._path, self._on_spent = folder / "processor.json", on_spent
        self.seconds = json.loads(self._path.read_text())["seconds"] if self._path.exists() else 0.0
        self._last = time.process_time()

    def note(self) -> None:
        """Add what this process has spent since it was noted last, or since the beginning."""
        now = time.process_time()
        since, self._last = now - self._last, now
        self.seconds += since
        self._on_spent(since)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps({"seconds": round(self.seconds, 1)}))


def _done(place: Path) -> int:
    """How many steps the weights in a run's folder were trained for; 0 for none."""
    note = place / "finished.json"
    if not note.exists() or not (place / "decoder.safetensors").exists():
        return 0
    return json.loads(note.read_text(encoding="utf-8"))["recipe"]["steps"]
