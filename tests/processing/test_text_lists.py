"""Questions, names and images given as lists of any kind: one for each pair, or one sentence."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from toys.ccexpert import save_tiny_ccexpert

from rscc_hf import ChangeCaptioner
from rscc_hf.processing.pipeline_change_captioning import ChangeCaptioningPipeline

IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
PAIR = (IMAGE, IMAGE[::-1].copy())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return ChangeCaptioner.from_pretrained(save_tiny_ccexpert(tmp_path_factory.mktemp("ccexpert")), device="cpu")


@pytest.fixture(scope="module")
def pipe(checkpoint):
    return ChangeCaptioningPipeline(checkpoint.model, processor=checkpoint.processor)


def test_the_processor_takes_lists_of_any_kind(checkpoint):
    processor = checkpoint.processor
    expected = processor([PAIR] * 2, text=["a?", "b?"])["input_ids"].tolist()
    for make in (tuple, np.array, pd.Series, iter):
        batch = processor([PAIR] * 2, text=make(["a?", "b?"]), pair_ids=make(["x", "y"]))
        assert batch["input_ids"].tolist() == expected
    assert processor(text=(question for question in ("a?", "b?")))["input_ids"].tolist() == expected
    for wrong in (["a?"], ["a?"] * 4, []):
        with pytest.raises(ValueError, match="texts are given for 2 pairs"):
            processor([PAIR] * 2, text=wrong)
    with pytest.raises(ValueError, match="pair_ids is one string"):
        processor(text=["a?", "b?"], pair_ids="xy")
    turns = [[{"role": "user", "content": "<image><image>a?"}]] * 2
    for names in (["x"], "xy", np.array(["x"])):
        with pytest.raises(ValueError, match="for 2 conversations"):
            processor.apply_chat_template(turns, tokenize=True, pair_ids=names)


def test_the_pipeline_asks_each_pair_its_question(pipe):
    few = {"max_new_tokens": 2}
    expected = pipe([PAIR] * 3, text=["a?", "b?", "c?"], **few)
    for make in (tuple, np.array, pd.Series, iter):
        assert pipe([PAIR] * 3, text=make(["a?", "b?", "c?"]), **few) == expected
    for wrong in (["a?"], ["a?"] * 2, ("a?",) * 6, np.array(["a?"])):
        with pytest.raises(ValueError, match=r"text has \d values for 3 pairs"):
            pipe([PAIR] * 3, text=wrong)
    with pytest.raises(ValueError, match="inside of its dictionaries"):
        pipe(iter([PAIR] * 3), text=("a?", "b?", "c?"))


def test_the_pipeline_reads_columns_and_arrays_by_their_places(pipe, tmp_path):
    few = {"max_new_tokens": 4}
    paths = [str(tmp_path / f"{number}.png") for number in range(6)]
    for number, path in enumerate(paths):
        Image.fromarray(IMAGE * np.uint8(number)).save(path)
    pairs = [list(pair) for pair in zip(paths[:3], paths[3:], strict=True)]
    expected = pipe(pairs, **few)
    assert len({str(answer) for answer in expected}) > 1, "else an order shows nothing"
    objects = np.empty((3, 2), dtype=object)
    objects[:] = [[Image.open(path) for path in pair] for pair in pairs]
    for form in (
        pd.Series(pairs, index=[2, 0, 1]),
        pd.Series(pairs, index=["x", "y", "z"]),
        pd.DataFrame(pairs).to_numpy(),
        np.array(pairs),
        objects,
        [np.array(pair) for pair in pairs],
    ):
        assert pipe(form, **few) == expected
    for form in (pd.Series(pairs[0], index=[1, 0]), np.array(pairs[0])):
        assert pipe(form, **few) == expected[0]
    assert pipe(pd.Series([], dtype=object)) == []
    table = pd.DataFrame(pairs, columns=["before", "after"])
    with pytest.raises(ValueError, match=r"images is a DataFrame; give a list of pairs, such as list\(zip"):
        pipe(table)
    with pytest.raises(ValueError, match="images is a Series that is a row of a table; give it as a dictionary"):
        pipe(table[["after", "before"]].iloc[0])
    with pytest.raises(ValueError, match="text has a DataFrame for 2 pairs"):
        pipe(pairs[:2], text=table)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"before": IMAGE, "after": IMAGE, "image_before": IMAGE}, "before and image_before"),
        ({"images": PAIR, "image_after": IMAGE}, "images and image_after"),
        ({"images": PAIR, "before": IMAGE, "after": IMAGE}, "images and before"),
        ({"images": PAIR, "semantic_maps": PAIR, "semantic_after": IMAGE}, "semantic_maps and semantic_after"),
    ],
)
def test_an_image_that_is_given_twice_is_refused(pipe, row, words):
    with pytest.raises(ValueError, match=f"pair 'p1' has both {words}; give one of them"):
        pipe({"pair_id": "p1", **row})


def test_the_pipeline_reads_by_a_range(pipe):
    deep = tuple(date.astype(np.uint16) * 16 for date in PAIR)
    with pytest.raises(ValueError, match="value_range"):
        pipe(deep)
    few = {"max_new_tokens": 2}
    assert pipe(deep, processor_kwargs={"value_range": (0, 4080)}, **few) == pipe(PAIR, **few)
