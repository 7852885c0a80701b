"""A folder of pairs: which of its files belong together, and what of it is not read."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from rscc_hf.data.lists.items import MAPS, ListedPair, PairList
from rscc_hf.errors import InputError
from rscc_hf.files import LITTER, some
from rscc_hf.text import as_text, count

# Sub-folders with the images of both dates, and those with their semantic maps, of which there may be none. The last
# of each is how SECOND-CC lies on the disk.
LAYOUTS = (("before", "after"), ("A", "B"), ("rgb/A", "rgb/B"))
MAP_LAYOUTS = (("semantic_before", "semantic_after"), ("sem/A", "sem/B"))
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".j2k", ".ppm", ".pgm", ".npy")
)


def read_folder(folder: Path, *, outputs: Iterable[Path] = ()) -> PairList:
    """Read the pairs of a folder; see `rscc_hf.data.lists.sources.read_pairs`.

    Raises:
        ValueError: It has none or several of `LAYOUTS` or of `MAP_LAYOUTS`, maps of one date only, no pair, or names
            of which it is ambiguous how they belong together.
        OSError: A folder cannot be read.
    """
    dates = _dates(folder)
    map_folders = _map_folders(folder)
    places = dict(zip(("before", "after", *MAPS), (*dates, *(map_folders or ())), strict=False))
    unread = _Unread()
    _look_beside(folder, tuple(places.values()), {output.resolve() for output in outputs}, unread)
    files = {role: _images(folder, place, unread) for role, place in places.items()}

    matched = _match(files["before"], files["after"], folder, places["before"], places["after"])
    unmatched = _left(files["before"], matched, places["before"])
    unmatched += _left(files["after"], matched.values(), places["after"])
    maps: dict[str, dict[str, str]] = {role: {} for role in MAPS}
    for role, owner in zip(MAPS, ("before", "after"), strict=True) if map_folders else ():
        maps[role] = _match(files[owner], files[role], folder, places[owner], places[role])
        owners = set(matched) if owner == "before" else set(matched.values())
        used = [name for image, name in maps[role].items() if image in owners]
        unmatched += _left(files[role], used, places[role])
    if not matched:
        told = "; ".join(unread.notes())
        raise InputError(
            f"{folder}: none of the {len(files['before'])} images in {places['before']} has its name among the "
            f"{len(files['after'])} in {places['after']}; the two dates of a pair must have the same file name"
            f"{f' ({told})' if told else ''}."
        )

    def path_of(role: str, name: str | None) -> Path | None:
        return None if name is None else folder / places[role] / files[role][name]

    pairs = []
    ids = _ids(matched)
    for before, after in sorted(matched.items()):
        own = tuple(path_of(role, maps[role].get(before)) for role in MAPS)
        pairs.append(
            ListedPair(
                ids[before],
                path_of("before", before),
                path_of("after", after),
                maps=(own[0], own[1]),
                names=(f"{places['before']}/{as_text(before)}", f"{places['after']}/{as_text(after)}"),
            )
        )
    notes = unread.notes()
    bare = [str(pair.id) for pair in pairs if pair.maps is None]
    if map_folders and bare:
        number = f"{len(bare)} of {count(len(pairs), 'pair')}"
        notes.append(f"{map_folders[0]} and {map_folders[1]} have no maps of {number} ({some(bare)})")
    sources = tuple(folder / place for place in places.values())
    notes = [f"{folder}: {note}." for note in notes]
    return PairList(tuple(pairs), tuple(unmatched), tuple(notes), sources)


def _dates(folder: Path) -> tuple[str, str]:
    """Return the folders of both dates."""
    complete = [layout for layout in LAYOUTS if all((folder / name).is_dir() for name in layout)]
    if len(complete) == 1:
        return complete[0]
    if complete:
        told = " and ".join(f"{a} + {b}" for a, b in complete)
        raise InputError(f"{folder} has {told}; keep the images of one of them, or give a list.")
    half = [(a, b) for a, b in LAYOUTS if (folder / a).is_dir() or (folder / b).is_dir()]
    if half:
        missing = next(name for name in half[0] if not (folder / name).is_dir())
        raise InputError(f"{folder} has no folder {missing}; it needs {half[0][0]} and {half[0][1]}.")
    inside = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    deeper = [name for name in inside for layout in LAYOUTS if all((folder / name / date).is_dir() for date in layout)]
    if deeper:
        raise InputError(
            f"{folder} has no folders of pairs itself, but {some(deeper)} {'have' if len(deeper) > 1 else 'has'}; "
            f"give one folder of pairs at a time, as {folder / deeper[0]}."
        )
    told = f" (there are {some([as_text(name) for name in inside])})" if inside else ""
    raise InputError(
        f"{folder} has no folders of pairs{told}; it needs before and after (or A and B), or a split to read a data "
        "set."
    )


def _map_folders(folder: Path) -> tuple[str, str] | None:
    """Return the folders with the maps of both dates, if there are any."""
    found = [layout for layout in MAP_LAYOUTS if any((folder / name).is_dir() for name in layout)]
    for layout in found:
        missing = [name for name in layout if not (folder / name).is_dir()]
        if missing:
            (there,) = set(layout) - set(missing)
            raise InputError(f"{folder} has {there} but no {missing[0]}; give the maps of both dates or of none.")
    if len(found) > 1:
        told = " and ".join(f"{a} + {b}" for a, b in found)
        raise InputError(f"{folder} has maps in {told}; keep those of one of them, or give a list.")
    return found[0] if found else None


@dataclass
class _Unread:
    """What of a folder is not read, by the reason; names are relative to it."""

    suffixes: dict[str, list[str]] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)

    def notes(self) -> list[str]:
        found = []
        if self.suffixes:
            kinds = "; ".join(
                f"{f'*{suffix}' if suffix else 'no suffix'}: {len(names)}, {some(sorted(names), 2)}"
                for suffix, names in sorted(self.suffixes.items())
            )
            total = count(sum(map(len, self.suffixes.values())), "file")
            found.append(f"{total} whose suffix is none of an image that is read here ({kinds})")
        for names, noun, reason in (
            (self.beside, "name", "beside the folders of the pairs"),
            (self.hidden, "hidden name", ""),
            (self.odd, "name", "of an image behind which is no file"),
            (self.broken, "link", "to something that does not exist"),
            (self.loops, "link", "to a folder around itself"),
        ):
            if names:
                found.append(f"{count(len(names), noun)} {reason}".rstrip() + f" ({some(sorted(names))})")
        return [f"not read: {one}" for one in found]


def _look_beside(folder: Path, used: tuple[str, ...], outputs: set[Path], unread: _Unread) -> None:
    """Tell what lies beside the folders that are read, be it in the folder itself or in `rgb` and `sem`."""
    for parent in sorted({PurePosixPath(place).parent for place in used}):
        for entry in sorted(os.scandir(folder / parent), key=lambda entry: entry.name):
            place = str(parent / entry.name)
            above = any(one == place or one.startswith(f"{place}/") for one in used)
            if above or entry.name in LITTER or (folder / place).resolve() in outputs:
                continue
            if entry.name.startswith("."):
                # the lock of the run itself lies beside its output
                if not any(entry.name in (f".{one.name}.lock", f".{one.name}.softlock") for one in outputs):
                    unread.hidden.append(as_text(place))
            else:
                unread.beside.append(as_text(f"{place}/" if entry.is_dir() else place))


def _images(folder: Path, place: str, unread: _Unread) -> dict[str, str]:
    """Return relative names of the images of a folder by their composed Unicode form (macOS decomposes them)."""
    found: dict[str, str] = {}
    top = folder / place
    around = {_identity(one) for start in (folder, top) for one in (start, *start.resolve().parents)}
    for relative in _walk(folder, place, "", (*around, _identity(top)), unread):
        form = unicodedata.normalize("NFC", relative)
        if form in found:
            raise InputError(
                f"{folder}: {place} has two files called {form!r}, which differ in the Unicode form of their letters "
                "only; rename one of them."
            )
        found[form] = relative
    return found


def _walk(root: Path, place: str, inside: str, above: tuple[tuple[int, int], ...], unread: _Unread) -> Iterator[str]:
    """Yield the images in a folder and below; links are followed, unless to a folder that is being read."""
    for entry in sorted(os.scandir(root / place / inside), key=lambda entry: entry.name):
        name = f"{inside}{entry.name}"
        told = as_text(f"{place}/{name}")
        if entry.name in LITTER:
            continue
        if entry.name.startswith("."):
            unread.hidden.append(told)
            continue
        try:
            mode = entry.stat().st_mode  # of what a link leads to
        except OSError:
            if not entry.is_symlink():
                raise
            unread.broken.append(told)
            continue
        if stat.S_ISDIR(mode):
            identity = _identity(Path(entry.path))
            if identity in above:
                unread.loops.append(told)
            else:
                yield from _walk(root, place, f"{name}/", (*above, identity), unread)
        elif PurePosixPath(entry.name).suffix.lower() not in IMAGE_SUFFIXES:
            unread.suffixes.setdefault(as_text(PurePosixPath(entry.name).suffix.lower()), []).append(told)
        elif stat.S_ISREG(mode):
            yield name
        else:
            unread.odd.append(told)


def _identity(folder: Path) -> tuple[int, int]:
    found = folder.stat()  # not of `scandir`, which has no inode on Windows
    return found.st_dev, found.st_ino


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _ids(names: Iterable[str]) -> dict[str, str]:
    """Return what pairs are called: their names without extension, unless that could be another pair too."""
    names = list(names)
    stems = Counter(_stem(name) for name in names)
    taken = set(names)
    unique = {name: stems[_stem(name)] == 1 and _stem(name) not in taken for name in names}
    return {name: as_text(_stem(name) if unique[name] else name, always=True) for name in names}


def _match(
    ours: Iterable[str], theirs: Iterable[str], folder: Path, our_place: str, their_place: str
) -> dict[str, str]:
    """Return which file of one folder belongs to which of the other: by name, or else by name without extension."""
    left, right = set(ours), set(theirs)
    matched = {name: name for name in left & right}
    by_stem: tuple[dict[str, list[str]], dict[str, list[str]]] = ({}, {})
    for groups, rest in zip(by_stem, (left - right, right - left), strict=True):
        for name in sorted(rest):
            groups.setdefault(_stem(name), []).append(name)
    for stem in by_stem[0].keys() & by_stem[1].keys():
        group, partners = by_stem[0][stem], by_stem[1][stem]
        if len(group) > 1 or len(partners) > 1:
            raise InputError(
                f"{folder}: it is ambiguous how {', '.join(group)} in {our_place} and {', '.join(partners)} in "
                f"{their_place} belong together; keep one file of that name in each, or give a list."
            )
        matched[group[0]] = partners[0]
    return matched


def _left(names: Iterable[str], used: Iterable[str], place: str) -> list[str]:
    return [as_text(f"{place}/{name}") for name in sorted(set(names) - set(used))]
