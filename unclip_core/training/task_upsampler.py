"""Training an upsampler on crops of the pictures it is to make, its low-resolution input spoilt (§2.1, App. C)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.native import save_stage
from ..config import UpsamplerConfig
from ..diffusion.denoiser import Denoiser
from ..diffusion.samplers import ddim
from ..diffusion.schedule import Schedule, Step
from ..models.upsampler import stored_upsampler
from ..pictures.resizing import resize_bicubic
from ..types import model_to_image
from .data import Data, first_rows, move
from .degrade import degrade
from .losses import diffusion_loss, draw_timesteps
from .recipes import Recipe
from .sheets import grid, save_png


class UpsamplerTask:
    """stage: "upsampler_256" or "upsampler_1024"."""

    def __init__(self, stage: str, config: UpsamplerConfig, data: Data, recipe: Recipe) -> None:
        self.stage, self.config, self.data, self.recipe = stage, config, data, recipe
        self.schedule = Schedule(config.schedule)
        self.factor = config.high_size // config.low_size

    def build(self) -> nn.Module:
        """The network with fresh weights."""
        torch.manual_seed(0)
        return stored_upsampler(self.config)

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict[str, Tensor]:
        """High-resolution crops, their spoilt and enlarged low-resolution selves, levels, noise and timesteps."""
        size, crop = len(rows), self.config.high_size // self.recipe.crop_fraction
        high = self.data.crops(rows, rng, self.config.high_size, crop)
        level = torch.rand(size, generator=generator) ** self.recipe.level_power
        if not self.config.augmentation_level:
            level = torch.full((size,), 0.5)
        low = degrade(F.avg_pool2d(high, self.factor), self.config.augmentation, level, rng, generator)
        return {
            "x_0": high,
            "low": resize_bicubic(low, crop),
            "level": level,
            "t": draw_timesteps(self.recipe.timesteps, size, self.schedule.timesteps, generator),
            "noise": torch.randn(high.shape, generator=generator),
        }

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """L_simple, and L_vlb where the variance is learned."""
        x_0, t, noise = batch["x_0"], batch["t"], batch["noise"]
        x_t = self.schedule.add_noise(x_0, t, noise).contiguous(memory_format=torch.channels_last)
        output = network(x_t, t, batch["low"], batch["level"] if self.config.augmentation_level else None)
        return diffusion_loss(self.schedule, output, x_0, x_t, noise, t, self.recipe.vlb_weight).mean(), {}

    def sheet(self, network: nn.Module, path: Path) -> None:
        """Six crops: the enlarged input, the upsampler's answer, the original."""
        batch = self.batch(first_rows(self.data, 6), random.Random(0), torch.Generator().manual_seed(0))
        batch = move(batch, next(network.parameters()).device)
        level = batch["level"] if self.config.augmentation_level else None
        steps = self.schedule.respace(self.config.sampling.steps)
        x_0 = batch["noise"]

        def enlarge(x_t: Tensor, step: Step) -> Tensor:
            return network(x_t, torch.full((len(x_t),), step.t, device=x_t.device), batch["low"], level)

        schedule = self.config.schedule
        denoise = Denoiser(enlarge, schedule.prediction, schedule.variance == "learned_range", x0_clamp=1.0)
        for state in ddim(denoise, batch["noise"], steps):
            x_0 = state.x0
        rows = torch.stack([batch["low"], x_0, batch["x_0"]], 1).flatten(0, 1)
        save_png(grid(model_to_image(rows), columns=6), path)

    def export(self, network: nn.Module, path: Path, recipe: dict[str, Any]) -> None:
        """<stage>.safetensors, stored as bf16."""
        save_stage(path, network.state_dict(), self.stage, self.config, {"recipe": recipe}, dtype=torch.bfloat16)
