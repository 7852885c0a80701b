"""`rscc caption`: what changed in one pair, or in each of many."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rscc_hf.commands.modes import Mode, belongs_to, by_mode
from rscc_hf.commands.terminal import (
    TERMINATED,
    check_output,
    is_given,
    progress_bar,
    quiet_models,
    quiet_reading,
    tell,
    tell_some,
)
from rscc_hf.errors import InputError
from rscc_hf.text import count, printable

if TYPE_CHECKING:
    from rscc_hf.data.lists.items import PairList
    from rscc_hf.inference.captioner import ChangeCaptioner


class OnError(StrEnum):
    """What a pair that cannot be read does."""

    RAISE = "raise"
    SKIP = "skip"


class Coverage(StrEnum):
    """Where the semantic maps of a data set say something."""

    FULL = "full"
    CHANGED = "changed"


_ONE, _MANY, _MODEL, _DECODING = "One pair", "Many pairs", "Model", "Decoding"
_READING = "Images"


@by_mode(
    Mode("one pair (BEFORE AFTER), not to --pairs", "semantic_before semantic_after", lambda it: it.pairs is None),
    Mode(
        "--pairs; the caption of one pair is printed",
        "output split semantic_coverage without_maps on_error overwrite batch_size",
        lambda it: it.pairs is not None,
    ),
    Mode("a data set; name its --split", "semantic_coverage", lambda it: it.split is not None),
    Mode("the maps, which --without-maps leaves out", "semantic_coverage", lambda it: not it.without_maps),
    always="before after pairs value_range allow_web model revision device dtype trust_remote_code num_beams "
    "max_new_tokens",
)
def caption(
    ctx: typer.Context,
    before: Annotated[
        str | None, typer.Argument(metavar="BEFORE", help="The earlier image.", show_default=False)
    ] = None,
    after: Annotated[str | None, typer.Argument(metavar="AFTER", help="The later image.", show_default=False)] = None,
    semantic_before: Annotated[
        str | None, typer.Option(metavar="FILE", help="Semantic map of the earlier image.", rich_help_panel=_ONE)
    ] = None,
    semantic_after: Annotated[
        str | None, typer.Option(metavar="FILE", help="Semantic map of the later image.", rich_help_panel=_ONE)
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
        str | None,
        typer.Option(metavar="NAME", help="Read --pairs as a data set and take this split.", rich_help_panel=_MANY),
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
        int, typer.Option(min=1, metavar="N", help="Pairs that go through the model at once.", rich_help_panel=_MANY)
    ] = 8,
    value_range: Annotated[
        str | None,
        typer.Option(
            metavar="LOW,HIGH",
            help="Values that are black and white in images of more than 8 bits, as 0,4095 for 12 bits.",
            show_default="the model's, else as the type says",
            rich_help_panel=_READING,
        ),
    ] = None,
    allow_web: Annotated[
        bool,
        typer.Option(
            "--allow-web",
            help="Fetch images that are given by an https address.",
            rich_help_panel=_READING,
        ),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR_OR_ID",
            help="Folder of a checkpoint or its id on the Hub.",
            show_default="$RSCC_MODEL, else the model of `rscc demo`",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Its branch, tag or commit on the Hub.", show_default="main", rich_help_panel=_MODEL
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=_MODEL)
    ] = "auto",
    dtype: Annotated[
        str,
        typer.Option(metavar="NAME", help="auto (as saved), float32, bfloat16 or float16.", rich_help_panel=_MODEL),
    ] = "auto",
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run the code that ships with the model.", rich_help_panel=_MODEL),
    ] = False,
    num_beams: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Beams of the search.", show_default="the model's", rich_help_panel=_DECODING
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Longest caption.", show_default="the model's", rich_help_panel=_DECODING
        ),
    ] = None,
) -> None:
    """Say what changed: `rscc caption BEFORE AFTER`, or `rscc caption --pairs FILE_OR_FOLDER --output OUT.jsonl`.

    Who answers is said first (on the terminal, or on standard error when the captions go elsewhere).
    """
    _check_usage(before, after, pairs, output)
    span = None if value_range is None else _range(value_range)
    listed = None
    if pairs is not None:
        listed = _read_list(pairs, split, semantic_coverage, output)
        if on_error is OnError.RAISE:
            _check_list(listed, with_maps=not without_maps, allow_web=allow_web)
    wanted: dict[str, Any] = {"num_beams": num_beams, "max_new_tokens": max_new_tokens, "value_range": span}
    generate = {name: value for name, value in wanted.items() if value is not None} | {"allow_web": allow_web}

    def load() -> ChangeCaptioner:
        captioner = _load(ctx, model, revision, device, dtype, trust_remote_code)
        if captioner.semantic_maps == "none":
            to_leave_out = listed is not None and listed.has_maps()
            for name in ("semantic_before", "semantic_after", "without_maps", "semantic_coverage"):
                if is_given(ctx, name) and not (name == "without_maps" and to_leave_out):
                    what = f"models with semantic maps, and {captioner.name} takes no semantic maps"
                    raise belongs_to(ctx, name, what)
        return captioner

    if listed is None or output is None:
        from rscc_hf.pair import Pair
        from rscc_hf.processing.change_pair_web import file_name

        assert before is not None and after is not None
        check_output()
        with quiet_models(), progress_bar("Captioning"):
            captioner = load()
            names = [file_name(before), file_name(after)]
            name = names[0] if names[0] == names[1] else ", ".join(names)
            pair = Pair(name, before, after, maps=(semantic_before, semantic_after))
            (answer,) = captioner.caption([pair], **generate)
        for note in answer.notes:
            tell(f"Note: {note}")
        print(answer.text)
        return
    settings = {} if split is None else {"split": split, "semantic_coverage": str(semantic_coverage)}
    _caption_many(
        load,
        listed,
        output,
        settings,
        batch_size=batch_size,
        on_error=str(on_error),
        overwrite=overwrite,
        with_maps=not without_maps,
        **generate,
    )


def _check_usage(before: str | None, after: str | None, pairs: str | None, out: Path | None) -> None:
    if pairs is None:
        if before is None or after is None:
            raise typer.BadParameter("give both, or --pairs and --output.", param_hint="BEFORE AFTER")
    elif before is not None:
        raise typer.BadParameter("give either --pairs or the files of one pair, not both.", param_hint="--pairs")
    elif out is None:
        raise typer.BadParameter("it needs --output, the .jsonl file that gets the captions.", param_hint="--pairs")


def _range(given: str) -> list[float]:
    from rscc_hf.processing.change_pair_values import checked_range

    try:
        numbers = checked_range([float(number) for number in given.split(",")])
    except ValueError:
        numbers = None
    if numbers is None:
        raise typer.BadParameter(
            f"{given!r} is not LOW,HIGH; give two numbers, as 0,10000, the value that is black before the larger one "
            "that is white.",
            param_hint="--value-range",
        )
    return list(numbers)


def _read_list(source: str, split: str | None, coverage: Coverage, output: Path | None) -> PairList:
    from rscc_hf.data.lists.sources import read_dataset_pairs, read_pairs
    from rscc_hf.inference.run import skipped_path

    outputs = () if output is None else (output, skipped_path(output))
    if split is not None:
        with quiet_reading():
            listed = read_dataset_pairs(source, split, semantic_coverage=str(coverage), outputs=outputs)
    else:
        listed = read_pairs(source, outputs=outputs)
    if listed.unmatched:
        tell(f"{count(len(listed.unmatched), 'file')} without a partner, left out:")
        tell_some([f"  {printable(name)}" for name in listed.unmatched])
    for note in listed.notes:
        tell(f"Note: {printable(note)}")
    return listed


def _check_list(listed: PairList, *, with_maps: bool, allow_web: bool) -> None:
    """Find before any work what would stop the run at its pair."""
    from rscc_hf.processing.change_pair_web import refusal, shown_address

    wrong = [(pair, f"{path} does not exist") for pair, path in listed.missing_files(with_maps=with_maps)]
    for pair, address in listed.addresses(with_maps=with_maps):
        if (reason := refusal(address, allow_web)) is not None:
            wrong.append((pair, f"{shown_address(address)} {reason}"))
    if with_maps:
        lacking = "is missing, give the maps of both dates or of none"
        wrong += [(pair, f"{name} {lacking}") for pair, name in listed.half_maps()]
    if wrong:
        pair, reason = wrong[0]
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InputError(f"pair {pair}: {reason}{more}; --on-error skip goes on without such pairs.")


def _load(
    ctx: typer.Context, named: str | None, revision: str | None, device: str, dtype: str, trust_remote_code: bool
) -> ChangeCaptioner:
    """Load the model and say who answers, where the reader does not know it or must not forget it."""
    from rscc_hf.inference.default_model import model_to_use

    name = model_to_use(named)
    if revision is not None and Path(name).is_dir():
        raise belongs_to(ctx, "revision", f"a model on the Hub, and {name} is a folder")
    with quiet_models():
        from rscc_hf.inference.captioner import ChangeCaptioner

        captioner = ChangeCaptioner.from_pretrained(
            name, device=device, dtype=dtype, trust_remote_code=trust_remote_code, revision=revision
        )
    if named is None or captioner.trained_on == "synthetic":
        kind = type(captioner.model).__name__.removesuffix("ForConditionalGeneration")
        seen = "; it saw synthetic scenes only" if captioner.trained_on == "synthetic" else ""
        print(
            f"{printable(name)} ({kind}) answers{seen}.",
            file=sys.stdout if sys.stdout.isatty() else sys.stderr,
            flush=True,
        )
    return captioner


def _caption_many(
    load: Callable[[], ChangeCaptioner], listed: PairList, output: Path, settings: dict[str, str], **options: Any
) -> None:
    from rscc_hf.files import some
    from rscc_hf.inference.run import caption_to_file

    again = "the same command without --overwrite" if options["overwrite"] else "the same command"
    try:
        with quiet_models(), progress_bar("Captioning", "pairs") as on_progress:
            summary = caption_to_file(load, listed, output, settings=settings, on_progress=on_progress, **options)
    except KeyboardInterrupt:
        tell(f"Stopped. {output} keeps what is done; {again} continues.")
        raise typer.Exit(130) from None
    except SystemExit as end:
        if end.code == TERMINATED:
            tell(f"{output} keeps what is done; {again} continues.")
        raise
    told = f"{count(summary.written, 'caption')} written to {output}"
    if summary.already:
        told += f", {summary.already} were there before"
    tell(f"{told}.")
    if summary.unchecked:
        kept = count(len(summary.unchecked), "caption")
        pairs = printable(some([pair_id for pair_id, _ in summary.unchecked]))
        tell(
            f"{kept} of an earlier run ({pairs}) kept, though the images cannot be fetched now and may be others; "
            "--overwrite captions them anew."
        )
    if summary.noted:
        tell(f"{count(len(summary.noted), 'caption')} with notes about the images (`notes` in {output}):")
        tell_some([f"  {printable(note)}" for _, note in summary.noted])
    if summary.skipped:
        tell(f"{count(len(summary.skipped), 'pair')} skipped, listed in {summary.skipped_file}:")
        tell_some([f"  {printable(reason)}" for _, reason in summary.skipped])
        if not summary.written + summary.already:
            raise typer.Exit(1)
