"""What the rehearsals load: tiny checkpoints of both systems, images, and a data set of pairs."""

import inspect
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import file_download
from PIL import Image

from rscc_hf.data.schema import FEATURES
from toys.ccexpert import tiny_model, tiny_processor

# so many words that the weights take more than the 10 MB that a download is written by
MANY_WORDS = 50_000
# whether the client goes on by itself where a connection was lost (1.5 does not: its next call does)
CLIENT_RESUMES = "RemoteProtocolError" in inspect.getsource(file_download.http_get)
CARD = b"""---
license: apache-2.0
configs:
- config_name: default
  data_files:
  - {split: train, path: "data/train-*.parquet"}
  - {split: test, path: "data/test-*.parquet"}
---
# Second-CC, mini
"""


def save_ccexpert_of_many_words(folder: Path, seed: int = 0) -> Path:
    """A CCExpert of some 13 MB that answers with the words that its tokenizer knows."""
    processor = tiny_processor()
    model = tiny_model(processor, seed)
    known = len(processor.tokenizer)
    model.resize_token_embeddings(MANY_WORDS)
    with torch.no_grad():
        model.lm_head.weight[known:] = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_images(folder: Path, count: int) -> list[str]:
    """Random images; their paths."""
    generator = np.random.default_rng(7)
    paths = [folder / f"{number}.png" for number in range(count)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return [str(path) for path in paths]


def second_cc_mini(folder: Path, rows: int = 6) -> dict[str, bytes]:
    """The files of a data set in the schema of a pair: two parquet files of the split train, one of test."""
    images = [Path(path).read_bytes() for path in write_images(folder, 4)]
    names = ("image_before", "image_after", "semantic_before", "semantic_after")
    files = {"README.md": CARD}
    for split, parts in (("train", 2), ("test", 1)):
        for part in range(parts):
            table = [
                {
                    **{name: {"bytes": image, "path": None} for name, image in zip(names, images, strict=True)},
                    "pair_id": f"{split}-{part}-{row}",
                    "change_mask": None,
                    "captions": ["a lake replaces the trees"],
                    "changed": True,
                    "source": "mini",
                }
                for row in range(rows)
            ]
            path = folder / "part.parquet"
            Dataset.from_list(table, features=FEATURES).to_parquet(path)
            files[f"data/{split}-{part:05d}-of-{parts:05d}.parquet"] = path.read_bytes()
    return files
