"""From rows of a data set to the micro-batches that CCExpert learns from."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from toys.ccexpert import SIDE, tiny_model, tiny_processor
from toys.pairs import toy_row

from rscc_hf.data.augmentation import Augmentation
from rscc_hf.data.images import undecoded
from rscc_hf.data.schema import FEATURES
from rscc_hf.errors import InputError, RecipeError
from rscc_hf.training.engine.batches import IndexedBatches
from rscc_hf.training.systems.ccexpert.samples import (
    PromptedBatchMaker,
    PromptedCaptionFilter,
    prompted_samples,
    segment_mask,
)
from rscc_hf.training.systems.pairs.pixels import FromDisk, InMemory, PixelReader
from rscc_hf.training.systems.pairs.samples import LABEL_MULTIPLE


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def dataset():
    rows = [toy_row(index) for index in range(4)]
    for row in rows:
        mask = np.zeros((32, 32), dtype=np.uint8)
        mask[:, :16] = 255  # the left half
        row["change_mask"] = Image.fromarray(mask)
    return Dataset.from_list(rows, features=FEATURES)


def samples(processor, dataset, policy="random_choice", masks=False, cache=InMemory, per_pair=None, **options):
    reader = PixelReader(processor.image_processor, False, True, "toy", masks)
    maker = PromptedBatchMaker(processor, 7, **options)
    usable = PromptedCaptionFilter(processor.tokenizer, 50)
    captions = [usable(texts) for texts in dataset["captions"]]
    return prompted_samples(policy, cache(FromDisk(undecoded(dataset), reader)), captions, maker, per_pair)


def learn(model, **inputs) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The summed loss and its gradients."""
    model.zero_grad()
    loss = model(**inputs, num_items_in_batch=1).loss
    loss.backward()
    return loss.detach(), {name: value.grad.clone() for name, value in model.named_parameters()}


def test_captions_together_are_learnt_as_if_each_were_alone(processor, dataset):
    together = samples(processor, dataset, "together", per_pair=2).batch([(3, 0), (3, 1), (3, 2)])
    spoken = [[text for text in row.split("\n") if text] for row in spelled(processor, together)]
    assert [len(texts) for texts in spoken] == [2, 2, 2]  # other captions for other pairs, of other lengths
    model = tiny_model(processor).double().train()
    segments = together.pop("segments")
    mask = segment_mask(segments, torch.float64)
    packed_loss, packed_gradients = learn(model, **together, attention_mask=mask)
    loss, gradients = torch.zeros((), dtype=torch.float64), {}
    for pair, texts in enumerate(spoken):
        for text in texts:
            alone = processor(captions=[text], return_tensors="pt")
            value, more = learn(model, **alone, pixel_values=together["pixel_values"][pair : pair + 1])
            loss += value
            gradients = {name: gradients.get(name, 0) + gradient for name, gradient in more.items()}
    assert torch.allclose(packed_loss, loss, rtol=1e-12)
    for name, gradient in packed_gradients.items():
        # Qwen2's norms reckon in float32
        assert torch.allclose(gradient, gradients[name], rtol=1e-5, atol=1e-6), name


def spelled(processor, batch) -> list[str]:
    """The captions of packed rows, a line each."""
    rows = []
    for ids, segments, labels in zip(
        *(batch[name].tolist() for name in ("input_ids", "segments", "labels")), strict=True
    ):
        lines: dict[int, list[int]] = {}
        for number, segment, label in zip(ids, segments, labels, strict=True):
            if label != -100:
                lines.setdefault(segment, []).append(number)
        assert sorted(lines) == list(range(1, len(lines) + 1))
        rows.append("\n".join(processor.tokenizer.decode(line, skip_special_tokens=True) for line in lines.values()))
    return rows


def test_changed_pixels_alone_are_shown_in_a_share_of_the_samples(processor, dataset):
    def pixels(share):
        made = samples(processor, dataset, masks=True, changed_pixels_share=share)
        return made.batch([(0, 0), (0, 1)])["pixel_values"]

    whole, masked = pixels(0.0), pixels(1.0)
    side = whole.shape[-1]
    left, right = slice(0, side // 2), slice(side // 2 + 2, None)  # the left half changed; a margin of a pixel or two
    assert torch.equal(masked[..., left], whole[..., left])
    assert masked[..., right].abs().max() < 0.01  # grey, normalised
    assert whole[..., right].abs().max() > 0.1
    half = samples(processor, dataset, masks=True, changed_pixels_share=0.5)
    some = half.batch([(epoch, 0) for epoch in range(40)])["pixel_values"]
    shown = sum(torch.equal(sample, masked[0]) for sample in some)
    assert 8 <= shown <= 32


def test_captions_together_stay_within_the_longest_sequence(processor, dataset):
    keys = [(3, 0), (3, 1)]
    whole = samples(processor, dataset, "together", per_pair=2).batch(keys)
    lengths = (whole["segments"] >= 0).sum(1)
    limit = int(lengths.max()) - 1
    cut = samples(processor, dataset, "together", per_pair=2, max_length=limit).batch(keys)
    assert ((cut["segments"] >= 0).sum(1) <= limit).all()
    for row, length in enumerate(lengths):
        assert int(cut["segments"][row].max()) == (2 if length <= limit else 1)


def test_captions_met_again_make_the_same_batch(processor, dataset):
    """What a maker keeps of captions that it has written shows in no batch."""
    chosen = [(epoch, index) for epoch in range(3) for index in range(2)]
    used = samples(processor, dataset, "together", per_pair=2)
    for keys in (chosen[:2], chosen[2:4], chosen[4:], chosen[:2]):
        batch, fresh = used.batch(keys), samples(processor, dataset, "together", per_pair=2).batch(keys)
        assert batch.keys() == fresh.keys() and all(torch.equal(batch[name], fresh[name]) for name in batch)


def test_captions_together_need_to_know_how_many(processor, dataset):
    with pytest.raises(RecipeError, match="captions_per_pair"):
        samples(processor, dataset, "together")


def said(processor, batch):
    return processor.batch_decode(batch["labels"], skip_special_tokens=True)


def test_flattened_every_caption_is_a_sample(processor, dataset):
    made = samples(processor, dataset, "flatten")
    expected = [(row["pair_id"], caption) for row in dataset for caption in row["captions"]]
    assert len(made) == len(expected) == 10
    batch = made.batch([(0, index) for index in range(len(made))])
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask", "labels"}
    assert said(processor, batch) == [caption for _, caption in expected]
    for row, (pair_id, _) in enumerate(expected):
        index = dataset["pair_id"].index(pair_id)
        pair = [dataset[index]["image_before"], dataset[index]["image_after"]]
        assert torch.equal(batch["pixel_values"][row], processor.image_processor([pair], return_tensors="pt")[
            "pixel_values"
        ][0])  # fmt: skip
    assert len(samples(processor, dataset, "flatten", per_pair=2)) == 8


def test_random_choice_gives_each_pair_another_caption_each_epoch(processor, dataset):
    made = samples(processor, dataset)
    assert len(made) == 4
    epochs = [said(processor, made.batch([(epoch, index) for index in range(4)])) for epoch in range(12)]
    for index in range(4):
        assert {epoch[index] for epoch in epochs} == set(dataset[index]["captions"])
    assert said(processor, made.batch([(3, 2), (3, 0)])) == [epochs[3][2], epochs[3][0]]  # whatever the batch


def test_a_batch_is_what_its_samples_are_alone(processor, dataset):
    made = samples(processor, dataset, "flatten", cache=lambda source: source)
    batch = made.batch([(0, 0), (0, 9)])
    assert batch["input_ids"].shape[1] % LABEL_MULTIPLE == 0
    for row, index in enumerate((0, 9)):
        alone = made.batch([(0, index)])
        length = int(alone["attention_mask"].sum())
        assert alone["attention_mask"][0, :length].all()  # padded on the right
        assert torch.equal(batch["input_ids"][row, :length], alone["input_ids"][0, :length])
        assert torch.equal(batch["labels"][row, :length], alone["labels"][0, :length])
        assert (batch["labels"][row, length:] == -100).all() and not batch["attention_mask"][row, length:].any()
        assert torch.equal(batch["pixel_values"][row], alone["pixel_values"][0])


def test_words_and_masks_move_with_the_images(processor, dataset):
    plain = samples(processor, dataset, "flatten", masks=True)
    mirrored = samples(
        processor, dataset, "flatten", masks=True, augmentation=Augmentation(mirror_horizontal=1, mirror_vertical=0)
    )
    keys = [(0, index) for index in range(10)]
    before, after = plain.batch(keys), mirrored.batch(keys)
    assert before["change_masks"].shape == (10, SIDE, SIDE) and before["change_masks"].dtype == torch.bool
    assert before["change_masks"][:, :, : SIDE // 2].all() and not before["change_masks"][:, :, SIDE // 2 :].any()
    assert torch.equal(after["change_masks"], before["change_masks"].flip(-1))
    assert torch.equal(after["pixel_values"], before["pixel_values"].flip(-1))
    swapped = [text.replace("left", "RIGHT").replace("right", "left").lower() for text in said(processor, before)]
    assert said(processor, after) == swapped


def test_captions_that_cannot_be_learnt_are_left_out(processor):
    usable = PromptedCaptionFilter(processor.tokenizer, 6)
    texts = ["a lake", "", "  ", "a<|im_end|> lake", "<image>", "a lake replaces the trees and then some more words"]
    assert usable(texts) == ["a lake"]
    assert usable(None) == usable([]) == usable([""]) == []


def test_what_cannot_be_trained_on_is_said_at_once(processor, dataset):
    with pytest.raises(RecipeError, match="captions is 'both'"):
        samples(processor, dataset, "both")
    with pytest.raises(RecipeError, match=r"max_length is 20 and the prompt with its images makes \d+ tokens"):
        samples(processor, dataset, max_length=20)
    broken = dataset.map(lambda row: {"image_after": {"bytes": b"no image", "path": "b.png"}}, features=FEATURES)
    with pytest.raises(InputError, match=r"Pair 'pair-0': image after b\.png is not an image") as caught:
        samples(processor, broken)
    assert caught.value.pair == "pair-0" and caught.value.file == "b.png"


def test_long_captions_are_cut_at_max_length(processor, dataset):
    made = samples(processor, dataset, "flatten")
    room = made.maker.prompt_length + 3
    cut = samples(processor, dataset, "flatten", max_length=room).batch([(0, 0)])
    whole = made.batch([(0, 0)])
    assert int(cut["attention_mask"].sum()) == room
    assert (cut["labels"] >= 0).sum() == 3
    assert torch.equal(cut["labels"][0, :room], whole["labels"][0, :room])


def test_questions_for_generation_are_padded_left(processor, dataset):
    made = samples(processor, dataset)
    batch = made.maker.ask(made.pixels.get([0, 1]))
    assert set(batch) == {"pixel_values", "input_ids", "attention_mask"}
    answer = processor.batch_decode(tiny_model(processor).generate(**batch, max_new_tokens=3))
    assert len(answer) == 2


def test_a_model_learns_what_the_batches_say(processor, dataset):
    made = samples(processor, dataset)
    source = IndexedBatches(made, seed=0, per_device_batch_size=2, accumulation_steps=2)
    model = tiny_model(processor).train()
    for parameter in model.parameters():
        parameter.data.div_(8 if parameter.ndim > 1 else 1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for epoch in range(30):
        for window in source.epoch(epoch, None):
            targets = sum(int((batch["labels"] != -100).sum()) for batch in window.batches)
            loss = sum(model(**batch, num_items_in_batch=targets).loss for batch in window.batches)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(float(loss.detach()))
    assert np.mean(losses[-2:]) < 0.7 * losses[0]
