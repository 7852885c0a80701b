"""Lists and folders of pairs: what belongs together, what is left over, and what is refused."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from rscc_hf.data.schema import FEATURES
from rscc_hf.pairs import PairItem, read_dataset_pairs, read_pairs

WriteImage = Callable[..., Path]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def shown(pairs: list[PairItem], folder: Path) -> dict[str, tuple[str, str]]:
    return {p.pair_id: tuple(path.relative_to(folder).as_posix() for path in (p.before, p.after)) for p in pairs}


@pytest.mark.parametrize("dates", [("before", "after"), ("A", "B"), ("rgb/A", "rgb/B")])
def test_images_of_a_folder_are_matched_by_name(tmp_path, dates) -> None:
    before, after = dates
    touch(tmp_path / before, "b.png", "a.png", "left.png", "notes.txt", ".hidden.png", "town/a.png")
    touch(tmp_path / after, "a.png", "b.png", "right.jpg", "town/a.png")
    found = read_pairs(tmp_path)
    assert shown(found.pairs, tmp_path) == {
        "a": (f"{before}/a.png", f"{after}/a.png"),
        "b": (f"{before}/b.png", f"{after}/b.png"),
        "town/a": (f"{before}/town/a.png", f"{after}/town/a.png"),
    }
    assert [pair.pair_id for pair in found.pairs] == ["a", "b", "town/a"]
    assert found.unmatched == (f"{before}/left.png", f"{after}/right.jpg")
    assert found.pairs[0].names == (f"{before}/a.png", f"{after}/a.png")
    assert found.pairs[0].semantic_before is None


def test_the_extension_may_differ_where_that_is_clear(tmp_path) -> None:
    touch(tmp_path, "A/x.png", "A/y.png", "A/y.jpg", "B/x.tif", "B/y.png", "B/y.jpg")
    found = read_pairs(tmp_path)
    assert shown(found.pairs, tmp_path) == {
        "x": ("A/x.png", "B/x.tif"),
        "y.jpg": ("A/y.jpg", "B/y.jpg"),
        "y.png": ("A/y.png", "B/y.png"),
    }
    assert found.unmatched == ()
    touch(tmp_path, "A/z.png", "A/z.jpg", "B/z.tif")
    with pytest.raises(ValueError, match=r"ambiguous how z\.jpg, z\.png in A and z\.tif in B"):
        read_pairs(tmp_path)


def test_a_path_with_the_name_of_a_date_in_it_is_kept(tmp_path) -> None:
    folder = tmp_path / "A" / "before"
    touch(folder, "A/AB.png", "B/AB.png")
    (pair,) = read_pairs(folder).pairs
    assert (pair.before, pair.after) == (folder / "A/AB.png", folder / "B/AB.png")


def test_names_are_the_same_in_either_unicode_form(tmp_path) -> None:
    name = "Zürich.png"
    touch(tmp_path, f"A/{unicodedata.normalize('NFC', name)}", f"B/{unicodedata.normalize('NFD', name)}")
    (pair,) = read_pairs(tmp_path).pairs
    assert pair.before.is_file() and pair.after.is_file() and pair.pair_id == "Zürich"


def test_maps_go_with_their_images(tmp_path) -> None:
    touch(tmp_path, "before/a.jpg", "before/b.jpg", "after/a.jpg", "after/b.jpg")
    touch(tmp_path, "semantic_before/a.png", "semantic_before/c.png", "semantic_after/a.png")
    found = read_pairs(tmp_path)
    with_maps, without = found.pairs
    assert with_maps.semantic_before == tmp_path / "semantic_before/a.png"
    assert with_maps.semantic_after == tmp_path / "semantic_after/a.png"
    assert without.semantic_before is None and without.semantic_after is None
    assert found.unmatched == ("semantic_before/c.png",)


def test_maps_of_one_date_only_are_refused(tmp_path) -> None:
    touch(tmp_path, "A/a.png", "B/a.png", "semantic_after/a.png")
    with pytest.raises(ValueError, match="has semantic_after but no semantic_before"):
        read_pairs(tmp_path)
    (tmp_path / "semantic_after").rename(tmp_path / "semantic_before")
    with pytest.raises(ValueError, match="has semantic_before but no semantic_after"):
        read_pairs(tmp_path)


def test_folders_without_pairs_are_told_what_is_missing(tmp_path) -> None:
    with pytest.raises(ValueError, match="no folders of pairs"):
        read_pairs(tmp_path)
    touch(tmp_path, "before/a.png")
    with pytest.raises(ValueError, match="no folder after"):
        read_pairs(tmp_path)
    touch(tmp_path, "after/b.png")
    with pytest.raises(ValueError, match="none of the 1 images"):
        read_pairs(tmp_path)
    touch(tmp_path, "A/a.png", "B/a.png")
    with pytest.raises(ValueError, match=r"before \+ after and A \+ B"):
        read_pairs(tmp_path)
    with pytest.raises(ValueError, match="there is no file or folder"):
        read_pairs(tmp_path / "nowhere")


names = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8)


@given(before=st.sets(names, max_size=6), after=st.sets(names, max_size=6))
def test_every_image_is_in_a_pair_or_reported(tmp_path_factory, before, after) -> None:
    forms = [{unicodedata.normalize("NFC", name) for name in date} for date in (before, after)]
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "A").mkdir()
    (folder / "B").mkdir()
    touch(folder / "A", *(f"{name}.png" for name in before))
    touch(folder / "B", *(f"{name}.png" for name in after))
    if not forms[0] & forms[1]:
        with pytest.raises(ValueError, match="none of the"):
            read_pairs(folder)
        return
    found = read_pairs(folder)
    assert {pair.pair_id for pair in found.pairs} == forms[0] & forms[1]
    assert set(found.unmatched) == {f"A/{name}.png" for name in forms[0] - forms[1]} | {
        f"B/{name}.png" for name in forms[1] - forms[0]
    }


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
    first, second = read_pairs(path).pairs
    assert first.pair_id == "one" and second.pair_id == "2"
    assert (first.before, first.after) == (path.parent / "../A/x.png", Path("/data/y.png"))
    assert first.names == ("../A/x.png", "/data/y.png")
    assert first.semantic_before is None and second.semantic_after == path.parent / "s/b.png"
    assert first.references == ("a house, new", "a house") and first.changed is True
    assert second.references == ("no change, they say",) and second.changed is False


def test_other_separators_and_the_names_of_other_lists(tmp_path) -> None:
    for name, mark in (("a.csv", ";"), ("a.tsv", "\t")):
        (tmp_path / name).write_text(f"image_before{mark}image_after\nA/x.png{mark}B/x.png\n")
        (pair,) = read_pairs(tmp_path / name).pairs
        assert pair.pair_id == "x" and pair.after == tmp_path / "B/x.png"
    row = {"uid": "u1", "img1_path": "a.png", "img2_path": "b.png", "change_caption": ["c\u2028d"], "change_flag": 0}
    (tmp_path / "a.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n\n", encoding="utf-8")
    (pair,) = read_pairs(tmp_path / "a.jsonl").pairs
    assert (pair.pair_id, pair.references, pair.changed) == ("u1", ("c\u2028d",), False)


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
    assert found.pair_ids == ["p0", "p1"] and found.missing_files() == [] and found.names_of(0) is None
    first, second = found.pairs
    assert first.before == image, "the processor decodes, so that it can name what is broken"
    assert first.names == ("x.png", "x.png")
    assert first.semantic_after is not None and second.semantic_after is None
    assert second.references == ("no change",) and second.changed is False
    with pytest.raises(ValueError, match="has no split 'train'"):
        read_dataset_pairs(tmp_path, "train")
    rows["pair_id"] = ["p0", "p0"]
    Dataset.from_dict(rows, features=FEATURES).to_parquet(tmp_path / "data" / "validation.parquet")
    with pytest.raises(ValueError, match="1 pair_ids occur twice or more, as 'p0'"):
        read_dataset_pairs(tmp_path, "validation")
