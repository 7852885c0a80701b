"""The whole of MModalCC in one command: scenes, training from nothing, scores, captions, a page.

The amount of work is fixed (pairs and training samples, not seconds), so that the numbers of two machines compare.
"""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from datasets import Dataset
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rscc_hf import __version__
from rscc_hf.captioner import ChangeCaptioner
from rscc_hf.data.loading import load_pairs
from rscc_hf.data.synthetic import synthesize
from rscc_hf.demo.answers import CONDITIONS, Row, captions_of_split, reference_rows, score_row
from rscc_hf.demo.report import COLUMNS, NOTHING, cells_of, gallery_entry, read_log, write_report
from rscc_hf.evaluation import ChangeCaptionScorer
from rscc_hf.files import write_text
from rscc_hf.training.mmodalcc import MModalCCRecipe, train_mmodalcc
from rscc_hf.training.recipe import read_recipe

RECIPE = "mmodalcc_synthetic.yaml"
#: Pairs of all three splits together (80 / 10 / 10 per cent).
PAIRS = 3750
#: Test pairs on the page: the first of each kind in the order of the split, so that nobody picked them.
GALLERY_CHANGED, GALLERY_UNCHANGED = 12, 4
#: What a demo leaves in its folder; anything else there stops it.
WRITTEN = ("data", "model", "predictions_*.jsonl", "results.json", "report.html")
NOTES = (
    "Best constant caption: the frequent reference that scores highest when said of every pair.",
    "One reference in five: each reference scored against the other four of its pair, as another person's description "
    "would be; four references instead of five, so slightly low.",
    "Oracle: the generator's own record of the events, said in one plain sentence shape.",
    "RGB, maps of changes: the maps show changed pixels only (SECOND's way), which gives away whether and where "
    "something changed.",
    "Changed, unchanged: share of such pairs of which the caption says so.",
    "Kind, object, place and count: share of the captions of changed pairs that state it as the record has it; "
    "the count is judged where there is something to count.",
    "Protocol “words”: lower case, no full stops, split at spaces; BLEU, METEOR 1.5, ROUGE-L, CIDEr-D times 100, "
    "S*m their mean (with BLEU-4).",
)


@dataclass(frozen=True)
class DemoResult:
    """What the demo found: the rows of its table, its files and the seconds that each part took."""

    rows: list[Row]
    seconds: dict[str, float]
    report: Path
    model: Path


class _Stopwatch:
    """Announces each part of the demo and keeps its wall time."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str, title: str) -> Iterator[None]:
        self.console.print(f"[bold]{len(self.seconds) + 1}. {title}[/bold]")
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.console.print(f"   {self.seconds[name]:.0f} s")


def demo_recipe(data: Path, out: Path, seed: int, **overrides: Any) -> MModalCCRecipe:
    """The demo's recipe (training/recipes/mmodalcc_synthetic.yaml) for the scenes in `data`."""
    given = {"train_data": str(data), "output_dir": str(out), "seed": seed, "progress_bar": False, **overrides}
    with resources.as_file(resources.files("rscc_hf.training.recipes").joinpath(RECIPE)) as path:
        return read_recipe(MModalCCRecipe, path, **given)


def run_demo(
    out: Path, *, seed: int = 1, pairs: int = PAIRS, overwrite: bool = False, console: Console | None = None,
    recipe_overrides: dict[str, Any] | None = None,
) -> DemoResult:  # fmt: skip
    """Synthesise, train, score and report into the folder `out`.

    Args:
        out: Gets `data/` (parquet), `model/` (loads with `ChangeCaptioner.from_pretrained`), `predictions_*.jsonl`,
            `results.json` and `report.html`.
        seed: Of the scenes and of the training.
        pairs: Pairs in all splits together.
        overwrite: Replace what an earlier demo left in `out`.
        console: Where progress goes.
        recipe_overrides: Fields of the recipe to change (the tests train less).

    Raises:
        ValueError: `out` exists and is not empty, or holds something that no demo wrote.
    """
    console = console or Console()
    _prepare(out, overwrite)
    watch = _Stopwatch(console)
    data, model_folder = out / "data", out / "model"

    with (
        watch.part("scenes", f"Synthesising {pairs} pairs: two dates, semantic maps, captions"),
        _progress(console, "pairs") as update,
    ):
        synthesize(data, pairs, seed, progress=lambda done: update(completed=done, total=pairs))
    with watch.part("training", "Training MModalCC from nothing on RGB and maps"):
        recipe = demo_recipe(data, model_folder, seed, **(recipe_overrides or {}))
        _train(recipe, console)
    with watch.part("captions", "Captioning the test split: with maps, without, with maps of changed pixels only"):
        captioner = ChangeCaptioner.from_pretrained(model_folder)
        test = load_pairs(str(data), "test")
        answers = _captions(captioner, data, test)
        _write_predictions(out, test, answers)
    with watch.part("scores", "Scoring, beside the best constant caption, the references and the oracle"):
        rows = _score(test, answers)
    with watch.part("page", "Writing the page"):
        texts = _texts(captioner, test, recipe, watch.seconds["training"])
        gallery = _gallery(captioner, test, answers)
        report = out / "report.html"
        write_report(
            report, rows=rows, log=read_log(model_folder), batch_size=recipe.global_batch_size, pairs=gallery, **texts
        )
        result = {"rows": [asdict(row) for row in rows], "seconds": watch.seconds, "seed": seed, "pairs": pairs}
        write_text(out / "results.json", json.dumps(result, indent=1) + "\n")
    for table in score_tables(rows):
        console.print(table)
    console.print(f"{sum(watch.seconds.values()):.0f} seconds in all.")
    return DemoResult(rows, watch.seconds, report, model_folder)


def score_tables(rows: list[Row]) -> list[Table]:
    """The demo's table for a terminal, cut in two so that it fits 80 columns: scores, then what is right."""
    half = COLUMNS.index("S*m") + 1
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


def _prepare(out: Path, overwrite: bool) -> None:
    """Make `out` an empty folder, deleting nothing but what a demo writes."""
    if not out.exists():
        out.mkdir(parents=True)
        return
    if not out.is_dir():
        raise ValueError(f"{out} is a file: give the demo a folder with --output.")
    foreign = sorted(path.name for path in out.iterdir() if not any(path.match(pattern) for pattern in WRITTEN))
    if foreign:
        raise ValueError(f"{out} holds {foreign[0]}, which no demo wrote: give another folder with --output.")
    written = list(out.iterdir())
    if written and not overwrite:
        raise ValueError(f"{out} holds an earlier demo: replace it with --overwrite, or give another --output.")
    for path in written:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _progress(console: Console, unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar on `console`; yields what is called with `completed`, `total` and `description`."""
    columns = (TextColumn("  "), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    # no refreshing thread: worker processes are forked only where no other thread runs, and start faster so
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, auto_refresh=False) as progress:
        task = progress.add_task(unit, total=None)
        shown = 0.0

        def update(**values: Any) -> None:
            nonlocal shown
            progress.update(task, **values)
            if time.monotonic() - shown > 0.2:
                progress.refresh()
                shown = time.monotonic()

        yield update


def _train(recipe: MModalCCRecipe, console: Console) -> None:
    with _progress(console, "steps") as update:

        def on_step(step: int, total: int | None, loss: float) -> None:
            update(completed=step, total=total, description=f"steps, loss {loss:.2f}")

        def on_evaluation(scores: dict[str, float]) -> None:
            console.print(f"   validation: BLEU-4 {scores['bleu_4']:.1f}, S*m {scores['s_m']:.1f}")

        train_mmodalcc(recipe, on_step=on_step, on_evaluation=on_evaluation)


def _captions(captioner: ChangeCaptioner, data: Path, test: Dataset) -> dict[str, list[str]]:
    """The model's captions of the test split under each of `CONDITIONS`."""
    answers = {}
    for condition in CONDITIONS:
        pairs = test
        if condition.maps == "changed":
            pairs = load_pairs(str(data), "test", semantic_coverage="changed")
        answers[condition.key] = captions_of_split(captioner, pairs, with_maps=condition.maps is not None)
    return answers


def _write_predictions(out: Path, test: Dataset, answers: dict[str, list[str]]) -> None:
    """One file a condition, in the form that `rscc evaluate` reads."""
    columns = {name: list(test[name]) for name in ("pair_id", "captions", "changed")}
    for key, captions in answers.items():
        lines = [
            json.dumps({"pair_id": pair_id, "prediction": caption, "references": references, "changed": changed})
            for pair_id, caption, references, changed in zip(
                columns["pair_id"], captions, columns["captions"], columns["changed"], strict=True
            )
        ]
        write_text(out / f"predictions_{key}.jsonl", "\n".join(lines) + "\n")


def _score(test: Dataset, answers: dict[str, list[str]]) -> list[Row]:
    with ChangeCaptionScorer() as scorer:
        ours = [score_row(item.name, answers[item.key], test, scorer, ours=True) for item in CONDITIONS]
        return ours + reference_rows(test, scorer)


def _gallery(captioner: ChangeCaptioner, test: Dataset, answers: dict[str, list[str]]) -> list[dict[str, Any]]:
    """The first pairs of each kind, in the order of the split."""
    changed = list(test["changed"])
    chosen = [index for index, value in enumerate(changed) if value][:GALLERY_CHANGED]
    chosen += [index for index, value in enumerate(changed) if not value][:GALLERY_UNCHANGED]
    return [
        gallery_entry(captioner, test[index], answers["maps"][index], answers["rgb"][index])
        for index in sorted(chosen)
    ]


def _texts(captioner: ChangeCaptioner, test: Dataset, recipe: MModalCCRecipe, seconds: float) -> dict[str, Any]:
    """The sentences of the page."""
    changed = sum(test["changed"])
    steps = [entry["step"] for entry in read_log(Path(recipe.output_dir)) if "loss" in entry]
    samples = max(steps, default=0) * recipe.global_batch_size
    parameters = captioner.model.num_parameters() / 1e6
    return {
        "title": "MModalCC on synthetic scenes",
        "subtitle": (
            f"A model of {parameters:.2f} million parameters, trained from nothing on synthetic pairs (seed "
            f"{recipe.seed}). It has seen no real image: the scores say that the whole path works, not how well "
            "MModalCC does on your data."
        ),
        "n": {"all": len(test), "changed": changed, "unchanged": len(test) - changed},
        "notes": NOTES,
        "training_text": (
            f"About {samples:,} samples in {seconds:.0f} seconds, images of {recipe.image_size} pixels, "
            f"{recipe.mixed_precision} autocast; recipe: training/recipes/{RECIPE}, resolved in model/recipe.yaml. "
            f"In the first {recipe.changed_coverage_epochs} epochs the maps show changed pixels only."
        ),
        "gallery_text": (
            "The first changed and unchanged pairs of the test split, picked by nobody. The marks compare the caption "
            "(with maps) with the generator's record of what really changed."
        ),
        "predictions_file": str(Path(recipe.output_dir).parent / "predictions_maps.jsonl"),
        "footer": f"rscc_hf {__version__}, {platform.platform()}, Python {platform.python_version()}.",
    }
