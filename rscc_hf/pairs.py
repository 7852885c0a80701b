"""Pairs for captioning: a CSV or JSONL list, a folder with one sub-folder for each date, or a data set's split."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, overload

# First the names of this library, then those of its schema and of the field's annotation files.
COLUMNS = {
    "pair_id": ("pair_id", "uid"),
    "before": ("before", "image_before", "img1_path"),
    "after": ("after", "image_after", "img2_path"),
    "semantic_before": ("semantic_before",),
    "semantic_after": ("semantic_after",),
    "references": ("references", "captions", "change_caption"),
    "changed": ("changed", "change_flag", "changeflag"),
}
# Sub-folders of a folder of pairs: before, after, and the semantic maps of both, of which there may be none. The last
# is how SECOND-CC lies on the disk.
LAYOUTS = (
    ("before", "after", "semantic_before", "semantic_after"),
    ("A", "B", "semantic_before", "semantic_after"),
    ("rgb/A", "rgb/B", "sem/A", "sem/B"),
)
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".j2k", ".ppm", ".pgm", ".npy")
)
_DELIMITERS = {".csv": ",;", ".tsv": "\t"}


@dataclass(frozen=True)
class PairItem:
    """One pair of a list: its images and what else the list says about it.

    Attributes:
        pair_id: Its name, unique in the list.
        before: The earlier image: a path, or the undecoded image of a data set.
        after: The later image.
        semantic_before: Semantic map of the earlier image, if there is one.
        semantic_after: Semantic map of the later image, if there is one.
        names: `before` and `after` as the list has them (in a folder: relative to it), for output files.
        references: Reference captions, if the list has them.
        changed: Whether the pair changed, if the list says so.
    """

    pair_id: str
    before: Path | Mapping[str, Any]
    after: Path | Mapping[str, Any]
    semantic_before: Path | Mapping[str, Any] | None
    semantic_after: Path | Mapping[str, Any] | None
    names: tuple[str, str]
    references: tuple[str, ...] | None = None
    changed: bool | None = None


@dataclass(frozen=True)
class PairList:
    """Pairs in order, and the files of a folder that belong to none.

    Attributes:
        pairs: The pairs, at least one; those of a data set are read from the disk as they are asked for.
        unmatched: Images and maps without a partner, relative to the folder.
    """

    pairs: Sequence[PairItem]
    unmatched: tuple[str, ...] = ()

    @property
    def pair_ids(self) -> list[str]:
        """The names of the pairs in order; no image is read."""
        if isinstance(self.pairs, _DatasetPairs):
            return list(self.pairs.dataset["pair_id"])
        return [pair.pair_id for pair in self.pairs]

    def names_of(self, index: int) -> tuple[str, str] | None:
        """What the list calls the images of a pair; None for a data set, whose ids are its names."""
        return None if isinstance(self.pairs, _DatasetPairs) else self.pairs[index].names

    def missing_files(self) -> list[tuple[str, Path]]:
        """Files that the list names and that do not exist, each with the name of its pair."""
        if isinstance(self.pairs, _DatasetPairs):
            return []
        return [
            (pair.pair_id, path)
            for pair in self.pairs
            for path in (pair.before, pair.after, pair.semantic_before, pair.semantic_after)
            if isinstance(path, Path) and not path.is_file()
        ]


def read_pairs(source: str | os.PathLike[str]) -> PairList:
    """Reads a list of pairs.

    Args:
        source: A `.jsonl` file (an object a line), or a `.csv` or `.tsv` file with a header, with the columns of
            `COLUMNS` (`before` and `after` at least; `references` in a CSV are one sentence or a JSON list), relative
            paths being relative to the file's folder. Or a folder with one of `LAYOUTS`, where images belong together
            that have the same name, or else the same name but for the extension. Without a `pair_id` a pair is called
            by the name of its images without the extension.

    Raises:
        ValueError: The source is missing, empty or of an unknown kind, a line is broken, an id occurs twice, or it is
            ambiguous which files belong together; the sentence names the file and the line.
    """
    path = Path(source)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise ValueError(f"there is no file or folder {path}; give a .csv or .jsonl list, or a folder of pairs.")
    if path.suffix.lower() == ".jsonl":
        rows = _jsonl_rows(path)
    elif path.suffix.lower() in _DELIMITERS:
        rows = _csv_rows(path)
    else:
        raise ValueError(f"{path} is no list of pairs; give a .csv, .tsv or .jsonl file, or a folder.")
    pairs: dict[str, PairItem] = {}
    lines: dict[str, int] = {}
    for line, row in rows:
        pair = _pair_of_row(row, path, line)
        if pair.pair_id in pairs:
            raise ValueError(
                f"{path}, lines {lines[pair.pair_id]} and {line}: two pairs are called {pair.pair_id!r}; "
                "give every pair its own pair_id."
            )
        pairs[pair.pair_id] = pair
        lines[pair.pair_id] = line
    if not pairs:
        raise ValueError(f"{path} has no pairs.")
    return PairList(tuple(pairs.values()))


def read_dataset_pairs(
    path_or_id: str | os.PathLike[str], split: str, *, semantic_coverage: str = "full", revision: str | None = None
) -> PairList:
    """Reads the pairs of a data set in the schema of `rscc_hf.data.schema`; see `rscc_hf.data.loading.load_pairs`.

    Raises:
        ValueError: The data set, the split or a column is not there, it has no rows, or an id occurs twice.
    """
    from datasets import Image

    from rscc_hf.data.loading import load_pairs

    dataset = load_pairs(os.fspath(path_or_id), split, semantic_coverage=semantic_coverage, revision=revision)
    images = [name for name in dataset.column_names if isinstance(dataset.features[name], Image)]
    for name in images:
        dataset = dataset.cast_column(name, Image(decode=False))  # the processor decodes, and names what it cannot
    repeated = [name for name, count in Counter(dataset["pair_id"]).items() if count > 1]
    if repeated:
        raise ValueError(f"{path_or_id} ({split}): {len(repeated)} pair_ids occur twice or more, as {repeated[0]!r}.")
    if len(dataset) == 0:
        raise ValueError(f"{path_or_id} ({split}) has no pairs.")
    return PairList(_DatasetPairs(dataset))


class _DatasetPairs(Sequence[PairItem]):
    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    @overload
    def __getitem__(self, index: int) -> PairItem: ...

    @overload
    def __getitem__(self, index: slice) -> list[PairItem]: ...

    def __getitem__(self, index: int | slice) -> PairItem | list[PairItem]:
        if isinstance(index, slice):
            return [self[row] for row in range(len(self))[index]]
        row = self.dataset[index]
        before, after = row["image_before"], row["image_after"]
        return PairItem(
            pair_id=row["pair_id"],
            before=before,
            after=after,
            semantic_before=row.get("semantic_before"),
            semantic_after=row.get("semantic_after"),
            names=((before or {}).get("path") or "", (after or {}).get("path") or ""),
            references=tuple(row["captions"]) if row["captions"] else None,
            changed=row["changed"],
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8.") from error


def _jsonl_rows(path: Path) -> Iterable[tuple[int, Mapping[str, Any]]]:
    # Only "\n" ends a line: a caption may hold the other characters that str.splitlines splits at.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: no JSON ({error}).") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: an object with before and after is needed.")
        yield number, row


def _csv_rows(path: Path) -> Iterable[tuple[int, Mapping[str, Any]]]:
    text = _text(path)
    header = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS[path.suffix.lower()], key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    if reader.fieldnames is not None:
        reader.fieldnames = [name.strip() for name in reader.fieldnames]
    try:
        for row in reader:
            if None in row:
                raise ValueError(f"{path}, line {reader.line_num}: more cells than the header has columns.")
            yield reader.line_num, {name: cell for name, cell in row.items() if cell not in (None, "")}
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}.") from error


def _pair_of_row(row: Mapping[str, Any], path: Path, line: int) -> PairItem:
    where = f"{path}, line {line}"
    found = {name: next((row[alias] for alias in aliases if alias in row), None) for name, aliases in COLUMNS.items()}
    for name in ("before", "after"):
        if found[name] is None:
            raise ValueError(f"{where}: no {name}; the columns are {', '.join(map(str, row)) or 'empty'}.")
    files: dict[str, Path | None] = {}
    for name in ("before", "after", "semantic_before", "semantic_after"):
        value = found[name]
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise ValueError(f"{where}: {name} must be the path of a file, not {value!r}.")
        files[name] = None if value is None else path.parent / value
    before, after = files["before"], files["after"]
    assert before is not None and after is not None
    pair_id = found["pair_id"]
    if pair_id is None:
        pair_id = before.stem if before.stem == after.stem else f"{before.stem}__{after.stem}"
    if isinstance(pair_id, bool) or not isinstance(pair_id, (str, int)) or not str(pair_id).strip():
        raise ValueError(f"{where}: pair_id must be a name, not {pair_id!r}.")
    return PairItem(
        pair_id=str(pair_id),
        before=before,
        after=after,
        semantic_before=files["semantic_before"],
        semantic_after=files["semantic_after"],
        names=(str(found["before"]), str(found["after"])),
        references=_references(found["references"], where),
        changed=_changed(found["changed"], where),
    )


def _references(value: Any, where: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else [value]
        except ValueError as error:
            raise ValueError(f"{where}: references are no JSON list ({error}).") from error
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise ValueError(f"{where}: references must be one sentence or a list of sentences.")
    return tuple(value)


def _changed(value: Any, where: str) -> bool | None:
    if value is None:
        return None
    named = {"true": True, "1": True, "false": False, "0": False}
    if str(value).strip().lower() not in named:
        raise ValueError(f"{where}: changed must be true or false (or 1 or 0), not {value!r}.")
    return named[str(value).strip().lower()]


def _read_folder(folder: Path) -> PairList:
    complete = [layout for layout in LAYOUTS if all((folder / name).is_dir() for name in layout[:2])]
    if not complete:
        half = [(a, b) for a, b, *_ in LAYOUTS if (folder / a).is_dir() or (folder / b).is_dir()]
        if half:
            missing = next(name for name in half[0] if not (folder / name).is_dir())
            raise ValueError(f"{folder} has no folder {missing}; it needs {half[0][0]} and {half[0][1]}.")
        raise ValueError(
            f"{folder} has no folders of pairs; it needs before and after (or A and B), or a split to read a data set."
        )
    if len(complete) > 1:
        told = " and ".join(f"{a} + {b}" for a, b, *_ in complete)
        raise ValueError(f"{folder} has {told}; keep the images of one of them, or give a list.")
    roles = ("before", "after", "semantic_before", "semantic_after")
    places = dict(zip(roles, complete[0], strict=True))
    files = {role: _images(folder / places[role]) for role in roles}
    has_maps = [(folder / places[role]).is_dir() for role in roles[2:]]
    if has_maps[0] != has_maps[1]:
        there, missing = (places[role] for role in (roles[2:] if has_maps[0] else roles[:1:-1]))
        raise ValueError(f"{folder} has {there} but no {missing}; give the maps of both dates or of none.")

    matched = _match(files["before"], files["after"], folder, places["before"], places["after"])
    unmatched = _left(files["before"], matched, places["before"])
    unmatched += _left(files["after"], matched.values(), places["after"])
    maps: dict[str, dict[str, str]] = {}
    for role, owner in (("semantic_before", "before"), ("semantic_after", "after")):
        maps[role] = _match(files[owner], files[role], folder, places[owner], places[role])
        owners = set(matched) if owner == "before" else set(matched.values())
        used = [name for image, name in maps[role].items() if image in owners]
        unmatched += _left(files[role], used, places[role])
    if not matched:
        raise ValueError(
            f"{folder}: none of the {len(files['before'])} images in {places['before']} has its name among the "
            f"{len(files['after'])} in {places['after']}; the two dates of a pair must have the same file name."
        )

    def path_of(role: str, name: str | None) -> Path | None:
        return None if name is None else folder / places[role] / files[role][name]

    stems = Counter(_stem(name) for name in matched)
    pairs = []
    for before, after in sorted(matched.items()):
        pairs.append(
            PairItem(
                pair_id=_stem(before) if stems[_stem(before)] == 1 else before,
                before=folder / places["before"] / files["before"][before],
                after=folder / places["after"] / files["after"][after],
                semantic_before=path_of("semantic_before", maps["semantic_before"].get(before)),
                semantic_after=path_of("semantic_after", maps["semantic_after"].get(after)),
                names=(f"{places['before']}/{before}", f"{places['after']}/{after}"),
            )
        )
    return PairList(tuple(pairs), tuple(unmatched))


def _images(folder: Path) -> dict[str, str]:
    """Relative names of the images in a folder and below, by their composed Unicode form (macOS decomposes them)."""
    found: dict[str, str] = {}
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                relative = (Path(root) / name).relative_to(folder).as_posix()
                found[unicodedata.normalize("NFC", relative)] = relative
    return found


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _match(
    ours: Iterable[str], theirs: Iterable[str], folder: Path, our_place: str, their_place: str
) -> dict[str, str]:
    """Which file of one folder belongs to which of the other: same name, or else same name but for the extension."""
    left, right = set(ours), set(theirs)
    matched = {name: name for name in left & right}
    by_stem: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    for groups, rest in zip(by_stem, (left - right, right - left), strict=True):
        for name in sorted(rest):
            groups.setdefault(_stem(name), []).append(name)
    for stem in by_stem[0].keys() & by_stem[1].keys():
        group, partners = by_stem[0][stem], by_stem[1][stem]
        if len(group) > 1 or len(partners) > 1:
            raise ValueError(
                f"{folder}: it is ambiguous how {', '.join(group)} in {our_place} and {', '.join(partners)} in "
                f"{their_place} belong together; keep one file of that name in each, or give a list."
            )
        matched[group[0]] = partners[0]
    return matched


def _left(names: Iterable[str], used: Iterable[str], place: str) -> list[str]:
    return [f"{place}/{name}" for name in sorted(set(names) - set(used))]
