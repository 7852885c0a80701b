"""The processor: captions to labels and back, and what it leaves in a folder."""

import sys

import numpy as np
import pytest
import torch
import watched
from transformers import AutoProcessor, AutoTokenizer

# transformers before 5.18 hides this class at its top level where torchvision is absent, though it needs none
from transformers.models.auto.image_processing_auto import AutoImageProcessor

import rscc_hf  # noqa: F401 (registers the classes)
from rscc_hf.data.vocabulary import build_unigram_tokenizer, build_word_tokenizer
from rscc_hf.processing.image_processing_mmodalcc import MModalCCImageProcessor
from rscc_hf.processing.processing_mmodalcc import MModalCCProcessor

CAPTIONS = ["A road is built on the left.", "some houses appear"]
SETTINGS = {
    "size": {"height": 24, "width": 32},
    "do_normalize": False,
    "semantic_resample": 0,
    "semantic_mean": [0.1, 0.2, 0.3],
    "semantic_std": [1.0, 1.0, 2.0],
    "white_to_void": False,
    "uint16_max": 4095,
    "max_image_pixels": 10**6,
    "size_tolerance": 0.05,
    "num_channels": 3,
    "semantic_num_channels": 3,
}


@pytest.fixture
def processor():
    return MModalCCProcessor(MModalCCImageProcessor(**SETTINGS), build_word_tokenizer(CAPTIONS))


def pair(seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(2)]


def test_labels_are_words_and_end_padded_with_minus_100(processor):
    labels = processor(text=CAPTIONS)["labels"]
    ids = processor.tokenizer.get_vocab()
    assert labels.dtype == torch.int64 and labels.shape == (2, 8)
    expected = [ids[word] for word in ("a", "road", "is", "built", "on", "the", "left")] + [ids["<end>"]]
    assert labels[0].tolist() == expected
    assert labels[1].tolist() == [ids["some"], ids["houses"], ids["appear"], ids["<end>"]] + [-100] * 4
    assert ids["<start>"] not in labels


def test_long_captions_are_cut_only_on_request(processor):
    labels = processor(text=CAPTIONS, max_length=3)["labels"]
    assert labels.shape == (2, 3) and (labels[:, 2] == processor.tokenizer.eos_token_id).all()
    with pytest.raises(ValueError, match="max_length"):
        processor(text=CAPTIONS, max_length=0)


def test_other_tokenizers_give_the_same_layout():
    chinese = ["左侧的森林被房屋取代", "右侧的森林被道路取代"]
    processor = MModalCCProcessor(MModalCCImageProcessor(), build_unigram_tokenizer(chinese, 40))
    labels = processor(text=chinese)["labels"]
    for row, caption in zip(labels, chinese, strict=True):
        kept = row[row != -100]
        assert kept[-1] == 2 and (kept[:-1] > 2).all()
        assert processor.decode(kept, skip_special_tokens=True) == caption


def test_images_maps_and_text_together(processor):
    batch = processor(images=[pair(0), pair(1)], semantic_maps=[None, pair(2)], text=CAPTIONS, pair_ids=["a", "b"])
    assert set(batch) == {"pixel_values", "semantic_values", "semantic_present", "labels"}
    assert batch["pixel_values"].shape == batch["semantic_values"].shape == (2, 2, 3, 24, 32)
    assert all(isinstance(tensor, torch.Tensor) for tensor in batch.values())
    arrays = processor(images=[pair(0)], text=CAPTIONS[0], return_tensors="np")
    assert all(isinstance(array, np.ndarray) for array in arrays.values()) and arrays["labels"].shape == (1, 8)
    plain = processor(images=pair(0), return_tensors=None)
    assert isinstance(plain["pixel_values"], np.ndarray) and plain["pixel_values"].shape[0] == 1


def test_settings_and_notes_pass_through(processor):
    batch = processor(images=[pair(0)], do_rescale=False, return_notes=True)
    assert batch["pixel_values"].dtype == torch.uint8 and batch["notes"] == []
    assert batch.to("cpu", torch.float16)["notes"] == []


def test_model_input_names(processor):
    assert processor.model_input_names == ["pixel_values", "semantic_values", "semantic_present"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "give images, text, or both"),
        ({"semantic_maps": [None], "text": ["a"]}, "without images"),
        ({"images": [pair(), pair()], "text": [*CAPTIONS, "a"]}, "3 captions for 2 pairs"),
        ({"text": []}, "text must be"),
        ({"text": [CAPTIONS]}, "text must be"),
        ({"images": [pair()], "pair_ids": ["x", "y"]}, "pair_ids has 2 ids"),
    ],
)
def test_wrong_calls_say_what_to_do(processor, call, message):
    with pytest.raises(ValueError, match=message):
        processor(**call)


def test_errors_name_the_pair(processor):
    with pytest.raises(ValueError, match=r"Pair 'left': image after gone\.png does not exist"):
        processor(images=[[pair()[0], "gone.png"]], pair_ids=["left"])


def test_captions_come_back(processor):
    generated = torch.tensor([[1, *processor(text=CAPTIONS[:1])["labels"][0].tolist(), 0, 0]])
    assert processor.batch_decode(generated, skip_special_tokens=True) == ["a road is built on the left"]
    assert processor.decode(generated[0], skip_special_tokens=True) == "a road is built on the left"


def test_saved_settings_come_back_without_our_package(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert {
        "processing_mmodalcc.py",
        "image_processing_mmodalcc.py",
        "change_pair_images.py",
        "change_pair.py",
        "change_pair_files.py",
        "change_pair_values.py",
        "change_pair_web.py",
        "image_processing_pairs.py",
        "change_pair_writer.py",
        "tokenizer.json",
    } <= files
    expected = processor(images=[pair()], semantic_maps=[pair(1)], text=CAPTIONS[:1], return_tensors="np")
    np.savez(tmp_path / "expected.npz", **expected)
    code = f"""
import sys; sys.modules["rscc_hf"] = None  # any import of it fails
import numpy as np
from transformers import AutoProcessor, AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor
folder = sys.argv[1]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules"), type(processor)
for name, value in {SETTINGS!r}.items():
    saved = getattr(processor.image_processor, name)
    saved = {{k: v for k, v in dict(saved).items() if v is not None}} if name == "size" else saved
    assert (list(saved) if isinstance(saved, tuple) else saved) == value, (name, saved)
draw = np.random.default_rng(0); pair = [draw.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(2)]
draw = np.random.default_rng(1); maps = [draw.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(2)]
batch = processor(images=[pair], semantic_maps=[maps], text=[{CAPTIONS[0]!r}], return_tensors="np")
for name, array in np.load(folder + "/expected.npz").items():
    assert np.array_equal(batch[name], array), name
images = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
assert np.array_equal(images([pair], return_tensors="np")["pixel_values"], batch["pixel_values"])
try:
    processor(images=[[folder + "/gone.png", pair[0]]])
except ValueError as error:
    assert error.pair == 0 and error.file.endswith("gone.png")
else:
    raise AssertionError
assert len(AutoTokenizer.from_pretrained(folder)) == {len(processor.tokenizer)}  # asks for no trust
processor.save_pretrained(folder + "/again")
print("fine")
"""
    done = watched.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("fine\n"), done.stderr
    assert {path.name for path in (tmp_path / "again").iterdir()} == files


def test_installed_classes_need_no_trust(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    for trust in (None, True):
        loaded = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=trust)
        assert type(loaded) is MModalCCProcessor and type(loaded.image_processor) is MModalCCImageProcessor
        assert loaded.image_processor.to_dict() == processor.image_processor.to_dict()
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is MModalCCImageProcessor


def test_tokenizer_of_its_own_folder_needs_no_trust(processor, tmp_path):
    processor.tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == processor.tokenizer.get_vocab()


def test_settings_can_be_changed_while_loading(processor, tmp_path):
    processor.image_processor.save_pretrained(tmp_path)
    loaded = MModalCCImageProcessor.from_pretrained(tmp_path, semantic_resample=2, size={"height": 8, "width": 8})
    assert loaded.semantic_resample == 2 and loaded([pair()])["pixel_values"].shape[-2:] == (8, 8)
