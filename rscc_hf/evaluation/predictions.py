"""Predictions as JSONL: one pair a line, read strictly.

A line is an object with `pair_id` or `uid`; `prediction` or `pred`; `references`, `captions` or `change_caption` (a
list of strings); and optionally `changed` (true or false). Other fields are ignored.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rscc_hf.data.captions import is_no_change

ID_FIELDS = ("pair_id", "uid")
PREDICTION_FIELDS = ("prediction", "pred")
REFERENCE_FIELDS = ("references", "captions", "change_caption")


class PredictionsError(ValueError):
    """A file of predictions cannot be used; the message names the line."""


@dataclass
class Predictions:
    """What was read, one entry a pair, repeats removed.

    Attributes:
        pair_ids: Names of the pairs.
        predictions: Captions as written.
        references: References as written.
        changed: Whether the pair is a changed one; see `infer_changed` for lines that do not say so.
        duplicates_dropped: How many lines repeated a pair.
    """

    pair_ids: list[str] = field(default_factory=list)
    predictions: list[str] = field(default_factory=list)
    references: list[list[str]] = field(default_factory=list)
    changed: list[bool] = field(default_factory=list)
    duplicates_dropped: int = 0


def infer_changed(references: Iterable[str], extra: Sequence[str] = ()) -> bool:
    """Tell whether a pair is changed from its references: unchanged when all of them say that nothing changed."""
    return not all(is_no_change(caption, extra) for caption in references)


def _pick(row: dict[str, Any], names: Sequence[str], where: str) -> tuple[str, Any]:
    present = [name for name in names if name in row]
    if not present:
        quoted = " or ".join(f"`{name}`" for name in names)
        raise PredictionsError(f"{where} has no field {quoted}.")
    for other in present[1:]:
        if row[other] != row[present[0]]:
            raise PredictionsError(f"{where}: `{present[0]}` and `{other}` contradict each other; keep one of them.")
    return present[0], row[present[0]]


def _parse(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
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
    changed = row.get("changed")
    if changed is None:
        return str(pair_id), prediction, references, infer_changed(references, extra)
    if changed not in (True, False):  # 0 and 1 are equal to these
        raise PredictionsError(f"{where}: `changed` must be true or false.")
    return str(pair_id), prediction, references, bool(changed)


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
    seen: dict[str, tuple[int, int]] = {}  # pair -> (index in the result, number of its line)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            pair_id, prediction, references, changed = _read_row(_parse(line, where), where, no_change_sentences)
            if pair_id in seen:
                index, first = seen[pair_id]
                before = (result.predictions[index], result.references[index], result.changed[index])
                if before != (prediction, references, changed):
                    raise PredictionsError(
                        f"{path}: pair {pair_id!r} is given twice, differently, on lines "
                        f"{first} and {number}; keep one of them."
                    )
                result.duplicates_dropped += 1
                continue
            seen[pair_id] = (len(result.pair_ids), number)
            result.pair_ids.append(pair_id)
            result.predictions.append(prediction)
            result.references.append(references)
            result.changed.append(changed)
    if not result.pair_ids:
        raise PredictionsError(f"{path} is empty: it has no line with a prediction.")
    return result
