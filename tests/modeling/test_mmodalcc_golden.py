"""Parity with the authors' released code, on the numbers that it produced."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rscc_hf.conversion.mmodalcc import rename_state_dict
from rscc_hf.modeling import MModalCCConfig, MModalCCForConditionalGeneration, MModalCCOutput

START, END, PAD = 42, 43, 0
TOLERANCE = {"atol": 1e-5, "rtol": 0}


def golden_config(**changes: object) -> MModalCCConfig:
    backbone = {"embedding_size": 16, "hidden_sizes": [16, 32, 64], "depths": [2, 2, 3]}
    options = {
        "rgb_backbone_config": backbone,
        "semantic_backbone_config": backbone,
        "d_model": 64,
        "feature_enhancement": "parallel",
        "vocab_size": 44,
        "pad_token_id": PAD,
        "bos_token_id": START,
        "eos_token_id": END,
    }
    return MModalCCConfig(**(options | changes))


@pytest.fixture(scope="module")
def model(golden: Path) -> MModalCCForConditionalGeneration:
    config = golden_config()
    model = MModalCCForConditionalGeneration(config).eval()
    model.load_state_dict(rename_state_dict(load_file(golden / "state_dict.safetensors"), config).state_dict)
    return model


@pytest.fixture(scope="module")
def numbers(golden: Path) -> dict[str, torch.Tensor]:
    return load_file(golden / "golden.safetensors")


@pytest.fixture(scope="module")
def inputs(numbers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    images = numbers["images_uint8"].float() / 255
    return {"pixel_values": images[:, :2], "semantic_values": images[:, 2:]}


@pytest.fixture(scope="module")
def output(
    model: MModalCCForConditionalGeneration, numbers: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]
) -> MModalCCOutput:
    with torch.no_grad():
        return model(**inputs, decoder_input_ids=numbers["captions"], output_hidden_states=True)


@pytest.mark.parametrize("stream", ["rgb", "semantic"])
def test_features(output: MModalCCOutput, numbers: dict[str, torch.Tensor], stream: str) -> None:
    for index, date in enumerate(("before", "after")):
        ours = output[f"{stream}_features"][:, index]
        torch.testing.assert_close(ours, numbers[f"{stream}_features.{date}"], **TOLERANCE)


def test_memories(output: MModalCCOutput, numbers: dict[str, torch.Tensor]) -> None:
    for index, stream in enumerate(("rgb", "semantic")):
        ours = output.encoder_last_hidden_state[:, index]
        torch.testing.assert_close(ours, numbers[f"memory_{stream}"], **TOLERANCE)


def test_logits(output: MModalCCOutput, numbers: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(output.logits, numbers["logits"], **TOLERANCE)


@pytest.mark.parametrize("padding", [PAD, -100])
def test_loss(
    model: MModalCCForConditionalGeneration,
    numbers: dict[str, torch.Tensor],
    inputs: dict[str, torch.Tensor],
    padding: int,
) -> None:
    labels = numbers["captions"][:, 1:]
    with torch.no_grad():
        loss = model(**inputs, labels=labels.masked_fill(labels == PAD, padding)).loss
    torch.testing.assert_close(loss[None], numbers["loss"], **TOLERANCE)


@pytest.mark.parametrize("beams", [1, 3, 4])
def test_captions(
    model: MModalCCForConditionalGeneration, inputs: dict[str, torch.Tensor], golden: Path, beams: int
) -> None:
    """The release's search: sums of log-probabilities, finished beams leave, at most 51 steps. It is the default."""
    expected = json.loads((golden / "beam_captions.json").read_text())[str(beams)]
    sequences = model.generate(**inputs, num_beams=beams)
    captions = [[token for token in row if token not in (START, END, PAD)] for row in sequences.tolist()]
    assert captions == expected


def test_stacked_is_another_model(golden: Path, inputs: dict[str, torch.Tensor], output: MModalCCOutput) -> None:
    """The paper's wiring with the same weights gives other memories: the golden numbers tell the two apart."""
    config = golden_config(feature_enhancement="stacked")
    stacked = MModalCCForConditionalGeneration(config).eval()
    stacked.load_state_dict(rename_state_dict(load_file(golden / "state_dict.safetensors"), config).state_dict)
    with torch.no_grad():
        memory = stacked.get_encoder()(**{name: values[:2] for name, values in inputs.items()}).last_hidden_state
    assert (memory - output.encoder_last_hidden_state[:2]).abs().max() > 1e-2


def test_the_checkpoint_is_saved_and_loaded_whole(
    model: MModalCCForConditionalGeneration, inputs: dict[str, torch.Tensor], output: MModalCCOutput, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    loaded, info = MModalCCForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert loaded.config.feature_enhancement == "parallel"
    with torch.no_grad():
        memory = loaded.get_encoder()(**inputs).last_hidden_state
    assert torch.equal(memory, output.encoder_last_hidden_state)


def test_dead_weights_are_listed(golden: Path) -> None:
    dropped = rename_state_dict(load_file(golden / "state_dict.safetensors"), golden_config()).dropped
    assert {name.split(".")[0] for name in dropped} == {"encoder_feat", "decoder"}
    assert "decoder.position_encoding.pe" in dropped
    assert "encoder_feat.transformer.1.linear1.weight" in dropped
    assert "decoder.transformer.layers.0.multihead_attn2.in_proj_weight" in dropped
    assert len(dropped) == 33


def test_wrong_weights_are_refused(golden: Path) -> None:
    state = load_file(golden / "state_dict.safetensors")
    with pytest.raises(ValueError, match=r"encoder_feat\.extra\.weight"):
        rename_state_dict(state | {"encoder_feat.extra.weight": torch.zeros(1)}, golden_config())
    with pytest.raises(ValueError, match=r"encoder_image\.net\.2"):
        rename_state_dict(state | {"encoder_image.net.2.0.conv1.weight": torch.zeros(1)}, golden_config())
    with pytest.raises(ValueError, match=r"do not belong.*stages\.3"):
        rename_state_dict(state | {"encoder_image.net.7.0.conv1.weight": torch.zeros(1)}, golden_config())
    with pytest.raises(ValueError, match=r"missing.*lm_head\.bias"):
        rename_state_dict({k: v for k, v in state.items() if k != "decoder.wdc.bias"}, golden_config())
    with pytest.raises(ValueError, match=r"missing.*blocks\.2"):
        rename_state_dict(state, golden_config(num_stages=3))
    with pytest.raises(ValueError, match="has shape"):
        rename_state_dict(state | {"decoder.wdc.bias": torch.zeros(45)}, golden_config())
    with pytest.raises(ValueError, match="sine table"):
        table = state["decoder.position_encoding.pe"].roll(1, dims=0)
        rename_state_dict(state | {"decoder.position_encoding.pe": table}, golden_config())
