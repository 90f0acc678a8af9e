"""`unclip convert`: foreign folders and Karlo's own files become a native stack, whole or not at all."""

import shutil
from dataclasses import replace

import pytest
import torch

from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.tests.unclip_core.checkpoints import karlo_files
from comfyui_unclip.tests.unclip_core.checkpoints.kandinsky_files import write_kandinsky_files
from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.unclip_core.checkpoints import convert as module
from comfyui_unclip.unclip_core.checkpoints.convert import convert
from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError
from comfyui_unclip.unclip_core.checkpoints.loading import load_network
from comfyui_unclip.unclip_core.checkpoints.torchscript import open_torchscript
from comfyui_unclip.unclip_core.clip.networks import empty_network
from comfyui_unclip.unclip_core.config import StackConfig
from comfyui_unclip.unclip_core.presets import KARLO
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.workflows.cli import run


@pytest.fixture(scope="module")
def written(karlo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("karlo") / "source"
    return folder, karlo.write_karlo_folder(folder, with_image_encoder=True)


@pytest.fixture(scope="module")
def entry(written):
    return catalog.read_stack(written[0])


@pytest.fixture(scope="module")
def originals(written, entry, tmp_path_factory):
    """A folder of Karlo's own files, and the sizes they have."""
    folder = tmp_path_factory.mktemp("original") / "files"
    karlo_files.write_karlo_files(folder, written[1], head_channels=16)
    clip = replace(entry.stages["clip"].config, padding=0)
    prior = entry.stages["prior"].config
    prior = replace(prior, mask_value=None, schedule=KARLO.prior.schedule)
    rest = {stage: entry.stages[stage].config for stage in ("decoder", "upsampler_256")}
    return folder, StackConfig("small", clip, prior, **rest)


def finish(steps):
    return list(steps)


def states(folder):
    return {path.stem: load_stage(path)[1:] for path in sorted(folder.glob("*.safetensors"))}


def test_a_diffusers_folder_becomes_a_native_stack(written, entry, tmp_path):
    done = finish(convert(written[0], tmp_path / "new" / "karlo"))
    assert [item.stage for item in done] == list(entry.stages) and done[-1].number == done[-1].total == 4
    new = catalog.read_stack(tmp_path / "new" / "karlo")
    assert new.layout == "native" and not new.problems
    for stage, found in entry.stages.items():
        assert new.stages[stage].config == found.config  # ids included
        assert new.stages[stage].licence == "creativeml-openrail-m"
        assert new.stages[stage].files[0].stat().st_size == next(d.bytes for d in done if d.stage == stage)
    for stage in ("prior", "decoder", "upsampler_256"):
        before = load_network(entry.stages[stage]).state_dict()
        after = load_network(new.stages[stage]).state_dict()
        assert all(torch.equal(after[name], value) for name, value in before.items())
    texts = [load_stack(e, "fp32", "cpu").clip.encode_text(["a star"]).embed for e in (entry, new)]
    assert torch.equal(*texts)


def test_another_dtype(written, tmp_path):
    finish(convert(written[0], tmp_path / "half", "bf16"))
    _, state = states(tmp_path / "half")["prior"]
    assert state["text_in.weight"].dtype == torch.bfloat16 and state["text_in.bias"].dtype == torch.float32
    assert torch.equal(state["text_in.weight"], written[1]["prior"].encoder_hidden_states_proj.weight.bfloat16())
    assert catalog.read_stack(tmp_path / "half").stages["prior"].dtype == "bf16"
    finish(convert(tmp_path / "half", tmp_path / "again", "fp32"))  # native stacks too
    assert catalog.read_stack(tmp_path / "again").stages["prior"].dtype == "fp32"


@pytest.mark.parametrize(("follow", "clamp", "mask"), [("karlo", 10.0, None), ("diffusers", 5.0, -10000.0)])
def test_whose_prior(written, tmp_path, follow, clamp, mask):
    finish(convert(written[0], tmp_path / "new", follow=follow))
    config, _ = states(tmp_path / "new")["prior"]
    assert (config.schedule.x0_clamp, config.mask_value) == (clamp, mask)


def test_karlos_own_files(written, entry, originals, tmp_path):
    folder, sizes = originals
    finish(convert(folder, tmp_path / "new", original=sizes))
    new = states(tmp_path / "new")
    assert set(new) == {"prior", "decoder", "upsampler_256"}
    for stage, (config, state) in new.items():
        assert config == getattr(sizes, stage)
        before = load_network(entry.stages[stage]).state_dict()
        assert set(state) == set(before) and all(torch.equal(state[name], value) for name, value in before.items())
    assert new["prior"][0].schedule.x0_clamp == 10.0


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_karlos_own_files_with_openais_clip(entry, originals, tmp_path):
    """ViT-L-14.pt is a TorchScript archive; what it holds is read without running it."""
    folder, sizes = originals
    clip = load_stack(entry, "fp32", "cpu").clip

    class Archive(torch.nn.Module):
        """A traced module keeps its network's names when that is the module itself."""

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.visual(pixels)

    archive = Archive()
    for name, value in clip.network.named_children():
        archive.add_module(name, value)
    for name in ("positional_embedding", "text_projection", "logit_scale"):
        archive.register_parameter(name, getattr(clip.network, name))
    archive.register_buffer("context_length", torch.tensor(77))
    traced = torch.jit.trace(archive.half().eval(), torch.zeros(1, 3, 32, 32).half(), check_trace=False)
    for path in folder.iterdir():
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / path.name).symlink_to(path)
    torch.jit.save(traced, str(tmp_path / "files" / "x.pt"))
    assert "context_length" in open_torchscript(tmp_path / "files" / "x.pt")
    finish(convert(tmp_path / "files", tmp_path / "new", original=sizes))
    config, state = states(tmp_path / "new")["clip"]
    assert config == sizes.clip and set(state) == set(empty_network(config).state_dict())
    expected = archive.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in state.items())


@pytest.fixture(scope="module", params=["", "inpaint"])
def kandinsky(request, family, tmp_path_factory):
    """(a folder of Kandinsky 2.1's own files, the same as a diffusers stack, the sizes)."""
    kind, source = request.param, tmp_path_factory.mktemp("kandinsky")
    networks = family.kandinsky_2_1(source, decoders=(kind,))
    name = f"kandinsky-2-1-{kind}".removesuffix("-")
    folder = tmp_path_factory.mktemp("original") / "files"
    write_kandinsky_files(folder, source / name, networks["kandinsky-2-1-prior"], networks[name])
    entry = catalog.read_stack(source / name)
    config = {stage: found.config for stage, found in entry.stages.items()}
    # The files say nothing of themselves: the network that repaints is known by its channels alone.
    plain = replace(config["decoder"], extra_input="none", unet=replace(config["decoder"].unet, in_channels=4))
    return folder, entry, StackConfig("small", config["clip"], config["prior"], plain)


def test_kandinskys_own_files(kandinsky, tmp_path):
    folder, entry, sizes = kandinsky
    finish(convert(folder, tmp_path / "new", original=sizes))
    new = catalog.read_stack(tmp_path / "new")
    assert not new.problems and list(new.stages) == ["prior", "decoder"]
    expected = entry.stages["decoder"].config
    assert replace(new.stages["decoder"].config, decoder_id=expected.decoder_id) == expected
    for stage, found in new.stages.items():
        before, after = load_network(entry.stages[stage]).state_dict(), load_network(found).state_dict()
        assert set(after) == set(before) and all(torch.equal(after[name], value) for name, value in before.items())
        assert found.licence == "apache-2.0"
    assert new.stages["decoder"].tokenizer.read_text() == entry.stages["decoder"].tokenizer.read_text()


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("d.ckpt", r"a decoder without its autoencoder \(movq_final.ckpt\); put that file beside it"),
        ("text_encoder/pytorch_model.bin", r"without its text_tower \(text_encoder/pytorch_model.bin\)"),
        ("text_encoder/tokenizer.json", r"tokenizer.json: missing, and the decoder reads captions by it"),
    ],
)
def test_kandinskys_files_belong_together(kandinsky, tmp_path, missing, expected):
    folder = shutil.copytree(kandinsky[0], tmp_path / "files")
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=expected):
        finish(convert(folder, tmp_path / "new", original=kandinsky[2]))


def test_karlos_choices_are_not_kandinskys(kandinsky, tmp_path):
    with pytest.raises(ValueError, match="follow 'karlo' is about Karlo's prior, and this is another model"):
        finish(convert(kandinsky[1].folder, tmp_path / "new", follow="karlo"))


def test_originals_without_statistics_are_refused(originals, tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "prior.ckpt").symlink_to(originals[0] / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"mean and standard deviation .*ViT-L-14_stats.th"):
        finish(convert(tmp_path / "files", tmp_path / "new", original=originals[1]))
    assert not (tmp_path / "new").exists()


def test_originals_of_another_size_are_refused(originals, tmp_path):
    expected = r"model.prd_emb \(1, 1, 32\) instead of \(2048,\) in files/a.ckpt"
    with pytest.raises(CheckpointError, match=expected):
        finish(convert(originals[0], tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_nothing_half_written(written, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match=r"there exists; choose another name, or remove it first"):
        finish(convert(written[0], tmp_path / "there"))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_stage", full)
    with pytest.raises(OSError, match="No space left"):
        finish(convert(written[0], tmp_path / "new"))
    monkeypatch.undo()
    steps = convert(written[0], tmp_path / "new")
    next(steps)
    steps.close()  # Ctrl-C
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="neither a diffusers folder"):
        finish(convert(tmp_path / "empty", tmp_path / "new"))
    with pytest.raises(CheckpointError, match="not a folder"):
        finish(convert(tmp_path / "nowhere", tmp_path / "new"))
    with pytest.raises(ValueError, match="dtype 'int8' is unknown; choose one of keep, fp32"):
        finish(convert(tmp_path / "empty", tmp_path / "new", "int8"))


def test_the_command(written, tmp_path, capsys):
    assert run(["convert", str(written[0]), str(tmp_path / "new"), "--dtype", "fp16", "--follow", "karlo"]) == 0
    assert f"wrote {tmp_path / 'new'}" in capsys.readouterr().out
    assert catalog.read_stack(tmp_path / "new").stages["decoder"].dtype == "fp16"
    assert run(["convert", str(written[0]), str(tmp_path / "new")]) == 2
    assert "exists; choose another name" in capsys.readouterr().err
