"""Pairs with and without semantic maps."""

from collections.abc import Callable

import pytest
import torch

from rscc_hf.modeling import MModalCCForConditionalGeneration

Make = Callable[..., MModalCCForConditionalGeneration]
Inputs = Callable[..., dict[str, torch.Tensor]]
PRESENT = torch.tensor([True, False, True])


@torch.no_grad()
def test_a_mixed_batch_equals_one_at_a_time(make_model: Make, make_inputs: Inputs) -> None:
    model, inputs = make_model(semantics_optional=True), make_inputs()
    words = torch.tensor([[1, 5, 7]] * 3)
    mixed = model(**inputs, semantic_present=PRESENT, decoder_input_ids=words)
    for index, present in enumerate(PRESENT.tolist()):
        one = {name: value[index : index + 1] for name, value in inputs.items() if present or name == "pixel_values"}
        alone = model(**one, decoder_input_ids=words[:1])
        torch.testing.assert_close(mixed.logits[index], alone.logits[0], atol=1e-5, rtol=1e-5)
    kwargs = {"num_beams": 3, "max_new_tokens": 6}
    captions = model.generate(**inputs, semantic_present=PRESENT, **kwargs)
    alone = model.generate(pixel_values=inputs["pixel_values"][1:2], **kwargs)
    assert torch.equal(captions[1, : alone.shape[1]], alone[0])


def test_what_fills_absent_maps_is_never_read(make_model: Make, make_inputs: Inputs) -> None:
    """Neither the loss, nor gradients, nor batch-norm statistics know it, in training too."""
    results = []
    for filler in (0.0, 1.0, float("nan"), float("inf")):
        model, inputs = make_model(semantics_optional=True), make_inputs()
        inputs["semantic_values"][1] = filler
        torch.manual_seed(7)
        loss = model.train()(**inputs, semantic_present=PRESENT, labels=torch.tensor([[5, 7, 2]] * 3)).loss
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        assert all(gradient is not None for gradient in gradients.values())
        results.append((loss.detach(), gradients, dict(model.named_buffers())))
    for loss, gradients, buffers in results[1:]:
        assert torch.equal(loss, results[0][0])
        for name, value in gradients.items():
            assert torch.equal(value, results[0][1][name]), name
        for name, value in buffers.items():
            assert torch.equal(value, results[0][2][name]), name


def test_without_any_map_the_semantic_encoder_rests(make_model: Make, make_inputs: Inputs) -> None:
    model, inputs = make_model(semantics_optional=True).train(), make_inputs()
    calls = []
    model.encoder.semantic_backbone.register_forward_pre_hook(lambda *_: calls.append(1))
    labels = torch.tensor([[5, 7, 2]] * 3)
    model(pixel_values=inputs["pixel_values"], labels=labels).loss.backward()
    model(**inputs, semantic_present=torch.zeros(3, dtype=torch.bool), labels=labels).loss.backward()
    assert not calls
    assert model.encoder.enhancement.missing_semantic.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in model.encoder.semantic_backbone.parameters())


@torch.no_grad()
def test_absent_is_not_black(make_model: Make, make_inputs: Inputs) -> None:
    model, inputs = make_model(semantics_optional=True), make_inputs(maps=False)
    black = model.get_encoder()(**inputs, semantic_values=torch.zeros(3, 2, 3, 32, 32)).last_hidden_state
    absent = model.get_encoder()(**inputs).last_hidden_state
    assert (black - absent).abs().max() > 1e-2


@torch.no_grad()
def test_models_that_need_maps_refuse_pairs_without(make_model: Make, make_inputs: Inputs) -> None:
    model, inputs = make_model(), make_inputs()
    with pytest.raises(ValueError, match="semantic_values are missing"):
        model.generate(pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match="semantic_values are missing"):
        model.get_encoder()(**inputs, semantic_present=PRESENT)
    everything = model.get_encoder()(**inputs, semantic_present=torch.ones(3, dtype=torch.bool))
    assert torch.equal(everything.last_hidden_state, model.get_encoder()(**inputs).last_hidden_state)


@torch.no_grad()
def test_wrong_inputs_are_named(make_model: Make, make_inputs: Inputs) -> None:
    encoder, inputs = make_model(semantics_optional=True).get_encoder(), make_inputs()
    with pytest.raises(ValueError, match="semantic_present has shape"):
        encoder(**inputs, semantic_present=PRESENT[:2])
    with pytest.raises(ValueError, match="semantic_present marks pairs with maps"):
        encoder(pixel_values=inputs["pixel_values"], semantic_present=PRESENT)
    with pytest.raises(ValueError, match="semantic_values has 2 pairs and pixel_values has 3"):
        encoder(pixel_values=inputs["pixel_values"], semantic_values=inputs["semantic_values"][:2])
    with pytest.raises(ValueError, match="pixel_values has shape"):
        encoder(pixel_values=inputs["pixel_values"].flatten(0, 1))
    with pytest.raises(ValueError, match="pixel_values has shape"):
        encoder(pixel_values=inputs["pixel_values"].transpose(1, 2))


def test_rgb_alone(make_model: Make, make_inputs: Inputs) -> None:
    model, inputs = make_model(modalities="rgb"), make_inputs(maps=False)
    assert not [name for name, _ in model.named_parameters() if "semantic" in name]
    output = model.train()(**inputs, labels=torch.tensor([[5, 7, 2]] * 3), output_gates=True, output_attentions=True)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert output.gates[0].shape == (3, 3, 2, 32)
    assert output.cross_attentions[0].shape == (3, 1, 4, 3, 9)
    assert model.eval().generate(**inputs, max_new_tokens=4).shape[0] == 3
    with pytest.raises(ValueError, match="RGB alone"):
        model.generate(**make_inputs())
