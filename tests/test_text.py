"""Text from elsewhere: the first line of an error, and JSON objects with a field twice."""

import json

import pytest

from rscc_hf.text import JsonObject, RepeatedField, first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("it broke.\nhere and there"), "it broke"),
        (OSError("\n  it broke ...\n"), "it broke"),
        (KeyError(), "KeyError"),
        (ValueError(" \n"), "ValueError"),
    ],
)
def test_first_line(error, line):
    assert first_line(error) == line


def test_fields_that_stand_twice_are_kept_or_refused():
    text = '{"a": 1, "b": {"c": 2, "c": 3}, "a": 4}'
    row = json.loads(text, object_pairs_hook=JsonObject)
    assert row == {"a": 4, "b": {"c": 3}} and row.fields == [("a", 1), ("b", {"c": 3}), ("a", 4)]
    assert row["b"].fields == [("c", 2), ("c", 3)]
    with pytest.raises(RepeatedField, match=r"^c$"):
        json.loads(text, object_pairs_hook=JsonObject.unrepeated)
    assert json.loads('{"a": [{}]}', object_pairs_hook=JsonObject.unrepeated) == {"a": [{}]}
