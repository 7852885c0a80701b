"""From facts to a README.md: the templates in `hub_cards/`, and what stays when a card is written again."""

import re
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import DatasetCard, ModelCard
from huggingface_hub.repocard import RepoCard

from rscc_hf.files import write_text

CARD = "README.md"
MARKER = (
    "<!-- rscc_hf: what stands above is written anew by `rscc card` and `rscc push`; "
    "what stands below is yours and stays. -->"
)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
# What users call their folders, and owners on the Hub do not call themselves.
_FOLDERS = {"checkpoints", "data", "datasets", "demo_output", "models", "output", "outputs", "runs", "scenes", "tmp"}


def render(template: str, **values: Any) -> str:
    """A template of `hub_cards/` with its values; a value that a template asks for and that is not given is an error.

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
    """Text from elsewhere as Markdown that shows it as it is, in one line."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def own_text(existing: str | None) -> str:
    """What a user wrote below the marker of an earlier card."""
    return "" if existing is None or MARKER not in existing else existing.partition(MARKER)[2].strip()


def is_ours(existing: str) -> bool:
    """Whether a card was written by this package and may be written anew."""
    return MARKER in existing


def earlier_metadata(existing: str | None) -> dict[str, Any]:
    """The metadata of an earlier card.

    Raises:
        ValueError: They are no YAML.
    """
    if existing is None:
        return {}
    return _parsed(RepoCard, existing).data.to_dict()


def as_model_card(content: str) -> ModelCard:
    """The rendered card, its metadata read back by the Hub's own reader."""
    return _parsed(ModelCard, content)


def as_dataset_card(content: str) -> DatasetCard:
    """The rendered card, its metadata read back by the Hub's own reader."""
    return _parsed(DatasetCard, content)


def read_card(folder: Path) -> str | None:
    """The card in a folder; None where there is none."""
    path = folder / CARD
    return path.read_text(encoding="utf-8") if path.is_file() else None


def write_card(folder: Path, content: str, *, overwrite: bool) -> Path:
    """Writes a card, but not over one that somebody else wrote.

    Raises:
        ValueError: There is a card that this package did not write, and it is not to be replaced.
    """
    existing = read_card(folder)
    if existing is not None and not is_ours(existing) and not overwrite:
        raise ValueError(f"{folder / CARD} was not written by rscc_hf; rename it, or --overwrite it.")
    write_text(folder / CARD, content)
    return folder / CARD


def hub_id(name: object, folder: Path) -> str | None:
    """`name` where it is an id on the Hub, as far as can be told; None where it may be a folder of this machine.

    Args:
        name: What a recipe says, for instance "microsoft/resnet-101" or "outputs/stage2".
        folder: The checkpoint: paths in its recipe are relative to where it was trained, which is often above it.
    """
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name) or name.partition("/")[0].lower() in _FOLDERS:
        return None
    places = [Path(), *folder.resolve().parents]
    return None if any((place / name).exists() for place in places) else name


def _parsed(kind: Any, content: str) -> Any:
    try:
        return kind(content)
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise ValueError(
            f"{CARD} has metadata that cannot be read ({' '.join(str(error).split())}); mend it."
        ) from error
