"""The decoder: a UNet conditioned on a CLIP image embedding and, optionally, a caption (§2.1).

The image embedding is projected and added to the time embedding, and projected to extra tokens that stand before the
text tokens. The text tokens are CLIP's own states through a projection (Karlo), or a text transformer's (the paper).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import AutoencoderConfig, DecoderConfig
from .autoencoders.kl import KLAutoencoder
from .autoencoders.movq import MoVQ
from .layers import KeyValue
from .multilingual import MultilingualEncoder
from .text_encoder import TextEncoder
from .unet import DeepFeatures, StageUNet


@dataclass(frozen=True)
class Conditioning:
    """What every step of one sampling call shares, computed once.

    addition: (B, time_width), added to the time embedding. context: keys and values (B, heads, L, c) of the tokens for
    every attention. mask: (B, L) bool, the tokens to attend to; None for all. extra: (B, C, H, W), the input channels
    after x_t's of a decoder that has some (`DecoderConfig.extra_input`).
    """

    addition: Tensor
    context: tuple[KeyValue, ...]
    mask: Tensor | None
    extra: Tensor | None = None

    def __len__(self) -> int:
        return self.addition.shape[0]

    def first(self, rows: int) -> Conditioning:
        """That of the first rows: views, nothing is copied."""
        return Conditioning(
            self.addition[:rows],
            tuple((keys[:rows], values[:rows]) for keys, values in self.context),
            None if self.mask is None else self.mask[:rows],
            None if self.extra is None else self.extra[:rows],
        )


class ConditionedUNet(StageUNet):
    """A decoder's network: `condition`, which subclasses define, once for all steps, then `forward` at each."""

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        conditioning: Conditioning,
        *,
        time: Tensor | None = None,
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """x_t (B, C, H, W), t (B,) -> (B, out, H, W) float32. time: precomputed `time_features` of t (B or 1 rows).
        deep: see `UNet.forward`."""
        if time is None:
            time = self.time_features(t)
        if conditioning.extra is not None:
            x_t = torch.cat([x_t, conditioning.extra.to(x_t.dtype)], dim=1)
        return self.unet(x_t, time + conditioning.addition, conditioning.context, conditioning.mask, deep)


class DecoderNetwork(ConditionedUNet):
    """The paper's, Karlo's and Kandinsky's: image embeddings in the time embedding and as tokens beside the text's."""

    def __init__(self, config: DecoderConfig) -> None:
        time_width, width = config.unet.time_width, config.unet.context_width
        encoder, norms = config.text_encoder, config.norms
        if width == 0 or (encoder is not None and encoder.width != width):
            raise ValueError(
                f"DecoderNetwork: unet.context_width {width} must be "
                + (f"the text encoder's width {encoder.width}" if encoder else "positive")
            )
        super().__init__(config)
        self.embed_to_time = nn.Linear(config.clip_dim, time_width)
        self.embed_to_tokens = nn.Linear(config.clip_dim, width * config.extra_tokens)
        self.image_time_norm = nn.LayerNorm(time_width) if "image_time" in norms else nn.Identity()
        self.image_tokens_norm = nn.LayerNorm(width) if "image_tokens" in norms else nn.Identity()
        self.text_encoder = self.text_to_time = None
        if config.text != "none":
            pooled_width = self._build_text(config, width, time_width)
        self.hint = HintEncoder(config.channels) if config.extra_input == "hint" else None
        if config.null_embed == "learned":
            self.null_embed = nn.Parameter(torch.zeros(config.clip_dim))
        if config.null_text == "learned" and config.text != "none":
            self.null_token = nn.Parameter(torch.randn(width))
            if self.text_to_time is not None:
                self.null_pooled = nn.Parameter(torch.zeros(pooled_width))

    def _build_text(self, config: DecoderConfig, width: int, time_width: int) -> int:
        """The projections of captions. Returns the width of the pooled text."""
        if config.text_encoder is None:
            self.text_proj = nn.Linear(config.text_width, width)
            self.text_norm = nn.LayerNorm(width) if "text_tokens" in config.norms else nn.Identity()
        else:
            self.text_encoder = TextEncoder(config.text_encoder)
        pooled_width = config.clip_dim if config.text_encoder is None else config.text_encoder.width
        self.text_to_time = nn.Linear(pooled_width, time_width) if config.text_embed_in_time else None
        self.text_time_norm = nn.LayerNorm(time_width) if "text_time" in config.norms else nn.Identity()
        return pooled_width

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
        """Everything that does not depend on the step. Gradients flow, so training calls it too.

        embed: (B, D) native image embeddings; None is the null embedding in every row. tokens (B, T, W), mask (B, T)
        bool, text_embed (B, D): a TextEncoding's; ids (B, T) instead of tokens for a decoder with its own text
        encoder. No text at all (mask None) is the learned null in every row. drop_embed, drop_text: (B,) bool, rows
        that take the null instead. batch: B, needed only when both embed and text are None. extra: (B, C, H, W), the
        input channels after x_t's: `inpaint_input` for an inpaint decoder, `self.hint(picture)` for one with a hint.
        level: unused; for the signature of `StableDecoderNetwork`, which reads the embeddings' noise levels.
        Raises ValueError where a null is asked of a decoder whose null text is the encoded empty caption, and for
        extra channels that it does not have.
        """
        self._check_extra(extra)
        batch = next((len(x) for x in (embed, mask) if x is not None), batch)
        if batch is None:
            raise ValueError("DecoderNetwork.condition: neither embed nor text given; say the batch size")
        image = self._image(embed, drop_embed, batch)  # (B, D)
        addition = self.image_time_norm(self.embed_to_time(image))
        image_tokens = self._image_tokens(image)
        if self.config.text == "none":
            return Conditioning(addition, self.unet.project_context(image_tokens), None, extra)
        self._check_text(mask, drop_text)
        text, mask, pooled = self._text(tokens, mask, text_embed, ids, drop_text, batch)
        if self.text_to_time is not None:
            addition = addition + self.text_time_norm(self.text_to_time(pooled))
        context = self.unet.project_context(torch.cat([image_tokens, text.to(image_tokens.dtype)], dim=1))
        mask = F.pad(mask, (self.config.extra_tokens, 0), value=True) if self.config.mask_text else None
        return Conditioning(addition, context, mask, extra)

    def _image_tokens(self, image: Tensor) -> Tensor:
        """The extra tokens (B, n, width) of image embeddings (B, D)."""
        extra, count = self.embed_to_tokens(image), self.config.extra_tokens
        if self.config.token_order == "feature_major":  # (B, width * n) -> (B, width, n) -> (B, n, width)
            extra = extra.view(len(image), -1, count).transpose(1, 2)
        return self.image_tokens_norm(extra.reshape(len(image), count, -1))

    def _check_extra(self, extra: Tensor | None) -> None:
        wanted, found = self.config.extra_channels, 0 if extra is None else extra.shape[1]
        if found != wanted:
            raise ValueError(
                f"DecoderNetwork: {self.config.decoder_id} reads {wanted} channels besides x_t "
                f"(extra_input {self.config.extra_input!r}), but got {found}"
            )

    def _check_text(self, mask: Tensor | None, drop_text: Tensor | None) -> None:
        if self.config.null_text != "learned" and (mask is None or drop_text is not None):
            raise ValueError(
                f"DecoderNetwork: {self.config.decoder_id} has no learned null text; pass the encoded empty caption "
                "in the rows without one"
            )

    def _image(self, embed: Tensor | None, drop: Tensor | None, batch: int) -> Tensor:
        """Image embeddings on the network's scale with nulls in place: (B, D), weights' dtype."""
        weight = self.embed_to_time.weight
        if self.config.null_embed == "zero_picture":
            if embed is None or drop is not None:
                raise ValueError(
                    f"DecoderNetwork: {self.config.decoder_id} has no null embedding of its own; pass CLIP's of an "
                    "all-zero picture in the rows without one"
                )
            null = None
        elif self.config.null_embed == "learned":
            null = self.null_embed.expand(batch, -1)
        else:
            null = weight.new_zeros(batch, self.config.clip_dim)
        if embed is None:
            return null
        if embed.shape[1] != self.config.clip_dim:
            raise ValueError(
                f"DecoderNetwork: {self.config.decoder_id} was trained on {self.config.clip_dim}-d embeddings of "
                f"{self.config.clip_id}, but got {embed.shape[1]}-d; encode with the CLIP of the same stack"
            )
        image = (embed * self.config.embed_scale).to(weight.dtype)
        return image if drop is None else torch.where(drop[:, None], null, image)

    def _text(
        self,
        tokens: Tensor | None,
        mask: Tensor | None,
        text_embed: Tensor | None,
        ids: Tensor | None,
        drop: Tensor | None,
        batch: int,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Context tokens (B, T, width), their mask (B, T), and what text_to_time reads (B, .), nulls in place."""
        pools = self.text_to_time is not None
        if mask is None:
            null_pooled = self.null_pooled.expand(batch, -1) if pools else None
            null_mask = torch.ones(batch, 1, dtype=torch.bool, device=self.null_token.device)
            return self.null_token.expand(batch, 1, -1), null_mask, null_pooled
        pooled = None
        if self.text_encoder is None:
            dtype = self.text_proj.weight.dtype
            text = self.text_norm(self.text_proj(tokens.to(dtype)))
            pooled = text_embed.to(dtype) if pools else None
        else:
            text = self.text_encoder(ids, mask)
            pooled = self.text_encoder.pooled(text, mask) if pools else None
        if drop is None:
            return text, mask, pooled
        # One learned token stands for "no caption"; the rest of the row is masked.
        first = torch.arange(mask.shape[1], device=mask.device) == 0  # (T,)
        text = torch.where(drop[:, None, None], self.null_token.to(text.dtype), text)
        mask = torch.where(drop[:, None], first, mask)
        if pools:
            pooled = torch.where(drop[:, None], self.null_pooled.to(pooled.dtype), pooled)
        return text, mask, pooled


class HintEncoder(nn.Module):
    """A depth picture -> features on the grid of latents, of Kandinsky 2.2's controlnet."""

    WIDTHS = (3, 16, 16, 32, 32, 96, 96, 256)
    FACTOR = 8  # pixels of the hint's side per pixel of the latent's

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (*self.WIDTHS, channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, stride=2 if after > before and index > 0 else 1)
            for index, (before, after) in enumerate(itertools.pairwise(widths))
        )

    def forward(self, hint: Tensor) -> Tensor:
        """hint (B, 3, H, W) in 0..1 -> (B, channels, H / 8, W / 8)."""
        x = self.convs[0](hint.to(self.convs[0].weight.dtype))
        for conv in self.convs[1:]:
            x = conv(F.silu(x))
        return x


def inpaint_input(known: Tensor, keep: Tensor) -> Tensor:
    """The input channels (B, C + 1, H, W) after x_t's of an inpaint decoder.

    known: the picture's x_0 (B, C, H, W). keep: (B, 1, H, W), 1 where it is known, 0 where it is to be painted.
    """
    return torch.cat([known * keep, keep], dim=1)


Autoencoder = MoVQ | KLAutoencoder


class LatentDecoder(nn.Module):
    """A latent decoder as it is stored: `network` paints latents, `autoencoder` turns them into pictures, and
    `text_tower`, where it has a text encoder of its own, reads captions.

    They never run together, so `stages.Decoder` holds each as a network of its own.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.network = DecoderNetwork(config)
        self.autoencoder = build_autoencoder(config.autoencoder)
        if config.multilingual is not None:
            self.text_tower = MultilingualEncoder(config.multilingual, config.clip_dim)


def build_autoencoder(config: AutoencoderConfig) -> Autoencoder:
    """The autoencoder that `config` describes, with fresh weights."""
    return MoVQ(config) if config.kind == "movq" else KLAutoencoder(config)
