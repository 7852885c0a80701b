"""Processor of CCExpert: pairs of images and questions in, model inputs and labels out; generated ids to captions.

Prompt and labels: arXiv 2411.11360 and its release, github.com/Meize0729/CCExpert, Apache-2.0; nothing is copied.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from transformers.image_processing_base import BatchFeature
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.processing_utils import ProcessorMixin

# All are named here so that they travel with this file: transformers 5.6 copies from a local checkpoint what the file
# itself imports, and not (as 5.23 does) what those files import in turn.
from .change_pair import Pair as Pair
from .change_pair_files import open_page as open_page
from .change_pair_images import PairError as PairError
from .change_pair_reader import PairReader as PairReader
from .change_pair_values import reading_settings as reading_settings
from .change_pair_web import read_address as read_address
from .change_pair_writer import CaptionWriter as CaptionWriter
from .chat_templates_ccexpert import (
    CHAT_TEMPLATES,
    CHATML_TEMPLATE,
    IMAGE_TOKEN,
    PAPER_PROMPT,
    SYSTEM_MESSAGE,
    TURN_END,
    TURN_START,
    VICUNA_SYSTEM_MESSAGE,
    has_token,
)
from .chat_templates_ccexpert import prepare_tokenizer as prepare_tokenizer
from .image_processing_ccexpert import CCExpertImageProcessor as CCExpertImageProcessor
from .image_processing_pairs import PairImageProcessor as PairImageProcessor
from .pipeline_change_captioning import ChangeCaptioningPipeline as ChangeCaptioningPipeline
from .prompt_writing_ccexpert import PromptWriting
from .token_rows_ccexpert import LABEL_POLICIES, pad_rows


class CCExpertProcessor(PromptWriting, ProcessorMixin):
    """`CCExpertImageProcessor` and the tokenizer of the language model, in one.

    What the chat template writes is what is tokenised: the tokenizer adds no special tokens of its own.

    Args:
        image_processor: A `CCExpertImageProcessor`.
        tokenizer: A fast tokenizer that knows `<image>` and the template's marks; see `prepare_tokenizer`.
        chat_template: "chatml", "vicuna" (LLaVA-1.5), or a Jinja template of your own with `{% generation %}` around
            what the assistant says. None: ChatML where the tokenizer has its marks, else Vicuna.
        prompt: What is asked where `text` is not given, with one `<image>` for each date.
        system_message: Opens every conversation that does not open with one of its own; empty or None: none.
        num_image_tokens: Tokens of one image in the language model, 729 for 384x384 and patches of 14.
        label_policy: What is learnt. "assistant": the assistant's words and their closing mark. "release": as the
            authors' code: the assistant's whole turns, and every `<|im_start|>`, `<|im_end|>` and newline of the rest.

    Raises:
        ValueError: A setting is wrong, or the tokenizer lacks a token.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        chat_template: str | dict[str, str] | None = None,
        prompt: str = PAPER_PROMPT,
        system_message: str | None = SYSTEM_MESSAGE,
        num_image_tokens: int = 729,
        label_policy: str = "assistant",
    ):
        if label_policy not in LABEL_POLICIES:
            raise ValueError(f"label_policy is {label_policy!r}; there are {' and '.join(LABEL_POLICIES)}.")
        if not isinstance(prompt, str) or prompt.count(IMAGE_TOKEN) != 2:
            raise ValueError(f"prompt is {prompt!r}; it must have exactly two {IMAGE_TOKEN}, before and after.")
        if isinstance(num_image_tokens, bool) or not isinstance(num_image_tokens, int) or num_image_tokens < 1:
            raise ValueError(f"num_image_tokens is {num_image_tokens!r}; give the number of tokens of one image.")
        has_marks = has_token(tokenizer, TURN_START) and has_token(tokenizer, TURN_END)
        if chat_template is None:
            chat_template = "chatml" if has_marks else "vicuna"
        if isinstance(chat_template, str):
            chat_template = CHAT_TEMPLATES.get(chat_template, chat_template)
        if not has_token(tokenizer, IMAGE_TOKEN):
            raise ValueError(f"the tokenizer has no {IMAGE_TOKEN}; prepare_tokenizer adds it.")
        if not has_marks and (chat_template == CHATML_TEMPLATE or label_policy == "release"):
            raise ValueError(f"the tokenizer has no {TURN_START} or no {TURN_END}; prepare_tokenizer adds them.")
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.prompt = prompt
        self.system_message = system_message
        self.num_image_tokens = num_image_tokens
        self.label_policy = label_policy
        # the names that transformers' own machinery for placeholders asks for
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self._header_of: tuple[Any, str, list[int]] | None = None

    @classmethod
    def for_config(cls, config: Any, tokenizer: Any, **settings: Any) -> "CCExpertProcessor":
        """Make the processor of a new model: sizes, statistics and template as its tower and language model want them.

        Args:
            config: A `CCExpertConfig`.
            tokenizer: The language model's; see `prepare_tokenizer`.
            **settings: Of the processor (`prompt`, `label_policy`, ...), where they differ from the defaults.

        Raises:
            ValueError: The tokenizer and the configuration do not fit.
        """
        vision, text = config.vision_config, config.text_config
        is_clip = vision.model_type.startswith("clip")
        statistics = {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD} if is_clip else {}
        images: Any = CCExpertImageProcessor  # its settings are keywords that no signature lists
        side = vision.image_size
        if not (has_token(tokenizer, TURN_START) and has_token(tokenizer, TURN_END)):
            settings.setdefault("system_message", VICUNA_SYSTEM_MESSAGE)
        settings.setdefault("num_image_tokens", (side // vision.patch_size) ** 2)
        made = cls(images(size={"height": side, "width": side}, **statistics), tokenizer, **settings)
        if made.image_token_id != config.image_token_id:
            raise ValueError(
                f"the tokenizer has {IMAGE_TOKEN} at {made.image_token_id} and the configuration has image_token_id "
                f"{config.image_token_id}; set it to the tokenizer's."
            )
        marks = [mark for mark in (TURN_START, TURN_END, tokenizer.eos_token) if mark and has_token(tokenizer, mark)]
        highest = max(tokenizer.convert_tokens_to_ids(marks), default=0)
        if highest >= text.vocab_size:
            raise ValueError(
                f"the tokenizer's marks go up to {highest} and the language model has {text.vocab_size} words; resize "
                "its embeddings to the tokenizer's length first."
            )
        return made

    @property
    def model_input_names(self) -> list[str]:
        """Return names of the tensors that the processor makes for generation."""
        return ["pixel_values", "input_ids", "attention_mask"]

    def __call__(  # type: ignore[override]  # the mixin's videos and audio make no sense here
        self,
        images: Any = None,
        text: str | Sequence[str | None] | None = None,
        captions: str | Sequence[str] | None = None,
        *,
        pair_ids: Sequence[str] | None = None,
        padding: bool | str = True,
        padding_side: str | None = None,
        truncation: bool | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        add_special_tokens: bool = False,
        return_tensors: str | None = "pt",
        return_notes: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare a batch of pairs with their questions, for generation or, with captions, for training.

        Args:
            images: List of pairs `[before, after]` (paths, addresses, bytes, PIL, numpy, torch), or one pair, or an
                array (batch, 2, C, H, W). Without images the ids alone are made.
            text: What is asked: one text for all pairs, or one for each (None: the prompt). A text with two
                `<image>` is a prompt of its own. A text with none is a question, asked in place of the prompt's after
                what the prompt says of the images. A text that `apply_chat_template` has written is taken as it is.
            captions: The answer of each pair: the batch gets labels.
            pair_ids: Names of the pairs in errors and notes.
            padding: True or "longest", "max_length", or False.
            padding_side: "left" or "right"; left without and right with captions where not given.
            truncation: Whether sequences are cut at `max_length`; where not given, whenever that is given. Only words
                after the images can be cut, and never a prompt that an answer is to be generated for.
            max_length: Longest sequence in tokens, those of the images included.
            pad_to_multiple_of: Sequences are padded to a multiple of this.
            add_special_tokens: Whether the tokenizer adds its own; the templates here write all there are.
            return_tensors: "pt", "np", or None (arrays and lists).
            return_notes: Adds `notes`: what there is to say of how the pairs were read.
            **kwargs: Settings of the image processor for this call; `allow_web=True` fetches https addresses.

        Returns:
            `pixel_values` (batch, 2, 3, H, W) float32, `input_ids` and `attention_mask` (batch, T), and with captions
            `labels` (batch, T): the ids that are learnt, -100 elsewhere. They are not shifted: the model does that.

        Raises:
            PairError: A pair, its question or its caption cannot be used; it names the pair.
            ValueError: Nothing was given, or the numbers of pairs, texts, captions and ids differ.
        """
        if images is None and text is None and captions is None:
            raise ValueError("give images, text, or both.")
        if isinstance(pair_ids, str):
            raise ValueError("pair_ids is one string; give a list with one for each pair.")
        # generators are read once, and columns of tables have no truth value
        pair_ids = None if pair_ids is None else list(pair_ids)
        text = text if text is None or isinstance(text, str) else list(text)
        data: dict[str, Any] = {}
        count: int | None = None
        if images is not None:
            data.update(
                self.image_processor(
                    images, pair_ids=pair_ids, return_notes=return_notes, return_tensors=return_tensors, **kwargs
                )
            )
            count = len(data["pixel_values"])
        answers = None if captions is None else [captions] if isinstance(captions, str) else list(captions)
        if count is None:
            count = len(answers) if answers is not None else 1 if isinstance(text, str) else len(text or ())
        if answers is not None and len(answers) != count:
            raise ValueError(f"{len(answers)} captions are given for {count} pairs; give one for each.")
        questions = [text] * count if text is None or isinstance(text, str) else list(text)
        if len(questions) != count or count == 0:
            raise ValueError(f"{len(questions)} texts are given for {count} pairs; give one for all or one for each.")
        names: list[str | int] = list(range(count)) if pair_ids is None else list(pair_ids)
        if len(names) != count:
            raise ValueError(f"pair_ids has {len(names)} ids for {count} pairs; give one for each.")

        texts, spans = self._write(questions, answers, names)
        rows = self._encode(texts, spans, names, truncation, max_length, add_special_tokens)
        data |= pad_rows(
            rows,
            pad=self.tokenizer.pad_token_id,
            side=padding_side or ("left" if answers is None else "right"),
            padding=padding,
            max_length=max_length,
            multiple=pad_to_multiple_of,
            labels=answers is not None,
            masks=False,
        )
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["notes"])

    def apply_chat_template(  # type: ignore[override]  # narrower: what is passed on is in kwargs
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
        return_assistant_tokens_mask: bool = False,
        return_labels: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write conversations of any number of turns, and turn them into model inputs with `tokenize=True`.

        Args:
            conversation: A list of messages `{"role": ..., "content": ...}`, or a list of such lists. Content is a
                string (`<image>` where an image goes) or a list of `{"type": "text", "text": ...}` and
                `{"type": "image", "image": ...}`; two images a conversation, before first. The processor's system
                message is put in front where there is none.
            chat_template: Another template, or the name of one; None: the processor's.
            add_generation_prompt: Whether the assistant's header is written at the end.
            tokenize: Whether model inputs are made instead of text.
            return_dict: With `tokenize`: all inputs instead of `input_ids` alone.
            return_tensors: As for `__call__`.
            return_assistant_tokens_mask: With `tokenize`: `assistant_masks` (batch, T), 1 on what the assistant says
                and its closing mark.
            return_labels: With `tokenize`: `labels` (batch, T) as `label_policy` says. Implies `return_dict`.
            processor_kwargs: Arguments of `__call__`: `padding_side`, `max_length`, settings of images, and `images`
                where the conversations hold none. Sequences are padded on the right where labels or masks are asked
                for, else on the left.
            **kwargs: The same, or variables of the template.

        Returns:
            A string, or a list of them; with `tokenize` ids or a `BatchFeature`, always of a batch.

        Raises:
            PairError: A conversation has not exactly two images, or they cannot be used.
        """
        conversations, batched = self._complete(conversation)
        if not tokenize:
            written = super().apply_chat_template(
                conversations, chat_template, add_generation_prompt=add_generation_prompt, **kwargs
            )
            return written if batched else written[0]
        options = {**(processor_kwargs or {})}
        for name in [name for name in kwargs if name in _CALL_OPTIONS]:
            options[name] = kwargs.pop(name)
        want_spans = return_assistant_tokens_mask or return_labels
        texts, spans = self._render(
            conversations,
            chat_template,
            want_spans,
            add_generation_prompt=add_generation_prompt,
            **kwargs,
        )
        images = options.pop("images", None)
        found = [_images_of(messages) for messages in conversations]
        if images is None and any(found):
            images = found
        names = _names(options, len(texts))
        encoding = {name: options.pop(name, None) for name in ("truncation", "max_length")}
        options_of_padding = {
            name: options.pop(name, None) for name in ("padding", "padding_side", "pad_to_multiple_of")
        }
        rows = self._encode(
            texts, spans, names, **encoding, add_special_tokens=options.pop("add_special_tokens", False)
        )
        data: dict[str, Any] = {}
        if images is not None:
            data.update(self.image_processor(images, return_tensors=return_tensors, **options))
            if len(data["pixel_values"]) != len(texts):
                raise ValueError(
                    f"{len(data['pixel_values'])} pairs are given for {len(texts)} conversations; give one for each."
                )
        data |= pad_rows(
            rows,
            pad=self.tokenizer.pad_token_id,
            side=options_of_padding["padding_side"] or ("right" if want_spans else "left"),
            padding=True if options_of_padding["padding"] is None else options_of_padding["padding"],
            max_length=encoding["max_length"],
            multiple=options_of_padding["pad_to_multiple_of"],
            labels=return_labels,
            masks=return_assistant_tokens_mask,
        )
        batch = BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["notes"])
        return batch if return_dict or return_labels else batch["input_ids"]

    def batch_decode(self, sequences: Any, *args: Any, skip_prompt: bool = True, **kwargs: Any) -> list[str]:
        """Turn the ids of a batch into text; see `decode`."""
        return [self.decode(sequence, *args, skip_prompt=skip_prompt, **kwargs) for sequence in sequences]

    def decode(self, token_ids: Any, *args: Any, skip_prompt: bool = True, **kwargs: Any) -> Any:
        """Turn ids into text.

        Args:
            token_ids: What `generate` gave, or labels (negative ids are left out); of a batch: a list is returned.
            *args: For the tokenizer.
            skip_prompt: Everything through the last assistant header is left out, and spaces around the rest.
            **kwargs: For the tokenizer: `skip_special_tokens=True` drops the marks.
        """
        ids: Any = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if isinstance(ids, Sequence) and ids and not isinstance(ids[0], Integral):
            return self.batch_decode(ids, *args, skip_prompt=skip_prompt, **kwargs)
        given: list[Any] = [ids] if isinstance(ids, Integral) else list(ids)
        ids = [number for number in given if number >= 0]
        if not skip_prompt:
            return self.tokenizer.decode(ids, *args, **kwargs)
        _, header = self._header()
        starts = range(len(ids) - len(header), -1, -1) if header else ()
        last = next((start for start in starts if ids[start : start + len(header)] == header), None)
        answer = ids if last is None else ids[last + len(header) :]
        return self.tokenizer.decode(answer, *args, **kwargs).strip()


# arguments of a call that `apply_chat_template` takes as its own, so that they do not go to the template
_CALL_OPTIONS = (
    *("images", "pair_ids", "padding", "padding_side", "truncation", "max_length", "pad_to_multiple_of"),
    *("add_special_tokens", "return_notes", "allow_web"),
)


def _names(options: dict[str, Any], count: int) -> list[str | int]:
    """Return the names of `count` conversations, made a list in `options` where they are there."""
    given = options.get("pair_ids")
    if given is None:
        return list(range(count))
    options["pair_ids"] = names = [] if isinstance(given, str) else list(given)
    if len(names) != count:
        raise ValueError(f"pair_ids has {len(names)} ids for {count} conversations; give a list with one for each.")
    return names


def _images_of(messages: list[dict[str, Any]]) -> list[Any]:
    parts = [part for message in messages for part in message["content"] if part["type"] == "image"]
    return [part[key] for part in parts for key in ("image", "url", "path") if key in part]


CCExpertProcessor.register_for_auto_class("AutoProcessor")
