"""Pairs for captioning: a CSV or JSONL list, a folder with one sub-folder for each date, or a data set's split."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from rscc_hf.data.captions import contradictions
from rscc_hf.data.lists.folder import IMAGE_SUFFIXES, LAYOUTS, read_folder
from rscc_hf.data.lists.items import (
    DatasetPairs,
    PairList,
    usable_references,
    without_references,
)
from rscc_hf.data.lists.table import COLUMNS, read_list
from rscc_hf.errors import InputError
from rscc_hf.files import some
from rscc_hf.text import count

__all__ = [
    "COLUMNS",
    "IMAGE_SUFFIXES",
    "LAYOUTS",
    "PairList",
    "read_dataset_pairs",
    "read_pairs",
]


def read_pairs(source: str | os.PathLike[str], *, outputs: Iterable[str | os.PathLike[str]] = ()) -> PairList:
    """Read a list of pairs.

    Args:
        source: A `.jsonl` file (an object a line), or a `.csv` or `.tsv` file with a header, with the columns of
            `COLUMNS` (`before` and `after` at least; `references` in a CSV are one sentence or a JSON list), relative
            paths being relative to the file's folder. Or a folder with one of `LAYOUTS`, where images belong together
            that have the same name, or else the same name but for the extension. Without a `pair_id` a pair is called
            by the name of its images without the extension.
        outputs: Files of the run itself, which may lie in the folder and are not told.

    Returns:
        The pairs; what was not read or not used is in `unmatched` and `notes`.

    Raises:
        ValueError: The source is missing, empty or of an unknown kind, a line is broken or contradicts itself, an id
            occurs twice, or it is ambiguous which files belong together; the sentence names the file and the line.
    """
    path = Path(source)
    if path.is_dir():
        return read_folder(path, outputs=[Path(output) for output in outputs])
    if not path.is_file():
        raise InputError(f"there is no file or folder {path}; give a .csv or .jsonl list, or a folder of pairs.")
    return read_list(path)


def read_dataset_pairs(
    path_or_id: str | os.PathLike[str],
    split: str,
    *,
    semantic_coverage: str = "full",
    revision: str | None = None,
    outputs: Iterable[str | os.PathLike[str]] = (),
) -> PairList:
    """Read the pairs of a data set in the schema of `rscc_hf.data.schema`; see `rscc_hf.data.loading.load_pairs`.

    Args:
        path_or_id: As for `load_pairs`, like the next three.
        split: Name of the split.
        semantic_coverage: "full" or "changed".
        revision: Branch, tag or commit of a Hub data set.
        outputs: Files of the run itself, which may lie in the folder and are not told.

    Raises:
        ValueError: As `load_pairs`: the data set, the split, a shard or a column is not there, a column or a row is
            not what the schema wants, it has no rows, or an id occurs twice.
    """
    from rscc_hf.data.images import undecoded
    from rscc_hf.data.loading import load_pairs, local_files

    own = [Path(output) for output in outputs]
    dataset = load_pairs(
        os.fspath(path_or_id), split, semantic_coverage=semantic_coverage, revision=revision, outputs=own
    )
    dataset = undecoded(dataset)  # the processor decodes, and names what it cannot
    ids = list(dataset["pair_id"])
    captions = list(dataset["captions"])
    references = [usable_references(texts) for texts in captions]
    notes = [
        *contradictions(zip(ids, references, dataset["changed"], strict=True)),
        *without_references(zip(ids, references, strict=True)),
        *_wordless(ids, captions, references),
    ]
    files = {Path(one["filename"]) for one in getattr(dataset, "cache_files", None) or ()}
    if revision is None:
        files |= set(local_files(os.fspath(path_or_id), split, outputs=own))
    sources = [path for path in (Path(path_or_id), *sorted(files)) if path.is_file()]
    return PairList(DatasetPairs(dataset), notes=tuple(notes), sources=tuple(sources))


def _wordless(
    pair_ids: Sequence[str], captions: Sequence[Sequence[str] | None], references: Sequence[Sequence[str] | None]
) -> list[str]:
    """Return a sentence about captions that are no references."""
    fewer = [len(texts or ()) - len(kept or ()) for texts, kept in zip(captions, references, strict=True)]
    if not any(fewer):
        return []
    names = some([name for name, missing in zip(pair_ids, fewer, strict=True) if missing])
    return [f"{count(sum(fewer), 'caption')} without a letter or digit ({names}), left out of the references."]
