"""ChangeCaptioner: one pair or many, with and without maps, and what it says about what it cannot caption."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from huggingface_hub.errors import HTTPError
from PIL import Image
from safetensors.torch import load_file, save_file

from rscc_hf import Caption, ChangeCaptioner, Pair
from rscc_hf.processing.change_pair_writer import CaptionWriter

WriteImage = Callable[..., Path]


@pytest.fixture(scope="module")
def captioners(tiny_checkpoints: dict[str, Path]) -> dict[str, ChangeCaptioner]:
    return {name: ChangeCaptioner.from_pretrained(path, device="cpu") for name, path in tiny_checkpoints.items()}


@pytest.fixture
def captioner(captioners: dict[str, ChangeCaptioner]) -> ChangeCaptioner:
    return captioners["optional"]


@pytest.fixture
def files(tmp_path: Path, write_image: WriteImage) -> tuple[list[Path], list[Path]]:
    before = [write_image(tmp_path / f"before{n}.png", seed=n) for n in range(5)]
    after = [write_image(tmp_path / f"after{n}.png", seed=100 + n) for n in range(5)]
    return before, after


def test_one_pair_gives_a_string_and_lists_give_a_list_in_order(captioner, files) -> None:
    singles = [captioner(before, after) for before, after in zip(*files, strict=True)]
    assert all(isinstance(caption, str) and caption for caption in singles)
    assert len(set(singles)) > 1, "the pairs must differ for the order to be seen"
    for batch_size in (1, 2, 8):
        assert captioner(*files, batch_size=batch_size) == singles
    assert captioner([files[0][3]], [files[1][3]]) == [singles[3]]
    assert captioner([], []) == []


def test_paths_images_arrays_tensors_and_columns_say_the_same(captioner, files) -> None:
    expected = captioner(*files)
    paths = [[str(path) for path in dates] for dates in files]
    images = [[Image.open(path) for path in dates] for dates in files]
    arrays = [np.stack([np.asarray(image) for image in dates]) for dates in images]
    tensors = [torch.from_numpy(array).permute(0, 3, 1, 2) for array in arrays]
    for given in (paths, images, arrays, tensors):
        assert captioner(*given) == expected
        assert captioner(given[0][1], given[1][1]) == expected[1]
    features = Features({"before": ImageFeature(), "after": ImageFeature()})
    dataset = Dataset.from_dict({"before": paths[0], "after": paths[1]}, features=features)
    assert captioner(dataset["before"], dataset["after"], batch_size=2) == expected


def test_lists_must_have_one_of_each_for_every_pair(captioner, files) -> None:
    before, after = files
    with pytest.raises(ValueError, match="unequal length: 5 before, 4 after"):
        captioner(before, after[:4])
    with pytest.raises(ValueError, match="3 semantic_before"):
        captioner(before, after, before[:3], after)
    with pytest.raises(ValueError, match="lists of all"):
        captioner(before[0], after)
    with pytest.raises(ValueError, match="after must be a list"):
        captioner(before, after[0])


def test_a_bad_pair_stops_the_call_and_is_named(captioner, files, tmp_path) -> None:
    before, after = files
    after[3] = tmp_path / "nowhere.png"
    with pytest.raises(ValueError, match=r"3.*nowhere\.png does not exist"):
        captioner(before, after, batch_size=2)
    with pytest.raises(ValueError, match=r"'d'.*nowhere\.png"):
        captioner(before, after, pair_ids=list("abcde"), batch_size=2)


def test_skipping_gives_every_pair_its_caption_or_its_reason(captioner, files, tmp_path, write_image) -> None:
    before, after = files
    expected = captioner(before, after)
    after[0] = tmp_path / "nowhere.png"
    before[3] = tmp_path / "torn.png"
    before[3].write_bytes(after[3].read_bytes()[:200])
    after[4] = write_image(tmp_path / "wide.png", size=(64, 32))
    results = captioner(before, after, on_error="skip", batch_size=3)
    assert [result.caption for result in results] == [None, expected[1], expected[2], None, None]
    assert [result.error is None for result in results] == [False, True, True, False, False]
    for index, name in ((0, "nowhere.png"), (3, "torn.png"), (4, "wide.png")):
        assert name in results[index].error
        assert str(index) in results[index].error
        assert "\n" not in results[index].error
    assert captioner(before[0], after[0], on_error="skip").caption is None
    assert captioner(before[1], after[1], on_error="skip") == Caption(expected[1], changed=True)


def test_another_size_of_the_same_shape_is_noted(captioner, files, tmp_path, write_image, caplog) -> None:
    before, after = files
    after[1] = write_image(tmp_path / "coarse.png", size=(16, 16))
    results = captioner(before, after, on_error="skip")
    assert [bool(result.notes) for result in results] == [False, True, False, False, False]
    assert "coarse.png" in results[1].notes[0]
    assert not caplog.records, "what is returned is not logged as well"
    captioner(before, after)
    assert len(caplog.records) == 1 and "coarse.png" in caplog.text
    assert all(result.caption for result in results)


def test_pairs_with_and_without_maps_share_a_batch(captioner, files, tmp_path, write_image) -> None:
    before, after = files
    maps = [[write_image(tmp_path / f"map{d}{n}.png", seed=50 * d + n) for n in range(5)] for d in (1, 2)]
    without, with_maps = captioner(before, after), captioner(before, after, *maps)
    assert without != with_maps, "maps must matter for this test to see anything"
    some = [[path if n % 2 else None for n, path in enumerate(dates)] for dates in maps]
    mixed = captioner(before, after, *some)
    assert mixed == [with_maps[n] if n % 2 else without[n] for n in range(5)]
    assert captioner(before, after, *some, batch_size=1) == mixed
    assert captioner(before[1], after[1], maps[0][1], maps[1][1]) == with_maps[1]


def test_half_a_pair_of_maps_is_refused(captioner, files) -> None:
    before, after = files
    with pytest.raises(ValueError, match="semantic_after is missing"):
        captioner(before[0], after[0], before[0])
    halves = ([before[0], before[1]], [after[0], None])
    with pytest.raises(ValueError, match="pair 1: semantic_after is missing"):
        captioner(before[:2], after[:2], *halves)
    results = captioner(before[:2], after[:2], *halves, on_error="skip")
    assert results[0].caption and "semantic_after" in results[1].error


def test_maps_are_asked_for_and_refused_as_the_checkpoint_needs(captioners, files, monkeypatch) -> None:
    before, after = files
    assert [captioners[name].semantic_maps for name in captioners] == list(captioners)
    for captioner in captioners.values():  # neither may get as far as the model
        monkeypatch.setattr(captioner.model, "generate", lambda **_: pytest.fail("decoded"))
    for on_error in ("raise", "skip"):
        with pytest.raises(ValueError, match="needs them"):
            captioners["required"](before, after, on_error=on_error)
        with pytest.raises(ValueError, match="takes no semantic maps"):
            captioners["none"](before, after, before, after, on_error=on_error)
    monkeypatch.undo()
    assert len(captioners["none"](before, after)) == 5
    some = ([None, *before[1:]], [None, *after[1:]])
    with pytest.raises(ValueError, match="pair 0: it has no semantic maps"):
        captioners["required"](before, after, *some)
    results = captioners["required"](before, after, *some, on_error="skip")
    assert [result.caption is None for result in results] == [True, False, False, False, False]


def test_options_reach_generation(captioner, files) -> None:
    before, after = files
    assert all(len(caption.split()) == 1 for caption in captioner(before, after, max_new_tokens=1))
    beams = captioner(before, after, num_beams=4)
    assert len(beams) == 5 and beams == [captioner(b, a, num_beams=4) for b, a in zip(*files, strict=True)]
    with pytest.raises(ValueError, match=r"model\.generate for more"):
        captioner(before, after, num_return_sequences=2, num_beams=2)
    with pytest.raises(ValueError, match="no_such_option"):
        captioner(before, after, no_such_option=1, on_error="skip")
    with pytest.raises(ValueError, match="batch_size"):
        captioner(before, after, batch_size=0)
    with pytest.raises(ValueError, match="on_error"):
        captioner(before, after, on_error="ignore")


def test_modules_keep_the_mode_they_had(captioner, files) -> None:
    expected = captioner(*files)
    captioner.model.train()
    captioner.model.decoder.eval()
    try:
        modes = [module.training for module in captioner.model.modules()]
        assert captioner(*files) == expected, "dropout must be off while captions are written"
        assert [module.training for module in captioner.model.modules()] == modes
        assert {True, False} == set(modes)
    finally:
        captioner.model.eval()


def test_something_else_may_generate(captioner, files) -> None:
    """As a training run does, which has its model spread over processes."""
    writer, seen = CaptionWriter(captioner.model, captioner.processor), []
    batch = writer.join([writer.prepare(Pair("a", *(paths[0] for paths in files)))])

    def generate(inputs, **options):
        seen.append((set(inputs), options, captioner.model.training))
        return captioner.model.generate(**inputs, **options)

    captioner.model.train()
    try:
        written = writer.write(batch, generate, max_new_tokens=3)
        assert torch.equal(written, writer.write(batch, max_new_tokens=3)) and captioner.model.training
    finally:
        captioner.model.eval()
    assert seen == [(set(batch), {"max_new_tokens": 3}, False)]


class _PromptedModel(torch.nn.Module):
    """As a decoder-only checkpoint: `generate` gives prompt and answer; no maps, no `pair_ids`, no notes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(name_or_path="somebody/prompted", model_type="prompted")
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def generate(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        answers = (pixel_values[:, 0] - pixel_values[:, 1]).flatten(1).mean(1).round().long()
        return torch.cat([input_ids, answers[:, None]], dim=1)


class _PromptedProcessor:
    def __call__(self, images: list[list[np.ndarray]], return_tensors: str = "pt"):
        from transformers import BatchFeature

        if any(image is None for pair in images for image in pair):
            raise ValueError("an image is missing")
        pixels = np.stack([np.stack(pair) for pair in images]).astype(np.float32)
        prompt = np.zeros((len(images), 3), dtype=np.int64)
        return BatchFeature({"pixel_values": pixels, "input_ids": prompt}, tensor_type=return_tensors)

    def batch_decode(self, tokens: torch.Tensor, skip_special_tokens: bool) -> list[str]:
        return [f"brighter by {answer} " for answer in tokens[:, 3:].squeeze(1).tolist()]


def test_any_model_with_the_four_lines_is_captioned_with() -> None:
    captioner = ChangeCaptioner(_PromptedModel(), _PromptedProcessor())
    assert captioner.name == "somebody/prompted" and captioner.semantic_maps == "none"
    images = [np.full((4, 4, 3), value) for value in range(5)]
    zero = [np.zeros((4, 4, 3))] * 5
    assert captioner(images, zero, batch_size=2) == [f"brighter by {n}" for n in range(5)]
    results = captioner([images[0], None, images[2]], zero[:3], on_error="skip")
    assert [result.caption for result in results] == ["brighter by 0", None, "brighter by 2"]
    with pytest.raises(ValueError, match="takes no semantic maps"):
        captioner(images[0], zero[0], images[0], zero[0])


def test_what_is_no_checkpoint_is_told_in_a_sentence(tiny_checkpoints, tmp_path) -> None:
    good = tiny_checkpoints["none"]
    load = ChangeCaptioner.from_pretrained
    with pytest.raises(ValueError, match="is a file"):
        load(good / "config.json")
    with pytest.raises(ValueError, match="no config"):
        load(tmp_path)
    with pytest.raises(ValueError, match="there is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="device 'abacus' is unknown"):
        load(good, device="abacus")
    with pytest.raises(ValueError, match=r"dtype 'int8' is unknown"):
        load(good, dtype="int8")
    with pytest.raises(ValueError, match=r"revision belongs to a model on the Hub, and .* is a folder; leave it out"):
        load(good, revision="v2")

    folder = tmp_path / "copy"
    shutil.copytree(good, folder)
    weights = load_file(folder / "model.safetensors")
    removed = {name: tensor for name, tensor in weights.items() if not name.startswith("lm_head")}
    save_file(removed, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 2 weights of its model \(lm_head"):
        load(folder)
    (folder / "model.safetensors").write_bytes((good / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="copy cannot be loaded") as error:
        load(folder)
    assert "\n" not in str(error.value)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="copy cannot be loaded"):
        load(folder)
    shutil.copyfile(good / "model.safetensors", folder / "model.safetensors")
    # for which tokenizers raises a bare Exception, and the Hub's client one of its own
    damages = {"tokenizer.json": '{"model": {}}', "config.json": '{"model_type": "resnet", "depths": 1}'}
    for name, content in damages.items():
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match="copy cannot be loaded"):
            load(folder)


def test_a_hub_that_is_out_of_reach_is_told_at_once(monkeypatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise HTTPError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    with pytest.raises(ValueError, match=r"no folder nobody/nothing, and the Hub cannot be asked .*not known"):
        ChangeCaptioner.from_pretrained("nobody/nothing")


def test_pickled_weights_are_not_opened(tiny_checkpoints, tmp_path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_checkpoints["none"], folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled cannot be loaded"):
        ChangeCaptioner.from_pretrained(folder)


def test_the_fingerprint_follows_the_weights_and_not_the_folder(tiny_checkpoints, captioner, tmp_path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(tiny_checkpoints["optional"], folder)
    assert ChangeCaptioner.from_pretrained(folder).fingerprint == captioner.fingerprint
    weights = load_file(folder / "model.safetensors")
    trained = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    save_file(trained, folder / "model.safetensors", metadata={"format": "pt"})
    assert ChangeCaptioner.from_pretrained(folder).fingerprint != captioner.fingerprint


def test_number_format_and_training_data_of_a_checkpoint(tiny_checkpoints, captioner, files, tmp_path) -> None:
    assert captioner.trained_on is None and captioner.model.dtype == torch.float32
    folder = tmp_path / "synthetic"
    shutil.copytree(tiny_checkpoints["optional"], folder)
    (folder / "training_summary.json").write_text(json.dumps({"trained_on": "synthetic"}))
    half = ChangeCaptioner.from_pretrained(folder, dtype="bfloat16")
    assert half.trained_on == "synthetic" and half.model.dtype == torch.bfloat16
    assert all(half(*files))


@pytest.mark.parametrize("summary", ['{"split": ["a", "b"]}', "[1]", "{"])
def test_a_summary_that_cannot_be_used_is_a_warning(tiny_checkpoints, tmp_path, caplog, summary) -> None:
    folder = shutil.copytree(tiny_checkpoints["none"], tmp_path / "model")
    (folder / "training_summary.json").write_text(summary)
    assert ChangeCaptioner.from_pretrained(folder, device="cpu").trained_on is None
    (message,) = [record.getMessage() for record in caplog.records if record.name == "rscc_hf.checkpoint"]
    assert message.startswith(f"What {folder} was trained on is not known: ") and "training_summary.json" in message
