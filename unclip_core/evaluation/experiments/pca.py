"""What the principal components of z_i hold: decode it through its first few (§4, Fig. 7)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...clip.pca import basis_of, project
from ...pictures.drawing import labelled_grid
from ..context import Context
from ..judge import HEADS
from ..plots import Point, line_plot
from ..results import Figure, Result, Table
from ..statistics import share
from ..storybook import real_pictures
from .common import Experiment, choose, repeated, result_scenes, right, tuning_scenes


@dataclass(frozen=True)
class Settings:
    """scenes: held-out ones; counts: of components, those beyond the CLIP's dimensions left out."""

    scenes: int = 64
    counts: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 20, 30, 40, 80, 120, 160, 192)
    steps: int = 25
    guidances: tuple[float, ...] = (1.0, 2.0, 3.0)
    tuning: int = 32


def run(context: Context, settings: Settings) -> Result:
    """Attribute accuracy by number of components."""
    basis = basis_of(context.clip)
    counts = [count for count in settings.counts if count <= basis.dim]
    options = {"noise_per_item": False, "sampler": "ddim", "steps": settings.steps, "seed": 4}
    tuning = tuning_scenes(settings.tuning, offset=4)
    whole = context.embed(real_pictures(tuning))

    def score(guidance: float) -> float:
        made = context.decode(whole, guidance_scale=guidance, what="choose guidance", **options)
        kept = right(context.judge, made, tuning)["all"]
        return sum(kept) / len(kept)

    guidance, chosen = choose(settings.guidances, score, "guidance (score: attributes from all of z_i)", len(tuning))
    scenes = result_scenes(settings.scenes, offset=4)
    pictures = real_pictures(scenes)
    rows = project(context.embed(pictures), basis, counts, unit_norm=context.clip.config.normalised)
    made = context.decode(rows, guidance_scale=guidance, what="decode components", **options)
    found = right(context.judge, made, repeated(scenes, len(counts)))
    heads = (*HEADS, "all")
    shares = {head: [share(found[head][i :: len(counts)]) for i in range(len(counts))] for head in heads}
    lines = [
        [str(count), f"{basis.explained(count):.1%}", *(shares[head][i].shown("%") for head in heads)]
        for i, count in enumerate(counts)
    ]
    plot = line_plot(
        {head: [Point(c, m.value, m.low, m.high) for c, m in zip(counts, shares[head], strict=True)] for head in HEADS},
        "components",
        "right",
        log_x=True,
        percent=True,
    )
    by_scene = made.unflatten(0, (len(scenes), len(counts)))
    grid = labelled_grid(
        [torch.cat([by_scene[i], pictures[i : i + 1]]) for i in range(min(6, len(scenes)))],
        column_labels=[*map(str, counts), "input"],
    )
    half = {head: _first_at(counts, [m.value for m in shares[head]], 0.5) for head in HEADS}
    return Result(
        tables=[
            chosen,
            Table(f"{len(scenes)} held-out scenes", ["components", "variance", *HEADS, "all three"], lines),
        ],
        figures=[
            Figure("pca", "Six scenes through their first components, one noise.", grid),
            Figure("pca_curve", "Attributes by components.", plot),
        ],
        paper=[_verdict(half)],
        notes=[f"One shared noise, DDIM, {settings.steps} steps, guidance {guidance:g}, no caption."],
    )


def _first_at(counts: list[int], values: list[float], level: float) -> int | None:
    """The first count from which on the values stay at or above `level` of the last one; None if the last is 0."""
    if values[-1] == 0.0:
        return None
    below = [i for i, value in enumerate(values) if value < level * values[-1]]
    return counts[below[-1] + 1] if below else counts[0]


def _verdict(half: dict[str, int | None]) -> str:
    if None in half.values():
        return "Undecided on Fig. 7: some attribute is not even there with all components."
    told = ", ".join(f"the {name} from {count}" for name, count in sorted(half.items(), key=lambda item: item[1]))
    order = f"Half of the final accuracy is there, for good, with so many components: {told}."
    if half["object"] >= max(half["background"], half["colour"]):
        return f"Agrees with Fig. 7 (coarse things first, the object's identity later). {order}"
    return f"Differs from Fig. 7: the object does not come last. {order}"


EXPERIMENT = Experiment(
    "pca",
    "Principal components",
    "§4, Fig. 7: early components hold coarse meaning",
    Settings(),
    Settings(scenes=12, counts=(1, 3, 8, 12, 20, 40, 80, 192), steps=20, guidances=(1.0, 2.0), tuning=8),
    run,
    shown=("pca",),
)
