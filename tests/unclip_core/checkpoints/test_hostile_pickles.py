"""Pickles from strangers are refused, or cost no more than they are worth: 200 MB, and a second of processor time (two
on slow machines). What people have is in test_pickles.py."""

import json
import subprocess
import sys

import pytest

from comfyui_unclip.tests.unclip_core.checkpoints import hostile_pickles

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

readers = {"list": (pickles.count_pickled, pickles.read_state_dict, pickles.is_torchscript,
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


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder of them all."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, content in hostile_pickles.HOSTILE.items():
        (folder / f"{name}.bin".replace("*", "x")).write_bytes(content)
    return folder


@pytest.mark.parametrize("how", ["list", "load"])
def test_a_hostile_pickle_is_refused_within_seconds_and_200_mb(how, hostile, repository):
    """In a process of their own: a peak of memory is one of the whole process."""
    command = [sys.executable, "-c", READ_ALL, str(hostile), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=repository.parent)
    assert done.returncode == 0, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert {name for name, *_ in outcomes} == {path.name for path in hostile.iterdir()}
    refused = set()
    for name, outcome, message, seconds, megabytes in outcomes:
        assert seconds < 2 and megabytes < 200, (name, message, seconds, megabytes)
        if outcome == "refused":
            refused.add(name)
            assert name in message and "\n" not in message, message
    # Programs whose places in the memo, and walks, cost nothing here: they hold few tensors, or none.
    cheap = {"a walk of 2xx60 steps.bin", "an object that holds itself.bin", "the same in TorchScript.bin"}
    harmless = cheap if how == "load" else set()
    assert refused >= {name for name, *_ in outcomes} - harmless
