"""Kandinsky 2.2's decoder against diffusers' pipelines, at reduced width, with the same weights and noise, in float32.

Timesteps are the original's, which are ours: 999 down to 0, evenly rounded ("linspace" in diffusers).
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    KandinskyV22ControlnetPipeline,
    KandinskyV22Img2ImgPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
    UNet2DConditionModel,
    VQModel,
)

from comfyui_unclip.unclip_core.checkpoints.autoencoder_keys import autoencoder_rule
from comfyui_unclip.unclip_core.checkpoints.kandinsky_keys import kandinsky_rule
from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.models.build import stored_decoder
from comfyui_unclip.unclip_core.presets import KANDINSKY_2_2
from comfyui_unclip.unclip_core.runtime.placement import Placed
from comfyui_unclip.unclip_core.stages import Decoder, finish
from comfyui_unclip.unclip_core.types import Embedding, PictureStart

DIM, TOKENS, CROSS, SEED = 40, 5, 32, 7
WIDTH, HEIGHT, STEPS = 192, 128, 12
SHAPE = (4, HEIGHT // 8, WIDTH // 8)
EXTRA = {"none": (4, "image"), "inpaint": (9, "image"), "hint": (8, "image_hint")}


def build(extra):
    """diffusers' networks of one kind of decoder, and ours with their weights, as a stage."""
    torch.manual_seed(0)
    channels, addition = EXTRA[extra]
    unet = UNet2DConditionModel(
        sample_size=64,
        in_channels=channels,
        out_channels=8,
        down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        attention_head_dim=16,
        cross_attention_dim=CROSS,
        resnet_time_scale_shift="scale_shift",
        encoder_hid_dim=DIM,
        encoder_hid_dim_type="image_proj",
        addition_embed_type=addition,
    ).eval()
    # The number of image tokens is no argument of theirs, nor the embeddings' width one of the time embedding.
    unet.encoder_hid_proj.num_image_text_embeds = TOKENS
    unet.encoder_hid_proj.image_embeds = torch.nn.Linear(DIM, TOKENS * CROSS)
    unet.add_embedding.image_proj = torch.nn.Linear(DIM, 4 * 32)
    movq = VQModel(
        latent_channels=4,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        num_vq_embeddings=64,
        vq_embed_dim=4,
        norm_type="spatial",
        down_block_types=(*("DownEncoderBlock2D",) * 3, "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", *("UpDecoderBlock2D",) * 3),
    ).eval()
    for parameter in (*unet.parameters(), *movq.parameters()):
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    config = KANDINSKY_2_2.decoder
    sizes = {"channels": 32, "depth": 1, "head_channels": 16, "context_width": CROSS, "in_channels": channels}
    config = replace(
        config,
        clip_dim=DIM,
        extra_tokens=TOKENS,
        extra_input=extra,
        unet=replace(config.unet, **sizes),
        autoencoder=replace(config.autoencoder, channels=(32, 32, 64, 64), depth=1, codes=64),
    )
    stored = stored_decoder(config)
    for network, rule, source in (
        (stored.network, kandinsky_rule, unet.state_dict()),
        (stored.autoencoder, autoencoder_rule, movq.state_dict()),
    ):
        state, used = {}, []
        for name, target in network.state_dict().items():
            state[name] = torch.cat([source[key] for key in rule(name).sources]).view_as(target)
            used += rule(name).sources
        assert sorted(used) == sorted(source)
        network.load_state_dict(state)
    null = Embedding(torch.randn(1, DIM), config.clip_id)
    placed = [
        Placed(lambda dtype, part=part: part, torch.device("cpu"), torch.float32, packs=False)
        for part in (stored.network, stored.autoencoder)
    ]
    decoder = Decoder(config, placed[0], autoencoder=placed[1], encode_null_image=lambda: null)
    scheduler = DDPMScheduler(
        beta_schedule="linear",
        beta_start=0.00085,
        beta_end=0.012,
        variance_type="learned_range",
        clip_sample=True,
        clip_sample_range=2.0,
        thresholding=True,
        sample_max_value=2.0,
        timestep_spacing="linspace",
    )
    embed = Embedding(torch.randn(1, DIM), config.clip_id)
    return SimpleNamespace(unet=unet, movq=movq, scheduler=scheduler, decoder=decoder, embed=embed, null=null)


@pytest.fixture(params=EXTRA)
def both(request):
    return build(request.param)


@pytest.fixture
def run(monkeypatch):
    """run(pipeline class, networks, **arguments) -> their steps' x_t, all calls of their UNet, what the scheduler got,
    and the picture, with the noise of our seed."""

    def call(kind, both, **arguments):
        noise = ItemNoise(SEED, 1, "decoder")
        for module in ("schedulers.scheduling_ddpm", "pipelines.kandinsky2_2.pipeline_kandinsky2_2_img2img"):
            monkeypatch.setattr(f"diffusers.{module}.randn_tensor", lambda shape, **_: noise.draw(tuple(shape)[1:]))
        seen = SimpleNamespace(x_t=[], inputs=[], guided=[], t=[])
        forward, step = both.unet.forward, both.scheduler.step

        def record_forward(sample, timestep, *args, **options):
            seen.inputs.append(sample)
            return forward(sample, timestep, *args, **options)

        def record_step(output, t, sample, **options):
            result = step(output, t, sample, **options)
            seen.guided.append(output)
            seen.t.append(int(t))
            seen.x_t.append(result[0])
            return result

        monkeypatch.setattr(both.unet, "forward", record_forward)
        monkeypatch.setattr(both.scheduler, "step", record_step)
        pipeline = kind(both.unet, both.scheduler, both.movq)
        pipeline.set_progress_bar_config(disable=True)
        if kind is not KandinskyV22Img2ImgPipeline:
            arguments["latents"] = noise.draw(SHAPE)
        seen.picture = torch.from_numpy(
            pipeline(
                image_embeds=both.embed.vector, negative_image_embeds=both.null.vector, num_inference_steps=STEPS,
                guidance_scale=4.0, output_type="np", **{"height": HEIGHT, "width": WIDTH} | arguments,
            ).images
        )  # fmt: skip
        return seen

    return call


def picture(rows=1, seed=3):
    small = torch.rand(rows, 3, 6, 9, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1).movedim(1, -1)


def with_hint(both, hint):
    return both.decoder if hint is None else both.decoder.with_depth_hint(hint)


@pytest.mark.parametrize("both", ["none", "hint"], indirect=True)
def test_every_step_and_the_picture_are_the_pipelines(both, run):
    controlled = both.decoder.config.extra_input == "hint"
    hint = picture(seed=4) if controlled else None
    kind = KandinskyV22ControlnetPipeline if controlled else KandinskyV22Pipeline
    seen = run(kind, both, **({"hint": hint.movedim(-1, 1)} if controlled else {}))
    states = []
    steps = with_hint(both, hint).sample_steps(
        both.embed, seed=SEED, steps=STEPS, guidance_scale=4.0, width=WIDTH, height=HEIGHT
    )
    ours = finish(steps, states.append)
    assert [state.t for state in states] == seen.t
    for state, theirs in zip(states, seen.x_t, strict=True):
        assert (state.x_t - theirs).abs().max() <= 1e-3 * theirs.abs().max(), state.index
    assert ours.shape == (1, HEIGHT, WIDTH, 3) and seen.picture.std() > 0.05
    assert (ours - seen.picture).abs().max() <= 1e-3


@pytest.mark.parametrize("both", ["inpaint"], indirect=True)
def test_the_inpaint_network_is_told_and_says_what_the_pipelines_does(both, run):
    """Our steps differ: the known part of x_0 is replaced, not that of x_t. So their x_t are given to our network."""
    image, mask = picture(), torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 32:72, 40:104] = 1.0  # along latent pixels
    seen = run(KandinskyV22InpaintPipeline, both, image=image.movedim(-1, 1) * 2 - 1, mask_image=mask[:, None])
    decoder, calls = both.decoder, []
    network = decoder.network.read()
    forward = network.forward

    def record(x_t, t, conditioning, **options):
        calls.append(conditioning)
        return forward(x_t, t, conditioning, **options)

    network.forward = record
    start = PictureStart(image, mask)
    decoder.sample(both.embed, noise=start, steps=2, guidance_scale=4.0, width=WIDTH, height=HEIGHT)
    conditioning = calls[0]
    for given, theirs, t in zip(seen.inputs, seen.guided, seen.t, strict=True):
        # Theirs are [unconditional; conditional] rows, ours the other way round.
        assert (conditioning.extra - given[:, 4:]).abs().max() <= 1e-4 * given[:, 4:].abs().max()
        with torch.no_grad():
            output = forward(given[:, :4], torch.tensor([t, t]), conditioning)
        conditional, unconditional = output.chunk(2)
        guided = torch.cat([torch.lerp(unconditional[:, :4], conditional[:, :4], 4.0), conditional[:, 4:]], dim=1)
        assert (guided - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    keep = conditioning.extra[:1, 4:]
    assert keep.sum() == 16 * 24 - (7 * 10 - 2)  # a latent pixel more is painted on each side, but at two corners


@pytest.mark.parametrize("both", ["none"], indirect=True)
def test_a_picture_starts_at_the_pipelines_latents(both, run):
    """Less strength is fewer steps there and finer ones here; from a level of both, the same x_t sets out."""
    image = picture()[:, :, :HEIGHT]  # square: the pipeline takes width and height for each other
    seen = run(KandinskyV22Img2ImgPipeline, both, image=image.movedim(-1, 1), strength=0.5, width=HEIGHT)
    decoder, given = both.decoder, []
    network = decoder.network.read()
    forward = network.forward

    def record(x_t, t, conditioning, **options):
        given.append(x_t)
        return forward(x_t, t, conditioning, **options)

    network.forward = record
    start = PictureStart(image, strength=seen.t[0] / 999)
    states = []
    options = {"seed": SEED, "steps": 3, "guidance_scale": 4.0, "width": HEIGHT, "height": HEIGHT}
    finish(decoder.sample_steps(both.embed, noise=start, **options), states.append)
    assert states[0].t == seen.t[0]
    assert (given[0] - seen.inputs[0]).abs().max() <= 1e-4 * seen.inputs[0].abs().max()
