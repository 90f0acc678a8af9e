"""From files to handles: lazy, strict, in the asked dtype, and the same pictures as the networks they came from."""

import copy
import gc
import shutil
import weakref
from dataclasses import replace

import pytest
import torch

from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError
from comfyui_unclip.unclip_core.checkpoints.loading import load_network
from comfyui_unclip.unclip_core.checkpoints.native import save_stage
from comfyui_unclip.unclip_core.clip.model import Clip
from comfyui_unclip.unclip_core.clip.networks import build_network as build_clip
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
from comfyui_unclip.unclip_core.models.integers import why_no_integers
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


@pytest.fixture
def latent(tiny_latent_models, tmp_path):
    """A folder of its own with the stack `tiny-latent`."""
    shutil.copytree(tiny_latent_models / "tiny-latent", tmp_path / "tiny-latent")
    return tmp_path / "tiny-latent"


def test_a_latent_stack_runs_at_full_size(latent, recwarn):
    stack = load_stack(catalog.read_stack(latent), "fp32", "cpu")
    picture = stack.text_to_image("a red star", seed=1)
    assert picture.shape == (1, 128, 128, 3) and picture.std() > 0.01 and not recwarn.list
    again = load_stack(catalog.read_stack(latent), "fp32", "cpu").text_to_image("a red star", seed=1)
    assert torch.equal(picture, again)


def test_upsamplers_of_a_latent_stack_pass_pictures_and_say_so_once(latent):
    stack, said, image = load_stack(catalog.read_stack(latent), "fp32", "cpu"), [], torch.rand(2, 40, 50, 3)
    for upsampler, side in ((stack.upsampler_256, 256), (stack.upsampler_1024, 1024)):
        upsampler.check_size("Upsample", side)
        assert torch.equal(upsampler.sample(image, steps=3, seed=1, crop="squash", warn=said.append), image)
    assert said == [
        "Upsample: model 'tiny-latent' paints at full size, so its upsamplers pass pictures through unchanged; set "
        "width and height of Decoder Sample for larger ones"
    ]
    with pytest.raises(ValueError, match=r"Upsample: image must be \(B, H, W, C\)"):
        stack.upsampler_256.sample(image[0])
    other = load_stack(catalog.read_stack(latent), "fp32", "cpu")
    other.upsampler_256.sample(image, warn=said.append)
    assert len(said) == 2


@pytest.mark.parametrize(("dtype", "own", "exact"), [("bf16", "bfloat16", "bfloat16"), ("fp16", "float16", "float32")])
def test_an_autoencoder_never_runs_in_float16(latent, dtype, own, exact):
    decoder = load_stack(catalog.read_stack(latent), dtype, "cpu").decoder
    kinds = [{str(p.dtype) for p in placed.read().parameters()} for placed in (decoder.network, decoder.autoencoder)]
    assert kinds == [{f"torch.{own}"}, {f"torch.{exact}"}]


def test_the_image_tower_is_asked_for_the_null_embedding_once_and_then_never(latent, monkeypatch):
    asked = []
    encode = Clip.encode_null_image
    monkeypatch.setattr(Clip, "encode_null_image", lambda self: (asked.append(1), encode(self))[1])
    decoder = load_stack(catalog.read_stack(latent), "fp32", "cpu").decoder
    null = decoder.null_embed()
    assert decoder.null_embed() is null and null.vector.norm().item() == pytest.approx(1.0, abs=1e-5)
    stack = load_stack(catalog.read_stack(latent), "fp32", "cpu")
    assert torch.equal(stack.decoder.null_embed().vector, null.vector) and len(asked) == 1
    assert not stack.clip.placed.loaded


def test_the_null_embedding_is_that_of_a_picture_which_is_zero_after_normalisation(latent):
    clip = load_stack(catalog.read_stack(latent), "fp32", "cpu").clip
    mean = torch.tensor(clip.config.image_mean).expand(1, clip.image_size, clip.image_size, 3)
    assert torch.allclose(clip.encode_null_image().vector, clip.encode_image(mean).vector, atol=1e-5)


def test_a_null_embedding_that_no_tower_can_give_is_refused(latent):
    path = latent / "clip.safetensors"
    config = replace(load_stage(path)[1], towers=("text",))
    state = {name: value for name, value in load_stage(path)[2].items() if not name.startswith("visual.")}
    save_stage(path, state, "clip", config)
    stack = load_stack(catalog.read_stack(latent), "fp32", "cpu")
    embed = stack.prior.sample(stack.clip.encode_text(["a red star"]))
    with pytest.raises(ValueError, match=r"Decoder Sample: this model's null embedding .* no image tower .* add that"):
        stack.decoder.sample(embed)
    assert stack.decoder.sample(embed, negative_embed=embed).shape == (1, 128, 128, 3)
    path.unlink()
    stack = load_stack(catalog.read_stack(latent), "fp32", "cpu")
    with pytest.raises(ValueError, match="model 'tiny-latent' has no clip stage"):
        stack.decoder.null_embed()


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

    def adopt(self, module, leave):
        return module

    def room(self, adopted, weights, need):
        return weights

    def bring(self, adopted, need):
        self.brought.append(([type(module).__name__ for module in adopted], need))


def test_a_manager_places_every_network_clip_included(folder):
    manager = Manager()
    stack = load_stack(catalog.read_stack(folder), "fp32", "cpu", manager=manager)
    run(stack)
    assert [names for names, _ in manager.brought] == [
        ["CaptionTower"],
        ["CaptionTower"],  # for the unconditional text
        ["PriorNetwork"],
        ["DecoderNetwork"],
        ["UpsamplerNetwork"],
    ]
    assert all(need > 10_000 for names, need in manager.brought if names != ["CaptionTower"])


def test_clip_guidance_has_both_networks_in_place_for_the_whole_run(folder):
    manager = Manager()
    stack = load_stack(catalog.read_stack(folder), "fp32", "cpu", manager=manager)
    text = stack.clip.encode_text(["a red star"])
    stack.decoder.with_clip_guidance(stack.clip, 1.0).sample(None, text, steps=2)
    assert [names for names, _ in manager.brought][-2:] == [["CaptionTower"], ["DecoderNetwork", "CLIP"]]


@pytest.mark.skipif(bool(why_no_integers(torch.device("cpu"))), reason="this processor has no int8 operators")
def test_integers_are_not_compiled(folder):
    with pytest.raises(ValueError, match=r"compile does not go with dtype int8.*turn compile off"):
        load_stack(catalog.read_stack(folder), "int8", "cpu", compiled=True)
