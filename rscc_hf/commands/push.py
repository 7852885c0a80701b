"""`rscc push` and `rscc data push`: from a folder to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rscc_hf.commands.hub_options import DryRun, Folder, License, Message, Private, RepoId, Revision
from rscc_hf.commands.modes import Mode, belongs_to, by_mode
from rscc_hf.commands.terminal import progress_bar, quiet_models, quiet_reading, tell
from rscc_hf.progress import Work

if TYPE_CHECKING:
    from rscc_hf.hub.upload import PushPlan

_CARD_STAYS = "cards of rscc_hf; README.md was not written by it and goes as it is, so write the licence there"
_COMMIT = Mode("a push, and --dry-run makes none", "message", lambda it: not it.dry_run)


@by_mode(_COMMIT, always="folder repo_id private dry_run revision license shorten_paths skip_loading")
def push(
    ctx: typer.Context,
    folder: Folder,
    repo_id: RepoId,
    private: Private = False,
    dry_run: DryRun = False,
    revision: Revision = None,
    message: Message = None,
    license: License = None,
    shorten_paths: Annotated[
        bool,
        typer.Option("--shorten-paths", help="Cut paths in recipe.yaml and training_summary.json to their end."),
    ] = False,
    skip_loading: Annotated[
        bool, typer.Option("--skip-loading", help="Do not load it first: for a model larger than the memory here.")
    ] = False,
) -> None:
    """Push a model to the Hub: weights, processor, code, recipe and card. Broken off, it goes on where it stopped."""
    from rscc_hf.hub.push_model import card_stays, push_model

    if license is not None and card_stays(folder):
        raise belongs_to(ctx, "license", _CARD_STAYS)
    with quiet_models(), progress_bar("Looking at the folder") as work:
        plan = push_model(
            folder,
            repo_id,
            private=private,
            dry_run=dry_run,
            revision=revision,
            message=message,
            license=license,
            shorten_paths=shorten_paths,
            load=not skip_loading,
            on_stage=lambda stage: _tell_stage(work, stage),
        )
    _show(plan, dry_run)


@by_mode(_COMMIT, always="folder repo_id private dry_run revision license shard_size")
def push_data(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Parquet files, or a folder of save_to_disk.")],
    repo_id: RepoId,
    private: Private = False,
    dry_run: DryRun = False,
    revision: Revision = None,
    message: Message = None,
    license: License = None,
    shard_size: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="MB",
            help="Parquet files over this, 128 MB, 500 rows, or 100 rows a group are cut anew.",
        ),
    ] = 500,
) -> None:
    """Push a data set of pairs to the Hub as sharded parquet. Broken off, it goes on where it stopped."""
    from rscc_hf.hub.push_dataset import card_stays, push_dataset

    if license is not None and card_stays(folder):
        raise belongs_to(ctx, "license", _CARD_STAYS)
    with quiet_reading(), progress_bar("Looking at the folder") as work:
        plan = push_dataset(
            folder,
            repo_id,
            private=private,
            dry_run=dry_run,
            revision=revision,
            message=message,
            license=license,
            shard_bytes=shard_size * 1_000_000,
            on_stage=lambda stage: _tell_stage(work, stage),
        )
    _show(plan, dry_run)


def _tell_stage(work: Work, stage: str) -> None:
    tell(stage)
    work(title=stage)


def _show(plan: PushPlan, dry_run: bool) -> None:
    """Show every file with its size and what happens to it, then the whole in a line."""
    for change in plan.changes:
        print(f"{change.what:8}{_size(change.size):>10}  {change.name}")
    for name, why in plan.left_out.items():
        print(f"{'left out':8}{'':>10}  {name} ({why})")
    for note in plan.notes:
        tell(note)
    numbers = [f"{sum(c.what == what for c in plan.changes)} {what}" for what in ("new", "changed", "same", "removed")]
    sent = sum(change.size for change in plan.changes if change.what in ("new", "changed"))
    kind = "model" if plan.kind == "model" else "data set"
    visible = {True: "private ", False: "public ", None: ""}[plan.private]
    where = f"{visible}{kind} {plan.repo_id}" + (f" ({plan.revision})" if plan.revision != "main" else "")
    told = f"{', '.join(numbers)}; {_size(sent)} to send"
    if dry_run:
        print(f"{told}. Nothing was pushed to the {where}{'' if plan.exists else ', which would be made'}.")
    elif plan.url is None:
        print(f"{told}. The {where} is as it should be.")
    else:
        print(f"{told.removesuffix(' to send')} sent to the {where}: {plan.url}")


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
