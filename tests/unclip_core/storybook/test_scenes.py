"""What scenes contain, and that nothing held out is ever trained on."""

import random
from collections import Counter

import pytest

from comfyui_unclip.unclip_core.storybook import scenes
from comfyui_unclip.unclip_core.storybook.captions import caption, matches
from comfyui_unclip.unclip_core.storybook.scenes import SWAPS, held_out, misspelt, sample_scene, swapped
from comfyui_unclip.unclip_core.storybook.shards import make_scenes, make_swaps, scene_from_json, scene_to_json


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


def places(scene):
    """{place: (kind, colour)}, whichever thing is said first."""
    opposite = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
    names = (scene.relation, opposite[scene.relation])
    return {name: (thing.kind, thing.colour) for name, thing in zip(names, scene.things, strict=True)}


def test_an_exchange_changes_what_it_says_and_nothing_else():
    rng = random.Random(0)
    for scene in make_scenes(200, 2, "any", "two"):
        one, two = scene.things
        done = {what: swapped(scene, what, rng) for what in SWAPS}
        assert [(t.kind, t.colour) for t in done["colours"].things] == [(one.kind, two.colour), (two.kind, one.colour)]
        assert [(t.kind, t.colour) for t in done["objects"].things] == [(two.kind, one.colour), (one.kind, two.colour)]
        assert done["colours"].relation == done["objects"].relation == scene.relation != done["relation"].relation
        assert [(t.kind, t.colour) for t in done["relation"].things] == [(t.kind, t.colour) for t in scene.things]
        for other in done.values():  # drawn where its relation says, on the same background, other details
            first, second = other.things
            assert {"above": first.y < second.y, "below": first.y > second.y, "left of": first.x < second.x,
                    "right of": first.x > second.x}[other.relation]  # fmt: skip
            assert other.background == scene.background and other.seed != scene.seed
        # Any two exchanges together are the third.
        both = swapped(done["colours"], "objects", rng)
        assert places(both) == places(done["relation"])
    with pytest.raises(ValueError, match="swap 'sizes' of 2 thing"):
        swapped(scene, "sizes", rng)
    with pytest.raises(ValueError, match="swap 'colours' of 1 thing"):
        swapped(sample_scene(rng, kind="one"), "colours", rng)


def test_groups_of_exchanges_are_told_apart_by_full_captions_alone():
    rng = random.Random(0)
    groups = make_swaps(3000, 4)
    flat = [scene for group in groups for scene in group]
    assert len(flat) == 3000 and groups == make_swaps(3000, 4)
    assert not held_out() & {triple for scene in flat for triple in scene.triples()}
    kinds = Counter("two" if group[0].relation else "word" if group[0].word else "one" for group in groups)
    assert kinds["one"] == 0.44 * 3000
    assert sum(len(group) for group in groups if group[0].relation) == 0.40 * 3000
    for group in groups:
        if len(group) == 1:
            continue
        for scene in group:
            _, stated = caption(scene, rng, full=True)
            # A caption that says no word is true of every lettered picture of the group as well.
            fits = [matches(stated, other) for other in group]
            assert fits == [other is scene or (scene.relation is None and scene.word is None) for other in group]


def test_a_misspelt_word_is_no_word_and_nearly_one():
    rng = random.Random(0)
    for word in scenes.WORDS:
        for _ in range(50):
            changed = misspelt(word, rng)
            assert changed not in scenes.WORDS and len(changed) == len(word)
            assert sum(a != b for a, b in zip(word, changed, strict=True)) <= 2
