"""Progress, preview, interrupt and memory through both hosts. ComfyUI itself is not installed here: small stand-ins
have its modules' names and record what they are asked. The memory manager's never runs out of room; what the real one
makes of these calls was tried by hand with ComfyUI 0.3.64."""

import gc
import sys
import threading
import types
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from comfyui_unclip.nodes import host
from comfyui_unclip.nodes.host import ComfyHost, Interrupted, LocalHost, current_host, preview_picture, use_host
from comfyui_unclip.unclip_core.diffusion.samplers import StepState
from comfyui_unclip.unclip_core.runtime import streamed
from comfyui_unclip.unclip_core.runtime.estimates import Need
from comfyui_unclip.unclip_core.runtime.placement import Placed


def states(total, x0=None, closed=None):
    try:
        for index in range(total):
            x = torch.zeros(1, 3, 4, 4) if x0 is None else x0
            yield StepState(index, total, total - index, x, x)
        return "result"
    finally:
        if closed is not None:
            closed.append(True)


def test_local_host_shows_one_bar_per_run_and_returns_the_result(capsys):
    host = LocalHost()
    assert host.drive(states(5), "Decoder Sample") == "result"
    shown = capsys.readouterr().err
    assert "Decoder Sample: 100%" in shown and "5/5" in shown
    assert LocalHost(quiet=True).drive(states(5), "x") == "result"
    assert capsys.readouterr().err == ""


def test_a_run_without_steps_returns_its_result():
    assert LocalHost().drive(states(0), "x") == "result"


def test_an_interrupt_stops_before_the_next_step_and_closes_the_generator():
    host = LocalHost(quiet=True)
    host.cancel = threading.Event()
    done, closed = [], []

    def watched():
        for state in states(10, closed=closed):
            done.append(state.index)
            if state.index == 1:
                host.cancel.set()
            yield state

    with pytest.raises(Interrupted):
        host.drive(watched(), "x")
    assert done == [0, 1] and closed == [True]


def test_warnings_go_to_stderr(capsys):
    LocalHost().warn("careful", "very")
    assert capsys.readouterr().err == "warning: careful\nwarning: very\n"
    LocalHost().warn()
    assert capsys.readouterr().err == ""


def test_what_nodes_report_goes_to_whoever_runs_them(capsys):
    heard, host = [], LocalHost(quiet=True)
    with use_host(host, lambda kind, data: heard.append((kind, data))):
        host.drive(states(2), "Decoder Sample")
        host.warn("careful")
        with use_host(LocalHost(quiet=True)) as inner:  # a run inside of a run is not part of it
            inner.drive(states(1), "x")
        host.warn()
    host.drive(states(1), "later")
    assert [(data["label"], data["value"], data["max"]) for kind, data in heard if kind == "progress"] == [
        ("Decoder Sample", 1, 2),
        ("Decoder Sample", 2, 2),
    ]
    assert [data["messages"] for kind, data in heard if kind == "warning"] == [["careful"], []]
    assert capsys.readouterr().err == ""


def test_the_temporary_folder_is_made_on_demand_and_removed(tmp_path):
    host = LocalHost(output=tmp_path / "out")
    folder = host.folder("temp")
    assert folder.is_dir() and host.folder("temp") == folder
    host.close()
    assert not folder.exists() and not (tmp_path / "out").exists()


def test_the_set_host_wins_and_is_reset():
    host = LocalHost()
    with use_host(host):
        assert current_host() is host
    assert type(current_host()) is LocalHost and current_host() is not host


def test_a_preview_is_small_and_truncated_to_bytes():
    x0 = torch.full((2, 3, 1024, 1024), -1.0)
    x0[0, 0] = 5.0
    picture = preview_picture(StepState(0, 1, 0, x0, x0))
    assert picture.size == (512, 512) and picture.getpixel((7, 7)) == (255, 0, 0)
    small = torch.zeros(1, 3, 64, 64)
    assert preview_picture(StepState(0, 1, 0, small, small)).size == (64, 64)


def test_latents_are_shown_by_what_makes_pictures_of_them():
    latents = torch.full((1, 4, 8, 8), 9.0)
    state = StepState(
        0, 1, 0, latents, latents, preview=lambda x: (x[:, 1:] - 8.0) * torch.tensor([1.0, -1.0, 1.0])[:, None, None]
    )
    assert preview_picture(state).getpixel((3, 3)) == (255, 0, 255)


@dataclass
class Editor:
    """What the stand-in ComfyUI was told."""

    bars: list = field(default_factory=list)
    updates: list = field(default_factory=list)
    cancelled: bool = False
    args: types.SimpleNamespace = field(
        default_factory=lambda: types.SimpleNamespace(preview_method="auto", preview_size=256)
    )
    folders: dict = field(default_factory=dict)
    node: str = "3"
    graph: str = "first"
    texts: list = field(default_factory=list)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    loads: list = field(default_factory=list)
    loads_fully: bool = True
    free: int = 10**9
    asked_to_leave: list = field(default_factory=list)
    copied_back: list = field(default_factory=list)

    @property
    def currently_running(self):
        """Of ComfyUI's queue: (number, id, prompt, extra data, outputs, ...) of what runs."""
        return {5: (1, "p", {}, {"extra_pnginfo": {"workflow": {"id": self.graph}}, "client_id": "tab"}, ["3"], {})}


class Cancelled(Exception):
    pass


@pytest.fixture
def editor(monkeypatch, tmp_path):
    told = Editor()

    class ProgressBar:
        def __init__(self, total):
            told.bars.append(total)

        def update_absolute(self, value, total, preview):
            told.updates.append((value, total, preview))

    def throw():
        if told.cancelled:
            raise Cancelled

    class ModelPatcher:
        def __init__(self, model, load_device, offload_device):
            self.model, self.load_device, self.offload_device = model, load_device, offload_device

        def partially_load(self, device, extra_memory):
            told.loads.append(("rest of", self.model, device, extra_memory))
            self.model.to(device)

        def partially_unload(self, device, memory_to_free):
            raise AssertionError("layers would be copied to the CPU")

        def loaded_size(self):
            size = sum(parameter.nbytes for parameter in self.model.parameters())
            return size if next(self.model.parameters()).device == self.load_device else 0

        def detach(self, unpatch_all=True):
            told.copied_back += [parameter.numel() for parameter in self.model.parameters()]

    def load_models_gpu(patchers, memory_required, force_full_load):
        told.loads.append(([p.model for p in patchers], memory_required, force_full_load))
        for patcher in patchers if told.loads_fully else ():
            patcher.model.to(patcher.load_device)

    def add(name, path):
        told.folders.setdefault(name, ([], set()))[0].append(path)

    host._patcher_class.cache_clear()
    modules = {
        "comfy": {},
        "comfy.utils": {"ProgressBar": ProgressBar},
        "comfy.cli_args": {"args": told.args, "LatentPreviewMethod": types.SimpleNamespace(NoPreviews="none")},
        "comfy.model_management": {
            "throw_exception_if_processing_interrupted": throw,
            "get_torch_device": lambda: told.device,
            "unet_offload_device": lambda: torch.device("cpu"),
            "load_models_gpu": load_models_gpu,
            "VRAMState": types.SimpleNamespace(NO_VRAM="none", NORMAL_VRAM="normal"),
            "vram_state": "normal",
            "extra_reserved_memory": lambda: 100,
            "current_loaded_models": [],
            "free_memory": lambda size, device, keep_loaded: told.asked_to_leave.append(size),
            "get_free_memory": lambda device: told.free,
        },
        "comfy.model_patcher": {"ModelPatcher": ModelPatcher},
        "comfy_execution": {},
        "comfy_execution.utils": {
            "get_executing_context": lambda: types.SimpleNamespace(node_id=told.node, prompt_id="p")
        },
        "server": {
            "PromptServer": types.SimpleNamespace(
                instance=types.SimpleNamespace(
                    send_progress_text=lambda text, node: told.texts.append((node, text)), prompt_queue=told
                )
            )
        },
        "folder_paths": {
            "models_dir": str(tmp_path / "models"),
            "folder_names_and_paths": told.folders,
            "add_model_folder_path": add,
            "get_folder_paths": lambda name: list(told.folders[name][0]),
            "get_input_directory": lambda: str(tmp_path / "input"),
        },
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
        if "." in name:
            package, child = name.split(".")
            setattr(sys.modules[package], child, module)
    monkeypatch.setattr(host, "_warned_nodes", set())
    return told


def test_inside_the_editor_the_host_is_comfyui(editor):
    assert isinstance(current_host(), ComfyHost)
    with use_host(LocalHost()):
        assert isinstance(current_host(), LocalHost)


def test_comfyui_gets_every_step_and_throttled_previews(editor):
    assert ComfyHost().drive(states(40), "x") == "result"
    assert editor.bars == [40] and [value for value, *_ in editor.updates] == list(range(1, 41))
    previews = [(value, preview) for value, _, preview in editor.updates if preview]
    assert [value for value, _ in previews] == [1, 40]  # forty steps here take no quarter of a second
    kind, picture, size = previews[0][1]
    assert (kind, picture.size, size) == ("JPEG", (4, 4), 256)


def test_the_editors_preview_setting_is_obeyed_even_when_it_changes(editor):
    editor.args.preview_method = "none"
    ComfyHost().drive(states(3), "x")
    assert not any(preview for *_, preview in editor.updates)


def test_embeddings_have_no_preview(editor):
    ComfyHost().drive(states(3, torch.zeros(2, 24)), "Diffusion Prior")
    assert len(editor.updates) == 3 and not any(preview for *_, preview in editor.updates)


def test_cancel_ends_the_run_with_the_editors_own_exception(editor):
    run, closed = states(10, closed=[]), []

    def cancelling():
        try:
            for state in run:
                editor.cancelled = state.index == 2
                yield state
        finally:
            closed.append(True)

    with pytest.raises(Cancelled):
        ComfyHost().drive(cancelling(), "x")
    assert len(editor.updates) == 3 and closed == [True]


def test_a_nodes_warnings_are_shown_together_and_taken_back(editor, caplog):
    """The editor keeps one text for each node, until the next one."""
    ComfyHost().warn("too long", "unknown words")
    assert editor.texts == [("3", "too long\nunknown words")]
    assert [record.message for record in caplog.records] == ["too long", "unknown words"]
    ComfyHost().warn()
    editor.node = "8"
    ComfyHost().warn()  # never warned: nothing to take back
    assert editor.texts[1:] == [("3", " ")]


def test_a_warning_is_not_taken_back_from_the_node_of_the_same_id_in_another_graph(editor):
    ComfyHost().warn("unknown words")
    editor.graph = "another"
    ComfyHost().warn()
    assert editor.texts == [("3", "unknown words")]
    editor.graph = "first"
    ComfyHost().warn()
    assert editor.texts[1:] == [("3", " ")]


def test_the_model_folder_is_added_to_those_of_the_users_yaml(editor, tmp_path):
    yaml = str(tmp_path / "elsewhere")
    editor.folders["unclip"] = ([yaml], set())
    own = str(tmp_path / "models" / "unclip")
    for _ in range(2):
        assert ComfyHost().model_folders() == [Path(yaml), Path(own)]
    assert editor.folders["unclip"] == ([yaml, own], {".safetensors"})


def test_the_editors_disable_metadata_is_heeded(editor):
    assert current_host().keeps_graphs()
    editor.args.disable_metadata = True
    assert not current_host().keeps_graphs()


@pytest.mark.parametrize(
    ("flag", "setting", "expected"),
    [
        ("force_fp32", "auto", "fp32"),
        ("bf16_unet", "auto", "bf16"),
        ("fp16_unet", "fp32", "fp32"),
        (None, "auto", "auto"),
    ],
)
def test_only_the_editors_force_flags_override_auto(editor, flag, setting, expected):
    if flag:
        setattr(editor.args, flag, True)
    assert ComfyHost().dtype(setting) == expected


def test_folders_and_device_are_the_editors(editor, tmp_path):
    assert ComfyHost().folder("input") == tmp_path / "input"
    assert ComfyHost().device() == torch.device("cpu")


META = torch.device("meta")  # stands in for an accelerator: moving there needs no hardware


def network(dtype):
    return torch.nn.Linear(4, 4, dtype=dtype)


def test_on_a_processor_the_core_manages_memory_itself(editor):
    assert ComfyHost().memory_manager() is None and LocalHost().memory_manager() is None


def test_networks_are_loaded_whole_by_the_editors_memory_manager(editor):
    editor.device = META
    manager = ComfyHost().memory_manager()
    first, second = (Placed(network, META, torch.float32, manager) for _ in range(2))
    module = first.on_device(second, need=Need(1000, 500))
    assert editor.loads == [([module, second.read()], 1000, True)]
    assert editor.asked_to_leave == [2 * 80 + 500 + 100]
    assert module.weight.device == META and not module.weight.is_inference()
    assert second.on_device(need=Need(5, 5)) is second.read() and editor.loads[1] == ([second.read()], 5, True)
    assert editor.asked_to_leave[1:] == [5 + 100]  # its weights are there already


def test_what_the_editor_has_no_room_for_is_fetched_as_it_is_used(editor, monkeypatch):
    monkeypatch.setattr(streamed, "SMALL_BYTES", 20)
    editor.device = META
    placed = Placed(network, META, torch.float32, ComfyHost().memory_manager())
    editor.free = 100 + 80 - 1
    module = placed.on_device()
    assert editor.loads == [([module], 0, True)] and list(dict(module.named_parameters())) == ["bias"]
    assert module.weight.device == META  # a copy, at each use
    editor.free = 10**9
    assert len(list(placed.on_device().parameters())) == 2
    sys.modules["comfy.model_management"].vram_state = "none"  # --novram
    module = placed.on_device()
    assert list(dict(module.named_parameters())) == ["bias"]
    assert placed.on_device() is module  # not read anew: less of it cannot lie there
    placed.adopted().detach(True)
    assert "_kept" not in module.__dict__  # what is taken off keeps nothing in memory, although the editor holds it


def test_what_the_editor_takes_off_is_not_copied_back_and_is_read_again(editor):
    editor.device = META
    placed = Placed(network, META, torch.float32, ComfyHost().memory_manager())
    module, patcher = placed.on_device(), placed.adopted()
    assert patcher.partially_unload(torch.device("cpu"), 10) == 0  # then the editor takes it off as a whole:
    patcher.detach(True)
    assert editor.copied_back == [0, 0] and not placed.loaded and placed._adopted is patcher
    again = placed.on_device()
    assert again is not module and again.weight.shape == (4, 4) and placed.adopted() is not patcher


def test_what_the_editor_leaves_behind_is_loaded_too(editor):
    """With --novram it heeds no wish to load in full."""
    editor.device, editor.loads_fully = META, False
    placed = Placed(network, META, torch.float32, ComfyHost().memory_manager())
    module = placed.on_device()
    assert editor.loads[1][:3] == ("rest of", module, META) and editor.loads[1][3] > 1e15


def test_a_network_is_in_the_editors_charge_as_long_as_its_handle(editor):
    """It holds patchers weakly; one that dies early takes the network out of its books while it is on the device."""
    editor.device = META
    placed = Placed(network, META, torch.float32, ComfyHost().memory_manager())
    placed.on_device()
    patcher = weakref.ref(placed._adopted)
    gc.collect()
    assert patcher() is not None and patcher().offload_device == torch.device("cpu")
    del placed
    gc.collect()
    assert patcher() is None


def test_load_unclip_hands_the_manager_to_every_stage(editor, tiny_models, monkeypatch):
    from comfyui_unclip.nodes.loader import UnCLIPLoader

    monkeypatch.setenv("UNCLIP_MODELS", str(tiny_models))
    monkeypatch.setattr(ComfyHost, "device", lambda self: torch.device("cpu"))
    monkeypatch.setattr(ComfyHost, "memory_manager", lambda self: host._EditorMemory())
    clip, _, decoder, *_ = UnCLIPLoader().load(model_name="tiny", dtype="fp32")
    text = clip.encode_text(["a red star"])
    ComfyHost().drive(decoder.sample_steps(None, text, steps=2), "Decoder Sample")
    loaded = [([type(module).__name__ for module in modules], need) for modules, need, _ in editor.loads]
    assert [modules for modules, _ in (loaded[0], loaded[-1])] == [["CaptionTower"], ["DecoderNetwork"]]
    assert min(need for _, need in loaded) > 10_000  # bytes that a forward takes beside the weights


def test_cancel_ends_the_reading_of_weights_too_and_the_next_run_reads_them(editor, tiny_models, monkeypatch):
    from comfyui_unclip.nodes.loader import UnCLIPLoader

    monkeypatch.setenv("UNCLIP_MODELS", str(tiny_models))
    clip, _, decoder, *_ = UnCLIPLoader().load(model_name="tiny", dtype="fp32")
    editor.cancelled = True  # after the loader's own run, as if it were cached
    with pytest.raises(Cancelled):
        clip.encode_text(["a red star"])
    editor.cancelled = False
    text = clip.encode_text(["a red star"])
    editor.cancelled = True
    with pytest.raises(Cancelled):
        next(decoder.sample_steps(None, text, steps=2))
    assert not decoder.network.loaded
    editor.cancelled = False
    ComfyHost().drive(decoder.sample_steps(None, text, steps=2), "Decoder Sample")
    assert [value for value, *_ in editor.updates] == [1, 2]
