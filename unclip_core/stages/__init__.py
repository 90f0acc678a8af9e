"""The stages of unCLIP as handles: a network, its schedule, its defaults, and `.sample()` (and `Decoder.invert()`).

`sample` returns the result. `sample_steps` checks its arguments, then returns a generator, which yields a StepState per
step and returns the result (`finish(generator, on_step)` runs it to the end). None means the stack's own value. Weights
are read and moved on first use. Item i of a run with seed s equals a run of one with seed s + i; a batch is split to
fit memory without changing that. Handles are immutable: what changes how a stage works returns another one.
"""

from .ar_prior import ARPrior
from .decoder import Decoder
from .prior import Prior
from .run import finish
from .upsampler import PassThrough, Upsampler

__all__ = ["ARPrior", "Decoder", "PassThrough", "Prior", "Upsampler", "finish"]
