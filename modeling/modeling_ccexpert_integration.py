"""CCExpert's Difference-aware Integration Module.

Paper: arXiv 2411.11360. Original repository: github.com/Meize0729/CCExpert (Apache-2.0). This implementation is
Apache-2.0 and built from the paper's equations and the release's behaviour; no code is copied. The sine positions are
DETR's (arXiv 2005.12872).

Everywhere below, `rows` are the levels of all pairs on one batch axis, levels outermost: the levels are independent
and share all weights. `tokens` are the cells of an image's grid, row-major; `d` is the vision tower's width.
"""

import math
from typing import NamedTuple

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_ccexpert import CCExpertConfig

_LAYER_NORM_EPS = 1e-5


class IntegrationOutput(NamedTuple):
    """What the module gives.

    Attributes:
        images: `(batch, 2, tokens, d)`, before and after, for the projector.
        change_features: `(batch, tokens, d)`, the combined change features; `None` where they were not asked for.
        gates: `(batch, levels)` in (0, 1), the weight of each level; ones without `integration_gate`.
    """

    images: torch.Tensor
    change_features: torch.Tensor | None
    gates: torch.Tensor


def sine_positions(height: int, width: int, channels: int) -> torch.Tensor:
    """Compute DETR's normalised two-dimensional sine positions.

    Args:
        height: rows of the grid.
        width: columns of the grid.
        channels: a multiple of 4; the first half is for rows, the second for columns.

    Returns:
        float64 `(height * width, channels)`, cells row-major, on the CPU: not every device has the type.
    """
    half = channels // 2
    index = torch.arange(half, dtype=torch.float64, device="cpu")
    frequencies = 10000 ** (-2 * (index // 2) / half)
    halves = []
    for length in (height, width):
        places = (torch.arange(length, dtype=torch.float64, device="cpu") + 0.5) / (length + 1e-6) * 2 * math.pi
        angles = places[:, None] * frequencies
        halves.append(torch.where(index % 2 == 0, angles.sin(), angles.cos()))
    rows = halves[0][:, None].expand(height, width, half)
    columns = halves[1][None, :].expand(height, width, half)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend in the open: `(rows, heads, queries, head)` to `(rows, queries, heads, head)`, and the weights."""
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = weights.softmax(dim=-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2), weights


class CCExpertAttention(nn.Module):
    """Multi-head attention whose inputs come projected: images and change features share projections of keys."""

    is_causal = False

    def __init__(self, config: CCExpertConfig):
        super().__init__()
        width = config.vision.hidden_size
        self.config = config
        self.num_heads = config.integration_attention_heads or 1
        self.head_dim = width // self.num_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attend.

        Args:
            query: `(n, queries, d)`, what `q_proj` gave.
            key: `(n, keys, d)`, what `k_proj` gave; so is value of `v_proj`.
            value: see key.

        Returns:
            `(n, queries, d)`.
        """
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        # (n, tokens, d) -> (n, heads, tokens, head)
        query, key, value = (
            states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2) for states in (query, key, value)
        )
        output, _ = attend(self, query, key, value, None, dropout=0.0, scaling=self.scaling, is_causal=self.is_causal)
        return self.out_proj(output.flatten(2))


class ChangeFeatureInit(nn.Module):
    """The paper's Change Feature Init: what of each image matters, and how the two differ. One for all layers."""

    def __init__(self, config: CCExpertConfig):
        super().__init__()
        width = config.vision.hidden_size
        self.linear_mapping = nn.Linear(2 * width, width)
        self.proj = nn.Linear(3 * width, width)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the first change features D0 `(rows, tokens, d)` of `(rows, 2, tokens, d)`."""
        both = torch.cat([images, images.flip(1)], dim=-1)  # [A;B] and [B;A]
        before, after = (images * self.linear_mapping(both).sigmoid()).unbind(1)
        return self.proj(torch.cat([before, after, before - after], dim=-1))


class DiffExpertMLP(nn.Module):
    """The feed-forward net of a change-aware layer."""

    def __init__(self, config: CCExpertConfig):
        super().__init__()
        width, inner = config.vision.hidden_size, config.integration_ffn_dim or 0
        self.lin1 = nn.Linear(width, inner)
        self.act = ACT2FN[config.integration_hidden_act]
        self.lin2 = nn.Linear(inner, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Transform `(rows, tokens, d)` to the same shape."""
        return self.lin2(self.act(self.lin1(states)))


class ChangeAwareTransformerLayer(GradientCheckpointingLayer):
    """Change features look at themselves and at both images, then the images look at the change features."""

    def __init__(self, config: CCExpertConfig):
        super().__init__()
        width = config.vision.hidden_size
        self.change_self_attention = CCExpertAttention(config)
        self.change_to_images = CCExpertAttention(config)
        self.images_to_change = CCExpertAttention(config)
        self.norm1 = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)
        self.norm2 = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)
        self.norm3 = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)
        self.mlp = DiffExpertMLP(config)
        self.before_flag = nn.Parameter(torch.empty(width))
        self.after_flag = nn.Parameter(torch.empty(width))
        self.change_flag = nn.Parameter(torch.empty(width))

    def forward(
        self, images: torch.Tensor, change: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run one step k of the paper.

        Args:
            images: `(rows, 2, tokens, d)`, A and B.
            change: `(rows, tokens, d)`, Q, with the first change features already added.
            positions: `(tokens, d)`, the sine table.

        Returns:
            The next images and change features, of the same shapes.
        """
        attention = self.change_self_attention
        placed = change + positions
        change = self.norm1(
            change + attention(attention.q_proj(placed), attention.k_proj(placed), attention.v_proj(change))
        )

        image_places = positions + torch.stack([self.before_flag, self.after_flag])[:, None]  # (2, tokens, d)
        change_places = positions + self.change_flag
        placed_images = images + image_places
        attention = self.change_to_images
        placed = change + change_places
        # (rows, 2, tokens, d) -> (rows, 2 * tokens, d) is the concatenation of A and B
        key = torch.cat([attention.k_proj(placed_images).flatten(1, 2), attention.k_proj(placed)], dim=1)
        value = torch.cat([attention.v_proj(images).flatten(1, 2), attention.v_proj(change)], dim=1)
        change = self.norm2(change + attention(attention.q_proj(placed), key, value))
        del key, value
        change = self.norm3(change + self.mlp(change))

        attention = self.images_to_change
        placed = change + change_places
        # each image has keys of its own and those of the change features, which are projected once for both
        key = _beside(attention.k_proj(placed_images), attention.k_proj(placed))
        value = _beside(attention.v_proj(images), attention.v_proj(change))
        query = attention.q_proj(placed_images).flatten(0, 1)
        # position and flag stay in the images: the released weights were trained so
        return placed_images + attention(query, key, value).unflatten(0, (-1, 2)), change


class DiffExpert(nn.Module):
    """The paper's expert: change features of a level, made and refined in K layers that share Change Feature Init."""

    def __init__(self, config: CCExpertConfig):
        super().__init__()
        self.change_feature_init = ChangeFeatureInit(config)
        self.layers = nn.ModuleList(
            [ChangeAwareTransformerLayer(config) for _ in range(config.num_integration_layers)]
        )

    def forward(self, images: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Refine images `(rows, 2, tokens, d)`, given the sine table; compute change features `(rows, tokens, d)`."""
        change: torch.Tensor | None = None
        for layer in self.layers:
            first = self.change_feature_init(images)  # anew from what the layer reads
            images, change = layer(images, first if change is None else change + first, positions)
        assert change is not None  # the configuration wants at least one layer
        return images, change


class AdaptiveAdjustment(nn.Module):
    """The paper's multi-scale adaptive weighting: one gate a level and pair."""

    def __init__(self, config: CCExpertConfig):
        super().__init__()
        width = config.vision.hidden_size
        self.linear_1 = nn.Linear(3 * width, width)
        self.act = ACT2FN[config.integration_hidden_act]
        self.linear_2 = nn.Linear(width, 1)

    def forward(self, images: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """Gate `(levels, batch, 2, tokens, d)` by `(levels, batch, tokens, d)`: `(levels, batch)` in (0, 1)."""
        means = torch.cat([images.mean(dim=-2).flatten(-2), change.mean(dim=-2)], dim=-1)
        return self.linear_2(self.act(self.linear_1(means))).sigmoid().squeeze(-1)


class DifferenceAwareIntegration(nn.Module):
    """The paper's Difference-aware Integration Module, between vision tower and projector."""

    def __init__(self, config: CCExpertConfig):
        super().__init__()
        self.expert = DiffExpert(config)
        self.adjustment = AdaptiveAdjustment(config) if config.integration_gate else None
        # Made at the first use of a grid: a buffer would be lost when the model is built on the meta device.
        self._positions: dict[tuple[int, int, torch.device, torch.dtype], torch.Tensor] = {}

    def positions(self, tokens: int, like: torch.Tensor) -> torch.Tensor:
        """Get the sine table `(tokens, d)` of a square grid, in type and place of `like` `(..., d)`."""
        place = (tokens, like.shape[-1], like.device, like.dtype)
        table = self._positions.get(place)
        if table is None:
            side = math.isqrt(tokens)
            with torch.inference_mode(False), torch.no_grad():  # usable in training too, whoever asked first
                table = sine_positions(side, side, like.shape[-1]).to(like.device, like.dtype)
            self._positions[place] = table
        return table

    def forward(self, levels: torch.Tensor, output_change_features: bool = False) -> IntegrationOutput:
        """Integrate the difference of the dates into both.

        Args:
            levels: `(levels, batch, 2, tokens, d)`, the tower's features; the last level is the one that the module
                adds to.
            output_change_features: combine the change features as well, which the language model does not read.
        """
        number, batch = levels.shape[:2]
        images, change = self.expert(levels.flatten(0, 1), self.positions(levels.shape[-2], levels))
        images = images.unflatten(0, (number, batch))
        change = change.unflatten(0, (number, batch))
        gates = levels.new_ones(number, batch) if self.adjustment is None else self.adjustment(images, change)
        weights = (gates / (gates.sum(dim=0) + 1e-6)).to(images.dtype)  # the two differ under autocast
        return IntegrationOutput(
            images=_weighted_sum(images, weights) + levels[-1],
            change_features=_weighted_sum(change, weights) if output_change_features else None,
            gates=gates.transpose(0, 1),
        )


def _beside(images: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """Put the change beside each image: `(rows, 2, tokens, d)`, `(rows, tokens, d)` to `(rows * 2, 2 * tokens, d)`."""
    return torch.cat([images, change[:, None].expand_as(images)], dim=2).flatten(0, 1)


def _weighted_sum(features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum `(levels, batch, ...)` by weights `(levels, batch)` to `(batch, ...)`, without a copy of all levels."""
    shape = (-1,) + (1,) * (features.dim() - 2)
    total = features[0] * weights[0].view(shape)
    for level, weight in zip(features[1:], weights[1:], strict=True):
        total = torch.addcmul(total, level, weight.view(shape))
    return total


__all__ = [
    "AdaptiveAdjustment",
    "ChangeAwareTransformerLayer",
    "ChangeFeatureInit",
    "DiffExpert",
    "DifferenceAwareIntegration",
    "IntegrationOutput",
    "sine_positions",
]
