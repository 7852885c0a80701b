"""A small task for the loop's own tests: a model in float64, random numbers as data."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from datasets import Dataset
from torch import nn

from rscc_hf.training.engine.batches import IndexedBatches
from rscc_hf.training.engine.recipe import LoopRecipe, option
from rscc_hf.training.engine.stream import StreamBatches
from rscc_hf.training.engine.task import Part, Task

WORDS, WIDTH = 7, 6


@dataclass
class ToyRecipe(LoopRecipe):
    samples: int = option(23, "Samples of the data set.")
    shards: int = option(0, "Shards of a stream; 0: no stream.")
    shuffle_buffer: int = option(0, "Of the stream.")
    dropout: float = option(0.0, "Of the model.")
    batch_norm: bool = option(False, "Whether the model has a batch normalisation.")
    scores: str = option("", "Scores that successive evaluations give; empty: minus the loss.")


class ToyModel(nn.Module):
    def __init__(self, dropout: float, batch_norm: bool):
        super().__init__()
        self.encoder = nn.Linear(WIDTH // 2, 8)
        self.norm = nn.BatchNorm1d(8) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.decoder = nn.Linear(16, WORDS)
        self.double()

    def forward(self, inputs, labels, num_items_in_batch):
        halves = self.encoder(inputs.unflatten(1, (2, -1))).transpose(1, 2)  # (batch, 8, 2), two for batch norm
        hidden = self.dropout(torch.tanh(self.norm(halves)).flatten(1))
        logits = self.decoder(hidden)[:, None].expand(-1, labels.shape[1], -1)
        total = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return SimpleNamespace(loss=total / num_items_in_batch)


def sample(index: int, epoch: int = 0):
    """Inputs (WIDTH,) and 1 to 4 targets of a sample; its augmentation depends on the epoch."""
    generator = torch.Generator().manual_seed(1000 * epoch + index)
    inputs = torch.randn(WIDTH, generator=generator, dtype=torch.float64) + index % WORDS
    return inputs, torch.full((1 + index % 4,), index % WORDS)


def collate(samples):
    inputs, labels = zip(*samples, strict=True)
    padded = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    return {"inputs": torch.stack(inputs), "labels": padded}


class ToySamples:
    def __init__(self, size: int):
        self.size = size

    def __len__(self):
        return self.size

    def batch(self, keys):
        return collate([sample(index, epoch) for epoch, index in keys])


class ToyTask(Task):
    def __init__(self, recipe: ToyRecipe, accelerator):
        self.recipe = recipe
        self.model = ToyModel(recipe.dropout, recipe.batch_norm)
        self.evaluations = 0
        self.seen = []

    def parts(self):
        recipe = self.recipe
        return [
            Part("encoder", list(self.model.encoder.parameters()) + list(self.model.norm.parameters()), 0.02),
            Part("decoder", list(self.model.decoder.parameters()), recipe.learning_rate, decays=True),
        ]

    def batches(self, process, processes, accumulation_steps):
        recipe = self.recipe
        place = {
            "seed": recipe.seed,
            "per_device_batch_size": recipe.per_device_batch_size,
            "accumulation_steps": accumulation_steps,
            "process": process,
            "processes": processes,
            "num_workers": recipe.num_workers,
        }
        if not recipe.shards:
            return IndexedBatches(ToySamples(recipe.samples), **place)
        stream = Dataset.from_dict({"index": list(range(recipe.samples))}).to_iterable_dataset(recipe.shards)
        return StreamBatches(stream, self._batch_of_rows, shuffle_buffer=recipe.shuffle_buffer, **place)

    def _batch_of_rows(self, examples):
        return collate([sample(example.row["index"], example.epoch) for example in examples])

    def validate(self, accelerator):
        self.evaluations += 1
        if self.recipe.scores:
            return {"bleu_4": float(self.recipe.scores.split()[self.evaluations - 1])}
        batch = ToySamples(10).batch([(0, index) for index in range(10)])
        with torch.no_grad():
            device = next(self.model.parameters()).device
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            return {"bleu_4": -float(self.model(**batch, num_items_in_batch=1).loss)}

    def save(self, folder: Path):
        folder.mkdir(parents=True)
        torch.save(self.model.state_dict(), folder / "weights.pt")


def toy_recipe(output_dir, **changes) -> ToyRecipe:
    values = {
        "output_dir": str(output_dir),
        "global_batch_size": 4,
        "per_device_batch_size": 2,
        "max_epochs": 3,
        "learning_rate": 0.05,
        "tracker": "none",
        "progress_bar": False,
        "logging_steps": 1,
        "cpu": True,
    }
    return ToyRecipe(**{**values, **changes})
