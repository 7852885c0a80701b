"""The best constant caption and references against each other."""

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rscc_hf.evaluation import SCORE_KEYS, Meteor, best_constant, corpus_scores, leave_one_out
from rscc_hf.evaluation.baselines import CANDIDATES, _ConstantScorer
from rscc_hf.evaluation.corpus import CookedReferences

WORDS = ["the", "house", "houses", "is", "built", "near", "a", "road", "roads", "forest"]
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)
LISTS = st.lists(SENTENCES, min_size=1, max_size=4)
# Some pairs share their references, as the unchanged ones do.
SETS = st.lists(LISTS, min_size=1, max_size=4).flatmap(
    lambda lists: st.lists(st.sampled_from(lists), min_size=2, max_size=9)
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SETS, SENTENCES)
def test_the_quick_scorer_agrees_with_the_full_one(meteor: Meteor, references: list[list[str]], caption: str) -> None:
    quick = _ConstantScorer(CookedReferences(references))
    scores = {
        **quick.bleu_and_cider(caption),
        "rouge_l": quick.rouge_l(caption),
        "meteor": quick.meteor(caption, meteor),
    }
    full = corpus_scores([caption] * len(references), references, meteor)
    del full["s_m"]
    assert scores == pytest.approx(full, abs=1e-9)


@pytest.mark.parametrize("protocol", ["words", "rsicc_ids"])
def test_the_best_constant_is_the_best_of_the_frequent_ones(meteor: Meteor, protocol: str) -> None:
    generator = random.Random(3)
    frequent = ["the scene is the same as before", "a house is built near the road", "roads appear"]
    references = [
        [generator.choice(frequent), " ".join(generator.choices(WORDS, k=6)), f"rare caption {number}"]
        for number in range(30)
    ]
    counts: dict[str, int] = {}
    for captions in references:
        for caption in captions:
            counts[caption] = counts.get(caption, 0) + 1
    candidates = sorted(counts, key=lambda caption: (-counts[caption], caption))[:CANDIDATES]
    scores = {c: corpus_scores([c] * 30, references, meteor, protocol)["s_m"] for c in candidates}
    assert best_constant(references, meteor, protocol) == max(scores, key=lambda caption: scores[caption])


def test_a_rare_caption_is_no_candidate(meteor: Meteor) -> None:
    # "perfect" would be best on its own pair, but twenty others are more frequent.
    references = [[f"kind {number % 20}", f"kind {number % 20} again"] for number in range(80)]
    references.append(["an outlier"])
    assert best_constant(references, meteor).startswith("kind")


def test_the_order_of_pairs_does_not_matter(meteor: Meteor, captions: tuple[list[str], list[list[str]]]) -> None:
    _, references = captions
    assert best_constant(references, meteor) == best_constant(references[::-1], meteor)


def test_leave_one_out_is_the_mean_over_the_references(
    meteor: Meteor, captions: tuple[list[str], list[list[str]]]
) -> None:
    references = [r for r in captions[1] if len(r) >= 2]
    scores = leave_one_out(references, meteor)
    rounds = [
        corpus_scores([r[k] for r in references], [r[:k] + r[k + 1 :] for r in references], meteor) for k in (0, 1)
    ]
    assert scores == pytest.approx({key: np.mean([each[key] for each in rounds]) for key in SCORE_KEYS})


def test_equal_references_agree_fully(meteor: Meteor) -> None:
    scores = leave_one_out([["a house is built here"] * 5, ["the forest is gone now"] * 5], meteor)
    assert scores["bleu_4"] == pytest.approx(100)
    assert scores["meteor"] == pytest.approx(100)
    assert scores["cider_d"] == pytest.approx(1000)


def test_one_reference_has_no_other(meteor: Meteor) -> None:
    with pytest.raises(ValueError, match="at least two references"):
        leave_one_out([["a", "b"], ["a"]], meteor)
