"""From facts to a README.md: the templates in `hub_cards/`, and what stays when a card is written again."""

import re
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.repocard import RepoCard

from rscc_hf.errors import InputError
from rscc_hf.files import write_text
from rscc_hf.formats.cards import MARKER, is_ours

CARD = "README.md"
_HUB_ID = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")


def render(template: str, **values: Any) -> str:
    """Render a template of `hub_cards/`; a value that it asks for and that is not given is an error.

    Args:
        template: Its file name.
        **values: What it shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rscc_hf.hub_cards", ""),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown: `md` makes text from elsewhere harmless
    )
    environment.filters["md"] = plain
    text = environment.get_template(template).render(marker=MARKER, **values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def plain(value: object) -> str:
    """Return text from elsewhere as Markdown that shows it as it is, in one line."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def earlier_metadata(existing: str | None) -> dict[str, Any]:
    """Return the metadata of an earlier card.

    Raises:
        ValueError: They are no YAML.
    """
    if existing is None:
        return {}
    return _parsed(RepoCard, existing).data.to_dict()


def as_model_card(content: str) -> ModelCard:
    """Return the rendered card, its metadata read back by the Hub's own reader."""
    return _parsed(ModelCard, content)


def as_dataset_card(content: str) -> DatasetCard:
    """Return the rendered card, its metadata read back by the Hub's own reader."""
    return _parsed(DatasetCard, content)


def read_card(folder: Path) -> str | None:
    """Read the card in a folder; None where there is none."""
    path = folder / CARD
    return path.read_text(encoding="utf-8") if path.is_file() else None


def write_card(folder: Path, content: str, *, overwrite: bool) -> Path:
    """Write a card, but not over one that somebody else wrote.

    Raises:
        ValueError: There is a card that this package did not write, and it is not to be replaced.
    """
    existing = read_card(folder)
    if existing is not None and not is_ours(existing) and not overwrite:
        raise InputError(f"{folder / CARD} was not written by rscc_hf; rename it, or --overwrite it.")
    write_text(folder / CARD, content)
    return folder / CARD


def hub_id(name: object, is_local: bool | None) -> str | None:
    """Return `name` where it is recorded to be an id on the Hub: by its look, `exp1/levir` may be a folder as well.

    Args:
        name: What a recipe says, for instance "microsoft/resnet-101" or "outputs/stage2".
        is_local: Whether it was a folder when it was read, as the run recorded; None: it recorded nothing.
    """
    return name if is_local is False and isinstance(name, str) and _HUB_ID.fullmatch(name) else None


def last_part(name: str) -> str:
    """Return the name of a folder or data set without what stands before it, which may be a path of a machine."""
    return re.split(r"[\\/]", name.rstrip("\\/"))[-1]


def _parsed(kind: Any, content: str) -> Any:
    try:
        return kind(content)
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise InputError(
            f"{CARD} has metadata that cannot be read ({' '.join(str(error).split())}); mend it."
        ) from error
