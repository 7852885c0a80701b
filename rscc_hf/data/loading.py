"""Loading a data set of pairs: a local folder or an id on the Hub, in the schema of `rscc_hf.data.schema`."""

import glob
import logging
import os
import re
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import (
    Dataset,
    Features,
    Image,
    IterableDataset,
    Value,
    concatenate_datasets,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetsError
from PIL import Image as PILImage

from rscc_hf.data.digest import files_digest, names_digest
from rscc_hf.data.from_hub import hub_files, hub_split_names, load_from_hub
from rscc_hf.data.images import open_stored, undecoded
from rscc_hf.data.layout import Layout, read_layout
from rscc_hf.data.palette import restrict_to_changes
from rscc_hf.data.parquet import read_columns, read_schema, read_tables
from rscc_hf.data.rows import LOOKED_AT, check_rows, checked
from rscc_hf.data.schema import FEATURES, MAPS, MASK, check_schema
from rscc_hf.data.shard_names import KNOWN_SPLITS, is_parquet, name_of, no_split
from rscc_hf.errors import InputError
from rscc_hf.text import reason_of

logger = logging.getLogger(__name__)

SEMANTIC_COVERAGES = ("full", "changed")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_pairs(
    path_or_id: str | Path,
    split: str,
    *,
    streaming: bool = False,
    semantic_coverage: str = "full",
    revision: str | None = None,
    outputs: Sequence[Path] = (),
) -> Dataset | IterableDataset:
    """Load one split of a data set.

    Columns are checked by name and type (see `rscc_hf.data.schema.check_schema`), ids, captions and `changed` of all
    rows by value (see `rscc_hf.data.rows.check_rows`; not of a stream from the Hub, whose rows are seen when they
    come). What of a folder is not read, or contradicts what is, is told by a warning in the log.

    Args:
        path_or_id: A folder of parquet files (as `rscc data synthesize` writes, or a copy of a Hub repository; see
            `rscc_hf.data.layout` for the names), a folder written by `save_to_disk`, one parquet file, or the id of a
            data set on the Hub.
        split: Name of the split: "train", "validation", "test". One parquet file is whatever split is asked for.
        streaming: Whether to return an `IterableDataset` that reads as it goes.
        semantic_coverage: "full": the maps as they are. "changed": outside `change_mask` they become white, as
            SECOND's own maps are. Such maps give away whether anything changed.
        revision: Branch, tag or commit of a Hub data set.
        outputs: Files that the run itself writes, which may lie in the folder and are not told.

    Returns:
        The rows in the types of the schema, with `datasets.Image` columns. Optional columns may be missing, extra
        columns stay.

    Raises:
        ValueError: The data set, the split, a shard or a column is not there; files contradict each other; a column
            has another type, a row another value than the schema wants; or a row has a map without a change mask where
            `semantic_coverage` is "changed". One sentence that names the file, the column or the pair.
    """
    if semantic_coverage not in SEMANTIC_COVERAGES:
        raise InputError(f'semantic_coverage is {semantic_coverage!r}; give "full" or "changed".')
    if not split:
        there = ", ".join(split_names(path_or_id, revision=revision))
        raise InputError(f"{path_or_id}: no split is given; name one of {there}.")
    where = f"{path_or_id} ({split})"
    local = _local(path_or_id, revision)
    if local is None:
        dataset = load_from_hub(str(path_or_id), split, streaming, revision, where)
    else:
        files = _files(local, split, outputs)
        dataset = (
            _load_saved(local, split, streaming, where) if files is None else _load_parquet(files, streaming, where)
        )
    if semantic_coverage == "changed":
        dataset = _restrict(dataset, set(dataset.column_names or FEATURES), where)
    return dataset


def split_names(path_or_id: str | Path, *, revision: str | None = None) -> list[str]:
    """Return the names of the splits of a data set; each of them can be loaded, as far as the names of files tell.

    Raises:
        ValueError: The data set is not there, or the files of a split contradict each other.
    """
    local = _local(path_or_id, revision)
    if local is None:
        return hub_split_names(str(path_or_id), revision)
    if local.is_file():
        said = name_of(local).split
        return [said if said in KNOWN_SPLITS else "train"]
    layout = read_layout(local)
    for problem in layout.broken.values():
        raise InputError(problem)
    return layout.names


def local_files(path_or_id: str | Path, split: str, *, outputs: Sequence[Path] = ()) -> list[Path]:
    """Return the files on this machine that a split is read from; none for an id on the Hub.

    Args:
        path_or_id: As for `load_pairs`, like the others.
        split: Name of the split.
        outputs: Files that the run itself writes.

    Raises:
        ValueError: The split is not there, or its files contradict each other.
    """
    local = _local(path_or_id, None)
    if local is None:
        return []
    files = _files(local, split, outputs)
    return [Path(file["filename"]) for file in _saved(local, split).cache_files] if files is None else files


def captions_of(dataset: Dataset | IterableDataset) -> Iterator[str]:
    """Yield all captions of a data set in the order of its rows; no image is decoded.

    Raises:
        ValueError: The data set has no column `captions`, or one that holds something else than lists of strings.
    """
    names = dataset.column_names
    if names is not None and "captions" not in names:
        raise InputError(f"the data set has no column captions; there are {', '.join(names)}.")
    for number, row in enumerate(dataset.select_columns(["captions"])):
        captions = row["captions"]
        if captions is None:
            continue
        if isinstance(captions, str) or not all(isinstance(caption, str) for caption in captions):
            raise InputError(f"captions of row {number} are {captions!r:.80}; give a list of strings.")
        yield from captions


def stream_digest(path_or_id: str | Path, split: str, *, revision: str | None = None) -> str:
    """Return the digest of the files that a stream reads; see `rscc_hf.data.digest`.

    Local files count by their bytes, those on the Hub by their addresses with the commit.

    Raises:
        ValueError: The data set or the split is not there, or its files contradict each other.
    """
    if _local(path_or_id, revision) is None:
        return names_digest(hub_files(str(path_or_id), split, revision))
    return files_digest(local_files(path_or_id, split))


def _local(path_or_id: str | Path, revision: str | None) -> Path | None:
    """Return the folder or file that is meant, or None for an id on the Hub."""
    path = Path(path_or_id).expanduser()
    if path.exists():
        if revision is not None:
            raise InputError(
                f"{path_or_id} is on this machine; leave revision out, which is for data sets on the Hub."
            )
        return path
    looks_local = isinstance(path_or_id, Path) or not _HUB_ID.fullmatch(path_or_id) or path_or_id.startswith(".")
    if looks_local:
        raise InputError(f"{path_or_id} does not exist; give a folder of pairs or the id of a data set on the Hub.")
    return None


def _files(path: Path, split: str, outputs: Sequence[Path] = ()) -> list[Path] | None:
    """Return the parquet files of a split in order; None: `save_to_disk` wrote it."""
    if path.is_file():
        if not is_parquet(path.name):
            raise InputError(f"{path} is no parquet file; give a folder of pairs or a parquet file.")
        name = name_of(path)
        if name.split in KNOWN_SPLITS and name.split != split:
            _note(f"{path} is called {name.split} and is read as {split}, as was asked for.")
        if name.count is not None and name.count > 1:
            _note(f"{path} is one of {name.count} shards: the pairs of the others are not read.")
        return [path]
    layout = read_layout(path, outputs=outputs)
    if split in layout.broken:
        raise InputError(layout.broken[split])
    if split not in layout.splits:
        raise InputError(_no_split_here(layout, split))
    for note in layout.notes:
        _note(note)
    return None if layout.is_saved else list(layout.splits[split])


def _no_split_here(layout: Layout, split: str) -> str:
    path = layout.root
    more = "".join(f" ({note.rstrip('.')})" for note in layout.notes)
    if split in layout.declared:
        more = f" (README.md says it is {layout.declared[split]}; give that file or folder itself){more}"
    if layout.names:
        return f"{no_split(path, split, layout.names)}{more}."
    return (
        f"{path} holds no pairs{more}; give parquet files named after their split (data/{split}-*.parquet), or a "
        "folder written by save_to_disk."
    )


def _load_parquet(files: Sequence[Path], streaming: bool, where: str) -> Dataset | IterableDataset:
    features = _features_of(files, where)
    if check_rows(read_columns(files, LOOKED_AT), where) == 0:
        raise InputError(f"{where} has no pairs; name another split.")
    paths = [glob.escape(str(file.absolute())) for file in files]
    try:
        builder: Any = load_dataset_builder("parquet", data_files={"pairs": paths}, features=features)
        builder._generate_tables = partial(read_tables, features=features)  # its cache, keyed by the files, stays
        if streaming:
            return builder.as_streaming_dataset("pairs")
        builder.download_and_prepare()
        return builder.as_dataset("pairs")
    except (DatasetsError, OSError, ValueError, RuntimeError) as err:
        reason = reason_of(err.__cause__ or err)
        raise InputError(f"{where}: the parquet files cannot be read ({reason}); write them again.") from err


def _features_of(files: Sequence[Path], where: str) -> Features:
    """Return the features to read the files of a split with."""
    features: Features | None = None
    for file in files:
        found = check_schema(read_schema(file), where if len(files) == 1 else str(file))
        if features is None:
            features = found
            continue
        if set(found) != set(features):
            odd = sorted(set(found) ^ set(features))
            raise InputError(
                f"{where}: {files[0].name} and {file.name} have not the same columns ({', '.join(odd)}); write the "
                "shards of a split with the same."
            )
        for name, feature in found.items():  # all rows of a shard may be null
            if features[name] == Value("null"):
                features[name] = feature
    assert features is not None
    return features


def _saved(path: Path, split: str) -> Dataset:
    folder = path / split if (path / "dataset_dict.json").is_file() else path
    try:
        return load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as err:
        raise InputError(
            f"{folder} cannot be read as a data set of save_to_disk ({reason_of(err)}); save it again."
        ) from err


def _load_saved(path: Path, split: str, streaming: bool, where: str) -> Dataset | IterableDataset:
    saved = checked(_saved(path, split), where)
    return saved.to_iterable_dataset(num_shards=max(1, len(saved.cache_files))) if streaming else saved


@cache
def _note(text: str) -> None:
    """Tell something about a data set, once, and only by the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        logger.warning(text)


def _restrict(dataset: Dataset | IterableDataset, columns: set[str], where: str) -> Dataset | IterableDataset:
    missing = [name for name in (*MAPS, MASK) if name not in columns]
    if missing:
        raise InputError(
            f'{where}: semantic_coverage "changed" needs the column {missing[0]}; add it, or choose "full".'
        )
    if isinstance(dataset, IterableDataset):
        stored = dataset
        for name in (*MAPS, MASK):
            stored = stored.cast_column(name, Image(decode=False))
        return stored.map(_restrict_row, fn_kwargs={"where": where}, features=dataset.features)
    needed = dataset.select_columns(["pair_id", *MAPS, MASK])
    restricted = undecoded(needed).map(_restrict_row, fn_kwargs={"where": where}, features=needed.features)
    # Only the maps are written anew: the images stay in the cache that they are in.
    together = concatenate_datasets(
        [dataset.remove_columns(list(MAPS)), restricted.select_columns(list(MAPS))], axis=1
    )
    return together.select_columns(dataset.column_names)


def _restrict_row(row: dict[str, Any], where: str) -> dict[str, Any]:
    maps = {name: _opened(row, name, where) for name in MAPS}
    mask = _opened(row, MASK, where)
    changed: dict[str, Any] = {**maps, MASK: mask}
    for name, colours in maps.items():
        if colours is None:
            continue
        if mask is None:
            raise InputError(
                f'{where}: pair {row["pair_id"]} has {name} but no change_mask; add it, or choose "full" maps.'
            )
        try:
            restricted = restrict_to_changes(np.asarray(colours.convert("RGB")), np.asarray(mask.convert("L")))
        except ValueError as err:
            raise InputError(f"{where}: pair {row['pair_id']}: {err}") from err
        changed[name] = PILImage.fromarray(restricted)
    return changed


def _opened(row: dict[str, Any], name: str, where: str) -> PILImage.Image | None:
    if row[name] is None:
        return None
    return open_stored(row[name], lambda reason: InputError(f"{where}: pair {row['pair_id']}: {name} {reason}."))
