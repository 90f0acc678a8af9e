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
from .data import Data
from .losses import diffusion_loss, draw_timesteps
from .recipes import Recipe
from .sheets import grid, save_png
from .texts import Texts
from .validation import fixed_batch, quarter_losses, some_rows

SHEET_ROWS = 32
SHEET_STEPS = 20


class DecoderTask:
    """embeddings: (N, D) native image embeddings of the data's rows, computed once."""

    stage = "decoder"

    def __init__(self, config: DecoderConfig, data: Data, clip: Clip, embeddings: Tensor, recipe: Recipe) -> None:
        self.config, self.data, self.clip, self.embeddings, self.recipe = config, data, clip, embeddings, recipe
        self.schedule = Schedule(config.schedule)
        self.texts = Texts(clip)

    def build(self) -> nn.Module:
        """The network with fresh weights."""
        torch.manual_seed(0)
        return DecoderNetwork(self.config)

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict[str, Any]:
        """Pictures with noise and timesteps, embeddings, captions' tokens, and which rows lose which condition."""
        size = len(rows)
        drop_text = torch.rand(size, generator=generator) < self.recipe.text_drop
        captions = self.data.captions(rows, rng)
        if self.config.null_text != "learned":  # then the null caption is the encoded empty one
            captions = ["" if gone else caption for gone, caption in zip(drop_text.tolist(), captions, strict=True)]
        return {
            "x_0": self.data.pictures(rows, self.config.unet.image_size),
            "z": self.embeddings[rows],
            "tokens": self.texts.tokens(captions),
            "t": draw_timesteps(self.recipe.timesteps, size, self.schedule.timesteps, generator),
            "noise": torch.randn(size, 3, *[self.config.unet.image_size] * 2, generator=generator),
            "drop_embed": torch.rand(size, generator=generator) < self.recipe.embed_drop,
            "drop_text": drop_text if self.config.null_text == "learned" else None,
        }

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its captions encoded."""
        return {**batch, "text": self.texts.encode(batch["tokens"])}

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

    def loss(self, network: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """L_simple, and L_vlb where the variance is learned."""
        x_0, t, noise = batch["x_0"], batch["t"], batch["noise"]
        x_t = self.schedule.add_noise(x_0, t, noise).contiguous(memory_format=torch.channels_last)
        output = network(x_t, t, self.condition(network, batch))
        return diffusion_loss(self.schedule, output, x_0, x_t, noise, t, self.recipe.vlb_weight).mean(), {}

    def validate(self, network: nn.Module, rows: list[int], path: Path) -> dict[str, Tensor]:
        """Loss by quarters, and CLIP scores: cosines of CLIP's embedding of what is painted to the embedding that was
        asked for, and to the caption's. The sheet: pictures (odd lines) over what is painted (even lines), from the
        same noise every time."""
        device = next(network.parameters()).device
        batch = fixed_batch(self, some_rows(rows, SHEET_ROWS), device)
        painted = model_to_image(self.paint(network, batch))
        true = model_to_image(batch["x_0"])
        both = torch.stack([true.view(-1, 8, *true.shape[1:]), painted.view(-1, 8, *true.shape[1:])], 1)
        save_png(grid(both.flatten(0, 2)), path)
        with torch.autocast(device.type, enabled=False):
            seen = self.clip.encode_image(painted.float().clamp(0, 1).cpu()).vector.to(device)
        return {
            **quarter_losses(self, network, rows, device),
            "clip_score": torch.cosine_similarity(seen, batch["z"]).mean(),
            "clip_score_text": torch.cosine_similarity(seen, batch["text"].embed).mean(),
            "clip_score_text_true": torch.cosine_similarity(batch["z"], batch["text"].embed).mean(),
        }

    def paint(self, network: nn.Module, batch: dict[str, Any]) -> Tensor:
        """What a batch's embeddings and captions decode to from its noise, 20 DDIM steps, guidance 2: (B, 3, S, S)."""
        device, size = batch["noise"].device, len(batch["noise"])
        learned = self.config.null_text == "learned"
        null = self.texts.null(device)
        halves = [
            (value, value if learned else getattr(null, name).expand_as(value))
            for name in ("tokens", "mask", "embed", "ids")
            for value in [getattr(batch["text"], name)]
        ]
        dropped = torch.arange(2 * size, device=device) >= size
        condition = network.condition(
            torch.cat([batch["z"]] * 2),
            *(torch.cat(half) for half in halves),
            drop_embed=dropped,
            drop_text=dropped if learned else None,
        )

        def predict(x_t: Tensor, step: Step) -> Tensor:
            t = torch.full((len(x_t),), step.t, device=device)
            return network(x_t.contiguous(memory_format=torch.channels_last), t, condition)

        learned_variance = self.config.schedule.variance == "learned_range"
        denoise = Denoiser(predict, self.config.schedule.prediction, learned_variance, guidance_scale=2.0, x0_clamp=1.0)
        for state in ddim(denoise, batch["noise"], self.schedule.respace(SHEET_STEPS)):
            x_0 = state.x0
        return x_0

    def export(self, network: nn.Module, path: Path, made_of: dict[str, Any]) -> None:
        """decoder.safetensors, stored as bf16."""
        save_stage(path, network.state_dict(), "decoder", self.config, made_of, dtype=torch.bfloat16)
