"""Tiny configs of every network, one for each way of building it."""

from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.config import (
    AutoencoderConfig,
    DecoderConfig,
    PriorConfig,
    ScheduleConfig,
    TextEncoderConfig,
    TextTowerConfig,
    UNetConfig,
    UpsamplerConfig,
)
from comfyui_unclip.unclip_core.models.decoder import DecoderNetwork
from comfyui_unclip.unclip_core.models.prior import PriorNetwork
from comfyui_unclip.unclip_core.models.stable_decoder import StableDecoderNetwork
from comfyui_unclip.unclip_core.models.upsampler import UpsamplerNetwork, UpsamplerPair, stored_upsampler

PRIOR = PriorConfig(clip_dim=24, text_width=20, context_length=10, width=32, depth=3, heads=4)
UNET = UNetConfig(
    image_size=16,
    channels=16,
    channel_mult=(1, 2),
    depth=1,
    attention_resolutions=(8,),
    head_channels=8,
    context_width=24,
    norm_groups=8,
)
DECODER = DecoderConfig(clip_dim=24, text_width=20, extra_tokens=2, unet=UNET)
PAPER_DECODER = replace(
    DECODER,
    text_encoder=TextEncoderConfig(vocabulary_size=50, context_length=10, width=24, depth=2, heads=3),
    null_embed="zero",
    null_text="learned",
)
SR_UNET = replace(
    UNET, in_channels=6, out_channels=3, attention_resolutions=(), context_width=0, time_conditioning="add"
)
UPSAMPLER = UpsamplerConfig(unet=SR_UNET)

PRIORS = {
    "karlo": PRIOR,
    "diffusers-mask": replace(PRIOR, mask_value=-10000.0),
    "paper": replace(PRIOR, scaling="constant", embed_scale=3.0, null_text="learned", final_norm=False),
    "one-pass": replace(PRIOR, scaling="constant", one_pass=True),
}
DECODERS = {
    "karlo": DECODER,
    "paper": PAPER_DECODER,
    "paper-no-text-in-time": replace(PAPER_DECODER, text_embed_in_time=False),
    "patched": replace(
        DECODER,
        null_text="learned",
        unet=replace(UNET, out_channels=3, patch_size=2, resblock_updown=False),
        schedule=ScheduleConfig(prediction="v"),
    ),
    "fine": replace(DECODER, unet=replace(UNET, patch_size=2, fine_channels=8, attention_resolutions=(8, 4))),
}
STABLE_DECODER = replace(
    DECODER,
    extra_tokens=0,
    text_embed_in_time=False,
    text="own_clip",
    norms=(),
    mask_text=False,
    text_tower=TextTowerConfig(width=20),
    embed_noise=ScheduleConfig(),
    null_embed="zero",
    unet=replace(SR_UNET, in_channels=3, attention_resolutions=(16, 8), context_width=20, attention="cross"),
    schedule=ScheduleConfig(prediction="v"),
    autoencoder=AutoencoderConfig("kl", latent_channels=3, codes=0),
)
UPSAMPLERS = {
    "karlo": replace(UPSAMPLER, final_network=True),
    "level": replace(UPSAMPLER, augmentation_level=True, unet=replace(SR_UNET, patch_size=2, resblock_updown=False)),
}


CONFIGS = (
    [(PriorNetwork, config, f"prior-{name}") for name, config in PRIORS.items()]
    + [(DecoderNetwork, config, f"decoder-{name}") for name, config in DECODERS.items()]
    + [(StableDecoderNetwork, STABLE_DECODER, "decoder-stable")]
    + [(stored_upsampler, config, f"upsampler-{name}") for name, config in UPSAMPLERS.items()]
)


def pytest_generate_tests(metafunc):
    """`prior_config`, `decoder_config`, `upsampler_config` and (network, config) `case` run over all of these."""
    for fixture, configs in (
        ("prior_config", PRIORS),
        ("decoder_config", DECODERS),
        ("upsampler_config", UPSAMPLERS),
    ):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, list(configs.values()), ids=list(configs))
    if "case" in metafunc.fixturenames:
        metafunc.parametrize(
            "case", [(kind, config) for kind, config, _ in CONFIGS], ids=[name for *_, name in CONFIGS]
        )


@pytest.fixture
def run(text):
    """Run a tiny network on the fixed batch, or on some of its rows: run(module, rows) -> output."""
    generator = torch.Generator().manual_seed(2)
    picture = torch.randn(3, 3, 16, 16, generator=generator)
    low = torch.randn(3, 3, 16, 16, generator=generator)
    vector = torch.randn(3, 24, generator=generator)
    t = torch.tensor([0, 500, 999])

    def apply(module, rows=slice(None), **options):
        words = {name: value[rows] for name, value in text.items()}
        if isinstance(module, PriorNetwork):
            return module(vector[rows], t[rows], words["tokens"], words["embed"], words["mask"], **options)
        if isinstance(module, UpsamplerNetwork | UpsamplerPair):
            return module(picture[rows], t[rows], low[rows], torch.tensor([0.0, 0.5, 1.0])[rows], **options)
        condition = module.condition(vector[rows], words["tokens"], words["mask"], words["embed"], words["ids"])
        return module(picture[rows], t[rows], condition, **options)

    return apply


@pytest.fixture
def text():
    """A batch of three captions for the tiny configs: tokens, mask, embed, ids. Lengths 3, 10 (full) and 1."""
    generator = torch.Generator().manual_seed(1)
    return {
        "tokens": torch.randn(3, 10, 20, generator=generator),
        "mask": torch.arange(10) < torch.tensor([[3], [10], [1]]),
        "embed": torch.randn(3, 24, generator=generator),
        "ids": torch.randint(0, 50, (3, 10), generator=generator),
    }
