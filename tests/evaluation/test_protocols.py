"""How captions become tokens, and which are refused."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rscc_hf.evaluation.protocols import (
    MAX_CHARACTERS,
    MAX_WORDS,
    apply_protocol,
    prepare,
    words_to_ids,
)


def test_words_are_lower_case_without_full_stops_and_with_single_spaces() -> None:
    predictions, references = prepare(["  A house\tis built.\n"], [["Houses  appear ."]])
    assert (predictions, references) == (["a house is built"], [["houses appear"]])
    assert apply_protocol(predictions, references, "words") == (predictions, references)


def test_ids_keep_which_words_are_equal_and_nothing_else() -> None:
    predictions, references = apply_protocol(["a b zebra", ""], [["b a", "c"], ["c c"]], "rsicc_ids")
    assert references == [["5 4", "6"], ["6 6"]]
    assert predictions == ["4 5 7", ""]  # a word no reference has gets a number of its own


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1).map(" ".join), min_size=1), st.randoms())
def test_ids_do_not_depend_on_the_order_of_the_pairs(captions: list[str], order: random.Random) -> None:
    shuffled = list(captions)
    order.shuffle(shuffled)
    assert words_to_ids(captions, [[c] for c in captions]) == words_to_ids(shuffled, [[c] for c in shuffled])


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "nothing to score"),
        (["a"], [], "1 predictions but references for 0 pairs"),
        (["a"], [[]], "no references for pair number 1"),
        (["a"], ["a house"], "references of pair number 1 are no list"),
        (["a"], [["fine", " . "]], "Reference 2 of pair number 1 has no letter or digit"),
        (["a"], [["|||"]], "Reference 1 of pair number 1 has no letter or digit"),
        ([None], [["a"]], "prediction of pair number 1 is NoneType"),
        (["a", "b"], [["a"], ["b", 3]], "reference 2 of pair number 2 is int"),
        (["a " * (MAX_WORDS + 1)], [["a"]], "prediction of pair number 1 has 513 words"),
        (["a"], [["a " * (MAX_WORDS + 1)]], "reference 1 of pair number 1 has 513 words"),
        (["a" * (MAX_CHARACTERS + 1)], [["a"]], "10,001 characters"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_sentence(predictions: list, references: list, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        prepare(predictions, references)
    assert "\n" not in str(caught.value)


def test_a_refusal_names_the_pair() -> None:
    with pytest.raises(ValueError, match="'test_000007'"):
        prepare(["a"], [[]], ["test_000007"])


def test_the_longest_caption_is_accepted() -> None:
    assert prepare(["a " * MAX_WORDS], [["a"]])[0][0].count("a") == MAX_WORDS


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="words, rsicc_ids"):
        apply_protocol(["a"], [["a"]], "ptb")
