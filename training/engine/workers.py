"""Batches prepared ahead by worker processes, whatever way the system starts them, and errors that come back whole."""

import copy
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from rscc_hf.errors import InputError, RsccError, TrainingError

Batch = dict[str, torch.Tensor]


def prepared(make: Callable[[Any], Batch], keys: Sequence[Any], num_workers: int = 0) -> Iterator[Batch]:
    """Yield `make(key)` for one key after the other.

    Args:
        make: Makes a whole batch. With workers it is pickled where the system starts processes anew (macOS, Windows,
            Python 3.14): no lambda, and nothing that holds a process or an open file.
        keys: What it is called with.
        num_workers: Processes that call it ahead; 0: none, it is called when the batch is asked for.

    Raises:
        TrainingError: A worker cannot be started, or died.
        RsccError: What `make` raised, the very sentence, also from a worker; so with `OSError` and any `ValueError`.
    """
    if num_workers == 0:
        yield from map(make, keys)
        return
    try:
        batches = iter(DataLoader(_Made(make, keys), batch_size=None, num_workers=num_workers, collate_fn=_whole))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TrainingError(
            f"The data cannot be handed to worker processes ({' '.join(str(error).split())}); set num_workers to 0."
        ) from error
    while True:
        try:
            batch = next(batches, None)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise TrainingError(
                "A worker process was killed, often for want of memory; lower num_workers or "
                f"per_device_batch_size ({' '.join(str(error).split())})."
            ) from error
        if batch is None:
            return
        if isinstance(batch, _Failure):
            raise batch.error
        yield batch


@dataclass
class _Failure:
    """An error on its way from a worker: torch would put the worker's traceback into its sentence."""

    error: Exception


class _Made(Dataset):
    def __init__(self, make: Callable[[Any], Batch], keys: Sequence[Any]):
        self.make, self.keys = make, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> Batch | _Failure:
        try:
            return self.make(self.keys[number])
        except (ValueError, OSError) as error:
            return _Failure(portable(error))


def portable(error: Exception) -> Exception:
    """Return the error, or, where another process could not make it again from its pickle, its words."""
    try:
        pickle.dumps(error)
        copy.copy(error)  # makes it anew as unpickling does
    # its class takes other arguments than it keeps, or what it keeps does not travel
    except (TypeError, ValueError, AttributeError, LookupError, pickle.PicklingError):
        ours = isinstance(error, RsccError | OSError)
        kind = TrainingError if isinstance(error, TrainingError) else InputError if ours else ValueError
        return kind(str(error))
    return error


def _whole(batch: Any) -> Any:
    """Return the one item that a `DataLoader` collates, since its data set gives whole batches."""
    return batch
