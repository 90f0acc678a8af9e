"""The reader: what it is taught, what its numbers are called."""

import dataclasses
import random

import pytest
import torch

from comfyui_unclip.unclip_core.evaluation import judge as judging
from comfyui_unclip.unclip_core.evaluation.reader import (
    READER_RECIPE,
    READS,
    Reader,
    ReaderTask,
    position_of,
    readings,
    size_of,
    trained_reader,
    truth_of,
)
from comfyui_unclip.unclip_core.storybook.scenes import WORDS, held_out
from comfyui_unclip.unclip_core.storybook.shards import make_scenes
from comfyui_unclip.unclip_core.training.loop import LoopOptions, train

SMALL = dataclasses.replace(READER_RECIPE, steps=20, batch=16, warmup=5, ema=0.9, pictures=64)


@pytest.fixture(scope="module")
def task():
    return ReaderTask(SMALL)


def test_it_is_taught_lettered_and_plain_pictures_of_one_object_and_no_held_out_triple(task):
    assert len(task) == 64 and sum(scene.word is not None for scene in task.scenes) == 32
    for scene in task.scenes:
        assert len(scene.things) == 1 and not held_out() & set(scene.triples())


def test_labels_are_the_scenes(task):
    rows = list(range(0, 64, 4))
    batch = task.batch(rows, random.Random(0), torch.Generator().manual_seed(0))
    assert batch["pictures"].shape == (16, 3, 64, 64)
    for index, row in enumerate(rows):
        scene, truth = task.scenes[row], truth_of(task.scenes[row])
        for name, classes in READS.items():
            assert (*classes, "none")[batch["labels"][name][index]] == truth[name]
        thing = scene.things[0]
        assert batch["place"][index].tolist() == pytest.approx([thing.x, thing.y, thing.width])


def test_a_few_steps_teach_it_something_and_the_file_is_read_again(task, tmp_path, monkeypatch):
    losses = [p.loss for p in train(task, SMALL, tmp_path / "loss", len(task), options=LoopOptions(log_every=1))]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    short = dataclasses.replace(SMALL, steps=2)
    first = trained_reader(tmp_path / "reader", None, short)
    monkeypatch.setattr(judging, "train", None)
    second = trained_reader(tmp_path / "reader", None, short)
    pictures = torch.rand(3, 64, 64, 3)
    assert readings(first, pictures) == readings(second, pictures) and not first.training


def test_readings_name_what_the_heads_say():
    class Fixed(Reader):
        def forward(self, x):
            picks = {"object": [1, 12], "colour": [0, 7], "background": [6, 5], "word": [3, len(WORDS)]}
            found = {name: torch.eye(len(classes) + 1)[picks[name]] for name, classes in READS.items()}
            return found | {"place": torch.tensor([[0.2, 0.5, 0.36], [0.5, 0.5, 0.7]])}

    first, second = readings(Fixed(), torch.rand(2, 64, 64, 3))
    assert (first["word"], first["background"], first["size"], first["position"]) == ("tree", "none", "small", "left")
    assert (second["object"], second["word"], second["size"], second["position"]) == ("none", "none", "big", "middle")


def test_sizes_and_positions_are_those_the_scenes_were_made_with():
    right = 0
    scenes = [scene for scene in make_scenes(200, 3, kind="one") if scene.position != "anywhere"]
    for scene in scenes:
        thing = scene.things[0]
        assert size_of(thing.width) == scene.things[0].size
        right += position_of(thing.x, thing.y, thing.width) == scene.position
    assert right / len(scenes) > 0.97
    assert position_of(0.5, 0.5, 1.2) == "middle", "no room to move: no division by nothing"
