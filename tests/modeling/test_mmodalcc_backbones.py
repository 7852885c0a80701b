"""Weights for the ResNets from elsewhere."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from rscc_hf.modeling import MModalCCForConditionalGeneration, load_backbone_weights

Make = Callable[..., MModalCCForConditionalGeneration]
SIZES = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 2, 1], "layer_type": "basic"}


def save_resnet(folder: Path, **changes: object) -> Path:
    """A ResNet of four stages with random weights and statistics, as a classifier's checkpoint."""
    torch.manual_seed(3)
    classifier = ResNetForImageClassification(ResNetConfig(**(SIZES | changes), num_labels=5))
    for name, buffer in classifier.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    classifier.save_pretrained(folder)
    return folder


def test_kept_stages_are_filled(make_model: Make, tmp_path: Path) -> None:
    model, path = make_model(), save_resnet(tmp_path)
    untouched = {name: value.clone() for name, value in model.encoder.semantic_backbone.state_dict().items()}
    load_backbone_weights(model, rgb=path)
    source = ResNetModel.from_pretrained(path).state_dict()
    filled = model.encoder.rgb_backbone.state_dict()
    assert len(filled) < len(source)
    assert all(torch.equal(value, source[name]) for name, value in filled.items())
    current = model.encoder.semantic_backbone.state_dict()
    assert all(torch.equal(value, current[name]) for name, value in untouched.items())

    load_backbone_weights(model, semantic=str(path))
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        expected = ResNetModel.from_pretrained(path).eval()(images, output_hidden_states=True).hidden_states[3]
        assert torch.equal(model.encoder.semantic_backbone.eval()(images).last_hidden_state, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_channels": 4}, "number of channels"),
        ({"hidden_sizes": [8, 16, 32, 32]}, "has .* of shape"),
        ({"depths": [1, 1, 1, 1]}, r"lacks encoder\.stages\.2\.layers\.1\..*same depths"),
        ({"depths": [1, 2, 2, 1]}, "same depths"),
        ({"hidden_sizes": [8, 16], "depths": [1, 1]}, r"lacks encoder\.stages\.2"),
        ({"layer_type": "bottleneck"}, "layer_type='bottleneck'"),
        ({"downsample_in_first_stage": True}, "downsample_in_first_stage=True"),
    ],
)
def test_other_resnets_are_refused(make_model: Make, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    model, path = make_model(), save_resnet(tmp_path, **changes)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        load_backbone_weights(model, rgb=path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_incomplete_weights_are_refused(make_model: Make, tmp_path: Path) -> None:
    path = save_resnet(tmp_path) / "model.safetensors"
    weights = load_file(path)
    del weights["resnet.encoder.stages.1.layers.0.layer.0.convolution.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks 1 weights of the rgb backbone.*stages\.1"):
        load_backbone_weights(make_model(), rgb=tmp_path)


def test_incomplete_weights_beyond_the_cut_do_not_matter(make_model: Make, tmp_path: Path) -> None:
    path = save_resnet(tmp_path) / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if ".stages.3." not in name}
    save_file(weights, path, metadata={"format": "pt"})
    load_backbone_weights(make_model(), rgb=tmp_path)


def test_a_stream_that_is_not_there(make_model: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no semantic stream"):
        load_backbone_weights(make_model(modalities="rgb"), semantic=save_resnet(tmp_path))
