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
from .data import Data
from .losses import draw_timesteps, simple_loss
from .recipes import Recipe
from .sheets import grid, save_png
from .texts import Texts
from .validation import cosine_sheet, fixed_batch, quarter_losses, some_rows

SHEET_ROWS = 64


class PriorTask:
    """embeddings: (N, D) native image embeddings of the data's rows, computed once."""

    stage = "prior"

    def __init__(self, config: PriorConfig, data: Data, clip: Clip, embeddings: Tensor, recipe: Recipe) -> None:
        self.config, self.data, self.clip, self.embeddings, self.recipe = config, data, clip, embeddings, recipe
        self.schedule = Schedule(config.schedule)
        self.texts = Texts(clip)

    def build(self) -> nn.Module:
        """The network with fresh weights; mean/std scaling takes the data's own statistics."""
        torch.manual_seed(0)
        network = PriorNetwork(self.config)
        if self.config.scaling == "mean_std":
            network.mean.copy_(self.embeddings.mean(0))
            network.std.copy_(self.embeddings.std(0, correction=0).clamp(min=1e-6))
        return network

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict[str, Any]:
        """Captions' tokens, embeddings, noise, timesteps and which rows lose their text."""
        size, draws = len(rows), len(rows) * self.recipe.draws
        tokens = self.texts.tokens(self.data.captions(rows, rng))
        return {
            "z": self.embeddings[rows],
            "tokens": tokens,
            "longest": int(tokens[1].any(0).sum()),
            "t": draw_timesteps(self.recipe.timesteps, draws, self.schedule.timesteps, generator),
            "noise": torch.randn(draws, self.config.clip_dim, generator=generator),
            "drop": torch.rand(size, generator=generator) < self.recipe.prior_drop,
        }

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its captions encoded, and the empty one where it stands for none."""
        null = None if self.config.null_text == "learned" else self.texts.null(batch["z"].device)
        return {**batch, "text": self.texts.encode(batch["tokens"]), "null": null}

    def loss(self, network: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error of the scaled embedding; logs the cosine to the true one.

        A caption's prefix is computed once for all its draws of noise, as in sampling: the later tokens cost a tenth.
        """
        z = batch["z"].repeat_interleave(self.recipe.draws, dim=0)
        output = self.predicted(network, batch)
        loss = simple_loss(self.schedule, output, network.scale(z), batch["noise"], batch["t"]).mean()
        return loss, {"cosine": torch.cosine_similarity(network.unscale(output.detach()), z).mean()}

    def predicted(self, network: nn.Module, batch: dict[str, Any]) -> Tensor:
        """What the network says of the batch's embeddings under their noise (B * draws, D)."""
        t, text, draws = batch["t"], batch["text"], self.recipe.draws
        x_0 = network.scale(batch["z"].repeat_interleave(draws, dim=0))
        x_t = self.schedule.add_noise(x_0, t, batch["noise"])
        tokens, embed, mask = text.tokens, text.embed, text.mask
        if batch["null"] is None:
            null_tokens, null_embed, null_mask = network.null_text(len(tokens))
        else:
            null_tokens, null_embed, null_mask = batch["null"].tokens, batch["null"].embed, batch["null"].mask
        # Beyond the longest caption there is only padding, which nobody reads.
        longest = batch["longest"]
        tokens, mask, null_tokens, null_mask = (x[:, :longest] for x in (tokens, mask, null_tokens, null_mask))
        drop = batch["drop"]
        tokens = torch.where(drop[:, None, None], null_tokens, tokens)
        embed = torch.where(drop[:, None], null_embed, embed)
        mask = torch.where(drop[:, None], null_mask, mask)
        cache = network.prefix(tokens, embed, mask)
        if draws > 1:
            cache = cache.take(torch.arange(len(tokens), device=t.device).repeat_interleave(draws))
        return network.step(x_t, t, cache)

    def validate(self, network: nn.Module, rows: list[int], path: Path) -> dict[str, Tensor]:
        """Loss by quarters; of one-step predictions from pure noise the cosine to the true embedding, and to the
        caption's (the CLIP score). The sheet: cosines of up to 64 of them (lines: captions) against the true ones."""
        device = network.query.device
        batch = fixed_batch(self, some_rows(rows, min(len(rows), SHEET_ROWS)), device)
        text = batch["text"]
        t = torch.full((len(batch["z"]),), self.schedule.timesteps - 1, device=device)
        guess = network.unscale(network(batch["noise"], t, text.tokens, text.embed, text.mask)).float()
        save_png(grid(cosine_sheet(guess, batch["z"])), path)
        return {
            **quarter_losses(self, network, rows, device),
            "cosine": torch.cosine_similarity(guess, batch["z"]).mean(),
            "clip_score": torch.cosine_similarity(guess, text.embed).mean(),
            "clip_score_true": torch.cosine_similarity(batch["z"], text.embed).mean(),
        }

    def export(self, network: nn.Module, path: Path, made_of: dict[str, Any]) -> None:
        """prior.safetensors, stored as bf16."""
        save_stage(path, network.state_dict(), "prior", self.config, made_of, dtype=torch.bfloat16)
