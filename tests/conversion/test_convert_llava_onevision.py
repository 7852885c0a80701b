"""`rscc convert llava-onevision`: from a tiny checkpoint that transformers' own class wrote."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from toys.word_tokenizers import chatml_tokenizer
from transformers import (
    AutoModel,
    AutoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)
from typer.testing import CliRunner, Result

import rscc_hf  # noqa: F401 (registers the classes)
from rscc_hf.commands.app import app
from rscc_hf.conversion import llava_onevision
from rscc_hf.processing.chat_templates_ccexpert import PAPER_PROMPT

LEVELS = ("--vision-levels", "1,2,3,4")
Weights = dict[str, torch.Tensor]


def write_onevision(folder: Path, *, tied: bool = False, shard: str = "1GB", words: bool = True) -> Path:
    tokenizer = chatml_tokenizer()
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14,
        vision_use_head=False,
    )  # fmt: skip
    text = Qwen2Config(
        hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=len(tokenizer) + 4, bos_token_id=1, eos_token_id=2, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=3,
        vision_feature_layer=-1,
        tie_word_embeddings=tied,
    )
    LlavaOnevisionForConditionalGeneration(config).to(torch.float16).save_pretrained(folder, max_shard_size=shard)
    if words:
        tokenizer.save_pretrained(folder)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["convert", "llava-onevision", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """The one line that a conversion ends with."""
    result = run(*arguments)
    assert result.exit_code == 1 and result.stdout == "", result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: ")
    return lines[0]


def written(folder: Path) -> Weights:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(("tied", "shard"), [(False, "1GB"), (True, "20KB")])
def test_a_ccexpert_to_start_from(tmp_path: Path, tied: bool, shard: str) -> None:
    source = write_onevision(tmp_path / "source", tied=tied, shard=shard)
    result = run(source, tmp_path / "out", *LEVELS)
    assert result.exit_code == 0, result.output
    assert "is new, of seed 42" in result.stderr and "verified" in result.stdout
    model, info = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    theirs = LlavaOnevisionForConditionalGeneration.from_pretrained(source, dtype=torch.float16)
    for ours, part in (
        (model.vision_tower.model, theirs.model.vision_tower),
        (model.language_model, theirs.model.language_model),
        (model.projector, theirs.model.multi_modal_projector),
        (model.lm_head, theirs.lm_head),
    ):
        expected = part.state_dict()
        assert ours.state_dict() and all(
            torch.equal(value, expected[name]) for name, value in ours.state_dict().items()
        )
    assert model.dtype == torch.float16 and model.config.tie_word_embeddings == tied
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.prompt == PAPER_PROMPT and processor.num_image_tokens == 4
    assert model.config.image_token_id == processor.image_token_id
    assert model.generation_config.eos_token_id == processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    told = json.loads((tmp_path / "out/conversion.json").read_text())
    assert {"config.json", "tokenizer/tokenizer.json"} <= {source["name"] for source in told["sources"]}
    assert told["seed"] == 42 and "onevision" in told["converter"] and str(tmp_path) not in json.dumps(told)
    assert (tmp_path / "out/README.md").is_file()
    for path in (tmp_path / "out").glob("*.json"):
        assert "/tmp" not in path.read_text() and str(tmp_path) not in path.read_text(), path


def test_the_seed_and_the_module_can_be_chosen(tmp_path: Path) -> None:
    source = write_onevision(tmp_path / "source", words=False)
    state = torch.get_rng_state()
    options = ("--vision-levels", "2,3", "--num-integration-layers", "1")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        result = run(source, tmp_path / name, *options, "--seed", seed)
        assert result.exit_code == 0 and "Only the model was made" in result.stderr, result.output
    assert torch.equal(torch.get_rng_state(), state)
    first, same, other = (written(tmp_path / name) for name in "abc")
    differ = {name for name in first if not torch.equal(first[name], other[name])}
    assert differ and all(name.startswith("integration.") for name in differ)
    assert all(torch.equal(first[name], same[name]) for name in first)
    config = json.loads((tmp_path / "a/config.json").read_text())
    assert config["vision_levels"] == [2, 3] and config["num_integration_layers"] == 1
    assert not any(".layers.3." in name for name in first if name.startswith("vision_tower"))
    told = json.loads((tmp_path / "a/conversion.json").read_text())
    assert any(".layers.3." in name for name in told["dropped"])

    result = run(source, tmp_path / "plain", "--no-integration")
    assert result.exit_code == 0 and not any("integration." in name for name in written(tmp_path / "plain"))


@pytest.mark.slow
def test_it_is_run_where_asked(tmp_path: Path) -> None:
    result = run(write_onevision(tmp_path / "source"), tmp_path / "out", *LEVELS, "--verify")
    assert result.exit_code == 0 and "it says of a made-up pair" in result.stdout, result.output


def change(folder: Path, edit: Callable[[Weights], Any]) -> None:
    weights = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def some(weights: Weights, end: str) -> str:
    return next(name for name in weights if name.endswith(end))


EDITS: dict[str, tuple[Callable[[Weights], Any], list[str]]] = {
    "missing": (
        lambda weights: [weights.pop(some(weights, end)) for end in ("lm_head.weight", "0.mlp.fc1.bias")],
        ["2 weights are missing", "lm_head.weight", "vision_tower.model.encoder.layers.0.mlp.fc1.bias"],
    ),
    "unexpected": (
        lambda weights: weights.update({"model.something": torch.zeros(1), "other": torch.zeros(1)}),
        ["2 weights do not belong", "model.something", "other"],
    ),
    "mis-shaped": (
        lambda weights: weights.update({some(weights, "linear_1.bias"): torch.zeros(3)}),
        ["projector.linear_1.bias has shape (3,), this config needs (24,)"],
    ),
    "not finite": (
        lambda weights: weights[some(weights, "linear_1.bias")].fill_(torch.nan),
        ["linear_1.bias holds 24 of 24 values that are not finite numbers"],
    ),
    "a name that cannot be": (
        lambda weights: weights.update({"\x1b[2J": torch.zeros(1)}),
        ["names that cannot be, such as '\\x1b[2J'"],
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_wrong_weights_are_listed(case: str, tmp_path: Path) -> None:
    edit, messages = EDITS[case]
    source = write_onevision(tmp_path / "source")
    change(source, edit)
    line = refused(source, tmp_path / "out", *LEVELS)
    assert all(message in line for message in messages), line
    assert not (tmp_path / "out").exists()


def test_what_is_refused(tmp_path: Path) -> None:
    source = write_onevision(tmp_path / "source")
    out = tmp_path / "out"
    assert "too low for the paper's four levels" in refused(source, out)
    assert "vision_levels" in refused(source, out, "--vision-levels", "4,9")
    assert run(source, out, "--vision-levels", "a").exit_code == 2
    assert "is an input" in refused(source, source, *LEVELS, "--overwrite")
    config = json.loads((source / "config.json").read_text())
    text = {name: value for name, value in config["text_config"].items() if name != "layer_types"}
    giant = {**config, "text_config": {**text, "num_hidden_layers": 10**9}}
    for changed, message in (
        ({**config, "model_type": "llava"}, "model_type='llava'"),
        (giant, "num_hidden_layers=1000000000"),
        ({**config, "text_config": None}, "cannot be converted"),
    ):
        (source / "config.json").write_text(json.dumps(changed))
        assert message in refused(source, out, *LEVELS)
    (source / "config.json").write_text(json.dumps(config))
    content = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(content[:-50])
    assert "model.safetensors is damaged" in refused(source, out, *LEVELS)
    (source / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, source / "pytorch_model.bin")
    assert "safetensors" in refused(source, out, *LEVELS)
    assert {path.name for path in tmp_path.iterdir()} == {"source"}


def test_a_repository_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the Hub's cache has it: a folder named by the commit, of links to blobs."""
    source = write_onevision(tmp_path / "source")
    cached = tmp_path / "cache/snapshots/0123abc"
    cached.mkdir(parents=True)
    for path in source.iterdir():
        (cached / path.name).symlink_to(path)
    asked: list[Any] = []

    def snapshot(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo_id, revision))
        assert "*.bin" not in allow_patterns
        return str(cached)

    monkeypatch.setattr(llava_onevision, "snapshot_download", snapshot)
    result = run("org/onevision", tmp_path / "out", *LEVELS, "--revision", "v1")
    assert result.exit_code == 0 and asked == [("org/onevision", "v1")], result.output
    told = json.loads((tmp_path / "out/conversion.json").read_text())
    assert told["base_model"] == "org/onevision" and told["revision"] == "0123abc"
    assert "base_model: org/onevision" in (tmp_path / "out/README.md").read_text()


def test_no_folder_and_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "there is no folder" in refused("org/nothing", tmp_path / "out")
    assert "there is no folder" in refused(tmp_path / "nowhere", tmp_path / "out")
