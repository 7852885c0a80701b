"""Configuration of MModalCC (arXiv 2501.10075; DOI 10.1109/JSTARS.2025.3600613).

Facts follow the paper and the authors' released code (github.com/ChangeCapsInRS/SecondCC, no licence stated); none of
that code is copied. Where paper and release differ, both are reachable from here.
"""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, ResNetConfig

from .checkpoint_code import leave_out_installed

MODALITIES = ("rgb_semantic", "rgb")
FEATURE_ENHANCEMENTS = ("stacked", "parallel")


def resnet101_config(num_channels: int = 3) -> ResNetConfig:
    """Build the configuration of the paper's backbone, ResNet-101, with all four stages.

    Args:
        num_channels: bands of the input image.
    """
    return ResNetConfig(
        num_channels=num_channels,
        embedding_size=64,
        hidden_sizes=[256, 512, 1024, 2048],
        depths=[3, 4, 23, 3],
        layer_type="bottleneck",
    )


@strict
class MModalCCConfig(PreTrainedConfig):
    """Everything that defines an MModalCC. The default is the paper's full size.

    Args:
        modalities: `rgb_semantic`, or `rgb` alone. RGB alone is the ablation without any second modality: no
            cross-modal attention (CMCA), no second stream and no second gate in the decoder.
        semantics_optional: whether pairs without semantic maps are answered too. A missing map is a learned
            embedding, chosen for each pair. Without it, a two-modality model refuses pairs without maps.
        rgb_backbone_config: ResNet of the RGB dates; `None` is ResNet-101 with three channels. Its `num_channels` is
            that of the images (multispectral, SAR).
        semantic_backbone_config: ResNet of the semantic maps, with weights and `num_channels` of its own.
        backbone_stages: number of ResNet stages kept; 3 cuts after `layer3` (stride 16). The backbones' configs lose
            what comes later.
        image_size: side in pixels of the square images that the model was trained on.
        grid_size: side of the grid that the ResNet features are averaged to; the memory has `grid_size ** 2` cells.
        feature_enhancement: `stacked` (the paper: a stage reads the stage before) or `parallel` (the release: every
            stage reads the position-embedded features).
        num_stages: number L of feature-enhancement stages.
        d_model: width d of the enhancement; the memory is `2 * d_model` wide.
        encoder_attention_heads: heads of the enhancement's attention.
        encoder_ffn_dim: width of its feed-forward net; `None` is `4 * d_model`.
        decoder_layers: number of decoder layers.
        decoder_hidden_size: width D of the decoder; `None` is `2 * d_model`.
        decoder_attention_heads: heads of the decoder's attention.
        decoder_ffn_dim: width of its feed-forward net; `None` is `4 * decoder_hidden_size`.
        dropout: probability in [0, 1), used after attention, in the feed-forward nets and before the output
            projection.
        attention_dropout: probability in [0, 1), used on attention weights; `None` is `dropout` (paper and release).
            On a CPU, drawing it is a good part of training a small model, and 0 lets sdpa take its fast path.
        position_dropout: probability in [0, 1), used on words with their position added.
        position_embedding_std: the learned position embedding of the grid starts from a normal distribution of this
            deviation; `None` is the release's Xavier. Xavier's shrinks with the width and is small beside the
            features, so that a model from nothing is long in learning to say where; 1 (as torch's `nn.Embedding`)
            shortens that.
        vocab_size: number of words, special ones included.
        max_caption_length: tokens that `generate` makes at most (the release stops after 51 steps).
        pad_token_id: `<pad>`; never a target.
        bos_token_id: `<start>`.
        eos_token_id: `<end>`.
        decoder_start_token_id: first decoder input; `None` is `bos_token_id`.

    Raises:
        ValueError: (`StrictDataclassError` when constructed) naming the field and the remedy.
    """

    model_type = "mmodalcc"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "past_key_values",
        "encoder_last_hidden_state",
        "encoder_hidden_states",
    ]
    # what generation and its caches ask a config for is about the decoder
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "decoder_hidden_size",
        "num_attention_heads": "decoder_attention_heads",
        "num_hidden_layers": "decoder_layers",
    }
    # the spelling that all of 5.x knows (5.23 prefers `sub_configs_defaults`, which 5.6 to 5.17 lack)
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "rgb_backbone_config": ResNetConfig,
        "semantic_backbone_config": ResNetConfig,
    }

    modalities: str = "rgb_semantic"
    semantics_optional: bool = False
    rgb_backbone_config: ResNetConfig | dict | None = None
    semantic_backbone_config: ResNetConfig | dict | None = None
    backbone_stages: int = 3
    image_size: int = 256
    grid_size: int = 14
    feature_enhancement: str = "stacked"
    num_stages: int = 2
    d_model: int = 512
    encoder_attention_heads: int = 8
    encoder_ffn_dim: int | None = None
    decoder_layers: int = 1
    decoder_hidden_size: int | None = None
    decoder_attention_heads: int = 8
    decoder_ffn_dim: int | None = None
    dropout: float | int = 0.5
    attention_dropout: float | int | None = None
    position_dropout: float | int = 0.1
    position_embedding_std: float | int | None = None
    vocab_size: int = 500
    max_caption_length: int = 51
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = None
    use_cache: bool = True
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.rgb_backbone_config = _backbone(self.rgb_backbone_config, self.backbone_stages)
        self.semantic_backbone_config = (
            None if self.modalities == "rgb" else _backbone(self.semantic_backbone_config, self.backbone_stages)
        )
        if self.decoder_hidden_size is None:
            self.decoder_hidden_size = 2 * self.d_model
        if self.encoder_ffn_dim is None:
            self.encoder_ffn_dim = 4 * self.d_model
        if self.decoder_ffn_dim is None:
            self.decoder_ffn_dim = 4 * self.decoder_hidden_size
        if self.attention_dropout is None:
            self.attention_dropout = self.dropout
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.bos_token_id
        super().__post_init__(**leave_out_installed(self, kwargs))

    @property
    def num_streams(self) -> int:
        """Number of modalities: 2 with semantic maps, 1 for RGB alone."""
        return 1 if self.modalities == "rgb" else 2

    @property
    def backbone_configs(self) -> dict[str, ResNetConfig]:
        """The ResNets by the name of their stream."""
        configs = {"rgb": self.rgb_backbone_config, "semantic": self.semantic_backbone_config}
        return {name: config for name, config in configs.items() if isinstance(config, ResNetConfig)}

    @property
    def stream_names(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of the memory's streams."""
        return ("rgb", "semantic")[: self.num_streams]

    def validate_modalities(self) -> None:
        """Check `modalities` and what depends on it."""
        if self.modalities not in MODALITIES:
            raise ValueError(f"modalities={self.modalities!r} is unknown; choose one of {', '.join(MODALITIES)}.")
        if self.semantics_optional and self.modalities == "rgb":
            raise ValueError("semantics_optional=True needs modalities='rgb_semantic'; RGB alone reads no maps.")

    def validate_feature_enhancement(self) -> None:
        """Check the enhancement's name and number of stages."""
        if self.feature_enhancement not in FEATURE_ENHANCEMENTS:
            raise ValueError(
                f"feature_enhancement={self.feature_enhancement!r} is unknown; "
                f"choose one of {', '.join(FEATURE_ENHANCEMENTS)}."
            )

    def validate_sizes(self) -> None:
        """Check that every count and width is positive."""
        for name in (
            "num_stages",
            "d_model",
            "encoder_attention_heads",
            "encoder_ffn_dim",
            "decoder_layers",
            "decoder_hidden_size",
            "decoder_attention_heads",
            "decoder_ffn_dim",
            "image_size",
            "grid_size",
            "vocab_size",
            "max_caption_length",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")

    def validate_heads(self) -> None:
        """Check that heads divide widths, and that the position embedding has two equal halves."""
        self.validate_sizes()  # whatever the order of the checks, nothing is divided by zero
        if self.d_model % self.encoder_attention_heads:
            raise ValueError(
                f"d_model={self.d_model} must be a multiple of encoder_attention_heads={self.encoder_attention_heads}."
            )
        width = filled(self.decoder_hidden_size)
        if width % self.decoder_attention_heads:
            raise ValueError(
                f"decoder_hidden_size={width} (by default 2 * d_model) must be a multiple of "
                f"decoder_attention_heads={self.decoder_attention_heads}."
            )
        if self.d_model % 2 or width % 2:
            raise ValueError(
                f"d_model={self.d_model} and decoder_hidden_size={width} must be even: "
                "the position embeddings have two halves."
            )

    def validate_dropouts(self) -> None:
        """Check that the dropouts are probabilities below one, and the deviation of the positions positive."""
        if self.position_embedding_std is not None and not self.position_embedding_std > 0:
            raise ValueError(
                f"position_embedding_std={self.position_embedding_std} must be positive; None is Xavier's start."
            )
        for name in ("dropout", "attention_dropout", "position_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1).")

    def validate_special_tokens(self) -> None:
        """Check that the special ids exist and are inside of the vocabulary."""
        ends = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
        ids = [
            ("pad_token_id", self.pad_token_id),
            ("decoder_start_token_id", self.decoder_start_token_id),
            *(("eos_token_id", end) for end in ends),
        ]
        for name, value in ids:
            if value is None or not 0 <= value < self.vocab_size:
                raise ValueError(f"{name}={value} must be in [0, vocab_size={self.vocab_size}).")


def filled(value: int | None) -> int:
    """Get a field that may be `None` when given, but not in a config that was made."""
    if value is None:
        raise ValueError("A size or special id of the configuration is missing; make a new MModalCCConfig.")
    return value


def _backbone(config: ResNetConfig | dict | None, stages: int) -> ResNetConfig:
    """Describe the ResNet to build: what a user or a `config.json` gives, without the stages after the cut."""
    if config is None:
        config = resnet101_config()
    elif isinstance(config, dict):
        config = ResNetConfig(**config)
    depths, widths = list(config.depths or ()), list(config.hidden_sizes or ())
    if not 1 <= stages <= len(depths) or len(depths) != len(widths):
        raise ValueError(
            f"backbone_stages={stages} must be among the stages of each backbone, which has {len(depths)} depths "
            f"and {len(widths)} hidden_sizes."
        )
    return ResNetConfig(
        num_channels=config.num_channels,
        embedding_size=config.embedding_size,
        hidden_sizes=widths[:stages],
        depths=depths[:stages],
        layer_type=config.layer_type,
        hidden_act=config.hidden_act,
        downsample_in_first_stage=config.downsample_in_first_stage,
        downsample_in_bottleneck=config.downsample_in_bottleneck,
    )


__all__ = ["MModalCCConfig", "resnet101_config"]
