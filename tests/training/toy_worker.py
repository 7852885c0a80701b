"""Trains the toy task in a process of its own: `python toy_worker.py '{"output_dir": ...}'`, also under a launcher."""

import json
import sys

import torch
from toy_task import ToyTask, toy_recipe

from rscc_hf.training.loop import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    train(toy_recipe(**json.loads(sys.argv[1])), ToyTask)
