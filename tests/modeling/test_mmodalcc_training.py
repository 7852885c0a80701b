"""Loss, gradients, frozen parts, checkpointing, dtypes, and `transformers.Trainer`."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from rscc_hf.modeling import MModalCCConfig, MModalCCForConditionalGeneration
from rscc_hf.modeling.modeling_mmodalcc_encoder import laid_out

Make = Callable[..., MModalCCForConditionalGeneration]
Inputs = Callable[..., dict[str, torch.Tensor]]
LABELS = torch.tensor([[5, 7, 9, 2], [3, 2, -100, -100], [8, 4, 2, 0]])


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every batch-norm buffer."""
    return {name: value.clone() for name, value in model.named_buffers()}


@torch.no_grad()
def test_labels_make_inputs_and_loss(make_model: Make, make_inputs: Inputs) -> None:
    model, inputs = make_model(), make_inputs()
    words = torch.tensor([[1, 5, 7, 9], [1, 3, 2, 0], [1, 8, 4, 2]])  # <start> first; -100 becomes <pad>
    logits = model(**inputs, decoder_input_ids=words).logits
    output = model(**inputs, labels=LABELS)
    assert torch.equal(output.logits, logits) and output.past_key_values is None
    targets = [(0, 0, 5), (0, 1, 7), (0, 2, 9), (0, 3, 2), (1, 0, 3), (1, 1, 2), (2, 0, 8), (2, 1, 4), (2, 2, 2)]
    total = -sum(logits[row, word].log_softmax(-1)[token] for row, word, token in targets)
    torch.testing.assert_close(output.loss, total / 9)
    torch.testing.assert_close(model(**inputs, labels=LABELS, num_items_in_batch=20).loss, total / 20)
    assert model(**inputs, labels=torch.full((3, 2), -100)).loss == 0


def test_accumulated_batches_equal_one_batch(make_model: Make, make_inputs: Inputs) -> None:
    """With `num_items_in_batch` the pieces of a batch add up to it, however long their captions are."""
    inputs, gradients = make_inputs(), []
    for pieces in (1, 3):
        model = make_model()  # eval mode: no batch statistics, no dropout
        for rows in torch.arange(3).chunk(pieces):
            part = {name: value[rows] for name, value in inputs.items()}
            model(**part, labels=LABELS[rows], num_items_in_batch=torch.tensor(9)).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_batch_statistics_are_those_of_one_date_and_one_stream(make_model: Make, make_inputs: Inputs) -> None:
    """A training step updates each ResNet by before, then after; each CB by RGB, then semantics."""
    model, inputs = make_model(dropout=0.0).train(), make_inputs()
    expected = {name: copy.deepcopy(backbone) for name, backbone in model.backbones().items()}
    for name, values in zip(expected, inputs.values(), strict=True):
        for date in range(2):  # in the layout in which the model reads them: equal to the bit
            expected[name](laid_out(values[:, date]))
    block = model.encoder.enhancement.blocks[0]
    calls: list[torch.Size] = []
    block.register_forward_pre_hook(lambda _, args: calls.append(args[0].shape))
    model(**inputs, labels=LABELS)
    for name, backbone in model.backbones().items():
        for key, value in statistics(backbone).items():
            assert torch.equal(value, expected[name].get_buffer(key)), f"{name} {key}"
        assert statistics(backbone)["embedder.embedder.normalization.num_batches_tracked"] == 2
    assert calls == [(3, 9, 32)] * 2
    assert block.layers[1].num_batches_tracked == 2


@pytest.mark.parametrize("enhancement", ["stacked", "parallel"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(make_model: Make, make_inputs: Inputs, enhancement: str, reentrant: bool) -> None:
    """Same loss, gradients and statistics: dropout is drawn again alike, batch norm runs once."""
    results = []
    for checkpointing in (False, True):
        model = make_model(feature_enhancement=enhancement, decoder_layers=2).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            passes: list[int] = []
            model.decoder.layers[0].mgca.register_forward_pre_hook(lambda *_, passes=passes: passes.append(1))
        torch.manual_seed(5)
        loss = model(**make_inputs(), labels=LABELS).loss
        loss.backward()
        results.append((loss.detach(), [parameter.grad for parameter in model.parameters()], statistics(model)))
    assert len(passes) == 2, "the layer was not run again: checkpointing is off"
    (loss, gradients, buffers), (loss_again, gradients_again, buffers_again) = results
    torch.testing.assert_close(loss, loss_again)
    for one, other in zip(gradients, gradients_again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)  # sums in another order
    for name, value in buffers.items():
        assert torch.equal(value, buffers_again[name]), name


def test_every_parameter_moves(make_model: Make, make_inputs: Inputs) -> None:
    model = make_model(semantics_optional=True, decoder_layers=2).train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    present = torch.tensor([True, True, False])
    model(**make_inputs(), semantic_present=present, labels=LABELS).loss.backward()
    optimizer.step()
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert not still


@pytest.mark.parametrize("freeze_statistics", [False, True])
def test_frozen_parts(make_model: Make, make_inputs: Inputs, freeze_statistics: bool) -> None:
    model = make_model()
    model.freeze_backbone(freeze_statistics=freeze_statistics)  # the release: stem and layer1 of both
    model.train()
    frozen_prefixes = tuple(
        f"encoder.{stream}_backbone.{part}"
        for stream in ("rgb", "semantic")
        for part in ("embedder.", "encoder.stages.0.")
    )
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(**make_inputs(), labels=LABELS).loss.backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        statistic = name.endswith(("running_mean", "running_var", "num_batches_tracked"))
        moves = not name.startswith(frozen_prefixes) or (statistic and not freeze_statistics)
        assert torch.equal(value, before[name]) != moves, name


def test_freezing_chosen_parts(make_model: Make, make_config: Callable[..., MModalCCConfig]) -> None:
    model = make_model()
    model.freeze_backbone(stages=["layer3"], streams=["semantic"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and all(name.startswith("encoder.semantic_backbone.encoder.stages.2.") for name in frozen)
    with pytest.raises(ValueError, match="'layer4' cannot be frozen; choose among stem, layer1, layer2, layer3"):
        model.freeze_backbone(stages=["layer4"])
    with pytest.raises(ValueError, match="'sar' cannot be frozen"):
        model.freeze_backbone(streams=["sar"])
    copied = copy.deepcopy(model)
    copied.freeze_backbone(freeze_statistics=True)
    copied.train()
    assert not copied.encoder.rgb_backbone.embedder.embedder.normalization.training
    assert model.train().encoder.rgb_backbone.embedder.embedder.normalization.training


def test_bfloat16_autocast(make_model: Make, make_inputs: Inputs) -> None:
    """Mixed precision on a CPU trains, keeps weights and loss in float32, and stays near float32."""
    model = make_model(semantics_optional=True, dropout=0.0, position_dropout=0.0).train()
    full = copy.deepcopy(model)
    present = torch.tensor([True, True, False])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(**make_inputs(), semantic_present=present, labels=LABELS)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    expected = full(**make_inputs(), semantic_present=present, labels=LABELS).loss
    torch.testing.assert_close(output.loss, expected, rtol=0.1, atol=0.0)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_bfloat16_model(make_model: Make, make_inputs: Inputs, implementation: str) -> None:
    model = make_model(semantics_optional=True)
    model.set_attn_implementation(implementation)
    inputs = {**make_inputs(), "semantic_present": torch.tensor([True, False, True])}
    with torch.no_grad():
        expected = model(**inputs, labels=LABELS).logits
        half = model.to(torch.bfloat16)(**inputs, labels=LABELS)
    assert half.logits.dtype == torch.bfloat16 and half.loss.dtype == torch.float32
    assert (half.logits - expected).abs().max() < 0.1 * expected.abs().max()
    assert model.generate(**inputs, max_new_tokens=4).shape[0] == 3
    assert model.explain(inputs, torch.tensor([[1, 5, 2]] * 3)).gates.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_ten_lines_of_trainer(make_model: Make, make_inputs: Inputs, tmp_path: Path) -> None:
    """`transformers.Trainer` learns four pairs by heart, and its evaluation runs."""
    model, inputs = make_model(dropout=0.0, position_dropout=0.0), make_inputs(4)
    labels = torch.tensor([[5, 7, 9, 2], [3, 2, -100, -100], [8, 4, 2, -100], [11, 12, 13, 2]])
    rows = [{**{name: value[i] for name, value in inputs.items()}, "labels": labels[i]} for i in range(4)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=30,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        report_to=[],
        logging_steps=10,
        disable_tqdm=True,
        use_cpu=True,
        gradient_checkpointing=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    assert trainer.model_accepts_loss_kwargs
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    after = trainer.evaluate()["eval_loss"]
    assert after < 0.3 * before
    assert trainer.predict(rows).predictions.shape == (4, 4, 23)
    trainer.save_model(str(tmp_path / "saved"))
    loaded = MModalCCForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_a_trainer_that_keeps_the_labels_to_itself_needs_decoder_inputs(
    make_model: Make, make_inputs: Inputs, tmp_path: Path
) -> None:
    model, inputs = make_model(dropout=0.0, position_dropout=0.0), make_inputs(2)
    labels = torch.tensor([[5, 7, 9, 2], [3, 2, -100, -100]])
    rows = [{**{name: value[i] for name, value in inputs.items()}, "labels": labels[i]} for i in range(2)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, label_smoothing_factor=0.1, report_to=[], use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    for step in (trainer.train, trainer.evaluate):
        with pytest.raises(ValueError, match=r"label_smoothing_factor.*prepare_decoder_input_ids_from_labels"):
            step()
    words = model.prepare_decoder_input_ids_from_labels(labels)
    start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
    assert words.tolist() == [[start, 5, 7, 9], [start, 3, 2, pad]]
    model.eval()
    with torch.no_grad():
        smoothed = trainer.compute_loss(model, {**inputs, "labels": labels, "decoder_input_ids": words})
        logits = model(**inputs, labels=labels).logits
    targets = labels.flatten()
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, label_smoothing=0.1)
    torch.testing.assert_close(smoothed, expected)


@pytest.mark.parametrize("captions_per_pair", [1, 2])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_words_behind_the_last_target_are_left_out(
    make_model: Make, make_inputs: Inputs, attention: str, captions_per_pair: int
) -> None:
    """Loss, gradients and the logits that count are those of padded captions, for each cut into captions a pair."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, 10, (3 * captions_per_pair, 50), generator=generator)
    for row, length in enumerate([50, 1, 0, 7, 23, 50][: len(labels)]):
        labels[row, length:] = -100
    labels[0, 4:6] = -100  # between targets: nothing to learn, but seen by later words
    gradients, outputs = [], []
    for full in (False, True):
        model = make_model(dropout=0.0, position_dropout=0.0, max_caption_length=60).train()
        model.set_attn_implementation(attention)
        output = model(**make_inputs(), labels=labels, output_gates=full)  # gates are given of every word
        output.loss.backward()
        outputs.append(output)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    short, padded = outputs
    torch.testing.assert_close(short.loss, padded.loss)
    torch.testing.assert_close(short.logits[labels != -100], padded.logits[labels != -100], atol=1e-5, rtol=1e-5)
    left_out = (short.logits == 0).all(dim=-1)
    assert left_out.any() and not left_out[labels != -100].any()
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_captions_without_a_target_have_no_loss(make_model: Make, make_inputs: Inputs) -> None:
    output = make_model().train()(**make_inputs(), labels=torch.full((3, 2), -100))
    assert output.loss == 0 and output.logits.shape[:2] == (3, 2)
    output.loss.backward()
