"""A report: what was measured, as JSON and as a table."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rscc_hf.errors import InputError
from rscc_hf.evaluation.scores import PARTS, SCORE_KEYS, SCORES, Scores
from rscc_hf.files import check_replaceable_file, refuse_input_as_output, write_text
from rscc_hf.formats.fields import filled

# What a report need not tell to be read.
_NOT_TOLD: dict[str, Any] = {
    "changed": None,
    "unchanged": None,
    "baseline": None,
    "duplicates_dropped": 0,
    "versions": {},
}
NO_CIDER_D = "CIDEr-D is 0 where all pairs share their references"
"""What is said beside a report of which `has_no_cider_d` is true."""


@dataclass
class Report:
    """The scores of a set of captions; every number is times 100 (per cent) and not rounded.

    Attributes:
        all: The eight scores (`scores.SCORE_KEYS`) of the whole set.
        changed: Those of its changed pairs, scored as a set of their own; None when there are none.
        unchanged: Those of its unchanged pairs; None when there are none.
        baseline: The best constant caption: its eight scores on the whole set, its `caption`, and its scores on the
            `changed` and `unchanged` pairs (None when there are none). None when it was not asked for.
        accuracy: `changed`: how many changed pairs got a caption that says something changed; `unchanged`: how many
            unchanged ones got one that says nothing did. None when there are no such pairs.
        protocol: How captions became tokens; see `rscc_hf.evaluation.protocols`.
        n: Pairs scored.
        n_changed: Changed ones among them.
        n_unchanged: Unchanged ones among them.
        duplicates_dropped: Repeats of pairs that were dropped before scoring.
        versions: Of this package, the scorers, Java and Python.
        bootstrap: `samples`, `seed`, `level` (0.95) and, for `all`, `changed` and `unchanged`, the lower and upper end
            of each score's interval (None for an empty part). None when it was not asked for.
        notes: What to know before the numbers are believed, a sentence each.
    """

    all: Scores
    changed: Scores | None
    unchanged: Scores | None
    baseline: dict[str, Any] | None
    accuracy: dict[str, float | None]
    protocol: str
    n: int
    n_changed: int
    n_unchanged: int
    duplicates_dropped: int
    versions: dict[str, str]
    bootstrap: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, content: Any, where: str, remedy: str) -> Self:
        """Read what `to_dict` gave; what a later version may say beside is passed over.

        Args:
            content: JSON types.
            where: What it is, for the sentence.
            remedy: What to do about it, without a full stop.

        Raises:
            InputError: It is no report, or a field of it is missing or of another type.
        """

        def wrong(what: str) -> InputError:
            return InputError(f"{where} {what}; {remedy}.")

        if not isinstance(content, dict) or not {"all", "protocol", "n", "accuracy"} <= content.keys():
            raise wrong("is no report")
        for part in ("all", *PARTS, "baseline"):
            scores = content.get(part)
            if scores is None and part != "all":
                continue
            numbers = scores if isinstance(scores, dict) else {}
            missing = [name for name in SCORE_KEYS if not isinstance(numbers.get(name), int | float)]
            if missing:
                raise wrong(f"has no {missing[0]} in {part}")
        report = filled(cls, {**_NOT_TOLD, **content}, where, remedy)
        if any(not isinstance(value, int | float | None) for value in report.accuracy.values()):
            raise wrong("has no numbers in accuracy")
        intervals = (report.bootstrap or {}).get("all")
        if intervals is not None and not _are_intervals(intervals):
            raise wrong("has no intervals in bootstrap")
        return report

    @property
    def has_no_cider_d(self) -> bool:
        """Tell whether CIDEr-D of the unchanged pairs says nothing: all of them share their references."""
        return self.unchanged is not None and self.unchanged["cider_d"] == 0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types, a key for each attribute; `bootstrap` and `notes` where there are any."""
        fields: dict[str, Any] = json.loads(json.dumps(vars(self), allow_nan=False))
        return {name: value for name, value in fields.items() if value or name not in ("bootstrap", "notes")}


def _are_intervals(ends: Any) -> bool:
    """Tell whether each score has a lower and an upper end, or none."""
    return isinstance(ends, dict) and all(
        end is None or (isinstance(end, list) and len(end) == 2 and all(isinstance(one, int | float) for one in end))
        for end in ends.values()
    )


def write_json(report: Report, path: Path) -> None:
    """Write a report as JSON, whole or not at all.

    Args:
        report: The report.
        path: The file; missing folders are made, an existing file is replaced.

    Raises:
        OSError: The file cannot be written.
    """
    write_text(Path(path), json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def check_report_output(path: Path, predictions: Path) -> None:
    """Look, before the work, whether a report of `predictions` may be written to `path`.

    Raises:
        ValueError: It is what is read, or a file that is no report.
    """
    if not path.is_dir():
        refuse_input_as_output(path, [predictions])
    check_replaceable_file(path, "report of `rscc evaluate`", _is_report)


def _is_report(path: Path) -> bool:
    try:
        Report.parse(json.loads(path.read_text(encoding="utf-8")), str(path), "")
    except (OSError, ValueError, RecursionError):  # an InputError is a ValueError
        return False
    return True


def _per_cent(value: float | None) -> str:
    return "- (none there)" if value is None else f"{value:.1f} %"


def _printable(text: str) -> str:
    """Return the text of a file without what would control the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def render_table(report: Report) -> Group:
    """Lay a report out for the terminal: whole set, parts, best constant caption, and what they mean.

    Args:
        report: The report.

    Returns:
        Something to `print` with a rich console; it fits 80 columns.
    """
    rows: list[tuple[str, Scores | None]] = [
        ("all", report.all),
        ("changed", report.changed),
        ("unchanged", report.unchanged),
    ]
    baseline = report.baseline or {}
    shown = [scores for _, scores in rows] + [baseline, baseline.get("changed"), baseline.get("unchanged")]
    hundreds = sum(max((scores[key] for scores in shown if scores), default=0) >= 99.995 for key in SCORE_KEYS)
    # Six digits in many columns, and 80 of them hold the table without the space between.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, int(hundreds < 3), 0, 0))
    table.add_column("", no_wrap=True)
    for score in SCORES:
        table.add_column(score.head, justify="right", no_wrap=True)

    def add(name: str, scores: dict[str, Any] | None, style: str = "") -> None:
        cells = [f"{scores[key]:.2f}" for key in SCORE_KEYS] if scores else ["-"] * len(SCORE_KEYS)
        table.add_row(name, *cells, style=style)

    for name, scores in rows:
        add(name, scores, "bold" if name == "all" else "")
        intervals = report.bootstrap[name] if report.bootstrap else None
        if intervals:
            halves = [f"±{(intervals[key][1] - intervals[key][0]) / 2:.1f}" for key in SCORE_KEYS]
            table.add_row("", *halves, style="dim")
    if report.baseline is not None:
        table.add_section()
        add("best constant", report.baseline)
        add("  changed", report.baseline["changed"], "dim")
        add("  unchanged", report.baseline["unchanged"], "dim")

    counts = f"{report.n:,} pairs: {report.n_changed:,} changed, {report.n_unchanged:,} unchanged"
    if report.duplicates_dropped:
        counts += f" · {report.duplicates_dropped:,} repeats dropped"
    lines = [
        f"protocol {report.protocol} · {counts}",
        "rightly said to be: "
        f"changed {_per_cent(report.accuracy['changed'])}, unchanged {_per_cent(report.accuracy['unchanged'])}",
    ]
    if report.baseline is not None:
        lines.append(f"best constant caption: “{_printable(report.baseline['caption'])}”")
    if report.bootstrap is not None:
        lines.append(
            f"±: half of the {report.bootstrap['level']:.0%} bootstrap interval "
            f"({report.bootstrap['samples']:,} samples, seed {report.bootstrap['seed']})"
        )
    if report.has_no_cider_d:
        lines.append(f"{NO_CIDER_D}: no word tells pairs apart")
    versions = report.versions
    lines.append(f"pycocoevalcap {versions['pycocoevalcap']}, METEOR {versions['meteor']}, no PTB tokenizer")
    notes = [Text(f"Note: {_printable(note)}") for note in report.notes]
    return Group(table, *(Text(line, style="dim") for line in lines), *notes)
