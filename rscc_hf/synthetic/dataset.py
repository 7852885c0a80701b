"""Synthetic scenes: a procedural miniature of SECOND-CC, so that everything can be learned and measured offline.

A pair shows 128 x 128 metres at two dates: RGB images, pixel-exact semantic maps of the whole scene in SECOND's
palette, a change mask, five captions in LEVIR-CC's manner and the record of what happened. The two dates differ by one
to three events, or by none, and always by nuisances (`Nuisances`): light, season, sharpness, viewpoint, registration.
"""

import io
import json
import math
import multiprocessing
import multiprocessing.context
import os
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rscc_hf.errors import InputError
from rscc_hf.files import Written, new_folder
from rscc_hf.formats.synthesis import MARK, SOURCE, Synthesis, name_pair
from rscc_hf.synthetic.events import make_layout
from rscc_hf.synthetic.pair import describe, draw_pair, too_small
from rscc_hf.synthetic.style import Nuisances, make_styles
from rscc_hf.synthetic.wording import plain_sentence, write_captions

__all__ = ["Nuisances", "SceneOptions", "SyntheticPair", "generate_pair", "plain_sentence", "synthesize"]

_EVENT_SHARES = (0.6, 0.3, 0.1)
_BATCH = 20  # pairs that a worker makes at a time


def _is_ours(card: Path) -> bool:
    """Tell whether a card says that its data set was synthesised here."""
    try:
        return MARK in card.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _why_not_ours(folder: Path) -> str | None:
    """Say why a folder is no data set of `synthesize` (see `files.Written`): its card would say so."""
    return None if _is_ours(folder / "README.md") else f"is no data set {MARK} (its README.md does not say so)"


DATASET = Written(
    "data set of `rscc data synthesize`",
    _why_not_ours,
    ("README.md", *(f"data/{split}-[0-9]*-of-[0-9]*.parquet" for split in ("train", "validation", "test"))),
    {"README.md": _is_ours},
)
"""What `synthesize` writes."""


@dataclass(frozen=True)
class SceneOptions:
    """How pairs are made.

    Attributes:
        size: Height and width of the images in pixels: a multiple of 32, at least 64. The scene stays the same; at 256
            a pixel is half a metre.
        nuisances: What differs between the dates although nothing changed.
        changed_fraction: Share of the pairs that change, 0..1; spread evenly over the indices.
        max_events: Most events of a changed pair, 1..3.
    """

    size: int = 256
    nuisances: Nuisances = field(default_factory=Nuisances)
    changed_fraction: float = 0.5
    max_events: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < 64 or self.size % 32:
            raise InputError(f"size is {self.size!r}; give a multiple of 32 that is at least 64.")
        if not isinstance(self.nuisances, Nuisances):
            raise InputError(f"nuisances is {self.nuisances!r}; give a Nuisances object.")
        if not 0 <= self.changed_fraction <= 1:
            raise InputError(f"changed_fraction is {self.changed_fraction!r}; give a share between 0 and 1.")
        if self.max_events not in (1, 2, 3):
            raise InputError(f"max_events is {self.max_events!r}; give 1, 2 or 3.")


@dataclass(frozen=True)
class SyntheticPair:
    """One pair.

    Attributes:
        pair_id: Seed and index.
        image_before, image_after: uint8 (size, size, 3).
        semantic_before, semantic_after: uint8 (size, size, 3) in SECOND's palette, the whole scene, as each image
            shows it: with the lean of its buildings (the visible walls count as building) and, after, misregistered
            with it.
        change_mask: uint8 (size, size), 0 or 255: where the ground or what stands on it differs. It lies on the grid
            of the earlier date and is seen straight from above: viewpoint and registration leave no trace in it.
        captions: Five different ones.
        changed: Whether anything changed.
        record: `{"events": [...]}`, each with `kind` (appear, disappear, replace, widen), `object`, `replaced` (name
            or None), `count` (None where counting makes no sense), `place` (one of `rscc_hf.synthetic.places.PLACES`),
            `bbox` (left, top, right, bottom in pixels), `centroid` and `area` (shares of the frame), `row`,
            `along_road`, `new_road` and `ground`. Place, bbox, centroid and area are measured on the event's part of
            the change mask.
    """

    pair_id: str
    image_before: np.ndarray
    image_after: np.ndarray
    semantic_before: np.ndarray
    semantic_after: np.ndarray
    change_mask: np.ndarray
    captions: list[str]
    changed: bool
    record: dict[str, Any]


def _is_changed(index: int, fraction: float) -> bool:
    # A hair is added so that 0.1 * 10 counts as 1.
    return math.floor((index + 1) * fraction + 1e-9) > math.floor(index * fraction + 1e-9)


def generate_pair(index: int, seed: int = 0, options: SceneOptions | None = None) -> SyntheticPair:
    """Make one pair.

    The same arguments give the same pair, whatever was made before. Layout, nuisances and captions draw from streams
    of their own: another strength of a nuisance shows the same scene with the same captions.

    Args:
        index: Number of the pair, at least 0. Whether it changes follows from it and `options.changed_fraction` (half:
            the odd ones).
        seed: At least 0.
        options: The defaults of `SceneOptions` when None.

    Raises:
        ValueError: `index` or `seed` is negative.
    """
    if index < 0 or seed < 0:
        raise InputError(f"index is {index} and seed is {seed}; give numbers that are not negative.")
    options = options or SceneOptions()
    layout_rng, style_rng, words_rng = (
        np.random.default_rng(stream) for stream in np.random.SeedSequence([seed, index]).spawn(3)
    )
    changed = _is_changed(index, options.changed_fraction)
    shares = np.cumsum(_EVENT_SHARES[: options.max_events])
    styles = make_styles(style_rng, options.nuisances)
    while True:
        wanted = 1 + int(np.searchsorted(shares, layout_rng.random() * shares[-1])) if changed else 0
        layout = make_layout(layout_rng, wanted)
        images, maps, mask, parts = draw_pair(layout, styles, options.size)
        if not any(too_small(part) for part in parts):
            break
    ground = layout.backdrop if layout.backdrop != "mixed" else None
    record = {
        "events": [describe(event, part, ground) for event, part in zip(layout.events, parts, strict=True)],
    }
    return SyntheticPair(
        pair_id=name_pair(seed, index),
        image_before=np.asarray(images[0]),
        image_after=np.asarray(images[1]),
        semantic_before=maps[0],
        semantic_after=maps[1],
        change_mask=mask.astype(np.uint8) * np.uint8(255),
        captions=[caption for caption, _ in write_captions(record, words_rng)],
        changed=changed,
        record=record,
    )


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # Run lengths alone: the fastest that Pillow offers, and the smallest for maps.
    Image.fromarray(array).save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return buffer.getvalue()


def _row(index: int, seed: int, options: SceneOptions) -> dict[str, Any]:
    """Return one row of the data set, its images as PNG files."""
    pair = generate_pair(index, seed, options)
    images = ("image_before", "image_after", "semantic_before", "semantic_after", "change_mask")
    return {
        "pair_id": pair.pair_id,
        **{name: {"bytes": _png(getattr(pair, name)), "path": f"{pair.pair_id}_{name}.png"} for name in images},
        "captions": pair.captions,
        "changed": pair.changed,
        "source": SOURCE,
        "record": json.dumps(pair.record),
    }


def _rows(job: tuple[int, int, int, SceneOptions]) -> list[dict[str, Any]]:
    start, end, seed, options = job
    return [_row(index, seed, options) for index in range(start, end)]


def split_sizes(pairs: int) -> dict[str, int]:
    """Return how many pairs each split gets: a tenth, rounded, at least one, for validation and for test.

    Raises:
        ValueError: There are fewer than three pairs.
    """
    if pairs < 3:
        raise InputError(f"pairs is {pairs}; give at least 3, one for each split.")
    tenth = max(1, round(pairs / 10))
    return {"train": pairs - 2 * tenth, "validation": tenth, "test": tenth}


def synthesize(
    out: str | os.PathLike[str],
    pairs: int,
    seed: int = 0,
    *,
    workers: int | None = None,
    options: SceneOptions | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Write a data set of synthetic pairs that `datasets.load_dataset(out)` reads.

    `out` gets `data/{train,validation,test}-*.parquet` with the columns of `rscc_hf.data.schema.FEATURES` and `record`
    (JSON), and a `README.md`. The splits are the first 80, the next 10 and the last 10 per cent of the indices (see
    `split_sizes`). The same arguments give the same bytes, whatever the number of workers. Everything is written to a
    folder beside `out` that is renamed at the end.

    Args:
        out: The folder to make.
        pairs: Pairs in all splits together, at least 3.
        seed: At least 0.
        workers: Processes; by default the number of cores this process may use. Where they cannot be forked (not on
            Linux, or beside other threads), a script that asks for more than one needs the usual
            `if __name__ == "__main__":`.
        options: The defaults of `SceneOptions` when None.
        overwrite: Whether a data set that this function wrote is replaced; other folders never are.
        progress: Called with the number of pairs done so far.

    Returns:
        The number of pairs of each split.

    Raises:
        ValueError: `pairs`, `seed` or `workers` is out of range; or the path of `out` is no text in UTF-8.
        FileExistsError: `out` holds something and is not to be replaced.
    """
    from datasets import Features, Value

    from rscc_hf.data.parquet import write_split
    from rscc_hf.data.schema import FEATURES

    sizes = split_sizes(pairs)
    options = options or SceneOptions()
    if seed < 0:
        raise InputError(f"seed is {seed}; give a number that is not negative.")
    if workers is None:
        workers = _cores()
    if workers < 1:
        raise InputError(f"workers is {workers}; give at least 1.")
    try:
        str(Path(out).resolve()).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{out}: the path is no text in UTF-8, which parquet needs; choose another folder."
        ) from error
    columns = Features({**FEATURES, "record": Value("string")})
    with (
        new_folder(Path(out), overwrite=overwrite, kind=DATASET) as folder,
        closing(_told(_all_rows(pairs, seed, options, workers), progress)) as rows,
    ):
        for split, size in sizes.items():
            write_split(folder, split, islice(rows, size), columns)
        (folder / "README.md").write_text(Synthesis(sizes, seed, asdict(options)).text(), encoding="utf-8")
    return sizes


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1


def _context() -> multiprocessing.context.BaseContext:
    """Return how workers start.

    A fork is at once there, but copies locks that other threads hold: it is for Linux, and for a process whose only
    Python thread is the caller's (idle pools of BLAS and torch do no harm, and workers use neither). Elsewhere workers
    come from a fresh process, which takes the time of importing the package.
    """
    methods = multiprocessing.get_all_start_methods()
    if sys.platform == "linux" and threading.active_count() == 1:
        return multiprocessing.get_context("fork")
    if "forkserver" in methods:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        return context
    return multiprocessing.get_context("spawn")


def _leave_signals_to_the_first() -> None:
    """Let a worker not answer Ctrl+C by a traceback of its own, nor SIGTERM in the way of the first process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _all_rows(pairs: int, seed: int, options: SceneOptions, workers: int) -> Generator[dict[str, Any], None, None]:
    jobs = [(start, min(start + _BATCH, pairs), seed, options) for start in range(0, pairs, _BATCH)]
    if workers == 1 or len(jobs) == 1:
        for job in jobs:
            yield from _rows(job)
        return
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=_context(), initializer=_leave_signals_to_the_first)
    try:
        for rows in pool.map(_rows, jobs):
            yield from rows
    finally:
        pool.shutdown(cancel_futures=True)


def _told(
    rows: Generator[dict[str, Any], None, None], progress: Callable[[int], None] | None
) -> Generator[dict[str, Any], None, None]:
    """Pass rows on and tell how many there were; left early, it ends the workers' queue."""
    with closing(rows):
        for done, row in enumerate(rows, start=1):
            if progress is not None:
                progress(done)
            yield row
