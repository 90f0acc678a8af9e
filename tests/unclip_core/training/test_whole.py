"""A folder in, a stack out: every stage trained, put where it loads, taken up again, and never mixed with another."""

import dataclasses
import shutil

import pytest
import torch
from PIL import Image, ImageDraw

from comfyui_unclip.tests.stage_file import load_stage
from comfyui_unclip.unclip_core.checkpoints.catalog import find, read_stack
from comfyui_unclip.unclip_core.checkpoints.native import save_stage
from comfyui_unclip.unclip_core.clip.pca import basis_of
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.training import clips, whole
from comfyui_unclip.unclip_core.training import plan as plans
from comfyui_unclip.unclip_core.training.loop import LoopOptions
from comfyui_unclip.unclip_core.training.plan import make_plan
from comfyui_unclip.unclip_core.training.start import RunOptions
from comfyui_unclip.unclip_core.training.whole import CASCADE, take, train_all

COLOURS = ("green", "black", "orange")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """110 captioned pictures of rings and bars, which no storybook has; one without a caption, two broken."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(110):
        colour, ring = COLOURS[i % 3], i % 2
        image = Image.new("RGB", (260 + i % 7, 256), "white")
        pen = ImageDraw.Draw(image)
        box = (40 + i, 60, 110 + i, 130)
        (pen.ellipse if ring else pen.rectangle)(box, outline=colour, width=14)
        image.save(folder / f"{i:03}.png")
        if i != 7:
            (folder / f"{i:03}.txt").write_text(f"a {colour} {'ring' if ring else 'bar'}")
    (folder / "x.jpg").write_bytes(b"broken")
    (folder / "y.png").write_bytes(b"")
    return folder


@pytest.fixture
def room(tmp_path, tiny_configs, tiny_models, photos, monkeypatch):
    """Trains a stack at toy size into `models/mine`, and returns the events."""
    monkeypatch.setitem(plans.TRAINABLE, "tiny", tiny_configs)
    monkeypatch.setitem(plans.RECIPES, "tiny", plans.RECIPES["storybook"])
    monkeypatch.setenv("UNCLIP_MODELS", f"{tmp_path / 'models'}:{tiny_models}")

    def train(stages=CASCADE, data=photos, kill=None, name="mine", stop=lambda: False, clip=None, **changes):
        plan = make_plan("tiny", name=name, stages=stages, changes={"steps": 2, "batch": 4, "warmup": 1, **changes})
        loop = LoopOptions(dtype="fp32", log_every=1, save_every=1)
        runs = tmp_path / "runs" / name
        options = RunOptions("all", runs, str(data), tmp_path / "data", clip=clip, loop=loop, stop=stop)
        seen = []
        events = train_all(options, plan, name, tmp_path / "models" / name, stages)
        for event in events:
            seen.append((event.stage, event.what))
            if seen[-1] == kill:
                events.close()
        return seen

    train.folder = tmp_path
    return train


def test_a_folder_becomes_a_stack_that_loads_and_paints(room):
    seen = room()
    done = [event for event in dict.fromkeys(seen) if event[1] != "trained"]
    assert done == [
        ("clip", "installed"),
        ("prior", "installed"),
        ("decoder", "installed"),
        ("upsampler_256", "installed"),
        ("upsampler_1024", "left out"),  # the pictures are smaller
        ("pca", "installed"),
    ]
    entry = find("mine")
    assert list(entry.stages) == ["clip", "prior", "decoder", "upsampler_256"] and not entry.problems
    clip = entry.stages["clip"].config
    assert clip.clip_id == "mine/clip"
    assert set(clip.vocabulary) == {"a", "ring", "bar", *COLOURS} and clip.vocabulary[0] == "a"
    assert entry.stages["prior"].config.clip_id == entry.stages["decoder"].config.clip_id == "mine/clip"
    assert (entry.stages["prior"].config.prior_id, entry.stages["decoder"].config.decoder_id) == (
        "mine/prior",
        "mine/decoder",
    )
    stack = load_stack(entry, "fp32")
    assert stack.text_to_image("a green ring").shape == (1, 256, 256, 3)
    assert basis_of(stack.clip).dim == 24
    # Again, nothing is left to do.
    assert {what for _, what in room()} == {"there", "left out"}


def test_a_stack_of_ones_own_is_not_mixed_with_another(room):
    room(stages=("clip", "prior", "decoder"))
    mine, tiny = load_stack(find("mine"), "fp32"), load_stack(find("tiny"), "fp32")
    with pytest.raises(ValueError, match=r"mine/clip.*tiny-1|tiny-1.*mine/clip"):
        tiny.decoder.sample(mine.prior.sample(mine.clip.encode_text("a ring"), seed=0), seed=0)
    shutil.copy(find("tiny").folder / "prior.safetensors", room.folder / "models" / "mine" / "prior.safetensors")
    with pytest.raises(ValueError, match=r"its prior .* speaks tiny-1, its CLIP is mine/clip; remove one"):
        room(stages=("clip", "prior", "decoder"))


def test_it_goes_on_where_it_was_killed_and_ends_up_the_same(room, tmp_path):
    stages = ("clip", "prior", "decoder")
    room(stages=stages, kill=("prior", "trained"))
    assert not (tmp_path / "models" / "mine" / "prior.safetensors").exists()
    seen = room(stages=stages)
    assert ("clip", "there") in seen and ("clip", "trained") not in seen
    killed = {stage: load_stage(tmp_path / "models" / "mine" / f"{stage}.safetensors")[2] for stage in stages}
    shutil.rmtree(tmp_path / "models")
    shutil.rmtree(tmp_path / "runs")
    room(stages=stages)
    for stage in stages:
        again = load_stage(tmp_path / "models" / "mine" / f"{stage}.safetensors")[2]
        assert all(torch.equal(value, again[name]) for name, value in killed[stage].items())


def test_more_steps_go_on_with_what_is_there(room):
    room(stages=("clip", "upsampler_256"))
    seen = room(stages=("clip", "upsampler_256"), steps=4)
    assert seen.count(("clip", "trained")) == seen.count(("upsampler_256", "trained")) == 2


def test_a_stage_that_lies_there_is_used_as_it_is(room, tmp_path, tiny_models):
    target = tmp_path / "models" / "mine"
    assert take("tiny", "upsampler_1024", target, ()) == target / "upsampler_1024.safetensors"
    seen = room(stages=(*CASCADE[:1], "upsampler_1024"))
    assert ("upsampler_1024", "there") in seen
    assert (target / "upsampler_1024.safetensors").read_bytes() == (
        tiny_models / "tiny" / "upsampler_1024.safetensors"
    ).read_bytes()
    take("tiny", "upsampler_1024", target, ())  # again: it is there
    with pytest.raises(ValueError, match=r"--take tiny:clip: .*clip.safetensors is another one; remove it first"):
        take("tiny", "clip", target, ())
    with pytest.raises(ValueError, match="--take tiny:judge: tiny has no judge"):
        take("tiny", "judge", target, ())


@pytest.mark.parametrize("large", [False, True])
def test_a_clip_is_installed_whole(room, tmp_path, tiny_models, monkeypatch, large):
    """The towers of a large one are two networks."""
    if large:
        monkeypatch.setattr(clips, "LARGE_CLIP", 1)
    assert ("clip", "installed") in room(stages=("prior",), clip="tiny")
    there, own = (
        load_stage(folder / "clip.safetensors") for folder in (tiny_models / "tiny", tmp_path / "models/mine")
    )
    assert own[1] == there[1] and own[2].keys() == there[2].keys()
    assert all(torch.equal(value, there[2][name]) for name, value in own[2].items())


def test_priors_train_on_a_frozen_clip_and_embeddings_alone(room, tmp_path, tiny_models):
    import json

    import numpy as np

    pairs = tmp_path / "pairs"
    pairs.mkdir()
    vectors = np.random.default_rng(0).normal(size=(120, 24)).astype(np.float32)
    np.save(pairs / "img_emb_0.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    lines = [json.dumps({"caption": "a red star" if i % 2 else "a blue boat"}) for i in range(120)]
    (pairs / "metadata_0.jsonl").write_text("\n".join(lines))
    take("tiny", "clip", tmp_path / "models" / "mine", ())
    seen = room(stages=("clip", "prior", "decoder"), data=pairs)
    assert ("clip", "there") in seen and ("prior", "installed") in seen and ("decoder", "left out") in seen
    config = read_stack(tmp_path / "models" / "mine").stages["prior"].config
    assert (config.clip_id, config.prior_id) == ("tiny-1", "mine/prior")


def test_what_cannot_be_trained_is_said_before_any_work(room, tmp_path, tiny_configs, monkeypatch):
    monkeypatch.setattr(whole, "open_source", None)
    pair = dataclasses.replace(tiny_configs.upsampler_256, final_network=True)
    monkeypatch.setitem(plans.TRAINABLE, "tiny", dataclasses.replace(tiny_configs, upsampler_256=pair))
    with pytest.raises(ValueError, match="the last step of this upsampler is a second network's"):
        room()
    target = tmp_path / "models" / "mine"
    config = tiny_configs.prior
    save_stage(target / "prior.safetensors", {}, "prior", config)
    (target / "clip.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"--name mine: .*clip.safetensors"):
        room(stages=("clip", "prior"))
