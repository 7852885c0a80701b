"""Lists of pairs and data sets: what their columns and lines mean, what is told, and what is refused."""

import codecs
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rscc_hf.data.lists.sources import read_dataset_pairs, read_pairs
from rscc_hf.data.schema import FEATURES

WriteImage = Callable[..., Path]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_a_csv_has_paths_relative_to_itself(tmp_path) -> None:
    path = tmp_path / "lists" / "pairs.csv"
    path.parent.mkdir()
    path.write_text(
        "pair_id, before, after, semantic_before, semantic_after, references, changed\n"
        'one,../A/x.png,/data/y.png,,,"[""a house, new"", ""a house""]",1\n'
        "\n"
        '2,A/z.png,B/z.png,s/a.png,s/b.png,"no change, they say",False\n',
        encoding="utf-8-sig",
    )
    found = read_pairs(path)
    first, second = found.pairs
    assert first.id == "one" and second.id == "2"
    assert (first.before, first.after) == (path.parent / "../A/x.png", Path("/data/y.png"))
    assert first.names == ("../A/x.png", "/data/y.png")
    assert first.maps is None and second.maps[1] == path.parent / "s/b.png"
    assert first.references == ("a house, new", "a house") and first.changed is True
    assert second.references == ("no change, they say",) and second.changed is False


def test_other_separators_and_the_names_of_other_lists(tmp_path) -> None:
    for name, mark in (("a.csv", ";"), ("a.tsv", "\t")):
        (tmp_path / name).write_text(f"image_before{mark}image_after\nA/x.png{mark}B/x.png\n")
        (pair,) = read_pairs(tmp_path / name).pairs
        assert pair.id == "x" and pair.after == tmp_path / "B/x.png"
    row = {"uid": "u1", "img1_path": "a.png", "img2_path": "b.png", "change_caption": ["c\u2028d"], "change_flag": 0}
    (tmp_path / "a.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n\n", encoding="utf-8")
    (pair,) = read_pairs(tmp_path / "a.jsonl").pairs
    assert (pair.id, pair.references, pair.changed) == ("u1", ("c\u2028d",), False)


def test_pairs_without_an_id_are_called_by_their_images(tmp_path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("before,after\nA/x.png,B/x.png\nA/x.png,B/y.png\n")
    assert read_pairs(path).pair_ids == ["x", "x__y"]
    path.write_text("before,after\nA/x.png,B/x.png\nC/x.png,D/x.png\n")
    with pytest.raises(ValueError, match=r"lines 2 and 3: two pairs are called 'x'; give every pair its own pair_id"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.csv", "", "has no pairs"),
        ("p.csv", "before,after\n", "has no pairs"),
        ("p.csv", "first,second\na,b\n", "line 2: no before; the columns are first, second"),
        ("p.csv", "before,after\na.png,\n", "line 2: no after"),
        ("p.csv", "before,after\na.png,b.png,c.png\n", "line 2: more cells"),
        ("p.csv", "before,after,changed\na.png,b.png,perhaps\n", "line 2: changed must be"),
        ("p.csv", 'before,after,references\na.png,b.png,"[oops"\n', "line 2: references are no JSON list"),
        ("p.jsonl", '{"before": "a.png", "after": "b.png"}\n{"before"\n', "line 2: no JSON"),
        ("p.jsonl", '["a.png", "b.png"]\n', "line 1: an object"),
        ("p.jsonl", '{"before": 3, "after": "b.png"}\n', "line 1: before must be the path"),
        ("p.jsonl", '{"before": "a", "after": "b", "captions": []}\n', "line 1: references must be"),
        ("p.jsonl", '{"before": "a", "after": "b", "pair_id": true}\n', "line 1: pair_id must be"),
        ("p.txt", "a b", "is no list of pairs"),
    ],
)
def test_broken_lists_name_file_and_line(tmp_path, name, text, message) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_pairs(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_list_that_is_not_utf8_is_refused(tmp_path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes("before,after\nü.png,b.png\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        read_pairs(path)


def test_files_that_are_missing_are_found_before_the_work(tmp_path) -> None:
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "p.csv").write_text("pair_id,before,after\n1,a.png,b.png\n2,a.png,c.png\n")
    assert read_pairs(tmp_path / "p.csv").missing_files() == [("2", tmp_path / "c.png")]


def test_a_data_set_is_read_row_by_row(tmp_path, write_image: WriteImage) -> None:
    image = {"bytes": write_image(tmp_path / "x.png").read_bytes(), "path": "x.png"}
    rows = {
        "pair_id": ["p0", "p1"],
        "image_before": [image, image],
        "image_after": [image, image],
        "semantic_before": [image, None],
        "semantic_after": [image, None],
        "change_mask": [None, None],
        "captions": [["a house"], ["no change"]],
        "changed": [True, False],
        "source": ["test", "test"],
    }
    Dataset.from_dict(rows, features=FEATURES).to_parquet(tmp_path / "data" / "test.parquet")
    found = read_dataset_pairs(tmp_path, "test")
    assert found.pair_ids == ["p0", "p1"] and found.missing_files() == []
    assert found.has_maps()
    first, second = found.pairs
    assert first.before == image, "the processor decodes, so that it can name what is broken"
    assert first.before["path"] == first.after["path"] == "x.png"
    assert first.maps[1] is not None and second.maps is None
    assert second.references == ("no change",) and second.changed is False
    with pytest.raises(ValueError, match="has no split 'train'"):
        read_dataset_pairs(tmp_path, "train")
    no_maps = {"semantic_before": [None, None], "semantic_after": [None, None]}
    Dataset.from_dict(rows | no_maps, features=FEATURES).to_parquet(tmp_path / "data" / "val.parquet")
    assert not read_dataset_pairs(tmp_path, "val").has_maps()
    rows["pair_id"] = ["p0", "p0"]
    Dataset.from_dict(rows, features=FEATURES).to_parquet(tmp_path / "data" / "validation.parquet")
    with pytest.raises(ValueError, match="1 pair_ids occur twice or more, as 'p0'"):
        read_dataset_pairs(tmp_path, "validation")


PAIR = {"before": "A/1.png", "after": "B/1.png"}
CSV = "before,after\nA/1.png,B/1.png\n"


def written(folder: Path, content: Any, suffix: str = ".jsonl") -> Path:
    """A list beside the images A/1.png, A/2.png, B/1.png, B/2.png; of rows, a text or bytes."""
    touch(folder, "A/1.png", "A/2.png", "B/1.png", "B/2.png")
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path = folder / f"list{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("suffix", "content"),
    [
        (".csv", CSV + ",\r\n,\r\n\n"),  # what Excel leaves at the end
        (".csv", "before,after\n , \nA/1.png,B/1.png\n"),
        (".csv", "sep=;\r\nbefore;after\r\nA/1.png;B/1.png\r\n"),
        (".csv", "\ufeff" + CSV),
        (".csv", CSV.replace("\n", "\r\n")),
        (".csv", CSV.replace("\n", "\r")),
        (".csv", codecs.BOM_UTF16_LE + CSV.encode("utf-16-le")),
        (".csv", codecs.BOM_UTF16_BE + CSV.encode("utf-16-be")),
        (".CSV", "Before ,AFTER\nA/1.png , B/1.png\n"),
        (".csv", CSV.replace(",", "\t")),
        (".Tsv", CSV.replace(",", "\t")),
        (".csv", "\n\n" + CSV),
        (".csv", "before,after,\nA/1.png,B/1.png,\n"),
        (".csv", "before,after\nA/1.png,B/1.png,,\n"),
        (".JSONL", [PAIR]),
        (".jsonl", "\ufeff" + json.dumps(PAIR) + "\r\n\r\n"),
        (".jsonl", [{"Before": "A/1.png", "IMAGE_AFTER ": "B/1.png"}]),
    ],
)
def test_all_that_programs_make_of_a_list_is_read(tmp_path, suffix, content) -> None:
    found = read_pairs(written(tmp_path, content, suffix))
    (pair,) = found.pairs
    assert (pair.before, pair.after) == (tmp_path / "A/1.png", tmp_path / "B/1.png")
    assert found.notes == () and found.missing_files() == []


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".csv", "before,after,after\nA/1.png,B/1.png,B/2.png\n", r"line 2: two columns called after contradict"),
        (".csv", "before,after,image_after\nA/1.png,B/1.png,B/2.png\n", r"after and image_after contradict each"),
        (".csv", "before,After,after\nA/1.png,B/1.png,B/2.png\n", r"After and after contradict each"),
        (
            ".jsonl",
            '{"before":"A/1.png","before":"A/2.png","after":"B/1.png"}\n',
            r"line 1: two columns called before",
        ),
        (".jsonl", [PAIR | {"pair_id": "a", "uid": "b"}], r"pair_id and uid contradict each other \('a', 'b'\)"),
        (".jsonl", [PAIR | {"references": ["a"], "captions": ["a", "b"]}], r"references and captions contradict"),
        (".jsonl", [PAIR | {"changed": True, "change_flag": 0}], r"changed and change_flag contradict"),
        (".jsonl", [PAIR | {"pair_id": 1}, PAIR | {"pair_id": "1"}], r"lines 1 and 2: two pairs are called '1'"),
        (".jsonl", [PAIR | {"pair_id": "a b"}, PAIR | {"pair_id": " a  b"}], r"differ in spaces or the Unicode form"),
        (
            ".jsonl",
            [PAIR | {"pair_id": unicodedata.normalize(form, "é")} for form in ("NFC", "NFD")],
            r"lines 1 and 2: the ids .* differ in spaces or the Unicode form",
        ),
        (".jsonl", [PAIR | {"pair_id": 1.0}], r"pair_id must be a name, not 1\.0"),
        (".jsonl", [PAIR | {"references": ["a", " "]}], r"references hold an empty sentence"),
        (".jsonl", [PAIR | {"references": ["a", " . "]}], r"references hold ' \. ', which has no letter or digit"),
        (".csv", "before,after,references\nA/1.png,B/1.png", r"line 2: 2 cells for the 3 columns .* may be cut off"),
        (".csv", "pair_id,before,after\na,A/1.png\n", r"line 2: no after: 2 cells for the 3 columns of the header"),
        (".jsonl", [PAIR | {"pair_id": {}, "uid": "u"}], r"line 1: pair_id must be a name, not "),
        (
            ".jsonl",
            [PAIR | {"references": {}, "captions": ["a"]}],
            r"line 1: references must be one sentence or a list",
        ),
        (".csv", CSV.encode("utf-16-le"), r"holds null characters"),
        (".jsonl", json.dumps([PAIR]), r"line 1: an object .* without a list around them"),
        (".jsonl", json.dumps([PAIR], indent=1), r"line 1: no JSON .* without a list around them"),
        (".jsonl", '{"a":' * 100_000, r"line 1: no JSON"),
    ],
)
def test_contradictions_and_broken_lists_are_refused(tmp_path, suffix, content, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_pairs(written(tmp_path, content, suffix))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"pair_id": None, "uid": "u"}, {"id": "u"}),
        ({"pair_id": "", "uid": "u"}, {"id": "u"}),
        ({"pair_id": float("nan"), "uid": "u"}, {"id": "u"}),
        ({"uid": "u", "pair_id": "u"}, {"id": "u"}),
        ({"references": None, "captions": ["a"]}, {"references": ("a",)}),
        ({"references": [], "change_caption": ["a"]}, {"references": ("a",)}),
        ({"references": "a", "captions": ["a"]}, {"references": ("a",)}),
        ({"changed": None, "changeflag": 1}, {"changed": True}),
        ({"changed": True, "changeflag": 1.0}, {"changed": True}),
        ({"image_before": "./A/1.png"}, {"id": "1"}),
        ({"img2_path": None}, {"id": "1"}),
    ],
)
def test_what_says_nothing_hides_nothing_and_equals_may_stand_twice(tmp_path, row, expected) -> None:
    found = read_pairs(written(tmp_path, [PAIR | row]))
    assert {name: getattr(found.pairs[0], name) for name in expected} == expected
    assert found.notes == ()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([PAIR | {"my_column": 1, "text": "?"}, PAIR | {"pair_id": 2, "after": "B/2.png", "text": 1}],
         ["not used: columns my_column, text."]),
        ([PAIR | {"pair_id": n} for n in "xy"], ["1 pair with the files of another pair (y as x)."]),
        ([PAIR | {"after": "./A/1.png"}], ["1 pair with one file as before and after (1)."]),
        ([PAIR | {"changed": True, "references": ["There is no difference ."]}],
         ["Marked as changed although all references say that nothing changed: 1 of 1 pair (1); the mark counts, so "
          "correct it or the references."]),
        ([PAIR | {"changed": False, "references": ["a house"]}],
         ["Marked as unchanged although no reference is a known sentence for that: 1 of 1 pair (1); the mark counts, "
          "so correct it, or name the sentence as a no-change one."]),
        ([PAIR | {"changed": True, "references": ["there is no difference", "a house"]}], []),
        ([PAIR | {"changed": False, "references": ["there is no difference", "a house"]}], []),
        ([PAIR | {"references": ["there is no difference"]}], []),
        ([PAIR | {"references": ["a house"]}, PAIR | {"pair_id": 2, "after": "B/2.png", "references": None}],
         ["1 of 2 pairs has no references (2); `rscc evaluate` refuses a file of captions where some lack them."]),
    ],
)  # fmt: skip
def test_what_looks_wrong_or_is_not_used_is_told(tmp_path, rows, told) -> None:
    path = written(tmp_path, rows)
    assert read_pairs(path).notes == tuple(f"{path}: {note}" for note in told)


def test_empty_cells_that_a_program_left_out_at_the_end_of_rows_are_told(tmp_path) -> None:
    text = "before,after,references,changed\nA/1.png,B/1.png\nA/2.png,B/2.png,a house\nA/1.png,B/2.png,a road,1\n"
    path = written(tmp_path, text, ".csv")
    found = read_pairs(path)
    assert [(pair.references, pair.changed) for pair in found.pairs] == [
        (None, None), (("a house",), None), (("a road",), True)
    ]  # fmt: skip
    assert found.notes[0] == (
        f"{path}: 2 rows with fewer cells than the header has columns (line 2, line 3); what is left out at their "
        "ends is taken as empty."
    )
    written(tmp_path, CSV + '"A/2.png","B/2.png"', ".csv")
    assert len(read_pairs(path).pairs) == 2, "a last line that is whole may be without its end"


def test_maps_that_are_not_asked_for_need_not_be_there(tmp_path) -> None:
    found = read_pairs(written(tmp_path, [PAIR | {"semantic_before": "s/1.png", "semantic_after": "s/2.png"}]))
    assert [path.name for _, path in found.missing_files()] == ["1.png", "2.png"] and found.has_maps()
    assert found.missing_files(with_maps=False) == []
    assert not read_pairs(written(tmp_path, [PAIR])).has_maps()


def test_paths_of_other_systems_and_of_the_home_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    path = written(tmp_path / "lists", [{"before": "~/x.png", "after": "B\\1.png"}])
    touch(tmp_path, "x.png")
    found = read_pairs(path)
    assert found.missing_files() == []
    assert found.pairs[0].before == tmp_path / "x.png"
    if os.sep == "/":
        assert found.notes == (f"{path}: backslashes were read as slashes in 1 path (B\\1.png).",)


def test_a_name_that_is_no_text_is_written_as_escapes(tmp_path) -> None:
    (pair,) = read_pairs(written(tmp_path, [PAIR | {"pair_id": "caf\udce9", "references": ["\ud800"]}])).pairs
    assert pair.id == r"caf\xe9" and pair.references == (r"\ud800",)
