"""MModalCC's encoder: two Siamese ResNets and the feature enhancement module (arXiv 2501.10075, section III).

Built from the paper's equations and the facts of the release (github.com/ChangeCapsInRS/SecondCC, no licence stated
for code or weights); no code is copied. The ResNets are transformers' (Apache-2.0).

Layout: streams are modalities (0 RGB, 1 semantic), dates are before (0) and after (1). Maps of all streams and dates
are one tensor `(batch, streams, 2, cells, d)`, cells row-major, so that generation can repeat it along dimension 0.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import ResNetModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import ModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_mmodalcc import MModalCCConfig, filled


@dataclass
class MModalCCEncoderOutput(ModelOutput):
    """What the decoder reads, and on request the maps on the way to it.

    Attributes:
        last_hidden_state: memory `(batch, streams, cells, 2 * d_model)`; stream 0 is X_rgb, stream 1 X_sem.
        hidden_states: with `output_hidden_states`, `num_stages + 1` maps `(batch, streams, 2, cells, d_model)`: the
            position-embedded features, then each stage's o1..o4.
        attentions: with `output_attentions`, for each stage the weights of CMCA (absent for RGB alone) and of UDCA,
            each `(batch, streams, 2, heads, cells, cells)`.
        rgb_features: with `output_hidden_states`, the pooled ResNet maps `(batch, 2, channels, grid, grid)`.
        semantic_features: the same of the semantic maps; zeros for pairs without maps; `None` where no pair has any.
    """

    last_hidden_state: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    rgb_features: torch.Tensor | None = None
    semantic_features: torch.Tensor | None = None


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
    """Attend by the definition, which also gives the weights.

    Args:
        module: The attention, of which only whether it is training matters.
        query: `(batch, heads, queries, head_dim)`.
        key: `(batch, heads, cells, head_dim)`.
        value: As `key`.
        attention_mask: Added to the scores, or `None`.
        scaling: Of the scores.
        dropout: Share of weights that are left out in training.
        **kwargs: Of transformers' interface; unused.

    Returns:
        Output `(batch, queries, heads, head_dim)` and weights `(batch, heads, queries, cells)` (dropped out as used).
    """
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def init_as(*modules: nn.Module, **how: float | bool) -> None:
    """Tell `_init_weights` how to start layers, by attributes of theirs.

    transformers asks custom models for leaves only, so a layer must know by itself what part it plays.

    Args:
        *modules: linear layers, convolutions or embeddings.
        **how: `xavier_gain` (Xavier uniform), `uniform_bound` (uniform), `normal_std` (normal), `zero_bias`; torch's
            defaults otherwise.
    """
    for module in modules:
        for name, value in how.items():
            setattr(module, name, value)


class MModalCCAttention(nn.Module):
    """Multi-head attention with dropout on the weights, for encoder and decoder.

    Args:
        config: of the model; gives the dropout and the attention implementation.
        embed_dim: width of queries and output.
        num_heads: a divisor of `embed_dim`.
        memory_dim: width of what is attended to.
        is_causal: whether a query sees only its past.
    """

    def __init__(
        self, config: MModalCCConfig, embed_dim: int, num_heads: int, memory_dim: int, is_causal: bool = False
    ):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.scaling = self.head_dim**-0.5
        self.dropout = config.attention_dropout
        self.is_causal = is_causal
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.k_proj = nn.Linear(memory_dim, embed_dim)
        self.v_proj = nn.Linear(memory_dim, embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        # torch keeps queries, keys and values as one (3 * width, width) matrix and draws for that shape
        init_as(self.q_proj, self.k_proj, self.v_proj, xavier_gain=math.sqrt(0.5), zero_bias=True)
        init_as(self.out_proj, zero_bias=True)

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """Split `(batch, length, width)` into `(batch, heads, length, head_dim)`."""
        return states.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def keys_values(self, memory: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute keys and values `(batch, heads, cells, head_dim)` of a memory `(batch, cells, memory_dim)`."""
        return self.split_heads(self.k_proj(memory)), self.split_heads(self.v_proj(memory))

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
        rows: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend.

        Args:
            query: projected and split, `(batch, heads, queries, head_dim)`.
            key: the same with `cells`.
            value: as `key`.
            attention_mask: added to the scores, or `None`.
            output_attentions: give the weights; only the eager implementation has them, so this call then uses it.
            rows: `(n,)`, which of the `batch * queries` answers are wanted; `None` is all of them.

        Returns:
            Output `(batch, queries, embed_dim)`, or `(n, embed_dim)` of `rows`, and weights
            `(batch, heads, queries, cells)` or `None`.
        """
        implementation = "eager" if output_attentions else self.config._attn_implementation
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
            is_causal=self.is_causal,
        )
        output = output.flatten(2)
        if rows is not None:
            output = output.flatten(0, 1).index_select(0, rows)
        return self.out_proj(output), weights if output_attentions else None


class CrossAttentionModule(nn.Module):
    """The paper's Cross Attention Module, `CA(q, kv)`: attention and a feed-forward net, both post-norm."""

    def __init__(self, config: MModalCCConfig):
        super().__init__()
        self.attention = MModalCCAttention(config, config.d_model, config.encoder_attention_heads, config.d_model)
        self.attention_norm = nn.LayerNorm(config.d_model, eps=1e-5)
        self.linear1 = nn.Linear(config.d_model, filled(config.encoder_ffn_dim))
        self.linear2 = nn.Linear(filled(config.encoder_ffn_dim), config.d_model)
        self.output_norm = nn.LayerNorm(config.d_model, eps=1e-5)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, query: torch.Tensor, memory: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Let `query` `(n, queries, d)` attend to `memory` `(n, cells, d)`: the new query, and weights or `None`."""
        key, value = self.attention.keys_values(memory)
        states = self.attention.split_heads(self.attention.q_proj(query))
        attended, weights = self.attention(states, key, value, output_attentions=output_attentions)
        states = self.attention_norm(query + self.dropout(attended))
        inner = self.dropout(nn.functional.relu(self.linear1(states)))
        return self.output_norm(states + self.dropout(self.linear2(inner))), weights


class CrossModalCrossAttention(nn.Module):
    """CMCA: each date of a modality attends to the same date of the other one. It has no weights of its own."""

    def forward(
        self, maps: torch.Tensor, attend: CrossAttentionModule, output_attentions: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute r1..r4 from f1..f4, both `(batch, streams, 2, cells, d)`, with the weights that the stage shares."""
        other = maps.flip(1)
        states, weights = attend(maps.flatten(0, 2), other.flatten(0, 2), output_attentions)
        if weights is not None:
            weights = weights.unflatten(0, maps.shape[:3])
        return states.view_as(maps), weights


class UnimodalDifferenceCrossAttention(nn.Module):
    """UDCA: both dates of a modality attend to its difference, after minus before. It has no weights of its own."""

    def forward(
        self, maps: torch.Tensor, difference: torch.Tensor, attend: CrossAttentionModule, output_attentions: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute o1..o4 from r1..r4 `(batch, streams, 2, cells, d)` and differences `(batch, streams, cells, d)`."""
        batch, streams, _, cells, _ = maps.shape
        # both dates ask the same keys, which are so made once: (batch * streams, 2 * cells, d)
        states, weights = attend(maps.flatten(2, 3).flatten(0, 1), difference.flatten(0, 1), output_attentions)
        if weights is not None:  # (batch * streams, heads, 2 * cells, cells)
            weights = weights.unflatten(2, (2, cells)).transpose(1, 2).unflatten(0, (batch, streams))
        return states.view_as(maps), weights


class FeatureEnhancementStage(GradientCheckpointingLayer):
    """One stage: CMCA, then UDCA, eight calls that share one set of weights.

    It holds no batch normalisation, so that gradient checkpointing may run it twice.
    """

    def __init__(self, config: MModalCCConfig):
        super().__init__()
        self.cross_attention = CrossAttentionModule(config)
        self.cmca = CrossModalCrossAttention() if config.num_streams > 1 else None
        self.udca = UnimodalDifferenceCrossAttention()

    def forward(
        self, maps: torch.Tensor, output_attentions: bool = False
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Compute o1..o4 from f1..f4, `(batch, streams, 2, cells, d)`, and the weights asked for."""
        difference = maps[:, :, 1] - maps[:, :, 0]  # of the stage's inputs, not of CMCA's results
        attentions: tuple[torch.Tensor | None, ...] = ()
        states = maps
        if self.cmca is not None:
            states, weights = self.cmca(states, self.cross_attention, output_attentions)
            attentions += (weights,)
        states, weights = self.udca(states, difference, self.cross_attention, output_attentions)
        attentions += (weights,)
        return states, tuple(weights for weights in attentions if weights is not None)


class ConvolutionalBlock(nn.Module):
    """CB: a bottleneck of convolutions (with bias) around an identity, on maps of `2 * d` channels."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2 * width, width, kernel_size=1),
            nn.BatchNorm2d(width, eps=1e-5),
            nn.ReLU(),
            nn.Conv2d(width, width, kernel_size=3, padding=1),
            nn.BatchNorm2d(width, eps=1e-5),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, kernel_size=1),
            nn.BatchNorm2d(2 * width, eps=1e-5),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Transform `(n, cells, 2 * d)` to the same shape; the cells are a square grid."""
        side = math.isqrt(maps.shape[1])
        # channels last already: the transposed view costs no copy
        grid = maps.transpose(1, 2).unflatten(2, (side, side))
        return nn.functional.relu(self.layers(grid) + grid).flatten(2).transpose(1, 2)


class FeatureEnhancement(nn.Module):
    """Projections, position embedding, stages and convolutional blocks: ResNet maps in, memory out."""

    rgb_projection: nn.Conv2d
    semantic_projection: nn.Conv2d

    def __init__(self, config: MModalCCConfig):
        super().__init__()
        self.stacked = config.feature_enhancement == "stacked"
        self.grid_size = config.grid_size
        self.num_streams = config.num_streams
        for name, backbone in config.backbone_configs.items():
            setattr(
                self,
                f"{name}_projection",
                nn.Conv2d(list(backbone.hidden_sizes or ())[-1], config.d_model, kernel_size=1),
            )
        if config.semantics_optional:
            self.missing_semantic = nn.Parameter(torch.empty(config.d_model))
        self.w_embedding = nn.Embedding(config.grid_size, config.d_model // 2)
        self.h_embedding = nn.Embedding(config.grid_size, config.d_model // 2)
        self.stages = nn.ModuleList(FeatureEnhancementStage(config) for _ in range(config.num_stages))
        self.blocks = nn.ModuleList(ConvolutionalBlock(config.d_model) for _ in range(config.num_stages))
        self.norms = nn.ModuleList(nn.LayerNorm(2 * config.d_model, eps=1e-5) for _ in range(config.num_stages))
        if config.position_embedding_std is not None:
            init_as(self.w_embedding, self.h_embedding, normal_std=config.position_embedding_std)
        for module in self.modules():  # the release: Xavier on every matrix, kernel and embedding in here
            if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding) and not hasattr(module, "xavier_gain"):
                init_as(module, xavier_gain=1.0)

    def position_embedding(self, device: torch.device) -> torch.Tensor:
        """Build `(cells, d)`, row-major: for cell (y, x) `concat(w_embedding[x], h_embedding[y])`."""
        side = self.grid_size
        places = torch.arange(side, device=device)
        # by calls: for them accelerate fetches weights that lie elsewhere
        columns = self.w_embedding(places)[None, :, :].expand(side, side, -1)
        rows = self.h_embedding(places)[:, None, :].expand(side, side, -1)
        return torch.cat([columns, rows], dim=-1).flatten(0, 1)

    def project(self, features: torch.Tensor, projection: nn.Conv2d) -> torch.Tensor:
        """Project ResNet maps `(batch, 2, channels, grid, grid)` to cells `(batch, 2, cells, d)`."""
        return projection(features.flatten(0, 1)).flatten(2).transpose(1, 2).unflatten(0, (-1, 2))

    def convolve(self, block: nn.Module, maps: torch.Tensor) -> torch.Tensor:
        """Run a CB over `(batch, streams, cells, 2 * d)`."""
        if self.training:  # batch statistics are those of one stream
            return torch.stack([block(maps[:, stream]) for stream in range(maps.shape[1])], dim=1)
        return block(maps.flatten(0, 1)).view_as(maps)

    def fill_semantic(
        self, rgb: torch.Tensor, semantic: torch.Tensor | None, present: torch.Tensor | None
    ) -> torch.Tensor:
        """Fill the cells of the semantic stream, shaped as those of `rgb`: learned ones where a pair has no maps."""
        if present is None and semantic is not None:
            return semantic
        missing = self.missing_semantic.to(rgb.dtype).expand_as(rgb)
        return missing if semantic is None else missing.index_put((present,), semantic.to(rgb.dtype))

    def forward(
        self,
        rgb: torch.Tensor,
        semantic: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> MModalCCEncoderOutput:
        """Turn projected maps into the memory `(batch, streams, cells, 2 * d)`.

        Args:
            rgb: `(batch, 2, cells, d)`.
            semantic: the same of the pairs that have semantic maps; `None` where none has any.
            present: bool `(batch,)`, which pairs have them; `None` for all.
            output_attentions: give attention weights.
            output_hidden_states: give what goes from stage to stage.
        """
        streams = [rgb] if self.num_streams == 1 else [rgb, self.fill_semantic(rgb, semantic, present)]
        features = torch.stack(streams, dim=1) + self.position_embedding(rgb.device)
        hidden_states: tuple[torch.Tensor, ...] = (features,)
        attentions: tuple[torch.Tensor, ...] = ()
        memory: torch.Tensor | None = None
        states = features
        for stage, block, norm in zip(self.stages, self.blocks, self.norms, strict=True):
            states, weights = stage(states if self.stacked else features, output_attentions)
            hidden_states += (states,)
            attentions += weights
            joined = states.transpose(2, 3).flatten(3)  # (batch, streams, cells, 2 * d): before, then after
            memory = joined if memory is None else memory + joined
            memory = norm(self.convolve(block, memory))
        return MModalCCEncoderOutput(
            last_hidden_state=memory,
            hidden_states=hidden_states if output_hidden_states else None,
            attentions=attentions if output_attentions else None,
        )


class MModalCCBackbone(ResNetModel):
    """A ResNet that ends where the configuration cuts it.

    transformers asks every model inside of another whether it knows the attention wanted; a ResNet has none to switch.
    """

    _supports_sdpa = True


class MModalCCEncoder(nn.Module):
    """Both ResNets and the feature enhancement: what `get_encoder()` gives, run once a pair by `generate`."""

    main_input_name = "pixel_values"
    rgb_backbone: MModalCCBackbone
    semantic_backbone: MModalCCBackbone

    def __init__(self, config: MModalCCConfig):
        super().__init__()
        self.config = config
        for name, backbone in config.backbone_configs.items():
            setattr(self, f"{name}_backbone", MModalCCBackbone(backbone))
        self.pool = nn.AdaptiveAvgPool2d(config.grid_size)
        self.enhancement = FeatureEnhancement(config)

    def extract(self, backbone: ResNetModel, images: torch.Tensor) -> torch.Tensor:
        """Extract pooled ResNet maps `(batch, 2, channels, grid, grid)` of `(batch, 2, channels, height, width)`."""
        images = images.to(backbone.dtype)
        if self.training:  # batch statistics are those of one date
            maps = [backbone(laid_out(images[:, date])).last_hidden_state for date in range(2)]
            return torch.stack([self.pool(date) for date in maps], dim=1)
        return self.pool(backbone(laid_out(images.flatten(0, 1))).last_hidden_state).unflatten(0, (-1, 2))

    def forward(
        self,
        pixel_values: torch.Tensor,
        semantic_values: torch.Tensor | None = None,
        semantic_present: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MModalCCEncoderOutput:
        """Encode pairs.

        Args:
            pixel_values: `(batch, 2, channels, height, width)`, `[:, 0]` before and `[:, 1]` after.
            semantic_values: maps of the same layout. Where `semantic_present` is false they are never read.
            semantic_present: bool `(batch,)`, which pairs have maps; `None` is all of them, or, without
                `semantic_values`, none.
            output_attentions: give the attention weights of the enhancement.
            output_hidden_states: give the maps on the way.
            return_dict: a `MModalCCEncoderOutput`, unless false: then a tuple.

        Raises:
            ValueError: wrong shape; maps missing where the model needs them; maps given to a model of RGB alone.
        """
        check_pairs(pixel_values, "pixel_values", self.config.backbone_configs["rgb"].num_channels)
        present = self.present_maps(pixel_values, semantic_values, semantic_present)
        rgb_features = self.extract(self.rgb_backbone, pixel_values)
        tokens = self.enhancement.project(rgb_features, self.enhancement.rgb_projection)
        semantic_tokens, semantic_features = None, None
        if semantic_values is not None and (present is None or bool(present.any())):
            # the encoder sees the pairs with maps only: what fills the others reaches neither result nor statistics
            given = semantic_values if present is None else semantic_values[present]
            semantic_features = self.extract(self.semantic_backbone, given)
            semantic_tokens = self.enhancement.project(semantic_features, self.enhancement.semantic_projection)
        output = self.enhancement(
            tokens, semantic_tokens, present, bool(output_attentions), bool(output_hidden_states)
        )
        if output_hidden_states:
            if semantic_features is not None and present is not None:
                whole = semantic_features.new_zeros(len(present), *semantic_features.shape[1:])
                whole[present] = semantic_features
                semantic_features = whole
            output.rgb_features, output.semantic_features = rgb_features, semantic_features
        return output if return_dict is not False else output.to_tuple()

    def present_maps(
        self,
        pixel_values: torch.Tensor,
        semantic_values: torch.Tensor | None,
        semantic_present: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Tell which pairs have maps: bool `(batch,)`, `None` for all; raise where the model cannot do without."""
        if self.config.num_streams == 1:
            if semantic_values is not None:
                raise ValueError(
                    "semantic_values were given to a model of RGB alone (modalities='rgb'); leave them out."
                )
            return None
        batch = pixel_values.shape[0]
        if semantic_present is not None:
            if semantic_present.shape != (batch,):
                raise ValueError(
                    f"semantic_present has shape {tuple(semantic_present.shape)}; it must be ({batch},), one a pair."
                )
            marked = semantic_present.to(device=pixel_values.device, dtype=torch.bool)
            present = None if bool(marked.all()) else marked
        elif semantic_values is None:
            present = torch.zeros(batch, dtype=torch.bool, device=pixel_values.device)
        else:
            present = None
        if present is not None and not self.config.semantics_optional:
            raise ValueError(
                "semantic_values are missing for at least one pair; give maps for every pair, "
                "or use a model with semantics_optional=True."
            )
        if semantic_values is None:
            if present is None or bool(present.any()):
                raise ValueError("semantic_present marks pairs with maps, but semantic_values is missing; give both.")
            return present
        check_pairs(semantic_values, "semantic_values", self.config.backbone_configs["semantic"].num_channels, batch)
        return present


def laid_out(images: torch.Tensor) -> torch.Tensor:
    """Lay `images` `(n, channels, height, width)` out as their device convolves fastest.

    On CPUs with AVX-512 that is channels last, which every layer hands on: a training step of a small ResNet takes a
    third less than with planes (max pooling and batch normalisation gain most). With AVX2 alone the backward pass of
    oneDNN's channels-last convolutions of a tiny ResNet wrote beyond its memory (torch 2.13), so planes stay there.
    """
    wide = images.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return images.contiguous(memory_format=torch.channels_last) if wide else images


def check_pairs(values: torch.Tensor, name: str, channels: int, batch: int | None = None) -> None:
    """Raise a `ValueError` unless `values` is `(batch, 2, channels, height, width)`."""
    if values.dim() != 5 or values.shape[1] != 2 or values.shape[2] != channels:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; it must be (batch, 2, {channels}, height, width), "
            "before then after."
        )
    if batch is not None and values.shape[0] != batch:
        raise ValueError(f"{name} has {values.shape[0]} pairs and pixel_values has {batch}; give one for each pair.")
