"""`rscc evaluate`: scores of a file of captions."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rscc_hf.commands.modes import Mode, by_mode
from rscc_hf.commands.terminal import check_output, progress_bar


class Protocol(StrEnum):
    """How captions become tokens before they are scored."""

    WORDS = "words"
    RSICC_IDS = "rsicc_ids"


@by_mode(
    Mode("--bootstrap N: it is the seed of these draws", "seed", lambda it: it.bootstrap > 0),
    always="predictions protocol json_output bootstrap no_change_sentence",
)
def evaluate(
    predictions: Annotated[
        Path,
        typer.Argument(
            metavar="PREDICTIONS", help="JSONL with pair_id, prediction and references, as `rscc caption` writes it."
        ),
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
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of these draws.")] = 0,
    no_change_sentence: Annotated[
        list[str] | None,
        typer.Option(metavar="SENTENCE", help="One more sentence that says nothing changed (may be repeated)."),
    ] = None,
) -> None:
    """Score captions: BLEU, METEOR, ROUGE-L, CIDEr-D, S*m; all, changed and unchanged pairs; the best constant."""
    from rscc_hf.evaluation import evaluate_file, render_table, write_json
    from rscc_hf.evaluation.report import check_report_output

    if json_output is not None:
        check_report_output(json_output, predictions)
    else:
        check_output()
    with progress_bar("Scoring"):
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
