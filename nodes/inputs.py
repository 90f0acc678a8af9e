"""Inputs that several nodes share, so that a seed or a step count looks and behaves the same everywhere."""

MAX_SEED = 0xFFFFFFFFFFFFFFFF
AUTO = "auto"


def steps_input() -> tuple:
    """A step count; 0 leaves it to the model."""
    return (
        "INT",
        {
            "default": 0,
            "min": 0,
            "max": 1000,
            "tooltip": "Sampling steps; more is slower and a little better. 0: the model's own number.",
        },
    )


def guidance_input(effect: str) -> tuple:
    """A guidance scale; -1 leaves it to the model."""
    return (
        "FLOAT",
        {
            "default": -1.0,
            "min": -1.0,
            "max": 30.0,
            "step": 0.05,
            "tooltip": f"{effect} 0: not at all. 1: no guidance (twice as fast). -1: the model's own value.",
        },
    )


def sampler_input(names: tuple[str, ...]) -> tuple:
    """A sampler by name; `auto` leaves it to the model."""
    tooltip = "How the noise is removed. auto: the sampler this model was tuned with."
    return ([AUTO, *names], {"default": AUTO, "tooltip": tooltip})


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


def or_own_steps(steps: int) -> int | None:
    """The core's None (the model's own) for 0."""
    return steps or None


def or_own_guidance(scale: float) -> float | None:
    """The core's None (the model's own) for -1; the core refuses other scales below 0."""
    return None if scale == -1 else scale


def or_own_sampler(name: str) -> str | None:
    """The core's None (the model's own) for `auto`."""
    return None if name == AUTO else name
