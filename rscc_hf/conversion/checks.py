"""What every conversion checks of renamed weights before they are used."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedConfig

from rscc_hf.errors import InputError

_LAYER_NUMBER = re.compile(r"(?<=\.layers\.)\d{1,6}(?=\.)")


def check_complete(
    renamed: Mapping[str, torch.Tensor],
    model_class: Callable[[Any], torch.nn.Module],
    config: PreTrainedConfig,
    unknown: Iterable[str] = (),
) -> None:
    """Check that weights are exactly those of a model.

    Args:
        renamed: weights by our names; their shapes are all that is looked at, so they may be on the meta device.
        model_class: of the model.
        config: of the model.
        unknown: official names that mean nothing to us, told with the rest.

    Raises:
        ValueError: it lists all weights that are missing, that do not belong, and that have another shape.
    """
    with torch.device("meta"):
        expected = model_class(config).state_dict()
    problems = []
    if missing := set(expected) - set(renamed):
        problems.append(f"{len(missing)} weights are missing for this config: {listed(missing)}")
    if unexpected := set(renamed) - set(expected):
        problems.append(f"{len(unexpected)} weights do not belong to this config: {listed(unexpected)}")
    if unknown := set(unknown):
        verb = "is no weight" if len(unknown) == 1 else "are no weights"
        problems.append(f"{listed(unknown)} {verb} of such a model")
    misshaped = [
        f"{name} has shape {tuple(tensor.shape)}, this config needs {tuple(expected[name].shape)}"
        for name, tensor in sorted(renamed.items())
        if name in expected and tensor.shape != expected[name].shape
    ]
    if misshaped:
        problems.append("; ".join(misshaped))
    if problems:
        raise InputError(f"{'; '.join(problems)}; give all weights of one release and its own config.")


def check_depth(layers: Any, weights: int) -> None:
    """Refuse a number of layers that cannot be: configurations make lists as long as it says.

    Args:
        layers: `num_hidden_layers` as it stands in a file.
        weights: how many weights there are.

    Raises:
        ValueError: there are fewer weights than layers.
    """
    if isinstance(layers, int) and layers > weights:
        raise InputError(
            f"config.json has num_hidden_layers={layers}, and there are {weights} weights in all; give their config."
        )


def listed(names: Iterable[str]) -> str:
    """Return all names in one line, see `grouped`."""
    return ", ".join(grouped(names))


def grouped(names: Iterable[str]) -> list[str]:
    """Return all names, sorted; those that differ in the number of their layer as one, as `layers.{0-23}.norm`."""
    numbers: dict[str, list[int]] = {}
    for name in sorted(names):
        match = _LAYER_NUMBER.search(name)
        key = name if match is None else f"{name[: match.start()]}\0{name[match.end() :]}"
        numbers.setdefault(key, []).extend([] if match is None else [int(match[0])])
    return [key.replace("\0", _ranges(found)) for key, found in numbers.items()]


def _ranges(numbers: list[int]) -> str:
    """Return `3`, `{0-23}` or `{0-3,7}`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    if len(numbers) == 1:
        return str(numbers[0])
    return "{" + ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs) + "}"
