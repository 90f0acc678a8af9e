"""The editor's own nodes here give what a real ComfyUI gave (tests/tools/core_node_references.py).

With $UNCLIP_COMFYUI, the folder of a ComfyUI, that one is asked anew, by the interpreter $UNCLIP_COMFYUI_PYTHON.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from comfyui_unclip.nodes.builtin import BUILTIN_CLASS_MAPPINGS as NODES
from comfyui_unclip.nodes.host import LocalHost
from comfyui_unclip.tests.nodes import core_node_cases as cases
from comfyui_unclip.workflows.document.schema import node_schema, read_spec
from comfyui_unclip.workflows.engine.session import Session

TESTS = Path(__file__).parents[1]

# Of older versions: sides were no multiples of anything, JSON was shown in one line.
NEWER = {"ImageScaleToTotalPixels 1", "PreviewAny 5"}
# What interpolates or sums, which another processor or PyTorch may round in another way.
ROUNDED = ("ImageScale", "ImageScaleBy", "ImageBlend", "ImageCompositeMasked", "ImageBlur", "ImageSharpen")
ROUNDED += ("ImageStitch", "ResizeAndPadImage", "JoinImageWithAlpha")
_ANY = "COMFY_MATCHTYPE_V3"  # which the page knows; "*" is as good


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """What a real ComfyUI made of the cases: (JSON, tensors, whether it was asked just now)."""
    folder, now = TESTS / "data", bool(os.environ.get("UNCLIP_COMFYUI"))
    if now:
        folder = tmp_path_factory.mktemp("references")
        command = [os.environ.get("UNCLIP_COMFYUI_PYTHON", sys.executable), TESTS / "tools" / "core_node_references.py"]
        command += [Path(os.environ["UNCLIP_COMFYUI"]).expanduser(), "-o", folder]
        subprocess.run([*map(str, command)], check=True, timeout=600, capture_output=True)
    told = json.loads((folder / "core_nodes.json").read_text(encoding="utf-8"))
    return told, load_file(folder / "core_nodes.safetensors"), now


def ours(case, tmp_path):
    """What our executor makes of a case, in the references' shape, and its tensors."""
    class_type, _ = cases.CASES[case]
    session = Session(LocalHost(tmp_path, quiet=True), NODES | cases.HELPERS)
    prompt = cases.prompt_of(case) | cases.keepers(len(NODES[class_type].RETURN_TYPES))
    validation = session.validate(prompt)
    assert validation.error is None, validation.problems(session.classes)
    cases.UnclipCoreKept.found.clear()
    ended = session.run(validation.prompt)
    assert ended.error is None, ended.error
    shown = ended.outputs.get("node")
    files = cases.files_of(shown, session.host.folder)
    session.host.close()
    found = sorted(cases.UnclipCoreKept.found.items())
    told = {
        "executed": sorted(ended.executed),
        "ui": shown,
        "files": [said for _, said in files],
        "outputs": [None if torch.is_tensor(value) else value for _, value in found],
    }
    tensors = {str(slot): value for slot, value in found if torch.is_tensor(value)}
    return told, tensors | {f"file{n}": torch.from_numpy(frames) for n, (frames, _) in enumerate(files)}


@pytest.mark.parametrize("case", list(cases.CASES))
def test_a_node_gives_what_it_gives_in_the_editor(case, references, tmp_path):
    told, tensors, now = references
    class_type, _ = cases.CASES[case]
    if class_type not in told["declared"]:
        assert now, "only an older ComfyUI may lack a node"
        pytest.skip(f"ComfyUI {told['comfyui']} has no {class_type}")
    if case in told["failed"] or (case in NEWER and not is_new(told)):
        assert not is_new(told)
        pytest.skip(f"ComfyUI {told['comfyui']} does not do this, or does it in another way")
    said, made = ours(case, tmp_path)
    expected = told["cases"][case]
    assert set(made) == {key.split("/")[1] for key in tensors if key.startswith(f"{case}/")}
    for slot, value in made.items():
        reference = tensors[f"{case}/{slot}"]
        assert value.dtype == reference.dtype and value.shape == reference.shape
        if now or class_type not in ROUNDED:
            exact = torch.equal(value, reference) or case == "SaveAnimatedWEBP 2"
            assert exact, (value.double() - reference.double()).abs().max()
        # Another WebP may compress in another way.
        limit = 12.0 if value.dtype == torch.uint8 else 1e-6
        assert (value.double() - reference.double()).abs().max() <= limit
    for mine, theirs in zip(said["files"], expected["files"], strict=True):
        assert mine == theirs if now else {**mine, "sha256": ""} == {**theirs, "sha256": ""}
    if case != "PreviewAny 6":  # a tensor, as this PyTorch prints it
        still = {"animated": [False]}  # which is said or left out
        assert still | json.loads(json.dumps(said["ui"] or {})) == still | (expected["ui"] or {})
    assert said["outputs"] == expected["outputs"] and said["executed"] == expected["executed"]


def test_every_node_is_declared_as_in_the_editor(references):
    """Inputs with their order, types, ranges, choices and defaults; outputs; title and category."""
    told, _, now = references
    assert now or set(told["declared"]) == set(NODES)
    for name, theirs in told["declared"].items():
        node = NODES[name]
        specs = [
            read_spec(entry[0], entry[1:], kind == "required")
            for kind in ("required", "optional")
            for entry in theirs[kind]
        ]
        mine = [described(spec) for spec in node_schema(node).inputs.values()]
        if name == "BatchImagesNode":
            assert [spec.type for spec in specs] == ["COMFY_AUTOGROW_V3"]
        else:
            theirs_told = [described(spec) for spec in specs]
            # ImageScaleToTotalPixels got its last input later, whose default is what it did before.
            assert theirs_told == (mine if is_new(told) else mine[: len(theirs_told)]), name
        plain = [str(kind).replace(_ANY, "*") for kind in theirs["outputs"]]
        assert [str(kind) for kind in node.RETURN_TYPES] == plain, name
        assert list(getattr(node, "RETURN_NAMES", node.RETURN_TYPES)) == [n.replace(_ANY, "*") for n in theirs["names"]]
        assert bool(getattr(node, "OUTPUT_NODE", False)) == theirs["output_node"], name
        if is_new(told):  # older ones have other titles
            assert theirs["title"] == node.TITLE and theirs["category"] == node.CATEGORY, name


def is_new(told):
    """Whether the ComfyUI is one that our nodes follow where versions differ."""
    return tuple(map(int, told["comfyui"].split(".")[:2])) >= (0, 8)


def described(spec):
    options = {key: spec.options.get(key) for key in ("min", "max")}
    options |= {key: bool(spec.options.get(key)) for key in ("multiline", "lazy")}
    # The pictures that lie in a folder are another matter.
    chosen = () if spec.options.get("image_upload") else (spec.choices, spec.default)
    return spec.name, spec.type.replace(_ANY, "*"), spec.required, chosen, options


def run(name, **given):
    return getattr(NODES[name](), NODES[name].FUNCTION)(**given)


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("ImageToMask", {"image": torch.zeros(1, 2, 2, 3), "channel": "alpha"}, "choose one of red, green, blue"),
        (
            "CropMask",
            {"mask": torch.zeros(1, 2, 3), "x": 3, "y": 0, "width": 1, "height": 1},
            "x=3 lies outside of the mask, which has 3 pixels",
        ),
        (
            "MaskComposite",
            {
                "destination": torch.zeros(2, 2, 2),
                "source": torch.zeros(3, 2, 2),
                "x": 0,
                "y": 0,
                "operation": "add",
            },
            "source has 3 masks and destination 2",
        ),
        (
            "ImageBlend",
            {
                "image1": torch.zeros(2, 2, 2, 3),
                "image2": torch.zeros(3, 2, 2, 3),
                "blend_factor": 0.5,
                "blend_mode": "normal",
            },
            "image1 has 2 pictures and image2 3",
        ),
        (
            "ImageBlur",
            {"image": torch.zeros(1, 4, 9, 3), "blur_radius": 4, "sigma": 1.0},
            "blur_radius=4 is too large for pictures of 9 x 4; give at most 3",
        ),
        (
            "ImageScaleToMaxDimension",
            {"image": torch.zeros(1, 2, 2, 3), "upscale_method": "area", "largest_size": 0},
            "largest_size=0 leaves no picture",
        ),
    ],
)
def test_what_the_editor_fails_on_without_a_reason_is_said(name, given, told):
    with pytest.raises(ValueError, match=told):
        run(name, **given)


def test_inputs_are_left_alone():
    """Nodes that write into a part of a picture write into a copy: others may use the same one."""
    for case, (class_type, given) in cases.CASES.items():
        arrays = cases.inputs()
        if NODES[class_type].__dict__.get("OUTPUT_NODE") or class_type in ("MaskPreview",):
            continue
        values = {
            name: torch.from_numpy(arrays[value[1:]]) if isinstance(value, str) and value.startswith("~") else value
            for name, value in given.items()
        }
        run(class_type, **values)
        for name, array in cases.inputs().items():
            assert np.array_equal(arrays[name], array), case


def test_alpha_of_one_of_two_pictures_is_dropped_or_opaque():
    """Where the editor adds alpha to the wrong one and fails."""
    clear, plain = torch.rand(1, 2, 2, 4), torch.rand(1, 2, 2, 3)
    (mixed,) = run("ImageBlend", image1=clear, image2=plain, blend_factor=1.0, blend_mode="normal")
    assert torch.equal(mixed[..., :3], plain) and mixed[..., 3].eq(1).all()
