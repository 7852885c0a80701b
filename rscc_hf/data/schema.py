"""The schema of a pair: every data set of the project becomes rows with these columns."""

from collections import Counter
from collections.abc import Iterable

import pyarrow as pa
from datasets import ClassLabel, Features, Image, List, Value

from rscc_hf.errors import InputError

FEATURES = Features(
    {
        "pair_id": Value("string"),
        "image_before": Image(),
        "image_after": Image(),
        "semantic_before": Image(),
        "semantic_after": Image(),
        "change_mask": Image(),
        "captions": List(Value("string")),
        "changed": Value("bool"),
        "source": Value("string"),
    }
)
"""All columns of the schema. Optional ones may be missing from a data set, or be None in a row."""

IMAGES = ("image_before", "image_after")
"""Columns of the images, earlier and later."""

MAPS = ("semantic_before", "semantic_after")
"""Columns of the semantic maps, earlier and later."""

MASK = "change_mask"
"""Column of the change mask."""

OPTIONAL: tuple[str, ...] = (*MAPS, MASK)
"""Columns that a data set may leave out: colour maps in SECOND's palette, and a mask (0 unchanged, 255 changed)."""

REQUIRED: tuple[str, ...] = tuple(name for name in FEATURES if name not in OPTIONAL)
"""Columns that every data set has."""

UNKNOWN_SOURCE = "unknown"
"""What a pair's source is called where it is null or blank."""

_NEEDED = {
    "pair_id": "strings are needed; write the names of the pairs as text",
    "captions": "a list of strings in each row is needed; put the captions of a pair into a list, also a single one",
    "changed": "true or false is needed; write booleans (as text, even False would count as true)",
    "source": "strings are needed; write the name of the data set that a pair is from, or leave it null",
}
_IMAGE_NEEDED = (
    "images are needed; write a struct of bytes and path, the bytes of an image file, or its path (the feature Image "
    "of `datasets` does)"
)


def check_columns(columns: Iterable[str], where: str) -> None:
    """Check that a data set has the columns of the schema; further columns are allowed.

    Args:
        columns: The column names of the data set.
        where: What to call the data set in an error: a path or a Hub id.

    Raises:
        ValueError: A required column is missing, a column is there twice, or one of the two semantic maps without the
            other.
    """
    counts = Counter(list(columns))
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise InputError(f"{where}: there are {counts[twice[0]]} columns {twice[0]}; keep one of them.")
    present = set(counts)
    missing = [name for name in REQUIRED if name not in present]
    if missing:
        raise InputError(
            f"{where}: the column{'s' if len(missing) > 1 else ''} {', '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} missing; a pair needs {', '.join(REQUIRED)}."
        )
    maps = set(MAPS)
    if len(maps & present) == 1:
        (there,) = maps & present
        (absent,) = maps - present
        raise InputError(f"{where}: the column {there} is there but {absent} is not; give both maps or neither.")


def check_schema(schema: pa.Schema, where: str) -> Features:
    """Check names and types of a data set's columns.

    Types that hold the same are as good as those of `FEATURES`: strings of all kinds (also encoded by a dictionary, as
    pandas' categories are), lists of all kinds, whole numbers as `pair_id`, whole numbers 0 and 1 as `changed` (the
    caller looks at the values), image files as bytes or as paths, and nothing at all where every row is null.

    Args:
        schema: Of the data set's files; metadata of `datasets` in it count.
        where: What to call the data set in an error: a path or a Hub id.

    Returns:
        The features to cast to: those of the schema as in `FEATURES`, further columns as they are.

    Raises:
        ValueError: See `check_columns`; or a column of the schema has a type that cannot be read without guessing, or
            a further one a type that `datasets` does not know.
    """
    check_columns(schema.names, where)
    features = Features()
    for field in schema:
        try:
            alone = pa.schema([field], metadata=schema.metadata)
            features[field.name] = Features.from_arrow_schema(alone)[field.name]
        except (ValueError, NotImplementedError, TypeError) as error:
            if field.name in FEATURES:  # told below, or cast
                features[field.name] = FEATURES[field.name]
                continue
            raise InputError(
                f"{where}: the column {field.name} has the type {field.type}, which `datasets` cannot hold; write it "
                "as text, or leave it out."
            ) from error
    for name, target in FEATURES.items():
        if name not in features:
            continue
        if isinstance(features[name], ClassLabel):
            raise InputError(
                f"{where}: the column {name} holds numbers of classes (ClassLabel), where {needed(name)}."
            )
        if not _may_be_cast(name, schema.field(name).type):
            kind = schema.field(name).type
            raise InputError(f"{where}: the column {name} is of type {kind}, where {needed(name)}.")
        features[name] = target
    return features


def needed(name: str) -> str:
    """Return what a column of the schema has to hold, and how it is written: what goes on after "where"."""
    return _NEEDED.get(name, _IMAGE_NEEDED)


def _may_be_cast(name: str, kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_null(kind):
        return True
    if name == "captions":
        lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        return any(is_kind(kind) for is_kind in lists) and _is_text(kind.value_type)
    if name == "changed":
        return types.is_boolean(kind) or types.is_integer(kind)
    if isinstance(FEATURES[name], Image):
        if types.is_struct(kind):
            parts = {part.name: part.type for part in kind}
            encoded, path = parts.get("bytes", pa.null()), parts.get("path", pa.null())
            return bool(parts.keys() & {"bytes", "path"}) and _is_bytes(encoded) and _is_path(path)
        return _is_bytes(kind) or _is_path(kind)
    return _is_text(kind) or (name == "pair_id" and types.is_integer(kind))


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind)


def _is_path(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
