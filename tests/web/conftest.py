"""The scripts of tests/tools, which are run by hand, as modules."""

import importlib.util

import pytest


@pytest.fixture(scope="session")
def load_tool(repository):
    """load_tool(name) -> the module tests/tools/NAME.py."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"{name}_tool", repository / "tests" / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
