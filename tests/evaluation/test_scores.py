"""The list of scores: that all who read it agree."""

from dataclasses import fields
from typing import get_args

import pytest

from rscc_hf.evaluation.scores import HIGHEST, PARTS, SCORE_KEYS, SCORES, BestScore, flat_accuracy, mean_score
from rscc_hf.training.engine.recipe import LoopRecipe


def test_every_name_is_there_once() -> None:
    for name in ("key", "title", "head"):
        assert len({getattr(score, name) for score in SCORES}) == len(SCORES) == 8


def test_the_highest_mean_is_the_mean_of_the_highest() -> None:
    assert mean_score(HIGHEST) == HIGHEST["s_m"]


def test_what_chooses_the_best_weights_is_a_score() -> None:
    assert set(get_args(BestScore)) <= set(SCORE_KEYS)
    assert next(field.default for field in fields(LoopRecipe) if field.name == "metric_for_best") in SCORE_KEYS


def test_both_accuracies_are_called_as_in_a_training_log() -> None:
    assert flat_accuracy(dict.fromkeys(PARTS, 50.0)) == {"accuracy_changed": 50.0, "accuracy_unchanged": 50.0}
    assert flat_accuracy({"changed": pytest.approx(80), "unchanged": None}) == {"accuracy_changed": pytest.approx(80)}
