"""A tiny checkpoint in the format of MModalCC's release: pickled modules of classes that exist only while it is saved.

The classes carry the names of the release; they hold weights and fields and compute nothing.
"""

import io
import json
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import nn

WORDS = ("houses", "appear", "trees", "vanish", "the")
WORD_MAP = {word: number for number, word in enumerate(("<pad>", *WORDS, "<unk>", "<start>", "<end>"))}
GRID, WIDTH, STAGES, LAYERS = 3, 16, 3, 2
ENCODER_HEADS, DECODER_HEADS = 4, 2
DEPTHS = (1, 2, 1)


def _module_class(module: str, name: str) -> type[nn.Module]:
    return type(name, (nn.Module,), {"__module__": module})


_NAMES = {
    "models_Encoder": ("CNN_Encoder",),
    "models_Decoder": (
        *("MCCFormers_diff_as_Q", "CrossTransformer", "resblock", "PositionalEncoding"),
        *("Mesh_TransformerDecoderLayer", "DecoderTransformer"),
    ),
    "torchvision.models.resnet": ("Bottleneck", "BasicBlock"),
}
CLASSES = {name: _module_class(module, name) for module, names in _NAMES.items() for name in names}


@contextmanager
def _importable() -> Iterator[None]:
    """Lets pickle find the classes under the names of the release."""
    modules = {"torchvision": ModuleType("torchvision"), "torchvision.models": ModuleType("torchvision.models")}
    for module, names in _NAMES.items():
        modules[module] = ModuleType(module)
        for name in names:
            setattr(modules[module], name, CLASSES[name])
    with mock.patch.dict(sys.modules, modules):
        yield


def make(name: str, children: dict[str, nn.Module | None] | None = None, **fields: Any) -> nn.Module:
    """A module of one of the release's classes, with these children and fields."""
    module = CLASSES[name]()
    for key, child in (children or {}).items():
        module.add_module(key, child)
    for key, value in fields.items():
        setattr(module, key, value)
    return module


def _block(bottleneck: bool, inputs: int, outputs: int, stride: int) -> nn.Module:
    if bottleneck:
        inner = outputs // 4
        convolutions = [
            nn.Conv2d(inputs, inner, 1),
            nn.Conv2d(inner, inner, 3, stride, 1),
            nn.Conv2d(inner, outputs, 1),
        ]
    else:
        convolutions = [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.Conv2d(outputs, outputs, 3, 1, 1)]
    children: dict[str, nn.Module | None] = {}
    for number, convolution in enumerate(convolutions, start=1):
        convolution.bias = None
        children |= {f"conv{number}": convolution, f"bn{number}": nn.BatchNorm2d(convolution.out_channels)}
    children["relu"] = nn.ReLU(inplace=True)
    if stride != 1 or inputs != outputs:
        shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        children["downsample"] = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))
    return make("Bottleneck" if bottleneck else "BasicBlock", children, stride=stride)


def _encoder(bottleneck: bool) -> nn.Module:
    widths = (8, 8, 16, 16)
    stages = [
        nn.Sequential(
            _block(bottleneck, inputs, outputs, 1 if number == 0 else 2),
            *(_block(bottleneck, outputs, outputs, 1) for _ in range(DEPTHS[number] - 1)),
        )
        for number, (inputs, outputs) in enumerate(pairwise(widths))
    ]
    stem = [nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    net = nn.Sequential(*stem, *stages)
    return make("CNN_Encoder", {"net": net, "adaptive_pool": nn.AdaptiveAvgPool2d((GRID, GRID))}, NetType="resnet")


def _stage() -> nn.Module:
    attention = {name: nn.MultiheadAttention(WIDTH, ENCODER_HEADS, 0.25) for name in ("attention", "attention2")}
    norms = {f"norm{number}": nn.LayerNorm(WIDTH) for number in range(1, 5)}
    linears = {f"linear{number}": nn.Linear(*((WIDTH, 24) if number % 2 else (24, WIDTH))) for number in range(1, 5)}
    return make(
        "CrossTransformer", {**attention, **norms, **linears, "dropout1": nn.Dropout(0.4), "activation": nn.ReLU()}
    )


def _resblock() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs, kernel in ((2 * WIDTH, WIDTH, 1), (WIDTH, WIDTH, 3), (WIDTH, 2 * WIDTH, 1)):
        layers += [nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return make("resblock", {"left": nn.Sequential(*layers[:-1])}, right=None)


def _enhancement() -> nn.Module:
    children = {
        "w_embedding": nn.Embedding(GRID, WIDTH // 2),
        "h_embedding": nn.Embedding(GRID, WIDTH // 2),
        "embedding_1D": nn.Embedding(GRID**2, WIDTH),
        "projection": nn.Conv2d(16, WIDTH, 1),
        "projection2": nn.Conv2d(16, WIDTH, 1),
        "transformer": nn.ModuleList(_stage() for _ in range(STAGES)),
        "resblock": nn.ModuleList(_resblock() for _ in range(STAGES)),
        "LN": nn.ModuleList(nn.LayerNorm(2 * WIDTH) for _ in range(STAGES)),
    }
    return make("MCCFormers_diff_as_Q", children, n_layers=STAGES)


def sine_table(positions: int, width: int) -> torch.Tensor:
    """(positions, 1, width), as the release computes it."""
    angles = torch.arange(positions)[:, None] * 10000 ** (-torch.arange(0, width, 2) / width)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, None]


def _decoder_layer(width: int) -> nn.Module:
    names = ("self_attn", "multihead_attn", "multihead_attn2")
    children: dict[str, nn.Module | None] = {name: nn.MultiheadAttention(width, DECODER_HEADS, 0.25) for name in names}
    for name, inputs in (("gate", 2 * width), ("gate2", 2 * width), ("gate3", width)):
        children[name] = nn.Sequential(nn.Linear(inputs, width), nn.Sigmoid())
    children |= {f"norm{number}": nn.LayerNorm(width) for number in range(1, 5)}
    children |= {"linear1": nn.Linear(width, 40), "linear2": nn.Linear(40, width)}
    children |= {"dropout": nn.Dropout(0.4), "activation": nn.ReLU(), "activation2": nn.Softmax(dim=-1)}
    return make("Mesh_TransformerDecoderLayer", children)


def _decoder() -> nn.Module:
    width = 2 * WIDTH
    layers = nn.TransformerDecoder(nn.TransformerDecoderLayer(width, 2), 1)
    layers.layers = nn.ModuleList(_decoder_layer(width) for _ in range(LAYERS))
    positions = make("PositionalEncoding", {"dropout": nn.Dropout(0.1), "embedding_1D": nn.Embedding(52, width)})
    positions.register_buffer("pe", sine_table(60, width))
    children = {
        "vocab_embedding": nn.Embedding(len(WORD_MAP), width),
        "transformer": layers,
        "position_encoding": positions,
        "wdc": nn.Linear(width, len(WORD_MAP)),
        "dropout": nn.Dropout(0.4),
    }
    return make("DecoderTransformer", children, vocab_size=len(WORD_MAP))


def toy_content(bottleneck: bool = True, seed: int = 0) -> dict[str, Any]:
    """What a release pickles: four modules with random weights, their optimizers, scores and counts."""
    torch.manual_seed(seed)
    decoder = _decoder()
    # what Adam's constructor and steps would leave, without the second that they take to import a compiler
    optimizer = torch.optim.Adam.__new__(torch.optim.Adam)
    parameters = list(decoder.parameters())
    state = {
        parameter: {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(parameter)} for parameter in parameters
    }
    optimizer.__dict__.update(
        defaults={"lr": 5e-5}, state=defaultdict(dict, state), param_groups=[{"params": parameters, "lr": 5e-5}]
    )
    return {
        "epoch": 3,
        "epochs_since_improvement": 0,
        "bleu-4": {"Bleu_4": 0.3},
        "encoder_image": _encoder(bottleneck),
        "encoder_image2": _encoder(bottleneck),
        "encoder_feat": _enhancement(),
        "decoder": decoder,
        "encoder_image_optimizer": None,
        "encoder_image_optimizer2": None,
        "encoder_feat_optimizer": None,
        "decoder_optimizer": optimizer,
    }


def saved(content: Any, *, legacy: bool = False, device: str = "cuda:0") -> bytes:
    """`torch.save` of a content, with storages that say they were on `device`."""
    file = io.BytesIO()
    with _importable(), mock.patch("torch.serialization.location_tag", return_value=device), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old format wants the source code of the classes, which have none
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def write_word_map(path: Path, word_map: Any = WORD_MAP) -> Path:
    """The release's second file."""
    path.write_text(json.dumps(word_map))
    return path
