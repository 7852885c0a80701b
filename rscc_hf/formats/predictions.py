"""Lines of predictions: what `rscc caption` and the demos write, and what `rscc evaluate` and the cards read.

A line is an object with `pair_id` and `prediction`; `references` and `changed` where they are known; and, written by
`rscc caption`, how the caption came about. Other names that the field's files use are read too: see `NAMES`. A field
that is null counts as absent.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rscc_hf.errors import PredictionsError
from rscc_hf.text import json_line, json_object

NAMES: Mapping[str, tuple[str, ...]] = {
    "pair_id": ("pair_id", "uid"),
    "before": ("before", "image_before", "img1_path"),
    "after": ("after", "image_after", "img2_path"),
    "semantic_before": ("semantic_before",),
    "semantic_after": ("semantic_after",),
    "prediction": ("prediction", "pred"),
    "references": ("references", "captions", "change_caption"),
    "changed": ("changed", "change_flag", "changeflag"),
}
"""What is told of a pair, in lists and predictions: our name, then those of our schema and of the field's files."""

# Longest first line that is looked at to know a file of captions
_FIRST_LINE = 1 << 20


@dataclass(frozen=True)
class PredictionLine:
    """A pair and its caption, as a line of a file.

    What follows `changed` is written by `rscc caption` and of no account for a score: who needs it checks its type.

    Attributes:
        pair_id: Name of the pair.
        prediction: The caption; empty for none.
        references: Reference captions, at least one; None: not told.
        changed: Whether the pair is a changed one; None: not told.
        before: What the list calls the earlier image.
        after: What the list calls the later image.
        model: Name and fingerprint of the model, "NAME@FINGERPRINT".
        settings: What the captions depend on (dtype, `semantic_maps`, beams, ...).
        inputs: Digests of all that was asked; see `rscc_hf.inference.run_inputs`.
        notes: What is to be known about the images, a sentence each.
        unknown: Names of fields of the line that nobody knows; not written.
    """

    pair_id: str
    prediction: str
    references: tuple[str, ...] | None = None
    changed: bool | None = None
    before: Any = None
    after: Any = None
    model: Any = None
    settings: Any = None
    inputs: Any = None
    notes: Any = None
    unknown: tuple[str, ...] = ()

    def text(self) -> str:
        """Return the line with its end; what is None is left out."""
        row = {name: value for name, value in vars(self).items() if value is not None and name != "unknown"}
        return json_line(row)

    @classmethod
    def read(cls, row: Mapping[str, Any], where: str, needed: Sequence[str] = ()) -> PredictionLine:
        """Read what stands in a line.

        Args:
            row: Its fields.
            where: File and number of the line, for the sentence.
            needed: Fields that must be there beside `pair_id` and `prediction`.

        Raises:
            PredictionsError: A field is missing or of another type, or two of one meaning contradict each other.
        """
        given = {name: _pick(row, name, where, needed=name in ("pair_id", "prediction", *needed)) for name in _READ}
        name, pair_id = given["pair_id"]
        if isinstance(pair_id, bool) or not isinstance(pair_id, str | int) or pair_id == "":
            raise PredictionsError(f"{where}: `{name}` must be a non-empty string or a whole number; give one.")
        name, prediction = given["prediction"]
        if not isinstance(prediction, str):
            raise PredictionsError(f"{where}: `{name}` must be a string; give an empty one for no caption.")
        name, references = given["references"]
        if references is not None or "references" in needed:
            if not isinstance(references, list) or not all(isinstance(caption, str) for caption in references):
                raise PredictionsError(f"{where}: `{name}` must be a list of strings; write [...] around them.")
            if not references:
                raise PredictionsError(f"{where}: `{name}` is an empty list; give at least one reference.")
        name, changed = given["changed"]
        if changed not in (None, True, False):  # 0 and 1 are equal to these
            raise PredictionsError(f"{where}: `{name}` must be true or false; give one of them, or leave it out.")
        known = {alias for meaning in _READ for alias in NAMES[meaning]} | {*_OF_A_RUN}
        return cls(
            pair_id=str(pair_id),
            prediction=prediction,
            references=None if references is None else tuple(references),
            changed=None if changed is None else bool(changed),
            **{name: row.get(name) for name in _OF_A_RUN},
            unknown=tuple(name for name in row if name not in known),
        )


_READ = ("pair_id", "prediction", "references", "changed")
_OF_A_RUN = tuple(field.name for field in fields(PredictionLine) if field.name not in (*_READ, "unknown"))


@dataclass(frozen=True)
class SkippedLine:
    """A pair that `rscc caption` has no caption for, as a line of the file beside its output.

    Attributes:
        pair_id: Name of the pair.
        before: What the list calls the earlier image.
        after: What the list calls the later image.
        error: Why there is no caption.
    """

    pair_id: str
    before: str
    after: str
    error: str

    def text(self) -> str:
        """Return the line with its end."""
        return json_line(vars(self))


def _pick(row: Mapping[str, Any], meaning: str, where: str, *, needed: bool) -> tuple[str, Any]:
    """Return the one of several fields for a thing that says something, and its value; null where none is there."""
    names = NAMES[meaning]
    present = [name for name in names if row.get(name) is not None] or [name for name in names if name in row]
    if not present:
        if needed:
            quoted = " or ".join(f"`{name}`" for name in names)
            raise PredictionsError(f"{where} has no field {quoted}; add it.")
        return names[0], None
    for other in present[1:]:
        if row[other] != row[present[0]]:
            raise PredictionsError(f"{where}: `{present[0]}` and `{other}` contradict each other; keep one of them.")
    return present[0], row[present[0]]


def prediction_lines(path: Path, needed: Sequence[str] = ()) -> Iterator[tuple[int, PredictionLine]]:
    """Yield the lines of a file with their numbers; a byte-order mark and blank lines are skipped.

    Args:
        path: The file, UTF-8.
        needed: Fields that each line must have beside `pair_id` and `prediction`.

    Raises:
        PredictionsError: There is no such file, or a line cannot be used; the message names it.
    """
    if not path.is_file():
        raise PredictionsError(f"There is no file of predictions {path}; name one that is there.")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if line.strip():
                where = f"{path}, line {number}"
                row = json_object(line, where, "mend the line or remove it", error=PredictionsError)
                yield number, PredictionLine.read(row, where, needed)


def begins_as(path: Path, kind: type[PredictionLine] | type[SkippedLine]) -> bool:
    """Tell whether a file is empty or its first line is of a kind (or the beginning of one, after a kill)."""
    with path.open("rb") as file:
        line = file.readline(_FIRST_LINE).removeprefix(b"\xef\xbb\xbf")
    first, *_ = (field.name for field in fields(kind))
    if not line.endswith(b"\n"):
        start = f'{{"{first}": '.encode()
        return start.startswith(line[: len(start)])
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and row.keys() >= {first, "prediction" if kind is PredictionLine else "error"}
