"""Training an upsampler on crops of the pictures it is to make, its low-resolution input spoilt (§2.1, App. C)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.native import save_stage
from ..config import UpsamplerConfig
from ..diffusion.denoiser import Denoiser
from ..diffusion.samplers import ddim
from ..diffusion.schedule import Schedule, Step
from ..models.upsampler import stored_upsampler
from ..pictures.resizing import resize_bicubic
from ..types import model_to_image
from .data import Data
from .degrade import degrade
from .losses import diffusion_loss, draw_timesteps
from .recipes import Recipe
from .sheets import grid, save_png
from .validation import fixed_batch, quarter_losses, some_rows

SHEET_ROWS = 6


def psnr(made: Tensor, true: Tensor) -> Tensor:
    """Mean over rows of the peak signal-to-noise ratio in dB, of pictures in -1..1."""
    error = (made.float().clamp(-1, 1) - true).square().flatten(1).mean(1)
    return (10 * torch.log10(4.0 / error.clamp(min=1e-10))).mean()


class UpsamplerTask:
    """stage: "upsampler_256" or "upsampler_1024"."""

    def __init__(self, stage: str, config: UpsamplerConfig, data: Data, recipe: Recipe) -> None:
        self.stage, self.config, self.data, self.recipe = stage, config, data, recipe
        self.schedule = Schedule(config.schedule)
        self.factor = config.high_size // config.low_size
        self.picture_side = config.high_size

    def build(self) -> nn.Module:
        """The network with fresh weights."""
        torch.manual_seed(0)
        return stored_upsampler(self.config)

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict[str, Tensor | None]:
        """High-resolution crops, their spoilt and enlarged low-resolution selves, levels, noise and timesteps."""
        size, crop = len(rows), self.config.high_size // self.recipe.crop_fraction
        high = self.data.crops(rows, rng, self.config.high_size, crop)
        level = torch.rand(size, generator=generator) ** self.recipe.level_power
        told = level if self.config.augmentation_level else None
        strength = {"blur_share": self.recipe.blur_share, "noise": self.recipe.low_noise}
        low = degrade(high, self.factor, self.config.augmentation, told, rng, generator, **strength)
        return {
            "x_0": high,
            "low": resize_bicubic(low, crop),
            "level": told,
            "t": draw_timesteps(self.recipe.timesteps, size, self.schedule.timesteps, generator),
            "noise": torch.randn(high.shape, generator=generator),
        }

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """L_simple, and L_vlb where the variance is learned."""
        x_0, t, noise = batch["x_0"], batch["t"], batch["noise"]
        x_t = self.schedule.add_noise(x_0, t, noise).contiguous(memory_format=torch.channels_last)
        output = network(x_t, t, batch["low"], batch["level"])
        return diffusion_loss(self.schedule, output, x_0, x_t, noise, t, self.recipe.vlb_weight).mean(), {}

    def validate(self, network: nn.Module, rows: list[int], path: Path) -> dict[str, Tensor]:
        """Loss by quarters; PSNR of sampled crops, and of their inputs enlarged by the bicubic filter. The sheet: six
        enlarged inputs, the upsampler's answers, the originals."""
        device = next(network.parameters()).device
        batch = fixed_batch(self, some_rows(rows, SHEET_ROWS), device)
        level = batch["level"]
        steps = self.schedule.respace(self.config.sampling.steps)
        x_0 = batch["noise"]

        def enlarge(x_t: Tensor, step: Step) -> Tensor:
            return network(x_t, torch.full((len(x_t),), step.t, device=x_t.device), batch["low"], level)

        schedule = self.config.schedule
        denoise = Denoiser(enlarge, schedule.prediction, schedule.variance == "learned_range", x0_clamp=1.0)
        for state in ddim(denoise, batch["noise"], steps):
            x_0 = state.x0
        sheet = torch.stack([batch["low"], x_0, batch["x_0"]], 1).flatten(0, 1)
        save_png(grid(model_to_image(sheet), columns=6), path)
        return {
            **quarter_losses(self, network, rows, device),
            "psnr": psnr(x_0, batch["x_0"]),
            "psnr_bicubic": psnr(batch["low"], batch["x_0"]),
        }

    def export(self, network: nn.Module, path: Path, made_of: dict[str, Any]) -> None:
        """<stage>.safetensors, stored as bf16."""
        save_stage(path, network.state_dict(), self.stage, self.config, made_of, dtype=torch.bfloat16)
