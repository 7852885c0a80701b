"""Measure how long a data set takes to its first pair, and how much memory, by `datasets` alone and by `load_pairs`.

    python benchmarks/load_pairs.py            # prints
    python benchmarks/load_pairs.py --write    # also into benchmarks/results/load_pairs.json

Three sets of the same pairs: one file of a single row group, as others have written them; one file in row groups of
100, as `rscc data synthesize` wrote up to 0.1; and one as `rscc_hf.data.parquet` cuts them. Each is streamed and, with
an empty cache, loaded; by `datasets`' own reader of parquet, which `load_pairs` used up to 0.1, and by `load_pairs`.
Each measurement has a process of its own; memory is what its peak is over what the process holds before.
"""

import argparse
import io
import itertools
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _machine import facts, write_result
from datasets import load_dataset
from PIL import Image

from rscc_hf.data.loading import load_pairs
from rscc_hf.data.parquet import write_split
from rscc_hf.data.schema import FEATURES


def pairs(number: int, side: int) -> Iterator[dict[str, Any]]:
    """Yield pairs of noise, which no compression makes smaller."""
    generator = np.random.default_rng(0)
    for index in range(number):
        images = {}
        for name in ("image_before", "image_after"):
            buffer = io.BytesIO()
            noise = Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
            noise.save(buffer, "PNG", compress_level=0)
            images[name] = {"bytes": buffer.getvalue(), "path": f"{index}_{name}.png"}
        captions = ["a house is built"] * 5
        yield {"pair_id": f"{index}", **images, "captions": captions, "changed": True, "source": "noise"}


def write_one_file(folder: Path, number: int, side: int, group: int) -> None:
    """Write all pairs into one file, in row groups of so many."""
    (folder / "data").mkdir(parents=True)
    with pq.ParquetWriter(folder / "data" / "train-00000-of-00001.parquet", FEATURES.arrow_schema) as writer:
        rows = pairs(number, side)
        while part := list(itertools.islice(rows, group)):
            writer.write_table(pa.Table.from_pylist(part, schema=FEATURES.arrow_schema))


def write_small_groups(folder: Path, number: int, side: int) -> None:
    """Write the pairs as the package does."""
    write_split(folder, "train", pairs(number, side))


def by_datasets(folder: Path, streaming: bool) -> Any:
    """Open a set as 0.1 did, without its checks."""
    files = [str(file) for file in sorted((folder / "data").iterdir())]
    return load_dataset("parquet", data_files={"a": files}, split="a", streaming=streaming, features=FEATURES)


def by_load_pairs(folder: Path, streaming: bool) -> Any:
    """Open a set as the package does."""
    return load_pairs(folder, "train", streaming=streaming)


def measure(way: Any, folder: Path, streaming: bool) -> dict[str, float]:
    """Return seconds and MB to the first pair, its images decoded, and to the end of all, theirs not."""
    before, started, processor = _peak(), time.perf_counter(), time.process_time()
    data = way(folder, streaming)
    next(iter(data))["image_before"].load()
    first, first_peak = time.perf_counter() - started, _peak()
    raw = data.decode(False) if streaming else data.with_format("arrow").iter(16)
    rows = sum(1 if streaming else len(row) for row in raw)
    return {
        "pairs": rows,
        "first_seconds": round(first, 2),
        "first_mb": round(first_peak - before),
        "all_seconds": round(time.perf_counter() - started, 2),
        "all_processor_seconds": round(time.process_time() - processor, 2),
        "all_mb": round(_peak() - before),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(call: Any, *arguments: Any) -> Any:
    """Call in a process of its own, forked: the imports are done, and Arrow has no threads yet."""
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        return pool.apply(call, arguments)


def main() -> None:
    """Measure, print the ratios, and write what was measured if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--side", type=int, default=256, help="of an image, in pixels; 256: 0.4 MB a pair")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/load_pairs.json")
    args = parser.parse_args()
    machine = facts()
    print(f"{args.pairs} pairs of {args.side}; {machine['processor']}, {machine['cores']} cores")
    took: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="rscc-load-pairs-") as work:
        for name, group in (("one group", args.pairs), ("as 0.1 wrote", 100), ("as written now", None)):
            folder = Path(work) / name.replace(" ", "_")
            if group is None:
                alone(write_small_groups, folder, args.pairs, args.side)
            else:
                alone(write_one_file, folder, args.pairs, args.side, group)
            for streaming, way in itertools.product((True, False), (by_datasets, by_load_pairs)):
                key = f"{name}, {'streamed' if streaming else 'loaded'}, {way.__name__}"
                took[key] = value = alone(_with_empty_cache, way, folder, streaming, Path(work) / "cache" / key)
                print(f"{key:45}", ", ".join(f"{what} {number}" for what, number in value.items()), flush=True)
                if way is by_load_pairs:
                    old = took[key.replace("by_load_pairs", "by_datasets")]
                    ratios = {what: f"{value[what] / old[what]:.2f}" for what in value if what != "pairs"}
                    print(f"{'ratio':>45}", ", ".join(f"{what} {ratio}" for what, ratio in ratios.items()), flush=True)
    if args.write:
        print(f"written: {write_result('load_pairs', {'pairs': args.pairs, 'side': args.side, 'took': took})}")


def _with_empty_cache(way: Any, folder: Path, streaming: bool, cache: Path) -> dict[str, float]:
    import datasets.config

    datasets.config.HF_DATASETS_CACHE = cache
    datasets.disable_progress_bars()
    return measure(way, folder, streaming)


if __name__ == "__main__":
    main()
