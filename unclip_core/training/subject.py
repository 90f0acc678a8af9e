"""A subject of one's own from a few pictures: a new word for CLIP, and side branches of prior and decoder that know it.

DreamBooth (Ruiz et al. 2023) for an unCLIP: the prior must learn which embedding a caption with the word has, or the
decoder never gets it. The word is one new token (textual inversion, Gal et al. 2022), learned through CLIP's frozen
text tower. On pictures that the stack itself made, of the subject's class and of other things, the networks are to say
what they said without the branches: DreamBooth's prior preservation with the expected value of its noisy target. With
the class alone a prior is soon led to the subject by every caption. No condition is dropped of the subject's rows, so
that guidance still pushes away from everything, and not from the subject.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.lora_file import save_lora
from ..clip.model import Clip
from ..config import DecoderConfig, PriorConfig
from ..types import TextEncoding, model_to_image
from .data import Data, move
from .frozen import Frozen
from .lora import LoraSettings, branches_of, learning_branches
from .other_things import OtherThings
from .recipes import Recipe
from .sheets import grid, save_png
from .task_decoder import DecoderTask
from .task_prior import PriorTask
from .texts import Texts
from .validation import some_rows, undisturbed

SHEET_ROWS = 8
# How far the word's embedding moves when a number of a branch would move by one: of its own size, so that one learning
# rate serves both.
WORD_GAIN = 20.0
NULL_SHARE = 0.3  # of the rows that are kept, that lose their embedding, and of those that lose their caption
OTHER_SHARE = 0.75  # of the captions that the prior is kept on, which are of any other thing, not of the row's
KEPT_WEIGHT = 1.5  # of what the decoder is kept on, beside what it learns


class Subject(nn.Module):
    """What a subject's run changes. prior, decoder: with branches. step: (W,), how far the word's embedding has gone
    from that of its class, in units of WORD_GAIN times its size."""

    def __init__(self, prior: nn.Module, decoder: nn.Module, start: Tensor) -> None:
        super().__init__()
        self.prior, self.decoder = prior, decoder
        self.register_buffer("start", start)
        self.step = nn.Parameter(torch.zeros_like(start))

    def row(self) -> Tensor:
        """The word's embedding (W,)."""
        return self.start + WORD_GAIN * self.start.square().mean().sqrt() * self.step


class WordTexts(Texts):
    """Captions that may say the new word. clip: one that has it (`Clip.with_words`), with any embedding."""

    def tokens(self, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and places of the new word, each (B, T), on the CPU."""
        return self.clip.tokenize_all(captions)

    def encode_with(self, tokens: tuple[Tensor, ...], row: Tensor | None) -> TextEncoding:
        """What `Clip.encode_text` gives where the word has the embedding `row` (W,), which gradients reach; None for
        captions without the word."""
        if row is None:
            return self.encode(tokens)
        ids, mask, places = tokens
        return self._encoded(ids, mask, (places, row[None]))


class AnyCaptions:
    """Rows that are called what they show, or any other thing: what a prior says of a caption is to be kept, whatever
    noised embedding it gets."""

    def __init__(self, data: Data, others: OtherThings) -> None:
        self.data, self.others = data, others

    def captions(self, rows: list[int], rng: random.Random) -> list[str]:
        """See Data."""
        said = self.data.captions(rows, rng)
        return [self.others.draw(rng) if rng.random() < OTHER_SHARE else own for own in said]


class SubjectTask:
    """Prior, decoder and word in one run: the sum of the two stages' own losses over the subject's rows, and over rows
    that are to be kept the squared distance to what the networks say without branches.

    networks: read a stage's network, of its config in `configs`, with the weights that stay. clips: the one that reads
    captions, and the one that sees pictures. start: the word's first embedding (W,). data: the subject's rows, then
    those that are to be kept from `subjects` on; there may be none. embeddings: CLIP's of all of them (N, D). others:
    captions that are to be kept too. settings: None for no branches, the word alone. frozen: see DecoderTask.
    """

    stage = "subject"

    def __init__(
        self,
        networks: Mapping[str, Callable[[], nn.Module]],
        configs: tuple[PriorConfig, DecoderConfig],
        clips: tuple[Clip, Clip],
        word: str,
        start: Tensor,
        data: Data,
        embeddings: Tensor,
        subjects: int,
        others: OtherThings,
        recipe: Recipe,
        settings: LoraSettings | None,
        frozen: Frozen | None = None,
    ) -> None:
        self.networks, self.word, self.start, self.settings = networks, word, start, settings
        self.data, self.subjects, self.recipe = data, subjects, recipe
        clip, self.seer = clips
        self.clip = clip.with_words({word: start})
        texts = WordTexts(self.clip)

        def stages(decoder: Recipe) -> tuple[PriorTask, DecoderTask]:
            # A prior's samples hang on its noisiest steps: all are drawn alike.
            prior = PriorTask(configs[0], data, self.clip, embeddings, replace(decoder, timesteps="uniform"))
            found = prior, DecoderTask(configs[1], data, self.clip, embeddings, decoder, frozen)
            for task in found:
                task.texts = texts
            return found

        self.texts = texts
        self.prior, self.decoder = stages(replace(recipe, embed_drop=0.0, prior_drop=0.0))
        nulls = dict.fromkeys(("embed_drop", "text_drop", "prior_drop"), NULL_SHARE)
        self.kept_prior, self.kept_decoder = stages(replace(recipe, **nulls))
        self.kept_prior.data = AnyCaptions(data, others)
        self.base: list[nn.Module] = []

    def build(self) -> nn.Module:
        """Both networks with fresh branches, and the word's embedding where its class has it."""
        self.base = [self.networks[stage]().requires_grad_(False) for stage in ("prior", "decoder")]
        networks = self.base
        if self.settings is not None:  # these share all weights with those
            networks = [learning_branches(network, self.settings, self.recipe.seed) for network in networks]
        return Subject(*networks, self.start)

    def batch(self, rows: list[int], rng: random.Random, generator: torch.Generator) -> dict[str, Any]:
        """Both stages' batches of these rows of the subject ("prior", "decoder"), and of as many random ones of those
        that are to be kept ("kept"; None where there are none)."""
        given, others = (rng, generator), range(self.subjects, len(self.data))
        batch = {"prior": self.prior.batch(rows, *given), "decoder": self.decoder.batch(rows, *given), "kept": None}
        if others:
            rows = rng.choices(others, k=len(rows))
            batch["kept"] = {
                "prior": self.kept_prior.batch(rows, *given),
                "decoder": self.kept_decoder.batch(rows, *given),
            }
        return batch

    def prepare(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch with its pictures on the decoder's grid, and what is said of those that are kept encoded."""
        kept = batch["kept"]
        if kept is not None:
            kept = {stage: self._encoded(part, None) for stage, part in kept.items()}
            kept["decoder"] = self.decoder.on_grid(kept["decoder"])
        return {**batch, "decoder": self.decoder.on_grid(batch["decoder"]), "kept": kept}

    def loss(self, network: Subject, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of both stages' losses and of how far they left what was to be kept."""
        row = network.row()
        prior, numbers = self.prior.loss(network.prior, self._encoded(batch["prior"], row))
        decoder, _ = self.decoder.loss(network.decoder, self._encoded(batch["decoder"], row))
        numbers = {"prior": prior.detach(), "decoder": decoder.detach(), **numbers}
        if batch["kept"] is None:
            return prior + decoder, numbers
        moved = self._moved(network, batch["kept"])
        return prior + decoder + moved, {**numbers, "moved": moved.detach()}

    def _moved(self, network: Subject, kept: dict[str, Any]) -> Tensor:
        """Mean squared distances of both networks' outputs to those without branches, the decoder's by KEPT_WEIGHT."""
        priors, decoders = zip(self.base, (network.prior, network.decoder), strict=True)

        def decoded(decoder: nn.Module) -> Tensor:
            batch = kept["decoder"]
            x_t = self.decoder.schedule.add_noise(batch["x_0"], batch["t"], batch["noise"])
            x_t = x_t.contiguous(memory_format=torch.channels_last)
            return decoder(x_t, batch["t"], self.kept_decoder.condition(decoder, batch)).float()

        def guessed(prior: nn.Module) -> Tensor:
            return self.kept_prior.predicted(prior, kept["prior"]).float()

        found = []
        for output, (base, learning), weight in ((guessed, priors, 1.0), (decoded, decoders, KEPT_WEIGHT)):
            with torch.no_grad():
                target = output(base)
            found.append(weight * F.mse_loss(output(learning), target))
        return sum(found)

    def _encoded(self, batch: dict[str, Any], row: Tensor | None) -> dict[str, Any]:
        """A stage's batch with its captions, if it reads any, encoded; gradients reach the word's embedding."""
        text = None if batch["tokens"] is None else self.texts.encode_with(batch["tokens"], row)
        null = None if self.prior.config.null_text == "learned" else self.texts.null(batch["z"].device)
        return {**batch, "text": text, "null": null}

    def validate(self, network: Subject, rows: list[int], path: Path) -> dict[str, Tensor]:
        """Of captions that say the word: the cosine of the embedding that the prior guesses in one step to the
        picture's, and that of CLIP's embedding of what the decoder paints from it. The sheet: pictures (odd lines) over
        what is painted (even lines), from the same noise every time."""
        row, chosen = network.row(), some_rows(rows, SHEET_ROWS)

        def quiet(task: PriorTask | DecoderTask) -> dict[str, Any]:
            """A stage's batch, the same whenever it is asked for, no condition dropped."""
            batch = undisturbed(task).batch(chosen, random.Random(0), torch.Generator().manual_seed(0))
            return self._encoded(move(batch, row.device), row)

        prior, decoder = quiet(self.prior), self.decoder.on_grid(quiet(self.decoder))
        text = prior["text"]
        t = torch.full((SHEET_ROWS,), self.prior.schedule.timesteps - 1, device=row.device)
        guess = network.prior.unscale(network.prior(prior["noise"], t, text.tokens, text.embed, text.mask)).float()
        painted = model_to_image(self.decoder.paint(network.decoder, {**decoder, "z": guess}))
        save_png(grid(torch.cat([model_to_image(decoder["pictures"]), painted])), path)
        with torch.autocast(row.device.type, enabled=False):
            seen = self.seer.encode_image(painted.float().clamp(0, 1).cpu()).vector.to(row.device)
        return {
            "cosine": torch.cosine_similarity(guess, prior["z"]).mean(),
            "clip_score": torch.cosine_similarity(seen, prior["z"]).mean(),
        }

    def export(self, network: Subject, path: Path, made_of: dict[str, Any]) -> None:
        """A LoRA file of both stages and the word, called after the word."""
        loras = {}
        if self.settings is not None:
            loras = {
                "prior": (self.prior.config.prior_id, branches_of(network.prior)),
                "decoder": (self.decoder.config.decoder_id, branches_of(network.decoder)),
            }
        save_lora(
            path.with_name(f"{self.word}.safetensors"),
            loras,
            clip_id=self.clip.clip_id,
            words={self.word: network.row()},
            trigger=self.word,
            metadata=made_of,
        )
