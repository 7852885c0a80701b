"""Scores that belong to a checkpoint: `results.jsonl` beside the weights, a line for each evaluation.

A line says what was scored (`dataset`, `dataset_id`, `split`, `maps`), by which weights (`fingerprint`) and keeps the
whole report of `rscc evaluate`. Scores of other weights than those in the folder are never shown.
"""

from pathlib import Path
from typing import Any

from rscc_hf.checkpoint import fingerprint_of
from rscc_hf.errors import InputError
from rscc_hf.evaluation.report import Report
from rscc_hf.files import refuse_input_as_output, write_text
from rscc_hf.formats.predictions import prediction_lines
from rscc_hf.formats.records import Evaluation
from rscc_hf.locks import exclusive
from rscc_hf.text import json_object


def read_report(path: Path) -> dict[str, Any]:
    """Read the report that `rscc evaluate --json` wrote.

    Raises:
        ValueError: It is no such report.
    """
    remedy = "give what `rscc evaluate --json` wrote"
    content = json_object(path.read_bytes(), str(path), remedy)
    Report.parse(content, str(path), remedy)
    return content


def add_evaluation(
    folder: Path,
    report: Path,
    dataset: str,
    split: str,
    *,
    dataset_id: str | None = None,
    predictions: Path | None = None,
) -> Evaluation:
    """Write a report into `results.jsonl` of a checkpoint, in the place of an earlier one of the same kind.

    Args:
        folder: The checkpoint.
        report: What `rscc evaluate --json` wrote.
        dataset: Name of the data set that was captioned.
        split: Its split.
        dataset_id: Its id on the Hub.
        predictions: The captions that were scored; where given, that this checkpoint wrote them is checked.

    Raises:
        ValueError: The report or the captions cannot be used, are the file that is written, the captions are by
            other weights, or another run writes results there.
    """
    refuse_input_as_output(folder / Evaluation.NAME, [report, *([] if predictions is None else [predictions])])
    fingerprint = fingerprint_of(folder)
    settings = None if predictions is None else _settings(predictions, folder, fingerprint)
    new = Evaluation(
        dataset=dataset,
        split=split,
        report=read_report(report),
        fingerprint=fingerprint,
        dataset_id=dataset_id,
        maps=None if settings is None else settings.pop("semantic_maps", None),
        settings=settings or None,
    )
    with exclusive(folder / Evaluation.NAME, "checkpoint"):  # else one of two writers would lose what the other adds
        kept = [old for old in read_evaluations(folder)[0] if _kind(old) != _kind(new)]
        write_text(folder / Evaluation.NAME, "".join(one.text() for one in [*kept, new]))
    return new


def read_evaluations(folder: Path) -> tuple[list[Evaluation], int]:
    """Read the evaluations of a checkpoint's own weights, and how many there are of other ones.

    Raises:
        ValueError: `results.jsonl` is damaged.
    """
    path = folder / Evaluation.NAME
    if not path.is_file():
        return [], 0
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        one = Evaluation.parse(line, f"{path}, line {number}")
        Report.parse(one.report, f"{path}, line {number}: its report", "remove it")
        found.append(one)
    now = fingerprint_of(folder)
    current = [one for one in found if one.fingerprint == now]
    return current, len(found) - len(current)


def _settings(predictions: Path, folder: Path, fingerprint: str) -> dict[str, Any]:
    """Return how the captions came about, after a look at who wrote every one of them."""
    settings: dict[str, Any] | None = None
    for number, line in prediction_lines(predictions):
        where = f"{predictions}, line {number}"
        if line.model is None or not isinstance(line.settings, dict):
            raise InputError(f"{where} was not written by `rscc caption`; give the captions it wrote.")
        if str(line.model).rpartition("@")[2] != fingerprint:
            raise InputError(f"{where} is by {line.model}, and {folder} is {fingerprint}; caption with {folder}.")
        if settings not in (None, line.settings):
            raise InputError(f"{where} was written with other settings than line 1; caption anew.")
        settings = dict(line.settings)
    if settings is None:
        raise InputError(f"{predictions} is empty; give the captions that were scored.")
    return settings


def _kind(one: Evaluation) -> tuple[Any, ...]:
    return one.dataset, one.split, one.report["protocol"], one.maps
