"""A tiny data set of pairs (a square appears on the left or the right, or nothing does) and a recipe for it."""

from pathlib import Path

import numpy as np
from datasets import Dataset
from PIL import Image

from rscc_hf.data.schema import FEATURES
from rscc_hf.training.systems.mmodalcc.recipe import MModalCCRecipe

SIDE = 32
BUILDING, GROUND = (128, 0, 0), (128, 128, 128)


def toy_row(index: int) -> dict:
    generator = np.random.default_rng(index)
    kind = index % 4  # left, unchanged, right, unchanged
    before = generator.integers(90, 120, (SIDE, SIDE, 3), dtype=np.uint8)
    after = generator.integers(90, 120, (SIDE, SIDE, 3), dtype=np.uint8)
    maps = [np.full((SIDE, SIDE, 3), GROUND, np.uint8) for _ in range(2)]
    captions = ["there is no difference", "the two scenes seem identical"]
    if kind in (0, 2):
        side = "left" if kind == 0 else "right"
        columns = slice(2, 14) if kind == 0 else slice(18, 30)
        after[8:24, columns] = 250
        maps[1][8:24, columns] = BUILDING
        captions = [
            f"a building appears on the {side}",
            f"on the {side} a building is built",
            f"a new building {side}",
        ]
    return {
        "pair_id": f"pair-{index}",
        "image_before": Image.fromarray(before),
        "image_after": Image.fromarray(after),
        "semantic_before": Image.fromarray(maps[0]),
        "semantic_after": Image.fromarray(maps[1]),
        "change_mask": None,
        "captions": captions,
        "changed": kind in (0, 2),
        "source": "toy",
    }


def write_pairs(folder: Path, train: int = 24, validation: int = 8, shards: int = 3, change=None) -> str:
    """Writes the splits as parquet files, the training split in shards; `change` may alter each row."""
    (folder / "data").mkdir(parents=True)
    change = change or (lambda row: row)
    for split, start, size, parts in (("train", 0, train, shards), ("validation", 1000, validation, 1)):
        rows = [change(toy_row(start + number)) for number in range(size)]
        dataset = Dataset.from_list(rows, features=FEATURES)
        for part in range(parts):
            name = folder / "data" / f"{split}-{part:05d}-of-{parts:05d}.parquet"
            dataset.shard(parts, part, contiguous=True).to_parquet(str(name))
    return str(folder)


def toy_pairs_recipe(data: str, output_dir, **changes) -> MModalCCRecipe:
    values = {
        "train_data": data,
        "output_dir": str(output_dir),
        "image_size": SIDE,
        "embedding_size": 4,
        "hidden_sizes": [4, 6],
        "depths": [1, 1],
        "layer_type": "basic",
        "backbone_stages": 2,
        "grid_size": 4,
        "d_model": 16,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "num_stages": 1,
        "dropout": 0.1,
        "vocabulary_min_frequency": 1,
        "captions_per_pair": 2,
        "global_batch_size": 8,
        "per_device_batch_size": 4,
        "max_epochs": None,
        "max_steps": 3,
        "learning_rate": 3e-3,
        "eval_unit": "never",
        "save_unit": "never",
        "tracker": "none",
        "progress_bar": False,
        "logging_steps": 1,
        "cpu": True,
    }
    return MModalCCRecipe(**{**values, **changes})
