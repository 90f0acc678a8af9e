"""Whether a stack is what it should be, in about a minute: its weights, then what it does with drawings.

Only the sizes of published networks are known here. Every other range is one that any trained network of the kind
meets: the storybook with a wide margin, and chance far outside. Each finding says what it measured, the range, and what
is wrong outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from ..checkpoints.header import CheckpointError
from ..checkpoints.tables import ANALYTIC, PCA, find_table
from ..config import UPSAMPLERS
from ..diffusion.schedule import Schedule
from ..pictures.likeness import psnr
from ..runtime.placement import Placed
from ..stack import Stack
from ..stages import finish
from ..types import Embedding, TextEncoding
from . import check_behaviour as behaviour
from .check_behaviour import Denoising, Drawings, Run
from .check_network import MOVQ_NUMBERS, PUBLISHED, check_network
from .findings import FAILED, Finding, in_range, skipped

CHANCE = "chance is 0.08"


def check_stack(
    stack: Stack, pictures: bool = True, on_picture: Callable[[Tensor], None] = lambda image: None
) -> Iterator[Finding]:
    """Every finding of a stack, stage by stage, the cheap ones first.

    pictures: whether it paints as well. on_picture: gets the IMAGE (1, H, W, 3) of a caption, for people to look at.
    """
    yield from _Check(stack, on_picture).all(pictures)


@dataclass
class _Check:
    """A check under way: drawings, and what was made of them."""

    stack: Stack
    on_picture: Callable[[Tensor], None] = lambda image: None
    drawings: Drawings = field(default_factory=Drawings)

    def all(self, pictures: bool) -> Iterator[Finding]:
        """See `check_stack`."""
        stages = self.stack.entry.stages
        parts: list[tuple[str, Callable[[], Iterator[Finding]]]] = []
        if "clip" in stages:
            parts.append(("clip", self._clip))
        if "prior" in stages:
            parts += [("prior", self._prior), ("prior", self._tables)]
        if "ar_prior" in stages:
            parts.append(("ar_prior", self._ar_prior))
        if "decoder" in stages:
            parts += [("decoder", self._autoencoder), ("decoder", self._decoder)]
        parts += [(stage, lambda stage=stage: self._upsampler(stage)) for stage in UPSAMPLERS if stage in stages]
        if pictures and "decoder" in stages:
            parts += [("decoder", self._painted_again), ("picture", self._picture)]
        for stage, part in parts:
            try:
                yield from part()
            except (CheckpointError, ValueError, RuntimeError, FloatingPointError, OSError, KeyError) as error:
                yield Finding(
                    stage,
                    "runs",
                    FAILED,
                    " ".join(str(error).split()) or type(error).__name__,
                    "no error",
                    "the files do not fit the network, or are damaged: download the stage again; report this line",
                )

    # -- what the stack makes of the drawings, once --

    @property
    def _towers(self) -> tuple[str, ...]:
        clip = self.stack.entry.stages.get("clip")
        return () if clip is None else clip.config.towers

    @cached_property
    def _text(self) -> TextEncoding:
        return self.stack.clip.encode_text(self.drawings.captions)

    @cached_property
    def _seen(self) -> Embedding | None:
        """CLIP's embeddings of the drawings, None without an image tower."""
        return self.stack.clip.encode_image(self.drawings.pictures) if "image" in self._towers else None

    @cached_property
    def _imagined(self) -> Embedding | None:
        """The prior's embeddings of the captions, None without a prior."""
        if "prior" not in self.stack.entry.stages:
            return None
        return self.stack.prior.sample(self._text, candidates=1, seed=0)

    def _shown(self) -> Embedding:
        """What a decoder is told about the drawings."""
        shown = self._seen if self._seen is not None else self._imagined
        if shown is None:
            raise ValueError("neither an image tower nor a prior says what is on the drawings; load a stack with one")
        return shown

    # -- the stages --

    def _clip(self) -> Iterator[Finding]:
        clip = self.stack.clip
        halves = [("text tower", clip.text_placed, ("text",)), ("image tower", clip.placed, ("image",))]
        if not clip.apart:
            halves = [("towers", clip.placed, tuple(self._towers))]
        for name, placed, towers in halves:
            if set(towers) & set(self._towers):
                run = lambda rows, towers=towers: behaviour.run_clip(self.stack, self.drawings, rows, towers)  # noqa: E731
                yield from check_network("clip", name, placed, run)
        if self._seen is None or "text" not in self._towers:
            yield skipped("clip", "captions find their drawings", "it has one tower only")
            return
        found = behaviour.match(self._text.embed, self._seen.vector)
        yield in_range(
            "clip",
            "captions find their drawings",
            found.share,
            (0.5, 1.0),
            f"(cosine {found.own:.2f}, to others {found.other:.2f}; {CHANCE})",
            "CLIP does not tell its own pictures apart: a projection the wrong way round, another tokenizer, or towers "
            "of two models",
        )

    def _prior(self) -> Iterator[Finding]:
        prior = self.stack.prior
        embeds = None if self._seen is None else self._seen.vector

        def run(rows: int) -> Run:
            return behaviour.run_prior(
                self.stack, embeds if embeds is None else embeds[:rows], self._text.take(slice(rows))
            )

        yield from check_network("prior", "prior", prior.network, run, PUBLISHED.get(prior.config.prior_id))
        if prior.config.scaling == "mean_std":
            yield from self._statistics("prior", prior.network)
        yield from self._imagines("prior", self._imagined)

    def _statistics(self, stage: str, placed: Placed[nn.Module]) -> Iterator[Finding]:
        """The mean and std that embeddings are scaled by, against this CLIP's own embeddings."""
        advice = (
            "the statistics are another CLIP's: take clip_mean and clip_std (or the *_stats.th file) that belong to "
            "this network"
        )
        if self._seen is None:
            yield skipped(stage, "statistics of embeddings", "the CLIP has no image tower to compare with")
            return
        network = placed.read()
        found = behaviour.standardise(self._seen.vector, network.mean, network.std)
        yield in_range(stage, "statistics: mean square of drawings", found.energy, (0.2, 5.0), "(1: as told)", advice)
        if found.likeness is not None:
            yield in_range(stage, "statistics: cosine to drawings' mean", found.likeness, (0.3, 1.0), "", advice)

    def _imagines(self, stage: str, embed: Embedding) -> Iterator[Finding]:
        """What a prior makes of captions."""
        advice = (
            "its embeddings do not fit their captions: a matrix the wrong way round, a missing norm, other statistics, "
            "or another CLIP's prior"
        )
        found = behaviour.match(embed.vector, self._text.embed)
        detail = f"(cosine {found.own:.2f}, to other captions {found.other:.2f}; {CHANCE})"
        yield in_range(stage, "embeddings find their captions", found.share, (0.5, 1.0), detail, advice)
        if self._seen is None:
            return
        found = behaviour.match(embed.vector, self._seen.vector)
        detail = f"(cosine {found.own:.2f}, to other drawings {found.other:.2f}; {CHANCE})"
        yield in_range(stage, "embeddings find the drawings", found.share, (0.35, 1.0), detail, advice)
        size = float(embed.vector.norm(dim=-1).median() / self._seen.vector.norm(dim=-1).median())
        yield in_range(stage, "length by that of pictures' embeddings", size, (0.5, 2.0), "", advice)

    def _tables(self) -> Iterator[Finding]:
        """Fitted tables, where the stack has some."""
        entry, clip = self.stack.entry, self.stack.clip
        if self._seen is not None and find_table(entry, PCA) is not None:
            basis = clip.pca()
            centred = self._seen.vector - basis.mean
            count = basis.needed(0.9)
            kept = float(basis.coordinates(self._seen.vector, count).square().sum() / centred.square().sum())
            yield in_range(
                "clip",
                f"PCA: share of drawings in {count} of {basis.dim} components",
                kept,
                (0.5, 1.0),
                "(0.90 of what it was fitted on)",
                "the PCA basis is another CLIP's: fit it again with `unclip fit-pca`",
            )
        if self._seen is not None and find_table(entry, ANALYTIC) is not None:
            yield self._noise_powers()

    def _noise_powers(self) -> Finding:
        """The analytic sampler's table against the prior's errors on the drawings."""
        prior = self.stack.prior
        schedule, table = Schedule(prior.config.schedule), prior.noise_powers()
        network, device = prior.network.on_device(), prior.network.device
        x_0 = network.scale(self._seen.vector.to(device))
        words = (self._text.tokens.to(device), self._text.embed.to(device), self._text.mask.to(device))
        noise, ratios = behaviour.noise_of(x_0.shape).to(device), []
        with torch.no_grad():
            for signal in (0.9, 0.7, 0.5, 0.3):
                t = behaviour.level_at(schedule, signal)
                steps = torch.full((len(x_0),), t, device=device)
                x_t = schedule.add_noise(x_0, steps, noise)
                guess, _ = schedule.to_x0_eps(network(x_t, steps, *words), x_t, steps, schedule.config.x0_clamp)
                level = float(schedule.alphas_cumprod[t])
                measured = level / (1.0 - level) * float((x_0 - guess).square().mean())
                told = 1.0 - float(table[t])
                ratios.append(math.exp(abs(math.log(max(told, 1e-6) / max(measured, 1e-6)))))
        return in_range(
            "prior",
            "analytic table: error by that on drawings, at worst",
            max(ratios),
            (1.0, 8.0),
            "times",
            "the table of noise powers is another prior's: fit it again with `unclip fit-analytic`",
        )

    def _ar_prior(self) -> Iterator[Finding]:
        prior = self.stack.ar_prior

        def run(rows: int) -> Run:
            return behaviour.run_ar_prior(self.stack, self._text.take(slice(rows)))

        yield from check_network("ar_prior", "ar_prior", prior.network, run)
        yield from self._imagines("ar_prior", prior.sample(self._text, seed=0))

    def _autoencoder(self) -> Iterator[Finding]:
        decoder = self.stack.decoder
        if decoder.autoencoder is None:
            return

        def run(rows: int) -> Run:
            x = self.drawings.at(min(128, behaviour.LATENT_SIDE), min(rows, 2)).to(decoder.autoencoder.device)
            return lambda network: [network.decode(network.encode(x))]

        placed, kind = decoder.autoencoder, decoder.config.autoencoder.kind
        published = MOVQ_NUMBERS if kind == "movq" and decoder.config.decoder_id in PUBLISHED else None
        yield from check_network("decoder", "autoencoder", placed, run, published)
        network = placed.on_device()
        picture = self.drawings.at(behaviour.LATENT_SIDE, 4).to(placed.device)
        with torch.no_grad():
            latent = network.encode(picture)
            back = network.decode(latent)
        advice = (
            "the autoencoder does not give a picture back: another autoencoder's weights, or norms that are missing"
        )
        found = psnr(back, picture, span=2.0)
        yield in_range("decoder", "autoencoder there and back, dB", found, (18.0, 100.0), "", advice)
        size = float(latent.square().mean().sqrt())
        advice = "latents of another scale than the decoder's noise: check latent_scale and scaling_factor"
        yield in_range("decoder", "size of latents", size, (0.2, 5.0), "(1: as noise)", advice)

    def _decoder(self) -> Iterator[Finding]:
        decoder = self.stack.decoder
        if decoder.own_text is not None:
            yield from check_network("decoder", "text encoder", decoder.own_text.network, self._run_own_text)
        if decoder.normalizer is not None and bool((decoder.normalizer.read().std != 1.0).any()):
            yield from self._statistics("decoder", decoder.normalizer)
        if decoder.config.text == "clip" and "text" not in self._towers:
            yield skipped("decoder", "denoising", "its captions need a text tower, which this CLIP lacks")
            return

        def trial(rows: int) -> behaviour.DecoderTrial:
            rows = min(rows, 6)
            shown, text = self._shown(), self._captions_as_read(rows)
            embed = Embedding(shown.vector[:rows], shown.clip_id, shown.modality)
            return behaviour.DecoderTrial(decoder.config, self._grid(rows), embed, text, decoder.network.device)

        published = PUBLISHED.get(decoder.config.decoder_id)
        yield from check_network("decoder", "decoder", decoder.network, lambda rows: trial(rows).run, published)
        measured = trial(6).measure(decoder.network.on_device())
        yield from _denoising("decoder", measured, (0.4, 1.0), 1.01, "image embedding")

    def _run_own_text(self, rows: int) -> Run:
        """The decoder's own text encoder on captions."""
        own = self.stack.decoder.own_text
        ids, mask = (each.to(own.network.device) for each in own.spell(self.drawings.captions[:rows]))
        return lambda network: [each for each in own.run(network, ids, mask) if each.numel()]

    def _captions_as_read(self, rows: int) -> TextEncoding | None:
        """The captions as the decoder reads them, None if it reads none."""
        decoder = self.stack.decoder
        if decoder.own_text is not None:
            return decoder.own_text.encode(tuple(self.drawings.captions[:rows]))
        return None if decoder.config.text == "none" or "text" not in self._towers else self._text.take(slice(rows))

    def _grid(self, rows: int) -> Tensor:
        """Drawings on the decoder's grid, x_0."""
        decoder = self.stack.decoder
        if decoder.autoencoder is None:
            return self.drawings.at(decoder.config.unet.image_size, rows)
        picture = self.drawings.at(behaviour.LATENT_SIDE, rows).to(decoder.autoencoder.device)
        with torch.no_grad():
            return decoder.autoencoder.on_device().encode(picture).cpu()

    def _upsampler(self, stage: str) -> Iterator[Finding]:
        upsampler = getattr(self.stack, stage)
        side = min(128, upsampler.config.high_size)
        for name in ("network", "final_network"):
            placed = getattr(upsampler, name)
            if placed is None:
                continue
            trial = behaviour.UpsamplerTrial(upsampler.config, self.drawings.at(side, 2), placed.device)
            label = stage if name == "network" else f"{stage}, last step"
            yield from check_network(stage, label, placed, lambda rows, trial=trial: trial.run)
            if name == "network":  # the other one makes the last step, nearly without noise
                measured = trial.measure(placed.on_device())
                yield from _denoising(stage, measured, (0.6, 1.0), 1.05, "small picture")

    # -- pictures --

    def _painted_again(self) -> Iterator[Finding]:
        """picture -> z -> picture -> z."""
        check = "drawings painted again find themselves"
        if self._seen is None:
            yield skipped("decoder", check, "the CLIP has no image tower to look with")
            return
        if self.stack.decoder.config.extra_input != "none":
            yield skipped("decoder", check, "it paints with a mask or a hint only")
            return
        rows = 4
        embed = Embedding(self._seen.vector[:rows], self._seen.clip_id)
        again = self.stack.clip.encode_image(self._paint(embed, None))
        found = behaviour.match(again.vector, self._seen.vector)
        detail = f"(cosine {found.own:.2f}, to others {found.other:.2f}; {CHANCE})"
        advice = "the decoder does not paint what the embedding says: conditioning in another order, scale or CLIP"
        yield in_range("decoder", check, found.share, (0.5, 1.0), detail, advice)

    def _picture(self) -> Iterator[Finding]:
        """caption -> picture, by every stage up to the first upsampler."""
        if self.stack.decoder.config.extra_input != "none":
            yield skipped("picture", "a picture of a caption", "this decoder paints with a mask or a hint only")
            return
        embed = self._imagined if self._imagined is not None else self._shown()
        embed = Embedding(embed.vector[:1], embed.clip_id)
        image = self._paint(embed, self._captions_as_read(1))
        if first := next((stage for stage in UPSAMPLERS if stage in self.stack.entry.stages), None):
            image = getattr(self.stack, first).sample(image, seed=0)
        self.on_picture(image)
        found = behaviour.appearance_of(image)
        advice = "the picture is noise, empty or burnt out: look at it with `unclip check NAME -o picture.png`"
        yield in_range("picture", "spread of its values", found.spread, (0.03, 0.5), "", advice)
        yield in_range("picture", "smoothness", found.smoothness, (0.5, 1.0), "(0: noise)", advice)
        yield in_range("picture", "share of black and white", found.clipped, (0.0, 0.6), "", advice)

    def _paint(self, embed: Embedding, text: TextEncoding | None) -> Tensor:
        """Pictures of embeddings, in few steps; of a latent decoder small ones."""
        decoder = self.stack.decoder
        side = {} if decoder.autoencoder is None else {"width": behaviour.LATENT_SIDE, "height": behaviour.LATENT_SIDE}
        steps = min(decoder.config.sampling.steps, 20)
        return finish(decoder.sample_steps(embed, text, steps=steps, seed=0, warn=lambda _: None, **side))


def _denoising(
    stage: str, found: Denoising, explained: tuple[float, float], ratio: float, told: str
) -> Iterator[Finding]:
    advice = "it does not take noise off: wrong schedule, prediction (eps, x0, v) or scale, or damaged weights"
    yield in_range(stage, "drawings seen through noise", found.explained, explained, "(1: clear)", advice)
    advice = f"the {told} hardly matters to it: conditioning in another order, of another scale, or another CLIP's"
    value = found.other / max(found.own, 1e-9)
    yield in_range(stage, f"error by another's {told}", value, (ratio, 1e9), "(1: no effect)", advice)
