"""Captioning many pairs into a JSONL file that can be stopped at any time and continued.

A line is `{"pair_id", "prediction", "references", "changed", "before", "after", "model", "settings", "notes"}`
(`references` and `changed` where the input has them), so that `rscc evaluate` reads it as it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rscc_hf.captioner import CaptionResult, ChangeCaptioner
from rscc_hf.files import write_text
from rscc_hf.pairs import PairItem, PairList

_REMEDY = "choose another output or overwrite it."


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        written: Captions written by this run.
        already: Captions that an earlier run had written.
        skipped: Pairs without a caption, `(pair_id, reason)`.
        skipped_file: Where these are listed; None when there are none.
    """

    written: int
    already: int
    skipped: tuple[tuple[str, str], ...]
    skipped_file: Path | None


def skipped_path(output: Path) -> Path:
    """The file beside `output` that lists the pairs without a caption."""
    return output.with_name(f"{output.stem}.skipped.jsonl")


def caption_to_file(
    captioner: ChangeCaptioner,
    pairs: PairList,
    output: str | os.PathLike[str],
    *,
    batch_size: int = 8,
    on_error: Literal["raise", "skip"] = "raise",
    overwrite: bool = False,
    with_maps: bool = True,
    settings: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **generate_kwargs: Any,
) -> RunSummary:
    """Captions pairs and writes a line for each.

    Every batch is on the disk before the next one starts. Where `output` exists, its captions stay and the pairs that
    it lacks are added; a last line that was cut off is dropped. Pairs that are skipped are listed in
    `skipped_path(output)` and are tried again by the next run.

    Args:
        captioner: Answers.
        pairs: What to caption.
        output: The JSONL file.
        batch_size: Pairs that go through the model at once.
        on_error: What a pair that cannot be read does: `"raise"` stops, `"skip"` goes on.
        overwrite: Start anew instead of continuing.
        with_maps: Use the semantic maps of the pairs that have them.
        settings: What else the captions depend on; written into each line beside dtype, maps and `generate_kwargs`.
        on_progress: Called with the number of pairs done and the number of all.
        **generate_kwargs: For `model.generate`.

    Raises:
        ValueError: `output` holds captions of another model, other settings or other pairs, or is no such file; a pair
            cannot be read (`"raise"`).
        OSError: `output` cannot be written.
    """
    output = Path(output)
    if output.is_dir():
        raise ValueError(f"{output} is a folder; give the name of a .jsonl file.")
    model = captioner.name if captioner.fingerprint is None else f"{captioner.name}@{captioner.fingerprint}"
    common = {
        "model": model,
        "settings": {
            "dtype": str(captioner.model.dtype).removeprefix("torch."),
            "semantic_maps": with_maps,
            **(settings or {}),
            **generate_kwargs,
        },
    }
    ids = pairs.pair_ids
    finished: set[str] = set()
    if output.exists() and not overwrite:
        finished = _continue(output, pairs, common)
    output.parent.mkdir(parents=True, exist_ok=True)
    skipped_path(output).unlink(missing_ok=True)
    pending = [index for index, pair_id in enumerate(ids) if pair_id not in finished]
    written, skipped = 0, []
    if on_progress is not None:
        on_progress(len(finished), len(ids))
    with output.open("ab") as file:
        for start in range(0, len(pending), batch_size):
            batch = [pairs.pairs[index] for index in pending[start : start + batch_size]]
            results = _caption(captioner, batch, on_error, with_maps, generate_kwargs)
            lines = []
            for pair, result in zip(batch, results, strict=True):
                if result.caption is None:
                    skipped.append({**_head(pair), "error": result.error})
                else:
                    lines.append(_line(pair, result, common))
            if overwrite and start == 0:
                file.truncate(0)  # not earlier: what was there is lost only when there is something new
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())
            written += len(lines)
            if on_progress is not None:
                on_progress(len(finished) + start + len(batch), len(ids))
    if skipped:
        write_text(skipped_path(output), "".join(_json(row) for row in skipped))
    return RunSummary(
        written=written,
        already=len(finished),
        skipped=tuple((row["pair_id"], row["error"]) for row in skipped),
        skipped_file=skipped_path(output) if skipped else None,
    )


def _caption(
    captioner: ChangeCaptioner,
    batch: list[PairItem],
    on_error: Literal["raise", "skip"],
    with_maps: bool,
    generate_kwargs: dict[str, Any],
) -> list[CaptionResult]:
    maps: list[list[Any] | None] = [None, None]
    if with_maps:
        given = [[pair.semantic_before for pair in batch], [pair.semantic_after for pair in batch]]
        # Where maps are needed the lists are passed even if empty: each pair without maps is then an error of its own.
        if captioner.semantic_maps == "required" or any(one is not None for one in (*given[0], *given[1])):
            maps = [*given]
    (results,) = captioner.in_batches(
        [pair.before for pair in batch],
        [pair.after for pair in batch],
        *maps,
        batch_size=len(batch),
        on_error=on_error,
        pair_ids=[pair.pair_id for pair in batch],
        **generate_kwargs,
    )
    return results


def _head(pair: PairItem) -> dict[str, Any]:
    return {"pair_id": pair.pair_id, "before": pair.names[0], "after": pair.names[1]}


def _line(pair: PairItem, result: CaptionResult, common: dict[str, Any]) -> str:
    row: dict[str, Any] = {"pair_id": pair.pair_id, "prediction": result.caption}
    if pair.references is not None:
        row["references"] = list(pair.references)
    if pair.changed is not None:
        row["changed"] = pair.changed
    return _json({**row, **_head(pair), **common, "notes": list(result.notes)})


def _json(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _continue(output: Path, pairs: PairList, common: dict[str, Any]) -> set[str]:
    """Checks that `output` is the beginning of this very run, mends its end, and says which pairs it has."""
    places = {pair_id: index for index, pair_id in enumerate(pairs.pair_ids)}
    finished: set[str] = set()
    size = 0
    torn = False
    with output.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            where = f"{output}, line {number}"
            try:
                row = json.loads(raw)
            except ValueError as error:
                if not raw.endswith(b"\n"):  # a run was killed in the middle of this line, the last one
                    torn = True
                    break
                raise ValueError(f"{where} is no JSON; {_REMEDY}") from error
            _check_row(row, where, pairs, places, common)
            if row["pair_id"] in finished:
                raise ValueError(f"{where}: pair {row['pair_id']!r} is there twice; {_REMEDY}")
            finished.add(row["pair_id"])
            size += len(raw)
    if torn or size:
        with output.open("r+b") as file:
            file.truncate(size)
            file.seek(max(size - 1, 0))
            if size and file.read(1) != b"\n":
                file.write(b"\n")
    return finished


def _check_row(row: Any, where: str, pairs: PairList, places: Mapping[str, int], common: dict[str, Any]) -> None:
    if not isinstance(row, dict) or not {"pair_id", "prediction", "model"} <= row.keys():
        raise ValueError(f"{where} was not written by `rscc caption`; {_REMEDY}")
    # The digest tells models apart; the name may be another path to the same one.
    if row["model"].rpartition("@")[2] != common["model"].rpartition("@")[2]:
        raise ValueError(f"{where} is by another model ({row['model']}, now {common['model']}); {_REMEDY}")
    if row.get("settings") != common["settings"]:
        raise ValueError(
            f"{where} was written with other settings ({json.dumps(row.get('settings'))}, "
            f"now {json.dumps(common['settings'])}); {_REMEDY}"
        )
    index = places.get(row["pair_id"])
    if index is None:
        raise ValueError(f"{where}: pair {row['pair_id']!r} is not in the list of pairs; {_REMEDY}")
    names = pairs.names_of(index)
    if names is not None and names != (row.get("before"), row.get("after")):
        raise ValueError(f"{where}: pair {row['pair_id']!r} has other images in the list of pairs; {_REMEDY}")
