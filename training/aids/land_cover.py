"""Land cover of single dates, patch by patch: what a small tower learns before it meets any words.

It stands in for the image-text pretraining of SigLIP where a tower starts from nothing; no part of CCExpert's paper.
The dates of a pair are two images here, each with its own semantic map.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from transformers.image_utils import PILImageResampling

from rscc_hf.data.augmentation import Augmentation
from rscc_hf.data.palette import CLASS_NAMES, colours_to_classes
from rscc_hf.errors import RecipeError
from rscc_hf.processing.change_pair_reader import PairPixels
from rscc_hf.processing.image_processing_mmodalcc import MModalCCImageProcessor
from rscc_hf.training.engine.batches import Batch
from rscc_hf.training.engine.loop import OnStep, TrainingResult, train
from rscc_hf.training.engine.recipe import option
from rscc_hf.training.engine.task import Part
from rscc_hf.training.systems.ccexpert.parts import prepare_to_learn
from rscc_hf.training.systems.ccexpert.recipe import PARTS_HELP, CCExpertRecipe
from rscc_hf.training.systems.ccexpert.start import find_start, load_start
from rscc_hf.training.systems.pairs.pixels import PixelReader, Pixels, PixelSource
from rscc_hf.training.systems.pairs.samples import CaptionFilter, ChosenSamples, SampleMaker, augment
from rscc_hf.training.systems.pairs.task import PairTask, learning


@dataclass
class LandCoverRecipe(CCExpertRecipe):
    """Trains the vision tower of `init_from` on the semantic maps of pairs; captions are not read."""

    output_dir: str = option("outputs/land_cover", "Folder of the model with the trained tower, and its logs.")
    trained_parts: list[str] = field(default_factory=lambda: ["vision_tower"], metadata={"help": PARTS_HELP})
    integration: bool | None = option(False, "The module has no part in it: false.")
    vision_learning_rate_ratio: float = option(1.0, "The vision tower's learning rate by learning_rate.")
    gradient_checkpointing: bool = option(False, "Recompute activations in the backward pass to save memory.")
    eval_unit: Literal["steps", "epochs", "never"] = option("never", "There are no captions to score: never.")

    def validate(self) -> None:
        """Check the values that no other constructor checks; see `LoopRecipe.validate`."""
        super().validate()
        if self.trained_parts != ["vision_tower"]:
            raise RecipeError(f"trained_parts is {self.trained_parts}; land cover trains the vision_tower alone.")
        for name, wanted in (("eval_unit", "never"), ("integration", False), ("streaming", False)):
            if getattr(self, name) != wanted:
                raise RecipeError(f"{name} is {getattr(self, name)}; set it to {wanted} to train on land cover.")


class LandCoverModel(nn.Module):
    """A tower and what its patches are told apart by.

    Args:
        model: A CCExpert without its module; the tower is its own, not a copy.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.tower = model.vision_tower
        self.level = model.config.used_levels[-1]
        self.norm = nn.LayerNorm(model.config.vision.hidden_size)
        self.head = nn.Linear(model.config.vision.hidden_size, len(CLASS_NAMES))

    def forward(self, pixel_values: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """Sum over all patches the cross entropy with the shares of the classes.

        Args:
            pixel_values: (n, 2, 3, H, W), normalised.
            shares: (n, 2, tokens, classes), adding up to 1.
        """
        features = self.tower(pixel_values.flatten(0, 1), [self.level])[-1]
        logits = self.head(self.norm(features)).float()
        return -(shares.flatten(0, 1) * logits.log_softmax(dim=-1)).sum()


class LandCoverMaker(SampleMaker):
    """Makes micro-batches of dates and the classes of their patches.

    Args:
        image_processor: CCExpert's.
        grid: Patches along a side of an image.
        seed: Of all randomness.
        augmentation: Of images and maps; None: none.
    """

    def __init__(self, image_processor: Any, grid: int, seed: int, augmentation: Augmentation | None):
        super().__init__(seed)
        self.image_processor, self.grid, self.augmentation = image_processor, grid, augmentation

    def make(
        self,
        pixels: Pixels,
        captions: Sequence[Sequence[str]],
        generators: Sequence[np.random.Generator],
        epochs: Sequence[int],
    ) -> Batch:
        """Make `pixel_values` (n, 2, 3, H, W) and `shares` (n, 2, tokens, classes) float32."""
        images, maps = pixels.images, pixels.maps
        assert maps is not None  # the reader was told to read them
        if self.augmentation is not None:
            images, moved, _ = augment(self.augmentation, images, maps, captions, generators)
            assert moved is not None
            maps = moved
        return {
            **self.image_processor.normalize_pairs(PairPixels(images, None, pixels.present)),
            "shares": class_shares(maps, self.grid),
        }


def class_shares(maps: torch.Tensor, grid: int) -> torch.Tensor:
    """Return the share of each class in each patch.

    Args:
        maps: (n, 2, 3, H, W) uint8, colours of the palette.
        grid: Patches along a side; rows and columns beyond a multiple of it are left out, as a tower does.

    Returns:
        (n, 2, grid * grid, classes) float32, patches row by row, adding up to 1.

    Raises:
        InputError: A colour is not one of the palette.
    """
    height, width = (size // grid * grid for size in maps.shape[-2:])
    colours = maps[..., :height, :width].flatten(0, 1).movedim(1, -1)  # (2n, H, W, 3)
    classes = torch.from_numpy(colours_to_classes(colours.flatten(0, 1).contiguous().numpy()))
    numbers = torch.arange(len(CLASS_NAMES), dtype=classes.dtype)[:, None, None]
    planes = (classes.view(-1, 1, height, width) == numbers).float()
    shares = nn.functional.avg_pool2d(planes, (height // grid, width // grid))
    return shares.flatten(2).transpose(1, 2).unflatten(0, (-1, 2))


class LandCoverTask(PairTask):
    """Trains the tower of a CCExpert; saves the whole CCExpert."""

    recipe: LandCoverRecipe
    needs_captions = False

    def __init__(self, recipe: LandCoverRecipe, accelerator: Accelerator):
        super().__init__(recipe, accelerator)
        self.recipe = recipe
        self.ccexpert, self.processor = load_start(recipe)
        prepare_to_learn(self.ccexpert, recipe)
        self.model: Any = LandCoverModel(self.ccexpert)
        grid = self.ccexpert.config.grid_size
        self.maker = LandCoverMaker(self.processor.image_processor, grid, recipe.seed, recipe.augmentation)
        self.caption_filter = CaptionFilter(self.processor.tokenizer, recipe.max_caption_length)
        self.prepare_data(accelerator)

    def parts(self) -> list[Part]:
        """Return tower and head."""
        rates = self.recipe.learning_rates
        head = [*self.model.norm.parameters(), *self.model.head.parameters()]
        return [
            Part("vision_tower", learning(self.model.tower.parameters()), rates["vision_tower"]),
            Part("land_cover_head", head, self.recipe.learning_rate),
        ]

    def loss(self, model: torch.nn.Module, batch: Batch, targets: int) -> torch.Tensor:
        """See `Task`; the targets are patches."""
        return model(**batch) / targets

    def count_targets(self, batch: Batch) -> int:
        """Count the patches of a micro-batch."""
        return batch["shares"][..., 0].numel()

    def save(self, folder: Path) -> None:
        """Write the CCExpert with the trained tower, its processor, and `training_summary.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.ccexpert.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        self.write_summary(folder)

    def sources(self) -> dict[str, tuple[str | None, str | None]]:
        """See `PairTask`."""
        return {"init_from": find_start(self.recipe)[:2]}

    def reader(self, dataset: Any, where: str, training: bool) -> PixelReader:
        """See `PairTask`: the processor with maps reads both, at the tower's size."""
        side = self.ccexpert.config.image_size
        images: Any = MModalCCImageProcessor  # its settings are keywords that no signature lists
        processor = images(
            size={"height": side, "width": side},
            semantic_resample=PILImageResampling.NEAREST,
            value_range=self.processor.image_processor.value_range,
        )
        return PixelReader(processor, maps=True, optional=False, where=where)

    def choose_samples(self, pixels: PixelSource, captions: list[list[str]]) -> Any:
        """See `PairTask`: a pair is a sample, with captions or without."""
        return ChosenSamples(pixels, [texts or [""] for texts in captions], self.maker)

    def asker(self) -> Callable[[Pixels], Batch]:
        """Refuse: nothing is asked, as `LandCoverRecipe` has no evaluation."""
        raise NotImplementedError("Training on land cover generates no captions.")


def train_land_cover(recipe: LandCoverRecipe, *, on_step: OnStep | None = None) -> TrainingResult[LandCoverRecipe]:
    """Train the tower, or go on with a run; see `train_ccexpert`.

    Raises:
        RsccError: One sentence that names the key of the recipe (`RecipeError`), the pair or the file (`InputError`)
            or the checkpoint to continue (`CheckpointError`), and the remedy.
        TrainingError: The loss is no longer finite.
    """
    return train(recipe, LandCoverTask, on_step=on_step)
