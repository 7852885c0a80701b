"""Captioning many pairs into a JSONL file that can be stopped at any time and continued.

A line is a `PredictionLine` (`references` and `changed` where the input has them), so that `rscc evaluate` reads it as
it is. `inputs` are digests of what was asked (see `rscc_hf.inference.run_inputs`): a run goes on only where all of it
is the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rscc_hf.data.lists.items import ListedPair, PairList
from rscc_hf.errors import InputError, PredictionsError, input_errors
from rscc_hf.files import check_replaceable_file, refuse_input_as_output, write_text
from rscc_hf.formats.predictions import PredictionLine, SkippedLine, begins_as
from rscc_hf.inference.captioner import ChangeCaptioner
from rscc_hf.inference.run_inputs import difference, pair_digests, run_digests
from rscc_hf.locks import exclusive
from rscc_hf.pair import Caption, Pair
from rscc_hf.processing.change_pair_images import fetched
from rscc_hf.processing.change_pair_web import shown_address
from rscc_hf.text import is_torn, json_object

_REMEDY = "choose another output or overwrite it (--overwrite)."


@dataclass(frozen=True)
class RunSummary:
    """What a run did.

    Attributes:
        written: Captions written by this run.
        already: Captions that an earlier run had written.
        skipped: Pairs without a caption, `(pair_id, reason)`.
        skipped_file: Where these are listed; None when there are none.
        noted: Captions of this run with notes about their images, `(pair_id, first note)`.
        unchecked: Earlier captions that were kept though their images, which are given by addresses, cannot be had
            now to compare them, `(pair_id, reason)`.
    """

    written: int
    already: int
    skipped: tuple[tuple[str, str], ...]
    skipped_file: Path | None
    noted: tuple[tuple[str, str], ...] = ()
    unchecked: tuple[tuple[str, str], ...] = ()


def skipped_path(output: Path) -> Path:
    """Return the file beside `output` that lists the pairs without a caption."""
    name = output.stem if output.suffix == ".jsonl" else output.name
    return output.with_name(f"{name}.skipped.jsonl")


def caption_to_file(
    captioner: ChangeCaptioner | Callable[[], ChangeCaptioner],
    pairs: PairList,
    output: str | os.PathLike[str],
    *,
    batch_size: int = 8,
    on_error: Literal["raise", "skip"] = "raise",
    overwrite: bool = False,
    with_maps: bool = True,
    allow_web: bool = False,
    settings: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **generate_kwargs: Any,
) -> RunSummary:
    """Caption pairs and write a line for each.

    Every batch is on the disk before the next one starts. Where `output` exists, its captions stay and the pairs that
    it lacks are added, if all that was asked is the same to the byte; a last line that was cut off is dropped. Pairs
    that are skipped are listed in `skipped_path(output)` and are tried again by the next run. One run at a time writes
    an output.

    Args:
        captioner: Answers; or what loads it, called when everything else has been checked.
        pairs: What to caption.
        output: The JSONL file.
        batch_size: Pairs that go through the model at once.
        on_error: What a pair that cannot be read does: `"raise"` stops, `"skip"` goes on; a finished one whose images
            cannot be fetched now stays then.
        overwrite: Start anew instead of continuing; only captions of an earlier run are replaced.
        with_maps: Use the semantic maps of the pairs that have them.
        allow_web: Fetch images that are given by an https address, as `rscc_hf.processing.change_pair_web` says; also
            those of finished pairs, to compare them with what was captioned.
        settings: What else the captions depend on; written into each line beside dtype, maps and `generate_kwargs`.
        on_progress: Called with the number of pairs done and the number of all. While finished pairs are compared
            with what was written, these are what is done.
        **generate_kwargs: For `model.generate`.

    Raises:
        ValueError: `output` is an input, is being written by another run, or holds captions of another model, other
            settings or other pairs, or is no such file; a setting cannot be written down; a pair cannot be read
            (`"raise"`).
        OSError: `output` cannot be written.
    """
    output = Path(output)
    _check_output(output, pairs)
    try:
        asked = json.loads(json.dumps({**(settings or {}), **generate_kwargs}))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the settings cannot be written into {output} ({error}); give numbers, texts and lists of them."
        ) from error
    with exclusive(output, "output"):
        _check_is_ours(output, overwrite)
        if not isinstance(captioner, ChangeCaptioner):
            captioner = captioner()
        run = _Run(captioner, pairs, output, on_error, with_maps, allow_web, asked, generate_kwargs)
        return run.finish(batch_size, overwrite, on_progress)


def _check_output(output: Path, pairs: PairList) -> None:
    """Refuse an output that cannot be written without harm to what is read."""
    if output.is_dir():
        raise InputError(f"{output} is a folder; give the name of a .jsonl file.")
    if output.exists() and not output.is_file():
        raise InputError(f"{output} is no ordinary file; give the name of a .jsonl file.")
    for path in (output, skipped_path(output)):
        refuse_input_as_output(path, pairs.sources)
        if path.exists():
            own = path.stat()
            same = [image for _, image in pairs.files() if _is_file(image, own)]
            refuse_input_as_output(path, same[:1])


def _is_file(path: Path, own: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), own)
    except (OSError, ValueError):
        return False


def _check_is_ours(output: Path, overwrite: bool) -> None:
    """Refuse to replace what no run of this kind wrote, be it the output or the list of skipped pairs beside it."""
    if overwrite:
        check_replaceable_file(output, "file of captions", lambda path: begins_as(path, PredictionLine))
    skipped = skipped_path(output)
    check_replaceable_file(skipped, "list of skipped pairs", lambda path: begins_as(path, SkippedLine))


class _Run:
    """One run over all pairs, under the lock of its output."""

    def __init__(
        self,
        captioner: ChangeCaptioner,
        pairs: PairList,
        output: Path,
        on_error: Literal["raise", "skip"],
        with_maps: bool,
        allow_web: bool,
        asked: dict[str, Any],
        generate_kwargs: dict[str, Any],
    ) -> None:
        self.captioner = captioner
        self.pairs = pairs
        self.output = output
        self.file = output.resolve()  # where it is a link, what it leads to is written
        self.on_error = on_error
        self.with_maps = with_maps
        self.allow_web = allow_web
        self.generate_kwargs = generate_kwargs
        model = captioner.name if captioner.fingerprint is None else f"{captioner.name}@{captioner.fingerprint}"
        dtype = str(captioner.model.dtype).removeprefix("torch.")
        self.model = model
        self.settings = {"dtype": dtype, "semantic_maps": with_maps, **asked}
        self.digests = run_digests(captioner, generate_kwargs)
        self.unchecked: list[tuple[str, str]] = []

    def finish(self, batch_size: int, overwrite: bool, on_progress: Callable[[int, int], None] | None) -> RunSummary:
        """Caption what is not finished yet."""
        self._check_maps()
        ids = self.pairs.pair_ids
        tell = on_progress or (lambda done, total: None)
        anew = overwrite and self.file.exists() and self.file.stat().st_size > 0
        finished: set[str] = set()
        if self.file.exists() and not anew:
            finished = self._continue(ids, tell)
        skipped_path(self.output).unlink(missing_ok=True)
        pending = [index for index, pair_id in enumerate(ids) if pair_id not in finished]
        skipped: list[SkippedLine] = []
        written, noted = 0, []
        tell(len(finished), len(ids))
        if not anew:
            self._append("")
        for start in range(0, len(pending), batch_size):
            batch = [self.pairs.pairs[index] for index in pending[start : start + batch_size]]
            read = [self._read(pair) for pair in batch]
            inputs = [{} if isinstance(one, str) else {**pair_digests(one), **self.digests} for one in read]
            captions = self.captioner.caption(
                [one for one in read if isinstance(one, Pair)],
                batch_size=batch_size,
                on_error=self.on_error,
                **self.generate_kwargs,
            )
            lines = []
            for pair, one, digests in zip(batch, read, inputs, strict=True):
                caption = Caption(None, error=one) if isinstance(one, str) else next(captions)
                if caption.text is None:
                    skipped.append(SkippedLine(str(pair.id), *_names(pair), error=str(caption.error)))
                    continue
                lines.append(self._line(pair, caption, digests).text())
                if caption.notes:
                    noted.append((str(pair.id), caption.notes[0]))
            if anew and lines:  # not earlier: what was there is lost only when there is something new
                write_text(self.file, "".join(lines))
                anew = False
            elif not anew:
                self._append("".join(lines))
            written += len(lines)
            tell(len(finished) + start + len(batch), len(ids))
        if anew:  # every pair was skipped
            write_text(self.file, "")
        if skipped:
            write_text(skipped_path(self.output), "".join(line.text() for line in skipped))
        return RunSummary(
            written=written,
            already=len(finished),
            skipped=tuple((line.pair_id, line.error) for line in skipped),
            skipped_file=skipped_path(self.output) if skipped else None,
            noted=tuple(noted),
            unchecked=tuple(self.unchecked),
        )

    def _check_maps(self) -> None:
        """Refuse a run whose every pair would be refused, or of whose maps the model has no use."""
        name, use = self.captioner.name, self.captioner.semantic_maps
        if use == "none" and self.with_maps and self.pairs.has_maps():
            raise InputError(f"{name} takes no semantic maps, and there are some; leave them out (--without-maps).")
        if use == "required" and not self.with_maps:
            raise InputError(f"{name} was trained with semantic maps and needs them; use those of the pairs.")

    def _read(self, pair: Pair) -> Pair | str:
        """Return a pair as it is asked about, with the bytes of its images that are given by an address.

        Returns:
            The pair; with "skip" the reason why these cannot be had.

        Raises:
            InputError: They cannot be had ("raise").
        """
        try:
            with input_errors():
                return fetched(pair if self.with_maps else replace(pair, maps=None), self.allow_web)
        except InputError as error:
            if self.on_error == "raise":
                raise
            return str(error)

    def _append(self, text: str) -> None:
        """Add lines and wait until they are on the disk; all of them or, on a full disk, none."""
        size = self.file.stat().st_size if self.file.exists() else 0
        try:
            with self.file.open("ab", buffering=0) as file:
                data = memoryview(text.encode())
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.file, size)
            raise OSError(error.errno, error.strerror, str(self.output)) from error

    def _continue(self, ids: list[str], tell: Callable[[int, int], None]) -> set[str]:
        """Check that the output is the beginning of this very run, mend its end, and say which pairs it has."""
        places = {pair_id: index for index, pair_id in enumerate(ids)}
        finished: set[str] = set()
        size = 0
        torn = False  # whether a run was killed in the middle of the last line
        with self.file.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                where = f"{self.output}, line {number}"
                if is_torn(raw):
                    torn = True
                    break
                row = json_object(raw, where, _REMEDY.rstrip("."))
                try:
                    line = PredictionLine.read(row, where)
                except PredictionsError as error:
                    raise InputError(f"{where} was not written by `rscc caption`; {_REMEDY}") from error
                self._check_line(line, where, places)
                if line.pair_id in finished:
                    raise InputError(f"{where}: pair {line.pair_id!r} is there twice; {_REMEDY}")
                finished.add(line.pair_id)
                size += len(raw)
                tell(len(finished), len(ids))
        if torn or size:
            with self.file.open("r+b") as file:
                file.truncate(size)
                file.seek(max(size - 1, 0))
                if size and file.read(1) != b"\n":
                    file.write(b"\n")
        return finished

    def _check_line(self, line: PredictionLine, where: str, places: Mapping[str, int]) -> None:
        """Refuse to go on after a line that this run would have written otherwise."""
        if line.model is None:
            raise InputError(f"{where} was not written by `rscc caption`; {_REMEDY}")
        # The digest tells models apart; the name may be another path to the same one.
        if _after_at(line.model) != _after_at(self.model):
            raise InputError(f"{where} is by another model ({line.model}, now {self.model}); {_REMEDY}")
        if line.settings != self.settings:
            raise InputError(
                f"{where} was written with other settings ({json.dumps(line.settings)}, "
                f"now {json.dumps(self.settings)}); {_REMEDY}"
            )
        if not isinstance(line.inputs, dict):
            raise InputError(
                f"{where} was written by an older version, which noted no digests of its inputs, and cannot be "
                f"continued; {_REMEDY}"
            )
        index = places.get(line.pair_id)
        if index is None:
            raise InputError(f"{where}: pair {line.pair_id!r} is not in the list of pairs; {_REMEDY}")
        pair = self.pairs.pairs[index]
        if isinstance(pair, ListedPair) and pair.names != (line.before, line.after):
            raise InputError(f"{where}: pair {line.pair_id!r} has other images in the list of pairs; {_REMEDY}")
        try:
            read = self._read(pair)
        except InputError as error:
            raise InputError(
                f"{where} is finished, but cannot be compared with its images now ({str(error).rstrip('.')}); keep it "
                "as it is (--on-error skip), or overwrite it (--overwrite)."
            ) from error
        if isinstance(read, str):
            self.unchecked.append((line.pair_id, read))
        own = line.inputs if isinstance(read, str) else pair_digests(read)
        other = difference(line.inputs, {**own, **self.digests})
        said = self._line(pair, Caption(""), {})
        expected = PredictionLine.read(json.loads(said.text()), where)
        if other is None and line.references != expected.references:
            other = "other references"
        if other is None and line.changed != expected.changed:
            other = "another value of changed"
        if other is not None:
            raise InputError(f"{where}: pair {line.pair_id!r} was captioned with {other}; {_REMEDY}")

    def _line(self, pair: Pair, caption: Caption, inputs: dict[str, str]) -> PredictionLine:
        before, after = _names(pair)
        return PredictionLine(
            pair_id=str(pair.id),
            prediction=caption.text or "",
            references=None if pair.references is None else tuple(pair.references),
            changed=pair.changed,
            before=before,
            after=after,
            model=self.model,
            settings=self.settings,
            inputs=inputs,
            notes=list(caption.notes),
        )


def _names(pair: Pair) -> tuple[str, str]:
    """Return what the pair's source calls its images."""
    if isinstance(pair, ListedPair):
        return pair.names
    before, after = (shown_address((image or {}).get("path") or "") for image in (pair.before, pair.after))
    return before, after


def _after_at(model: Any) -> str:
    return str(model).rpartition("@")[2]
