"""An auxiliary loss on the change features: which patches changed. No part of the paper; off by default."""

from typing import Any

import torch
from torch import nn


class ChangeMaskHead(nn.Module):
    """From the change features of a patch to the logit of its change; used in training only.

    Args:
        width: Of the change features.
    """

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map `(batch, tokens, width)` to `(batch, tokens)`."""
        return self.score(self.norm(features)).squeeze(-1)

    def replace(self, model: nn.Module, inputs: Any, output: Any) -> Any:
        """Put logits in the place of the change features, as a forward hook of the model.

        So the head runs inside of the forward pass that distributed training wraps.
        """
        if model.training and getattr(output, "change_features", None) is not None:
            output.change_features = self(output.change_features)
        return output


def change_mask_loss(logits: torch.Tensor, masks: torch.Tensor, words: torch.Tensor, targets: int) -> torch.Tensor:
    """Return the cross entropy between the logits of patches and the share of each that changed.

    A pair weighs as much as its caption has target tokens: divided by those of the global batch the loss does not
    depend on how that is cut into micro-batches and processes.

    Args:
        logits: (n, side * side), row-major.
        masks: (n, H, W) bool; H and W need not be multiples of the grid's side (384 pixels make 27 patches of 14).
        words: (n,) target tokens of each pair's caption.
        targets: Target tokens of the whole global batch.
    """
    side = round(logits.shape[1] ** 0.5)
    height, width = (size // side * side for size in masks.shape[-2:])  # a tower leaves out the incomplete patches
    shares = nn.functional.avg_pool2d(masks[:, None, :height, :width].float(), (height // side, width // side))
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits.float() if logits.dtype != torch.float64 else logits,
        shares.flatten(1).to(torch.float64 if logits.dtype == torch.float64 else torch.float32),
        reduction="none",
    )
    return (losses.mean(dim=1) * words).sum() / targets
