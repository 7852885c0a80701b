"""Runs a worker in several processes that talk by gloo, as a launcher would on machines with GPUs.

`accelerate launch --cpu --num_processes 2` starts a single process where there is no MPI; torch's launcher does two.
"""

import os
import socket
import sys
from pathlib import Path

from watched import run

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> str:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def command_line(processes: int) -> list[str]:
    """How torch's launcher is called; a script and its arguments follow."""
    how = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    return [*how, "--master_port", free_port()]


def environment() -> dict[str, str]:
    """Of the launcher: on the CPU, with a thread a process."""
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def launch(script: Path, *arguments: str, processes: int = 2, limit: float = 300.0) -> None:
    """Run `script` with `arguments` in each process, from the checkout; an error in one fails the test.

    Where they take longer than `limit` seconds, all of them say where they stand and are ended.
    """
    run([*command_line(processes), str(script), *arguments], check=True, limit=limit, env=environment(), cwd=ROOT)
