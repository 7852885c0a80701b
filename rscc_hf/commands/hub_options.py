"""Arguments and options that the commands about the Hub share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What save_pretrained, training or rscc wrote.")]
RepoId = Annotated[str, typer.Argument(metavar="REPO_ID", help="OWNER/NAME on the Hub, or NAME for your own.")]
Private = Annotated[bool, typer.Option("--private", help="Make the repository private.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show every file, its size and what would change.")]
Revision = Annotated[str | None, typer.Option(metavar="BRANCH", help="Push to this branch, made from main if new.")]
Message = Annotated[str | None, typer.Option(metavar="TEXT", help="Message of the commit.")]
License = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Licence for the card, as the Hub names it: apache-2.0, ..."),
]
