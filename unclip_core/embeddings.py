"""Moving in CLIP's space and in the space of start noises: slerp, text difference, blends, similarity; and their
batches: joined, taken apart, sorted. Pure tensor functions.

Everything is computed in float32, one angle per sample over all its dimensions. Frames make batches, row-major:
item = row * frames + frame.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import is_number, is_whole
from .diffusion.noise import ItemNoise
from .presets import explain_clip
from .types import (
    Embedding,
    GivenNoise,
    Inversion,
    JoinedNoise,
    LoraRecord,
    Noise,
    RandomNoise,
    SlerpedNoise,
    TextEncoding,
    broadcast_batch,
    check_same_clip,
    common_noise_level,
    expand_rows,
    warn_of_crossed_captions,
)

MAX_FRAMES = 1000
_SMALL = 1e-4  # sine of an angle below which directions are mixed linearly: the sines' quotient loses its digits
Warn = Callable[[str], None]
Part = TypeVar("Part")


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
    _check_spaces(who, {"embed_a": a, "embed_b": b})
    broadcast_batch(who, embed_a=len(a), embed_b=len(b))
    level = common_noise_level(who, warn, a, b)
    return Embedding(_frames(who, a.vector, b.vector, shares, warn), a.clip_id, _common_modality((a, b)), level)


StartNoise = RandomNoise | GivenNoise | SlerpedNoise | JoinedNoise


def slerp_noises(
    a: StartNoise, b: StartNoise, start: float = 0.0, end: float = 1.0, frames: int = 5, *, warn: Warn = warnings.warn
) -> GivenNoise | SlerpedNoise:
    """`frames` start noises between a and b, as `slerp_embeddings`.

    Random ones stay a recipe. An inverted one fixes the size, and its timesteps pass to the result. Raises ValueError
    also for two sizes, for inversions with other timesteps, decoders or guidance, and for a picture to start from.
    """
    who = "Slerp Noise"
    named = {"noise_a": a, "noise_b": b}
    shape, inversion = _common_start(who, named)
    shares = path(who, "start", start, "end", end, frames)
    batch = broadcast_batch(who, **{name: len(noise) for name, noise in named.items()})
    if shape is None:
        pairs = [(row if len(a) > 1 else 0, row if len(b) > 1 else 0) for row in range(batch)]
        return SlerpedNoise(a, b, tuple((*pair, share) for pair in pairs for share in shares.tolist()))
    return GivenNoise(_frames(who, draw_x_T(a, shape), draw_x_T(b, shape), shares, warn), inversion)


def draw_x_T(noise: StartNoise, shape: tuple[int, ...]) -> Tensor:
    """The x_T (B, *shape) float32 of a start noise on a grid of `shape` (C, H, W); a given one has its own grid."""
    if isinstance(noise, GivenNoise):
        return noise.x_T
    if isinstance(noise, RandomNoise):
        return ItemNoise(noise.seed, noise.count, "decoder", shared=noise.shared).draw(shape)
    if isinstance(noise, JoinedNoise):
        return torch.cat([draw_x_T(part, shape) for part in noise.parts])
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
    _check_kind(who, Embedding, embed=embed)
    _check_kind(who, TextEncoding, **texts)
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
    return replace(embed, vector=_frames(who, vector, target, thetas, warn), captions=())


def text_as_embedding(text: TextEncoding) -> Embedding:
    """A caption's own embedding where an image's is expected (paper §5.1): no prior stands between.

    Raises ValueError for a text without one.
    """
    _check_kind("Text As Embedding", TextEncoding, text=text)
    dim = text.embed.shape[1]
    check_same_clip("Text As Embedding", text.clip_id, dim, text.clip_id, dim)
    return Embedding(text.embed, text.clip_id, "text", captions=text.captions)


def similarity(a: Embedding | TextEncoding, b: Embedding | TextEncoding) -> Tensor:
    """Cosine (B,) of embeddings or texts; batches of 1 broadcast. Raises ValueError for two CLIPs."""
    one, two = (x.embed if isinstance(x, TextEncoding) else x.vector for x in (a, b))
    check_same_clip("similarity", a.clip_id, one.shape[1], b.clip_id, two.shape[1])
    broadcast_batch("similarity", a=len(a), b=len(b))
    return F.cosine_similarity(one.float(), two.float(), dim=1)


def blend_embeddings(
    embeds: Sequence[Embedding], weights: Sequence[float] = (), *, warn: Warn = warnings.warn
) -> Embedding:
    """The weighted mean of embeddings: of their directions, as norm(sum w_i * norm(z_i)), and of their norms.

    Of several batches row i goes with row i, and batches of 1 broadcast; the rows of a single batch are blended into
    one. weights: one for each batch, or for each row of the single one; empty: all the same. Below 0 it leads away
    from that one, whose norm counts with the weight's size. Two equal weights are the middle of `slerp_embeddings`.
    Raises ValueError for two CLIPs, another number of weights, none that counts, unequal batches, or embeddings that
    cancel out; warns of unequal noise levels.
    """
    who = "Embedding Blend"
    named = _numbered("embed", embeds)
    _check_spaces(who, named)
    one_batch = len(embeds) == 1
    level, modality = common_noise_level(who, warn, *embeds), _common_modality(embeds)
    batch = broadcast_batch(who, **{name: len(embed) for name, embed in named.items()})
    # (B, parts, D)
    stacked = embeds[0].vector[None] if one_batch else torch.stack([expand_rows(e.vector, batch) for e in embeds], 1)
    stacked = stacked.float()
    shares = _shares(who, weights, stacked.shape[1], "rows of embed" if one_batch else "embeddings")
    shares = shares.to(stacked.device)[:, None]  # (parts, 1)
    norms = (stacked.norm(dim=2, keepdim=True) * shares.abs()).sum(1)
    direction = (F.normalize(stacked, dim=2) * shares).sum(1)
    if gone := (direction.norm(dim=1) < _SMALL).nonzero().flatten().tolist():
        where = f" in row {gone[0]}" if batch > 1 and not one_batch else ""
        raise ValueError(
            f"{who}: the weighted embeddings cancel out{where}, so that no direction is left; change a weight"
        )
    return Embedding(F.normalize(direction, dim=1) * norms, embeds[0].clip_id, modality, level)


def join_embeddings(embeds: Sequence[Embedding], *, warn: Warn = warnings.warn) -> Embedding:
    """All rows of several batches, one batch after another; they carry the highest noise level.

    Raises ValueError for two CLIPs; warns of unequal noise levels.
    """
    who = "Embedding Batch"
    _check_spaces(who, _numbered("embed", embeds))
    level = common_noise_level(who, warn, *embeds)
    vector = torch.cat([embed.vector.float() for embed in embeds])
    captions = [caption for embed in embeds for caption in embed.captions] if all(e.captions for e in embeds) else ()
    return Embedding(vector, embeds[0].clip_id, _common_modality(embeds), level, tuple(captions))


def join_texts(texts: Sequence[TextEncoding]) -> TextEncoding:
    """All captions of several batches, one batch after another. Raises ValueError for two CLIPs."""
    _check_spaces("Text Batch", _numbered("text", texts), TextEncoding)
    length = max(text.ids.shape[1] for text in texts)
    long = max(text.tokens.shape[1] for text in texts)  # none, where the decoder encodes captions itself

    def cat(name: str, length: int, *behind: int) -> Tensor:
        parts = [getattr(text, name) for text in texts]
        return torch.cat([F.pad(part, (*behind, 0, length - part.shape[1])) for part in parts])

    return replace(
        texts[0],
        tokens=cat("tokens", long, 0, 0),
        embed=torch.cat([text.embed for text in texts]),
        mask=cat("mask", length),
        ids=cat("ids", length),
        captions=tuple(caption for text in texts for caption in text.captions),
    )


def join_noises(noises: Sequence[StartNoise]) -> JoinedNoise | GivenNoise:
    """All rows of several start noises, one after another.

    Random ones stay a recipe. An inverted one fixes the size, and its timesteps pass to the whole batch. Raises
    ValueError for two sizes, for inversions with other timesteps, decoders or guidance, and for a picture.
    """
    shape, inversion = _common_start("Noise Batch", _numbered("noise", noises))
    if shape is None:
        return JoinedNoise(tuple(noises))
    return GivenNoise(torch.cat([draw_x_T(noise, shape).float() for noise in noises]), inversion)


Batch = TypeVar("Batch", Embedding, TextEncoding, Noise)


def pick_rows(who: str, what: str, batch: Batch, index: int, length: int = 1) -> Batch:
    """`length` rows of a batch from row `index` (0: the first) on; length 0: all that follow.

    who, what: the node's name and the rows' in messages. Raises ValueError for rows that are not there.
    """
    for name, value in (("index", index), ("length", length)):
        if not is_whole(value) or value < 0:
            raise ValueError(f"{who}: {name} must be a whole number from 0 up, got {value!r}")
    count = len(batch)
    if index >= count:
        there = "only one, number 0" if count == 1 else f"{count}, numbered 0 to {count - 1}"
        raise ValueError(f"{who}: there is no {what} {index}; the batch has {there}. Lower index")
    if length > count - index:
        raise ValueError(
            f"{who}: from {what} {index} on there are {count - index}, not {length}; lower length, or set it to 0 for "
            "all of them"
        )
    return batch.take(slice(index, index + length if length else count))


def rank_by_text(
    embed: Embedding,
    text: TextEncoding,
    keep: int = 0,
    *,
    made_from: Embedding | None = None,
    warn: Warn = warnings.warn,
) -> tuple[list[int], Tensor]:
    """(rows of `embed`, their cosines to their captions), the closest first; equal ones in their order.

    Of B captions and B * k embeddings each caption ranks its own k in a row, as a prior makes them: all that is kept
    of the first caption's comes first, so that a decoder still gives each caption to what was made of it.
    keep: how many of the closest, of each caption's; 0: all. made_from: what pictures were painted from, where `embed`
    is what CLIP sees in them. Raises ValueError for two CLIPs, rows that do not divide among the captions, or more to
    keep than there are; warns of rows under another one's caption.
    """
    who = "Rank by CLIP"
    _check_kind(who, Embedding, embed=embed)
    _check_kind(who, TextEncoding, text=text)
    check_same_clip(who, embed.clip_id, embed.vector.shape[1], text.clip_id, text.embed.shape[1])
    rows, captions = len(embed), len(text)
    if rows % captions:
        raise ValueError(
            f"{who}: {rows} rows do not divide among the {captions} captions of text; link as many of each caption, in "
            "the captions' order, as a prior makes them, or pick one caption with Text From Batch"
        )
    own = rows // captions
    if not is_whole(keep) or not 0 <= keep <= own:
        each = " of each caption" * (captions > 1)
        raise ValueError(f"{who}: keep must be a whole number from 0 (all) to the {own} there are{each}, got {keep!r}")
    warn_of_crossed_captions(who, embed if made_from is None else made_from, text, warn)
    scores = F.cosine_similarity(embed.vector.float(), text.embed.float().repeat_interleave(own, 0), dim=1)
    order = scores.view(captions, own).argsort(dim=1, descending=True, stable=True)[:, : keep or own]
    order = (order + own * torch.arange(captions, device=order.device)[:, None]).flatten()
    return order.tolist(), scores[order]


def path(who: str, start_name: str, start: float, end_name: str, end: float, frames: int) -> Tensor:
    """`frames` shares (frames,) from start to end. Raises ValueError for one outside 0..1 or frames outside 1..1000."""
    for name, value in ((start_name, start), (end_name, end)):
        if not is_number(value) or not 0.0 <= value <= 1.0:
            raise ValueError(f"{who}: {name} must be a number from 0 to 1, got {value!r}")
    if not is_whole(frames) or not 1 <= frames <= MAX_FRAMES:
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


def _numbered(name: str, parts: Sequence[Part]) -> dict[str, Part]:
    """Inputs by the names that the nodes have for them: embed, embed_2, embed_3 ..."""
    return {name if number == 1 else f"{name}_{number}": part for number, part in enumerate(parts, 1)}


def _check_kind(who: str, kind: type[Embedding] | type[TextEncoding], **named: object) -> None:
    """Raises ValueError for inputs that are something else, which sockets of any type may give."""
    for name, part in named.items():
        if not isinstance(part, kind):
            source = "CLIP Text Encode" if kind is TextEncoding else "a prior or CLIP Image Encode"
            article = "a" if kind is TextEncoding else "an"
            got = type(part).__name__
            raise ValueError(f"{who}: {name} must be {article} {kind.__name__}, got {got}; link {source}")


def _check_spaces(who: str, named: dict[str, Embedding] | dict[str, TextEncoding], kind: type = Embedding) -> None:
    """Raises ValueError for inputs of another kind, or of two CLIPs."""
    _check_kind(who, kind, **named)
    spaces = {
        name: (part.clip_id, (part.embed if isinstance(part, TextEncoding) else part.vector).shape[1])
        for name, part in named.items()
    }
    first, (clip_id, dim) = next(iter(spaces.items()))
    for name, (other_id, other_dim) in spaces.items():
        if (other_id, other_dim) != (clip_id, dim):
            every = "both" if len(named) == 2 else "all"
            raise ValueError(
                f"{who}: {first} is {dim}-d from {explain_clip(clip_id)}, but {name} {other_dim}-d from "
                f"{explain_clip(other_id)}; encode {every} with the CLIP of one Load unCLIP"
            )


def _common_modality(embeds: Sequence[Embedding]) -> str:
    return embeds[0].modality if len({embed.modality for embed in embeds}) == 1 else "image"


def _shares(who: str, weights: Sequence[float], count: int, what: str) -> Tensor:
    """Weights (count,) whose sizes add up to 1."""
    if weights and len(weights) != count:
        raise ValueError(
            f"{who}: {len(weights)} {'weight' if len(weights) == 1 else 'weights'} for {count} {what}; give one for "
            "each, or none, and all count the same"
        )
    if wrong := [weight for weight in weights if not is_number(weight)]:
        raise ValueError(f"{who}: a weight must be a number, such as 0.5, got {wrong[0]}")
    shares = torch.tensor(weights or [1.0] * count, dtype=torch.float64)
    if not shares.any():
        raise ValueError(f"{who}: all weights are 0, so that nothing is left to blend; raise one")
    return (shares / shares.abs().sum()).float()


def _common_start(who: str, named: dict[str, StartNoise]) -> tuple[tuple[int, ...] | None, Inversion | None]:
    """(the grid (C, H, W) that inverted noises fix, None without any; the inversion that all must be decoded under).

    Raises ValueError for a picture, for two grids, and for inversions that do not go together.
    """
    for name, noise in named.items():
        if not isinstance(noise, StartNoise):
            raise ValueError(
                f"{who}: {name} is a {type(noise).__name__}, which has no x_T of its own; link Random Noise or DDIM "
                "Invert, and Start From Picture after this node"
            )
    given = {name: noise for name, noise in named.items() if isinstance(noise, GivenNoise)}
    inverted: tuple[str, Inversion] | None = None
    for name, noise in given.items():
        (first, one), shape = next(iter(given.items())), noise.x_T.shape[1:]
        if one.x_T.shape[1:] != shape:
            raise ValueError(
                f"{who}: {first} is {tuple(one.x_T.shape[2:])} pixels and {name} {tuple(shape[1:])}; make "
                f"{'both' if len(named) == 2 else 'all'} for the same decoder"
            )
        if noise.inversion is not None:
            before, common = inverted or (name, noise.inversion)
            if inverted is not None:
                common = _common_inversion(who, before, common, name, noise.inversion)
            inverted = before, common
    shape = next((tuple(noise.x_T.shape[1:]) for noise in given.values()), None)
    return shape, inverted[1] if inverted else None


def _common_inversion(who: str, name_a: str, a: Inversion, name_b: str, b: Inversion) -> Inversion:
    """The conditions that two, named as inputs, must be decoded under together."""
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
            raise ValueError(f"{who}: {name_a} was inverted with {one}, {name_b} with {two}; {fix}")
    hashes = {
        name: getattr(a, name) if getattr(a, name) == getattr(b, name) else f"{getattr(a, name)}+{getattr(b, name)}"
        for name in ("embed_hash", "text_hash")
    }
    worse = {
        name: max((x for x in (getattr(a, name), getattr(b, name)) if x is not None), default=None)
        for name in ("residual", "latent_error", "pixel_error")
    }
    return replace(a, **worse, **hashes)
