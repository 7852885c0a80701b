"""Images that are grey where nothing changed, for some of the samples. No part of the papers; off by default."""

import torch

_GREY = 127
_MARGIN = 0.04  # of the side: what a change stands on and where its shadow falls


def changed_pixels(images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the images where something changed, with a margin, and grey elsewhere.

    On such images a language model learns to say what it sees where, before a module can compare the dates. It is to
    images what `Coverage` is to semantic maps; no part of CCExpert's paper.

    Args:
        images: (n, 2, C, H, W) uint8.
        masks: (n, 2, 1, H, W), the change masks, not 0 where something changed.

    Returns:
        New images.
    """
    margin = max(1, round(_MARGIN * masks.shape[-1]))
    wide = masks.flatten(0, 1).float()
    for down, right in ((margin, 0), (0, margin)):  # the largest of a square: of the rows' largest
        kernel = (2 * down + 1, 2 * right + 1)
        wide = torch.nn.functional.max_pool2d(wide, kernel, stride=1, padding=(down, right))
    return torch.where(wide.unflatten(0, masks.shape[:2]) > 0, images, torch.full_like(images, _GREY))
