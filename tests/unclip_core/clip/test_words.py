"""The small tokenizer: English by words, Chinese by characters, quotes, and what happens to everything else."""

import pytest

from comfyui_unclip.unclip_core.clip.words import (
    PAD,
    START,
    UNKNOWN,
    WordTokenizer,
    count_words,
    most_frequent,
    with_word,
)
from comfyui_unclip.unclip_core.config import ClipConfig

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


CLIP = ClipConfig(vocabulary=WORDS, reserved_words=2, context_length=8)


def test_a_new_word_takes_a_reserved_slot_and_shifts_no_id():
    before = WordTokenizer.of(CLIP)
    one = with_word(CLIP, "sks_cup")
    two = with_word(one, "zwx7")
    after = WordTokenizer.of(two)
    assert before.size == WordTokenizer.of(one).size == after.size == len(WORDS) + 2 + 4
    assert before.end == after.end and all(after.ids[word] == number for word, number in before.ids.items())
    assert (after.ids["sks_cup"], after.ids["zwx7"]) == (len(WORDS) + 3, len(WORDS) + 4)
    caption = "a red sks_cup says “zwx7”, my sks_cups"
    assert after.pieces(caption) == ["a", "red", "sks_cup", "says", '"', "zwx7", '"', "my", "sks", "cups"]
    assert before.pieces("sks_cup") == ["sks", "cup"]
    assert with_word(two, "star") is two and with_word(two, "zwx7") is two
    with pytest.raises(ValueError, match=r"word 'more': CLIP ViT-L-14/openai has no reserved slot left"):
        with_word(two, "more")
    with pytest.raises(ValueError, match="spells by sub-words"):
        with_word(ClipConfig(), "sks")
    with pytest.raises(ValueError, match="'two words' is no lower-case word without spaces"):
        with_word(CLIP, "two words")


def test_reserved_slots_need_a_vocabulary():
    for wrong in ({"reserved_words": 3}, {"vocabulary": WORDS, "reserved_words": -1}):
        with pytest.raises(ValueError, match=r"ClipConfig.reserved_words -?\d must be 0 or more"):
            ClipConfig(**wrong)


def test_a_vocabulary_is_the_most_frequent_words_in_one_order():
    captions = ["A red star.", "a red boat", "a blue star", "红色 a"]
    counts = count_words(captions)
    assert counts["a"] == 4 and counts["红"] == 1
    words = most_frequent(counts, 5)
    assert words == ("a", "red", "star", "blue", "boat")  # ties by the alphabet
    assert words == most_frequent(count_words(reversed(captions)), 5)
    assert most_frequent(counts, 100)[:5] == words and len(most_frequent(counts, 100)) == 7
