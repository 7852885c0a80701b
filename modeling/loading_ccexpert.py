"""Starting CCExpert from checkpoints of the LLaVA family (transformers format).

LLaVA-OneVision: arXiv 2408.03326; LLaVA-1.5: arXiv 2310.03744; their checkpoints carry licences of their own.
transformers has written the same weights under four namings:

    vision_tower.vision_model.*   language_model.model.*   language_model.lm_head   multi_modal_projector.*   (the Hub)
    model.vision_tower.vision_model.*   model.language_model.model.*   model.multi_modal_projector.*          (5.4)
    vision_tower.embeddings.* ...   language_model.model.* ...                                         (5.10 and later)
    model.vision_tower.embeddings.*   model.language_model.*   lm_head                                      (in memory)
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import AutoConfig, GenerationConfig

# Any of the namings -> ours. Each key is touched by at most one of these.
KEY_MAPPING = {
    r"^(?:model\.)?vision_tower\.(?:vision_model\.)?": "vision_tower.model.",
    r"^(?:model\.)?multi_modal_projector\.": "projector.",
    r"^(?:model\.)?language_model\.lm_head\.": "lm_head.",
    r"^(?:model\.)?language_model\.(?!lm_head\.)(?:model\.)*": "language_model.",
}
_KINDS = {"llava_onevision": "LLaVA-OneVision", "llava": "LLaVA"}
_OURS = (
    "vision_levels",
    "integration",
    "num_integration_layers",
    "integration_gate",
    "integration_attention_heads",
    "integration_ffn_dim",
    "integration_hidden_act",
    "image_token_id",
    "initializer_range",
)
_HUB = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "force_download", "proxies")
# Levels of the paper, counted from the one that LLaVA reads.
_BELOW = (9, 6, 3, 0)

# Left out on purpose: the separator of image tiles, which one square image has no use for; what comes after the
# tower's last layer; tables that old versions saved though they follow from the configuration.
_LEFT_OUT = re.compile(
    r"(model\.)?image_newline"
    r"|vision_tower\.model\.(post_layernorm|head)\..+"
    r"|vision_tower\.model\.embeddings\.position_ids"
    r"|language_model\..*rotary_emb\.inv_freq"
)
_VISION_LAYER = re.compile(r"vision_tower\.model\.encoder\.layers\.(\d+)\..+")


def load_llava(cls: Any, path_or_id: str | os.PathLike, kind: str, options: Mapping[str, Any]) -> Any:
    """Build a CCExpert of a LLaVA's parts, with a new Difference-aware Integration Module.

    Args:
        cls: the model's class.
        path_or_id: folder or repository.
        kind: the `model_type` that it must have, `llava_onevision` or `llava`.
        options: fields of the module, or with them all `config`, and whatever `from_pretrained` takes.

    Raises:
        ValueError: another kind of checkpoint; weights that are missing or do not belong; no such levels; `config`
            and fields beside it.
    """
    path = os.fspath(path_or_id)
    fields = {name: value for name, value in options.items() if name in _OURS}
    others = {name: value for name, value in options.items() if name not in _OURS}
    given = [name for name, value in fields.items() if value is not None]
    if given and others.get("config") is not None:
        raise ValueError(f"config is given and {', '.join(given)} beside it; set {' and '.join(given)} in config.")
    source = AutoConfig.from_pretrained(path, **{name: others[name] for name in _HUB if name in others})
    if source.model_type != kind:
        raise ValueError(f"{path} has model_type={source.model_type!r}; give a {_KINDS[kind]} checkpoint ({kind!r}).")
    config = others.pop("config", None) or translate_config(cls.config_class, source, fields)
    model, info = cls.from_pretrained(
        path,
        config=config,
        key_mapping=KEY_MAPPING,
        use_safetensors=True,  # a pickle could run whatever it likes
        output_loading_info=True,
        **{"ignore_mismatched_sizes": True, **others},  # `_check` names them
    )
    _check(path, info, config.vision.num_hidden_layers)
    # saving would otherwise turn the names back into LLaVA's
    model._weight_conversions = [
        conversion
        for conversion in getattr(model, "_weight_conversions", None) or []
        if not set(conversion.source_patterns) & set(KEY_MAPPING)
    ]
    # captions are greedy; LLaVA's own sampling settings are for conversations
    theirs = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=theirs.bos_token_id, eos_token_id=theirs.eos_token_id, pad_token_id=theirs.pad_token_id
    )
    model._set_generation_defaults()
    return model


def translate_config(config_class: Any, source: Any, fields: Mapping[str, Any]) -> Any:
    """Translate a LLaVA's configuration into CCExpert's.

    Args:
        config_class: `CCExpertConfig`.
        source: a `LlavaOnevisionConfig` or `LlavaConfig`.
        fields: settings of the module; levels are by default 9, 6, 3 and 0 layers below the one that LLaVA reads.

    Raises:
        ValueError: LLaVA reads several levels at once, or the default levels do not exist.
    """
    layer = source.vision_feature_layer
    if not isinstance(layer, int):
        raise ValueError(
            f"vision_feature_layer={layer} joins several levels, which CCExpert's projector cannot read; give a "
            "checkpoint that reads one."
        )
    top = layer if layer >= 0 else source.vision_config.num_hidden_layers + 1 + layer
    below = _BELOW if fields.get("integration", True) else (0,)
    if fields.get("vision_levels") is None and top < max(below):
        raise ValueError(
            f"The vision tower is read at level {top}, too low for the paper's four levels; choose vision_levels."
        )
    settings: dict[str, Any] = {
        "vision_levels": [top - offset for offset in below],
        "image_token_id": source.image_token_id,
        "projector_hidden_act": source.projector_hidden_act,
        "projector_bias": source.multimodal_projector_bias,
        "tie_word_embeddings": bool(source.tie_word_embeddings),
    }
    given = {name: value for name, value in fields.items() if value is not None}
    return config_class(vision_config=source.vision_config, text_config=source.text_config, **(settings | given))


def _check(path: str, info: Mapping[str, Iterable[Any]], layers: int) -> None:
    """Raise unless the module alone is new and only what has no use here is left over.

    Args:
        path: for the message.
        info: what `from_pretrained` says about its loading.
        layers: number of the tower's layers that are built.
    """
    if missing := sorted(name for name in info["missing_keys"] if not name.startswith("integration.")):
        raise ValueError(f"{path} lacks {len(missing)} weights: {', '.join(missing)}; give a whole checkpoint.")
    if left_over := sorted(name for name in info["unexpected_keys"] if not may_be_left_out(name, layers)):
        raise ValueError(
            f"{path} has {len(left_over)} weights that do not belong to its config.json: {', '.join(left_over)}; "
            "give the config.json of these weights."
        )
    if mismatched := sorted(str(name) for name in info["mismatched_keys"]):
        raise ValueError(
            f"{path} has {len(mismatched)} weights of another shape than its config.json says: "
            f"{', '.join(mismatched)}; give the config.json of these weights."
        )


def our_name(name: str) -> str:
    """Translate a LLaVA's name of a weight, in whichever naming; a name that is ours already is given back."""
    if not name.startswith("vision_tower.model."):
        for pattern, replacement in KEY_MAPPING.items():
            renamed = re.sub(pattern, replacement, name)
            if renamed != name:
                return renamed
    return name


def may_be_left_out(name: str, layers: int) -> bool:
    """Tell whether a LLaVA's weight has no use here.

    Args:
        name: in whichever naming.
        layers: number of the tower's layers that are built.
    """
    ours = our_name(name)
    layer = _VISION_LAYER.fullmatch(ours)
    return bool(_LEFT_OUT.fullmatch(ours)) or (layer is not None and int(layer[1]) >= layers)


__all__ = ["KEY_MAPPING", "load_llava", "may_be_left_out", "our_name", "translate_config"]
