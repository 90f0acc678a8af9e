"""Embeddings in files and on the editor's CLIP_VISION_OUTPUT socket."""

import json
import os
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.nodes.host import LocalHost, use_host
from comfyui_unclip.unclip_core.checkpoints.embedding_file import save_embedding
from comfyui_unclip.unclip_core.config import ClipConfig
from comfyui_unclip.unclip_core.presets import KANDINSKY_2_2, KARLO, STABLE_UNCLIP_H, STORYBOOK
from comfyui_unclip.unclip_core.types import Embedding
from comfyui_unclip.workflows.cli import run
from comfyui_unclip.workflows.server.app import editor_host

SAVE, LOAD = NODE_CLASS_MAPPINGS["UnCLIPSaveEmbedding"], NODE_CLASS_MAPPINGS["UnCLIPLoadEmbedding"]
TO, FROM = NODE_CLASS_MAPPINGS["UnCLIPToClipVision"], NODE_CLASS_MAPPINGS["UnCLIPFromClipVision"]


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "in").mkdir()
    with use_host(LocalHost(output=tmp_path / "out", input=tmp_path / "in", quiet=True)):
        yield tmp_path


@pytest.mark.parametrize("modality", ["image", "text"])
def test_an_embedding_survives_its_file_exactly(folders, modality):
    embed = Embedding(torch.randn(3, 8) * 10, "ViT-L-14/openai", modality)
    shown = SAVE().save(embed=embed, filename_prefix="mine/cats")["ui"]
    assert shown["text"] == ["mine/cats_00001_.safetensors (3 x 8, ViT-L-14/openai)"]
    assert shown["files"] == [{"filename": "cats_00001_.safetensors", "subfolder": "mine", "type": "output"}]
    offered = LOAD.INPUT_TYPES()["required"]["embedding"][0]
    assert offered == ["mine/cats_00001_.safetensors [output]"]
    assert LOAD.VALIDATE_INPUTS(offered[0]) is True
    (back,) = LOAD().load(embedding=offered[0])
    assert torch.equal(back.vector, embed.vector) and (back.clip_id, back.modality) == (embed.clip_id, modality)
    before = LOAD.IS_CHANGED(embedding=offered[0])
    path = folders / "out" / "mine" / "cats_00001_.safetensors"
    path.rename(folders / "in" / "b.safetensors")
    assert LOAD.INPUT_TYPES()["required"]["embedding"][0] == ["b.safetensors"]
    assert LOAD.IS_CHANGED(embedding=offered[0]) != before


def test_a_run_lists_each_folder_once(tmp_path, touched):
    with use_host(LocalHost(output=tmp_path / "out", input=tmp_path / "in", quiet=True)):
        SAVE().save(embed=Embedding(torch.randn(1, 8), "tiny-1"), filename_prefix="mine/cats")
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for folder in ("out/mine", "out", "in/deep", "in"):
        os.utime(tmp_path / folder, (1, 1))  # not changed just now
    name = "mine/cats_00001_.safetensors [output]"
    graph = {
        "1": {"class_type": "UnCLIPLoadEmbedding", "inputs": {"embedding": name}},
        "2": {"class_type": "UnCLIPSaveEmbedding", "inputs": {"embed": ["1", 0], "filename_prefix": "again"}},
    }
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    listed = touched("os.scandir", tmp_path)
    where = ["-o", str(tmp_path / "out"), "-i", str(tmp_path / "in")]
    assert run(["run", str(tmp_path / "graph.json"), *where]) == 0
    # `out` once more for what a killed run may have left there, since this one writes into it.
    expected = ("out/mine", "out", "out", "in/deep", "in")
    assert sorted(listed) == sorted(str(tmp_path / folder) for folder in expected)


def test_the_list_follows_every_change(folders):
    def offered():
        return LOAD.INPUT_TYPES()["required"]["embedding"][0]

    (folders / "in" / "deep").mkdir()
    os.utime(folders / "in" / "deep", (1, 1))
    os.utime(folders / "in", (1, 1))
    assert offered() == []
    (folders / "in" / "deep" / "a.safetensors").write_text("x")
    assert offered() == ["deep/a.safetensors"]
    os.utime(folders / "in" / "deep", (1, 1))
    assert offered() == ["deep/a.safetensors"]
    SAVE().save(embed=Embedding(torch.randn(1, 8), "tiny-1"), filename_prefix="b")  # makes the output folder
    assert offered() == ["deep/a.safetensors", "b_00001_.safetensors [output]"]
    (folders / "in" / "deep" / "a.safetensors").unlink()
    assert offered() == ["b_00001_.safetensors [output]"]


def test_links_of_the_user_are_followed_but_not_in_the_editor(folders, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "deep").mkdir()
    (elsewhere / "deep" / "circle").symlink_to(elsewhere)
    embed = Embedding(torch.randn(1, 8), "tiny-1")
    (folders / "out").mkdir()
    (folders / "out" / "disk").symlink_to(elsewhere)
    (folders / "in" / "disk").symlink_to(elsewhere)
    SAVE().save(embed=embed, filename_prefix="disk/deep/cats")
    assert (elsewhere / "deep" / "cats_00001_.safetensors").is_file()
    name = "disk/deep/cats_00001_.safetensors"
    assert LOAD.INPUT_TYPES()["required"]["embedding"][0] == [name, f"{name} [output]"]
    assert LOAD.VALIDATE_INPUTS(name) is True
    assert torch.equal(LOAD().load(embedding=name)[0].vector, embed.vector)
    editor = editor_host(output=folders / "out", input=folders / "in")
    with use_host(editor):
        assert LOAD.INPUT_TYPES()["required"]["embedding"][0] == []
        assert "leads out of the folder" in LOAD.VALIDATE_INPUTS(name)
        assert "leads out of the folder" in SAVE.VALIDATE_INPUTS(filename_prefix="disk/x")
        with pytest.raises(ValueError, match="leads out of the folder"):
            LOAD().load(embedding=name)
    editor.close()


def test_files_that_are_no_embedding_are_refused_by_name(folders):
    bad = folders / "in" / "bad.safetensors"
    assert "there is no embedding" in LOAD.VALIDATE_INPUTS("gone.safetensors")
    assert "leads out of the folder" in LOAD.VALIDATE_INPUTS("../../etc/passwd")
    save_embedding(bad, Embedding(torch.zeros(1, 4), "x"))
    whole = bad.read_bytes()
    for content in (b"", b"\x08\x00\x00", b"<!DOCTYPE html><html>", whole[:50], whole[:-4], b"PK\x03\x04" + whole):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.safetensors: (not a complete|truncated).*; download it again$"):
            LOAD().load(embedding="bad.safetensors")
    save_file({"vector": torch.zeros(1, 4)}, bad)
    with pytest.raises(ValueError, match="holds no embedding; choose a file that Save Embedding wrote"):
        LOAD().load(embedding="bad.safetensors")
    header = {"kind": "unclip-embedding", "format_version": "1", "clip_id": "x", "modality": "image"}
    save_file({"vector": torch.full((1, 4), torch.nan)}, bad, header)
    with pytest.raises(ValueError, match=r"vector must be finite floats \(B, D\)"):
        LOAD().load(embedding="bad.safetensors")
    for changed, message in (
        ({"format_version": "2"}, "format version '2', this program reads 1"),
        ({"noise_level": "\u0663"}, "noise_level is .*, expected a timestep"),
        ({"modality": "sound\x1b[2J"}, r"modality is 'sound\\x1b\[2J', expected image or text"),
    ):
        save_file({"vector": torch.zeros(1, 4)}, bad, header | changed)
        with pytest.raises(ValueError, match=message):
            LOAD().load(embedding="bad.safetensors")


def test_one_row_goes_to_the_editor_unscaled():
    embed = Embedding(torch.randn(3, 768) * 7, "ViT-L-14/openai")
    (output,) = TO().convert(embed=embed, row=1)
    # Read as the editor's unCLIPConditioning and its relatives read it.
    assert torch.equal(output.image_embeds, embed.vector[1:2]) and output["image_embeds"] is output.image_embeds
    assert output.penultimate_hidden_states is None
    with pytest.raises(ValueError, match="row 3 of a batch of 3; choose 0 to 2"):
        TO().convert(embed=embed, row=3)
    with pytest.raises(ValueError, match=r"text embedding.*Diffusion Prior first"):
        TO().convert(embed=Embedding(embed.vector, embed.clip_id, "text"), row=0)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_editors_output_takes_on_our_clip(normalised):
    config = ClipConfig(normalised=normalised)
    clip = SimpleNamespace(config=config, clip_id=config.clip_id)
    vector = torch.randn(2, 768) * 7
    (embed,) = FROM().convert(clip=clip, clip_vision_output=SimpleNamespace(image_embeds=vector.half()))
    assert (embed.clip_id, embed.modality, embed.vector.dtype) == (config.clip_id, "image", torch.float32)
    expected = torch.nn.functional.normalize(vector, dim=-1) if normalised else vector
    torch.testing.assert_close(embed.vector, expected, rtol=2e-3, atol=2e-3)
    with pytest.raises(ValueError) as error:
        FROM().convert(clip=clip, clip_vision_output=SimpleNamespace(image_embeds=torch.randn(1, 1024)))
    assert str(error.value) == (
        "From CLIP Vision Output: the CLIP of this Load unCLIP is ViT-L-14/openai (768-d), but clip_vision_output is "
        "1024-d, as ViT-H-14/laion2b_s32b_b79k's is; give Load CLIP Vision the file of ViT-L-14/openai, or encode the "
        "picture with CLIP Image Encode instead"
    )
    with pytest.raises(ValueError, match="no projected embedding"):
        FROM().convert(clip=clip, clip_vision_output=SimpleNamespace(image_embeds=None))


@pytest.mark.parametrize("stack", [KARLO, KANDINSKY_2_2, STABLE_UNCLIP_H], ids=lambda stack: stack.name)
def test_the_bridges_carry_every_public_clip(stack):
    """There and back, of 768, 1280 and 1024 dimensions; another one's is refused by both names."""
    config = stack.clip
    clip = SimpleNamespace(config=config, clip_id=config.clip_id)
    embed = Embedding(torch.randn(1, config.embed_dim), config.clip_id)
    (output,) = TO().convert(embed=embed, row=0)
    (back,) = FROM().convert(clip=clip, clip_vision_output=output)
    assert torch.equal(back.vector, embed.vector) and back.clip_id == embed.clip_id
    for dim, other in {768: "ViT-L-14/openai", 1024: "ViT-H-14", 1280: "ViT-bigG-14", 512: "512-d; give"}.items():
        if dim != config.embed_dim:
            with pytest.raises(ValueError, match=rf"{config.clip_id} \({config.embed_dim}-d\), but .*{other}"):
                FROM().convert(clip=clip, clip_vision_output=SimpleNamespace(image_embeds=torch.randn(1, dim)))


def test_a_noisy_embedding_stays_here():
    with pytest.raises(ValueError, match=r"noise of level 7.*before Noise Embedding.*noise_augmentation"):
        TO().convert(embed=Embedding(torch.randn(1, 768), "ViT-L-14/openai", noise_level=7), row=0)


def test_a_bridge_to_storybook_names_it_as_the_loader_does_and_says_what_can_be_done():
    clip = SimpleNamespace(config=STORYBOOK.clip, clip_id=STORYBOOK.clip.clip_id)
    with pytest.raises(ValueError) as error:
        FROM().convert(clip=clip, clip_vision_output=SimpleNamespace(image_embeds=torch.randn(1, 768)))
    message = str(error.value)
    assert f"{STORYBOOK.clip.clip_id} (192-d, the CLIP of storybook)" in message
    assert message.endswith("; encode the picture with CLIP Image Encode instead")  # no file of it is published
