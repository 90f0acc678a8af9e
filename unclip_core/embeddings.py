"""Moving in CLIP's space and in the space of start noises: slerp, text difference, similarity. Pure tensor functions.

Everything is computed in float32, one angle per sample over all its dimensions. Frames make batches, row-major:
item = row * frames + frame.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .diffusion.noise import ItemNoise
from .presets import explain_clip
from .types import (
    Embedding,
    GivenNoise,
    Inversion,
    LoraRecord,
    RandomNoise,
    SlerpedNoise,
    TextEncoding,
    broadcast_batch,
    check_same_clip,
    common_noise_level,
    expand_rows,
)

MAX_FRAMES = 1000
_SMALL = 1e-4  # sine of an angle below which directions are mixed linearly: the sines' quotient loses its digits
Warn = Callable[[str], None]


def slerp(a: Tensor, b: Tensor, share: Tensor | float) -> Tensor:
    """From a (share 0) to b (share 1), both (B, ...): the direction rotates, the norm grows linearly (paper §3.2).

    share: a number, or (B,). Where the two are antipodes the way between them is undetermined: it then leads through
    a fixed direction at right angles to both. Returns float32.
    """
    shape = a.shape
    a, b = a.float().flatten(1), b.float().flatten(1)  # (B, d)
    share = torch.as_tensor(share, dtype=torch.float32, device=a.device).expand(len(a))[:, None]  # (B, 1)
    norm_a, norm_b = a.norm(dim=1, keepdim=True), b.norm(dim=1, keepdim=True)
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    # The part of b across a gives sine and cosine alike, exact at any angle; arccos is not, at small ones.
    along = (a * b).sum(1, keepdim=True)
    across = b - along * a
    sine = across.norm(dim=1, keepdim=True)
    angle = torch.atan2(sine, along)
    turned = torch.where(_opposite(sine, along), _right_angle(a), across / sine.clamp_min(1e-30))
    rotated = torch.cos(share * angle) * a + torch.sin(share * angle) * turned
    near = (sine < _SMALL) & (along > 0)
    direction = torch.where(near, F.normalize(torch.lerp(a, b, share), dim=1), rotated)
    return (direction * torch.lerp(norm_a, norm_b, share)).view(shape)


def antipodes(a: Tensor, b: Tensor) -> Tensor:
    """(B,) bool: where a and b, both (B, ...), point in opposite directions, so that `slerp` must choose a way."""
    a, b = F.normalize(a.float().flatten(1), dim=1), F.normalize(b.float().flatten(1), dim=1)
    along = (a * b).sum(1, keepdim=True)
    return _opposite((b - along * a).norm(dim=1, keepdim=True), along)[:, 0]


def slerp_embeddings(
    a: Embedding, b: Embedding, start: float = 0.0, end: float = 1.0, frames: int = 5, *, warn: Warn = warnings.warn
) -> Embedding:
    """`frames` embeddings from share `start` to share `end` of the way from a to b, ends included (one frame: start).

    Batches of 1 broadcast; all frames carry the higher noise level. Raises ValueError for two CLIPs, a share outside
    0..1, frames outside 1..1000 or unequal batches; warns at antipodes, and of unequal noise levels.
    """
    who = "Slerp"
    shares = path(who, "start", start, "end", end, frames)
    _check_spaces(who, a, b)
    broadcast_batch(who, embed_a=len(a), embed_b=len(b))
    modality = a.modality if a.modality == b.modality else "image"
    level = common_noise_level(who, warn, a, b)
    return Embedding(_frames(who, a.vector, b.vector, shares, warn), a.clip_id, modality, level)


StartNoise = RandomNoise | GivenNoise | SlerpedNoise


def slerp_noises(
    a: StartNoise, b: StartNoise, start: float = 0.0, end: float = 1.0, frames: int = 5, *, warn: Warn = warnings.warn
) -> GivenNoise | SlerpedNoise:
    """`frames` start noises between a and b, as `slerp_embeddings`.

    Random ones stay a recipe. An inverted one fixes the size, and its timesteps pass to the result. Raises ValueError
    also for two sizes, for inversions with other timesteps, decoders or guidance, and for a picture to start from.
    """
    who = "Slerp Noise"
    for name, noise in (("noise_a", a), ("noise_b", b)):
        if not isinstance(noise, StartNoise):
            raise ValueError(
                f"{who}: {name} is a {type(noise).__name__}, which has no single x_T to mix; link Random Noise or DDIM "
                "Invert, and Start From Picture after this node"
            )
    shares = path(who, "start", start, "end", end, frames)
    batch = broadcast_batch(who, noise_a=len(a), noise_b=len(b))
    sizes = {tuple(noise.x_T.shape[1:]) for noise in (a, b) if isinstance(noise, GivenNoise)}
    if not sizes:
        pairs = [(row if len(a) > 1 else 0, row if len(b) > 1 else 0) for row in range(batch)]
        return SlerpedNoise(a, b, tuple((*pair, share) for pair in pairs for share in shares.tolist()))
    if len(sizes) > 1:
        raise ValueError(
            f"{who}: noise_a is {tuple(a.x_T.shape[2:])} pixels and noise_b {tuple(b.x_T.shape[2:])}; "
            "make both for the same decoder"
        )
    (shape,) = sizes
    inversion = _common_inversion(who, *(getattr(noise, "inversion", None) for noise in (a, b)))
    return GivenNoise(_frames(who, draw_x_T(a, shape), draw_x_T(b, shape), shares, warn), inversion)


def draw_x_T(noise: StartNoise, shape: tuple[int, ...]) -> Tensor:
    """The x_T (B, *shape) float32 of a start noise on a grid of `shape` (C, H, W); a given one has its own grid."""
    if isinstance(noise, GivenNoise):
        return noise.x_T
    if isinstance(noise, RandomNoise):
        return ItemNoise(noise.seed, noise.count, "decoder", shared=noise.shared).draw(shape)
    first, second = draw_x_T(noise.first, shape), draw_x_T(noise.second, shape)
    rows_a, rows_b, shares = (list(column) for column in zip(*noise.mixes, strict=True))
    return slerp(first[rows_a], second[rows_b], torch.tensor(shares))


def text_diff(
    embed: Embedding,
    text_from: TextEncoding | None,
    text_to: TextEncoding,
    start_theta: float = 0.0,
    end_theta: float = 0.5,
    frames: int = 5,
    *,
    warn: Warn = warnings.warn,
) -> Embedding:
    """`embed` turned toward what leads from one caption to the other (paper §3.3), with the norm of `embed`.

    theta: the share of the angle between embed and norm(text_to - text_from); the paper's end is 0.25 to 0.5.
    text_from None: turned toward text_to itself. Batches of 1 broadcast.
    Raises ValueError for two CLIPs, theta outside 0..1, frames outside 1..1000, unequal batches, or texts that CLIP
    takes for the same.
    """
    who = "Text Diff"
    thetas = path(who, "start_theta", start_theta, "end_theta", end_theta, frames)
    texts = {"text_to": text_to} if text_from is None else {"text_from": text_from, "text_to": text_to}
    for text in texts.values():
        check_same_clip(who, embed.clip_id, embed.vector.shape[1], text.clip_id, text.embed.shape[1])
    batch = broadcast_batch(who, embed=len(embed), **{name: len(text) for name, text in texts.items()})
    target = F.normalize(text_to.embed.float(), dim=1)
    if text_from is not None:
        target = target - F.normalize(text_from.embed.float(), dim=1)
        if same := (target.norm(dim=1) < 1e-5).nonzero().flatten().tolist():
            caption = text_to.captions[same[0] if len(text_to) > 1 else 0]
            raise ValueError(
                f"{who}: text_from and text_to are the same to {embed.clip_id} ({caption!r}), so there is no "
                "difference to follow; change one of the captions"
            )
    vector = expand_rows(embed.vector.float(), batch)
    target = F.normalize(expand_rows(target, batch), dim=1) * vector.norm(dim=1, keepdim=True)
    return replace(embed, vector=_frames(who, vector, target, thetas, warn))


def text_as_embedding(text: TextEncoding) -> Embedding:
    """A caption's own embedding where an image's is expected (paper §5.1): no prior stands between.

    Raises ValueError for a text without one.
    """
    dim = text.embed.shape[1]
    check_same_clip("Text As Embedding", text.clip_id, dim, text.clip_id, dim)
    return Embedding(text.embed, text.clip_id, "text")


def similarity(a: Embedding | TextEncoding, b: Embedding | TextEncoding) -> Tensor:
    """Cosine (B,) of embeddings or texts; batches of 1 broadcast. Raises ValueError for two CLIPs."""
    one, two = (x.embed if isinstance(x, TextEncoding) else x.vector for x in (a, b))
    check_same_clip("similarity", a.clip_id, one.shape[1], b.clip_id, two.shape[1])
    broadcast_batch("similarity", a=len(a), b=len(b))
    return F.cosine_similarity(one.float(), two.float(), dim=1)


def path(who: str, start_name: str, start: float, end_name: str, end: float, frames: int) -> Tensor:
    """`frames` shares (frames,) from start to end. Raises ValueError for one outside 0..1 or frames outside 1..1000."""
    for name, value in ((start_name, start), (end_name, end)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
            raise ValueError(f"{who}: {name} must be a number from 0 to 1, got {value!r}")
    if isinstance(frames, bool) or not isinstance(frames, int) or not 1 <= frames <= MAX_FRAMES:
        raise ValueError(f"{who}: frames must be a whole number from 1 to {MAX_FRAMES}, got {frames!r}")
    return torch.linspace(float(start), float(end), frames)


def _frames(who: str, a: Tensor, b: Tensor, shares: Tensor, warn: Warn) -> Tensor:
    """a and b (B or 1, ...) at every share: (B * frames, ...), row-major."""
    batch = broadcast_batch(who, a=len(a), b=len(b))
    a, b = expand_rows(a, batch), expand_rows(b, batch)
    if bad := antipodes(a, b).nonzero().flatten().tolist():
        warn(
            f"{who}: item {bad[0]} goes between opposite directions, where no way is the shortest; it takes an "
            "arbitrary one. Use two inputs that differ less"
        )
    rows, count = torch.arange(batch).repeat_interleave(len(shares)), len(shares)
    return slerp(a[rows], b[rows], shares.repeat(batch).to(a.device)).view(batch * count, *a.shape[1:])


def _opposite(sine: Tensor, along: Tensor) -> Tensor:
    return (sine < _SMALL) & (along < 0)


def _right_angle(a: Tensor) -> Tensor:
    """A unit vector across each row of a (B, d): the axis that the row has least of, made orthogonal to it."""
    axis = torch.zeros_like(a).scatter_(1, a.abs().argmin(1, keepdim=True), 1.0)
    return F.normalize(axis - (axis * a).sum(1, keepdim=True) * a, dim=1)


def _check_spaces(who: str, a: Embedding, b: Embedding) -> None:
    if (a.clip_id, a.vector.shape[1]) != (b.clip_id, b.vector.shape[1]):
        raise ValueError(
            f"{who}: embed_a is {a.vector.shape[1]}-d from {explain_clip(a.clip_id)}, but embed_b "
            f"{b.vector.shape[1]}-d from {explain_clip(b.clip_id)}; encode both with the CLIP of one Load unCLIP"
        )


def _common_inversion(who: str, a: Inversion | None, b: Inversion | None) -> Inversion | None:
    """The conditions that a mix of the two must be decoded under."""
    if a is None or b is None:
        return a or b
    for name, fix in (
        ("decoder_id", "invert both with one decoder"),
        ("timesteps", "invert both in the same number of steps"),
        ("guidance_scale", "invert both with the same guidance_scale"),
        ("guidance_interval", "invert both with the same decoder"),
        ("loras", "invert both with the same decoder"),
    ):
        one, two = getattr(a, name), getattr(b, name)
        if one != two:
            if name == "timesteps":
                one, two = (f"{len(x)} steps" for x in (one, two))
            elif name == "guidance_interval":
                one, two = (
                    "guidance everywhere" if x is None else "guidance from {:g} to {:g}".format(*x) for x in (one, two)
                )
            else:
                one, two = (LoraRecord.describe(x) if name == "loras" else f"{name} {x}" for x in (one, two))
            raise ValueError(f"{who}: noise_a was inverted with {one}, noise_b with {two}; {fix}")
    hashes = {
        name: getattr(a, name) if getattr(a, name) == getattr(b, name) else f"{getattr(a, name)}+{getattr(b, name)}"
        for name in ("embed_hash", "text_hash")
    }
    worse = {
        name: max((x for x in (getattr(a, name), getattr(b, name)) if x is not None), default=None)
        for name in ("residual", "latent_error", "pixel_error")
    }
    return replace(a, **worse, **hashes)
