"""Files of recipes: YAML of flat keys, and `base`, the recipe that a file differs from.

`base`, like `--config`, is the name of a recipe of this package (`ccexpert_7b_stage1`) or the path of a file
(`../mine.yaml`), as seen from the file that says it. Its keys hold unless the file has them too; a base may have one.
"""

import difflib
import os
from collections.abc import Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from rscc_hf.errors import RecipeError
from rscc_hf.formats.recipes import load_yaml
from rscc_hf.training.engine.recipe_values import checked

BASE = "base"
_SUFFIXES = (".yaml", ".yml")
_PACKAGED = resources.files("rscc_hf.training.recipes")
_ONLY_BASE = "base_"
"""Begins the names of this package's recipes that are for others to differ from."""


def packaged_recipe(name: str) -> Traversable:
    """Return the file of a recipe of this package, by its name without `.yaml`.

    Raises:
        RecipeError: There is none of that name.
    """
    there = [file for file in _PACKAGED.iterdir() if file.name.endswith(_SUFFIXES)]
    by_name = {file.name.removesuffix(".yaml"): file for file in there}
    if name not in by_name:
        to_run = ", ".join(sorted(one for one in by_name if not one.startswith(_ONLY_BASE)))
        close = close_to(name, list(by_name), f"there are {to_run}")
        sentence = f"{name!r} is no recipe of this package{close}; a file is named by its path, up to its .yaml."
        raise RecipeError(sentence)
    return by_name[name]


def find_recipe(named: str, folder: Path) -> Path | Traversable:
    """Return the file that a path, as seen from a folder, or the name of a recipe of this package means.

    Raises:
        RecipeError: It is no path, and there is no recipe of that name.
    """
    path = folder / os.path.expanduser(named)  # noqa: PTH111 (leaves homes that there are not, where Path fails)
    is_path = "/" in named or os.sep in named or named.endswith(_SUFFIXES)
    return path if is_path or path.is_file() else packaged_recipe(named)


def read_values(file: str | os.PathLike | Traversable, hints: dict[str, Any], owner: str) -> dict[str, Any]:
    """Read the keys of a recipe's file and of all its bases, each value of its field's type.

    Args:
        file: Of the recipe; a string is a path or a name, see `find_recipe`.
        hints: Types by key.
        owner: Name of what has these keys, for errors.

    Raises:
        RecipeError: A file or a base cannot be read, has a key that there is not, a value of another type, or the
            bases go round in a circle; the sentence names the file in which it stands.
    """
    values: dict[str, Any] = {}
    seen: list[Any] = []
    this: Any = find_recipe(os.fspath(file), Path()) if isinstance(file, str | os.PathLike) else file
    if this.name.startswith(_ONLY_BASE) and Path(str(this)).resolve().parent == Path(str(_PACKAGED)).resolve():
        raise RecipeError(f"{this} is the base of others and no recipe by itself; name one that has it as its base.")
    while this is not None:
        own, base = read_own(this, hints, owner)
        place = this.resolve() if isinstance(this, Path) else this
        if place in seen:
            circle = " -> ".join(other.name for other in [*seen[seen.index(place) :], place])
            raise RecipeError(f"{this}: its base is, in the end, itself ({circle}); take one `base` out.")
        seen.append(place)
        values = {**own, **values}
        this = None if base is None else _base_of(this, base)
    return values


def read_own(file: Path | Traversable, hints: dict[str, Any], owner: str) -> tuple[dict[str, Any], str | None]:
    """Read what stands in one file: its values, and its `base` (None: it has none); errors as of `read_values`."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"{file}: the recipe is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a name with a null in it
        raise RecipeError(f"{file}: the recipe cannot be read ({error}); name a YAML file.") from error
    try:
        content = load_yaml(text)
    except ValueError as error:
        raise RecipeError(f"{file}: no valid YAML ({error}); mend it.") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise RecipeError(f"{file}: the recipe is no list of `key: value` lines; write it as one.")
    if BASE in content and not isinstance(content[BASE], str):
        raise RecipeError(f"{file}: base is {content[BASE]!r}; give the name of a recipe, or the path of a file.")
    base = content.pop(BASE, None)
    for key in content:
        if key not in hints:
            raise RecipeError(f"{file}: {key!r} is no key of {owner}{close_to(str(key), list(hints))}.")
    return checked(content, hints, lambda sentence: RecipeError(f"{file}: {sentence}")), base


def close_to(name: str, names: Sequence[str], lists: str = "--help lists them all") -> str:
    """Return words about the names that are most like one that there is not, or about where all are listed."""
    matches = difflib.get_close_matches(name, names, n=3)
    return f"; did you mean {' or '.join(matches)}" if matches else f" ({lists})"


def _base_of(file: Path | Traversable, base: str) -> Path | Traversable:
    """Return the file that `base` in `file` means."""
    try:
        found = find_recipe(base, Path(str(file)).parent)
    except RecipeError as error:
        raise RecipeError(f"{file}: base: {error}") from error
    if not found.is_file():
        raise RecipeError(f"{file}: base is {base!r}, and {found} is no file; name one as seen from this file.")
    return found
