"""Losses, gradients, frozen and tied parts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from rscc_hf.modeling import CCExpertForConditionalGeneration

Make = Callable[..., CCExpertForConditionalGeneration]
Prompts = Callable[..., dict[str, torch.Tensor]]


def with_labels(inputs: dict[str, torch.Tensor], rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    """Targets are the words after the second image, right-padded prompts."""
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels = labels.masked_fill(labels == 59, -100)
    labels[:, :34] = -100
    return {name: values[rows] for name, values in {**inputs, "labels": labels}.items()}


def plain_loss(logits: torch.Tensor, labels: torch.Tensor, reduction: str) -> torch.Tensor:
    return nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction=reduction
    )


def test_the_loss_is_the_mean_over_targets_or_the_sum_over_a_number(
    make_ccexpert: Make, make_prompts: Prompts
) -> None:
    model = make_ccexpert()
    batch = with_labels(make_prompts(model.config, side="right"))
    assert len(set((batch["labels"] != -100).sum(1).tolist())) == 3  # rows of different weight
    with torch.no_grad():
        output = model(**batch)
        torch.testing.assert_close(output.loss, plain_loss(output.logits, batch["labels"], "mean"))
        for number in (7, torch.tensor(7)):
            loss = model(**batch, num_items_in_batch=number).loss
            torch.testing.assert_close(loss, plain_loss(output.logits, batch["labels"], "sum") / 7)
        model.train()
        trained = model(**batch)
        torch.testing.assert_close(trained.loss, output.loss)
        assert trained.logits is None and trained.past_key_values is None


def test_only_targets_get_logits_in_training(make_ccexpert: Make, make_prompts: Prompts) -> None:
    model = make_ccexpert().train()
    batch = with_labels(make_prompts(model.config, side="right"))
    rows = []
    model.lm_head.register_forward_hook(lambda module, args, output: rows.append(output.shape[:-1].numel()))
    model(**batch)
    assert rows == [int((batch["labels"] != -100).sum())]


def test_a_batch_without_targets_has_no_loss_and_no_gradient(make_ccexpert: Make, make_prompts: Prompts) -> None:
    model = make_ccexpert().train()
    batch = with_labels(make_prompts(model.config, side="right"))
    loss = model(**{**batch, "labels": torch.full_like(batch["labels"], -100)}).loss
    loss.backward()
    assert loss == 0
    assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(
    "changes",
    [{}, {"integration": False}, {"integration_gate": False}, {"vision_levels": [3]}, {"vision_levels": [0]}],
)
def test_every_weight_gets_a_gradient(make_ccexpert: Make, make_prompts: Prompts, changes: dict[str, Any]) -> None:
    """DDP waits for each of them: nothing that is built goes unused."""
    model = make_ccexpert(**changes).train()
    model(**with_labels(make_prompts(model.config, side="right"))).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(
    make_ccexpert: Make, make_prompts: Prompts, reentrant: bool
) -> None:
    model = make_ccexpert().train()
    batch = with_labels(make_prompts(model.config, side="right"))
    model(**batch).loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    counts = {"layer": 0}

    def count(*_: object) -> None:
        counts["layer"] += 1

    model.integration.expert.layers[0].mlp.register_forward_hook(count)
    model(**batch).loss.backward()
    assert counts["layer"] == 2  # once more for the gradient
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], msg=name, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16], ids=["autocast", "bfloat16"])
def test_half_precision_is_near(make_ccexpert: Make, make_prompts: Prompts, kept: torch.dtype) -> None:
    model = make_ccexpert().train()
    batch = with_labels(make_prompts(model.config, side="right"))
    exact = model(**batch).loss.detach()
    model.to(kept)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kept == torch.float32):
        loss = model(**batch).loss
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), exact, atol=0.1, rtol=0.05)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_accumulation_is_one_big_batch(make_ccexpert: Make, make_prompts: Prompts) -> None:
    model = make_ccexpert().double().train()
    inputs = make_prompts(model.config, side="right")
    batch = with_labels({**inputs, "pixel_values": inputs["pixel_values"].double()})
    number = int((batch["labels"] != -100).sum())
    model(**batch, num_items_in_batch=number).loss.backward()
    together = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for row in range(3):
        one = {name: values[row : row + 1] for name, values in batch.items()}
        model(**one, num_items_in_batch=number).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, together[name], msg=name, atol=1e-7, rtol=1e-6)


def test_frozen_parts_stay(make_ccexpert: Make, make_prompts: Prompts) -> None:
    """Stage I: the module alone learns."""
    model = make_ccexpert().train()
    model.requires_grad_(False)
    model.integration.requires_grad_(True)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.integration.parameters(), lr=1e-2)
    model(**with_labels(make_prompts(model.config, side="right"))).loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != name.startswith("integration."), name


def test_tied_embeddings_are_one_tensor(make_ccexpert: Make, make_prompts: Prompts, tmp_path: Any) -> None:
    tied, untied = make_ccexpert(tie_word_embeddings=True), make_ccexpert()
    assert tied.lm_head.weight is tied.language_model.embed_tokens.weight
    assert untied.lm_head.weight is not untied.language_model.embed_tokens.weight
    assert untied.num_parameters() - tied.num_parameters() == 60 * 24
    tied.save_pretrained(tmp_path)
    loaded, info = CCExpertForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert loaded.lm_head.weight is loaded.language_model.embed_tokens.weight
    batch = with_labels(make_prompts(tied.config, side="right"))
    with torch.no_grad():
        assert torch.equal(loaded(**batch).loss, tied(**batch).loss)


@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_can_be_resized(make_ccexpert: Make, make_prompts: Prompts, tied: bool) -> None:
    model = make_ccexpert(tie_word_embeddings=tied)
    inputs = make_prompts(model.config)
    with torch.no_grad():
        before = model(**inputs).logits
        model.resize_token_embeddings(67)
        after = model(**inputs).logits
    assert model.config.text.vocab_size == 67 and model.lm_head.out_features == 67
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    torch.testing.assert_close(after[..., :60], before)
    assert after.shape[-1] == 67


def test_a_new_module_is_finite_and_small(make_ccexpert: Make) -> None:
    model = CCExpertForConditionalGeneration(make_ccexpert().config)
    for name, parameter in model.integration.named_parameters():
        assert parameter.abs().max() <= (1 if "norm" in name else 0.3), name
    flags = model.integration.expert.layers[1].before_flag
    assert 0.005 < flags.std() < 0.05


def test_transformers_trainer_trains_it(make_ccexpert: Make, make_prompts: Prompts, tmp_path: Any) -> None:
    model = make_ccexpert()
    batch = with_labels(make_prompts(model.config, side="right"))
    rows = [{name: values[row] for name, values in batch.items()} for row in range(3)] * 4
    arguments = TrainingArguments(
        tmp_path, max_steps=6, per_device_train_batch_size=3, gradient_accumulation_steps=2, learning_rate=1e-2,
        report_to=[], use_cpu=True, save_strategy="no", lr_scheduler_type="constant", disable_tqdm=True,
    )  # fmt: skip
    with torch.no_grad():
        before = model(**batch).loss
    result = Trainer(model=model, args=arguments, train_dataset=rows).train()
    model.eval()
    with torch.no_grad():
        assert model(**batch).loss < before - 0.5
    assert result.training_loss < before * 1.5  # a mean over targets: accumulation is not counted twice


@pytest.mark.parametrize("taken_by", ["label_smoothing_factor", "compute_loss_func"])
def test_a_trainer_that_keeps_the_labels_to_itself_is_refused(
    make_ccexpert: Make, make_prompts: Prompts, tmp_path: Any, taken_by: str
) -> None:
    """It would compare each token's logits with the token itself, which it has read."""
    model = make_ccexpert()
    batch = with_labels(make_prompts(model.config, side="right"))
    rows = [{name: values[row] for name, values in batch.items()} for row in range(3)]
    smoothing = 0.1 if taken_by == "label_smoothing_factor" else 0.0
    own = (lambda outputs, labels, num_items_in_batch: outputs.logits.sum()) if not smoothing else None
    arguments = TrainingArguments(
        tmp_path, max_steps=1, label_smoothing_factor=smoothing, report_to=[], use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows, compute_loss_func=own)
    for step in (trainer.train, trainer.evaluate):
        with pytest.raises(ValueError, match=taken_by):
            step()


def test_logits_without_labels_are_no_loss(make_ccexpert: Make, make_prompts: Prompts) -> None:
    model = make_ccexpert().train()
    assert model(**make_prompts(model.config, side="right")).logits is not None
