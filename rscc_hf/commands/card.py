"""`rscc card`: the card of a model, from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rscc_hf.commands.hub_options import Folder, License
from rscc_hf.commands.modes import Mode, by_mode
from rscc_hf.commands.terminal import tell
from rscc_hf.text import count


@by_mode(
    Mode("--results", "dataset split dataset_id predictions", lambda it: it.results is not None),
    always="folder results repo_id license overwrite",
)
def card(
    folder: Folder,
    results: Annotated[
        Path | None,
        typer.Option(metavar="REPORT.json", help="Add these scores of `rscc evaluate --json`."),
    ] = None,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="What was captioned: LEVIR-CC, ...")] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Its split: test, ...")] = None,
    dataset_id: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Its id on the Hub.")] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="OUT.jsonl", help="The captions that were scored; checks that these weights wrote them."),
    ] = None,
    repo_id: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Where it will be; the card's code then loads that.")
    ] = None,
    license: License = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a card that somebody else wrote.")] = False,
) -> None:
    """Write the card of a model (README.md) from what was measured and recorded in its folder."""
    if results is not None and (dataset is None or split is None):
        raise typer.BadParameter("it needs --dataset and --split; say what was scored.", param_hint="--results")
    from rscc_hf.hub.cards.facts import read_model_facts
    from rscc_hf.hub.cards.model import write_model_card
    from rscc_hf.hub.cards.rendering import earlier_metadata
    from rscc_hf.hub.cards.results import add_evaluation

    if results is not None:
        assert dataset is not None and split is not None
        read_model_facts(folder)
        add_evaluation(folder, results, dataset, split, dataset_id=dataset_id, predictions=predictions)
    path = write_model_card(folder, repo_id=repo_id, license=license, overwrite=overwrite)
    print(path)
    facts = read_model_facts(folder)
    if facts.stale_evaluations:
        tell(f"{count(facts.stale_evaluations, 'evaluation')} of other weights left out; score these anew.")
    if "license" not in earlier_metadata(path.read_text(encoding="utf-8")):
        tell("It states no licence of the weights; --license NAME puts one there.")
