"""Loading a data set of pairs: a local folder or an id on the Hub, in the schema of `rscc_hf.data.schema`."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    get_dataset_split_names,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from PIL import Image as PILImage

from rscc_hf.data.palette import restrict_to_changes
from rscc_hf.data.schema import FEATURES, check_columns

SEMANTIC_COVERAGES = ("full", "changed")
_MAPS = ("semantic_before", "semantic_after")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# train.parquet, train-00000-of-00003.parquet, data/train-..., train/0000.parquet
_PARQUET = ("data/{}-*.parquet", "data/{}.parquet", "{}-*.parquet", "{}.parquet", "{}/*.parquet", "data/{}/*.parquet")


def load_pairs(
    path_or_id: str | Path,
    split: str,
    *,
    streaming: bool = False,
    semantic_coverage: str = "full",
    revision: str | None = None,
) -> Dataset | IterableDataset:
    """Loads one split of a data set.

    Args:
        path_or_id: A folder of parquet files (as `rscc data synthesize` writes, or a copy of a Hub repository), a
            folder written by `save_to_disk`, one parquet file, or the id of a data set on the Hub.
        split: Name of the split: "train", "validation", "test". One parquet file is whatever split is asked for.
        streaming: Returns an `IterableDataset` that reads as it goes.
        semantic_coverage: "full": the maps as they are. "changed": outside `change_mask` they become white, as
            SECOND's own maps are. Such maps give away whether anything changed.
        revision: Branch, tag or commit of a Hub data set.

    Returns:
        The rows, with `datasets.Image` columns. Optional columns may be missing, extra columns stay.

    Raises:
        ValueError: The data set, the split or a column is not there, or a row has a map without a change mask where
            `semantic_coverage` is "changed".
    """
    if semantic_coverage not in SEMANTIC_COVERAGES:
        raise ValueError(f'semantic_coverage is {semantic_coverage!r}: "full" or "changed" is expected')
    if not split:
        raise ValueError(f"{path_or_id}: name a split, one of {', '.join(split_names(path_or_id, revision=revision))}")
    local = _local(path_or_id, revision)
    dataset = _load_local(local, split, streaming) if local else _load_hub(str(path_or_id), split, streaming, revision)
    where = f"{path_or_id} ({split})"
    features = _features(dataset, where)
    check_columns(features, where)
    for name, feature in FEATURES.items():
        if isinstance(feature, Image) and name in features and not isinstance(features[name], Image):
            dataset = dataset.cast_column(name, Image())  # parquet that was not written by `datasets`
    if semantic_coverage == "changed":
        dataset = _restrict(dataset, set(features), where)
    return dataset


def split_names(path_or_id: str | Path, *, revision: str | None = None) -> list[str]:
    """Names of the splits of a data set.

    Raises:
        ValueError: The data set is not there.
    """
    local = _local(path_or_id, revision)
    if local is None:
        try:
            return list(get_dataset_split_names(str(path_or_id), revision=revision))
        except _HUB_ERRORS as err:
            raise ValueError(_not_found(path_or_id, err)) from err
    if local.is_file():
        return ["train"]
    if (local / "dataset_dict.json").exists():
        return list(json.loads((local / "dataset_dict.json").read_text(encoding="utf-8"))["splits"])
    if (local / "state.json").exists():
        return [json.loads((local / "state.json").read_text(encoding="utf-8")).get("_split") or "train"]
    stems = {file.stem for folder in (local, local / "data") if folder.is_dir() for file in folder.glob("*.parquet")}
    names = {re.sub(r"-\d{5}-of-\d{5}(-\w+)?$|-\d+$", "", stem) for stem in stems}
    for folder in (local, local / "data"):
        if folder.is_dir():
            names |= {inner.name for inner in folder.iterdir() if inner.is_dir() and any(inner.glob("*.parquet"))}
    names.discard("data")
    order = {"train": 0, "validation": 1, "val": 1, "test": 2}
    return sorted(names, key=lambda name: (order.get(name, 3), name))


def captions_of(dataset: Dataset | IterableDataset) -> Iterator[str]:
    """All captions of a data set in the order of its rows; no image is decoded.

    Raises:
        ValueError: The data set has no column `captions`.
    """
    names = dataset.column_names
    if names is not None and "captions" not in names:
        raise ValueError(f"the data set has no column captions; there are {', '.join(names)}")
    for row in dataset.select_columns(["captions"]):
        yield from row["captions"] or ()


_HUB_ERRORS = (DatasetNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError, ValueError)


def _local(path_or_id: str | Path, revision: str | None) -> Path | None:
    """The folder or file that is meant, or None for an id on the Hub."""
    path = Path(path_or_id).expanduser()
    if path.exists():
        if revision is not None:
            raise ValueError(f"{path_or_id} is on this machine: revision is for data sets on the Hub")
        return path
    looks_local = isinstance(path_or_id, Path) or not _HUB_ID.fullmatch(path_or_id) or path_or_id.startswith(".")
    if looks_local:
        raise ValueError(f"{path_or_id} does not exist: give a folder of pairs or the id of a data set on the Hub")
    return None


def _load_local(path: Path, split: str, streaming: bool) -> Dataset | IterableDataset:
    if path.is_file():
        if path.suffix != ".parquet":
            raise ValueError(f"{path} is no parquet file: give a folder of pairs or a parquet file")
        return _load_parquet([path], split, streaming)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        saved = load_from_disk(str(path))
        if isinstance(saved, DatasetDict):
            if split not in saved:
                raise ValueError(_no_split(path, split, list(saved)))
            saved = saved[split]
        elif split != str(saved.split or "train"):
            raise ValueError(_no_split(path, split, [str(saved.split or "train")]))
        return saved.to_iterable_dataset(num_shards=max(1, len(saved.cache_files))) if streaming else saved
    if not re.fullmatch(r"[\w.-]+", split):
        raise ValueError(_no_split(path, split, split_names(path)))
    for pattern in _PARQUET:
        files = sorted(path.glob(pattern.format(split)))
        if files:
            return _load_parquet(files, split, streaming)
    names = split_names(path)
    if names:
        raise ValueError(_no_split(path, split, names))
    raise ValueError(
        f"{path} holds no pairs: parquet files named after their split (data/{split}-*.parquet), or a folder written "
        "by save_to_disk, are expected"
    )


def _load_parquet(files: Sequence[Path], split: str, streaming: bool) -> Dataset | IterableDataset:
    paths = [str(file) for file in files]
    try:
        return load_dataset("parquet", data_files={"pairs": paths}, split="pairs", streaming=streaming)
    except (OSError, ValueError, RuntimeError) as err:
        cause = err.__cause__ or err
        raise ValueError(f"{paths[0]} ({split}): the parquet files cannot be read: {_first_line(cause)}") from err


def _load_hub(name: str, split: str, streaming: bool, revision: str | None) -> Dataset | IterableDataset:
    try:
        return load_dataset(name, split=split, streaming=streaming, revision=revision)
    except _HUB_ERRORS as err:
        try:
            names = list(get_dataset_split_names(name, revision=revision))
        except _HUB_ERRORS:
            names = []
        if names and re.match(r"\w+", split) and re.split(r"[\[+]", split)[0] not in names:
            raise ValueError(_no_split(name, split, names)) from err
        raise ValueError(_not_found(name, err)) from err


def _features(dataset: Dataset | IterableDataset, where: str) -> dict[str, Any]:
    features: Features | None = dataset.features
    if features is not None:
        return dict(features)
    for row in dataset.take(1):  # a stream that does not know its columns before the first row
        return dict.fromkeys(row)
    raise ValueError(f"{where} has no rows")


def _restrict(dataset: Dataset | IterableDataset, columns: set[str], where: str) -> Dataset | IterableDataset:
    missing = [name for name in (*_MAPS, "change_mask") if name not in columns]
    if missing:
        raise ValueError(f'{where}: semantic_coverage "changed" needs the column {missing[0]}, which is not there')
    return dataset.map(_restrict_row, fn_kwargs={"where": where}, features=dataset.features)


def _restrict_row(row: dict[str, Any], where: str) -> dict[str, Any]:
    mask = row["change_mask"]
    changed: dict[str, Any] = {}
    for name in _MAPS:
        if row[name] is None:
            changed[name] = None
            continue
        if mask is None:
            raise ValueError(f"{where}: pair {row['pair_id']} has {name} but no change_mask")
        colours = np.asarray(row[name].convert("RGB"))
        try:
            restricted = restrict_to_changes(colours, np.asarray(mask.convert("L")))
        except ValueError as err:
            raise ValueError(f"{where}: pair {row['pair_id']}: {err}") from err
        changed[name] = PILImage.fromarray(restricted)
    return changed


def _no_split(where: str | Path, split: str, names: Sequence[str]) -> str:
    return f"{where} has no split {split!r}: there are {', '.join(names) or 'none'}"


def _not_found(name: str | Path, err: BaseException) -> str:
    return f"{name} is neither a folder on this machine nor a data set that the Hub gives us ({_first_line(err)})"


def _first_line(err: BaseException) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0].rstrip(".")
