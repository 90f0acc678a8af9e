"""Native files: what is written comes back, and what is not one is refused with a reason."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file

from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError, read_header, read_stage
from comfyui_unclip.unclip_core.checkpoints.native import load_strict, save_stage
from comfyui_unclip.unclip_core.config import PriorConfig, ScheduleConfig
from comfyui_unclip.unclip_core.models.prior import PriorNetwork

CONFIG = PriorConfig(prior_id="test/prior", clip_dim=24, text_width=20, context_length=10, width=32, depth=1, heads=4)


@pytest.fixture
def prior():
    torch.manual_seed(0)
    return PriorNetwork(CONFIG)


@pytest.fixture
def saved(prior, tmp_path):
    path = tmp_path / "prior.safetensors"
    save_stage(path, prior.state_dict(), "prior", CONFIG, {"recipe": {"seed": 3}})
    return path


def test_round_trip(saved, prior):
    stage, config, state = load_stage(saved)
    assert (stage, config) == ("prior", CONFIG)
    assert set(state) == set(prior.state_dict())
    assert all(torch.equal(state[name], value) for name, value in prior.state_dict().items())


def test_metadata(saved):
    metadata = read_stage(saved).metadata
    assert metadata["format_version"] == "1" and metadata["stage"] == "prior"
    assert metadata["modelspec.sai_model_spec"] == "1.0.0"
    assert metadata["modelspec.architecture"] == "unclip/prior"
    assert metadata["modelspec.title"] == "test/prior"
    assert json.loads(metadata["recipe"]) == {"seed": 3}
    assert read_header(saved)[1]["text_in.weight"] == ("F32", (32, 20))


def test_bfloat16_storage_keeps_vectors_exact(prior, tmp_path):
    save_stage(tmp_path / "p.safetensors", prior.state_dict(), "prior", CONFIG, dtype=torch.bfloat16)
    _, _, state = load_stage(tmp_path / "p.safetensors")
    assert state["text_in.weight"].dtype == torch.bfloat16
    assert torch.equal(state["text_in.weight"], prior.text_in.weight.bfloat16())
    assert torch.equal(state["query"], prior.query)


def test_any_layout_and_shared_tensors_are_written(tmp_path):
    kernel = torch.randn(4, 8, 3, 3).to(memory_format=torch.channels_last)
    state = {"kernel": kernel, "again": kernel, "part": torch.randn(4, 4)[:2], "other": torch.randn(4, 4)[:, 1]}
    save_stage(tmp_path / "p.safetensors", state, "prior", CONFIG)
    loaded = load_stage(tmp_path / "p.safetensors")[2]
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_strict_loading_lists_what_differs(saved, prior):
    state = load_stage(saved)[2]
    state["stranger"] = state.pop("query")
    state["mean"] = torch.zeros(7)
    before = prior.text_in.weight.clone()
    expected = "missing: query; unexpected: stranger; of the wrong shape: mean (7,) instead of (24,)"
    with pytest.raises(CheckpointError, match=re.escape(expected)):
        load_strict(prior, state, "prior.safetensors")
    assert torch.equal(prior.text_in.weight, before)


def test_a_long_list_is_cut(prior):
    with pytest.raises(CheckpointError, match=r"missing: .* and \d+ more\)"):
        load_strict(prior, {}, "empty")


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_failed_write_leaves_the_old_file_and_nothing_else(saved, tmp_path):
    before = saved.read_bytes()
    with pytest.raises(KeyError):  # safetensors has no such type
        save_stage(saved, {"a": torch.zeros(3, dtype=torch.complex32)}, "prior", CONFIG)
    assert saved.read_bytes() == before
    assert list(tmp_path.iterdir()) == [saved]


def test_wrong_stage_or_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown stage 'painter'; choose one of clip, prior"):
        save_stage(tmp_path / "x", {}, "painter", CONFIG)
    with pytest.raises(ValueError, match="'decoder' needs a DecoderConfig"):
        save_stage(tmp_path / "x", {}, "decoder", CONFIG)


def test_truncated_anywhere(saved):
    whole = saved.read_bytes()
    for size in (0, 4, 8, 100, len(whole) - 1):
        saved.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"prior.safetensors: .*(not a complete safetensors|truncated)"):
            read_stage(saved)


def test_trailing_bytes_are_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match="bytes"):
        read_stage(saved)


def test_other_formats_are_refused(tmp_path):
    path = tmp_path / "prior.safetensors"
    torch.save({"weight": torch.zeros(300)}, path)
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        read_stage(path)
    path.write_text("<!DOCTYPE html><html>404: Not Found</html>")
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        read_stage(path)
    path.write_bytes((16).to_bytes(8, "little") + b"this is not json")
    with pytest.raises(CheckpointError, match="header is not JSON"):
        read_stage(path)
    for header in (b"[1, 2]", b'{"a": {"dtype": "F32"}}', b'{"a": 3}', b'{"__metadata__": null, "a": [1]}'):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(CheckpointError, match="malformed header"):
            read_stage(path)


def test_foreign_safetensors_are_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "prior.safetensors")
    with pytest.raises(CheckpointError, match=r"not an unCLIP stage.*use `unclip convert`"):
        read_stage(tmp_path / "prior.safetensors")


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot be read .*check the path"):
        read_stage(tmp_path / "prior.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": "9"}, "format version 9, but this comfyui-unclip reads 1; update"),
        ({"stage": "painter"}, "unknown stage 'painter'"),
        ({"config": '{"clip_dimension": 3}'}, r"unknown fields \['clip_dimension'\]"),
        ({"config": '{"clip_dim": "many"}'}, "clip_dim: expected int, got 'many'"),
        ({"config": "{"}, "not JSON"),
        ({"config": '{"scaling": "sometimes"}'}, "'sometimes' is unknown"),
    ],
)
def test_bad_metadata_is_refused(saved, change, message):
    metadata = {**read_stage(saved).metadata, **change}
    save_file({"weight": torch.zeros(3)}, saved, metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        read_stage(saved)


def test_a_rewritten_file_is_read_again(saved, prior):
    changed = PriorConfig(**{**CONFIG.__dict__, "schedule": ScheduleConfig(prediction="x0", x0_clamp=None)})
    assert read_stage(saved).config == CONFIG
    save_stage(saved, prior.state_dict(), "prior", changed)
    assert read_stage(saved).config == changed
