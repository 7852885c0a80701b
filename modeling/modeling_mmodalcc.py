"""MModalCC: multimodal change captioning from RGB pairs and their semantic maps.

Paper: arXiv 2501.10075 (JSTARS 2025, DOI 10.1109/JSTARS.2025.3600613). Original repository:
github.com/ChangeCapsInRS/SecondCC (no licence stated for code or weights). This implementation is Apache-2.0 and built
from the paper's equations; no code is copied.
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedModel, ResNetModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput

from .checkpoint_code import StandaloneCheckpoint
from .configuration_mmodalcc import MModalCCConfig, filled
from .modeling_mmodalcc_decoder import MModalCCDecoder, NeededWords
from .modeling_mmodalcc_encoder import FeatureEnhancement, MModalCCEncoder, MModalCCEncoderOutput, init_as

FROZEN_IN_RELEASE = ("stem", "layer1")


@dataclass
class MModalCCOutput(ModelOutput):
    """What `forward` gives.

    Attributes:
        loss: with `labels`, a scalar.
        logits: `(batch, words, vocab_size)`; in training with `labels` zeros behind the last target of a row, where
            no word is decoded.
        past_key_values: with `use_cache`, for the next words.
        decoder_hidden_states: with `output_hidden_states`, embedded words and each layer's result.
        decoder_attentions: with `output_attentions`, a layer, `(batch, heads, words, past + words)`.
        cross_attentions: with `output_attentions`, a layer, `(batch, streams, heads, words, cells)`: stream 0 is RGB,
            1 semantic; cells of the grid row-major.
        gates: with `output_gates`, a layer, `(batch, words, streams + 1, decoder_hidden_size)` in (0, 1): RGB,
            semantic (absent for RGB alone), word.
        encoder_last_hidden_state: memory `(pairs, streams, cells, 2 * d_model)`.
        encoder_hidden_states: with `output_hidden_states`, see `MModalCCEncoderOutput.hidden_states`.
        encoder_attentions: with `output_attentions`, see `MModalCCEncoderOutput.attentions`.
        rgb_features: with `output_hidden_states`, pooled ResNet maps `(pairs, 2, channels, grid, grid)`.
        semantic_features: the same of the semantic maps, or `None` where no pair has any.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: EncoderDecoderCache | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    gates: tuple[torch.Tensor, ...] | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_attentions: tuple[torch.Tensor, ...] | None = None
    rgb_features: torch.Tensor | None = None
    semantic_features: torch.Tensor | None = None


@dataclass
class MModalCCExplanation(ModelOutput):
    """What `explain` gives, for `rows` captions of `words` generated tokens.

    Attributes:
        tokens: `(rows, words)`, the captions without `<start>`.
        mask: bool `(rows, words)`, true up to and including `<end>`; the rest is padding.
        log_probs: `(rows, words)`, of each token given those before it; at most 0.
        gates: `(rows, layers, words, streams + 1)` in (0, 1), the mean over channels: RGB, semantic (absent for RGB
            alone), word.
        attention: `(rows, layers, words, streams, grid, grid)`, the mean over heads; sums to 1 over a grid.
    """

    tokens: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    log_probs: torch.Tensor | None = None
    gates: torch.Tensor | None = None
    attention: torch.Tensor | None = None


def shift_right(labels: torch.Tensor, start: int, pad: int) -> torch.Tensor:
    """Shift targets `w1..wn <end>` `(batch, words)` to decoder inputs `<start> w1..wn`, with `pad` for -100."""
    inputs = torch.full_like(labels, start)
    inputs[:, 1:] = labels[:, :-1]
    return inputs.masked_fill(inputs == -100, pad)


def caption_loss(
    logits: torch.Tensor, labels: torch.Tensor, pad: int, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Cross entropy over the targets that are neither -100 nor `pad`.

    Args:
        logits: `(batch, words, vocab_size)`.
        labels: `(batch, words)`, aligned with the logits.
        pad: id of `<pad>`.
        num_items_in_batch: what the sum is divided by (targets of a whole global batch); `None` is the mean.
    """
    targets = labels.to(logits.device)
    targets = targets.masked_fill(targets == pad, -100)
    total = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
    if num_items_in_batch is None:
        return total / (targets != -100).sum().clamp(min=1)
    if isinstance(num_items_in_batch, torch.Tensor):
        num_items_in_batch = num_items_in_batch.to(total.device)
    return total / num_items_in_batch


class MModalCCPreTrainedModel(StandaloneCheckpoint, PreTrainedModel):
    """Initialisation and what transformers wants to know of the family."""

    config: MModalCCConfig
    config_class = MModalCCConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    # their streams meet inside, so each lies on one device; it is small, and `device_map="auto"` would spread it
    _no_split_modules = ["MModalCCEncoder", "MModalCCDecoder"]  # noqa: RUF012
    # the words, and the gates: sigmoids that weigh whole streams
    full_precision_modules: ClassVar[list[str]] = ["lm_head", "rgb_gate", "semantic_gate", "word_gate"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Start as the release: Xavier in the enhancement, U(-0.1, 0.1) for words and output, else as torch does."""
        super()._init_weights(module)
        if isinstance(module, FeatureEnhancement) and self.config.semantics_optional:
            init.normal_(module.missing_semantic, std=0.02)
        if not isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
            return
        gain, bound = getattr(module, "xavier_gain", None), getattr(module, "uniform_bound", None)
        std = getattr(module, "normal_std", None)
        if std is not None:
            init.normal_(module.weight, std=std)
        elif gain is not None:
            init.xavier_uniform_(module.weight, gain=gain)
        elif bound is not None:
            init.uniform_(module.weight, -bound, bound)
        else:
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        bias = getattr(module, "bias", None)
        if isinstance(bias, torch.Tensor) and getattr(module, "zero_bias", False):
            init.zeros_(bias)
        elif isinstance(bias, torch.Tensor):
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(bias, -bound, bound)


class MModalCCForConditionalGeneration(MModalCCPreTrainedModel, GenerationMixin):
    """The captioning model, which is also what `AutoModel` gives.

    A pair is one tensor `(batch, 2, channels, height, width)`, before then after.

    Example:
        ```python
        inputs = processor(images=[[before, after]], semantic_maps=[[map_before, map_after]], return_tensors="pt")
        captions = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
        ```
    """

    accepts_loss_kwargs = True  # transformers.Trainer then passes num_items_in_batch

    def __init__(self, config: MModalCCConfig):
        super().__init__(config)
        self.encoder = MModalCCEncoder(config)
        self.decoder = MModalCCDecoder(config)
        self.lm_head = nn.Linear(filled(config.decoder_hidden_size), config.vocab_size)
        init_as(self.lm_head, uniform_bound=0.1, zero_bias=True)
        self.dropout = nn.Dropout(config.dropout)
        self._frozen_statistics: tuple[nn.Module, ...] = ()
        # The release's decoding: four beams, scored by the plain sum of log-probabilities, searched to the end.
        self.generation_config.update(
            max_new_tokens=config.max_caption_length, num_beams=4, length_penalty=0.0, early_stopping="never"
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embedding."""
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embedding."""
        self.decoder.embed_tokens = cast(nn.Embedding, value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the output projection, which is not tied to the word embedding."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output projection."""
        self.lm_head = new_embeddings

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Make decoder inputs of targets, as `DataCollatorForSeq2Seq(model=...)` asks for.

        With them in the batch, a loss that is computed outside of the model (label smoothing of transformers'
        Trainer, a `compute_loss_func`) sees logits aligned with its labels.

        Args:
            labels: `(batch, words)`, `w1..wn <end>`, padded with -100.

        Returns:
            `(batch, words)`: `<start> w1..wn`, `<pad>` where the labels are -100.
        """
        return shift_right(labels, filled(self.config.decoder_start_token_id), filled(self.config.pad_token_id))

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        semantic_values: torch.Tensor | None = None,
        semantic_present: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        encoder_outputs: MModalCCEncoderOutput | tuple[torch.Tensor, ...] | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        output_gates: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> MModalCCOutput | tuple[Any, ...]:
        """Score captions.

        Args:
            pixel_values: `(batch, 2, channels, height, width)`, normalised as the processor does.
            semantic_values: semantic maps of the same layout; see `semantic_present`.
            semantic_present: bool `(batch,)`, which pairs have maps; `None` is all of them, or, without
                `semantic_values`, none. Pairs without maps need `semantics_optional`; whatever fills their
                `semantic_values` is never read.
            decoder_input_ids: `(batch, words)`, `<start> w1..wn`; made from `labels` when absent.
            decoder_attention_mask: `(batch, past + words)`, 0 at padding; padding on the right needs none.
            labels: `(batch, words)`, `w1..wn <end>`; -100 and `<pad>` are no targets.
            encoder_outputs: what `get_encoder()` gave, in place of the images.
            past_key_values: of the words before `decoder_input_ids`.
            use_cache: give `past_key_values`; by default neither in training nor with `labels`.
            output_attentions: give attention weights, by eager attention for this call.
            output_hidden_states: give maps and states on the way.
            output_gates: give the decoder's gates.
            num_items_in_batch: what the summed loss is divided by; `None` is the number of this call's targets.
            logits_to_keep: only the last so many words get logits; 0 is all.
            return_dict: a `MModalCCOutput`, unless false: then a tuple.

        Raises:
            ValueError: neither images nor `encoder_outputs`, neither words nor labels, a wrong shape, or maps missing
                where the model needs them.
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = (
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        start, pad = filled(self.config.decoder_start_token_id), filled(self.config.pad_token_id)
        from_labels = decoder_input_ids is None
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError(
                    "decoder_input_ids and labels are both missing (transformers' Trainer keeps the labels to itself "
                    "with label_smoothing_factor or compute_loss_func); give one of them, or make decoder_input_ids "
                    "of the labels with prepare_decoder_input_ids_from_labels."
                )
            decoder_input_ids = shift_right(labels, start, pad)
        if encoder_outputs is None:
            if pixel_values is None:
                raise ValueError("pixel_values and encoder_outputs are both missing; give one of them.")
            encoder_outputs = self.encoder(
                pixel_values,
                semantic_values,
                semantic_present,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
            )
        encoded = dict(encoder_outputs) if isinstance(encoder_outputs, Mapping) else {}
        memory = encoded["last_hidden_state"] if encoded else encoder_outputs[0]
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training and labels is None
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))

        needed = None
        if self.training and labels is not None and from_labels and len(labels) % len(memory) == 0:
            given = (decoder_attention_mask, past_key_values)
            asked = output_attentions or output_hidden_states or output_gates or logits_to_keep
            if not asked and all(item is None for item in given):
                targets = (labels != -100) & (labels != pad)
                needed = NeededWords.up_to_last(targets.to(memory.device), memory.shape[0])

        decoded = self.decoder(
            decoder_input_ids,
            memory,
            attention_mask=decoder_attention_mask,
            past_key_values=past_key_values,
            output_attentions=bool(output_attentions),
            output_hidden_states=bool(output_hidden_states),
            output_gates=bool(output_gates),
            needed=needed,
        )
        states = decoded.last_hidden_state
        if logits_to_keep:
            states = states[:, -logits_to_keep:]
        logits = self.lm_head(self.dropout(states))
        loss = None
        if labels is not None and needed is not None:
            targets = needed.take(labels.to(logits.device))
            loss = caption_loss(logits[None], targets[None], pad, num_items_in_batch)
            logits = needed.spread(logits)
        elif labels is not None:
            loss = caption_loss(logits, labels, pad, num_items_in_batch)
        output = MModalCCOutput(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values if use_cache else None,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
            gates=decoded.gates,
            encoder_last_hidden_state=memory,
            encoder_hidden_states=encoded.get("hidden_states"),
            encoder_attentions=encoded.get("attentions"),
            rgb_features=encoded.get("rgb_features"),
            semantic_features=encoded.get("semantic_features"),
        )
        return output if return_dict else output.to_tuple()

    # --- generation -------------------------------------------------------------------------------------------------

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.LongTensor, dict[str, Any]]:
        """Repeat words for beams, but not the memory: the decoder lets all beams of a pair ask the same keys."""
        encoder_outputs = model_kwargs.pop("encoder_outputs", None)
        for name in ("pixel_values", "semantic_values", "semantic_present"):  # encoded by now
            model_kwargs.pop(name, None)
        input_ids, model_kwargs = super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size=expand_size, is_encoder_decoder=False, input_ids=input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, "encoder_outputs": encoder_outputs}

    def _reorder_cache(self, past_key_values: EncoderDecoderCache, beam_idx: torch.LongTensor) -> EncoderDecoderCache:
        """Follow the beams; keys and values of the memory stay, since a beam never changes its pair."""
        past_key_values.self_attention_cache.reorder_cache(beam_idx)
        return past_key_values

    @torch.no_grad()
    def explain(self, inputs: Mapping[str, torch.Tensor], sequences: torch.Tensor) -> MModalCCExplanation:
        """Explain captions: gates and attention of every generated token, by one pass over the finished captions.

        Args:
            inputs: what the processor gave (`pixel_values`, and `semantic_values` with `semantic_present`), or
                `encoder_outputs`.
            sequences: what `generate` gave for them, `(rows, 1 + words)`, from `<start>`; `rows` is the number of
                pairs or, with `num_return_sequences`, a multiple of it.

        Raises:
            ValueError: a caption does not begin with `<start>`, or is empty.
        """
        start = filled(self.config.decoder_start_token_id)
        if sequences.shape[1] < 2 or bool(sequences[:, 0].ne(start).any()):
            raise ValueError(
                "sequences must be (rows, 1 + words), each beginning with <start>, as generate gives them."
            )
        names = ("pixel_values", "semantic_values", "semantic_present", "encoder_outputs")
        training = self.training
        self.eval()
        try:
            output = self(
                **{name: inputs[name] for name in names if name in inputs},
                decoder_input_ids=sequences[:, :-1],
                output_attentions=True,
                output_gates=True,
                use_cache=False,
                return_dict=True,
            )
        finally:
            self.train(training)
        tokens = sequences[:, 1:]
        ends = self.config.eos_token_id if isinstance(self.config.eos_token_id, list) else [self.config.eos_token_id]
        ended = torch.isin(tokens, torch.tensor(ends, device=tokens.device)).long()
        side = self.config.grid_size
        attention = torch.stack(output.cross_attentions, dim=1).float().mean(dim=3)  # heads
        return MModalCCExplanation(
            tokens=tokens,
            mask=ended.cumsum(dim=1) - ended == 0,
            log_probs=output.logits.float().log_softmax(-1).gather(2, tokens[:, :, None]).squeeze(2),
            gates=torch.stack(output.gates, dim=1).float().mean(dim=-1),
            # (rows, layers, streams, words, cells) -> (rows, layers, words, streams, grid, grid)
            attention=attention.transpose(2, 3).unflatten(-1, (side, side)),
        )

    # --- backbones --------------------------------------------------------------------------------------------------

    def backbones(self) -> dict[str, ResNetModel]:
        """Return the ResNets by the name of their stream."""
        return {name: getattr(self.encoder, f"{name}_backbone") for name in self.config.stream_names}

    def freeze_backbone(
        self,
        stages: Iterable[str] = FROZEN_IN_RELEASE,
        streams: Iterable[str] | None = None,
        freeze_statistics: bool = False,
    ) -> None:
        """Stop training parts of the ResNets; a later call adds to it.

        Args:
            stages: among `stem`, `layer1`, ... up to the last kept one. The release freezes the first two.
            streams: among `rgb`, `semantic`; `None` is all of the model's.
            freeze_statistics: also keep the batch-norm statistics of these stages, so that they behave as in eval
                mode (the release lets them go on).

        Raises:
            ValueError: an unknown stage or stream.
        """
        backbones = self.backbones()
        known = ("stem", *(f"layer{index + 1}" for index in range(self.config.backbone_stages)))
        stages, streams = tuple(stages), tuple(backbones if streams is None else streams)
        for name, choices in ((stages, known), (streams, tuple(backbones))):
            unknown = [item for item in name if item not in choices]
            if unknown:
                raise ValueError(f"{unknown[0]!r} cannot be frozen; choose among {', '.join(choices)}.")
        for stream in streams:
            backbone = backbones[stream]
            parts: dict[str, nn.Module] = {"stem": backbone.embedder}
            parts |= {f"layer{index + 1}": stage for index, stage in enumerate(backbone.encoder.stages)}
            for stage in stages:
                parts[stage].requires_grad_(False)
                if freeze_statistics:
                    self._frozen_statistics += tuple(
                        module for module in parts[stage].modules() if isinstance(module, nn.BatchNorm2d)
                    )
        self.train(self.training)

    def train(self, mode: bool = True) -> "MModalCCForConditionalGeneration":
        """Switch dropout and batch statistics on or off; frozen statistics stay off."""
        super().train(mode)
        for module in self._frozen_statistics:
            module.eval()
        return self


def load_backbone_weights(
    model: MModalCCForConditionalGeneration,
    rgb: str | os.PathLike | None = None,
    semantic: str | os.PathLike | None = None,
    **kwargs: Any,
) -> None:
    """Start the ResNets from weights of transformers' ResNet format, say ImageNet's.

    Only the stages up to the model's cut are taken.

    Args:
        model: whose backbones are filled in place.
        rgb: repository or folder for the RGB stream; `None` leaves it as it is.
        semantic: the same for the semantic stream.
        **kwargs: for `ResNetModel.from_pretrained` (`revision`, `cache_dir`, ...).

    Raises:
        ValueError: the weights are incomplete or of another kind of ResNet.
    """
    backbones = model.backbones()
    for stream, path in (("rgb", rgb), ("semantic", semantic)):
        if path is None:
            continue
        if stream not in backbones:
            raise ValueError(f"This model has no {stream} stream (modalities='rgb'); leave out {path}.")
        loaded: Any = ResNetModel.from_pretrained(path, output_loading_info=True, **kwargs)
        source, info = loaded
        _fill(backbones[stream], source, info, stream, os.fspath(path))


def _fill(target: ResNetModel, source: ResNetModel, info: Mapping[str, Any], stream: str, path: str) -> None:
    """Copy the kept stages of `source` into `target`, or raise and leave `target` as it was."""
    for name in ("layer_type", "hidden_act", "downsample_in_first_stage", "downsample_in_bottleneck"):
        ours, theirs = getattr(target.config, name), getattr(source.config, name)
        if ours != theirs:
            raise ValueError(
                f"{path} has {name}={theirs!r}, the {stream} backbone has {ours!r}; use a matching ResNet."
            )
    kept = target.state_dict()
    if incomplete := sorted(set(info["missing_keys"]) & set(kept)):
        raise ValueError(
            f"{path} lacks {len(incomplete)} weights of the {stream} backbone, first {incomplete[0]}; "
            "use a whole ResNet."
        )
    weights = source.state_dict()
    deeper = tuple(
        f"encoder.stages.{index}." for index in range(len(target.encoder.stages), len(source.encoder.stages))
    )
    if unexpected := sorted(name for name in set(weights) - set(kept) if not name.startswith(deeper)):
        raise ValueError(
            f"{path} has {len(unexpected)} weights that the {stream} backbone lacks, first {unexpected[0]}; "
            "use a ResNet of the same depths."
        )
    for name, value in kept.items():
        if name not in weights:
            raise ValueError(f"{path} lacks {name} of the {stream} backbone; use a ResNet of the same depths.")
        if weights[name].shape != value.shape:
            raise ValueError(
                f"{path} has {name} of shape {tuple(weights[name].shape)}, the {stream} backbone has "
                f"{tuple(value.shape)}; use a ResNet of the same widths and number of channels."
            )
    target.load_state_dict({name: weights[name] for name in kept})


MModalCCConfig.register_for_auto_class()
MModalCCForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = [
    "MModalCCConfig",
    "MModalCCEncoderOutput",
    "MModalCCExplanation",
    "MModalCCForConditionalGeneration",
    "MModalCCOutput",
    "MModalCCPreTrainedModel",
    "load_backbone_weights",
]
