"""`rscc convert ccexpert`: what it writes, from the golden release and from generated ones of many files."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import watched
from safetensors.torch import load_file, save_file
from toys.ccexpert_release import SIDE, Weights, release_config, release_weights, write_release
from toys.word_tokenizers import byte_level_tokenizer
from transformers import AutoModel, AutoProcessor
from typer.testing import CliRunner, Result

import rscc_hf  # noqa: F401 (registers the classes)
from rscc_hf.commands.app import app
from rscc_hf.conversion import ccexpert_release
from rscc_hf.conversion.ccexpert import rename_state_dict, translate_config
from rscc_hf.processing.chat_templates_ccexpert import RELEASE_PROMPT

GOLDEN = Path(__file__).resolve().parents[3] / "shared/golden/ccexpert"
# What the golden numbers say, where rscc_hf cannot be imported.
ALONE = """
import sys
sys.modules["rscc_hf"] = None  # any import of it fails
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageTextToText
folder, golden, auto_class = sys.argv[1:]
auto = {"AutoModel": AutoModel, "AutoModelForImageTextToText": AutoModelForImageTextToText}[auto_class]
model = auto.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
assert type(model).__module__.startswith("transformers_modules"), type(model)
numbers = load_file(golden + "/golden.safetensors")
for pair in range(2):
    prompt = []
    for token in numbers[f"prompt.{pair}"].tolist():
        prompt += [model.config.image_token_id] * model.config.tokens_per_image if token == -200 else [token]
    answer = numbers[f"answer.{pair}"].tolist()
    pixels = numbers["pixel_values"][pair : pair + 1]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + answer]), pixel_values=pixels).logits[0]
    torch.testing.assert_close(logits, numbers[f"logits.{pair}"], atol=1e-4, rtol=0)
    ids = torch.tensor([prompt])
    sequences = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, max_new_tokens=12,
        eos_token_id=2, pad_token_id=2,
    )
    assert torch.equal(sequences[0, len(prompt):], numbers[f"greedy.{pair}"]), pair
print("fine")
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["convert", "ccexpert", *map(str, arguments)])


def converted(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def written(folder: Path) -> Weights:
    """All weights of a checkpoint."""
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def expected(weights: Weights, config: dict[str, Any]) -> Weights:
    """What the renaming, which the golden numbers test, makes of a release."""
    renamed = rename_state_dict(weights, translate_config(config, weights)).state_dict
    return {name: tensor for name, tensor in renamed.items() if not (config["tie_word_embeddings"] and "head" in name)}


def same(ours: Weights, theirs: Weights) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor), name


@pytest.mark.parametrize(
    ("kind", "parts", "auto_class"),
    [
        ("as it is", 1, "AutoModel"),
        pytest.param("safetensors", 3, "AutoModelForImageTextToText", marks=pytest.mark.slow),
        pytest.param("bin", 2, "AutoModel", marks=pytest.mark.slow),
    ],
)
def test_golden_numbers_without_the_package(tmp_path: Path, kind: str, parts: int, auto_class: str) -> None:
    if not GOLDEN.is_dir():
        pytest.skip("the golden numbers in ../shared are not on this machine")
    release = GOLDEN
    if kind != "as it is":
        config = json.loads((GOLDEN / "config.json").read_text())
        weights = load_file(GOLDEN / "model.safetensors")
        release = write_release(tmp_path / "release", weights, config, parts=parts, kind=kind)
    verify = ["--verify"] if kind == "bin" else []
    result = converted(release, tmp_path / "out", *verify)
    assert "Only the model was made" in result.stderr
    assert ("Loaded in a new process" in result.stdout) == bool(verify)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = watched.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "out"), str(GOLDEN), auto_class],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert done.stdout.endswith("fine\n"), done.stderr


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("kind", "parts"), [("safetensors", 1), ("safetensors", 4), ("bin", 1), ("bin", 3)])
def test_every_kind_of_folder(tmp_path: Path, kind: str, parts: int, tied: bool) -> None:
    weights = release_weights(tied=tied)
    config = release_config(tie_word_embeddings=tied)
    release = write_release(tmp_path / "release", weights, config, parts=parts, kind=kind)
    before = {path.name: path.read_bytes() for path in release.iterdir()}
    converted(release, tmp_path / "out")
    same(written(tmp_path / "out"), expected(weights, config))
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == parts
    assert (tmp_path / "out/model.safetensors.index.json").exists() == (parts > 1)
    model, info = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.bfloat16 and model.config.tie_word_embeddings == tied
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert model.config.vision_levels == [1, 2] and model.generation_config.eos_token_id == 2
    assert {path.name: path.read_bytes() for path in release.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"release", "out"}


def test_a_large_file_becomes_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, limit = release_weights(torch.float32), 8000
    release = write_release(tmp_path / "release", weights, parts=2)
    monkeypatch.setattr(ccexpert_release, "MAX_FILE_BYTES", limit)
    converted(release, tmp_path / "out")
    files = list((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 5
    for path in files:
        sizes = [tensor.nbytes for tensor in load_file(path).values()]
        assert sum(sizes) <= limit or len(sizes) == 1
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in files}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in written(tmp_path / "out").values())
    AutoModel.from_pretrained(tmp_path / "out")
    same(written(tmp_path / "out"), expected(weights, release_config()))


def test_mixed_types_stay_what_they_are(tmp_path: Path) -> None:
    weights = release_weights(torch.bfloat16)
    for name in weights:
        if "vision_resampler" in name or name.endswith("o_proj.weight"):
            weights[name] = weights[name].to(torch.float32 if "resampler" in name else torch.float16)
    weights["model.mm_projector.2.bias"] = weights["model.mm_projector.2.bias"].double()
    # strides and shared storage are no business of the numbers
    weights["model.mm_projector.2.weight"] = weights["model.mm_projector.2.weight"].t().contiguous().t()
    big = torch.randn(4, 32).to(torch.bfloat16)
    weights["model.norm.weight"], weights["model.layers.0.input_layernorm.weight"] = big[1], big[3]
    for kind in ("safetensors", "bin"):
        release = write_release(tmp_path / f"release-{kind}", weights, kind=kind)
        converted(release, tmp_path / kind)
        same(written(tmp_path / kind), expected(weights, release_config()))
        config = json.loads((tmp_path / kind / "config.json").read_text())
        sizes: dict[torch.dtype, int] = {}
        for tensor in weights.values():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
        assert f"torch.{config['dtype']}" == str(max(sizes, key=lambda dtype: sizes[dtype]))


def test_a_tied_head_that_is_there_too(tmp_path: Path) -> None:
    """`.bin` files of tied models hold it; the release overwrites it when it loads, so it must be the embedding."""
    weights = release_weights(tied=True)
    config = release_config(tie_word_embeddings=True)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    converted(write_release(tmp_path / "same", weights, config, parts=3, kind="bin"), tmp_path / "out")
    assert "lm_head.weight" not in written(tmp_path / "out")
    weights["lm_head.weight"] = weights["lm_head.weight"] + 1
    result = run(write_release(tmp_path / "other", weights, config), tmp_path / "none")
    assert result.exit_code == 1 and "lm_head.weight differs from model.embed_tokens.weight" in result.stderr
    assert not (tmp_path / "none").exists()


def test_with_a_tokenizer_it_captions_as_the_release_asks(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    tokenizer.save_pretrained(tmp_path / "words")
    weights = release_weights(words=len(tokenizer) + 8)
    release = write_release(tmp_path / "release", weights, release_config(len(tokenizer) + 8), parts=2)
    (release / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 5], "temperature": 0.7}))
    result = converted(release, tmp_path / "out", "--tokenizer", tmp_path / "words", "--verify")
    assert "it says of a made-up pair: '" in result.stdout and "Only the model" not in result.stderr

    model = AutoModel.from_pretrained(tmp_path / "out", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert processor.prompt == RELEASE_PROMPT and processor.num_image_tokens == (SIDE // 14) ** 2
    assert model.config.image_token_id == processor.image_token_id == len(tokenizer)
    assert model.generation_config.eos_token_id == [end, 2, 5] and not model.generation_config.do_sample
    pair = list(np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8))
    inputs = processor(images=[pair], return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 2 * model.config.tokens_per_image
    captions = processor.batch_decode(model.generate(**inputs, max_new_tokens=5), skip_special_tokens=True)
    assert len(captions) == 1 and "Image1" not in captions[0]


def test_the_releases_own_tokenizer_is_taken(tmp_path: Path) -> None:
    tokenizer = byte_level_tokenizer()
    words = len(tokenizer) + 3
    release = write_release(tmp_path / "release", release_weights(words=words), release_config(words))
    tokenizer.save_pretrained(release)
    converted(release, tmp_path / "out")
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.tokenizer.get_vocab().items() >= tokenizer.get_vocab().items()
    names = {source["name"] for source in json.loads((tmp_path / "out/conversion.json").read_text())["sources"]}
    assert {"tokenizer/tokenizer.json", "config.json", "model.safetensors"} <= names


def test_what_was_read_is_told(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", release_weights(), parts=2, kind="bin")
    (release / "training_args.bin").write_bytes(b"a pickle that nobody asked for")
    result = converted(release, tmp_path / "out")
    told = json.loads((tmp_path / "out/conversion.json").read_text())
    read = {path.name: path for path in release.iterdir() if path.name != "training_args.bin"}
    assert {source["name"] for source in told["sources"]} == set(read)
    for source in told["sources"]:
        content = read[source["name"]].read_bytes()
        assert source["sha256"] == hashlib.sha256(content).hexdigest() and source["bytes"] == len(content)
        assert source["sha256"] in (tmp_path / "out/README.md").read_text()
    assert "model.image_newline" in told["dropped"] and len(told["dropped"]) == 1 + 2 + 16 + 2 + 2
    assert "model.vision_resampler.layers.0.norm4.weight" in result.stderr
    for path in (tmp_path / "out").iterdir():
        if path.suffix != ".safetensors":
            assert "/home/somebody" not in path.read_text() and str(tmp_path) not in path.read_text(), path


def test_out_is_replaced_only_when_asked(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release", release_weights())
    out = tmp_path / "deep/out"
    converted(release, out)
    first = written(out)
    changed = {name: tensor * 2 for name, tensor in release_weights().items()}
    save_file(changed, release / "model.safetensors")
    result = run(release, out)
    assert result.exit_code == 1 and "exists" in result.stderr and "--overwrite" in result.stderr
    same(written(out), first)
    converted(release, out, "--overwrite")
    same(written(out), expected(changed, release_config()))
    # what is read is never replaced, nor is a folder that holds it
    for target in (release, tmp_path):
        result = run(release, target, "--overwrite")
        assert result.exit_code == 1 and (release / "model.safetensors").is_file()


def test_what_is_written_wrongly_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that loses a bit: the checksums of what was read and of what lies there differ."""
    release = write_release(tmp_path / "release", release_weights())
    honest = ccexpert_release.write_safetensors

    def flipping(path: Path, *arguments: Any) -> dict[str, str]:
        digests = honest(path, *arguments)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return digests

    monkeypatch.setattr(ccexpert_release, "write_safetensors", flipping)
    result = run(release, tmp_path / "out")
    assert result.exit_code == 1 and "was not written as it was read" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = write_release(tmp_path / "release", release_weights())
    monkeypatch.setattr(ccexpert_release.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    result = run(release, tmp_path / "out")
    assert result.exit_code == 1 and "GB free; make room" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["release"]
