"""The scores of one set: those of pycocoevalcap, and the laws they must obey."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from rscc_hf.evaluation import SCORE_KEYS, Meteor, corpus_scores, read_predictions
from rscc_hf.evaluation.corpus import CookedSet, bleu_from_sums

WORDS = ["the", "house", "houses", "is", "built", "near", "a", "road", "roads", "forest"]
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=4)), min_size=2, max_size=7)
Pairs = list[tuple[str, list[str]]]


def split(pairs: Pairs) -> tuple[list[str], list[list[str]]]:
    return [prediction for prediction, _ in pairs], [references for _, references in pairs]


@given(PAIRS)
def test_scores_are_those_of_pycocoevalcap(pairs: Pairs) -> None:
    predictions, references = split(pairs)
    gts, res = dict(enumerate(references)), {i: [prediction] for i, prediction in enumerate(predictions)}
    ours = corpus_scores(predictions, references, meteor=False)
    bleu = Bleu(4).compute_score(gts, res, verbose=0)[0]
    assert [ours[f"bleu_{n}"] for n in (1, 2, 3, 4)] == pytest.approx([100 * score for score in bleu])
    assert ours["rouge_l"] == pytest.approx(100 * Rouge().compute_score(gts, res)[0])
    assert ours["cider_d"] == pytest.approx(100 * Cider().compute_score(gts, res)[0])


@given(PAIRS, st.data())
def test_a_part_is_scored_as_a_set_of_its_own(pairs: Pairs, data: st.DataObject) -> None:
    predictions, references = split(pairs)
    part = data.draw(st.lists(st.sampled_from(range(len(pairs))), min_size=1, unique=True))
    scores, segments = CookedSet(predictions, references, None).score(part)
    alone = corpus_scores([predictions[i] for i in part], [references[i] for i in part], meteor=False)
    assert scores == pytest.approx(alone)
    assert 100 * bleu_from_sums(segments.bleu.sum(axis=0)) == pytest.approx([alone[f"bleu_{n}"] for n in (1, 2, 3, 4)])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_pairs_changes_nothing(meteor: Meteor, pairs: Pairs, order: random.Random) -> None:
    shuffled = list(pairs)
    order.shuffle(shuffled)
    assert corpus_scores(*split(shuffled), meteor) == pytest.approx(corpus_scores(*split(pairs), meteor))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(SENTENCES, min_size=1, max_size=4), min_size=1, max_size=6))
def test_perfect_predictions_score_100(meteor: Meteor, references: list[list[str]]) -> None:
    # BLEU-4 counts n-grams of four words: shorter captions have none.
    longer = [[f"{caption} in the upper left part" for caption in captions] for captions in references]
    scores = corpus_scores([captions[-1] for captions in longer], longer, meteor)
    for key in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l"):
        assert scores[key] == pytest.approx(100), key


def test_hand_computed_values() -> None:
    # 4 of 5 words, 2 of 4 pairs and none of 3 triples found, 5 words against 6.
    scores = corpus_scores(["a b x c d"], [["a b c d e f"]], meteor=False)
    brevity = math.exp(1 - 6 / 5)
    assert scores["bleu_1"] == pytest.approx(100 * brevity * 4 / 5)
    assert scores["bleu_2"] == pytest.approx(100 * brevity * math.sqrt(4 / 5 * 2 / 4))
    assert scores["bleu_3"] == pytest.approx(0, abs=1e-2)
    precision, recall = 4 / 5, 4 / 6
    assert scores["rouge_l"] == pytest.approx(100 * (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision))
    assert scores["cider_d"] == 0  # the words of a single pair tell nothing apart
    # Two pairs without a common word: every weight is log 2, and a perfect caption gets 10 for its unigrams and
    # bigrams, 0 for the longer n-grams that it does not have.
    scores = corpus_scores(["a b", "x y"], [["a b"], ["c d"]], meteor=False)
    assert scores["cider_d"] == pytest.approx(100 * (10 * 2 / 4 + 0) / 2)


def test_cider_is_cider_d() -> None:
    # CIDEr-D clips repeated words and punishes length; CIDEr of 2014 would call this caption perfect.
    references = [["road road house"], ["forest"]]
    perfect = corpus_scores(["road road house", "lake"], references, meteor=False)["cider_d"]
    repeated = corpus_scores(["road road house " * 4, "lake"], references, meteor=False)["cider_d"]
    assert repeated < perfect / 2


def test_a_set_is_scored_once_and_not_as_a_mean_of_batches(captions: tuple[list[str], list[list[str]]]) -> None:
    predictions, references = captions
    whole = corpus_scores(predictions, references, meteor=False)["cider_d"]
    halves = [corpus_scores(predictions[i::2], references[i::2], meteor=False)["cider_d"] for i in (0, 1)]
    assert abs(whole - np.mean(halves)) > 1


def test_s_m_is_the_mean_of_four(meteor: Meteor, captions: tuple[list[str], list[list[str]]]) -> None:
    scores = corpus_scores(*captions, meteor)
    assert tuple(scores) == SCORE_KEYS
    assert scores["s_m"] == pytest.approx(
        (scores["bleu_4"] + scores["meteor"] + scores["rouge_l"] + scores["cider_d"]) / 4
    )


def test_without_meteor_there_is_no_s_m(captions: tuple[list[str], list[list[str]]]) -> None:
    assert set(SCORE_KEYS) - set(corpus_scores(*captions, meteor=False)) == {"meteor", "s_m"}


def test_empty_predictions_score_nothing(meteor: Meteor) -> None:
    scores = corpus_scores(["", ""], [["a house is built"], ["a road", "two roads"]], meteor)
    assert max(scores.values()) == pytest.approx(0, abs=1e-6)


def test_ids_differ_from_words_in_meteor_alone(meteor: Meteor, captions: tuple[list[str], list[list[str]]]) -> None:
    words, ids = corpus_scores(*captions, meteor), corpus_scores(*captions, meteor, "rsicc_ids")
    assert {key for key in SCORE_KEYS if words[key] != pytest.approx(ids[key])} == {"meteor", "s_m"}


def test_the_published_row(meteor: Meteor, published_predictions: Path) -> None:
    read = read_predictions(published_predictions)
    scores = corpus_scores(read.predictions, read.references, meteor, pair_ids=read.pair_ids)
    row = [86.651, 78.473, 71.308, 65.482, 41.819, 76.541, 143.279, 81.780]
    assert [scores[key] for key in SCORE_KEYS] == pytest.approx(row, abs=0.002)
