"""MModalCC's decoder with multimodal gated cross attention (arXiv 2501.10075, section III).

Built from the paper's equations and the facts of the release (github.com/ChangeCapsInRS/SecondCC, no licence stated
for code or weights); no code is copied.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ModelOutput

from .configuration_mmodalcc import MModalCCConfig, filled
from .modeling_mmodalcc_encoder import MModalCCAttention, init_as


@dataclass
class MModalCCDecoderOutput(ModelOutput):
    """States of the last layer, and on request what was looked at and let through.

    Attributes:
        last_hidden_state: `(batch, words, decoder_hidden_size)`.
        hidden_states: with `output_hidden_states`, the embedded words and every layer's result.
        attentions: with `output_attentions`, self attention a layer, `(batch, heads, words, past + words)`.
        cross_attentions: with `output_attentions`, a layer, `(batch, streams, heads, words, cells)`.
        gates: with `output_gates`, a layer, `(batch, words, streams + 1, decoder_hidden_size)` in (0, 1): RGB,
            semantic (absent for RGB alone), word.
    """

    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    gates: tuple[torch.Tensor, ...] | None = None


def sinusoidal_positions(start: int, length: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Compute rows `start` to `start + length` of the fixed table: sin on even, cos on odd channels, base 10000.

    Computed where it is needed: a buffer made in `__init__` is lost when a model is built on the meta device.

    Returns:
        `(length, width)` float32.
    """
    positions = torch.arange(start, start + length, dtype=torch.float32, device=device)[:, None]
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32, device=device) * (-math.log(10000.0) / width))
    angles = positions * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def causal_mask(
    length: int, past: int, padding: torch.Tensor | None, dtype: torch.dtype, device: torch.device, needed: bool
) -> torch.Tensor | None:
    """Make what is added to the scores of self attention: 0 where a word sees another, else the lowest number.

    Args:
        length: New words.
        past: Words before them.
        padding: `(batch, past + length)`, 0 at padding, or `None`.
        dtype: Of the mask.
        device: Of the mask.
        needed: Whether the attention cannot tell causality by itself (sdpa can, without padding and past).

    Returns:
        `(batch or 1, 1, length, past + length)`, or `None` where every word sees what it may without a mask.
    """
    if padding is None and (length == 1 or not (needed or past)):
        return None
    visible = torch.ones(length, past + length, dtype=torch.bool, device=device).tril(past)[None, None]
    if padding is not None:
        visible = visible & padding.to(device=device, dtype=torch.bool)[:, None, None, :]
    # the lowest finite number: a row without any visible word stays free of NaN
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill(~visible, torch.finfo(dtype).min)


_ROWS_MULTIPLE, _LENGTH_MULTIPLE = 64, 8  # kernels are made anew for every new shape


@dataclass
class NeededWords:
    """The words of padded captions that a loss depends on: those up to the last target of each caption.

    No word sees a later one, so that the padding behind the last target can be left out. Captions of 12 words, padded
    to 32 for the longest of the batch, are then decoded for the cost of 12. The words kept lie side by side, `(n, D)`,
    wherever they are treated one by one, and are laid out for attention only.

    Attributes:
        rows: `(n,)`, places of the words in the flattened `(batch, words)`, ascending.
        shape: batch and words.
        pair_rows: `(n,)`, places in the flattened `(pairs, length)`, where all captions of a pair form one row.
        pair_shape: pairs and length.
    """

    rows: torch.Tensor
    shape: tuple[int, int]
    pair_rows: torch.Tensor
    pair_shape: tuple[int, int]

    @classmethod
    def up_to_last(cls, targets: torch.Tensor, pairs: int) -> "NeededWords":
        """Build it from `targets`, bool `(batch, words)`, with the captions of a pair one after the other.

        A few words of padding are kept as well, where there are any, to make `n` a multiple.
        """
        batch, words = targets.shape
        needed = (targets.flip(1).cumsum(1).flip(1) > 0).flatten()  # cummax of bool is not on every device
        count = -(-int(needed.sum()) // _ROWS_MULTIPLE) * _ROWS_MULTIPLE or _ROWS_MULTIPLE
        rows = needed.long().argsort(descending=True, stable=True)[:count].sort().values
        pair = rows // (batch // pairs * words)
        counts = torch.bincount(pair, minlength=pairs)
        length = -(-int(counts.max()) // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[pair]
        return cls(rows, (batch, words), pair * length + place, (pairs, length))

    def take(self, padded: torch.Tensor) -> torch.Tensor:
        """Take `(n, ...)` out of `(batch, words, ...)`."""
        return padded.flatten(0, 1).index_select(0, self.rows)

    def spread(self, states: torch.Tensor) -> torch.Tensor:
        """Spread `(n, width)` to `(batch, words, width)`, zeros elsewhere."""
        return _spread(states, self.rows, self.shape)

    def spread_by_pair(self, states: torch.Tensor) -> torch.Tensor:
        """Spread `(n, width)` to `(pairs, length, width)`, zeros elsewhere."""
        return _spread(states, self.pair_rows, self.pair_shape)

    def rows_of_streams(self, streams: int) -> torch.Tensor:
        """Find the places `(streams * n,)` of words in the flattened `(pairs, streams, length)`, stream by stream."""
        _, length = self.pair_shape
        first = self.pair_rows + self.pair_rows // length * ((streams - 1) * length)
        return torch.cat([first + stream * length for stream in range(streams)])


def _spread(states: torch.Tensor, rows: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    whole = states.new_zeros(shape[0] * shape[1], states.shape[-1])
    return whole.index_copy_(0, rows, states).view(*shape, -1)


class MultimodalGatedCrossAttention(nn.Module):
    """MGCA: one attention, shared by both modalities, and gates that weigh RGB, semantics and the word itself."""

    def __init__(self, config: MModalCCConfig, layer_idx: int):
        super().__init__()
        width = filled(config.decoder_hidden_size)
        self.layer_idx = layer_idx
        self.attention = MModalCCAttention(config, width, config.decoder_attention_heads, 2 * config.d_model)
        self.rgb_gate = nn.Linear(2 * width, width)
        self.semantic_gate = nn.Linear(2 * width, width) if config.num_streams > 1 else None
        self.word_gate = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.dropout = nn.Dropout(config.dropout)

    def keys_values(
        self, memory: torch.Tensor, past_key_values: EncoderDecoderCache | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Get keys and values `(pairs, streams * heads, cells, head_dim)`: made once a pair, then from the cache."""
        if past_key_values is not None and past_key_values.is_updated.get(self.layer_idx):
            cached: Any = past_key_values.cross_attention_cache.layers[self.layer_idx]
            return cached.keys, cached.values
        key, value = self.attention.keys_values(memory.flatten(0, 1))
        pairs = memory.shape[0]
        key, value = key.unflatten(0, (pairs, -1)).flatten(1, 2), value.unflatten(0, (pairs, -1)).flatten(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.cross_attention_cache.update(key, value, self.layer_idx)
            past_key_values.is_updated[self.layer_idx] = True
        return key, value

    def forward(
        self,
        states: torch.Tensor,
        memory: torch.Tensor,
        past_key_values: EncoderDecoderCache | None = None,
        output_attentions: bool = False,
        output_gates: bool = False,
        needed: NeededWords | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Gate words and what they see.

        Args:
            states: s, `(batch, words, D)`; `batch` is the memory's or, with beams, a multiple of it. With `needed`
                `(n, D)`.
            memory: `(pairs, streams, cells, 2 * d)`.
            past_key_values: where keys and values of the memory are kept.
            output_attentions: give the weights `(batch, streams, heads, words, cells)`.
            output_gates: give the gates `(batch, words, streams + 1, D)`.
            needed: the words that `states` holds; `None` is all of them.

        Returns:
            v, shaped as the states, weights or `None`, gates or `None`.
        """
        key, value = self.keys_values(memory, past_key_values)
        pairs, heads = key.shape[0], self.attention.num_heads
        streams = key.shape[1] // heads
        # All captions (or beams) of a pair ask the same keys, so they are queries of one row:
        # (batch, words, D) -> (pairs, beams * words, D), or (n, D) -> (pairs, length, D)
        query = self.attention.q_proj(states)
        query = query.view(pairs, -1, query.shape[-1]) if needed is None else needed.spread_by_pair(query)
        # both streams get the same query: (pairs * streams, heads, queries, head_dim)
        query = self.attention.split_heads(query)[:, None].expand(-1, streams, -1, -1, -1).flatten(0, 1)
        answers, weights = self.attention(
            query,
            key.unflatten(1, (streams, heads)).flatten(0, 1),
            value.unflatten(1, (streams, heads)).flatten(0, 1),
            output_attentions=output_attentions,
            rows=None if needed is None else needed.rows_of_streams(streams),
        )
        answers = self.dropout(answers)
        if needed is None:
            batch, words, _ = states.shape
            seen = [part.reshape(batch, words, -1) for part in answers.unflatten(0, (pairs, streams)).unbind(1)]
            if weights is not None:  # (pairs * streams, heads, beams * words, cells)
                weights = weights.view(pairs, streams, heads, batch // pairs, words, -1)
                weights = weights.permute(0, 3, 1, 2, 4, 5).flatten(0, 1)
        else:
            seen = list(answers.chunk(streams))

        gates = [torch.sigmoid(self.rgb_gate(torch.cat([states, seen[0]], dim=-1)))]
        if self.semantic_gate is not None:
            gates.append(torch.sigmoid(self.semantic_gate(torch.cat([states, seen[1]], dim=-1))))
        word_gate = torch.sigmoid(self.word_gate(states))
        mixed = states * word_gate
        for stream, gate in zip(seen, gates, strict=True):
            mixed = mixed + stream * gate
        return self.norm(mixed), weights, torch.stack([*gates, word_gate], dim=-2) if output_gates else None


class MModalCCDecoderLayer(GradientCheckpointingLayer):
    """Masked self attention, MGCA and a feed-forward net, all post-norm."""

    def __init__(self, config: MModalCCConfig, layer_idx: int):
        super().__init__()
        width = filled(config.decoder_hidden_size)
        self.layer_idx = layer_idx
        self.self_attention = MModalCCAttention(config, width, config.decoder_attention_heads, width, is_causal=True)
        self.self_attention_norm = nn.LayerNorm(width, eps=1e-5)
        self.mgca = MultimodalGatedCrossAttention(config, layer_idx)
        self.linear1 = nn.Linear(width, filled(config.decoder_ffn_dim))
        self.linear2 = nn.Linear(filled(config.decoder_ffn_dim), width)
        self.output_norm = nn.LayerNorm(width, eps=1e-5)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        states: torch.Tensor,
        memory: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        output_attentions: bool = False,
        output_gates: bool = False,
        needed: NeededWords | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Run the layer.

        Args:
            states: Words `(batch, words, D)`, or the needed ones `(n, D)`.
            memory: What the encoder gives.
            attention_mask: Of self attention, see `causal_mask`.
            past_key_values: Keys and values of earlier words and of the memory.
            output_attentions: Whether the weights of attention are wanted.
            output_gates: Whether the gates are wanted.
            needed: Which words a target depends on, where not all are decoded.

        Returns:
            Words of the same shape, self-attention weights, cross-attention weights, gates; None: not asked for.
        """
        attention, rows = self.self_attention, None
        projected = [layer(states) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
        if needed is not None:
            projected, rows = [needed.spread(part) for part in projected], needed.rows
        query, key, value = (attention.split_heads(part) for part in projected)
        if past_key_values is not None:
            key, value = past_key_values.self_attention_cache.update(key, value, self.layer_idx)
        attended, self_weights = attention(query, key, value, attention_mask, output_attentions, rows)
        states = self.self_attention_norm(states + self.dropout(attended))
        states, cross_weights, gates = self.mgca(
            states, memory, past_key_values, output_attentions, output_gates, needed
        )
        inner = self.dropout(nn.functional.relu(self.linear1(states)))
        states = self.output_norm(states + self.dropout(self.linear2(inner)))
        return states, self_weights, cross_weights, gates


class MModalCCDecoder(nn.Module):
    """Word embedding, sinusoidal positions and decoder layers."""

    def __init__(self, config: MModalCCConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, filled(config.decoder_hidden_size))
        init_as(self.embed_tokens, uniform_bound=0.1)
        self.layers = nn.ModuleList(MModalCCDecoderLayer(config, index) for index in range(config.decoder_layers))
        self.position_dropout = nn.Dropout(config.position_dropout)

    def forward(
        self,
        input_ids: torch.Tensor,
        memory: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        output_gates: bool = False,
        needed: NeededWords | None = None,
    ) -> MModalCCDecoderOutput:
        """Decode words.

        Args:
            input_ids: new words `(batch, words)`.
            memory: `(pairs, streams, cells, 2 * d_model)`; `batch` is a multiple of `pairs`, the beams of a pair side
                by side, as `generate` lays them out.
            attention_mask: `(batch, past + words)`, 0 at padding. Padding on the right needs none.
            past_key_values: keys and values of earlier words and of the memory; grows.
            output_attentions: give attention weights.
            output_hidden_states: give the states between layers.
            output_gates: give the gates.
            needed: the words whose states are wanted, `(n, D)` then; neither with `past_key_values` nor with any of
                the outputs on request.

        Raises:
            ValueError: `batch` is not a multiple of `pairs`.
        """
        batch, words = input_ids.shape
        if batch % memory.shape[0]:
            raise ValueError(
                f"decoder_input_ids has {batch} rows, which is no multiple of the {memory.shape[0]} encoded pairs; "
                "give each pair as many."
            )
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        states = self.embed_tokens(input_ids if needed is None else needed.take(input_ids))
        positions = sinusoidal_positions(past, words, states.shape[-1], states.device)
        if needed is not None:
            positions = positions[needed.rows % words]
        states = self.position_dropout(states + positions.to(states.dtype))
        eager = output_attentions or self.config._attn_implementation != "sdpa"
        mask = causal_mask(words, past, attention_mask, states.dtype, states.device, needed=eager)

        hidden_states: tuple[torch.Tensor, ...] = (states,)
        collected: list[Any] = []
        for layer in self.layers:
            states, *extras = layer(
                states,
                memory,
                attention_mask=mask,
                past_key_values=past_key_values,
                output_attentions=output_attentions,
                output_gates=output_gates,
                needed=needed,
            )
            hidden_states += (states,)
            collected.append(extras)
        self_weights, cross_weights, gates = zip(*collected, strict=True)
        return MModalCCDecoderOutput(
            last_hidden_state=states,
            hidden_states=hidden_states if output_hidden_states else None,
            attentions=self_weights if output_attentions else None,
            cross_attentions=cross_weights if output_attentions else None,
            gates=gates if output_gates else None,
        )
