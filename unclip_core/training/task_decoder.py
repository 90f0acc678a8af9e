"""Training the 64 px decoder on pictures, their image embeddings and captions (§2.1)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.native import save_stage
from ..clip.model import Clip
from ..config import DecoderConfig
from ..diffusion.denoiser import Denoiser
from ..diffusion.samplers import ddim
from ..diffusion.schedule import Schedule, Step
from ..models.decoder import DecoderNetwork
from ..types import model_to_image
from .data import Data, first_rows, move
from .losses import diffusion_loss, draw_timesteps
from .recipes import Recipe
from .sheets import grid, save_png

SHEET_ROWS = 32


class DecoderTask:
    """embeddings: (N, D) native image embeddings of the data's rows, computed once."""

    stage = "decoder"

    def __init__(self, config: DecoderConfig, data: Data, clip: Clip, embeddings: Tensor, recipe: Recipe) -> None:
        self.config, self.data, self.clip, self.embeddings, self.recipe = config, data, clip, embeddings, recipe
        self.schedule = Schedule(config.schedule)

    def build(self) -> nn.Module:
        """The network with fresh weights."""
        torch.manual_seed(0)
        return DecoderNetwork(self.config)

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict[str, Any]:
        """Pictures with noise and timesteps, embeddings, encoded captions, and which rows lose which condition."""
        size = len(rows)
        drop_text = torch.rand(size, generator=generator) < self.recipe.text_drop
        captions = self.data.captions(rows, rng)
        if self.config.null_text != "learned":  # then the null caption is the encoded empty one
            captions = ["" if gone else caption for gone, caption in zip(drop_text.tolist(), captions, strict=True)]
        return {
            "x_0": self.data.pictures(rows),
            "z": self.embeddings[rows],
            "text": self.clip.encode_text(captions),
            "t": draw_timesteps(self.recipe.timesteps, size, self.schedule.timesteps, generator),
            "noise": torch.randn(size, 3, *[self.config.unet.image_size] * 2, generator=generator),
            "drop_embed": torch.rand(size, generator=generator) < self.recipe.embed_drop,
            "drop_text": drop_text if self.config.null_text == "learned" else None,
        }

    def condition(self, network: nn.Module, batch: dict[str, Any]):
        """The network's Conditioning for a batch."""
        text = batch["text"]
        return network.condition(
            batch["z"],
            text.tokens,
            text.mask,
            text.embed,
            text.ids,
            drop_embed=batch["drop_embed"],
            drop_text=batch["drop_text"],
        )

    def loss(self, network: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """L_simple, and L_vlb where the variance is learned."""
        x_0, t, noise = batch["x_0"], batch["t"], batch["noise"]
        x_t = self.schedule.add_noise(x_0, t, noise).contiguous(memory_format=torch.channels_last)
        output = network(x_t, t, self.condition(network, batch))
        return diffusion_loss(self.schedule, output, x_0, x_t, noise, t, self.recipe.vlb_weight).mean(), {}

    def sheet(self, network: nn.Module, path: Path) -> None:
        """Pictures (odd lines) over what their embeddings and captions decode to (even lines), 20 DDIM steps."""
        device = next(network.parameters()).device
        generator = torch.Generator().manual_seed(0)
        batch = move(self.batch(first_rows(self.data, SHEET_ROWS), random.Random(0), generator), device)
        learned = self.config.null_text == "learned"
        texts = (batch["text"], batch["text"] if learned else move(self.clip.encode_text([""] * SHEET_ROWS), device))
        text = [torch.cat([getattr(half, name) for half in texts]) for name in ("tokens", "mask", "embed", "ids")]
        null = torch.arange(2 * SHEET_ROWS, device=device) >= SHEET_ROWS
        condition = network.condition(
            torch.cat([batch["z"]] * 2), *text, drop_embed=null, drop_text=null if learned else None
        )

        def paint(x_t: Tensor, step: Step) -> Tensor:
            t = torch.full((len(x_t),), step.t, device=device)
            return network(x_t.contiguous(memory_format=torch.channels_last), t, condition)

        learned_variance = self.config.schedule.variance == "learned_range"
        denoise = Denoiser(paint, self.config.schedule.prediction, learned_variance, guidance_scale=2.0, x0_clamp=1.0)
        for state in ddim(denoise, batch["noise"], self.schedule.respace(20)):
            x_0 = state.x0
        both = torch.stack([batch["x_0"].view(-1, 8, *x_0.shape[1:]), x_0.view(-1, 8, *x_0.shape[1:])], 1)
        save_png(grid(model_to_image(both.flatten(0, 2))), path)

    def export(self, network: nn.Module, path: Path, recipe: dict[str, Any]) -> None:
        """decoder.safetensors, stored as bf16."""
        save_stage(path, network.state_dict(), "decoder", self.config, {"recipe": recipe}, dtype=torch.bfloat16)
