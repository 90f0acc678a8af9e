"""Fitting what Analytic-DPM needs of a prior: the mean square of its predicted noise at every timestep.

For an exact model E||predicted noise||^2 / d = 1 - E||noise - predicted noise||^2 / d. The right side is measured: near
pure noise the sampler multiplies errors of the left by 1e8, and for a model that is not exact the right one gives the
variance that its mean needs (Bao et al. 2022, "Estimating the optimal covariance with imperfect mean").
"""

from __future__ import annotations

from collections.abc import Generator

import torch
from torch import Tensor

from ..diffusion.schedule import Schedule
from ..stages.prior import Prior
from ..stages.text import TextRows
from ..types import Embedding, TextEncoding, check_same_clip


@torch.no_grad()
def fit_noise_powers(
    prior: Prior, text: TextEncoding, image: Embedding, seed: int = 0
) -> Generator[tuple[int, int], None, Tensor]:
    """E||predicted noise||^2 / d, (timesteps,) float64, over pairs of captions and image embeddings.

    float64, because what counts near pure noise is its distance from 1. Of the conditional model without guidance.
    Yields (done, of) and returns the table. Raises ValueError for another CLIP's pairs or an unequal number of both.
    """
    config = prior.config
    if config.one_pass:
        raise ValueError(
            f"fit-analytic: {config.prior_id} makes its embedding in one pass, so it has no steps whose noise could be "
            "measured; give a prior that runs in steps"
        )
    check_same_clip("fit-analytic", config.clip_id, config.clip_dim, text.clip_id, text.embed.shape[1])
    if len(text) != len(image) or image.clip_id != text.clip_id:
        raise ValueError(
            f"fit-analytic: {len(text)} captions of {text.clip_id} and {len(image)} embeddings of {image.clip_id} are "
            "no pairs; encode both with the stack's CLIP"
        )
    network, schedule = prior.network.on_device(), Schedule(config.schedule)
    device = prior.network.device
    generator = torch.Generator().manual_seed(seed)
    rows = TextRows.of(text, device)
    cache = network.prefix(rows.tokens, rows.embed, rows.mask)
    x_0 = network.scale(image.vector.to(device))
    powers = torch.empty(schedule.timesteps, dtype=torch.float64)
    for step in range(schedule.timesteps):
        noise = torch.randn(x_0.shape, generator=generator).to(device)
        t = torch.full((len(x_0),), step, device=device)
        x_t = schedule.add_noise(x_0, t, noise)
        guess, _ = schedule.to_x0_eps(network.step(x_t, t, cache), x_t, t, schedule.config.x0_clamp)
        level = float(schedule.alphas_cumprod[step])  # an error of x_0 is one of the noise by this ratio of levels
        powers[step] = 1.0 - level / (1.0 - level) * float((x_0 - guess).square().mean())
        yield step + 1, schedule.timesteps
    return powers.clamp(min=0.0)
