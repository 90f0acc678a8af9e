"""Puts a training run together: preset, stage, data, frozen CLIP, recipe."""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..checkpoints.catalog import EMBEDDED
from ..checkpoints.native import load_stage
from ..clip.model import Clip
from ..config import ClipConfig, StackConfig
from ..presets import PRESETS
from ..storybook.captions import knows, vocabulary
from .data import Data
from .embeddings import image_embeddings
from .loop import LoopOptions, Progress, Task, train
from .recipes import STORYBOOK_RECIPES, Recipe
from .sources.opening import open_data
from .task_ar_prior import ARPriorTask
from .task_clip import ClipTask
from .task_decoder import DecoderTask
from .task_prior import PriorTask
from .task_upsampler import UpsamplerTask
from .widen import widened

STAGES = ("clip", "prior", "decoder", "upsampler_256", "upsampler_1024", "ar_prior")
_NEW_WORDS = {"over", "beneath", "侧", "something", "东", "西"}  # that the embedded CLIP was trained without
RESERVED_WORDS = 64  # of the storybook's CLIP, for words that subjects are given later
EMBEDDING_TASKS = {"prior": PriorTask, "decoder": DecoderTask, "ar_prior": ARPriorTask}  # these read a frozen CLIP


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What `unclip train` is told. Paths; None means the default said beside it."""

    stage: str
    preset: str = "storybook"
    run: Path | None = None  # runs/<stage>
    data: str = "storybook"  # or a folder, or WebDataset shards
    cache: Path = Path("data")  # drawn shards and embeddings
    clip: Path | None = None  # the frozen CLIP: the embedded stack's
    init: Path | None = None  # weights to start from: fresh ones
    device: str = "cpu"
    bf16: bool = True


def preset_stack(name: str) -> StackConfig:
    """The preset, its small CLIP's vocabulary filled in. Raises ValueError for an unknown or untrainable preset."""
    if name not in PRESETS:
        raise ValueError(f"--preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    stack = PRESETS[name]
    if name == "storybook":
        words = tuple(word for word in vocabulary() if word not in _NEW_WORDS)
        clip = dataclasses.replace(stack.clip, vocabulary=words, knows=knows())
        return dataclasses.replace(stack, clip=clip)
    if name == "storybook-3":
        clip = dataclasses.replace(stack.clip, vocabulary=vocabulary(), reserved_words=RESERVED_WORDS, knows=knows())
        return dataclasses.replace(stack, clip=clip)
    return stack


def start(options: RunOptions, recipe: Recipe) -> Iterator[Progress]:
    """Begin or resume a run. Raises ValueError for what cannot be trained, before any work."""
    if options.stage not in STAGES:
        raise ValueError(f"stage {options.stage!r} is unknown; choose one of {', '.join(STAGES)}")
    stack = preset_stack(options.preset)
    config = getattr(stack, options.stage)
    if config is None:
        raise ValueError(f"preset {options.preset} has no {options.stage}")
    init = None
    if options.init:
        stage, before, init = load_stage(options.init)
        if stage != options.stage:
            raise ValueError(f"--init {options.init} holds a {stage}, not a {options.stage}; give that stage's weights")
    elif getattr(config, "final_network", False):
        raise ValueError(
            f"preset {options.preset}: the last step of its {options.stage} is a second network's, which is not "
            "trained here; give --init with weights that have it, or choose another preset"
        )
    clip = open_clip_file(options.clip, stack.clip) if options.stage in EMBEDDING_TASKS else None
    data = open_data(options.data, options.cache, scenes=recipe.pictures, seed=recipe.seed, swaps=recipe.swaps)
    task = make_task(options, stack, data, recipe, clip)
    if init is not None and before != config:
        init = widened(init, before, task.build().state_dict(), config, f"--init {options.init}")
    run = options.run or Path("runs") / options.stage
    loop = LoopOptions(device=options.device, dtype="auto" if options.bf16 else "fp32")
    return train(task, recipe, run, len(data), init=init, options=loop)


def open_clip_file(path: Path | None, expected: ClipConfig) -> Clip:
    """The frozen CLIP of a run: a file's, else the one the preset names, else the embedded stack's.

    Raises ValueError if it is another one than the preset's stages speak.
    """
    if path is None and expected.architecture:
        return Clip.from_config(expected)
    path = path or EMBEDDED / "storybook" / "clip.safetensors"
    stage, config, state = load_stage(path)
    if stage != "clip" or config.clip_id != expected.clip_id:
        raise ValueError(
            f"--clip {path} holds {stage} {getattr(config, 'clip_id', '')}; "
            f"this preset needs the CLIP {expected.clip_id}, as trained by `unclip train clip`"
        )
    return Clip.from_config(config, state)


def make_task(options: RunOptions, stack: StackConfig, data: Data, recipe: Recipe, clip: Clip | None = None) -> Task:
    """The stage's task; priors and decoder bring the frozen CLIP (None: as the options say) and its embeddings."""
    stage = options.stage
    if stage == "clip":
        if stack.clip.vision is None:
            raise ValueError(
                f"preset {stack.name}: CLIP {stack.clip.clip_id} is loaded, not trained here; use open_clip"
            )
        return ClipTask(stack.clip, data, recipe)
    if stage in EMBEDDING_TASKS:
        clip = clip or open_clip_file(options.clip, stack.clip)
        embeddings = image_embeddings(clip, data, options.cache / "embeddings")
        return EMBEDDING_TASKS[stage](getattr(stack, stage), data, clip, embeddings, recipe)
    return UpsamplerTask(stage, getattr(stack, stage), data, recipe)


def recipe_for(preset: str, stage: str, **changes: object) -> Recipe:
    """The storybook's recipe for a stage, with the given fields changed (None: kept)."""
    if stage not in STORYBOOK_RECIPES:
        raise ValueError(f"stage {stage!r} is unknown; choose one of {', '.join(STORYBOOK_RECIPES)}")
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(STORYBOOK_RECIPES[stage], **given)


def recipe_changes(settings: Iterable[str]) -> dict[str, object]:
    """What "field=value" texts say of a Recipe's fields. Raises ValueError for an unknown field or a wrong kind."""
    kinds = typing.get_type_hints(Recipe)
    found: dict[str, object] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or name not in kinds:
            raise ValueError(f"--set {text!r}: write FIELD=VALUE with a field of the recipe: {', '.join(kinds)}")
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed = value
        kind = typing.get_origin(kinds[name]) or kinds[name]
        if kind is float and type(parsed) is int:
            parsed = float(parsed)
        if type(parsed) is not kind:
            example = getattr(STORYBOOK_RECIPES["decoder"], name)
            raise ValueError(f"--set {text!r}: {name} is {kind.__name__}, as {example!r}; {value!r} is not")
        found[name] = parsed
    return found
