"""Kandinsky's folders as diffusers writes them: recognised, joined to stacks, and equal to diffusers' own networks."""

import json
import math
import shutil
import sys
from dataclasses import replace

import pytest
import torch
from diffusers import VQModel
from open_clip.transformer import ResidualAttentionBlock
from safetensors.torch import load_file, save_file

from comfyui_unclip.tests.copies import copy_folder, own
from comfyui_unclip.unclip_core import stack
from comfyui_unclip.unclip_core.checkpoints import catalog, kandinsky_folder
from comfyui_unclip.unclip_core.checkpoints.convert import convert
from comfyui_unclip.unclip_core.checkpoints.keys import find_mismatches
from comfyui_unclip.unclip_core.checkpoints.loading import load_network
from comfyui_unclip.unclip_core.checkpoints.published import PUBLISHED
from comfyui_unclip.unclip_core.checkpoints.states import rules_of
from comfyui_unclip.unclip_core.checkpoints.tensors import open_weights
from comfyui_unclip.unclip_core.checkpoints.verify import verify_stack
from comfyui_unclip.unclip_core.clip.networks import empty_network
from comfyui_unclip.unclip_core.clip.zero_shot import classify
from comfyui_unclip.unclip_core.models.build import build_network
from comfyui_unclip.unclip_core.presets import KANDINSKY_2_1, KANDINSKY_2_2
from comfyui_unclip.unclip_core.stack import load_stack

PRIOR, DECODER = "kandinsky-2-2-prior", "kandinsky-2-2-decoder"
STACKS = ["kandinsky-2-2-controlnet-depth", "kandinsky-2-2", "kandinsky-2-2-inpaint"]


@pytest.fixture(scope="module")
def written(family, tmp_path_factory):
    """The folders of Kandinsky 2.2, and the networks in each."""
    folder = tmp_path_factory.mktemp("family")
    return folder, family.kandinsky_2_2(folder, decoders=("", "inpaint", "controlnet-depth"))


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty search path but for this folder; the hub's cache is `hub` beside it."""
    monkeypatch.setattr(catalog, "EMBEDDED", tmp_path / "embedded")
    monkeypatch.setenv(catalog.ENVIRONMENT, str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture(scope="module")
def entry(written):
    return catalog.read_stack(written[0] / DECODER)


def put(written, folder, *names, where=None):
    """Links to the written folders. where: what each is to be called."""
    for index, name in enumerate(names):
        path = folder / (where[index] if where else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(written[0] / name)


def copied(written, folder, *names):
    """Copies that a test may change."""
    for name in names:
        copy_folder(written[0] / name, folder / name)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(name):
    """The error of loading a stack: one line."""
    with pytest.raises(ValueError) as error:
        catalog.find(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_close(ours, theirs):
    assert ours.shape == theirs.shape and theirs.std() > 1e-3
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_errors_name_models_that_can_be_pulled():
    first, second = ("text_image_proj", "text_image"), ("image_proj", "image")
    kinds = [(kind, extra) for kind in (first, second) for extra in ("none", "inpaint")]
    kinds.append((("image_proj", "image_hint"), "hint"))
    stacks = {kandinsky_folder.stack_name(*kind) for kind in kinds}
    assert len(stacks) == 5 and stacks <= set(PUBLISHED)


@pytest.mark.parametrize("options", [{"max_shard_size": "300KB"}, {"variant": "fp16", "dtype": torch.float16}])
def test_shards_and_variants(family, models, options):
    networks = family.kandinsky_2_2(models, **options)[DECODER]
    found = catalog.find("kandinsky-2-2").stages["decoder"]
    assert (len(found.files) > 4) == ("max_shard_size" in options) and found.dtype == (
        "fp16" if len(options) > 1 else "fp32"
    )
    ours = load_network(found).state_dict()["autoencoder.codebook"]
    assert torch.equal(ours, networks["movq"].quantize.embedding.weight)


def test_an_autoencoders_attention_by_its_names_of_early_2023(written, models, entry):
    """diffusers renames them as it reads a folder."""
    copied(written, models, PRIOR, DECODER)
    (path,) = (models / DECODER / "movq").glob("*.safetensors")
    state = load_file(path)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        state = {name.replace(f".{new}.", f".{old}."): tensor for name, tensor in state.items()}
    save_file(state, own(path), {"format": "pt"})
    theirs = VQModel.from_pretrained(models / DECODER / "movq").state_dict()
    assert theirs.keys().isdisjoint(name for name in state if ".query." in name)
    before, after = (
        load_network(found.stages["decoder"]).state_dict() for found in (entry, catalog.find("kandinsky-2-2"))
    )
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_one_prior_makes_a_stack_with_each_decoder(written, models):
    put(written, models, *written[1])
    stacks = catalog.list_stacks()
    assert list(stacks) == STACKS and not any(entry.problems for entry in stacks.values())
    for name, entry in stacks.items():
        assert list(entry.stages) == ["clip", "prior", "decoder"]
        assert {found.config.clip_id for found in entry.stages.values()} == {"clip-T40x2-V48x2-16/40"}
        assert entry.stages["decoder"].licence == "apache-2.0"
        assert not verify_stack(entry), name
    extra = {name: entry.stages["decoder"].config.extra_input for name, entry in stacks.items()}
    assert extra == dict(zip(STACKS, ("hint", "none", "inpaint"), strict=True))


@pytest.mark.parametrize("indexed", [True, False])
def test_parts_lie_anywhere(written, models, tmp_path, indexed):
    """In one folder, side by side; as the hub's cache has them; and told by their networks without an index."""
    put(written, models / "my kandinsky", PRIOR, DECODER, where=("prior", "decoder"))
    for name in (PRIOR, f"{DECODER}-inpaint"):
        where = tmp_path / "hub" / f"models--kandinsky-community--{name}" / "snapshots" / "5ee5fa"
        copy_folder(written[0] / name, where)
        if not indexed:
            (where / "model_index.json").unlink()
    stacks = catalog.list_stacks()
    assert list(stacks) == ["my kandinsky", "kandinsky-2-2-inpaint"]
    assert not any(entry.problems for entry in stacks.values())
    # Each has the prior that lies beside it.
    assert stacks["my kandinsky"].stages["prior"].path.is_relative_to(models)
    assert stacks["kandinsky-2-2-inpaint"].stages["prior"].path.is_relative_to(tmp_path / "hub")
    cached = stacks["kandinsky-2-2-inpaint"].folder
    assert catalog.read_stack(cached, "x").stages.keys() == {"clip", "prior", "decoder"}


def test_configs_follow_the_folder(entry):
    prior, decoder = entry.stages["prior"].config, entry.stages["decoder"].config
    assert entry.stages["clip"].config.vision.mlp_width == 100 and not entry.stages["clip"].config.quick_gelu
    assert prior.schedule == KANDINSKY_2_2.prior.schedule and prior.mask_value == -10000.0
    # diffusers' own spacing where a scheduler's JSON names none.
    assert decoder.schedule == replace(KANDINSKY_2_2.decoder.schedule, spacing="leading")
    assert decoder.sampling == KANDINSKY_2_2.decoder.sampling


COUNTS = {
    "kandinsky-2-2": (2_539_567_104, 1_026_225_920, 1_253_057_288 + 67_832_495),
    "kandinsky-2-2-inpaint": (2_539_567_104, 1_026_225_920, 1_253_074_568 + 67_832_495),
    "kandinsky-2-2-controlnet-depth": (2_539_567_104, 1_026_225_920, 1_253_429_212 + 67_832_495),
    "kandinsky-2-1": (123_650_304 + 303_966_208, 1_022_030_080, 1_228_661_768 + 67_832_495 + 560_677_632),
    "kandinsky-2-1-inpaint": (123_650_304 + 303_966_208, 1_022_030_080, 1_228_679_048 + 67_832_495 + 560_677_632),
}


def test_published_sizes_are_the_preset(family, models):
    """Every stage of each stack at full size: configs, counts, and the name and shape of every tensor."""
    options = {"weights": "holes", "dtype": torch.float16}
    family.kandinsky_2_1(models, family.FULL_2_1, decoders=("", "inpaint"), **options)
    family.kandinsky_2_2(models, family.FULL_2_2, decoders=("", "inpaint", "controlnet-depth"), **options)
    stacks = catalog.list_stacks()
    assert {
        name: tuple(found.parameters for found in entry.stages.values()) for name, entry in stacks.items()
    } == COUNTS
    for name, entry in stacks.items():
        configs = {stage: found.config for stage, found in entry.stages.items()}
        preset = KANDINSKY_2_1 if "2-1" in name else KANDINSKY_2_2
        padding = 49407 if "2-1" in name else 0  # the original of 2.1 pads by 0; it is masked
        assert configs["clip"] == replace(preset.clip, padding=padding) and configs["prior"] == preset.prior
        published = preset.decoder
        extra = {"inpaint": 9, "hint": 8}.get(configs["decoder"].extra_input, 4)
        assert configs["decoder"] == replace(
            published,
            decoder_id=f"{name}/decoder",
            extra_input=configs["decoder"].extra_input,
            unet=replace(published.unet, in_channels=extra),
            schedule=replace(published.schedule, spacing="leading"),
        )
    checked = [found for name in ("kandinsky-2-2", "kandinsky-2-1") for found in stacks[name].stages.values()]
    checked += [
        entry.stages["decoder"] for name, entry in stacks.items() if name not in ("kandinsky-2-2", "kandinsky-2-1")
    ]
    for found in checked:
        rule_of, ignored, given = rules_of(found)
        with torch.device("meta"):
            clip = found.stage == "clip"
            network = empty_network(found.config) if clip else build_network(found.stage, found.config)
        targets = {key: tensor.shape for key, tensor in network.state_dict().items() if key not in given}
        parts = {part: open_weights(weights) for part, weights in found.weights().items()}
        assert not find_mismatches(targets, {key: rule_of(key) for key in targets}, parts, ignored)
        unused = 1024 * 1025 if "text_tower" in parts else 0  # XLM-R's summary
        assert sum(math.prod(shape) for shape in targets.values()) == found.parameters - unused


@torch.no_grad()
def test_the_prior_equals_diffusers(entry, written):
    theirs, ours = written[1][PRIOR]["prior"], load_network(entry.stages["prior"]).eval()
    x, embed, tokens = torch.randn(3, 40), torch.randn(3, 40), torch.randn(3, 77, 40)
    mask, t = torch.arange(77) < torch.tensor([[3], [77], [1]]), torch.tensor([500, 2, 999])
    expected = theirs(x, t, proj_embedding=embed, encoder_hidden_states=tokens, attention_mask=mask)
    assert_close(ours(x, t, tokens, embed, mask), expected.predicted_image_embedding)
    assert_close(ours.unscale(x), theirs.post_process_latents(x))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["-decoder", "-decoder-inpaint", "-controlnet-depth"])
def test_decoders_equal_diffusers(written, kind):
    networks = written[1][f"kandinsky-2-2{kind}"]
    ours = load_network(catalog.read_stack(written[0] / f"kandinsky-2-2{kind}").stages["decoder"]).eval()
    x, embed, t = torch.randn(2, 4, 8, 16), torch.randn(2, 40), torch.tensor([900, 17])
    extra, hint = torch.randn(2, 5, 8, 16) if "inpaint" in kind else None, None
    conditions = {"image_embeds": embed}
    if "controlnet" in kind:
        hint = torch.rand(2, 3, 64, 128)
        conditions["hint"], extra = hint, ours.network.hint(hint)
    theirs = x if hint is not None or extra is None else torch.cat([x, extra], dim=1)
    expected = networks["unet"](theirs, t, None, added_cond_kwargs=conditions).sample
    assert_close(ours.network(x, t, ours.network.condition(embed, extra=extra)), expected)
    assert_close(ours.autoencoder.decode(x), networks["movq"].decode(x, force_not_quantize=True).sample)
    picture = torch.rand(1, 3, 64, 32) * 2 - 1
    assert_close(ours.autoencoder.encode(picture), networks["movq"].encode(picture).latents)


@torch.no_grad()
def test_clip_equals_transformers(entry, written):
    """Exact GELU, and an MLP that is no multiple of the width."""
    clip, networks = load_stack(entry, "fp32", "cpu").clip, written[1][PRIOR]
    text = clip.encode_text(["a red star over the sea", ""])
    expected = networks["text_encoder"](text.ids)
    assert_close(text.embed, expected.text_embeds)
    assert_close(text.tokens, expected.last_hidden_state)
    pixels = torch.rand(2, 32, 32, 3)
    mean, std = (torch.tensor(value) for value in (clip.config.image_mean, clip.config.image_std))
    expected = networks["image_encoder"](((pixels - mean) / std).permute(0, 3, 1, 2)).image_embeds
    assert_close(clip.encode_image(pixels).vector, expected)
    zero = networks["image_encoder"](torch.zeros(1, 3, 32, 32)).image_embeds
    assert_close(clip.encode_null_image().vector, zero)


@pytest.mark.parametrize("converted", [False, True])
def test_towers_of_a_large_clip_are_read_apart(written, entry, models, monkeypatch, converted):
    """Text to picture reads the text tower, and of the other one block at a time, for the null embedding."""
    if converted:
        list(convert(entry.folder, models / "native"))
        entry = catalog.read_stack(models / "native")
    expected = load_stack(entry, "fp32", "cpu").clip
    monkeypatch.setattr(stack, "LARGE_CLIP", 1)
    most, clip = [0], load_stack(entry, "fp32", "cpu").clip
    forward = ResidualAttentionBlock.forward

    def watched(block, *args, **options):
        held = [b for b in blocks if next(b.parameters()).device.type != "meta"]
        most[0] = max(most[0], len(held))
        blocks.add(block)
        return forward(block, *args, **options)

    blocks = set()
    text, null = clip.encode_text("a red star"), clip.encode_null_image()
    text_tower = clip._captions  # of a CLIP that is described, without open_clip's other half around it
    assert text_tower.loaded and not clip.placed.loaded
    assert getattr(text_tower.read(), "visual", None) is None
    monkeypatch.setattr(ResidualAttentionBlock, "forward", watched)
    assert torch.equal(clip.encode_null_image().vector, null.vector)
    assert len(blocks) == 2 and most == [0], "a block was in memory while another ran"
    monkeypatch.undo()
    assert_close(text.embed, expected.encode_text("a red star").embed)
    assert_close(null.vector, expected.encode_null_image().vector)
    picture = torch.rand(1, 40, 32, 3)
    assert_close(clip.encode_image(picture).vector, expected.encode_image(picture).vector)
    assert clip.placed.read().transformer is None
    assert torch.equal(clip.encode_null_image().vector, expected.encode_null_image().vector)
    labels = ["a star", "a tree"]
    assert torch.allclose(classify(clip, picture, labels), classify(expected, picture, labels), atol=1e-5)


def test_a_large_clip_follows_the_stacks_dtype(entry, monkeypatch):
    expected = load_stack(entry, "fp32", "cpu").clip
    monkeypatch.setattr(stack, "LARGE_CLIP", 1)
    clip, picture = load_stack(entry, "bf16", "cpu").clip, torch.rand(1, 32, 32, 3)
    pairs = [(c.encode_text("a red star").embed, c.encode_image(picture).vector) for c in (clip, expected)]
    pairs = [*zip(*pairs, strict=True), (clip.encode_null_image().vector, expected.encode_null_image().vector)]
    assert {parameter.dtype for parameter in clip.placed.read().parameters()} == {torch.bfloat16}
    for ours, exact in pairs:
        assert ours.dtype == torch.float32 and torch.cosine_similarity(ours, exact) > 0.999


def test_a_decoder_without_a_prior(written, models):
    put(written, models, f"{DECODER}-inpaint")
    message = refused("kandinsky-2-2-inpaint")
    assert f"{models / DECODER}-inpaint: this decoder reads 40-d image embeddings, and no prior" in message
    assert message.endswith("is installed; get the missing part with `unclip pull kandinsky-2-2-inpaint`")


def test_a_prior_without_a_decoder(written, models):
    put(written, models, PRIOR)
    assert "a prior without a decoder for its embeddings; put the decoder's folder beside it" in refused(
        "kandinsky-2-2"
    )


def test_a_prior_of_another_dimension(written, models, family):
    put(written, models, DECODER)
    family.write_prior(models / "other-prior", family.Sizes(clip_dim=24, text_width=24))
    message = refused("kandinsky-2-2")
    assert "reads 40-d image embeddings" in message and "other-prior speaks clip-T24x2-V48x2-16/24, 24-d" in message
    assert "`unclip pull kandinsky-2-2`" in message


def test_another_models_prior_within_the_folder(written, models, family):
    """As Karlo's put into Kandinsky's folder: 768 against 1280 there."""
    copied(written, models, PRIOR, DECODER)
    shutil.rmtree(models / PRIOR / "prior")
    family.write_prior(models / "small", family.Sizes(clip_dim=24, text_width=24))
    shutil.move(models / "small" / "prior", models / PRIOR / "prior")
    shutil.rmtree(models / "small")
    message = refused("kandinsky-2-2")
    assert "embedding_dim is 24, but the text_encoder beside it gives 40-d" in message
    assert list(catalog.list_stacks()) == ["kandinsky-2-2"]


UNET, MOVQ, SCHEDULER = (f"{DECODER}/{name}" for name in ("unet", "movq", "scheduler"))
TEXT, IMAGE = f"{PRIOR}/text_encoder", f"{PRIOR}/image_encoder"


@pytest.mark.parametrize(
    ("folder", "key", "value", "expected"),
    [
        (UNET, "in_channels", 5, "in_channels is 5, expected 4 or 9"),
        (UNET, "addition_embed_type", "text", "'image_proj' and 'text', expected text_image"),
        (UNET, "act_fn", "gelu", "act_fn is 'gelu', expected 'silu'"),
        (MOVQ, "norm_type", "group", "norm_type is 'group', expected 'spatial'"),
        (MOVQ, "block_out_channels", [32, 32], "block_out_channels is [32, 32], expected 4 positive"),
        (SCHEDULER, "beta_schedule", "sigmoid", "beta_schedule is 'sigmoid', expected one of squaredcos"),
        (SCHEDULER, "_class_name", "LCMScheduler", "class 'LCMScheduler' instead of"),
        (SCHEDULER, "rescale_betas_zero_snr", True, "rescale_betas_zero_snr is True, expected False"),
        (SCHEDULER, "dynamic_thresholding_ratio", 1.5, "dynamic_thresholding_ratio is 1.5, expected a quantile"),
        (SCHEDULER, "sample_max_value", "2", "sample_max_value is '2', expected a positive number"),
        (SCHEDULER, "steps_offset", -1, "steps_offset is -1, expected a timestep from 0 to 999"),
        (f"{PRIOR}/scheduler", "clip_sample_range", -1, "clip_sample_range is -1, expected a positive"),
        (TEXT, "hidden_act", "relu", "hidden_act is 'relu', expected gelu or quick_gelu"),
        (IMAGE, "hidden_act", "quick_gelu", "hidden_act is not the text encoder's; they belong to different CLIPs"),
        (IMAGE, "num_attention_heads", 5, "num_attention_heads is 5, expected a divisor of hidden_size 48"),
        (IMAGE, "projection_dim", 24, "projection_dim is 24, expected the text encoder's 40"),
    ],
)
def test_values_that_are_not_known_are_named(written, models, folder, key, value, expected):
    part, inner = folder.split("/")
    for name in (PRIOR, DECODER):
        (copied if name == part else put)(written, models, name)
    file = models / folder / ("scheduler_config.json" if inner == "scheduler" else "config.json")
    edit(file, **{key: value})
    message = refused("kandinsky-2-2")
    assert str(file) in message and expected in message


def test_files_that_are_missing_or_cut(written, models):
    copied(written, models, PRIOR, DECODER)
    weights = models / DECODER / "movq" / "diffusion_pytorch_model.safetensors"
    own(weights).write_bytes(weights.read_bytes()[:-1000])
    assert f"{weights}: truncated" in refused("kandinsky-2-2")
    shutil.rmtree(models / DECODER / "movq")
    assert "movq/config.json: missing; download the folder 'movq' of this model again" in refused("kandinsky-2-2")
    shutil.rmtree(models / PRIOR / "image_encoder")
    assert "image_encoder/config.json: missing" in refused("kandinsky-2-2")


def test_a_whole_prior_beside_a_broken_decoder_tells_of_the_decoder(written, models):
    copied(written, models, PRIOR, DECODER)
    own(models / DECODER / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    for part in (PRIOR, DECODER):
        (problem,) = catalog.read_stack(models / part).problems
        assert f"{DECODER}/unet" in problem.replace("\\", "/") and "download it again" in problem


def test_other_peoples_folders_are_no_parts(models, tmp_path):
    (models / "sd" / "unet").mkdir(parents=True)
    (models / "sd" / "unet" / "config.json").write_text('{"encoder_hid_dim_type": null}')
    (models / "three").mkdir()
    (models / "three" / "model_index.json").write_text('{"_class_name": "Kandinsky3Pipeline"}')
    assert all(kandinsky_folder.read_part(models / name, name) is None for name in ("sd", "three"))
    assert "sd" not in catalog.list_stacks()


@pytest.fixture(scope="module")
def first(family, tmp_path_factory):
    """The folders of Kandinsky 2.1, and the networks in each."""
    folder = tmp_path_factory.mktemp("first")
    return folder, family.kandinsky_2_1(folder, decoders=("", "inpaint"))


def test_kandinsky_2_1_has_a_text_encoder_and_two_schedulers(first, models):
    put(first, models, *first[1])
    stacks = catalog.list_stacks()
    assert list(stacks) == ["kandinsky-2-1", "kandinsky-2-1-inpaint"]
    entry = stacks["kandinsky-2-1"]
    found = entry.stages["decoder"]
    assert not entry.problems and not verify_stack(entry)
    assert list(found.parts) == ["decoder", "autoencoder", "text_tower"]
    assert found.tokenizer in found.all_files and found.tokenizer.is_file()
    # The default is DDIM's, which knows neither the bound nor the learned variance.
    assert found.config.schedule == replace(KANDINSKY_2_1.decoder.schedule, spacing="leading")
    assert found.config.sampling.sampler == "ddpm" and found.config.multilingual.depth == 2


def test_a_scheduler_alone_says_how_to_sample(first, models):
    """DDIM, unbounded, from timestep 1 up; the variance is there all the same, since the network predicts it."""
    put(first, models, "kandinsky-2-1-prior")
    copied(first, models, "kandinsky-2-1")
    shutil.rmtree(models / "kandinsky-2-1" / "ddpm_scheduler")
    config = catalog.find("kandinsky-2-1").stages["decoder"].config
    bare = {"x0_clamp": None, "x0_quantile": None, "spacing": "leading", "first_timestep": 1}
    assert config.schedule == replace(KANDINSKY_2_1.decoder.schedule, **bare)
    assert config.sampling.sampler == "ddim"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("numDims", 24, "numDims is 24, expected 40"),
        ("hidden_act", "relu", "hidden_act is 'relu', expected 'gelu'"),
        ("num_attention_heads", 5, "num_attention_heads 5 must divide hidden_size 48"),
        ("pad_token_id", -1, "pad_token_id is -1, expected a token's id"),
    ],
)
def test_text_encoders_of_another_kind_are_refused(first, models, key, value, expected):
    put(first, models, "kandinsky-2-1-prior")
    copied(first, models, "kandinsky-2-1")
    edit(models / "kandinsky-2-1" / "text_encoder" / "config.json", **{key: value})
    assert expected in refused("kandinsky-2-1")


def test_the_tokenizer_goes_with_the_model(first, models, monkeypatch):
    """Into a native stack too; without it, or without the package that reads it, an error says what to do."""
    put(first, models, "kandinsky-2-1-prior")
    copied(first, models, "kandinsky-2-1")
    entry = catalog.find("kandinsky-2-1")
    list(convert(entry.folder, models / "native"))
    pair = [load_stack(each, "fp32", "cpu").decoder.own_text for each in (entry, catalog.find("native"))]
    assert torch.equal(*(own.encode(("a red star, кот",)).tokens for own in pair))
    words = models / "native" / "decoder.tokenizer.json"
    words.write_text("{}")
    with pytest.raises(ValueError, match=r"decoder.tokenizer.json: not a tokenizer .*download the model's tokenizer"):
        load_stack(catalog.find("native"), "fp32", "cpu").decoder.own_text.encode(("a",))
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r"XLM-R, whose words need the package tokenizers; `pip install tokenizers`"):
        load_stack(entry, "fp32", "cpu").decoder.own_text.encode(("a",))
    words.unlink()
    assert "decoder.tokenizer.json: missing, and decoder.safetensors reads captions by it" in refused("native")
    (models / "kandinsky-2-1" / "tokenizer" / "tokenizer.json").unlink()
    assert "tokenizer/tokenizer.json: missing; download the folder 'tokenizer'" in refused("kandinsky-2-1")
