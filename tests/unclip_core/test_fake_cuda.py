"""Every run on a GPU, without one: on fake tensors of full size, whose arithmetic costs nothing.

What is asked: that every tensor is on the device that it should be on, and that no step of a loop makes the host wait.
Networks have their full widths and pictures; their depths too with UNCLIP_FULL_SIZE=1, which takes minutes.
"""

import os
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from comfyui_unclip.tests.unclip_core import fake_gpu
from comfyui_unclip.unclip_core.clip.model import Clip
from comfyui_unclip.unclip_core.config import ARPriorConfig, ClipTextConfig, ClipVisionConfig
from comfyui_unclip.unclip_core.models.ar_prior import ARPriorNetwork
from comfyui_unclip.unclip_core.models.build import painting_network
from comfyui_unclip.unclip_core.models.decoder import build_autoencoder
from comfyui_unclip.unclip_core.models.lora import Lora, attention_layers, new_branches
from comfyui_unclip.unclip_core.models.multilingual import MultilingualEncoder
from comfyui_unclip.unclip_core.models.prior import PriorCache, PriorNetwork
from comfyui_unclip.unclip_core.models.text_encoder import TextTower
from comfyui_unclip.unclip_core.models.unet import DeepFeatures
from comfyui_unclip.unclip_core.models.upsampler import UpsamplerNetwork
from comfyui_unclip.unclip_core.presets import (
    ECLIPSE_KARLO,
    KANDINSKY_2_1,
    KANDINSKY_2_2,
    KARLO,
    PAPER,
    STABLE_UNCLIP_L,
    STORYBOOK,
)
from comfyui_unclip.unclip_core.runtime import device as devices
from comfyui_unclip.unclip_core.runtime.placement import Placed
from comfyui_unclip.unclip_core.stages import ARPrior, Decoder, Prior, Upsampler, inversion
from comfyui_unclip.unclip_core.stages.own_text import OwnText, own_clip_text
from comfyui_unclip.unclip_core.stages.run import NanWatch
from comfyui_unclip.unclip_core.types import Embedding, GivenNoise, Inversion, PictureStart, TextEncoding

FULL_SIZE = os.environ.get("UNCLIP_FULL_SIZE") == "1"
GIB = 2**30
STEPS = 3
PICTURES = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    """What is asked of CUDA itself; and NaN flags are read at a run's end alone, not every quarter of a second."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *device: (80 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda *device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda *device: 0)
    monkeypatch.setattr(nn.Module, "_apply", fake_gpu.rebinding_apply)
    monkeypatch.setattr(NanWatch, "INTERVAL", float("inf"))
    monkeypatch.setattr(inversion, "fingerprint", lambda values: "")  # of numbers, which there are none
    # Its engine asks CUDA for streams, which fake tensors have none of; what is forward of a gradient runs.
    monkeypatch.setattr(torch.autograd, "grad", lambda outputs, inputs: (torch.zeros_like(inputs),))
    devices._norms_keep_channels_last.cache_clear()
    yield
    devices._norms_keep_channels_last.cache_clear()


@pytest.fixture
def gpu():
    return fake_gpu.FakeGpu()


def cut(config):
    """The config with as few layers as have every kind of layer in them; widths, heads and sizes stay."""
    if FULL_SIZE:
        return config
    changes = {}
    for name in ("unet", "autoencoder", "text_tower", "multilingual", "text_encoder"):
        if (part := getattr(config, name, None)) is not None:
            changes[name] = replace(part, depth=1)
    if hasattr(config, "depth"):
        changes["depth"] = 2
    if hasattr(config, "components"):
        changes["components"] = 5
    return replace(config, **changes)


def placed(build):
    return Placed(lambda dtype: build(), torch.device("cuda:0"), torch.bfloat16)


def text(stack=KARLO, rows=2):
    clip = stack.clip
    return TextEncoding(
        torch.zeros(rows, clip.context_length, clip.text_width),
        torch.ones(rows, clip.embed_dim),
        torch.ones(rows, clip.context_length, dtype=torch.bool),
        torch.ones(rows, clip.context_length, dtype=torch.int64),
        clip.clip_id,
        ("a caption",) * rows,
        clip.normalised,
    )


def embed(stack=KARLO, rows=2):
    return Embedding(torch.ones(rows, stack.clip.embed_dim), stack.clip.clip_id)


def make_prior(stack=KARLO):
    config = cut(stack.prior)
    powers = torch.linspace(0.1, 0.9, config.schedule.timesteps)
    return Prior(config, placed(lambda: PriorNetwork(config)), lambda: text(stack, 1), lambda: powers)


def make_decoder(stack=KARLO, extra_input="none"):
    config = stack.decoder
    if extra_input != "none":
        channels = {"inpaint": 2 * config.channels + 1, "hint": 2 * config.channels}[extra_input]
        config = replace(config, extra_input=extra_input, unet=replace(config.unet, in_channels=channels))
    config = cut(config)
    parts = {}
    if config.autoencoder is not None:
        parts["autoencoder"] = placed(lambda: build_autoencoder(config.autoencoder))
    if config.text_tower is not None:
        parts["own_text"] = own_clip_text(config.text_tower, placed(lambda: TextTower(config.text_tower)))
    if config.multilingual is not None:  # its tokenizer is a file of Kandinsky's
        ids = torch.ones(2, 77, dtype=torch.int64)
        parts["own_text"] = OwnText(
            placed(lambda: MultilingualEncoder(config.multilingual, config.clip_dim)),
            lambda captions: (ids[: len(captions)], ids[: len(captions)] > 0),
            lambda network, ids, mask: network(ids, mask),
        )
    network = placed(lambda: painting_network(config))
    return Decoder(config, network, lambda: text(stack, 1), encode_null_image=lambda: embed(stack, 1), **parts)


def make_upsampler(config):
    config = cut(config)
    networks = [placed(lambda: UpsamplerNetwork(config)) for _ in range(1 + config.final_network)]
    return Upsampler(config, *networks)


def make_clip():
    config = KARLO.clip
    if not FULL_SIZE:
        vision = ClipVisionConfig(layers=2, width=1024, head_width=64, patch_size=14, image_size=224)
        words = ClipTextConfig(width=768, heads=12, layers=2, vocabulary_size=49408)
        config = replace(config, architecture=None, pretrained=None, vision=vision, text=words)

    def weights(network, **parts):
        return {name: torch.empty(value.shape) for name, value in network.state_dict().items()}

    return Clip(config, weights, "cuda:0")


def with_a_lora(decoder):
    with torch.device("meta"):
        layers = attention_layers(painting_network(decoder.config))
    layers = dict(list(layers.items())[:2])
    return decoder.with_lora(Lora.of("test", new_branches(layers, rank=4)))


def repainting(strength=1.0):
    return PictureStart(PICTURES, torch.ones(2, 64, 64).tril(), strength=strength)


def inverted(decoder):
    config = decoder.config
    timesteps = tuple(reversed(range(99, 900, 200)))
    side = config.unet.image_size
    record = Inversion(timesteps[:STEPS], config.decoder_id, 1.0, "", "")
    return GivenNoise(torch.zeros(2, config.channels, side, side), record)


def decoding(stack=KARLO, extra_input="none", change=lambda decoder: decoder, noise=None, **options):
    def steps():
        decoder = change(make_decoder(stack, extra_input))
        given = {} if noise is None else {"noise": noise(decoder) if noise is inverted else noise}
        condition = {"text": text(stack)} if decoder.reads_text else {}
        return decoder.sample_steps(embed(stack), **condition, **given, **({"steps": STEPS} | options))

    return steps


def guided(decoder):
    return decoder.with_clip_guidance(make_clip(), 1.0) if decoder.config.clip_dim == 768 else decoder


# What runs, and how many draws of noise its steps but the first take.
RUNS = {
    "prior": (lambda: make_prior().sample_steps(text(), steps=STEPS), 1),
    "prior, analytic": (lambda: make_prior().sample_steps(text(), steps=STEPS, sampler="analytic_ddpm"), 1),
    "prior, from an embedding": (
        lambda: make_prior(KANDINSKY_2_2).sample_steps(
            text(KANDINSKY_2_2),
            steps=STEPS,
            sampler="dpmpp_2m",
            negative_text=text(KANDINSKY_2_2, 1),
            start_embed=embed(KANDINSKY_2_2),
            strength=0.5,
        ),
        0,
    ),
    "prior, learned null": (lambda: make_prior(PAPER).sample_steps(text(PAPER), guidance_scale=2.0, steps=STEPS), 1),
    "prior, one pass": (lambda: make_prior(ECLIPSE_KARLO).sample_steps(text(), warn=print), 0),
    "decoder": (decoding(), 1),
    "decoder, ddim": (decoding(sampler="ddim", eta=0.5, count=2), 1),
    "decoder, unipc": (decoding(sampler="unipc", guidance_scale=1.0), 0),
    "decoder, repainting": (decoding(noise=repainting()), 1),
    "decoder, inverted": (decoding(noise=inverted, steps=None), 0),
    "decoder, CLIP guidance and a LoRA": (decoding(change=lambda decoder: with_a_lora(guided(decoder))), 1),
    "decoder, Guidance Interval and Step Cache": (
        decoding(change=lambda decoder: decoder.with_guidance_interval(0.2, 0.7).with_step_cache(2), count=2),
        1,
    ),
    "paper's decoder": (decoding(PAPER), 1),
    "Kandinsky 2.2": (decoding(KANDINSKY_2_2), 1),
    "Kandinsky 2.2, from a picture": (decoding(KANDINSKY_2_2, noise=PictureStart(PICTURES, strength=0.5)), 1),
    "Kandinsky 2.2, inpaint": (decoding(KANDINSKY_2_2, "inpaint", noise=repainting()), 1),
    "Kandinsky 2.2, hint": (decoding(KANDINSKY_2_2, "hint", lambda decoder: decoder.with_depth_hint(PICTURES)), 1),
    "Kandinsky 2.1, CLIP guidance": (decoding(KANDINSKY_2_1, change=guided), 1),
    "Stable unCLIP": (decoding(STABLE_UNCLIP_L), 0),
    "storybook's decoder": (decoding(STORYBOOK), 1),
    "storybook's upsampler": (
        lambda: make_upsampler(STORYBOOK.upsampler_1024).sample_steps(PICTURES, steps=STEPS, sampler="ddpm"),
        1,
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_no_step_waits(gpu, name):
    make, draws = RUNS[name]
    run = fake_gpu.watched(gpu, make())
    result = getattr(run.result, "vector", run.result)
    assert result.device.type == "cpu" and len(result) == (4 if "ddim" in name or "Step Cache" in name else 2)
    assert Counter((each.kind, each.where) for each in run.loop()) == Counter({("pinned", "noise.upload"): draws})


def test_an_upsampler_waits_only_where_its_last_network_takes_over(gpu):
    run = fake_gpu.watched(gpu, make_upsampler(KARLO.upsampler_256).sample_steps(PICTURES, steps=STEPS))
    assert run.result.shape == (2, 256, 256, 3) and run.result.device.type == "cpu"
    loop = [each for step in run.steps[1:-1] for each in step]
    assert [(each.kind, each.where) for each in loop] == [("pinned", "noise.upload")]


def test_the_autoregressive_prior_never_waits(gpu):
    config = cut(ARPriorConfig())
    prior = ARPrior(config, placed(lambda: ARPriorNetwork(config)))
    run = fake_gpu.watched(
        gpu, prior.sample_steps(text(PAPER), guidance_scale=2.0, candidates=2, negative_text=text(PAPER))
    )
    assert run.result.vector.shape == (2, 1024) and len(run.steps) == config.components + 1
    assert run.loop() == []


@pytest.mark.parametrize("stack", [KARLO, KANDINSKY_2_2], ids=lambda stack: stack.name)
def test_an_inversion_reads_one_flag_for_each_refinement(gpu, stack):
    """It goes on only where it must, which only the numbers say."""
    decoder = make_decoder(stack)
    condition = {"text": text(stack)} if decoder.reads_text else {}
    run = fake_gpu.watched(gpu, decoder.invert_steps(PICTURES, embed(stack), **condition, steps=STEPS, refine=1))
    assert run.result.x_T.shape == (2, decoder.config.channels, 64, 64) and run.result.x_T.device.type == "cpu"
    refined = run.steps[:STEPS]
    for step in refined[1:]:
        assert [(each.kind, each.where) for each in step] == [("read", "invert._invert_step")]
    # Then plain inversion and both ways back, which a fake flag always asks for; and the first picture's of latents.
    rest = {each.where for step in run.steps[STEPS : 4 * STEPS] for each in step}
    assert rest <= {"invert.ddim_invert"} and len(run.steps) == (4 if stack is KARLO else 5) * STEPS


def test_clip_encodes_on_the_device(gpu):
    clip = make_clip()
    with gpu:
        read, shown, nothing = clip.encode_text(["a cat"]), clip.encode_image(PICTURES), clip.encode_null_image()
    assert read.embed.shape == nothing.vector.shape == (1, 768) and shown.vector.shape == (2, 768)
    assert {each.device.type for each in (read.tokens, read.embed, shown.vector, nothing.vector)} == {"cpu"}


@pytest.mark.parametrize("keeps", [True, False], ids=["this PyTorch", "one whose norms give contiguous maps"])
@pytest.mark.parametrize("stack", [KARLO, KANDINSKY_2_2], ids=lambda stack: stack.name)
def test_maps_keep_one_layout_through_a_network(gpu, monkeypatch, stack, keeps):
    own = F.group_norm
    if not keeps:
        monkeypatch.setattr(F, "group_norm", lambda x, *rest: own(x.contiguous(), *rest))
    layouts = Counter()

    def watch(function, args, kwargs, out):
        if function in (torch.ops.aten.convolution.default, torch.ops.aten.native_group_norm.default):
            x = args[0]
            if x.ndim == 4 and x.shape[1] > 1 and x.shape[-1] * x.shape[-2] > 1:
                layouts[x.is_contiguous(memory_format=torch.channels_last)] += 1

    gpu.watchers.append(watch)
    decoder = make_decoder(stack)
    condition = {"text": text(stack)} if decoder.reads_text else {}
    run = fake_gpu.watched(gpu, decoder.sample_steps(embed(stack), **condition, steps=1))
    assert len(run.steps) == 1 and sum(layouts.values()) > 100
    assert len(layouts) == 1, f"channels-last inputs and others: {layouts}"
    assert keeps or not layouts[True]


def test_networks_are_one_graph_each(gpu):
    """What runs once a step, for `torch.compile`: without a break, whatever its numbers."""
    graphs = []

    def count(graph, inputs):
        graphs.append({each.device.type for each in inputs if isinstance(each, torch.Tensor)})
        return graph.forward

    def compiled(function):
        return torch.compile(function, fullgraph=True, backend=count)

    with gpu.fake_tensors(), torch.device("cuda:0"), torch.no_grad():
        config = cut(KARLO.prior)
        prior = PriorNetwork(config).eval()
        cache = (torch.zeros(4, config.heads, 78, config.width // config.heads),) * 2
        cache = PriorCache((cache,) * config.depth, torch.ones(4, 1, 3, 81, dtype=torch.bool))
        step = compiled(prior.step)
        for _ in range(2):
            assert step(torch.zeros(4, 768), None, cache, time=torch.zeros(1, config.width)).shape == (4, 768)
        for stack in (KARLO, KANDINSKY_2_2, STABLE_UNCLIP_L)[: None if FULL_SIZE else 1]:
            config = cut(stack.decoder)
            decoder, dim, side = painting_network(config).eval(), config.clip_dim, config.unet.image_size
            captions = (torch.zeros(2, 77, config.text_width), torch.ones(2, 77, dtype=torch.bool), torch.zeros(2, dim))
            condition = decoder.condition(torch.zeros(2, dim), *captions)
            step, deep = compiled(decoder), DeepFeatures(depth=2) if stack is KARLO else None
            x_t, time = torch.zeros(2, config.channels, side, side), torch.zeros(1, config.unet.time_width)
            for reuse in (False, True) if deep else (False,):  # Step Cache: a whole step, and one that reuses it
                if deep:
                    deep.reuse = reuse
                painted = step(x_t, None, condition, time=time, deep=deep)
                assert painted.shape == (2, config.unet.out_channels, side, side)
        config = cut(KARLO.upsampler_256)
        picture = torch.zeros(1, 3, 256, 256)
        upsampler = compiled(UpsamplerNetwork(config).eval())
        assert upsampler(picture, None, picture, time=torch.zeros(1, config.unet.time_width)).shape == picture.shape
    assert graphs == [{"cuda"}] * (6 if FULL_SIZE else 4)


def test_what_waits_is_found(gpu):
    """The tests above can fail."""
    with gpu:
        x = torch.zeros(2, 3, device="cuda:0")
        torch.randn(2, 3).to("cuda:0", non_blocking=True)  # as blocking as any: it is not pinned
        torch.randn(2, 3).pin_memory().to("cuda:0")
        torch.randn(2, 3).pin_memory().to("cuda:0", non_blocking=True)
        x[torch.tensor([1])], x.sum().item(), x.cpu(), bool((x > 0).any())
        x.copy_(torch.randn(2, 3))
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.randn(2, 3)
    kinds = [each.kind for each in gpu.crossings]
    assert kinds == ["blocking", "blocking", "pinned", "blocking", "read", "read", "read", "blocking"]
