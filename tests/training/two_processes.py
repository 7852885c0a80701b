"""Runs a worker in several processes that talk by gloo, as a launcher would on machines with GPUs.

`accelerate launch --cpu --num_processes 2` starts a single process where there is no MPI; torch's launcher does two.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> str:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def launch(script: Path, *arguments: str, processes: int = 2) -> None:
    """Run `script` with `arguments` in each process, from the checkout; an error in one fails the test."""
    how = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    how += ["--master_port", free_port()]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run([*how, str(script), *arguments], check=True, timeout=300, env=environment, cwd=ROOT)
