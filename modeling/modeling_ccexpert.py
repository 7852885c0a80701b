"""CCExpert: change captioning by a vision language model with a Difference-aware Integration Module.

Paper: arXiv 2411.11360. Original repository: github.com/Meize0729/CCExpert (Apache-2.0). This implementation is
Apache-2.0 and built from the paper's equations and the release's behaviour; no code is copied. Vision tower and
language model are transformers' own classes.
"""

import os
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_outputs import ModelOutput

from .checkpoint_code import StandaloneCheckpoint
from .configuration_ccexpert import CCExpertConfig
from .loading_ccexpert import load_llava
from .modeling_ccexpert_integration import ChangeAwareTransformerLayer, DifferenceAwareIntegration

_IMAGE_INPUTS = ("pixel_values", "image_embeds")


@dataclass
class CCExpertImageOutput(ModelOutput):
    """What `get_image_features` gives.

    Attributes:
        image_embeds: `(batch, 2, tokens, text width)`, what takes the places of the placeholders, before then after.
        change_features: with `output_change_features`, the module's combined change features
            `(batch, tokens, vision width)`, cells of the grid row-major; `None` without the module.
        gates: with `output_change_features`, `(batch, levels)` in (0, 1); `None` without the module.
        vision_features: with `output_vision_features`, the tower's features of each level that is read, a level
            `(batch, 2, tokens, vision width)`.
    """

    image_embeds: torch.Tensor | None = None
    change_features: torch.Tensor | None = None
    gates: torch.Tensor | None = None
    vision_features: tuple[torch.Tensor, ...] | None = None


@dataclass
class CCExpertOutput(ModelOutput):
    """What `forward` gives.

    Attributes:
        loss: with `labels`, a scalar.
        logits: `(batch, tokens, vocab_size)`, or of the last tokens alone with `logits_to_keep`; `None` in training
            with `labels`, where only the targets' logits are made.
        past_key_values: with `use_cache`, for the next tokens.
        hidden_states: with `output_hidden_states`, of the language model.
        attentions: with `output_attentions`, of the language model.
        change_features: see `CCExpertImageOutput`.
        gates: see `CCExpertImageOutput`.
        vision_features: see `CCExpertImageOutput`.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    change_features: torch.Tensor | None = None
    gates: torch.Tensor | None = None
    vision_features: tuple[torch.Tensor, ...] | None = None


class CCExpertVisionTower(nn.Module):
    """SigLIP or CLIP, run up to the highest level that is used; nothing above it is built."""

    def __init__(self, config: CCExpertConfig):
        super().__init__()
        self.config = config
        self.model = AutoModel.from_config(config.vision)
        self.model.post_layernorm = nn.Identity()  # comes after the last level; weights without use would be saved

    def forward(self, images: torch.Tensor, levels: list[int]) -> list[torch.Tensor]:
        """Compute the features of some levels.

        Args:
            images: `(n, channels, image_size, image_size)`.
            levels: ascending indices into the hidden states, 0 the embeddings.

        Returns:
            One `(n, tokens, width)` a level, without class token.
        """
        model = self.model
        states = model.embeddings(images)
        if hasattr(model, "pre_layrnorm"):  # CLIP's
            states = model.pre_layrnorm(states)
        extra = states.shape[1] - self.config.tokens_per_image  # CLIP's class token
        kept = [states[:, extra:]] if levels[0] == 0 else []
        for index, layer in enumerate(model.encoder.layers[: levels[-1]], start=1):
            states = layer(states, None)
            if index in levels:
                kept.append(states[:, extra:])
        return [level.to(states.device) for level in kept]  # a tower may lie on several devices


class CCExpertProjector(nn.Module):
    """From the tower's width to the language model's."""

    def __init__(self, config: CCExpertConfig):
        super().__init__()
        width = config.text.hidden_size
        self.linear_1 = nn.Linear(config.vision.hidden_size, width, bias=config.projector_bias)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(width, width, bias=config.projector_bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Project `(..., vision width)` to `(..., text width)`."""
        return self.linear_2(self.act(self.linear_1(features)))


class CCExpertPreTrainedModel(StandaloneCheckpoint, PreTrainedModel):
    """Initialisation and what transformers wants to know of the family."""

    config: CCExpertConfig
    config_class = CCExpertConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _no_split_modules: set[str] | list[str] | None = ["DifferenceAwareIntegration"]  # noqa: RUF012
    # only the language model is large enough to gain, and rounding hides small changes from what comes before it
    full_precision_modules: ClassVar[list[str]] = ["vision_tower", "integration", "projector", "lm_head"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Set torch's defaults for module and projector, small flags; the parts from transformers keep their own."""
        super()._init_weights(module)
        if isinstance(module, ChangeAwareTransformerLayer):
            for flag in (module.before_flag, module.after_flag, module.change_flag):
                init.normal_(flag, std=self.config.initializer_range)
        elif isinstance(module, nn.Linear) and module is not self.get_output_embeddings():
            # what nn.Linear does: U(-1/sqrt(in), 1/sqrt(in)) for weights and biases
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)


class CCExpertForConditionalGeneration(CCExpertPreTrainedModel, GenerationMixin):
    """The captioning model, which is also what `AutoModel` gives.

    A pair is one tensor `(batch, 2, 3, height, width)`, before then after. In `input_ids`, `config.image_token_id`
    holds the places of the image tokens: `config.tokens_per_image` of before's, then as many of after's.

    Attributes:
        vision_tower: SigLIP or CLIP.
        integration: the Difference-aware Integration Module; `None` without it.
        projector: from vision to text width.
        language_model: Qwen2 or Llama without its head.
        lm_head: the output projection, one with the input embedding where `tie_word_embeddings`.

    Example:
        ```python
        inputs = processor(images=[[before, after]], return_tensors="pt")
        captions = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
        ```
    """

    accepts_loss_kwargs = True  # transformers.Trainer then passes num_items_in_batch
    _tied_weights_keys = {"lm_head.weight": "language_model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: CCExpertConfig):
        super().__init__(config)
        config.trim_vision()  # levels may have been assigned after the configuration was made
        self.vision_tower = CCExpertVisionTower(config)
        self.integration = DifferenceAwareIntegration(config) if config.integration else None
        self.projector = CCExpertProjector(config)
        self.language_model = AutoModel.from_config(config.text)
        self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)
        self._set_generation_defaults()
        self.post_init()
        # what the parts must not be split into, as far as this model has it: FSDP refuses names that it cannot find
        parts = (self, self.vision_tower.model, self.language_model)
        names = {name for part in parts for name in part._no_split_modules or ()}
        self._no_split_modules = names & {type(module).__name__ for module in self.modules()}

    def _set_generation_defaults(self) -> None:
        """Leave room for a sentence, and never let a placeholder be among the words."""
        settings = self.generation_config
        end = settings.eos_token_id if settings.eos_token_id is not None else self.config.text.eos_token_id
        start = settings.bos_token_id if settings.bos_token_id is not None else self.config.text.bos_token_id
        pad = settings.pad_token_id if settings.pad_token_id is not None else self.config.text.pad_token_id
        if pad is None:
            pad = end[0] if isinstance(end, list) else end
        settings.update(
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=pad,
            max_new_tokens=256,
            suppress_tokens=[self.config.image_token_id],
        )

    @classmethod
    def from_llava_onevision(cls, path_or_id: str | os.PathLike, **kwargs: Any) -> "CCExpertForConditionalGeneration":
        """Start from a LLaVA-OneVision checkpoint of the transformers format; only the module is new.

        Its `image_newline` is left out, and so are the tower's layers above the highest level. Where the module's
        settings are not given, they are the paper's: levels at 0, 3, 6 and 9 layers below the one that LLaVA reads.

        Args:
            path_or_id: folder or repository, in any of the key namings that transformers has written.
            **kwargs: fields of `CCExpertConfig` (`vision_levels`, `num_integration_layers`, `integration`, ...), or
                all of it as `config`; all else goes to `from_pretrained` (`dtype`, `device_map`, `revision`, ...).

        Raises:
            ValueError: it is another kind of checkpoint, lacks weights, or has some that do not belong; `config` is
                given and fields beside it.
        """
        return load_llava(cls, path_or_id, "llava_onevision", kwargs)

    @classmethod
    def from_llava(cls, path_or_id: str | os.PathLike, **kwargs: Any) -> "CCExpertForConditionalGeneration":
        """Start from a LLaVA-1.5 checkpoint (CLIP and Llama) of the transformers format; only the module is new.

        Args:
            path_or_id: see `from_llava_onevision`.
            **kwargs: see `from_llava_onevision`.

        Raises:
            ValueError: see `from_llava_onevision`.
        """
        return load_llava(cls, path_or_id, "llava", kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embedding."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embedding."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the output projection."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output projection."""
        self.lm_head = new_embeddings

    # --- images -----------------------------------------------------------------------------------------------------

    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        output_change_features: bool = False,
        output_vision_features: bool = False,
    ) -> CCExpertImageOutput:
        """Encode pairs: tower, module, projector.

        Args:
            pixel_values: `(batch, 2, 3, image_size, image_size)`, `[:, 0]` before and `[:, 1]` after, normalised as
                the processor does.
            output_change_features: give the change features and the gates.
            output_vision_features: give the tower's features.

        Raises:
            ValueError: a wrong shape.
        """
        channels, side = self.config.vision.num_channels, self.config.image_size
        if pixel_values.dim() != 5 or tuple(pixel_values.shape[1:]) != (2, channels, side, side):
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; give (batch, 2, {channels}, {side}, {side}), "
                "before and after of each pair."
            )
        features = self.vision_tower(pixel_values.flatten(0, 1), self.config.used_levels)
        levels = torch.stack(features).unflatten(1, (-1, 2))  # (levels, batch, 2, tokens, width)
        del features
        if self.integration is None:
            return CCExpertImageOutput(
                image_embeds=self.projector(levels[-1]),
                vision_features=tuple(levels) if output_vision_features else None,
            )
        integrated = self.integration(levels, output_change_features)
        return CCExpertImageOutput(
            image_embeds=self.projector(integrated.images),
            change_features=integrated.change_features,
            gates=integrated.gates if output_change_features else None,
            vision_features=tuple(levels) if output_vision_features else None,
        )

    def _embed(self, input_ids: torch.Tensor, image_embeds: torch.Tensor | None, fresh: bool) -> torch.Tensor:
        """Embed words `(batch, tokens, width)` and put the images in their places.

        Args:
            input_ids: `(batch, tokens)`.
            image_embeds: `(batch, 2, tokens_per_image, width)`.
            fresh: whether nothing came before these tokens, so that placeholders without images are a mistake.
        """
        places = input_ids == self.config.image_token_id
        embeds = self.get_input_embeddings()(input_ids.masked_fill(places, 0))  # it may be no word of the vocabulary
        if image_embeds is None and not fresh:
            return embeds
        wanted = 0 if image_embeds is None else 2 * self.config.tokens_per_image
        counts = places.sum(dim=1)
        if bool(counts.ne(wanted).any()):
            row = int(counts.ne(wanted).long().argmax())
            raise ValueError(
                f"Row {row} of input_ids has image_token_id={self.config.image_token_id} {int(counts[row])} times and "
                f"needs it {wanted} times ({'without images' if not wanted else 'twice tokens_per_image'}); let the "
                "processor expand exactly two image placeholders."
            )
        if image_embeds is None:
            return embeds
        if image_embeds.shape[0] != input_ids.shape[0]:
            raise ValueError(
                f"There are {image_embeds.shape[0]} pairs of images for {input_ids.shape[0]} rows of input_ids; give "
                "one pair a row."
            )
        places = places[:, :, None].to(embeds.device)
        return embeds.masked_scatter(places, image_embeds.to(embeds.device, embeds.dtype))

    # --- forward ----------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_change_features: bool = False,
        output_vision_features: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CCExpertOutput | tuple[Any, ...]:
        """Read a prompt with its two images.

        Args:
            input_ids: `(batch, tokens)`, with `2 * tokens_per_image` placeholders a row where there are images.
            pixel_values: `(batch, 2, 3, image_size, image_size)`; not needed once the prompt is in
                `past_key_values`.
            attention_mask: `(batch, past + tokens)`, 0 at padding, on either side.
            position_ids: `(batch, tokens)`; by default counted from the first token that is not padding.
            past_key_values: of the tokens before.
            inputs_embeds: in place of `input_ids`, with the images already in it.
            image_embeds: in place of `pixel_values`, what `get_image_features` gave: several questions about a pair
                need one look at it.
            labels: `(batch, tokens)`, aligned with `input_ids`; -100 is no target.
            use_cache: give `past_key_values`; by default neither in training nor with `labels`.
            output_change_features: give the change features and the gates.
            output_vision_features: give the tower's features of each level.
            num_items_in_batch: what the summed loss is divided by; `None` is the number of this call's targets. Only
                with `labels`.
            logits_to_keep: only the last so many tokens (or those of these indices) get logits; 0 is all.
            return_dict: a `CCExpertOutput`, unless false: then a tuple.
            **kwargs: for the language model (`output_attentions`, `output_hidden_states`, ...).

        Raises:
            ValueError: not one of `input_ids` and `inputs_embeds`, both kinds of images, images without `input_ids`,
                a wrong shape, placeholders that do not match the images, or `num_items_in_batch` without `labels`.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if num_items_in_batch is not None and labels is None:
            # transformers' Trainer, about to compare the logits with labels that are not shifted for them
            raise ValueError(
                "A loss is asked for without labels, which transformers' Trainer keeps to itself with "
                "label_smoothing_factor or compute_loss_func; leave both out and let the model compute its loss."
            )
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give exactly one of input_ids and inputs_embeds.")
        if pixel_values is not None and image_embeds is not None:
            raise ValueError("Give pixel_values or image_embeds, not both.")
        images = CCExpertImageOutput(image_embeds=image_embeds)
        if pixel_values is not None:
            images = self.get_image_features(pixel_values, output_change_features, output_vision_features)
        if inputs_embeds is None:
            assert input_ids is not None
            fresh = past_key_values is None or (
                not torch.compiler.is_compiling() and int(past_key_values.get_seq_length()) == 0
            )
            inputs_embeds = self._embed(input_ids, images.image_embeds, fresh)
        elif images.image_embeds is not None:
            raise ValueError("Images need input_ids, whose placeholders say where they go; give these.")
        if position_ids is None and attention_mask is not None and attention_mask.dim() == 2:
            # padding on the left does not count, so that a row means what it means alone
            position_ids = (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -inputs_embeds.shape[1] :]
        if use_cache is None:
            use_cache = bool(self.config.text.use_cache) and not self.training and labels is None
        for name in ("output_attentions", "output_hidden_states"):
            if getattr(self.config, name, False):
                kwargs.setdefault(name, True)

        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        states = outputs.last_hidden_state
        logits, loss = None, None
        if labels is not None:
            loss = self._caption_loss(states, labels, num_items_in_batch)
        if labels is None or not self.training:
            kept = states
            if isinstance(logits_to_keep, torch.Tensor):
                kept = states[:, logits_to_keep]
            elif logits_to_keep:
                kept = states[:, -logits_to_keep:]
            logits = self.lm_head(kept)
        output = CCExpertOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values if use_cache else None,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            change_features=images.change_features,
            gates=images.gates,
            vision_features=images.vision_features,
        )
        return output if return_dict else output.to_tuple()

    def _caption_loss(
        self, states: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Cross entropy of the next tokens that are targets.

        Only targets get logits: of a prompt of 1,500 tokens that is a few dozen rows of 152,000 words.

        Args:
            states: `(batch, tokens, width)`.
            labels: `(batch, tokens)`.
            num_items_in_batch: what the sum is divided by; `None` is the mean.
        """
        targets = labels[:, 1:].to(states.device)
        wanted = targets != -100
        logits = self.lm_head(states[:, :-1][wanted])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = targets[wanted].to(logits.device)
        total = nn.functional.cross_entropy(logits, targets, reduction="sum")
        if num_items_in_batch is None:
            return total / max(1, targets.numel())
        if isinstance(num_items_in_batch, torch.Tensor):
            num_items_in_batch = num_items_in_batch.to(total.device)
        return total / num_items_in_batch

    # --- generation -------------------------------------------------------------------------------------------------

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Hand the images to the step that reads their placeholders, and to no other."""
        parent: Any = super()  # whose annotations are those of another kind of model
        inputs = parent.prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        ids = inputs.get("input_ids")
        if not kwargs.get("use_cache", True):
            return inputs  # every step reads the whole prompt
        if is_first_iteration:
            cached = past_key_values is not None and int(past_key_values.get_seq_length()) > 0
            if not cached or ids is None or bool((ids == self.config.image_token_id).any()):
                return inputs
            # a conversation goes on from a cache that has seen the images
        for name in _IMAGE_INPUTS:
            inputs.pop(name, None)
        return inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Any = None,
        **model_kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Repeat rows for beams and samples; a pair is encoded before that, once, and so without a cache too."""
        pixel_values = model_kwargs.get("pixel_values")
        past = model_kwargs.get("past_key_values")
        cached = past is not None and int(past.get_seq_length()) > 0  # which has seen the images, most likely
        if pixel_values is not None and not cached and model_kwargs.get("image_embeds") is None:
            del model_kwargs["pixel_values"]
            model_kwargs["image_embeds"] = self.get_image_features(pixel_values).image_embeds
        return super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )


CCExpertConfig.register_for_auto_class()
CCExpertForConditionalGeneration.register_for_auto_class("AutoModel")

__all__ = [
    "CCExpertConfig",
    "CCExpertForConditionalGeneration",
    "CCExpertImageOutput",
    "CCExpertOutput",
    "CCExpertPreTrainedModel",
]
