"""Standard streams that are closed, full or read by nobody: a sentence, exit 1, and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import watched

from rscc_hf.commands import terminal

pytestmark = pytest.mark.skipif(os.name != "posix", reason="a shell closes the streams")

# A command like those of `rscc`, without what the package imports, which takes seconds.
_COMMAND = """
import sys, types
package = types.ModuleType("rscc_hf")
package.__path__ = [sys.argv.pop(1)]
sys.modules["rscc_hf"] = package
from rscc_hf.commands import terminal
import typer
app = typer.Typer(cls=terminal.OneLineErrors, pretty_exceptions_enable=False)

@app.callback()
def main(): pass

@app.command()
def answer():
    print("a house appears")

@app.command()
def say(text: str):
    print(text)

@app.command()
def write(path: str):
    terminal.tell("a line beside the answer")
    with open(path, "w") as file:
        file.write(str(file.fileno()))

app()
"""


def shell(redirected: str, folder: Path, unbuffered: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs a line of bash in which `RSCC` is the command."""
    (folder / "command.py").write_text(_COMMAND)
    line = redirected.replace("RSCC", f"{sys.executable} command.py {Path(terminal.__file__).parents[1]}")
    environment = {**os.environ, "PYTHONUNBUFFERED": "1" if unbuffered else ""}
    return watched.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, limit=120, check=False
    )


@pytest.mark.parametrize(
    ("command", "to", "words"),
    [
        ("answer", ">/dev/full", "standard output: No space left on device"),
        ("answer", "| (exec <&-); exit ${PIPESTATUS[0]}", "standard output: Broken pipe"),
        ("--help", ">&-", "standard output: it is closed"),
        ("--help", ">/dev/full", "standard output: No space left on device"),
    ],
)
def test_an_answer_that_cannot_be_written_is_one_sentence(tmp_path, command, to, words) -> None:
    if to == ">/dev/full" and not Path("/dev/full").exists():
        pytest.skip("this system has none")
    wait = "sleep 0.5; " if to.startswith("|") else ""  # until the reader has gone
    result = shell(f"({wait}exec RSCC {command}) {to}", tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: {words}") and len(result.stderr.splitlines()) == 1, result.stderr


def test_an_error_is_told_without_buffers_too(tmp_path) -> None:
    result = shell("(sleep 0.5; exec RSCC answer) | (exec <&-); exit ${PIPESTATUS[0]}", tmp_path, unbuffered=True)
    assert (result.returncode, result.stderr) == (1, "Error: standard output: Broken pipe.\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_that_answers_nothing_needs_no_streams(tmp_path, closed) -> None:
    result = shell(f"RSCC write out.txt {closed}", tmp_path)
    assert result.returncode == 0
    assert result.stdout == "", "lines for a person do not become answers"
    assert int((tmp_path / "out.txt").read_text()) > 2, "no file takes the number of a standard stream"


def test_letters_that_the_output_cannot_show_become_escapes(tmp_path) -> None:
    result = shell("PYTHONIOENCODING=ascii RSCC say 'zwei Häuser 房屋'", tmp_path)
    assert (result.returncode, result.stdout) == (0, "zwei H\\xe4user \\u623f\\u5c4b\n")
