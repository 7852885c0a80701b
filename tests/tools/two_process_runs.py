"""Runs training in two processes many times on a busy machine, and tells whether each run ended.

    python tests/tools/two_process_runs.py --runs 50 --log runs.jsonl

Processes that only count keep the cores busy, and each run's processes are stopped for moments at random, so that
they meet at all possible places. A run that passes its limit prints the stacks of all its processes (see
`tests/watched.py`) and ends the script with an error. The same command goes on after a break.
"""

import argparse
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from toys.ccexpert_stages import save_start  # noqa: E402
from toys.pairs import write_pairs  # noqa: E402
from toys.two_processes import command_line, environment  # noqa: E402
from watched import HungError, run  # noqa: E402

WORKER = TESTS / "toys" / "ccexpert_stages.py"
RECIPE = {"per_device_batch_size": 1, "max_steps": 5, "save_unit": "steps", "save_every": 3, "schedule": "constant",
          "warmup_ratio": 0.0}  # fmt: skip


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50, help="How often.")
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="Processes that keep the cores busy.")
    parser.add_argument("--limit", type=float, default=300.0, help="Seconds that a run may take.")
    parser.add_argument("--log", type=Path, required=True, help="Gets a line for each run.")
    given = parser.parse_args()
    done = given.log.read_text(encoding="utf-8").splitlines() if given.log.exists() else []
    busy = [multiprocessing.get_context("spawn").Process(target=_count, daemon=True) for _ in range(given.busy)]
    for process in busy:
        process.start()
    with tempfile.TemporaryDirectory() as work:
        pairs, start = write_pairs(Path(work) / "pairs", 13, 4), save_start(Path(work) / "start")
        for number in range(len(done), given.runs):
            changes = {**RECIPE, "data": str(pairs), "start": str(start), "output_dir": f"{work}/{number}"}
            seconds = _run(changes, given.limit, number)
            with given.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"run": number, "seconds": round(seconds, 1)}) + "\n")
            print(f"run {number + 1} of {given.runs}: {seconds:.1f} s", flush=True)
    print(f"{given.runs} runs ended by themselves.")


def _run(changes: dict, limit: float, seed: int) -> float:
    over = threading.Event()
    jolts = threading.Thread(target=_jolt, args=(over, random.Random(seed)), daemon=True)
    jolts.start()
    started = time.perf_counter()
    try:
        run([*command_line(2), str(WORKER), json.dumps(changes)], limit=limit, env=environment(), check=True,
            stdout=subprocess.DEVNULL, cwd=TESTS.parent)  # fmt: skip
    except HungError as error:
        sys.exit(str(error))
    finally:
        over.set()
        jolts.join()
    return time.perf_counter() - started


def _jolt(over: threading.Event, chance: random.Random) -> None:
    """Stop one of the run's processes for a moment, again and again."""
    while not over.wait(chance.uniform(0.05, 0.5)):
        workers = [child for child in psutil.Process().children(recursive=True) if _is_worker(child)]
        if not workers:
            continue
        worker = chance.choice(workers)
        try:
            worker.suspend()
            over.wait(chance.uniform(0.05, 1.0))
            worker.resume()
        except psutil.NoSuchProcess:
            continue


def _is_worker(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return str(WORKER) in words and "torch.distributed.run" not in words


def _count() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
