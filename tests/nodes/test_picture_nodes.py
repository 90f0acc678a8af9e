"""Nodes around pictures: grid, animation, examples, zero-shot classification. The last two on the embedded stack."""

import json

import pytest
import torch
from PIL import Image

from comfyui_unclip.nodes import NODE_CLASS_MAPPINGS
from comfyui_unclip.nodes.builtin import BUILTIN_CLASS_MAPPINGS
from comfyui_unclip.nodes.host import LocalHost, use_host
from comfyui_unclip.unclip_core.storybook.examples import EXAMPLES
from comfyui_unclip.unclip_core.storybook.scenes import held_out
from comfyui_unclip.workflows.document.reading import load_workflow
from comfyui_unclip.workflows.document.schema import node_schema


@pytest.fixture
def node(tmp_path):
    """node(class, **inputs): widgets at their defaults, files under tmp_path."""

    def call(kind, /, **inputs):
        cls = NODE_CLASS_MAPPINGS[kind]
        given = {n: spec.default for n, spec in node_schema(cls).inputs.items() if spec.is_widget}
        with use_host(LocalHost(output=tmp_path / "out", input=tmp_path / "in", quiet=True)), torch.inference_mode():
            return getattr(cls(), cls.FUNCTION)(**(given | inputs))

    return call


@pytest.fixture(scope="module")
def clip():
    return NODE_CLASS_MAPPINGS["UnCLIPLoader"]().load(model_name="storybook", dtype="fp32")[0]


def flat(*greys, size=8):
    return torch.stack([torch.full((size, size, 3), grey) for grey in greys])


def test_one_batch_is_broken_into_rows_and_cells_keep_their_order(node):
    (grid,) = node("UnCLIPImageGrid", image=flat(0.0, 0.2, 0.4, 0.6, 0.8), columns=3, gap=2)
    assert grid.shape == (1, 2 * 8 + 2, 3 * 8 + 4, 3)
    centres = [float(grid[0, y, x, 0]) for y in (4, 14) for x in (4, 14, 24)]
    assert centres == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0], abs=1 / 255)
    assert float(grid[0, 4, 8, 0]) == 1.0  # the gap
    assert node("UnCLIPImageGrid", image=flat(0, 1, 0, 1, 0), gap=0)[0].shape == (1, 16, 24, 3)  # 0: nearly square


def test_several_batches_are_rows_enlarged_to_the_largest(node):
    (grid,) = node("UnCLIPImageGrid", image=flat(0.0, 0.5), image_3=flat(1.0, size=16), gap=0)
    assert grid.shape == (1, 32, 32, 3)
    assert [float(grid[0, 8, 24, 0]), float(grid[0, 24, 8, 0])] == pytest.approx([0.5, 1.0], abs=1 / 255)
    (small,) = node("UnCLIPImageGrid", image=flat(0.0), image_2=flat(1.0, size=16), gap=0, cell_height=4)
    assert small.shape == (1, 8, 4, 3)


def test_labels_are_drawn_beside_the_cells_and_not_on_them(node):
    pictures = {"image": flat(0.5, 0.5, size=32), "image_2": flat(0.5, 0.5, size=32)}
    (plain,) = node("UnCLIPImageGrid", **pictures)
    (grid,) = node("UnCLIPImageGrid", **pictures, row_labels="plain\nmuch longer", column_labels="a\nb")
    height, width = plain.shape[1:3]
    torch.testing.assert_close(grid[:, -height:, -width:], plain)
    assert grid[:, -height:, :-width].min() < 0.4 and grid[:, :-height, -width:].min() < 0.4  # ink
    with pytest.raises(ValueError, match="Image Grid: 3 column labels for 2 columns; remove 1"):
        node("UnCLIPImageGrid", **pictures, column_labels="a\nb\nc")
    with pytest.raises(ValueError, match="too large; keep below 16384"):
        node("UnCLIPImageGrid", image=flat(0.5).expand(100, 8, 8, 3), columns=100, cell_height=256)


def test_alpha_lies_on_white_in_a_grid(node):
    (grid,) = node("UnCLIPImageGrid", image=torch.zeros(1, 8, 8, 4), gap=0)
    assert grid.shape == (1, 8, 8, 3) and float(grid.min()) == 1.0


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_an_animation_loops_over_its_frames(node, tmp_path, kind):
    frames = flat(0.0, 0.5, 1.0, size=16)
    options = {"images": frames, "filename_prefix": "film/run", "format": kind, "fps": 4.0}
    shown = node("UnCLIPSaveAnimation", **options)["ui"]
    assert shown == {
        "images": [{"filename": f"run_00001_.{kind}", "subfolder": "film", "type": "output"}],
        "animated": [True],
        "frames": [3],  # those that go forwards
    }
    with Image.open(tmp_path / "out" / "film" / f"run_00001_.{kind}") as film:
        assert (film.n_frames, film.info["loop"], film.size) == (4, 0, (16, 16))
        greys = []
        for number in range(4):
            film.seek(number)
            greys.append(film.convert("L").getpixel((8, 8)))
            assert film.info["duration"] == 250
        assert greys == pytest.approx([0, 128, 255, 128], abs=6)
    node("UnCLIPSaveAnimation", **(options | {"back_and_forth": False}))
    with Image.open(tmp_path / "out" / "film" / f"run_00002_.{kind}") as film:
        assert film.n_frames == 3
    assert not list((tmp_path / "out").rglob("*.part"))


def test_a_webp_carries_its_graph_as_the_editors_own_does(node, tmp_path):
    """Tag 0x0110 and those from 0x010f down of the EXIF block, each `name:JSON`. In a GIF the editor looks for none."""
    prompt, workflow = {"1": {"class_type": "X", "inputs": {"text": "夜空"}}}, {"nodes": [], "more": 'a:"b"'}
    hidden = {"prompt": prompt, "extra_pnginfo": {"workflow": workflow, "other": 1}}
    for kind in ("webp", "gif"):
        node("UnCLIPSaveAnimation", images=flat(0.0, 1.0), filename_prefix="x", format=kind, **hidden)
    with Image.open(tmp_path / "out" / "x_00001_.webp") as film:
        tags = {number: text.partition(":") for number, text in film.getexif().items()}
        assert {number: name for number, (name, _, _) in tags.items()} == {
            0x0110: "prompt",
            0x010F: "workflow",
            0x010E: "other",
        }
        assert [json.loads(tags[number][2]) for number in (0x0110, 0x010F, 0x010E)] == [prompt, workflow, 1]
        assert film.n_frames == 2
    assert load_workflow(tmp_path / "out" / "x_00001_.webp").data == workflow
    with Image.open(tmp_path / "out" / "x_00002_.gif") as film:
        assert film.n_frames == 2


def test_a_host_that_keeps_no_graphs_is_heeded(tmp_path):
    class Host(LocalHost):
        def keeps_graphs(self):
            return False

    hidden = {"prompt": {"1": {}}, "extra_pnginfo": {"workflow": {"nodes": []}}}
    film = {"fps": 4.0, "format": "webp", "back_and_forth": False}
    with use_host(Host(output=tmp_path)):
        NODE_CLASS_MAPPINGS["UnCLIPSaveAnimation"]().save(images=flat(0.0, 1.0), filename_prefix="x", **film, **hidden)
        BUILTIN_CLASS_MAPPINGS["SaveImage"]().save_images(images=flat(0.0), filename_prefix="x", **hidden)
    assert b"nodes" not in (tmp_path / "x_00001_.webp").read_bytes() + (tmp_path / "x_00002_.png").read_bytes()


def test_an_animation_does_not_leave_the_output_folder(tmp_path):
    with use_host(LocalHost(output=tmp_path)):
        assert "leads out of the folder" in NODE_CLASS_MAPPINGS["UnCLIPSaveAnimation"].VALIDATE_INPUTS("../film")


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_examples_are_pictures_of_held_out_things_with_their_masks(node, name):
    picture, mask = node("UnCLIPExamplePicture", name=name)
    assert picture.shape == (1, 512, 512, 3) and mask.shape == (1, 512, 512)
    assert set(EXAMPLES[name].triples()) <= held_out()
    assert 0.08 < float(mask.mean()) < 0.6 and float(mask[:, :8].max()) == 0.0
    thing = EXAMPLES[name].things[0]
    assert mask[0, round(thing.y * 512), round(thing.x * 512)] == 1.0


def test_a_file_of_the_input_folder_stands_in_for_an_example(tmp_path):
    """So that `-s picture=FILE` runs a shipped graph on a picture of one's own."""
    example = NODE_CLASS_MAPPINGS["UnCLIPExamplePicture"]
    Image.new("RGB", (24, 16), (255, 0, 51)).save(tmp_path / "mine.png")
    with use_host(LocalHost(input=tmp_path)):
        assert example.VALIDATE_INPUTS("mine.png") is True
        assert "there is no picture" in example.VALIDATE_INPUTS("yours.png")
        assert "leads out of the folder" in example.VALIDATE_INPUTS("../mine.png")
        picture, mask = example().load(name="mine.png")
        before = example.IS_CHANGED("mine.png")
        Image.new("RGB", (24, 16)).save(tmp_path / "mine.png")
        assert example.IS_CHANGED("mine.png") != before
    assert torch.allclose(picture, torch.tensor([1.0, 0.0, 0.2]).expand(1, 16, 24, 3)) and float(mask.max()) == 0.0


def test_zero_shot_recognises_an_example(node, clip):
    picture, _ = node("UnCLIPExamplePicture", name="red apple in the snow")
    both = torch.cat([picture, node("UnCLIPExamplePicture", name="blue car by the sea")[0]])
    labels = "a blue car in the sea\n\n a red apple in the snow \na yellow house on a night sky"
    answer = node("UnCLIPZeroShot", clip=clip, image=both, labels=labels)
    text, charts = answer["result"]
    first, second = text.splitlines()
    assert first.startswith("a red apple in the snow ") and second.startswith("a blue car in the sea ")
    assert charts.shape[0] == 2 and charts.shape[2] == 512
    assert not torch.equal(charts[0], charts[1])
    rows = torch.tensor(answer["ui"]["probabilities"])
    torch.testing.assert_close(rows.sum(1), torch.ones(2))
    assert rows.argmax(1).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "list of labels is empty; write one label a line"),
        ("a star\na star", "label 'a star' is there twice"),
        ("\n".join(f"{n} stars" for n in range(101)), "101 labels are too many; keep to 100"),
    ],
)
def test_zero_shot_refuses_such_labels(node, clip, labels, message):
    with pytest.raises(ValueError, match=f"Zero-Shot Classify: .*{message}"):
        node("UnCLIPZeroShot", clip=clip, image=torch.rand(1, 64, 64, 3), labels=labels)
