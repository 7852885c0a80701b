"""The scores: what they are called in files and in tables, in the order of both, and what S*m is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Score:
    """One score of a set of captions; its values are times 100.

    Attributes:
        key: What files, recipes and logs call it.
        title: What people call it.
        head: The same for the head of a narrow column.
        metric: Its type in the metadata of a card, a name of the Hub.
        highest: The highest value it can have.
        in_mean: Whether S*m has it.
        is_shown: Whether tables with little room have it.
    """

    key: str
    title: str
    head: str
    metric: str
    highest: float
    in_mean: bool = False
    is_shown: bool = True


SCORES = (
    Score("bleu_1", "BLEU-1", "B-1", "bleu", 100.0),
    Score("bleu_2", "BLEU-2", "B-2", "bleu", 100.0, is_shown=False),
    Score("bleu_3", "BLEU-3", "B-3", "bleu", 100.0, is_shown=False),
    Score("bleu_4", "BLEU-4", "B-4", "bleu", 100.0, in_mean=True),
    Score("meteor", "METEOR", "METEOR", "meteor", 100.0, in_mean=True),
    Score("rouge_l", "ROUGE-L", "ROUGE-L", "rouge", 100.0, in_mean=True),
    Score("cider_d", "CIDEr-D", "CIDEr-D", "cider", 1000.0, in_mean=True),
    Score("s_m", "S*m", "S*m", "s_m", 325.0),
)
"""The eight scores of a set, in the order of every table."""

SCORE_KEYS = tuple(score.key for score in SCORES)
TITLES = {score.key: score.title for score in SCORES}
HIGHEST = {score.key: score.highest for score in SCORES}
MEAN_OF = tuple(score.key for score in SCORES if score.in_mean)
MEAN_TITLES = "{}, {}, {} and {}".format(*(TITLES[key] for key in MEAN_OF))
"""What S*m is the mean of, for people."""

BestScore = Literal["bleu_4", "s_m"]
"""The scores by which training may choose the best weights."""

PARTS = ("changed", "unchanged")
"""The parts of a set that are scored by themselves, and that have an accuracy each."""

Scores = dict[str, float]


def mean_score(scores: Mapping[str, Any]) -> Any:
    """Return S*m, the mean of BLEU-4, METEOR, ROUGE-L and CIDEr-D (Liu et al., LEVIR-CC), of numbers or of arrays."""
    return sum(scores[key] for key in MEAN_OF) / len(MEAN_OF)


def flat_accuracy(accuracy: dict[str, float | None]) -> Scores:
    """Name both accuracies where there is one level of names only, as in a training log.

    Args:
        accuracy: As in a report: per cent right of each of `PARTS`, None for an empty part.

    Returns:
        `accuracy_changed` and `accuracy_unchanged`, without those of empty parts.
    """
    return {f"accuracy_{part}": value for part, value in accuracy.items() if value is not None}
