"""Pickles from strangers cost no more than they are worth: a second of processor time and 200 MB, or a refusal."""

import json
import subprocess
import sys

import pytest
import torch

from comfyui_unclip.tests.unclip_core.checkpoints import hostile_pickles
from comfyui_unclip.unclip_core.checkpoints import pickles
from comfyui_unclip.unclip_core.checkpoints.header import WeightSet
from comfyui_unclip.unclip_core.checkpoints.tensors import open_weights

READ_ALL = """
import json, resource, sys, time
from pathlib import Path
from comfyui_unclip.unclip_core.checkpoints import header, pickles
if sys.argv[2] == "load":
    from comfyui_unclip.unclip_core.checkpoints import tensors, torchscript

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10

def load(path):
    if pickles.is_torchscript(path):
        return {name: source.read() for name, source in torchscript.open_torchscript(path).items()}
    return {name: source.read() for name, source in tensors.open_weights(header.WeightSet((path,), "fp32", 1)).items()}

readers = {"list": (pickles.count_pickled, pickles.list_pickled, pickles.is_torchscript,
                    lambda path: pickles.pickle_mentions(path, "w0")), "load": (load,)}[sys.argv[2]]
for path in sorted(Path(sys.argv[1]).iterdir()):
    before = peak()
    for read in readers:
        start = time.process_time()
        try:
            outcome = "read", len(found) if isinstance(found := read(path), dict) else str(found)
        except header.CheckpointError as error:
            outcome = "refused", str(error)
        print(json.dumps([path.name, *outcome, time.process_time() - start, peak() - before]), flush=True)
"""


@pytest.mark.parametrize("how", ["list", "load"])
def test_a_hostile_pickle_is_refused_within_a_second_and_200_mb(how, tmp_path, repository):
    """In a process of their own: a peak of memory is one of the whole process."""
    for name, content in hostile_pickles.HOSTILE.items():
        (tmp_path / f"{name}.bin".replace("*", "x")).write_bytes(content)
    command = [sys.executable, "-c", READ_ALL, str(tmp_path), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=repository.parent)
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert {name for name, *_ in outcomes} == {path.name for path in tmp_path.iterdir()}
    refused = set()
    for name, outcome, message, seconds, megabytes in outcomes:
        assert seconds < 1 and megabytes < 200, (name, message, seconds, megabytes)
        if outcome == "refused":
            refused.add(name)
            assert name in message and "\n" not in message, message
    # Programs whose places in the memo, and walks, cost nothing here: they hold few tensors, or none.
    cheap = {"a walk of 2xx60 steps.bin", "an object that holds itself.bin", "the same in TorchScript.bin"}
    harmless = cheap if how == "load" else set()
    assert refused >= {name for name, *_ in outcomes} - harmless


def test_what_pytorch_writes_is_read(tmp_path):
    """The stand-ins follow all that torch.save writes of weights: both formats, views and tied ones."""
    base = torch.arange(24.0).reshape(4, 6)
    state = {"a": base, "view": base[1:, ::2], "tied": base, "turned": base.t(), "one": torch.tensor(3.0)}
    state |= {name: torch.ones(3).to(getattr(torch, name)) for name in ("bfloat16", "float16", "int8", "int16", "bool")}
    state |= {"none": torch.zeros(0, 3), "wide": torch.arange(3).expand(5, 3), "p": torch.nn.Parameter(torch.ones(2))}
    path = tmp_path / "x.bin"
    # Modules beside plain tables: their state dicts carry `_metadata`.
    for kept in (state, {"state_dict": state, "step": 3}, {**torch.nn.Linear(2, 3).state_dict(), **state}):
        for options in ({}, {"_use_new_zipfile_serialization": False}):
            torch.save(kept, path, **options)
            expected = {name: value for name, value in kept.get("state_dict", kept).items()}
            shapes = {name: tuple(value.shape) for name, value in expected.items()}
            listed = pickles.list_pickled(path)
            assert {name: shape for name, (_, shape) in listed.items()} == shapes
            loaded = {name: source.read() for name, source in open_weights(WeightSet((path,), "fp32", 1)).items()}
            assert loaded.keys() == expected.keys()
            for name, value in expected.items():
                assert torch.equal(loaded[name], value) and loaded[name].dtype == value.dtype


def test_a_program_s_tensors_are_read_without_running_it(tmp_path):
    from comfyui_unclip.unclip_core.checkpoints.torchscript import open_torchscript

    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Sequential(torch.nn.LayerNorm(4)))
    network.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())
    torch.jit.save(torch.jit.script(network), tmp_path / "x.pt")
    found = {name: source.read() for name, source in open_torchscript(tmp_path / "x.pt").items()}
    expected = network.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
