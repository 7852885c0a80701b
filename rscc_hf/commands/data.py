"""`rscc data`: make data sets and vocabularies."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rscc_hf.commands.modes import Mode, by_mode
from rscc_hf.commands.push import push_data
from rscc_hf.commands.terminal import is_given, progress_bar, quiet_reading
from rscc_hf.synthetic.style import Nuisances

data = typer.Typer(help="Make data sets and vocabularies, and push data sets to the Hub.", no_args_is_help=True)
data.command("push")(push_data)


class Splits(StrEnum):
    """Whose captions a vocabulary is built from."""

    TRAIN = "train"
    ALL = "all"


_STRENGTHS = "illumination shadow_direction season blur resolution viewpoint registration traffic"
_NUISANCE = "Nuisances: strength of what differs although nothing changed, 0 (off) to 1"


@data.command()
@by_mode(
    Mode("nuisances that are not given, and all are", "no_nuisances", lambda it: set(_STRENGTHS.split()) - it.given),
    Mode("pairs that change; --changed-fraction is 0", "max_events", lambda it: it.changed_fraction > 0),
    always=f"out pairs seed workers size changed_fraction overwrite {_STRENGTHS}",
)
def synthesize(
    ctx: typer.Context,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make.")],
    pairs: Annotated[int, typer.Option(min=3, metavar="N", help="Pairs in all splits together.")] = 3750,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="The same seed gives the same bytes.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Processes.", show_default="one for each core")
    ] = None,
    size: Annotated[
        int, typer.Option(metavar="N", help="Height and width of the images in pixels, a multiple of 32.")
    ] = 256,
    changed_fraction: Annotated[
        float, typer.Option(min=0, max=1, metavar="X", help="Share of pairs that change.")
    ] = 0.5,
    max_events: Annotated[int, typer.Option(min=1, max=3, metavar="N", help="Most changes in a pair.")] = 3,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
    no_nuisances: Annotated[
        bool,
        typer.Option("--no-nuisances", help="All off, but for those given.", rich_help_panel=_NUISANCE),
    ] = False,
    illumination: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="X", help="Brightness, contrast, colour cast.", rich_help_panel=_NUISANCE),
    ] = Nuisances.illumination,
    shadow_direction: Annotated[
        float, typer.Option(min=0, max=1, metavar="X", help="Where the sun stands.", rich_help_panel=_NUISANCE)
    ] = Nuisances.shadow_direction,
    season: Annotated[
        float, typer.Option(min=0, max=1, metavar="X", help="Colours of plants and soil.", rich_help_panel=_NUISANCE)
    ] = Nuisances.season,
    blur: Annotated[
        float, typer.Option(min=0, max=1, metavar="X", help="Blur of one date.", rich_help_panel=_NUISANCE)
    ] = Nuisances.blur,
    resolution: Annotated[
        float, typer.Option(min=0, max=1, metavar="X", help="Coarser pixels at one date.", rich_help_panel=_NUISANCE)
    ] = Nuisances.resolution,
    viewpoint: Annotated[
        float, typer.Option(min=0, max=1, metavar="X", help="Buildings lean away.", rich_help_panel=_NUISANCE)
    ] = Nuisances.viewpoint,
    registration: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="X", help="The dates do not quite overlap.", rich_help_panel=_NUISANCE),
    ] = Nuisances.registration,
    traffic: Annotated[
        float, typer.Option(min=0, max=1, metavar="X", help="Cars come and go.", rich_help_panel=_NUISANCE)
    ] = Nuisances.traffic,
) -> None:
    """Make a data set of synthetic scenes: pairs of images, semantic maps, change masks, five captions each."""
    from rscc_hf.synthetic.dataset import SceneOptions
    from rscc_hf.synthetic.dataset import synthesize as write

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
    if no_nuisances:
        given = {name: value if is_given(ctx, name) else 0.0 for name, value in given.items()}
    options = SceneOptions(
        size=size, nuisances=Nuisances(**given), changed_fraction=changed_fraction, max_events=max_events
    )
    with progress_bar("Synthesising", "pairs", threads=False) as on_progress:  # it forks
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
@by_mode(
    Mode("words, not to --unigram", "min_frequency", lambda it: not it.unigram),
    Mode("--unigram", "vocab_size", lambda it: it.unigram),
    always="dataset out splits unigram overwrite",
)
def vocabulary(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Folder or Hub id of a data set.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to make; AutoTokenizer loads it.")],
    splits: Annotated[
        Splits,
        typer.Option(help="train, or all: as MModalCC's release, whose vocabulary has seen the test captions."),
    ] = Splits.TRAIN,
    min_frequency: Annotated[int, typer.Option(min=1, metavar="N", help="Rarer words become <unk>.")] = 1,
    unigram: Annotated[
        bool, typer.Option("--unigram", help="Sentencepiece pieces instead of words, for any language.")
    ] = False,
    vocab_size: Annotated[int, typer.Option(min=8, metavar="N", help="Most pieces of --unigram.")] = 4000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
) -> None:
    """Build a tokenizer from the captions of a data set."""
    from rscc_hf.data.vocabulary import write_vocabulary

    with quiet_reading(), progress_bar("Building the vocabulary"):
        tokenizer = write_vocabulary(
            dataset,
            out,
            str(splits),
            overwrite=overwrite,
            kind="unigram" if unigram else "word",
            min_frequency=min_frequency,
            vocab_size=vocab_size,
        )
    special = len(tokenizer.all_special_ids)
    print(f"{out}: {len(tokenizer) - special} {'pieces' if unigram else 'words'} and {special} special tokens.")
