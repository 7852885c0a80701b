"""Processes that tests start: none outlives its limit, and one that would says first where it hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

LIMIT = 300.0
"""Seconds that a process may take by default, on a busy machine too."""


class HungError(AssertionError):
    """A process did not end in time; its stacks, and those of what it started, are in its standard error."""


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    limit: float = LIMIT,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Run a command as `subprocess.run` does; at the limit print the stacks of all its processes and end them.

    Args:
        command: What to run.
        limit: Seconds until it is ended.
        env: Its environment; this process's by default.
        **options: Of `subprocess.Popen`, and `check`, `capture_output` and `input` of `subprocess.run`.

    Raises:
        HungError: The limit passed.
        subprocess.CalledProcessError: With `check`, the command failed.
    """
    check, given = options.pop("check", False), options.pop("input", None)
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if given is not None:
        options["stdin"] = subprocess.PIPE
    with subprocess.Popen(command, env=dumping(env), **options) as process:
        try:
            output, errors = process.communicate(given, timeout=limit)
        except subprocess.TimeoutExpired:
            told = end(process.pid)
            output, errors = process.communicate()
            raise HungError(f"{command} did not end in {limit:g} seconds.\n{told}\n{errors or ''}") from None
        except BaseException:
            end(process.pid)
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done


@contextmanager
def started(
    command: Sequence[str | os.PathLike[str]],
    *,
    limit: float = LIMIT,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> Iterator[subprocess.Popen[Any]]:
    """A process to talk to, as `subprocess.Popen` gives it; ended as in `run` where the block lasts too long.

    Raises:
        HungError: The limit passed before the block was left.
    """
    late, told = threading.Event(), []

    def ring() -> None:
        late.set()
        told.append(end(process.pid))

    with subprocess.Popen(command, env=dumping(env), **options) as process:
        alarm = threading.Timer(limit, ring)
        alarm.daemon = True
        alarm.start()
        failure: BaseException | None = None
        try:
            yield process
            process.wait()
        except BaseException as error:
            failure = error
            if not late.is_set():
                end(process.pid)
                raise
        finally:
            alarm.cancel()
    if late.is_set():
        alarm.join()  # it is about to say where they stood
        raise HungError(f"{command} took more than {limit:g} seconds.\n{told[0]}") from failure


def join(process: BaseProcess, limit: float = LIMIT) -> None:
    """Wait for a process of `multiprocessing`, whose function has called `faulthandler.enable()`.

    Raises:
        HungError: It did not end in time.
    """
    process.join(limit)
    if process.exitcode is None and process.pid is not None:
        told = end(process.pid)
        process.join()
        raise HungError(f"{process.name} did not end in {limit:g} seconds.\n{told}")


def dumping(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment in which Python prints the stacks of all its threads when it gets SIGABRT, as `end` sends it."""
    return {**(os.environ if env is None else env), "PYTHONFAULTHANDLER": "1"}


def end(pid: int, grace: float = 3.0) -> str:
    """End a process and all that it started, the youngest first, after a look at where they stand.

    Args:
        pid: The process.
        grace: Seconds for the stacks to be written.

    Returns:
        A line for each process: what it is, its processor time, and what its threads wait for, where the system tells.
    """
    try:
        top = psutil.Process(pid)
        family = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return "It had ended."
    told = "\n".join(_standing(process) for process in family)
    for process in reversed(family):
        _send(process, signal.SIGABRT)
        time.sleep(grace / len(family))
    for process in reversed(family):
        _send(process, signal.SIGKILL)
    return told


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)  # which looks first whether the number now belongs to another process
    except psutil.NoSuchProcess:
        return


def _standing(process: psutil.Process) -> str:
    try:
        words = " ".join(process.cmdline())[:120]
        used = sum(process.cpu_times()[:2])
        threads = []
        for task in sorted(Path(f"/proc/{process.pid}/task").glob("*")):
            name = (task / "comm").read_text(encoding="utf-8", errors="replace").strip()
            threads.append(f"{name}: {(task / 'wchan').read_text(encoding='utf-8') or 'runs'}")
    except (psutil.Error, OSError) as error:
        return f"{process.pid}: {type(error).__name__}"
    return f"{process.pid}: {words}: {used:.1f} s of processor time; {', '.join(threads)}"
