"""The decoder stage: image embeddings, captions or neither -> 64 px pictures (§2.1)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .clip import Clip
from .config import DecoderConfig
from .device import Placed, memory_format
from .diffusion.edits import edit_x0, keep_known
from .diffusion.guidance import guide, needs_pair
from .diffusion.noise import ItemNoise
from .diffusion.samplers import Model
from .memory import bytes_to_ask_for, rows_that_fit, unet_row_bytes
from .models.decoder import Conditioning, DecoderNetwork
from .picture import Picture, fit_picture
from .stage_guided import ClipGuide, clip_guide
from .stage_invert import NoiseSteps, describe, run_inversion, settle_inversion, settle_inverted
from .stage_mask import bring_picture, start_at
from .stage_run import Chunk, ImageSteps, Settings, TimeTable, check_count, run_chunks, settle
from .stage_text import TextRows, TextStage, stack_texts
from .types import (
    Embedding,
    Noise,
    TextEncoding,
    broadcast_batch,
    check_same_clip,
    expand_rows,
    model_to_image,
    repeat_rows,
)


@dataclass(frozen=True)
class _Start:
    """What a run starts from and is pulled by, besides its conditions."""

    noise: Noise | None
    picture: Picture | None
    guide: ClipGuide | None


class Decoder(TextStage):
    """The 64 px decoder: image embeddings, captions or neither -> pictures (§2.1)."""

    WHO = "Decoder Sample"
    config: DecoderConfig
    network: Placed[DecoderNetwork]

    def sample(
        self,
        embed: Embedding | None,
        text: TextEncoding | None = None,
        *,
        noise: Noise | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        eta: float | None = None,
        sampler: str | None = None,
        seed: int = 0,
        noise_per_item: bool = True,
        count: int = 1,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        strength: float | None = None,
        crop: str | None = None,
        clip: Clip | None = None,
        clip_scale: float | None = None,
        warn: Callable[[str], None] = warnings.warn,
    ) -> ImageSteps:
        """Pictures (B, S, S, 3) float32 in 0..1 on the CPU, S = the decoder's size (64).

        embed, text: None is the stack's null condition. noise: the start x_T; None draws it from the seed; an inverted
        one is decoded in float32, unclamped, over its own timesteps. Batches of 1 broadcast. noise_per_item off: every
        item uses item 0's draws. count: pictures of each item, row = item * count + k. eta: for the sampler "ddim".
        image, mask: IMAGE and MASK (1 = repaint) for image to image and inpainting, both cropped as `crop` says
        ("center" or "squash"). strength: the noise level to start from, 1 = pure noise. clip, clip_scale: guidance by
        CLIP toward the text, without one the embed; 1 is gentle. `warn` hears of what is odd but no error.
        Raises ValueError for another CLIP's input, unequal batches or a value out of range.
        """
        config = self.config
        if check_count(self.WHO, "count", count) > 1:
            embed, text, noise, image, mask = repeat_rows(count, embed, text, noise, image, mask)
        given = {"sampler": sampler, "steps": steps, "guidance_scale": guidance_scale, "eta": eta}
        sizes = self._check_conditions(self.WHO, embed, text)
        if noise is not None:
            self._check_noise(noise)
            sizes["noise"] = len(noise)
        inverted = noise is not None and noise.inversion is not None
        if inverted:
            settings = settle_inverted(self.WHO, config, noise.inversion, **given, warn=warn)
        else:
            settings = settle(self.WHO, config.schedule, config.sampling, **given)
        settings = start_at(settings, config.schedule, strength, image is not None, inverted)
        self._warn_of_idle(settings, eta, embed, text, inverted, warn)
        guide_by = clip_guide(self.WHO, clip, clip_scale, embed, text)
        picture = bring_picture(self.WHO, image, mask, config.unet.image_size, crop, strength, warn)
        if picture is not None:
            sizes |= picture.sizes()
        batch = max(count, broadcast_batch(self.WHO, **sizes))  # several items are repeated already, one broadcasts
        items = ItemNoise(seed, batch, "decoder", shared=not noise_per_item)
        return self._run(settings, embed, text, _Start(noise, picture, guide_by), batch, items)

    def invert(
        self,
        image: Tensor,
        embed: Embedding | None = None,
        text: TextEncoding | None = None,
        *,
        steps: int | None = None,
        guidance_scale: float | None = None,
        refine: int = 3,
        crop: str = "center",
    ) -> NoiseSteps:
        """The Noise (B, 3, S, S) from which `sample` paints IMAGE (B, H, W, C) again (paper §3, bipartite latent).

        embed, text: the conditions to invert under, usually the picture's own embed; None is the null condition.
        steps: as many as it is to be decoded in; None the stack's own. guidance_scale: None is 1, no guidance.
        refine: fixed-point iterations a step at most, each one forward; 0 is plain DDIM. Always in float32.
        Raises ValueError for another CLIP's input, unequal batches or a value out of range.
        """
        who = "DDIM Invert"
        settings = settle_inversion(who, self.config, steps, guidance_scale, refine)
        sizes = self._check_conditions(who, embed, text)
        picture = fit_picture(who, image, self.config.unet.image_size, crop)
        batch = broadcast_batch(who, image=len(picture), **sizes)
        return self._invert(settings, picture, embed, text, batch, refine)

    def _check_conditions(self, who: str, embed: Embedding | None, text: TextEncoding | None) -> dict[str, int]:
        """Batch sizes by input name. Raises ValueError for another CLIP's input."""
        sizes = {}
        if embed is not None:
            check_same_clip(who, self.config.clip_id, self.config.clip_dim, embed.clip_id, embed.vector.shape[1])
            sizes["embed"] = len(embed)
        if text is not None:
            sizes["text"] = len(self._check_text(text))
        return sizes

    def _warn_of_idle(
        self,
        settings: Settings,
        eta: float | None,
        embed: Embedding | None,
        text: TextEncoding | None,
        inverted: bool,
        warn: Callable[[str], None],
    ) -> None:
        """Tell of a value without effect, and of a run without any condition."""
        if eta and settings.sampler != "ddim":
            warn(
                f"{self.WHO}: eta {eta:g} has no effect with the sampler {settings.sampler}; choose ddim, or set eta "
                "to 0"
            )
        if embed is None and text is None and not inverted:  # an inverted x_T may well be of the null condition
            warn(
                f"{self.WHO}: neither embed nor text is linked, so it paints without any condition, which most "
                "decoders can only do as a blur; link an embed, a text or both"
            )

    def _check_noise(self, noise: Noise) -> None:
        side = self.config.unet.image_size
        if tuple(noise.x_T.shape[2:]) != (side, side):
            raise ValueError(
                f"{self.WHO}: noise must be {side} x {side} for this decoder, got {tuple(noise.x_T.shape[2:])}"
            )

    @torch.no_grad()
    def _run(
        self,
        settings: Settings,
        embed: Embedding | None,
        text: TextEncoding | None,
        start: _Start,
        batch: int,
        items: ItemNoise,
    ) -> ImageSteps:
        inverted = start.noise is not None and start.noise.inversion is not None
        placed = self.network.as_float32() if inverted else self.network
        layout, first = memory_format(placed.device), settings.steps.steps[0]
        shape = (3, self.config.unet.image_size, self.config.unet.image_size)
        beside = (start.guide.clip.placed,) if start.guide is not None else ()
        model_for = self._models(self._place(placed, settings, batch, *beside), placed, settings, embed, text)

        def prepare(rows: slice) -> Chunk:
            model = model_for(rows)
            noise = items.rows(rows)
            x_T = noise.draw(shape)
            if start.noise is not None:
                # The draw above is spent all the same: otherwise the first step's fresh noise would be the very x_T
                # that Random Noise draws from this seed.
                x_T = expand_rows(start.noise.x_T, batch)[rows].float()
            x_T = x_T.to(placed.device)
            edits = [start.guide.edit(rows, batch)] if start.guide is not None else []
            if start.picture is not None:
                known, mask = start.picture.rows(rows, batch, placed.device)
                if not inverted:
                    x_T = first.alpha * known + first.sigma * x_T
                if mask is not None:
                    edits.append(keep_known(known, mask))
            return edit_x0(model, edits), x_T.contiguous(memory_format=layout), noise

        rows = self._rows(placed, settings)
        x_0 = yield from run_chunks(settings, batch, rows, prepare, placed.dtype, placed.device)
        return model_to_image(start.picture.paste(x_0) if start.picture is not None else x_0)

    @torch.no_grad()
    def _invert(
        self,
        settings: Settings,
        picture: Tensor,
        embed: Embedding | None,
        text: TextEncoding | None,
        batch: int,
        refine: int,
    ) -> NoiseSteps:
        placed = self.network.as_float32()
        layout = memory_format(placed.device)
        model_for = self._models(self._place(placed, settings, batch), placed, settings, embed, text)

        def prepare(rows: slice) -> tuple[Model, Tensor]:
            x_0 = expand_rows(picture, batch)[rows].to(placed.device)
            return model_for(rows), x_0.contiguous(memory_format=layout)

        rows = self._rows(placed, settings)
        inverted = yield from run_inversion(settings, batch, rows, prepare, refine, placed.device)
        return Noise(inverted.x_T, inversion=describe(self.config, settings, embed, text, inverted.residual))

    def _rows(self, placed: Placed[DecoderNetwork], settings: Settings) -> int:
        """How many rows fit at once."""
        return rows_that_fit(placed.device, self._row_bytes(placed, settings))

    def _row_bytes(self, placed: Placed[DecoderNetwork], settings: Settings) -> int:
        unet, pair = self.config.unet, 2 if needs_pair(settings.guidance_scale) else 1
        return pair * unet_row_bytes(unet, unet.image_size, placed.dtype.itemsize)

    def _place(self, placed: Placed[DecoderNetwork], settings: Settings, batch: int, *beside: Placed) -> DecoderNetwork:
        """The network on its device, with room for some rows and for the networks that run beside it."""
        self.null_text()  # encoded before the network takes CLIP's place, and kept
        return placed(*beside, need=bytes_to_ask_for(batch, self._row_bytes(placed, settings)))

    def _models(
        self,
        network: DecoderNetwork,
        placed: Placed[DecoderNetwork],
        settings: Settings,
        embed: Embedding | None,
        text: TextEncoding | None,
    ) -> Callable[[slice], Model]:
        """The guided model of a chunk of rows, its conditions computed once."""
        pair = needs_pair(settings.guidance_scale)
        times = TimeTable(network.time_features, settings.steps, placed.device)

        def model_for(rows: slice) -> Model:
            conditioning = self._condition(network, embed, text, rows, pair)

            def model(x_t: Tensor, t: Tensor) -> Tensor:
                return network(x_t, None, conditioning, time=times[t])

            return guide(model, settings.guidance_scale, learned_variance=settings.learned_variance)

        return model_for

    def _condition(
        self, network: DecoderNetwork, embed: Embedding | None, text: TextEncoding | None, rows: slice, pair: bool
    ) -> Conditioning:
        """The conditioning of these rows, followed, for a pair, by as many unconditional rows."""
        device = network.embed_to_time.weight.device
        index = torch.arange(rows.start, rows.stop, device=device)
        count = 2 * len(index) if pair else len(index)
        null_half = torch.arange(count, device=device) >= len(index)  # (B or 2 B,)

        vector = None
        if embed is not None:
            vector = embed.vector.to(device)
            vector = vector[index if len(vector) > 1 else index * 0]
            vector = torch.cat([vector, vector]) if pair else vector
        null = self.null_text()
        captions = text if text is not None else null
        drop_text = None
        if captions is None:
            found = None
        else:
            found = TextRows.of(captions, device).take(index)
            if pair and null is None:
                found, drop_text = stack_texts(found, found), null_half
            elif pair:
                found = stack_texts(found, TextRows.of(null, device).take(index * 0))
        return network.condition(
            vector,
            *((found.tokens, found.mask, found.embed, found.ids) if found is not None else ()),
            drop_embed=null_half if pair and vector is not None else None,
            drop_text=drop_text,
            batch=count,
        )
