"""The decoder stage: image embeddings, captions or neither -> 64 px pictures (§2.1)."""

from __future__ import annotations

import torch

from .config import DecoderConfig
from .device import Placed, memory_format
from .diffusion.guidance import guide, needs_pair
from .diffusion.noise import ItemNoise
from .memory import rows_that_fit, unet_row_bytes
from .models.decoder import Conditioning, DecoderNetwork
from .stage_run import Chunk, ImageSteps, Settings, TimeTable, run_chunks, settle
from .stage_text import TextRows, TextStage, stack_texts
from .types import Embedding, Noise, TextEncoding, broadcast_batch, check_same_clip, expand_rows, model_to_image


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
    ) -> ImageSteps:
        """Pictures (B, S, S, 3) float32 in 0..1 on the CPU, S = the decoder's size (64).

        embed, text: None is the stack's null condition. noise: the start x_T; None draws it from the seed. Batches of
        1 broadcast. noise_per_item off: every item uses item 0's draws. eta: for the sampler "ddim".
        Raises ValueError for another CLIP's input, unequal batches or a value out of range.
        """
        config = self.config
        settings = settle(
            self.WHO,
            config.schedule,
            config.sampling,
            sampler=sampler,
            steps=steps,
            guidance_scale=guidance_scale,
            eta=eta,
        )
        sizes = {}
        if embed is not None:
            check_same_clip(self.WHO, config.clip_id, config.clip_dim, embed.clip_id, embed.vector.shape[1])
            sizes["embed"] = len(embed)
        if text is not None:
            sizes["text"] = len(self._check_text(text))
        if noise is not None:
            side = config.unet.image_size
            if tuple(noise.x_T.shape[2:]) != (side, side):
                raise ValueError(
                    f"{self.WHO}: noise must be {side} x {side} for this decoder, got {tuple(noise.x_T.shape[2:])}"
                )
            sizes["noise"] = len(noise)
        batch = broadcast_batch(self.WHO, **sizes)
        items = ItemNoise(seed, batch, "decoder", shared=not noise_per_item)
        return self._run(settings, embed, text, noise, batch, items)

    @torch.no_grad()
    def _run(
        self,
        settings: Settings,
        embed: Embedding | None,
        text: TextEncoding | None,
        start: Noise | None,
        batch: int,
        items: ItemNoise,
    ) -> ImageSteps:
        config, placed = self.config, self.network
        network, layout = placed(), memory_format(placed.device)
        pair = needs_pair(settings.guidance_scale)
        shape = (3, config.unet.image_size, config.unet.image_size)
        times = TimeTable(network.time_features, settings.steps, placed.device)

        def prepare(rows: slice) -> Chunk:
            conditioning = self._condition(network, embed, text, rows, pair)

            def model(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
                return network(x_t, None, conditioning, time=times[t])

            noise = items.rows(rows)
            x_T = noise.draw(shape)
            if start is not None:
                # The draw above is spent all the same: otherwise the first step's fresh noise would be the very x_T
                # that Random Noise draws from this seed.
                x_T = expand_rows(start.x_T, batch)[rows].float()
            x_T = x_T.to(placed.device).contiguous(memory_format=layout)
            return guide(model, settings.guidance_scale, learned_variance=settings.learned_variance), x_T, noise

        row_bytes = unet_row_bytes(config.unet, config.unet.image_size, placed.dtype.itemsize) * (2 if pair else 1)
        x_0 = yield from run_chunks(settings, batch, rows_that_fit(placed.device, row_bytes), prepare, placed.dtype)
        return model_to_image(x_0)

    def _condition(
        self, network: DecoderNetwork, embed: Embedding | None, text: TextEncoding | None, rows: slice, pair: bool
    ) -> Conditioning:
        """The conditioning of these rows, followed, for a pair, by as many unconditional rows."""
        device = self.network.device
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
