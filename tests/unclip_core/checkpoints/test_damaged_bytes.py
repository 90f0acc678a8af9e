"""Whatever bytes lie in a file of the search path: its own model is listed as damaged, every other model works.

Short and always the same by default; with `UNCLIP_FUZZ=20000` it looks further.
"""

import json
import os
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfyui_unclip.tests.copies import copy_folder
from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError, WeightSet, read_header, read_stage
from comfyui_unclip.unclip_core.checkpoints.native import save_stage
from comfyui_unclip.unclip_core.checkpoints.pickles import count_pickled, is_torchscript
from comfyui_unclip.unclip_core.checkpoints.tensors import open_weights
from comfyui_unclip.unclip_core.checkpoints.torchscript import open_torchscript
from comfyui_unclip.unclip_core.config import STAGE_CONFIGS, STAGES, PriorConfig, to_json
from comfyui_unclip.workflows.cli import run

PROFILE = settings(
    max_examples=int(os.environ.get("UNCLIP_FUZZ", "150")),
    derandomize="UNCLIP_FUZZ" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
DEEP = "[" * 500 + "]" * 500
TOO_DEEP = "[" * 200_000 + "]" * 200_000
# JSON's text, because Python writes neither a number of many digits nor a deep list.
ODD = ("[1]", '"\\ud800"', "1" + "0" * 400, "-1", "0", "1e400", "NaN", "null", "true", '""', "[]", "{}", "[[]]", DEEP)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
).map(json.dumps)


def safetensors_bytes(header, data=b""):
    """A file with this header, a text or bytes."""
    header = header.encode("utf-8", "surrogatepass") if isinstance(header, str) else header
    return len(header).to_bytes(8, "little") + header + data


def stage_bytes(stage="prior", config=None, **metadata):
    """A native stage file without tensors whose config is this text."""
    config = to_json(PriorConfig()) if config is None else config
    return safetensors_bytes(
        json.dumps({"__metadata__": {"format_version": "1", "stage": stage, "config": config, **metadata}})
    )


def only_checkpoint_errors(read, path):
    """Call a reader; what it raises is one line that can be printed."""
    try:
        return read(path)
    except CheckpointError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        str(error).encode()
    return None


@pytest.fixture(scope="module")
def karlo_source(karlo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("karlo") / "source"
    karlo.write_karlo_folder(folder)
    return folder


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A search path with a sound stack `good` on it, and a place for damaged ones beside it."""
    monkeypatch.setattr(catalog, "EMBEDDED", tmp_path / "embedded")
    monkeypatch.setenv(catalog.ENVIRONMENT, str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    save_stage(tmp_path / "models" / "good" / "prior.safetensors", {"w": torch.ones(3)}, "prior", PriorConfig())
    return tmp_path / "models"


def check_listed(capsys, name):
    """`good` works, `name` is listed with a reason: by the catalog and by `unclip models`."""
    stacks = catalog.list_stacks()
    assert catalog.find("good").stages and not stacks["good"].problems
    (problem, *_) = stacks[name].problems
    assert "\n" not in problem and name in problem
    assert run(["models"]) == 0
    printed = capsys.readouterr().out
    assert problem in printed and "good" in printed
    with pytest.raises(ValueError, match=f"model '{name}' is broken"):
        catalog.find(name)
    return problem


HEADERS = {
    "metadata-list": '{"__metadata__": [1]}',
    "metadata-of-numbers": '{"__metadata__": {"format_version": 1, "stage": 2, "config": 3}}',
    "metadata-half-character": '{"__metadata__": {"format_version": "1", "stage": "prior", "config": "\\ud800"}}',
    "a-list": "[1, 2]",
    "huge-offset": '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1' + "0" * 400 + "]}}",
    "infinite-offset": '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 1e999]}}',
    "huge-shape": '{"a": {"dtype": "ODD", "shape": [1' + "0" * 400 + '], "data_offsets": [0, 0]}}',
    "too-many-digits": '{"a": {"dtype": "F32", "shape": [1' + "0" * 5000 + '], "data_offsets": [0, 4]}}',
    "deep": '{"a": ' + DEEP + "}",
    "too-deep": '{"a": ' + TOO_DEEP + "}",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_damaged_header_hides_no_other_model(root, capsys, header):
    (root / "bad").mkdir()
    (root / "bad" / "prior.safetensors").write_bytes(safetensors_bytes(header))
    check_listed(capsys, "bad")


CONFIGS = {
    "huge": '{"embed_scale": 1' + "0" * 400 + "}",
    "zero": '{"unet": {"patch_size": 0}}',
    "deep": '{"unet": ' + DEEP + "}",
    "too-deep": '{"unet": ' + TOO_DEEP + "}",
    "half-character": '{"decoder_id": "\\ud800"}',
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_damaged_native_config_hides_no_other_model(root, capsys, config):
    (root / "bad").mkdir()
    (root / "bad" / "decoder.safetensors").write_bytes(stage_bytes("decoder", config))
    assert "decoder.safetensors" in check_listed(capsys, "bad")


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("tokenizer/special_tokens_map.json", "pad_token", "[1]"),
        ("feature_extractor/preprocessor_config.json", "image_mean", '"red"'),
        ("prior_scheduler/scheduler_config.json", "prediction_type", "[1]"),
        ("prior_scheduler/scheduler_config.json", "clip_sample_range", "1" + "0" * 400),
        ("text_encoder/config.json", "_class_name", DEEP),
        ("text_encoder/config.json", "architectures", "5"),
        ("decoder/config.json", "block_out_channels", '{"a": 1}'),
        ("decoder/config.json", "down_block_types", "5"),
        ("prior/config.json", "num_layers", "1" + "0" * 400),
    ],
)
def test_a_damaged_json_hides_no_other_model(root, karlo_source, capsys, file, key, value):
    copy_folder(karlo_source, root / "bad")
    path = root / "bad" / file
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(exist_ok=True)
    if key == "architectures":
        known.pop("_class_name", None)
    path.write_text(json.dumps(known | {key: "HERE"}).replace('"HERE"', value))
    assert f"{path}: " in check_listed(capsys, "bad")


def test_folders_where_files_should_be_hide_no_other_model(root):
    (root / "bad" / "decoder" / "config.json").mkdir(parents=True)
    (root / "worse" / "prior.safetensors").mkdir(parents=True)
    (root / "worst" / "model_index.json").mkdir(parents=True)
    stacks = catalog.list_stacks()
    assert catalog.find("good").stages and stacks["worse"].problems


@PROFILE
@given(content=st.binary(max_size=200) | st.binary(max_size=200).map(safetensors_bytes))
def test_any_bytes(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(content)
    found = only_checkpoint_errors(read_header, path)
    assert found is None or isinstance(found[0], dict)
    for read in (read_stage, count_pickled, is_torchscript, open_torchscript):
        only_checkpoint_errors(read, path)


@PROFILE
@given(content=st.binary(max_size=300), protocol=st.sampled_from([b"", b"\x80\x02", b"\x80\x04"]))
def test_any_pickle(tmp_path_factory, content, protocol):
    path = tmp_path_factory.getbasetemp() / "any.bin"
    for zipped in (False, True):
        if zipped:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("x/data.pkl", protocol + content)
        else:
            path.write_bytes(protocol + content)
        for read in (count_pickled, is_torchscript, open_torchscript):
            only_checkpoint_errors(read, path)
        only_checkpoint_errors(lambda path: open_weights(WeightSet((path,), "fp32", 1)), path)


def mutated(config):
    """Strategy: a config's JSON with some value replaced by another."""
    places = []

    def collect(value, place):
        places.append(place)
        if isinstance(value, dict):
            for key, inner in value.items():
                collect(inner, (*place, key))

    collect(config, ())

    def put(place, text):
        if not place:
            return text
        changed = json.loads(json.dumps(config))
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = "\0HERE"
        return json.dumps(changed).replace(json.dumps("\0HERE"), text)

    return st.builds(put, st.sampled_from(places), st.sampled_from(ODD) | st.sampled_from(ODD) | VALUES)


HEADER = {
    "__metadata__": {"format_version": "1", "stage": "prior", "config": "{}"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F4", "shape": [4], "data_offsets": [24, 26]},
}


@PROFILE
@given(header=mutated(HEADER))
def test_any_header(tmp_path_factory, header):
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(safetensors_bytes(header, bytes(26)))
    found = only_checkpoint_errors(read_header, path)
    if found is not None:  # what is let through can be counted and printed
        for name, (dtype, shape) in found[1].items():
            f"{name} {dtype} {shape}".encode()
            float(sum(shape))
    only_checkpoint_errors(read_stage, path)


@PROFILE
@given(data=st.data(), stage=st.sampled_from(STAGES))
def test_any_native_config(tmp_path_factory, data, stage):
    path = tmp_path_factory.getbasetemp() / "config.safetensors"
    config = data.draw(mutated(json.loads(to_json(STAGE_CONFIGS[stage]()))))
    path.write_bytes(stage_bytes(stage, config))
    found = only_checkpoint_errors(read_stage, path)
    if found is not None:
        repr(found.config).encode()


@settings(PROFILE, max_examples=3 * PROFILE.max_examples)  # many files with many places
@given(data=st.data())
def test_any_json_of_a_diffusers_folder(karlo_source, data):
    files = sorted(karlo_source.rglob("*.json"))
    path = data.draw(st.sampled_from(files))
    before = path.read_bytes()
    other = data.draw(st.one_of(*[mutated(json.loads(before)).map(str.encode)] * 4, st.binary(max_size=40)))
    try:
        path.write_bytes(other)
        entry = catalog.read_stack(karlo_source)
        for line in entry.problems if entry else ():
            assert "\n" not in line
            line.encode()
    finally:
        path.write_bytes(before)
