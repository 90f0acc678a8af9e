"""Training the decoder on pictures or their latents, their image embeddings and captions (§2.1)."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoints.header import TOKENIZER
from ..checkpoints.native import save_stage
from ..clip.model import Clip
from ..config import DecoderConfig
from ..diffusion.denoiser import Denoiser, edits_of_patches
from ..diffusion.samplers import ddim
from ..diffusion.schedule import Schedule, Step
from ..models.build import painting_network
from ..stages.embed_noise import noised
from ..types import TextEncoding, model_to_image
from .data import Data
from .frozen import OWN_TEXT, Frozen
from .losses import diffusion_loss, draw_timesteps
from .recipes import Recipe
from .sheets import grid, save_png
from .texts import Texts
from .validation import fixed_batch, quarter_losses, some_rows

SHEET_ROWS, LATENT_ROWS, LINE = 32, 8, 8  # of a sheet; of pictures that are large
SHEET_STEPS = 20


class DecoderTask:
    """embeddings: (N, D) native image embeddings of the data's rows, computed once.

    frozen: what the decoder has besides the network that learns. Raises ValueError for a decoder whose own text encoder
    is not in it, and for one that is shown more than noise.
    """

    stage = "decoder"

    def __init__(
        self,
        config: DecoderConfig,
        data: Data,
        clip: Clip,
        embeddings: Tensor,
        recipe: Recipe,
        frozen: Frozen | None = None,
    ) -> None:
        self.frozen = frozen or Frozen()
        if (config.text in OWN_TEXT and self.frozen.own_text is None) or config.extra_input != "none":
            raise ValueError(
                f"train decoder: {config.decoder_id} reads more than image embeddings and CLIP's captions (text "
                f"{config.text!r}, extra_input {config.extra_input!r}), which is not trained here"
            )
        self.config, self.data, self.clip, self.embeddings, self.recipe = config, data, clip, embeddings, recipe
        self.schedule = Schedule(config.schedule)
        self.texts = Texts(clip)
        self.noising = None if config.embed_noise is None else Schedule(config.embed_noise)
        self.picture_side = config.unet.image_size * (config.autoencoder.factor if config.autoencoder else 1)

    def build(self) -> nn.Module:
        """The network with fresh weights."""
        torch.manual_seed(0)
        return painting_network(self.config)

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict[str, Any]:
        """Pictures with noise and timesteps, embeddings, captions' tokens, and which rows lose which condition."""
        size = len(rows)
        drop_text = torch.rand(size, generator=generator) < self.recipe.text_drop
        captions = self.data.captions(rows, rng)
        if self.config.null_text != "learned":  # then the null caption is the encoded empty one
            captions = ["" if gone else caption for gone, caption in zip(drop_text.tolist(), captions, strict=True)]
        made = {
            "pictures": self.data.pictures(rows, self.picture_side),
            "z": self.embeddings[rows],
            "tokens": self._tokens(captions),
            "t": draw_timesteps(self.recipe.timesteps, size, self.schedule.timesteps, generator),
            "noise": torch.randn(size, self.config.channels, *[self.config.unet.image_size] * 2, generator=generator),
            "drop_embed": torch.rand(size, generator=generator) < self.recipe.embed_drop,
            "drop_text": drop_text if self._learns_null_text else None,
        }
        if self.noising is not None:
            levels = min(self.noising.timesteps, max(1, self.recipe.embed_levels))
            made["level"] = torch.randint(levels, (size,), generator=generator)
            noise = torch.randn(size, self.config.clip_dim, generator=generator)
            made["embed_noise"] = noise if self.recipe.embed_levels else torch.zeros_like(noise)
        return made

    def _tokens(self, captions: list[str]) -> tuple[Tensor, Tensor] | None:
        if self.config.text == "none":
            return None
        own = self.frozen.own_text
        return self.texts.tokens(captions) if own is None else own.spell(captions)

    def _read(self, tokens: tuple[Tensor, Tensor] | None) -> TextEncoding | None:
        if tokens is None:
            return None
        return self.texts.encode(tokens) if self.frozen.own_text is None else self.frozen.read_captions(tokens)

    @property
    def _learns_null_text(self) -> bool:
        return self.config.null_text == "learned" and self.config.text != "none"

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its captions encoded, and its pictures on the decoder's grid."""
        return {**self.on_grid(batch), "text": self._read(batch["tokens"])}

    @torch.no_grad()
    def on_grid(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with x_0: its pictures, or their latents."""
        x_0, autoencoder = batch["pictures"], self.frozen.autoencoder
        if autoencoder is not None:
            with torch.autocast(x_0.device.type, enabled=False):
                autoencoder = autoencoder.to(x_0.device)
                x_0 = torch.cat([autoencoder.encode(row) for row in x_0.split(1)])  # at full size: a GB for each row
        return {**batch, "x_0": x_0}

    def condition(self, network: nn.Module, batch: dict[str, Any]):
        """The network's Conditioning for a batch."""
        text = batch["text"]
        given = () if text is None else (text.tokens, text.mask, text.embed, text.ids)
        z, dropped = self._with_nulls(self._noised(batch), batch["drop_embed"])
        level = batch.get("level")
        return network.condition(z, *given, drop_embed=dropped, drop_text=batch["drop_text"], level=level)

    def _noised(self, batch: dict[str, Any]) -> Tensor:
        """The batch's embeddings, with the noise of their levels where the decoder is told of it."""
        z = batch["z"]
        if self.noising is None:
            return z
        units, self.noising = [each.to(z.device) for each in self.frozen.units], self.noising.to(z.device)
        found = noised(self.noising, units, z, batch["level"], batch["embed_noise"])
        return torch.where((batch["embed_noise"] != 0).any(1, keepdim=True), found, z)

    def _with_nulls(self, z: Tensor, dropped: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings, and which rows take the network's own null; where that is CLIP's, it is among them."""
        if self.config.null_embed != "zero_picture":
            return z, dropped
        return torch.where(dropped[:, None], self.frozen.null_embed.to(z), z), None

    def loss(self, network: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """L_simple, and L_vlb where the variance is learned."""
        x_0, t, noise = batch["x_0"], batch["t"], batch["noise"]
        x_t = self.schedule.add_noise(x_0, t, noise).contiguous(memory_format=torch.channels_last)
        output = network(x_t, t, self.condition(network, batch))
        # At t = 0 the bound is the likelihood of 8-bit values, which latents have none of.
        vlb_weight = self.recipe.vlb_weight * (1 if self.frozen.autoencoder is None else (t > 0))
        return diffusion_loss(self.schedule, output, x_0, x_t, noise, t, vlb_weight).mean(), {}

    def validate(self, network: nn.Module, rows: list[int], path: Path) -> dict[str, Tensor]:
        """Loss by quarters, and CLIP scores: cosines of CLIP's embedding of what is painted to the embedding that was
        asked for, and to the caption's. The sheet: pictures (odd lines) over what is painted (even lines), from the
        same noise every time."""
        device = next(network.parameters()).device
        count = SHEET_ROWS if self.frozen.autoencoder is None else LATENT_ROWS
        batch = fixed_batch(self, some_rows(rows, count), device)
        painted, true = model_to_image(self.paint(network, batch)), model_to_image(batch["pictures"])
        both = torch.stack([pictures.unflatten(0, (-1, LINE)) for pictures in (true, painted)], 1)
        save_png(grid(both.flatten(0, 2), LINE), path)
        with torch.autocast(device.type, enabled=False):
            seen = self.clip.encode_image(painted.float().clamp(0, 1).cpu()).vector.to(device)
        found = {
            **quarter_losses(self, network, rows, device),
            "clip_score": torch.cosine_similarity(seen, batch["z"]).mean(),
        }
        if self.config.text == "clip":
            found["clip_score_text"] = torch.cosine_similarity(seen, batch["text"].embed).mean()
            found["clip_score_text_true"] = torch.cosine_similarity(batch["z"], batch["text"].embed).mean()
        return found

    def paint(self, network: nn.Module, batch: dict[str, Any]) -> Tensor:
        """What a batch's embeddings and captions decode to from its noise, 20 DDIM steps, guidance 2: pictures
        (B, 3, H, W) in about -1..1. Latents, whose rows are large, one by one."""
        device, size = batch["noise"].device, len(batch["noise"])
        if self.frozen.autoencoder is not None and size > 1:
            return torch.cat([self.paint(network, _one_row(batch, row)) for row in range(size)])
        dropped = torch.arange(2 * size, device=device) >= size
        z, null_rows = self._with_nulls(torch.cat([batch["z"]] * 2), dropped)
        halves = ()
        if batch["text"] is not None:
            null, learned = self._null_text(device), self._learns_null_text
            halves = [
                torch.cat([value, value if learned else getattr(null, name).expand_as(value)])
                for name in ("tokens", "mask", "embed", "ids")
                for value in [getattr(batch["text"], name)]
            ]
        text_rows = dropped if self._learns_null_text else None
        condition = network.condition(z, *halves, drop_embed=null_rows, drop_text=text_rows)

        def predict(x_t: Tensor, step: Step) -> Tensor:
            t = torch.full((len(x_t),), step.t, device=device)
            return network(x_t.contiguous(memory_format=torch.channels_last), t, condition)

        schedule, bound = self.config.schedule, 1.0 if self.frozen.autoencoder is None else None
        learned_variance = schedule.variance == "learned_range"
        edits = edits_of_patches(self.config.unet.patch_size)  # as the decoder's own sampling
        denoise = Denoiser(
            predict, schedule.prediction, learned_variance, guidance_scale=2.0, x0_clamp=bound, edits=edits
        )
        for state in ddim(denoise, batch["noise"], self.schedule.respace(SHEET_STEPS)):
            x_0 = state.x0
        if self.frozen.autoencoder is None:
            return x_0
        with torch.autocast(device.type, enabled=False):
            return self.frozen.autoencoder.to(device).decode(x_0.float())

    def _null_text(self, device: torch.device) -> TextEncoding:
        """The empty caption's encoding, one row."""
        own = self.frozen.own_text
        if own is None:
            return self.texts.null(device)
        return self.frozen.read_captions(tuple(each.to(device) for each in own.spell([""])))

    def export(self, network: nn.Module, path: Path, made_of: dict[str, Any]) -> None:
        """decoder.safetensors, stored as bf16, with all that the decoder has besides its network."""
        state = self.frozen.whole(network.state_dict())
        save_stage(path, state, "decoder", self.config, made_of, dtype=torch.bfloat16)
        if self.frozen.tokenizer is not None:
            shutil.copyfile(self.frozen.tokenizer, path.with_suffix(TOKENIZER))


def _one_row(batch: dict[str, Any], row: int) -> dict[str, Any]:
    """What `paint` reads of one row."""
    rows, text = slice(row, row + 1), batch["text"]
    return {"z": batch["z"][rows], "noise": batch["noise"][rows], "text": None if text is None else text.take(rows)}
