"""Data sets of pairs on the Hub, which `datasets` finds and fetches: what contradicts a split, and its checks."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, DatasetBuilder, IterableDataset, get_dataset_split_names, load_dataset_builder
from datasets.exceptions import DatasetNotFoundError, DatasetsError
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from rscc_hf.data.rows import checked
from rscc_hf.data.schema import check_schema
from rscc_hf.data.shard_names import declared_splits, names_problem, no_split, shards_problem
from rscc_hf.errors import InputError
from rscc_hf.text import reason_of

_HUB_ERRORS = (DatasetNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError, ValueError)


def hub_split_names(name: str, revision: str | None) -> list[str]:
    """Return the names of a data set's splits.

    Raises:
        InputError: The data set is not there.
    """
    try:
        return list(get_dataset_split_names(name, revision=revision))
    except _HUB_ERRORS as err:
        raise InputError(_not_found(name, err)) from err


def hub_files(name: str, split: str, revision: str | None) -> list[str]:
    """Return the addresses of a split's files, with the commit in them.

    Raises:
        InputError: The data set is not there, or the files of the split contradict each other.
    """
    builder = _hub_builder(name, revision)
    _check_hub_files(name, builder, {split})
    found = builder.config.data_files or {}
    return [str(file) for name, files in found.items() if name == split for file in files]


def load_from_hub(
    name: str, split: str, streaming: bool, revision: str | None, where: str
) -> Dataset | IterableDataset:
    """Load or stream a split; see `rscc_hf.data.loading.load_pairs`, which this is a part of.

    Raises:
        InputError: The data set or the split is not there, or is not what a pair needs.
    """
    builder = _hub_builder(name, revision)
    wanted = set(re.findall(r"[\w.-]+", re.sub(r"\[.*?\]", "", split)))  # test, test[:10], train+test, all
    _check_hub_files(name, builder, wanted)
    try:
        if streaming:
            dataset = builder.as_streaming_dataset(split=split)
        else:
            builder.download_and_prepare()
            dataset = builder.as_dataset(split=split)
    except (DatasetsError, *_HUB_ERRORS) as err:
        try:
            names = list(get_dataset_split_names(name, revision=revision))
        except _HUB_ERRORS:
            names = []
        if names and not wanted <= {*names, "all"}:
            raise InputError(f"{no_split(name, split, names)}.") from err
        if names and streaming and split not in names:
            raise InputError(f"{name}: {split} cannot be streamed; name one of {', '.join(names)}.") from err
        raise InputError(_not_found(name, err.__cause__ or err)) from err
    if isinstance(dataset, Dataset):
        return checked(dataset, where)
    schema = _stream_schema(dataset, where)
    features = check_schema(schema, where)
    if pa.types.is_integer(schema.field("changed").type):
        raise InputError(
            f"{where}: changed holds numbers, which cannot be looked through in a stream; write true or false."
        )
    return dataset if dataset.features == features else dataset.cast(features)


def _hub_builder(name: str, revision: str | None) -> DatasetBuilder:
    try:
        return load_dataset_builder(name, revision=revision)
    except _HUB_ERRORS as err:
        if "Config name is missing" in str(err):
            found = re.search(r"available configs: \[(.*?)\]", str(err))
            told = f" ({found[1]})" if found else ""
            raise InputError(
                f"{name} has more than one configuration{told}; fetch it (`hf download`) and give the folder of one."
            ) from err
        raise InputError(_not_found(name, err)) from err


def _check_hub_files(name: str, builder: DatasetBuilder, wanted: Collection[str]) -> None:
    """Raise where the files that the Hub takes for a wanted split are not all of it, or are not of it alone."""
    for split, files in (builder.config.data_files or {}).items():
        if not {split, "all"} & set(wanted):
            continue
        addresses = [str(file) for file in files]
        if (wrong := shards_problem(addresses)) is not None:
            raise InputError(f"{name} {wrong}.")
        wrong = names_problem(split, addresses)
        if wrong is not None and split not in _declared_on_hub(name, builder, addresses):
            raise InputError(
                f"{name} {wrong}; name the files of each split in its README.md (configs, data_files), or fetch it "
                "(`hf download`) and give the folder."
            )


def _declared_on_hub(name: str, builder: DatasetBuilder, addresses: Sequence[str]) -> Collection[str]:
    """Return the splits whose files the card of a data set names, so that nothing is guessed from names."""
    commit = addresses[0].split("@", 1)[-1].split("/", 1)[0]
    try:
        card = hf_hub_download(name, "README.md", repo_type="dataset", revision=commit)
    except _HUB_ERRORS:
        return ()
    return declared_splits(Path(card), builder.config.name)


def _stream_schema(stream: IterableDataset, where: str) -> pa.Schema:
    if stream.features is not None:
        return stream.features.arrow_schema
    for row in stream.take(1):  # a stream that does not know its columns before the first row
        return pa.Table.from_pylist([row]).schema
    raise InputError(f"{where} has no rows; name another split.")


def _not_found(name: str | Path, err: BaseException) -> str:
    return (
        f"{name} is neither a folder on this machine nor a data set that the Hub gives us ({reason_of(err)}); give "
        "one of both."
    )
