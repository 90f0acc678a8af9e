"""The stacks we have configurations for: the paper's, Karlo's, Kandinsky's, Stable unCLIP's, ECLIPSE's and the
embedded storybook.

Imports neither torch nor numpy, as config.py. Section numbers are those of Ramesh et al. 2022.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from .config import (
    ARPriorConfig,
    AutoencoderConfig,
    ClipConfig,
    ClipTextConfig,
    ClipVisionConfig,
    DecoderConfig,
    MultilingualConfig,
    PriorConfig,
    SamplingConfig,
    ScheduleConfig,
    StackConfig,
    TextEncoderConfig,
    TextTowerConfig,
    UNetConfig,
    UpsamplerConfig,
)

# Upsamplers' UNets: without attention, x_t and the enlarged picture beside it.
_ENLARGING = partial(UNetConfig, in_channels=6, out_channels=3, attention_resolutions=(), context_width=0)
_SMALL_ENLARGING = partial(
    _ENLARGING, channel_mult=(1, 2), depth=1, resblock_updown=False, patch_size=4, norm_groups=16
)

PAPER = StackConfig(
    name="paper",
    clip=ClipConfig("ViT-H-16/paper", 1024, 1024, 77, True, None, None),
    prior=PriorConfig(
        clip_id="ViT-H-16/paper",
        prior_id="paper/prior",
        clip_dim=1024,
        text_width=1024,
        context_length=256,
        depth=24,
        scaling="constant",
        embed_scale=17.2,
        null_text="learned",
        schedule=ScheduleConfig(prediction="x0", x0_clamp=None),
        sampling=SamplingConfig("analytic_ddpm", 64, 1.0),
    ),
    decoder=DecoderConfig(
        clip_id="ViT-H-16/paper",
        decoder_id="paper/decoder",
        clip_dim=1024,
        text_width=1024,
        embed_scale=32.0,
        text_embed_in_time=False,
        text_encoder=TextEncoderConfig(),
        null_embed="zero",
        null_text="learned",
        unet=UNetConfig(channels=512, context_width=2048, dropout=0.1),
        sampling=SamplingConfig("ddpm", 250, 1.25),
    ),
    upsampler_256=UpsamplerConfig(
        unet=_ENLARGING(image_size=256, dropout=0.1),
        sampling=SamplingConfig("ddim", 27),
    ),
    upsampler_1024=UpsamplerConfig(
        low_size=256,
        high_size=1024,
        augmentation="bsr",
        unet=_ENLARGING(image_size=1024, channels=192, channel_mult=(1, 1, 2, 2, 4, 4), depth=2),
        schedule=ScheduleConfig(name="linear"),
        sampling=SamplingConfig("ddim", 15),
    ),
    ar_prior=ARPriorConfig(),
)

KARLO = StackConfig(
    name="karlo-v1-alpha",
    clip=ClipConfig(),
    prior=PriorConfig(),
    decoder=DecoderConfig(),
    upsampler_256=UpsamplerConfig(final_network=True),
)

STORYBOOK = StackConfig(
    name="storybook",
    clip=ClipConfig(
        clip_id="storybook-3",
        embed_dim=192,
        text_width=128,
        context_length=32,
        normalised=True,
        architecture=None,
        pretrained=None,
        vision=ClipVisionConfig(trunk="convnext_atto", head="map"),  # a mean of its cells lost which thing is where
        text=ClipTextConfig(),
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
    ),
    prior=PriorConfig(
        clip_id="storybook-3",
        prior_id="storybook-3/prior",
        clip_dim=192,
        text_width=128,
        context_length=32,
        width=256,
        depth=4,
        heads=8,
        scaling="constant",
        embed_scale=7.45,  # EMBED_STD * sqrt(192)
        null_text="learned",
        schedule=ScheduleConfig(prediction="x0", x0_clamp=None),
        sampling=SamplingConfig("ddpm", 25, 1.0),
    ),
    decoder=DecoderConfig(
        clip_id="storybook-3",
        decoder_id="storybook-3/decoder",
        clip_dim=192,
        text_width=128,
        embed_scale=13.86,  # sqrt(192): unit variance per dimension
        text_embed_in_time=False,
        null_text="learned",
        unet=UNetConfig(
            out_channels=3,
            channels=64,
            channel_mult=(1, 2, 3),
            depth=1,
            attention_resolutions=(16, 8),
            head_channels=32,
            context_width=192,
            resblock_updown=False,
            patch_size=2,
            fine_channels=16,
        ),
        schedule=ScheduleConfig(prediction="v"),
        sampling=SamplingConfig("ddpm", 50, 3.0),
    ),
    # x_0 prediction: with 4x pixel-unshuffle a patch's noise has as many numbers as a narrow network has channels,
    # so one that must pass it through (eps, v) leaves noise in the picture.
    upsampler_256=UpsamplerConfig(
        unet=_SMALL_ENLARGING(image_size=256, channels=48),
        augmentation_level=True,
        sampling_level=0.2,
        schedule=ScheduleConfig(prediction="x0"),
        # Of the decoder's pictures the likely mean is nearer to the truth than a sample, and has less of a halo.
        sampling=SamplingConfig("ddim", 1),
    ),
    upsampler_1024=UpsamplerConfig(
        low_size=256,
        high_size=1024,
        augmentation="bsr",
        augmentation_level=True,
        sampling_level=0.1,
        residual=True,  # a clean input is nearly right already: what is left to learn are the edges
        unet=_SMALL_ENLARGING(image_size=1024, channels=32),
        schedule=ScheduleConfig(name="linear", prediction="x0"),
        sampling=SamplingConfig("ddim", 1),
    ),
    ar_prior=ARPriorConfig(
        clip_id="storybook-3",
        ar_prior_id="storybook-3/ar_prior",
        clip_dim=192,
        text_width=128,
        components=48,  # 45 keep 99 % of the variance of the training embeddings
        bucket_features=64,
        context_length=50,
        width=128,
        depth=4,
        heads=4,
        embed_scale=13.86,  # sqrt(192): unit variance per dimension
        text_encoder=None,
    ),
)

_KANDINSKY_UNET = UNetConfig(
    image_size=64,  # of the latents at 512 px; it paints other sizes too
    in_channels=4,
    out_channels=8,
    channels=384,
    context_width=768,
)
_KANDINSKY_SCHEDULE = ScheduleConfig(
    name="linear", beta_start=0.00085, beta_end=0.012, variance="learned_range", x0_clamp=2.0, x0_quantile=0.995
)
_KANDINSKY_PRIOR = PriorConfig(mask_value=-10000.0)

KANDINSKY_2_1 = StackConfig(
    name="kandinsky-2-1",
    clip=ClipConfig(),
    prior=replace(_KANDINSKY_PRIOR, prior_id="kandinsky-2-1/prior"),
    decoder=DecoderConfig(
        decoder_id="kandinsky-2-1/decoder",
        text_width=1024,  # XLM-R large
        extra_tokens=10,
        text="xlm_r",
        multilingual=MultilingualConfig(),
        token_order="token_major",
        norms=("text_time",),
        mask_text=False,
        null_embed="zero_picture",
        unet=_KANDINSKY_UNET,
        schedule=_KANDINSKY_SCHEDULE,
        sampling=SamplingConfig("ddpm", 50, 4.0),
        autoencoder=AutoencoderConfig(),
    ),
)

KANDINSKY_2_2 = StackConfig(
    name="kandinsky-2-2",
    clip=ClipConfig(
        clip_id="ViT-bigG-14/laion2b_s39b_b160k",
        embed_dim=1280,
        text_width=1280,
        architecture="ViT-bigG-14",
        pretrained="laion2b_s39b_b160k",
    ),
    prior=replace(
        _KANDINSKY_PRIOR,
        clip_id="ViT-bigG-14/laion2b_s39b_b160k",
        prior_id="kandinsky-2-2/prior",
        clip_dim=1280,
        text_width=1280,
    ),
    decoder=DecoderConfig(
        clip_id="ViT-bigG-14/laion2b_s39b_b160k",
        decoder_id="kandinsky-2-2/decoder",
        clip_dim=1280,
        text_width=1280,
        extra_tokens=32,
        text_embed_in_time=False,
        text="none",
        token_order="token_major",
        norms=("image_tokens", "image_time"),
        null_embed="zero_picture",
        unet=_KANDINSKY_UNET,
        schedule=_KANDINSKY_SCHEDULE,
        sampling=SamplingConfig("ddpm", 50, 4.0),
        autoencoder=AutoencoderConfig(),
    ),
)

_STABLE_DECODER = DecoderConfig(
    text_width=1024,
    extra_tokens=0,
    text_embed_in_time=False,
    text="own_clip",
    norms=(),
    mask_text=False,
    text_tower=TextTowerConfig(),
    embed_noise=ScheduleConfig(),
    null_embed="zero",
    unet=UNetConfig(
        image_size=96,  # of the latents at 768 px; it paints other sizes too
        in_channels=4,
        out_channels=4,
        channel_mult=(1, 2, 4, 4),
        depth=2,
        attention_resolutions=(96, 48, 24),
        context_width=1024,
        attention="cross",
        time_conditioning="add",
        resblock_updown=False,
    ),
    schedule=ScheduleConfig(name="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction="v", x0_clamp=None),
    sampling=SamplingConfig("ddim", 20, 10.0),
    autoencoder=AutoencoderConfig(
        "kl", channels=(128, 256, 512, 512), attention_levels=(), codes=0, latent_scale=0.18215
    ),
)

# ViT-H image embeddings; no prior for them was ever published.
STABLE_UNCLIP_H = StackConfig(
    name="stable-diffusion-2-1-unclip",
    clip=ClipConfig(
        clip_id="ViT-H-14/laion2b_s32b_b79k",
        embed_dim=1024,
        text_width=1024,
        architecture="ViT-H-14",
        pretrained="laion2b_s32b_b79k",
    ),
    decoder=replace(
        _STABLE_DECODER,
        clip_id="ViT-H-14/laion2b_s32b_b79k",
        decoder_id="stable-diffusion-2-1-unclip/decoder",
        clip_dim=1024,
    ),
)

# ViT-L/14 image embeddings, as Karlo's prior makes them.
STABLE_UNCLIP_L = StackConfig(
    name="stable-diffusion-2-1-unclip-small",
    clip=ClipConfig(),
    prior=PriorConfig(),
    decoder=replace(_STABLE_DECODER, decoder_id="stable-diffusion-2-1-unclip-small/decoder", clip_dim=768),
)


# Priors alone, over the CLIP, decoder and upsamplers of their hosts.
_ECLIPSE_PRIOR = PriorConfig(
    width=512,
    depth=10,
    heads=16,
    scaling="constant",
    mask_value=-10000.0,
    one_pass=True,
    schedule=ScheduleConfig(prediction="x0", x0_clamp=None),
    sampling=SamplingConfig("ddpm", 1, 1.0),
)
ECLIPSE_GUIDANCE = 7.5  # of the hosts' decoders, as its authors ran them

ECLIPSE_KARLO = replace(
    KARLO,
    name="eclipse-karlo",
    prior=replace(_ECLIPSE_PRIOR, prior_id="eclipse-karlo/prior"),
    decoder=replace(KARLO.decoder, sampling=replace(KARLO.decoder.sampling, guidance_scale=ECLIPSE_GUIDANCE)),
)

ECLIPSE_KANDINSKY_2_2 = replace(
    KANDINSKY_2_2,
    name="eclipse-kandinsky-2-2",
    prior=replace(
        _ECLIPSE_PRIOR,
        clip_id=KANDINSKY_2_2.clip.clip_id,
        prior_id="eclipse-kandinsky-2-2/prior",
        clip_dim=1280,
        text_width=1280,
    ),
    decoder=replace(
        KANDINSKY_2_2.decoder,
        sampling=replace(KANDINSKY_2_2.decoder.sampling, guidance_scale=ECLIPSE_GUIDANCE),
    ),
)

PRESETS: dict[str, StackConfig] = {stack.name: stack for stack in (PAPER, KARLO, STORYBOOK)}

# The public CLIP of an unCLIP whose embeddings have so many dimensions.
CLIP_OF_DIM = {stack.clip.embed_dim: stack.clip.clip_id for stack in (KARLO, KANDINSKY_2_2, STABLE_UNCLIP_H)}

# Ids that are no public CLIP's name: the stack keeps its own while its CLIP is trained anew.
_OWNERS = {STORYBOOK.clip.clip_id: STORYBOOK.name}


def explain_clip(clip_id: str, dim: int | None = None) -> str:
    """A CLIP's id for a message, with its dimension, and with the stack's name in Load unCLIP where that is another."""
    notes = [f"{dim}-d"] if dim is not None else []
    notes += [f"the CLIP of {_OWNERS[clip_id]}"] if clip_id in _OWNERS else []
    return f"{clip_id} ({', '.join(notes)})" if notes else clip_id
