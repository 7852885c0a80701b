"""Progress, by a clock that the test turns."""

import io
import time

import pytest
from rich.console import Console

from rscc_hf import progress as module
from rscc_hf.progress import Lines, Work, duration, progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_line_every_twenty_seconds_says_how_far_it_is_and_how_long_it_takes() -> None:
    clock, said = Clock(), []
    work = Work("Captioning", "pairs", clock)
    lines = Lines(work, said.append, clock=clock)
    for second in range(101):
        clock.now = 100 + second
        if second >= 30:
            work((second - 30) // 2, 2000, note="loss 1.5" if second >= 80 else None)
        lines.look()
    assert said == [
        "Captioning: 20 s so far",
        "Captioning: 5 of 2,000 pairs, 66 min left",
        "Captioning: 15 of 2,000 pairs, 66 min left",
        "Captioning: 25 of 2,000 pairs, loss 1.5, 66 min left",
        "Captioning: 35 of 2,000 pairs, loss 1.5, 66 min left",
    ]


def test_what_an_earlier_run_had_done_does_not_make_it_fast() -> None:
    clock = Clock()
    work = Work("Captioning", "pairs", clock)
    work(1000, 2000)
    assert work.seconds_left() is None
    clock.now += 10
    work(1010, 2000)
    assert work.seconds_left() == pytest.approx(990)
    clock.now += 5
    assert work.seconds_left() == pytest.approx(985), "time goes on without a call"
    clock.now += 5000
    assert work.seconds_left() == 0.0


def test_a_new_title_starts_anew() -> None:
    clock = Clock()
    work = Work("Looking", "", clock)
    work(5, 10)
    clock.now += 30
    work(title="Uploading")
    clock.now += 20
    assert work.state() == "20 s so far" and work.title == "Uploading"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1 h 30 min"), (90000, "25 h 0 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_where_there_is_no_terminal_lines_come_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.01)
    monkeypatch.setattr(Lines.__init__, "__kwdefaults__", {**Lines.__init__.__kwdefaults__, "every": 0.01})
    file = io.StringIO()
    with progress("Loading", console=Console(file=file, force_terminal=True)) as work:
        work(note="shard 1")
        while file.getvalue().count("Loading: shard 1, 0 s so far\n") < 2:
            time.sleep(0.005)
    said = file.getvalue()
    time.sleep(0.03)
    assert file.getvalue() == said and "\x1b" not in said, "no bar in a file, and no line afterwards"


def test_without_threads_a_call_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lines.__init__, "__kwdefaults__", {**Lines.__init__.__kwdefaults__, "every": 0.0})
    said: list[str] = []
    with progress(
        "Synthesising", unit="pairs", say=said.append, threads=False, console=Console(file=io.StringIO())
    ) as work:
        assert said == []
        work(3, 10)
    assert said and said[0].startswith("Synthesising: 3 of 10 pairs")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("threads", [True, False])
def test_a_terminal_gets_a_bar_that_goes_away(threads: bool) -> None:
    console = Console(file=Terminal(), force_terminal=True, width=100)
    with progress("Captioning", unit="pairs", console=console, threads=threads) as work:
        work(3, 10)
        time.sleep(0.25)
        work(5, 10)
        time.sleep(0.25)
    shown = console.file.getvalue()
    assert "Captioning" in shown and "5 of 10 pairs" in shown and "left" in shown


def test_a_log_that_cannot_be_written_does_not_end_the_work() -> None:
    def full(_: str) -> None:
        raise OSError(28, "No space left on device")

    clock = Clock()
    lines = Lines(Work("Converting", "", clock), full, clock=clock)
    clock.now += 30
    assert lines.look() == 20.0
