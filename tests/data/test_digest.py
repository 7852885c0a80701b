"""The digest of a data set: the same for the same pairs however they lie, another for whatever is learned from."""

import io

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from rscc_hf.data.digest import data_digest, files_digest
from rscc_hf.data.loading import load_pairs
from rscc_hf.data.schema import FEATURES


def _png(seed, side=8):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    PILImage.fromarray(pixels).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def _rows(count=4, side=8):
    maps = {"semantic_before": None, "semantic_after": None, "change_mask": None}
    return [
        {
            "pair_id": str(number),
            "image_before": _png(2 * number, side),
            "image_after": _png(2 * number + 1, side),
            **maps,
            "captions": ["a house appears", "a new house"],
            "changed": True,
            "source": "toy",
        }
        for number in range(count)
    ]


def _digest(rows, features=FEATURES):
    return data_digest(Dataset.from_list(rows, features=features))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_same_pairs_have_the_same_digest_however_they_lie(tmp_path):
    rows = _rows()
    dataset = Dataset.from_list(rows, features=FEATURES)
    (tmp_path / "one" / "data").mkdir(parents=True)
    for part in range(2):
        path = tmp_path / "one" / "data" / f"train-{part:05d}-of-00002.parquet"
        dataset.shard(2, part, contiguous=True).to_parquet(str(path))
    dataset.save_to_disk(str(tmp_path / "saved"))
    elsewhere = [{**row, "note": "more", "image_before": {**row["image_before"], "path": "x.png"}} for row in rows]
    assert {
        _digest(rows),
        _digest(elsewhere, Features({**FEATURES, "note": Value("string")})),
        data_digest(load_pairs(tmp_path / "one", "train")),
        data_digest(load_pairs(tmp_path / "saved", "train")),
    } == {_digest(rows)}


CHANGES = {
    "order": lambda rows: rows.reverse(),
    "fewer rows": lambda rows: rows.pop(),
    "an id": lambda rows: rows[1].update(pair_id="x"),
    "a caption": lambda rows: rows[1]["captions"].__setitem__(0, "a house appeared"),
    "captions cut elsewhere": lambda rows: rows[1].update(captions=["a house appears a new house"]),
    "changed": lambda rows: rows[1].update(changed=False),
    "an image": lambda rows: rows[3].update(image_after=_png(99)),
    "the dates": lambda rows: rows[3].update(image_after=rows[3]["image_before"], image_before=rows[3]["image_after"]),
    "a map": lambda rows: rows[0].update(semantic_before=_png(1)),
    "no image": lambda rows: rows[0].update(image_before=None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_pairs_have_another_digest(change):
    rows = _rows()
    CHANGES[change](rows)
    assert _digest(rows) != _digest(_rows())


def test_large_images_count_by_their_parts_in_bytes_and_in_files(tmp_path):
    rows, other = _rows(1, side=256), _rows(1, side=256)
    pixels = np.asarray(PILImage.open(io.BytesIO(other[0]["image_before"]["bytes"]))).copy()
    pixels[128, 128] ^= 1
    stream = io.BytesIO()
    PILImage.fromarray(pixels).save(stream, "PNG")
    assert len(stream.getvalue()) > 1 << 16
    other[0]["image_before"]["bytes"] = stream.getvalue()
    assert _digest(rows) != _digest(other)
    path = tmp_path / "a.png"
    path.write_bytes(rows[0]["image_before"]["bytes"])
    named = [{**rows[0], "image_before": str(path)}]
    beside = Dataset.from_list(named, features=Features({**FEATURES, "image_before": Image()}))
    assert data_digest(beside) == _digest(rows)
    path.write_bytes(other[0]["image_before"]["bytes"])
    assert data_digest(beside) == _digest(other)


def test_files_of_a_stream_count_by_their_bytes_and_order(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1")):
        (tmp_path / name).write_bytes(content)
    one, two, three = (files_digest([tmp_path / left, tmp_path / right]) for left, right in ("ab", "cb", "ba"))
    assert one == two != three
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(65 << 20)
    empty = files_digest([large])
    with large.open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"end")
    assert files_digest([large]) != empty
