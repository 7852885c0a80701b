"""Folders of pairs: what belongs together, what is left over, what is not read, and what is refused."""

import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rscc_hf import Pair
from rscc_hf.data.lists.sources import read_pairs


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def shown(pairs: list[Pair], folder: Path) -> dict[str, tuple[str, str]]:
    return {p.id: tuple(path.relative_to(folder).as_posix() for path in (p.before, p.after)) for p in pairs}


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
    assert [pair.id for pair in found.pairs] == ["a", "b", "town/a"]
    assert found.unmatched == (f"{before}/left.png", f"{after}/right.jpg")
    assert found.pairs[0].names == (f"{before}/a.png", f"{after}/a.png")
    assert found.pairs[0].maps is None


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
    assert pair.before.is_file() and pair.after.is_file() and pair.id == "Zürich"


def test_maps_go_with_their_images(tmp_path) -> None:
    touch(tmp_path, "before/a.jpg", "before/b.jpg", "after/a.jpg", "after/b.jpg")
    touch(tmp_path, "semantic_before/a.png", "semantic_before/c.png", "semantic_after/a.png")
    found = read_pairs(tmp_path)
    with_maps, without = found.pairs
    assert with_maps.maps == (tmp_path / "semantic_before/a.png", tmp_path / "semantic_after/a.png")
    assert without.maps is None
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
    # twins under normalisation are refused, see below
    before, after = ({unicodedata.normalize("NFC", name): name for name in date}.values() for date in (before, after))
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
    assert {pair.id for pair in found.pairs} == forms[0] & forms[1]
    assert set(found.unmatched) == {f"A/{name}.png" for name in forms[0] - forms[1]} | {
        f"B/{name}.png" for name in forms[1] - forms[0]
    }


def images(folder: Path, *names: str, dates: tuple[str, str] = ("A", "B")) -> None:
    for date in dates:
        touch(folder / date, *names)


def nothing(folder: Path) -> None:
    pass


# what lies in a folder beside one good pair, and the words in which it is told
UNREAD: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "nothing": (nothing, ()),
    "other suffixes": (lambda f: images(f, "2.jfif", "3.heic", "4"), ("6 files", "A/2.jfif", "B/3.heic", "no suffix")),
    "a note among the images": (lambda f: touch(f, "A/notes.txt"), ("1 file", "*.txt: 1, A/notes.txt")),
    "hidden images": (lambda f: images(f, ".h.png"), ("2 hidden names (A/.h.png, B/.h.png)",)),
    "a hidden folder": (lambda f: images(f, ".h/x.png"), ("2 hidden names (A/.h, B/.h)",)),
    "pairs one level deeper": (lambda f: images(f / "train", "2.png"), ("1 name beside", "train/")),
    "half of another layout": (lambda f: touch(f, "before/2.png"), ("1 name beside", "before/")),
    "maps that are called otherwise": (lambda f: images(f / "semantic", "1.png"), ("1 name beside", "semantic/")),
    "a list": (lambda f: touch(f, "list.csv"), ("1 name beside", "list.csv")),
    "an image beside the dates": (lambda f: touch(f, "9.png"), ("1 name beside", "9.png")),
    "no maps at all": (lambda f: [(f / "sem" / d).mkdir(parents=True) for d in "AB"], ("no maps of 1 of 1 pair (1)",)),
    "what file managers leave": (lambda f: touch(f, "A/.DS_Store", "B/Thumbs.db", ".DS_Store"), ()),
    "another folder in sem": (
        lambda f: (images(f / "sem", "1.png"), touch(f, "sem/C/1.png")),
        ("1 name beside", "sem/C/"),
    ),
}


@pytest.mark.parametrize("case", UNREAD)
def test_what_is_not_read_is_told_in_a_line(tmp_path, case) -> None:
    make, words = UNREAD[case]
    images(tmp_path, "1.png")
    make(tmp_path)
    found = read_pairs(tmp_path)
    assert found.pair_ids == ["1"] and found.unmatched == ()
    assert len(found.notes) == (1 if words else 0), found.notes
    for word in words:
        assert word in found.notes[0] and found.notes[0].startswith(f"{tmp_path}: ")


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "two layouts": (lambda f: images(f, "1.png", dates=("before", "after")), r"before \+ after and A \+ B"),
    "SECOND-CC's layout too": (lambda f: images(f / "rgb", "1.png"), r"A \+ B and rgb/A \+ rgb/B"),
    "two kinds of maps": (
        lambda f: (images(f, "1.png", dates=("semantic_before", "semantic_after")), images(f / "sem", "1.png")),
        r"maps in semantic_before \+ semantic_after and sem/A \+ sem/B",
    ),
    "maps of one date in sem": (lambda f: touch(f, "sem/A/1.png"), "has sem/A but no sem/B"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_two_ways_to_read_a_folder_are_refused(tmp_path, case) -> None:
    make, message = REFUSED[case]
    images(tmp_path, "1.png")
    make(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path)


def test_maps_may_lie_in_sem_beside_any_dates(tmp_path) -> None:
    images(tmp_path, "1.png", "2.png")
    images(tmp_path / "sem", "1.png", "2.png")
    for pair in read_pairs(tmp_path).pairs:
        assert pair.maps == (tmp_path / f"sem/A/{pair.id}.png", tmp_path / f"sem/B/{pair.id}.png")


def test_pairs_without_maps_among_others_are_told(tmp_path) -> None:
    images(tmp_path, "1.png", "2.png", "3.png")
    images(tmp_path / "sem", "2.png")
    (note,) = read_pairs(tmp_path).notes
    assert "no maps of 2 of 3 pairs (1, 3)" in note


def test_the_output_of_the_run_is_not_told(tmp_path) -> None:
    images(tmp_path, "1.png")
    touch(tmp_path, "out.jsonl", ".out.jsonl.lock", "other.jsonl")
    (note,) = read_pairs(tmp_path, outputs=[tmp_path / "out.jsonl"]).notes
    assert "1 name beside" in note and "(other.jsonl)" in note


def test_folders_of_pairs_one_level_deeper_are_named(tmp_path) -> None:
    for split in ("train", "test"):
        images(tmp_path / split, "1.png")
    with pytest.raises(ValueError, match="but test, train have; give one folder of pairs at a time"):
        read_pairs(tmp_path)
    (tmp_path / "test").rename(tmp_path / "Before")
    images(tmp_path / "Before", "1.png", dates=("x", "y"))
    with pytest.raises(ValueError, match="but Before, train have"):
        read_pairs(tmp_path)


def test_a_folder_without_any_image_says_what_it_has(tmp_path) -> None:
    images(tmp_path, "1.jfif")
    with pytest.raises(ValueError, match=r"none of the 0 images in A .* 2 files whose suffix .*A/1\.jfif"):
        read_pairs(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems normalise names or forbid links")
def test_names_that_differ_in_their_unicode_form_only_are_refused(tmp_path) -> None:
    images(tmp_path, "1.png", *(unicodedata.normalize(form, "Zürich.png") for form in ("NFC", "NFD")))
    with pytest.raises(ValueError, match=r"A has two files called 'Zürich\.png', which differ in the Unicode form"):
        read_pairs(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems normalise names or forbid links")
def test_links_are_followed_but_not_around(tmp_path) -> None:
    images(tmp_path / "real", "2.png", "3.png")
    images(tmp_path / "p", "1.png")
    for date in "AB":
        (tmp_path / "p" / date / "sub").symlink_to(f"../../real/{date}")
        (tmp_path / "p" / date / "file.png").symlink_to(f"../../real/{date}/2.png")
        (tmp_path / "p" / date / "gone.png").symlink_to("nowhere.png")
        (tmp_path / "p" / date / "up").symlink_to("../..")
        (tmp_path / "p" / date / "self").symlink_to(".")
    found = read_pairs(tmp_path / "p")
    assert found.pair_ids == ["1", "file", "sub/2", "sub/3"] and found.unmatched == ()
    assert [note.split("not read: ")[1] for note in found.notes] == [
        "2 links to something that does not exist (A/gone.png, B/gone.png).",
        "4 links to a folder around itself (A/self, A/up, B/self and 1 more).",
    ]


def test_ids_are_unique_whatever_the_extensions(tmp_path) -> None:
    images(tmp_path, "a.png", "a.jpg", "a.png.png", "b.png")
    assert read_pairs(tmp_path).pair_ids == ["a.jpg", "a.png", "a.png.png", "b"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8_become_escapes_that_can_be_read_back(tmp_path) -> None:
    raw = [b"a.png", b"caf\xe9.png", b"caf\\xe9.png", b"\xff\xfe.png"]
    images(tmp_path, *(os.fsdecode(name) for name in raw))
    found = read_pairs(tmp_path)
    assert {pair.id for pair in found.pairs} == {"a", r"caf\xe9", r"caf\\xe9", r"\xff\xfe"}
    for pair in found.pairs:
        "".join((pair.id, *pair.names)).encode()
        told = pair.id.encode().decode("unicode_escape").encode("latin-1") + b".png"
        assert os.fsencode(pair.before.name) == told
        assert pair.before.is_file() and pair.after.is_file()
