"""The small tokenizer: English by words, Chinese by characters, quotes, and what happens to everything else."""

import pytest

from comfyui_unclip.unclip_core.clip.words import (
    PAD,
    START,
    UNKNOWN,
    WordTokenizer,
)

WORDS = ("a", "red", "star", "says", '"', "hello", "星", "红", "色")


@pytest.fixture
def tokenizer():
    return WordTokenizer(WORDS, 8)


def words_of(tokenizer, ids):
    names = {index: word for word, index in tokenizer.ids.items()}
    return [names.get(i, i) for i in ids]


def test_english_is_read_by_words_and_chinese_by_characters(tokenizer):
    end = tokenizer.end
    assert words_of(tokenizer, tokenizer.encode("A RED, star!")) == [START, "a", "red", "star", end, PAD, PAD, PAD]
    assert words_of(tokenizer, tokenizer.encode("红色 star星")) == [START, "红", "色", "star", "星", end, PAD, PAD]
    assert words_of(tokenizer, tokenizer.encode("")) == [START, end, *[PAD] * 6]


@pytest.mark.parametrize("quoted", ['"hello"', "“hello”", "„hello“", "「hello」", "«hello»"])
def test_all_double_quotes_are_one_word(tokenizer, quoted):
    assert tokenizer.pieces(f"a star says {quoted}") == ["a", "star", "says", '"', "hello", '"']
    assert tokenizer.unknown(quoted) == []


def test_the_end_has_the_largest_id_and_every_id_is_a_row_of_the_embedding(tokenizer):
    ids = tokenizer.encode("a red star says “hello” 星")
    assert max(ids) == tokenizer.end == tokenizer.size - 1 == len(WORDS) + 3
    assert len(set(tokenizer.ids.values()) | {PAD, START, UNKNOWN, tokenizer.end}) == tokenizer.size


def test_unknown_words_keep_their_place_and_are_named_once(tokenizer):
    assert tokenizer.encode("a purple star")[:5] == [
        START,
        tokenizer.ids["a"],
        UNKNOWN,
        tokenizer.ids["star"],
        tokenizer.end,
    ]
    assert tokenizer.unknown("An astronaut's star, an astronaut's 2 月") == ["an", "astronaut's", "2", "月"]


def test_what_does_not_fit_is_dropped_and_named(tokenizer):
    long = "a red star says hello a red star"  # 8 words; 6 fit between start and end
    assert tokenizer.dropped(long) == "red star"
    ids = tokenizer.encode(long)
    assert len(ids) == 8 and ids[-1] == tokenizer.end and ids[-2] == tokenizer.ids["a"]
    assert tokenizer.dropped("a red star says hello a") == ""
    assert tokenizer.dropped("红色星红色星红色") == "红色"


def test_a_word_given_twice_is_refused():
    with pytest.raises(ValueError, match="a word appears twice"):
        WordTokenizer(("a", "b", "a"), 8)


def test_words_that_no_caption_can_hold_are_refused():
    for word in ("Star", "red star", "“", ""):
        with pytest.raises(ValueError, match="is no lower-case word without spaces"):
            WordTokenizer(("a", word), 8)


def test_letters_with_accents_and_kana_are_read_however_they_are_written():
    tokenizer = WordTokenizer(("café", "ね", "こ"), 8)
    assert tokenizer.unknown("Cafe\u0301 CAFÉ ねこ") == []


def test_a_word_that_captions_would_be_cut_through_is_found_whole():
    tokenizer = WordTokenizer((*WORDS, "sks_cup", "zwx7"), 16)
    caption = "a red sks_cup says “zwx7”, my sks_cups"
    assert tokenizer.pieces(caption) == ["a", "red", "sks_cup", "says", '"', "zwx7", '"', "my", "sks", "cups"]
    assert WordTokenizer(WORDS, 8).pieces("sks_cup") == ["sks", "cup"]
