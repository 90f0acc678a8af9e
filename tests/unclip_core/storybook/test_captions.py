"""Captions: what they state is true, their words are known, and they vary."""

import dataclasses
import random

import pytest

from comfyui_unclip.unclip_core.clip.words import WordTokenizer
from comfyui_unclip.unclip_core.storybook import scenes
from comfyui_unclip.unclip_core.storybook.captions import caption, knows, matches, vocabulary
from comfyui_unclip.unclip_core.storybook.scenes import Scene, Thing
from comfyui_unclip.unclip_core.storybook.shards import make_scenes


@pytest.fixture(scope="module")
def some_scenes():
    return make_scenes(1000, 11, "any")


def other(name, names):
    return names[(names.index(name) + 1) % len(names)]


def test_a_caption_is_true_of_its_own_scene(some_scenes):
    rng = random.Random(0)
    for scene in some_scenes:
        for full in (False, True):
            text, stated = caption(scene, rng, full=full)
            assert text and matches(stated, scene), (text, scene)
            if full:
                assert stated["background"] == scene.background and stated["word"] == scene.word
                assert [(said["kind"], said["colour"]) for said in stated["things"]] == [
                    (thing.kind, thing.colour) for thing in scene.things
                ]


def test_a_caption_is_false_once_something_it_states_differs(some_scenes):
    rng = random.Random(1)
    for scene in some_scenes[:400]:
        _, stated = caption(scene, rng, full=True)
        for index, thing in enumerate(scene.things):
            for changed in (
                dataclasses.replace(thing, kind=other(thing.kind, scenes.OBJECTS)),
                dataclasses.replace(thing, colour=other(thing.colour, scenes.COLOURS)),
            ):
                things = tuple(changed if place == index else old for place, old in enumerate(scene.things))
                assert not matches(stated, dataclasses.replace(scene, things=things))
        assert not matches(stated, dataclasses.replace(scene, background=other(scene.background, scenes.BACKGROUNDS)))
        assert not matches(stated, dataclasses.replace(scene, things=scene.things * 2))
        if scene.word:
            assert not matches(stated, dataclasses.replace(scene, word=other(scene.word, scenes.WORDS)))


def test_what_is_not_stated_may_be_anything():
    scene = Scene((Thing("star", "red", "small", 0.5, 0.5, 0.3),), "sea", "left")
    stated = {
        "things": [{"kind": "star", "colour": None, "size": None}],
        **dict.fromkeys(("background", "relation", "position", "word")),
    }
    thing = dataclasses.replace(scene.things[0], colour="blue", size="big")
    assert matches(stated, Scene((thing,), "snow", "right", word="hello"))
    assert not matches({**stated, "position": "left"}, Scene((thing,), "snow", "right"))
    sized = {**stated, "things": [{"kind": "star", "colour": None, "size": "small"}]}
    assert matches(sized, scene) and not matches(sized, Scene((thing,), "sea", "left"))


def test_a_relation_said_the_other_way_round_is_the_same():
    star, boat = (Thing(kind, colour, "medium", 0.5, 0.5, 0.4) for kind, colour in (("star", "red"), ("boat", "blue")))
    _, stated = caption(Scene((star, boat), "sea", relation="above"), random.Random(0), "en", full=True)
    assert matches(stated, Scene((boat, star), "sea", relation="below"))
    assert not matches(stated, Scene((boat, star), "sea", relation="above"))
    assert not matches(stated, Scene((star, boat), "sea", relation="below"))
    assert not matches(stated, Scene((star, boat), "sea", relation="left of"))
    assert matches({**stated, "relation": None}, Scene((boat, star), "sea", relation="left of"))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_word_of_ten_thousand_captions_is_in_the_vocabulary_and_fits(language, some_scenes):
    tokenizer = WordTokenizer(vocabulary(), 32)
    rng = random.Random(2)
    for scene in some_scenes * 10:
        text, _ = caption(scene, rng, language)
        assert tokenizer.unknown(text) == [], text
        assert tokenizer.dropped(text) == "", text


def test_the_vocabulary_is_small_and_covers_what_people_are_told():
    words = vocabulary()
    assert len(words) <= 1996 and len(set(words)) == len(words)  # with the special ids at most 2,000
    assert words == vocabulary() and words[0] == '"'
    tokenizer = WordTokenizer(words, 32)
    for name in (*scenes.OBJECTS, *scenes.COLOURS, *scenes.BACKGROUNDS, *scenes.WORDS):
        assert tokenizer.unknown(name) == []
    for name in (*scenes.OBJECTS, *scenes.COLOURS, *scenes.BACKGROUNDS):
        assert name in knows()
    assert tokenizer.unknown("an astronaut riding a horse") == ["astronaut", "riding", "horse"]


def test_captions_vary_and_speak_both_languages(some_scenes):
    rng = random.Random(3)
    texts = [caption(some_scenes[0], rng)[0] for _ in range(300)]
    assert len(set(texts)) > 60
    chinese = sum(any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in texts)
    assert 80 < chinese < 160  # two in five
    assert caption(some_scenes[0], random.Random(5)) == caption(some_scenes[0], random.Random(5))


def test_words_and_articles_are_written_as_people_do():
    apple = Scene((Thing("apple", "orange", "medium", 0.5, 0.5, 0.5),), "sea", word="ipod")
    rng = random.Random(4)
    texts = [caption(apple, rng, "en", full=True)[0] for _ in range(100)]
    assert all("an orange apple" in text and '"ipod"' in text for text in texts)
    assert all("“ipod”" in caption(apple, rng, "zh", full=True)[0] for _ in range(50))


def test_either_of_two_things_may_be_left_open_but_not_in_full_captions():
    rng = random.Random(0)
    opened = 0
    for scene in make_scenes(300, 12, "any", "two"):
        for language, word in (("en", "something"), ("zh", "东西")):
            text, stated = caption(scene, rng, language)
            kinds = [said["kind"] for said in stated["things"]]
            assert text.count(word) == kinds.count(None) and matches(stated, scene)
            opened += None in kinds
            assert word not in caption(scene, rng, language, full=True)[0]
    assert 0.3 < opened / 600 < 0.42  # 1 - 0.8^2
    for scene in make_scenes(50, 12, "any", "one"):
        assert "something" not in caption(scene, rng, "en")[0]
