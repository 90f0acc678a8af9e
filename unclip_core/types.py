"""What travels on the wires between stages (and on the editor's sockets).

Pictures are the editor's IMAGE: (B, H, W, C) float32 in 0..1 on the CPU. Masks are (B, H, W) float32, 1 = repaint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .checks import check_count
from .presets import explain_clip


@dataclass(frozen=True)
class TextEncoding:
    """Captions as CLIP encoded them.

    tokens: (B, T, W) float32, last hidden states after the final LayerNorm.
    embed: (B, D) float32, the projected text embedding on its stack's native scale.
    mask: (B, T) bool, True for real tokens (start and end included), False for padding.
    ids: (B, T) int64, the tokenizer's output: what a decoder with a text encoder of its own reads.
    normalised: whether embeddings of this CLIP, texts' and pictures', have unit norm (`ClipConfig.normalised`).
    """

    tokens: Tensor
    embed: Tensor
    mask: Tensor
    ids: Tensor
    clip_id: str
    captions: tuple[str, ...]
    normalised: bool = False

    def __len__(self) -> int:
        return self.embed.shape[0]

    def take(self, rows: slice | list[int]) -> TextEncoding:
        """The given rows as a TextEncoding of their own."""
        return replace(
            self,
            tokens=self.tokens[rows],
            embed=self.embed[rows],
            mask=self.mask[rows],
            ids=self.ids[rows],
            captions=_taken(self.captions, rows),
        )


@dataclass(frozen=True)
class Embedding:
    """CLIP embeddings: vector (B, D) float32 on the stack's native scale; modality "image" or "text".

    noise_level: the timestep of the noise that was added to them, which Stable unCLIP's decoder is told; 0: clean.
    captions: what each row was made of, of those that come from captions alone; empty for all others.
    """

    vector: Tensor
    clip_id: str
    modality: str = "image"
    noise_level: int = 0
    captions: tuple[str, ...] = field(default=(), compare=False)  # where they come from, not what they are

    def __post_init__(self) -> None:
        if self.vector.ndim != 2:
            raise ValueError(f"Embedding: vector must be (B, D), got shape {tuple(self.vector.shape)}")
        if self.captions and len(self.captions) != len(self.vector):
            raise ValueError(f"Embedding: {len(self.captions)} captions do not go with {len(self.vector)} rows")
        if self.modality not in ("image", "text"):
            raise ValueError(f"Embedding: modality must be 'image' or 'text', got {self.modality!r}")

    def __len__(self) -> int:
        return self.vector.shape[0]

    def take(self, rows: slice | list[int]) -> Embedding:
        """The given rows as an Embedding of their own."""
        return replace(self, vector=self.vector[rows], captions=_taken(self.captions, rows))


def _taken(captions: tuple[str, ...], rows: slice | list[int]) -> tuple[str, ...]:
    """The captions of some rows; of no captions none."""
    if isinstance(rows, slice):
        return captions[rows]
    return tuple(captions[row] for row in rows) if captions else ()


@dataclass(frozen=True)
class PCABasis:
    """Directions in which the image embeddings of one CLIP vary, the widest first. All float32, on the native scale.

    mean: (D,). components: (D, D), orthonormal rows. variance: (D,) along each row, descending.
    """

    mean: Tensor
    components: Tensor
    variance: Tensor
    clip_id: str

    @property
    def dim(self) -> int:
        """D."""
        return self.mean.shape[0]

    def explained(self, count: int) -> float:
        """Share of the variance, 0..1, that the first `count` components keep."""
        return float(self.variance[:count].sum() / self.variance.sum().clamp(min=1e-12))

    def needed(self, share: float) -> int:
        """How many components keep at least `share` (0..1) of the variance."""
        kept = self.variance.double().cumsum(0) / self.variance.double().sum().clamp(min=1e-12)
        return min(self.dim, int((kept < share).sum()) + 1)

    def coordinates(self, vectors: Tensor, count: int) -> Tensor:
        """The first `count` coordinates (B, count) of vectors (B, D)."""
        return (vectors - self.mean) @ self.components[:count].T

    def reconstruct(self, vectors: Tensor, count: int) -> Tensor:
        """Vectors (B, D) through their first `count` components: the rest is set to the mean."""
        return self.mean + self.coordinates(vectors, count) @ self.components[:count]


@dataclass(frozen=True)
class LoraRecord:
    """A LoRA that a run had. fingerprint: of its numbers; name: for messages."""

    name: str
    strength: float
    fingerprint: str

    @staticmethod
    def describe(records: tuple[LoraRecord, ...]) -> str:
        """For messages: "the LoRA cup at strength 1", or "no LoRA"."""
        listed = " and ".join(f"{record.name} at strength {record.strength:g}" for record in records)
        return f"the LoRA {listed}" if listed else "no LoRA"


@dataclass(frozen=True)
class Inversion:
    """How an inverted x_T was made. Decoding it with other timesteps or another decoder is an error.

    timesteps: training timesteps, descending. residual: how far the worst item is, in one step at most, from being
    undone exactly (RMS of x_t). latent_error, pixel_error: of a latent decoder, how far the first picture is from
    itself after the way there and back (RMS of its latents, and of its pixels in -1..1). loras: those of the
    decoder. guidance_interval: shares of the schedule between which guidance worked; None: everywhere, or there was
    none.
    """

    timesteps: tuple[int, ...]
    decoder_id: str
    guidance_scale: float
    embed_hash: str
    text_hash: str
    residual: float = 0.0
    latent_error: float | None = None
    pixel_error: float | None = None
    loras: tuple[LoraRecord, ...] = ()
    guidance_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class RandomNoise:
    """Start noise of a seed, drawn on the grid of the decoder that uses it: what it would draw by itself.

    count: items, 1 to MAX_COUNT; item i has seed + i. shared: every item has the first one's noise.
    """

    seed: int
    count: int = 1
    shared: bool = False

    def __post_init__(self) -> None:
        check_count("Random Noise", "count", self.count)

    def __len__(self) -> int:
        return self.count

    def take(self, rows: slice) -> RandomNoise:
        """The given rows as a noise of their own."""
        start, stop, _ = rows.indices(self.count)
        return RandomNoise(self.seed if self.shared else self.seed + start, stop - start, self.shared)


@dataclass(frozen=True)
class GivenNoise:
    """The x_T (B, C, H, W) float32 itself: of an inversion (paper §3), or made by hand where `inversion` is None."""

    x_T: Tensor
    inversion: Inversion | None = None

    def __post_init__(self) -> None:
        if self.x_T.ndim != 4:
            raise ValueError(f"Noise: x_T must be (B, C, H, W), got shape {tuple(self.x_T.shape)}")

    def __len__(self) -> int:
        return self.x_T.shape[0]

    def take(self, rows: slice) -> GivenNoise:
        """The given rows as a noise of their own."""
        return replace(self, x_T=self.x_T[rows])


@dataclass(frozen=True)
class SlerpedNoise:
    """Start noises between random ones. mixes: for each item a row of `first`, a row of `second`, and the share of the
    way between them, 0..1."""

    first: RandomNoise | SlerpedNoise | JoinedNoise
    second: RandomNoise | SlerpedNoise | JoinedNoise
    mixes: tuple[tuple[int, int, float], ...]

    def __len__(self) -> int:
        return len(self.mixes)

    def take(self, rows: slice) -> SlerpedNoise:
        """The given rows as a noise of their own."""
        return replace(self, mixes=self.mixes[rows])


@dataclass(frozen=True)
class JoinedNoise:
    """Start noises one after another, none of which has a size yet."""

    parts: tuple[RandomNoise | SlerpedNoise | JoinedNoise, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def take(self, rows: slice) -> JoinedNoise:
        """The given rows as a noise of their own."""
        start, stop, _ = rows.indices(len(self))
        kept, before = [], 0
        for part in self.parts:
            first, last = max(start - before, 0), min(stop - before, len(part))
            if first < last:
                kept.append(part.take(slice(first, last)))
            before += len(part)
        return JoinedNoise(tuple(kept))


@dataclass(frozen=True)
class PictureStart:
    """A picture to start from: image to image and inpainting.

    image: IMAGE (B, H, W, C). mask: MASK (B, H, W), 1 = repaint; None repaints everything. strength: the noise level to
    start from, above 0 (keep the image) to 1 (pure noise). crop: "center" or "squash", for what is not square.
    noise: what is added to the picture; None draws it from the sampler's seed.
    """

    image: Tensor
    mask: Tensor | None = None
    strength: float = 1.0
    crop: str = "center"
    noise: RandomNoise | GivenNoise | SlerpedNoise | JoinedNoise | None = None

    def __len__(self) -> int:
        masks = 1 if self.mask is None or self.mask.ndim == 2 else len(self.mask)
        return max(len(self.image), masks, 1 if self.noise is None else len(self.noise))

    def take(self, rows: slice) -> PictureStart:
        """The given rows as a start of their own; what broadcasts stays."""
        image = self.image if len(self.image) == 1 else self.image[rows]
        mask = self.mask if self.mask is None or self.mask.ndim == 2 or len(self.mask) == 1 else self.mask[rows]
        noise = self.noise if self.noise is None or len(self.noise) == 1 else self.noise.take(rows)
        return replace(self, image=image, mask=mask, noise=noise)


# Where a decoder starts: a recipe that it turns into x_T on its own grid.
Noise = RandomNoise | GivenNoise | SlerpedNoise | JoinedNoise | PictureStart


def common_noise_level(who: str, warn: Callable[[str], None], *embeds: Embedding) -> int:
    """The noise level of what is made of several embeddings: the highest, with a warning where they differ.

    A decoder that is told too high a level trusts the embedding less than it could; told too low a one, it would paint
    the noise.
    """
    levels = [embed.noise_level for embed in embeds]
    if len(set(levels)) > 1:
        warn(
            f"{who}: the embeddings have noise of the levels {', '.join(map(str, levels))}; the decoder is told "
            f"{max(levels)} for all of them. Give them one noise_level, or add the noise after this node"
        )
    return max(levels)


def check_same_clip(who: str, expected_id: str, expected_dim: int, got_id: str, got_dim: int) -> None:
    """Refuse an embedding or text of another CLIP. Raises ValueError naming both and the fix."""
    if not got_dim:  # see `Clip.read_captions`
        raise ValueError(
            f"{who}: this text has no CLIP embedding, as the CLIP of its Load unCLIP reads pictures alone "
            f"({explain_clip(got_id)}) and its decoder captions by themselves; take the text from another model"
        )
    if (expected_id, expected_dim) != (got_id, got_dim):
        raise ValueError(
            f"{who}: this model was trained on {explain_clip(expected_id, expected_dim)} embeddings, but got "
            f"{got_dim}-d from {explain_clip(got_id)}; encode with the CLIP from the same Load unCLIP"
        )


def warn_of_crossed_captions(who: str, embed: Embedding, text: TextEncoding, warn: Callable[[str], None]) -> None:
    """Warn where an embedding goes with the caption of another one in its batch.

    That is a slip: a row was picked out of one of the two batches. An embedding with a caption that neither batch was
    made of is a wish. Batches of 1 broadcast, and of B captions and B * k embeddings each goes with k in a row.
    """
    rows = max(len(embed), len(text))
    if not embed.captions or rows % len(text) or len(embed) not in (1, rows):
        return
    for row in range(rows):
        made_of = embed.captions[row if len(embed) > 1 else 0]
        caption = text.captions[row * len(text) // rows]
        if made_of != caption and (made_of in text.captions or caption in embed.captions):
            warn(
                f"{who}: the embedding of {made_of!r} goes with the caption {caption!r} (row {row}); take the same "
                "rows of both, by Embedding From Batch and Text From Batch"
            )
            return


def broadcast_batch(who: str, **sizes: int) -> int:
    """The common batch of named inputs: sizes of 1 broadcast, other unequal sizes raise ValueError."""
    batch = max(sizes.values(), default=1)
    if wrong := {name: size for name, size in sizes.items() if size not in (1, batch)}:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"{who}: batch sizes do not match ({listed}); {', '.join(wrong)} must be 1 or {batch}")
    return batch


def repeat_rows(count: int, *batches: TextEncoding | Embedding | Tensor | None) -> list:
    """Batches with every item `count` times in a row; batches of one, which broadcast, unchanged."""
    repeated = []
    for batch in batches:
        if batch is None or len(batch) == 1 or count == 1:
            repeated.append(batch)
        elif isinstance(batch, TextEncoding | Embedding):
            repeated.append(batch.take([row for row in range(len(batch)) for _ in range(count)]))
        else:
            repeated.append(batch.repeat_interleave(count, dim=0))
    return repeated


def expand_rows(tensor: Tensor, batch: int) -> Tensor:
    """Repeat a batch of one to `batch` rows (a view); other sizes pass unchanged."""
    return tensor.expand(batch, *tensor.shape[1:]) if tensor.shape[0] == 1 and batch != 1 else tensor


def image_to_model(image: Tensor) -> Tensor:
    """IMAGE (B, H, W, C) in 0..1 -> (B, 3, H, W) in -1..1. Alpha is flattened on white, grey repeated to RGB.

    Raises ValueError for anything else that an editor may link to an image's place.
    """
    check_image(image)
    if image.shape[-1] == 4:
        alpha = image[..., 3:]
        image = image[..., :3] * alpha + (1.0 - alpha)
    elif image.shape[-1] == 1:
        image = image.expand(*image.shape[:-1], 3)
    return image.movedim(-1, 1).to(torch.float32) * 2.0 - 1.0


def check_image(image: object) -> None:
    """Raises ValueError for what is no IMAGE: latents, masks, numbers of another kind."""
    if not isinstance(image, Tensor):
        latent = isinstance(image, dict) and "samples" in image
        hint = " (a LATENT; decode it to a picture first)" if latent else ""
        raise ValueError(f"image must be a picture (B, H, W, C), got {type(image).__name__}{hint}")
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4):
        hint = " (a MASK? convert it to an image first)" if image.ndim == 3 else ""
        raise ValueError(f"image must be (B, H, W, C) with 1, 3 or 4 channels, got shape {tuple(image.shape)}{hint}")
    if image.dtype == torch.uint8:
        raise ValueError("image must hold numbers in 0..1, got uint8; divide by 255")


def model_to_image(x: Tensor) -> Tensor:
    """(B, 3, H, W) in -1..1 -> IMAGE (B, H, W, 3) float32 in 0..1 on the CPU."""
    return ((x.detach().float() + 1.0) * 0.5).clamp(0.0, 1.0).movedim(1, -1).contiguous().cpu()
