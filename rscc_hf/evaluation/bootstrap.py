"""Confidence intervals of one run: the pairs of a set are drawn again with replacement, many times.

What is held fixed: CIDEr-D's document frequencies stay those of the whole set, so that its interval shows the choice
of pairs and not a change of the measure. An interval says nothing about other seeds of the training: seeds move
BLEU-4 by more than a point, so several runs need their own mean and deviation.
"""

import numpy as np

from rscc_hf.errors import InputError
from rscc_hf.evaluation.corpus import Segments, bleu_from_sums
from rscc_hf.evaluation.meteor import score_from_sums, summable
from rscc_hf.evaluation.scores import SCORE_KEYS, mean_score

LEVEL = 0.95
_CHUNK = 200  # samples drawn at once: bounds the memory to 200 x n counts

Intervals = dict[str, list[float]]


def check_samples(samples: int) -> None:
    """Raise `InputError` unless `samples` is a number of samples to draw, 0 for none."""
    if samples < 0:
        raise InputError(f"The number of bootstrap samples must be 0 (none) or more, not {samples}; name another one.")


def bootstrap_intervals(segments: Segments, samples: int, seed: int) -> Intervals:
    """Compute percentile intervals of the scores of a set.

    Args:
        segments: What each pair contributed, METEOR included.
        samples: How many sets to draw, at least 1; 1,000 is usual.
        seed: Seed of the draws.

    Returns:
        For each of `SCORE_KEYS` the lower and upper end of the 95 % interval, times 100.

    Raises:
        ValueError: `samples` is below 1, or METEOR was left out.
    """
    if samples < 1:
        raise InputError(f"A bootstrap needs at least 1 sample, not {samples}; draw 1,000.")
    if segments.meteor is None:
        raise InputError("A bootstrap needs METEOR's statistics; score the set with METEOR.")
    n = len(segments.rouge_l)
    generator = np.random.default_rng(seed)
    meteor = summable(segments.meteor)
    drawn = []
    for start in range(0, samples, _CHUNK):
        size = min(_CHUNK, samples - start)
        counts = generator.multinomial(n, np.full(n, 1 / n), size=size).astype(np.float64)  # (samples, pairs)
        bleu = bleu_from_sums(counts @ segments.bleu)
        scores = {f"bleu_{order}": bleu[:, order - 1] for order in (1, 2, 3, 4)}
        scores["meteor"] = score_from_sums(counts @ meteor)
        scores["rouge_l"] = counts @ segments.rouge_l / n
        scores["cider_d"] = counts @ segments.cider_d / n
        scores["s_m"] = mean_score(scores)
        drawn.append(100 * np.stack([scores[key] for key in SCORE_KEYS], axis=1))
    tail = (1 - LEVEL) / 2
    ends = np.quantile(np.concatenate(drawn), [tail, 1 - tail], axis=0)
    return {key: [float(ends[0, i]), float(ends[1, i])] for i, key in enumerate(SCORE_KEYS)}
