"""The family's graphs on small random folders of its published members: another name in Load unCLIP is all it takes."""

import shutil

import numpy as np
import pytest
from PIL import Image

from comfyui_unclip.unclip_core.checkpoints import catalog
from comfyui_unclip.workflows.checks.stacks import reasons, shipped_graphs
from comfyui_unclip.workflows.cli import run
from comfyui_unclip.workflows.document.schema import NodeClasses, node_classes

TEXT, PICTURE = "text_to_image_kandinsky", "variations_kandinsky"
# One graph for each member: a caption's picture, or a picture's where there is no prior, or what it alone does.
MEMBERS = {
    "kandinsky-2-2": TEXT,
    "kandinsky-2-2-inpaint": "inpaint_kandinsky",
    "kandinsky-2-2-controlnet-depth": "depth_kandinsky",
    "kandinsky-2-1": TEXT,
    "kandinsky-2-1-inpaint": "inpaint_kandinsky",
    "stable-diffusion-2-1-unclip": PICTURE,
    "stable-diffusion-2-1-unclip-small": TEXT,
    "karlo-v1-alpha": TEXT,
    "karlo-v1-alpha-image-variations": PICTURE,
    "eclipse-karlo": TEXT,
    "eclipse-kandinsky-2-2": TEXT,
}
OTHERS = {
    "interpolate_kandinsky": "kandinsky-2-2",
    "text_diff_kandinsky": "kandinsky-2-2",
    "text_to_image_sd_unclip": "stable-diffusion-2-1-unclip-small",
}
QUICK = ("-s", "decoder.steps=2", "-q")


@pytest.fixture
def unclip(members, repository, tmp_path, monkeypatch, capsys):
    """unclip(graph, *arguments) -> (exit code, pictures as arrays, stderr) of a run."""
    monkeypatch.setenv("UNCLIP_MODELS", str(members))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))

    def call(graph, *arguments):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        file = repository / "workflows" / f"{graph}.json"
        code = run(["run", str(file), "-o", str(tmp_path / "out"), *QUICK, *arguments])
        found = sorted((tmp_path / "out").rglob("*.png"))
        return code, [np.asarray(Image.open(path)) for path in found], capsys.readouterr().err

    return call


@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_runs_a_graph_by_its_name_alone(unclip, members, name):
    entry = catalog.list_stacks()[name]
    graph = shipped_graphs()[MEMBERS[name]]
    assert reasons(graph, entry, NodeClasses(node_classes())) == []
    code, pictures, err = unclip(MEMBERS[name], "-s", f"model.model_name={name}")
    assert code == 0, err
    (picture,) = pictures
    decoder = entry.stages["decoder"].config
    side = decoder.unet.image_size * (decoder.autoencoder.factor if decoder.autoencoder else 1)
    assert picture.shape[0] == side and picture.std() > 1  # as large as the model was made for, and not plain


@pytest.mark.parametrize("graph", OTHERS)
def test_the_other_graphs_of_the_family_run_as_they_are(unclip, graph):
    steps = ("-s", "all the rest (x_T).steps=2") if graph == "text_diff_kandinsky" else ()
    code, pictures, err = unclip(graph, *steps)
    assert code == 0, err
    assert len(pictures) == 1 and pictures[0].std() > 1


def test_what_models_says_of_a_graph_is_what_a_run_says(unclip, members):
    """A graph that a model cannot run, by the model's own account, ends with an error that names the same."""
    for name, graph, said in (
        ("stable-diffusion-2-1-unclip", TEXT, "has no prior"),
        ("kandinsky-2-2", "text_to_image_sd_unclip", "noise"),
        ("kandinsky-2-2-controlnet-depth", TEXT, "depth"),
        ("karlo-v1-alpha", PICTURE, "has no image tower"),
    ):
        entry = catalog.list_stacks()[name]
        assert reasons(shipped_graphs()[graph], entry, NodeClasses(node_classes()))
        code, pictures, err = unclip(graph, "-s", f"model.model_name={name}")
        assert code != 0 and not pictures and said in err
