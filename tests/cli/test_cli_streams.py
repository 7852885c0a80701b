"""Standard streams that are closed, full or read by nobody: a sentence, exit 1, and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a shell closes the streams")
RSCC = f"{sys.executable} -m rscc_hf.cli"


def shell(line: str, folder: Path, unbuffered: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else ""}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{RSCC} --version >&-", "standard output: it is closed"),
        (f"{RSCC} --version >/dev/full", "standard output: No space left on device"),
        (f"{RSCC} --version | (exec <&-; sleep 0.1); exit ${{PIPESTATUS[0]}}", "standard output: Broken pipe"),
    ],
)
def test_an_answer_that_cannot_be_written_is_one_sentence(tmp_path, line, words) -> None:
    if "/dev/full" in line and not Path("/dev/full").exists():
        pytest.skip("this system has none")
    result = shell(line, tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: {words}") and len(result.stderr.splitlines()) == 1, result.stderr


def test_a_run_into_a_file_needs_no_streams(tiny_checkpoints, tmp_path, write_image) -> None:
    for date in "AB":
        write_image(tmp_path / "p" / date / "1.png", seed=ord(date))
    command = f"{RSCC} caption --pairs p --output out.jsonl --device cpu --model {tiny_checkpoints['optional']}"
    result = shell(f"{command} <&- >&- 2>&-", tmp_path)
    assert result.returncode == 0
    (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
    assert line.startswith('{"pair_id": "1"') and line.endswith("}"), "nothing else was written into that file"
