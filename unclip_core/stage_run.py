"""What every stage's run shares: settings, the loop over chunks of a batch, the NaN watch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from .config import SamplingConfig, ScheduleConfig
from .diffusion.guidance import check_guidance_scale
from .diffusion.samplers import SAMPLERS, Model, NoiseSource, StepState
from .diffusion.schedule import Schedule, ScheduleSteps
from .memory import does_not_fit, is_out_of_memory

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


@dataclass(frozen=True)
class Settings:
    """How one run samples: the stack's defaults with the caller's values over them, all checked."""

    who: str
    sampler: str
    steps: ScheduleSteps
    guidance_scale: float
    eta: float
    x0_clamp: float | None

    @property
    def learned_variance(self) -> bool:
        """Whether the network's second half of channels is a variance."""
        return self.steps.variance == "learned_range"


def settle(
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
    if isinstance(eta, bool) or not isinstance(eta, int | float) or not 0.0 <= eta <= 1.0:
        raise ValueError(f"{who}: eta must be a number from 0 (no fresh noise) to 1, got {eta!r}")
    try:
        schedule_steps = Schedule(schedule).respace(defaults.steps if steps is None else steps)
    except ValueError as error:
        raise ValueError(f"{who}: {error}") from None
    scale = check_guidance_scale(who, defaults.guidance_scale if guidance_scale is None else guidance_scale)
    return Settings(who, sampler, schedule_steps, scale, float(eta), schedule.x0_clamp)


def check_count(who: str, name: str, value: int) -> int:
    """A whole number from 1 up, or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{who}: {name} must be a whole number from 1 up, got {value!r}")
    return value


def split_rows(batch: int, rows: int) -> Iterator[slice]:
    """Slices of at most `rows` rows, of nearly equal size, that cover `batch`."""
    chunks = math.ceil(batch / rows)
    for chunk in range(chunks):
        yield slice(batch * chunk // chunks, batch * (chunk + 1) // chunks)


Chunk = tuple[Model, Tensor, NoiseSource]
Prepare = Callable[[slice], Chunk]


@dataclass(frozen=True)
class Leg:
    """Consecutive steps of a run that one network makes, for the whole batch before the next leg begins.

    begin: brings the network and returns what prepares a chunk. It is called with the samples so far (B, ...), None
    where the run begins, and when the run no longer holds the network of the leg before.
    """

    steps: ScheduleSteps
    begin: Callable[[Tensor | None], Prepare]


def run_chunks(
    settings: Settings, batch: int, rows: int, prepare: Prepare, dtype: torch.dtype, device: torch.device
) -> Generator[StepState, None, Tensor]:
    """Sample `batch` items, at most `rows` at a time; `prepare(slice)` gives a chunk's model, x_T and noise.

    Yields every chunk's steps, numbered through; returns the samples (batch, ...) float32 on the CPU. How it is split
    changes no draw, because items own their noise. A chunk that does not fit after all is halved and begun anew, and
    the total grows. Raises FloatingPointError at a NaN, MemoryError if a single item does not fit.
    """
    return run_legs(settings, batch, lambda: rows, [Leg(settings.steps, lambda x: prepare)], dtype, device)


def run_legs(
    settings: Settings,
    batch: int,
    rows: Callable[[], int],
    legs: Sequence[Leg],
    dtype: torch.dtype,
    device: torch.device,
) -> Generator[StepState, None, Tensor]:
    """`run_chunks` over legs that make up `settings.steps`; `rows` is asked when the first network is there.

    Samplers start anew with each leg: none of them carries anything into the last step, so a leg of its own for that
    one changes nothing.
    """
    slices: list[slice] = []
    first, x = 0, None
    for leg in legs:
        prepare = leg.begin(x)
        slices = slices or list(split_rows(batch, rows()))
        x = yield from _run_leg(settings, first, leg.steps, prepare, slices, dtype, device)
        first += len(leg.steps)
        del prepare  # it holds the network, whose weights must be free to go before the next one's are read
    return x


def run_slices(
    slices: list[slice],
    run: Callable[[slice, int, int], Generator[StepState, None, Result]],
    who: str,
    dtype: torch.dtype | None,
    device: torch.device,
) -> Generator[StepState, None, list[Result]]:
    """`run(slice, number, count)` for each slice of a batch; one that does not fit after all is halved, in the list
    too, and begun anew. Raises MemoryError with what to do if a single item does not; for dtype and device of its
    message see `does_not_fit`."""
    results: list[Result] = []
    while len(results) < len(slices):
        chunk = slices[len(results)]
        try:
            results.append((yield from run(chunk, len(results), len(slices))))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if chunk.stop - chunk.start == 1:
                raise MemoryError(does_not_fit(who, dtype, device)) from error
            middle = (chunk.start + chunk.stop) // 2
            slices[len(results) : len(results) + 1] = slice(chunk.start, middle), slice(middle, chunk.stop)
    return results


def _run_leg(
    settings: Settings,
    first: int,
    steps: ScheduleSteps,
    prepare: Prepare,
    slices: list[slice],
    dtype: torch.dtype,
    device: torch.device,
) -> Generator[StepState, None, Tensor]:
    """These steps, from number `first` of the run on, for every slice."""

    def run(chunk: slice, number: int, chunks: int) -> Generator[StepState, None, Tensor]:
        before, total = chunks * first + number * len(steps), chunks * len(settings.steps)
        model, x, noise = prepare(chunk)
        watch = NanWatch(settings.who, len(settings.steps), dtype, x.device, first + len(steps))
        sampler = SAMPLERS[settings.sampler]
        for state in sampler(model, x, steps, noise=noise, eta=settings.eta, x0_clamp=settings.x0_clamp):
            watch.see(replace(state, index=first + state.index))
            yield replace(state, index=before + state.index, total=total)
            x = state.x_t
        return x.cpu()

    return torch.cat((yield from run_slices(slices, run, settings.who, dtype, device)))


class NanWatch:
    """Finds the step at which a run turned into NaN or infinity.

    On a CPU at that very step. Elsewhere each step leaves a flag on the device, and the flags are read together every
    quarter of a second and after the last step: reading one makes the host wait for the device. total: steps of the
    run; seen: how many of them are made when this watch ends, None for all.
    """

    INTERVAL = 0.25

    def __init__(self, who: str, total: int, dtype: torch.dtype, device: torch.device, seen: int | None = None) -> None:
        self.who, self.total, self.dtype = who, total, dtype
        self._seen = total if seen is None else seen
        self._at_once = device.type == "cpu"
        self._pending: list[tuple[int, int, Tensor]] = []  # (index, t, flag)
        self._last_read = time.monotonic()

    def see(self, state: StepState) -> None:
        """Look at a step. Raises FloatingPointError naming stage, step and dtype."""
        self._pending.append((state.index, state.t, torch.isfinite(state.x_t).all()))
        now = time.monotonic()
        if self._at_once or now - self._last_read >= self.INTERVAL or state.index + 1 == self._seen:
            self._last_read = now
            self._read()

    def _read(self) -> None:
        finite = torch.stack([flag for _, _, flag in self._pending]).tolist()
        for (index, t, _), good in zip(self._pending, finite, strict=True):
            if not good:
                name = str(self.dtype).removeprefix("torch.")
                fix = "load the model with dtype fp32" if self.dtype != torch.float32 else "the weights may be damaged"
                raise FloatingPointError(
                    f"{self.who}: NaN or infinity at step {index + 1} of {self.total} (t={t}) in {name}; {fix}"
                )
        self._pending.clear()


class TimeTable:
    """Time features of every timestep of a run, computed in one batch before the loop."""

    def __init__(self, compute: Callable[[Tensor], Tensor], steps: ScheduleSteps, device: torch.device) -> None:
        timesteps = torch.tensor(steps.timesteps)
        rows = torch.zeros(steps.timesteps[0] + 1, dtype=torch.int64)
        rows[timesteps] = torch.arange(len(timesteps))
        self._rows = rows.to(device)  # timestep -> row: looked up on the device, so that nobody waits for it
        self._features = compute(timesteps.to(device))

    def __getitem__(self, t: Tensor) -> Tensor:
        """Features (B, width) of t (B,)."""
        return self._features[self._rows[t]]
