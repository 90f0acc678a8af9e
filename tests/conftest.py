"""Fixtures of every room: a complete small stack on disk, built once per session."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """A model folder that holds the stack `tiny` (tests/tiny_stack.py), and once more as `storybook`, so that shipped
    graphs find their model even in a checkout without weights."""
    specification = importlib.util.spec_from_file_location("tiny_stack", TESTS / "tiny_stack.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["tiny_stack"] = module
    specification.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(module.build(folder / "tiny"), folder / "storybook")
    return folder


@pytest.fixture
def tiny_stack(tiny_models, monkeypatch):
    """The name of a stack that the catalog finds."""
    monkeypatch.setenv("UNCLIP_MODELS", str(tiny_models))
    return "tiny"


@pytest.fixture(scope="session")
def repository():
    """The checkout's root, which is the package."""
    return TESTS.parent
