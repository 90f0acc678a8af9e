"""What a node may ask of the program it runs in: progress, preview, interrupt, folders, device, memory.

`current_host()` is a LocalHost where our own executor runs the graph, a ComfyHost inside ComfyUI.
This is the only module that imports ComfyUI's own modules, and only inside functions.
"""

from __future__ import annotations

import abc
import contextlib
import contextvars
import functools
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..unclip_core.disk import clear_once, part_prefix
from ..unclip_core.texts import printable

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from ..unclip_core.diffusion.samplers import StepState
    from ..unclip_core.runtime.estimates import Need
    from ..unclip_core.runtime.placement import Manager

Result = TypeVar("Result")
OnReport = Callable[[str, dict[str, Any]], None]  # kind, data; see use_host
MODEL_FOLDER = "unclip"
LORA_FOLDER = "loras"
CHECKOUT = Path(__file__).absolute().parents[1]
_PREVIEW_INTERVAL = 0.25  # seconds: each preview waits for the device, so not every step has one
_PREVIEW_SIDE = 512
_WHOLE = 2**62  # bytes: more than any network has
_warned_nodes: set[tuple[str, str]] = set()  # inside ComfyUI: graph and id of the nodes that show a warning


class Interrupted(BaseException):
    """The user cancelled. Not an Exception, so that a node's own handlers let it pass."""


class Progress:
    """Shows the steps of one sampler run. The base class shows nothing."""

    def step(self, state: StepState) -> None:
        """One more step is done."""

    def close(self) -> None:
        """The run ended, was interrupted or failed."""


class Host(abc.ABC):
    """The protocol. Subclasses say how; nodes only call."""

    file_tag = ""  # what saved files' names carry after their prefix: of many rows, the row's number

    def drive(self, steps: Generator[StepState, None, Result], label: str) -> Result:
        """Run a stage's generator to its end and return its result, reporting each step and honouring an interrupt
        before each. `label` names the run in front of the user."""
        progress = self.progress(label)  # before the first step, which may be a slow one
        on_report = _on_report.get()
        try:
            while True:
                self.check_interrupt()
                try:
                    state = next(steps)
                except StopIteration as end:
                    return end.value
                progress.step(state)
                if on_report:
                    on_report("progress", {"value": state.index + 1, "max": state.total, "label": label, "step": state})
        finally:
            steps.close()
            progress.close()

    @abc.abstractmethod
    def progress(self, label: str) -> Progress:
        """Start to show a sampler run; its steps say how many they are."""

    def check_interrupt(self) -> None:  # noqa: B027 - a host without a cancel button has nothing to do
        """Raise Interrupted if the user cancelled."""

    @abc.abstractmethod
    def warn(self, *messages: str) -> None:
        """Tell the user all that the running node has found and that does not stop it. Without a message, what it said
        in an earlier run is taken back."""

    def device(self) -> torch.device | None:
        """Where stages run; None leaves it to the core."""
        return None

    def memory_manager(self) -> Manager | None:
        """What decides which networks lie on the device; None leaves it to the core."""
        return None

    def dtype(self, setting: str) -> str:
        """A loader's dtype setting after the program's own force flags."""
        return setting

    def half_precisions(self) -> frozenset[str] | None:
        """Which of "fp16" and "bf16" the device computes well; None leaves it to the core."""
        return None

    def keeps_graphs(self) -> bool:
        """Whether saved pictures carry the graph that made them."""
        return True

    def model_folders(self) -> list[Path]:
        """Folders that hold stacks, besides those the catalog knows itself."""
        return []

    def lora_folders(self) -> list[Path]:
        """Folders that hold LoRA files, those of other models among them, besides the ones in `model_folders`."""
        return []

    @abc.abstractmethod
    def folder(self, kind: str) -> Path:
        """The "input", "output" or "temp" folder."""

    def follows_links(self) -> bool:
        """Whether links that lie in those folders may lead out of them."""
        return True


class LocalHost(Host):
    """A run without ComfyUI: `unclip run`, `unclip edit`, Python. For one run at a time; see also `use_host`.

    `quiet`: no bar on stderr for each sampler run. `follow_links`: whether links in the folders may lead out of them.
    Whoever runs graphs may set `cancel`, which interrupts the run once it is set, and `file_tag`.
    """

    def __init__(
        self,
        output: str | os.PathLike = "out",
        input: str | os.PathLike = "input",
        quiet: bool = False,
        *,
        follow_links: bool = True,
    ):
        self.cancel: threading.Event | None = None
        self._folders = {"output": Path(output), "input": Path(input)}
        self._quiet = quiet
        self._follow_links = follow_links
        self._temp: tempfile.TemporaryDirectory | None = None

    def progress(self, label: str) -> Progress:
        return _Bar(label, self._quiet)

    def check_interrupt(self) -> None:
        # Ctrl-C needs no help: between two steps Python raises it.
        if self.cancel is not None and self.cancel.is_set():
            raise Interrupted("cancelled")

    def warn(self, *messages: str) -> None:
        if on_report := _on_report.get():
            on_report("warning", {"messages": list(messages)})
            return
        from tqdm import tqdm

        for message in messages:
            tqdm.write(printable(f"warning: {message}"), file=sys.stderr)

    def model_folders(self) -> list[Path]:
        return _editor_folders(MODEL_FOLDER)

    def lora_folders(self) -> list[Path]:
        return _editor_folders(LORA_FOLDER)

    def folder(self, kind: str) -> Path:
        if kind == "temp":
            if self._temp is None:
                clear_once(Path(tempfile.gettempdir()))  # of runs that were killed
                self._temp = tempfile.TemporaryDirectory(prefix=part_prefix(), suffix=".part")
            return Path(self._temp.name)
        return self._folders[kind]

    def follows_links(self) -> bool:
        return self._follow_links

    def close(self) -> None:
        """Remove the temporary folder, previews included."""
        if self._temp is not None:
            self._temp.cleanup()
            self._temp = None


def _editor_folders(name: str) -> list[Path]:
    """A folder of the editor in whose custom_nodes this checkout lies: there, both find the same models."""
    around = CHECKOUT.parent
    inside = around.name == "custom_nodes" and (around.parent / "folder_paths.py").is_file()
    return [around.parent / "models" / name] if inside else []


class ComfyHost(Host):
    """Inside ComfyUI: its progress bar, preview, cancel button, folders, device and memory manager."""

    def progress(self, label: str) -> Progress:
        return _EditorBar()

    def check_interrupt(self) -> None:
        from comfy import model_management

        model_management.throw_exception_if_processing_interrupted()

    def warn(self, *messages: str) -> None:
        for message in messages:
            logging.getLogger("comfyui_unclip").warning(message)
        with contextlib.suppress(ImportError, AttributeError):  # versions differ; the log lines above are always there
            from comfy_execution.utils import get_executing_context
            from server import PromptServer

            context = get_executing_context()
            # A node has one text, which stays until another replaces it; the editor ignores an empty one.
            node = context and (_running_graph(PromptServer.instance, context.prompt_id), context.node_id)
            if node and (messages or node in _warned_nodes):
                PromptServer.instance.send_progress_text("\n".join(messages) or " ", context.node_id)
                (_warned_nodes.add if messages else _warned_nodes.discard)(node)

    def device(self) -> torch.device:
        from comfy import model_management

        return model_management.get_torch_device()

    def memory_manager(self) -> Manager | None:
        # On a processor ComfyUI has nothing to move and keeps every model; the core keeps one large one, packed.
        return None if self.device().type == "cpu" else _EditorMemory()

    def dtype(self, setting: str) -> str:
        from comfy.cli_args import args

        flags = {"fp32": ("force_fp32", "fp32_unet"), "fp16": ("force_fp16", "fp16_unet"), "bf16": ("bf16_unet",)}
        for dtype, names in flags.items():
            if setting == "auto" and any(getattr(args, name, False) for name in names):
                return dtype
        return setting

    def half_precisions(self) -> frozenset[str] | None:
        from comfy import model_management

        device = self.device()
        if device.type == "cpu":
            return None
        checks = {"fp16": model_management.should_use_fp16, "bf16": model_management.should_use_bf16}
        return frozenset(name for name, check in checks.items() if check(device))

    def keeps_graphs(self) -> bool:
        from comfy.cli_args import args

        return not getattr(args, "disable_metadata", False)

    def model_folders(self) -> list[Path]:
        import folder_paths

        own = os.path.join(folder_paths.models_dir, MODEL_FOLDER)
        # Appended, never assigned: extra_model_paths.yaml may have registered folders of the same name before.
        registered = folder_paths.folder_names_and_paths
        if MODEL_FOLDER not in registered or own not in folder_paths.get_folder_paths(MODEL_FOLDER):
            folder_paths.add_model_folder_path(MODEL_FOLDER, own)
            registered[MODEL_FOLDER][1].update({".safetensors"})
        return [Path(path) for path in folder_paths.get_folder_paths(MODEL_FOLDER)]

    def lora_folders(self) -> list[Path]:
        import folder_paths

        return [Path(path) for path in folder_paths.get_folder_paths(LORA_FOLDER)]

    def folder(self, kind: str) -> Path:
        import folder_paths

        return Path(getattr(folder_paths, f"get_{kind}_directory")())


def _running_graph(server: Any, prompt_id: str) -> str:
    """The `graph_name` of the prompt that ComfyUI runs; "" when it cannot be found."""
    with contextlib.suppress(AttributeError, IndexError, TypeError):  # versions differ
        for _, running, _, extra, *_ in list(server.prompt_queue.currently_running.values()):
            if running == prompt_id:
                return graph_name(extra.get("extra_pnginfo"), extra.get("client_id"))
    return ""


def graph_name(pnginfo: Any, client: str | None) -> str:
    """The id of a queued graph, by which its nodes are told from those of another; without one, the id of the page that
    queued it. `pnginfo`: the prompt's extra_pnginfo."""
    workflow = pnginfo.get("workflow") if isinstance(pnginfo, dict) else None
    named = workflow.get("id") if isinstance(workflow, dict) else None
    return str(named or client or "")


class _EditorMemory:
    """Networks among all the models that ComfyUI moves to the device and away again, those of other packs included."""

    def adopt(self, module: torch.nn.Module, leave: Callable[[], None]) -> Any:
        from comfy import model_management

        offload = model_management.unet_offload_device()
        patcher = _patcher_class()(module, load_device=model_management.get_torch_device(), offload_device=offload)
        patcher.unclip_leave = leave
        return patcher

    def room(self, adopted: Sequence[Any], weights: int, need: Need) -> int:
        from comfy import model_management

        if model_management.vram_state == model_management.VRAMState.NO_VRAM:
            return 0  # --novram: as little as can be
        device = model_management.get_torch_device()
        here = sum(patcher.loaded_size() for patcher in adopted)
        forward = need.least + model_management.extra_reserved_memory()
        ours = [loaded for loaded in model_management.current_loaded_models if loaded.model in adopted]
        model_management.free_memory(max(0, weights - here) + forward, device, keep_loaded=ours)
        return int(model_management.get_free_memory(device) + here - forward)

    def bring(self, adopted: Sequence[Any], need: int) -> None:
        from comfy import model_management

        # In full: `room` said that it fits, and the core took out of the network what does not.
        model_management.load_models_gpu(list(adopted), memory_required=need, force_full_load=True)
        for patcher in adopted:
            kind = patcher.load_device.type
            if any(parameter.device.type != kind for parameter in patcher.model.parameters()):
                patcher.partially_load(patcher.load_device, _WHOLE)  # --novram does not heed force_full_load


@functools.cache
def _patcher_class() -> type:
    """ComfyUI's ModelPatcher for networks that leave the device as a whole, by having their weights dropped."""
    from comfy.model_patcher import ModelPatcher

    class DroppingPatcher(ModelPatcher):
        def partially_unload(self, *_: Any, **__: Any) -> int:
            return 0  # nothing freed: it takes the network off as a whole then

        def detach(self, unpatch_all: bool = True) -> Any:
            if unpatch_all:
                self.unclip_leave()  # before it would be copied to the CPU
            return super().detach(unpatch_all)

    return DroppingPatcher


class _Bar(Progress):
    def __init__(self, label: str, quiet: bool):
        from tqdm import tqdm

        self._bar = tqdm(desc=label, unit="step", disable=quiet, dynamic_ncols=True)

    def step(self, state: StepState) -> None:
        self._bar.total = state.total
        self._bar.update(state.index + 1 - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class _EditorBar(Progress):
    def __init__(self):
        self._bar: Any = None
        self._last_preview = 0.0

    def step(self, state: StepState) -> None:
        if self._bar is None:
            from comfy.utils import ProgressBar

            self._bar = ProgressBar(state.total)
        self._bar.update_absolute(state.index + 1, state.total, self._preview(state))

    def _preview(self, state: StepState) -> tuple[str, Image, int] | None:
        from comfy.cli_args import LatentPreviewMethod, args

        now = time.monotonic()
        due = now - self._last_preview >= _PREVIEW_INTERVAL or state.index + 1 == state.total
        # Read at every step: recent editors let the user change the setting while the server runs.
        if not due or args.preview_method == LatentPreviewMethod.NoPreviews or not state.is_visible:
            return None
        self._last_preview = now
        return ("JPEG", preview_picture(state), getattr(args, "preview_size", _PREVIEW_SIDE))


def preview_picture(state: StepState) -> Image:
    """The first item of a step's predicted x_0 as a PIL picture of at most 512 px a side."""
    from PIL import Image

    picture = state.picture()  # (B, 3, H, W) in -1..1
    stride = max(1, -(-max(picture.shape[-2:]) // _PREVIEW_SIDE))
    small = picture[0, :, ::stride, ::stride].float()  # thinned on the device: a 1024 px picture need not travel
    pixels = ((small + 1.0) * 127.5).clamp(0, 255).byte().movedim(0, -1).cpu().numpy()
    return Image.fromarray(pixels)


_host: contextvars.ContextVar[Host | None] = contextvars.ContextVar("unclip_host", default=None)
_on_report: contextvars.ContextVar[OnReport | None] = contextvars.ContextVar("unclip_on_report", default=None)


def current_host() -> Host:
    """The host that `use_host` set, else ComfyUI if it runs us, else a LocalHost with default folders."""
    if host := _host.get():
        return host
    return ComfyHost() if "folder_paths" in sys.modules and "comfy" in sys.modules else LocalHost()


@contextlib.contextmanager
def node_warnings() -> Iterator[Callable[[str], None]]:
    """Gives what the running node calls with each warning, the `warn` of a stage.

    The host shows them together at the end of the with block, before a sampler's first step, and takes back those of
    an earlier run. What a sampler warns of later, on its way, is shown at once, with those before it.
    """
    host, messages, shown = current_host(), [], False

    def warn(message: str) -> None:
        messages.append(message)
        if shown:
            host.warn(*messages)

    yield warn
    shown = True
    host.warn(*messages)


@contextlib.contextmanager
def use_host(host: Host, on_report: OnReport | None = None) -> Iterator[Host]:
    """Make `host` the current one inside a with block, in this thread and in the tasks that it starts.

    `on_report(kind, data)` is told what nodes report in there: "progress" at each step of a sampler (value, max, label,
    step: StepState) and "warning" (messages; none: those of an earlier run are taken back), which a LocalHost then does
    not write to stderr.
    """
    tokens = _host.set(host), _on_report.set(on_report)
    try:
        yield host
    finally:
        _host.reset(tokens[0])
        _on_report.reset(tokens[1])
