"""Lines of captions: what is written is read again, and what a kill left is told from what somebody else wrote."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rscc_hf.formats.predictions import PredictionLine, SkippedLine, begins_as, prediction_lines
from rscc_hf.text import is_torn

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    st.builds(
        PredictionLine,
        pair_id=texts,
        prediction=st.text(),
        references=st.none() | st.lists(texts, min_size=1).map(tuple),
        changed=st.none() | st.booleans(),
        model=st.none() | texts,
        settings=st.none() | st.dictionaries(texts, st.integers() | st.booleans() | texts),
        notes=st.none() | st.lists(texts),
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, line: PredictionLine) -> None:
    path = tmp_path_factory.mktemp("lines") / "lines.jsonl"
    path.write_text(line.text() * 2, encoding="utf-8", newline="")
    assert list(prediction_lines(path)) == [(1, line), (2, line)]


def test_fields_that_nobody_knows_are_named() -> None:
    row = {"uid": 1, "pred": "x", "score": 2, "before": "a.png", "image_before": "a.png"}
    assert PredictionLine.read(row, "here").unknown == ("score", "image_before")


@pytest.mark.parametrize(
    ("line", "torn"),
    [(b'{"pair_id": "1", "pred', True), (b"\xc3", True), (b"{}", False), (b"null", False), (b"{\n", False)],
)
def test_only_a_line_without_end_that_is_no_json_is_torn(line: bytes, torn: bool) -> None:
    assert is_torn(line) == torn


def test_a_file_is_known_by_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    line, skipped = PredictionLine("1", "x").text(), SkippedLine("1", "a", "b", "damaged").text()
    for text, kinds in (
        ("", {PredictionLine, SkippedLine}),
        (line, {PredictionLine}),
        (skipped, {SkippedLine}),
        (line[:7], {PredictionLine, SkippedLine}),
        ("[]\n", set()),
        ('{"a": 1}\n', set()),
    ):
        path.write_text(text, encoding="utf-8")
        assert {kind for kind in (PredictionLine, SkippedLine) if begins_as(path, kind)} == kinds
