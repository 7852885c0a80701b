"""The writer of parquet: limits, order and bytes of whatever is written, and what an error leaves."""

import errno
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Features, Image, List, Value, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from rscc_hf.data.layout import read_layout
from rscc_hf.data.loading import load_pairs
from rscc_hf.data.parquet import LIMITS, Limits, write_split
from rscc_hf.data.schema import FEATURES
from rscc_hf.errors import InputError


def row(number: int, size: int = 8, **changes):
    image = {"bytes": bytes([number % 256]) * size, "path": f"{number}.png"}
    pair = {"pair_id": f"p{number}", "image_before": image, "image_after": image, "captions": ["a house", "b"]}
    return {**pair, "changed": number % 2 == 0, "source": "toy", **changes}


@contextmanager
def folder():
    with tempfile.TemporaryDirectory() as there:
        yield Path(there)


def bytes_of(group) -> int:
    """What a row group holds, counted from what was read."""
    images = sum(len(image["bytes"]) for name in ("image_before", "image_after") for image in group[name].to_pylist())
    paths = sum(len(image["path"]) for name in ("image_before", "image_after") for image in group[name].to_pylist())
    texts = sum(map(len, (*group["pair_id"].to_pylist(), *group["source"].to_pylist())))
    return images + paths + texts + sum(len(text) for one in group["captions"].to_pylist() for text in one)


def test_the_limits_are_those_of_the_readme():
    assert Limits(500, 128_000_000, 100, 32_000_000) == LIMITS


limits = st.builds(Limits, st.integers(1, 7), st.integers(1, 400), st.integers(1, 5), st.integers(1, 200))


@settings(deadline=None, max_examples=25)
@given(sizes=st.lists(st.integers(0, 150), min_size=1, max_size=20), limits=limits)
def test_any_rows_keep_order_bytes_and_limits(sizes, limits):
    rows = [row(number, size) for number, size in enumerate(sizes)]
    with folder() as out:
        files = write_split(out, "train", iter(rows), limits=limits)
        names = [f"train-{number:05d}-of-{len(files):05d}.parquet" for number in range(len(files))]
        assert [file.name for file in files] == names == sorted(file.name for file in (out / "data").iterdir())
        read = []
        for file in files:
            with pq.ParquetFile(file) as parquet:
                groups = [parquet.read_row_group(number) for number in range(parquet.num_row_groups)]
            assert sum(group.num_rows for group in groups) <= limits.shard_rows
            size = sum(map(bytes_of, groups))
            assert size <= limits.shard_bytes or sum(group.num_rows for group in groups) == 1
            for group in groups:
                assert 1 <= group.num_rows <= limits.group_rows
                assert bytes_of(group) <= limits.group_bytes or group.num_rows == 1
                read += group.to_pylist()
        assert [{name: one[name] for name in rows[0]} for one in read] == rows
        assert all(one["semantic_before"] is None and one["change_mask"] is None for one in read)
        assert list(read_layout(out).splits["train"]) == files


@settings(deadline=None, max_examples=5)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=9))
def test_datasets_and_load_pairs_read_the_same(sizes):
    rows = [row(number, size, note=f"n{number}") for number, size in enumerate(sizes)]
    features = Features({**FEATURES, "note": Value("string")})
    with folder() as out:
        write_split(out, "train", rows, features, limits=Limits(3, 1000, 2, 100))
        stream = load_dataset(str(out), split="train", streaming=True)
        assert stream.features == features
        pairs = load_pairs(out, "train", streaming=True)
        for read in (stream, pairs):
            there = list(read.decode(False))
            assert [{name: one[name] for name in rows[0]} for one in there] == rows
        assert pairs.num_shards == len(list((out / "data").iterdir()))


def test_the_same_rows_give_the_same_bytes(tmp_path):
    made = [write_split(tmp_path / name, "test", (row(n) for n in range(9)), limits=Limits(4)) for name in "ab"]
    assert [file.read_bytes() for file in made[0]] == [file.read_bytes() for file in made[1]]


def test_images_are_in_no_dictionary_and_nulls_are_counted(tmp_path):
    (file,) = write_split(tmp_path, "train", [row(0), row(1)])
    column = pq.read_metadata(file).row_group(0).column(1)
    assert column.path_in_schema == "image_before.bytes" and "RLE_DICTIONARY" not in column.encodings
    assert column.statistics.null_count == 0  # what `rscc data push` asks


def test_images_may_be_files_or_bytes_and_keep_their_names_alone(tmp_path):
    photo = tmp_path / "photos" / "a.png"
    photo.parent.mkdir()
    photo.write_bytes(b"a photo")
    features = Features({**FEATURES, "more": List(Image())})
    rows = [
        row(0, image_before=str(photo), image_after={"bytes": None, "path": str(photo)}, more=[photo, b"c", None]),
        row(1, image_before=b"b", image_after={"bytes": b"c", "path": r"C:\alice\c.png"}, change_mask=None),
    ]
    (file,) = write_split(tmp_path / "out", "train", rows, features)
    first, second = pq.read_table(file).to_pylist()
    assert first["image_before"] == first["image_after"] == {"bytes": b"a photo", "path": "a.png"}
    assert first["more"] == [first["image_before"], {"bytes": b"c", "path": None}, None] and second["more"] is None
    assert second["image_before"] == {"bytes": b"b", "path": None}
    assert second["image_after"] == {"bytes": b"c", "path": "c.png"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"note": "x"}, r"pair 'p3' has note, which is no column; name it in the features"),
        ({"image_after": "/nowhere/a.png"}, r"pair 'p3': an image cannot be read .*nowhere.*; give its bytes"),
        ({"image_after": "https://example.org/a.png"}, r"pair 'p3': an image cannot be read"),
        (
            {"captions": "a house"},
            r"pair 'p3': the column captions is of type str, where a list of strings in each row is",
        ),
        ({"captions": [3]}, r"the pairs 'p2' to 'p3' do not fit the columns"),
        ({"image_after": 3}, r"pair 'p3': the column image_after is of type int, where images are needed"),
    ],
)
def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path, changes, told):
    rows = [*map(row, range(3)), row(3, **changes)]
    with pytest.raises(InputError, match=told):
        write_split(tmp_path, "train", rows, limits=Limits(2))
    assert not list((tmp_path / "data").iterdir())


def test_columns_are_those_of_the_schema(tmp_path):
    with pytest.raises(InputError, match="the column source is missing"):
        write_split(tmp_path, "train", [], Features({n: f for n, f in FEATURES.items() if n != "source"}))


def test_a_split_that_is_there_stays_and_what_a_kill_left_goes(tmp_path):
    write_split(tmp_path, "train-hard", [row(0)])
    (tmp_path / "data" / ".train-00007.part").write_bytes(b"half")
    (tmp_path / "data" / ".train-hard-00000.part").write_bytes(b"of another split")
    write_split(tmp_path, "train", [row(0)])
    names = {path.name for path in (tmp_path / "data").iterdir()}
    assert names == {
        ".train-hard-00000.part", "train-00000-of-00001.parquet", "train-hard-00000-of-00001.parquet",
    }  # fmt: skip
    with pytest.raises(InputError, match=r"already holds train \(train-00000-of-00001\.parquet\); remove it"):
        write_split(tmp_path, "train", [row(1)])


def test_a_rename_that_fails_leaves_nothing(tmp_path, monkeypatch):
    renamed, rename = [], Path.rename

    def fail_at_the_second(path, target):
        if renamed:
            raise OSError(errno.ENOSPC, "No space left on device")
        renamed.append(target)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        write_split(tmp_path, "train", map(row, range(3)), limits=Limits(shard_rows=1))
    assert renamed and not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("place", ["train.parquet", "data/train/a.parquet", "data/train-00000-of-00002.parquet"])
def test_a_split_that_lies_elsewhere_or_is_not_whole_is_seen(tmp_path, place):
    write_split(tmp_path / "other", "train", [row(0)])
    (tmp_path / "set" / place).parent.mkdir(parents=True)
    (tmp_path / "other" / "data" / "train-00000-of-00001.parquet").rename(tmp_path / "set" / place)
    with pytest.raises(InputError, match="set already holds train"):
        write_split(tmp_path / "set", "train", [row(1)])
    write_split(tmp_path / "set", "test", [row(1)])
    assert "test" in read_layout(tmp_path / "set").splits


def test_no_rows_are_no_files(tmp_path):
    assert write_split(tmp_path, "train", []) == []
