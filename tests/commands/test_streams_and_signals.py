"""Answers that have nowhere to go, and commands that are stopped: one line and the right exit code."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import watched

import rscc_hf

# A small command line of the same kind; the package around it is left out, which would take seconds to import.
CODE = """
import sys, types
package = types.ModuleType("rscc_hf"); package.__path__ = [sys.argv.pop(1)]; sys.modules["rscc_hf"] = package
import time, typer
from pathlib import Path
from rscc_hf.files import new_folder
from rscc_hf.commands.terminal import OneLineErrors, check_output, tell
app = typer.Typer(cls=OneLineErrors)

@app.command()
def answer():
    check_output()
    tell("beside")
    print("answer")

@app.command()
def write(out: Path):
    with new_folder(out) as folder:
        (folder / "half").write_text("")
        tell("writing")
        time.sleep(60)

app()
"""
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="redirections of a POSIX shell")


def command(*arguments: object, redirect: str = "") -> list[str]:
    package = str(Path(rscc_hf.__file__).parent)
    words = [sys.executable, "-c", CODE, package, *map(str, arguments)]
    return ["sh", "-c", f'exec "$0" "$@" {redirect}', *words]


def run(*arguments: object, redirect: str = "") -> tuple[int, str, str]:
    done = watched.run(command(*arguments, redirect=redirect), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_an_answer_is_refused_before_the_work_where_it_could_not_be_written() -> None:
    code, _, said = run("answer", redirect=">&-")
    assert code == 1 and said.startswith("Error: standard output: it is closed") and said.count("\n") == 1


def test_what_is_said_beside_does_not_stop_an_answer() -> None:
    assert run("answer") == (0, "answer\n", "beside\n")
    if Path("/dev/full").exists():
        assert run("answer", redirect="2>/dev/full") == (0, "answer\n", "")


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [(signal.SIGINT, 130, "Stopped.\n"), (signal.SIGTERM, 143, "Stopped by SIGTERM.\n")],
)
def test_a_stopped_command_says_so_and_leaves_nothing(tmp_path: Path, number: int, code: int, line: str) -> None:
    with watched.started(command("write", tmp_path / "out"), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and process.stderr.readline() == "writing\n"
        process.send_signal(number)
        assert process.stderr.read() == line
    assert process.returncode == code
    assert list(tmp_path.iterdir()) == []
