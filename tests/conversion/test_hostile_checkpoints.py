"""Checkpoints made to do harm, and broken ones: one line that names the reason, nothing run, nothing left behind."""

import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from toys.hostile_checkpoints import CASES, FUNCTIONS, system
from toys.mmodalcc_release import make, saved, write_word_map
from typer.testing import CliRunner
from watched import run

from rscc_hf.commands.app import app

# What Python reports when something is unpickled, run or started.
_ACTS = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")


class _Watch:
    """Notes such acts while it is on; an audit hook cannot be taken away again."""

    on = False
    seen: list[str] = []  # noqa: RUF012

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in _ACTS:
            self.seen.append(event)


@pytest.fixture(scope="module")
def watch() -> _Watch:
    hook = _Watch()
    sys.addaudithook(hook)
    return hook


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the one good file."""
    monkeypatch.chdir(tmp_path)
    write_word_map(tmp_path / "words.json")
    return tmp_path


@pytest.fixture
def watched(watch: _Watch) -> Iterator[list[str]]:
    watch.seen.clear()
    watch.on = True
    yield watch.seen
    watch.on = False


ARGUMENTS = ["convert", "mmodalcc", "release.pth.tar", "out", "--word-map", "words.json"]


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_one_line(case: str, folder: Path, watch: _Watch, watched: list[str]) -> None:
    build, reason = CASES[case]
    watch.on = False
    data = build()
    (folder / "release.pth.tar").write_bytes(data)
    watch.on = True
    result = CliRunner().invoke(app, ARGUMENTS)
    watch.on = False
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1, result.exception
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: release.pth.tar cannot be converted: ") and reason in line, line
    assert line.isascii() and line.isprintable() and len(line) < 500
    assert result.stdout == ""
    assert watched == []
    assert sorted(path.name for path in folder.iterdir()) == ["release.pth.tar", "words.json"]
    assert (folder / "release.pth.tar").read_bytes() == data


def test_there_are_enough_of_them_and_their_payloads_are_live(folder: Path, watch: _Watch, watched: list[str]) -> None:
    """Python's own unpickler runs them: what the tests above see not happen would happen."""
    assert len(CASES) >= 100
    pickle.loads(pickle.dumps(system(), 2))  # noqa: S301
    assert (folder / "canary").exists() and "os.system" in watched and "pickle.find_class" in watched
    (folder / "canary").unlink()
    pickle.loads(pickle.dumps(FUNCTIONS["builtins.eval"], 2))  # noqa: S301
    assert (folder / "canary").exists()


@pytest.mark.parametrize(
    "case",
    [
        "place-submodule",
        pytest.param("call-runpy.run_path", marks=pytest.mark.slow),
        pytest.param("memo-far", marks=pytest.mark.slow),
        pytest.param("cut-in-the-middle", marks=pytest.mark.slow),
    ],
)
def test_in_a_process_of_its_own(case: str, folder: Path) -> None:
    build, reason = CASES[case]
    (folder / "release.pth.tar").write_bytes(build())
    done = run([sys.executable, "-m", "rscc_hf.commands.app", *ARGUMENTS], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1 and reason in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["release.pth.tar", "words.json"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "release.pth.tar does not exist"),
        (lambda path: path.mkdir(), "release.pth.tar is no file"),
        (os.mkfifo, "release.pth.tar is no file"),
        (lambda path: path.symlink_to("/dev/zero"), "release.pth.tar is no file"),
        (lambda path: path.symlink_to("nowhere"), "release.pth.tar does not exist"),
    ],
    ids=["missing", "folder", "pipe", "device", "dangling"],
)
def test_what_is_no_file(make: Any, reason: str, folder: Path) -> None:
    make(folder / "release.pth.tar")
    result = CliRunner().invoke(app, ARGUMENTS)
    assert result.exit_code == 1 and result.stderr.startswith(f"Error: {reason}") and result.stderr.count("\n") == 1
    assert not (folder / "out").exists()


def test_a_changed_byte_anywhere_ends_in_one_line_or_does_no_harm(folder: Path, watch: _Watch) -> None:
    """Every kind of damage to the pickle itself: a byte of it is another, at many places."""
    from rscc_hf.conversion.mmodalcc_release import CLASSES
    from rscc_hf.conversion.pickle_reader import open_released

    # no checksum stands before the pickles of the old format
    good = saved({"epoch": 3, "decoder": make("resblock", {"left": nn.Linear(2, 3)})}, legacy=True)
    path = folder / "release.pth.tar"
    outcomes = {"read": 0, "refused": 0}
    watch.seen.clear()
    for place in range(0, len(good), 7):
        data = bytearray(good)
        data[place] ^= 1 << (place % 8)
        path.write_bytes(data)
        watch.on = True
        try:
            with open_released(path, CLASSES):
                outcomes["read"] += 1
        except ValueError as error:
            outcomes["refused"] += 1
            assert str(error).startswith(str(path)) and str(error).isprintable()
        finally:
            watch.on = False
    assert watch.seen == []
    assert outcomes["read"] > 10 and outcomes["refused"] > 10
