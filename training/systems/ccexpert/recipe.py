"""The recipes of CCExpert's three stages: model, what learns, prompt and data, on top of what the loop needs.

The defaults are the paper's (arXiv 2411.11360) and, where it is silent, those of the release
(github.com/Meize0729/CCExpert).
"""

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Literal

from rscc_hf.errors import RecipeError
from rscc_hf.evaluation.scores import BestScore
from rscc_hf.training.engine.recipe import MIXED_PRECISION_HELP, OPTIMIZER_HELP, option
from rscc_hf.training.systems.pairs.recipe import PairRecipe

PARTS = ("vision_tower", "integration", "projector", "language_model")
"""What a recipe can train, as the model names it; the output projection belongs to the language model."""

MODULE_SETTINGS = (
    "num_integration_layers", "integration_gate", "integration_attention_heads", "integration_ffn_dim",
)  # fmt: skip
"""What has no effect without the module."""

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


CAPTIONS_HELP = (
    "flatten: each caption is a sample; random_choice: one of each pair's an epoch; together: captions_per_pair of "
    "each pair's, which is read once for all of them."
)
PARTS_HELP = f"What learns, of {', '.join(PARTS)}; the rest is frozen. See lora_rank."


@dataclass
class CCExpertRecipe(PairRecipe):
    """Trains CCExpert on pairs of images."""

    path_keys: ClassVar[frozenset[str]] = PairRecipe.path_keys | {"init_from"}

    output_dir: str = option("outputs/ccexpert", "Folder of the trained model, its checkpoints and logs.")
    seed: int = option(42, "Seed of the new weights, the order of the data and all randomness of training.")
    global_batch_size: int = option(256, "Samples an optimiser step, over all processes and micro-batches.")
    per_device_batch_size: int = option(2, "Samples a forward pass on one device; accumulation follows from it.")
    max_epochs: int | None = option(1, "Stop after this many epochs.")
    optimizer: Literal["adam", "adamw", "muon"] = option("adamw", OPTIMIZER_HELP)
    learning_rate: float = option(1e-5, "Peak learning rate.")
    vision_learning_rate_ratio: float = option(0.2, "The vision tower's learning rate by learning_rate.")
    integration_learning_rate_ratio: float = option(1.0, "The same of the Difference-aware Integration Module.")
    projector_learning_rate_ratio: float = option(1.0, "The same of the projector.")
    language_learning_rate_ratio: float = option(1.0, "The same of the language model.")
    schedule: Literal["constant", "linear", "cosine", "one_cycle"] = option("cosine", "Learning-rate schedule.")
    warmup_ratio: float = option(0.03, "Share of all steps in which the learning rate rises.")
    max_grad_norm: float | None = option(1.0, "Clip the norm of all gradients to this.")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = option("auto", MIXED_PRECISION_HELP)
    gradient_checkpointing: bool = option(True, "Recompute activations in the backward pass to save memory.")
    metric_for_best: BestScore = option("s_m", "Validation score that picks the best weights.")  # noqa: RUF009 (a field)
    validation_batch_size: int = option(8, "Pairs a generation batch on one device.")

    init_from: str | None = option(
        None, "Where the weights come from: folder or Hub id of a CCExpert, a LLaVA-OneVision or a LLaVA-1.5."
    )
    init_revision: str | None = option(None, "Its branch, tag or commit on the Hub.")
    init_weights: Literal["last", "best"] = option(
        "last", "Of a finished run: its last weights (as the paper), or the best by validation."
    )
    size: Literal["0.5b", "7b", "72b"] | None = option(
        None, "The paper's size that init_from must have; --plan reckons with it where init_from cannot be read yet."
    )
    trained_parts: list[str] = field(default_factory=lambda: list(PARTS), metadata={"help": PARTS_HELP})

    integration: bool | None = option(None, "false: no Difference-aware Integration Module; null: see vision_levels.")
    vision_levels: list[int] | None = field(
        default=None,
        metadata={"help": "Absolute levels of the tower; null: a CCExpert's own, with a LLaVA the paper's. So below."},
    )
    num_integration_layers: int | None = option(None, "Change-aware layers K of the module.")
    integration_gate: bool | None = option(None, "Whether levels are weighted by a gate each.")
    integration_attention_heads: int | None = option(None, "Heads of the module.")
    integration_ffn_dim: int | None = option(None, "Width of its feed-forward net.")
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = option("sdpa", "Kernel of all attention.")

    prompt: str | None = option(None, "What is asked, two <image> in it; null: the checkpoint's, else the paper's.")
    label_policy: Literal["assistant", "release"] | None = option(
        None, "assistant: answers are learnt; release: marks of turns too; null: the checkpoint's, else assistant."
    )
    captions: Literal["flatten", "random_choice", "together"] = option("flatten", CAPTIONS_HELP)
    captions_per_pair: int | None = option(
        None, "With flatten: captions of a pair, drawn once; null: all. With together: as many, drawn each epoch."
    )
    max_length: int = option(32768, "Longest sequence in tokens, those of the images included.")
    max_caption_length: int = option(512, "Longer captions (in tokens) are dropped.")
    max_new_tokens: int = option(256, "Longest caption that validation generates.")
    change_mask_loss: float = option(
        0.0, "Weight of a loss that tells changed patches from the change features; needs change masks. 0: none."
    )

    changed_pixels_share: float = option(
        0.0, "Share of the samples whose images show what changed and grey elsewhere; needs change masks. 0: none."
    )

    lora_rank: int | None = option(
        None,
        "Rank of LoRA adapters in the language model; then module and projector learn in full, the tower is frozen.",
    )
    lora_alpha: float | None = option(None, "Their scale is this by the rank; null: twice the rank.")
    lora_dropout: float = option(0.0, "Dropout before the adapters.")
    lora_target_modules: list[str] = field(
        default_factory=lambda: list(LORA_TARGETS), metadata={"help": "Layers of the language model with adapters."}
    )
    quantization: Literal["none", "4bit"] = option("none", "4bit: QLoRA; the language model in NF4. See lora_rank.")

    @property
    def keeps_last(self) -> bool:
        """Each stage starts from the last weights of the one before, not from the best."""
        return True

    @property
    def learning_parts(self) -> list[str]:
        """`trained_parts`, without the tower where there is LoRA."""
        return [name for name in self.trained_parts if self.lora_rank is None or name != "vision_tower"]

    @property
    def learning_rates(self) -> dict[str, float]:
        """Peak learning rate of each part."""
        ratios = (
            self.vision_learning_rate_ratio,
            self.integration_learning_rate_ratio,
            self.projector_learning_rate_ratio,
            self.language_learning_rate_ratio,
        )
        return {name: ratio * self.learning_rate for name, ratio in zip(PARTS, ratios, strict=True)}

    def idle(self) -> list[str]:
        """Return a sentence for each key that was given and has no effect on this run."""
        notes = []
        if self.lora_rank is not None and "vision_tower" in self.trained_parts:
            notes.append("vision_tower is among trained_parts and stays frozen: with lora_rank it does not learn.")
        ratios = ("vision", "integration", "projector", "language")
        for part, name in zip(PARTS, (f"{ratio}_learning_rate_ratio" for ratio in ratios), strict=True):
            default = self.__dataclass_fields__[name].default
            if part not in self.learning_parts and getattr(self, name) != default:
                notes.append(f"{name} is {getattr(self, name)} and has no effect: {part} does not learn.")
        return notes

    @property
    def module_settings(self) -> dict[str, Any]:
        """Fields of `CCExpertConfig` that the recipe sets."""
        names = ("integration", "vision_levels", *MODULE_SETTINGS)
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def validate(self) -> None:
        """Check the values that no other constructor checks; see `LoopRecipe.validate`."""
        super().validate()
        self.require_at_least(
            1,
            "max_length max_caption_length max_new_tokens captions_per_pair num_integration_layers lora_rank "
            "integration_attention_heads integration_ffn_dim",
        )
        self.require_at_least(0, "change_mask_loss lora_alpha " + " ".join(f"{part}_learning_rate_ratio" for part in
                              ("vision", "integration", "projector", "language")))  # fmt: skip
        self.require_share("lora_dropout")
        if not 0 <= self.changed_pixels_share <= 1:
            raise RecipeError(f"changed_pixels_share is {self.changed_pixels_share}; give a share from 0 to 1.")
        for name in self.trained_parts:
            if name not in PARTS:
                raise RecipeError(f"trained_parts has {name!r}; there are {', '.join(PARTS)}.")
        if not self.learning_parts:
            raise RecipeError(f"trained_parts is {self.trained_parts}; with lora_rank name another of {PARTS}.")
        if self.label_smoothing:
            raise RecipeError("CCExpert's loss has no label smoothing; set label_smoothing to 0.")
        if self.streaming and self.captions == "flatten":
            raise RecipeError(
                "captions flatten would put a pair's captions side by side in a stream; set captions to random_choice."
            )
        if self.captions_per_pair is not None and self.captions == "random_choice":
            raise RecipeError("captions_per_pair is for captions flatten and together; set it to null.")
        if self.captions == "together":
            self._validate_together()
        if self.change_mask_loss and self.integration is False:
            raise RecipeError("change_mask_loss needs the module's change features; set it to 0, or integration true.")
        if self.quantization == "4bit" and self.lora_rank is None:
            raise RecipeError("quantization 4bit trains adapters; set lora_rank, or quantization to none.")
        if self.lora_rank is not None and "language_model" not in self.trained_parts:
            raise RecipeError("lora_rank adapts the language model; name it in trained_parts, or set lora_rank null.")
        self._validate_adapters()

    def _validate_adapters(self) -> None:
        """Check the settings of adapters, with them and without."""
        if self.lora_rank is None:
            for item in fields(self):
                given = getattr(self, item.name)
                default = item.default if item.default_factory is MISSING else item.default_factory()
                if item.name.startswith("lora_") and given != default:
                    raise RecipeError(
                        f"{item.name} is {given} and there are no adapters; set lora_rank, or leave {item.name} out."
                    )
            return
        if not self.lora_target_modules:
            raise RecipeError("lora_target_modules is empty; name layers of the language model.")
        if self.lora_alpha == 0:
            raise RecipeError("lora_alpha is 0, a scale with which adapters learn nothing; give a number above 0.")

    def _validate_together(self) -> None:
        """Check what captions that share a prompt cannot go with."""
        if self.captions_per_pair is None:
            raise RecipeError("captions is together; say by captions_per_pair how many of each pair.")
        if self.attn_implementation == "flash_attention_2":
            raise RecipeError("captions together need a mask that flash_attention_2 does not know; choose sdpa.")
        if self.label_policy == "release":
            raise RecipeError("With captions together the prompt is there once; set label_policy to assistant.")
        if self.streaming:
            raise RecipeError("captions together are for data that does not stream; set streaming to false.")


@dataclass
class Stage1Recipe(CCExpertRecipe):
    """Stage I: the Difference-aware Integration Module learns, on CC-Foundation."""

    output_dir: str = option("outputs/ccexpert_stage1", "Folder of the trained model, its checkpoints and logs.")
    global_batch_size: int = option(64, "Samples an optimiser step, over all processes and micro-batches.")
    per_device_batch_size: int = option(4, "Samples a forward pass on one device; accumulation follows from it.")
    trained_parts: list[str] = field(default_factory=lambda: ["integration"], metadata={"help": PARTS_HELP})


@dataclass
class Stage2Recipe(CCExpertRecipe):
    """Stage II: everything learns, on CC-Foundation."""

    output_dir: str = option("outputs/ccexpert_stage2", "Folder of the trained model, its checkpoints and logs.")


@dataclass
class Stage3Recipe(CCExpertRecipe):
    """Stage III: everything learns, on the target set, one caption of a pair each epoch."""

    output_dir: str = option("outputs/ccexpert_stage3", "Folder of the trained model, its checkpoints and logs.")
    max_epochs: int | None = option(50, "Stop after this many epochs.")
    patience: int | None = option(10, "Stop after this many evaluations in a row without improvement.")
    captions: Literal["flatten", "random_choice", "together"] = option("random_choice", CAPTIONS_HELP)
