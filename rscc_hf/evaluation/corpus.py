"""Scores of one set of captions: BLEU-1..4, METEOR 1.5, ROUGE-L, CIDEr-D and their mean S*m, times 100.

The numbers are those of pycocoevalcap 1.2 without its PTB tokenizer; its "CIDEr" is CIDEr-D (clipped counts and a
Gaussian penalty for length; Vedantam et al. 2015). CIDEr-D takes its document frequencies from the evaluated set:
a set is scored once, after gathering, and shares of it are never averaged. With a single pair, or where every pair
has the same references, every frequency is 1 and CIDEr-D is 0 by construction.

SPICE is not offered: it needs Stanford CoreNLP, which pycocoevalcap downloads on first use, and S*m leaves it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.rouge.rouge import Rouge

from rscc_hf.evaluation.meteor import Meteor
from rscc_hf.evaluation.protocols import apply_protocol, pair_label, prepare

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


def score_set(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    meteor: Meteor | None,
    labels: Sequence[str] | None = None,
) -> tuple[Scores, Segments]:
    """Score a set of captions that are ready: normalised, protocol applied.

    Args:
        predictions: n captions of words joined by single spaces, n >= 1.
        references: n non-empty lists of such captions.
        meteor: The METEOR process to use; None leaves out `meteor` and `s_m`.
        labels: What METEOR's error messages call the pairs.

    Returns:
        The scores, times 100 and not rounded, under `SCORE_KEYS`, and what each pair contributed.

    Raises:
        MeteorError: METEOR could not be computed.
    """
    bleu, cider, rouge = BleuScorer(n=4), CiderScorer(n=4, sigma=6.0), Rouge()
    rouge_l = []
    for prediction, captions in zip(predictions, references, strict=True):
        bleu += (prediction, list(captions))
        cider += (prediction, list(captions))
        rouge_l.append(rouge.calc_score([prediction], captions))
    bleu_scores, _ = bleu.compute_score(option="closest", verbose=0)
    cider_score, cider_segments = cider.compute_score()
    scores = {f"bleu_{n}": 100 * float(score) for n, score in enumerate(bleu_scores, start=1)}
    statistics = None
    if meteor is not None:
        statistics = meteor.statistics(predictions, references, labels)
        scores["meteor"] = 100 * meteor.evaluate(statistics)[0]
    scores["rouge_l"] = 100 * float(np.mean(rouge_l))
    scores["cider_d"] = 100 * float(cider_score)
    if meteor is not None:
        scores["s_m"] = mean_score(scores)
    parts = [[c["testlen"], closest(c["reflen"], c["testlen"]), *c["guess"], *c["correct"]] for c in bleu.ctest]
    return scores, Segments(np.array(parts, dtype=np.float64), statistics, np.array(rouge_l), cider_segments)


def closest(lengths: Sequence[int], length: int) -> int:
    """Return the one of `lengths` closest to `length`, the shorter one of two equally close (BLEU's rule)."""
    return min((abs(candidate - length), candidate) for candidate in lengths)[1]


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
    ready, ready_references = apply_protocol(*prepare(predictions, references, pair_ids), protocol)
    labels = [pair_label(index, pair_ids) for index in range(len(ready))]
    if isinstance(meteor, Meteor):
        return score_set(ready, ready_references, meteor, labels)[0]
    if not meteor:
        return score_set(ready, ready_references, None, labels)[0]
    with Meteor() as own:
        return score_set(ready, ready_references, own, labels)[0]
