"""Apply LoRA: every input counts, what it refuses, where it finds files, and what is not linked."""

import os

import pytest
import torch

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS, host
from comfyui_unclip.nodes.host import ComfyHost, LocalHost
from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.unclip_core.checkpoints.lora_file import save_lora
from comfyui_unclip.unclip_core.models.lora import Branch, attention_layers, new_branches
from comfyui_unclip.unclip_core.stack import load_stack

APPLY = NODE_CLASS_MAPPINGS["UnCLIPApplyLoRA"]
SOCKETS = ("CLIP", "PRIOR", "DECODER")


def branches(stage, seed=0):
    layers = attention_layers(stage.network.read())
    generator = torch.Generator().manual_seed(seed)
    return {
        name: Branch(branch.down, torch.randn(branch.up.shape, generator=generator))
        for name, branch in new_branches(layers, 2, seed).items()
    }


@pytest.fixture
def folder(tmp_path, monkeypatch, stack):
    """$UNCLIP_MODELS/loras with the LoRA `cup` of the tiny stack, and `paint` of its decoder alone."""
    monkeypatch.setenv(catalog.ENVIRONMENT, str(tmp_path))
    prior, decoder = stack["PRIOR"], stack["DECODER"]
    whole = {
        "prior": (prior.config.prior_id, branches(prior)),
        "decoder": (decoder.config.decoder_id, branches(decoder)),
    }
    row = torch.randn(16, generator=torch.Generator().manual_seed(0))
    folder = tmp_path / "loras"
    save_lora(folder / "cup.safetensors", whole, clip_id=stack["CLIP"].clip_id, words={"sks_cup": row})
    save_lora(folder / "paint.safetensors", {"decoder": whole["decoder"]})
    return folder


def apply(stack, lora_name, strength=1.0, links=SOCKETS):
    handles = APPLY().apply(lora_name=lora_name, strength=strength, **{name.lower(): stack[name] for name in links})
    return {**stack, **dict(zip(SOCKETS, handles, strict=True))}


def paint(stack):
    text = stack["CLIP"].encode_text(["a red sks_cup"])
    embed = stack["PRIOR"].sample(text, seed=1, candidates=1)
    return text.embed, embed.vector, stack["DECODER"].sample(embed, text, seed=1)


def test_every_input_changes_the_result(stack, folder):
    plain = paint(stack)
    results = {
        "cup": paint(apply(stack, "cup.safetensors")),
        "half": paint(apply(stack, "cup.safetensors", 0.5)),
        "paint": paint(apply(stack, "paint.safetensors")),
        "without clip": paint(apply(stack, "cup.safetensors", links=("PRIOR", "DECODER")) | {"CLIP": stack["CLIP"]}),
        "without prior": paint(apply(stack, "cup.safetensors", links=("CLIP", "DECODER")) | {"PRIOR": stack["PRIOR"]}),
        "without decoder": paint(
            apply(stack, "cup.safetensors", links=("CLIP", "PRIOR")) | {"DECODER": stack["DECODER"]}
        ),
    }
    pictures = [plain[2], *(found[2] for found in results.values())]
    for index, one in enumerate(pictures):
        assert all((one - other).abs().max() > 1e-3 for other in pictures[:index])
    assert torch.equal(results["paint"][1], plain[1])  # the decoder's alone
    assert torch.equal(results["without clip"][0], plain[0]) and not torch.equal(results["cup"][0], plain[0])
    off = apply(stack, "cup.safetensors", 0.0)
    assert all(off[name] is stack[name] for name in SOCKETS)
    assert all(torch.equal(*pair) for pair in zip(paint(off), plain, strict=True))
    assert all(torch.equal(*pair) for pair in zip(paint(stack), plain, strict=True))


def test_what_is_not_linked_has_no_output_and_says_so_when_used(stack, folder):
    clip, prior, decoder = APPLY().apply(lora_name="cup.safetensors", strength=1.0, decoder=stack["DECODER"])
    assert decoder.loras
    with pytest.raises(ValueError, match="its input prior is not linked; link Load unCLIP's PRIOR to it"):
        prior.sample(None)
    with pytest.raises(ValueError, match="its input clip is not linked"):
        clip.encode_text(["a"])
    with pytest.raises(ValueError, match=r"has decoder \(.*\), but linked is clip and prior; link what it was trained"):
        APPLY().apply(lora_name="paint.safetensors", strength=1.0, clip=stack["CLIP"], prior=stack["PRIOR"])
    with pytest.raises(ValueError, match="but linked is nothing"):
        APPLY().apply(lora_name="cup.safetensors", strength=1.0)


def test_the_lora_of_another_model_is_refused_by_name(stack, folder):
    prior, decoder = stack["PRIOR"], stack["DECODER"]
    save_lora(folder / "a.safetensors", {"prior": ("karlo-v1-alpha/prior", branches(prior))})
    with pytest.raises(
        ValueError, match=r"^Apply LoRA: .*a\.safetensors was trained on the prior karlo-v1-alpha/prior,"
    ):
        apply(stack, "a.safetensors")
    save_lora(
        folder / "a.safetensors",
        {"decoder": (decoder.config.decoder_id, branches(decoder))},
        clip_id="ViT-L-14/openai",
        words={"cup": torch.zeros(768)},
    )
    with pytest.raises(
        ValueError, match=r"has words of the CLIP ViT-L-14/openai, but this one is tiny-1; load the model"
    ):
        apply(stack, "a.safetensors")
    with pytest.raises(ValueError, match="Apply LoRA: strength must be a number"):
        apply(stack, "cup.safetensors", float("nan"))


def test_files_are_offered_checked_and_noticed(stack, folder):
    offered = APPLY.INPUT_TYPES()["required"]["lora_name"][0]
    assert offered == ["cup.safetensors", "paint.safetensors"]
    assert APPLY.VALIDATE_INPUTS("cup.safetensors") is True and APPLY.VALIDATE_INPUTS() is True
    assert "no file 'gone.safetensors'; there are: cup.safetensors" in APPLY.VALIDATE_INPUTS("gone.safetensors")
    (folder / "bad.safetensors").write_bytes(b"no")
    assert "bad.safetensors" in APPLY.VALIDATE_INPUTS("bad.safetensors")
    assert APPLY.INPUT_TYPES()["required"]["lora_name"][0] == offered
    before = APPLY.IS_CHANGED(lora_name="cup.safetensors", strength=1.0)
    assert APPLY.IS_CHANGED(lora_name="cup.safetensors", strength=0.3) == before
    os.utime(folder / "cup.safetensors", (1, 1))
    assert APPLY.IS_CHANGED(lora_name="cup.safetensors") != before
    assert "no file" in APPLY.IS_CHANGED(lora_name="gone.safetensors")
    assert APPLY.IS_CHANGED(lora_name=None) == ""  # linked


def test_the_editors_own_lora_folder_comes_first(tmp_path, monkeypatch):
    monkeypatch.delenv(catalog.ENVIRONMENT, raising=False)
    checkout = tmp_path / "ComfyUI" / "custom_nodes" / "comfyui-unclip"
    checkout.mkdir(parents=True)
    monkeypatch.setattr(host, "CHECKOUT", checkout)
    assert LocalHost().lora_folders() == []
    (tmp_path / "ComfyUI" / "folder_paths.py").touch()
    assert LocalHost().lora_folders() == [tmp_path / "ComfyUI" / "models" / "loras"]
    editor = type("folder_paths", (), {"get_folder_paths": staticmethod(lambda name: [f"/models/{name}", "/more"])})
    monkeypatch.setitem(__import__("sys").modules, "folder_paths", editor)
    assert [str(path) for path in ComfyHost().lora_folders()] == ["/models/loras", "/more"]


def test_a_stack_takes_a_file_by_its_path(folder, tiny_stack):
    plain = load_stack(catalog.find(tiny_stack), "fp32", "cpu")
    changed = plain.with_lora(folder / "cup.safetensors")
    caption = "a red sks_cup"
    assert not torch.equal(changed.text_to_image(caption), plain.text_to_image(caption))
    off = plain.with_lora(folder / "cup.safetensors", 0.0)
    assert torch.equal(off.text_to_image(caption), plain.text_to_image(caption))
