"""Node packs of others, loaded from disk."""

import json
import sys

import pytest

from comfyui_unclip.workflows.cli import run as unclip
from comfyui_unclip.workflows.document.graph import WorkflowError
from comfyui_unclip.workflows.engine.node_packs import known_classes, load_pack, with_packs


@pytest.fixture
def pack(repository):
    return repository / "tests" / "data" / "test_pack"


def test_a_folder_loads_with_its_relative_imports_and_titles(pack):
    before = list(sys.path)
    classes = load_pack(pack)
    assert "UnclipTestTotal" in classes and classes["UnclipTestTotal"].TITLE == "Total of everything"
    assert classes["UnclipTestTotal"].__module__ == str(pack).replace(".", "_x_") + ".values"
    assert sys.path == before
    assert load_pack(pack)["UnclipTestTotal"] is classes["UnclipTestTotal"]


def test_a_single_file_loads_and_taken_names_keep_their_class(tmp_path):
    node = "class N:\n RETURN_TYPES=()\n FUNCTION='go'\n INPUT_TYPES=classmethod(lambda c: {})\n"
    file = tmp_path / "my.pack.py"
    file.write_text(node + "NODE_CLASS_MAPPINGS = {'N': N, 'SaveImage': N}\n")
    classes = known_classes([file])
    assert classes["N"].__name__ == "N" and classes["SaveImage"].__name__ == "SaveImage"


BAD = {
    "a file of another kind": ("x.txt", "", "is not Python"),
    "a class that is none": ("a.py", "NODE_CLASS_MAPPINGS = {'N': object}", "its node N has no INPUT_TYPES, RETURN_"),
    "no nodes": ("a.py", "x = 1", "has no NODE_CLASS_MAPPINGS"),
    "the editor's newer form": ("a.py", "async def comfy_entrypoint(): pass", "has only V3 nodes"),
    "an editor's module": ("a.py", "import folder_paths", "imports the editor's module 'folder_paths'"),
    "a missing package": ("a.py", "import no_such_thing_x", "needs the Python package 'no_such_thing_x'; install"),
    "an error": ("a.py", "raise RuntimeError('no\\nluck')", "failed to load: RuntimeError: no luck"),
    "an exit": ("a.py", "raise SystemExit(3)", "failed to load: SystemExit: 3"),
    "a syntax error": ("a.py", "def", "failed to load: SyntaxError"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_pack_that_does_not_load_is_one_line(tmp_path, name):
    file, text, said = BAD[name]
    (tmp_path / file).write_text(text)
    with pytest.raises(WorkflowError) as caught:
        load_pack(tmp_path / file)
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"--nodes {tmp_path / file}: ") and said in str(problem)
    assert "\n" not in str(problem)
    if said.startswith("failed to load"):  # mended, it loads
        (tmp_path / file).write_text("NODE_CLASS_MAPPINGS = {}")
        assert load_pack(tmp_path / file) == {}


def test_all_packs_that_do_not_load_are_listed(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(WorkflowError) as caught:
        with_packs({}, [tmp_path / "none", tmp_path / "folder"])
    assert [problem.message.split(": ")[1] for problem in caught.value.problems] == [
        "does not exist; check the path",
        "has no __init__.py; give the folder of one pack",
    ]


def test_the_command_line_takes_packs(pack, tmp_path, capsys):
    graph = {
        "1": {"class_type": "UnclipTestListSource", "inputs": {"count": 4}},
        "2": {"class_type": "UnclipTestReport", "inputs": {"value": ["1", 1]}},
    }
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(graph))
    assert unclip(["validate", str(file)]) == 1
    assert "add a pack with --nodes" in capsys.readouterr().err
    for arguments in (["validate", file], ["show", file], ["graph", file], ["run", file, "-o", tmp_path / "out"]):
        assert unclip([str(argument) for argument in [*arguments, "--nodes", pack]]) == 0
    assert "UnclipTestListSource.count" in capsys.readouterr().out
    assert unclip(["validate", str(file), "--nodes", str(tmp_path / "none")]) == 2
    assert "error: --nodes" in capsys.readouterr().err
