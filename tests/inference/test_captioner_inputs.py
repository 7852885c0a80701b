"""What a captioner may be called with: lists of any kind, one question for each pair, a range of values."""

import io
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from datasets import Dataset
from PIL import Image
from toys.ccexpert import save_tiny_ccexpert

from rscc_hf import ChangeCaptioner
from rscc_hf.inference.captioner_inputs import listed

COUNT = 3


@pytest.fixture(scope="module")
def captioner(tiny_checkpoints):
    return ChangeCaptioner.from_pretrained(tiny_checkpoints["optional"], device="cpu")


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    return ChangeCaptioner.from_pretrained(save_tiny_ccexpert(tmp_path_factory.mktemp("ccexpert")), device="cpu")


@pytest.fixture
def files(tmp_path, write_image):
    return [[str(write_image(tmp_path / f"{d}{n}.png", seed=100 * d + n)) for n in range(COUNT)] for d in (0, 1)]


def _objects(values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


LISTS = {
    "a tuple": tuple,
    "a column of pandas": pd.Series,
    "one with an index of its own": lambda paths: pd.Series(paths, index=[7, 5, 3]),
    "an index": pd.Index,
    "strings of pandas": lambda paths: pd.Series(paths, dtype="string"),
    "strings of numpy": np.array,
    "objects of numpy": lambda paths: _objects([Path(path) for path in paths]),
    "images of Pillow in an array": lambda paths: _objects([Image.open(path) for path in paths]),
    "a generator": lambda paths: (path for path in paths),
    "keys": lambda paths: dict.fromkeys(paths).keys(),
    "a column of Arrow": lambda paths: pa.table({"path": paths})["path"],
    "a column of datasets": lambda paths: Dataset.from_dict({"path": paths})["path"],
    "bytes": lambda paths: [Path(path).read_bytes() for path in paths],
    "bytearrays": lambda paths: [bytearray(Path(path).read_bytes()) for path in paths],
    "views": lambda paths: tuple(memoryview(Path(path).read_bytes()) for path in paths),
    "files": lambda paths: [io.BytesIO(Path(path).read_bytes()) for path in paths],
    "undecoded images": lambda paths: [{"bytes": Path(path).read_bytes(), "path": None} for path in paths],
    "an array": lambda paths: np.stack([np.asarray(Image.open(path)) for path in paths]),
    "a big-endian one": lambda paths: np.stack(
        [np.asarray(Image.open(path)) * np.uint16(257) for path in paths]
    ).astype(">u2"),
    "a tensor": lambda paths: torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in paths]),
}


def test_lists_of_any_kind_say_the_same(captioner, files):
    expected = captioner(*files)
    assert len(set(expected)) > 1, "the pairs must differ for the order to be seen"
    for name, make in LISTS.items():
        assert captioner(make(files[0]), make(files[1]), batch_size=2) == expected, name
    assert captioner(pd.Series(files[0]), files[1], pair_ids=pd.Series(list("abc"))) == expected


def test_one_image_in_any_form_is_one_pair(captioner, files):
    expected = captioner(*files)[0]
    for name, make in LISTS.items():
        one = next(iter(make(files[0][:1] if "index" not in name else files[0])))
        assert listed(one, "before") is None, name
    for make in (bytearray, memoryview, io.BytesIO):
        assert captioner(*(make(Path(dates[0]).read_bytes()) for dates in files), pair_ids="west") == expected


def test_maps_that_a_table_lacks_are_none(captioner, files):
    expected = captioner(*files, [None, *files[0][1:]], [None, *files[1][1:]])
    for missing in (float("nan"), pd.NA, pd.NaT, None):
        table = pd.DataFrame({"a": [missing, *files[0][1:]], "b": [missing, *files[1][1:]]}, dtype=object)
        assert captioner(*files, table.a, table.b) == expected
    with pytest.raises(ValueError, match="image before is missing"):
        captioner(pd.Series([float("nan"), *files[0][1:]], dtype=object), files[1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda paths: set(paths), "before is a set, which has no order"),
        (lambda paths: pd.DataFrame({"path": paths}), "before is a DataFrame; give one of its columns"),
        (lambda paths: Dataset.from_dict({"path": paths}), "before is a Dataset; give one of its columns"),
        (lambda paths: pa.table({"path": paths}), "before is a Table; give one of its columns"),
        (lambda paths: np.array([path.encode() for path in paths]), "an array of bytes"),
        (lambda paths: np.arange(3), r"before has shape \(3,\)"),
        (lambda paths: torch.arange(3), r"before has shape \(3,\)"),
        (lambda paths: np.zeros((3, 2, 4, 4, 3), np.uint8), r"before has shape \(3, 2, 4, 4, 3\)"),
        (lambda paths: paths[0], "before is one image but after is a list"),
        (lambda paths: bytearray(Path(paths[0]).read_bytes()), "before is one image but after is a list"),
        (lambda paths: range(3), "is a int"),
        (lambda paths: [paths, paths, paths], "is a list"),
    ],
)
def test_what_is_no_list_of_images_gets_one_sentence(captioner, files, make, words):
    with pytest.raises(ValueError, match=words) as caught:
        captioner(make(files[0]), files[1])
    assert "\n" not in str(caught.value)


def test_a_list_where_one_is_expected_and_the_reverse(captioner, asked, files):
    before, after = files
    for call, words in (
        (lambda: captioner(before, after[0]), "after must be a list"),
        (lambda: captioner(before[0], after[0], [before[0]], [after[0]]), "semantic_before is a list"),
        (lambda: captioner(before[0], after[0], pair_ids=["a"]), "pair_ids is a list"),
        (lambda: captioner(before, after, pair_ids="abc"), "pair_ids must be a list"),
        (lambda: captioner(before, after, pair_ids=["a"]), "unequal length: 3 before, 1 pair_ids"),
        (lambda: captioner(before, after, pair_ids=["a", None, "c"]), "no name at place 1"),
        (lambda: captioner(pd.Series(before), np.array(after[:2])), "unequal length: 3 before, 2 after"),
        (lambda: asked(before[0], after[0], text=["what?"]), "text is a list"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_each_pair_gets_its_own_question(asked, files, monkeypatch):
    before, after = files
    prompts = []
    write = type(asked.processor)._prompt_of
    monkeypatch.setattr(
        type(asked.processor), "_prompt_of", lambda self, text, name: prompts.append(text) or write(self, text, name)
    )
    for questions in (
        ["roads?", "houses?", None],
        ("a?", "b?", "c?"),
        np.array(["a?", "b?", "c?"]),
        pd.Series(list("xyz")),
    ):
        for batch_size in (1, 2, 8):
            prompts.clear()
            answers = asked(before, after, text=questions, batch_size=batch_size, max_new_tokens=3)
            assert prompts == list(questions)
        each = [asked(b, a, text=t, max_new_tokens=3) for b, a, t in zip(before, after, questions, strict=True)]
        assert answers == each
    prompts.clear()
    asked(before, after, text="roads?", batch_size=2, max_new_tokens=1)
    assert prompts == ["roads?"] * 3
    for wrong in ([], ["a?"], ["a?", "b?"], ["a?"] * 4, itertools.repeat("a?", 6), np.array(["a?"])):
        for on_error in ("raise", "skip"):
            with pytest.raises(ValueError, match=r"text has \d questions for 3 pairs"):
                asked(before, after, text=wrong, on_error=on_error)
    for wrong, words in (
        (7, "text is a int"),
        ([1, 2, 3], "text has a int at place 0"),
        ([["a?"]] * 3, "a list at place 0"),
        ({"a", "b", "c"}, "no order"),
    ):
        with pytest.raises(ValueError, match=words):
            asked(before, after, text=wrong)


def test_a_bad_question_spoils_its_own_pair_alone(asked, files):
    results = asked(*files, text=["a?", "one <image>", "c?"], on_error="skip", max_new_tokens=2)
    assert [result.error is None for result in results] == [True, False, True] and "Pair 1" in results[1].error


def test_a_range_of_values_reaches_the_images(captioner, asked, files, tmp_path):
    deep = []
    for date, paths in enumerate(files):
        for n, path in enumerate(paths):
            grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16)
            Image.fromarray(grey * 16).save(tmp_path / f"deep{date}{n}.png")
            Image.fromarray(grey.astype(np.uint8)).save(tmp_path / f"grey{date}{n}.png")
    deep, grey = (
        [[tmp_path / f"{kind}{d}{n}.png" for n in range(COUNT)] for d in (0, 1)] for kind in ("deep", "grey")
    )
    for one in (captioner, asked):
        with pytest.raises(ValueError, match=r"deep00\.png has values of type uint16 .*value_range"):
            one(*deep)
        assert one(*deep, value_range=(0, 4080), max_new_tokens=3) == one(*grey, max_new_tokens=3)
        for on_error in ("raise", "skip"):
            with pytest.raises(ValueError, match="value_range is"):
                one(*deep, value_range=(5, 1), on_error=on_error)
        results = one(*deep, on_error="skip")
        assert all("--value-range" in result.error for result in results)
    results = captioner(
        [grey[0][0], deep[0][1]],
        [grey[1][0], grey[1][1]],
        value_range=(0, 4080),
        on_error="skip",
        pair_ids=["same", "same"],
    )
    assert "uint8 and taken as they are" in results[0].notes[0] and "its image before is uint16" in results[1].notes[0]
