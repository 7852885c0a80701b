"""What a number is worth: the best constant caption, and each reference against the others."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import cook_test
from pycocoevalcap.cider.cider_scorer import precook
from pycocoevalcap.rouge.rouge import Rouge

from rscc_hf.errors import InputError
from rscc_hf.evaluation.corpus import CookedReferences, CookedSet, bleu_from_sums, bleu_statistics, warn_once
from rscc_hf.evaluation.meteor import Meteor, score_from_sums, summable
from rscc_hf.evaluation.prepared import PreparedSet, prepare_set
from rscc_hf.evaluation.protocols import apply_protocol, caption_notes, pair_label, prepare
from rscc_hf.evaluation.scores import HIGHEST, SCORE_KEYS, Scores, mean_score

CANDIDATES = 20
"""How many of the most frequent references are tried as the constant caption (the project's evaluation protocol)."""


class _ConstantScorer:
    """Scores one caption said for every pair of a set; pairs with the same references are looked at once.

    Gives the numbers of `corpus.CookedSet` (a test compares them), many times faster.
    """

    def __init__(self, references: CookedReferences) -> None:
        groups = Counter(references.of_pairs)
        self.groups = list(groups)
        self.counts = np.array(list(groups.values()), dtype=np.float64)
        self.total = len(references.of_pairs)
        self._bleu = [references.bleu[captions] for captions in self.groups]
        frequency: Counter[tuple[str, ...]] = Counter()
        counted = {
            reference: ngrams
            for captions in self.groups
            for reference, ngrams in zip(captions, references.cider[captions], strict=True)
        }
        for captions, count in groups.items():
            for ngram in {ngram for reference in captions for ngram in counted[reference]}:
                frequency[ngram] += count
        self._idf = {ngram: float(np.log(self.total) - np.log(count)) for ngram, count in frequency.items()}
        self._vectors = {reference: self._vector(ngrams) for reference, ngrams in counted.items()}

    def _vector(self, ngrams: dict[tuple[str, ...], int]) -> tuple[dict[tuple[str, ...], float], list[float], int]:
        """Return CIDEr's weights of the n-grams, their norms for n = 1..4, and the length it compares (in bigrams)."""
        unseen = float(np.log(self.total))
        weights = {ngram: count * self._idf.get(ngram, unseen) for ngram, count in ngrams.items()}
        squares = [0.0] * 4
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
        return weights, [square**0.5 for square in squares], sum(c for ngram, c in ngrams.items() if len(ngram) == 2)

    def _cider(self, caption: str) -> float:
        weights, norms, length = self._vector(precook(caption))
        similarity: dict[str, float] = {}
        for reference, (other, other_norms, other_length) in self._vectors.items():
            products = [0.0] * 4
            for ngram, weight in weights.items():
                if ngram in other:
                    products[len(ngram) - 1] += min(weight, other[ngram]) * other[ngram]
            parts = [p / (a * b) if a and b else 0.0 for p, a, b in zip(products, norms, other_norms, strict=True)]
            similarity[reference] = 10 * float(np.mean(parts)) * np.exp(-((length - other_length) ** 2) / (2 * 6.0**2))
        per_group = [np.mean([similarity[reference] for reference in captions]) for captions in self.groups]
        return float(self.counts @ per_group) / self.total

    def bleu_and_cider(self, caption: str) -> Scores:
        """Return BLEU and CIDEr-D of the constant `caption`, times 100."""
        rows = [bleu_statistics(cook_test(caption, references)) for references in self._bleu]
        bleu = bleu_from_sums(self.counts @ np.array(rows, dtype=np.float64))
        scores = {f"bleu_{n}": 100 * float(score) for n, score in enumerate(bleu, start=1)}
        return {**scores, "cider_d": 100 * self._cider(caption)}

    def rouge_l(self, caption: str) -> float:
        """Return ROUGE-L of the constant `caption`, times 100."""
        rouge = Rouge()
        scores = [rouge.calc_score([caption], captions) for captions in self.groups]
        return 100 * float(self.counts @ scores) / self.total

    def meteor(self, caption: str, meteor: Meteor) -> float:
        """Return METEOR of the constant `caption`, times 100."""
        statistics = meteor.statistics([caption] * len(self.groups), self.groups)
        return 100 * float(score_from_sums(self.counts @ summable(statistics)))


def best_constant(references: Sequence[Sequence[str]], meteor: Meteor | None = None, protocol: str = "words") -> str:
    """Find the caption that scores best when it is said for every pair: a report's baseline.

    It is the one with the highest S*m among the `CANDIDATES` most frequent references (equally frequent ones in
    alphabetical order, so that the order of the pairs does not matter).

    Args:
        references: n lists of references, as they come or normalised.
        meteor: The METEOR process to use; by default one is started and ended.
        protocol: One of `protocols.PROTOCOLS`.

    Returns:
        The caption, normalised, in words.

    Raises:
        ValueError: The references cannot be scored; see `protocols.prepare`.
        MeteorError: METEOR could not be computed.
    """
    ready = prepare_set([""] * len(references), references, protocol=protocol)
    if meteor is not None:
        return best_constant_of(ready, meteor)
    with Meteor() as own:
        return best_constant_of(ready, own)


def best_constant_of(ready: PreparedSet, meteor: Meteor) -> str:
    """Find the best constant caption of a set that was made ready; see `best_constant`.

    Raises:
        MeteorError: METEOR could not be computed.
    """
    frequency = Counter(caption for captions in ready.references for caption in captions)
    candidates = sorted(frequency, key=lambda caption: (-frequency[caption], caption))[:CANDIDATES]
    encoded = [ready.encode(caption) for caption in candidates]
    scorer = _ConstantScorer(ready.cooked_references)
    cheap = [scorer.bleu_and_cider(caption) for caption in encoded]
    # ROUGE-L and METEOR are the slow part: a caption that would lose even with the highest needs neither.
    bounds = [mean_score({**HIGHEST, **scores}) for scores in cheap]
    best, best_score = 0, -1.0
    for i in sorted(range(len(candidates)), key=lambda i: -bounds[i]):
        if bounds[i] < best_score:
            break
        scores = {**HIGHEST, **cheap[i], "rouge_l": scorer.rouge_l(encoded[i])}
        if mean_score(scores) < best_score:
            continue
        score = mean_score({**scores, "meteor": scorer.meteor(encoded[i], meteor)})
        if score > best_score:
            best, best_score = i, score
    return candidates[best]


def leave_one_out(
    references: Sequence[Sequence[str]], meteor: Meteor | None = None, protocol: str = "words"
) -> Scores:
    """Score each reference against the others of its pair: how well people agree with people.

    The k-th reference of every pair is scored as a set against the rest, and the scores are averaged over k. Pairs may
    have different numbers of references; k runs to the smallest of them.

    Args:
        references: n lists of at least two references.
        meteor: The METEOR process to use; by default one is started and ended.
        protocol: One of `protocols.PROTOCOLS`.

    Returns:
        The scores under `SCORE_KEYS`, times 100. They lie lower than a model's would for equally good captions: one
        reference fewer to match.

    Raises:
        ValueError: A pair has fewer than two references, or one cannot be scored.
        MeteorError: METEOR could not be computed.
    """
    rounds = min((len(captions) for captions in references), default=0)
    if rounds < 2:
        raise InputError(
            "Scoring references against each other needs at least two references for every pair; "
            "leave out the pairs with fewer."
        )
    if meteor is None:
        with Meteor() as own:
            return leave_one_out(references, own, protocol)
    _, ready = prepare([""] * len(references), references)
    for note in caption_notes([], ready):
        warn_once(note)
    labels = [pair_label(index, None) for index in range(len(ready))]
    every = []
    for k in range(rounds):
        left_out = [captions[k] for captions in ready]
        encoded = apply_protocol(left_out, [[*captions[:k], *captions[k + 1 :]] for captions in ready], protocol)
        every.append(CookedSet(*encoded, meteor, labels).score()[0])
    return {key: float(np.mean([scores[key] for scores in every])) for key in SCORE_KEYS}
