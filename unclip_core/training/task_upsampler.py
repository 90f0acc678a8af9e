"""Training an upsampler on crops of the pictures it is to make, its low-resolution input spoilt (§2.1, App. C), or
what the stages before it made of it (see `passing`)."""

from __future__ import annotations

import copy
import dataclasses
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
from ..pictures.likeness import psnr
from ..pictures.resizing import resize_bicubic
from ..types import model_to_image
from .data import Data
from .degrade import degrade
from .losses import diffusion_loss, draw_timesteps, outside, range_nearby
from .passing import Passed
from .recipes import Recipe
from .sheets import grid, save_png
from .validation import fixed_batch, quarter_losses, some_rows

SHEET_ROWS = 6


class UpsamplerTask:
    """stage: "upsampler_256" or "upsampler_1024". passed: inputs that the stages before it made, of which a share of
    every batch is; None for none."""

    def __init__(
        self, stage: str, config: UpsamplerConfig, data: Data, recipe: Recipe, passed: Passed | None = None
    ) -> None:
        self.stage, self.config, self.data, self.recipe, self.passed = stage, config, data, recipe, passed
        self.schedule = Schedule(config.schedule)
        self.factor = config.high_size // config.low_size
        self.picture_side = config.high_size

    def build(self) -> nn.Module:
        """The network with fresh weights."""
        torch.manual_seed(0)
        return stored_upsampler(self.config)

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict[str, Tensor | None]:
        """High-resolution crops, their spoilt low-resolution selves, levels, noise and timesteps.

        For a share of the rows another one stands, which went through the stages before; the network is told of those,
        and of clean ones, the level that it is told when pictures are made.
        """
        size, crop = len(rows), self.config.high_size // self.recipe.crop_fraction
        places: list[int | None] = [None] * size
        if self.passed is not None:
            places = [self.passed.place(row) if rng.random() < self.recipe.passed_share else None for row in rows]
            rows = [row if at is None else self.passed.rows[at] for row, at in zip(rows, places, strict=True)]
        high, corners = self.data.crops(rows, rng, self.config.high_size, crop)
        level = torch.rand(size, generator=generator) ** self.recipe.level_power
        through = torch.tensor([at is not None for at in places])
        clean = (
            torch.tensor([rng.random() < self.recipe.clean_share for _ in rows]) if self.recipe.clean_share else False
        )
        spoilt = ~(through | clean)
        level[~spoilt] = self.config.sampling_level
        told = level if self.config.augmentation_level else None
        low = F.avg_pool2d(high, self.factor)
        if spoilt.any():
            strength = {"blur_share": self.recipe.blur_share, "noise": self.recipe.low_noise}
            levels = None if told is None else told[spoilt]
            low[spoilt] = degrade(
                high[spoilt], self.factor, self.config.augmentation, levels, rng, generator, **strength
            )
        if through.any():
            at = [place for place in places if place is not None]
            low[through] = self.passed.windows(at, corners[through] // self.factor, crop // self.factor)
        return {
            "x_0": high,
            "low": low,
            "level": told,
            "t": draw_timesteps(self.recipe.timesteps, size, self.schedule.timesteps, generator),
            "noise": torch.randn(high.shape, generator=generator),
        }

    def prepare(self, batch: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
        """The batch with its low-resolution pictures enlarged, as the network reads them."""
        return {**batch, "low": resize_bicubic(batch["low"], batch["x_0"].shape[-1])}

    def loss(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """L_simple, L_vlb where the variance is learned, and halos of the predicted x_0 where they have a weight."""
        x_0, t, noise = batch["x_0"], batch["t"], batch["noise"]
        x_t = self.schedule.add_noise(x_0, t, noise).contiguous(memory_format=torch.channels_last)
        output = network(x_t, t, batch["low"], batch["level"])
        loss = diffusion_loss(self.schedule, output, x_0, x_t, noise, t, self.recipe.vlb_weight).mean()
        if not self.recipe.halo_weight:
            return loss, {}
        mean = output.float()[:, : x_0.shape[1]]  # without the channels of a learned variance
        predicted, _ = self.schedule.to_x0_eps(mean, x_t, t)
        halo = outside(predicted, *range_nearby(x_0, self.factor)).mean()
        return loss + self.recipe.halo_weight * halo, {"halo": halo.detach()}

    def validate(self, network: nn.Module, rows: list[int], path: Path) -> dict[str, Tensor | float]:
        """Loss by quarters; PSNR of sampled crops, and of their inputs enlarged by the bicubic filter: of spoilt
        inputs, and of those that went through the stages before. The sheet: six enlarged inputs, the upsampler's
        answers, the originals; then of the latter kind."""
        device = next(network.parameters()).device
        usual = self._seeing(None, 0.0)
        batch, made = usual._answers(network, some_rows(rows, SHEET_ROWS), device)
        triples = [torch.stack([batch["low"], made, batch["x_0"]], 1)]
        found = _quality(batch, made, "psnr")
        if self.passed is not None and self.passed.shown:
            shown = dataclasses.replace(self.passed, rows=self.passed.rows[: self.passed.shown], shown=0)
            batch, made = self._seeing(shown, 1.0)._answers(network, list(range(self.passed.shown)), device)
            triples.append(torch.stack([batch["low"], made, batch["x_0"]], 1))
            found |= _quality(batch, made, "psnr_passed")
        save_png(grid(model_to_image(torch.cat(triples).flatten(0, 1)), columns=6), path)
        return {**quarter_losses(usual, network, rows, device), **found}

    def _seeing(self, passed: Passed | None, share: float) -> UpsamplerTask:
        """This task with other inputs that went through the stages before, and a share of them."""
        other = copy.copy(self)
        other.passed, other.recipe = passed, dataclasses.replace(self.recipe, passed_share=share, clean_share=0.0)
        return other

    def _answers(
        self, network: nn.Module, rows: list[int], device: torch.device
    ) -> tuple[dict[str, Tensor | None], Tensor]:
        """A fixed batch of these rows, and what the network makes of it."""
        batch = fixed_batch(self, rows, device)
        level, x_0 = batch["level"], batch["noise"]
        steps = self.schedule.respace(self.config.sampling.steps)

        def enlarge(x_t: Tensor, step: Step) -> Tensor:
            return network(x_t, torch.full((len(x_t),), step.t, device=x_t.device), batch["low"], level)

        schedule = self.config.schedule
        denoise = Denoiser(enlarge, schedule.prediction, schedule.variance == "learned_range", x0_clamp=1.0)
        for state in ddim(denoise, batch["noise"], steps):
            x_0 = state.x0
        return batch, x_0

    def export(self, network: nn.Module, path: Path, made_of: dict[str, Any]) -> None:
        """<stage>.safetensors, stored as bf16."""
        save_stage(path, network.state_dict(), self.stage, self.config, made_of, dtype=torch.bfloat16)


def _quality(batch: dict[str, Tensor | None], made: Tensor, name: str) -> dict[str, float]:
    """PSNR of what was made of a batch, and of its inputs, as far as they can be shown."""
    made, low = made.clamp(-1, 1), batch["low"].clamp(-1, 1)
    return {name: psnr(made, batch["x_0"], span=2.0), f"{name}_bicubic": psnr(low, batch["x_0"], span=2.0)}
