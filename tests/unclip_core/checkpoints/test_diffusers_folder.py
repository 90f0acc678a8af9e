"""Karlo folders as diffusers writes them: found, read from their configs, and equal to diffusers' own networks."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from comfyui_unclip.tests.copies import copy_folder, own
from comfyui_unclip.unclip_core.checkpoints import catalog, states
from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError
from comfyui_unclip.unclip_core.checkpoints.loading import load_network
from comfyui_unclip.unclip_core.checkpoints.tensors import open_weights
from comfyui_unclip.unclip_core.checkpoints.weight_sets import find_weights
from comfyui_unclip.unclip_core.presets import KARLO
from comfyui_unclip.unclip_core.stack import load_stack


@pytest.fixture(scope="module")
def written(karlo, tmp_path_factory):
    """A folder with prior and image encoder, and the networks in it."""
    folder = tmp_path_factory.mktemp("karlo") / "any name"
    return folder, karlo.write_karlo_folder(folder, with_image_encoder=True)


@pytest.fixture(scope="module")
def entry(written):
    return catalog.read_stack(written[0])


@pytest.fixture
def copied(written, tmp_path):
    """A copy of the folder that a test may change."""
    return copy_folder(written[0], tmp_path / "copy")


def assert_close(ours, theirs):
    """1e-4 relative to the largest value; and there is something to compare."""
    assert ours.shape == theirs.shape and theirs.std() > 1e-3
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_entry_says_what_there_is(entry, written):
    _, networks = written
    assert entry.name == "any name" and entry.layout == "diffusers" and not entry.problems
    assert list(entry.stages) == ["clip", "prior", "decoder", "upsampler_256"]
    numbers = {name: sum(p.numel() for p in network.state_dict().values()) for name, network in networks.items()}
    for stage, parts in (
        ("clip", ("text_encoder", "image_encoder")),
        ("prior", ("prior",)),
        ("decoder", ("decoder", "text_proj")),
        ("upsampler_256", ("super_res_first", "super_res_last")),
    ):
        found = entry.stages[stage]
        assert found.parameters == sum(numbers[part] for part in parts)
        assert found.dtype == "fp32" and found.licence == "creativeml-openrail-m"
        assert [path.parent.name for path in found.files] == list(parts)


def test_configs_follow_the_folder(entry):
    clip, prior = entry.stages["clip"].config, entry.stages["prior"].config
    assert clip.towers == ("text", "image") and clip.quick_gelu and clip.padding == 0 and not clip.normalised
    assert prior.schedule == replace(KARLO.prior.schedule, x0_clamp=5.0) and prior.mask_value == -10000.0
    assert entry.stages["decoder"].config.schedule == KARLO.decoder.schedule
    upsampler = entry.stages["upsampler_256"].config
    assert upsampler.final_network and (upsampler.low_size, upsampler.high_size) == (16, 32)
    assert upsampler.schedule == KARLO.upsampler_256.schedule
    for stage, preset in (("prior", KARLO.prior), ("decoder", KARLO.decoder), ("upsampler_256", KARLO.upsampler_256)):
        assert entry.stages[stage].config.sampling == preset.sampling
    ids = {entry.stages["prior"].config.clip_id, entry.stages["decoder"].config.clip_id, clip.clip_id}
    assert len(ids) == 1


def test_published_sizes_give_the_preset(karlo, tmp_path):
    karlo.write_full_folder(tmp_path / "full", holes=True)
    stages = catalog.read_stack(tmp_path / "full").stages
    assert stages["clip"].config == replace(KARLO.clip, towers=("text",))
    clamped = replace(KARLO.prior.schedule, x0_clamp=5.0)
    assert stages["prior"].config == replace(KARLO.prior, mask_value=-10000.0, schedule=clamped)
    assert stages["decoder"].config == KARLO.decoder
    assert stages["upsampler_256"].config == KARLO.upsampler_256
    millions = {stage: round(found.parameters / 1e6) for stage, found in stages.items()}
    assert millions == {"clip": 124, "prior": 1022, "decoder": 893, "upsampler_256": 1383}


@torch.no_grad()
def test_prior_equals_diffusers(entry, written):
    theirs, ours = written[1]["prior"], load_network(entry.stages["prior"]).eval()
    x, embed, tokens = torch.randn(3, 32), torch.randn(3, 32), torch.randn(3, 77, 32)
    mask = torch.arange(77) < torch.tensor([[3], [77], [1]])
    t = torch.tensor([500, 2, 999])
    expected = theirs(x, t, proj_embedding=embed, encoder_hidden_states=tokens, attention_mask=mask)
    assert_close(ours(x, t, tokens, embed, mask), expected.predicted_image_embedding)
    assert_close(ours.unscale(x), theirs.post_process_latents(x))


@torch.no_grad()
@pytest.mark.parametrize("guided", [False, True])
def test_decoder_and_text_projection_equal_diffusers(entry, written, guided):
    unet, projection = written[1]["decoder"], written[1]["text_proj"]
    ours = load_network(entry.stages["decoder"]).eval()
    embed, text, tokens = torch.randn(2, 32), torch.randn(2, 32), torch.randn(2, 77, 32)
    mask = torch.arange(77) < torch.tensor([[5], [12]])
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([321, 7])
    pair = 2 if guided else 1
    context, addition = projection(
        image_embeddings=embed,
        prompt_embeds=text.repeat(pair, 1),
        text_encoder_hidden_states=tokens.repeat(pair, 1, 1),
        do_classifier_free_guidance=guided,
    )
    expected = unet(
        x.repeat(pair, 1, 1, 1),
        t.repeat(pair),
        encoder_hidden_states=context,
        class_labels=addition,
        attention_mask=F.pad(mask.repeat(pair, 1), (4, 0), value=True),
    ).sample
    conditions = [None, embed] if guided else [embed]  # diffusers puts the unconditional half first
    got = torch.cat([ours(x, t, ours.condition(z, tokens, mask, text)) for z in conditions])
    assert_close(got, expected)


@torch.no_grad()
@pytest.mark.parametrize(("part", "folder"), [("first", "super_res_first"), ("final", "super_res_last")])
def test_upsampler_networks_equal_diffusers(entry, written, part, folder):
    ours = load_network(entry.stages["upsampler_256"], part=part).eval()
    x, low, t = torch.randn(2, 3, 32, 32), torch.randn(2, 3, 32, 32), torch.tensor([999, 0])
    assert_close(ours(x, t, low), written[1][folder](torch.cat([x, low], dim=1), t).sample)


@pytest.mark.parametrize(("part", "folder"), [("first", "super_res_first"), ("final", "super_res_last")])
def test_of_two_networks_the_other_is_checked_but_not_touched(copied, monkeypatch, part, folder):
    touched = []

    def watched(weights):
        return {key: watch(key, source) for key, source in open_weights(weights).items()}

    def watch(key, source):
        def mapped():
            touched.append((source.path.parent.name, key))
            return source.mapped()

        return replace(source, mapped=mapped, read=None)

    monkeypatch.setattr(states, "open_weights", watched)
    stage = catalog.read_stack(copied).stages["upsampler_256"]
    load_network(stage, torch.bfloat16, torch.channels_last, part)
    assert {name for name, _ in touched} == {folder} and len(touched) == len(set(touched)) > 20
    other = "super_res_last" if part == "first" else "super_res_first"
    path = copied / other / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["conv_in.bias"] = torch.zeros(3)
    save_file(state, own(path))
    with pytest.raises(
        CheckpointError, match=rf"do not fit UpsamplerPair \(of the wrong shape: conv_in.bias .* in {other}"
    ):
        load_network(stage, part=part)


@torch.no_grad()
def test_clip_towers_equal_transformers(entry, written):
    clip = load_stack(entry, "fp32", "cpu").clip
    text = clip.encode_text(["a red star over the sea", ""])
    expected = written[1]["text_encoder"](text.ids)
    assert_close(text.embed, expected.text_embeds)
    assert_close(text.tokens, expected.last_hidden_state)
    assert (text.ids[1] == torch.tensor([49406, 49407] + [0] * 75)).all()
    pixels = torch.rand(2, 32, 32, 3)
    mean, std = (torch.tensor(value) for value in (clip.config.image_mean, clip.config.image_std))
    expected = written[1]["image_encoder"](((pixels - mean) / std).permute(0, 3, 1, 2)).image_embeds
    assert_close(clip.encode_image(pixels).vector, expected)


def test_padding_as_transformers_is_masked_all_the_same(copied, entry):
    edit(copied / "tokenizer" / "special_tokens_map.json", pad_token={"content": "<|endoftext|>"})
    other = catalog.read_stack(copied)
    assert other.stages["clip"].config.padding == 49407
    ours, theirs = (load_stack(e, "fp32", "cpu").clip.encode_text(["a red star"]) for e in (entry, other))
    assert theirs.ids[0, -1] == 49407 and torch.equal(ours.mask, theirs.mask)
    assert torch.equal(ours.embed, theirs.embed) and torch.equal(ours.tokens[ours.mask], theirs.tokens[theirs.mask])


def test_a_whole_picture(entry):
    stack = load_stack(entry, "fp32", "cpu")
    text = stack.clip.encode_text(["a red star"])
    embed = stack.prior.sample(text, steps=2, seed=1)
    image = stack.decoder.sample(embed, text, steps=2, seed=2)
    large = stack.upsampler_256.sample(image, steps=2, seed=3)
    assert embed.vector.shape == (1, 32) and image.shape == (1, 16, 16, 3) and large.shape == (1, 32, 32, 3)
    assert all(result.isfinite().all() and result.std() > 0 for result in (embed.vector, image, large))


def test_variations_need_no_prior(karlo, tmp_path):
    karlo.write_karlo_folder(tmp_path / "variations", with_prior=False, with_image_encoder=True, as_bin=True)
    entry = catalog.read_stack(tmp_path / "variations")
    assert list(entry.stages) == ["clip", "decoder", "upsampler_256"] and not entry.problems
    stack = load_stack(entry, "fp32", "cpu")
    embed = stack.clip.encode_image(torch.rand(1, 50, 40, 3))
    assert stack.decoder.sample(embed, steps=2).shape == (1, 16, 16, 3)
    with pytest.raises(ValueError, match=r"'variations' has no prior stage \(it has clip, .*karlo-v1-alpha does"):
        stack.prior.sample(None)


def test_text_alone_says_that_pictures_cannot_be_read(copied):
    index = json.loads((copied / "model_index.json").read_text())
    del index["image_encoder"]
    (copied / "model_index.json").write_text(json.dumps(index))
    clip = load_stack(catalog.read_stack(copied), "fp32", "cpu").clip
    assert clip.encode_text(["a star"]).embed.shape == (1, 32)
    with pytest.raises(ValueError, match=r"has no image tower .*karlo-v1-alpha-image-variations"):
        clip.encode_image(torch.rand(1, 32, 32, 3))


@pytest.mark.parametrize("options", [{"as_bin": True}, {"shard_size": "200KB"}, {"as_bin": True, "shard_size": "1MB"}])
def test_pickles_and_shards_hold_the_same(karlo, written, entry, tmp_path, options):
    karlo.write_karlo_folder(tmp_path / "other", with_image_encoder=True, **options)
    other = catalog.read_stack(tmp_path / "other")
    assert not other.problems
    for stage in ("prior", "decoder", "upsampler_256"):
        assert other.stages[stage].parameters == entry.stages[stage].parameters
        ours, theirs = load_network(entry.stages[stage]).state_dict(), load_network(other.stages[stage]).state_dict()
        assert all(torch.equal(theirs[name], value) for name, value in ours.items())
    if "shard_size" in options:
        assert len(other.stages["decoder"].files) > 2


def test_a_variant_is_used_when_it_is_all_there_is_or_asked_for(karlo, written, tmp_path):
    folder = tmp_path / "half"
    karlo.write_karlo_folder(folder, dtype=torch.float16, variant="fp16")
    alone = catalog.read_stack(folder).stages["decoder"]
    assert alone.dtype == "fp16" and "fp16" in alone.files[0].name
    copy_folder(written[0] / "decoder", folder / "decoder", dirs_exist_ok=True)
    both = catalog.read_stack(folder).stages["decoder"]
    assert both.weights()["decoder"].dtype == "fp32" and both.weights("fp16")["decoder"].dtype == "fp16"
    assert both.weights("bf16")["decoder"].dtype == "fp32"
    assert load_network(both, torch.float16).unet.conv_in.weight.dtype == torch.float16
    wide, narrow = find_weights(folder / "decoder")
    assert (wide.dtype, narrow.dtype) == ("fp32", "fp16")


def test_what_fits_stays_in_the_file_and_the_rest_is_brought_over(entry, written):
    mapped = load_network(entry.stages["decoder"])
    assert mapped.unet.conv_in.weight.untyped_storage().nbytes() == mapped.unet.conv_in.weight.nbytes
    half = load_network(entry.stages["decoder"], torch.bfloat16, torch.channels_last)
    kernel = half.unet.down[0].blocks[0].conv_1
    assert kernel.weight.dtype == torch.bfloat16 and kernel.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(kernel.weight, written[1]["decoder"].down_blocks[0].resnets[0].conv1.weight.bfloat16())
    assert kernel.bias.dtype == torch.float32  # vectors follow when the stage is placed


def test_without_an_index_the_networks_tell(copied):
    (copied / "model_index.json").unlink()
    entry = catalog.read_stack(copied)
    assert list(entry.stages) == ["clip", "prior", "decoder", "upsampler_256"] and not entry.problems


def test_prior_and_text_encoder_alone_make_embeddings(copied, written):
    for path in copied.iterdir():
        if path.name not in ("prior", "prior_scheduler", "text_encoder", "tokenizer"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    entry = catalog.read_stack(copied)
    assert list(entry.stages) == ["clip", "prior"] and not entry.problems
    embeds = []
    for stack in (load_stack(entry, "fp32"), load_stack(catalog.read_stack(written[0]), "fp32")):
        embeds.append(stack.prior.sample(stack.clip.encode_text(["a red star"]), steps=2).vector)
    assert torch.equal(*embeds)
