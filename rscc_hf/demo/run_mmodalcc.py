"""The whole of MModalCC in one command: scenes, training from nothing, scores, captions, a page.

The amount of work is fixed (pairs and training samples, not seconds), so that the numbers of two machines compare.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.console import Console

from rscc_hf.data.loading import load_pairs
from rscc_hf.demo.answers import CONDITIONS, Row, captions_of_split, reference_rows, score_row
from rscc_hf.demo.common import (
    NOTES,
    PAIRS,
    Announcer,
    DemoResult,
    common_texts,
    demo_folder,
    gallery_indices,
    precision_text,
    score_tables,
    synthesize_scenes,
    train_on,
    write_predictions,
    write_results,
)
from rscc_hf.demo.gallery_mmodalcc import gallery_entry
from rscc_hf.demo.report import write_report
from rscc_hf.evaluation import ChangeCaptionScorer
from rscc_hf.evaluation.scores import TITLES
from rscc_hf.formats.recipes import RECIPE as RESOLVED
from rscc_hf.formats.training import read_log
from rscc_hf.inference.captioner import ChangeCaptioner
from rscc_hf.progress import Work
from rscc_hf.training.engine.recipe import read_recipe
from rscc_hf.training.engine.recipe_files import packaged_recipe
from rscc_hf.training.systems.mmodalcc.recipe import MModalCCRecipe
from rscc_hf.training.systems.mmodalcc.task import train_mmodalcc

RECIPE = "mmodalcc_synthetic"
NOTE_ON_MAPS = (
    "RGB, maps of changes: the maps show changed pixels only (SECOND's way), which gives away whether and where "
    "something changed."
)


def demo_recipe(data: Path, out: Path, seed: int, **overrides: Any) -> MModalCCRecipe:
    """Return the demo's recipe (training/recipes/mmodalcc_synthetic.yaml) for the scenes in `data`."""
    given = {"train_data": str(data), "output_dir": str(out), "seed": seed, "progress_bar": False, **overrides}
    return read_recipe(MModalCCRecipe, packaged_recipe(RECIPE), **given)


def run_mmodalcc(
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
    with demo_folder(out, overwrite):
        return _run(out, seed, pairs, console, recipe_overrides or {})


def _run(out: Path, seed: int, pairs: int, console: Console, overrides: dict[str, Any]) -> DemoResult:
    watch = Announcer(console)
    data, model_folder = out / "data", out / "model"

    with watch.part(
        "scenes", f"Synthesising {pairs} pairs: two dates, semantic maps, captions", "pairs", threads=False
    ) as work:
        synthesize_scenes(data, pairs, seed, work)
    with watch.part("training", "Training MModalCC from nothing on RGB and maps", "steps") as work:
        recipe = _train(work, demo_recipe(data, model_folder, seed, **overrides), console)
    with watch.part(
        "captions", "Captioning the test split: with maps, without, with maps of changed pixels only", "pairs"
    ) as work:
        captioner = ChangeCaptioner.from_pretrained(model_folder)
        test = load_pairs(str(data), "test")
        answers = _captions(captioner, data, test, work)
        write_predictions(out, test, answers)
    with watch.part("scores", "Scoring, beside the best constant caption, the references and the oracle"):
        rows = _score(test, answers)
    with watch.part("page", "Writing the page"):
        texts = _texts(captioner, test, recipe, watch.seconds["training"])
        gallery = [
            gallery_entry(captioner, test[index], answers["maps"][index], answers["rgb"][index])
            for index in gallery_indices(test)
        ]
        report = out / "report.html"
        curves = [("training", read_log(model_folder), recipe.global_batch_size)]
        write_report(report, "report_mmodalcc.html.jinja", rows=rows, curves=curves, pairs=gallery, **texts)
        write_results(out, rows, seconds=watch.seconds, seed=seed, pairs=pairs)
    for table in score_tables(rows):
        console.print(table)
    console.print(f"{sum(watch.seconds.values()):.0f} seconds in all.")
    return DemoResult(rows, watch.seconds, report, model_folder)


def _train(work: Work, recipe: MModalCCRecipe, console: Console) -> MModalCCRecipe:
    """Train, and return the recipe with what it left open."""

    def on_evaluation(scores: dict[str, float]) -> None:
        shown = ", ".join(f"{TITLES[key]} {scores[key]:.1f}" for key in ("bleu_4", "s_m"))
        console.print(f"   validation: {shown}")

    return train_on(work, console, train_mmodalcc, recipe, on_evaluation=on_evaluation).recipe


def _captions(captioner: ChangeCaptioner, data: Path, test: Dataset, work: Work) -> dict[str, list[str]]:
    """Return the model's captions of the test split under each of `CONDITIONS`."""
    answers = {}
    for condition in CONDITIONS:
        pairs = test
        if condition.maps == "changed":
            pairs = load_pairs(str(data), "test", semantic_coverage="changed")
        with_maps = condition.maps is not None
        work(note=condition.name)
        answers[condition.key] = captions_of_split(captioner, pairs, with_maps=with_maps, on_progress=work)
    return answers


def _score(test: Dataset, answers: dict[str, list[str]]) -> list[Row]:
    with ChangeCaptionScorer() as scorer:
        ours = [score_row(item.name, answers[item.key], test, scorer, ours=True) for item in CONDITIONS]
        return ours + reference_rows(test, scorer)


def _texts(captioner: ChangeCaptioner, test: Dataset, recipe: MModalCCRecipe, seconds: float) -> dict[str, Any]:
    """Return the sentences of the page."""
    steps = [line.step for line in read_log(Path(recipe.output_dir)) if line.loss is not None]
    samples = max(steps, default=0) * recipe.global_batch_size
    parameters = captioner.model.num_parameters() / 1e6
    return {
        **common_texts(test),
        "title": "MModalCC on synthetic scenes",
        "subtitle": (
            f"A model of {parameters:.2f} million parameters, trained from nothing on synthetic pairs (seed "
            f"{recipe.seed}). It has seen no real image: the scores say that the whole path works, not how well "
            "MModalCC does on your data."
        ),
        "notes": (*NOTES, NOTE_ON_MAPS),
        "training_text": (
            f"About {samples:,} samples in {seconds:.0f} seconds, images of {recipe.image_size} pixels, "
            f"{precision_text([recipe])}; recipe: training/recipes/{RECIPE}.yaml, resolved in model/{RESOLVED}. "
            f"In the first {recipe.changed_coverage_epochs} epochs the maps show changed pixels only."
        ),
        "gallery_text": (
            "The first changed and unchanged pairs of the test split, picked by nobody. The marks compare the caption "
            "(with maps) with the generator's record of what really changed."
        ),
        "predictions_file": str(Path(recipe.output_dir).parent / "predictions_maps.jsonl"),
    }
