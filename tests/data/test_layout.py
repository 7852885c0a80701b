"""Which files make a split: exact names, missing and double shards, two layouts at once, and what is told."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given, settings
from hypothesis import strategies as st

from rscc_hf.data.layout import read_layout
from rscc_hf.data.lists.sources import read_dataset_pairs
from rscc_hf.data.loading import load_pairs, split_names
from rscc_hf.data.shard_names import declared_splits, is_parquet, name_of, names_problem, shards_problem


def table(name):
    image = {"bytes": b"none", "path": None}
    row = {"pair_id": name, "image_before": image, "image_after": image, "captions": ["a"], "changed": True}
    return pa.Table.from_pylist([{**row, "source": "toy"}])


def fill(root, *files):
    """Writes a pair into each parquet file, called after it; other files hold a word."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.lower().endswith(".parquet"):
            pq.write_table(table(file), path)
        else:
            path.write_text("x", encoding="utf-8")
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


RIGHT = {  # files -> those of the split test, in their order
    "whole": (["test.parquet"], [0]),
    "in data": (["data/test.parquet", "data/train.parquet"], [0]),
    "shards": (["data/test-00001-of-00002.parquet", "data/test-00000-of-00002.parquet"], [1, 0]),
    "digests": (["data/test-00000-of-00002-ab12.parquet", "data/test-00001-of-00002-cd34.parquet"], [0, 1]),
    "numbered": (["test-10.parquet", *(f"test-{n}.parquet" for n in range(10))], [*range(1, 11), 0]),
    "numbered from one": (["test-1.parquet", "test-2.parquet"], [0, 1]),
    "folder": (["test/0001.parquet", "test/0000.parquet", "train/0000.parquet"], [1, 0]),
    "folder in data": (["data/test/part-7-abc.parquet"], [0]),
    "folder of shards": (["test/test-00000-of-00001.parquet"], [0]),
    "a longer name beside": (["test-hard.parquet", "test.parquet", "test-hard-00000-of-00001.parquet"][:2], [1]),
    "longer names of shards": (["test-00000-of-00001.parquet", "test-hard-00000-of-00002.parquet"], [0]),
    "capitals": (["test.PARQUET"], [0]),
    "hidden beside": (["test.parquet", "._test.parquet", ".test-00000-of-00001.parquet"], [0]),
}


@pytest.mark.parametrize("case", RIGHT)
def test_files_of_a_split(tmp_path, case):
    files, expected = RIGHT[case]
    layout = read_layout(fill(tmp_path / "a [1]*", *files))
    chosen = [file.relative_to(layout.root).as_posix() for file in layout.splits["test"]]
    assert chosen == [files[number] for number in expected] and "test" not in layout.broken


BROKEN = {
    "a shard is missing": (["data/test-00000-of-00002.parquet"], r"lacks test-00001-of-00002\.parquet: 1 of 2 shards"),
    "many are missing": (["test-00007-of-00009.parquet"], r"lacks test-00000-of-00009.parquet, .* and 5 more"),
    "two versions": (
        ["data/test-00000-of-00001.parquet", "data/test-00000-of-00002.parquet", "data/test-00001-of-00002.parquet"],
        r"two versions of test: shards of 1 \(test-00000-of-00001\.parquet\) and of 2 \(test-00000-of-00002\.par",
    ),
    "two digests": (["test-00000-of-00001-a.parquet", "test-00000-of-00001-b.parquet"], "-a.* and .*-b.* same shard"),
    "a number too high": (["test-00000-of-00001.parquet", "test-00001-of-00001.parquet"], "numbered 0 to 0"),
    "whole and shards": (["test.parquet", "test-00000-of-00001.parquet"], "test in more than one way"),
    "two cases": (["test.parquet", "test.PARQUET"], "test in more than one way"),
    "shards and numbered": (["test-0.parquet", "test-00000-of-00001.parquet"], "test in more than one way"),
    "a gap": (["test-0.parquet", "test-2.parquet"], "without a gap"),
    "years": (["test-2019.parquet", "test-2020.parquet"], "without a gap.* put them into a folder test/"),
    "top level and data": (
        ["test.parquet", "data/test-00000-of-00001.parquet"],
        "holds test twice, as test.parquet and",
    ),
    "folder and file": (["test/0.parquet", "test.parquet"], "holds test twice"),
    "folder in data and folder": (["test/0.parquet", "data/test/0.parquet"], "holds test twice"),
    "missing in a folder": (["test/part-00000-of-00002.parquet"], "lacks part-00001-of-00002"),
    "saved and parquet": (["state.json", "test.parquet"], "save_to_disk .*and parquet"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_contradict_each_other(tmp_path, case):
    files, message = BROKEN[case]
    fill(tmp_path, *files, "train.parquet")
    if "state.json" in files:
        (tmp_path / "state.json").write_text('{"_split": "test"}')
    with pytest.raises(ValueError, match=message) as caught:
        load_pairs(tmp_path, "test")
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
    with pytest.raises(ValueError, match=re.escape(str(caught.value))):
        split_names(tmp_path)
    if "state.json" not in files:
        assert len(load_pairs(tmp_path, "train")) == 1, "another split of the folder is whole"


TOLD = {
    "other kinds": (
        ["test.parquet", "test.jsonl", "data/more.csv"],
        r"also holds test\.jsonl, data/more\.csv, which are not",
    ),
    "unfinished": (["test.parquet", "test-1.parquet.part"], r"test-1\.parquet\.part, which is not read"),
    "arrow": (["test.parquet", "cache.arrow"], r"cache\.arrow"),
    "shards of another split in a folder": (["test.parquet", "old/test-00000-of-00001.parquet"], "old/test-00000"),
    "deeper": (["test/0.parquet", "test/more/1.parquet"], "test/more/1.parquet, which is not read"),
    "two places": (["test.parquet", "data/train.parquet"], r"more than one place \(test in \./ and train in data/\)"),
}


@pytest.mark.parametrize("case", TOLD)
def test_what_is_not_read_is_told(tmp_path, case, caplog):
    files, message = TOLD[case]
    for _ in range(2):
        assert len(load_pairs(fill(tmp_path, *files), "test")) == 1
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("rscc_hf")]
    assert re.search(message, told) and "\n" not in told


def test_nothing_is_told_of_an_ordinary_folder(tmp_path, caplog):
    files = (
        "README.md",
        "LICENSE",
        "picture.png",
        ".gitattributes",
        "images/a.png",
        "data/train-00000-of-00001.parquet",
    )
    load_pairs(fill(tmp_path, *files, "data/test-00000-of-00001.parquet"), "test")
    assert not [record for record in caplog.records if record.name.startswith("rscc_hf")]


def test_links_are_followed_and_one_that_leads_nowhere_is_named(tmp_path):
    fill(tmp_path / "blobs", "a.parquet")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "test-00000-of-00002.parquet").symlink_to(tmp_path / "blobs" / "a.parquet")
    (tmp_path / "copy" / "test-00001-of-00002.parquet").symlink_to(tmp_path / "blobs" / "gone")
    with pytest.raises(ValueError, match=r"test-00001-of-00002\.parquet is a link that leads nowhere"):
        load_pairs(tmp_path / "copy", "test")
    (tmp_path / "copy" / "train.parquet").symlink_to(tmp_path / "blobs" / "a.parquet")
    assert load_pairs(tmp_path / "copy", "train")["pair_id"][:] == ["a.parquet"]


def test_an_empty_file_is_named(tmp_path):
    fill(tmp_path, "test-0.parquet")
    (tmp_path / "test-1.parquet").touch()
    with pytest.raises(ValueError, match=r"test-1\.parquet is empty \(0 bytes\)"):
        load_pairs(tmp_path, "test")


CARD = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: {}\n---\n# Pairs\n"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("data/test-*", "means data/test-00000-of-00001.parquet, data/test-hard.parquet; what"),
        ("data/test-0*", None),
        ("'**/test-0*.parquet'", None),
        (
            "data/*.parquet",
            "says that test is data/.*means data/test-00000.*, data/test-hard.*what is read is data/test-00000",
        ),
        ("[data/test-hard.parquet]", "means data/test-hard.parquet; what is read is data/test-0"),
        ("gone.parquet", "gone.parquet, which is not there"),
        # from Python 3.13 on the first is one
        ("data/test**", "is data/test.., which (is a pattern that is not understood here|means .*); what is read is"),
        ("''", "is nothing, which is a pattern that is not understood here; what is read is data/test-0"),
        (".", "is a pattern that is not understood here"),
    ],
)
def test_a_card_that_names_other_files_is_told(tmp_path, caplog, path, message):
    fill(tmp_path, "data/test-00000-of-00001.parquet", "data/test-hard.parquet")
    (tmp_path / "README.md").write_text(CARD.format(path))
    load_pairs(tmp_path, "test")
    told = [record.getMessage() for record in caplog.records if record.name.startswith("rscc_hf")]
    assert told == [] if message is None else re.search(message, "".join(told))


def test_a_split_that_only_the_card_knows(tmp_path):
    fill(tmp_path, "train.parquet", "hard.parquet")
    (tmp_path / "README.md").write_text(CARD.format("hard.parquet"))
    with pytest.raises(
        ValueError, match=r"no split 'test'; there are train, hard \(README.md says it is hard.parquet"
    ):
        load_pairs(tmp_path, "test")


def test_the_output_of_a_run_in_the_folder_is_not_told(tmp_path, caplog):
    output, other = (tmp_path / "data" / name for name in ("out.jsonl", "other.jsonl"))
    fill(tmp_path, "test.parquet", "data/out.jsonl", "data/other.jsonl")
    (tmp_path / "link.jsonl").symlink_to(output)
    read_dataset_pairs(tmp_path, "test", outputs=[tmp_path / "link.jsonl", tmp_path / "out.skipped.jsonl"])
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("rscc_hf")]
    assert told.startswith(f"{tmp_path} also holds data/other.jsonl, which is not read")
    other.unlink()
    assert read_layout(tmp_path, outputs=[output]).notes == []
    assert "out.jsonl" in str(read_layout(tmp_path).notes)


def test_one_file_that_is_called_after_another_split_is_told(tmp_path, caplog):
    fill(tmp_path, "train.parquet", "scenes.parquet", "test-00000-of-00002.parquet")
    assert split_names(tmp_path / "train.parquet") == split_names(tmp_path / "scenes.parquet") == ["train"]
    assert split_names(tmp_path / "test-00000-of-00002.parquet") == ["test"]
    load_pairs(tmp_path / "scenes.parquet", "test")
    load_pairs(tmp_path / "train.parquet", "train")
    assert not [record for record in caplog.records if record.name.startswith("rscc_hf")]
    load_pairs(tmp_path / "train.parquet", "test")
    load_pairs(tmp_path / "test-00000-of-00002.parquet", "test")
    first, second = (r.getMessage() for r in caplog.records if r.name.startswith("rscc_hf"))
    assert "is called train and is read as test" in first and "one of 2 shards" in second


def test_saved_folders(tmp_path, caplog):
    rows = Dataset.from_list(table("a").to_pylist())
    DatasetDict(train=rows, test=rows).save_to_disk(tmp_path / "saved")
    rows.save_to_disk(tmp_path / "saved" / "extra")
    assert split_names(tmp_path / "saved") == ["train", "test"]
    load_pairs(tmp_path / "saved", "test")
    assert any("also holds extra, not named in dataset_dict.json" in r.getMessage() for r in caplog.records)
    next((tmp_path / "saved" / "test").glob("*.arrow")).unlink()
    with pytest.raises(ValueError, match="cannot be read as a data set of save_to_disk") as caught:
        load_pairs(tmp_path / "saved", "test")
    assert "\n" not in str(caught.value)
    rows.save_to_disk(tmp_path / "alone")
    rows.save_to_disk(tmp_path / "alone" / "test")
    assert read_layout(tmp_path / "alone").notes == [
        f"{tmp_path / 'alone'} also holds test, not named in state.json and not read."
    ]
    (tmp_path / "saved" / "dataset_dict.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset_dict\.json cannot be read"):
        split_names(tmp_path / "saved")


def test_two_saved_data_sets_in_one_folder_are_refused(tmp_path):
    rows = Dataset.from_list(table("a").to_pylist())
    DatasetDict(train=rows, test=rows).save_to_disk(tmp_path)
    rows.save_to_disk(tmp_path)
    message = re.escape("holds two data sets of save_to_disk (dataset_dict.json and state.json); keep one.")
    for way in (lambda: load_pairs(tmp_path, "train"), lambda: load_pairs(tmp_path, "test", streaming=True)):
        with pytest.raises(ValueError, match=message):
            way()
    with pytest.raises(ValueError, match=message):
        split_names(tmp_path)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["sentinel-2.parquet"], ["sentinel-2"]),
        (["levir-2022.parquet", "train.parquet"], ["train", "levir-2022"]),
        (["levir-2022.parquet", "levir.parquet"], ["levir", "levir-2022"]),
        (["levir-2021.parquet", "data/levir-2022.parquet"], ["levir-2021", "levir-2022"]),
        (["x-2.parquet", "x-2-3.parquet"], ["x-2", "x-2-3"]),
        (["scenes-0.parquet"], ["scenes"]),
        (["scenes-1.parquet", "scenes-2.parquet"], ["scenes"]),
        (["scenes/part-7.parquet"], ["scenes"]),
    ],
)
def test_a_number_alone_is_no_shard_of_what_is_no_known_split(tmp_path, files, names):
    assert split_names(fill(tmp_path, *files)) == names
    if len(names) == len(files):
        read = [next(iter(load_pairs(tmp_path, name, streaming=True).decode(False)))["pair_id"] for name in names]
        assert sorted(read) == sorted(files)


SEVERAL = {  # files that the Hub takes for one split -> whether they say so
    ("test.parquet", "test-hard.parquet"): False,
    ("data/test-00000-of-00001.parquet", "data/levir-test-00000-of-00001.parquet"): False,
    ("test/0.parquet", "test-hard/0.parquet"): False,
    ("test.parquet", "evaluation.parquet"): False,
    ("Train.parquet", "Test.parquet"): False,
    ("test-00000-of-00002.parquet", "test-00001-of-00002.parquet"): True,
    ("test_0.parquet", "test_1.parquet", "test-2.parquet"): True,
    ("0-test.parquet", "1-test.parquet"): True,
    ("test/a.parquet", "test/b.parquet", "test/test-hard.parquet"): True,
    ("a.parquet", "b.parquet", "0000.parquet"): True,
}


@pytest.mark.parametrize("files", SEVERAL)
@pytest.mark.parametrize("at", ["", "hf://datasets/org/levir-test@0a1b/"])
def test_files_that_the_hub_takes_for_one_split(files, at):
    problem = names_problem("test", [at + file for file in files])
    if SEVERAL[files]:
        assert problem is None
    else:
        assert problem == f"holds {', '.join(sorted(files))}, all of which would be its test"


def test_splits_that_a_card_declares(tmp_path):
    card = tmp_path / "README.md"
    card.write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: [a.parquet, b.parquet]\n- config_name: two\n"
        "  data_files:\n  - split: test\n    path: c.parquet\n---\n"
    )
    assert declared_splits(card) == {} == declared_splits(card, "default") == declared_splits(tmp_path / "gone")
    assert declared_splits(card, "one") == {"train": ["a.parquet", "b.parquet"]}
    assert declared_splits(card, "two") == {"test": ["c.parquet"]}


def test_a_folder_without_pairs_says_what_is_there(tmp_path):
    fill(tmp_path, "one/train-00000-of-00001.parquet", "two/train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"holds no pairs .*one/train-00000-of-00001.parquet, two/train-00000"):
        load_pairs(tmp_path, "train")


def test_shards_by_addresses():
    at = "hf://datasets/org/pairs@abc/data/"
    assert shards_problem([at + "test-00000-of-00001.parquet", at + "train.jsonl"]) is None
    assert "lacks test-00001-of-00002" in shards_problem([at + "test-00000-of-00002.parquet"])


NAMES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["test", "train", "test-hard", "val", "0"]),
    st.sampled_from(["", "-0", "-1", "-00000-of-00001", "-00000-of-00002", "-00001-of-00002", "-00000-of-00001-ab"]),
    st.sampled_from([".parquet", ".parquet", ".parquet", ".PARQUET", ".jsonl", ".parquet.part"]),
)
FOLDERS = st.sampled_from(["", "", "data/", "test/", "train/", "data/test/", "old/"])


@settings(max_examples=60, deadline=None)
@given(st.sets(st.builds("{}{}".format, FOLDERS, NAMES), min_size=1, max_size=6))
def test_every_split_has_its_files_and_every_file_one_split_or_a_word(tmp_path_factory, files):
    """No file of rows vanishes: it is in one split, in the sentence that refuses it, or told as not read."""
    root = tmp_path_factory.mktemp("layout")
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    layout = read_layout(root)
    read = [file for there in layout.splits.values() for file in there]
    assert len(read) == len(set(read)) and not set(layout.splits) & set(layout.broken)
    assert all(layout.splits.values()) and layout.names == sorted(layout.names, key=layout.names.index)
    if layout.broken:
        with pytest.raises(ValueError):
            split_names(root)
    else:
        assert split_names(root) == layout.names
    told = " ".join(layout.notes)
    for file in files:
        path = root / file
        if path in read:
            split = next(name for name, there in layout.splits.items() if path in there)
            assert split in (name_of(path).split, path.stem, Path(file).parent.name)
        elif " more" not in told and (is_parquet(file) or not file.startswith("old/")):
            assert file in told or {name_of(path).split, path.stem, Path(file).parent.name} & set(layout.broken)


@settings(max_examples=15, deadline=None)
@given(st.sets(NAMES.filter(lambda name: name.endswith("t")), min_size=1, max_size=4))
def test_every_split_that_is_named_loads(tmp_path_factory, files):
    root = fill(tmp_path_factory.mktemp("named"), *files)
    try:
        names = split_names(root)
    except ValueError:
        return
    found = [next(iter(load_pairs(root, name, streaming=True).decode(False)))["pair_id"] for name in names]
    assert set(found) <= files


def test_files_that_a_split_is_read_from_are_sources_of_its_pairs(tmp_path):
    fill(tmp_path / "ds", "data/test-00000-of-00001.parquet", "data/train.parquet")
    Dataset.from_list(table("a").to_pylist()).save_to_disk(tmp_path / "saved")
    sources = read_dataset_pairs(tmp_path / "ds", "test").sources
    assert tmp_path / "ds" / "data" / "test-00000-of-00001.parquet" in sources
    assert tmp_path / "ds" / "data" / "train.parquet" not in sources
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    assert arrow in read_dataset_pairs(tmp_path / "saved", "train").sources
