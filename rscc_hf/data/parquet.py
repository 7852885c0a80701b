"""Parquet files of pairs: the one writer of them, and how they are read, both a few rows at a time.

Groups and pages of images are kept small, because a reader holds at least one of them: a stream shows its first pair
after 32 MB at most, and where it reads page by page after about one.
"""

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, List
from datasets.table import table_cast

from rscc_hf.data.layout import read_layout
from rscc_hf.data.schema import FEATURES, check_columns, needed
from rscc_hf.errors import InputError
from rscc_hf.text import reason_of

_TEXTS, _IMAGES = 10_000, 16  # rows that are read at a time: of a few columns, of all
_BUFFER = 1 << 20  # bytes


class Limits(NamedTuple):
    """How much goes together; bytes are those of images and texts before compression.

    A row that is larger than a limit is alone: in its group, or in its shard.

    Attributes:
        shard_rows: Most rows of a file.
        shard_bytes: Most bytes of a file.
        group_rows: Most rows of a row group.
        group_bytes: Most bytes of a row group.
    """

    shard_rows: int = 500
    shard_bytes: int = 128_000_000
    group_rows: int = 100
    group_bytes: int = 32_000_000


LIMITS = Limits()


def write_split(
    folder: Path,
    split: str,
    rows: Iterable[Mapping[str, Any]],
    features: Features = FEATURES,
    *,
    limits: Limits = LIMITS,
) -> list[Path]:
    """Write a split's rows as `data/{split}-NNNNN-of-NNNNN.parquet`, which `datasets.load_dataset(folder)` reads.

    One row group is held in memory. The same rows give the same bytes. Files get their names at the end, when their
    number is known: after an error nothing of the split is left. After a kill hidden files are, which the next call
    removes; after one in the middle of the naming also shards whose names tell that others are missing.

    Args:
        folder: The data set; its folder `data` is made where it is missing.
        split: Name of the split.
        rows: The pairs. An image is its file's bytes, which are kept as they are, as `{"bytes": ..., "path": ...}` or
            alone; or the path of a file on this machine, whose bytes are read. Of paths the last part is kept. Columns
            that a row leaves out are null.
        features: The columns: those of the schema, and further ones.
        limits: How much goes together.

    Returns:
        The files in their order; none where there are no rows.

    Raises:
        InputError: The columns are not those of the schema; the folder holds the split, in `data` or elsewhere;
            a row has a column that is not one of them, a value of another type, or an image that is not there.
        OSError: A file cannot be written.
    """
    check_columns(features, f"{folder} ({split})")
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    layout = read_layout(folder)
    if split in layout.names:
        files = [file.name for file in layout.splits.get(split, ())] or ["not whole"]
        raise InputError(f"{folder} already holds {split} ({files[0]}); remove it, or write into another folder.")
    for left in data.glob(f".{glob.escape(split)}-{'[0-9]' * 5}.part"):
        left.unlink()
    schema = features.arrow_schema
    parts: list[Path] = []
    named: list[Path] = []
    try:
        with ExitStack() as open_file:
            contents = (_contents(row, features) for row in rows)
            for begins, group in _groups(contents, limits):
                if begins:
                    open_file.close()
                    parts.append(data / f".{split}-{len(parts):05d}.part")
                    writer = open_file.enter_context(_writer(parts[-1], schema))
                writer.write_table(_table(group, schema))
        for number, part in enumerate(parts):
            named.append(data / f"{split}-{number:05d}-of-{len(parts):05d}.parquet")
            part.rename(named[-1])
    except BaseException:
        for path in (*parts, *named):
            path.unlink(missing_ok=True)
        raise
    return named


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Open a file whose pages end after the image that makes them a MiB: by default a page is a thousand of them."""
    return pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=False, write_batch_size=1)


def _groups(rows: Iterable[Mapping[str, Any]], limits: Limits) -> Iterator[tuple[bool, list[Mapping[str, Any]]]]:
    """Cut rows into row groups; with each goes whether it begins a shard."""
    group: list[Mapping[str, Any]] = []
    begins, group_bytes, shard_rows, shard_bytes = True, 0, 0, 0  # of the shard with the group
    for row in rows:
        size = _size(row)
        full = shard_rows >= limits.shard_rows or shard_bytes + size > limits.shard_bytes
        if group and (full or len(group) >= limits.group_rows or group_bytes + size > limits.group_bytes):
            yield begins, group
            begins, group, group_bytes = False, [], 0
        if full and shard_rows:
            begins, shard_rows, shard_bytes = True, 0, 0
        group.append(row)
        group_bytes, shard_rows, shard_bytes = group_bytes + size, shard_rows + 1, shard_bytes + size
    if group:
        yield begins, group


def _size(value: Any) -> int:
    """Return the bytes of a value and of what is in it."""
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_size, value))
    if isinstance(value, str):
        return len(value.encode("utf-8", errors="surrogatepass"))
    return len(value) if isinstance(value, bytes) else 8


def _contents(row: Mapping[str, Any], features: Features) -> dict[str, Any]:
    """Return a row with its images' bytes inside."""
    unknown = sorted(row.keys() - features.keys())
    if unknown:
        raise InputError(f"pair {row.get('pair_id')!r} has {unknown[0]}, which is no column; name it in the features.")
    try:
        return {name: _content(value, features[name], name) for name, value in row.items()}
    except TypeError as error:
        raise InputError(f"pair {row.get('pair_id')!r}: {error}.") from error
    except OSError as error:
        raise InputError(
            f"pair {row.get('pair_id')!r}: an image cannot be read ({reason_of(error)}); give its bytes, or the path "
            "of a file on this machine."
        ) from error


def _content(value: Any, feature: Any, name: str) -> Any:
    if value is None:
        return None
    if isinstance(feature, dict) and isinstance(value, Mapping):
        return {inner: _content(one, feature.get(inner), name) for inner, one in value.items()}
    if isinstance(value, list):
        return [_content(one, getattr(feature, "feature", None), name) for one in value]
    is_file = hasattr(feature, "embed_storage")  # an image, a sound, a video
    if (isinstance(feature, List) and isinstance(value, str)) or (
        is_file and not isinstance(value, bytes | str | Path | Mapping)
    ):  # Arrow would take a text for a list of letters
        wanted = needed(name) if name in FEATURES else f"{type(feature).__name__} is needed"
        raise TypeError(f"the column {name} is of type {type(value).__name__}, where {wanted}")
    if not is_file:
        return value
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    encoded, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (None, value)
    if encoded is None and path is not None:
        encoded = Path(path).read_bytes()
    return {"bytes": encoded, "path": path and PureWindowsPath(path).name}  # parted by / and \ alike


def _table(rows: list[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except (pa.ArrowException, TypeError, ValueError) as error:
        first, last = rows[0].get("pair_id"), rows[-1].get("pair_id")
        raise InputError(
            f"the pairs {first!r} to {last!r} do not fit the columns ({reason_of(error)}); mend the values."
        ) from error


def read_tables(
    files: Iterable[Any], row_groups_list: Iterable[Any] = repeat(None), *, features: Features
) -> Iterator[tuple[str, pa.Table]]:
    """Read whole rows a few at a time, page by page: what `datasets` would do with whole row groups, and ahead.

    Args:
        files: Their paths, as the builders of `datasets` hand them on; 4.4 wraps each into an iterable.
        row_groups_list: For each file which row groups are meant; None: all.
        features: What to cast the columns to.

    Yields:
        A key and some rows.
    """
    schema = features.arrow_schema
    for number, (wrapped, groups) in enumerate(zip(files, row_groups_list, strict=False)):
        for path in [wrapped] if isinstance(wrapped, str) else wrapped:
            with pq.ParquetFile(path, buffer_size=_BUFFER) as file:
                parts = file.iter_batches(_IMAGES, row_groups=None if groups is None else list(groups))
                for part, batch in enumerate(parts):
                    yield f"{number}_{part}", table_cast(pa.Table.from_batches([batch]), schema)


def read_columns(files: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read some columns of parquet files in parts; the others stay on the disk.

    Raises:
        ValueError: A file cannot be read; it is named.
    """
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(batch_size=_TEXTS, columns=list(columns))
        except (OSError, pa.ArrowException) as error:
            raise InputError(cannot_be_read(path, error)) from error


def read_schema(path: Path) -> pa.Schema:
    """Read the columns of a parquet file, by its last bytes.

    Raises:
        ValueError: It cannot be read; it is named.
    """
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path} is a link that leads nowhere; fetch the file, or remove the link.")
    try:
        return pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(cannot_be_read(path, error)) from error


def cannot_be_read(path: Path, error: BaseException) -> str:
    """Say that a parquet file is damaged, in one sentence."""
    if path.is_file() and path.stat().st_size == 0:
        return f"{path} is empty (0 bytes); fetch or write it again."
    return f"{path} cannot be read as parquet ({reason_of(error)}); fetch or write it again."
