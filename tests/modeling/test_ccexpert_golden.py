"""Parity with the authors' released code, on the numbers that it produced."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rscc_hf.conversion.ccexpert import rename_state_dict, translate_config
from rscc_hf.modeling import CCExpertForConditionalGeneration

GOLDEN = Path(__file__).resolve().parents[3] / "shared/golden/ccexpert"
IMAGE, END = 600, 2  # a placeholder outside of the vocabulary of 512
TOLERANCE = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def numbers() -> dict[str, torch.Tensor]:
    if not GOLDEN.is_dir():
        pytest.skip("the golden numbers in ../shared are not on this machine")
    return load_file(GOLDEN / "golden.safetensors")


@pytest.fixture(scope="module")
def model(numbers: dict[str, torch.Tensor]) -> CCExpertForConditionalGeneration:
    weights = {name: tensor.float() for name, tensor in load_file(GOLDEN / "model.safetensors").items()}
    config = translate_config(json.loads((GOLDEN / "config.json").read_text()), weights, image_token_id=IMAGE)
    model = CCExpertForConditionalGeneration(config).eval()
    model.load_state_dict(rename_state_dict(weights, config).state_dict)
    return model


@pytest.fixture(scope="module")
def rows(model: CCExpertForConditionalGeneration, numbers: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Each pair's prompt, with -200 expanded, and its answer."""
    rows = []
    for pair in range(2):
        prompt: list[int] = []
        for token in numbers[f"prompt.{pair}"].tolist():
            prompt += [IMAGE] * model.config.tokens_per_image if token == -200 else [token]
        answer = numbers[f"answer.{pair}"].tolist()
        rows.append(
            {
                "input_ids": torch.tensor([prompt + answer]),
                "labels": torch.tensor([[-100] * len(prompt) + answer]),
                "pixel_values": numbers["pixel_values"][pair : pair + 1],
            }
        )
    return rows


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_features(model: CCExpertForConditionalGeneration, numbers: dict[str, torch.Tensor], attention: str) -> None:
    model.set_attn_implementation(attention)
    with torch.no_grad():
        images = model.get_image_features(numbers["pixel_values"], True, True)
        integrated = model.integration(torch.stack(images.vision_features), True).images
    model.set_attn_implementation("sdpa")
    assert len(images.vision_features) == 4
    for level, features in enumerate(images.vision_features):
        torch.testing.assert_close(features.flatten(0, 1), numbers[f"vision_features.{level}"], **TOLERANCE)
    torch.testing.assert_close(integrated[:, 0], numbers["dim.image1"], **TOLERANCE)
    torch.testing.assert_close(integrated[:, 1], numbers["dim.image2"], **TOLERANCE)
    torch.testing.assert_close(images.change_features, numbers["dim.change"], **TOLERANCE)
    torch.testing.assert_close(images.image_embeds.flatten(0, 1), numbers["projected"], **TOLERANCE)


@pytest.mark.parametrize("pair", [0, 1])
def test_logits_and_loss(
    model: CCExpertForConditionalGeneration, numbers: dict[str, torch.Tensor], rows: list[dict[str, Any]], pair: int
) -> None:
    with torch.no_grad():
        output = model(**rows[pair])
    torch.testing.assert_close(output.logits[0], numbers[f"logits.{pair}"], **TOLERANCE)
    torch.testing.assert_close(output.loss[None], numbers[f"loss.{pair}"], **TOLERANCE)


@pytest.mark.parametrize("side", ["right", "left"])
def test_batch_loss(
    model: CCExpertForConditionalGeneration, numbers: dict[str, torch.Tensor], rows: list[dict[str, Any]], side: str
) -> None:
    batch: dict[str, Any] = {"pixel_values": numbers["pixel_values"]}
    longest = max(row["input_ids"].shape[1] for row in rows)
    for name, padding in (("input_ids", 0), ("labels", -100), ("attention_mask", 0)):
        padded = []
        for row in rows:
            values = row.get(name, torch.ones_like(row["input_ids"]))
            missing = longest - values.shape[1]
            sides = (0, missing) if side == "right" else (missing, 0)
            padded.append(torch.nn.functional.pad(values, sides, value=padding))
        batch[name] = torch.cat(padded)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).loss[None], numbers["batch_loss"], **TOLERANCE)


@pytest.mark.parametrize("pair", [0, 1])
def test_greedy(
    model: CCExpertForConditionalGeneration, numbers: dict[str, torch.Tensor], rows: list[dict[str, Any]], pair: int
) -> None:
    row = rows[pair]
    prompt = row["input_ids"][row["labels"] == -100][None]
    sequences = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        pixel_values=row["pixel_values"],
        max_new_tokens=12,
        eos_token_id=END,
        pad_token_id=END,
    )
    assert torch.equal(sequences[0, prompt.shape[1] :], numbers[f"greedy.{pair}"])


def test_the_checkpoint_is_saved_and_loaded_whole(
    model: CCExpertForConditionalGeneration, numbers: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    loaded, info = CCExpertForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        embeds = loaded.get_image_features(numbers["pixel_values"]).image_embeds
        assert torch.equal(embeds, model.get_image_features(numbers["pixel_values"]).image_embeds)
