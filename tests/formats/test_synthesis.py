"""The README.md of a synthesized data set is read as it was written, and its bytes are those of version 0.1."""

import hashlib
from dataclasses import asdict

import pytest

from rscc_hf.formats.synthesis import Synthesis, is_drawn, name_pair
from rscc_hf.synthetic.dataset import SceneOptions

MADE = Synthesis({"train": 8, "validation": 1, "test": 1}, 3, asdict(SceneOptions(size=64)))


def test_what_is_written_is_read():
    assert Synthesis.parse(MADE.text()) == MADE
    assert Synthesis.parse("# Mine\n\n" + MADE.text().replace("\n", "\n\n", 2)) == MADE


def test_the_bytes_are_those_of_version_0_1():
    digest = hashlib.sha256(MADE.text().encode()).hexdigest()
    assert digest == "e9fdc4394aea96ca68251aaad186c068a7f5248fb3dd43cf2388cab8606b7205"


@pytest.mark.parametrize(
    ("old", "new"), [("made by", "drawn by"), ("Seed: 3", "Seed 3"), ('"size": 64', '"size": '), ("train 8", "train")]
)
def test_what_does_not_tell_all_is_none(old, new):
    assert old in MADE.text()
    assert Synthesis.parse(MADE.text().replace(old, new)) is None


def test_a_pair_is_known_by_name_source_and_record():
    assert name_pair(3, 7) == "synthetic_3_000007"
    assert is_drawn(name_pair(3, 7), "synthetic", '{"events": []}')
    assert not is_drawn("mine", "synthetic", '{"events": []}') and not is_drawn(name_pair(3, 7), "synthetic", "[]")
