"""What of a CCExpert learns: its four parts, adapters, and the head of the change-mask loss."""

from typing import Any

from rscc_hf.training.aids.change_mask import ChangeMaskHead
from rscc_hf.training.systems.ccexpert.adapters import add_adapters
from rscc_hf.training.systems.ccexpert.recipe import CCExpertRecipe
from rscc_hf.training.systems.ccexpert.start import Start

HEAD = "change_mask_head"


def part_of(name: str) -> str:
    """Return the part that a parameter belongs to, by its name in the model, with adapters or without."""
    first = name.removeprefix("base_model.model.").split(".")[0]
    return "language_model" if first == "lm_head" else first


def prepare_to_learn(model: Any, recipe: CCExpertRecipe, start: Start | None = None) -> Any:
    """Unfreeze what the recipe trains, freeze the rest, and add what only training needs.

    Args:
        model: A `CCExpertForConditionalGeneration`, changed in place.
        recipe: The settings.
        start: Where the model comes from, see `add_adapters`.

    Returns:
        The model, or with LoRA peft's model around it.

    Raises:
        RecipeError: `lora_target_modules` names no layer of the language model.
    """
    width = model.config.vision.hidden_size
    model.requires_grad_(False)
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if recipe.lora_rank is not None:
        model = add_adapters(model, recipe, start)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(part_of(name) in recipe.learning_parts)
    if recipe.change_mask_loss:
        # inside of the model, so that checkpoints hold it and processes share its gradient; saving leaves it out
        head = ChangeMaskHead(width)
        model.add_module(HEAD, head)
        model.register_forward_hook(head.replace)
    return model
