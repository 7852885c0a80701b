"""`rscc demo`: from nothing to a scored model and a page in minutes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rscc_hf.commands.modes import by_mode
from rscc_hf.commands.terminal import quiet_models, quiet_reading, tell


class System(StrEnum):
    """What can be trained from nothing in minutes."""

    MMODALCC = "mmodalcc"
    CCEXPERT = "ccexpert"


@by_mode(always="model output seed overwrite")
def demo(
    model: Annotated[
        System, typer.Option(help="mmodalcc: RGB and semantic maps, 6 minutes; ccexpert: RGB, 13 minutes.")
    ] = System.MMODALCC,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Gets data, model, captions and report.html; by default demo_output or demo_output_ccexpert.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of the scenes and the training.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what an earlier demo left there.")] = False,
) -> None:
    """Synthesise scenes, train a small model on them, score it and write a page: minutes on two cores."""
    try:
        from rscc_hf.demo.run import run_demo
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "matplotlib"):
            raise
        tell(f"Error: the demo needs {error.name}; install it with `pip install 'rscc_hf[demo,eval]'`.")
        raise typer.Exit(1) from error
    from rscc_hf.inference.default_model import remember_demo_model

    with quiet_models(), quiet_reading():
        folder = output or Path("demo_output" if model == System.MMODALCC else f"demo_output_{model}")
        result = run_demo(str(model), folder, seed=seed, overwrite=overwrite)
    remember_demo_model(result.model)
    print(f"\nOpen {result.report} to look at it. `rscc caption BEFORE AFTER` now answers with {result.model}.")
