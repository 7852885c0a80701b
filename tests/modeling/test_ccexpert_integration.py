"""The Difference-aware Integration Module against its equations, written out a level and a head at a time."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from rscc_hf.modeling import CCExpertConfig
from rscc_hf.modeling.modeling_ccexpert_integration import DifferenceAwareIntegration, sine_positions

Make = Callable[..., CCExpertConfig]


def plain_positions(side: int, channels: int) -> torch.Tensor:
    """The formula of one number, for every number."""
    half, rows = channels // 2, []
    for y in range(1, side + 1):
        for x in range(1, side + 1):
            row = []
            for place in (y, x):
                angle = (place - 0.5) / (side + 1e-6) * 2 * math.pi
                for j in range(half):
                    turned = angle / 10000 ** (2 * (j // 2) / half)
                    row.append(math.sin(turned) if j % 2 == 0 else math.cos(turned))
            rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def attend(attention: nn.Module, heads: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Multi-head attention, `(tokens, d)` each."""
    q, k, v = attention.q_proj(q), attention.k_proj(k), attention.v_proj(v)
    size = q.shape[-1] // heads
    outputs = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        outputs.append((q[:, part] @ k[:, part].T / math.sqrt(size)).softmax(-1) @ v[:, part])
    return attention.out_proj(torch.cat(outputs, dim=-1))


def plain_module(
    module: DifferenceAwareIntegration, config: CCExpertConfig, levels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The paper's equations for one pair, `(levels, 2, tokens, d)`: images, change features, gates."""
    heads = config.integration_attention_heads
    pe = plain_positions(math.isqrt(levels.shape[2]), levels.shape[3])
    init = module.expert.change_feature_init
    refined, gates = [], []
    for level in levels:
        a, b = level
        q = None
        for layer in module.expert.layers:
            a_ = a * torch.sigmoid(init.linear_mapping(torch.cat([a, b], -1)))
            b_ = b * torch.sigmoid(init.linear_mapping(torch.cat([b, a], -1)))
            d0 = init.proj(torch.cat([a_, b_, a_ - b_], -1))
            q = d0 if q is None else q + d0
            q = layer.norm1(q + attend(layer.change_self_attention, heads, q + pe, q + pe, q))
            ea, eb, ec = pe + layer.before_flag, pe + layer.after_flag, pe + layer.change_flag
            keys = torch.cat([a + ea, b + eb, q + ec])
            q = layer.norm2(q + attend(layer.change_to_images, heads, q + ec, keys, torch.cat([a, b, q])))
            q = layer.norm3(q + layer.mlp(q))
            a, b = (
                image + e + attend(
                    layer.images_to_change, heads, image + e, torch.cat([image + e, q + ec]), torch.cat([image, q])
                )
                for image, e in ((a, ea), (b, eb))
            )  # fmt: skip
        gate = torch.ones(1, dtype=torch.float64)
        if module.adjustment is not None:
            mean = torch.cat([a.mean(0), b.mean(0), q.mean(0)])
            hidden = nn.functional.gelu(module.adjustment.linear_1(mean))
            gate = torch.sigmoid(module.adjustment.linear_2(hidden))
        refined.append((a, b, q))
        gates.append(gate)
    total = sum(gates) + 1e-6
    a, b, q = (sum(g * row[i] for g, row in zip(gates, refined, strict=True)) / total for i in range(3))
    return torch.stack([a + levels[-1][0], b + levels[-1][1]]), q, torch.cat(gates)


def make_module(config: CCExpertConfig) -> DifferenceAwareIntegration:
    torch.manual_seed(0)
    module = DifferenceAwareIntegration(config).eval().double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "changes", [{}, {"num_integration_layers": 1}, {"num_integration_layers": 3}, {"gate": False}]
)
def test_equations(make_ccexpert_config: Make, changes: dict, attention: str) -> None:
    changes = {f"integration_{name}" if name == "gate" else name: value for name, value in changes.items()}
    config = make_ccexpert_config(**changes)
    config._attn_implementation = attention
    module = make_module(config)
    levels = torch.randn(3, 2, 2, 16, 32, dtype=torch.float64)
    with torch.no_grad():
        output = module(levels, True)
        for pair in range(2):
            images, change, gates = plain_module(module, config, levels[:, pair])
            torch.testing.assert_close(output.images[pair], images, atol=1e-8, rtol=1e-8)
            torch.testing.assert_close(output.change_features[pair], change, atol=1e-8, rtol=1e-8)
            torch.testing.assert_close(output.gates[pair], gates)
    assert (output.gates.min() < 1) == config.integration_gate


def test_change_features_are_made_on_request_only(make_ccexpert_config: Make) -> None:
    module = make_module(make_ccexpert_config())
    levels = torch.randn(3, 2, 2, 16, 32, dtype=torch.float64)
    assert module(levels).change_features is None
    assert module(levels, True).change_features.shape == (2, 16, 32)


def test_the_dates_are_told_apart(make_ccexpert_config: Make) -> None:
    module = make_module(make_ccexpert_config())
    levels = torch.randn(3, 1, 2, 16, 32, dtype=torch.float64)
    one, other = module(levels, True), module(levels.flip(2), True)
    assert (one.change_features - other.change_features).abs().max() > 1e-2
    assert (one.images - other.images.flip(1)).abs().max() > 1e-2


@pytest.mark.parametrize("side", [1, 4, 5])
def test_positions(side: int) -> None:
    torch.testing.assert_close(sine_positions(side, side, 24), plain_positions(side, 24))


def test_positions_are_made_once_a_grid(make_ccexpert_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    calls = []
    home = sys.modules[DifferenceAwareIntegration.__module__]

    def counted(*args: object) -> torch.Tensor:
        calls.append(args[:3])
        return sine_positions(*args)

    monkeypatch.setattr(home, "sine_positions", counted)
    module = make_module(make_ccexpert_config())
    with torch.inference_mode():
        first = module(torch.ones(3, 1, 2, 16, 32, dtype=torch.float64)).images
    second = module(torch.ones(3, 1, 2, 16, 32, dtype=torch.float64)).images
    second.sum().backward()  # though inference made the table
    torch.testing.assert_close(first.clone(), second)
    module(torch.randn(3, 1, 2, 25, 32, dtype=torch.float64))
    module(torch.randn(3, 2, 2, 16, 32, dtype=torch.float64))
    assert calls == [(4, 4, 32), (5, 5, 32)]
    assert not [name for name, _ in module.named_buffers()]


def test_a_table_survives_the_meta_device(make_ccexpert_config: Make) -> None:
    config = make_ccexpert_config()
    real = make_module(config)
    with torch.device("meta"):
        module = DifferenceAwareIntegration(config)
    module.load_state_dict(real.state_dict(), assign=True)
    levels = torch.randn(3, 1, 2, 16, 32, dtype=torch.float64)
    assert torch.equal(module.eval()(levels).images, real(levels).images)
