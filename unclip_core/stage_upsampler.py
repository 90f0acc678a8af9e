"""The upsampler stages: pictures -> larger pictures, from the picture alone (§2.1)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from .config import UpsamplerConfig
from .device import Placed, memory_format
from .diffusion.noise import ItemNoise
from .diffusion.schedule import ScheduleSteps
from .memory import bytes_to_ask_for, rows_that_fit, unet_row_bytes
from .models.upsampler import UpsamplerNetwork
from .picture import check_crop, crop_window
from .resize import resize_bicubic
from .stage_run import Chunk, ImageSteps, Leg, Prepare, Settings, TimeTable, run_legs, settle
from .types import image_to_model, model_to_image


class Upsampler:
    """A diffusion upsampler: pictures -> larger pictures, from the picture alone (§2.1).

    final_network: makes the last step, where the config has one.
    """

    def __init__(
        self,
        config: UpsamplerConfig,
        network: Placed[UpsamplerNetwork],
        final_network: Placed[UpsamplerNetwork] | None = None,
    ) -> None:
        self.config = config
        self.network = network
        self.final_network = final_network
        self.WHO = f"Upsample {config.high_size}"

    def sample(
        self,
        image: Tensor,
        *,
        steps: int | None = None,
        seed: int = 0,
        sampler: str | None = None,
        crop: str = "center",
    ) -> ImageSteps:
        """IMAGE (B, H, W, C) in 0..1 -> IMAGE (B, S, S, 3) float32 on the CPU, S = the upsampler's size (256 or 1024).

        Pictures of another size than the one it enlarges (64 or 256) are resized to it first, those that are not square
        as `crop` says (see `fit_picture`); alpha is flattened on white. Raises ValueError for what is not an IMAGE or a
        value out of range.
        """
        config = self.config
        settings = settle(self.WHO, config.schedule, config.sampling, sampler=sampler, steps=steps)
        check_crop(self.WHO, crop)
        try:
            low = image_to_model(image)
        except ValueError as error:
            raise ValueError(f"{self.WHO}: {error}") from None
        if 0 in low.shape:
            raise ValueError(f"{self.WHO}: image is empty, shape {tuple(image.shape)}")
        low = low[(..., *crop_window(*low.shape[-2:], crop))]
        low = resize_bicubic(low, config.low_size).clamp(-1.0, 1.0)
        items = ItemNoise(seed, len(low), f"upsampler_{config.high_size}")
        return self._run(settings, low, items)

    @torch.no_grad()
    def _run(self, settings: Settings, low: Tensor, items: ItemNoise) -> ImageSteps:
        steps, device, dtype = settings.steps, self.network.device, self.network.dtype
        row_bytes = unet_row_bytes(self.config.unet, self.config.high_size, dtype.itemsize)
        begin = partial(self._begin, low, items, bytes_to_ask_for(len(low), row_bytes))
        last = len(steps) - 1 if self.final_network is not None else len(steps)
        parts = ((self.network, steps[:last]), (self.final_network, steps[last:]))
        legs = [Leg(part, partial(begin, placed, part)) for placed, part in parts if len(part)]
        x_0 = yield from run_legs(settings, len(low), lambda: rows_that_fit(device, row_bytes), legs, dtype, device)
        return model_to_image(x_0)

    def _begin(
        self,
        low: Tensor,
        items: ItemNoise,
        need: int,
        placed: Placed[UpsamplerNetwork],
        steps: ScheduleSteps,
        x: Tensor | None,
    ) -> Prepare:
        """Bring a leg's network and return what prepares its chunks; x: the samples so far, None for noise."""
        device, layout, side = placed.device, memory_format(placed.device), self.config.high_size
        others = [other for other in (self.network, self.final_network) if other not in (placed, None)]
        # On a processor one takes the other's place. On an accelerator, moving both there and back for every picture
        # would cost more than the room for two.
        network = placed(*(others if device.type != "cpu" else ()), need=need)
        times = TimeTable(network.time_features, steps, device)

        def prepare(rows: slice) -> Chunk:
            large = resize_bicubic(low[rows].to(device), side)
            large = large.to(placed.dtype).contiguous(memory_format=layout)

            def model(x_t: Tensor, t: Tensor) -> Tensor:
                return network(x_t, None, large, time=times[t[:1]])  # all rows are at the same t

            noise = items.rows(rows)
            x_t = noise.draw((3, side, side)) if x is None else x[rows]
            return model, x_t.to(device).contiguous(memory_format=layout), noise

        return prepare
