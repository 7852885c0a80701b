"""Configuration of CCExpert (arXiv 2411.11360).

Facts follow the paper and the authors' released code (github.com/Meize0729/CCExpert, Apache-2.0); none of that code is
copied. Sizes are those of SigLIP so400m/14-384 and of Qwen2.
"""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig, Qwen2Config, SiglipVisionConfig

from .checkpoint_code import leave_out_installed

VISION_MODEL_TYPES = ("siglip_vision_model", "clip_vision_model")

# hidden size, feed-forward width, layers, heads, key-value heads, words, tied embeddings
_QWEN2_SIZES = {
    "0.5b": (896, 4864, 24, 14, 2, 151936, True),
    "7b": (3584, 18944, 28, 28, 4, 152064, False),
    "72b": (8192, 29568, 80, 64, 8, 152064, False),
}
# `<|endoftext|>` and `<|im_end|>` of Qwen2's vocabulary; `<image>` of LLaVA-OneVision's is the next free id
_END_OF_TEXT, _IM_END, _IMAGE = 151643, 151645, 151646


def so400m_config() -> SiglipVisionConfig:
    """Build SigLIP so400m/14-384 up to layer 26, the paper's tower; 27x27 tokens of width 1152."""
    return SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=26,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
        layer_norm_eps=1e-6,
        hidden_act="gelu_pytorch_tanh",
        vision_use_head=False,
    )


def qwen2_config(size: str) -> Qwen2Config:
    """Build the Qwen2 of one of the paper's sizes.

    Args:
        size: `0.5b`, `7b` or `72b`.

    Raises:
        ValueError: another size.
    """
    if size not in _QWEN2_SIZES:
        raise ValueError(f"size={size!r} is unknown; choose one of {', '.join(_QWEN2_SIZES)}.")
    width, ffn, layers, heads, kv_heads, words, tied = _QWEN2_SIZES[size]
    return Qwen2Config(
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=words,
        tie_word_embeddings=tied,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=_END_OF_TEXT,
        eos_token_id=_IM_END,
    )


@strict
class CCExpertConfig(PreTrainedConfig):
    """Everything that defines a CCExpert. The default is the paper's 0.5B; see `preset` for all sizes.

    Args:
        vision_config: the vision tower, SigLIP or CLIP (its class token is dropped); `None` is SigLIP so400m/14-384.
            Layers above the highest of `vision_levels` are not built: `num_hidden_layers` becomes that level.
        text_config: the language model, Qwen2 or Llama; `None` is Qwen2-0.5B.
        vision_levels: ascending indices into the tower's hidden states, 0 the embeddings and i what layer i gives.
            They are absolute, so that they mean the same for towers with and without unused last layers. Without
            the module only the last of them is used.
        integration: whether there is a Difference-aware Integration Module; without it two images go to the language
            model as LLaVA gives them.
        num_integration_layers: number K of change-aware transformer layers.
        integration_gate: whether levels are weighted by a gate each; without it they are averaged.
        integration_attention_heads: heads of the module; `None` is one for every 128 channels.
        integration_ffn_dim: width of its feed-forward net; `None` is four times the tower's width.
        integration_hidden_act: activation of its feed-forward net and gate; the release's is the exact GELU.
        projector_hidden_act: activation of the projector; the release's is the exact GELU.
        projector_bias: whether the projector's two layers have biases.
        image_token_id: id of the placeholder that holds the place of one image token in `input_ids`. It may lie
            outside of the vocabulary.
        tie_word_embeddings: whether output and input embeddings are one; `None` is what `text_config` says.
        initializer_range: deviation of the normal distribution that the module's flags start from.

    Raises:
        ValueError: naming the field and the remedy.
    """

    model_type = "ccexpert"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    # the spelling that all of 5.x knows (5.23 prefers `sub_configs_defaults`, which 5.6 to 5.17 lack)
    sub_configs: ClassVar[dict[str, Any]] = {"vision_config": AutoConfig, "text_config": AutoConfig}

    vision_config: PreTrainedConfig | dict | None = None
    text_config: PreTrainedConfig | dict | None = None
    vision_levels: list[int] | tuple[int, ...] = (17, 20, 23, 26)
    integration: bool = True
    num_integration_layers: int = 2
    integration_gate: bool = True
    integration_attention_heads: int | None = None
    integration_ffn_dim: int | None = None
    integration_hidden_act: str = "gelu"
    projector_hidden_act: str = "gelu"
    projector_bias: bool = True
    image_token_id: int = _IMAGE
    tie_word_embeddings: bool | None = None
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        self.vision_levels = list(self.vision_levels)
        vision = _child(self.vision_config, so400m_config, "vision_config", "siglip_vision_model")
        text = _child(self.text_config, lambda: qwen2_config("0.5b"), "text_config", "qwen2")
        self.vision_config, self.text_config = vision, text
        self.validate_vision_config()
        self.trim_vision()
        width: int = vision.hidden_size
        if self.integration_attention_heads is None:
            self.integration_attention_heads = max(1, width // 128)
        if self.integration_ffn_dim is None:
            self.integration_ffn_dim = 4 * width
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(text.tie_word_embeddings)
        text.tie_word_embeddings = self.tie_word_embeddings
        # here too: what `strict` calls by itself raises no ValueError
        self.validate_integration()
        self.validate_image_token_id()
        super().__post_init__(**leave_out_installed(self, kwargs))

    @classmethod
    def preset(cls, size: str, **changes: Any) -> "CCExpertConfig":
        """Build the configuration of the paper's model of one size.

        Args:
            size: `0.5b`, `7b` or `72b`, of the language model; tower and module are the same in all.
            **changes: fields that differ from the paper's.

        Raises:
            ValueError: another size.
        """
        return cls(**{"text_config": qwen2_config(size), **changes})

    @property
    def vision(self) -> Any:
        """`vision_config`, which is a configuration once this one is made."""
        return self.vision_config

    @property
    def text(self) -> Any:
        """`text_config`, which is a configuration once this one is made."""
        return self.text_config

    @property
    def image_size(self) -> int:
        """Side in pixels of the square images."""
        return self.vision.image_size

    @property
    def grid_size(self) -> int:
        """Side of the square grid of image tokens."""
        return self.vision.image_size // self.vision.patch_size

    @property
    def tokens_per_image(self) -> int:
        """Number of placeholders that one image takes, `grid_size ** 2`."""
        return self.grid_size**2

    @property
    def used_levels(self) -> list[int]:
        """The levels that are read: all with the module, the last without."""
        return list(self.vision_levels) if self.integration else list(self.vision_levels[-1:])

    def trim_vision(self) -> None:
        """Leave out of `vision_config` what is never run: layers above the highest level, and the pooling head.

        Raises:
            ValueError: the levels are not ascending, or one does not exist.
        """
        self.validate_vision_levels()
        self.vision.num_hidden_layers = self.vision_levels[-1]
        if self.vision.model_type == "siglip_vision_model":
            self.vision.vision_use_head = False  # older versions lack the field and would build the head

    def validate_vision_levels(self) -> None:
        """Check that the levels exist and ascend."""
        levels, layers = list(self.vision_levels), self.vision.num_hidden_layers
        if not levels or levels != sorted(set(levels)):
            raise ValueError(f"vision_levels={levels} must be one or more ascending, different indices.")
        if levels[0] < 0:
            raise ValueError(
                f"vision_levels={levels} must be absolute; write level {levels[0]} of a tower of {layers} layers as "
                f"{levels[0] + layers + 1}."
            )
        if levels[-1] > layers:
            raise ValueError(
                f"vision_levels={levels} asks for level {levels[-1]}, but the vision tower has {layers} layers; "
                f"choose levels from 0 to {layers}."
            )

    def validate_vision_config(self) -> None:
        """Check that the tower is of a known kind, whose tokens make a square."""
        if self.vision.model_type not in VISION_MODEL_TYPES:
            raise ValueError(
                f"vision_config has model_type={self.vision.model_type!r}; choose one of "
                f"{', '.join(VISION_MODEL_TYPES)}."
            )
        if self.grid_size < 1:
            raise ValueError(
                f"vision_config has image_size={self.vision.image_size} below patch_size={self.vision.patch_size}; "
                "choose larger images."
            )

    def validate_integration(self) -> None:
        """Check the module's sizes."""
        heads = self.integration_attention_heads
        for name, value in (
            ("num_integration_layers", self.num_integration_layers),
            ("integration_attention_heads", heads),
            ("integration_ffn_dim", self.integration_ffn_dim),
        ):
            if value is None or value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")
        width = self.vision.hidden_size
        if heads is not None and width % heads:
            raise ValueError(f"integration_attention_heads={heads} must divide the vision tower's width {width}.")
        if self.integration and width % 4:
            raise ValueError(
                f"The vision tower's width {width} must be a multiple of 4 for the sine positions of the module."
            )

    def validate_image_token_id(self) -> None:
        """Check that the placeholder is an id."""
        if self.image_token_id < 0:
            raise ValueError(f"image_token_id={self.image_token_id} must not be negative.")


def relative_levels(offsets: Sequence[int], top: int) -> list[int]:
    """Turn levels counted downwards from a level, as the papers give them, into absolute ones.

    Args:
        offsets: -1 is `top` itself, -2 the level below it, and so on.
        top: the absolute index of the highest level, the number of layers of the whole tower.

    Raises:
        ValueError: a level that does not exist.
    """
    levels = sorted(top + 1 + offset for offset in offsets)
    if not levels or levels[0] < 0 or levels[-1] > top:
        raise ValueError(f"Levels {list(offsets)} do not exist in a vision tower of {top} layers; choose others.")
    return levels


def _child(config: PreTrainedConfig | dict | None, default: Any, name: str, model_type: str) -> Any:
    """Build the configuration of a part, apart from whatever the caller holds."""
    if config is None:
        return default()
    if isinstance(config, PreTrainedConfig):
        return copy.deepcopy(config)
    if not isinstance(config, dict):
        raise ValueError(f"{name} must be a configuration or a dict of its fields, not {type(config).__name__}.")
    fields = dict(config)
    return AutoConfig.for_model(fields.pop("model_type", model_type), **fields)


__all__ = ["CCExpertConfig", "qwen2_config", "relative_levels", "so400m_config"]
