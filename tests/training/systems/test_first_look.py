"""What would end a run after an epoch or at its end is told before the first step."""

import io
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Value
from toys.pairs import toy_pairs_recipe, toy_row

from rscc_hf.data.schema import FEATURES
from rscc_hf.training.systems.mmodalcc.task import train_mmodalcc

NEVER = {"eval_unit": "never"}
STREAM = {"streaming": True, "captions": "random_choice"}
HALF_PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


def write(folder, training=None, validation=None, features=None):
    """Splits train (8) and validation (4); the changes may alter their rows."""
    kinds = Features({**FEATURES, **(features or {})})
    for split, start, size, change in (("train", 0, 8, training), ("validation", 1000, 4, validation)):
        rows = [toy_row(start + number) for number in range(size)]
        for row in rows:
            if change is not None:
                change(row)
        Dataset.from_list(rows, features=kinds).to_parquet(str(folder / f"{split}.parquet"))
    return str(folder)


def run(data, tmp_path, **changes):
    steps = []
    settings = {"eval_unit": "epochs", "metric_for_best": "bleu_4", "max_steps": 1, "patience": None, **changes}
    result = train_mmodalcc(
        toy_pairs_recipe(data, tmp_path / "out", **settings), on_step=lambda *step: steps.append(step)
    )
    return result, steps


def cut(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return {"bytes": stream.getvalue()[: len(stream.getvalue()) // 2], "path": "cut.png"}


def only(name, **values):
    """Changes the pairs of which the id ends so."""

    def change(row):
        if row["pair_id"].endswith(name):
            row.update({key: value(row) if callable(value) else value for key, value in values.items()})

    return change


REFUSED = {
    "validation without captions": (
        {"validation": only("1003", captions=[])}, {}, r"1 of 4 validation pairs have no captions \('pair-1003'\)",
    ),
    "validation with null captions": ({"validation": only("", captions=None)}, {}, r"4 of 4 .*'pair-1002', \.\.\.\)"),
    "validation with a blank caption": (
        {"validation": only("1001", captions=["a", " . "])}, {}, "Reference 2 of pair 'pair-1001'",
    ),
    "validation with changed null": ({"validation": only("1002", changed=None)}, {}, "null for 1 of 4 validation"),
    "validation without an image": ({"validation": only("1001", image_after=None)}, {}, "pair-1001"),
    "validation with half an image": (
        {"validation": only("1001", image_after=lambda row: cut(row["image_after"]))}, {}, "pair-1001.* damaged",
    ),
    "validation with one map": ({"validation": only("1001", semantic_after=None)}, {}, "pair-1001.* semantic_after"),
    "training without an image": ({"training": only("5", image_before=None)}, NEVER, "pair-5"),
    "training with no image inside": (
        {"training": only("5", image_before={"bytes": HALF_PNG, "path": None})}, NEVER, "pair-5",
    ),
    "training with half images": (
        {"training": lambda row: row.update(image_before=cut(row["image_before"]))},
        NEVER,
        r"8 of 8 pairs cannot be read \('pair-0', 'pair-1', 'pair-2', \.\.\.\); the first: .*pair-0",
    ),
    "training with half a map": (
        {"training": only("5", semantic_before=lambda row: cut(row["semantic_before"]))},
        NEVER,
        "pair-5",
    ),
    "training without maps": ({"training": only("5", semantic_before=None)}, NEVER, "pair-5.*no semantic_before"),
    "training without a mask": (
        {}, {**NEVER, "changed_coverage_epochs": 1}, "8 of 8 pairs cannot be read .* has no change_mask",
    ),
    "half an image in memory": (
        {"training": only("5", image_before=lambda row: cut(row["image_before"]))},
        {"eval_unit": "never", "cache": "memory"},
        "pair-5",
    ),
    "the first of a stream": (
        {"training": only("0", image_after=None)}, {**NEVER, **STREAM}, "pair-0",
    ),
    "changed null, of which less is seen": (
        {"training": only("5", changed=None)}, {"unchanged_share": 0.5}, "changed is null for 1 of 8 training pairs",
    ),
    "captions that are text": (
        {"training": only("", captions="a"), "validation": only("", captions="a"),
         "features": {"captions": Value("string")}}, STREAM, "captions is of type string",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_pair_that_cannot_be_used_is_told_before_the_first_step(case, tmp_path):
    data, settings, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        _, steps = run(write(tmp_path, **data), tmp_path, **settings)
        assert not steps
    assert "\n" not in str(caught.value)


FINE = {
    "source null": ({"training": lambda row: row.update(source=None)}, {}, "unknown"),
    "source of some": ({"training": only("5", source=None)}, {}, "toy, unknown"),
    "changed null that nobody needs": ({"training": only("5", changed=None)}, {}, "toy"),
    "maps of none are optional": (
        {"training": only("5", semantic_before=None, semantic_after=None)}, {"semantics_optional": True}, "toy",
    ),
    "maps that are not read": ({"training": only("5", semantic_before=None)}, {"modalities": "rgb"}, "toy"),
    "bad validation that nobody asks": ({"validation": only("", captions=[])}, NEVER, "toy"),
    "bad validation that is not chosen": (
        {"validation": only("1001", captions=[])}, {"max_validation_pairs": 2}, "toy",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FINE)
def test_what_a_run_does_not_need_may_be_missing(case, tmp_path):
    data, settings, trained_on = FINE[case]
    result, steps = run(write(tmp_path, **data), tmp_path, **settings)
    assert len(steps) == 1 and result.task._trained_on() == trained_on


def test_captions_that_are_left_out_are_counted(tmp_path, caplog):
    data = write(tmp_path, training=only("5", captions=["", "a " * 60]))
    with caplog.at_level(logging.WARNING):
        run(data, tmp_path, eval_unit="never")
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert told[0].startswith("2 of ") and "max_caption_length (50)" in told[0]
    assert told[1] == "1 of 8 training pairs have no usable caption: left out"


def test_digests_of_a_run_follow_its_data(tmp_path):
    result, _ = run(write(tmp_path), tmp_path)
    stream, _ = run(str(tmp_path), tmp_path / "stream", **STREAM, **NEVER)
    assert set(stream.task.data_digests()) == {"train_data"}
    first, streamed = result.task.data_digests(), stream.task.data_digests()
    write(tmp_path, validation=only("1001", captions=["else"]))
    second = result.task.data_digests()
    assert second["train_data"] == first["train_data"] and second["validation_data"] != first["validation_data"]
    assert stream.task.data_digests() == streamed
    write(tmp_path, training=only("5", image_after=toy_row(99)["image_after"]))
    assert result.task.data_digests() == {**first, "train_data": result.task.data_digests()["train_data"]} != first
    assert stream.task.data_digests() != streamed


@pytest.mark.parametrize("changes", [{"validation_split": "train"}, {"train_data": "one file"}, {}])
def test_validation_pairs_that_are_training_pairs_are_told(tmp_path, caplog, changes):
    data = write(tmp_path)
    if "train_data" in changes:
        (tmp_path / "train.parquet").rename(tmp_path / "scenes.parquet")
        data, changes = str(tmp_path / "scenes.parquet"), {}
        told = 1
    else:
        told = len(changes)
    run(data, tmp_path, **changes)
    assert sum("validation pairs are the training pairs" in record.getMessage() for record in caplog.records) == told


@pytest.mark.parametrize("name", ["image_after", "semantic_before", "change_mask"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_nothing_is_fetched_from_the_web(tmp_path, monkeypatch, split, name):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("something was fetched"))
    masked = only("", change_mask=lambda row: row["semantic_before"].convert("L"))
    data = write(tmp_path, masked, masked)
    table = pq.read_table(tmp_path / f"{split}.parquet")
    rows = [row | {name: {"bytes": None, "path": "https://images.test/a.png"}} for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / f"{split}.parquet")
    with pytest.raises(ValueError, match=r"https://images\.test/a\.png is an address on the web"):
        run(data, tmp_path, semantic_coverage="changed")
