"""The columns of a pair."""

import pytest
from datasets import Image

from rscc_hf.data.schema import FEATURES, OPTIONAL, REQUIRED, check_columns


def test_the_columns():
    assert set(REQUIRED) | set(OPTIONAL) == set(FEATURES)
    assert not set(REQUIRED) & set(OPTIONAL)
    assert all(isinstance(FEATURES[name], Image) for name in (*OPTIONAL, "image_before", "image_after"))


def test_required_columns_are_enough_and_more_are_allowed():
    check_columns(REQUIRED, "here")
    check_columns([*FEATURES, "record"], "here")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_column_is_named(name):
    with pytest.raises(ValueError, match=rf"^folder/x: the column {name} is missing"):
        check_columns([column for column in FEATURES if column != name], "folder/x")


def test_one_map_alone_is_refused():
    with pytest.raises(ValueError, match="semantic_before is there but semantic_after is not"):
        check_columns([*REQUIRED, "semantic_before"], "here")
