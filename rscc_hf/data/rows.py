"""What the rows of a data set hold: the one check of ids, captions and `changed`, and images as they lie there."""

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from rscc_hf.data.captions import pair_key
from rscc_hf.data.schema import check_schema
from rscc_hf.errors import InputError

LOOKED_AT = ("pair_id", "captions", "changed")
"""The columns that are checked."""


class Trouble:
    """Count of what is wrong, with the first few examples.

    Args:
        most: Examples to keep.
    """

    def __init__(self, most: int = 3):
        self.count, self.examples, self.most = 0, list[str](), most

    def add(self, example: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.examples) < self.most:
            self.examples.append(example)

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{', '.join(self.examples)}{more}"


def check_rows(parts: Iterable[pa.Table | pa.RecordBatch], where: str) -> int:
    """Check ids, captions and `changed` of all rows; no more than a part and all ids are held at once.

    Args:
        parts: The rows with the columns `LOOKED_AT`, with types that `check_schema` has passed.
        where: What to call the data set in an error.

    Returns:
        How many rows there are.

    Raises:
        ValueError: A pair has no id, or one that another pair has; a caption is null; `changed` is a number other than
            0 and 1. One sentence with the count and the first few.
    """
    nameless, repeated, alike, null_captions, numbers = Trouble(), Trouble(), Trouble(), Trouble(), Trouble()
    seen: dict[str, str] = {}
    rows = 0
    for part in parts:
        ids = [None if value is None else str(value) for value in part.column("pair_id").to_pylist()]
        for row, name in enumerate(ids, start=rows):
            if name is None or not name.strip():
                nameless.add(str(row))
            elif (first := seen.get(key := pair_key(name))) is None:
                seen[key] = name
            elif first == name:
                repeated.add(repr(name))
            else:
                alike.add(f"{first!r} and {name!r}")
        captions = part.column("captions")
        if not pa.types.is_null(captions.type) and pc.list_flatten(captions).null_count:
            for name, texts in zip(ids, captions.to_pylist(), strict=True):
                if texts and None in texts:
                    null_captions.add(repr(name))
        changed = part.column("changed")
        if pa.types.is_integer(changed.type):
            for name, value in zip(ids, changed.to_pylist(), strict=True):
                if value not in (None, 0, 1):
                    numbers.add(f"{name!r} ({value})")
        rows += part.num_rows
    if nameless.count:
        raise InputError(
            f"{where}: {nameless.count} of {rows} rows have no pair_id (null or blank; row {nameless}); give every "
            "pair a name of its own."
        )
    if repeated.count:
        raise InputError(
            f"{where}: {repeated.count} pair_ids occur twice or more, as {repeated}; give every pair its own name."
        )
    if alike.count:
        raise InputError(
            f"{where}: {alike.count} pair_ids differ from another one in spaces or the Unicode form of a letter only, "
            f"as {alike}; give every pair its own name."
        )
    if null_captions.count:
        raise InputError(
            f"{where}: {null_captions.count} of {rows} pairs have a caption that is null ({null_captions}); leave "
            "such captions out of the lists."
        )
    if numbers.count:
        raise InputError(
            f"{where}: changed is neither 0 nor 1 for {numbers.count} of {rows} pairs ({numbers}); write true or "
            "false."
        )
    return rows


def image_contents(column: pa.ChunkedArray) -> Iterator[memoryview | str | None]:
    """Yield the bytes of each image of a column of `datasets` without a copy; else its path; else None."""
    for chunk in column.chunks:
        encoded, paths = chunk.field("bytes"), chunk.field("path")
        for row in range(len(chunk)):
            if not chunk[row].is_valid:
                yield None
            elif encoded[row].is_valid:
                yield memoryview(encoded[row].as_buffer())
            else:
                yield paths[row].as_py()


def checked(dataset: Dataset, where: str) -> Dataset:
    """Check columns and rows, and cast what holds the same as the schema in another type."""
    features = check_schema(dataset.features.arrow_schema, where)
    columns: Any = dataset.select_columns(list(LOOKED_AT)).with_format("arrow")
    if check_rows(columns.iter(batch_size=10_000), where) == 0:
        raise InputError(f"{where} has no pairs; name another split.")
    for name, feature in features.items():
        if dataset.features[name] != feature:
            dataset = dataset.cast_column(name, feature)
    return dataset
