"""Confidence intervals."""

import numpy as np
import pytest

from rscc_hf.evaluation import SCORE_KEYS, ChangeCaptionScorer, Meteor
from rscc_hf.evaluation.bootstrap import bootstrap_intervals
from rscc_hf.evaluation.corpus import CookedSet

Captions = tuple[list[str], list[list[str]]]


def test_intervals_hold_the_score_and_are_reproducible(meteor: Meteor, captions: Captions) -> None:
    predictions, references = captions[0] * 4, captions[1] * 4
    scores, segments = CookedSet(predictions, references, meteor).score()
    intervals = bootstrap_intervals(segments, 500, seed=1)
    assert tuple(intervals) == SCORE_KEYS
    for key, (low, high) in intervals.items():
        assert low < scores[key] < high, key
    assert intervals == bootstrap_intervals(segments, 500, seed=1)
    assert intervals != bootstrap_intervals(segments, 500, seed=2)


def test_more_pairs_narrow_the_interval(meteor: Meteor, captions: Captions) -> None:
    widths = []
    for times in (2, 50):
        _, segments = CookedSet(captions[0] * times, captions[1] * times, meteor).score()
        intervals = bootstrap_intervals(segments, 300, seed=0)
        widths.append(intervals["s_m"][1] - intervals["s_m"][0])
    assert widths[1] < widths[0] / 3  # 5 times narrower by the square-root law


def test_one_draw_is_the_score_of_the_drawn_set(meteor: Meteor, captions: Captions) -> None:
    predictions, references = captions
    _, segments = CookedSet(predictions, references, meteor).score()
    counts = np.random.default_rng(7).multinomial(len(predictions), np.full(len(predictions), 1 / len(predictions)))
    drawn = [index for index, count in enumerate(counts) for _ in range(count)]
    scores, _ = CookedSet([predictions[i] for i in drawn], [references[i] for i in drawn], meteor).score()
    intervals = bootstrap_intervals(segments, 1, seed=7)
    for key in ("bleu_1", "bleu_4", "meteor", "rouge_l"):  # CIDEr-D keeps the whole set's frequencies
        assert intervals[key] == pytest.approx([scores[key]] * 2), key
    assert intervals["cider_d"] == pytest.approx([100 * segments.cider_d[drawn].mean()] * 2)


def test_captions_that_are_all_alike_leave_no_doubt(meteor: Meteor) -> None:
    _, segments = CookedSet(["a house is built here"] * 6, [["a house is built there"]] * 6, meteor).score()
    for low, high in bootstrap_intervals(segments, 50, seed=0).values():
        assert low == pytest.approx(high)


def test_bad_requests_are_refused(scorer: ChangeCaptionScorer, captions: Captions) -> None:
    _, segments = CookedSet(*captions, None).score()
    with pytest.raises(ValueError, match="METEOR"):
        bootstrap_intervals(segments, 10, seed=0)
    with pytest.raises(ValueError, match="at least 1"):
        bootstrap_intervals(segments, 0, seed=0)
    with pytest.raises(ValueError, match="-3"):
        scorer.score(*captions, bootstrap=-3)
