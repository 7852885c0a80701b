"""Scores of one set of captions: BLEU-1..4, METEOR 1.5, ROUGE-L, CIDEr-D and their mean S*m, times 100.

The numbers are those of pycocoevalcap 1.2 without its PTB tokenizer; its "CIDEr" is CIDEr-D (clipped counts and a
Gaussian penalty for length; Vedantam et al. 2015). CIDEr-D takes its document frequencies from the evaluated set:
a set is scored once, after gathering, and shares of it are never averaged. With a single pair, or where every pair
has the same references, every frequency is 1 and CIDEr-D is 0 by construction.

SPICE is not offered: it needs Stanford CoreNLP, which pycocoevalcap downloads on first use, and S*m leaves it out.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocoevalcap.bleu import bleu_scorer
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider import cider_scorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge

from rscc_hf.data.captions import is_no_change
from rscc_hf.evaluation.meteor import Meteor
from rscc_hf.evaluation.protocols import apply_protocol, caption_notes, pair_label, prepare
from rscc_hf.evaluation.scores import PARTS, Scores, flat_accuracy, mean_score

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segments:
    """What each pair contributes to the scores of its set (n pairs).

    Attributes:
        bleu: (n, 10): words predicted, words of the closest reference, n-grams predicted for n = 1..4, n-grams found.
        meteor: (n, 23) statistics of `Meteor.statistics`, or None where METEOR was left out.
        rouge_l: (n,) from 0 to 1.
        cider_d: (n,) from 0 to 10, with the document frequencies of the whole set.
    """

    bleu: np.ndarray
    meteor: np.ndarray | None
    rouge_l: np.ndarray
    cider_d: np.ndarray


def bleu_from_sums(sums: np.ndarray) -> np.ndarray:
    """Compute BLEU-1..4 from summed statistics, as pycocoevalcap does, its tiny constants included.

    Args:
        sums: (..., 10), `Segments.bleu` summed over a set.

    Returns:
        (..., 4), from 0 to 1.
    """
    words, reference_words = sums[..., 0], sums[..., 1]
    precisions = (sums[..., 6:10] + 1e-15) / (sums[..., 2:6] + 1e-9)
    ratio = (words + 1e-15) / (reference_words + 1e-9)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1.0)
    return np.cumprod(precisions, axis=-1) ** (1 / np.arange(1, 5)) * brevity[..., None]


class CookedReferences:
    """The references of a set with their n-grams counted, once for all lists of captions that are scored against them.

    Args:
        references: n non-empty lists of captions, ready as for `CookedSet`.

    Attributes:
        of_pairs: The n lists; pairs may share one.
        bleu: What BLEU needs of each list.
        cider: What CIDEr-D needs of each list: the counts of each caption.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        self.of_pairs = [tuple(captions) for captions in references]
        shared = dict.fromkeys(self.of_pairs)
        self.bleu = {captions: bleu_scorer.cook_refs(captions) for captions in shared}
        self.cider = {captions: cider_scorer.cook_refs(captions) for captions in shared}


class CookedSet:
    """A set of captions with its n-grams counted and its METEOR statistics taken, of which parts can be scored.

    The captions are ready: normalised, protocol applied, words joined by single spaces.

    Args:
        predictions: n captions, n >= 1.
        references: n non-empty lists of captions, or these with their n-grams counted.
        meteor: The METEOR process to use; None leaves out `meteor` and `s_m`.
        labels: What METEOR's error messages call the pairs.

    Raises:
        MeteorError: METEOR could not be computed.
    """

    def __init__(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]] | CookedReferences,
        meteor: Meteor | None,
        labels: Sequence[str] | None = None,
    ) -> None:
        cooked = references if isinstance(references, CookedReferences) else CookedReferences(references)
        pairs = list(zip(predictions, cooked.of_pairs, strict=True))
        self._references = cooked
        self._bleu = [bleu_scorer.cook_test(prediction, cooked.bleu[captions]) for prediction, captions in pairs]
        self._cider = [cider_scorer.cook_test(prediction) for prediction in predictions]
        rouge_l = {(said, captions): Rouge().calc_score([said], captions) for said, captions in dict.fromkeys(pairs)}
        self._rouge_l = np.array([rouge_l[pair] for pair in pairs])
        self._meteor = meteor
        self._statistics = meteor.statistics(predictions, cooked.of_pairs, labels) if meteor is not None else None

    def score(self, part: Sequence[int] | None = None) -> tuple[Scores, Segments]:
        """Score the set, or a part of it as a set of its own.

        Args:
            part: Indices of the pairs; all by default. At least one.

        Returns:
            The scores, times 100 and not rounded, under `scores.SCORE_KEYS`, and what each pair contributed.

        Raises:
            MeteorError: METEOR could not be computed.
        """
        indices = list(range(len(self._rouge_l))) if part is None else list(part)
        bleu, cider = BleuScorer(n=4), CiderScorer(n=4, sigma=6.0)
        references = [self._references.of_pairs[index] for index in indices]
        bleu.crefs = [self._references.bleu[captions] for captions in references]
        cider.crefs = [self._references.cider[captions] for captions in references]
        bleu.ctest, cider.ctest = ([cooked[index] for index in indices] for cooked in (self._bleu, self._cider))
        bleu_scores, _ = bleu.compute_score(option="closest", verbose=0)
        cider_score, cider_segments = cider.compute_score()
        rouge_l = self._rouge_l[indices]
        scores = {f"bleu_{n}": 100 * float(score) for n, score in enumerate(bleu_scores, start=1)}
        statistics = None
        if self._meteor is not None and self._statistics is not None:
            statistics = self._statistics[indices]
            scores["meteor"] = 100 * self._meteor.evaluate(statistics)[0]
        scores["rouge_l"] = 100 * float(np.mean(rouge_l))
        scores["cider_d"] = 100 * float(cider_score)
        if statistics is not None:
            scores["s_m"] = mean_score(scores)
        parts = np.array([bleu_statistics(cooked) for cooked in bleu.ctest], dtype=np.float64)
        return scores, Segments(parts, statistics, rouge_l, cider_segments)


def bleu_statistics(cooked: dict[str, Any]) -> list[float]:
    """Return a row of `Segments.bleu` from what pycocoevalcap's `cook_test` gives.

    The reference's length is the closest one, the shorter of two equally close.
    """
    words = cooked["testlen"]
    closest = min((abs(length - words), length) for length in cooked["reflen"])[1]
    return [words, closest, *cooked["guess"], *cooked["correct"]]


def accuracy_of_parts(
    predictions: Sequence[str], changed: Sequence[bool], says_no_change: Callable[[str], bool] = is_no_change
) -> dict[str, float | None]:
    """Tell how many pairs got a caption that says rightly whether anything changed.

    Args:
        predictions: One caption a pair.
        changed: Whether each pair is a changed one.
        says_no_change: Tells whether a caption says that nothing changed.

    Returns:
        Per cent of the changed and of the unchanged pairs, under `scores.PARTS`; None where there are no such pairs.
    """
    right: dict[bool, list[bool]] = {True: [], False: []}
    for prediction, flag in zip(predictions, changed, strict=True):
        right[bool(flag)].append(says_no_change(prediction) != flag)
    return {
        part: 100 * sum(right[flag]) / len(right[flag]) if right[flag] else None
        for part, flag in zip(PARTS, (True, False), strict=True)
    }


@functools.cache
def warn_once(note: str) -> None:
    """Warn once of each note: training scores its validation captions many times."""
    logger.warning("%s", note)


def corpus_scores(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    meteor: bool | Meteor = True,
    protocol: str = "words",
    pair_ids: Sequence[str] | None = None,
    changed: Sequence[bool] | None = None,
) -> Scores:
    """Score raw captions as one set, without subsets or baseline (what validation during training needs).

    Args:
        predictions: One caption a pair, as generated.
        references: At least one reference a pair.
        meteor: False leaves out METEOR, and with it S*m (no Java needed). True starts a process and ends it; a
            `Meteor` of one's own is kept, which saves its start of some seconds at every validation.
        protocol: One of `protocols.PROTOCOLS`.
        pair_ids: Names of the pairs, for the error messages.
        changed: Whether each pair is a changed one; where it is said, both accuracies are told too.

    Returns:
        The scores, times 100, under `scores.SCORE_KEYS` (without `meteor` and `s_m` when METEOR is left out), and with
        `changed` the per cent of `accuracy_changed` and `accuracy_unchanged` (absent where there are no such pairs).

    Raises:
        ValueError: A caption cannot be scored; see `protocols.prepare`.
        MeteorError: METEOR could not be computed.
    """
    ready, ready_references = prepare(predictions, references, pair_ids)
    for note in caption_notes([], ready_references):
        warn_once(note)
    accuracy = {} if changed is None else flat_accuracy(accuracy_of_parts(ready, changed))
    encoded = apply_protocol(ready, ready_references, protocol)
    labels = [pair_label(index, pair_ids) for index in range(len(ready))]
    if meteor is True:
        with Meteor() as own:
            own.launch()
            return CookedSet(*encoded, own, labels).score()[0] | accuracy
    return CookedSet(*encoded, meteor or None, labels).score()[0] | accuracy
