"""Training the autoregressive prior: captions to quantised principal components of image embeddings (§2.2, App. C)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.native import save_stage
from ..clip.model import Clip
from ..clip.pca import fit_pca
from ..config import ARPriorConfig
from ..models.ar_codes import Quantiser
from ..models.ar_prior import ARPriorNetwork
from ..stages.ar_prior import draw_bucket
from .data import Data
from .recipes import Recipe
from .sheets import grid, save_png
from .texts import Texts
from .validation import cosine_sheet, fixed_batch, some_rows

KEPT_VARIANCE = 0.99  # App. C: fewer components lose more than 1 %
WITHIN_EDGES = 0.9999  # share of the training values that the buckets reach over
SHEET_ROWS = 64
DOT_ROWS = 4096  # captions that the buckets of z_i . z_t are fitted on


class ARPriorTask:
    """embeddings: (N, D) native image embeddings of the data's rows, computed once."""

    stage = "ar_prior"

    def __init__(self, config: ARPriorConfig, data: Data, clip: Clip, embeddings: Tensor, recipe: Recipe) -> None:
        self.config, self.data, self.clip, self.embeddings, self.recipe = config, data, clip, embeddings, recipe
        self.texts = Texts(clip)

    def build(self) -> nn.Module:
        """The network with fresh weights, its basis and buckets fitted to the data.

        Raises ValueError if the config keeps too few components for this data.
        """
        torch.manual_seed(0)
        network = ARPriorNetwork(self.config)
        basis = fit_pca(self.embeddings, self.config.clip_id)
        if (kept := basis.explained(self.config.components)) < KEPT_VARIANCE:
            raise ValueError(
                f"train ar_prior: {self.config.components} components keep {kept:.1%} of the variance of these "
                f"embeddings; keep at least {KEPT_VARIANCE:.0%} with ARPriorConfig.components "
                f"{basis.needed(KEPT_VARIANCE)} or more, or leave them out"
            )
        coordinates = basis.coordinates(self.embeddings, self.config.components)
        rows = range(0, len(self.data), max(1, len(self.data) // DOT_ROWS))
        captions = self.data.captions(list(rows), random.Random(0))
        texts = torch.cat([self.clip.encode_text(captions[i : i + 256]).embed for i in range(0, len(captions), 256)])
        dots = (self.embeddings[list(rows)] * texts).sum(-1)
        fit_buckets(network.quantiser, coordinates, dots)
        network.quantiser.mean.copy_(basis.mean)
        network.quantiser.basis.copy_(basis.components[: self.config.components])
        return network

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict[str, Any]:
        """Captions' tokens, embeddings, and which rows lose their text."""
        return {
            "z": self.embeddings[rows],
            "tokens": self.texts.tokens(self.data.captions(rows, rng)),
            "drop": torch.rand(len(rows), generator=generator) < self.recipe.prior_drop,
        }

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its captions encoded."""
        return {**batch, "text": self.texts.encode(batch["tokens"])}

    def loss(self, network: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of z_i . z_t and the codes, mean over all of them; logs that of the first eight codes and the
        cosine of the likeliest codes (each given the true ones before it) to the true embedding."""
        text, z, quantiser = batch["text"], batch["z"], network.quantiser
        dot, codes = quantiser.encode_dot(z, text.embed), quantiser.encode(z)
        dot_logits, code_logits = network(
            text.tokens, text.embed, text.mask, dot, codes, ids=text.ids, drop=batch["drop"]
        )
        logits = torch.cat([dot_logits[:, None], code_logits], dim=1)
        losses = F.cross_entropy(
            logits.flatten(0, 1), torch.cat([dot[:, None], codes], dim=1).flatten(), reduction="none"
        )
        losses = losses.view(len(z), -1)
        guess = quantiser.decode(code_logits.detach().argmax(-1))
        cosine = torch.cosine_similarity(guess, z).mean()
        return losses.mean(), {"first8": losses[:, 1:9].mean().detach(), "cosine": cosine}

    def validate(self, network: nn.Module, rows: list[int], path: Path) -> dict[str, Tensor]:
        """Loss, and of sampled embeddings the cosine to the true one and to the caption's (the CLIP score). The sheet:
        cosines of up to 64 of them (rows: captions) against the true embeddings."""
        device = network.null_embed.device
        batch = fixed_batch(self, some_rows(rows, min(len(rows), SHEET_ROWS)), device)
        text = batch["text"]
        shape = (len(batch["z"]), self.config.components + 1)
        uniform = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
        logits, cache = network.prefix(text.tokens, text.embed, text.mask, ids=text.ids)
        bucket, codes = draw_bucket(logits, uniform[:, 0], 1.0), []
        for index in range(self.config.components):
            logits, cache = network.step(bucket, cache)
            bucket = draw_bucket(logits, uniform[:, index + 1], 1.0)
            codes.append(bucket)
        guess = network.quantiser.decode(torch.stack(codes, dim=1)).float()
        save_png(grid(cosine_sheet(guess, batch["z"])), path)
        return {
            "loss": self.loss(network, batch)[0],
            "cosine": torch.cosine_similarity(guess, batch["z"]).mean(),
            "clip_score": torch.cosine_similarity(guess, text.embed).mean(),
            "clip_score_true": torch.cosine_similarity(batch["z"], text.embed).mean(),
        }

    def export(self, network: nn.Module, path: Path, made_of: dict[str, Any]) -> None:
        """ar_prior.safetensors, stored as bf16, but for the basis: a bucket is finer than bf16."""
        state = {
            name: value.to(torch.bfloat16) if value.ndim > 1 and not name.startswith("quantiser.") else value
            for name, value in network.state_dict().items()
        }
        save_stage(path, state, "ar_prior", self.config, made_of)


def fit_buckets(quantiser: Quantiser, coordinates: Tensor, dots: Tensor) -> None:
    """Equal buckets over the values of coordinates (N, K), as many standard deviations for each, and of dots (M,)."""
    std = coordinates.std(0, correction=0).clamp(min=1e-6)  # (K,)
    reach = _quantile((coordinates / std).abs().flatten(), WITHIN_EDGES)
    quantiser.reach.copy_(reach * std)
    quantiser.dot_middle.copy_(dots.mean())
    quantiser.dot_reach.copy_((dots - dots.mean()).abs().max().clamp(min=1e-6))


def _quantile(values: Tensor, share: float) -> Tensor:
    """torch.quantile, which refuses more than 16 million values."""
    return values.kthvalue(max(1, int(share * len(values)))).values
