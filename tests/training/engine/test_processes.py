"""What a run of several processes leaves behind: nothing that could wait for ever."""

import weakref
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from rscc_hf.training.engine.processes import release_process_group


def test_nothing_of_data_parallelism_outlives_the_process_group(tmp_path: Path) -> None:
    """A reducer that is freed after the group, as the last to hold it, can hang (torch 2.13)."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = torch.nn.Linear(3, 3)
        wrapped = DistributedDataParallel(model)
        wrapped(torch.ones(1, 3)).sum().backward()
        reducer = weakref.ref(wrapped.reducer)
        release_process_group([wrapped, torch.nn.Linear(1, 1)])
        assert reducer() is None
        model(torch.ones(1, 3)).sum().backward()  # its hooks are gone with it
    finally:
        distributed.destroy_process_group()
