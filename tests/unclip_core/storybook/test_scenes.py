"""What scenes contain, and that nothing held out is ever trained on."""

import random
from collections import Counter

import pytest

from comfyui_unclip.unclip_core.storybook import scenes
from comfyui_unclip.unclip_core.storybook.scenes import held_out, sample_scene
from comfyui_unclip.unclip_core.storybook.shards import make_scenes, scene_from_json, scene_to_json


def test_a_tenth_of_the_triples_is_held_out_evenly():
    held = held_out()
    total = len(scenes.OBJECTS) * len(scenes.COLOURS) * len(scenes.BACKGROUNDS)
    assert (len(held), total) == (60, 576)
    assert set(Counter(kind for kind, _, _ in held).values()) == {5}
    for place, names in enumerate((scenes.OBJECTS, scenes.COLOURS, scenes.BACKGROUNDS)):
        assert {triple[place] for triple in held} == set(names)
    # Every object is still trained in every colour and on every background.
    for kind in scenes.OBJECTS:
        free = [
            (colour, ground)
            for colour in scenes.COLOURS
            for ground in scenes.BACKGROUNDS
            if (kind, colour, ground) not in held
        ]
        assert {colour for colour, _ in free} == set(scenes.COLOURS)
        assert {ground for _, ground in free} == set(scenes.BACKGROUNDS)


@pytest.mark.parametrize("kind", ["one", "two", "word", None])
def test_held_out_triples_are_in_no_training_scene_and_alone_in_held_out_ones(kind):
    held = held_out()
    train = make_scenes(4000, 3, "train", kind)
    assert not held & {triple for scene in train for triple in scene.triples()}
    for scene in make_scenes(60, 3, "heldout", kind):
        assert set(scene.triples()) <= held
    free = {triple for scene in make_scenes(4000, 3, "any", kind) for triple in scene.triples()}
    assert free & held  # the rule above is what keeps them out


def test_kinds_are_what_they_say():
    rng = random.Random(0)
    for _ in range(200):
        one, two, word = (sample_scene(rng, kind=kind) for kind in ("one", "two", "word"))
        assert len(one.things) == 1 and one.word is None and one.relation is None
        assert len(two.things) == 2 and two.relation in scenes.RELATIONS
        first, second = two.things
        assert {
            "above": first.y < second.y,
            "below": first.y > second.y,
            "left of": first.x < second.x,
            "right of": first.x > second.x,
        }[two.relation]
        assert len(word.things) == 1 and word.word in scenes.WORDS
        for thing in (*one.things, *two.things, *word.things):
            assert thing.x - thing.width * 0.45 > 0 and thing.x + thing.width * 0.45 < 1
            assert thing.y - thing.width * 0.45 > 0 and thing.y + thing.width * 0.45 < 1


def test_the_mixture_has_all_kinds_in_its_shares():
    found = Counter(
        "two" if scene.relation else "word" if scene.word else "one" for scene in make_scenes(3000, 5, "train")
    )
    assert abs(found["one"] / 3000 - 0.74) < 0.05  # pairs are turned down more often, for two chances to be held out
    assert abs(found["two"] / 3000 - 0.15) < 0.04
    assert abs(found["word"] / 3000 - 0.11) < 0.03


def test_scenes_depend_on_the_seed_and_survive_json():
    made = make_scenes(50, 1)
    assert made == make_scenes(50, 1) and made != make_scenes(50, 2)
    assert made[:20] == make_scenes(20, 1)
    assert [scene_from_json(scene_to_json(scene)) for scene in made] == made


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split 'test' is unknown; choose train, heldout or any"):
        sample_scene(random.Random(0), "test")
