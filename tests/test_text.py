"""Text from elsewhere: the first line of an error, and JSON objects with a field twice."""

import json

import pytest

from rscc_hf.errors import InputError
from rscc_hf.text import JsonObject, json_object, reason_of


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("it broke.\nhere and there"), "it broke"),
        (OSError("\n  it broke ...\n"), "it broke"),
        (KeyError(), "KeyError"),
        (ValueError(" \n"), "ValueError"),
        (FileNotFoundError(2, "No such file", "a.png"), "No such file: a.png"),
        (KeyError("pad"), "'pad' is missing"),
    ],
)
def test_first_line(error, line):
    assert reason_of(error) == line


def test_the_reason_with_all_its_lines():
    assert reason_of(ValueError("errors:\n\tone\n\ttwo."), whole=True) == "errors: one two"


def test_fields_that_stand_twice_are_kept_or_refused():
    text = '{"a": 1, "b": {"c": 2, "c": 3}, "a": 4}'
    row = json.loads(text, object_pairs_hook=JsonObject)
    assert row == {"a": 4, "b": {"c": 3}} and row.fields == [("a", 1), ("b", {"c": 3}), ("a", 4)]
    assert row["b"].fields == [("c", 2), ("c", 3)]
    with pytest.raises(InputError, match=r"^x\.json has the field `c` twice; keep one of them\.$"):
        json_object(text, "x.json", "mend it")
    assert json_object('{"a": [{}]}', "x.json", "mend it") == {"a": [{}]}
