"""Training of a tiny MModalCC on tiny pairs, from the recipe to a folder that loads."""

import json
import math
import multiprocessing
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import watched
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from toys.killed import run
from toys.pairs import SIDE, toy_pairs_recipe, write_pairs
from toys.two_processes import launch

from rscc_hf.data.loading import load_pairs
from rscc_hf.errors import RecipeError
from rscc_hf.inference.captioner import ChangeCaptioner
from rscc_hf.modeling.modeling_mmodalcc import MModalCCForConditionalGeneration
from rscc_hf.processing.processing_mmodalcc import MModalCCProcessor
from rscc_hf.training.engine import checkpoints
from rscc_hf.training.engine.loop import train
from rscc_hf.training.engine.recipe import read_recipe, recipe_to_yaml
from rscc_hf.training.mmodalcc import main
from rscc_hf.training.systems.mmodalcc.recipe import MModalCCRecipe
from rscc_hf.training.systems.mmodalcc.task import MModalCCTask, train_mmodalcc
from rscc_hf.training.systems.pairs.samples import BatchMaker, ChosenSamples, FewerUnchanged, FlattenedSamples

ROOT = Path(__file__).resolve().parents[3]
EVERYTHING_RANDOM = {
    "dropout": 0.2,
    "semantics_optional": True,
    "semantic_dropout": 0.4,
    "mirror_horizontal": 0.5,
    "mirror_vertical": 0.5,
    "rotate": 0.3,
    "colour_jitter": 0.2,
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"))


def final_weights(folder) -> dict[str, torch.Tensor]:
    return MModalCCForConditionalGeneration.from_pretrained(folder).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


class Stop(Exception):
    """Stands for the death of a process."""


def trained(recipe, stops=()) -> dict[str, torch.Tensor]:
    for stop in stops:

        def on_step(step, total, loss, stop=stop):
            if step == stop:
                raise Stop

        with pytest.raises(Stop):
            train_mmodalcc(recipe, on_step=on_step)
    train_mmodalcc(recipe)
    return final_weights(recipe.output_dir)


def test_learns_and_leaves_a_folder_that_answers(pairs, tmp_path):
    losses, evaluations = [], []
    recipe = toy_pairs_recipe(
        pairs,
        tmp_path,
        max_steps=60,
        dropout=0.0,
        learning_rate=5e-3,
        cache="memory",
        eval_unit="epochs",
        eval_every=5,
        save_unit="epochs",
        frozen_stages=[],
    )
    result = train_mmodalcc(
        recipe, on_step=lambda step, total, loss: losses.append((step, total, loss)), on_evaluation=evaluations.append
    )
    assert [(step, total) for step, total, _ in losses] == [(step, 60) for step in range(1, 61)]
    assert losses[-1][2] < 0.5 * losses[0][2]
    assert [entry["scores"] for entry in result.state.history] == evaluations
    assert result.state.best == max(scores["bleu_4"] for scores in evaluations) > 30
    assert {"bleu_1", "rouge_l", "cider_d", "accuracy_changed", "accuracy_unchanged"} <= set(evaluations[0])

    captioner = ChangeCaptioner.from_pretrained(tmp_path)
    assert captioner.trained_on == "toy"
    rows = load_pairs(pairs, "validation")
    captions = captioner(
        rows["image_before"], rows["image_after"], rows["semantic_before"], rows["semantic_after"], max_new_tokens=8
    )
    assert len(set(captions)) > 1 and all("<" not in caption for caption in captions)
    assert read_recipe(MModalCCRecipe, tmp_path / "recipe.yaml") == recipe
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000054", "step-00000060"]
    log = [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "loss" in entry] == list(range(1, 61))


@pytest.mark.parametrize("freeze_statistics", [False, True])
def test_what_should_move_moves_and_what_is_frozen_does_not(pairs, tmp_path, freeze_statistics):
    before = {}

    def build(recipe, accelerator):
        task = MModalCCTask(recipe, accelerator)
        before.update({name: tensor.clone() for name, tensor in task.model.state_dict().items()})
        return task

    recipe = toy_pairs_recipe(pairs, tmp_path, freeze_statistics=freeze_statistics, max_steps=2)
    task = train(recipe, build).task
    after = task.model.state_dict()
    frozen = ("embedder.", "encoder.stages.0.")
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    parts = {"frozen": 0, "frozen statistics": 0, "moving": 0, "moving statistics": 0}
    for name, tensor in after.items():
        moved = not torch.equal(tensor, before[name])
        is_frozen = "_backbone." in name and any(f"_backbone.{part}" in name for part in frozen)
        kind = "frozen" if is_frozen else "moving"
        if name.endswith(statistics):
            assert moved == (not is_frozen or not freeze_statistics), name
            kind += " statistics"
        else:
            assert moved == (not is_frozen), name
        parts[kind] += 1
    assert min(parts.values()) > 0
    optimised = {id(parameter) for part in task.parts() for parameter in part.parameters}
    assert optimised == {id(parameter) for parameter in task.model.parameters() if parameter.requires_grad}


def test_parts_have_rates_and_clamps_of_their_own(pairs, tmp_path):
    recipe = toy_pairs_recipe(
        pairs, tmp_path, encoder_learning_rate=1e-3, decoder_learning_rate=0.0, frozen_stages=["none"]
    )
    parts = {part.name: part for part in train_mmodalcc(recipe).task.parts()}
    assert {name: (part.learning_rate, part.clamp, part.decays) for name, part in parts.items()} == {
        "encoder": (1e-3, 5.0, False),
        "enhancement": (3e-3, None, False),
        "decoder": (0.0, 5.0, True),
    }


@pytest.mark.parametrize("changes", [{"cache": "memory"}, {"num_workers": 2}])
def test_neither_cache_nor_workers_change_the_result(pairs, tmp_path, changes):
    plain = trained(toy_pairs_recipe(pairs, tmp_path / "plain", **EVERYTHING_RANDOM))
    other = trained(toy_pairs_recipe(pairs, tmp_path / "other", **EVERYTHING_RANDOM, **changes))
    assert same(plain, other)


def test_gradient_checkpointing_changes_nothing_not_even_statistics(pairs, tmp_path):
    plain = trained(toy_pairs_recipe(pairs, tmp_path / "plain"))
    checkpointed = trained(toy_pairs_recipe(pairs, tmp_path / "other", gradient_checkpointing=True))
    for name, tensor in plain.items():
        torch.testing.assert_close(checkpointed[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
        if name.endswith("num_batches_tracked"):
            assert torch.equal(checkpointed[name], tensor)


@pytest.mark.parametrize(
    "stream", [{}, {"streaming": True, "captions": "random_choice", "stream_shuffle_buffer": 3, "num_workers": 1}]
)
def test_resumes_bit_for_bit(pairs, tmp_path, stream):
    changes = {**EVERYTHING_RANDOM, **stream, "max_steps": 8, "save_unit": "steps", "save_every": 2}
    whole = trained(toy_pairs_recipe(pairs, tmp_path / "whole", **changes))
    parts = trained(toy_pairs_recipe(pairs, tmp_path / "parts", **changes), stops=[1, 5, 6])
    assert same(whole, parts)


def test_bf16_and_label_smoothing_run(pairs, tmp_path):
    recipe = toy_pairs_recipe(
        pairs, tmp_path, mixed_precision="bf16", label_smoothing=0.1, optimizer="adamw", weight_decay=0.01, max_steps=2
    )
    assert {tensor.dtype for tensor in trained(recipe).values()} == {torch.float32, torch.int64}


def test_label_smoothing_is_torchs(pairs, tmp_path):
    result = train_mmodalcc(toy_pairs_recipe(pairs, tmp_path, label_smoothing=0.2, max_steps=1))
    task = result.task
    batch = task.samples.batch([(0, 0), (0, 9)])
    task.model.eval()
    logits, labels = task.model(**batch).logits, batch["labels"]
    wanted = labels != -100
    expected = torch.nn.CrossEntropyLoss(label_smoothing=0.2)(logits[wanted], labels[wanted])
    torch.testing.assert_close(task.loss(task.model, batch, int(wanted.sum())), expected)


def test_rgb_alone_needs_no_maps(tmp_path):
    def without_maps(row):
        return {**row, "semantic_before": None, "semantic_after": None}

    data = write_pairs(tmp_path / "data", 8, 4, change=without_maps)
    trained(toy_pairs_recipe(data, tmp_path / "rgb", modalities="rgb", max_steps=1, eval_unit="epochs"))
    trained(toy_pairs_recipe(data, tmp_path / "optional", semantics_optional=True, max_steps=1))
    with pytest.raises(ValueError, match=r"pair 'pair-\d+' has no semantic_before; give maps, set semantics_optional"):
        train_mmodalcc(toy_pairs_recipe(data, tmp_path / "both"))


def test_broken_images_are_named(tmp_path):
    def broken(row):
        return {**row, "image_after": {"bytes": b"", "path": "broken.png"}} if row["pair_id"] == "pair-5" else row

    data = write_pairs(tmp_path / "data", 8, 4, change=broken)
    for cache in ("none", "memory"):
        with pytest.raises(ValueError, match=r"[Pp]air 'pair-5'.*is empty"):
            train_mmodalcc(toy_pairs_recipe(data, tmp_path / cache, cache=cache))


def test_captions_that_cannot_be_trained_on_are_left_out(tmp_path):
    def change(row):
        number = int(row["pair_id"].split("-")[1])
        return {**row, "captions": [["."], ["one two three four five", "six"], ["seven"]][number % 3]}

    data = write_pairs(tmp_path / "data", 6, 3, change=change)
    result = train_mmodalcc(toy_pairs_recipe(data, tmp_path / "run", max_caption_length=4, captions_per_pair=3))
    samples = sorted(result.task.samples.samples)
    assert [pair for pair, _ in samples] == [1, 1, 1, 2, 2, 2, 4, 4, 4, 5, 5, 5]
    assert {caption for _, caption in samples} == {"six", "seven"}
    assert result.task.model.config.max_caption_length == 5


def test_a_data_set_without_a_usable_caption_is_refused(tmp_path):
    data = write_pairs(tmp_path / "data", 3, 3, change=lambda row: {**row, "captions": ["one two three"]})
    with pytest.raises(ValueError, match="no pair with a usable caption is left"):
        train_mmodalcc(toy_pairs_recipe(data, tmp_path / "run", max_caption_length=1))


class NoPixels:
    """Stands for the images: the samples' choices are looked at before they are read."""

    def get(self, indices):
        return list(indices)


class Recorder(BatchMaker):
    def make(self, pixels, captions, generators, epochs):
        return [(pair, text) for pair, texts in zip(pixels, captions, strict=True) for text in texts]


def test_choice_of_captions():
    maker = Recorder(None, None, 0.0, seed=1)
    captions = [["a", "b", "c"], [], ["d"], [str(number) for number in range(9)]]
    flat = FlattenedSamples(NoPixels(), captions, maker, captions_per_pair=5)
    chosen = flat.batch([(0, index) for index in range(len(flat))])
    assert [pair for pair, _ in chosen] == [0] * 5 + [2] * 5 + [3] * 5
    assert {text for pair, text in chosen if pair == 0} == {"a", "b", "c"}
    assert len({text for pair, text in chosen if pair == 3}) == 5
    assert chosen == flat.batch([(7, index) for index in range(len(flat))])  # drawn once, not each epoch

    one = ChosenSamples(NoPixels(), captions, maker)
    epochs = [one.batch([(epoch, index) for index in range(len(one))]) for epoch in range(40)]
    assert [pair for pair, _ in epochs[0]] == [0, 2, 3]
    assert {text for epoch in epochs for pair, text in epoch if pair == 0} == {"a", "b", "c"}
    assert epochs[3] == [one.batch([(3, index)])[0] for index in range(len(one))]  # whatever else is in the batch

    together = ChosenSamples(NoPixels(), captions, maker, count=4).batch([(0, 0), (0, 1), (0, 2)])
    assert [pair for pair, _ in together] == [0] * 4 + [2] * 4 + [3] * 4
    assert {text for pair, text in together if pair == 0} == {"a", "b", "c"}  # one of them twice
    assert len({text for pair, text in together if pair == 3}) == 4


class Indices:
    """Samples that are their own index."""

    def batch(self, keys):
        return [index for _, index in keys]


@given(changed=st.lists(st.booleans(), min_size=1, max_size=40), share=st.floats(0.01, 1), epochs=st.integers(1, 9))
def test_unchanged_samples_take_turns(changed, share, epochs):
    """Each changed sample once an epoch; of the unchanged ones the share, none a second time before all had one."""
    samples = FewerUnchanged(Indices(), changed, share, seed=1)
    unchanged = changed.count(False)
    assert len(samples) == changed.count(True) + math.ceil(share * unchanged)
    seen = Counter()
    for epoch in range(epochs):
        drawn = samples.batch([(epoch, index) for index in range(len(samples))])
        assert len(set(drawn)) == len(drawn)
        assert [index for index in range(len(changed)) if changed[index]] == sorted(
            index for index in drawn if changed[index]
        )
        seen.update(index for index in drawn if not changed[index])
    if unchanged:
        turns = [seen[index] for index in range(len(changed)) if not changed[index]]
        assert max(turns) - min(turns) <= 1


def test_a_run_with_fewer_unchanged_pairs(pairs, tmp_path):
    """Its epochs are shorter by what is left out, and hold every changed pair."""
    task = train_mmodalcc(toy_pairs_recipe(pairs, tmp_path, unchanged_share=0.5, captions="random_choice")).task
    changed = task.training["changed"]
    assert 0 < sum(changed) < len(changed)
    assert len(task.samples) == sum(changed) + math.ceil((len(changed) - sum(changed)) / 2)
    assert [int(index) for index in task.samples.always] == [i for i, mark in enumerate(changed) if mark]


def test_pairs_with_several_captions_lose_as_each_caption_alone(pairs, tmp_path):
    task = train_mmodalcc(
        toy_pairs_recipe(pairs, tmp_path, captions="together", captions_per_pair=3, max_steps=1)
    ).task
    task.model.eval()
    batch = task.samples.batch([(0, 0), (0, 5)])
    assert len(batch["labels"]) == 3 * len(batch["pixel_values"])
    logits = task.model(**batch).logits
    for row in range(6):
        alone = {name: value[row // 3 : row // 3 + 1] for name, value in batch.items() if name != "labels"}
        expected = task.model(**alone, labels=batch["labels"][row : row + 1]).logits
        torch.testing.assert_close(logits[row : row + 1], expected, rtol=1e-4, atol=1e-5)


def test_maps_are_left_out_as_often_as_asked(pairs, tmp_path):
    recipe = toy_pairs_recipe(pairs, tmp_path, semantics_optional=True, semantic_dropout=0.3, max_steps=1)
    samples = train_mmodalcc(recipe).task.samples
    batches = [samples.batch([(epoch, index) for index in range(len(samples))]) for epoch in range(10)]
    present = torch.stack([batch["semantic_present"] for batch in batches])
    assert 0.6 < present.float().mean() < 0.8
    assert not torch.equal(present[0], present[1])
    values = batches[0]["semantic_values"]
    assert not values[~present[0]].any() and values[present[0]].flatten(1).any(dim=1).all()


def test_maps_of_changed_pixels_only_at_the_start(tmp_path):
    """In the first epoch maps are black outside of the mask; later a share of them is."""

    def masked(row):
        mask = Image.new("L", (SIDE, SIDE))
        mask.paste(255, (0, 0, SIDE // 2, SIDE))
        return {**row, "change_mask": mask}

    data = write_pairs(tmp_path / "data", 12, 3, change=masked)
    recipe = toy_pairs_recipe(
        data, tmp_path / "run", changed_coverage_epochs=1, changed_coverage_share=0.3, cache="memory", max_steps=1
    )
    samples = train_mmodalcc(recipe).task.samples
    keys = range(len(samples))
    first = samples.batch([(0, index) for index in keys])["semantic_values"]
    assert not first[..., SIDE // 2 :].any() and first[..., : SIDE // 2].flatten(1).any(dim=1).all()
    later = torch.cat([samples.batch([(epoch, index) for index in keys])["semantic_values"] for epoch in range(1, 9)])
    restricted = ~later[..., SIDE // 2 :].flatten(1).any(dim=1)
    assert 0.15 < restricted.float().mean() < 0.45


def test_mistakes_are_one_sentence(pairs, tmp_path):
    with pytest.raises(RecipeError, match="train_data is not given"):
        train_mmodalcc(MModalCCRecipe(output_dir=str(tmp_path), tracker="none", cpu=True))
    with pytest.raises(ValueError, match="has no split 'valid'; there are train, validation"):
        train_mmodalcc(toy_pairs_recipe(pairs, tmp_path, validation_split="valid", eval_unit="steps"))
    with pytest.raises(ValueError, match="'layer9' cannot be frozen; choose among stem, layer1, layer2"):
        train_mmodalcc(toy_pairs_recipe(pairs, tmp_path, frozen_stages=["layer9"]))
    with pytest.raises(SystemExit) as caught:
        main(["--learnin_rate", "1"])
    assert str(caught.value.code).startswith("mmodalcc.py: --learnin_rate: no such flag; did you mean learning_rate")


@pytest.mark.parametrize(
    ("key", "name", "content"),
    [
        ("tokenizer", "tokenizer.json", '{"model": {}}'),
        ("tokenizer", "tokenizer.json", "{"),
        ("backbone_weights_rgb", "config.json", "[]"),
        ("backbone_weights_rgb", "config.json", '{"model_type": "resnet", "depths": "many"}'),
        ("backbone_weights_rgb", "config.json", '{"model_type": "resnet", "layer_type": "of tomorrow"}'),
    ],
)
def test_what_cannot_be_read_is_one_sentence_with_the_key(pairs, tmp_path, key, name, content):
    """Also where a library raises a bare `Exception`, or whatever falls over an odd value."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (folder / name).write_text(content)
    with pytest.raises(RecipeError, match=rf"^{key} .*damaged cannot be read \(.+\); name a ") as caught:
        train_mmodalcc(toy_pairs_recipe(pairs, tmp_path / "run", **{key: str(folder)}))
    assert "\n" not in str(caught.value)


def kill_and_continue(data, folder, changes, kills):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rscc_hf.training.systems.mmodalcc.task"])
    for kill, number in [*kills, ("", 0)]:
        process = context.Process(target=run, args=(data, str(folder), changes, kill, number))
        process.start()
        watched.join(process)
        assert process.exitcode == (-9 if kill else 0), (kill, number)
    return final_weights(folder)


@pytest.mark.slow
@pytest.mark.parametrize("stream", [{}, {"streaming": True, "captions": "random_choice", "stream_shuffle_buffer": 4}])
def test_killed_at_random_steps_and_while_writing_it_ends_with_the_same_weights(pairs, tmp_path, stream):
    changes = {**EVERYTHING_RANDOM, **stream, "max_steps": 14, "save_unit": "steps", "save_every": 2}
    changes |= {"keep_checkpoints": 1, "eval_unit": "steps", "eval_every": 5}
    whole = kill_and_continue(pairs, tmp_path / "whole", changes, [])
    steps = random.Random(0).choices(range(2, 5), k=3)
    kills = [("step", 1), ("optimizer", 1), ("step", steps[0]), ("rename", 1), ("step", steps[1]), ("prune", 1)]
    killed = kill_and_continue(pairs, tmp_path / "killed", changes, [*kills, ("step", steps[2])])
    assert same(whole, killed)
    last = [checkpoints.newest_complete(tmp_path / name / "checkpoints") for name in ("whole", "killed")]
    states = [checkpoints.read_state(path) for path in last]
    assert [state["step"] for state in states] == [14, 14]
    assert states[0]["history"] == states[1]["history"]
    optimizers = [checkpoints.load_optimizer_state(path)["optimizer"]["state"] for path in last]
    for number, state in optimizers[0].items():
        assert all(torch.equal(state[name], optimizers[1][number][name]) for name in state)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_the_command_of_the_readme(pairs, tmp_path, processes):
    """`accelerate launch`, or torch's launcher for two processes; a recipe file, a flag over it, TensorBoard."""
    changes = {"tracker": "tensorboard", "eval_unit": "epochs", "semantics_optional": True, "semantic_dropout": 0.5}
    recipe = toy_pairs_recipe(pairs, tmp_path / "run", **changes)
    (tmp_path / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["training/mmodalcc.py", "--config", str(tmp_path / "recipe.yaml"), "--learning_rate", "5e-6"]
    if processes == 1:
        watched.run(command, check=True, cwd=ROOT, limit=300)
    else:
        launch(*map(str, command[command.index("training/mmodalcc.py") :]), processes=processes)
    assert read_recipe(MModalCCRecipe, tmp_path / "run" / "recipe.yaml").learning_rate == 5e-6
    assert list((tmp_path / "run" / "tracker").glob("events.out.tfevents.*"))
    processor = MModalCCProcessor.from_pretrained(tmp_path / "run")
    assert processor.tokenizer.pad_token_id == 0 and final_weights(tmp_path / "run")
