"""What the names of a split's files and a data set's card say, here and on the Hub, and where they contradict."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import yaml

from rscc_hf.files import some

KNOWN_SPLITS = frozenset(
    ("train", "training", "validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
)
"""Names that say which split a file is, and not merely how it is called."""

_SHARD = re.compile(r"(?P<split>.+?)-(?P<index>\d+)-of-(?P<count>\d+)(?P<digest>-\w+)?")
_NUMBERED = re.compile(r"(?P<split>.+?)-(?P<index>\d+)")
_ON_THE_HUB = re.compile(r"hf://datasets/[^@]*@[^/]*/")
_NUMBERS_AND_SIGNS = re.compile(r"[-._ 0-9]+")  # what parts words in the Hub's patterns


@dataclass(frozen=True)
class Name:
    """What the name of a parquet file says.

    Attributes:
        split: The split.
        index: Number of the shard; None: the file is no shard.
        count: Of how many; None: it does not say.
    """

    split: str
    index: int | None = None
    count: int | None = None


def name_of(file: str | PurePath) -> Name:
    """Return what a parquet file's name says."""
    stem = Path(file).stem
    if found := _SHARD.fullmatch(stem):
        return Name(found["split"], int(found["index"]), int(found["count"]))
    if found := _NUMBERED.fullmatch(stem):
        return Name(found["split"], int(found["index"]))
    return Name(stem)


def is_parquet(name: str) -> bool:
    """Tell whether a file is called a parquet file, be it in capitals."""
    return name.lower().endswith(".parquet")


def shards_problem(files: Iterable[str]) -> str | None:
    """Say what is wrong with the shards of a split by their names: some are missing, or two versions are there.

    Args:
        files: Names of its files, also with folders; those that do not say of how many they are one do not count.

    Returns:
        The end of a sentence that begins with what holds them; None: nothing is wrong.
    """
    groups: dict[tuple[str, str], dict[int, dict[int, list[str]]]] = defaultdict(lambda: defaultdict(dict))
    for file in sorted(files):
        name = name_of(file)
        if name.index is not None and name.count is not None:
            shards = groups[str(Path(file).parent), name.split][name.count]
            shards.setdefault(name.index, []).append(Path(file).name)
    for (_, split), versions in groups.items():
        if len(versions) > 1:
            told = " and ".join(f"of {count} ({some(_all(shards))})" for count, shards in sorted(versions.items()))
            return f"holds two versions of {split}: shards {told}; remove those of one"
        ((count, shards),) = versions.items()
        twice = [names for names in shards.values() if len(names) > 1]
        if twice:
            return f"holds two versions of {split}: {' and '.join(twice[0])} are the same shard; remove one"
        beyond = [names[0] for index, names in shards.items() if index >= count]
        if beyond:
            return f"holds {beyond[0]}, but {count} shards are numbered 0 to {count - 1}; rename or remove it"
        missing = [f"{split}-{index:05d}-of-{count:05d}.parquet" for index in range(count) if index not in shards]
        if missing:
            return f"lacks {some(missing)}: {len(shards)} of {count} shards of {split} are there; fetch the others"
    return None


def _all(shards: Mapping[int, Sequence[str]]) -> list[str]:
    return [name for _, names in sorted(shards.items()) for name in names]


def names_problem(split: str, files: Iterable[str]) -> str | None:
    """Say what is wrong with files that the Hub's patterns take for one split: by their names they are several.

    There `test-hard.parquet` is `test` as well. A name says something where it holds the name of a split; of folders
    the last that does counts. Numbers, as those of shards, make no difference.

    Args:
        split: The split.
        files: Names of its files with folders, or addresses on the Hub.

    Returns:
        The end of a sentence that begins with what holds them; None: nothing is wrong.
    """
    said: dict[str, str] = {}
    for file in sorted(files):
        path = PurePosixPath(_ON_THE_HUB.sub("", file))
        for part in (*(folder.name for folder in path.parents), name_of(path).split):
            words = _NUMBERS_AND_SIGNS.sub(" ", part).split()
            if KNOWN_SPLITS & {word.lower() for word in words}:
                said.setdefault(" ".join(words), path.as_posix())
                break
    if len(said) < 2:
        return None
    return f"holds {some(list(said.values()))}, all of which would be its {split}"


def declared_splits(card: Path, config: str | None = None) -> dict[str, list[str]]:
    """Return the patterns of files of each split, as a data set's card declares them.

    Args:
        card: Its README.md.
        config: The configuration that is meant; None: the only one.

    Returns:
        Nothing where the card cannot be read, or declares no such thing.
    """
    try:
        found = re.match(r"---\s*\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL)
        content: Any = yaml.safe_load(found[1]) if found else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    configs = content.get("configs") if isinstance(content, dict) else None
    chosen = [
        one
        for one in (configs if isinstance(configs, list) else [])
        if isinstance(one, dict) and config in (None, one.get("config_name", "default"))
    ]
    if len(chosen) != 1:
        return {}
    files = chosen[0].get("data_files")
    if isinstance(files, str):
        files = [{"split": "train", "path": files}]
    declared: dict[str, list[str]] = {}
    for entry in files if isinstance(files, list) else []:
        if isinstance(entry, str):
            declared.setdefault("train", []).append(entry)
        elif isinstance(entry, dict) and isinstance(entry.get("split"), str):
            path = entry.get("path")
            declared[entry["split"]] = [str(one) for one in (path if isinstance(path, list) else [path])]
    return declared


def no_split(where: str | Path, split: str, names: Sequence[str]) -> str:
    """Say which splits there are, where one is asked for that is not."""
    return f"{where} has no split {split!r}; there are {', '.join(names) or 'none'}"
