"""Pushing a data set of pairs: parquet in shards, every image inside, with a card."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi

from rscc_hf.data.layout import Layout, read_layout
from rscc_hf.data.loading import load_pairs, split_names
from rscc_hf.data.parquet import LIMITS, read_columns, write_split
from rscc_hf.data.rows import LOOKED_AT, check_rows
from rscc_hf.data.schema import FEATURES, IMAGES, REQUIRED, check_schema
from rscc_hf.errors import PushError
from rscc_hf.formats.cards import is_ours
from rscc_hf.formats.synthesis import MARK
from rscc_hf.hub.cards.dataset import render_dataset_card
from rscc_hf.hub.cards.dataset_facts import DatasetFacts, read_dataset_facts
from rscc_hf.hub.cards.rendering import CARD, earlier_metadata, read_card
from rscc_hf.hub.contents import check_files, choose_files, staged
from rscc_hf.hub.leaks import leak_in_text
from rscc_hf.hub.push_model import OnStage
from rscc_hf.hub.upload import PushPlan, full_repo_id, plan_push, upload
from rscc_hf.text import count, reason_of

SHARD_BYTES = 500_000_000
_HEADERS = 1.02  # of pages, and the footer: beside the bytes that the writer counts
_ROWS = 10  # read at a time
_TRIAL = Path(__file__).with_name("dataset_trial.py")
# Names of a split's shards, as `datasets` and the Hub know them.
_SHARD = re.compile(r"(?:data/)?[\w.-]+?(?:-\d{5}-of-\d{5})?\.parquet")


def push_dataset(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    message: str | None = None,
    license: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    on_stage: OnStage | None = None,
) -> PushPlan:
    """Push a data set of pairs to the Hub, after a look at whether it may and can be used there.

    Parquet files in `data/` within the limits of the writer (`data.parquet.LIMITS`) go as they are. Anything else that
    `load_pairs` reads is written as such files first, images inside; the folder itself is not changed. The card is
    rendered from what the files hold, unless somebody else wrote one.

    Args:
        folder: The data set.
        repo_id: `OWNER/NAME`, or `NAME` for the user's own.
        private: Make the repository private.
        dry_run: Only say what would change.
        revision: Branch to push to, made from main where it is missing; main when omitted.
        message: Of the commit.
        license: For the card; when omitted that of an earlier card, or Apache-2.0 where `rscc data synthesize` drew
            every pair.
        shard_bytes: Largest parquet file, about; larger than the limit it changes nothing.
        on_stage: Told what is being done.

    Returns:
        What changed, or would change.

    Raises:
        PushError: The data set must not or cannot be pushed; one sentence that names the file and the remedy.
    """
    tell = on_stage or (lambda text: None)
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise PushError(f"there is no folder {folder}; give the folder of a data set.")
    api = HfApi()
    repo_id = full_repo_id(repo_id, api)
    contents = choose_files(folder, "dataset")
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rscc-shards-") as work:
        layout = _layout(folder)
        notes += layout.notes
        splits = _as_it_is(layout, contents.files, shard_bytes)
        if splits is None:
            tell("Writing parquet shards")
            splits = _written_anew(folder, Path(work), shard_bytes)
            largest = min(shard_bytes, LIMITS.shard_bytes)
            notes.append(f"{folder} goes as parquet shards of {largest / 1e6:.0f} MB at most.")
        tell("Looking for pickles, secrets and paths of this machine")
        others = {name: path for name, path in contents.files.items() if _is_beside(name)}
        shards = {name: path for named in splits.values() for name, path in named.items()}
        check_files(others, folder)
        for name, path in shards.items():
            _check_shard(path, name)  # first, as it tells the row
        for split, named in splits.items():
            _check_values(list(named.values()), f"{folder} ({split})", notes)
        check_files(shards, folder)
        tell("Counting")
        facts = _facts(splits, read_card(folder))
        card = _card(folder, facts, repo_id, license, notes)
        with staged({**others, **shards}, card) as stage:
            check_files({name: stage / name for name in card}, folder)
            tell("Loading it in a new process")
            _check_loads(folder, stage)
            tell(f"Comparing with {repo_id}")
            plan = plan_push(stage, repo_id, "dataset", private=private, revision=revision, api=api)
            unused = [name for name in contents.files if name not in others and name not in shards and name != CARD]
            plan.left_out = {**contents.left_out, **dict.fromkeys(unused, "not part of the shards")}
            plan.notes = notes
            if not plan.private:
                plan.notes += [f"{data.name}: {data.terms}; see that you may publish it, or use --private."
                               for data in facts.known if data.license is None]  # fmt: skip
            if message is not None and not plan.is_needed:
                notes.append("The message was not used: there is nothing to push.")
            if not dry_run and plan.is_needed:
                tell(f"Uploading to {repo_id}")
                retry = lambda why: tell(f"{why}; trying again")  # noqa: E731
                plan.url = upload(stage, plan, message=message, api=api, on_retry=retry)
    return plan


def _layout(folder: Path) -> Layout:
    try:
        layout = read_layout(folder)
    except ValueError as error:
        raise PushError(str(error)) from error
    for problem in layout.broken.values():
        raise PushError(problem)
    return layout


def _as_it_is(layout: Layout, files: Mapping[str, Path], shard_bytes: int) -> dict[str, dict[str, Path]] | None:
    """Return the parquet files of each split, where they can go as they lie there; None: they have to be written."""
    splits: dict[str, dict[str, Path]] = {}
    for split in layout.names:
        for path in layout.splits[split]:
            name = path.relative_to(layout.root).as_posix()
            if name not in files or not _SHARD.fullmatch(name) or _is_too_large(path, name, shard_bytes):
                return None
            if not _is_self_contained(path, name) or not _has_the_types(path, name):
                return None
            splits.setdefault(split, {})[name] = path
    in_data = {name.startswith("data/") for named in splits.values() for name in named}
    return splits if splits and len(in_data) == 1 else None


def _is_too_large(path: Path, name: str, shard_bytes: int) -> bool:
    """Tell whether the one writer of shards would have cut a file, or its row groups, smaller."""
    metadata = _opened(path, name).metadata
    groups = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    most = _HEADERS * min(shard_bytes, LIMITS.shard_bytes)
    return (
        (metadata.num_rows > 1 and path.stat().st_size > most)
        or metadata.num_rows > LIMITS.shard_rows
        or max(groups, default=0) > LIMITS.group_rows
    )


def _has_the_types(path: Path, name: str) -> bool:
    """Tell whether the columns have the very types of the schema; what is wrong with them is told later."""
    schema = _opened(path, name).schema_arrow
    try:
        wanted = check_schema(schema, name).arrow_schema
    except ValueError:
        return True
    return all(schema.field(column).type == wanted.field(column).type for column in FEATURES if column in wanted.names)


def _is_self_contained(path: Path, name: str) -> bool:
    """Tell whether the images are in the file, under names without folders of this machine."""
    file = _opened(path, name)
    for column in _image_columns(file):
        for batch in file.iter_batches(batch_size=1000, columns=[f"{column}.path"]):
            for image in batch.column(column).to_pylist():
                if image and image.get("path") and ("/" in image["path"] or "\\" in image["path"]):
                    return False
        nulls, paths = _nulls(file, f"{column}.bytes"), _nulls(file, f"{column}.path")
        if nulls is None or (nulls > 0 and paths is not None and paths < nulls):
            return False  # a path without bytes: the image lies elsewhere
    return True


def _nulls(file: pq.ParquetFile, column: str) -> int | None:
    """Return how many rows have nothing there, by the file's statistics; None: it keeps none."""
    metadata = file.metadata
    total = 0
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(index)
            if chunk.path_in_schema == column:
                if chunk.statistics is None or not chunk.statistics.has_null_count:
                    return None
                total += chunk.statistics.null_count
    return total


def _image_columns(file: pq.ParquetFile) -> list[str]:
    return [
        column.name
        for column in file.schema_arrow
        if pa.types.is_struct(column.type) and {"bytes", "path"} <= {inner.name for inner in column.type}
    ]


def _opened(path: Path, name: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise PushError(f"{name} is no parquet file ({reason_of(error)}); write the data set again.") from error


def _written_anew(folder: Path, work: Path, shard_bytes: int) -> dict[str, dict[str, Path]]:
    try:
        names = split_names(folder)
        if not names:
            raise PushError(f"{folder} holds no pairs; give parquet files, or a folder of save_to_disk.")
        return {split: _write_split(folder, split, work, shard_bytes) for split in names}
    except PushError:
        raise
    except (ValueError, OSError) as error:
        raise PushError(f"{folder} does not load ({' '.join(str(error).split()).rstrip('.')}).") from error


def _write_split(folder: Path, split: str, work: Path, shard_bytes: int) -> dict[str, Path]:
    """Write shards with every image inside, as the file that it is."""
    pairs: Any = load_pairs(folder, split)
    rows = (row for table in pairs.with_format("arrow").iter(batch_size=_ROWS) for row in table.to_pylist())
    limits = LIMITS._replace(shard_bytes=min(shard_bytes, LIMITS.shard_bytes))
    written = write_split(work, split, rows, pairs.features, limits=limits)
    return {path.relative_to(work).as_posix(): path for path in written}


def _is_beside(name: str) -> bool:
    """Tell whether a file goes along with the shards: licences, pictures of the card; no other form of the data."""
    parts = name.split("/")
    formats = (".arrow", ".parquet", "dataset_info.json", "dataset_dict.json", "state.json")
    return not name.lower().endswith(formats) and name != CARD and (len(parts) == 1 or parts[0] != "data")


def _check_shard(path: Path, name: str) -> None:
    """Refuse pairs without images, and secrets and paths of this machine in the texts of a shard."""
    file = _opened(path, name)
    try:
        check_schema(file.schema_arrow, name)
    except ValueError as error:
        raise PushError(str(error)) from error
    for column in IMAGES:
        lacking = _nulls(file, f"{column}.bytes")
        if lacking:
            raise PushError(f"{name} has {count(lacking, 'pair')} without {column}; write the data set again.")
    for key, value in (file.metadata.metadata or {}).items():
        leak = leak_in_text(value.decode("utf-8", errors="replace")) if key != b"ARROW:schema" else None
        if leak is not None:
            raise PushError(f"{name}: its metadata {leak}; write the data set again without.")
    texts = [column.name for column in file.schema_arrow if _is_text(column.type)]
    row = 0
    for batch in file.iter_batches(batch_size=1000, columns=texts):
        for column in texts:
            for offset, value in enumerate(batch.column(column).to_pylist()):
                for text in value if isinstance(value, list) else [value]:
                    leak = leak_in_text(text) if isinstance(text, str) else None
                    if leak is not None:
                        raise PushError(
                            f"{name}, row {row + offset}: {column} {leak}; change it and write the data again."
                        )
        row += batch.num_rows


def _check_values(files: Sequence[Path], where: str, notes: list[str]) -> None:
    """Refuse ids, captions and `changed` of a split that `load_pairs` would, and note what is missing."""
    unmarked = 0
    try:
        check_rows(read_columns(files, LOOKED_AT), where)
        for part in read_columns(files, ["changed"]):
            unmarked += part.column("changed").null_count
    except ValueError as error:
        raise PushError(str(error)) from error
    if unmarked:
        notes.append(f"{where}: changed is null for {count(unmarked, 'pair')}, which count neither way.")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _facts(splits: Mapping[str, Mapping[str, Path]], card: str | None) -> DatasetFacts:
    try:
        return read_dataset_facts(splits, card)
    except ValueError as error:
        raise PushError(str(error)) from error


def card_stays(folder: Path) -> bool:
    """Tell whether the folder has a card that goes as it is, because somebody else wrote it."""
    existing = read_card(folder)
    return existing is not None and not is_ours(existing) and MARK not in existing


def _card(folder: Path, facts: DatasetFacts, repo_id: str, license: str | None, notes: list[str]) -> dict[str, str]:
    existing, stays = read_card(folder), card_stays(folder)
    if existing is not None and stays:
        if license is not None:
            raise PushError(f"license is for cards of rscc_hf, and {CARD} goes as it is; write the licence there.")
        notes.append(f"{CARD} was not written by rscc_hf and goes as it is.")
        content = existing
    else:
        content = render_dataset_card(facts, repo_id, license=license, existing=existing)
    if "license" not in earlier_metadata(content):
        remedy = "write one there" if stays else "--license NAME puts one there"
        notes.append(f"The card states no licence of the data; {remedy}.")
    return {CARD: content}


def _check_loads(folder: Path, stage: Path) -> None:
    """Load what will be pushed as a stranger would."""
    with tempfile.TemporaryDirectory(prefix="rscc-trial-") as home:
        environment = {**os.environ, "HF_DATASETS_CACHE": home, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, "-P", str(_TRIAL), str(stage), *REQUIRED],
            capture_output=True, text=True, check=False, env=environment, cwd=home,
        )  # fmt: skip
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = (lines[-1] if lines else f"it ended with {done.returncode}").rstrip(".")
        raise PushError(f"{folder} does not load in a new process ({reason}); write the data set again.")
