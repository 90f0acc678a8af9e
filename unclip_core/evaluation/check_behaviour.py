"""What a stack does with drawings whose content is known, in numbers that do not depend on which stack it is: shares of
right matches, correlations, and errors measured by the signal."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clip.networks import text_states
from ..clip.preprocessing import preprocess
from ..config import DecoderConfig, ScheduleConfig, UpsamplerConfig
from ..diffusion.schedule import Schedule
from ..models.decoder import Conditioning, DecoderNetwork, inpaint_input
from ..models.prior import PriorNetwork
from ..models.upsampler import UpsamplerNetwork
from ..stack import Stack
from ..storybook.captions import BACKGROUND_PHRASES
from ..storybook.draw import render
from ..storybook.scenes import BACKGROUNDS, COLOURS, OBJECTS, Scene, Thing
from ..types import Embedding, TextEncoding

SIDE = 256  # pixels of a drawing
LATENT_SIDE = 256  # pixels that a latent decoder is tried at


class Drawings:
    """Twelve drawings, each of another thing, and their captions: what every check looks at."""

    def __init__(self) -> None:
        rng = random.Random(0)
        colours = [COLOURS[index % len(COLOURS)] for index in range(len(OBJECTS))]
        backgrounds = [BACKGROUNDS[index % len(BACKGROUNDS)] for index in range(len(OBJECTS))]
        rng.shuffle(backgrounds)
        self.scenes = [
            Scene((Thing(kind, colour, "big", 0.5, 0.5, 0.66),), background, "middle", None, None, index)
            for index, (kind, colour, background) in enumerate(zip(OBJECTS, colours, backgrounds, strict=True))
        ]

    @cached_property
    def captions(self) -> list[str]:
        """One each: "a red star on a night sky"."""
        named = [(scene.things[0], BACKGROUND_PHRASES[scene.background][0]) for scene in self.scenes]
        return [
            f"{'an' if thing.colour[0] in 'aeiou' else 'a'} {thing.colour} {thing.kind} {where}"
            for thing, where in named
        ]

    @cached_property
    def pictures(self) -> Tensor:
        """IMAGE (12, 256, 256, 3) in 0..1."""
        return torch.stack([torch.from_numpy(render(scene, SIDE).copy()) for scene in self.scenes]).float() / 255.0

    def at(self, side: int, rows: int = 12) -> Tensor:
        """The first pictures as (rows, 3, side, side) in -1..1."""
        pictures = self.pictures[:rows].movedim(-1, 1) * 2.0 - 1.0
        return pictures if side == SIDE else F.interpolate(pictures, (side, side), mode="bilinear", antialias=True)


def noise_of(shape: Sequence[int]) -> Tensor:
    """Standard normal numbers that are the same at every check."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))


def level_at(schedule: Schedule, signal: float) -> int:
    """The timestep whose alpha-bar, the signal's share of the variance, is closest to `signal`."""
    return int((schedule.alphas_cumprod - signal).abs().argmin())


# -- matching ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matching:
    """How well each of N things finds its own partner. share: of right ones; own, other: mean cosine to the own partner
    and to others'."""

    share: float
    own: float
    other: float


def match(first: Tensor, second: Tensor) -> Matching:
    """(N, D) with (M, D), M >= N: the partner of row i is row i."""
    cosines = F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).T
    partners = torch.arange(len(first))
    is_own = F.one_hot(partners, len(second)).bool()
    right = (cosines.argmax(1) == partners).float().mean()
    return Matching(float(right), float(cosines[is_own].mean()), float(cosines[~is_own].mean()))


# -- what each network is run on ---------------------------------------------------------------------------------------

Run = Callable[[torch.nn.Module], list[Tensor]]


def run_clip(stack: Stack, drawings: Drawings, rows: int, towers: Sequence[str]) -> Run:
    """CLIP's towers on drawings and captions."""
    clip = stack.clip
    config, outputs = clip.config, []
    if "image" in towers:
        pixels = preprocess(drawings.pictures[:rows], clip.image_size, config.image_mean, config.image_std)
        pixels = pixels.to(clip.device, clip.placed.dtype)
        outputs.append(lambda network: [network.encode_image(pixels)])
    if "text" in towers:
        ids = clip.tokenize(drawings.captions[:rows])[0].to(clip.device)
        outputs.append(lambda network: list(text_states(network, ids)))
    return lambda network: [each for output in outputs for each in output(network)]


def run_prior(stack: Stack, embeds: Tensor | None, text: TextEncoding) -> Run:
    """The diffusion prior at two noise levels of the drawings' embeddings, without any of noise alone."""
    prior, rows = stack.prior, len(text)
    schedule, device = Schedule(prior.config.schedule), prior.network.device
    noise = noise_of((rows, prior.config.clip_dim)).to(device)
    words = (text.tokens.to(device), text.embed.to(device), text.mask.to(device))

    def run(network: PriorNetwork) -> list[Tensor]:
        outputs = []
        for signal in (0.1, 0.7):
            t = torch.full((rows,), level_at(schedule, signal), device=device)
            x_t = noise if embeds is None else schedule.add_noise(network.scale(embeds.to(device)), t, noise)
            outputs.append(network(x_t, t, *words))
        return outputs

    return run


def run_ar_prior(stack: Stack, text: TextEncoding) -> Run:
    """The autoregressive prior over its first codes."""
    device = stack.ar_prior.network.device
    words = (text.tokens.to(device), text.embed.to(device), text.mask.to(device))

    def run(network: torch.nn.Module) -> list[Tensor]:
        logits, cache = network.prefix(*words, ids=text.ids.to(device))
        outputs = [logits]
        for _ in range(8):
            logits, cache = network.step(logits.argmax(-1), cache)
            outputs.append(logits)
        return outputs

    return run


@dataclass(frozen=True)
class Denoising:
    """How a network takes noise off drawings. explained: share of the drawings' variance that its x_0 has, at half
    signal; own, other: its error where nearly all is noise, given the drawing's own embedding and another's."""

    explained: float
    own: float
    other: float


class _Trial:
    """A network on a few drawings x_0, (B, C, h, w) on its grid, at two noise levels, always with the same noise."""

    SIGNALS = (0.5, 0.05)

    def __init__(self, schedule: ScheduleConfig, x_0: Tensor, device: torch.device) -> None:
        self.schedule, self.device = Schedule(schedule), device
        self.x_0, self.noise = x_0.to(device), noise_of(x_0.shape).to(device)

    def noised(self, signal: float) -> tuple[Tensor, Tensor]:
        """(x_t, t) of the drawings at a noise level."""
        t = torch.full((len(self.x_0),), level_at(self.schedule, signal), device=self.device)
        return self.schedule.add_noise(self.x_0, t, self.noise), t

    def error(self, output: Tensor, signal: float) -> float:
        """Mean square error of the x_0 that a raw output stands for, by the variance of x_0."""
        predicted, _ = self.schedule.to_x0_eps(output[:, : self.x_0.shape[1]].float(), *self.noised(signal))
        return float((predicted - self.x_0).square().mean() / self.x_0.var())


class DecoderTrial(_Trial):
    """A decoder on a few drawings, told what is on them.

    embed, text: of the drawings; without an image tower, of their captions. text is None for a decoder that reads none.
    """

    def __init__(
        self,
        config: DecoderConfig,
        x_0: Tensor,
        embed: Embedding,
        text: TextEncoding | None,
        device: torch.device,
    ) -> None:
        super().__init__(config.schedule, x_0, device)
        self.config, self.vector, self.text = config, embed.vector.to(device), text

    def predict(self, network: DecoderNetwork, signal: float, order: Tensor | None = None) -> Tensor:
        """The raw output at the noise level; order: whose embedding each row is given, beside its own caption."""
        return network(*self.noised(signal), self._condition(network, order))

    def _condition(self, network: DecoderNetwork, order: Tensor | None) -> Conditioning:
        rows = torch.arange(len(self.x_0)) if order is None else order
        given = {}
        if (text := self.text) is not None:
            parts = {"tokens": text.tokens, "mask": text.mask, "text_embed": text.embed, "ids": text.ids}
            given = {name: part.to(self.device) for name, part in parts.items()}
        return network.condition(self.vector[rows.to(self.device)], **given, extra=self._extra(network))

    def _extra(self, network: DecoderNetwork) -> Tensor | None:
        """Nothing known of the picture, or nothing said of its depth."""
        batch, _, height, width = self.x_0.shape
        if self.config.extra_input == "inpaint":
            return inpaint_input(torch.zeros_like(self.x_0), torch.zeros_like(self.x_0[:, :1]))
        if self.config.extra_input == "hint":
            sides = (height * network.hint.FACTOR, width * network.hint.FACTOR)
            return network.hint(torch.full((batch, 3, *sides), 0.5, device=self.device))
        return None

    def run(self, network: DecoderNetwork) -> list[Tensor]:
        """Its outputs at both levels."""
        return [self.predict(network, signal) for signal in self.SIGNALS]

    @torch.no_grad()
    def measure(self, network: DecoderNetwork) -> Denoising:
        """See `Denoising`."""
        half, little = self.SIGNALS
        others = torch.arange(len(self.x_0)).roll(1)
        clear, own, other = (
            self.error(self.predict(network, signal, order), signal)
            for signal, order in ((half, None), (little, None), (little, others))
        )
        return Denoising(1.0 - clear, own, other)


class UpsamplerTrial(_Trial):
    """An upsampler on a few drawings, or cut-outs of them, enlarged four times."""

    def __init__(self, config: UpsamplerConfig, x_0: Tensor, device: torch.device) -> None:
        super().__init__(config.schedule, x_0, device)
        small = F.interpolate(x_0, scale_factor=config.low_size / config.high_size, mode="bilinear", antialias=True)
        self.low = F.interpolate(small, x_0.shape[-2:], mode="bicubic").to(device)

    def run(self, network: UpsamplerNetwork) -> list[Tensor]:
        """Its outputs at both levels."""
        return [network(*self.noised(signal), self.low) for signal in self.SIGNALS]

    @torch.no_grad()
    def measure(self, network: UpsamplerNetwork) -> Denoising:
        """See `Denoising`: what it is told is the small picture."""
        half, little = self.SIGNALS
        clear, own, other = (
            self.error(network(*self.noised(signal), low), signal)
            for signal, low in ((half, self.low), (little, self.low), (little, self.low.roll(1, dims=0)))
        )
        return Denoising(1.0 - clear, own, other)


# -- statistics --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standardised:
    """Embeddings after a prior's mean and std. energy: their mean square, 1 for those that the statistics are of;
    likeness: correlation of the statistics' mean with theirs, None where neither has one to speak of."""

    energy: float
    likeness: float | None


def standardise(vectors: Tensor, mean: Tensor, std: Tensor) -> Standardised:
    """(N, D) embeddings by mean (D,) and std (D,)."""
    vectors, mean, std = vectors.float().cpu(), mean.float().cpu(), std.float().cpu()
    energy = float(((vectors - mean) / std).square().mean())
    own = vectors.mean(0)
    told = mean.square().mean() > 0.02 * (std.square().mean() + mean.square().mean())
    likeness = float(F.cosine_similarity(own, mean, dim=0)) if told else None
    return Standardised(energy, likeness)


@dataclass(frozen=True)
class Appearance:
    """What a picture looks like to arithmetic: spread of its values (0..1), correlation of neighbours (1: smooth, 0:
    noise), share of values that are exactly black or white."""

    spread: float
    smoothness: float
    clipped: float


def appearance_of(image: Tensor) -> Appearance:
    """IMAGE (B, H, W, 3); the worst of the batch in each respect."""
    spread = float(image.flatten(1).std(1).min())
    centred = image - image.mean((1, 2), keepdim=True)
    pairs = (centred[:, :, 1:] * centred[:, :, :-1]).flatten(1).sum(1)
    smooth = pairs / centred[:, :, 1:].square().flatten(1).sum(1).clamp(min=1e-9)
    clipped = ((image <= 0.0) | (image >= 1.0)).float().flatten(1).mean(1)
    return Appearance(spread, float(smooth.min()), float(clipped.max()))
