"""The authors' MModalCC checkpoint -> a checkpoint of ours.

A released `.pth.tar` holds whole pickled modules (github.com/ChangeCapsInRS/SecondCC, no licence stated for code or
weights; this file holds facts about its names and no code of it). It is read without running it. Sizes come from the
shapes of its weights; heads, dropouts and everything else that shapes do not tell come from the fields of the pickled
modules, and what this package's model does otherwise is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from rscc_hf.checkpoint_folder import new_checkpoint
from rscc_hf.conversion.mmodalcc import rename_state_dict
from rscc_hf.conversion.output import check_unchanged, source_of, stamps, write_provenance
from rscc_hf.conversion.pickle_reader import ReleasedFile, modules_of, open_released, state_dict_of
from rscc_hf.conversion.pickle_reader_machine import Placeholder
from rscc_hf.data.vocabulary import END, PAD, START, read_word_map, word_tokenizer_from_word_map
from rscc_hf.errors import InputError, input_errors
from rscc_hf.hub.cards import write_model_card
from rscc_hf.modeling import MModalCCConfig, MModalCCForConditionalGeneration
from rscc_hf.processing.image_processing_mmodalcc import MModalCCImageProcessor
from rscc_hf.processing.processing_mmodalcc import MModalCCProcessor
from rscc_hf.text import reason_of
from rscc_hf.trial import run_a_pair

PARTS = ("encoder_image", "encoder_image2", "encoder_feat", "decoder")
"""Keys of the modules in a released file."""

_TORCH_MODULES = {
    "activation": ("MultiheadAttention", "ReLU", "Sigmoid", "Softmax"),
    "batchnorm": ("BatchNorm2d",),
    "container": ("ModuleList", "Sequential"),
    "conv": ("Conv2d",),
    "dropout": ("Dropout",),
    # the output projection of attention had the second name in torch 1.5 to 1.8
    "linear": ("Linear", "_LinearWithBias", "NonDynamicallyQuantizableLinear"),
    "normalization": ("LayerNorm",),
    "pooling": ("AdaptiveAvgPool2d", "MaxPool2d"),
    "sparse": ("Embedding",),
    "transformer": ("TransformerDecoder",),
}
_DECODER = ("MCCFormers_diff_as_Q", "CrossTransformer", "resblock", "PositionalEncoding")
CLASSES = frozenset(
    {
        ("models_Encoder", "CNN_Encoder"),
        *(("models_Decoder", name) for name in (*_DECODER, "Mesh_TransformerDecoderLayer", "DecoderTransformer")),
        *((f"torch.nn.modules.{module}", name) for module, names in _TORCH_MODULES.items() for name in names),
        ("torchvision.models.resnet", "Bottleneck"),
        ("torchvision.models.resnet", "BasicBlock"),
        ("torch.optim.adam", "Adam"),
        ("torch.optim.adamw", "AdamW"),
        ("torch.optim.sgd", "SGD"),
    }
)
"""The (module, name) of all classes whose objects a released file holds."""

# What our model does, by class and field of the pickled modules; fields that an old torch did not have are absent.
_FIXED: dict[str, dict[str, Any]] = {
    "AdaptiveAvgPool2d": {},
    "BatchNorm2d": {"eps": 1e-5, "track_running_stats": True},
    "Conv2d": {"dilation": 1, "groups": 1, "padding_mode": "zeros", "transposed": False},
    "Embedding": {"max_norm": None},
    "LayerNorm": {"eps": 1e-5},
    "MaxPool2d": {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 1, "ceil_mode": False},
    "Mesh_TransformerDecoderLayer": {"norm_first": False},
    "MultiheadAttention": {"batch_first": False, "add_zero_attn": False},
    "TransformerDecoder": {"norm": None},
}
# Modules without weights that the computation depends on.
_RELU = re.compile(
    r"encoder_image2?\.net\.(2|\d+\.\d+\.relu)|encoder_feat\.resblock\.\d+\.left\.[25]|.+\.layers\.\d+\.activation"
    r"|encoder_feat\.transformer\.\d+\.activation"
)
_SIGMOID = re.compile(r"decoder\.transformer\.layers\.\d+\.gate[23]?\.1")
# the only convolutions with stride 2: the stem, and the first block of every later stage where torchvision has it
_STRIDED = re.compile(r"(0|([5-9])\.0\.({conv}|downsample\.0))")
_MOST = 200  # stages, blocks or layers: a bomb has more
_REMEDY = "give the .pth.tar of a released MModalCC"


@dataclass(frozen=True)
class Converted:
    """What a conversion did.

    Attributes:
        folder: the new checkpoint.
        parameters: how many numbers it learned.
        dropped: official names that were not carried on, sorted.
        caption: what it said of a made-up pair in a new process.
    """

    folder: Path
    parameters: int
    dropped: list[str]
    caption: str | None


def convert_mmodalcc(checkpoint: Path, word_map: Path, out: Path, *, overwrite: bool = False) -> Converted:
    """Convert a released MModalCC.

    Args:
        checkpoint: the release's `.pth.tar`.
        word_map: its `WORDMAP_*.json`.
        out: the checkpoint to make; it appears when it is whole and was seen to work.
        overwrite: whether a checkpoint at `out` is replaced.

    Raises:
        ValueError: naming the file and the reason; nothing is left at `out`, and nothing of `checkpoint` was run.
    """
    sources = [checkpoint, word_map]
    with new_checkpoint(out, overwrite=overwrite, sources=sources) as folder:
        before = stamps(checkpoint, word_map)
        tokenizer = _tokenizer(word_map)
        with open_released(checkpoint, CLASSES) as file:
            modules = _modules(file)
            state = _weights(file)
            _check_fields(modules)
            config = _config(modules, state, tokenizer)
            renamed = rename_state_dict(state, config)
        model = MModalCCForConditionalGeneration(config).eval()
        model.load_state_dict(renamed.state_dict)
        model.generation_config.update(num_beams=4, length_penalty=0.0)
        model.save_pretrained(folder)
        _processor(config, tokenizer).save_pretrained(folder)
        write_provenance(
            folder,
            [source_of(checkpoint), source_of(word_map)],
            {
                "converter": "rscc convert mmodalcc",
                "format": "released MModalCC (pickled modules)",
                "weights": len(renamed.state_dict),
                "dropped": renamed.dropped,
            },
        )
        check_unchanged(before)
        write_model_card(folder, name=out.resolve().name)
        caption = run_a_pair(folder)
    return Converted(out, sum(weight.numel() for weight in model.parameters()), renamed.dropped, caption)


def _tokenizer(word_map: Path) -> PreTrainedTokenizerFast:
    """Make the tokenizer that keeps the ids of the release's word map."""
    try:
        words = read_word_map(word_map)
    except (ValueError, RecursionError) as error:
        # what json refuses for its depth or the length of a number is no JSONDecodeError
        told = (
            str(error)
            if str(word_map) in str(error)
            else f"{word_map} cannot be read as JSON ({error}); fetch it again."
        )
        raise InputError(told) from error
    try:
        tokenizer = word_tokenizer_from_word_map(words)
    except ValueError as error:
        raise InputError(f"{word_map} is not the word map of a release: {error}") from error
    if tokenizer.pad_token_id != 0:
        raise InputError(
            f"{word_map} gives {PAD} the id {tokenizer.pad_token_id}, where in a release it is 0; give a release's."
        )
    return tokenizer


def _processor(config: MModalCCConfig, tokenizer: PreTrainedTokenizerFast) -> MModalCCProcessor:
    """Return the preprocessing of the release: bilinear, divided by 255, no mean and standard deviation."""
    bilinear = int(Image.Resampling.BILINEAR)
    channels = {stream: backbone.num_channels for stream, backbone in config.backbone_configs.items()}
    image_processor: Any = MModalCCImageProcessor  # its settings are keywords that no signature lists
    images = image_processor(
        size={"height": config.image_size, "width": config.image_size},
        resample=bilinear,
        semantic_resample=bilinear,
        do_normalize=False,
        white_to_void=True,
        num_channels=channels["rgb"],
        semantic_num_channels=channels["semantic"],
    )
    return MModalCCProcessor(images, tokenizer)


def _modules(file: ReleasedFile) -> dict[str, Placeholder]:
    """Return all modules of the four parts by their official name."""
    content = file.content
    if type(content) is not dict:
        raise InputError(f"it holds a {type(content).__name__} and no dict of modules; {_REMEDY}.")
    if missing := [part for part in PARTS if part not in content]:
        raise InputError(f"it lacks {', '.join(missing)}; {_REMEDY}.")
    return {name: found for part in PARTS for name, found in modules_of(content[part], part).items()}


def _weights(file: ReleasedFile) -> dict[str, torch.Tensor]:
    """Return the parameters and buffers of the four parts by their official name."""
    refs = {name: ref for part in PARTS for name, ref in state_dict_of(file.content[part], part).items()}
    for name, ref in refs.items():
        if not (ref.storage.dtype.is_floating_point or name.endswith(".num_batches_tracked")):
            raise InputError(f"{name} holds {ref.storage.dtype} where weights hold floats; {_REMEDY}.")
    return {name: file.tensor(ref, name) for name, ref in refs.items()}


def _check_fields(modules: Mapping[str, Placeholder]) -> None:
    """Raise where the pickled modules compute something else than our model does."""
    kinds = {"encoder_image": "CNN_Encoder", "encoder_image2": "CNN_Encoder"}
    kinds |= {"encoder_feat": "MCCFormers_diff_as_Q", "decoder": "DecoderTransformer"}
    for name, module in modules.items():
        kind = module.class_name
        expected = kinds.get(name) or (_RELU.fullmatch(name) and "ReLU") or (_SIGMOID.fullmatch(name) and "Sigmoid")
        if expected and kind != expected:
            raise InputError(f"{name} is a {kind} where a released MModalCC has a {expected}; give one.")
        fixed = dict(_FIXED.get(kind, {}))
        if kind == "Conv2d":
            kernel = module.fields.get("kernel_size")
            fixed |= {"stride": _expected_stride(name, modules)}
            fixed |= {"padding": kernel[0] // 2} if isinstance(kernel, tuple) and _whole(kernel) else {}
        for field, value in fixed.items():
            if field in module.fields and module.fields[field] not in (value, (value, value)):
                raise InputError(
                    f"{name} has {field}={_shown(module.fields[field])}, a released MModalCC "
                    f"{_shown(value)}; give one."
                )


def _expected_stride(name: str, modules: Mapping[str, Placeholder]) -> int:
    """Return a convolution's stride: only ResNets have one, torchvision in the 3x3 one of a stage's first block."""
    root, _, rest = name.partition(".net.")
    block = rest.rpartition(".conv")[0] or rest.rpartition(".downsample")[0]
    strided = "conv2" if f"{root}.net.{block}.conv3" in modules else "conv1"
    pattern = _STRIDED.pattern.replace("{conv}", strided)
    return 2 if re.fullmatch(pattern, rest) else 1


def _config(
    modules: Mapping[str, Placeholder], state: Mapping[str, torch.Tensor], tokenizer: PreTrainedTokenizerFast
) -> MModalCCConfig:
    """Return the configuration that the weights and fields tell."""
    shape = _Shapes(state)
    stages = _count(modules, "encoder_feat.transformer")
    layers = _count(modules, "decoder.transformer.layers")
    backbones = {part: _backbone(part, modules, shape) for part in ("encoder_image", "encoder_image2")}
    depths = {len(backbone["depths"]) for backbone in backbones.values()}
    if len(depths) != 1:
        raise InputError(f"encoder_image and encoder_image2 have different numbers of stages; {_REMEDY}.")
    attention = [f"encoder_feat.transformer.{stage}.attention2" for stage in range(stages)]
    decoder_attention = [
        f"decoder.transformer.layers.{layer}.{kind}"
        for layer in range(layers)
        for kind in ("self_attn", "multihead_attn")
    ]
    grid = shape["encoder_feat.w_embedding.weight", 2][0]
    if shape["encoder_feat.h_embedding.weight", 2][0] != grid:
        raise InputError(
            f"encoder_feat.w_embedding and h_embedding differ in their cells, and grids are square; {_REMEDY}."
        )
    for part in backbones:
        pool = modules.get(f"{part}.adaptive_pool")
        if pool is not None and pool.fields.get("output_size") not in (grid, (grid, grid)):
            raise InputError(
                f"{part}.adaptive_pool has another output_size than the {grid} cells of the positions; {_REMEDY}."
            )
    words, width = shape["decoder.vocab_embedding.weight", 2]
    if words != len(tokenizer):
        raise InputError(
            f"it has {words} words, but the word map has {len(tokenizer)}; give the word map it was trained with."
        )
    position_dropout = "decoder.position_encoding.dropout"
    dropouts = [
        name for name, module in modules.items() if module.class_name == "Dropout" and name != position_dropout
    ]
    values: dict[str, Any] = {
        "rgb_backbone_config": backbones["encoder_image"],
        "semantic_backbone_config": backbones["encoder_image2"],
        "backbone_stages": depths.pop(),
        "image_size": 256,  # the only size of the release; no weight or field tells it
        "grid_size": grid,
        "feature_enhancement": "parallel",  # what the release computes, whatever the paper draws
        "num_stages": stages,
        "d_model": shape["encoder_feat.projection.weight", 4][0],
        "encoder_attention_heads": _same(modules, attention, "num_heads"),
        "encoder_ffn_dim": shape["encoder_feat.transformer.0.linear3.weight", 2][0],
        "decoder_layers": layers,
        "decoder_hidden_size": width,
        "decoder_attention_heads": _same(modules, decoder_attention, "num_heads"),
        "decoder_ffn_dim": shape["decoder.transformer.layers.0.linear1.weight", 2][0],
        "dropout": _same(modules, dropouts, "p"),
        "attention_dropout": _same(modules, [*attention, *decoder_attention], "dropout"),
        "position_dropout": _same(modules, [position_dropout], "p"),
        "vocab_size": words,
        "pad_token_id": tokenizer.convert_tokens_to_ids(PAD),
        "bos_token_id": tokenizer.convert_tokens_to_ids(START),
        "eos_token_id": tokenizer.convert_tokens_to_ids(END),
    }
    try:
        with input_errors():
            return MModalCCConfig(**values)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise InputError(f"its sizes make no MModalCC ({reason_of(error, whole=True)}); {_REMEDY}.") from error


def _backbone(part: str, modules: Mapping[str, Placeholder], shape: _Shapes) -> dict[str, Any]:
    """Return a ResNet as transformers has it; the release's `net` lists torchvision's children, stages from 4 on."""
    net = f"{part}.net"
    stages = _count(modules, net) - 4
    if stages < 1:
        raise InputError(f"{net} has no stages where a release has the children 0 to 6 of a ResNet; {_REMEDY}.")
    depths = [_count(modules, f"{net}.{4 + stage}") for stage in range(stages)]
    bottleneck = f"{net}.4.0.conv3" in modules
    last = "conv3" if bottleneck else "conv2"
    stem, channels = shape[f"{net}.0.weight", 4][:2]
    return {
        "num_channels": channels,
        "embedding_size": stem,
        "hidden_sizes": [shape[f"{net}.{4 + stage}.0.{last}.weight", 4][0] for stage in range(stages)],
        "depths": depths,
        "layer_type": "bottleneck" if bottleneck else "basic",
    }


class _Shapes:
    """Shapes of weights by name and number of dimensions; a missing or other one is an error that names it."""

    def __init__(self, state: Mapping[str, torch.Tensor]):
        self._state = state

    def __getitem__(self, wanted: tuple[str, int]) -> tuple[int, ...]:
        name, dimensions = wanted
        if name not in self._state:
            raise InputError(f"{name} is missing; {_REMEDY}.")
        shape = tuple(self._state[name].shape)
        if len(shape) != dimensions or 0 in shape:
            raise InputError(
                f"{name} has shape {shape} and not {dimensions} dimensions, none of them empty; {_REMEDY}."
            )
        return shape


def _count(modules: Mapping[str, Placeholder], parent: str) -> int:
    """Tell how many numbered children a list of modules has: 0, 1, 2 ... and no others."""
    if parent not in modules:
        raise InputError(f"{parent} is missing; {_REMEDY}.")
    children = modules[parent].fields.get("_modules", {})
    if not 1 <= len(children) <= _MOST or list(children) != [str(number) for number in range(len(children))]:
        raise InputError(f"{parent} must have the children 0, 1, 2, ..., at most {_MOST}; {_REMEDY}.")
    return len(children)


def _same(modules: Mapping[str, Placeholder], names: Iterable[str], field: str) -> Any:
    """Return the number that a field has in all of these modules."""
    values: dict[Any, str] = {}
    for name in names:
        value = modules[name].fields.get(field) if name in modules else None
        if type(value) not in (int, float):
            raise InputError(f"{name} has no number {field}; {_REMEDY}.")
        values.setdefault(value, name)
    if len(values) != 1:
        told = ", ".join(f"{name} has {field}={value}" for value, name in values.items())
        raise InputError(f"{told or f'there is no module with {field}'}; give a release that has one value for all.")
    return next(iter(values))


def _whole(values: tuple[Any, ...]) -> bool:
    return len(values) > 0 and all(type(value) is int for value in values)


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, int | float | None) or value is None else type(value).__name__
