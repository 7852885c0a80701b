"""Names of the authors' MModalCC weights -> ours.

The layout of the release is described in github.com/ChangeCapsInRS/SecondCC (no licence stated for code or weights);
this file holds facts about its names and no code of it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from rscc_hf.conversion.checks import check_complete
from rscc_hf.errors import InputError
from rscc_hf.modeling import MModalCCConfig, MModalCCForConditionalGeneration
from rscc_hf.modeling.modeling_mmodalcc_decoder import sinusoidal_positions

# Present in every released file, never used by its forward pass.
_DEAD = re.compile(
    r"encoder_feat\.embedding_1D\."
    r"|encoder_feat\.transformer\.\d+\.(attention|linear1|linear2|norm1|norm2)\."
    r"|decoder\.position_encoding\.embedding_1D\."
    r"|decoder\.transformer\.layers\.\d+\.(multihead_attn2|norm2)\."
)
_SINE_TABLE = "decoder.position_encoding.pe"

# Official -> ours, tried in this order; what none of them matches is unexpected.
_BACKBONE = (
    (r"0\.(.+)", r"embedder.embedder.convolution.\1"),
    (r"1\.(.+)", r"embedder.embedder.normalization.\1"),
    (r"(\d+)\.(\d+)\.conv(\d)\.(.+)", r"encoder.stages.{stage}.layers.\2.layer.{unit}.convolution.\4"),
    (r"(\d+)\.(\d+)\.bn(\d)\.(.+)", r"encoder.stages.{stage}.layers.\2.layer.{unit}.normalization.\4"),
    (r"(\d+)\.(\d+)\.downsample\.0\.(.+)", r"encoder.stages.{stage}.layers.\2.shortcut.convolution.\3"),
    (r"(\d+)\.(\d+)\.downsample\.1\.(.+)", r"encoder.stages.{stage}.layers.\2.shortcut.normalization.\3"),
)
_STAGE = r"encoder.enhancement.stages.\1.cross_attention."
_LAYER = r"decoder.layers.\1."
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"encoder_feat\.projection\.(.+)", r"encoder.enhancement.rgb_projection.\1"),
        (r"encoder_feat\.projection2\.(.+)", r"encoder.enhancement.semantic_projection.\1"),
        (r"encoder_feat\.([wh]_embedding)\.(.+)", r"encoder.enhancement.\1.\2"),
        (r"encoder_feat\.transformer\.(\d+)\.attention2\.(.+)", _STAGE + r"attention.\2"),
        (r"encoder_feat\.transformer\.(\d+)\.norm3\.(.+)", _STAGE + r"attention_norm.\2"),
        (r"encoder_feat\.transformer\.(\d+)\.linear3\.(.+)", _STAGE + r"linear1.\2"),
        (r"encoder_feat\.transformer\.(\d+)\.linear4\.(.+)", _STAGE + r"linear2.\2"),
        (r"encoder_feat\.transformer\.(\d+)\.norm4\.(.+)", _STAGE + r"output_norm.\2"),
        (r"encoder_feat\.resblock\.(\d+)\.left\.(.+)", r"encoder.enhancement.blocks.\1.layers.\2"),
        (r"encoder_feat\.LN\.(\d+)\.(.+)", r"encoder.enhancement.norms.\1.\2"),
        (r"decoder\.vocab_embedding\.(.+)", r"decoder.embed_tokens.\1"),
        (r"decoder\.wdc\.(.+)", r"lm_head.\1"),
        (r"decoder\.transformer\.layers\.(\d+)\.self_attn\.(.+)", _LAYER + r"self_attention.\2"),
        (r"decoder\.transformer\.layers\.(\d+)\.multihead_attn\.(.+)", _LAYER + r"mgca.attention.\2"),
        (r"decoder\.transformer\.layers\.(\d+)\.gate\.0\.(.+)", _LAYER + r"mgca.rgb_gate.\2"),
        (r"decoder\.transformer\.layers\.(\d+)\.gate2\.0\.(.+)", _LAYER + r"mgca.semantic_gate.\2"),
        (r"decoder\.transformer\.layers\.(\d+)\.gate3\.0\.(.+)", _LAYER + r"mgca.word_gate.\2"),
        (r"decoder\.transformer\.layers\.(\d+)\.norm1\.(.+)", _LAYER + r"self_attention_norm.\2"),
        (r"decoder\.transformer\.layers\.(\d+)\.norm3\.(.+)", _LAYER + r"mgca.norm.\2"),
        (r"decoder\.transformer\.layers\.(\d+)\.norm4\.(.+)", _LAYER + r"output_norm.\2"),
        (r"decoder\.transformer\.layers\.(\d+)\.(linear[12])\.(.+)", _LAYER + r"\2.\3"),
    )
)


@dataclass(frozen=True)
class RenamedWeights:
    """Weights under our names.

    Attributes:
        state_dict: loads into `MModalCCForConditionalGeneration` with `strict=True`.
        dropped: official names that are not carried on, sorted: weights that the release never uses, and the table
            of positions, which is computed.
    """

    state_dict: dict[str, torch.Tensor]
    dropped: list[str]


def rename_state_dict(state: Mapping[str, torch.Tensor], config: MModalCCConfig) -> RenamedWeights:
    """Rename a released checkpoint's weights.

    Args:
        state: tensors by official name, `encoder_image.*`, `encoder_image2.*`, `encoder_feat.*`, `decoder.*`.
        config: of the model to be filled; every name and shape is checked against it.

    Raises:
        ValueError: it lists the weights that are unknown, missing, or of another shape; or the table of positions is
            not the sine table.
    """
    renamed: dict[str, torch.Tensor] = {}
    dropped: list[str] = []
    unknown: list[str] = []
    for name, tensor in state.items():
        if _DEAD.match(name):
            dropped.append(name)
        elif name == _SINE_TABLE:
            _check_sine_table(tensor)
            dropped.append(name)
        elif (ours := _rename(name)) is None:
            unknown.append(name)
        else:
            renamed |= _split_packed(name, ours, tensor)
    check_complete(renamed, MModalCCForConditionalGeneration, config, unknown)
    return RenamedWeights(renamed, sorted(dropped))


def _rename(name: str) -> str | None:
    """Return our name of one weight; `None` where it is unknown."""
    for official, ours in (("encoder_image.net.", "rgb"), ("encoder_image2.net.", "semantic")):
        if name.startswith(official):
            rest = _rename_backbone(name.removeprefix(official))
            return None if rest is None else f"encoder.{ours}_backbone.{rest}"
    for pattern, replacement in _RENAMES:
        if match := pattern.fullmatch(name):
            return match.expand(replacement)
    return None


def _rename_backbone(rest: str) -> str | None:
    """Return our name of a torchvision ResNet's weight; its stages are children 4, 5, 6 of the release's `net`."""
    for pattern, replacement in _BACKBONE:
        if match := re.fullmatch(pattern, rest):
            groups = match.groups()
            if "{stage}" not in replacement:
                return match.expand(replacement)
            stage = int(groups[0]) - 4
            if stage < 0:
                break
            unit = int(groups[2]) - 1 if "{unit}" in replacement else 0
            return match.expand(replacement.format(stage=stage, unit=unit))
    return None


def _split_packed(official: str, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return torch's packed queries, keys and values as three weights; anything else as it is."""
    prefix, packed, kind = name.rpartition("in_proj_")
    if not packed:
        return {name: tensor}
    if tensor.dim() == 0 or tensor.shape[0] % 3 or not len(tensor):
        raise InputError(
            f"{official} has shape {tuple(tensor.shape)}, which holds no queries, keys and values; give a release's."
        )
    parts = tensor.chunk(3)
    return {f"{prefix}{part}_proj.{kind}": value.clone() for part, value in zip("qkv", parts, strict=True)}


def _check_sine_table(table: torch.Tensor) -> None:
    """Raise unless the checkpoint's table, `(positions, 1, width)`, is the one that the decoder computes."""
    plausible = table.dim() == 3 and table.shape[1] == 1 and table.shape[2] % 2 == 0
    expected = sinusoidal_positions(0, table.shape[0], table.shape[2]) if plausible else None
    if expected is None or not torch.allclose(table[:, 0].float(), expected, atol=1e-3, rtol=0):
        raise InputError(f"{_SINE_TABLE} is not the sine table of base 10000; give a release's.")
