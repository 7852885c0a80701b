"""What counts as "no change", and how captions are normalised."""

import pytest

from rscc_hf.data.captions import NO_CHANGE_SENTENCES, NO_CHANGE_TEMPLATES, is_no_change, normalise


def test_the_templates_come_first():
    assert len(NO_CHANGE_TEMPLATES) == 5
    assert NO_CHANGE_SENTENCES[:5] == NO_CHANGE_TEMPLATES
    assert NO_CHANGE_SENTENCES[5:] == ("no change is occurred", "almost nothing is changed")


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        (" There is  no\tdifference . ", "there is no difference"),
        ("A road, wide; here.", "a road, wide; here"),
        ("", ""),
    ],
)
def test_normalise(raw, normal):
    assert normalise(raw) == normal
    assert normalise(normal) == normal


@pytest.mark.parametrize("sentence", NO_CHANGE_SENTENCES)
def test_no_change_sentences_are_recognised_in_any_case(sentence):
    assert is_no_change(sentence)
    assert is_no_change(f" {sentence.capitalize()} .")


def test_other_sentences_are_changes_unless_named():
    assert not is_no_change("a road appears")
    assert not is_no_change("")
    assert is_no_change("Nothing new.", extra=["nothing new"])
