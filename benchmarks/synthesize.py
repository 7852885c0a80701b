"""Measure how fast synthetic pairs are written.

    python benchmarks/synthesize.py --pairs 400 --workers 1 2

Prints pairs a minute and bytes a pair by number of workers, PNG and parquet included. The start of the worker
processes is told apart by timing a small run first.
"""

import argparse
import platform
import tempfile
import time
from pathlib import Path

from rscc_hf.synthetic.dataset import SceneOptions, synthesize


def measure(pairs: int, workers: int, size: int) -> tuple[float, int]:
    """Return the seconds that `pairs` take, and the bytes they fill."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scenes"
        start = time.perf_counter()
        synthesize(out, pairs, 0, workers=workers, options=SceneOptions(size=size))
        seconds = time.perf_counter() - start
        return seconds, sum(path.stat().st_size for path in out.rglob("*.parquet"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=int, default=256)
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, size {arguments.size}")
    for workers in arguments.workers:
        start, _ = measure(40 * workers, workers, arguments.size)
        seconds, size = measure(arguments.pairs + 40 * workers, workers, arguments.size)
        print(
            f"workers {workers}: {arguments.pairs / (seconds - start) * 60:.0f} pairs/minute without the start, "
            f"{(arguments.pairs + 40 * workers) / seconds * 60:.0f} with it; "
            f"{size / (arguments.pairs + 40 * workers):.0f} bytes/pair"
        )


if __name__ == "__main__":
    main()
