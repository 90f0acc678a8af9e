"""Training the diffusion prior: captions to image embeddings, predicting the unnoised embedding (§2.2)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.native import save_stage
from ..clip.model import Clip
from ..config import PriorConfig
from ..diffusion.schedule import Schedule
from ..models.prior import PriorNetwork
from .data import Data, first_rows, move
from .losses import draw_timesteps, simple_loss
from .recipes import Recipe
from .sheets import grid, save_png


class PriorTask:
    """embeddings: (N, D) native image embeddings of the data's rows, computed once."""

    stage = "prior"

    def __init__(self, config: PriorConfig, data: Data, clip: Clip, embeddings: Tensor, recipe: Recipe) -> None:
        self.config, self.data, self.clip, self.embeddings, self.recipe = config, data, clip, embeddings, recipe
        self.schedule = Schedule(config.schedule)

    def build(self) -> nn.Module:
        """The network with fresh weights; mean/std scaling takes the data's own statistics."""
        torch.manual_seed(0)
        network = PriorNetwork(self.config)
        if self.config.scaling == "mean_std":
            network.mean.copy_(self.embeddings.mean(0))
            network.std.copy_(self.embeddings.std(0, correction=0).clamp(min=1e-6))
        return network

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict[str, Any]:
        """Encoded captions, embeddings, noise, timesteps and which rows lose their text."""
        size = len(rows)
        return {
            "z": self.embeddings[rows],
            "text": self.clip.encode_text(self.data.captions(rows, rng)),
            "t": draw_timesteps(self.recipe.timesteps, size, self.schedule.timesteps, generator),
            "noise": torch.randn(size, self.config.clip_dim, generator=generator),
            "drop": torch.rand(size, generator=generator) < self.recipe.prior_drop,
        }

    def loss(self, network: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Mean squared error of the scaled embedding; logs the cosine to the true one."""
        x_0, t, text = network.scale(batch["z"]), batch["t"], batch["text"]
        x_t = self.schedule.add_noise(x_0, t, batch["noise"])
        tokens, embed, mask = text.tokens, text.embed, text.mask
        if self.config.null_text == "learned":
            null_tokens, null_embed, null_mask = network.null_text(len(x_0))
        else:
            null = move(self.clip.encode_text([""]), x_0.device)
            null_tokens, null_embed, null_mask = null.tokens, null.embed, null.mask
        longest = int(mask.any(0).sum())  # beyond the longest caption there is only padding, which nobody reads
        tokens, mask, null_tokens, null_mask = (x[:, :longest] for x in (tokens, mask, null_tokens, null_mask))
        drop = batch["drop"]
        tokens = torch.where(drop[:, None, None], null_tokens, tokens)
        embed = torch.where(drop[:, None], null_embed, embed)
        mask = torch.where(drop[:, None], null_mask, mask)
        output = network(x_t, t, tokens, embed, mask)
        loss = simple_loss(self.schedule, output, x_0, batch["noise"], t).mean()
        cosine = torch.cosine_similarity(network.unscale(output.detach()), batch["z"]).mean().item()
        return loss, {"cosine": round(cosine, 4)}

    def sheet(self, network: nn.Module, path: Path) -> None:
        """Cosines of 64 one-step predictions (rows: captions) against 64 true embeddings."""
        device = network.query.device
        rows = first_rows(self.data, 64)
        text = move(self.clip.encode_text(self.data.captions(rows, random.Random(0))), device)
        t = torch.full((64,), self.schedule.timesteps - 1, device=device)
        noise = torch.randn(64, self.config.clip_dim, generator=torch.Generator().manual_seed(0)).to(device)
        guess = network.unscale(network(noise, t, text.tokens, text.embed, text.mask)).cpu()
        cosines = torch.cosine_similarity(guess[:, None], self.embeddings[rows][None], dim=-1).clamp(0, 1)
        picture = cosines[None, :, :, None].expand(1, 64, 64, 3)
        save_png(grid(picture.repeat_interleave(6, 1).repeat_interleave(6, 2)), path)

    def export(self, network: nn.Module, path: Path, recipe: dict[str, Any]) -> None:
        """prior.safetensors, stored as bf16."""
        save_stage(path, network.state_dict(), "prior", self.config, {"recipe": recipe}, dtype=torch.bfloat16)
