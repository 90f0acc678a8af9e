"""Facts go by place, not by which thing is said first; a caption says only its part of them."""

import random

from comfyui_unclip.unclip_core.storybook.captions import caption
from comfyui_unclip.unclip_core.storybook.facts import FACTS, NONE, UNSAID, facts, said_facts
from comfyui_unclip.unclip_core.storybook.scenes import misspelt, swapped
from comfyui_unclip.unclip_core.storybook.shards import make_scenes


def named(classes):
    return {
        name: None if value == UNSAID else names[value]
        for (name, names), value in zip(FACTS.items(), classes, strict=True)
    }


def test_facts_of_two_things_go_from_the_top_and_the_left():
    for scene in make_scenes(100, 1, "any", "two"):
        found = named(facts(scene))
        column = scene.relation in ("above", "below")
        first, second = sorted(scene.things, key=lambda thing: thing.y if column else thing.x)
        assert (found["kind"], found["colour"]) == (first.kind, first.colour)
        assert (found["other kind"], found["other colour"]) == (second.kind, second.colour)
        assert found["axis"] == ("column" if column else "row") and found["word"] == NONE
        other = named(facts(swapped(scene, "relation", random.Random(0))))
        assert (other["kind"], other["colour"]) == (second.kind, second.colour)


def test_facts_of_one_thing_and_of_words():
    for scene in make_scenes(60, 1, "any", "word"):
        found = named(facts(scene))
        assert found["word"] == scene.word and found["axis"] == "one" and found["other kind"] == NONE
        assert found["background"] == scene.background
    wrong = type(scene)(scene.things, scene.background, scene.position, None, misspelt("boat", random.Random(0)))
    assert named(facts(wrong))["word"] == "another"


def test_a_caption_says_some_of_its_scenes_facts_and_no_other():
    rng = random.Random(0)
    for scene in make_scenes(400, 2, "any"):
        _, stated = caption(scene, rng)
        said, true = named(said_facts(scene, stated)), named(facts(scene))
        assert all(value in (None, true[name]) for name, value in said.items())
        _, stated = caption(scene, rng, full=True)
        said = named(said_facts(scene, stated))
        assert said == {**true, "word": scene.word}
