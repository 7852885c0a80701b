"""Trains the toy task in a process of its own: `python worker.py '{"output_dir": ...}'`, also under a launcher."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a launcher's processes do not read `conftest.py`

import torch

from rscc_hf.training.engine.loop import train
from toys.task import ToyTask, toy_recipe

if __name__ == "__main__":
    torch.set_num_threads(1)
    train(toy_recipe(**json.loads(sys.argv[1])), ToyTask)
