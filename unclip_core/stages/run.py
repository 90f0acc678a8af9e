"""What the runs of all stages share: settings, the loop over chunks of a batch, the check for NaN."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from ..checks import is_number
from ..config import SamplingConfig, ScheduleConfig
from ..diffusion.denoiser import Denoiser, Edit, Network, check_guidance_scale, needs_pair
from ..diffusion.samplers import MULTISTEP, SAMPLERS, NoiseSource, Sampling, StepState
from ..diffusion.schedule import Schedule, Steps
from ..runtime.device import exact_float32, overflow_advice
from ..runtime.estimates import does_not_fit, halves, is_out_of_memory
from ..runtime.placement import Placed

Result = TypeVar("Result")
ImageSteps = Generator[StepState, None, Tensor]


def finish(steps: Generator[StepState, None, Result], on_step: Callable[[StepState], None] | None = None) -> Result:
    """Run a stage's generator to its end and return its result; `on_step` sees every StepState.

    An exception of `on_step` ends the run at once.
    """
    try:
        while True:
            state = next(steps)
            if on_step is not None:
                on_step(state)
    except StopIteration as stop:
        return stop.value
    finally:
        steps.close()


def with_last_step(steps: Generator[StepState, None, Result]) -> Generator[StepState, None, tuple[Result, StepState]]:
    """The same steps; returns the run's result and its last step."""
    state = None
    try:
        while True:
            state = next(steps)
            yield state
    except StopIteration as stop:
        return stop.value, state
    finally:
        steps.close()


class Overflow(FloatingPointError):
    """The numbers of a network that a sampler runs left its dtype's range."""


class ItemTooLarge(MemoryError):
    """A network's forward of a single item does not fit into memory."""


def until_it_fits(
    networks: Sequence[Placed], run: Callable[[], Generator[StepState, None, Result]], warn: Callable[[str], None]
) -> Generator[StepState, None, Result]:
    """The steps of `run()`, begun again if the numbers of `networks` overflow (`Placed.widen`) or one item does not fit
    into memory: with no other networks on the device (`Placed.leave_alone`), then with weights fetched as they are used
    (`Placed.fetch_more`). warn is called with the reason of what changes the dtype or is slow.

    Raises Overflow and ItemTooLarge where nothing is left to try.
    """
    while True:
        try:
            return (yield from run())
        except Overflow as error:
            widened = [placed for placed in networks if placed.widen()]
            if not widened:
                raise
            name = str(widened[0].dtype).removeprefix("torch.")
            found, _, _ = str(error).partition(";")
            warn(f"{found}; it runs again in {name}, and dtype auto stays with that for this stage")
        except ItemTooLarge as error:
            if any([placed.leave_alone() for placed in networks]):
                continue
            if not any([placed.fetch_more() for placed in networks]):
                raise
            found, _, _ = str(error).partition(";")
            warn(f"{found}; it runs again with weights that are copied there each time they are used, which is slow")


def exactly(steps: Generator[StepState, None, Result]) -> Generator[StepState, None, Result]:
    """The same steps with float32 products in float32 (`exact_float32`); the caller's settings hold between them."""
    try:
        while True:
            with exact_float32():
                state = next(steps)
            yield state
    except StopIteration as stop:
        return stop.value
    finally:
        steps.close()


@dataclass(frozen=True)
class Settings:
    """How one run samples: the stack's defaults with the caller's values over them, all checked.

    who: the stage's name in messages. prediction, learned_variance: what the network outputs (see `Denoiser`).
    guided_at: timesteps at which guidance works; None: at all.
    """

    who: str
    sampler: str
    steps: Steps
    guidance_scale: float
    eta: float
    x0_clamp: float | None
    x0_quantile: float | None
    prediction: str
    learned_variance: bool
    guided_at: frozenset[int] | None = None

    @property
    def pair(self) -> bool:
        """Whether the network runs, at any step, on [conditional; unconditional] rows."""
        return needs_pair(self.guidance_scale) and self.guided_at != frozenset()

    def denoiser(self, network: Network, edits: Sequence[Edit] = (), known: Edit | None = None) -> Denoiser:
        """What the sampler calls, around a network that is conditioned for some rows. edits, known: see `Denoiser`."""
        return Denoiser(
            network,
            self.prediction,
            self.learned_variance,
            self.guidance_scale,
            self.x0_clamp,
            self.x0_quantile,
            tuple(edits),
            known,
            self.guided_at,
        )

    def run_sampler(self, denoise: Denoiser, x_T: Tensor, noise: NoiseSource) -> Sampling:
        """The sampler's generator over these steps."""
        return SAMPLERS[self.sampler](denoise, x_T, self.steps, noise=noise, eta=self.eta)


def resolve_settings(
    who: str,
    schedule: ScheduleConfig,
    defaults: SamplingConfig,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    eta: float | None = None,
    analytic: bool = False,
) -> Settings:
    """None means the default. analytic: whether "analytic_ddpm" is a sampler to choose.

    Raises ValueError naming stage, value and range.
    """
    sampler = defaults.sampler if sampler is None else sampler
    if sampler not in SAMPLERS:
        raise ValueError(f"{who}: sampler {sampler!r} is unknown; choose one of {', '.join(SAMPLERS)}")
    if sampler == "analytic_ddpm" and not analytic:
        others = ", ".join(name for name in SAMPLERS if name != sampler)
        raise ValueError(f"{who}: sampler {sampler!r} is for priors, whose noise power is fitted; choose {others}")
    eta = defaults.eta if eta is None else eta
    if not is_number(eta) or not 0.0 <= eta <= 1.0:
        raise ValueError(f"{who}: eta must be a number from 0 (no fresh noise) to 1, got {eta!r}")
    try:
        schedule_steps = Schedule(schedule).respace(
            defaults.steps if steps is None else steps, ends_early=sampler in MULTISTEP
        )
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None
    return Settings(
        who=who,
        sampler=sampler,
        steps=schedule_steps,
        guidance_scale=check_guidance_scale(who, defaults.guidance_scale if guidance_scale is None else guidance_scale),
        eta=float(eta),
        x0_clamp=schedule.x0_clamp,
        x0_quantile=schedule.x0_quantile,
        prediction=schedule.prediction,
        learned_variance=schedule.variance == "learned_range",
    )


def run_chunks(
    who: str,
    chunks: list[slice],
    sample: Callable[[slice], Generator[StepState, None, Result]],
    dtype: torch.dtype | None,
    device: torch.device,
    *,
    steps_before: int = 0,
    steps_after: int = 0,
    preview: Callable[[Tensor], Tensor] | None = None,
) -> Generator[StepState, None, list[Result]]:
    """`sample(rows)`, a sampler's generator, for every chunk of a batch, one after another.

    Yields every chunk's steps, numbered through the whole run; returns the chunks' results in order, on the CPU.
    How the batch is split changes no result, because each item has its own noise. A chunk that runs out of memory is
    halved, in the list `chunks` too, and run again; the total number of steps grows.

    dtype, device: of the weights, for messages; dtype None: float32, because the run needs it. steps_before,
    steps_after: steps of each chunk that another call makes, where two networks share a run; both calls take the same
    list. preview: makes a picture of a predicted x_0 that is none itself, see `StepState`. Raises Overflow at a NaN or
    infinity, ItemTooLarge if a single item does not fit.
    """
    results: list[Result] = []
    done = 0  # steps of the finished chunks
    steps_per_chunk: int | None = None  # expected of those to come; an inversion may turn out to need more
    while len(results) < len(chunks):
        chunk = chunks[len(results)]
        watch = NanWatch(who, dtype)
        count = 0
        try:
            states = sample(chunk)
            while True:
                state = next(states)
                if steps_per_chunk is None:
                    steps_per_chunk = state.total
                count = state.index + 1
                total = steps_before + state.total + steps_after
                watch.check(replace(state, index=steps_before + state.index, total=total))
                others = len(chunks) * (steps_before + steps_after)
                to_come = (len(chunks) - len(results) - 1) * steps_per_chunk
                yield replace(
                    state,
                    index=len(chunks) * steps_before + done + state.index,
                    total=others + done + state.total + to_come,
                    preview=preview,
                )
        except StopIteration as stop:
            result = stop.value
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if chunk.stop - chunk.start == 1:
                raise ItemTooLarge(does_not_fit(who, dtype, device)) from error
            chunks[len(results) : len(results) + 1] = halves(chunk)
            continue
        watch.finish()
        results.append(result.cpu())
        done += count
    return results


class NanWatch:
    """Finds the step at which a run turned into NaN or infinity.

    On a CPU at that very step. Elsewhere each step leaves a flag on the device, and the flags are read together every
    quarter of a second and at the end: reading one makes the host wait for the device. dtype: None is float32.
    """

    INTERVAL = 0.25

    def __init__(self, who: str, dtype: torch.dtype | None) -> None:
        self.who = who
        self.dtype = torch.float32 if dtype is None else dtype
        self._pending: list[tuple[StepState, Tensor]] = []  # (step, flag)
        self._last_read = time.monotonic()

    def check(self, state: StepState, values: Tensor | None = None) -> None:
        """Check a step's x_t, or `values` in its place. Raises Overflow naming stage, step and dtype."""
        if state.on_trial:
            return
        values = state.x_t if values is None else values
        self._pending.append((replace(state, x_t=None, x0=None), torch.isfinite(values).all()))
        if values.device.type == "cpu" or time.monotonic() - self._last_read >= self.INTERVAL:
            self.finish()

    def finish(self) -> None:
        """Read all flags that were not read yet. Raises Overflow as `check`."""
        self._last_read = time.monotonic()
        if not self._pending:
            return
        finite = torch.stack([flag for _, flag in self._pending]).tolist()
        for (state, _), good in zip(self._pending, finite, strict=True):
            if not good:
                where = f"at step {state.index + 1} of {state.total} (t={state.t})"
                raise Overflow(f"{self.who}: NaN or infinity {where} {overflow_advice(self.dtype)}")
        self._pending.clear()


def time_table(compute: Callable[[Tensor], Tensor], steps: Steps, device: torch.device) -> dict[int, Tensor]:
    """Time features (1, width) by timestep, for every step of a run, computed in one batch before the loop."""
    features = compute(torch.tensor([step.t for step in steps], device=device))
    return {step.t: row for step, row in zip(steps, features.split(1), strict=True)}
