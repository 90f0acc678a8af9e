"""Probes read what is linear in an embedding and nothing else; two-way choices know right from left."""

import torch

from comfyui_unclip.unclip_core.checkpoints.catalog import read_stack
from comfyui_unclip.unclip_core.evaluation import probes
from comfyui_unclip.unclip_core.evaluation.probes import HEADS, fit_probe, pair_classes, two_way
from comfyui_unclip.unclip_core.stack import load_stack
from comfyui_unclip.unclip_core.storybook.scenes import held_out
from comfyui_unclip.unclip_core.storybook.shards import make_scenes
from comfyui_unclip.unclip_core.types import Embedding, TextEncoding


def one_hot(scenes):
    """An ideal embedding: every answer's own direction."""
    classes = torch.tensor([pair_classes(scene) for scene in scenes])
    parts = [torch.nn.functional.one_hot(classes[:, i], count) for i, count in enumerate(HEADS.values())]
    return torch.cat(parts, dim=1).float()


def test_places_are_said_from_the_top_and_the_left():
    for scene in make_scenes(100, 1, "any", "two"):
        kinds = pair_classes(scene)
        first = min(scene.things, key=lambda thing: thing.y if scene.relation in ("above", "below") else thing.x)
        assert probes.OBJECTS[kinds[0]] == first.kind and probes.COLOURS[kinds[1]] == first.colour
        assert kinds[4] == (scene.relation in ("left of", "right of"))


def test_a_probe_reads_held_out_pairs_from_what_says_all_and_not_from_what_mixes_things_up():
    train, test = make_scenes(1500, 1, "train", "two"), make_scenes(200, 1, "heldout", "two")
    turned = torch.linalg.qr(torch.randn(42, 42, generator=torch.Generator().manual_seed(0)))[0]
    full = fit_probe(one_hot(train) @ turned, train).score(one_hot(test) @ turned, test)
    assert full["bound"] > 0.99
    # Which kinds and which colours, but not where: a bag of attributes.
    bags = [
        torch.cat([z[:, :12] + z[:, 20:32], z[:, 12:20] + z[:, 32:40], z[:, 40:]], 1)
        for z in (one_hot(train), one_hot(test))
    ]
    mixed = fit_probe(bags[0], train).score(bags[1], test)
    assert mixed["axis"] > 0.99 and mixed["kind"] < 0.75 and mixed["bound"] < 0.4


class Ideal:
    """A CLIP whose embeddings are the given scenes' own directions, whatever the picture's pixels."""

    def __init__(self, scenes, says):
        self.pictures, self.says = iter([one_hot(side) for side in scenes]), iter([one_hot(side) for side in says])

    def encode_image(self, image):
        return Embedding(next(self.pictures), "ideal", "image")

    def encode_text(self, captions):
        z = next(self.says)
        mask = torch.ones(len(z), 1, dtype=torch.bool)
        return TextEncoding(z[:, None], z, mask, mask.long(), "ideal", tuple(captions))


def test_two_way_choices_are_right_wrong_or_chance():
    scenes, others = probes.exchanged_pairs(40, "colours")
    assert all(set(scene.triples()) <= held_out() for scene in scenes)
    assert two_way(Ideal((scenes, others), (scenes, others)), scenes, others) == 1.0
    assert two_way(Ideal((scenes, others), (others, scenes)), scenes, others) == 0.0
    letters, wrong = probes.exchanged_words(10, spelt=False)
    assert all(a.word != b.word and a.things == b.things for a, b in zip(letters, wrong, strict=True))


def test_a_stack_is_asked_and_told_how_it_did(tiny_models):
    tiny = load_stack(read_stack(tiny_models / "tiny"), "fp32", "cpu")
    found = probes.gates(tiny.clip, tiny.prior, fitted_on=200, asked=20)
    assert set(probes.TARGETS) <= set(found) and all(0.0 <= share <= 1.0 for share in found.values())
    assert found["probe on z_i"] < 0.5  # its weights are random
    lines = probes.table(found, 20).splitlines()
    assert len(lines) == 2 + len(found)
    assert any(line.startswith("| probe on z_i |") and line.endswith("| 85% | missed |") for line in lines)
