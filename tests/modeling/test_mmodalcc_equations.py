"""The model against the paper's equations, written out call by call."""

from collections.abc import Callable

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from rscc_hf.modeling import MModalCCConfig, MModalCCForConditionalGeneration
from rscc_hf.modeling.modeling_mmodalcc_decoder import sinusoidal_positions

Make = Callable[..., MModalCCForConditionalGeneration]
Inputs = Callable[..., dict[str, torch.Tensor]]


def test_full_size_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        model = MModalCCForConditionalGeneration(MModalCCConfig())
    assert model.config.vocab_size == 500
    assert sum(parameter.numel() for parameter in model.parameters()) == 92_331_636


@torch.no_grad()
@pytest.mark.parametrize("enhancement", ["stacked", "parallel"])
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_feature_enhancement(make_model: Make, make_inputs: Inputs, enhancement: str, stages: int) -> None:
    model = make_model(feature_enhancement=enhancement, num_stages=stages)
    output = model.get_encoder()(**make_inputs(), output_hidden_states=True)
    module = model.encoder.enhancement
    first = output.hidden_states[0].unflatten(1, (2,)).flatten(1, 2).unbind(1)  # f1, f2 (RGB), f3, f4 (semantic)

    # f: projected features plus concat(w_embedding[x], h_embedding[y]) at the row-major cell of row y, column x
    for index, (features, projection) in enumerate(
        [
            (output.rgb_features[:, 0], module.rgb_projection),
            (output.rgb_features[:, 1], module.rgb_projection),
            (output.semantic_features[:, 0], module.semantic_projection),
            (output.semantic_features[:, 1], module.semantic_projection),
        ]
    ):
        projected = projection(features)
        y, x = 2, 1
        position = torch.cat([module.w_embedding.weight[x], module.h_embedding.weight[y]])
        torch.testing.assert_close(first[index][:, 3 * y + x], projected[:, :, y, x] + position)

    f1, f2, f3, f4 = first
    rgb = semantic = torch.zeros_like(torch.cat([f1, f2], dim=-1))
    for stage, block, norm in zip(module.stages, module.blocks, module.norms, strict=True):

        def ca(query: torch.Tensor, memory: torch.Tensor, part=stage.cross_attention) -> torch.Tensor:
            return part(query, memory)[0]

        r1, r2, r3, r4 = ca(f1, f3), ca(f2, f4), ca(f3, f1), ca(f4, f2)
        o1, o2, o3, o4 = ca(r1, f2 - f1), ca(r2, f2 - f1), ca(r3, f4 - f3), ca(r4, f4 - f3)
        rgb = norm(block(rgb + torch.cat([o1, o2], dim=-1)))
        semantic = norm(block(semantic + torch.cat([o3, o4], dim=-1)))
        if enhancement == "stacked":
            f1, f2, f3, f4 = o1, o2, o3, o4
    torch.testing.assert_close(output.last_hidden_state, torch.stack([rgb, semantic], dim=1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_cross_attention_module(make_model: Make) -> None:
    """CA against torch's own multi-head attention."""
    part = make_model().encoder.enhancement.stages[0].cross_attention
    attention = part.attention
    query, memory = torch.randn(2, 5, 16), torch.randn(2, 9, 16)
    expected, _ = torch.nn.functional.multi_head_attention_forward(
        query.transpose(0, 1),
        memory.transpose(0, 1),
        memory.transpose(0, 1),
        16,
        4,
        torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]),
        torch.cat([attention.q_proj.bias, attention.k_proj.bias, attention.v_proj.bias]),
        None,
        None,
        False,
        0.0,
        attention.out_proj.weight,
        attention.out_proj.bias,
    )
    states = part.attention_norm(query + expected.transpose(0, 1))
    expected = part.output_norm(states + part.linear2(part.linear1(states).relu()))
    torch.testing.assert_close(part(query, memory)[0], expected)


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2])
def test_decoder(make_model: Make, make_inputs: Inputs, layers: int) -> None:
    """MGCA and its layer, with attention taken from the weights that the model reports."""
    model = make_model(decoder_layers=layers)
    words = torch.tensor([[1, 5, 7, 9], [1, 3, 3, 8], [1, 4, 6, 5]])
    output = model(**make_inputs(), decoder_input_ids=words, output_attentions=True, output_gates=True)
    x = model.decoder.embed_tokens(words) + sinusoidal_positions(0, 4, 32)
    for index, layer in enumerate(model.decoder.layers):

        def mha(part, weights: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
            values = part.v_proj(memory).unflatten(-1, (4, 8)).transpose(1, 2)
            return part.out_proj((weights @ values).transpose(1, 2).flatten(2))

        self_weights, cross_weights = output.decoder_attentions[index], output.cross_attentions[index]
        assert torch.equal(self_weights, self_weights.tril())
        memory = output.encoder_last_hidden_state
        s = layer.self_attention_norm(x + mha(layer.self_attention, self_weights, x))
        a = mha(layer.mgca.attention, cross_weights[:, 0], memory[:, 0])
        b = mha(layer.mgca.attention, cross_weights[:, 1], memory[:, 1])
        rgb_gate = layer.mgca.rgb_gate(torch.cat([s, a], dim=-1)).sigmoid()
        semantic_gate = layer.mgca.semantic_gate(torch.cat([s, b], dim=-1)).sigmoid()
        word_gate = layer.mgca.word_gate(s).sigmoid()
        torch.testing.assert_close(output.gates[index], torch.stack([rgb_gate, semantic_gate, word_gate], dim=2))
        v = layer.mgca.norm(a * rgb_gate + b * semantic_gate + s * word_gate)
        x = layer.output_norm(v + layer.linear2(layer.linear1(v).relu()))
    torch.testing.assert_close(output.logits, model.lm_head(x), atol=1e-4, rtol=1e-5)


def test_sine_table() -> None:
    table = sinusoidal_positions(3, 2, 6)
    for row, position in enumerate((3, 4)):
        for pair in range(3):
            angle = torch.tensor(position / 10000 ** (2 * pair / 6))
            torch.testing.assert_close(table[row, 2 * pair : 2 * pair + 2], torch.stack([angle.sin(), angle.cos()]))


@torch.no_grad()
def test_initialisation(make_config: Callable[..., MModalCCConfig]) -> None:
    torch.manual_seed(1)
    model = MModalCCForConditionalGeneration(make_config(d_model=64, vocab_size=200, semantics_optional=True))
    words, output = model.decoder.embed_tokens.weight, model.lm_head.weight
    for weight in (words, output):
        assert 0.095 < weight.abs().max() <= 0.1
    assert not model.lm_head.bias.any()
    stage = model.encoder.enhancement.stages[0].cross_attention
    bounds = {  # Xavier uniform: sqrt(6 / (fan_in + fan_out)); torch's attention packs three matrices into one
        stage.linear1.weight: (6 / (64 + 32)) ** 0.5,
        stage.attention.out_proj.weight: (6 / 128) ** 0.5,
        stage.attention.k_proj.weight: (6 / (64 + 192)) ** 0.5,
        model.encoder.enhancement.blocks[0].layers[3].weight: (6 / (9 * 64 * 2)) ** 0.5,
        model.encoder.enhancement.w_embedding.weight: (6 / (3 + 32)) ** 0.5,
        model.decoder.layers[0].linear1.weight: (1 / 128) ** 0.5,  # torch's default of a linear layer
        model.decoder.layers[0].mgca.attention.v_proj.weight: (6 / (128 + 384)) ** 0.5,
    }
    for weight, bound in bounds.items():
        assert 0.9 * bound < weight.abs().max() <= bound * 1.0001
    assert not stage.attention.out_proj.bias.any()
    assert model.encoder.enhancement.missing_semantic.abs().max() > 0
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@torch.no_grad()
def test_positions_may_start_larger(make_config: Callable[..., MModalCCConfig]) -> None:
    config = make_config(d_model=64, grid_size=16, position_embedding_std=2.0)
    enhancement = MModalCCForConditionalGeneration(config).encoder.enhancement
    for embedding in (enhancement.w_embedding, enhancement.h_embedding):
        assert 1.8 < embedding.weight.std() < 2.2
    assert enhancement.stages[0].cross_attention.linear1.weight.std() < 0.2  # nothing else is touched


@torch.no_grad()
def test_streams_with_channels_of_their_own(make_model: Make) -> None:
    model = make_model(
        rgb_backbone_config={"num_channels": 10, "hidden_sizes": [8, 16], "depths": [1, 1], "embedding_size": 8},
        semantic_backbone_config={"num_channels": 1, "hidden_sizes": [4, 8, 8], "depths": [1, 1, 1]},
        backbone_stages=2,
    )
    assert len(model.encoder.semantic_backbone.encoder.stages) == 2
    inputs = {"pixel_values": torch.rand(2, 2, 10, 40, 24), "semantic_values": torch.rand(2, 2, 1, 32, 32)}
    assert model.get_encoder()(**inputs).last_hidden_state.shape == (2, 2, 9, 32)
    with pytest.raises(ValueError, match=r"semantic_values .*\(batch, 2, 1, height, width\)"):
        model.get_encoder()(pixel_values=inputs["pixel_values"], semantic_values=torch.rand(2, 2, 3, 32, 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modalities": "semantic"}, "choose one of rgb_semantic, rgb"),
        ({"modalities": "rgb", "semantics_optional": True}, "needs modalities='rgb_semantic'"),
        ({"feature_enhancement": "cascaded"}, "choose one of stacked, parallel"),
        ({"num_stages": 0}, "num_stages=0 must be at least 1"),
        ({"encoder_attention_heads": 0}, "encoder_attention_heads=0 must be at least 1"),
        ({"d_model": 18}, "d_model=18 must be a multiple"),
        ({"decoder_attention_heads": 3}, "decoder_hidden_size=32"),
        ({"d_model": 15, "encoder_attention_heads": 3, "decoder_attention_heads": 5}, "must be even"),
        ({"dropout": 1}, r"dropout=1 must be in \[0, 1\)"),
        ({"backbone_stages": 4}, "backbone_stages=4 must be among the stages of each backbone"),
        ({"eos_token_id": 23}, "eos_token_id=23"),
        ({"dropout": "0.5"}, "dropout"),
        ({"position_embedding_std": 0}, "position_embedding_std=0 must be positive"),
    ],
)
def test_wrong_configurations(
    make_config: Callable[..., MModalCCConfig], changes: dict[str, object], message: str
) -> None:
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        make_config(**changes)


def test_defaults_follow_from_few_fields(make_config: Callable[..., MModalCCConfig]) -> None:
    config = make_config(d_model=24, encoder_ffn_dim=None, decoder_ffn_dim=None, dropout=0.3)
    assert (config.encoder_ffn_dim, config.decoder_hidden_size, config.decoder_ffn_dim) == (96, 48, 192)
    assert (config.attention_dropout, config.decoder_start_token_id) == (0.3, 1)
    assert make_config(attention_dropout=0.0).attention_dropout == 0.0
    resnet = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    config = make_config(rgb_backbone_config=resnet, backbone_stages=2)
    assert config.backbone_configs["rgb"].hidden_sizes == [8, 16]
    assert resnet["depths"] == [1, 1, 1, 1]
