"""A look at all pairs before the first step: what would end a run after an epoch, or at its end, is told now.

Validation pairs are read as they will be asked: captions, `changed`, images, maps. Training pairs are many: of every
image and map it is seen that it is there and that its file is whole by its beginning and its end; those of which that
does not tell are read. A stream is read pair by pair as it comes; its first pair is read here.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset

from rscc_hf.data.images import undecoded
from rscc_hf.data.rows import Trouble, image_contents
from rscc_hf.data.schema import IMAGES, MAPS, MASK
from rscc_hf.errors import InputError
from rscc_hf.evaluation.protocols import prepare
from rscc_hf.training.systems.pairs.pixels import PixelReader

_ROWS = 1000
_CHUNK = 16
_PNG = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG = b"\xff\xd8\xff", b"\xff\xd9"


def check_references(
    pair_ids: Sequence[str], references: Sequence[Sequence[str] | None], changed: Sequence[bool | None], where: str
) -> None:
    """Refuse validation pairs that could not be scored.

    Args:
        pair_ids: Of all pairs.
        references: Captions of each.
        changed: Whether each changed.
        where: The data set's name, for errors.

    Raises:
        InputError: A pair has no captions, one that `evaluation` does not score, or no `changed`.
    """
    captionless, unmarked = Trouble(), Trouble()
    for pair_id, captions, moved in zip(pair_ids, references, changed, strict=True):
        if not captions:
            captionless.add(repr(pair_id))
        if moved is None:
            unmarked.add(repr(pair_id))
    of_all = f"of {len(pair_ids)} validation pairs"
    if captionless.count:
        raise InputError(
            f"{where}: {captionless.count} {of_all} have no captions ({captionless}); leave them out, or set "
            "eval_unit to never."
        )
    if unmarked.count:
        raise InputError(
            f"{where}: changed is null for {unmarked.count} {of_all} ({unmarked}); write true or false, as the "
            "accuracy on changed and unchanged pairs needs it, or set eval_unit to never."
        )
    try:
        prepare([""] * len(pair_ids), [captions or [] for captions in references], pair_ids)
    except ValueError as error:
        raise InputError(f"{where}, validation: {error}") from error


def check_changed(pair_ids: Sequence[str], changed: Sequence[bool | None], where: str) -> None:
    """Refuse training pairs that do not say whether they changed, where `unchanged_share` asks for it.

    Raises:
        InputError: `changed` is null; the sentence counts such pairs.
    """
    unmarked = Trouble()
    for pair_id, moved in zip(pair_ids, changed, strict=True):
        if moved is None:
            unmarked.add(repr(pair_id))
    if unmarked.count:
        raise InputError(
            f"{where}: changed is null for {unmarked.count} of {len(pair_ids)} training pairs ({unmarked}), and "
            "unchanged_share needs it; write true or false, or set unchanged_share to 1."
        )


def check_images(
    dataset: Dataset | IterableDataset, reader: PixelReader, where: str, accelerator: Accelerator
) -> None:
    """Look at the images and maps of training pairs that are not read into memory anyway.

    Args:
        dataset: The pairs.
        reader: What will read them.
        where: The data set's name, for errors.
        accelerator: Of the run; each process looks at its share, and all raise what one finds.

    Raises:
        InputError: An image, a map or a mask that the recipe needs is missing, or a file is damaged.
    """
    if isinstance(dataset, IterableDataset):
        _raise_together(_unreadable([list(undecoded(dataset).take(1))], reader), 1, where, accelerator)
        return
    rows = _share(len(dataset), accelerator)
    suspicious = list(_suspicious(dataset, reader, rows))
    files = undecoded(_columns(dataset, reader))
    parts = ([files[row]] for row in suspicious)
    _raise_together(_unreadable(parts, reader), len(dataset), where, accelerator)


def check_readable(dataset: Dataset, reader: PixelReader, where: str, accelerator: Accelerator) -> None:
    """Read all images and maps of validation pairs once; arguments and errors as of `check_images`."""
    rows = _share(len(dataset), accelerator)
    files = undecoded(_columns(dataset, reader))
    parts = ([files[row] for row in rows[start : start + _CHUNK]] for start in range(0, len(rows), _CHUNK))
    _raise_together(_unreadable(parts, reader), len(dataset), where, accelerator)


def _share(count: int, accelerator: Accelerator) -> range:
    """Return the rows that this process looks at: in one piece, which is sliced without a copy."""
    number, processes = accelerator.process_index, accelerator.num_processes
    return range(count * number // processes, count * (number + 1) // processes)


def _columns(dataset: Dataset, reader: PixelReader) -> Dataset:
    """Return the columns that a reader reads."""
    names = ["pair_id", *IMAGES, *(MAPS if reader.maps else ()), *([MASK] if reader.masks else ())]
    return dataset.select_columns([name for name in names if name in dataset.column_names])


def _suspicious(dataset: Dataset, reader: PixelReader, rows: range) -> Iterator[int]:
    """Yield the rows of which it is not plain that all images are there and whole."""
    columns = _columns(dataset, reader).column_names
    optional = MAPS if reader.optional else ()
    needed = [*IMAGES, *(MAPS if reader.maps else ()), *([MASK] if reader.masks else ())]
    if any(name not in columns and name not in optional for name in needed):
        yield from rows  # the reader says what is missing
        return
    images: Any = dataset.select_columns([name for name in columns if name != "pair_id"]).with_format("arrow")
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS]
        table = images[part.start : part.stop]
        each = [image_contents(table.column(name)) for name in table.column_names]
        for row, contents in zip(part, zip(*each, strict=True), strict=True):
            there = dict(zip(table.column_names, contents, strict=True))
            maps = {there[name] is not None for name in MAPS if name in there}
            whole = all(
                _looks_whole(content) or (content is None and name in optional) for name, content in there.items()
            )
            if not whole or len(maps) > 1:
                yield row


def _looks_whole(content: memoryview | str | None) -> bool:
    """Return whether an image file is a PNG or JPEG that ends as these do."""
    if content is None:
        return False
    if isinstance(content, str):
        path = Path(content)
        if not path.is_file() or path.stat().st_size < 16:
            return False
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(-8, os.SEEK_END)
            tail = file.read(8)
    else:
        head, tail = bytes(content[:8]), bytes(content[-8:])
    return any(head.startswith(begin) and tail.endswith(end) for begin, end in (_PNG, _JPEG))


def _unreadable(parts: Iterable[list[dict[str, Any]]], reader: PixelReader) -> list[tuple[str, str]]:
    """Return the pairs that cannot be read, each with the sentence that says why."""

    def read(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
        try:
            reader.read(rows)
        except (ValueError, OSError) as error:
            if len(rows) > 1:
                return [found for row in rows for found in read([row])]
            return [(str(rows[0]["pair_id"]), str(error))]
        return []

    waiting = iter(parts)
    found: list[tuple[str, str]] = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while some := list(islice(waiting, 64)):  # a bounded number of rows at once
            found += chain.from_iterable(pool.map(read, some))
    return found


def _raise_together(found: list[tuple[str, str]], count: int, where: str, accelerator: Accelerator) -> None:
    """Raise in every process what any of them has found: else the others would wait for one that is gone."""
    everything = gather_object(found)
    if not everything:
        return
    (_, first), *others = everything
    if not others:
        raise InputError(first if where in first else f"{where}: {first}")
    ids = Trouble()
    for pair_id, _ in everything:
        ids.add(repr(pair_id))
    raise InputError(f"{where}: {ids.count} of {count} pairs cannot be read ({ids}); the first: {first}")
