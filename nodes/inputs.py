"""Inputs that several nodes share, so that a seed or a step count looks and behaves the same everywhere."""

from collections.abc import Callable
from typing import Any

from ..unclip_core.checks import MAX_COUNT

FAMILY = ("unclip", "dalle", "dall-e", "karlo", "kandinsky")  # words by which a search finds every node of the pack
MAX_SEED = 0xFFFFFFFFFFFFFFFF
# What a widget shows for "as the model was tuned"; the core says None.
AS_TUNED = {
    "steps": 0,
    "guidance_scale": -1.0,
    "sampler": "auto",
    "temperature": -1.0,
    "dot_percentile": -1.0,
    "width": 0,
    "height": 0,
}


def as_tuned(**settings: Any) -> dict[str, Any]:
    """The settings by name, with the core's None for each that is left to the model."""
    return {name: None if value == AS_TUNED.get(name) else value for name, value in settings.items()}


def steps_input(more: str = "slower and a little better") -> tuple:
    """A step count; 0 leaves it to the model. more: what more steps are."""
    return (
        "INT",
        {
            "default": AS_TUNED["steps"],
            "min": 0,
            "max": 1000,
            "tooltip": f"Sampling steps; more is {more}. 0: the model's own number.",
        },
    )


def guidance_input(effect: str) -> tuple:
    """A guidance scale; -1 leaves it to the model."""
    return (
        "FLOAT",
        {
            "default": AS_TUNED["guidance_scale"],
            "min": -1.0,
            "max": 30.0,
            "step": 0.05,
            "tooltip": f"{effect} 0: not at all. 1: no guidance (twice as fast). -1: the model's own value.",
        },
    )


def sampler_input(names: tuple[str, ...]) -> tuple:
    """A sampler by name; `auto` leaves it to the model."""
    tooltip = "How the noise is removed. auto: the sampler this model was tuned with."
    return ([AS_TUNED["sampler"], *names], {"default": AS_TUNED["sampler"], "tooltip": tooltip})


def seed_input(what: str) -> tuple:
    """A seed with the editor's control-after-generate."""
    return (
        "INT",
        {
            "default": 0,
            "min": 0,
            "max": MAX_SEED,
            "control_after_generate": True,
            "tooltip": f"Which {what} you get: the same seed gives the same result. Item i of a batch uses seed + i.",
        },
    )


def count_input(tooltip: str) -> tuple:
    """How many items are made of each one that comes in."""
    return ("INT", {"default": 1, "min": 1, "max": MAX_COUNT, "tooltip": tooltip})


def crop_input(what: str) -> tuple:
    """How a picture of another shape is brought to the one that is needed, a square mostly."""
    tooltip = f"How {what} is made to fit. center: its middle is cut out. squash: it is scaled on both sides."
    return (["center", "squash"], {"default": "center", "tooltip": tooltip})


def size_inputs(own: str) -> dict:
    """Width and height of a latent decoder's pictures; 0 leaves them to the model. own: what 0 stands for, in words."""

    def side(across: str) -> tuple:
        tooltip = f"Pixels {across}, for models that paint at full size; rounded up to what the model can. 0: {own}."
        return ("INT", {"default": 0, "min": 0, "max": 4096, "step": 64, "tooltip": tooltip})

    return {"width": side("across"), "height": side("from top to bottom")}


FURTHER = range(2, 9)  # numbers of what more can be linked beside a first


def further_inputs(kind: str, name: str, tooltip: str) -> dict:
    """Optional sockets name_2 to name_8. tooltip: may hold {number}."""
    return {f"{name}_{number}": (kind, {"tooltip": tooltip.format(number=number)}) for number in FURTHER}


def linked(name: str, first: Any, further: dict[str, Any]) -> list:
    """The input `name` and what is linked of its `further_inputs`, by their numbers. A node takes those as **further:
    what is not linked is not passed, or is None where a node before gave nothing. Raises TypeError for any other
    input: what runs a graph passes every link of a node on, also to an input that the node does not have."""
    names = [f"{name}_{number}" for number in FURTHER]
    if unknown := further.keys() - set(names):
        raise TypeError(f"there is no input {min(unknown)!r}; link {name}, or {names[0]} to {names[-1]}")
    return [first, *(further[other] for other in names if further.get(other) is not None)]


def verdict(check: Callable[[Any], Any], value: Any) -> bool | str:
    """What VALIDATE_INPUTS answers: True, or the message of the ValueError that `check(value)` raises. None, for an
    input that is linked, waits for the run."""
    if value is not None:
        try:
            check(value)
        except ValueError as error:
            return str(error)
    return True


class NotLinked:
    """What comes out beside an optional input that is not linked: using it raises ValueError.

    node: the title of the node that gives it; name: of the input; fix: what to link, by itself the loader's output.
    """

    def __init__(self, node: str, name: str, fix: str = "") -> None:
        fix = fix or f"Load unCLIP's {name.upper()}"
        self._message = f"{node}: its input {name} is not linked; link {fix} to it"

    def __getattr__(self, name: str) -> Any:
        # Copying, pickling and inspecting it is no use of it.
        if name.startswith("_"):
            raise AttributeError(name)
        raise ValueError(self._message)

    def __iter__(self) -> Any:
        raise ValueError(self._message)


def path_inputs(start: str, end: str, default_end: float, where: str) -> dict:
    """Start, end and number of frames of an interpolation; the names are the node's own."""

    def share(default: float, tooltip: str) -> tuple:
        return ("FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": tooltip})

    return {
        start: share(0.0, f"Where the first frame is: the share {where}."),
        end: share(default_end, f"Where the last frame is: the share {where}."),
        "frames": (
            "INT",
            {
                "default": 5,
                "min": 1,
                "max": 1000,
                "tooltip": f"How many, evenly spread, both ends included; they make a batch. 1: {start} alone.",
            },
        ),
    }
