"""What training leaves beside its weights and its recipe: `training_summary.json` and `training_log.jsonl`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rscc_hf.formats.fields import filled
from rscc_hf.text import json_object

_IS_LOCAL = "_is_local"
_LEARNING_RATE = "learning_rate/"


@dataclass(frozen=True)
class TrainingSummary:
    """What kind of images a model has seen, and what was read from the Hub.

    Attributes:
        trained_on: Sources of the training pairs, with commas between them ("synthetic", ...).
        data: What was given as training data.
        split: Its split.
        synthesized: Whether its synthetic pairs have the records of `rscc data synthesize`; None: it is not told.
        is_local: Of `train_data`, `init_from` and the other keys of the recipe that name a folder or an id on the Hub,
            which may look the same: whether it was a folder when it was read.
        data_revision: Revision of data on the Hub, where one was asked for.
        init_revision: Revision of the starting weights on the Hub, where one was asked for.
    """

    NAME: ClassVar[str] = "training_summary.json"

    trained_on: str | None = None
    data: str | None = None
    split: str | None = None
    synthesized: bool | None = None
    is_local: dict[str, bool] = field(default_factory=dict)
    data_revision: str | None = None
    init_revision: str | None = None

    def write(self, folder: Path) -> None:
        """Write it into the folder of a model."""
        row: dict[str, Any] = {"trained_on": self.trained_on, "data": self.data, "split": self.split}
        if self.synthesized is not None:
            row["synthesized"] = self.synthesized
        for key, value in self.is_local.items():
            row[("data" if key == "train_data" else key) + _IS_LOCAL] = value
        for name in ("data_revision", "init_revision"):
            if getattr(self, name) is not None:
                row[name] = getattr(self, name)
        (folder / self.NAME).write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> TrainingSummary:
        """Read it; what a later version may say beside is passed over.

        Raises:
            InputError: It is damaged.
        """
        remedy = "remove it or write it again"
        row = json_object(path.read_bytes(), str(path), remedy)
        flags = {name: value for name, value in row.items() if name.endswith(_IS_LOCAL)}
        for name, value in flags.items():
            filled(_Flag, {"value": value}, f"{path}, field {name}", remedy)
        keys = {name: name.removesuffix(_IS_LOCAL) for name in flags}
        is_local = {"train_data" if keys[name] == "data" else keys[name]: value for name, value in flags.items()}
        return filled(cls, {**row, "is_local": is_local}, str(path), remedy)


@dataclass(frozen=True)
class _Flag:
    value: bool


@dataclass(frozen=True)
class LogLine:
    """A line of the log: a step with its loss, or a validation.

    Attributes:
        step: Optimiser steps taken so far.
        epoch: Epochs that were finished.
        loss: Mean loss of the step, nats a target.
        learning_rates: By name of the part; written as `learning_rate/PART`.
        seconds: Wall time since the line before, validation and checkpoints left out.
        improved: Whether a validation was the best so far, whose weights were kept.
        validation: Its scores by name.
    """

    NAME: ClassVar[str] = "training_log.jsonl"

    step: int
    epoch: int
    loss: float | None = None
    learning_rates: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None
    improved: bool | None = None
    validation: dict[str, float] | None = None

    def row(self) -> dict[str, Any]:
        """Return the fields of the line, in their order."""
        said = {name: value for name, value in asdict(self).items() if value is not None and name != "learning_rates"}
        rates = {_LEARNING_RATE + name: value for name, value in self.learning_rates.items()}
        seconds = {name: said.pop(name) for name in ("seconds",) if name in said}
        return {**said, **rates, **seconds}

    def text(self) -> str:
        """Return the line with its end."""
        return json.dumps(self.row()) + "\n"

    @classmethod
    def parse(cls, line: str, where: str) -> LogLine:
        """Read a line.

        Raises:
            InputError: It is no line of a log.
        """
        remedy = "remove the line"
        row = json_object(line, where, remedy)
        rates = {name.removeprefix(_LEARNING_RATE): row[name] for name in row if name.startswith(_LEARNING_RATE)}
        return filled(cls, {**row, "learning_rates": rates}, where, remedy)


def read_log(folder: Path) -> list[LogLine]:
    """Read the log of a run; it has no lines where there is none.

    Raises:
        InputError: A line is damaged.
    """
    path = folder / LogLine.NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [LogLine.parse(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
