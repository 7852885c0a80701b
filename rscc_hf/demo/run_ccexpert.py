"""The whole of CCExpert in one command: a small LLaVA-OneVision from nothing, then stages I, II and III.

Stage 0 stands in for the pretrained LLaVA-OneVision. As in `run_mmodalcc.py` the amount of work is fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from datasets import Dataset
from rich.console import Console

from rscc_hf.data.loading import captions_of, load_pairs
from rscc_hf.demo.answers import SCORED, Row, captions_of_split, reference_rows, score_row
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
from rscc_hf.demo.gallery_ccexpert import closed_levels, gallery_entries
from rscc_hf.demo.onevision import SmallOneVision, make_tokenizer, write_new, write_trained
from rscc_hf.demo.report import Curve, write_report
from rscc_hf.evaluation import ChangeCaptionScorer
from rscc_hf.formats.training import read_log
from rscc_hf.inference.captioner import ChangeCaptioner
from rscc_hf.progress import Work
from rscc_hf.training.aids.land_cover import LandCoverRecipe, train_land_cover
from rscc_hf.training.engine.recipe import read_recipe
from rscc_hf.training.engine.recipe_files import packaged_recipe
from rscc_hf.training.systems.ccexpert.recipe import CCExpertRecipe, Stage1Recipe, Stage2Recipe, Stage3Recipe
from rscc_hf.training.systems.ccexpert.task import train_ccexpert

R = TypeVar("R", bound=CCExpertRecipe)
LIMITS = (
    "Stage 0: the small LLaVA-OneVision, asked about whole pairs before there is a module. It learnt mostly on images "
    "that are grey wherever nothing changed and so sees changes in whole ones too: its row shows what the stages "
    "start from, not what CCExpert would be without its module.",
    "What limits it: the language model has read a few thousand pairs only. Each token of an image looks at the "
    "changed ones wherever they lie, so that what changed is learned long before where (place).",
)
STAGES: tuple[tuple[str, str, type[CCExpertRecipe]], ...] = (
    ("stage1", "Stage I: the module", Stage1Recipe),
    ("stage2", "Stage II: everything", Stage2Recipe),
    ("stage3", "Stage III: everything, at a low learning rate", Stage3Recipe),
)


def stage_recipe(kind: type[R], name: str, data: Path, out: Path, start: Path, seed: int, **overrides: Any) -> R:
    """Return a recipe of the demo (training/recipes/ccexpert_synthetic_NAME.yaml).

    Args:
        kind: Its class.
        name: "tower", "stage0", "stage1", "stage2" or "stage3".
        data: The scenes.
        out: Gets the trained model.
        start: What training starts from.
        seed: Of the training.
        **overrides: Fields to change.
    """
    given = {"train_data": str(data), "output_dir": str(out), "init_from": str(start), "seed": seed}
    file = packaged_recipe(f"ccexpert_synthetic_{name}")
    return read_recipe(kind, file, **{**given, "progress_bar": False, **overrides})


def run_ccexpert(
    out: Path, *, seed: int = 1, pairs: int = PAIRS, overwrite: bool = False, console: Console | None = None,
    sizes: SmallOneVision | None = None, recipe_overrides: dict[str, Any] | None = None,
) -> DemoResult:  # fmt: skip
    """Synthesise, train a small LLaVA-OneVision and the three stages, score and report into the folder `out`.

    Args:
        out: Gets `data/` (parquet), `stages/` (what each stage left), `model/` (stage III; loads with
            `ChangeCaptioner.from_pretrained`), `predictions_*.jsonl`, `results.json` and `report.html`.
        seed: Of the scenes and of the training.
        pairs: Pairs in all splits together.
        overwrite: Replace what an earlier demo left in `out`.
        console: Where progress goes.
        sizes: Of the LLaVA-OneVision.
        recipe_overrides: Fields to change in all recipes (the tests train less).

    Raises:
        ValueError: `out` exists and is not empty, or holds something that no demo wrote.
    """
    console = console or Console()
    with demo_folder(out, overwrite):
        run = _Run(out, seed, console, recipe_overrides or {})
        return _run_parts(run, out, pairs, sizes or SmallOneVision())


def _run_parts(run: _Run, out: Path, pairs: int, sizes: SmallOneVision) -> DemoResult:
    seed, console = run.seed, run.console
    watch = Announcer(console)

    with watch.part(
        "scenes", f"Synthesising {pairs} pairs: two dates, semantic maps, captions", "pairs", threads=False
    ) as work:
        synthesize_scenes(run.data, pairs, seed, work)
    with watch.part("tower", "Stage 0: a tower from nothing learns the land cover of single dates", "steps") as work:
        tokenizer = make_tokenizer(captions_of(load_pairs(str(run.data), "train")), sizes.vocab_size)
        write_new(run.stages / "new", tokenizer, sizes, seed)
        run.train(work, LandCoverRecipe, train_land_cover, "tower", run.stages / "new")
    with watch.part(
        "stage0", "Stage 0: tower, projector and language model learn captions, the module off", "steps"
    ) as work:
        result = run.train(work, CCExpertRecipe, train_ccexpert, "stage0", run.stages / "tower")
        write_trained(run.stages / "onevision", run.stages / "new", result.task.model, tokenizer)
    start = run.stages / "onevision"
    for name, title, kind in STAGES:
        with watch.part(name, title, "steps") as work:
            run.train(work, kind, train_ccexpert, name, start)
        start = run.folder(name)
    with watch.part("captions", "Captioning the test split after each stage", "pairs") as work:
        test = load_pairs(str(run.data), "test")
        captioner = ChangeCaptioner.from_pretrained(run.folder("stage3"))
        answers = {}
        for name, _ in SCORED:
            model = captioner if name == "stage3" else ChangeCaptioner.from_pretrained(run.folder(name))
            work(note=name)
            answers[name] = captions_of_split(model, test, with_maps=False, on_progress=work)
        write_predictions(out, test, answers)
    with watch.part("scores", "Scoring, beside the best constant caption, the references and the oracle"):
        rows = _score(test, answers)
    with watch.part("page", "Writing the page"):
        chosen = gallery_indices(test)
        gallery = gallery_entries(
            captioner,
            [test[index] for index in chosen],
            [answers["stage3"][index] for index in chosen],
            [answers["stage0"][index] for index in chosen],
        )
        report = out / "report.html"
        write_report(
            report,
            "report_ccexpert.html.jinja",
            rows=rows,
            curves=run.curves,
            pairs=gallery,
            **_texts(run, captioner, test, watch.seconds, closed_levels(gallery)),
        )
        write_results(out, rows, seconds=watch.seconds, seed=seed, pairs=pairs)
    for table in score_tables(rows):
        console.print(table)
    console.print(f"{sum(watch.seconds.values()):.0f} seconds in all.")
    return DemoResult(rows, watch.seconds, report, run.folder("stage3"))


class _Run:
    """Folders, progress and curves of the stages."""

    def __init__(self, out: Path, seed: int, console: Console, overrides: dict[str, Any]) -> None:
        self.data, self.stages, self.model = out / "data", out / "stages", out / "model"
        self.seed, self.console, self.overrides = seed, console, overrides
        self.curves: list[Curve] = []
        self.recipes: dict[str, CCExpertRecipe] = {}
        self.samples: dict[str, int] = {}

    def folder(self, name: str) -> Path:
        """Return where a stage leaves its model."""
        return self.model if name == "stage3" else self.stages / name

    def train(self, work: Work, kind: type[R], train: Callable[..., Any], name: str, start: Path) -> Any:
        """Train a stage; `work` is told its steps."""
        folder = self.folder(name)
        recipe = stage_recipe(kind, name, self.data, folder, start, self.seed, **self.overrides)
        result = train_on(work, self.console, train, recipe)
        self.recipes[name] = result.recipe
        self.curves.append((_CURVES[name], read_log(folder), recipe.global_batch_size))
        self.samples[name] = len(result.task.samples) * result.state.epoch
        return result


_CURVES = {
    "tower": "tower (a patch)",
    "stage0": "stage 0",
    "stage1": "stage I",
    "stage2": "stage II",
    "stage3": "stage III",
}


def _score(test: Dataset, answers: dict[str, list[str]]) -> list[Row]:
    with ChangeCaptionScorer() as scorer:
        ours = [score_row(title, answers[name], test, scorer, ours=name == "stage3") for name, title in SCORED]
        return ours + reference_rows(test, scorer)


def _texts(
    run: _Run, captioner: ChangeCaptioner, test: Dataset, seconds: dict[str, float], closed: list[str]
) -> dict[str, Any]:
    """Return the sentences of the page; `closed`: levels that the module leaves out."""
    samples = run.samples
    parameters = captioner.model.num_parameters() / 1e6
    config = captioner.model.config
    return {
        **common_texts(test),
        "title": "CCExpert on synthetic scenes",
        "subtitle": (
            f"A model of {parameters:.2f} million parameters (images of {config.image_size} pixels, "
            f"{config.tokens_per_image} tokens each), trained from nothing on synthetic pairs (seed {run.seed}), RGB "
            "only. It has seen no real image and no other text: the scores say that the whole path works, not how "
            "well CCExpert does on your data."
        ),
        "notes": (*NOTES, *LIMITS),
        "training_text": (
            "Stage 0 stands in for the pretrained LLaVA-OneVision: the tower learns the land cover of single dates "
            f"({samples['tower']:,} pairs, {seconds['tower']:.0f} s), then tower, projector and language model learn "
            f"captions with the module off ({samples['stage0']:,} samples of "
            f"{run.recipes['stage0'].captions_per_pair} captions each, {seconds['stage0']:.0f} s); saved as a "
            "LLaVA-OneVision and taken in by from_llava_onevision. "
            + " ".join(
                f"Stage {number}: {samples[name]:,} samples, {seconds[name]:.0f} s."
                for name, number in (("stage1", "I"), ("stage2", "II"), ("stage3", "III"))
            )
            + f" {precision_text(run.recipes.values())}; recipes: training/recipes/ccexpert_synthetic_*.yaml. "
            + _aids(run)
        ),
        "gallery_text": (
            "The first changed and unchanged pairs of the test split, picked by nobody. The marks compare the caption "
            "of stage III with the generator's record of what really changed. The heat maps show how far the change "
            "features of each patch are from the usual ones, on one scale for all pairs; bright is far."
            + (f" The gate has closed on {' and '.join(closed)} for all of them." if closed else "")
        ),
        "predictions_file": str(run.model.parent / "predictions_stage3.jsonl"),
    }


def _aids(run: _Run) -> str:
    """Return what helped that is no part of the paper, and where."""

    def stages(field: str) -> str:
        return ", ".join(_CURVES[name] for name, recipe in run.recipes.items() if getattr(recipe, field))

    aids = []
    if where := stages("change_mask_loss"):
        aids.append(f"an auxiliary change-mask loss on the change features ({where}; the curves include it)")
    if where := stages("changed_pixels_share"):
        aids.append(f"a share of the images grey wherever nothing changed ({where})")
    return f"No part of the paper: {' and '.join(aids)}. The test pairs are shown whole." if aids else ""
