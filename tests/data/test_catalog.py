"""What the catalogue says of published data sets: names that are found, and numbers and sentences as published."""

import json
from collections import Counter
from pathlib import Path

import pytest

from rscc_hf.data.captions import normalise
from rscc_hf.data.catalog import KNOWN, known_data

LEVIR = Path(__file__).parents[3] / "shared" / "real" / "levir_captions" / "LevirCCcaptions.json"


def test_each_name_is_of_one_set_and_finds_it():
    names = [name for data in KNOWN for name in (data.key, *data.aliases)]
    assert len(set(names)) == len(names)
    for data in KNOWN:
        for name in (data.name, data.key, *data.aliases):
            assert known_data(name) is data


@pytest.mark.parametrize("data", KNOWN, ids=lambda data: data.key)
def test_sentences_are_normalised_and_splits_are_those_of_the_schema(data):
    assert [normalise(text) for text in data.no_change] == list(data.no_change)
    assert set(data.pairs) <= {"train", "validation", "test"}
    assert hash(data) == hash(known_data(data.key))


@pytest.mark.skipif(not LEVIR.is_file(), reason="needs LEVIR-CC's captions in ../shared")
def test_levir_cc_is_as_published():
    records = json.loads(LEVIR.read_text(encoding="utf-8"))["images"]
    data = known_data("LEVIR-CC")
    splits = Counter({"val": "validation"}.get(one["split"], one["split"]) for one in records)
    assert splits == data.pairs
    unchanged = {
        tuple(normalise(sentence["raw"]) for sentence in one["sentences"])
        for one in records
        if not one.get("changeflag", 1)
    }
    assert {frozenset(texts) for texts in unchanged} == {frozenset(data.no_change)}
