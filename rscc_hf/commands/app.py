"""The command `rscc`: reads options and shows answers. The work is in the modules, imported when they are needed."""

from __future__ import annotations

from typing import Annotated

import typer

from rscc_hf.commands.caption import caption
from rscc_hf.commands.card import card
from rscc_hf.commands.convert import convert
from rscc_hf.commands.data import data
from rscc_hf.commands.demo import demo
from rscc_hf.commands.evaluate import evaluate
from rscc_hf.commands.push import push
from rscc_hf.commands.terminal import OneLineErrors

app = typer.Typer(
    cls=OneLineErrors,
    name="rscc",
    help="Say in a sentence what changed between two images of one place.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(convert, name="convert")
app.add_typer(data, name="data")


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


for verb in (caption, evaluate, demo, card, push):
    app.command()(verb)


if __name__ == "__main__":
    app()
