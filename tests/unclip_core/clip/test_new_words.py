"""New words: found whole, embedded by their own rows, and nothing else of the CLIP changes."""

import dataclasses
import json

import pytest
import torch

from comfyui_unclip.unclip_core.clip import byte_pairs
from comfyui_unclip.unclip_core.clip.model import Clip
from comfyui_unclip.unclip_core.clip.networks import build_network, text_states
from comfyui_unclip.unclip_core.clip.words import UNKNOWN
from comfyui_unclip.unclip_core.config import ClipConfig, ClipTextConfig, ClipVisionConfig
from comfyui_unclip.unclip_core.presets import STORYBOOK

WORDS = ("a", "red", "star", "on", "the", "sea")


def by_words():
    config = dataclasses.replace(
        STORYBOOK.clip,
        clip_id="tiny",
        embed_dim=24,
        text_width=16,
        context_length=8,
        vision=ClipVisionConfig(width=32, layers=1, head_width=16, patch_size=16, image_size=64),
        text=ClipTextConfig(width=16, layers=2, heads=2),
        vocabulary=WORDS,
    )
    torch.manual_seed(0)
    return Clip(config, build_network(config).state_dict())


def by_byte_pairs():
    config = ClipConfig(
        clip_id="tiny-pairs",
        embed_dim=24,
        text_width=16,
        context_length=12,
        architecture=None,
        pretrained=None,
        vision=ClipVisionConfig(width=32, layers=1, head_width=16, patch_size=16, image_size=64),
        text=ClipTextConfig(width=16, layers=2, heads=2),
        padding=49407,
    )
    torch.manual_seed(0)
    return Clip(config, build_network(config).state_dict())


@pytest.fixture(params=[by_words, by_byte_pairs], scope="module")
def clip(request):
    return request.param()


def row_of(clip, word):
    """The CLIP's own row of a known word, and its id."""
    ids, _ = clip.tokenize([word])
    return clip.network.token_embedding.weight[ids[0, 1]].detach().clone(), ids[0, 1].item()


def same(one, two):
    return torch.equal(one.tokens[one.mask], two.tokens[two.mask]) and torch.equal(one.embed, two.embed)


def test_a_new_word_with_a_known_words_row_means_the_known_word(clip):
    row, _ = row_of(clip, "star")
    knows = clip.with_words({"sks_cup": row})
    for caption in ("a red {}", "{}", "A {} on the sea", "a {}, a {}"):
        said, known = (
            knows.encode_text(caption.format("SKS_cup", "sks_cup")),
            clip.encode_text(caption.format("star", "star")),
        )
        assert same(said, known) and torch.equal(said.mask, known.mask)
        assert not torch.equal(said.ids, known.ids)
    other = clip.with_words({"sks_cup": row + 1})
    assert not same(other.encode_text("a sks_cup"), clip.encode_text("a star"))


def test_everything_else_is_as_before(clip):
    captions = ["a red star", "", "the sea on the sea on the sea on the sea on the sea", "sks_cups on xsks_cup"]
    before, table = clip.encode_text(captions), clip.network.token_embedding.weight.clone()
    knows = clip.with_words({"sks_cup": torch.randn(16), "zzz": torch.randn(16)})
    knows.encode_text("a sks_cup on zzz")
    for found in (knows.encode_text(captions), clip.encode_text(captions)):
        assert same(found, before) and torch.equal(found.ids, before.ids) and torch.equal(found.mask, before.mask)
    assert knows.network is clip.network and torch.equal(knows.network.token_embedding.weight, table)
    assert not knows.network.token_embedding._forward_hooks
    # The one that has no new words spells them out.
    assert not same(clip.encode_text("a sks_cup"), knows.encode_text("a sks_cup"))


def test_several_words_and_too_long_captions(clip):
    star, sea = row_of(clip, "star")[0], row_of(clip, "sea")[0]
    knows = clip.with_words({"one": star}).with_words({"one_two": sea})
    assert same(knows.encode_text("a one on the one_two"), clip.encode_text("a star on the sea"))
    long = " ".join(["sks"] * 40)
    found = clip.with_words({"sks": star}).encode_text(long)
    assert same(found, clip.encode_text(" ".join(["star"] * 40))) and found.mask.all()


def test_gradients_reach_the_row(clip):
    row = row_of(clip, "star")[0].requires_grad_()
    _, embed = text_states(
        clip.network,
        torch.zeros(1, clip.config.context_length, dtype=torch.long),
        (torch.zeros(1, 1).long(), row[None]),
    )
    embed.sum().backward()
    assert row.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in clip.network.parameters())


def test_a_small_vocabulary_tells_new_words_from_unknown_ones():
    clip = by_words().with_words({"sks_cup": torch.zeros(16)})
    assert clip.unknown_words("a sks_cup on a boat") == ["boat"]
    assert clip.truncated("a red sks_cup on the sea on the sea") == "on the sea"
    assert clip.tokenize(["a sks_cup"])[0][0, 2] == UNKNOWN  # what a decoder's own text encoder reads


@pytest.mark.parametrize("word", ["", "two words", "Cup", "sks.", "-x", "蜗牛"])
def test_what_is_no_word_is_refused(clip, word):
    with pytest.raises(ValueError, match="must be one lower-case word, such as sks_cup"):
        clip.with_words({word: torch.zeros(16)})


def test_known_words_and_other_widths_are_refused(clip):
    with pytest.raises(
        ValueError, match=r"word 'cup' has shape \(3,\), but tiny.* reads \(16,\); it was trained for an"
    ):
        clip.with_words({"cup": torch.zeros(3)})
    if clip.config.vocabulary:
        with pytest.raises(
            ValueError, match="'star' is in the vocabulary of tiny already; choose another, as sks_star"
        ):
            clip.with_words({"star": torch.zeros(16)})


def test_other_tokenizers_say_that_they_take_no_new_words(monkeypatch):
    clip = by_byte_pairs().with_words({"cup": torch.zeros(16)})
    monkeypatch.setattr(byte_pairs, "tokenizer", lambda architecture: json)  # without encode, start and end
    with pytest.raises(ValueError, match="tiny-pairs: its tokenizer takes no new words; leave out 'cup'"):
        clip.encode_text("a cup")
