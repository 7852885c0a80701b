"""What every recipe says about its pairs: where they are, how they are read, and how they are augmented."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rscc_hf.data.augmentation import Augmentation
from rscc_hf.errors import RecipeError
from rscc_hf.processing.change_pair_values import checked_range
from rscc_hf.training.engine.recipe import LoopRecipe, option


@dataclass
class PairRecipe(LoopRecipe):
    """Training on pairs in the schema of `rscc_hf.data`."""

    path_keys: ClassVar[frozenset[str]] = LoopRecipe.path_keys | {"train_data", "validation_data"}

    train_data: str | None = option(None, "Folder or Hub id of the training pairs.")
    train_split: str = option("train", "Its split.")
    validation_data: str | None = option(None, "Folder or Hub id of the validation pairs; null: train_data.")
    validation_split: str = option("validation", "Its split.")
    data_revision: str | None = option(None, "Branch, tag or commit of Hub data.")
    streaming: bool = option(False, "Read the training data as it goes, shuffled by shard.")
    stream_shuffle_buffer: int = option(0, "Size of the blocks that a stream shuffles within a shard; 0: none.")
    cache: Literal["none", "memory"] = option("none", "memory: decode and resize every image once, keep it in RAM.")
    value_range: list[float] | None = field(
        default=None,
        metadata={
            "help": "The two values that are black and white in images of more than 8 bits; null: those of the "
            "checkpoint that the run starts from, else what their type says."
        },
    )
    unchanged_share: float = option(1.0, "Share of the unchanged pairs that an epoch sees, others each time.")

    mirror_horizontal: float = option(0.0, "Probability of swapping left and right, in the words too.")
    mirror_vertical: float = option(0.0, "Probability of swapping top and bottom, in the words too.")
    rotate: float = option(0.0, "Probability of a quarter, half or three-quarter turn, in the words too.")
    colour_jitter: float = option(0.0, "Strength of random brightness, contrast and colour; 0: none.")
    jitter_independent: float = option(0.5, "Share of the jitter that differs between the dates.")

    @property
    def augmentation(self) -> Augmentation | None:
        """The augmentation of training samples; None: there is none."""
        if not (self.mirror_horizontal or self.mirror_vertical or self.rotate or self.colour_jitter):
            return None
        return Augmentation(
            mirror_horizontal=self.mirror_horizontal,
            mirror_vertical=self.mirror_vertical,
            rotate=self.rotate,
            colour_jitter=self.colour_jitter,
            jitter_independent=self.jitter_independent,
        )

    def validate(self) -> None:
        """Check the values that no other constructor checks; see `LoopRecipe.validate`."""
        super().validate()
        self.require_at_least(0, "stream_shuffle_buffer")
        for name in ("mirror_horizontal", "mirror_vertical", "rotate", "colour_jitter", "jitter_independent"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name} is {getattr(self, name)}; give a number between 0 and 1.")
        try:
            checked_range(self.value_range)
        except ValueError as error:
            raise RecipeError(str(error)) from error
        if not 0 < self.unchanged_share <= 1:
            raise RecipeError(f"unchanged_share is {self.unchanged_share}; give a share above 0, at most 1.")
        if self.streaming and self.unchanged_share < 1:
            raise RecipeError("A stream's pairs come as they are; set unchanged_share to 1, or streaming to false.")
        if self.streaming and self.cache != "none":
            raise RecipeError("A stream cannot be kept in memory; set cache to none, or streaming to false.")
        if self.stream_shuffle_buffer and not self.streaming:
            raise RecipeError("stream_shuffle_buffer is for streams; set streaming to true, or the buffer to 0.")
