"""`rscc caption` over 200 pairs, killed ten times, with a second run beside it: each pair once, the second refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PAIRS, KILLS, LIMIT = 200, 10, 300.0

# The command in a process of its own; it waits before a batch while a file is there, so that kills meet the writing.
_RUN = """
import os, sys, time
from rscc_hf.commands.app import app
from rscc_hf.inference.captioner import ChangeCaptioner

caption = ChangeCaptioner.caption

def slow(*arguments, **settings):
    if os.path.exists("hold"):
        open("ready", "w").close()
    while os.path.exists("hold"):
        time.sleep(0.01)
    time.sleep(0.02)
    return caption(*arguments, **settings)

ChangeCaptioner.caption = slow
app(sys.argv[1:])
"""


def start(folder: Path, model: Path) -> subprocess.Popen[str]:
    arguments = ["caption", "--pairs", "p", "--output", "out.jsonl", "--model", str(model), "--device", "cpu"]
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", _RUN, *arguments, "--batch-size", "2"],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def first_to_end(running: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        for process in running:
            if process.poll() is not None:
                return process
        time.sleep(0.02)
    raise AssertionError("neither of two runs was refused")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kills without a chance to clean up")
def test_each_pair_is_captioned_once_whatever_is_killed(tiny_checkpoints, tmp_path, write_image) -> None:
    for n in range(PAIRS):
        for k, date in enumerate("AB"):
            write_image(tmp_path / "p" / date / f"{n:03}.png", seed=2 * n + k)
    model, output, hold = tiny_checkpoints["optional"], tmp_path / "out.jsonl", tmp_path / "hold"
    ready = tmp_path / "ready"
    chance = random.Random(0)
    running: list[subprocess.Popen[str]] = []
    lines = 0
    try:
        for _ in range(KILLS):
            hold.touch()  # whoever has the lock keeps it however slow this machine is
            running = [start(tmp_path, model), start(tmp_path, model)]
            refused = first_to_end(running)
            _, said = refused.communicate(timeout=LIMIT)
            assert refused.returncode == 1, said
            assert "out.jsonl is being written by another run" in said and "Traceback" not in said
            (writer,) = (process for process in running if process is not refused)
            while not ready.exists():
                assert writer.poll() is None, writer.communicate()
                time.sleep(0.02)
            ready.unlink()
            hold.unlink()
            time.sleep(chance.uniform(0, 0.25))
            writer.kill()
            writer.communicate(timeout=LIMIT)
            assert writer.returncode == -signal.SIGKILL, "it had finished: make it slower"
            whole = [line for line in output.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            assert lines <= len(whole) < PAIRS, "what was written stays"
            lines = len(whole)
        last = start(tmp_path, model)
        running = [last]
        _, said = last.communicate(timeout=LIMIT)
        assert last.returncode == 0, said
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.communicate()
    ids = [json.loads(line)["pair_id"] for line in output.read_text(encoding="utf-8").splitlines()]
    assert ids == [f"{n:03}" for n in range(PAIRS)]
    assert f"{PAIRS - lines} captions written" in said and f"{lines} were there before" in said
    assert {path.name for path in tmp_path.iterdir()} == {"p", "out.jsonl"}
