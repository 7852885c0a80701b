"""Prompts with two images: placeholders, padding, the cache, beams, several questions."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rscc_hf.modeling import CCExpertConfig, CCExpertForConditionalGeneration

Make = Callable[..., CCExpertForConditionalGeneration]
Prompts = Callable[..., dict[str, torch.Tensor]]

LLAMA = {
    "vision_config": {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 5,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
    },
    "text_config": {
        "model_type": "llama",
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 60,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}
LONG = {"min_new_tokens": 8, "max_new_tokens": 8}


def one(inputs: dict[str, torch.Tensor], row: int) -> dict[str, torch.Tensor]:
    """A row alone, without padding."""
    kept = inputs["attention_mask"][row].bool()
    return {
        "input_ids": inputs["input_ids"][row, kept][None],
        "attention_mask": inputs["attention_mask"][row, kept][None],
        "pixel_values": inputs["pixel_values"][row : row + 1],
    }


@pytest.mark.parametrize("changes", [{}, LLAMA, {"integration": False}], ids=["siglip-qwen2", "clip-llama", "off"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_prompts_of_any_length_is_what_each_gives_alone(
    make_ccexpert: Make, make_prompts: Prompts, side: str, changes: dict[str, Any]
) -> None:
    model = make_ccexpert(**changes)
    inputs = make_prompts(model.config, side=side)
    with torch.no_grad():
        logits = model(**inputs).logits
        for row in range(3):
            alone = one(inputs, row)
            together = logits[row, inputs["attention_mask"][row].bool()]
            torch.testing.assert_close(together, model(**alone).logits[0], atol=2e-5, rtol=1e-4)


def test_generated_together_as_alone_and_images_matter(make_ccexpert: Make, make_prompts: Prompts) -> None:
    model = make_ccexpert()
    inputs = make_prompts(model.config)
    together = model.generate(**inputs, **LONG)[:, inputs["input_ids"].shape[1] :]
    for row in range(3):
        alone = one(inputs, row)
        assert torch.equal(model.generate(**alone, **LONG)[0, alone["input_ids"].shape[1] :], together[row])
    others = model.generate(**{**inputs, "pixel_values": -inputs["pixel_values"]}, **LONG)
    assert not torch.equal(others[:, inputs["input_ids"].shape[1] :], together)
    flipped = model.generate(**{**inputs, "pixel_values": inputs["pixel_values"].flip(1)}, **LONG)
    assert not torch.equal(flipped[:, inputs["input_ids"].shape[1] :], together)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_cached_is_uncached_and_images_are_read_once(
    make_ccexpert: Make, make_prompts: Prompts, options: dict[str, int]
) -> None:
    model = make_ccexpert()
    inputs = make_prompts(model.config, batch=2)
    read = []
    model.vision_tower.register_forward_hook(lambda module, args, output: read.append(args[0].shape[0]))
    lengths = []
    model.lm_head.register_forward_hook(lambda module, args, output: lengths.append(args[0].shape[1]))
    cached = model.generate(**inputs, **LONG, **options)
    assert read == [4]  # two images a pair, once, however many beams
    assert lengths == [1] * 8  # logits of last tokens only
    assert torch.equal(model.generate(**inputs, **LONG, **options, use_cache=False), cached)
    assert read == [4, 4]


@pytest.mark.parametrize("beams", [2, 3])
def test_beams_are_those_of_repeated_pairs(make_ccexpert: Make, make_prompts: Prompts, beams: int) -> None:
    """Encoding a pair before rows are repeated changes nothing: scores are those of a plain forward."""
    model = make_ccexpert()
    inputs = one(make_prompts(model.config), 1)
    output = model.generate(
        **inputs, **LONG, num_beams=beams, num_return_sequences=beams, output_scores=True,
        return_dict_in_generate=True, length_penalty=0.0,
    )  # fmt: skip
    mask = torch.ones_like(output.sequences)
    repeated = inputs["pixel_values"].repeat_interleave(beams, dim=0)
    with torch.no_grad():
        logits = model(input_ids=output.sequences, attention_mask=mask, pixel_values=repeated).logits
    start = inputs["input_ids"].shape[1]
    words = logits[:, start - 1 : -1].log_softmax(-1).gather(2, output.sequences[:, start:, None])
    torch.testing.assert_close(words.sum((1, 2)), output.sequences_scores, atol=1e-3, rtol=1e-4)


def test_samples_and_static_cache(make_ccexpert: Make, make_prompts: Prompts) -> None:
    model = make_ccexpert()
    inputs = make_prompts(model.config, batch=2)
    torch.manual_seed(0)
    sampled = model.generate(**inputs, **LONG, do_sample=True, num_return_sequences=3)
    assert sampled.shape[0] == 6
    greedy = model.generate(**inputs, **LONG)
    static = model.generate(**inputs, **LONG, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, greedy)


def test_a_placeholder_is_never_generated(make_ccexpert: Make, make_prompts: Prompts) -> None:
    model = make_ccexpert()
    inputs = make_prompts(model.config, batch=2)
    with torch.no_grad():  # make every state ask for the placeholder
        model.lm_head.weight.zero_()
        model.language_model.norm.weight.fill_(1)
    model.lm_head.register_forward_hook(
        lambda module, args, output: output.index_fill(-1, torch.tensor([model.config.image_token_id]), 9.0)
    )
    words = model.generate(**inputs, **LONG)[:, inputs["input_ids"].shape[1] :]
    assert not (words == model.config.image_token_id).any()


def test_several_questions_need_one_look(make_ccexpert: Make, make_prompts: Prompts) -> None:
    model = make_ccexpert()
    inputs = make_prompts(model.config)
    with torch.no_grad():
        embeds = model.get_image_features(inputs["pixel_values"]).image_embeds
        expected = model(**inputs).logits
        pixel_values = inputs.pop("pixel_values")
        assert torch.equal(model(**inputs, image_embeds=embeds).logits, expected)
    assert torch.equal(
        model.generate(**inputs, image_embeds=embeds, **LONG),
        model.generate(**inputs, pixel_values=pixel_values, **LONG),
    )


def test_a_conversation_goes_on_from_its_cache(make_ccexpert: Make, make_prompts: Prompts) -> None:
    model = make_ccexpert()
    inputs = one(make_prompts(model.config), 1)
    first = model.generate(**inputs, **LONG, return_dict_in_generate=True)
    longer = torch.cat([first.sequences, torch.tensor([[7, 8, 9]])], dim=1)
    again = {**inputs, "input_ids": longer, "attention_mask": torch.ones_like(longer)}
    fresh = model.generate(**again, **LONG)
    read = []
    model.vision_tower.register_forward_hook(lambda module, args, output: read.append(args[0].shape[0]))
    assert torch.equal(model.generate(**again, **LONG, past_key_values=first.past_key_values), fresh)
    assert not read


def test_words_without_images(make_ccexpert: Make) -> None:
    model = make_ccexpert()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        alone = model.lm_head(model.language_model(input_ids=ids).last_hidden_state)
        assert torch.equal(model(input_ids=ids).logits, alone)
        assert torch.equal(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, alone)


def test_what_is_given_on_request(make_ccexpert: Make, make_prompts: Prompts) -> None:
    model = make_ccexpert()
    inputs = make_prompts(model.config)
    with torch.no_grad():
        plain = model(**inputs)
        asked = model(
            **inputs, output_change_features=True, output_vision_features=True, output_hidden_states=True,
            logits_to_keep=2,
        )  # fmt: skip
    assert plain.change_features is None and plain.gates is None and plain.vision_features is None
    assert asked.change_features.shape == (3, 16, 32)
    assert asked.gates.shape == (3, 3) and asked.gates.min() > 0 and asked.gates.max() < 1
    assert [tuple(level.shape) for level in asked.vision_features] == [(3, 2, 16, 32)] * 3
    assert len(asked.hidden_states) == 3
    torch.testing.assert_close(asked.logits, plain.logits[:, -2:])
    kept = model(**inputs, logits_to_keep=torch.tensor([0, 5])).logits
    torch.testing.assert_close(kept, plain.logits[:, [0, 5]])
    assert isinstance(model(**inputs, return_dict=False), tuple)
    off = make_ccexpert(integration=False)
    output = off(**inputs, output_change_features=True, output_vision_features=True)
    assert output.change_features is None and output.gates is None and len(output.vision_features) == 1


def test_levels_are_the_towers_hidden_states(make_ccexpert: Make, make_prompts: Prompts) -> None:
    """Of every level, embeddings included, without CLIP's class token; and no layer above the highest runs."""
    for kind in ({}, LLAMA):
        model = make_ccexpert(**kind, vision_levels=[0, 1, 3])
        pixel_values = make_prompts(model.config)["pixel_values"]
        tower = model.vision_tower.model
        with torch.no_grad():
            states = tower(pixel_values.flatten(0, 1), output_hidden_states=True).hidden_states
            levels = model.get_image_features(pixel_values, output_vision_features=True).vision_features
        assert len(tower.encoder.layers) == 3
        for level, features in zip((0, 1, 3), levels, strict=True):
            torch.testing.assert_close(features.flatten(0, 1), states[level][:, -16:])


def test_attention_can_be_switched(make_ccexpert: Make, make_prompts: Prompts) -> None:
    model = make_ccexpert()
    inputs = make_prompts(model.config)
    with torch.no_grad():
        sdpa = model(**inputs).logits
        model.set_attn_implementation("eager")
        kinds = {
            module.config._attn_implementation
            for name, module in model.named_modules()
            if type(module).__name__.endswith("Attention")
        }
        eager = model(**inputs, output_attentions=True)
    assert kinds == {"eager"}
    words = inputs["attention_mask"].bool()  # at padding, the two differ
    torch.testing.assert_close(eager.logits[words], sdpa[words], atol=1e-4, rtol=1e-4)
    assert len(eager.attentions) == 2


def test_mistakes_get_one_sentence(make_ccexpert: Make, make_prompts: Prompts) -> None:
    model = make_ccexpert()
    inputs = make_prompts(model.config)
    image = model.config.image_token_id
    broken = inputs["input_ids"].clone()
    broken[1, (broken[1] == image).nonzero()[0]] = 5
    with pytest.raises(ValueError, match=r"Row 1 of input_ids has image_token_id=59 31 times and needs it 32 times"):
        model(**{**inputs, "input_ids": broken})
    with pytest.raises(ValueError, match="needs it 32 times"):
        model.generate(**{**inputs, "input_ids": broken})
    with pytest.raises(ValueError, match="needs it 0 times"):
        model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    with pytest.raises(ValueError, match="2 pairs of images for 3 rows"):
        model(**{**inputs, "pixel_values": inputs["pixel_values"][:2]})
    for wrong in (inputs["pixel_values"][:, 0], inputs["pixel_values"][..., :27], inputs["pixel_values"][:, :1]):
        with pytest.raises(ValueError, match=r"give \(batch, 2, 3, 28, 28\)"):
            model(**{**inputs, "pixel_values": wrong})
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(pixel_values=inputs["pixel_values"])
    with pytest.raises(ValueError, match="pixel_values or image_embeds, not both"):
        model(**inputs, image_embeds=torch.zeros(3, 2, 16, 24))
    with pytest.raises(ValueError, match="Images need input_ids"):
        model(inputs_embeds=torch.zeros(3, 4, 24), pixel_values=inputs["pixel_values"])


def test_a_placeholder_may_be_no_word(make_ccexpert: Make, make_prompts: Prompts) -> None:
    model, outside = make_ccexpert(), make_ccexpert(image_token_id=1000)
    inputs = make_prompts(model.config)
    moved = inputs["input_ids"].masked_fill(inputs["input_ids"] == 59, 1000)
    with torch.no_grad():
        assert torch.equal(outside(**{**inputs, "input_ids": moved}).logits, model(**inputs).logits)
    assert outside.generate(**{**inputs, "input_ids": moved}, **LONG).shape[0] == 3


def test_the_default_length_is_a_sentence_not_twenty_tokens(make_ccexpert: Make) -> None:
    settings = make_ccexpert().generation_config
    assert settings.max_new_tokens == 256 and settings.eos_token_id == 2 and settings.pad_token_id == 2
    assert CCExpertConfig.preset("7b").text.eos_token_id == 151645
