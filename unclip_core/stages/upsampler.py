"""The upsampler stages: pictures -> larger pictures, from the picture alone (§2.1)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config import UpsamplerConfig
from ..diffusion.denoiser import edits_of_patches
from ..diffusion.noise import ItemNoise
from ..diffusion.samplers import Sampling
from ..models.upsampler import UpsamplerNetwork
from ..pictures.fitting import check_crop, crop_window
from ..pictures.resizing import resize_bicubic
from ..runtime.device import memory_format
from ..runtime.estimates import bytes_to_ask_for, rows_that_fit, split_rows, unet_row_bytes
from ..runtime.placement import Placed
from ..types import check_image, image_to_model, model_to_image
from .run import ImageSteps, Settings, finish, resolve_settings, run_chunks, time_table, until_it_fits
from .step_cache import StepCache, step_cache


@dataclass(frozen=True, eq=False)
class Upsampler:
    """A diffusion upsampler: pictures -> larger pictures, from the picture alone (§2.1).

    final_network: makes the last step, where the config has one (Karlo's super-resolution). cache: what
    `with_step_cache` added.
    """

    config: UpsamplerConfig
    network: Placed[UpsamplerNetwork]
    final_network: Placed[UpsamplerNetwork] | None = None
    cache: StepCache | None = None

    @property
    def WHO(self) -> str:
        """The stage's name in messages."""
        return f"Upsample {self.config.high_size}"

    def sample(self, image: Tensor, **options) -> Tensor:
        """`sample_steps`, run to its end."""
        return finish(self.sample_steps(image, **options))

    def with_step_cache(self, interval: int, depth: int = 2) -> Upsampler:
        """See `Decoder.with_step_cache`; a last step that has a network of its own is always whole."""
        return replace(self, cache=step_cache("upsampler", self.config.unet, interval, depth))

    def check_size(self, who: str, side: int) -> None:
        """Raises ValueError unless it makes pictures of `side` px."""
        if side != self.config.high_size:
            raise ValueError(
                f"{who}: the linked upsampler makes {self.config.high_size} px pictures; link UPSAMPLER {side} of Load "
                "unCLIP"
            )

    def sample_steps(
        self,
        image: Tensor,
        *,
        steps: int | None = None,
        seed: int = 0,
        sampler: str | None = None,
        crop: str = "center",
        warn: Callable[[str], None] = warnings.warn,
    ) -> ImageSteps:
        """IMAGE (B, H, W, C) in 0..1 -> IMAGE (B, S, S, 3) float32 on the CPU, S = the upsampler's size (256 or 1024).

        Pictures of another size than the one it enlarges (64 or 256) are resized to it first, those that are not square
        as `crop` says (see `fit_picture`); alpha is flattened on white. warn: called on an overflow. Raises ValueError
        for what is not an IMAGE or a value out of range.
        """
        config = self.config
        # There is nothing to guide: the picture is all that it is conditioned on.
        settings = resolve_settings(
            self.WHO, config.schedule, config.sampling, sampler=sampler, steps=steps, guidance_scale=1.0
        )
        try:
            low = image_to_model(image)
        except ValueError as error:
            raise ValueError(f"{self.WHO}: {error}") from None
        if 0 in low.shape:
            raise ValueError(f"{self.WHO}: image is empty, shape {tuple(image.shape)}")
        check_crop(self.WHO, crop)
        low = low[(..., *crop_window(*low.shape[-2:], crop))]
        low = resize_bicubic(low, config.low_size).clamp(-1.0, 1.0)
        items = ItemNoise(seed, len(low), f"upsampler_{config.high_size}")
        networks = [placed for placed in (self.network, self.final_network) if placed is not None]
        return until_it_fits(networks, lambda: self._sample(settings, low, items), warn)

    @torch.no_grad()
    def _sample(self, settings: Settings, low: Tensor, items: ItemNoise) -> ImageSteps:
        if self.final_network is None:
            return model_to_image((yield from self._run(self.network, settings, low, items)))
        # No sampler carries anything into the last step, so a run of its own for that one changes nothing.
        first, last = (replace(settings, steps=steps) for steps in (settings.steps[:-1], settings.steps[-1:]))
        x, chunks = None, []
        if first.steps:
            x = yield from self._run(self.network, first, low, items, chunks=chunks, steps_after=1)
        x = yield from self._run(self.final_network, last, low, items, x, chunks=chunks, steps_before=len(first.steps))
        return model_to_image(x)

    def _run(
        self,
        placed: Placed[UpsamplerNetwork],
        settings: Settings,
        low: Tensor,
        items: ItemNoise,
        x: Tensor | None = None,
        *,
        chunks: list[slice] | None = None,
        steps_before: int = 0,
        steps_after: int = 0,
    ) -> ImageSteps:
        """One network's steps for the whole batch, from x (B, 3, S, S) on the CPU; None begins with noise.

        chunks: how the batch is split; an empty list is filled, and is the one to give to the other network's run.
        """
        device, layout, side = placed.device, memory_format(placed.device), self.config.high_size
        row_bytes = unet_row_bytes(self.config.unet, side, side, placed.dtype.itemsize)
        network = placed.on_device(need=bytes_to_ask_for(len(low), row_bytes))
        times = time_table(network.time_features, settings.steps, device)

        edits = edits_of_patches(self.config.unet.patch_size)

        def sample(rows: slice) -> Sampling:
            # On the CPU: one result for all devices, of which MPS cannot resize so.
            large = resize_bicubic(low[rows], side)
            large = large.to(device, placed.dtype).contiguous(memory_format=layout)
            noise = items.rows(rows)
            x_t = noise.draw((3, side, side)) if x is None else x[rows]
            memory = (lambda step: None) if self.cache is None else self.cache.memory(settings.steps)
            denoise = settings.denoiser(
                lambda x_t, step: network(x_t, None, large, time=times[step.t], deep=memory(step)), edits
            )
            return settings.run_sampler(denoise, x_t.to(device).contiguous(memory_format=layout), noise)

        chunks = [] if chunks is None else chunks
        if not chunks:
            chunks.extend(split_rows(len(low), rows_that_fit(device, row_bytes)))
        numbering = {"steps_before": steps_before, "steps_after": steps_after}
        return torch.cat((yield from run_chunks(self.WHO, chunks, sample, placed.weights, device, **numbering)))


class PassThrough:
    """Stands for the upsamplers of a stack whose decoder paints at full size: pictures pass as they are.

    So a graph of a pixel stack, which enlarges in two steps, runs on a latent one by its name alone. name: the stack's.
    """

    def __init__(self, name: str) -> None:
        self._message = (
            f"model {name!r} paints at full size, so its upsamplers pass pictures through unchanged; set width and "
            "height of Decoder Sample for larger ones"
        )
        self._said = False

    def check_size(self, who: str, side: int) -> None:
        """Every size will do."""

    def with_step_cache(self, interval: int, depth: int = 2) -> PassThrough:
        """Itself: it makes no steps."""
        return self

    def sample(self, image: Tensor, **options) -> Tensor:
        """`sample_steps`, run to its end."""
        return finish(self.sample_steps(image, **options))

    def sample_steps(
        self,
        image: Tensor,
        *,
        steps: int | None = None,
        seed: int = 0,
        sampler: str | None = None,
        crop: str = "center",
        warn: Callable[[str], None] = warnings.warn,
    ) -> ImageSteps:
        """IMAGE (B, H, W, C) as it is, without a step. warn: called the first time, to say so. Raises ValueError for
        what is not an IMAGE."""
        try:
            check_image(image)
        except ValueError as error:
            raise ValueError(f"Upsample: {error}") from None
        if not self._said:
            warn(f"Upsample: {self._message}")
        self._said = True
        return _no_steps(image)


def _no_steps(image: Tensor) -> ImageSteps:
    yield from ()
    return image
