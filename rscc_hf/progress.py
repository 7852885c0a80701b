"""That work goes on: a bar with the time left on a terminal; where there is none, a line every 20 seconds.

In a log file or in CI a bar is noise and silence looks like a hang, so there a line says how far the work is.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task
from rich.text import Text

EVERY = 20.0
"""Seconds between two lines where there is no terminal."""

_REFRESH = 0.2  # seconds between two looks of a bar without a thread of its own


class Work:
    """How far a piece of work is: what the bar shows and the lines say.

    Call it with what changed: `work(done, total)`, `work(note="loss 1.2")`, `work(title="Uploading")`.
    """

    def __init__(self, title: str, unit: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self.title, self.unit, self.note = title, unit, ""
        self.done, self.total = 0, None  # type: tuple[int, int | None]
        self._clock, self._started = clock, clock()
        self._first: tuple[int, float] | None = None
        self._last = self._started
        self.changed: Callable[[], object] | None = None

    def __call__(
        self, done: int | None = None, total: int | None = None, *, note: str | None = None, title: str | None = None
    ) -> None:
        """Tell what changed.

        Args:
            done: Units done, those of an earlier run included.
            total: Of how many.
            note: What else is worth a look.
            title: What is being done now; its time starts anew.
        """
        now = self._clock()
        if title is not None and title != self.title:
            self.title, self.done, self.total, self.note = title, 0, None, ""
            self._started, self._first = now, None
        if done is not None:
            if self._first is None:
                # The first call may tell what an earlier run had done; where it is of the first unit, the time since
                # the start counts.
                self._first = (done, now) if done != 1 else (0, self._started)
            self.done, self._last = done, now
        if total is not None:
            self.total = total
        if note is not None:
            self.note = note
        if self.changed is not None:
            self.changed()

    def seconds_left(self) -> float | None:
        """Estimate the seconds left at the speed so far; None where that is not known."""
        if self._first is None or self.total is None or self.done <= self._first[0]:
            return None
        each = (self._last - self._first[1]) / (self.done - self._first[0])
        return max(each * (self.total - self.done) - (self._clock() - self._last), 0.0)

    def state(self) -> str:
        """Describe where the work stands: `120 of 2,000 pairs, loss 1.2, 4 min left`."""
        parts = []
        if self.done or self.total is not None:
            of = "" if self.total is None else f" of {self.total:,}"
            parts.append(f"{self.done:,}{of} {self.unit}".rstrip())
        if self.note:
            parts.append(self.note)
        left = self.seconds_left()
        spent = duration(self._clock() - self._started)
        parts.append(f"{spent} so far" if left is None else f"{duration(left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Write a time as `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class Lines:
    """Says how far a piece of work is, once every so many seconds."""

    def __init__(
        self,
        work: Work,
        say: Callable[[str], None],
        *,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.work, self._say, self._every, self._clock = work, say, every, clock
        self._next = clock() + every
        self._lock = threading.Lock()

    def look(self) -> float:
        """Say it when its time has come; return the seconds until the next time."""
        with self._lock:
            now = self._clock()
            if now >= self._next:
                self._next = now + self._every
                with suppress(OSError):  # a log that cannot be written must not end the work
                    self._say(f"{self.work.title}: {self.work.state()}")
            return self._next - now


class _State(ProgressColumn):
    """The same words beside the bar."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.work = work

    def render(self, task: Task) -> Text:
        return Text(self.work.state())


class _Title(_State):
    def render(self, task: Task) -> Text:
        return Text(self.work.title)


@contextmanager
def progress(
    title: str,
    *,
    unit: str = "",
    console: Console | None = None,
    say: Callable[[str], None] | None = None,
    threads: bool = True,
) -> Iterator[Work]:
    """Show that work goes on: a bar on a terminal, else a line every `EVERY` seconds.

    Args:
        title: What is done.
        unit: What is counted: "pairs", "steps".
        console: Gets the bar; standard error where absent.
        say: Gets the lines; `console` where absent.
        threads: Whether a thread of its own shows it between two calls. Without, nothing is said while no call comes:
            for work that forks, which must run alone.

    Yields:
        What to call with what changed.
    """
    shown = console or Console(stderr=True)
    work = Work(title, unit)
    if _is_terminal(shown):
        with _bar(work, shown, threads):
            yield work
        return
    lines = Lines(work, say or (lambda line: shown.print(line, highlight=False, markup=False, soft_wrap=True)))
    if not threads:
        work.changed = lines.look
        yield work
        return
    end = threading.Event()

    def tick() -> None:
        while not end.wait(lines.look()):
            pass

    thread = threading.Thread(target=tick, daemon=True, name="progress")
    thread.start()
    try:
        yield work
    finally:
        end.set()
        thread.join()


def _is_terminal(console: Console) -> bool:
    """Tell whether a bar can move there; FORCE_COLOR makes rich take a log file for a terminal."""
    try:
        return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()
    except (AttributeError, ValueError):
        return False


@contextmanager
def _bar(work: Work, console: Console, threads: bool) -> Iterator[None]:
    # What is printed meanwhile goes above the bar; an answer that goes to a file must not go to the terminal.
    redirected = console.file is sys.stdout or (sys.stdout is not None and sys.stdout.isatty())
    bar = Progress(
        _Title(work),
        BarColumn(),
        _State(work),
        console=console,
        transient=True,
        auto_refresh=threads,
        redirect_stdout=redirected,
    )
    with bar:
        task = bar.add_task(work.title, total=None)
        shown = time.monotonic()

        def changed() -> None:
            nonlocal shown
            bar.update(task, completed=work.done, total=work.total)
            if not threads and time.monotonic() - shown > _REFRESH:
                bar.refresh()
                shown = time.monotonic()

        work.changed = changed
        try:
            yield
        finally:
            work.changed = None
