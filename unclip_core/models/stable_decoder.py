"""Stable unCLIP's decoder network: Stable Diffusion 2's UNet, conditioned on a CLIP image embedding as on a class.

The embedding may carry noise, whose level it is told. Captions are read by a text tower of its own, stored beside it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import DecoderConfig
from .decoder import ConditionedUNet, Conditioning, build_autoencoder
from .layers import time_features
from .text_encoder import TextTower


class EmbedNormalizer(nn.Module):
    """Mean and standard deviation (D,) of CLIP's image embeddings, in whose units they are noised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))


class NoisyEmbed(nn.Module):
    """[embedding; sinusoids of its noise level] through Linear, SiLU, Linear to the time embedding's width."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(2 * dim, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, embed: Tensor, level: Tensor, null: Tensor | None = None) -> Tensor:
        """embed (B, D), level (B,) in 0..999 -> (B, width). null (B,) bool: rows without an embedding, all zeros."""
        x = torch.cat([embed.float(), time_features(level, embed.shape[1])], dim=1)  # (B, 2 D)
        if null is not None:
            x = x.masked_fill(null[:, None], 0.0)
        return self.linear_2(F.silu(self.linear_1(x.to(self.linear_1.weight.dtype))))


class StableDecoderNetwork(ConditionedUNet):
    """The image embedding in the time embedding; its tokens are the text tower's alone."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.embed_to_time = NoisyEmbed(config.clip_dim, config.unet.time_width)

    def condition(
        self,
        embed: Tensor | None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        text_embed: Tensor | None = None,
        ids: Tensor | None = None,
        *,
        drop_embed: Tensor | None = None,
        drop_text: Tensor | None = None,
        batch: int | None = None,
        extra: Tensor | None = None,
        level: Tensor | None = None,
    ) -> Conditioning:
        """Everything that does not depend on the step. Gradients flow.

        embed: (B, D) native image embeddings, level: (B,) their noise levels (None: 0); embed None is the null in every
        row. tokens: (B, T, W), states of the decoder's own text tower, of the empty caption where there is none; that
        tower has seen all there is of a caption, so mask, text_embed and ids change nothing. drop_embed: (B,) bool,
        rows that take the null instead. batch: of the tokens. Raises ValueError where tokens are missing, and for
        another CLIP's embeddings.
        """
        if tokens is None or drop_text is not None or extra is not None:
            raise ValueError(
                f"StableDecoderNetwork: {self.config.decoder_id} reads captions' states alone, and has no null text of "
                "its own; pass those of the empty caption in the rows without one, and nothing beside x_t"
            )
        weight, dim = self.embed_to_time.linear_1.weight, self.config.clip_dim
        batch = len(tokens)
        if embed is None:
            embed = weight.new_zeros(batch, dim)
            drop_embed = torch.ones(batch, dtype=torch.bool, device=weight.device)
        if embed.shape[1] != dim:
            raise ValueError(
                f"StableDecoderNetwork: {self.config.decoder_id} was trained on {dim}-d embeddings of "
                f"{self.config.clip_id}, but got {embed.shape[1]}-d; encode with the CLIP of the same stack"
            )
        if level is None:
            level = torch.zeros(batch, device=weight.device)
        addition = self.embed_to_time(embed, level, drop_embed)
        return Conditioning(addition, self.unet.project_context(tokens.to(weight.dtype)), None)


class StableDecoder(nn.Module):
    """Stable unCLIP's decoder as it is stored: four networks that never run together, see `LatentDecoder`.

    text_tower reads captions before `network` paints latents; normalizer has the units in which embeddings are noised.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.network = StableDecoderNetwork(config)
        self.autoencoder = build_autoencoder(config.autoencoder)
        self.text_tower = TextTower(config.text_tower)
        self.normalizer = EmbedNormalizer(config.clip_dim)
