"""Generation, its cache, attention implementations and what they report."""

from collections.abc import Callable

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache

from rscc_hf.modeling import MModalCCForConditionalGeneration

Make = Callable[..., MModalCCForConditionalGeneration]
Inputs = Callable[..., dict[str, torch.Tensor]]

MODES = {
    "greedy": {"num_beams": 1},
    "beams": {"num_beams": 4},
    "sampling": {"num_beams": 1, "do_sample": True, "num_return_sequences": 3},
    "beam sampling": {"num_beams": 3, "do_sample": True},
    "returned beams": {"num_beams": 3, "num_return_sequences": 3},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layers", [1, 2])
def test_cached_equals_uncached(make_model: Make, make_inputs: Inputs, mode: str, layers: int) -> None:
    model, inputs = make_model(decoder_layers=layers), make_inputs(4)
    captions = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        captions.append(model.generate(**inputs, max_new_tokens=9, use_cache=use_cache, **MODES[mode]))
    assert torch.equal(*captions)
    assert len({tuple(row) for row in captions[0].tolist()}) > 1, "the captions of all pairs are the same: no test"


def test_encoder_and_memory_projections_run_once(make_model: Make, make_inputs: Inputs) -> None:
    """Keys and values of the memory are made once a pair, never for each beam."""
    model = make_model(decoder_layers=2)
    encoder_calls, shapes = [], []
    model.get_encoder().register_forward_pre_hook(lambda *_: encoder_calls.append(1))
    for layer in model.decoder.layers:
        layer.mgca.attention.k_proj.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    sequences = model.generate(**make_inputs(3), num_beams=4, min_new_tokens=6, max_new_tokens=6)
    assert sequences.shape == (3, 7)
    assert len(encoder_calls) == 1
    assert shapes == [(3 * 2, 9, 32)] * 2


def test_encoder_outputs_in_place_of_images(make_model: Make, make_inputs: Inputs) -> None:
    model, inputs = make_model(), make_inputs()
    encoded = model.get_encoder()(**inputs)
    for beams in (1, 4):
        expected = model.generate(**inputs, num_beams=beams, max_new_tokens=6)
        before = encoded.last_hidden_state.clone()
        assert torch.equal(model.generate(encoder_outputs=encoded, num_beams=beams, max_new_tokens=6), expected)
        assert torch.equal(encoded.last_hidden_state, before)


@torch.no_grad()
def test_a_prefix_continues(make_model: Make, make_inputs: Inputs) -> None:
    """Several new words on top of a cache see each other causally, as they do without cache."""
    model, inputs = make_model(), make_inputs()
    words = torch.tensor([[1, 5, 7, 9, 4], [1, 3, 3, 8, 6], [1, 4, 6, 5, 5]])
    expected = model(**inputs, decoder_input_ids=words).logits
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        cache = EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))
        first = model(**inputs, decoder_input_ids=words[:, :2], past_key_values=cache, use_cache=True)
        second = model(
            encoder_outputs=(first.encoder_last_hidden_state,),
            decoder_input_ids=words[:, 2:],
            past_key_values=first.past_key_values,
            use_cache=True,
        )
        torch.testing.assert_close(torch.cat([first.logits, second.logits], dim=1), expected, atol=1e-5, rtol=1e-5)
    prefixed = model.generate(**inputs, decoder_input_ids=words[:, :3], num_beams=2, max_new_tokens=4)
    assert torch.equal(prefixed[:, :3], words[:, :3])


@torch.no_grad()
def test_padding_is_not_seen(make_model: Make, make_inputs: Inputs) -> None:
    model, inputs = make_model(), make_inputs(1)
    words = torch.tensor([[1, 5, 7, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    short = model(**inputs, decoder_input_ids=words[:, :3]).logits
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        masked = model(**inputs, decoder_input_ids=words, decoder_attention_mask=mask).logits
        torch.testing.assert_close(masked[:, :3], short, atol=1e-5, rtol=1e-5)
        assert torch.isfinite(masked).all()
        # padding on the left is hidden too
        left = torch.tensor([[0, 1, 5]]), torch.tensor([[1, 1, 5]])
        hidden = [
            model(**inputs, decoder_input_ids=ids, decoder_attention_mask=torch.tensor([[0, 1, 1]])).logits[:, 1:]
            for ids in left
        ]
        torch.testing.assert_close(*hidden)


@torch.no_grad()
def test_sdpa_and_eager_agree(make_model: Make, make_inputs: Inputs) -> None:
    model, inputs = make_model(decoder_layers=2), make_inputs()
    assert model.config._attn_implementation == "sdpa"
    words = torch.tensor([[1, 5, 7, 9]] * 3)
    sdpa = model(**inputs, decoder_input_ids=words)
    assert sdpa.cross_attentions is None and sdpa.gates is None and sdpa.encoder_hidden_states is None
    weights = model(**inputs, decoder_input_ids=words, output_attentions=True)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    eager = model(**inputs, decoder_input_ids=words, output_attentions=True)
    for other in (weights, eager):
        torch.testing.assert_close(other.logits, sdpa.logits, atol=1e-5, rtol=1e-5)
    for name in ("cross_attentions", "decoder_attentions", "encoder_attentions"):
        torch.testing.assert_close(weights[name], eager[name])
        assert all(torch.allclose(value.sum(-1), torch.ones(())) for value in weights[name])
    assert [tuple(value.shape) for value in weights.cross_attentions] == [(3, 2, 4, 4, 9)] * 2
    assert [tuple(value.shape) for value in weights.encoder_attentions] == [(3, 2, 2, 4, 9, 9)] * 4


@torch.no_grad()
def test_beams_see_their_own_attention(make_model: Make, make_inputs: Inputs) -> None:
    """Folding beams into queries keeps rows apart: every beam gets what it gets alone."""
    model, inputs = make_model(), make_inputs(2)
    words = torch.tensor([[1, 5, 7], [1, 3, 8], [1, 4, 6], [1, 9, 9]])  # two beams of each of two pairs
    encoded = model.get_encoder()(**inputs)
    both = model(encoder_outputs=encoded, decoder_input_ids=words, output_attentions=True, output_gates=True)
    for row in range(4):
        alone = model(
            encoder_outputs=(encoded.last_hidden_state[row // 2 : row // 2 + 1],),
            decoder_input_ids=words[row : row + 1],
            output_attentions=True,
            output_gates=True,
        )
        torch.testing.assert_close(both.logits[row], alone.logits[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(both.cross_attentions[0][row], alone.cross_attentions[0][0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(both.gates[0][row], alone.gates[0][0], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="no multiple of the 2 encoded pairs"):
        model(encoder_outputs=encoded, decoder_input_ids=words[:3])


def test_generate_reports(make_model: Make, make_inputs: Inputs) -> None:
    model = make_model()
    for beams in (1, 3):
        output = model.generate(
            **make_inputs(2),
            num_beams=beams,
            min_new_tokens=4,
            max_new_tokens=4,
            return_dict_in_generate=True,
            output_attentions=True,
            output_hidden_states=True,
            output_scores=True,
        )
        assert len(output.cross_attentions) == 4
        assert output.cross_attentions[2][0].shape == (2 * beams, 2, 4, 1, 9)
        assert len(output.encoder_hidden_states) == 3
        assert len(output.scores) == 4


@pytest.mark.parametrize("rows", [1, 2])
def test_explain(make_model: Make, make_inputs: Inputs, rows: int) -> None:
    model, inputs = make_model(decoder_layers=2).train(), make_inputs(3)
    model.eval()
    sequences = model.generate(**inputs, num_beams=2, num_return_sequences=rows, max_new_tokens=7)
    model.train()
    explained = model.explain({**inputs, "labels": torch.zeros(3, 2)}, sequences)
    assert model.training
    words = sequences.shape[1] - 1
    assert explained.tokens.shape == explained.mask.shape == explained.log_probs.shape == (3 * rows, words)
    assert explained.gates.shape == (3 * rows, 2, words, 3)
    assert explained.attention.shape == (3 * rows, 2, words, 2, 3, 3)
    torch.testing.assert_close(explained.attention.sum((-1, -2)), torch.ones(3 * rows, 2, words, 2))
    assert explained.gates.min() > 0 and explained.gates.max() < 1

    # the last token's row is what a plain forward pass says of it
    model.eval()
    with torch.no_grad():
        images = {name: value.repeat_interleave(rows, dim=0) for name, value in inputs.items()}
        plain = model(**images, decoder_input_ids=sequences[:, :-1], output_gates=True)
    expected = plain.logits.log_softmax(-1).gather(2, sequences[:, 1:, None]).squeeze(2)
    torch.testing.assert_close(explained.log_probs, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(explained.gates[:, 1], plain.gates[1].mean(-1), atol=1e-5, rtol=1e-5)

    padded = torch.tensor([[1, 5, 2, 0], [1, 7, 9, 2], [1, 8, 8, 8]])
    mask = model.explain(inputs, padded).mask
    assert mask.tolist() == [[True, True, False], [True, True, True], [True, True, True]]
    with pytest.raises(ValueError, match="beginning with <start>"):
        model.explain(inputs, padded[:, 1:])


def test_defaults_and_typos(make_model: Make, make_inputs: Inputs) -> None:
    model = make_model(max_caption_length=5)
    defaults = model.generation_config
    assert (defaults.num_beams, defaults.length_penalty, defaults.early_stopping) == (4, 0.0, "never")
    assert (defaults.pad_token_id, defaults.decoder_start_token_id, defaults.eos_token_id) == (0, 1, 2)
    assert model.generate(**make_inputs(2), min_new_tokens=5).shape == (2, 6)
    with pytest.raises(ValueError, match="pixel_value"):
        model.generate(pixel_value=make_inputs(2)["pixel_values"])
    with pytest.raises(ValueError, match="pixel_values and encoder_outputs are both missing"):
        model(decoder_input_ids=torch.ones(1, 1, dtype=torch.long))
    with pytest.raises(ValueError, match="decoder_input_ids and labels are both missing"):
        model(**make_inputs(1))


@torch.no_grad()
def test_tuple_output_and_logits_to_keep(make_model: Make, make_inputs: Inputs) -> None:
    model, inputs = make_model(), make_inputs(2)
    words = torch.tensor([[1, 5, 7]] * 2)
    output = model(**inputs, decoder_input_ids=words, use_cache=False)
    as_tuple = model(**inputs, decoder_input_ids=words, use_cache=False, return_dict=False)
    assert torch.equal(as_tuple[0], output.logits)
    last = model(**inputs, decoder_input_ids=words, logits_to_keep=1).logits
    torch.testing.assert_close(last, output.logits[:, -1:])
