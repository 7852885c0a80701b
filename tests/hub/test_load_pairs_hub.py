"""`load_pairs` with ids of the Hub: shards by their names, columns by type, parts of splits, configurations."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

LINES = """
import json, logging, sys
import datasets
from rscc_hf.data.loading import load_pairs, split_names, stream_digest

datasets.disable_progress_bars()
said = {}
for name, split, streaming in json.loads(sys.argv[1]):
    try:
        rows = list(load_pairs("org/" + name, split, streaming=streaming))
        said[f"{name} {split} {streaming}"] = [[row["pair_id"], row["changed"], row["captions"]] for row in rows]
    except ValueError as error:
        said[f"{name} {split} {streaming}"] = str(error)
try:
    stream_digest("org/hard", "test")
except ValueError as error:
    said["hard digest"] = str(error)
said["digests"] = [stream_digest("org/good", "test"), stream_digest("org/good", "train")]
print(json.dumps(said))
"""


def shard(ids, **changes):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    image = {"bytes": stream.getvalue(), "path": None}
    row = {"image_before": image, "image_after": image, "captions": ["a"], "changed": True, "source": "x", **changes}
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"pair_id": name, **row} for name in ids]), table)
    return table.getvalue()


def test_pairs_of_the_hub(local_hub, run_python):
    card = (
        "---\nconfigs:\n- config_name: {}\n  data_files: a.parquet\n- config_name: two\n  data_files: b.parquet\n---\n"
    )
    declared = b"---\nconfigs:\n- config_name: x\n  data_files:\n  - split: test\n    path: test*.parquet\n---\n"
    half = {"data/test-00000-of-00002.parquet": shard("ab"), "data/train-00000-of-00001.parquet": shard("c")}
    repos = {
        "good": {"data/test-00000-of-00001.parquet": shard("ab"), "data/train-00000-of-00001.parquet": shard("cde")},
        "half": half,
        "text": {"test.parquet": shard("ab", captions="a house")},
        "twice": {"test.parquet": shard("aa")},
        "numbers": {"test.parquet": shard("ab", changed=1)},
        "null": {"test.parquet": shard(["a", None])},
        "hard": {"test.parquet": shard("a"), "test-hard.parquet": shard("b"), "train.parquet": shard("c")},
        "declared": {"README.md": declared, "test.parquet": shard("a"), "test-hard.parquet": shard("b")},
        "two": {"README.md": card.format("one").encode(), "a.parquet": shard("a"), "b.parquet": shard("b")},
    }
    for name, files in repos.items():
        local_hub.add_repo(f"org/{name}", "dataset", files)
    asked = [(name, "test", False) for name in repos]
    asked += [(name, "test", True) for name in ("good", "text", "numbers", "hard")]
    asked += [
        ("good", "train[:2]", False),
        ("good", "train[:2]", True),
        ("good", "val", True),
        ("half", "train", True),
        ("hard", "train", False),
    ]
    done = run_python(LINES, json.dumps(asked))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    pairs = [["a", True, ["a"]], ["b", True, ["a"]]]
    assert said["good test False"] == said["good test True"] == said["numbers test False"] == pairs
    assert said["good train[:2] False"] == [["c", True, ["a"]], ["d", True, ["a"]]]
    assert said["hard train False"] == [["c", True, ["a"]]]
    assert sorted(said["declared test False"]) == pairs
    assert said["half train True"] == [["c", True, ["a"]]]
    for case, expected in {
        "half test False": "org/half lacks test-00001-of-00002.parquet: 1 of 2 shards",
        "text test False": "org/text (test): the column captions is of type string",
        "text test True": "org/text (test): the column captions is of type string",
        "twice test False": "org/twice (test): 1 pair_ids occur twice or more, as 'a'",
        "numbers test True": "org/numbers (test): changed holds numbers",
        "null test False": "org/null (test): 1 of 2 rows have no pair_id",
        "hard test False": "org/hard holds test-hard.parquet, test.parquet, all of which would be its test; name the",
        "hard test True": "org/hard holds test-hard.parquet, test.parquet, all of which",
        "hard digest": "org/hard holds test-hard.parquet, test.parquet, all of which",
        "two test False": "org/two has more than one configuration ('one', 'two')",
        "good train[:2] True": "org/good: train[:2] cannot be streamed; name one of",
        "good val True": "org/good has no split 'val'; there are",
    }.items():
        assert said[case].startswith(expected), (case, said[case])
        assert "\n" not in said[case]
    first, second = said["digests"]
    assert first != second and len(first) == 32
