"""Noise on image embeddings, for decoders that were trained on noisy ones and are told the level (Stable unCLIP)."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..checks import is_whole
from ..config import DecoderConfig
from ..diffusion.noise import ItemNoise
from ..diffusion.schedule import Schedule
from ..models.stable_decoder import EmbedNormalizer
from ..runtime.placement import Placed
from ..types import Embedding, check_same_clip

WHO = "Noise Embedding"


@torch.no_grad()
def noise_embedding(
    config: DecoderConfig, normalizer: Placed[EmbedNormalizer] | None, embed: Embedding, level: int, seed: int
) -> Embedding:
    """`embed` at a noise level, which it then carries. Item i has noise of seed + i.

    The noise is added by the forward process of `config.embed_noise` at timestep `level`, to embeddings in the units of
    `normalizer`. Raises ValueError for a decoder that is told no level, a level out of range, another CLIP's embedding,
    or one that is noisy already.
    """
    if config.embed_noise is None or normalizer is None:
        raise ValueError(
            f"{WHO}: the decoder {config.decoder_id} is told no noise level; link that of a Stable unCLIP, such as "
            "stable-diffusion-2-1-unclip"
        )
    if not isinstance(embed, Embedding):
        raise ValueError(f"{WHO}: embed must be an Embedding, got {type(embed).__name__}; link a prior or an encoder")
    check_same_clip(WHO, config.clip_id, config.clip_dim, embed.clip_id, embed.vector.shape[1])
    largest = config.embed_noise.timesteps - 1
    if not is_whole(level) or not 0 <= level <= largest:
        raise ValueError(f"{WHO}: noise_level must be a whole number from 0 to {largest}, got {level!r}")
    if embed.noise_level:
        raise ValueError(
            f"{WHO}: this embedding has noise of level {embed.noise_level} already; link the one from before it"
        )
    # A few numbers: wherever they are, without sending large networks away.
    scale, schedule = normalizer.read(), Schedule(config.embed_noise)
    noise = ItemNoise(seed, len(embed), "embed_noise").draw((config.clip_dim,))
    units = (scale.mean.float().cpu(), scale.std.float().cpu())
    noisy = noised(schedule, units, embed.vector, torch.full((len(embed),), level), noise)
    return replace(embed, vector=noisy, noise_level=level)


def noised(
    schedule: Schedule, units: tuple[torch.Tensor, torch.Tensor], z: torch.Tensor, t: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """Embeddings z (B, D) at levels t (B,), by the forward process in `units`: mean and standard deviation (D,)."""
    mean, std = units
    return schedule.add_noise((z.float() - mean) / std, t, noise) * std + mean
