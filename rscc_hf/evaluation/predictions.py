"""Predictions as JSONL: one pair a line, read strictly.

What a line holds, and under which names, is told by `rscc_hf.formats.predictions`; to be scored it needs references.
Fields that are not known are not used, and named.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rscc_hf.data.captions import infer_changed, is_no_change, pair_key
from rscc_hf.errors import PredictionsError
from rscc_hf.formats.predictions import PredictionLine, prediction_lines

_TOLD = 5


@dataclass
class Predictions:
    """What was read, one entry a pair, repeats removed.

    Attributes:
        pair_ids: Names of the pairs.
        predictions: Captions as written.
        references: References as written.
        changed: Whether the pair is a changed one; see `data.captions.infer_changed` for lines that do not say so.
        duplicates_dropped: How many lines repeated a pair.
        notes: What a reader of the scores should know of the file, a sentence each.
    """

    pair_ids: list[str] = field(default_factory=list)
    predictions: list[str] = field(default_factory=list)
    references: list[list[str]] = field(default_factory=list)
    changed: list[bool] = field(default_factory=list)
    duplicates_dropped: int = 0
    notes: list[str] = field(default_factory=list)


class _Notes:
    """Gather what is worth saying of a file while its lines are read."""

    def __init__(self) -> None:
        self.lines = self.flagged = 0
        self.unused: Counter[str] = Counter()
        self.origins: Counter[tuple[str, str]] = Counter()

    def add(self, line: PredictionLine) -> None:
        """Count what a line says beside its caption."""
        self.lines += 1
        self.flagged += line.changed is not None
        self.unused.update(line.unknown)
        self.origins[str(line.model), json.dumps(line.settings, sort_keys=True)] += 1

    def sentences(self) -> list[str]:
        """Return what is worth saying."""
        told = []
        if self.unused:
            names = [f"`{name}`" for name, _ in self.unused.most_common(_TOLD)]
            more = f" and {len(self.unused) - _TOLD} more" if len(self.unused) > _TOLD else ""
            told.append(f"Not used: the field{'s' if len(self.unused) > 1 else ''} {', '.join(names)}{more}.")
        if 0 < self.flagged < self.lines:
            told.append(
                f"{self.lines - self.flagged:,} of {self.lines:,} lines do not say `changed`; "
                "for these it follows from the references."
            )
        models = {model for model, _ in self.origins}
        if len(self.origins) > 1:
            what = f"{len(models)} models" if len(models) > 1 else f"{len(self.origins)} different settings"
            told.append(f"The lines are by {what}; the scores are of them all together.")
        return told


def read_predictions(path: Path, no_change_sentences: Sequence[str] = ()) -> Predictions:
    """Read a JSONL file of predictions.

    Repeats of a pair (a distributed sampler pads with them) are dropped when they say the same. A byte-order mark and
    blank lines are skipped.

    Args:
        path: The file, UTF-8.
        no_change_sentences: Sentences that mean "no change" beside `NO_CHANGE_SENTENCES`.

    Returns:
        The pairs in the order of their first lines; at least one.

    Raises:
        PredictionsError: No such file, no line in it, or a line that cannot be used; the message names the line.
    """
    path = Path(path)
    result = Predictions()
    notes = _Notes()
    says_no_change = partial(is_no_change, extra=no_change_sentences)
    seen: dict[str, tuple[int, int]] = {}  # pair -> (index in the result, number of its line)
    for number, line in prediction_lines(path, ["references"]):
        notes.add(line)
        references = list(line.references or ())
        changed = infer_changed(references, says_no_change) if line.changed is None else line.changed
        if pair_key(line.pair_id) in seen:
            index, first = seen[pair_key(line.pair_id)]
            before = (result.predictions[index], result.references[index], result.changed[index])
            if before != (line.prediction, references, changed):
                raise PredictionsError(
                    f"{path}: pair {line.pair_id!r} is given twice, differently, on lines {first} and {number}; keep "
                    "one of them."
                )
            result.duplicates_dropped += 1
            continue
        seen[pair_key(line.pair_id)] = (len(result.pair_ids), number)
        result.pair_ids.append(line.pair_id)
        result.predictions.append(line.prediction)
        result.references.append(references)
        result.changed.append(changed)
    if not result.pair_ids:
        raise PredictionsError(f"{path} is empty: it has no line with a prediction; give the captions to score.")
    result.notes = notes.sentences()
    return result
