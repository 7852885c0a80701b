"""The recipe of MModalCC: model, vocabulary and data, on top of what the loop needs.

The defaults are the training of the release (arXiv 2501.10075; github.com/ChangeCapsInRS/SecondCC), except where a
comment in `recipes/mmodalcc_second_cc.yaml` says otherwise.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from transformers import ResNetConfig

from rscc_hf.errors import RecipeError, input_errors
from rscc_hf.modeling.configuration_mmodalcc import MModalCCConfig
from rscc_hf.training.aids.coverage import Coverage
from rscc_hf.training.engine.recipe import OPTIMIZER_HELP, option
from rscc_hf.training.systems.pairs.recipe import PairRecipe


@dataclass
class MModalCCRecipe(PairRecipe):
    """Trains MModalCC on pairs of images, with semantic maps or without."""

    path_keys: ClassVar[frozenset[str]] = PairRecipe.path_keys | {
        "tokenizer",
        "backbone_weights_rgb",
        "backbone_weights_semantic",
    }

    output_dir: str = option("outputs/mmodalcc", "Folder of the trained model, its checkpoints and logs.")
    global_batch_size: int = option(28, "Samples an optimiser step, over all processes and accumulated micro-batches.")
    per_device_batch_size: int = option(28, "Samples a forward pass on one device; accumulation follows from it.")
    max_epochs: int | None = option(30, "Stop after this many epochs.")
    patience: int | None = option(10, "Stop after this many evaluations in a row without improvement.")
    optimizer: Literal["adam", "adamw", "muon"] = option("adam", OPTIMIZER_HELP)
    lr_decay: float = option(0.7, "Factor on the decoder's learning rate when validation stalls; 1: none.")
    encoder_learning_rate: float | None = option(None, "Of the ResNets; null: learning_rate.")
    enhancement_learning_rate: float | None = option(None, "Of the feature enhancement; null: learning_rate.")
    decoder_learning_rate: float | None = option(None, "Of the decoder; null: learning_rate.")
    gradient_clamp: float | None = option(5.0, "Clamp gradients of ResNets and decoder element by element; null: no.")

    modalities: Literal["rgb_semantic", "rgb"] = option("rgb_semantic", "RGB with semantic maps, or RGB alone.")
    semantics_optional: bool = option(False, "The model also answers pairs without maps.")
    semantic_dropout: float = option(0.0, "Share of the samples whose maps are left out; needs semantics_optional.")
    image_size: int = option(256, "Side in pixels that images and maps are resized to.")
    normalize_images: bool = option(True, "Normalise RGB by ImageNet's mean and deviation (the release does not).")
    semantic_resample: Literal["bilinear", "nearest"] = option("bilinear", "Resizing of semantic maps.")
    num_channels: int = option(3, "Channels of an image.")
    semantic_num_channels: int = option(3, "Channels of a semantic map.")
    layer_type: Literal["basic", "bottleneck"] = option("bottleneck", "Kind of ResNet block.")
    embedding_size: int = option(64, "Channels of the ResNets' stem.")
    hidden_sizes: list[int] = field(
        default_factory=lambda: [256, 512, 1024, 2048], metadata={"help": "Channels of the ResNets' stages."}
    )
    depths: list[int] = field(
        default_factory=lambda: [3, 4, 23, 3], metadata={"help": "Blocks of the ResNets' stages (ResNet-101)."}
    )
    backbone_stages: int = option(3, "Stages of the ResNets that are kept.")
    grid_size: int = option(14, "Side of the grid that the ResNets' features are averaged to.")
    feature_enhancement: Literal["stacked", "parallel"] = option("stacked", "stacked: the paper; parallel: release.")
    num_stages: int = option(2, "Stages of the feature enhancement.")
    d_model: int = option(512, "Width of the feature enhancement.")
    encoder_attention_heads: int = option(8, "Its heads.")
    encoder_ffn_dim: int | None = option(None, "Its feed-forward width; null: 4 * d_model.")
    decoder_layers: int = option(1, "Layers of the decoder.")
    decoder_hidden_size: int | None = option(None, "Its width; null: 2 * d_model.")
    decoder_attention_heads: int = option(8, "Its heads.")
    decoder_ffn_dim: int | None = option(None, "Its feed-forward width; null: 4 * decoder_hidden_size.")
    dropout: float = option(0.5, "Dropout of attention, feed-forward nets and the output.")
    attn_implementation: Literal["sdpa", "eager"] = option("sdpa", "eager is faster for small heads on CPUs.")
    position_dropout: float = option(0.1, "Dropout of embedded words.")
    position_embedding_std: float | None = option(
        None, "Deviation that the grid's position embedding starts with; null: the release's Xavier."
    )
    backbone_weights_rgb: str | None = option(None, "ResNet that Encoder1 starts from, folder or id; null: nothing.")
    backbone_weights_semantic: str | None = option(None, "Encoder2, of the maps: folder or id; null: nothing.")
    frozen_stages: list[str] = field(
        default_factory=lambda: ["stem", "layer1"],
        metadata={"help": "Parts of the ResNets that are not trained; none: all are."},
    )
    freeze_statistics: bool = option(False, "Keep the batch-norm statistics of the frozen stages as well.")

    tokenizer: str | None = option(None, "Folder or id of a tokenizer; null: built from the captions.")
    vocabulary_splits: list[str] = field(
        default_factory=lambda: ["train"],
        metadata={"help": "Splits whose words count; all: every split of train_data."},
    )
    vocabulary_min_frequency: int = option(11, "Least occurrences of a word; rarer ones become <unk>.")

    semantic_coverage: Literal["full", "changed"] = option("full", "changed: blank the maps outside of changes.")
    changed_coverage_epochs: int = option(0, "Epochs at the start with maps of changed pixels only; coverage full.")
    changed_coverage_share: float = option(0.0, "Share of the samples after that with maps of changed pixels only.")
    captions: Literal["flatten", "random_choice", "together"] = option(
        "flatten",
        "flatten: each caption is a sample; random_choice: one of each pair's an epoch; together: a sample is a pair "
        "with several captions, for which it is encoded once.",
    )
    captions_per_pair: int = option(5, "Captions of a pair in flatten and together; repeated where it has fewer.")
    max_caption_length: int = option(50, "Longer captions (in tokens) are dropped; also the limit of generation.")

    @property
    def find_unused_parameters(self) -> bool:
        """A micro-batch without any map, or without a missing one, leaves parameters out."""
        return self.semantics_optional

    @property
    def captions_per_sample(self) -> int:
        """How many captions a pair is trained on at once."""
        return self.captions_per_pair if self.captions == "together" else 1

    @property
    def coverage(self) -> Coverage:
        """Which samples' maps show changed pixels only."""
        return Coverage(self.changed_coverage_epochs, self.changed_coverage_share)

    def validate(self) -> None:
        """Check the values that no other constructor checks; see `PairRecipe.validate`."""
        super().validate()
        self.require_at_least(
            1, "image_size num_channels semantic_num_channels vocabulary_min_frequency captions_per_pair "
            "max_caption_length embedding_size backbone_stages grid_size num_stages d_model encoder_attention_heads "
            "encoder_ffn_dim decoder_layers decoder_hidden_size decoder_attention_heads decoder_ffn_dim",
        )  # fmt: skip
        for name in ("hidden_sizes", "depths"):
            if any(number < 1 for number in getattr(self, name)):
                raise RecipeError(f"{name} is {getattr(self, name)}; give numbers of 1 or more.")
        self.require_at_least(0, "changed_coverage_epochs")
        for name in ("encoder_learning_rate", "enhancement_learning_rate", "decoder_learning_rate"):
            self.require_at_least(0, name)
        if self.gradient_clamp is not None and not self.gradient_clamp > 0:
            raise RecipeError(f"gradient_clamp is {self.gradient_clamp}; give a positive number or null.")
        if not 0 <= self.semantic_dropout <= 1:
            raise RecipeError(f"semantic_dropout is {self.semantic_dropout}; give a number between 0 and 1.")
        if not 0 <= self.changed_coverage_share <= 1:
            raise RecipeError(f"changed_coverage_share is {self.changed_coverage_share}; give a number from 0 to 1.")
        if self.coverage and (self.semantic_coverage != "full" or self.modalities == "rgb"):
            raise RecipeError(
                "changed_coverage_epochs and _share need whole maps; set semantic_coverage to full and modalities to "
                "rgb_semantic, or both of them to 0."
            )
        if self.semantic_dropout and not self.semantics_optional:
            raise RecipeError("semantic_dropout leaves maps out; set semantics_optional to true, or the dropout to 0.")
        if self.backbone_weights_semantic is not None and self.modalities == "rgb":
            raise RecipeError("backbone_weights_semantic is given, but modalities is rgb; set it to null.")
        if self.streaming and self.captions == "flatten":
            raise RecipeError(
                "captions flatten would put a pair's captions side by side in a stream; set captions to random_choice."
            )

    def model_config(self, vocab_size: int, pad: int, start: int, end: int) -> MModalCCConfig:
        """Return the model's configuration.

        Args:
            vocab_size: Words of the tokenizer, special ones included.
            pad: Id of the padding token.
            start: Id of the token that begins a caption.
            end: Id of the token that ends it.

        Raises:
            RecipeError: The model's fields contradict each other; the message names them.
        """
        backbones: dict[str, Any] = {
            f"{stream}_backbone_config": ResNetConfig(
                num_channels=channels,
                embedding_size=self.embedding_size,
                hidden_sizes=list(self.hidden_sizes),
                depths=list(self.depths),
                layer_type=self.layer_type,
            )
            for stream, channels in (("rgb", self.num_channels), ("semantic", self.semantic_num_channels))
            if stream == "rgb" or self.modalities != "rgb"
        }
        with input_errors(RecipeError):
            return MModalCCConfig(
                **backbones,
                modalities=self.modalities,
                semantics_optional=self.semantics_optional,
                backbone_stages=self.backbone_stages,
                image_size=self.image_size,
                grid_size=self.grid_size,
                feature_enhancement=self.feature_enhancement,
                num_stages=self.num_stages,
                d_model=self.d_model,
                encoder_attention_heads=self.encoder_attention_heads,
                encoder_ffn_dim=self.encoder_ffn_dim,
                decoder_layers=self.decoder_layers,
                decoder_hidden_size=self.decoder_hidden_size,
                decoder_attention_heads=self.decoder_attention_heads,
                decoder_ffn_dim=self.decoder_ffn_dim,
                dropout=self.dropout,
                position_dropout=self.position_dropout,
                position_embedding_std=self.position_embedding_std,
                vocab_size=vocab_size,
                max_caption_length=self.max_caption_length + 1,  # and <end>
                pad_token_id=pad,
                bos_token_id=start,
                eos_token_id=end,
                decoder_start_token_id=start,
            )
