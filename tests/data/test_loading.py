"""Loading pairs: parquet folders, saved folders, streams, coverage of the maps, and what is said when it fails."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, IterableDataset, Value
from PIL import Image as PILImage

from rscc_hf.data.loading import captions_of, load_pairs, split_names
from rscc_hf.data.schema import FEATURES

SIZE = 16


def _png(array):
    stream = io.BytesIO()
    PILImage.fromarray(array).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def _row(name, seed, mask=True):
    draw = np.random.default_rng(seed)
    image = lambda: _png(draw.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))  # noqa: E731
    changed = np.zeros((SIZE, SIZE), dtype=np.uint8)
    changed[: SIZE // 2] = 255
    colours = np.full((SIZE, SIZE, 3), (128, 0, 0), dtype=np.uint8)
    return {
        "pair_id": name,
        "image_before": image(),
        "image_after": image(),
        "semantic_before": _png(colours),
        "semantic_after": _png(colours),
        "change_mask": _png(changed) if mask else None,
        "captions": [f"caption {number} of {name}" for number in range(5)],
        "changed": True,
        "source": "test",
        "record": "{}",
    }


def _dataset(split, count=3, **options):
    return Dataset.from_list(
        [_row(f"{split}-{number}", number, **options) for number in range(count)],
        features=Features({**FEATURES, "record": Value("string")}),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs")
    (path / "data").mkdir()
    for split in ("train", "test"):
        dataset = _dataset(split, 4)
        for shard in range(2):
            name = f"{split}-{shard:05d}-of-00002.parquet"
            dataset.shard(2, shard, contiguous=True).to_parquet(path / "data" / name)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "pairs"
    DatasetDict(train=_dataset("train"), validation=_dataset("validation")).save_to_disk(str(path))
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_parquet_folder(folder):
    dataset = load_pairs(folder, "train")
    assert isinstance(dataset, Dataset) and dataset["pair_id"][:] == [f"train-{n}" for n in range(4)]
    assert dataset[0]["image_before"].size == (SIZE, SIZE) and dataset[0]["record"] == "{}"
    assert split_names(folder) == ["train", "test"]


def test_one_parquet_file(folder):
    dataset = load_pairs(folder / "data" / "test-00001-of-00002.parquet", "test")
    assert dataset["pair_id"][:] == ["test-2", "test-3"]


@pytest.mark.parametrize("which", ["folder", "saved"])
def test_stream_gives_the_same_rows(which, request):
    path = request.getfixturevalue(which)
    stream, dataset = load_pairs(path, "train", streaming=True), load_pairs(path, "train")
    assert isinstance(stream, IterableDataset)
    for streamed, row in zip(stream, dataset, strict=True):
        assert streamed["pair_id"] == row["pair_id"] and streamed["captions"] == row["captions"]
        assert np.array_equal(np.asarray(streamed["image_after"]), np.asarray(row["image_after"]))
    assert list(captions_of(stream)) == list(captions_of(dataset))


def test_saved_folder(saved, tmp_path):
    assert load_pairs(saved, "validation")["pair_id"][0] == "validation-0"
    assert split_names(saved) == ["train", "validation"]
    dataset = _dataset("x")
    dataset.save_to_disk(str(tmp_path / "single"))
    assert len(load_pairs(tmp_path / "single", "train")) == 3
    with pytest.raises(ValueError, match="no split 'test'; there are train"):
        load_pairs(tmp_path / "single", "test")


def test_split_that_is_not_there_names_those_that_are(folder, saved):
    with pytest.raises(ValueError, match="no split 'val'; there are train, test"):
        load_pairs(folder, "val")
    with pytest.raises(ValueError, match="no split 'test'; there are train, validation"):
        load_pairs(saved, "test")
    with pytest.raises(ValueError, match=r"no split '\*'"):
        load_pairs(folder, "*")
    with pytest.raises(ValueError, match="no split is given; name one of train, test"):
        load_pairs(folder, "")


def test_a_split_is_not_mistaken_for_a_longer_name(tmp_path):
    _dataset("train_small", 1).to_parquet(tmp_path / "train_small.parquet")
    with pytest.raises(ValueError, match="there are train_small"):
        load_pairs(tmp_path, "train")


def test_path_that_is_not_there(tmp_path):
    for missing in (tmp_path / "gone", str(tmp_path / "gone"), "./gone", "some/where/else"):
        with pytest.raises(ValueError, match="does not exist; give a folder"):
            load_pairs(missing, "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pairs"):
        load_pairs(tmp_path / "empty", "train")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="no parquet file"):
        load_pairs(tmp_path / "notes.txt", "train")


def test_hub_that_does_not_answer_is_one_sentence(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="nobody/nothing is neither a folder") as caught:
        load_pairs("nobody/nothing", "train")
    assert "\n" not in str(caught.value)


def test_revision_is_for_the_hub(folder):
    with pytest.raises(ValueError, match="leave revision out, which is for data sets on the Hub"):
        load_pairs(folder, "train", revision="main")


def test_broken_parquet_names_the_file(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1 half a file")
    with pytest.raises(ValueError, match=r"train\.parquet"):
        load_pairs(tmp_path, "train")


def test_missing_column_is_named(tmp_path):
    _dataset("train").remove_columns(["captions"]).to_parquet(tmp_path / "train.parquet")
    for streaming in (False, True):
        with pytest.raises(ValueError, match="captions"):
            load_pairs(tmp_path, "train", streaming=streaming)


def test_images_of_a_foreign_parquet_writer_are_decoded(tmp_path):
    rows = [_row("a", 0), _row("b", 1)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    for streaming in (False, True):
        dataset = load_pairs(tmp_path, "train", streaming=streaming)
        row = next(iter(dataset))
        assert isinstance(row["image_before"], PILImage.Image) and isinstance(row["change_mask"], PILImage.Image)
    assert isinstance(load_pairs(tmp_path, "train").features["semantic_after"], Image)


@pytest.mark.parametrize("streaming", [False, True])
def test_coverage_of_changes_whitens_the_rest(folder, streaming):
    full = next(iter(load_pairs(folder, "train", streaming=streaming)))
    changed = next(iter(load_pairs(folder, "train", streaming=streaming, semantic_coverage="changed")))
    for name in ("semantic_before", "semantic_after"):
        before, after = np.asarray(full[name]), np.asarray(changed[name])
        assert np.array_equal(after[: SIZE // 2], before[: SIZE // 2])
        assert (after[SIZE // 2 :] == 255).all()
    assert np.array_equal(np.asarray(full["image_before"]), np.asarray(changed["image_before"]))
    assert set(full) == set(changed)


def test_coverage_writes_maps_alone_anew(folder):
    dataset = load_pairs(folder, "train", semantic_coverage="changed")
    assert dataset.features == load_pairs(folder, "train").features
    written = [
        Path(file["filename"]) for file in dataset.cache_files if Path(file["filename"]).name.startswith("cache-")
    ]
    assert written
    for file in written:
        with pa.memory_map(str(file)) as source:
            assert not any("image" in name for name in pa.ipc.open_stream(source).schema.names)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["semantic_before", "change_mask"])
def test_coverage_fetches_nothing_from_the_web(tmp_path, monkeypatch, streaming, name):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("something was fetched"))
    row = _row("a", 0)
    row[name] = {"bytes": None, "path": "https://images.test/a.png"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=rf"pair a: {name} https://images.test/a.png is an address on the web"):
        next(iter(load_pairs(tmp_path, "train", streaming=streaming, semantic_coverage="changed")))


def test_coverage_needs_maps_and_masks(folder, tmp_path):
    _dataset("train").remove_columns(["change_mask"]).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="needs the column change_mask"):
        load_pairs(tmp_path, "train", semantic_coverage="changed")
    _dataset("test", mask=False).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(ValueError, match="test-0 has semantic_before but no change_mask"):
        load_pairs(tmp_path, "test", semantic_coverage="changed")
    with pytest.raises(ValueError, match="semantic_coverage is 'some'"):
        load_pairs(folder, "train", semantic_coverage="some")


def test_captions_need_their_column(folder):
    assert list(captions_of(load_pairs(folder, "test")))[:2] == ["caption 0 of test-0", "caption 1 of test-0"]
    with pytest.raises(ValueError, match="no column captions"):
        list(captions_of(load_pairs(folder, "test").remove_columns(["captions"])))
