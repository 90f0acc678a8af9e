"""ECLIPSE's priors: recognised, joined to the model that they were made for, and equal to what their file says."""

import json
from dataclasses import replace

import pytest
import torch

from comfyui_unclip.tests.copies import copy_folder
from comfyui_unclip.unclip_core.checkpoints import catalog, eclipse_folder
from comfyui_unclip.unclip_core.checkpoints.convert import convert
from comfyui_unclip.unclip_core.checkpoints.verify import verify_stack
from comfyui_unclip.unclip_core.diffusion.noise import ItemNoise
from comfyui_unclip.unclip_core.presets import ECLIPSE_KANDINSKY_2_2, ECLIPSE_KARLO, KANDINSKY_2_2, KARLO
from comfyui_unclip.unclip_core.stack import load_stack

PRIOR = "ECLIPSE_Karlo_Prior"


@pytest.fixture(scope="module")
def written(karlo, family, tmp_path_factory):
    """A reduced Karlo and Kandinsky 2.2, and ECLIPSE's prior for each. Returns the folder and the priors by name."""
    folder = tmp_path_factory.mktemp("eclipse")
    karlo.write_karlo_folder(folder / "karlo-v1-alpha")
    family.kandinsky_2_2(folder, decoders=("controlnet-depth", ""))
    return folder, {
        PRIOR: family.eclipse_prior(folder / PRIOR, dim=karlo.KarloSizes().clip_dim),
        "ECLIPSE_KandinskyV22_Prior": family.eclipse_prior(folder / "ECLIPSE_KandinskyV22_Prior"),
    }


@pytest.fixture
def models(written, tmp_path, monkeypatch):
    """put(*names) -> a search path that holds nothing but copies of these."""
    monkeypatch.setattr(catalog, "EMBEDDED", tmp_path / "embedded")
    monkeypatch.setenv(catalog.ENVIRONMENT, str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(*names):
        for name in names:
            copy_folder(written[0] / name, tmp_path / "models" / name)
        return tmp_path / "models"

    return put


def edit(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


@torch.no_grad()
def test_each_goes_with_the_model_whose_clip_it_speaks(written, models):
    hinted = "kandinsky-2-2-controlnet-depth"
    folder = models("karlo-v1-alpha", "kandinsky-2-2-prior", hinted, "kandinsky-2-2-decoder", *written[1])
    stacks = catalog.list_stacks()
    assert list(stacks) == ["karlo-v1-alpha", hinted, "kandinsky-2-2", "eclipse-kandinsky-2-2", "eclipse-karlo"]
    for host, name, published in (
        ("karlo-v1-alpha", "eclipse-karlo", PRIOR),
        ("kandinsky-2-2", "eclipse-kandinsky-2-2", "ECLIPSE_KandinskyV22_Prior"),
    ):
        entry, other = catalog.find(name), stacks[host]
        assert entry.experimental and not other.experimental and not verify_stack(entry)
        assert entry.stages.keys() == other.stages.keys()
        for stage in entry.stages.keys() - {"prior", "decoder"}:
            assert entry.stages[stage] == other.stages[stage]
        assert entry.stages["prior"].path == folder / published and entry.stages["prior"].licence == "mit"
        decoder, theirs = entry.stages["decoder"].config, other.stages["decoder"].config
        assert decoder == replace(theirs, sampling=replace(theirs.sampling, guidance_scale=7.5))
        # What its file says, on the native scale: the mean and std in it are not applied.
        stack = load_stack(entry, "fp32", "cpu")
        text = stack.clip.encode_text(["a red star", "a boat"])
        embed = stack.prior.sample(text, candidates=1, seed=5)
        network = stack.prior.network.read()
        noise = ItemNoise(5, 2, "prior").draw((entry.stages["prior"].config.clip_dim,))
        raw = network(noise, torch.zeros(2), text.tokens, text.embed, text.mask)
        assert torch.allclose(embed.vector, raw, atol=1e-5) and embed.clip_id == stack.clip.clip_id
        out = written[1][published].proj_to_clip_embeddings
        assert network.out.weight.equal(out.weight)


@torch.no_grad()
def test_a_picture_by_the_hosts_decoder(written, models):
    models("karlo-v1-alpha", PRIOR)
    picture = load_stack(catalog.find("eclipse-karlo"), "fp32", "cpu").text_to_image("a red star")
    assert picture.shape == (1, 32, 32, 3) and picture.std() > 0.01


def test_without_its_host_the_error_names_the_command(models):
    models(PRIOR)
    with pytest.raises(ValueError, match="no CLIP and no decoder of its own, and no model whose CLIP has 32") as error:
        catalog.find("eclipse-karlo")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("own", "host"), [(ECLIPSE_KARLO, KARLO), (ECLIPSE_KANDINSKY_2_2, KANDINSKY_2_2)])
def test_the_published_sizes_want_the_published_host(own, host, tmp_path):
    """Told by sizes: these weights would take a gigabyte."""
    found = catalog.StageFile(tmp_path, "prior", replace(own.prior, clip_id="", prior_id=""), {})
    prior = eclipse_folder.LonePrior("any name", tmp_path, found)

    def stack(name, config):
        stages = {"clip": config.clip, "decoder": config.decoder}
        files = {stage: catalog.StageFile(tmp_path, stage, part, {}) for stage, part in stages.items()}
        return catalog.StackEntry(name, tmp_path, files)

    other_id = replace(host, decoder=replace(host.decoder, decoder_id="another"))
    joined = eclipse_folder.join(prior, [stack("another", other_id)])
    assert joined.problems and f"get it with `unclip pull {host.name}`" in joined.problems[0]
    joined = eclipse_folder.join(prior, [stack("another", other_id), stack("mine", host), stack(host.name, host)])
    assert not joined.problems
    assert {stage: found.config for stage, found in joined.stages.items()} == {
        "clip": own.clip,
        "prior": own.prior,
        "decoder": own.decoder,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_in_type": "layer"}, "norm_in_type is 'layer', expected None"),
        ({"added_emb_type": None, "embedding_dim": "x"}, "embedding_dim is 'x', expected a positive whole number"),
        ({"encoder_hid_proj_type": "conv"}, "encoder_hid_proj_type is 'conv', expected 'linear'"),
        ({"num_attention_heads": 4}, ""),
    ],
)
def test_what_a_config_says_wrong_is_named(models, changes, message):
    folder = models("karlo-v1-alpha", PRIOR)
    edit(folder / PRIOR, **changes)
    if message:
        with pytest.raises(ValueError, match=message):
            catalog.find("eclipse-karlo")
        return
    stack = load_stack(catalog.find("eclipse-karlo"), "fp32", "cpu")  # shapes are known when the weights are opened
    with pytest.raises(ValueError, match=r"the weights do not fit PriorNetwork .*positional_embedding"):
        stack.prior.sample(stack.clip.encode_text("a boat"))


def test_a_prior_of_a_diffusion_and_other_models_are_none(models):
    folder = models(PRIOR)
    for changes in ({"additional_embeddings": 4}, {"additional_embeddings": 3, "_class_name": "DiT"}):
        edit(folder / PRIOR, **changes)
        assert eclipse_folder.read_prior(folder / PRIOR, PRIOR) is None
    (folder / PRIOR / "config.json").write_text("{")
    assert eclipse_folder.read_prior(folder / PRIOR, PRIOR) is None


def test_converted_it_is_a_whole_stack_of_our_own_files(models, tmp_path):
    folder = models("karlo-v1-alpha", PRIOR)
    for _ in convert(folder / PRIOR, tmp_path / "native"):
        pass
    entry = catalog.read_stack(tmp_path / "native")
    assert entry.experimental and entry.stages["prior"].config.one_pass
    text = load_stack(entry, "fp32", "cpu").clip.encode_text("a boat")
    theirs = load_stack(catalog.find("eclipse-karlo"), "fp32", "cpu").prior.sample(text)
    assert torch.allclose(load_stack(entry, "fp32", "cpu").prior.sample(text).vector, theirs.vector, atol=1e-5)
