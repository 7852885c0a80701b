"""A test's processes end, and say first where they hang."""

import sys
from pathlib import Path

import psutil
import pytest
from watched import HungError, run

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
    with pytest.raises(HungError, match=r"did not end in 2 seconds") as caught:
        run([sys.executable, script, noted], limit=2, capture_output=True, text=True)
    assert str(caught.value).count("in waits_for_ever") == 2
    assert str(caught.value).count("s of processor time") == 2
    assert not psutil.pid_exists(int(noted.read_text()))


def test_a_process_that_ends_is_as_subprocess_gives_it() -> None:
    done = run([sys.executable, "-c", "print(input())"], input="x", capture_output=True, text=True, check=True)
    assert (done.returncode, done.stdout) == (0, "x\n")
