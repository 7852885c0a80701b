"""Outputs that two runs want, and outputs that are inputs."""

import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import watched

from rscc_hf.files import digest_file, refuse_input_as_output, write_text
from rscc_hf.locks import exclusive

# Holds the lock of sys.argv[1] until it is killed; it loads locks.py alone, which takes no time.
HOLDER = """
import runpy, sys, time
locks = runpy.run_path(sys.argv[2])
with locks["exclusive"](sys.argv[1], "output"):
    print("held", flush=True)
    time.sleep(60)
"""
LOCKS = Path(__file__).parents[1] / "rscc_hf" / "locks.py"


def test_a_file_has_the_digest_of_its_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 5000)
    assert digest_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_second_writer_is_refused_and_nothing_stays(tmp_path):
    output = tmp_path / "out.jsonl"
    with exclusive(output):
        message = rf"out.jsonl is being written by another run .*{os.getpid()}.*; wait"
        with pytest.raises(ValueError, match=message), exclusive(output, "--output"):
            raise AssertionError("two writers")
        other = tmp_path / "other.jsonl"
        with exclusive(other):
            pass
    assert list(tmp_path.iterdir()) == []
    with exclusive(output):
        write_text(output, "free again")
    assert list(tmp_path.iterdir()) == [output]


def test_another_spelling_and_a_link_are_the_same_output(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    with exclusive(tmp_path / "folder" / "out"):
        for spelling in (tmp_path / "link" / "out", tmp_path / "folder" / ".." / "folder" / "out"):
            with pytest.raises(ValueError, match="another run"), exclusive(spelling):
                raise AssertionError("two writers")


@pytest.mark.parametrize("name", ["out", "x" * 250, "名" * 80])
def test_names_of_any_length_can_be_locked_and_written(tmp_path, name):
    with exclusive(tmp_path / "new" / name):
        write_text(tmp_path / "new" / name, "text")
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_an_error_lets_go(tmp_path):
    with pytest.raises(RuntimeError), exclusive(tmp_path / "out"):
        raise RuntimeError
    with exclusive(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_another_process_holds_it_until_it_is_killed(tmp_path):
    output = tmp_path / "out"
    with watched.started([sys.executable, "-c", HOLDER, output, LOCKS], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout and holder.stdout.readline() == b"held\n"
            with pytest.raises(ValueError, match=f"process {holder.pid} on "), exclusive(output):
                raise AssertionError("two writers")
        finally:
            holder.send_signal(signal.SIGKILL)
    with exclusive(output):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_one_run_at_a_time_where_a_file_system_knows_no_locks(tmp_path, monkeypatch, code, recwarn):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    output, mark = tmp_path / "out", tmp_path / ".out.softlock"
    for _ in range(2):
        with exclusive(output):
            message = (
                rf"another run \(process {os.getpid()} on .+\); wait for it \(or remove .*softlock, if that run has"
            )
            with pytest.raises(ValueError, match=message), exclusive(output):
                raise AssertionError("two writers")
            assert mark.is_file()
            write_text(output, "written")
        assert list(tmp_path.iterdir()) == [output]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mark.write_text(f"{ended.pid}\n{socket.gethostname()}\n")  # what a killed run of this machine leaves
    with exclusive(output):
        pass
    mark.write_text("1\nanother-machine\n")
    with pytest.raises(ValueError, match=r"process 1 on another-machine\)"), exclusive(output):
        raise AssertionError("two writers")
    assert sorted(tmp_path.iterdir()) == [mark, output] and not recwarn.list


def test_another_error_of_a_lock_is_told(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="the disk is gone"), exclusive(tmp_path / "out"):
        raise AssertionError


def test_never_two_at_once_however_often_it_is_let_go(tmp_path):
    """The lock's file is removed at every end, so that others lock one that is no longer there."""
    inside, most, entered = 0, 0, 0
    guard, end = threading.Lock(), threading.Event()

    def work():
        nonlocal inside, most, entered
        while not end.is_set():
            try:
                with exclusive(tmp_path / "out"):
                    with guard:
                        inside, entered = inside + 1, entered + 1
                        most = max(most, inside)
                    with guard:
                        inside -= 1
            except ValueError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    end.wait(0.5)
    end.set()
    for thread in threads:
        thread.join()
    assert most == 1 and entered > 5


def test_an_output_that_is_an_input_is_refused_by_whatever_name(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    image = data / "a.png"
    image.write_bytes(b"image")
    (tmp_path / "link.png").symlink_to(image)
    (tmp_path / "hard.png").hardlink_to(image)
    (tmp_path / "folder").symlink_to(data)
    for output in (image, tmp_path / "link.png", tmp_path / "hard.png", tmp_path / "folder" / "a.png"):
        with pytest.raises(ValueError, match=r"is an input .* would be overwritten; choose another output"):
            refuse_input_as_output(output, [tmp_path / "missing", image])
    for output in (data, tmp_path / "folder", tmp_path, data / ".." / "data"):
        with pytest.raises(ValueError, match=r"holds .*a\.png, which is read"):
            refuse_input_as_output(output, [image])
    for output in (data / "out.jsonl", tmp_path / "folder" / "deep" / "out.jsonl"):
        with pytest.raises(ValueError, match="lies in the input"):
            refuse_input_as_output(output, [data])
        refuse_input_as_output(output, [data], inside=True)


def test_other_outputs_are_none(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"image")
    for output in ("data2", "dat", "data/b.png", "new/folder/out", "hub-org/model"):
        refuse_input_as_output(tmp_path / output, [tmp_path / "data" / "a.png", "hub-org/model"])


def test_another_case_is_the_same_file_where_the_system_says_so(tmp_path):
    (tmp_path / "list.csv").write_text("")
    if not (tmp_path / "LIST.csv").exists():
        refuse_input_as_output(tmp_path / "LIST.csv", [tmp_path / "list.csv"])
        pytest.skip("this file system tells cases apart")
    with pytest.raises(ValueError, match="is an input"):
        refuse_input_as_output(tmp_path / "LIST.csv", [tmp_path / "list.csv"])
