"""Tiny random-weight stages of every kind of condition, and inputs that fit them."""

import sys
import types
from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core import config as c
from comfyui_unclip.unclip_core.models.ar_prior import ARPriorNetwork
from comfyui_unclip.unclip_core.models.decoder import DecoderNetwork, build_autoencoder
from comfyui_unclip.unclip_core.models.prior import PriorNetwork
from comfyui_unclip.unclip_core.models.upsampler import UpsamplerNetwork
from comfyui_unclip.unclip_core.runtime import estimates as memory
from comfyui_unclip.unclip_core.runtime.placement import Placed
from comfyui_unclip.unclip_core.stages import ARPrior, Decoder, Prior, Upsampler
from comfyui_unclip.unclip_core.types import Embedding, TextEncoding

CLIP_ID, DIM, WIDTH, LENGTH = "tiny/test", 12, 8, 6


def random_weights(network, seed=0, std=0.15):
    """Every parameter random: freshly built networks end in zeros and would ignore their inputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
        if isinstance(network, PriorNetwork):  # else x_t hardly shows in the output, and seeds could not be told apart
            network.noisy_in.weight.mul_(4.0)
            for block in network.blocks:
                for name, parameter in block.named_parameters():
                    if name.endswith("weight") and parameter.ndim == 2:
                        parameter.mul_(2.0)
    return network


def counting(network):
    """Counts forwards and their batch sizes; a prior's step is its forward."""
    network.calls = []
    name = "step" if isinstance(network, PriorNetwork) else "forward"
    original = getattr(network, name)

    def call(x_t, *args, **kwargs):
        network.calls.append((len(x_t), kwargs))
        return original(x_t, *args, **kwargs)

    setattr(network, name, call)
    return network


def placed(network, dtype=torch.float32, std=0.15, seed=0):
    return Placed(lambda dtype: counting(random_weights(network, seed, std)), torch.device("cpu"), dtype)


def text(rows=1, norm=1.0, seed=0, clip_id=CLIP_ID, dim=DIM):
    generator = torch.Generator().manual_seed(seed)
    embed = torch.nn.functional.normalize(torch.randn(rows, dim, generator=generator), dim=-1) * norm
    lengths = 2 + torch.arange(rows)[:, None] % (LENGTH - 2)
    return TextEncoding(
        tokens=torch.randn(rows, LENGTH, WIDTH, generator=generator),
        embed=embed,
        mask=torch.arange(LENGTH)[None] < lengths,
        ids=torch.randint(1, 20, (rows, LENGTH), generator=generator),
        clip_id=clip_id,
        captions=tuple(f"caption {i}" for i in range(rows)),
        normalised=norm == 1.0,
    )


def embed(rows=1, seed=5, clip_id=CLIP_ID, dim=DIM):
    vector = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return Embedding(torch.nn.functional.normalize(vector, dim=-1), clip_id)


def make_prior(null_text="learned", scaling="constant", x0_clamp=None, encode_null=None, one_pass=False, **schedule):
    config = c.PriorConfig(
        clip_id=CLIP_ID,
        clip_dim=DIM,
        text_width=WIDTH,
        context_length=LENGTH,
        width=16,
        depth=2,
        heads=2,
        scaling=scaling,
        embed_scale=2.0,
        null_text=null_text,
        one_pass=one_pass,
        schedule=c.ScheduleConfig(prediction="x0", x0_clamp=x0_clamp, **schedule),
        sampling=c.SamplingConfig("ddpm", 4, 2.0),
    )
    return Prior(config, placed(PriorNetwork(config), std=0.5), encode_null)


def make_decoder(
    null_text="learned",
    null_embed="zero",
    learned_variance=False,
    encode_null=None,
    sampler="dpmpp_2m",
    patch_size=1,
    side=16,
):
    config = c.DecoderConfig(
        clip_id=CLIP_ID,
        clip_dim=DIM,
        text_width=WIDTH,
        extra_tokens=2,
        embed_scale=3.0,
        null_embed=null_embed,
        null_text=null_text,
        unet=c.UNetConfig(
            image_size=side,
            out_channels=6 if learned_variance else 3,
            channels=16,
            channel_mult=(1, 2),
            depth=1,
            attention_resolutions=(8,),
            head_channels=8,
            context_width=16,
            norm_groups=4,
            patch_size=patch_size,
        ),
        schedule=c.ScheduleConfig(
            prediction="eps" if learned_variance else "v",
            variance="learned_range" if learned_variance else "fixed_small",
        ),
        sampling=c.SamplingConfig(sampler, 4, 2.0),
    )
    return Decoder(config, placed(DecoderNetwork(config)), encode_null)


def make_latent_decoder(extra_input="none", kind="movq", dtype=torch.float32, guidance_scale=2.0, **changes):
    """On 8 x 8 latents of 64 px pictures; like Kandinsky 2.2's it reads no text, and its null is a picture's embedding,
    here `embed(seed=77)`."""
    latent = 4
    config = c.DecoderConfig(
        clip_id=CLIP_ID,
        decoder_id="tiny/latent",
        clip_dim=DIM,
        text_width=WIDTH,
        extra_tokens=3,
        text_embed_in_time=False,
        text="none",
        token_order="token_major",
        norms=("image_tokens", "image_time"),
        null_embed="zero_picture",
        extra_input=extra_input,
        unet=c.UNetConfig(
            image_size=8,
            in_channels=latent + {"none": 0, "inpaint": latent + 1, "hint": latent}[extra_input],
            out_channels=2 * latent,
            channels=16,
            channel_mult=(1, 2),
            depth=1,
            attention_resolutions=(4,),
            head_channels=8,
            context_width=16,
            norm_groups=4,
        ),
        schedule=c.ScheduleConfig(
            name="linear",
            beta_start=0.00085,
            beta_end=0.012,
            variance="learned_range",
            x0_clamp=2.0,
            x0_quantile=0.995,
        ),
        sampling=c.SamplingConfig("ddpm", 4, guidance_scale),
        autoencoder=c.AutoencoderConfig(
            kind,
            channels=(8, 8, 16, 16),
            depth=1,
            attention_levels=(3,) if kind == "movq" else (),
            codes=8 if kind == "movq" else 0,
            latent_scale=1.0 if kind == "movq" else 0.5,
            norm_groups=4,
        ),
    )
    config = replace(config, **changes)

    def lively(dtype):
        torch.manual_seed(3)
        network = build_autoencoder(config.autoencoder)
        for parameter in network.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
        return network

    return Decoder(
        config,
        Placed(lambda dtype: counting(random_weights(DecoderNetwork(config), 0, 0.15)), torch.device("cpu"), dtype),
        autoencoder=Placed(lively, torch.device("cpu"), dtype),
        encode_null_image=lambda: embed(seed=77),
    )


def make_upsampler(final_network=False, augmentation_level=True):
    config = c.UpsamplerConfig(
        low_size=8,
        high_size=32,
        augmentation_level=augmentation_level,
        final_network=final_network,
        unet=c.UNetConfig(
            image_size=32,
            in_channels=6,
            out_channels=3,
            channels=8,
            channel_mult=(1, 2),
            depth=1,
            attention_resolutions=(),
            context_width=0,
            norm_groups=4,
            patch_size=2,
        ),
        schedule=c.ScheduleConfig(prediction="v"),
        sampling=c.SamplingConfig("ddpm", 3),
    )
    return Upsampler(config, *(placed(UpsamplerNetwork(config), seed=seed) for seed in range(1 + final_network)))


@pytest.fixture
def tiny():
    """The builders above, by name."""
    return types.SimpleNamespace(
        text=text,
        embed=embed,
        random_weights=random_weights,
        prior=make_prior,
        decoder=make_decoder,
        latent_decoder=make_latent_decoder,
        upsampler=make_upsampler,
        clip_id=CLIP_ID,
        dim=DIM,
    )


@pytest.fixture
def make_ar_prior(randomise):
    """make_ar_prior(damage) -> an autoregressive prior of 5 components and 16 buckets; damage: NaN in its output."""

    def make(damage=False):
        config = c.ARPriorConfig(
            clip_id=CLIP_ID,
            clip_dim=DIM,
            text_width=WIDTH,
            components=5,
            buckets=16,
            context_length=LENGTH,
            width=16,
            depth=2,
            heads=2,
            embed_scale=3.5,
            text_encoder=None,
            sampling=c.ARSamplingConfig(guidance_scale=1.0),
        )

        def build(dtype):
            torch.manual_seed(0)
            network = randomise(ARPriorNetwork(config))
            network.quantiser.mean.copy_(torch.linspace(-0.3, 0.3, DIM))
            if damage:
                network.code_out.weight.data.fill_(float("nan"))
            return network

        return ARPrior(config, Placed(build, torch.device("cpu"), torch.float32))

    return make


@pytest.fixture
def limit_rows(monkeypatch):
    """Makes every stage find that at most this many rows of its batch fit."""
    users = [
        module
        for name, module in sys.modules.items()
        if name.startswith("comfyui_unclip.unclip_core") and vars(module).get("rows_that_fit") is memory.rows_that_fit
    ]

    def limit(rows):
        for module in users:
            monkeypatch.setattr(module, "rows_that_fit", lambda *_: rows)

    return limit
