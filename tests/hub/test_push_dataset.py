"""`rscc data push`: parquet shards with a card, from whatever folder a data set lies in."""

import io
import os
import re
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import watched
from datasets import Dataset, DatasetDict, Features, Value
from huggingface_hub import DatasetCard
from PIL import Image
from typer.testing import CliRunner

from rscc_hf.commands.app import app
from rscc_hf.data.loading import load_pairs
from rscc_hf.data.schema import FEATURES
from rscc_hf.hub import push_dataset as publishing
from rscc_hf.hub.push_dataset import push_dataset

RSCC = Path(sys.executable).with_name("rscc")


@pytest.fixture
def hub(local_hub, monkeypatch):
    """The small Hub for this process too; what is pushed is loaded in a new process by a test of its own only."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", local_hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("rscc_hf.hub.upload._FIRST_WAIT", 0.0)
    monkeypatch.setattr(publishing, "_check_loads", lambda folder, stage: None)
    return local_hub


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes") / "out"
    command = ["data", "synthesize", str(out), "--pairs", "10", "--seed", "5", "--size", "64", "--workers", "1"]
    assert CliRunner().invoke(app, command).exit_code == 0
    return out


@pytest.fixture
def folder(scenes, tmp_path):
    return shutil.copytree(scenes, tmp_path / "scenes")


def rows(number, **changes):
    image = Image.new("RGB", (16, 16), (number, 0, 0))
    row = {
        "pair_id": str(number),
        "image_before": image,
        "image_after": image,
        "semantic_before": None,
        "semantic_after": None,
        "change_mask": None,
        "captions": ["a house appears", "a new house"],
        "changed": True,
        "source": "toy",
    }
    return {**row, **changes}


def write_parquet(folder, split="train", count=3, change=None):
    change = change or (lambda row: row)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pairs = Dataset.from_list([change(rows(number)) for number in range(count)], features=FEATURES)
    pairs.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return folder


def push(*arguments, fails=False):
    result = CliRunner().invoke(app, ["data", "push", *map(str, arguments)])
    assert (result.exit_code != 0) == fails, result.output
    if fails:
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        return line
    return result.stdout


def test_the_lines_of_a_user_from_push_to_pairs(local_hub, scenes, tmp_path):
    def rscc(*arguments):
        return watched.run([RSCC, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=tmp_path)

    done = rscc("data", "push", scenes, "org/scenes-mini")
    assert done.returncode == 0, done.stderr
    there = local_hub.files("org/scenes-mini")
    for path in (scenes / "data").iterdir():
        assert there[f"data/{path.name}"] == path.read_bytes(), "shards that are right go as they are"
    (code,) = re.findall(r"```python\n(.*?)```", there["README.md"].decode(), re.DOTALL)
    more = "\nprint(before.size, after.size, len(pairs), len(load_dataset('org/scenes-mini', split='test')))"
    loaded = watched.run(
        [sys.executable, "-c", code + more],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "new")},
    )
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.splitlines()[-1] == "(64, 64) (64, 64) 8 1"


def test_the_card_tells_what_was_counted(hub, folder):
    push(folder, "org/scenes")
    card = DatasetCard(hub.files("org/scenes")["README.md"].decode())
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0" and data["language"] == ["en"] and data["size_categories"] == ["n<1K"]
    assert data["task_categories"] == ["image-to-text"] and "synthetic" in data["tags"]
    files = {entry["split"]: entry["path"] for entry in data["configs"][0]["data_files"]}
    assert files["train"] == ["data/train-00000-of-00001.parquet"] and list(files) == ["train", "validation", "test"]
    changed = sum(load_pairs(folder, "train")["changed"])
    assert f"| train | 8 | {changed} | {8 - changed} | 40 |" in card.text
    assert "64x64 pixels" in card.text and "seed 5" in card.text and '"size": 64' in card.text
    captions = [caption for split in files for texts in load_pairs(folder, split)["captions"] for caption in texts]
    words = {word for caption in captions for word in caption.lower().replace(".", "").split()}
    assert f"{len(words)} different words" in card.text
    assert "Nothing in it is a photograph" in card.text


def test_a_dry_run_and_a_second_push(hub, folder):
    assert "would be made" in push(folder, "org/scenes", "--dry-run") and not hub.repos
    push(folder, "org/scenes")
    commits = len(hub.commits("org/scenes"))
    assert "is as it should be" in push(folder, "org/scenes") and len(hub.commits("org/scenes")) == commits
    hub.add_commit("org/scenes", {"data/train-00001-of-00002.parquet": b"stale", "figure.png": b"x"})
    stdout = push(folder, "org/scenes", "--dry-run")
    assert re.search(r"removed +5 B  data/train-00001-of-00002\.parquet", stdout)
    assert re.search(r"kept +1 B  figure\.png", stdout)
    push(folder, "org/scenes")
    assert "data/train-00001-of-00002.parquet" not in hub.files("org/scenes")


def test_a_saved_dataset_becomes_shards_with_its_images_inside(hub, tmp_path):
    paths = []
    for number in range(6):
        paths.append(tmp_path / "photos" / f"{number}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        Image.effect_noise((64, 64), 50 + number).convert("RGB").save(paths[-1])
    features = Features({**FEATURES, "note": Value("string")})
    made = [rows(n, image_before=str(paths[n]), image_after=str(paths[n]), note="n") for n in range(6)]
    splits = DatasetDict(
        train=Dataset.from_list(made, features=features), test=Dataset.from_list(made[:2], features=features)
    )
    splits.save_to_disk(tmp_path / "saved")
    push_dataset(tmp_path / "saved", "org/saved", shard_bytes=150_000)
    there = hub.files("org/saved")
    assert {name for name in there if name.endswith(".arrow") or "state.json" in name} == set()
    assert [name for name in there if name.startswith("data/")] == [
        "data/test-00000-of-00001.parquet",
        "data/train-00000-of-00001.parquet",
    ]
    table = pq.read_table(io.BytesIO(there["data/train-00000-of-00001.parquet"])).to_pylist()
    assert [row["image_before"]["bytes"] for row in table] == [path.read_bytes() for path in paths]
    assert [row["image_before"]["path"] for row in table] == [path.name for path in paths]
    assert not any(str(tmp_path).encode() in content for content in there.values())
    again = push_dataset(tmp_path / "saved", "org/saved", shard_bytes=150_000)
    assert {change.what for change in again.changes} == {"same"}, "the same data give the same bytes"


def test_large_files_are_cut(hub, folder):
    size = (folder / "data" / "train-00000-of-00001.parquet").stat().st_size
    push_dataset(folder, "org/scenes", shard_bytes=size // 3)
    there = hub.files("org/scenes")
    shards = sorted(name for name in there if name.startswith("data/train-"))
    assert len(shards) > 1 and shards[0].endswith(f"-of-{len(shards):05d}.parquet")
    ids = [row["pair_id"] for name in shards for row in pq.read_table(io.BytesIO(there[name])).to_pylist()]
    assert ids == load_pairs(folder, "train")["pair_id"][:]


@pytest.mark.parametrize(
    ("count", "groups", "written"), [(120, 120, "anew"), (120, 60, "as it is"), (501, 100, "anew")]
)
def test_files_over_the_limits_of_the_writer_are_cut(hub, tmp_path, count, groups, written):
    write_parquet(tmp_path, count=count)
    (path,) = (tmp_path / "data").iterdir()
    pq.write_table(pq.read_table(path), path, row_group_size=groups)
    plan = push_dataset(tmp_path, "org/groups")
    files = [content for name, content in hub.files("org/groups").items() if name.endswith(".parquet")]
    assert ([path.read_bytes()] == files) == (written == "as it is")
    assert any("goes as parquet shards" in note for note in plan.notes) == (written == "anew")
    for file in map(pq.ParquetFile, map(io.BytesIO, files)):
        rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        assert max(rows) <= 100 and sum(rows) <= 500


def spoil(folder, kind):
    """Makes a data set that must not go; what is then said."""
    if kind == "absolute image paths":
        image = io.BytesIO()
        Image.new("RGB", (8, 8)).save(image, "PNG")
        outside = {"bytes": None, "path": "/home/alice/a.png"}
        table = [rows(0, image_before=outside, image_after={"bytes": image.getvalue(), "path": None})]
        path = folder / "data" / "train-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(table, schema=FEATURES.arrow_schema), path)
        return "does not load|alice"
    if kind == "path in a source":
        write_parquet(folder, change=lambda row: {**row, "source": "/home/alice/levir"})
        return r"train-00000-of-00001\.parquet, row 0: source is the path /home/alice/levir"
    if kind == "token in a caption":
        token = "hf_" + "x" * 34
        write_parquet(folder, change=lambda row: {**row, "captions": ["fine", f"use {token}"]})
        return r"row 0: captions holds a Hugging Face token \(hf_xxxx"
    if kind == "pair without an image":
        write_parquet(folder, change=lambda row: {**row, "image_after": None})
        return "3 pairs without image_after"
    if kind == "path in the metadata":
        path = write_parquet(folder) / "data" / "train-00000-of-00001.parquet"
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"made": b"in /home/alice/work"}), path)
        return "its metadata names /home/alice/work"
    if kind == "pickle":
        write_parquet(folder)
        (folder / "cache.pkl").write_bytes(b"\x80\x04.")
        return r"cache\.pkl is a pickle"
    if kind == "cut off":
        path = write_parquet(folder) / "data" / "train-00000-of-00001.parquet"
        path.write_bytes(path.read_bytes()[:-10])
        return "is no parquet file"
    if kind == "captions as text":
        image = {"bytes": b"", "path": "a.png"}
        made = [{**rows(0, image_before=image, image_after=image), "captions": "a house"}]
        (folder / "data").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(made), folder / "data" / "train-00000-of-00001.parquet")
        return r"train-00000-of-00001\.parquet: the column captions is of type string"
    if kind == "ids twice":
        write_parquet(folder, change=lambda row: {**row, "pair_id": "same"})
        return r"\(train\): 2 pair_ids occur twice or more, as 'same', 'same'"
    if kind == "a shard is missing":
        path = write_parquet(folder) / "data" / "train-00000-of-00001.parquet"
        path.rename(path.with_name("train-00000-of-00002.parquet"))
        return r"data lacks train-00001-of-00002\.parquet"
    if kind == "two layouts":
        path = write_parquet(folder) / "data" / "train-00000-of-00001.parquet"
        shutil.copy(path, folder / "train.parquet")
        return "holds train twice"
    if kind == "no pairs":
        folder.mkdir()
        return "holds no pairs"
    if kind == "missing column":
        (folder / "data").mkdir(parents=True)
        pq.write_table(pa.table({"a": [1]}), folder / "data" / "train-00000-of-00001.parquet")
        return r"train-00000-of-00001\.parquet: the columns pair_id, image_before, .* are missing"
    assert kind == "no folder"
    return "there is no folder"


@pytest.mark.parametrize(
    "kind",
    [
        *("absolute image paths", "path in a source", "token in a caption", "pair without an image", "pickle"),
        *("cut off", "no pairs", "missing column", "path in the metadata", "no folder"),
        *("captions as text", "ids twice", "a shard is missing", "two layouts"),
    ],
)
def test_what_must_not_go_is_refused_in_one_sentence(hub, tmp_path, kind):
    folder = tmp_path / "pairs"
    expected = spoil(folder, kind)
    line = push(folder, "org/pairs", fails=True)
    assert re.search(expected, line), line
    assert not hub.repos


def test_data_that_do_not_load_are_refused(local_hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", local_hub.url)
    image = {"bytes": b"no image", "path": "a.png"}
    path = write_parquet(tmp_path / "pairs") / "data" / "train-00000-of-00001.parquet"
    table = pa.Table.from_pylist([rows(0, image_before=image, image_after=image)], schema=FEATURES.arrow_schema)
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=r"does not load in a new process .*write the data set again"):
        push_dataset(tmp_path / "pairs", "org/pairs")
    assert not local_hub.repos


def test_terms_are_told_where_a_push_would_publish(hub, tmp_path):
    folder = write_parquet(tmp_path / "levir", change=lambda row: {**row, "source": "LEVIR-CC"})
    plan = push_dataset(folder, "org/levir", dry_run=True)
    assert any("academic use" in note and "--private" in note for note in plan.notes)
    assert not any("academic use" in note for note in push_dataset(folder, "org/levir", private=True).notes)
    card = hub.files("org/levir")["README.md"].decode()
    assert "license" not in DatasetCard(card).data.to_dict() and "academic use" in card


def test_what_a_user_wrote_stays(hub, tmp_path):
    folder = write_parquet(tmp_path / "pairs")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    (folder / "LICENSE").write_text("MIT")
    push(folder, "org/pairs")
    there = hub.files("org/pairs")
    assert there["README.md"] == (folder / "README.md").read_bytes() and there["LICENSE"] == b"MIT"
    (folder / "README.md").unlink()
    push(folder, "org/pairs", "--license", "cc-by-4.0")
    first = hub.files("org/pairs")["README.md"].decode()
    assert DatasetCard(first).data.license == "cc-by-4.0"
    (folder / "README.md").write_text(first + "My own words.\n")
    push(folder, "org/pairs")
    again = hub.files("org/pairs")["README.md"].decode()
    assert again.endswith("My own words.\n") and DatasetCard(again).data.license == "cc-by-4.0"


def test_what_holds_the_same_is_written_in_the_types_of_the_schema(hub, tmp_path):
    path = write_parquet(tmp_path / "pairs") / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    numbers = pa.array([1, 0, None], pa.int8())
    table = table.set_column(table.schema.get_field_index("changed"), "changed", numbers)
    ids = table.column("pair_id").cast(pa.large_string())
    pq.write_table(table.set_column(0, "pair_id", ids).replace_schema_metadata(), path)
    (tmp_path / "pairs" / "old.PARQUET.part").write_text("x")
    plan = push_dataset(tmp_path / "pairs", "org/pairs")
    there = hub.files("org/pairs")
    (name,) = [name for name in there if name.endswith(".parquet")]
    pushed = pq.read_table(io.BytesIO(there[name]))
    assert pushed.schema.field("changed").type == pa.bool_() and pushed.schema.field("pair_id").type == pa.string()
    assert pushed.column("changed").to_pylist() == [True, False, None]
    assert any("changed is null for 1 pair, which count neither way" in note for note in plan.notes)
    assert any("also holds old.PARQUET.part, which is not read" in note for note in plan.notes)
    assert "| train | 3 | 1 | 1 |" in there["README.md"].decode()
