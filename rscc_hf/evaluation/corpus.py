"""Scores of one set of captions: BLEU-1..4, METEOR 1.5, ROUGE-L, CIDEr-D and their mean S*m, times 100.

The numbers are those of pycocoevalcap 1.2 without its PTB tokenizer; its "CIDEr" is CIDEr-D (clipped counts and a
Gaussian penalty for length; Vedantam et al. 2015). CIDEr-D takes its document frequencies from the evaluated set:
a set is scored once, after gathering, and shares of it are never averaged. With a single pair, or where every pair
has the same references, every frequency is 1 and CIDEr-D is 0 by construction.

SPICE is not offered: it needs Stanford CoreNLP, which pycocoevalcap downloads on first use, and S*m leaves it out.
"""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge

from rscc_hf.evaluation.meteor import Meteor
from rscc_hf.evaluation.protocols import apply_protocol, caption_notes, pair_label, prepare

logger = logging.getLogger(__name__)

SCORE_KEYS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider_d", "s_m")
"""The eight scores of a set, in the order of every table."""

Scores = dict[str, float]


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


def mean_score(scores: Scores) -> float:
    """Return S*m, the mean of BLEU-4, METEOR, ROUGE-L and CIDEr-D (Liu et al., LEVIR-CC; all times 100)."""
    return (scores["bleu_4"] + scores["meteor"] + scores["rouge_l"] + scores["cider_d"]) / 4


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


class CookedSet:
    """A set of captions with its n-grams counted and its METEOR statistics taken, of which parts can be scored.

    The captions are ready: normalised, protocol applied, words joined by single spaces.

    Args:
        predictions: n captions, n >= 1.
        references: n non-empty lists of captions.
        meteor: The METEOR process to use; None leaves out `meteor` and `s_m`.
        labels: What METEOR's error messages call the pairs.

    Raises:
        MeteorError: METEOR could not be computed.
    """

    def __init__(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        meteor: Meteor | None,
        labels: Sequence[str] | None = None,
    ) -> None:
        self._bleu, self._cider = BleuScorer(n=4), CiderScorer(n=4, sigma=6.0)
        rouge, rouge_l = Rouge(), []
        for prediction, captions in zip(predictions, references, strict=True):
            self._bleu += (prediction, list(captions))
            self._cider += (prediction, list(captions))
            rouge_l.append(rouge.calc_score([prediction], captions))
        self._rouge_l = np.array(rouge_l)
        self._meteor = meteor
        self._statistics = meteor.statistics(predictions, references, labels) if meteor is not None else None

    def score(self, part: Sequence[int] | None = None) -> tuple[Scores, Segments]:
        """Score the set, or a part of it as a set of its own.

        Args:
            part: Indices of the pairs; all by default. At least one.

        Returns:
            The scores, times 100 and not rounded, under `SCORE_KEYS`, and what each pair contributed.

        Raises:
            MeteorError: METEOR could not be computed.
        """
        indices = list(range(len(self._rouge_l))) if part is None else list(part)
        bleu, cider = BleuScorer(n=4), CiderScorer(n=4, sigma=6.0)
        for whole, piece in ((self._bleu, bleu), (self._cider, cider)):
            piece.crefs = [whole.crefs[index] for index in indices]
            piece.ctest = [whole.ctest[index] for index in indices]
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


@functools.cache
def _warn_once(note: str) -> None:
    """Training scores its validation captions many times; a note about them is worth saying once."""
    logger.warning("%s", note)


def corpus_scores(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    meteor: bool | Meteor = True,
    protocol: str = "words",
    pair_ids: Sequence[str] | None = None,
) -> Scores:
    """Score raw captions as one set, without subsets or baseline (what validation during training needs).

    Args:
        predictions: One caption a pair, as generated.
        references: At least one reference a pair.
        meteor: False leaves out METEOR, and with it S*m (no Java needed). True starts a process and ends it; a
            `Meteor` of one's own is kept, which saves its start of some seconds at every validation.
        protocol: One of `protocols.PROTOCOLS`.
        pair_ids: Names of the pairs, for the error messages.

    Returns:
        The scores, times 100, under `SCORE_KEYS` (without `meteor` and `s_m` when METEOR is left out).

    Raises:
        ValueError: A caption cannot be scored; see `protocols.prepare`.
        MeteorError: METEOR could not be computed.
    """
    ready, ready_references = prepare(predictions, references, pair_ids)
    for note in caption_notes([], ready_references):
        _warn_once(note)
    ready, ready_references = apply_protocol(ready, ready_references, protocol)
    labels = [pair_label(index, pair_ids) for index in range(len(ready))]
    if isinstance(meteor, Meteor):
        return CookedSet(ready, ready_references, meteor, labels).score()[0]
    if not meteor:
        return CookedSet(ready, ready_references, None, labels).score()[0]
    with Meteor() as own:
        own.launch()
        return CookedSet(ready, ready_references, own, labels).score()[0]
