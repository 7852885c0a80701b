"""`rscc convert`: the authors' checkpoints in, checkpoints for the Hub out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rscc_hf.commands.modes import Mode, by_mode
from rscc_hf.commands.terminal import progress_bar, quiet_models, tell
from rscc_hf.text import count, printable

if TYPE_CHECKING:
    from rscc_hf.conversion.ccexpert_release import Converted

convert = typer.Typer(help="Turn released weights into a checkpoint for transformers.", no_args_is_help=True)


@convert.command()
@by_mode(always="checkpoint out word_map overwrite")
def mmodalcc(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT.pth.tar", help="What the authors released. None of it is run.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    word_map: Annotated[
        Path, typer.Option(metavar="WORDMAP.json", help="The words that the checkpoint was trained with.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint at OUT.")] = False,
) -> None:
    """Convert an MModalCC of its authors: pickled modules become safetensors, words a tokenizer."""
    with quiet_models(), progress_bar("Converting"):
        from rscc_hf.conversion.mmodalcc_release import convert_mmodalcc

        result = convert_mmodalcc(checkpoint, word_map, out, overwrite=overwrite)
    _tell_dropped(result.dropped)
    print(f"{out}: MModalCC with {result.parameters:,} parameters.")
    print(f"Loaded in a new process, it says of a made-up pair: {result.caption!r}")


@convert.command()
@by_mode(always="folder out tokenizer verify overwrite")
def ccexpert(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="What the authors released: config.json and weights.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Of the tokenizer it was trained with.", show_default="FOLDER, if there is one"
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Load the result in a new process and run a pair: needs its memory.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint at OUT.")] = False,
) -> None:
    """Convert a CCExpert of its authors, one weight at a time: a large one needs no large memory."""
    with quiet_models(), progress_bar("Converting", "weights") as on_progress:
        from rscc_hf.conversion.ccexpert_release import convert_ccexpert

        result = convert_ccexpert(
            folder, out, tokenizer=tokenizer, verify=verify, overwrite=overwrite, progress=on_progress
        )
    _tell_ccexpert(result)


@convert.command(name="llava-onevision")
@by_mode(
    Mode(
        "the Difference-aware Integration Module, which --no-integration leaves out",
        "vision_levels num_integration_layers seed",
        lambda it: not it.no_integration,
    ),
    Mode("a model on the Hub, and PATH_OR_ID is a folder", "revision", lambda it: not Path(it.source).is_dir()),
    always="source out tokenizer no_integration verify overwrite",
)
def llava_onevision(
    source: Annotated[
        str, typer.Argument(metavar="PATH_OR_ID", help="A LLaVA-OneVision in the format of transformers.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of another tokenizer.", show_default="its own")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch, tag or commit on the Hub.", show_default="main")
    ] = None,
    vision_levels: Annotated[
        str | None,
        typer.Option(
            metavar="I,J,...",
            help="Hidden states of the vision tower that are read, 0 the embeddings.",
            show_default="the paper's four",
        ),
    ] = None,
    num_integration_layers: Annotated[
        int, typer.Option(min=1, metavar="N", help="Change-aware transformer layers.")
    ] = 2,
    no_integration: Annotated[
        bool, typer.Option("--no-integration", help="Without the module: two images, as LLaVA gives them.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the new module's weights.")] = 42,
    verify: Annotated[bool, typer.Option("--verify", help="Load the result in a new process and run a pair.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint at OUT.")] = False,
) -> None:
    """Make a CCExpert to start training from: only the Difference-aware Integration Module is new."""
    try:
        levels = None if vision_levels is None else [int(level) for level in vision_levels.split(",")]
    except ValueError:
        raise typer.BadParameter("write indices as 17,20,23,26.", param_hint="--vision-levels") from None
    with quiet_models(), progress_bar("Converting") as on_progress:
        from rscc_hf.conversion.llava_onevision import Module, convert_llava_onevision

        result = convert_llava_onevision(
            source,
            out,
            module=Module(not no_integration, levels, num_integration_layers, seed),
            tokenizer=tokenizer,
            revision=revision,
            verify=verify,
            overwrite=overwrite,
            progress=lambda done, total: on_progress(done, total, note="weights compared"),
        )
    if not no_integration:
        tell(f"The Difference-aware Integration Module is new, of seed {seed}; train before you caption.")
    _tell_ccexpert(result)


def _tell_dropped(names: Iterable[str]) -> None:
    from rscc_hf.conversion.checks import grouped

    dropped = list(names)
    if dropped:
        tell(f"{count(len(dropped), 'weight')} dropped, which the model never uses or computes itself:")
    for name in grouped(dropped):
        tell(f"  {printable(name)}")


def _tell_ccexpert(result: Converted) -> None:
    _tell_dropped(result.dropped)
    print(f"{result.folder}: CCExpert with {result.parameters:,} parameters, names, shapes and checksums verified.")
    if not result.has_processor:
        tell("Only the model was made: no tokenizer was found; give one with --tokenizer FOLDER.")
    if result.caption is not None:
        print(f"Loaded in a new process, it says of a made-up pair: {result.caption!r}")
    elif result.ran:
        print("Loaded in a new process, it answers a made-up pair.")
