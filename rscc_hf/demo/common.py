"""What the demos of both systems share: the folder, the clock, the table, the files of predictions."""

from __future__ import annotations

import json
import logging
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset
from rich import box
from rich.console import Console
from rich.table import Table

from rscc_hf import __version__
from rscc_hf.checkpoint_folder import CHECKPOINT
from rscc_hf.demo.answers import CONDITIONS, SCORED, Row
from rscc_hf.demo.report import COLUMNS, NOTHING, SHOWN, cells_of
from rscc_hf.evaluation.scores import MEAN_TITLES
from rscc_hf.files import Written, new_folder, write_text
from rscc_hf.formats.predictions import PredictionLine
from rscc_hf.formats.recipes import RECIPE
from rscc_hf.formats.training import LogLine, TrainingSummary
from rscc_hf.progress import Work, progress
from rscc_hf.synthetic.dataset import DATASET, synthesize
from rscc_hf.training.engine import run_files
from rscc_hf.training.engine.recipe import LoopRecipe

R = TypeVar("R")
#: What the files of predictions are called after: MModalCC's conditions, CCExpert's stages.
PREDICTED = (*(condition.key for condition in CONDITIONS), *(stage for stage, _ in SCORED))
#: Pairs of all three splits together (80 / 10 / 10 per cent).
PAIRS = 3750
#: Test pairs on the page: the first of each kind in the order of the split, so that nobody picked them.
GALLERY_CHANGED, GALLERY_UNCHANGED = 12, 4
RESULTS = "results.json"
NOTES = (
    "Best constant caption: the frequent reference that scores highest when said of every pair.",
    "One reference in five: each reference scored against the other four of its pair, as another person's description "
    "would be; four references instead of five, so slightly low.",
    "Oracle: the generator's own record of the events, said in one plain sentence shape.",
    "Changed, unchanged: share of such pairs of which the caption says so.",
    "Kind, object, place and count: share of the captions of changed pairs that state it as the record has it; "
    "the count is judged where there is something to count.",
    "Protocol “words”: lower case, no full stops, split at spaces; BLEU, METEOR 1.5, ROUGE-L, CIDEr-D times 100; "
    f"S*m is the mean of {MEAN_TITLES}.",
)


@dataclass(frozen=True)
class DemoResult:
    """What the demo found: the rows of its table, its files and the seconds that each part took."""

    rows: list[Row]
    seconds: dict[str, float]
    report: Path
    model: Path


class Announcer:
    """Announce each part of the demo and keep its wall time."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str, title: str, unit: str = "", *, threads: bool = True) -> Iterator[Work]:
        """Time a part, and yield what is called with how far it is (see `rscc_hf.progress.progress`)."""
        self.console.print(f"[bold]{len(self.seconds) + 1}. {title}[/bold]")
        start = time.perf_counter()
        with progress(f"   {name}", unit=unit, console=self.console, threads=threads) as work:
            yield work
        self.seconds[name] = time.perf_counter() - start
        self.console.print(f"   {self.seconds[name]:.0f} s")


def score_tables(rows: list[Row]) -> list[Table]:
    """Return the demo's table for a terminal, cut in two for 80 columns: scores, then what is right."""
    half = len(SHOWN)
    tables = []
    for title, part in (
        ("Scores on the test split", slice(0, half)),
        ("Right, per cent (kind, object, place, count: of changed pairs)", slice(half, None)),
    ):
        table = Table(title=f"\n{title}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        table.add_column("", no_wrap=True)
        for column in COLUMNS[part]:
            table.add_column(column, justify="right")
        for row in rows:
            cells = cells_of(row)[part]
            if any(cell != NOTHING for cell in cells):
                table.add_row(row.name, *cells, style="bold" if row.ours else None)
        tables.append(table)
    return tables


def _why_no_demo(folder: Path) -> str | None:
    """Tell why a folder is none of a demo (see `files.Written`): its results tell, which are there from the start."""
    try:
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        results = None
    known = isinstance(results, dict) and {"rows", "seconds"} <= results.keys()
    return None if known else f"is no folder of a demo (no {RESULTS} of one)"


# Of a training run, and of the LLaVA-OneVision that stage 0 stands in for.
_RUN = (
    *CHECKPOINT.names,
    *(RECIPE, LogLine.NAME, TrainingSummary.NAME, "video_preprocessor_config.json"),
    *("checkpoints/*", "last/*", "tracker/*"),
    *(
        run_files.RECORD,
        f"{run_files.PARTIAL_MODEL}/*",
        f"{run_files.COMPLETE_MODEL}/*",
        f"{run_files.COMPLETE_LAST}/*",
    ),
)
_PLACES = {"data": DATASET.checks, "model": CHECKPOINT.checks, "stages/*": CHECKPOINT.checks}
DEMO = Written(
    "demo",
    _why_no_demo,
    (
        *(RESULTS, "report.html", *(f"predictions_{key}.jsonl" for key in PREDICTED)),
        *(f"data/{name}" for name in DATASET.names),
        *(f"{folder}/{name}" for folder in ("model", "stages/*") for name in _RUN),
        *(".*.part", "*/.*.part", ".*.lock", ".*.softlock", "stages/.*lock", ".data.*"),  # of a run that was killed
    ),
    {f"{folder}/{name}": check for folder, checks in _PLACES.items() for name, check in checks.items()},
)
"""What a demo writes."""


@contextmanager
def demo_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder at `out`; what an earlier demo left there comes back after an error (`files.new_folder`).

    Raises:
        ValueError: `out` holds an earlier demo that is not to be replaced, or something that no demo wrote.
    """
    with new_folder(out, overwrite=overwrite, kind=DEMO, in_place=True) as folder:
        write_results(folder, [], seconds={})  # by which a run that is killed is known, to be replaced
        yield folder


def train_on(work: Work, console: Console, train: Callable[..., R], recipe: Any, **options: Any) -> R:
    """Call `train(recipe)` and tell its steps to `work`.

    Args:
        work: Is told each step and its loss.
        console: Gets what training logs.
        train: `train_mmodalcc` or one of its kind.
        recipe: What it takes.
        **options: For `train`.
    """

    def on_step(step: int, total: int | None, loss: float) -> None:
        work(step, total, note=f"loss {loss:.2f}")

    with _logged_to(console):
        return train(recipe, on_step=on_step, **options)


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        self.console.print(f"   {record.getMessage()}", markup=False, highlight=False)


@contextmanager
def _logged_to(console: Console) -> Iterator[None]:
    """Show on the console what training logs: the precision that it chose, what it left out."""
    logger, handler = logging.getLogger("rscc_hf.training"), _ConsoleHandler(console)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


def precision_text(recipes: Iterable[LoopRecipe]) -> str:
    """Return the precision of finished runs (`TrainingResult.recipe`), as the pages say it."""
    names = {"no": "float32", "bf16": "bf16 autocast"}
    return ", ".join(sorted({names.get(recipe.mixed_precision, recipe.mixed_precision) for recipe in recipes}))


def common_texts(test: Dataset) -> dict[str, Any]:
    """Return what the pages of all demos say: the number of pairs, and who wrote it."""
    changed = sum(test["changed"])
    return {
        "n": {"all": len(test), "changed": changed, "unchanged": len(test) - changed},
        "footer": f"rscc_hf {__version__}, {platform.platform()}, Python {platform.python_version()}.",
    }


def write_predictions(out: Path, test: Dataset, answers: dict[str, list[str]]) -> None:
    """Write one file a condition, in the form that `rscc evaluate` reads."""
    columns = {name: list(test[name]) for name in ("pair_id", "captions", "changed")}
    for key, captions in answers.items():
        lines = [
            PredictionLine(pair_id, caption, tuple(references), changed).text()
            for pair_id, caption, references, changed in zip(
                columns["pair_id"], captions, columns["captions"], columns["changed"], strict=True
            )
        ]
        write_text(out / f"predictions_{key}.jsonl", "".join(lines))


def synthesize_scenes(data: Path, pairs: int, seed: int, work: Work) -> None:
    """Write the demo's data set; `work` is told how many pairs there are."""
    synthesize(data, pairs, seed, progress=lambda done: work(done, pairs))


def gallery_indices(test: Dataset) -> list[int]:
    """Return the first pairs of each kind, in the order of the split."""
    changed = list(test["changed"])
    chosen = [index for index, value in enumerate(changed) if value][:GALLERY_CHANGED]
    chosen += [index for index, value in enumerate(changed) if not value][:GALLERY_UNCHANGED]
    return sorted(chosen)


def write_results(out: Path, rows: list[Row], **facts: Any) -> None:
    """Write `results.json`: the rows of the table and whatever else is told."""
    result = {"rows": [asdict(row) for row in rows], **facts}
    write_text(out / RESULTS, json.dumps(result, indent=1) + "\n")
