"""From files to handles: lazy, strict, in the asked dtype, and the same pictures as the networks they came from."""

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch

from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError
from comfyui_unclip.unclip_core.checkpoints.loading import load_network
from comfyui_unclip.unclip_core.checkpoints.native import load_stage, save_stage
from comfyui_unclip.unclip_core.clip.model import build_network as build_clip
from comfyui_unclip.unclip_core.config import (
    ClipConfig,
    ClipTextConfig,
    ClipVisionConfig,
    DecoderConfig,
    PriorConfig,
    SamplingConfig,
    UNetConfig,
    UpsamplerConfig,
)
from comfyui_unclip.unclip_core.models.build import build_network
from comfyui_unclip.unclip_core.runtime.placement import Placed
from comfyui_unclip.unclip_core.stack import load_stack

CLIP = ClipConfig(
    "tiny",
    16,
    16,
    8,
    architecture=None,
    pretrained=None,
    vision=ClipVisionConfig(16, 1, 16, 8, 16),
    text=ClipTextConfig(16, 1, 2),
    vocabulary=("red", "star"),
)
UNET = UNetConfig(16, 3, 6, 16, (1, 2), 1, (8,), 8, 16, norm_groups=8)
SR_UNET = replace(UNET, image_size=32, in_channels=6, out_channels=3, attention_resolutions=(), context_width=0)
SAMPLING = SamplingConfig("ddpm", 2, 2.0)
CONFIGS = {
    "clip": CLIP,
    "prior": PriorConfig("tiny", "tiny/prior", 16, 16, 8, 16, 1, 2, sampling=SAMPLING),
    "decoder": DecoderConfig("tiny", "tiny/decoder", 16, 16, unet=UNET, sampling=SAMPLING),
    "upsampler_256": UpsamplerConfig(16, 32, unet=SR_UNET, sampling=SAMPLING),
}


@pytest.fixture
def folder(tmp_path, randomise):
    """A tiny stack with a CLIP, a prior, a decoder and one upsampler, all with random weights."""
    for stage, config in CONFIGS.items():
        network = build_clip(config) if stage == "clip" else randomise(build_network(stage, config))
        save_stage(tmp_path / "tiny" / f"{stage}.safetensors", network.state_dict(), stage, config)
    return tmp_path / "tiny"


def run(stack):
    """Caption to upsampled picture."""
    text = stack.clip.encode_text(["red star"])
    embed = stack.prior.sample(text, seed=1)
    image = stack.decoder.sample(embed, text, seed=2)
    return embed.vector, image, stack.upsampler_256.sample(image, seed=3)


def test_a_whole_stack_runs(folder):
    stack = load_stack(catalog.read_stack(folder), "fp32", "cpu")
    embed, image, large = run(stack)
    assert embed.shape == (1, 16) and image.shape == (1, 16, 16, 3) and large.shape == (1, 32, 32, 3)
    assert all(result.isfinite().all() and result.std() > 0 for result in (embed, image, large))
    assert all(torch.equal(a, b) for a, b in zip(run(stack), (embed, image, large), strict=True))


def test_weights_are_the_files(folder):
    network = load_network(folder / "decoder.safetensors")
    state = load_stage(folder / "decoder.safetensors")[2]
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert not any(value.is_meta for value in network.state_dict().values())


def test_an_inversion_is_as_exact_as_the_file_whatever_the_stack_runs_in(folder):
    """Not in float32 over weights that were rounded to the stack's dtype when they were read."""
    image = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0))
    found = {}
    for dtype in ("fp32", "bf16", "fp16"):
        decoder = load_stack(catalog.read_stack(folder), dtype, "cpu").decoder
        noise = decoder.invert(image, steps=4)
        found[dtype] = torch.cat([noise.x_T, decoder.sample(None, noise=noise).movedim(-1, 1)])
    assert torch.allclose(found["bf16"], found["fp32"], atol=1e-6)
    assert torch.allclose(found["fp16"], found["fp32"], atol=1e-6)


@pytest.mark.parametrize(("dtype", "wanted"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_weights_are_in_the_asked_dtype(folder, dtype, wanted):
    stack = load_stack(catalog.read_stack(folder), dtype, "cpu")
    for stage in ("prior", "decoder", "upsampler_256"):
        assert {parameter.dtype for parameter in getattr(stack, stage).network.read().parameters()} == {wanted}
    assert {parameter.dtype for parameter in stack.clip.placed.read().parameters()} == {torch.float32}


def test_nothing_is_read_before_use(folder):
    entry = catalog.read_stack(folder)
    (folder / "decoder.safetensors").unlink()
    stack = load_stack(entry, "fp32", "cpu")
    assert not stack.prior.network.loaded
    text = stack.clip.encode_text(["star"])
    stack.prior.sample(text)
    assert stack.prior.network.loaded and not stack.upsampler_256.network.loaded
    with pytest.raises(
        CheckpointError, match=r"decoder.safetensors: cannot be read .*put the file back, or .*`unclip pull`"
    ):
        stack.decoder.sample(None, text)


def test_reading_can_be_ended_between_two_tensors_and_begun_anew(folder):
    class Cancelled(Exception):
        pass

    left = [3]

    def check():
        left[0] -= 1
        if left[0] < 0:
            raise Cancelled

    stack = load_stack(catalog.read_stack(folder), "bf16", "cpu", check=check)
    with pytest.raises(Cancelled):
        stack.clip.encode_text(["star"])
    for stage in ("prior", "decoder", "upsampler_256"):
        left[0] = 3
        with pytest.raises(Cancelled):
            getattr(stack, stage).network.read()
        assert not getattr(stack, stage).network.loaded and left == [-1]
    left[0] = 10_000
    text = stack.clip.encode_text(["star"])
    embed = stack.prior.sample(text)
    assert stack.decoder.sample(embed, text).shape[0] == 1


def test_a_dropped_stack_frees_its_networks_at_once(folder):
    """Not when Python next looks for circles of references: gigabytes would wait for that."""
    stack = load_stack(catalog.read_stack(folder), "fp32", "cpu")
    run(stack)
    networks = [weakref.ref(getattr(stack, stage).network.read()) for stage in ("prior", "decoder")]
    gc.disable()
    try:
        del stack
        assert [network() for network in networks] == [None, None]
    finally:
        gc.enable()


def test_a_missing_stage_says_so_when_used(folder):
    stack = load_stack(catalog.read_stack(folder), "fp32", "cpu")
    for stage in ("upsampler_1024", "ar_prior"):
        expected = rf"model 'tiny' has no {stage} stage \(it has clip, prior, decoder, upsampler_256\); load a model"
        with pytest.raises(ValueError, match=expected):
            getattr(stack, stage).sample(torch.zeros(1, 32, 32, 3))
        copy.copy(getattr(stack, stage))  # the editor may copy and compare what its cache holds


def test_the_null_text_needs_the_stacks_clip(folder):
    (folder / "clip.safetensors").unlink()
    stack = load_stack(catalog.read_stack(folder), "fp32", "cpu")
    with pytest.raises(ValueError, match="model 'tiny' has no clip stage"):
        stack.decoder.null_text()


def test_weights_of_another_shape_are_refused(folder):
    path = folder / "prior.safetensors"
    save_stage(path, load_stage(path)[2], "prior", replace(CONFIGS["prior"], width=32))
    with pytest.raises(CheckpointError, match=r"prior.safetensors: the weights do not fit PriorNetwork \(of the wrong"):
        load_network(path)


def test_matrices_stay_in_the_mapped_file(folder):
    """On a CPU nothing is copied when the file's dtype is the one to run in, except kernels, which change layout."""
    path = folder / "prior.safetensors"
    save_stage(path, load_stage(path)[2], "prior", CONFIGS["prior"], dtype=torch.bfloat16)
    network = load_network(path)
    before = network.text_in.weight.data_ptr()
    assert Placed(lambda dtype: network, torch.device("cpu"), torch.bfloat16).read().text_in.weight.data_ptr() == before


def test_unknown_stage():
    with pytest.raises(ValueError, match="no network for stage 'painter'; choose one of prior, decoder"):
        build_network("painter", None)


class Manager:
    """Remembers what it was asked to bring; everything lies where it runs already."""

    def __init__(self):
        self.brought = []

    def adopt(self, module):
        return module

    def bring(self, adopted, need):
        self.brought.append(([type(module).__name__ for module in adopted], need))


def test_a_manager_places_every_network_clip_included(folder):
    manager = Manager()
    stack = load_stack(catalog.read_stack(folder), "fp32", "cpu", manager=manager)
    run(stack)
    assert [names for names, _ in manager.brought] == [
        ["CLIP"],
        ["CLIP"],  # for the unconditional text
        ["PriorNetwork"],
        ["DecoderNetwork"],
        ["UpsamplerNetwork"],
    ]
    assert all(need > 10_000 for names, need in manager.brought if names != ["CLIP"])


def test_clip_guidance_has_both_networks_in_place_for_the_whole_run(folder):
    manager = Manager()
    stack = load_stack(catalog.read_stack(folder), "fp32", "cpu", manager=manager)
    text = stack.clip.encode_text(["a red star"])
    stack.decoder.with_clip_guidance(stack.clip, 1.0).sample(None, text, steps=2)
    assert [names for names, _ in manager.brought][-2:] == [["CLIP"], ["DecoderNetwork", "CLIP"]]
