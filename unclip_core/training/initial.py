"""Weights that a run begins with, and the config that they were made for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..checkpoints.catalog import find, read_stack
from ..checkpoints.header import StageFile, read_header, read_stage
from ..checkpoints.loading import empty_stage
from ..checkpoints.states import read_state
from ..config import STAGE_CONFIGS, StackConfig, from_plain
from .run_folder import RunFolder
from .widen import widened

State = dict[str, Tensor]
CLIPS = {"ViT-L-14/openai": "karlo-v1-alpha", "ViT-bigG-14/laion2b_s39b_b160k": "kandinsky-2-2"}
# By stage, the fields of a config that make it one of its kind, whatever its sizes.
KIND = {
    "prior": ("scaling", "null_text", "schedule"),
    "decoder": (
        "text",
        "token_order",
        "norms",
        "mask_text",
        "text_embed_in_time",
        "null_embed",
        "null_text",
        "schedule",
    ),
}


@dataclass(frozen=True)
class Initial:
    """label: as it was asked for. clip: the CLIP that lies beside it, if one does. metadata: of a native file. model:
    the name of the installed model that it is of. tokenizer: the words of a decoder with a text encoder of its own."""

    label: str
    stage: str
    config: Any
    read: Callable[[], State]
    clip: StageFile | None = None
    metadata: dict[str, str] | None = None
    model: str = ""
    tokenizer: Path | None = None

    def stack(self, preset: StackConfig) -> StackConfig:
        """The preset with this stage as it is, and with its CLIP."""
        stack = replace(preset, **{self.stage: self.config})
        return replace(stack, clip=self.clip.config) if self.clip and self.stage != "clip" else stack

    def state_for(self, config: Any, fresh: Callable[[], State]) -> State:
        """The weights for a network of `config`. fresh: what that one starts with, for what these lack.

        Raises ValueError where they were trained to give something else, or do not fit.
        """
        before, now = (getattr(each, "schedule", None) for each in (self.config, config))
        if before != now:
            raise ValueError(
                f"--init {self.label} predicts {before.prediction} on the schedule {before.name} (variance "
                f"{before.variance}), but this run would train {now.prediction} on {now.name} ({now.variance}): it "
                "would have to learn all anew; leave --preset and the schedule out, or --init"
            )
        return widened(self.read(), self.config, fresh(), config, f"--init {self.label}")


def open_initial(where: str, stage: str, folders: Iterable[Path] = ()) -> Initial:
    """What `where` names: a stage's file, a run's folder, a model's folder, or an installed model as "NAME:STAGE" or
    "NAME".

    Raises ValueError for another stage's weights, or what is none of these.
    """
    path = Path(where).expanduser()
    if path.is_file():
        return _of_file(where, stage, read_stage(path), None)
    if path.is_dir():
        exported = path / f"{stage}.safetensors"
        if (path / "checkpoint.pt").exists() and not exported.exists():
            return _of_run(where, stage, path)
        entry = read_stack(path)
        if entry is None or entry.problems:
            problems = "; ".join(entry.problems) if entry else "no stage, no run and no model"
            raise ValueError(f"--init {where}: {problems}; give a stage's file, a run, or an installed model")
    else:
        name, _, part = where.partition(":")
        if part and part.replace("-", "_") != stage:
            raise ValueError(f"--init {where} is a {part}, not a {stage}; give that stage's weights")
        entry = find(name, folders)
    if stage not in entry.stages:
        raise ValueError(f"--init {where} has no {stage}; it has {', '.join(entry.stages)}")
    return _of_file(where, stage, entry.stages[stage], entry.stages.get("clip"), entry.name)


def _of_file(where: str, stage: str, found: StageFile, clip: StageFile | None, model: str = "") -> Initial:
    if found.stage != stage:
        raise ValueError(f"--init {where} holds a {found.stage}, not a {stage}; give that stage's weights")
    if reason := why_not_trained(found.config):
        raise ValueError(f"--init {where}: {reason}, which is not trained here")
    path = Path(found.path)
    metadata = read_header(path)[0] if path.suffix == ".safetensors" else None
    return Initial(where, stage, found.config, partial(stored_state, found), clip, metadata, model, found.tokenizer)


def why_not_trained(config: Any) -> str:
    """What stands against training a stage of this config; "" for nothing."""
    if getattr(config, "final_network", False):
        return "the last step of this upsampler is a second network's"
    if getattr(config, "one_pass", False):
        return "this prior answers in one pass"
    if (extra := getattr(config, "extra_input", "none")) != "none":
        return f"this decoder is shown more than noise (its extra_input is {extra})"
    return ""


def stored_state(found: StageFile) -> State:
    """The state dict of a stage as it is stored, mapped."""
    return read_state(found, empty_stage(found.stage, found.config))


def _of_run(where: str, stage: str, folder: Path) -> Initial:
    state = RunFolder(folder).load("--init")
    made_of = json.loads(state.get("made_of", "{}"))
    if made_of.get("stage") != stage:
        raise ValueError(f"--init {where}: a run of {made_of.get('stage', 'an older version')}, not of {stage}")
    recipe = made_of.get("recipe", {})
    if "lora" in made_of or not recipe.get("train_text", True) or recipe.get("trunk_stages", -1) >= 0:
        raise ValueError(
            f"--init {where}: a checkpoint has what its run changes and not the weights that this one keeps; let the "
            "run come to its end and give what it writes (of a LoRA: begin with the model that it is of)"
        )
    config = from_plain(STAGE_CONFIGS[stage], made_of["config"], where)
    return Initial(where, stage, config, lambda: state["network"] | state["ema"], metadata=made_of)


def family(initial: Initial, presets: Iterable[StackConfig]) -> str:
    """The preset whose recipe is that of these weights' kind: the one that their file says, whose id they have, whose
    model they are of, or whose networks are of their kind. Raises ValueError where nothing tells."""
    presets = {stack.name: stack for stack in presets}
    said = (initial.metadata or {}).get("preset")
    if said in presets:
        return said
    for name, stack in presets.items():
        own = getattr(stack, initial.stage)
        ids = [getattr(each, f"{initial.stage}_id", None) for each in (own, initial.config)]
        if own is not None and (own == initial.config or (ids[0] is not None and ids[0] == ids[1])):
            return name
    for name in sorted(presets, key=len, reverse=True):
        if getattr(presets[name], initial.stage) is not None and f"{initial.model}-".startswith(f"{name}-"):
            return name
    for name, stack in presets.items():
        own, fields = getattr(stack, initial.stage), KIND.get(initial.stage, ())
        if fields and all(getattr(own, each, None) == getattr(initial.config, each) for each in fields):
            return name
    if (clip_id := getattr(initial.config, "clip_id", None)) in CLIPS:
        return CLIPS[clip_id]
    raise ValueError(
        f"--init {initial.label}: nothing tells whose recipe is to be taken; say --preset, one of {', '.join(presets)}"
    )
