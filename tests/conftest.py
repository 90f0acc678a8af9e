"""Fixtures of every room: a complete small stack on disk, built once per session."""

import importlib.util
import os
import signal
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def pytest_configure():
    """Ctrl-C is tested with real signals, which a shell that starts the tests in the background makes them ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" in os.environ:  # one process for each core: threads of their own would only be in the way
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Nothing is kept in the user's cache folder, by processes that tests start neither."""
    os.environ["UNCLIP_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def sources_stay():
    """No test writes into weights that it has a `copy_folder` of: other tests read the same files."""
    from comfyui_unclip.tests.copies import written_into

    yield
    assert not (found := written_into()), f"written into the source's weights: {found}; see tests/copies.py"


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """A model folder that holds the stack `tiny` (tests/tiny_stack.py), and again under the names that shipped graphs
    carry: they then find their model in a checkout without weights, and on a machine without Karlo. And a LoRA of it
    under the name that workflows/subject.json carries."""
    from comfyui_unclip.tests import tiny_stack
    from comfyui_unclip.tests.copies import copy_folder

    folder = tmp_path_factory.mktemp("models")
    tiny_stack.build(folder / "tiny")
    for name in (
        "storybook",
        "karlo-v1-alpha",
        "karlo-v1-alpha-image-variations",
        "kandinsky-2-2",
        "kandinsky-2-2-inpaint",
        "kandinsky-2-2-controlnet-depth",
        "stable-diffusion-2-1-unclip-small",
    ):
        copy_folder(folder / "tiny", folder / name)
    tiny_stack.lora(folder / "loras" / "sks_snail.safetensors", "sks_snail")
    return folder


@pytest.fixture(scope="session")
def tiny_latent_models(tmp_path_factory):
    """A model folder that holds the stack `tiny-latent` (tests/tiny_stack.py)."""
    from comfyui_unclip.tests import tiny_stack

    folder = tmp_path_factory.mktemp("latent_models")
    tiny_stack.build(folder / "tiny-latent", tiny_stack.latent_config())
    return folder


@pytest.fixture(scope="session")
def karlo():
    """The writer of Karlo folders (unclip_core/checkpoints/karlo_folder.py)."""
    from comfyui_unclip.tests.unclip_core.checkpoints import karlo_folder

    return karlo_folder


@pytest.fixture(scope="session")
def family():
    """The writer of Kandinsky's folders and those of the other members of the family (tests/family.py)."""
    from comfyui_unclip.tests import family

    return family


@pytest.fixture(scope="session")
def stable_unclip():
    """The writer of Stable unCLIP folders (family_stable.py)."""
    from comfyui_unclip.tests import family_stable

    return family_stable


@pytest.fixture(scope="session")
def write_single_stable_unclip():
    """write(path, networks, whole_text=...) of unclip_core/checkpoints/stable_unclip_files.py."""
    from comfyui_unclip.tests.unclip_core.checkpoints.stable_unclip_files import write_single

    return write_single


@pytest.fixture(scope="session")
def members(karlo, family, stable_unclip, tmp_path_factory):
    """A model folder with every member of the family that is published in a layout of diffusers', small and random."""
    folder = tmp_path_factory.mktemp("members")
    karlo.write_karlo_folder(folder / "karlo-v1-alpha")
    karlo.write_karlo_folder(folder / "karlo-v1-alpha-image-variations", with_prior=False, with_image_encoder=True)
    family.kandinsky_2_2(folder, decoders=("", "inpaint", "controlnet-depth"))
    family.kandinsky_2_1(folder, decoders=("", "inpaint"))
    stable_unclip.stable_unclip_h(folder / "stable-diffusion-2-1-unclip")
    stable_unclip.stable_unclip_l(folder / "stable-diffusion-2-1-unclip-small")
    family.eclipse_prior(folder / "ECLIPSE_Karlo_Prior", dim=karlo.KarloSizes().clip_dim)
    family.eclipse_prior(folder / "ECLIPSE_KandinskyV22_Prior")
    return folder


@pytest.fixture
def tiny_stack(tiny_models, monkeypatch):
    """The name of a stack that the catalog finds."""
    monkeypatch.setenv("UNCLIP_MODELS", str(tiny_models))
    return "tiny"


@pytest.fixture
def tiny_latent_stack(tiny_latent_models, monkeypatch):
    """The name of a stack with a latent decoder that the catalog finds."""
    monkeypatch.setenv("UNCLIP_MODELS", str(tiny_latent_models))
    return "tiny-latent"


@pytest.fixture
def hub_server():
    """A hub on 127.0.0.1 without repositories (tests/hub_server.py)."""
    from comfyui_unclip.tests.hub_server import HubServer

    server = HubServer()
    yield server
    server.close()


@pytest.fixture
def hub_repository():
    """Makes a repository for `hub_server` from {path: bytes}."""
    from comfyui_unclip.tests.hub_server import Repository

    return Repository


@pytest.fixture(scope="session")
def repository():
    """The checkout's root, which is the package."""
    return TESTS.parent


@pytest.fixture(scope="session")
def load_tool(repository):
    """load_tool(name) -> the module tests/tools/NAME.py, a script that is run by hand."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"{name}_tool", repository / "tests" / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


_listeners = []


def _hear(event, arguments):
    for event_wanted, folder, seen in _listeners if _listeners else ():
        if event == event_wanted and isinstance(arguments[0], str | os.PathLike):
            path = os.path.abspath(os.fspath(arguments[0]))
            if path == folder or path.startswith(folder + os.sep):
                seen.append(path)


@pytest.fixture
def touched():
    """touched("open" or "os.scandir", folder) -> a list that grows by every path in the folder that Python, whoever
    asked it, opens or lists from then on."""
    if not getattr(sys, "unclip_hears", False):  # a hook stays for the process
        sys.unclip_hears = True
        sys.addaudithook(_hear)

    def listen(event, folder):
        seen = []
        _listeners.append((event, os.path.abspath(folder), seen))
        return seen

    yield listen
    _listeners.clear()
