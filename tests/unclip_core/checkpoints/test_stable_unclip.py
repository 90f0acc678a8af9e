"""Stable unCLIP's folders and single files: known by what is in them, every tensor in its place, errors that help."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers.loaders import single_file_utils

from comfyui_unclip.tests.copies import copy_folder
from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.unclip_core.checkpoints.catalog import list_stacks, read_stack
from comfyui_unclip.unclip_core.checkpoints.convert import convert
from comfyui_unclip.unclip_core.checkpoints.loading import load_network
from comfyui_unclip.unclip_core.checkpoints.states import read_state
from comfyui_unclip.unclip_core.checkpoints.verify import verify_stack
from comfyui_unclip.unclip_core.clip.networks import empty_network
from comfyui_unclip.unclip_core.presets import STABLE_UNCLIP_H, STABLE_UNCLIP_L


@pytest.fixture(scope="module")
def h(stable_unclip, tmp_path_factory):
    """(folder, networks) like stable-diffusion-2-1-unclip."""
    folder = tmp_path_factory.mktemp("models") / "h"
    return folder, stable_unclip.stable_unclip_h(folder)


@pytest.fixture(scope="module")
def models(stable_unclip, karlo, tmp_path_factory):
    """A model folder with a small Karlo and a stable-diffusion-2-1-unclip-small beside it."""
    folder = tmp_path_factory.mktemp("models")
    karlo.write_karlo_folder(folder / "karlo-v1-alpha")
    stable_unclip.stable_unclip_l(folder / "small")
    return folder


def assert_reads(entry, networks):
    """That the stack's files give these networks' numbers."""
    assert entry.problems == () and verify_stack(entry) == []
    decoder = load_network(entry.stages["decoder"])
    unet, vae = networks["unet"].state_dict(), networks["vae"].state_dict()
    network = decoder.network.unet
    assert torch.equal(
        network.mid.attentions[0].mlp_in.weight,
        unet["mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight"],
    )
    for level, up in enumerate(network.up):
        assert torch.equal(
            up.blocks[-1].conv_2.weight, unet[f"up_blocks.{level}.resnets.{len(up.blocks) - 1}.conv2.weight"]
        )
    assert torch.equal(network.up[0].resample.conv.bias, unet["up_blocks.0.upsamplers.0.conv.bias"])
    assert torch.equal(decoder.network.embed_to_time.linear_2.weight, unet["class_embedding.linear_2.weight"])
    assert torch.equal(
        decoder.autoencoder.decoder.levels[0].blocks[1].conv_1.weight, vae["decoder.up_blocks.0.resnets.1.conv1.weight"]
    )
    proj = vae["encoder.mid_block.attentions.0.to_out.0.weight"]
    assert torch.equal(decoder.autoencoder.encoder.middle.attention.proj.weight, proj)
    ids = torch.randint(0, 49408, (2, 77))
    states = networks["text_encoder"](ids).last_hidden_state
    assert (decoder.text_tower(ids) - states).abs().max() <= 1e-4 * states.abs().max()
    clip = empty_network(entry.stages["clip"].config)
    clip.load_state_dict(read_state(entry.stages["clip"], clip), strict=True, assign=True)
    pixels = torch.randn(2, 3, 32, 32)
    embeds = networks["image_encoder"](pixels).image_embeds
    assert (clip.encode_image(pixels) - embeds).abs().max() <= 1e-4 * embeds.abs().max()
    return decoder


@torch.no_grad()
def test_a_folder_is_read_as_diffusers_reads_it(h):
    folder, networks = h
    entry = read_stack(folder)
    decoder = assert_reads(entry, networks)
    assert torch.equal(decoder.normalizer.std, networks["image_normalizer"].std[0])
    assert entry.stages["decoder"].licence == "openrail++"
    config = entry.stages["decoder"].config
    assert (config.schedule.name, config.schedule.prediction, config.schedule.x0_clamp) == ("scaled_linear", "v", None)
    assert (config.sampling.sampler, config.sampling.guidance_scale, config.embed_noise.name) == (
        "ddim",
        10.0,
        "cosine",
    )
    assert (config.text_tower.padding, config.unet.head_channels) == (0, 64)
    assert entry.stages["clip"].config.towers == ("image",) and "prior" not in entry.stages


@torch.no_grad()
@pytest.mark.parametrize("change", ["no index", "names of today", "fp16 beside fp32"])
def test_other_ways_a_folder_may_be_written(stable_unclip, tmp_path, change):
    networks = stable_unclip.stable_unclip_h(tmp_path / "m", as_published=change != "names of today")
    if change == "no index":
        (tmp_path / "m" / "model_index.json").unlink()
    if change == "fp16 beside fp32":
        for name in ("unet", "text_encoder"):
            networks[name].half().save_pretrained(tmp_path / "m" / name, variant="fp16")
            networks[name].float()
        networks = stable_unclip.build_networks(stable_unclip.H, 5)
    entry = read_stack(tmp_path / "m")
    assert_reads(entry, networks)


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_single_file_is_the_folder(h, write_single_stable_unclip, tmp_path, suffix):
    networks = h[1]
    written = write_single_stable_unclip(tmp_path / "sd21" / f"any name{suffix}", networks, whole_text=True)
    entry = read_stack(tmp_path / "sd21")
    decoder = assert_reads(entry, networks)
    assert not decoder.normalizer.mean.any() and (decoder.normalizer.std == 1).all()
    # The file says nothing of the schedule: it is the published one's.
    folder = read_stack(h[0]).stages["decoder"].config
    config = entry.stages["decoder"].config
    assert config.unet == replace(folder.unet, image_size=96, attention_resolutions=(96, 48))
    assert (config.autoencoder, config.text_tower) == (folder.autoencoder, folder.text_tower)
    assert config.schedule == STABLE_UNCLIP_H.decoder.schedule
    # The wire's CLIP is that of the text encoder, whose last block and projection the decoder does not use.
    clip = entry.stages["clip"]
    assert clip.config.towers == ("text", "image") and not clip.config.quick_gelu
    state = read_state(clip, empty_network(clip.config))
    for name in ("text_projection", "transformer.resblocks.2.mlp.c_fc.weight"):
        assert torch.equal(state[name], written[f"cond_stage_model.model.{name}"])


def test_the_single_file_is_named_as_latent_diffusion_names_it(h, write_single_stable_unclip, tmp_path):
    """By diffusers' own converters, which turn it into the networks that it was made of."""
    networks = h[1]
    state = write_single_stable_unclip(tmp_path / "m" / "m.safetensors", networks, whole_text=True)
    unet = single_file_utils.convert_ldm_unet_checkpoint(dict(state), dict(networks["unet"].config))
    vae = single_file_utils.convert_ldm_vae_checkpoint(dict(state), dict(networks["vae"].config))
    for found, name in ((unet, "unet"), (vae, "vae")):
        expected = networks[name].state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key].view_as(value), value) for key, value in expected.items())


def test_the_small_one_speaks_with_karlos_prior(models):
    """Joined in the list, and by itself from what lies beside it; whatever Karlo is stored as."""
    karlo, small = read_stack(models / "karlo-v1-alpha"), read_stack(models / "small")
    listed = list_stacks([models])["small"]
    for entry in (small, listed):
        assert verify_stack(entry) == []
        assert list(entry.stages) == ["clip", "prior", "decoder"]
        assert entry.stages["prior"] == karlo.stages["prior"]
        assert entry.stages["clip"].config.towers == ("text", "image")
        ids = {stage.config.clip_id for stage in entry.stages.values()}
        assert ids == {karlo.stages["clip"].config.clip_id}
    theirs, ours = (
        read_state(entry.stages["clip"], empty_network(entry.stages["clip"].config)) for entry in (karlo, small)
    )
    assert torch.equal(theirs["text_projection"], ours["text_projection"])


def test_a_karlo_of_our_own_lends_its_prior_too(models, tmp_path):
    list(convert(models / "karlo-v1-alpha", tmp_path / "karlo"))
    copy_folder(models / "small", tmp_path / "small")
    entry = read_stack(tmp_path / "small")
    assert verify_stack(entry) == [] and entry.stages["prior"].layout == "native"
    clips = [stage.stages["clip"] for stage in (entry, read_stack(models / "small"))]
    one, two = (read_state(clip, empty_network(clip.config)) for clip in clips)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@torch.no_grad()
def test_karlos_prior_alone_is_enough(models, tmp_path):
    """What `unclip pull stable-diffusion-2-1-unclip-small` takes of Karlo: no index, nothing to paint with."""
    for name in ("prior", "prior_scheduler", "text_encoder", "tokenizer"):
        copy_folder(models / "karlo-v1-alpha" / name, tmp_path / "karlo-v1-alpha-prior" / name)
    copy_folder(models / "small", tmp_path / "small")
    listed = list_stacks([tmp_path])
    lone = listed["karlo-v1-alpha-prior"]
    assert lone.problems == () and list(lone.stages) == ["clip", "prior"]
    assert list(listed["small"].stages) == ["clip", "prior", "decoder"] and verify_stack(listed["small"]) == []


def test_a_prior_of_its_own_is_preferred(models, tmp_path):
    """A folder as StableUnCLIPPipeline saves it; its CLIP may then read no pictures."""
    folder = copy_folder(models / "small", tmp_path / "small")
    copy_folder(models / "karlo-v1-alpha", tmp_path / "karlo-v1-alpha")
    for name in ("prior", "prior_scheduler"):
        copy_folder(models / "karlo-v1-alpha" / name, folder / name)
    for old, new in (("text_encoder", "prior_text_encoder"), ("tokenizer", "prior_tokenizer")):
        copy_folder(models / "karlo-v1-alpha" / old, folder / new)
    shutil.rmtree(folder / "image_encoder")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableUnCLIPPipeline"}))
    entry = list_stacks([tmp_path])["small"]
    assert entry.problems == () and verify_stack(entry) == []
    assert list(entry.stages) == ["clip", "prior", "decoder"]
    assert entry.stages["prior"].path == folder / "prior" and entry.stages["clip"].config.towers == ("text",)


def test_alone_it_has_no_prior(models, tmp_path):
    copy_folder(models / "small", tmp_path / "small")
    assert list(read_stack(tmp_path / "small").stages) == ["clip", "decoder"]
    entry = catalog.find("small", [tmp_path])
    assert entry.stages["clip"].config.towers == ("image",)


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("unet/config.json", {"class_embed_type": "timestep"}, "class_embed_type is 'timestep', expected 'projection'"),
        ("unet/config.json", {"projection_class_embeddings_input_dim": 48}, "is 48, expected 256, twice the 128"),
        (
            "unet/config.json",
            {"attention_head_dim": [1, 3, 2]},
            r"attention_head_dim is \[1, 3, 2\], expected numbers of heads",
        ),
        ("unet/config.json", {"dual_cross_attention": True}, "dual_cross_attention is True, expected False"),
        ("image_normalizer/config.json", {"embedding_dim": 24}, "embedding_dim is 24, expected 128"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type is 'flow'"),
        ("scheduler/scheduler_config.json", {"_class_name": "LCMScheduler"}, "'LCMScheduler'"),
        ("text_encoder/config.json", {"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu', expected 'gelu'"),
        ("vae/config.json", None, "missing; download the folder 'vae' of this model again"),
        ("vae/diffusion_pytorch_model.safetensors", None, "no weights"),
    ],
)
def test_a_folder_that_is_not_whole_or_not_known_is_told(h, tmp_path, path, change, said):
    folder = copy_folder(h[0], tmp_path / "m")
    if change is None:
        (folder / path).unlink()
    else:
        config = json.loads((folder / path).read_text())
        (folder / path).write_text(json.dumps(config | change))
    (problem,) = read_stack(folder).problems
    assert str(folder / path.split("/")[0]) in problem and "\n" not in problem
    with pytest.raises(ValueError, match=said):
        catalog.find("m", [tmp_path])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>Not found</html>", "not a PyTorch file .* download it again"),
        (b"PK\x03\x04 and no more", "damaged, or not what its name says .*; download it again"),
        (b"", "not a PyTorch file"),
    ],
)
def test_a_ckpt_that_is_none_is_told_in_a_line(tmp_path, content, said):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "sd21-unclip-h.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"model 'm' is broken: .*sd21-unclip-h\.ckpt: {said}") as raised:
        catalog.find("m", [tmp_path])
    assert "\n" not in str(raised.value)


class Evil:
    def __reduce__(self):
        return print, ("run",)


def test_a_ckpt_with_code_in_it_is_refused_unrun(h, write_single_stable_unclip, tmp_path, capsys):
    path = tmp_path / "m" / "m.ckpt"
    state = write_single_stable_unclip(path, h[1], whole_text=True)
    torch.save({"state_dict": state, "callbacks": Evil()}, path)
    with pytest.raises(ValueError, match=r"m\.ckpt: holds code \(builtins\.print\)|holds code \(__builtin__\.print\)"):
        catalog.find("m", [tmp_path])
    assert capsys.readouterr().out == ""


def test_a_single_file_without_a_network_is_told(h, write_single_stable_unclip, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "m" / "m.safetensors"
    state = write_single_stable_unclip(path, h[1], whole_text=True)
    save_file({name: value for name, value in state.items() if not name.startswith("first_stage_model.")}, path)
    with pytest.raises(ValueError, match=r"post_quant_conv\.weight is missing, so this is no whole Stable unCLIP"):
        catalog.find("m", [tmp_path])
    save_file(state, path)
    os.link(path, path.with_name("again.safetensors"))
    with pytest.raises(ValueError, match=r"a second Stable unCLIP beside again\.safetensors"):
        catalog.find("m", [tmp_path])


def test_a_converted_one_is_the_same(h, tmp_path):
    list(convert(h[0], tmp_path / "native"))
    native, entry = read_stack(tmp_path / "native"), read_stack(h[0])
    assert native.problems == () and native.layout == "native"
    for stage in ("clip", "decoder"):
        assert native.stages[stage].config == entry.stages[stage].config
    one, two = (load_network(each.stages["decoder"]).state_dict() for each in (native, entry))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_converted_small_one_keeps_karlos_prior(models, tmp_path):
    list(convert(models / "small", tmp_path / "native"))
    native = list_stacks([tmp_path])["native"]
    assert list(native.stages) == ["clip", "prior", "decoder"] and verify_stack(native) == []
    assert native.stages["clip"].config.towers == ("text", "image")


def test_full_sized_configs_are_the_published_ones(h, tmp_path):
    """The JSON of the published folders, as far as it is known: all else in it is the library's default."""
    unet = {
        "sample_size": 96,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "layers_per_block": 2,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "projection_class_embeddings_input_dim": 1536,
    }
    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision |= {"patch_size": 14, "image_size": 224, "projection_dim": 768, "hidden_act": "quick_gelu"}
    vae = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2}
    vae |= {
        f"{way}_block_types": [f"{way.title()}{half}Block2D"] * 4
        for way, half in (("down", "Encoder"), ("up", "Decoder"))
    }
    changes = {
        "unet": unet,
        "text_encoder": text,
        "vae": vae,
        "image_encoder": vision,
        "image_normalizer": {"embedding_dim": 768},
    }
    found = _with_configs(h[0], tmp_path / "l", changes).stages
    assert found["decoder"].config.schedule.spacing == "leading"
    schedule = STABLE_UNCLIP_L.decoder.schedule
    assert replace(found["decoder"].config, schedule=schedule) == STABLE_UNCLIP_L.decoder
    vision |= {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "projection_dim": 1024,
        "hidden_act": "gelu",
    }
    changes["image_normalizer"]["embedding_dim"] = 1024
    unet["projection_class_embeddings_input_dim"] = 2048
    found = _with_configs(h[0], tmp_path / "h", changes).stages
    assert replace(found["decoder"].config, schedule=schedule) == STABLE_UNCLIP_H.decoder
    assert replace(found["clip"].config, towers=("text", "image"), padding=0) == STABLE_UNCLIP_H.clip


def _with_configs(source, folder, changes):
    """A copy of the folder with other configs; its weights no longer fit, but are not asked."""
    copy_folder(source, folder)
    for name, change in changes.items():
        path = folder / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return read_stack(folder)
