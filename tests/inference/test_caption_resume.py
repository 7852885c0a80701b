"""What is finished is known by what was asked, to the byte, and not by names: `caption_to_file` on toy checkpoints."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from toys.ccexpert import tiny_model, tiny_processor

from rscc_hf import ChangeCaptioner
from rscc_hf.data.lists.sources import read_dataset_pairs, read_pairs
from rscc_hf.data.schema import FEATURES
from rscc_hf.evaluation import read_predictions
from rscc_hf.inference.run import caption_to_file

WriteImage = Callable[..., Path]


@pytest.fixture
def captioner(tiny_checkpoints: dict[str, Path]) -> ChangeCaptioner:
    return ChangeCaptioner.from_pretrained(tiny_checkpoints["optional"], device="cpu")


@pytest.fixture
def listed(tmp_path: Path, write_image: WriteImage) -> Path:
    """A list of three pairs with maps, references and `changed`."""
    rows = []
    for n in range(3):
        files = {}
        for k, name in enumerate(("before", "after", "semantic_before", "semantic_after")):
            files[name] = write_image(tmp_path / "p" / name / f"{n}.png", seed=10 * k + n).relative_to(tmp_path)
        row: dict[str, Any] = {name: str(path) for name, path in files.items()}
        rows.append(row | {"pair_id": f"x{n}", "references": ["a house"], "changed": True})
    return write_rows(tmp_path / "list.jsonl", rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def edit(path: Path, number: int, **fields: Any) -> None:
    """Sets fields of a row of a list; None takes them away."""
    rows = rows_of(path)
    rows[number] = {name: value for name, value in (rows[number] | fields).items() if value is not None}
    write_rows(path, rows)


def repaint(folder: Path, name: str, write_image: WriteImage) -> None:
    write_image(folder / "p" / name / "1.png", seed=999)


# what changes between two runs, and the words in which the second one refuses
CHANGES: dict[str, tuple[Callable[[Path, Path, ChangeCaptioner, WriteImage], Any], str]] = {
    "image before": (lambda d, f, c, w: repaint(d, "before", w), "'x1' was captioned with another image before"),
    "image after": (lambda d, f, c, w: repaint(d, "after", w), "'x1' was captioned with another image after"),
    "map before": (lambda d, f, c, w: repaint(d, "semantic_before", w), "'x1' .* another semantic map before"),
    "map after": (lambda d, f, c, w: repaint(d, "semantic_after", w), "'x1' .* another semantic map after"),
    "no maps any more": (
        lambda d, f, c, w: edit(f, 1, semantic_before=None, semantic_after=None), "'x1' .* another semantic map"
    ),
    "references": (lambda d, f, c, w: edit(f, 1, references=["a road"]), "'x1' was captioned with other references"),
    "no references any more": (lambda d, f, c, w: edit(f, 1, references=None), "'x1' .* other references"),
    "one reference more": (lambda d, f, c, w: edit(f, 2, references=["a house", "a"]), "'x2' .* other references"),
    "changed": (lambda d, f, c, w: edit(f, 1, changed=False), "'x1' was captioned with another value of changed"),
    "not changed any more": (lambda d, f, c, w: edit(f, 1, changed=None), "'x1' .* another value of changed"),
    "other file": (lambda d, f, c, w: edit(f, 1, before="p/before/0.png"), "'x1' has other images"),
    "file gone": (lambda d, f, c, w: (d / "p/after/1.png").unlink(), "'x1' was captioned with another image after"),
    "range of values": (
        lambda d, f, c, w: setattr(c.processor.image_processor, "uint16_max", 10000), "other settings of reading"
    ),
    "normalisation": (
        lambda d, f, c, w: setattr(c.processor.image_processor, "do_normalize", False), "other settings of reading"
    ),
    "size": (
        lambda d, f, c, w: setattr(c.processor.image_processor, "size", {"height": 16, "width": 16}),
        "other settings of reading",
    ),
    "one weight": (lambda d, f, c, w: c.model.lm_head.bias.data[3].add_(1), "other weights of the model"),
    "a default of decoding": (
        lambda d, f, c, w: setattr(c.model.generation_config, "num_beams", 2), "other defaults of decoding"
    ),
    "dtype": (lambda d, f, c, w: c.model.to(torch.bfloat16), "with other settings"),
    "a word of the tokenizer": (lambda d, f, c, w: c.processor.tokenizer.add_tokens("new"), "another prompt or token"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_of_anything_that_was_asked_is_refused(
    tiny_checkpoints, captioner, listed, tmp_path, write_image, case
) -> None:
    output = tmp_path / "out.jsonl"
    caption_to_file(captioner, read_pairs(listed), output)
    done = output.read_bytes()
    change, message = CHANGES[case]
    change(tmp_path, listed, captioner, write_image)
    with pytest.raises(ValueError, match=rf"line \d: .*{message}|line 1 was written {message}") as error:
        caption_to_file(captioner, read_pairs(listed), output)
    assert str(error.value).endswith("choose another output or overwrite it (--overwrite).")
    assert output.read_bytes() == done


# what may change: the captions would be the same
KEPT: dict[str, Callable[[Path, Path, ChangeCaptioner], Any]] = {
    "nothing": lambda d, f, c: None,
    "the order of the list": lambda d, f, c: write_rows(f, rows_of(f)[::-1]),
    "a column that is not used": lambda d, f, c: edit(f, 1, comment="x"),
    "how large an image may be": lambda d, f, c: setattr(c.processor.image_processor, "max_image_pixels", 10**6),
    "times of the files": lambda d, f, c: (d / "p/before/1.png").touch(),
    "another name of the same weights": lambda d, f, c: setattr(c, "name", "elsewhere"),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_changes_no_caption_is_continued(captioner, listed, tmp_path, case) -> None:
    output = tmp_path / "out.jsonl"
    caption_to_file(captioner, read_pairs(listed), output)
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:2]))
    KEPT[case](tmp_path, listed, captioner)
    summary = caption_to_file(captioner, read_pairs(listed), output)
    assert (summary.written, summary.already) == (1, 2)
    row, expected = json.loads(output.read_bytes().splitlines()[2]), json.loads(lines[2])
    assert row | {"model": ""} == expected | {"model": ""}


def test_a_default_that_is_given_otherwise_does_not_matter(captioner, listed, tmp_path) -> None:
    output = tmp_path / "out.jsonl"
    caption_to_file(captioner, read_pairs(listed), output, num_beams=2)
    captioner.model.generation_config.num_beams = 3
    assert caption_to_file(captioner, read_pairs(listed), output, num_beams=2).already == 3


def test_maps_that_are_not_used_do_not_matter(captioner, listed, tmp_path, write_image) -> None:
    output = tmp_path / "out.jsonl"
    caption_to_file(captioner, read_pairs(listed), output, with_maps=False)
    repaint(tmp_path, "semantic_before", write_image)
    assert caption_to_file(captioner, read_pairs(listed), output, with_maps=False).already == 3


def test_another_folder_with_the_same_names_is_refused_and_a_moved_one_continued(
    captioner, tmp_path, write_image
) -> None:
    for folder, seed in (("one", 0), ("two", 50)):
        for n in range(3):
            write_image(tmp_path / folder / "A" / f"{n}.png", seed=seed + n)
            write_image(tmp_path / folder / "B" / f"{n}.png", seed=seed + 10 + n)
    output = tmp_path / "out.jsonl"
    caption_to_file(captioner, read_pairs(tmp_path / "one"), output)
    with pytest.raises(ValueError, match="pair '0' was captioned with another image before"):
        caption_to_file(captioner, read_pairs(tmp_path / "two"), output)
    shutil.move(tmp_path / "one", tmp_path / "moved")
    assert caption_to_file(captioner, read_pairs(tmp_path / "moved"), output).already == 3


def test_a_model_made_in_python_is_known_by_its_weights(tiny_checkpoints, captioner, listed, tmp_path) -> None:
    output = tmp_path / "out.jsonl"
    first = ChangeCaptioner(captioner.model, captioner.processor, name="mine")
    caption_to_file(first, read_pairs(listed), output)
    assert caption_to_file(first, read_pairs(listed), output).already == 3
    other = ChangeCaptioner.from_pretrained(tiny_checkpoints["required"], device="cpu")
    with pytest.raises(ValueError, match="other weights of the model"):
        caption_to_file(ChangeCaptioner(other.model, captioner.processor, name="mine"), read_pairs(listed), output)


def test_the_config_of_a_model_made_in_python_counts_but_not_who_wrote_it(captioner, listed, tmp_path) -> None:
    output = tmp_path / "out.jsonl"
    mine = ChangeCaptioner(captioner.model, captioner.processor, name="mine")
    caption_to_file(mine, read_pairs(listed), output)
    mine.model.config.name_or_path = "elsewhere"
    assert caption_to_file(mine, read_pairs(listed), output).already == 3
    mine.model.config.decoder_attention_heads *= 2  # the weights are of the same shapes
    with pytest.raises(ValueError, match="another config of the model"):
        caption_to_file(mine, read_pairs(listed), output)


def test_another_prompt_is_refused_and_the_use_of_a_model_changes_nothing(listed, tmp_path) -> None:
    processor = tiny_processor()
    captioner = ChangeCaptioner(tiny_model(processor), processor, name="mine")
    output = tmp_path / "out.jsonl"
    pairs, options = read_pairs(listed), {"with_maps": False, "max_new_tokens": 3}
    caption_to_file(captioner, pairs, output, batch_size=2, **options)
    image = listed.parent / "p" / "before" / "0.png"
    captioner([image, image], [image, image], text="what has been built here?", max_new_tokens=3)
    assert caption_to_file(captioner, pairs, output, batch_size=1, **options).already == 3
    with pytest.raises(ValueError, match="with other settings"):
        caption_to_file(captioner, pairs, output, text="what?", **options)
    processor.prompt = processor.prompt.replace("What difference", "Which difference")
    with pytest.raises(ValueError, match="another prompt or tokenizer"):
        caption_to_file(captioner, pairs, output, **options)
    again = tiny_processor()
    again.system_message = "You are brief."
    with pytest.raises(ValueError, match="another prompt or tokenizer"):
        caption_to_file(ChangeCaptioner(captioner.model, again, name="mine"), pairs, output, **options)


def test_another_data_set_with_the_same_ids_is_refused(captioner, tmp_path, write_image) -> None:
    def save(name: str, seed: int) -> Path:
        def image(n: int) -> dict[str, Any]:
            return {"bytes": write_image(tmp_path / "x.png", seed=n).read_bytes(), "path": None}

        rows = [
            {"pair_id": f"p{n}", "image_before": image(seed + n), "image_after": image(seed + 10 + n),
             "semantic_before": None, "semantic_after": None, "change_mask": None,
             "captions": ["a house"], "changed": True, "source": "x"} for n in range(2)
        ]  # fmt: skip
        Dataset.from_list(rows, features=FEATURES).to_parquet(tmp_path / name / "data" / "test.parquet")
        return tmp_path / name

    output = tmp_path / "out.jsonl"
    caption_to_file(captioner, read_dataset_pairs(save("one", 0), "test"), output)
    assert caption_to_file(captioner, read_dataset_pairs(save("same", 0), "test"), output).already == 2
    with pytest.raises(ValueError, match="pair 'p0' was captioned with another image before"):
        caption_to_file(captioner, read_dataset_pairs(save("two", 50), "test"), output)


def test_an_output_of_an_older_version_is_scored_but_not_continued(captioner, listed, tmp_path) -> None:
    output = tmp_path / "out.jsonl"
    caption_to_file(captioner, read_pairs(listed), output)
    rows = rows_of(output)
    write_rows(output, [{name: value for name, value in row.items() if name != "inputs"} for row in rows])
    with pytest.raises(ValueError, match=r"line 1 was written by an older version, .* \(--overwrite\)\."):
        caption_to_file(captioner, read_pairs(listed), output)
    assert read_predictions(output).pair_ids == ["x0", "x1", "x2"]
    assert caption_to_file(captioner, read_pairs(listed), output, overwrite=True).written == 3
    assert rows_of(output) == rows


def test_settings_that_cannot_be_written_down_are_refused_at_once(captioner, listed, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"the settings cannot be written into .*out\.jsonl"):
        caption_to_file(captioner, read_pairs(listed), tmp_path / "out.jsonl", streamer=object())
    assert not (tmp_path / "out.jsonl").exists()
    output = tmp_path / "tuple.jsonl"
    for already in (0, 3):  # a tuple comes back as a list
        run = caption_to_file(captioner, read_pairs(listed), output, suppress_tokens=(1, 2))
        assert run.already == already
