"""Predictions as JSONL: one pair a line, read strictly.

A line is an object with `pair_id` or `uid`; `prediction` or `pred`; `references`, `captions` or `change_caption` (a
list of strings); and optionally `changed`, `change_flag` or `changeflag` (true or false). A field that is null counts
as absent. Fields that neither these nor `rscc caption` know are not used, and named.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rscc_hf.data.captions import is_no_change
from rscc_hf.data.captions import pair_key as pair_key
from rscc_hf.errors import PredictionsError
from rscc_hf.text import JsonObject, RepeatedField

ID_FIELDS = ("pair_id", "uid")
PREDICTION_FIELDS = ("prediction", "pred")
REFERENCE_FIELDS = ("references", "captions", "change_caption")
CHANGED_FIELDS = ("changed", "change_flag", "changeflag")
_OF_A_RUN = ("before", "after", "model", "settings", "inputs", "notes")
"""What `rscc caption` says of a caption beside these: known, and not needed for a score."""
_TOLD = 5


@dataclass
class Predictions:
    """What was read, one entry a pair, repeats removed.

    Attributes:
        pair_ids: Names of the pairs.
        predictions: Captions as written.
        references: References as written.
        changed: Whether the pair is a changed one; see `infer_changed` for lines that do not say so.
        duplicates_dropped: How many lines repeated a pair.
        notes: What a reader of the scores should know of the file, a sentence each.
    """

    pair_ids: list[str] = field(default_factory=list)
    predictions: list[str] = field(default_factory=list)
    references: list[list[str]] = field(default_factory=list)
    changed: list[bool] = field(default_factory=list)
    duplicates_dropped: int = 0
    notes: list[str] = field(default_factory=list)


def infer_changed(references: Iterable[str], extra: Sequence[str] = ()) -> bool:
    """Tell whether a pair is changed from its references: unchanged when all of them say that nothing changed."""
    return not all(is_no_change(caption, extra) for caption in references)


def _pick(row: dict[str, Any], names: Sequence[str], where: str, *, needed: bool = True) -> tuple[str, Any]:
    """The one of several fields for a thing that says something, and its value; null where none is there."""
    present = [name for name in names if row.get(name) is not None] or [name for name in names if name in row]
    if not present:
        if needed:
            quoted = " or ".join(f"`{name}`" for name in names)
            raise PredictionsError(f"{where} has no field {quoted}.")
        return names[0], None
    for other in present[1:]:
        if row[other] != row[present[0]]:
            raise PredictionsError(f"{where}: `{present[0]}` and `{other}` contradict each other; keep one of them.")
    return present[0], row[present[0]]


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=JsonObject.unrepeated)
    except RepeatedField as error:
        raise PredictionsError(f"{where} has the field `{error}` twice; keep one of them.") from error
    except UnicodeDecodeError as error:
        raise PredictionsError(f"{where} is not UTF-8 text.") from error
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep or a number too long"
        raise PredictionsError(f"{where} is not JSON ({reason}).") from error
    if not isinstance(row, dict):
        raise PredictionsError(f"{where} is not a JSON object with fields but a {type(row).__name__}.")
    return row


def _read_row(row: dict[str, Any], where: str, extra: Sequence[str]) -> tuple[str, str, list[str], bool]:
    name, pair_id = _pick(row, ID_FIELDS, where)
    if isinstance(pair_id, bool) or not isinstance(pair_id, (str, int)) or pair_id == "":
        raise PredictionsError(f"{where}: `{name}` must be a non-empty string or a whole number.")
    name, prediction = _pick(row, PREDICTION_FIELDS, where)
    if not isinstance(prediction, str):
        raise PredictionsError(f"{where}: `{name}` must be a string (an empty one for no caption).")
    name, references = _pick(row, REFERENCE_FIELDS, where)
    if not isinstance(references, list) or not all(isinstance(caption, str) for caption in references):
        raise PredictionsError(f"{where}: `{name}` must be a list of strings.")
    if not references:
        raise PredictionsError(f"{where}: `{name}` is an empty list; give at least one reference.")
    name, changed = _pick(row, CHANGED_FIELDS, where, needed=False)
    if changed is None:
        return str(pair_id), prediction, references, infer_changed(references, extra)
    if changed not in (True, False):  # 0 and 1 are equal to these
        raise PredictionsError(f"{where}: `{name}` must be true or false.")
    return str(pair_id), prediction, references, bool(changed)


class _Notes:
    """Gathers what is worth saying of a file while its lines are read."""

    def __init__(self) -> None:
        self.lines = self.flagged = 0
        self.unused: Counter[str] = Counter()
        self.origins: Counter[tuple[str, str]] = Counter()

    def add(self, row: dict[str, Any]) -> None:
        known = (*ID_FIELDS, *PREDICTION_FIELDS, *REFERENCE_FIELDS, *CHANGED_FIELDS, *_OF_A_RUN)
        self.lines += 1
        self.flagged += any(row.get(name) is not None for name in CHANGED_FIELDS)
        self.unused.update(row.keys() - set(known))
        settings = row.get("settings")
        self.origins[str(row.get("model")), json.dumps(settings, sort_keys=True)] += 1

    def sentences(self) -> list[str]:
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
    if not path.is_file():
        raise PredictionsError(f"There is no file of predictions {path}.")
    result = Predictions()
    notes = _Notes()
    seen: dict[str, tuple[int, int]] = {}  # pair -> (index in the result, number of its line)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            row = _parse(line, where)
            pair_id, prediction, references, changed = _read_row(row, where, no_change_sentences)
            notes.add(row)
            if pair_key(pair_id) in seen:
                index, first = seen[pair_key(pair_id)]
                before = (result.predictions[index], result.references[index], result.changed[index])
                if before != (prediction, references, changed):
                    raise PredictionsError(
                        f"{path}: pair {pair_id!r} is given twice, differently, on lines "
                        f"{first} and {number}; keep one of them."
                    )
                result.duplicates_dropped += 1
                continue
            seen[pair_key(pair_id)] = (len(result.pair_ids), number)
            result.pair_ids.append(pair_id)
            result.predictions.append(prediction)
            result.references.append(references)
            result.changed.append(changed)
    if not result.pair_ids:
        raise PredictionsError(f"{path} is empty: it has no line with a prediction.")
    result.notes = notes.sentences()
    return result
