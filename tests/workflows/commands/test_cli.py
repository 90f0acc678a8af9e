"""The command line's manners: help, exit codes, one line per problem, nothing done before everything is checked."""

import json
import re
import subprocess
import sys

import pytest

from comfyui_unclip.workflows.cli import run


@pytest.fixture
def graph(repository):
    return json.loads((repository / "workflows" / "text_to_image.json").read_text(encoding="utf-8"))


@pytest.fixture
def unclip(tiny_stack, capsys):
    """unclip(*arguments) -> (exit code, stdout, error lines)."""

    def call(*arguments):
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return call


def node(graph, node_id):
    return next(node for node in graph["nodes"] if node["id"] == node_id)


def change(graph, **edits):
    """Give nodes n3=..., n5=... new fields."""
    for name, fields in edits.items():
        node(graph, int(name[1:])).update(fields)
    return graph


def cycle(graph):
    node(graph, 9)["inputs"][1]["link"] = None
    graph["links"].append([90, 9, 0, 7, 1, "IMAGE"])
    graph["links"].append([91, 7, 0, 9, 1, "IMAGE"])
    node(graph, 7)["inputs"][1]["link"] = 90
    node(graph, 9)["inputs"][1]["link"] = 91
    return graph


BAD_GRAPHS = {
    "unknown class": (
        lambda g: change(g, n5={"type": "UnCLIPDecoder"}),
        "node 5 \"decoder\" (UnCLIPDecoder): unknown node class 'UnCLIPDecoder'; did you mean UnCLIPDecoderSample?",
    ),
    "missing input": (
        lambda g: change(g, n4={"inputs": node(g, 4)["inputs"][:1]}),
        'node 4 "prior" (UnCLIPDiffusionPrior), text: is not linked',
    ),
    "mistyped input": (
        lambda g: change(g, n7={"widgets_values": ["six", 1, "fixed"]}),
        "node 7 \"upsample256\" (UnCLIPUpsample256), steps: 'six' is not of type INT; it takes 0 to 1000",
    ),
    "wrong link": (
        lambda g: change(g, n7={"inputs": [node(g, 7)["inputs"][0], {"name": "image", "type": "IMAGE", "link": 4}]}),
        'image: wants IMAGE, but node 2 "model" (UnCLIPLoader) gives UNCLIP_DECODER',
    ),
    "cycle": (cycle, "the graph runs in a circle: "),
    "no such model": (
        lambda g: change(g, n2={"widgets_values": ["karlo", "auto"]}),
        "model_name: Load unCLIP: no model 'karlo'; put a folder 'karlo' ",
    ),
    "nothing saved": (
        lambda g: g | {"nodes": [n for n in g["nodes"] if n["type"] not in ("SaveImage", "PreviewImage")]},
        "the graph has no output node",
    ),
}


@pytest.mark.parametrize("name", list(BAD_GRAPHS))
def test_a_bad_graph_is_one_line_exit_code_2_and_no_work(unclip, graph, save, tmp_path, name):
    spoil, said = BAD_GRAPHS[name]
    path = save(spoil(graph))
    code, out, errors = unclip("run", path, "-o", tmp_path / "out")
    assert code == 2 and len(errors) == 1 and said in errors[0] and out == ""
    assert not (tmp_path / "out").exists()
    assert unclip("validate", path)[::2] == (1, [f"{path}: {errors[0].removeprefix('error: ')}"])


def test_a_broken_file_and_a_wrong_override(unclip, save, tmp_path, repository):
    code, _, errors = unclip("run", save('{"nodes": ['))
    assert code == 2 and "not valid JSON at line 1" in errors[0]
    shipped = repository / "workflows" / "text_to_image.json"
    code, _, errors = unclip("run", shipped, "-s", "colour=red", "-s", "seed=x", "-o", tmp_path / "out")
    assert code == 2 and len(errors) == 2 and not (tmp_path / "out").exists()
    assert errors[0].startswith("error: -s colour=red: nothing in this graph is called 'colour'; ")


def test_a_checkpoint_that_is_not_one(unclip, tmp_path, monkeypatch, repository):
    (tmp_path / "models" / "page").mkdir(parents=True)
    (tmp_path / "models" / "page" / "prior.safetensors").write_text("<html>404</html>")
    monkeypatch.setenv("UNCLIP_MODELS", str(tmp_path / "models"))
    shipped = repository / "workflows" / "text_to_image.json"
    code, _, errors = unclip("run", shipped, "-s", "model=page", "-o", tmp_path / "out")
    assert code == 2 and len(errors) == 1 and "prior.safetensors: not a complete safetensors file" in errors[0]


def test_an_output_folder_that_cannot_be(unclip, tmp_path, repository):
    (tmp_path / "file").write_text("x")
    shipped = repository / "workflows" / "text_to_image.json"
    code, _, errors = unclip("run", shipped, "-o", tmp_path / "file" / "out")
    assert code == 2 and len(errors) == 1 and f"{tmp_path / 'file'} is a file; choose another with -o" in errors[0]


def test_all_problems_of_every_kind_come_at_once(unclip, graph, save, tmp_path):
    (tmp_path / "file").write_text("x")
    change(graph, n7={"widgets_values": [-1, 1, "fixed"]}, n10={"type": "SafeImage"})
    code, _, errors = unclip("run", save(graph), "-s", "nope=1", "-o", tmp_path / "file")
    assert code == 2 and len(errors) == 4
    for said in ("-s nope=1", "SafeImage", "-1 is below the minimum 0", "is a file"):
        assert sum(said in line for line in errors) == 1, said


def test_validate_goes_on_to_the_next_file(unclip, graph, save, tmp_path):
    good, bad = save(graph, "good.json"), save("[]", "bad.json")
    code, out, errors = unclip("validate", bad, good, tmp_path / "none.json")
    assert code == 2 and out == f"{good}: ok\n" and len(errors) == 2
    assert unclip("validate", good)[0] == 0


def test_show_lists_names_values_and_ranges(unclip, graph, save):
    code, out, _ = unclip("show", save(graph))
    rows = [line.split() for line in out.splitlines()]
    assert code == 0 and rows[0] == ["NAME", "VALUE", "TAKES", "NODE"]
    assert ["prior.candidates", "2", "1", "to", "64", "4"] in rows
    assert any(row[0] == "prompt.text" and row[-1] == "3" for row in rows)
    assert not any(row[0].startswith(("64", "Start")) for row in rows)


def test_show_of_a_graph_without_widgets_says_so(unclip, ui, save):
    assert unclip("show", save(ui({1: ("Note", [], [], ["x"])})))[1] == "nothing in this graph can be set\n"


def test_what_a_node_shows_as_text_is_printed_under_its_title(unclip, save, tmp_path):
    shown = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}, "_meta": {"title": "scores"}}
    file = save({"1": {"class_type": "PrimitiveString", "inputs": {"value": "#0 0.3"}}, "2": shown})
    given = ("run", file, "-o", tmp_path / "out")
    assert unclip(*given)[1] == "scores: #0 0.3\n"
    assert unclip(*given, "-s", "value=#1 0.4\n#0 0.3\x1b[2J")[1].endswith("scores:\n  #1 0.4\n  #0 0.3\\x1b[2J\n")
    long = "\n".join(map(str, range(40)))
    assert unclip(*given, "-s", f"value={long}")[1].endswith("\n  23\n  ... 16 more lines; --json shows all\n")
    assert "row 2, scores: b\n" in unclip(*given, "--sweep", "value=a,b")[1]
    assert unclip(*given, "-q")[1] == ""


ALONE = "; the one that comes with the pack goes by its name alone, '{}'"


def test_a_name_is_found_and_a_path_or_another_name_gets_a_suggestion(unclip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert unclip("validate", "text_to_image")[1] == "text_to_image: ok\n"
    for command in ("run", "show", "graph", "validate"):  # a path is no name, wherever it is given
        code, _, (error,) = unclip(command, "./inpaint.json")
        assert code == 2 and error.endswith("inpaint.json: no such file; check the path" + ALONE.format("inpaint"))
    for given, meant in (("Text_to_Image", "text_to_image"), ("vary a picture", "Vary a picture (unCLIP)")):
        _, _, (error,) = unclip("show", given)
        assert f"{given}: no such file; check the path; did you mean {meant!r}? graphs that come with" in error
    _, _, (error,) = unclip("show", "graphs/vary a picture.json")
    assert error == "error: graphs/vary a picture.json: no such file; check the path"
    (tmp_path / "text_to_image.json").write_text("[]")  # a file of that name comes first
    assert unclip("validate", "text_to_image.json")[0] == 2


def test_the_version_is_said(unclip):
    code, out, _ = unclip("--version")
    assert code == 0 and re.fullmatch(r"unclip (\d+\.\d+\.\d+|of a checkout that is not installed)\n", out)


def test_unknown_commands_and_options_exit_2(unclip):
    assert unclip("walk")[0] == 2
    assert unclip("run", "--fast")[0] == 2
    assert unclip()[0] == 2


def test_run_help_has_examples(unclip):
    _, out, _ = unclip("run", "--help")
    assert out.count("unclip run ") >= 3 and "title.input" in out


def test_help_is_quick_and_lists_every_command_file(repository):
    program = "import sys; from comfyui_unclip.workflows.cli import main; sys.argv = ['unclip', '--help']; main()"
    # In processor time, so that a busy machine changes nothing; the interpreter's own start counts too.
    program = (
        "import atexit, sys, time; atexit.register(lambda: print(time.process_time(), file=sys.stderr)); " + program
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stderr) < 1.0
    files = {path.stem.replace("_", "-") for path in (repository / "workflows" / "commands").glob("[!_]*.py")}
    assert files <= set(done.stdout.split())
