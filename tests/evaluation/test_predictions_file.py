"""Reading predictions: what is accepted, and the one sentence for what is not."""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rscc_hf.data.captions import NO_CHANGE_TEMPLATES
from rscc_hf.errors import PredictionsError
from rscc_hf.evaluation import read_predictions
from rscc_hf.evaluation.predictions import pair_key

GOOD = {"pair_id": "a", "prediction": "A road is built.", "references": ["a road"]}


def write(folder: Path, *lines: Any) -> Path:
    path = folder / "predictions.jsonl"
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def test_every_spelling_of_the_fields_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        GOOD,
        {"uid": "b", "pred": "", "captions": ["a road", "roads"], "changed": False},
        {"uid": 3, "prediction": "x", "change_caption": list(NO_CHANGE_TEMPLATES), "other": {"ignored": None}},
        {"pair_id": "d", "uid": "d", "pred": "x", "prediction": "x", "references": ["x"], "captions": ["x"]},
    )
    read = read_predictions(path)
    assert read.pair_ids == ["a", "b", "3", "d"]
    assert read.predictions == ["A road is built.", "", "x", "x"]
    assert read.references[1] == ["a road", "roads"]
    assert read.changed == [True, False, False, True]
    assert read.duplicates_dropped == 0


def test_unchanged_takes_all_references_and_known_or_given_sentences(tmp_path: Path) -> None:
    mixed = [*NO_CHANGE_TEMPLATES, "a road is built"]
    path = write(
        tmp_path,
        {"uid": 1, "pred": "", "captions": mixed},
        {"uid": 2, "pred": "", "captions": ["Rien n'a changé."]},
        {"uid": 3, "pred": "", "captions": mixed, "changed": 0},
        {"uid": 4, "pred": "", "captions": ["No change is occurred."], "changed": True},
        {"uid": 5, "pred": "", "captions": ["No change is occurred ."], "changed": None},
    )
    assert read_predictions(path).changed == [True, True, False, True, False]
    assert read_predictions(path, ["rien n'a changé"]).changed == [True, False, False, True, False]


def test_byte_order_mark_blank_lines_and_windows_line_ends_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    other = json.dumps({**GOOD, "pair_id": "ü\u2028"}, ensure_ascii=False)
    path.write_bytes(f"\ufeff{json.dumps(GOOD)}\r\n\r\n   \n{other}".encode())
    assert read_predictions(path).pair_ids == ["a", "ü\u2028"]


def test_equal_repeats_are_dropped_and_counted(tmp_path: Path) -> None:
    again = {"uid": "a", "pred": GOOD["prediction"], "captions": GOOD["references"], "changed": True}
    read = read_predictions(write(tmp_path, GOOD, {**GOOD, "pair_id": "b"}, again, GOOD))
    assert read.pair_ids == ["a", "b"]
    assert read.duplicates_dropped == 2


@pytest.mark.parametrize(
    "change", [{"prediction": "A lake is built."}, {"references": ["a road", "roads"]}, {"changed": False}]
)
def test_repeats_that_differ_are_refused_with_both_lines(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write(tmp_path, {**GOOD, "pair_id": "x"}, GOOD, "", {**GOOD, **change})
    with pytest.raises(PredictionsError, match=r"pair 'a' is given twice, differently, on lines 2 and 4"):
        read_predictions(path)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[1, 2]", "no JSON object"),
        ("null", "no JSON object"),
        (without("pair_id"), "has no field `pair_id` or `uid`"),
        (without("prediction"), "has no field `prediction` or `pred`"),
        (without("references"), "has no field `references` or `captions` or `change_caption`"),
        ({**GOOD, "pair_id": None}, "`pair_id` must be a non-empty string or a whole number"),
        ({**GOOD, "pair_id": ""}, "`pair_id` must be"),
        ({**GOOD, "pair_id": True}, "`pair_id` must be"),
        ({**GOOD, "pair_id": 1.5}, "`pair_id` must be"),
        ({**GOOD, "prediction": None}, "`prediction` must be a string"),
        ({**GOOD, "prediction": ["a"]}, "`prediction` must be a string"),
        ({**GOOD, "references": "a road"}, "`references` must be a list of strings"),
        ({**GOOD, "references": ["a", 1]}, "`references` must be a list of strings"),
        ({**GOOD, "references": []}, "`references` is an empty list"),
        ({**GOOD, "changed": "true"}, "`changed` must be true or false"),
        ({**GOOD, "changed": 2}, "`changed` must be true or false"),
        ({**GOOD, "uid": "b"}, "`pair_id` and `uid` contradict each other"),
        ({**GOOD, "changed": True, "changeflag": 0}, "`changed` and `changeflag` contradict each other"),
        ({**GOOD, "changeflag": "no"}, "`changeflag` must be true or false"),
        ('{"pair_id": "a", "prediction": "x", "prediction": "y", "references": ["x"]}', "`prediction` twice"),
        ('{"pair_id": "a", "pred": "x", "captions": ["x"], "settings": {"b": 1, "b": 2}}', "the field `b` twice"),
        ({**GOOD, "captions": ["b"]}, "`references` and `captions` contradict each other"),
    ],
)
def test_a_bad_line_is_one_sentence_with_its_number(tmp_path: Path, line: Any, message: str) -> None:
    path = write(tmp_path, {**GOOD, "pair_id": "first"}, "", line)
    with pytest.raises(PredictionsError, match=re.escape(message)) as caught:
        read_predictions(path)
    assert str(caught.value).startswith(f"{path}, line 3")
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_other_encodings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\n{"pair_id": "\xe4"}')
    with pytest.raises(PredictionsError, match="line 2 is not UTF-8"):
        read_predictions(path)


@pytest.mark.parametrize("text", ["", "\n \n", "\ufeff"])
def test_an_empty_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(PredictionsError, match="is empty"):
        read_predictions(write(tmp_path, text))


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(PredictionsError, match="There is no file of predictions"):
            read_predictions(path)


@given(st.lists(st.tuples(st.text(min_size=1), st.text(), st.lists(st.text(), min_size=1)), min_size=1))
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = list({pair_key(pair_id): (pair_id, *rest) for pair_id, *rest in rows}.values())
    lines = [{"pair_id": i, "prediction": p, "references": r, "changed": True} for i, p, r in rows]
    read = read_predictions(write(folder, *lines))
    assert list(zip(read.pair_ids, read.predictions, read.references, strict=True)) == rows


def test_a_null_field_hides_no_other_name_of_the_same_thing(tmp_path: Path) -> None:
    row = {"pair_id": None, "uid": "u1", "prediction": None, "pred": "x", "references": None, "captions": ["a road"]}
    read = read_predictions(write(tmp_path, {**row, "changed": None, "change_flag": 0}))
    assert (read.pair_ids, read.predictions, read.references) == (["u1"], ["x"], [["a road"]])
    assert read.changed == [False]


def test_ids_that_differ_by_their_unicode_form_only_are_one_pair(tmp_path: Path) -> None:
    composed, decomposed = ({**GOOD, "pair_id": unicodedata.normalize(form, "café")} for form in ("NFC", "NFD"))
    assert read_predictions(write(tmp_path, composed, decomposed)).duplicates_dropped == 1
    with pytest.raises(PredictionsError, match="given twice, differently, on lines 1 and 2"):
        read_predictions(write(tmp_path, composed, {**decomposed, "prediction": "no"}))


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ([{"model": "m@1", "settings": {"a": 1}, "before": "x", "notes": []}] * 2, None),
        ([{"changed": True}] * 2, None),
        ([{"flag": 1, "score": 2}, {"flag": 1}], "Not used: the fields `flag`, `score`."),
        ([{"prediktion": "x"}, {}], "Not used: the field `prediktion`."),
        ([{"changed": True}, {}], "1 of 2 lines do not say `changed`; for these it follows from the references."),
        ([{"model": "m@1"}, {"model": "m@2"}], "The lines are by 2 models; the scores are of them all together."),
        (
            [{"settings": {"beams": 1}}, {"settings": {"beams": 4}}],
            "The lines are by 2 different settings;",
        ),
    ],
)
def test_what_to_know_of_a_file_is_said(tmp_path: Path, rows: list[dict[str, Any]], note: str | None) -> None:
    lines = [{**GOOD, **row, "pair_id": str(number)} for number, row in enumerate(rows)]
    notes = read_predictions(write(tmp_path, *lines)).notes
    assert notes == [] if note is None else [text for text in notes if text.startswith(note)] == notes != []
