"""What every conversion checks of renamed weights before they are used."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig


def check_complete(
    renamed: Mapping[str, torch.Tensor], model_class: Callable[[Any], torch.nn.Module], config: PreTrainedConfig
) -> None:
    """Raise a `ValueError` unless names and shapes are exactly those of the `model_class` of `config`."""
    with torch.device("meta"):
        expected = model_class(config).state_dict()
    if missing := sorted(set(expected) - set(renamed)):
        raise ValueError(f"{len(missing)} weights are missing for this config, first {missing[0]}.")
    if unexpected := sorted(set(renamed) - set(expected)):
        raise ValueError(f"{len(unexpected)} weights do not belong to this config, first {unexpected[0]}.")
    for name, tensor in renamed.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, this config needs {tuple(expected[name].shape)}."
            )
