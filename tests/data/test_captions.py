"""What counts as "no change", and how captions are normalised."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rscc_hf.data.captions import NO_CHANGE_SENTENCES, NO_CHANGE_TEMPLATES, is_no_change, lacks_spaces, normalise


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


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("la forêt brûlée", unicodedata.normalize("NFD", "la forêt brûlée")),
        ("house", "ho\u00aduse\ufeff"),
        ("ទី ក្រុង", "ទី\u200bក្រុង"),
        ("İzmir", unicodedata.normalize("NFD", "İzmir")),
        ("Ångström", "A\u030angstro\u0308m"),
    ],
)
def test_spellings_of_one_text_are_one(one, other):
    assert normalise(one) == normalise(other)


@given(st.text())
def test_normalising_is_idempotent_blind_to_unicode_forms_and_leaves_ascii_as_the_field_does(text):
    normal = normalise(text)
    assert normalise(normal) == normal
    assert normalise(unicodedata.normalize("NFD", text)) == normalise(unicodedata.normalize("NFC", text)) == normal
    plain = text.encode("ascii", "ignore").decode()
    assert normalise(plain) == " ".join(plain.lower().replace(".", "").split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("道路旁边出现了房屋", True),
        ("道路 旁边 出现 了 房屋", False),
        ("道 路 旁 边 出 现 了 房 屋", False),
        ("道路の横に住宅が現れた。", True),
        ("アパートメント が 道路 の 横 に 建て られ た", False),
        ("มีบ้านหลังใหม่ปรากฏขึ้นข้างถนน", True),
        ("มี บ้าน หลัง ใหม่ ปรากฏ ขึ้น ข้าง ถนน", False),
        ("មានផ្ទះថ្មីនៅក្បែរផ្លូវ", True),
        ("មាន\u200bផ្ទះ\u200bថ្មី\u200bនៅ\u200bក្បែរ\u200bផ្លូវ", False),
        ("도로 옆에 집이 나타났다", False),
        ("une maison est apparue près de la forêt", False),
        ("Verkehrsflächenerweiterungsmaßnahme", False),
        ("рядом появился новый дом", False),
        ("a house appears in 北京 today", False),
        ("", False),
    ],
)
def test_captions_without_spaces_are_told_from_those_that_have_them(text, expected):
    assert lacks_spaces(text) is expected
