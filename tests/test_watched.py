"""A test's processes end, and say first where they hang."""

import sys
from pathlib import Path

import psutil
import pytest
from watched import HungError, run, started

HANGS = """
import subprocess, sys, threading
def waits_for_ever():
    threading.Event().wait()
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, __file__], start_new_session=True)
    print(child.pid, flush=True)
    open(sys.argv[1], "w").write(str(child.pid))
waits_for_ever()
"""


def test_a_process_that_hangs_tells_its_stack_and_its_childs_and_nothing_is_left(tmp_path: Path) -> None:
    script, noted = tmp_path / "hangs.py", tmp_path / "child"
    script.write_text(HANGS, encoding="utf-8")
    with pytest.raises(HungError, match=r"did not end in 6 seconds") as caught:
        run([sys.executable, script, noted], limit=6, capture_output=True, text=True)
    assert str(caught.value).count("in waits_for_ever") == 2
    assert str(caught.value).count("s of processor time") == 2
    child = int(noted.read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("block", ["waits for it", "is stuck itself"])
def test_a_process_that_is_talked_to_ends_too(tmp_path: Path, block: str) -> None:
    script = tmp_path / "hangs.py"
    script.write_text(HANGS, encoding="utf-8")
    with (
        (tmp_path / "said").open("w+") as said,
        pytest.raises(HungError, match="more than 2 seconds"),
        started([sys.executable, script], limit=2, stderr=said) as process,
    ):
        if block == "is stuck itself":
            assert process.wait() != 0
            raise ValueError(block)
    assert "in waits_for_ever" in (tmp_path / "said").read_text()
    with pytest.raises(ValueError, match="mine"), started([sys.executable, script]) as process:
        raise ValueError("mine")
    assert process.returncode


def test_a_process_that_ends_is_as_subprocess_gives_it() -> None:
    done = run([sys.executable, "-c", "print(input())"], input="x", capture_output=True, text=True, check=True)
    assert (done.returncode, done.stdout) == (0, "x\n")


def test_every_test_starts_its_processes_so() -> None:
    """`subprocess.run` would leave a hung test's processes behind, and say nothing of where they stand."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("*.py")}
    loose = {name for name, text in texts.items() if "subprocess.run(" in text or "with subprocess.Popen(" in text}
    assert loose == {"test_watched.py", "watched.py"}
