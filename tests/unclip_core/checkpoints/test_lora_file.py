"""LoRA files: our own, and diffusers' in all its spellings against diffusers' modules with the weights merged."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.unclip_core.checkpoints.diffusers_keys import rule_of
from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError
from comfyui_unclip.unclip_core.checkpoints.kandinsky_keys import kandinsky_rule
from comfyui_unclip.unclip_core.checkpoints.lora_catalog import find_lora, list_loras, search_path
from comfyui_unclip.unclip_core.checkpoints.lora_file import load_lora, save_lora
from comfyui_unclip.unclip_core.config import PriorConfig
from comfyui_unclip.unclip_core.models.decoder import DecoderNetwork
from comfyui_unclip.unclip_core.models.lora import AppliedLora, attention_layers, joined, new_branches, with_branches
from comfyui_unclip.unclip_core.models.prior import PriorNetwork
from comfyui_unclip.unclip_core.presets import KANDINSKY_2_2

DIM, TOKENS = 12, 6


def prior_pair():
    """diffusers' prior and ours with its weights: (theirs, ours, stage, config, run theirs, run ours)."""
    from diffusers import PriorTransformer

    theirs = PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=DIM,
        num_embeddings=TOKENS,
        additional_embeddings=4,
    )
    config = PriorConfig(
        clip_dim=DIM, text_width=DIM, context_length=TOKENS, width=16, depth=2, heads=2, mask_value=-10000.0
    )
    ours = filled(PriorNetwork(config), theirs, rule_of("prior"))
    x_t, t = torch.randn(2, DIM), torch.tensor([700, 3])
    tokens, embed, mask = (
        torch.randn(2, TOKENS, DIM),
        torch.randn(2, DIM),
        torch.arange(TOKENS) < torch.tensor([[3], [6]]),
    )
    return (
        (theirs, ours, "prior", config),
        lambda module: module(x_t, t, embed, tokens, mask).predicted_image_embedding,
        lambda network: network(x_t, t, tokens, embed, mask),
    )


def decoder_pair():
    """The same for Kandinsky 2.2's UNet."""
    from diffusers import UNet2DConditionModel

    theirs = UNet2DConditionModel(
        sample_size=64,
        in_channels=4,
        out_channels=8,
        down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        attention_head_dim=16,
        cross_attention_dim=24,
        resnet_time_scale_shift="scale_shift",
        encoder_hid_dim=DIM,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image",
    )
    theirs.encoder_hid_proj.image_embeds = torch.nn.Linear(DIM, 32 * 24)  # 32 tokens, which is no argument
    theirs.add_embedding.image_proj = torch.nn.Linear(DIM, 128)
    full = KANDINSKY_2_2.decoder
    sizes = {"channels": 32, "channel_mult": (1, 2, 3, 4), "depth": 1, "head_channels": 16, "context_width": 24}
    config = dataclasses.replace(full, clip_dim=DIM, unet=dataclasses.replace(full.unet, **sizes))
    ours = filled(DecoderNetwork(config), theirs, kandinsky_rule)
    x_t, t, embed = torch.randn(2, 4, 16, 16), torch.tensor([900, 17]), torch.randn(2, DIM)
    return (
        (theirs, ours, "decoder", config),
        lambda module: module(x_t, t, None, added_cond_kwargs={"image_embeds": embed}).sample,
        lambda network: network(x_t, t, network.condition(embed)),
    )


def filled(ours, theirs, rule_of):
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    source, target = theirs.eval().state_dict(), ours.eval().state_dict()
    state = {
        name: torch.cat([source[key] for key in rule_of(name).sources]).view_as(value) for name, value in target.items()
    }
    ours.load_state_dict(state)
    return ours


def matrices(theirs, left_out=(), rank=3):
    """{layer: (down, up)} for diffusers' attention layers, ranks unequal."""
    layers = {}
    for name, module in theirs.named_modules():
        last = name.split("attentions.")[-1].split("attn1.")[-1].split(".", 1 if "attentions" in name else 0)[-1]
        if last in {"to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj"} - set(left_out):
            own = rank + len(layers) % 2
            down, up = torch.randn(own, module.in_features), torch.randn(module.out_features, own) * 0.05
            layers[name] = (down, up)
    return layers


def spelt(form, layers, alpha):
    """(tensors, metadata) as programs write them. alpha: the scale's numerator, where the form carries one."""
    tensors, metadata = {}, {}
    for name, (down, up) in layers.items():
        if form == "peft":  # diffusers 0.42's save_lora_adapter
            names = (f"{name}.lora_A.weight", f"{name}.lora_B.weight")
            metadata["lora_adapter_metadata"] = json.dumps({"r": 3, "lora_alpha": alpha, "use_dora": False})
        elif form == "peft_model":
            names = (f"base_model.model.{name}.lora_A.weight", f"base_model.model.{name}.lora_B.weight")
        elif form == "alpha":
            names = (f"unet.{name}.lora.down.weight", f"unet.{name}.lora.up.weight")
            tensors[f"unet.{name}.alpha"] = torch.tensor(float(alpha))
        else:  # the training scripts of Kandinsky 2.2
            place, layer = (name.removesuffix(".0")).rsplit(".", 1)
            names = tuple(f"{place}.processor.{layer}_lora.{part}.weight" for part in ("down", "up"))
        tensors |= dict(zip(names, (down, up), strict=True))
    return tensors, metadata


@torch.no_grad()
@pytest.mark.parametrize("form", ["peft", "peft_model", "alpha", "processor"])
@pytest.mark.parametrize("pair", [prior_pair, decoder_pair])
def test_diffusers_files_do_what_merged_weights_do(tmp_path, pair, form):
    torch.manual_seed(0)
    (theirs, ours, stage, config), run_theirs, run_ours = pair()
    layers = matrices(theirs, left_out=("to_k",) if form == "alpha" else ())  # peft's usual choice: q and v alone
    assert len(layers) > 5
    tensors, metadata = spelt(form, layers, alpha=6)
    save_file(tensors, tmp_path / "style.safetensors", metadata)
    plain = run_theirs(theirs)
    for name, (down, up) in layers.items():
        scale = 6 / len(down) if form in ("peft", "alpha") else 1.0
        theirs.get_submodule(name).weight += scale * up @ down
    file = load_lora(tmp_path / "style.safetensors")
    lora = file.stage_lora(stage, config)
    expected, found = run_theirs(theirs), run_ours(with_branches(ours, joined([AppliedLora(lora, 1.0)])))
    assert (expected - plain).abs().max() > 0.02 * plain.abs().max()
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert lora.name == "style" and file.info.ids == {stage: ""}


@torch.no_grad()
@pytest.mark.parametrize("pair", [prior_pair, decoder_pair])
def test_an_adapter_that_diffusers_wrote_does_what_it_does_there(tmp_path, pair):
    """With peft, which the tests do not need otherwise."""
    pytest.importorskip("accelerate")  # which peft needs
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    (theirs, ours, stage, config), run_theirs, run_ours = pair()
    plain = run_theirs(theirs)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj"]
    settings = {"r": 4, "lora_alpha": 6, "alpha_pattern": {"to_v": 10}, "use_rslora": stage == "prior"}
    theirs.add_adapter(peft.LoraConfig(target_modules=targets, init_lora_weights=False, **settings))
    for name, value in theirs.named_parameters():
        if "lora_" in name:
            value.normal_(std=0.2)
    expected = run_theirs(theirs)
    theirs.save_lora_adapter(tmp_path, weight_name="style.safetensors")
    lora = load_lora(tmp_path / "style.safetensors").stage_lora(stage, config)
    found = run_ours(with_branches(ours, joined([AppliedLora(lora, 1.0)])))
    assert (expected - plain).abs().max() > 0.02 * plain.abs().max()
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_our_files_come_back_as_they_were(tmp_path, models):
    branches = {name: new_branches(attention_layers(network), 4, seed=3) for name, (network, _) in models.items()}
    path, row = tmp_path / "cup.safetensors", torch.randn(16)
    ids = {"prior": models["prior"][1].prior_id, "decoder": models["decoder"][1].decoder_id}
    saved = {stage: (ids[stage], branches[stage]) for stage in ids}
    save_lora(path, saved, clip_id="tiny-1", words={"sks_cup": row}, trigger="a sks_cup", metadata={"steps": 3})
    file = load_lora(path)
    assert file.info.ids == ids and file.info.words == ("sks_cup",) and file.info.clip_id == "tiny-1"
    assert torch.equal(file.words["sks_cup"], row)
    metadata = file.info.metadata
    assert metadata["modelspec.trigger_phrase"] == "a sks_cup" and metadata["steps"] == "3"
    assert json.loads(metadata["ranks"]) == {"prior": 4, "decoder": 4}
    for stage, (_, config) in models.items():
        found = file.stage_lora(stage, config).branches
        assert found.keys() == branches[stage].keys()
        for name, branch in branches[stage].items():
            assert torch.equal(found[name].down, branch.down.bfloat16()) and torch.equal(found[name].up, branch.up)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cup.safetensors"]  # nothing half-written


@pytest.fixture
def models():
    """{stage: (network, config)} of toy size."""
    from comfyui_unclip.unclip_core.presets import STORYBOOK

    prior = dataclasses.replace(STORYBOOK.prior, width=16, depth=1, heads=2)
    unet = dataclasses.replace(
        STORYBOOK.decoder.unet,
        channels=16,
        channel_mult=(1, 1, 2),
        norm_groups=8,
        context_width=16,
        head_channels=16,
        attention_resolutions=(8,),
    )
    decoder = dataclasses.replace(STORYBOOK.decoder, unet=unet)
    return {"prior": (PriorNetwork(prior), prior), "decoder": (DecoderNetwork(decoder), decoder)}


def test_a_file_of_another_model_is_refused_by_name(tmp_path, models):
    network, config = models["decoder"]
    path = tmp_path / "a.safetensors"
    save_lora(path, {"decoder": ("mine/decoder", new_branches(attention_layers(network), 2))})
    file = load_lora(path)
    with pytest.raises(
        ValueError, match=r"a\.safetensors was trained on the decoder mine/decoder, but this decoder is "
    ):
        file.stage_lora("decoder", config)
    with pytest.raises(ValueError, match=r"has nothing for a prior; it has decoder \(mine/decoder\)"):
        file.stage_lora("prior", models["prior"][1])
    # Kandinsky's, whose files say no id: the layers tell.
    tensors = {f"mid_block.attentions.0.to_q.lora_{part}.weight": torch.zeros(4, 4) for part in "AB"}
    save_file(tensors, path)
    with pytest.raises(
        ValueError, match=r"mid_block\.attentions\.0\.to_q goes from 4 to 4 channels, but this decoder's fr"
    ):
        load_lora(path).stage_lora("decoder", config)
    save_file({f"down_blocks.7.attentions.0.to_q.lora_{part}.weight": torch.zeros(4, 4) for part in "AB"}, path)
    with pytest.raises(ValueError, match=r"this decoder has no layer down_blocks\.7\.attentions\.0\.to_q"):
        load_lora(path).stage_lora("decoder", config)


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        (
            {"down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": (2, 4)},
            {},
            "is no low-rank wei",
        ),
        ({"transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": (2, 4)}, {}, "is no low-rank weight of an unC"),
        ({"mid_block.attentions.0.to_q.lora_A.weight": (2, 4)}, {}, "to_q has only one of its two matrices"),
        (
            {"mid_block.attentions.0.to_q.lora_magnitude_vector": (4,)},
            {},
            "is no low-rank weight of an unCLIP's attent",
        ),
        ({}, {"made by": "nobody"}, "holds no tensors"),
        (
            {"x": (1,)},
            {"kind": "unclip-lora", "format_version": "9"},
            "format version '9', but this comfyui-unclip rea",
        ),
        ({"x": (1,)}, {"kind": "unclip-lora", "format_version": "1", "stages": "[1]"}, r"its stages are '\[1\]'"),
        ({"x": (1,)}, {"kind": "unclip-lora", "format_version": "1", "stages": '{"a": 1}'}, "are no table of stages"),
        ({"x": (1,)}, {"kind": "unclip-lora", "format_version": "1", "words": '["a"]'}, "embeddings; save the LoRA ag"),
    ],
)
def test_what_is_no_lora_of_an_unclip_says_why(tmp_path, tensors, metadata, message):
    path = tmp_path / "a.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path, metadata)
    with pytest.raises(CheckpointError, match=rf"a\.safetensors: .*{message}"):
        load_lora(path)


def test_damaged_numbers_and_settings_are_refused(tmp_path, models):
    network, config = models["decoder"]
    path, branches = tmp_path / "a.safetensors", new_branches(attention_layers(network), 2)
    save_lora(path, {"decoder": (config.decoder_id, branches)}, clip_id="c", words={"cup": torch.full((4,), torch.nan)})
    with pytest.raises(CheckpointError, match="the embedding of 'cup' holds NaN"):
        load_lora(path)
    next(iter(branches.values())).up[0] = torch.inf
    save_lora(path, {"decoder": (config.decoder_id, branches)})
    with pytest.raises(CheckpointError, match=r"the branch of unet\.down\.2\.attentions\.0\.qkv holds NaN or infinity"):
        load_lora(path).stage_lora("decoder", config)
    state = load_file(path)
    del state["decoder.unet.mid.attentions.0.proj.up"]
    save_file(state, path, load_lora(path).info.metadata)
    with pytest.raises(CheckpointError, match=r"lacks decoder\.unet\.mid\.attentions\.0\.proj\.up"):
        load_lora(path).stage_lora("decoder", config)
    layer = "mid_block.attentions.0.to_q"
    weights = {f"{layer}.lora_A.weight": torch.zeros(2, 32), f"{layer}.lora_B.weight": torch.zeros(32, 2)}
    save_file(weights, path, {"lora_adapter_metadata": '{"use_dora": true}'})
    with pytest.raises(CheckpointError, match=r"a\.safetensors: it is a DoRA"):
        load_lora(path).stage_lora("decoder", config)


def test_loras_lie_in_the_hosts_folder_and_beside_the_models(tmp_path, monkeypatch, models):
    network, config = models["prior"]
    branches = new_branches(attention_layers(network), 2)
    host, own, environment = tmp_path / "loras", tmp_path / "unclip" / "loras", tmp_path / "env" / "loras"
    for folder, name in ((host, "sub/cup"), (own, "snail"), (own, "sub/cup"), (environment, "prior")):
        save_lora(folder / f"{name}.safetensors", {"prior": (config.prior_id, branches)})
    save_file({"lora_unet_mid.lora_down.weight": torch.zeros(2)}, host / "sdxl.safetensors")  # another model's
    (host / "broken.safetensors").write_bytes(b"no")
    (host / "sub" / "circle").symlink_to(host)
    monkeypatch.setenv(catalog.ENVIRONMENT, str(tmp_path / "env"))
    folders = search_path([host], [tmp_path / "unclip"])
    assert folders == [host, own, environment]
    found = list_loras(folders)
    assert list(found) == ["prior.safetensors", "snail.safetensors", "sub/cup.safetensors"]
    assert found["sub/cup.safetensors"] == host / "sub" / "cup.safetensors"
    assert find_lora("sub\\cup.safetensors", folders) == host / "sub" / "cup.safetensors"
    with pytest.raises(ValueError, match=r"no file 'gone'; there are: prior\.safetensors, snail.*Looked in .*loras"):
        find_lora("gone", folders)
    with pytest.raises(ValueError, match=r"no file '\.\./loras/snail\.safetensors'"):
        find_lora("../loras/snail.safetensors", folders)
    with pytest.raises(CheckpointError, match=r"sdxl\.safetensors: .* is no low-rank weight of an unCLIP"):
        find_lora("sdxl.safetensors", folders)
    assert "loras" not in catalog.list_stacks()  # a LoRA called as a stage makes no broken model
