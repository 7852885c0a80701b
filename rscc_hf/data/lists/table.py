"""Lists of pairs: what the rows of a CSV, TSV or JSONL file mean, and what of them is not used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rscc_hf.data.captions import contradictions, has_words, pair_key
from rscc_hf.data.lists.items import (
    IMAGES,
    MAPS,
    ListedPair,
    PairList,
    same_files,
    without_references,
)
from rscc_hf.data.lists.rows import Cells, read_rows
from rscc_hf.errors import InputError
from rscc_hf.files import some
from rscc_hf.formats.predictions import NAMES
from rscc_hf.processing.change_pair_web import file_name, is_address, shown_address
from rscc_hf.text import as_text, count

COLUMNS = {name: aliases for name, aliases in NAMES.items() if name != "prediction"}
_MEANING = {alias: name for name, aliases in COLUMNS.items() for alias in aliases}
_MOST_COLUMNS = 10


def read_list(path: Path) -> PairList:
    """Read the pairs of a list; see `rscc_hf.data.lists.sources.read_pairs`.

    Raises:
        ValueError: The file is of an unknown kind or without pairs, a line is broken or contradicts itself, or an id
            occurs twice; the sentence names the file and the line.
    """
    reader = _ListReader(path)
    pairs: list[ListedPair] = []
    named: dict[str, tuple[str, int]] = {}
    for line, cells, few in read_rows(path):
        pair = reader.pair(line, cells, few)
        pair_id = str(pair.id)
        form = pair_key(pair_id)
        if form in named:
            first, earlier = named[form]
            told = (
                f"two pairs are called {first!r}"
                if first == pair_id
                else f"the ids {first!r} and {pair_id!r} differ in spaces or the Unicode form of a letter only"
            )
            raise InputError(f"{path}, lines {earlier} and {line}: {told}; give every pair its own pair_id.")
        named[form] = (pair_id, line)
        pairs.append(pair)
    if not pairs:
        raise InputError(f"{path} has no pairs; give a list with some.")
    notes = [
        *reader.notes(),
        *contradictions((str(pair.id), pair.references, pair.changed) for pair in pairs),
        *without_references((str(pair.id), pair.references) for pair in pairs),
        *same_files(pairs),
    ]
    return PairList(tuple(pairs), notes=tuple(f"{path}: {note}" for note in notes), sources=(path,))


class _ListReader:
    """Turns rows into pairs and keeps what there is to tell about all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unused: dict[str, None] = {}  # an ordered set
        self.backslashes: list[str] = []
        self.short: list[str] = []

    def notes(self) -> list[str]:
        found = []
        if self.unused:
            names = [name or "(without a name)" for name in self.unused]
            found.append(f"not used: {'columns' if len(names) > 1 else 'column'} {some(names, _MOST_COLUMNS)}.")
        if self.backslashes:
            paths = f"{count(len(self.backslashes), 'path')} ({some(self.backslashes)})"
            found.append(f"backslashes were read as slashes in {paths}.")
        if self.short:
            rows = f"{count(len(self.short), 'row')} with fewer cells than the header has columns"
            found.append(f"{rows} ({some(self.short)}); what is left out at their ends is taken as empty.")
        return found

    def pair(self, line: int, cells: Cells, few: str | None) -> ListedPair:
        """Return the pair of a row."""
        where = f"{self.path}, line {line}"
        given: dict[str, list[tuple[str, Any]]] = {name: [] for name in COLUMNS}
        for column, value in cells:
            meaning = _MEANING.get(column.strip().lower())
            if meaning is None:
                if value is not None or column:
                    self.unused[column] = None
            else:
                given[meaning].append((column, value))
        readers: dict[str, Callable[[Any, str, str], Any]] = {
            "pair_id": _pair_id,
            "references": _references,
            "changed": _changed,
            **dict.fromkeys((*IMAGES, *MAPS), self._file),
        }
        found = {name: _one(name, given[name], readers[name], where) for name in COLUMNS}
        for name in IMAGES:
            if found[name] is None:
                if few is not None:
                    raise InputError(f"{where}: no {name}: {few}; leave a cell empty that says nothing.")
                columns = ", ".join(as_text(column) for column, _ in cells) or "empty"
                raise InputError(f"{where}: no {name}; the columns are {columns}.")
        if few is not None:
            self.short.append(f"line {line}")
        before, after = found["before"], found["after"]
        pair_id = found["pair_id"]
        if pair_id is None:
            stems = [as_text(Path(file_name(file)).stem) for file in (before, after)]
            pair_id = stems[0] if stems[0] == stems[1] else f"{stems[0]}__{stems[1]}"
        files = {name: self._place(found[name]) for name in (*IMAGES, *MAPS)}
        return ListedPair(
            pair_id,
            files["before"],
            files["after"],
            maps=(files["semantic_before"], files["semantic_after"]),
            references=found["references"],
            changed=found["changed"],
            names=(as_text(shown_address(before)), as_text(shown_address(after))),
        )

    def _place(self, name: str | None) -> Path | str | None:
        """Return the path of a file that the list names relative to itself; an address as it is."""
        return name if name is None or is_address(name) else self.path.parent / name

    def _file(self, value: Any, name: str, where: str) -> str:
        """Return the path that is meant: as it stands if such a file exists, else without what other systems write."""
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{where}: {name} must be the path of a file, not {value!r}.")
        if is_address(value.strip()):
            return value.strip()
        if self._exists(value):
            return value
        stripped = value.strip()
        if stripped.startswith(("~/", "~\\")):
            stripped = str(Path.home()) + "/" + stripped[2:]
        if "\\" in stripped and os.sep == "/" and self._exists(slashes := stripped.replace("\\", "/")):
            self.backslashes.append(as_text(value))
            return slashes
        return stripped

    def _exists(self, value: str) -> bool:
        return (self.path.parent / value).is_file()


def _one(name: str, given: list[tuple[str, Any]], read: Callable[[Any, str, str], Any], where: str) -> Any:
    """Return the one thing that all columns of the meaning `name` say; None where none says anything."""
    said = [(column, value) for column, value in given if not _says_nothing(value)]
    # what is empty is an error of its own (a path "", say) unless it stands beside something better
    said = said or [(column, value) for column, value in given if value is not None]
    if not said:
        return None
    (first, kept), *others = said
    meant = read(kept, name, where)
    for column, value in others:
        other = read(value, name, where)
        if other != meant and not (name in (*IMAGES, *MAPS) and os.path.normpath(other) == os.path.normpath(meant)):
            names = f"{first} and {column}" if column != first else f"two columns called {first}"
            shown = ", ".join(repr(shown_address(one) if isinstance(one, str) else one) for one in (kept, value))
            raise InputError(f"{where}: {names} contradict each other ({shown}); keep one of them.")
    return meant


def _says_nothing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or value != value or value == []


def _pair_id(value: Any, name: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise InputError(f"{where}: {name} must be a name, not {value!r}; give one.")
    return as_text(str(value))


def _references(value: Any, name: str, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else [value]
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: {name} are no JSON list ({error}); mend it.") from error
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise InputError(f"{where}: {name} must be one sentence or a list of sentences; give one of these.")
    if not all(one.strip() for one in value):
        raise InputError(f"{where}: {name} hold an empty sentence; leave it out.")
    sentences = tuple(as_text(one) for one in value)
    for sentence in sentences:
        if not has_words(sentence):
            raise InputError(f"{where}: {name} hold {sentence!r}, which has no letter or digit; leave it out.")
    return sentences


def _changed(value: Any, name: str, where: str) -> bool:
    named = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    if str(value).strip().lower() not in named:
        raise InputError(f"{where}: {name} must be true or false (or 1 or 0), not {value!r}.")
    return named[str(value).strip().lower()]
