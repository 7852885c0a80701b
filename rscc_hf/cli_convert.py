"""`rscc convert`: the authors' checkpoints in, checkpoints for the Hub out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rscc_hf.terminal import count, quiet_models, tell

convert = typer.Typer(help="Turn released weights into a checkpoint for transformers.", no_args_is_help=True)


@convert.command()
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
    with quiet_models():
        from rscc_hf.conversion.mmodalcc_release import convert_mmodalcc

        result = convert_mmodalcc(checkpoint, word_map, out, overwrite=overwrite)
    tell(f"{count(len(result.dropped), 'weight')} that the release never uses, or that are computed, dropped:")
    for name in result.dropped:
        tell(f"  {name}")
    print(f"{out}: MModalCC with {result.parameters:,} parameters.")
    print(f"Loaded in a new process, it says of a made-up pair: {result.caption!r}")
