"""Which files of a local folder make a split: exact rules for names, and what contradicts them.

The files of a split lie in one place: in the folder or its `data/`, named `test.parquet`, `test-0.parquet` and
`test-1.parquet`, or `test-00000-of-00002.parquet` (as `datasets` and the Hub name them; a digest may follow); or under
any names in a folder `test/` or `data/test/`. A number alone is no shard of what is no known split:
`levir-2022.parquet` is `levir-2022`. Or the folder was written by `save_to_disk`. Hidden files do not count, links do.
"""

import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rscc_hf.data.shard_names import KNOWN_SPLITS, declared_splits, is_parquet, name_of, shards_problem
from rscc_hf.errors import InputError
from rscc_hf.files import some
from rscc_hf.text import reason_of

_ORDER = {"train": 0, "validation": 1, "val": 1, "test": 2}
# Other files that hold rows, but not here.
_UNREAD = (".jsonl", ".ndjson", ".csv", ".tsv", ".arrow", ".feather", ".pq", ".parq", ".orc")
_CARD = "README.md"
_OF_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes of several splits, and of one


@dataclass
class Layout:
    """The splits of a local folder.

    Attributes:
        root: The folder.
        is_saved: Whether `save_to_disk` wrote it; then there are no files.
        splits: The parquet files of each split in order; without those of `broken`.
        broken: Why a split cannot be read, one sentence.
        notes: What of the folder is not read, or contradicts what is; a sentence each.
        declared: What the front matter of a README.md says of splits that are read from other files, or not at all.
    """

    root: Path
    is_saved: bool = False
    splits: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    declared: dict[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """All splits, also those that cannot be read, in their usual order."""
        return sorted({*self.splits, *self.broken}, key=lambda name: (_ORDER.get(name, 3), name))


def read_layout(folder: Path, *, outputs: Iterable[Path] = ()) -> Layout:
    """Find the splits of a folder; no file but README.md and those of `save_to_disk` that tell of it is opened.

    Args:
        folder: The folder.
        outputs: Files that the run itself writes: they are not told where they are not read.
    """
    layout = Layout(folder, is_saved=any((folder / name).is_file() for name in _OF_SAVED))
    places: dict[str, dict[Path, list[Path]]] = defaultdict(dict)
    unread: list[Path] = []
    for flat in (folder, folder / "data"):
        if not flat.is_dir() or (layout.is_saved and flat != folder and (flat / "state.json").is_file()):
            continue
        files, folders = _listed(flat)
        for file in files:
            if is_parquet(file.name):
                places[name_of(file).split].setdefault(flat, []).append(file)
            elif not layout.is_saved:
                unread.append(file)
        for inner in folders:
            if inner == folder / "data":
                continue
            _take_folder(inner, places, unread)
    _name_in_full(places, (folder, folder / "data"))
    if layout.is_saved:
        _read_saved(layout, places)
        return layout
    for split, there in places.items():
        problem = _problem(folder, split, there)
        if problem is not None:
            layout.broken[split] = problem
        else:
            ((place, files),) = there.items()
            in_place = place in (folder, folder / "data")
            layout.splits[split] = tuple(sorted(files, key=lambda file: (_index(file) if in_place else 0, file.name)))
    _note_places(layout, places)
    own = {os.path.realpath(output) for output in outputs}  # never raises, as Path.resolve does where links go around
    unread = [file for file in unread if os.path.realpath(file) not in own]
    if unread:
        names = some(_relative(unread, folder))
        layout.notes.append(
            f"{folder} also holds {names}, which {'is' if len(unread) == 1 else 'are'} not read: the splits are "
            "parquet files that are named after them."
        )
    _compare_card(layout)
    return layout


def _name_in_full(places: dict[str, dict[Path, list[Path]]], flats: Iterable[Path]) -> None:
    """Make a single numbered file of no known split a split of its own: `sentinel-2.parquet` lacks no shards."""
    for split, flat in itertools.product([name for name in places if name not in KNOWN_SPLITS], flats):
        files = places[split].get(flat, [])
        numbered = [file for file in files if (name := name_of(file)).split == split and name.index and not name.count]
        if len(numbered) == 1:
            files.remove(numbered[0])
            places[numbered[0].stem].setdefault(flat, []).append(numbered[0])
        if not files:
            places[split].pop(flat, None)
        if not places[split]:
            del places[split]


def _problem(root: Path, split: str, places: Mapping[Path, Sequence[Path]]) -> str | None:
    """Say why the files of a split cannot be read; None: they can be."""
    if len(places) > 1:
        told = " and as ".join(
            some([file.relative_to(root).as_posix() for file in files]) for files in places.values()
        )
        return f"{root} holds {split} twice, as {told}; keep one of them."
    ((place, files),) = places.items()
    names = [file.name for file in files]
    wrong = shards_problem(names)
    if wrong is None and place in (root, root / "data"):
        wrong = _kinds_problem(split, names)
    return None if wrong is None else f"{place} {wrong}."


def _kinds_problem(split: str, files: Sequence[str]) -> str | None:
    """Say the same of the files that are not in a folder of their split's name."""
    kinds: dict[str, list[str]] = defaultdict(list)
    for file in sorted(files):
        name = name_of(file)
        whole = name.index is None or name.split != split  # `levir-2022.parquet` as a split of that name
        kinds["whole" if whole else "numbered" if name.count is None else "shards"].append(file)
    if len(kinds) > 1 or len(kinds["whole"]) > 1:
        return f"holds {split} in more than one way, as {some(sorted(files))}; keep one of them"
    numbers = sorted(_index(Path(file)) for file in kinds["numbered"])
    twice = len(set(numbers)) < len(numbers)
    if numbers and (twice or numbers[0] > 1 or numbers != list(range(numbers[0], numbers[-1] + 1))):
        return (
            f"holds {some(sorted(kinds['numbered']))}: shards of {split} that are numbered so must go without a gap "
            f"from 0 or 1; add what is missing, or put them into a folder {split}/"
        )
    return None


def _index(file: Path) -> int:
    return name_of(file).index or 0


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """List files with rows and folders in a folder, sorted, without hidden ones and those of tools.

    Links that lead nowhere are files.
    """
    files, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith((".", "__")):
                continue
            if entry.is_dir():
                folders.append(folder / entry.name)
            elif _holds_rows(entry.name):
                files.append(folder / entry.name)
    return sorted(files), sorted(folders)


def _holds_rows(name: str) -> bool:
    return name.lower().endswith(_UNREAD) or ".parquet" in name.lower()


def _take_folder(inner: Path, places: dict[str, dict[Path, list[Path]]], unread: list[Path]) -> None:
    """Take a folder's parquet files for the split that it is called after, or for unread ones."""
    files, deeper = _listed(inner)
    parquet = [file for file in files if is_parquet(file.name)]
    said = {name_of(file).split for file in parquet} & KNOWN_SPLITS
    if parquet and said <= {inner.name}:
        places[inner.name][inner] = parquet
        unread += [file for file in files if file not in parquet]
    else:
        named = (file for file in files if {inner.name, name_of(file).split} & KNOWN_SPLITS)
        unread += [*parquet, *(file for file in named if file not in parquet)]
    for folder in deeper:
        unread += [file for file in _listed(folder)[0] if is_parquet(file.name)]


def _note_places(layout: Layout, places: Mapping[str, Mapping[Path, Sequence[Path]]]) -> None:
    root = layout.root
    kinds: dict[str, list[str]] = defaultdict(list)
    for split, there in places.items():
        for place in there:
            inner = place not in (root, root / "data")
            kind = (place.parent if inner else place).relative_to(root).as_posix() + ("/SPLIT" if inner else "")
            kinds[kind].append(split)
    if len(kinds) > 1:
        told = " and ".join(f"{', '.join(sorted(set(splits)))} in {kind}/" for kind, splits in sorted(kinds.items()))
        layout.notes.append(f"{root} holds splits in more than one place ({told}); all of them are taken for one set.")


def _read_saved(layout: Layout, places: Mapping[str, Mapping[Path, Sequence[Path]]]) -> None:
    """Read the splits of a folder of `save_to_disk`."""
    root = layout.root
    parquet = [file for there in places.values() for files in there.values() for file in files]
    marks = [root / name for name in _OF_SAVED if (root / name).is_file()]
    names = list(dict.fromkeys(name for mark in marks for name in _saved_splits(mark)))
    described = marks[0]
    if len(marks) > 1:
        problem = f"{root} holds two data sets of save_to_disk ({' and '.join(_OF_SAVED)}); keep one."
        layout.broken = dict.fromkeys([*names, *places], problem)
        return
    if parquet:
        told = some(_relative(parquet, root))
        problem = f"{root} holds a data set of save_to_disk ({described.name}) and parquet files ({told}); keep one."
        layout.broken = dict.fromkeys([*names, *places], problem)
        return
    layout.splits = dict.fromkeys(names, ())
    named = set(names) if described.name == "dataset_dict.json" else set()
    unlisted = sorted({folder.name for folder in _listed(root)[1] if (folder / "state.json").is_file()} - named)
    if unlisted:
        layout.notes.append(f"{root} also holds {some(unlisted)}, not named in {described.name} and not read.")


def _saved_splits(described: Path) -> list[str]:
    """Return the names of the splits that a JSON file of `save_to_disk` tells of."""
    try:
        content = json.loads(described.read_text(encoding="utf-8"))
        return list(content["splits"]) if "splits" in content else [str(content.get("_split") or "train")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{described} cannot be read ({reason_of(error)}); save the data set again.") from error


def _compare_card(layout: Layout) -> None:
    """Note where the front matter of a README.md, which the Hub follows, names other files for a split."""
    for split, patterns in declared_splits(layout.root / _CARD).items():
        if split not in layout.splits:
            layout.declared[split] = ", ".join(patterns)
            continue
        read = set(_relative(layout.splits[split], layout.root))
        try:
            there = {file for pattern in patterns for file in _matches(layout.root, pattern)}
        except (ValueError, IndexError, NotImplementedError, OSError):  # what pathlib cannot look for
            meant = "is a pattern that is not understood here"
        else:
            if there == read:
                continue
            meant = f"means {some(sorted(there))}" if there else "is not there"
        layout.notes.append(
            f"{layout.root}: {_CARD} says that {split} is {', '.join(patterns) or 'nothing'}, which {meant}; what is "
            f"read is {some(sorted(read))}."
        )


def _matches(root: Path, pattern: str) -> list[str]:
    if pattern.startswith("/") or ".." in pattern.split("/"):
        return []
    return _relative(root.glob(pattern), root)


def _relative(files: Iterable[Path], root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in files]
