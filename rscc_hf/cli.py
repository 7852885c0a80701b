"""The command `rscc`: reads options and shows answers. The work is in the modules, imported when they are needed."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typer.core import TyperGroup

from rscc_hf.data.scenes.style import Nuisances

if TYPE_CHECKING:
    from rscc_hf.captioner import ChangeCaptioner
    from rscc_hf.pairs import PairList

# Names of files that are told one by one before "and N more".
_TOLD = 10


class _Group(TyperGroup):
    """Says what is wrong with the input in one line; whatever else goes wrong keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except Exception as error:
            if not _is_ours(error):
                raise
            print(f"Error: {_one_line(error)}", file=sys.stderr)
            raise SystemExit(1) from error


def _is_ours(error: Exception) -> bool:
    """Whether the error is about what the user gave: a file, or a sentence of this package."""
    if isinstance(error, OSError) or type(error).__module__.startswith("rscc_hf."):
        return True
    if not isinstance(error, ValueError):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "").startswith(("rscc_hf.", "transformers_modules."))


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split())


app = typer.Typer(
    cls=_Group,
    name="rscc",
    help="Say in a sentence what changed between two images of one place.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Make data sets and vocabularies.", no_args_is_help=True)
app.add_typer(data, name="data")


class OnError(StrEnum):
    """What a pair that cannot be read does."""

    RAISE = "raise"
    SKIP = "skip"


class Coverage(StrEnum):
    """Where the semantic maps of a data set say something."""

    FULL = "full"
    CHANGED = "changed"


class Protocol(StrEnum):
    """How captions become tokens before they are scored."""

    WORDS = "words"
    RSICC_IDS = "rsicc_ids"


class Splits(StrEnum):
    """Whose captions a vocabulary is built from."""

    TRAIN = "train"
    ALL = "all"


def _tell(text: str = "") -> None:
    """A line for the person at the terminal, which is no part of the answer."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _progress(title: str) -> Iterator[Any]:
    """A bar on the terminal (nothing elsewhere); gives the function to call with (done, of how many)."""
    columns = (
        TextColumn(title),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """No bars and advice of transformers while a checkpoint is loaded; its settings come back afterwards."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def _quiet_reading() -> Iterator[None]:
    """No bars of `datasets` while a data set is read."""
    import datasets

    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()


def _version(wanted: bool) -> None:
    if wanted:
        from rscc_hf import __version__

        print(f"rscc_hf {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


_ONE, _MANY, _MODEL, _DECODING = "One pair", "Many pairs", "Model", "Decoding"


@app.command()
def caption(
    before: Annotated[Path | None, typer.Argument(help="The earlier image.", show_default=False)] = None,
    after: Annotated[Path | None, typer.Argument(help="The later image.", show_default=False)] = None,
    semantic_before: Annotated[
        Path | None, typer.Option(help="Semantic map of the earlier image.", rich_help_panel=_ONE)
    ] = None,
    semantic_after: Annotated[
        Path | None, typer.Option(help="Semantic map of the later image.", rich_help_panel=_ONE)
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_FOLDER",
            help="A .csv, .tsv or .jsonl list with the columns before and after (also pair_id, references, "
            "semantic_before, semantic_after); a folder with before/ and after/ (or A/ and B/); or, with --split, a "
            "data set.",
            rich_help_panel=_MANY,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.jsonl",
            help="Gets a line for each pair; where it exists, it is continued.",
            rich_help_panel=_MANY,
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Read --pairs as a data set and take this split.", rich_help_panel=_MANY)
    ] = None,
    semantic_coverage: Annotated[
        Coverage,
        typer.Option(help="Maps of a data set: full, or blank where nothing changed.", rich_help_panel=_MANY),
    ] = Coverage.FULL,
    without_maps: Annotated[
        bool, typer.Option("--without-maps", help="Ignore the semantic maps of the pairs.", rich_help_panel=_MANY)
    ] = False,
    on_error: Annotated[
        OnError, typer.Option(help="What a pair that cannot be read does.", rich_help_panel=_MANY)
    ] = OnError.RAISE,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Start --output anew.", rich_help_panel=_MANY)
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Pairs that go through the model at once.", rich_help_panel=_MANY)
    ] = 8,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR_OR_ID",
            help="Folder of a checkpoint or its id on the Hub.",
            show_default="$RSCC_MODEL, else the model of `rscc demo`",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=_MODEL)] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (as saved), float32, bfloat16 or float16.", rich_help_panel=_MODEL)
    ] = "auto",
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run the code that ships with the model.", rich_help_panel=_MODEL),
    ] = False,
    num_beams: Annotated[
        int | None,
        typer.Option(min=1, help="Beams of the search.", show_default="the model's", rich_help_panel=_DECODING),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest caption.", show_default="the model's", rich_help_panel=_DECODING),
    ] = None,
) -> None:
    """Say what changed: `rscc caption BEFORE AFTER`, or `rscc caption --pairs FILE_OR_FOLDER --output OUT.jsonl`.

    Who answers is said first (on the terminal, or on standard error when the captions go elsewhere).
    """
    _check_usage(before, after, (semantic_before, semantic_after), pairs, output)
    if split is None and semantic_coverage is not Coverage.FULL:
        raise typer.BadParameter("--semantic-coverage belongs to a data set: name its --split.")
    listed = None
    if pairs is not None:
        listed = _read_list(pairs, split, semantic_coverage, check=on_error is OnError.RAISE)
    captioner = _load(model, device, dtype, trust_remote_code)
    wanted: dict[str, Any] = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    generate = {name: value for name, value in wanted.items() if value is not None}
    if listed is None or output is None:
        assert before is not None and after is not None
        (result,) = captioner.in_batches(
            [before],
            [after],
            None if semantic_before is None else [semantic_before],
            None if semantic_after is None else [semantic_after],
            pair_ids=[before.name if before.name == after.name else f"{before.name}, {after.name}"],
            **generate,
        )
        for note in result[0].notes:
            _tell(f"Note: {note}")
        print(result[0].caption)
        return
    settings = {} if split is None else {"split": split, "semantic_coverage": str(semantic_coverage)}
    _caption_many(
        captioner,
        listed,
        output,
        settings,
        batch_size=batch_size,
        on_error=str(on_error),
        overwrite=overwrite,
        with_maps=not without_maps,
        **generate,
    )


def _check_usage(
    before: Path | None, after: Path | None, maps: tuple[Path | None, Path | None], pairs: str | None, out: Path | None
) -> None:
    if pairs is None:
        if out is not None:
            raise typer.BadParameter("--output belongs to --pairs; the caption of one pair is printed.")
        if before is None or after is None:
            raise typer.BadParameter("give BEFORE and AFTER, or --pairs and --output.")
    elif before is not None or any(maps):
        raise typer.BadParameter("give either one pair or --pairs, not both.")
    elif out is None:
        raise typer.BadParameter("--pairs needs --output, the .jsonl file that gets the captions.")


def _read_list(source: str, split: str | None, coverage: Coverage, *, check: bool) -> PairList:
    from rscc_hf.pairs import read_dataset_pairs, read_pairs

    if split is not None:
        with _quiet_reading():
            return read_dataset_pairs(source, split, semantic_coverage=str(coverage))
    listed = read_pairs(source)
    if listed.unmatched:
        _tell(f"{len(listed.unmatched)} without a partner, left out:")
        _tell_some([f"  {name}" for name in listed.unmatched])
    missing = listed.missing_files() if check else []
    if missing:
        pair, path = missing[0]
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ValueError(f"pair {pair}: {path} does not exist{more}; --on-error skip goes on without such pairs.")
    return listed


def _tell_some(lines: list[str]) -> None:
    for line in lines[:_TOLD]:
        _tell(line)
    if len(lines) > _TOLD:
        _tell(f"  ... and {len(lines) - _TOLD} more")


def _load(named: str | None, device: str, dtype: str, trust_remote_code: bool) -> ChangeCaptioner:
    """Loads the model and says who answers, where the reader does not know it or must not forget it."""
    from rscc_hf.default_model import model_to_use

    name = model_to_use(named)
    with _quiet_loading():
        from rscc_hf.captioner import ChangeCaptioner

        captioner = ChangeCaptioner.from_pretrained(
            name, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        )
    if named is None or captioner.trained_on == "synthetic":
        kind = captioner.model.config.model_type
        who = f"{name} ({kind}) answers"
        if captioner.trained_on == "synthetic":
            who += "; it saw synthetic scenes only, so do not rely on it for real images"
        print(f"{who}.", file=sys.stdout if sys.stdout.isatty() else sys.stderr, flush=True)
    return captioner


def _caption_many(
    captioner: ChangeCaptioner, listed: PairList, output: Path, settings: dict[str, str], **options: Any
) -> None:
    from rscc_hf.captioning_run import caption_to_file

    try:
        with _progress("Captioning") as on_progress:
            summary = caption_to_file(captioner, listed, output, settings=settings, on_progress=on_progress, **options)
    except KeyboardInterrupt:
        _tell(f"Stopped. {output} keeps what is done; the same command continues.")
        raise typer.Exit(130) from None
    told = f"{summary.written} captions written to {output}"
    if summary.already:
        told += f", {summary.already} were there before"
    _tell(f"{told}.")
    if summary.skipped:
        _tell(f"{len(summary.skipped)} pairs skipped, listed in {summary.skipped_file}:")
        _tell_some([f"  {reason}" for _, reason in summary.skipped])
        if not summary.written + summary.already:
            raise typer.Exit(1)


@app.command()
def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="JSONL with pair_id, prediction and references, as `rscc caption` writes it.")
    ],
    protocol: Annotated[
        Protocol, typer.Option(help="How captions become tokens. Scores of different protocols do not compare.")
    ] = Protocol.WORDS,
    json_output: Annotated[
        Path | None, typer.Option("--json", metavar="OUT.json", help="Also write the report, not rounded, here.")
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, metavar="N", help="Draw N samples for 95 % confidence intervals.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of these draws.")] = 0,
    no_change_sentence: Annotated[
        list[str] | None,
        typer.Option(metavar="SENTENCE", help="One more sentence that says nothing changed (may be repeated)."),
    ] = None,
) -> None:
    """Score captions: BLEU, METEOR, ROUGE-L, CIDEr-D, S*m; all, changed and unchanged pairs; the best constant."""
    from rscc_hf.evaluation import evaluate_file, render_table, write_json

    with Console(stderr=True).status("Scoring"):
        report = evaluate_file(
            predictions,
            protocol=str(protocol),
            bootstrap=bootstrap,
            seed=seed,
            no_change_sentences=tuple(no_change_sentence or ()),
        )
    if json_output is not None:
        write_json(report, json_output)
    Console().print(render_table(report))


_NUISANCE = "Nuisances: strength of what differs although nothing changed, 0 (off) to 1"


@data.command()
def synthesize(
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    pairs: Annotated[int, typer.Option(min=3, help="Pairs in all splits together.")] = 3750,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes.", show_default="one for each core")] = None,
    size: Annotated[int, typer.Option(help="Height and width of the images in pixels, a multiple of 32.")] = 256,
    changed_fraction: Annotated[float, typer.Option(min=0, max=1, help="Share of pairs that change.")] = 0.5,
    max_events: Annotated[int, typer.Option(min=1, max=3, help="Most changes in a pair.")] = 3,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
    no_nuisances: Annotated[
        bool,
        typer.Option("--no-nuisances", help="All off, but for those given.", rich_help_panel=_NUISANCE),
    ] = False,
    illumination: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Brightness, contrast, colour cast.",
            show_default=str(Nuisances.illumination),
            rich_help_panel=_NUISANCE,
        ),
    ] = None,
    shadow_direction: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Where the sun stands.",
            show_default=str(Nuisances.shadow_direction),
            rich_help_panel=_NUISANCE,
        ),
    ] = None,
    season: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Colours of plants and soil.",
            show_default=str(Nuisances.season),
            rich_help_panel=_NUISANCE,
        ),
    ] = None,
    blur: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Blur of one date.", show_default=str(Nuisances.blur), rich_help_panel=_NUISANCE
        ),
    ] = None,
    resolution: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Coarser pixels at one date.",
            show_default=str(Nuisances.resolution),
            rich_help_panel=_NUISANCE,
        ),
    ] = None,
    viewpoint: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Buildings lean away.", show_default=str(Nuisances.viewpoint), rich_help_panel=_NUISANCE
        ),
    ] = None,
    registration: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="The dates do not quite overlap.",
            show_default=str(Nuisances.registration),
            rich_help_panel=_NUISANCE,
        ),
    ] = None,
    traffic: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Cars come and go.", show_default=str(Nuisances.traffic), rich_help_panel=_NUISANCE
        ),
    ] = None,
) -> None:
    """Make a data set of synthetic scenes: pairs of images, semantic maps, change masks, five captions each."""
    from rscc_hf.data.synthetic import SceneOptions
    from rscc_hf.data.synthetic import synthesize as write

    given = {
        "illumination": illumination,
        "shadow_direction": shadow_direction,
        "season": season,
        "blur": blur,
        "resolution": resolution,
        "viewpoint": viewpoint,
        "registration": registration,
        "traffic": traffic,
    }
    base = Nuisances.off() if no_nuisances else Nuisances()
    strengths = {field.name: getattr(base, field.name) for field in fields(base)}
    strengths |= {name: value for name, value in given.items() if value is not None}
    options = SceneOptions(
        size=size, nuisances=Nuisances(**strengths), changed_fraction=changed_fraction, max_events=max_events
    )
    with _progress("Synthesising") as on_progress:
        sizes = write(
            out,
            pairs,
            seed,
            workers=workers,
            options=options,
            overwrite=overwrite,
            progress=lambda done: on_progress(done, pairs),
        )
    print(f"{out}: {', '.join(f'{count} {split}' for split, count in sizes.items())} pairs.")


@data.command()
def vocabulary(
    dataset: Annotated[str, typer.Argument(help="Folder or Hub id of a data set.")],
    out: Annotated[Path, typer.Argument(help="The folder to make; AutoTokenizer loads it.")],
    splits: Annotated[
        Splits,
        typer.Option(help="train, or all: as MModalCC's release, whose vocabulary has seen the test captions."),
    ] = Splits.TRAIN,
    min_frequency: Annotated[int, typer.Option(min=1, help="Rarer words become <unk>.")] = 1,
    unigram: Annotated[
        bool, typer.Option("--unigram", help="Sentencepiece pieces instead of words, for any language.")
    ] = False,
    vocab_size: Annotated[
        int | None, typer.Option(min=8, help="Most pieces of --unigram.", show_default="4000")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
) -> None:
    """Build a tokenizer from the captions of a data set."""
    if vocab_size is not None and not unigram:
        raise typer.BadParameter("--vocab-size belongs to --unigram.")
    if unigram and min_frequency != 1:
        raise typer.BadParameter("--min-frequency belongs to words, not to --unigram.")
    from rscc_hf.data.vocabulary import vocabulary_of
    from rscc_hf.files import new_folder

    with new_folder(out, overwrite=overwrite) as folder, _quiet_reading():
        tokenizer = vocabulary_of(
            dataset,
            str(splits),
            kind="unigram" if unigram else "word",
            min_frequency=min_frequency,
            vocab_size=vocab_size or 4000,
        )
        tokenizer.save_pretrained(folder)
    print(f"{out}: {len(tokenizer)} {'pieces' if unigram else 'words'}, 4 special tokens among them.")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Gets data, model, captions and report.html.")] = Path("demo_output"),
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes and the training.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier demo left there.")] = False,
) -> None:
    """Synthesise scenes, train a small MModalCC on them, score it and write a page: minutes on two cores."""
    try:
        from rscc_hf.demo.run import run_demo
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "matplotlib"):
            raise
        _tell(f"Error: the demo needs {error.name}; install it with `pip install 'rscc_hf[demo,eval]'`.")
        raise typer.Exit(1) from error
    from rscc_hf.default_model import remember_demo_model

    result = run_demo(output, seed=seed, overwrite=overwrite)
    remember_demo_model(result.model)
    print(f"\nOpen {result.report} to look at it. `rscc caption BEFORE AFTER` now answers with {result.model}.")


if __name__ == "__main__":
    app()
