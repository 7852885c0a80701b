"""Names and configuration of the authors' CCExpert weights -> ours.

The layout of the release is that of github.com/Meize0729/CCExpert (Apache-2.0); this file holds facts about its names
and no code of it. Nothing is read from disk here: give `config.json` as a dict and the tensors by name.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import Qwen2Config, SiglipVisionConfig

from rscc_hf.conversion.checks import check_complete, check_depth
from rscc_hf.errors import InputError
from rscc_hf.modeling import CCExpertConfig, CCExpertForConditionalGeneration
from rscc_hf.modeling.configuration_ccexpert import relative_levels, so400m_config

MODEL_TYPE = "llava_qwen_cc"
_VISION = "model.vision_tower.vision_tower.vision_model."
_RESAMPLER = "model.vision_resampler."
_TEXT_LAYERS = "model.layers."
_EMBEDDING = "model.embed_tokens.weight"
_OUR_EMBEDDING = "language_model.embed_tokens.weight"
_HEAD = "lm_head.weight"
_SO400M = "siglip-so400m-patch14-384"

# Present in released files, never used by the forward pass.
_DEAD = re.compile(
    r"model\.image_newline"
    r"|model\.mm_cc_projector\..+"
    r"|model\.vision_resampler\.ChangeAwareTokenReduce\.(change_for_key_proj|cross_attn)\..+"
    r"|model\.vision_resampler\.layers\.\d+\.norm4\..+"
    # comes after the last encoder layer, whose output no level is
    r"|model\.vision_tower\.vision_tower\.vision_model\.(post_layernorm|head)\..+"
)
_ANY_LAYER = re.compile(
    r"(model\.(?:vision_resampler\.|vision_tower\.vision_tower\.vision_model\.encoder\.)?layers\.)(\d{1,6})\."
)
_VISION_LAYER = re.compile(re.escape(_VISION) + r"encoder\.layers\.(\d{1,6})\..+")

# Official -> ours, tried in this order; what none of them matches is unexpected.
_EXPERT = r"integration.expert."
_LAYER = _EXPERT + r"layers.\1."
_RENAMES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"model\.vision_tower\.vision_tower\.vision_model\.(.+)", r"vision_tower.model.\1"),
        (
            r"model\.vision_resampler\.expert_change_feature_extractor_model\.(linear_mapping|proj)\.(.+)",
            _EXPERT + r"change_feature_init.\1.\2",
        ),
        (r"model\.vision_resampler\.layers\.(\d+)\.change_self_attn\.(.+)", _LAYER + r"change_self_attention.\2"),
        (
            r"model\.vision_resampler\.layers\.(\d+)\.cross_attn_change_to_imageABC\.(.+)",
            _LAYER + r"change_to_images.\2",
        ),
        (
            r"model\.vision_resampler\.layers\.(\d+)\.cross_attn_imageAB_to_change\.(.+)",
            _LAYER + r"images_to_change.\2",
        ),
        (r"model\.vision_resampler\.layers\.(\d+)\.(norm[123]|mlp\.lin[12])\.(.+)", _LAYER + r"\2.\3"),
        (r"model\.vision_resampler\.layers\.(\d+)\.image_a_flag_embed\.weight", _LAYER + r"before_flag"),
        (r"model\.vision_resampler\.layers\.(\d+)\.image_b_flag_embed\.weight", _LAYER + r"after_flag"),
        (r"model\.vision_resampler\.layers\.(\d+)\.change_flag_embed\.weight", _LAYER + r"change_flag"),
        (
            r"model\.vision_resampler\.ChangeAwareTokenReduce\.feature_map_level_gate\.0\.(.+)",
            r"integration.adjustment.linear_1.\1",
        ),
        (
            r"model\.vision_resampler\.ChangeAwareTokenReduce\.feature_map_level_gate\.2\.(.+)",
            r"integration.adjustment.linear_2.\1",
        ),
        (r"model\.mm_projector\.0\.(.+)", r"projector.linear_1.\1"),
        (r"model\.mm_projector\.2\.(.+)", r"projector.linear_2.\1"),
        (r"model\.((?:embed_tokens|layers|norm)\..+)", r"language_model.\1"),
        (r"(lm_head\.weight)", r"\1"),
    )
)


@dataclass(frozen=True)
class RenamedWeights:
    """Weights under our names.

    Attributes:
        state_dict: loads into `CCExpertForConditionalGeneration` with `strict=True`; a tied `lm_head.weight` is the
            embedding's tensor.
        dropped: official names that are not carried on, sorted: weights that the release never uses, and encoder
            layers above the highest level.
    """

    state_dict: dict[str, torch.Tensor]
    dropped: list[str]


def translate_config(
    release: Mapping[str, Any], weights: Mapping[str, torch.Tensor], image_token_id: int = 151646
) -> CCExpertConfig:
    """Return our configuration of a released checkpoint.

    Args:
        release: its `config.json`. A field `vision_tower_config` describes the tower where it is not so400m/14-384.
        weights: its tensors by official name; they say how large the vocabulary is, whether the embeddings are tied
            and how many layers the tower has.
        image_token_id: id that is to hold the places of images; the release uses -200, which no tokenizer gives.

    Raises:
        ValueError: another kind of model, or a setting that CCExpert does not have.
    """
    if release.get("model_type") != MODEL_TYPE:
        raise InputError(f"config.json has model_type={release.get('model_type')!r}; give a released CCExpert's.")
    if _EMBEDDING not in weights:
        raise InputError(f"{_EMBEDDING} is missing; give all weights of the release.")
    if release.get("mm_projector_type") != "mlp2x_gelu":
        raise InputError(f"mm_projector_type={release.get('mm_projector_type')!r} is unknown; mlp2x_gelu is known.")
    check_depth(release.get("num_hidden_layers"), len(weights))
    known = {field.name for field in fields(Qwen2Config)} | {"rope_theta", "rope_scaling"}
    ours = {"dtype", "architectures", "transformers_version", "vocab_size", "tie_word_embeddings"}
    text = {name: value for name, value in release.items() if name in known - ours and value is not None}
    # a config that says no word of it leaves it to the weights
    said = release.get("tie_word_embeddings")
    tied = _HEAD not in weights if said is None else bool(said)
    vision = _vision_config(release, weights)
    return CCExpertConfig(
        vision_config=vision,
        text_config=Qwen2Config(**text, vocab_size=weights[_EMBEDDING].shape[0], tie_word_embeddings=tied),
        vision_levels=relative_levels(_select_layers(release), vision.num_hidden_layers),
        image_token_id=image_token_id,
        projector_bias="model.mm_projector.0.bias" in weights,
        **_integration(release, vision),
    )


def rename_state_dict(state: Mapping[str, torch.Tensor], config: CCExpertConfig) -> RenamedWeights:
    """Rename a released checkpoint's weights; none is copied.

    Args:
        state: tensors by official name; on the meta device they are checked all the same.
        config: of the model to be filled; every name and shape is checked against it.

    Raises:
        ValueError: it lists the weights that are unknown, missing, or of another shape.
    """
    _check_layers(
        state,
        {
            _TEXT_LAYERS: config.text.num_hidden_layers,
            _RESAMPLER + "layers.": config.num_integration_layers if config.integration else 0,
            _VISION + "encoder.layers.": config.vision.num_hidden_layers,
        },
    )
    renamed: dict[str, torch.Tensor] = {}
    dropped: list[str] = []
    unknown: list[str] = []
    names = official_to_ours(state, config)
    for name, tensor in state.items():
        ours = names[name]
        if ours is None:
            dropped.append(name)
        elif not ours:
            unknown.append(name)
        else:
            renamed[ours] = carried(ours, tensor)
    if config.tie_word_embeddings and _OUR_EMBEDDING in renamed:
        renamed["lm_head.weight"] = renamed[_OUR_EMBEDDING]
    check_complete(renamed, CCExpertForConditionalGeneration, config, unknown)
    return RenamedWeights(renamed, sorted(dropped))


def official_to_ours(names: Iterable[str], config: CCExpertConfig) -> dict[str, str | None]:
    """Return our name of each weight: `None` for what is not carried on, an empty one for what is unknown."""
    found: dict[str, str | None] = {}
    for name in names:
        layer = _VISION_LAYER.fullmatch(name)
        unused = _DEAD.fullmatch(name) or (layer and int(layer[1]) >= config.vision.num_hidden_layers)
        tied = name == _HEAD and config.tie_word_embeddings
        found[name] = None if unused or tied else _rename(name)
    return found


def carried(ours: str, tensor: torch.Tensor) -> torch.Tensor:
    """Bring a released tensor into the shape of ours: flags are rows of an embedding there."""
    return tensor.squeeze(0) if ours.endswith("_flag") else tensor


def _check_layers(names: Iterable[str], wanted: Mapping[str, int]) -> None:
    """Check numbers of layers before anything is made of them, however large a damaged file says that they are.

    Args:
        names: of all weights.
        wanted: how many layers there are to be, by what comes before their number.

    Raises:
        ValueError: layers are missing; it names the first.
    """
    found: dict[str, set[int]] = {prefix: set() for prefix in wanted}
    for name in names:
        if (match := _ANY_LAYER.match(name)) and match[1] in found:
            found[match[1]].add(int(match[2]))
    for prefix, number in wanted.items():
        # one beyond what is there is enough to tell
        missing = [index for index in range(min(number, len(found[prefix]) + 1)) if index not in found[prefix]]
        if missing:
            raise InputError(
                f"{prefix}{missing[0]} is missing: {prefix}* has {len(found[prefix])} layers and this config needs "
                f"{number}; give all weights of one release and its own config."
            )


def _rename(name: str) -> str:
    """Return our name of one weight; an empty one where there is none."""
    for pattern, replacement in _RENAMES:
        if match := pattern.fullmatch(name):
            return match.expand(replacement)
    return ""


def _vision_config(release: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> SiglipVisionConfig:
    """Return the whole tower of the release."""
    described = release.get("vision_tower_config")
    name = str(release.get("mm_vision_tower", ""))
    if described is None and _SO400M not in name:
        raise InputError(
            f"mm_vision_tower={name!r} is not {_SO400M}; describe the tower in a field vision_tower_config."
        )
    vision = SiglipVisionConfig(**described) if described is not None else so400m_config()
    layers = {int(match[1]) for weight in weights if (match := _VISION_LAYER.fullmatch(weight))}
    if not layers:
        raise InputError(f"No weight begins with {_VISION}; give the checkpoint that holds the vision tower.")
    vision.num_hidden_layers = max(layers) + 1
    vision.vision_use_head = False
    return vision


def _select_layers(release: Mapping[str, Any]) -> list[int]:
    """Read `mm_vision_select_layer`: a number, a list, or a list written as a string; negative."""
    given = release.get("mm_vision_select_layer", -2)
    try:
        layers = json.loads(given) if isinstance(given, str) else given
        layers = [layers] if isinstance(layers, int) else list(layers)
    except (TypeError, ValueError) as error:
        raise InputError(f"mm_vision_select_layer={given!r} is no list of layers; write [-11,-8,-5,-2].") from error
    if not layers or not all(isinstance(layer, int) and layer < 0 for layer in layers):
        raise InputError(f"mm_vision_select_layer={given!r} must be negative indices; write [-11,-8,-5,-2].")
    return layers


def _integration(release: Mapping[str, Any], vision: SiglipVisionConfig) -> dict[str, Any]:
    """Return the module's settings."""
    kind = release.get("mm_resampler_type")
    if kind != "cc_expert":
        if kind is not None:
            raise InputError(f"mm_resampler_type={kind!r} is unknown; cc_expert and none are known.")
        return {"integration": False}
    settings = dict(release.get("cc_expert_args") or {})
    if settings.pop("downsample_ratio", 1) != 1:
        raise InputError(
            "cc_expert_args has a downsample_ratio other than 1, which this model lacks; it cannot be converted."
        )
    depth = settings.pop("per_expert_depth", 2)
    width = settings.pop("embedding_dim", vision.hidden_size)
    if width != vision.hidden_size:
        raise InputError(
            f"cc_expert_args has embedding_dim={width}, the vision tower {vision.hidden_size}; give its own config."
        )
    ffn = settings.pop("mlp_dim", None)
    if settings:
        raise InputError(f"cc_expert_args has the unknown field {sorted(settings)[0]}; remove it if it is unused.")
    return {"integration": True, "num_integration_layers": depth, "integration_ffn_dim": ffn}
