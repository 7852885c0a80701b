"""CCExpert's processor: prompts with images, labels, conversations, decoding, and what it refuses."""

import functools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys.word_tokenizers import byte_level_tokenizer, chatml_tokenizer, sentencepiece_tokenizer, vicuna_tokenizer

from rscc_hf.modeling import CCExpertConfig
from rscc_hf.processing.change_pair_images import PairError
from rscc_hf.processing.chat_templates_ccexpert import (
    CHATML_TEMPLATE,
    PAPER_PROMPT,
    RELEASE_PROMPT,
    VICUNA_SYSTEM_MESSAGE,
    VICUNA_TEMPLATE,
    prepare_tokenizer,
)
from rscc_hf.processing.image_processing_ccexpert import CCExpertImageProcessor
from rscc_hf.processing.processing_ccexpert import CCExpertProcessor

TOKENS = 4
SIZE = {"height": 28, "width": 28}
IMAGES = "<image>" * TOKENS
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
PAPER = PAPER_PROMPT.replace("<image>", IMAGES)
CAPTIONS = ["two houses appear along the road", "a lake"]


def make(tokenizer=None, **settings):
    return CCExpertProcessor(
        CCExpertImageProcessor(size=SIZE), tokenizer or chatml_tokenizer(), num_image_tokens=TOKENS, **settings
    )


def make_vicuna(**settings):
    return make(vicuna_tokenizer(), system_message=VICUNA_SYSTEM_MESSAGE, **settings)


@pytest.fixture(scope="module")
def processor():
    return make()


def pair(seed=0):
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 256, (30, 30, 3), dtype=np.uint8) for _ in range(2)]


def text_of(processor, ids, mask=None):
    kept = ids if mask is None else ids[mask.bool()]
    return processor.tokenizer.decode(kept[kept >= 0])


# --- prompts


def test_the_papers_prompt_is_asked_by_default(processor):
    batch = processor(images=[pair(0), pair(1)])
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask"}
    assert batch["pixel_values"].shape == (2, 2, 3, 28, 28) and batch["attention_mask"].all()
    assert text_of(processor, batch["input_ids"][0]) == (
        f"{SYSTEM}<|im_start|>user\n{PAPER}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert (batch["input_ids"] == processor.image_token_id).sum(dim=1).tolist() == [2 * TOKENS] * 2


def test_prompt_and_system_message_are_settings():
    released = make(prompt=RELEASE_PROMPT, system_message=None)
    ids = released(images=[pair()])["input_ids"][0]
    assert text_of(released, ids) == (
        f"<|im_start|>user\n{RELEASE_PROMPT.replace('<image>', IMAGES)}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_question_takes_the_place_of_the_prompts(processor):
    text = text_of(processor, processor(images=[pair()], text="How many houses are there?")["input_ids"][0])
    asked = f"This is Image1 {IMAGES}. This is Image2 {IMAGES}. How many houses are there?"
    assert text == f"{SYSTEM}<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
    released = make(prompt=RELEASE_PROMPT)
    text = text_of(released, released(images=[pair()], text="What is new?")["input_ids"][0])
    assert f"This is the second Image2 {IMAGES}.\nWhat is new?<|im_end|>" in text


def test_a_text_with_two_placeholders_is_the_prompt(processor):
    text = text_of(processor, processor(images=[pair()], text="Compare <image> with <image>")["input_ids"][0])
    assert f"user\nCompare {IMAGES} with {IMAGES}<|im_end|>" in text


@pytest.mark.parametrize(("text", "count"), [("<image> what?", 1), ("<image><image> and <image>?", 3)])
def test_other_numbers_of_placeholders_are_refused(processor, text, count):
    with pytest.raises(PairError, match=rf"Pair 'west': its prompt has {count} <image> where exactly two") as caught:
        processor(images=[pair(), pair()], text=[None, text], pair_ids=["east", "west"])
    assert caught.value.pair == "west"
    with pytest.raises(ValueError, match="exactly two"):
        make(prompt=text)
    with pytest.raises(PairError, match=f"has {count} <image>"):
        processor.apply_chat_template([{"role": "user", "content": text}], tokenize=True)


def test_prompts_of_different_length_are_padded_left_for_generation(processor):
    questions = [None, "How many houses are there?"]
    batch = processor(images=[pair(0), pair(1)], text=questions)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    alone = [processor(images=[pair(row)], text=question) for row, question in enumerate(questions)]
    for row, single in enumerate(alone):
        length = single["input_ids"].shape[1]
        assert torch.equal(ids[row, -length:], single["input_ids"][0])
        assert mask[row].sum() == length and mask[row, -length:].all()
        assert (ids[row, :-length] == processor.tokenizer.pad_token_id).all()
        assert torch.equal(batch["pixel_values"][row], single["pixel_values"][0])
    assert not mask.all()


def test_the_side_and_length_of_padding_can_be_chosen(processor):
    batch = processor(text=[None, "what?"], padding_side="right", pad_to_multiple_of=32)
    assert batch["input_ids"].shape[1] % 32 == 0
    assert batch["attention_mask"][:, 0].all() and not batch["attention_mask"][:, -1].any()
    assert processor(text=["what?"], padding="max_length", max_length=100)["input_ids"].shape == (1, 100)
    rows = processor(text=[None, "what?"], padding=False, return_tensors=None)["input_ids"]
    assert len({len(row) for row in rows}) == 2
    with pytest.raises(ValueError, match="padding_side is 'top'"):
        processor(text=["what?"], padding_side="top")


# --- labels


def test_labels_are_the_caption_and_its_end(processor):
    batch = processor(images=[pair(0), pair(1)], captions=CAPTIONS)
    assert batch["labels"].shape == batch["input_ids"].shape
    for row, caption in enumerate(CAPTIONS):
        labels = batch["labels"][row]
        learnt = labels != -100
        assert torch.equal(labels[learnt], batch["input_ids"][row][learnt])
        assert text_of(processor, labels) == f"{caption}<|im_end|>"
        assert text_of(processor, batch["input_ids"][row], batch["attention_mask"][row]) == (
            f"{SYSTEM}<|im_start|>user\n{PAPER}<|im_end|>\n<|im_start|>assistant\n{caption}<|im_end|>\n"
        )
    assert batch["attention_mask"][:, 0].all() and not batch["attention_mask"][1, -1]  # padded on the right


def test_the_prompt_of_training_is_the_prompt_of_generation(processor):
    trained = processor(captions=CAPTIONS[:1], text="What is new?")
    asked = processor(text="What is new?")["input_ids"][0]
    assert torch.equal(trained["input_ids"][0, : len(asked)], asked)
    assert (trained["labels"][0, : len(asked)] == -100).all() and trained["labels"][0, len(asked)] != -100


def test_left_padding_moves_labels_along(processor):
    right = processor(captions=CAPTIONS)
    left = processor(captions=CAPTIONS, padding_side="left")
    for row in range(2):
        for name in ("input_ids", "labels"):
            kept = [batch[name][row][batch["attention_mask"][row].bool()] for batch in (left, right)]
            assert torch.equal(*kept)


def test_the_releases_labels_have_marks_and_the_whole_turn():
    processor = make(label_policy="release")
    labels = processor(captions=CAPTIONS[:1])["labels"][0]
    turn = f"<|im_start|>assistant\n{CAPTIONS[0]}<|im_end|>\n"
    assert text_of(processor, labels) == "<|im_start|>\n<|im_end|>\n" * 2 + turn


def test_vicuna_labels_end_with_the_end_of_sequence():
    processor = make_vicuna()
    batch = processor(images=[pair()], captions=CAPTIONS[:1])
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    assert ids[0] == processor.tokenizer.bos_token_id and (ids == processor.tokenizer.bos_token_id).sum() == 1
    assert labels[labels >= 0][-1] == processor.tokenizer.eos_token_id
    assert processor.tokenizer.decode(labels[labels >= 0], skip_special_tokens=True).strip() == CAPTIONS[0]
    prompt = processor(images=[pair()])["input_ids"][0]
    assert torch.equal(ids[: len(prompt)], prompt) and (labels[: len(prompt)] == -100).all()
    assert processor.tokenizer.decode(prompt).endswith("ASSISTANT:")


@functools.cache
def built(build):
    return build()


@pytest.mark.parametrize("build", [make, make_vicuna])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_law_of_labels(build, data):
    """Whatever is said, what is learnt is what was said, and decoding gives it back."""
    words = st.text(st.sampled_from("abehoru ,.é道'"), min_size=1, max_size=20).filter(str.strip)
    caption, question = data.draw(words), data.draw(words)
    processor = built(build)
    batch = processor(text=question, captions=caption)
    prompt = processor(text=question)["input_ids"][0]
    labels = batch["labels"][0]
    assert torch.equal(batch["input_ids"][0, : len(prompt)], prompt)
    first = int((labels >= 0).int().argmax())
    assert first == len(prompt)
    closing = labels[labels >= 0][-1]
    assert closing == processor.tokenizer.eos_token_id
    said = " ".join(caption.split())
    assert " ".join(processor.decode(batch["input_ids"][0], skip_special_tokens=True).split()) == said
    assert " ".join(processor.decode(labels, skip_special_tokens=True).split()) == said


# --- length


def test_words_are_cut_and_images_never(processor):
    whole = processor(captions=CAPTIONS[:1])
    prompt = processor(text=[None])["input_ids"].shape[1]
    cut = processor(captions=CAPTIONS[:1], max_length=prompt + 2)
    assert torch.equal(cut["input_ids"], whole["input_ids"][:, : prompt + 2])
    assert torch.equal(cut["labels"], whole["labels"][:, : prompt + 2])
    last_image = int((whole["input_ids"][0] == processor.image_token_id).nonzero()[-1])
    assert processor(captions=CAPTIONS[:1], max_length=last_image + 1)["input_ids"].shape[1] == last_image + 1
    with pytest.raises(PairError, match=rf"Pair 0: max_length {last_image} would cut an image.* {last_image + 1} tok"):
        processor(captions=CAPTIONS[:1], max_length=last_image)
    uncut = processor(captions=CAPTIONS[:1], max_length=5, truncation=False)
    assert torch.equal(uncut["input_ids"], whole["input_ids"])


def test_a_question_is_not_cut(processor):
    with pytest.raises(PairError, match="would cut its question"):
        processor(text=[None], max_length=processor(text=[None])["input_ids"].shape[1] - 1)


# --- conversations


def conversation(before, after):
    return [
        {
            "role": "user",
            "content": [
                *({"type": "text", "text": "This is Image1 "}, {"type": "image", "image": before}),
                *({"type": "text", "text": ". This is Image2 "}, {"type": "image", "image": after}),
                {"type": "text", "text": ". How many houses?"},
            ],
        },
        {"role": "assistant", "content": "two houses"},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": [{"type": "text", "text": "along the road"}]},
    ]


TURNS = (
    f"{SYSTEM}<|im_start|>user\nThis is Image1 <image>. This is Image2 <image>. How many houses?<|im_end|>\n"
    "<|im_start|>assistant\ntwo houses<|im_end|>\n<|im_start|>user\nWhere?<|im_end|>\n"
    "<|im_start|>assistant\nalong the road<|im_end|>\n"
)


def test_conversations_are_written(processor):
    messages = conversation(None, None)
    before = [dict(message) for message in messages]
    assert processor.apply_chat_template(messages) == TURNS
    assert messages == before  # the caller's stay as they were
    assert processor.apply_chat_template([messages[:3]], add_generation_prompt=True) == [TURNS[: TURNS.index("along")]]
    own = [{"role": "system", "content": "Be brief."}, *messages]
    assert processor.apply_chat_template(own).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user")


def test_conversations_become_inputs(processor):
    messages = conversation(*pair(3))
    batch = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_labels=True
    )
    assert torch.equal(batch["pixel_values"], processor(images=[pair(3)])["pixel_values"])
    ids, mask, labels = batch["input_ids"][0], batch["assistant_masks"][0], batch["labels"][0]
    assert text_of(processor, ids) == TURNS.replace("<image>", IMAGES)
    assert text_of(processor, ids[mask.bool()]) == "two houses<|im_end|>along the road<|im_end|>"
    assert torch.equal(labels, torch.where(mask.bool(), ids, -100))
    assert torch.equal(processor.apply_chat_template(messages, tokenize=True), batch["input_ids"])


def test_conversations_of_different_length_in_a_batch(processor):
    messages = [conversation(*pair(0)), conversation(*pair(1))[:3]]
    arguments = {"tokenize": True, "return_dict": True}
    asked = processor.apply_chat_template(messages, add_generation_prompt=True, **arguments)
    assert asked["pixel_values"].shape[0] == 2 and asked["attention_mask"][:, -1].all()
    learnt = processor.apply_chat_template(
        messages, return_labels=True, processor_kwargs={"max_length": 200}, **arguments
    )
    assert learnt["attention_mask"][:, 0].all() and not learnt["attention_mask"][1, -1]
    assert text_of(processor, learnt["labels"][1]) == "two houses<|im_end|>"


def test_a_written_conversation_can_be_given_as_text(processor):
    messages = conversation(*pair(3))[:3]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    batch = processor(images=[pair(3)], text=text)
    direct = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
    assert set(batch) == set(direct)
    assert all(torch.equal(batch[name], direct[name]) for name in batch)
    with pytest.raises(PairError, match="whole conversation"):
        processor(text=text, captions="a lake")


def test_the_releases_labels_of_a_conversation():
    processor = make(label_policy="release")
    labels = processor.apply_chat_template(conversation(*pair()), tokenize=True, return_labels=True)["labels"][0]
    expected = (
        "<|im_start|>\n<|im_end|>\n" * 2
        + "<|im_start|>assistant\ntwo houses<|im_end|>\n<|im_start|>\n<|im_end|>\n"
        + "<|im_start|>assistant\nalong the road<|im_end|>\n"
    )
    assert text_of(processor, labels) == expected


def test_vicuna_conversations():
    processor = make_vicuna()
    assert processor.apply_chat_template(conversation(None, None)) == (
        f"<s>{VICUNA_SYSTEM_MESSAGE} USER: This is Image1 <image>. This is Image2 <image>. How many houses?"
        " ASSISTANT: two houses</s>USER: Where? ASSISTANT: along the road</s>"
    )
    batch = processor.apply_chat_template(conversation(*pair()), tokenize=True, return_labels=True)
    learnt = batch["labels"][0][batch["labels"][0] >= 0]
    assert " ".join(processor.tokenizer.decode(learnt).replace("</s>", "</s> ").split()) == (
        "two houses</s> along the road</s>"
    )


def test_a_template_of_ones_own_needs_generation_for_labels():
    template = CHATML_TEMPLATE.replace("{%- generation -%}", "").replace("{%- endgeneration -%}", "")
    processor = make(chat_template=template)
    assert torch.equal(processor(text="what?")["input_ids"], make()(text="what?")["input_ids"])
    with pytest.raises(ValueError, match=r"no \{% generation %\}"):
        processor(captions="a lake")


# --- decoding


@pytest.mark.parametrize("build", [make, make_vicuna])
def test_decoding_drops_everything_through_the_last_header(build):
    processor = build()
    batch = processor(text=[None, "How many houses are there?"])
    end, pad = processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id
    answers = [processor.tokenizer(f" {said}", add_special_tokens=False)["input_ids"] for said in CAPTIONS]
    longest = max(len(answer) for answer in answers)
    tails = [[*answer, end, *[pad] * (longest - len(answer))] for answer in answers]
    generated = torch.cat([batch["input_ids"], torch.tensor(tails)], dim=1)
    assert processor.batch_decode(generated, skip_special_tokens=True) == CAPTIONS
    assert processor.decode(generated[1], skip_special_tokens=True) == CAPTIONS[1]
    assert processor.batch_decode(generated.tolist(), skip_special_tokens=True) == CAPTIONS
    assert "Image1" in processor.decode(generated[1], skip_special_tokens=True, skip_prompt=False)
    # generation from embeddings gives the answer alone
    assert processor.batch_decode(torch.tensor(tails), skip_special_tokens=True) == CAPTIONS
    # nothing was said
    assert processor.batch_decode(batch["input_ids"], skip_special_tokens=True) == ["", ""]


# --- wrong calls


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "give images, text, or both"),
        ({"images": [pair()], "text": ["a", "b"]}, "2 texts are given for 1 pairs"),
        ({"images": [pair()], "captions": ["a", "b"]}, "2 captions are given for 1 pairs"),
        ({"text": []}, "0 texts"),
        ({"text": ["a"], "pair_ids": ["x", "y"]}, "2 ids for 1 pairs"),
        ({"text": [1]}, "Pair 0: its text is a int"),
        ({"captions": [None]}, "Pair 0: its caption is a NoneType"),
        ({"captions": ["a lake<|im_end|>"]}, r"Pair 0: its caption contains <\|im_end\|>"),
        ({"text": ["a lake<|im_end|>?"]}, r"Pair 0: its text contains <\|im_end\|>"),
        ({"captions": ["a lake <image>"]}, "Pair 0: its caption contains <image>"),
        ({"images": [[pair()[0]]]}, "Pair 0: 1 images are given"),
        ({"text": ["a", "b"], "padding": "most"}, "padding is 'most'"),
    ],
)
def test_wrong_calls_say_what_to_do(processor, call, message):
    with pytest.raises(ValueError, match=message):
        processor(**call)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make(label_policy="all"), "label_policy is 'all'"),
        (lambda: make(byte_level_tokenizer()), "has no <image>; prepare_tokenizer"),
        (lambda: make(vicuna_tokenizer(), chat_template="chatml"), r"has no <\|im_start\|>"),
        (lambda: make(vicuna_tokenizer(), label_policy="release"), r"has no <\|im_start\|>"),
        (lambda: CCExpertProcessor(CCExpertImageProcessor(), chatml_tokenizer(), num_image_tokens=0), "num_image_tok"),
        (lambda: prepare_tokenizer(byte_level_tokenizer(), "vicuna"), "no bos_token"),
        (lambda: prepare_tokenizer(byte_level_tokenizer(), "alpaca"), "chatml, vicuna"),
    ],
)
def test_wrong_settings_say_what_to_do(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# --- for a model


def config(tokenizer, tower="siglip_vision_model", **text):
    text = {"model_type": "qwen2", "hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2} | text
    vision = {"model_type": tower, "hidden_size": 16, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    return CCExpertConfig(
        vision_config={**vision, "num_hidden_layers": 2, "intermediate_size": 16},
        text_config={"num_hidden_layers": 1, "intermediate_size": 32, "vocab_size": len(tokenizer), **text},
        vision_levels=[1, 2],
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )


def test_a_processor_is_made_for_a_model():
    tokenizer = chatml_tokenizer()
    made = CCExpertProcessor.for_config(config(tokenizer), tokenizer, prompt=RELEASE_PROMPT)
    assert made.num_image_tokens == config(tokenizer).tokens_per_image == 16 and made.prompt == RELEASE_PROMPT
    pixels = made(images=[pair()])["pixel_values"]
    assert pixels.shape == (1, 2, 3, 56, 56) and list(made.image_processor.image_mean) == [0.5] * 3

    tokenizer = vicuna_tokenizer()
    made = CCExpertProcessor.for_config(config(tokenizer, "clip_vision_model", model_type="llama"), tokenizer)
    assert made.system_message == VICUNA_SYSTEM_MESSAGE and made.chat_template == VICUNA_TEMPLATE
    assert made.num_image_tokens == config(tokenizer, "clip_vision_model").tokens_per_image
    assert made.image_processor.image_mean[0] == pytest.approx(0.48145466)


def test_a_model_that_the_tokenizer_does_not_fit():
    tokenizer = chatml_tokenizer()
    with pytest.raises(ValueError, match="resize its embeddings"):
        CCExpertProcessor.for_config(config(tokenizer, vocab_size=len(tokenizer) - 2), tokenizer)
    wrong = config(tokenizer)
    wrong.image_token_id += 1
    with pytest.raises(ValueError, match="set it to the tokenizer's"):
        CCExpertProcessor.for_config(wrong, tokenizer)


# --- tokenizers


def test_a_prepared_tokenizer_grows_once():
    plain = byte_level_tokenizer()
    size = len(plain)
    prepared = prepare_tokenizer(plain)
    assert len(prepared) == size + 3 and prepared.eos_token == "<|im_end|>" and prepared.pad_token == "<|endoftext|>"
    assert len(prepare_tokenizer(prepared)) == size + 3
    sentencepiece = sentencepiece_tokenizer()
    size = len(sentencepiece)
    assert len(prepare_tokenizer(sentencepiece, "vicuna")) == size + 1 and sentencepiece.pad_token == "<unk>"
    assert make(prepare_tokenizer(sentencepiece)).chat_template == CHATML_TEMPLATE


def test_chatml_with_a_sentencepiece_vocabulary():
    processor = make(prepare_tokenizer(sentencepiece_tokenizer()))
    batch = processor(captions=CAPTIONS)
    assert processor.batch_decode(batch["labels"], skip_special_tokens=True) == CAPTIONS
    assert processor.batch_decode(batch["input_ids"], skip_special_tokens=True) == CAPTIONS


def test_workers_can_take_it_along(processor):
    copy = pickle.loads(pickle.dumps(processor))  # noqa: S301 (our own)
    assert torch.equal(copy(text="what?")["input_ids"], processor(text="what?")["input_ids"])
    arrays = processor(images=[pair()], captions="a lake", return_tensors="np")
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
