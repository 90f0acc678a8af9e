"""The upsampler stages: pictures -> larger pictures, from the picture alone (§2.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import UpsamplerConfig
from .device import Placed, memory_format
from .diffusion.noise import ItemNoise
from .memory import bytes_to_ask_for, rows_that_fit, unet_row_bytes
from .models.upsampler import UpsamplerNetwork
from .resize import resize_bicubic
from .stage_run import Chunk, ImageSteps, Settings, TimeTable, run_chunks, settle
from .types import image_to_model, model_to_image


class Upsampler:
    """A diffusion upsampler: pictures -> larger pictures, from the picture alone (§2.1)."""

    def __init__(self, config: UpsamplerConfig, network: Placed[UpsamplerNetwork]) -> None:
        self.config = config
        self.network = network
        self.WHO = f"Upsample {config.high_size}"

    def sample(
        self, image: Tensor, *, steps: int | None = None, seed: int = 0, sampler: str | None = None
    ) -> ImageSteps:
        """IMAGE (B, H, W, C) in 0..1 -> IMAGE (B, S, S, 3) float32 on the CPU, S = the upsampler's size (256 or 1024).

        Pictures of another size than the one it enlarges (64 or 256) are resized to it first, both sides; alpha is
        flattened on white. Raises ValueError for what is not an IMAGE or a value out of range.
        """
        config = self.config
        settings = settle(self.WHO, config.schedule, config.sampling, sampler=sampler, steps=steps)
        try:
            low = image_to_model(image)
        except ValueError as error:
            raise ValueError(f"{self.WHO}: {error}") from None
        if 0 in low.shape:
            raise ValueError(f"{self.WHO}: image is empty, shape {tuple(image.shape)}")
        low = resize_bicubic(low, config.low_size).clamp(-1.0, 1.0)
        items = ItemNoise(seed, len(low), f"upsampler_{config.high_size}")
        return self._run(settings, low, items)

    @torch.no_grad()
    def _run(self, settings: Settings, low: Tensor, items: ItemNoise) -> ImageSteps:
        config, placed = self.config, self.network
        row_bytes = unet_row_bytes(config.unet, config.high_size, placed.dtype.itemsize)
        network, layout = placed(need=bytes_to_ask_for(len(low), row_bytes)), memory_format(placed.device)
        shape = (3, config.high_size, config.high_size)
        times = TimeTable(network.time_features, settings.steps, placed.device)
        last = torch.tensor([settings.steps.timesteps[-1]], device=placed.device)
        final_time = network.time_features(last, final=True) if config.final_network else None

        def prepare(rows: slice) -> Chunk:
            large = resize_bicubic(low[rows].to(placed.device), config.high_size)
            large = large.to(placed.dtype).contiguous(memory_format=layout)

            left = len(settings.steps)

            def model(x_t: Tensor, t: Tensor) -> Tensor:
                nonlocal left
                left -= 1  # counted here, because reading t would wait for the device
                if left == 0 and config.final_network:
                    return network(x_t, None, large, final=True, time=final_time)
                return network(x_t, None, large, time=times[t[:1]])  # all rows are at the same t

            noise = items.rows(rows)
            return model, noise.draw(shape).to(placed.device).contiguous(memory_format=layout), noise

        x_0 = yield from run_chunks(settings, len(low), rows_that_fit(placed.device, row_bytes), prepare, placed.dtype)
        return model_to_image(x_0)
