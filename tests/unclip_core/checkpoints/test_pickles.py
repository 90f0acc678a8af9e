"""Files that people have, written by torch itself: whatever a training kept beside the weights, the weights are read,
and nothing is imported or called for it."""

import argparse
import collections
import datetime
import functools
import pathlib
import pickle
import random
import sys
import types
import zipfile

import numpy as np
import pytest
import torch

from comfyui_unclip.unclip_core.checkpoints.header import CheckpointError, WeightSet
from comfyui_unclip.unclip_core.checkpoints.pickles import count_pickled, is_torchscript, read_state_dict
from comfyui_unclip.unclip_core.checkpoints.tensors import open_weights
from comfyui_unclip.unclip_core.checkpoints.torchscript import open_torchscript

OLD = {"_use_new_zipfile_serialization": False}
FORMATS = [{**old, "pickle_protocol": protocol} for old in ({}, OLD) for protocol in (2, 3, 4, 5)]


@pytest.fixture
def foreign(monkeypatch):
    """Make a class of a package that the reader does not have."""

    def make(module, name, *bases, **attributes):
        places = module.split(".")
        for end in range(1, len(places) + 1):
            place = ".".join(places[:end])
            if place not in sys.modules:
                monkeypatch.setitem(sys.modules, place, types.ModuleType(place))
        made = type(name, bases or (object,), {"__module__": module, **attributes})
        setattr(sys.modules[module], name, made)
        return made

    return make


def plain():
    base = torch.arange(24.0).reshape(4, 6)
    state = {"a": base, "view": base[1:, ::2], "tied": base, "turned": base.t(), "one": torch.tensor(3.0)}
    state |= {name: torch.ones(3).to(getattr(torch, name)) for name in ("bfloat16", "float16", "int8", "int16", "bool")}
    state |= {name: torch.arange(3).to(getattr(torch, name)) for name in ("float64", "int32", "uint8")}
    state |= {"none": torch.zeros(0, 3), "wide": torch.arange(3).expand(5, 3), "p": torch.nn.Parameter(torch.ones(2))}
    state["with attributes"] = torch.nn.Parameter(torch.ones(2))
    state["with attributes"].is_sharded = True
    return state


def of_a_module():
    """An OrderedDict with an attribute, `_metadata`."""
    return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).state_dict()


def beside(foreign):
    """What trainings keep: of Python, NumPy, PyTorch and packages of their own."""
    settings = foreign("omegaconf.dictconfig", "DictConfig")()
    settings._content, settings._parent, settings._type = {"lr": 1e-4}, settings, dict[str, int]
    table = foreign("easydict", "EasyDict", dict)({"a": 1, "b": [2]})
    table.a = 1
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    numbers = np.arange(6.0).reshape(2, 3)
    return {
        "callbacks": {
            foreign("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"): {"best": numbers.max()}
        },
        "hyper_parameters": foreign("pytorch_lightning.utilities.parsing", "AttributeDict", dict)(lr=1e-4, net=network),
        "optimizer_states": [optimizer.state_dict()],
        "numpy": [numbers, numbers.astype("f2"), np.float32(1), np.int64(2), np.dtype("f4"), np.random.get_state()],
        "namespaces": [argparse.Namespace(lr=1e-4), types.SimpleNamespace(a=1), settings, table],
        "paths": [pathlib.PurePosixPath("/data"), pathlib.PureWindowsPath("c:/data")],
        "torch": [torch.Size([1, 2]), torch.float32, torch.device("cuda:0"), torch.get_rng_state(), torch.strided],
        "odd tensors": [torch.ones(2, dtype=torch.complex64), torch.eye(2).to_sparse(), torch.ones(2).to(torch.uint16)],
        "tables": [collections.defaultdict(list, a=[1]), collections.Counter("aab"), collections.deque([1], 3)],
        "sets": [{1, "a", (2, 3)}, frozenset({1})],
        "numbers": [1j, 2**200, float("inf"), b"bytes", bytearray(b"more"), range(3), random.getstate()],
        "times": [datetime.datetime(2022, 4, 13), datetime.timedelta(1), datetime.timezone.utc],
        "partial": functools.partial(torch.optim.AdamW, lr=1e-4),
        "string_to_param": torch.nn.ParameterDict({"*": torch.ones(1, 4)}),  # as textual inversion's files have
        "a class": foreign("train.settings", "Settings", __slots__=("lr",)),
        ("a", 1): None,
    }


def read(path):
    return {name: source.read() for name, source in open_weights(WeightSet((path,), "fp32", 1)).items()}


@pytest.mark.parametrize("kind", ["a state dict", "a module's", "a training's", "a table of somebody's"])
def test_the_weights_are_read_whatever_is_beside_them(kind, foreign, tmp_path, monkeypatch):
    state = of_a_module() if kind == "a module's" else plain()
    kept = {"state_dict": state, **beside(foreign)} if kind == "a training's" else state
    if kind == "a table of somebody's":
        kept = foreign("easydict", "EasyDict", dict)(state_dict=foreign("easydict", "Inner", dict)(state))
    for number, options in enumerate(FORMATS):
        torch.save(kept, tmp_path / f"{number}.bin", **options)
    monkeypatch.undo()  # the packages are gone
    before = set(sys.modules)
    for number, options in enumerate(FORMATS):
        path = tmp_path / f"{number}.bin"
        assert {name: found.shape for name, found in read_state_dict(path)[1].items()} == {
            name: tuple(value.shape) for name, value in state.items()
        }
        loaded = read(path)
        assert loaded.keys() == state.keys()
        for name, value in state.items():
            assert torch.equal(loaded[name], value) and loaded[name].dtype == value.dtype, (name, options)
    assert set(sys.modules) == before


def test_tied_weights_count_once(tmp_path):
    state = {"a": torch.randn(4, 5), "b": torch.zeros(3, dtype=torch.bfloat16)}
    torch.save({"state_dict": {**state, "tied": state["a"]}, "moments": torch.ones(100)}, tmp_path / "x.bin")
    found = count_pickled(tmp_path / "x.bin")
    assert (found.dtype, found.parameters) == ("fp32", 23)


def test_mapped_tensors_leave_the_file_as_it_is(tmp_path):
    path = tmp_path / "x.bin"
    for options in ({}, OLD):
        torch.save({"a": torch.ones(5)}, path, **options)
        content = path.read_bytes()
        source = open_weights(WeightSet((path,), "fp32", 1))["a"]
        source.mapped().zero_()
        assert path.read_bytes() == content
        assert source.mapped().data_ptr() != source.read().data_ptr()


def test_a_program_s_tensors_are_read_without_running_it(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Sequential(torch.nn.LayerNorm(4)))
    network.register_buffer("turned", torch.arange(6.0).reshape(2, 3).t())
    torch.jit.save(torch.jit.script(network), tmp_path / "x.pt")
    assert is_torchscript(tmp_path / "x.pt")
    found = {name: source.read() for name, source in open_torchscript(tmp_path / "x.pt").items()}
    expected = network.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def rewritten(path, compress=zipfile.ZIP_STORED, **changed):
    """The archive again, with other records at some names' ends."""
    with zipfile.ZipFile(path) as before:
        records = {name: before.read(name) for name in before.namelist()}
    with zipfile.ZipFile(path, "w", compress) as after:
        for name, content in records.items():
            after.writestr(name, changed.get(name.rpartition("/")[2], content))


@pytest.mark.parametrize(
    ("kept", "options", "change", "expected"),
    [
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), {}, None, "tensor 'w' is quantised"),
        (torch.eye(3).to_sparse(), OLD, None, "save it as a plain tensor"),
        (torch.ones(3, dtype=torch.complex64), {}, None, "save it as a plain tensor"),
        (torch.ones(3).to(torch.float8_e4m3fn), {}, None, "save it as a plain tensor"),
        (torch.nn.Linear(2, 2), {}, None, "holds no tensors by name"),
        (torch.ones(300), {}, lambda path: path.write_bytes(path.read_bytes()[:-900]), "download it again"),
        (torch.ones(300), OLD, lambda path: path.write_bytes(path.read_bytes()[:-900]), "truncated, the numbers of"),
        (
            torch.ones(3),
            {},
            lambda path: rewritten(path, zipfile.ZIP_DEFLATED),
            "is compressed, as PyTorch writes none",
        ),
        (torch.ones(3), {}, lambda path: rewritten(path, byteorder=b"big"), "the other byte order"),
        (None, {}, lambda path: path.write_bytes(pickle.dumps([1, 2])), "download it again"),
        (None, {}, lambda path: path.write_bytes(pickle.dumps(1) * 6), "torch.save did not write"),
        (None, {}, lambda path: path.write_bytes(pickle.dumps(torch.ones(2))), "holds code (torch.storage._load_from"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_not_read_is_refused_in_a_line(kept, options, change, expected, tmp_path):
    path = tmp_path / "x.bin"
    torch.save({"w": kept}, path, **options)
    if change:
        change(path)
    for use in (read_state_dict, read):
        with pytest.raises(CheckpointError) as caught:
            use(path)
        assert expected in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    "name",
    ["os.system", "subprocess.Popen", "builtins.eval", "torch.hub.load", "numpy.load", "importlib.import_module"],
)
@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_code_is_refused_beside_sound_weights(name, protocol, tmp_path, monkeypatch):
    """As an attack is made: the object's way to be made is a call."""
    module, _, function = name.rpartition(".")
    monkeypatch.setattr("sys.modules", dict(sys.modules))
    called = getattr(__import__(module, fromlist=[function]), function)
    attack = type("Attack", (), {"__reduce__": lambda self: (called, ("true",))})()
    torch.save({"a": torch.ones(2), "b": attack}, tmp_path / "x.bin", pickle_protocol=protocol)
    with pytest.raises(CheckpointError, match=r"holds code \(.*do not use this file"):
        read_state_dict(tmp_path / "x.bin")
