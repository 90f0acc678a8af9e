"""The shipped graphs and the commands on them, end to end on the tiny stack: every stage, file and signal is real."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from comfyui_unclip.nodes import host as host_module
from comfyui_unclip.nodes.host import LocalHost
from comfyui_unclip.workflows.cli import run
from comfyui_unclip.workflows.document.reading import load_workflow
from comfyui_unclip.workflows.document.schema import node_classes, node_schema
from comfyui_unclip.workflows.document.ui_graph import VIRTUAL
from comfyui_unclip.workflows.settings.reading import settings

ALL = sorted(Path(__file__).parents[2].glob("workflows/*.json"), key=lambda path: path.name)
# Those without nodes that only ComfyUI has.
GRAPHS = [path for path in ALL if not path.stem.endswith("_comfyui")]
every_graph = pytest.mark.parametrize("graph", GRAPHS, ids=lambda path: path.stem)
every_drawing = pytest.mark.parametrize("graph", ALL, ids=lambda path: path.stem)


@pytest.fixture
def graph(repository):
    return repository / "workflows" / "text_to_image.json"


@pytest.fixture
def unclip(tiny_stack, tmp_path, graph, capsys):
    """unclip(*arguments, file=graph) -> (exit code, stdout, stderr); pictures go to tmp_path/out."""

    def call(*arguments, file=graph):
        code = run(["run", str(file), "-o", str(tmp_path / "out"), "-s", "model=tiny", *arguments])
        return code, *capsys.readouterr()

    return call


def pixels(path):
    return np.asarray(Image.open(path))


def test_a_sentence_becomes_a_1024_px_picture(unclip, tmp_path):
    code, out, err = unclip("-s", "prompt=a blue boat in the sea", "-s", "seed=7")
    picture = tmp_path / "out" / "unclip_00001_.png"
    assert code == 0 and out.splitlines()[-1] == f"saved {picture}"
    assert "set prompt.text = 'a blue boat in the sea'  (node 3)" in out and out.count(".seed = 7") == 4
    for label in ("Diffusion Prior", "Decoder Sample", "Upsample 256", "Upsample 1024"):
        assert re.search(rf"{label}: 100%.* (\d)/\1 ", err), label
    assert pixels(picture).shape == (1024, 1024, 3)
    assert os.listdir(tmp_path / "out") == [picture.name]  # previews are not kept, nothing half-written


def test_the_same_graph_runs_on_a_stack_that_paints_latents_by_its_name_alone(
    graph, tiny_latent_stack, tmp_path, capsys
):
    assert run(["run", str(graph), "-o", str(tmp_path / "out"), "-s", f"model.model_name={tiny_latent_stack}"]) == 0
    said = capsys.readouterr().err
    assert pixels(tmp_path / "out" / "unclip_00001_.png").shape == (128, 128, 3)
    assert said.count("its upsamplers pass pictures through unchanged") == 1
    assert said.count("this decoder reads no captions") == 1


def test_an_empty_caption_is_run(unclip, tmp_path):
    code, out, _ = unclip("-s", "prompt=")
    assert code == 0 and pixels(tmp_path / "out" / "unclip_00001_.png").shape == (1024, 1024, 3)
    assert "set prompt.text = ''" in out


def test_the_values_used_are_in_the_picture_and_run_again_to_the_same_picture(unclip, tmp_path, save):
    assert unclip("-s", "prompt=a red star", "-s", "seed=18446744073709551615")[0] == 0
    text = Image.open(tmp_path / "out" / "unclip_00001_.png").text
    prompt, workflow = json.loads(text["prompt"]), json.loads(text["workflow"])
    assert prompt["3"]["inputs"]["text"] == "a red star" and prompt["5"]["inputs"]["seed"] == 2**64 - 1
    saved = {node["id"]: node.get("widgets_values") for node in workflow["nodes"]}
    assert (
        saved[3] == ["a red star", False] and saved[2][0] == "tiny" and saved[5][4:7] == [2**64 - 1, "randomize", True]
    )
    for number, form in enumerate((workflow, prompt), 2):
        assert unclip(file=save(form))[0] == 0
        again = tmp_path / "out" / f"unclip_{number:05}_.png"
        assert (pixels(again) == pixels(tmp_path / "out" / "unclip_00001_.png")).all()
    assert unclip("-s", "seed=8", file=save(workflow))[0] == 0
    assert (pixels(tmp_path / "out" / "unclip_00004_.png") != pixels(again)).any()


def test_an_animation_runs_again_to_the_same_frames(unclip, repository, tmp_path, capsys):
    film = repository / "workflows" / "interpolate_one_noise.json"
    assert unclip("-s", "frames=3", "-s", "count=3", "-s", "seed=12", file=film)[0] == 0
    (made,) = (tmp_path / "out").rglob("*.webp")
    assert run(["show", str(made)]) == 0 and "12" in capsys.readouterr().out
    made = made.rename(tmp_path / "made.webp")
    assert unclip(file=made)[0] == 0
    (again,) = (tmp_path / "out").rglob("*.webp")
    with Image.open(made) as first, Image.open(again) as second:
        assert first.n_frames == second.n_frames > 2
        for number in range(first.n_frames):
            first.seek(number), second.seek(number)
            assert (np.asarray(first) == np.asarray(second)).all()


def test_the_file_itself_is_never_changed(unclip, graph):
    before = graph.read_bytes()
    unclip("-s", "seed=3")
    assert graph.read_bytes() == before


def test_unknown_and_dropped_words_are_warned_of(unclip):
    long = "a red star " + "above the sea " * 4
    _, _, err = unclip("-s", f"prompt={long}", "-q")
    assert 'longer than the 12 tokens of tiny-1; dropped "the sea above the sea"' in err
    _, _, err = unclip("-s", "prompt=an astronaut on the sea", "-q")
    assert "tiny-1 does not know an, astronaut" in err


def test_quiet_prints_paths_alone(unclip, tmp_path):
    code, out, err = unclip("-q")
    assert (code, out, err) == (0, f"{tmp_path / 'out' / 'unclip_00001_.png'}\n", "")


def test_bypassing_the_last_upsampler_saves_256_px(unclip, graph, save, tmp_path):
    data = json.loads(graph.read_text(encoding="utf-8"))
    next(node for node in data["nodes"] if node["id"] == 9)["mode"] = 4
    assert unclip(file=save(data))[0] == 0
    assert pixels(tmp_path / "out" / "unclip_00001_.png").shape == (256, 256, 3)


def test_ctrl_c_stops_within_one_step_and_leaves_finished_files(unclip, graph, save, tmp_path, monkeypatch):
    data = json.loads(graph.read_text(encoding="utf-8"))
    next(node for node in data["nodes"] if node["id"] == 8).update(type="SaveImage", widgets_values=["middle"])
    steps = []

    class Bar(host_module._Bar):
        def step(self, state):
            super().step(state)
            if state.total == 1000:
                steps.append(state.index)
                if state.index == 2:
                    os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(LocalHost, "progress", lambda self, label: Bar(label, False))
    code, _, err = unclip("-s", "upsample1024.steps=1000", file=save(data))
    assert code == 130 and "interrupted" in err and len(steps) <= 4
    assert os.listdir(tmp_path / "out") == ["middle_00001_.png"]
    assert pixels(tmp_path / "out" / "middle_00001_.png").shape == (256, 256, 3)


def test_a_stage_that_the_model_lacks_is_named(unclip, tiny_models, tmp_path, monkeypatch):
    half = tmp_path / "models" / "half"
    half.mkdir(parents=True)
    for stage in ("clip", "decoder"):
        (half / f"{stage}.safetensors").symlink_to(tiny_models / "tiny" / f"{stage}.safetensors")
    monkeypatch.setenv("UNCLIP_MODELS", str(half.parent))
    code, _, err = unclip("-s", "model=half")
    (line,) = [line for line in err.splitlines() if line.startswith("error")]
    assert code == 1 and 'node 4 "prior" (UnCLIPDiffusionPrior)' in line and "has no prior stage" in line


@every_graph
def test_shipped_graphs_fit_the_current_nodes(graph):
    """The golden check: every saved socket and every widget value stands where today's classes expect it."""
    classes = node_classes()
    for node in json.loads(graph.read_text(encoding="utf-8"))["nodes"]:
        if node["type"] in VIRTUAL:
            continue
        specs = node_schema(classes[node["type"]]).inputs
        sockets = {entry["name"]: entry["type"] for entry in node["inputs"] if "widget" not in entry}
        assert sockets == {name: spec.type for name, spec in specs.items() if not spec.is_widget}, node["type"]
        assert [output["type"] for output in node["outputs"]] == list(classes[node["type"]].RETURN_TYPES)
        widgets = [spec for spec in specs.values() if spec.is_widget]
        places = sum(1 + spec.extra_widgets for spec in widgets)
        later = sum(1 for spec in widgets if not spec.required)  # inputs that came after the graph was saved
        assert places - later <= len(node.get("widgets_values", [])) <= places, node["type"]


@every_drawing
def test_shipped_graphs_say_what_to_change_first_and_count_their_ids_right(graph):
    data = json.loads(graph.read_text(encoding="utf-8"))
    assert {node["type"] for node in data["nodes"]} & {"Note", "MarkdownNote"}, "no note says what to change first"
    assert data["last_node_id"] == max(node["id"] for node in data["nodes"])
    assert data["last_link_id"] == max(link[0] for link in data["links"])


@every_graph
def test_shipped_graphs_title_the_caption_and_the_decoder(graph):
    first = {}
    for setting in settings(load_workflow(graph), node_classes()):
        first.setdefault(setting.saved_title, f"{setting.node['type']}.{setting.spec.name}")
    assert first["decoder"].startswith("UnCLIPDecoderSample.")
    if "UnCLIPTextEncode.text" in first.values():  # graphs that start from pictures alone have no caption
        assert first["prompt"] == "UnCLIPTextEncode.text"


def test_shipped_graphs_validate_with_torch_and_numpy_blocked(tiny_stack):
    program = """
import sys
class Block:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("torch", "numpy", "open_clip", "torchvision", "PIL", "safetensors", "tqdm"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
from comfyui_unclip.workflows.cli import run
codes = [run(["validate", *sys.argv[1:]]), run(["show", sys.argv[1]])]
sys.exit(max(codes))
"""
    command = [sys.executable, "-c", program, *map(str, GRAPHS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": ok") == len(GRAPHS) and "prompt.text" in done.stdout
