"""Processor of CCExpert: pairs of images and questions in, model inputs and labels out; generated ids to captions.

Prompt and labels: arXiv 2411.11360 and its release, github.com/Meize0729/CCExpert, Apache-2.0; nothing is copied.
"""

import re
from collections.abc import Sequence
from typing import Any

from transformers.image_processing_base import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.utils.chat_template_utils import render_jinja_template

# All are named here so that they travel with this file: transformers 5.6 copies from a local checkpoint what the file
# itself imports, and not (as 5.23 does) what those files import in turn.
from .change_pair_images import PairError as PairError
from .change_pair_reader import PairReader as PairReader
from .chat_templates_ccexpert import (
    CHAT_TEMPLATES,
    CHATML_TEMPLATE,
    IMAGE_TOKEN,
    PAPER_PROMPT,
    SYSTEM_MESSAGE,
    TURN_END,
    TURN_START,
    has_token,
)
from .image_processing_ccexpert import CCExpertImageProcessor as CCExpertImageProcessor
from .token_rows_ccexpert import (
    LABEL_POLICIES,
    Span,
    TokenRow,
    grown_spans,
    learnt,
    overlapping,
    pad_rows,
    whole_turns,
)


class CCExpertProcessor(ProcessorMixin):
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
            raise ValueError(f"label_policy is {label_policy!r}: there are {' and '.join(LABEL_POLICIES)}.")
        if not isinstance(prompt, str) or prompt.count(IMAGE_TOKEN) != 2:
            raise ValueError(f"prompt is {prompt!r}: it must have exactly two {IMAGE_TOKEN}, before and after.")
        if isinstance(num_image_tokens, bool) or not isinstance(num_image_tokens, int) or num_image_tokens < 1:
            raise ValueError(f"num_image_tokens is {num_image_tokens!r}: give the number of tokens of one image.")
        has_marks = has_token(tokenizer, TURN_START) and has_token(tokenizer, TURN_END)
        if chat_template is None:
            chat_template = "chatml" if has_marks else "vicuna"
        if isinstance(chat_template, str):
            chat_template = CHAT_TEMPLATES.get(chat_template, chat_template)
        if not has_token(tokenizer, IMAGE_TOKEN):
            raise ValueError(f"the tokenizer has no {IMAGE_TOKEN}: prepare_tokenizer adds it.")
        if not has_marks and (chat_template == CHATML_TEMPLATE or label_policy == "release"):
            raise ValueError(f"the tokenizer has no {TURN_START} or no {TURN_END}: prepare_tokenizer adds them.")
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.prompt = prompt
        self.system_message = system_message
        self.num_image_tokens = num_image_tokens
        self.label_policy = label_policy
        # the names that transformers' own machinery for placeholders asks for
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self._header_of: tuple[Any, str, list[int]] | None = None

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the processor makes for generation."""
        return ["pixel_values", "input_ids", "attention_mask"]

    def replace_image_token(self, image_inputs: Any = None, image_idx: int = 0, **kwargs: Any) -> str:
        """What one `<image>` becomes: as many as the image has tokens."""
        return self.image_token * self.num_image_tokens

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
        """Prepares a batch of pairs with their questions, for generation or, with captions, for training.

        Args:
            images: List of pairs `[before, after]` (paths, bytes, PIL, numpy, torch), or one pair, or an array
                (batch, 2, C, H, W). Without images the ids alone are made.
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
            return_notes: Adds `notes`: the pairs whose images differed in size.
            **kwargs: Settings of the image processor for this call.

        Returns:
            `pixel_values` (batch, 2, 3, H, W) float32, `input_ids` and `attention_mask` (batch, T), and with captions
            `labels` (batch, T): the ids that are learnt, -100 elsewhere. They are not shifted: the model does that.

        Raises:
            PairError: A pair, its question or its caption cannot be used; it names the pair.
            ValueError: Nothing was given, or the numbers of pairs, texts, captions and ids differ.
        """
        if images is None and text is None and captions is None:
            raise ValueError("give images, text, or both.")
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
            raise ValueError(f"{len(answers)} captions are given for {count} pairs: give one for each.")
        questions = [text] * count if text is None or isinstance(text, str) else list(text)
        if len(questions) != count or count == 0:
            raise ValueError(f"{len(questions)} texts are given for {count} pairs: give one for all or one for each.")
        names: list[str | int] = list(range(count)) if pair_ids is None else list(pair_ids)
        if len(names) != count:
            raise ValueError(f"pair_ids has {len(names)} ids for {count} pairs.")

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
        """Writes conversations of any number of turns, and turns them into model inputs with `tokenize=True`.

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
        names: list[str | int] = list(options.get("pair_ids") or range(len(texts)))
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
                raise ValueError(f"{len(data['pixel_values'])} pairs are given for {len(texts)} conversations.")
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
        """Ids of a batch to text; see `decode`."""
        return [self.decode(sequence, *args, skip_prompt=skip_prompt, **kwargs) for sequence in sequences]

    def decode(self, token_ids: Any, *args: Any, skip_prompt: bool = True, **kwargs: Any) -> Any:
        """Ids to text.

        Args:
            token_ids: What `generate` gave, or labels (negative ids are left out); of a batch: a list is returned.
            *args: For the tokenizer.
            skip_prompt: Everything through the last assistant header is left out, and spaces around the rest.
            **kwargs: For the tokenizer: `skip_special_tokens=True` drops the marks.
        """
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if isinstance(ids, Sequence) and ids and not isinstance(ids[0], int):
            return self.batch_decode(ids, *args, skip_prompt=skip_prompt, **kwargs)
        ids = [number for number in ([ids] if isinstance(ids, int) else ids) if number >= 0]
        if not skip_prompt:
            return self.tokenizer.decode(ids, *args, **kwargs)
        _, header = self._header()
        starts = range(len(ids) - len(header), -1, -1) if header else ()
        last = next((start for start in starts if ids[start : start + len(header)] == header), None)
        answer = ids if last is None else ids[last + len(header) :]
        return self.tokenizer.decode(answer, *args, **kwargs).strip()

    # --- writing

    def _header(self) -> tuple[str, list[int]]:
        """What opens the assistant's turn, as text and as ids; empty for a template that writes nothing there."""
        if self._header_of is None or self._header_of[0] != self.chat_template:
            asked = [[{"role": "user", "content": [{"type": "text", "text": "what"}]}]]
            closed, opened = (
                self._render(asked, None, False, add_generation_prompt=opens)[0][0] for opens in (False, True)
            )
            header = opened[len(closed) :] if opened.startswith(closed) else ""
            ids = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (closed, opened)]
            header_ids = ids[1][len(ids[0]) :] if ids[1][: len(ids[0])] == ids[0] else []
            self._header_of = (self.chat_template, header, list(header_ids))
        return self._header_of[1:]

    def _render(
        self, conversations: list[Any], chat_template: str | None, want_spans: bool, **kwargs: Any
    ) -> tuple[list[str], list[list[Span]] | None]:
        """The conversations as texts and, where wanted, where the assistant speaks in each."""
        template: Any = self.chat_template if chat_template is None else chat_template
        if isinstance(self.chat_template, dict):
            template = self.chat_template.get(chat_template or "default", chat_template)
        if want_spans and not re.search(r"\{%-?\s*generation\s*-?%\}", str(template)):
            raise ValueError("the chat template has no {% generation %} around what the assistant says: add it.")
        texts, spans = render_jinja_template(
            conversations=conversations,
            chat_template=template,
            return_assistant_tokens_mask=want_spans,
            **{**self.tokenizer.special_tokens_map, **kwargs},
        )
        return list(texts), [[(start, end) for start, end in given] for given in spans] if want_spans else None

    def _write(
        self, questions: list[Any], answers: list[Any] | None, names: list[str | int]
    ) -> tuple[list[str], list[list[Span]] | None]:
        """The text of each pair, and with answers where they stand in it."""
        header = self._header()[0].strip()
        if answers is None and header and all(isinstance(asked, str) and header in asked for asked in questions):
            return list(questions), None
        conversations = []
        for row, (asked, name) in enumerate(zip(questions, names, strict=True)):
            if asked is not None and not isinstance(asked, str):
                raise _error(name, f"its text is a {type(asked).__name__}: give a string")
            if asked is not None and header and header in asked:
                raise _error(
                    name,
                    "its text is a whole conversation, which goes neither with captions nor with plain questions: "
                    "give the conversations to apply_chat_template",
                )
            asked = self._prompt_of(asked, name)
            messages = [{"role": "user", "content": _parts(asked)}]
            if answers is not None:
                if not isinstance(answers[row], str):
                    raise _error(name, f"its caption is a {type(answers[row]).__name__}: give a string")
                self._refuse_marks(answers[row], "caption", name)
                messages.append({"role": "assistant", "content": [{"type": "text", "text": answers[row].strip()}]})
            conversations.append(messages)
        opens = answers is None
        return self._render(self._complete(conversations)[0], None, not opens, add_generation_prompt=opens)

    def _prompt_of(self, asked: str | None, name: str | int) -> str:
        """The prompt of a pair: the processor's, the given one, or the given question after the processor's images."""
        if asked is None:
            return self.prompt
        placeholders = asked.count(IMAGE_TOKEN)
        if placeholders == 0:
            about_images = re.match(rf"(?s).*{re.escape(IMAGE_TOKEN)}[^\w<]*", self.prompt)
            assert about_images is not None  # the prompt has two
            return about_images[0] + asked.strip()
        if placeholders != 2:
            raise _placeholder_error(name, placeholders)
        self._refuse_marks(asked.replace(IMAGE_TOKEN, ""), "text", name)
        return asked

    def _refuse_marks(self, words: str, what: str, name: str | int) -> None:
        """Refuses what the tokenizer would take for the end of a turn or for an image."""
        marks = {IMAGE_TOKEN, TURN_START, TURN_END, self.tokenizer.bos_token, self.tokenizer.eos_token} - {None, ""}
        found = sorted(mark for mark in marks if mark in words and has_token(self.tokenizer, mark))
        if found:
            raise _error(name, f"its {what} contains {found[0]}, which has a meaning of its own: remove it")

    def _complete(self, conversation: Any) -> tuple[list[list[dict[str, Any]]], bool]:
        """Copies of the conversations, with the system message in front and their content in parts."""
        if not isinstance(conversation, list | tuple) or not conversation:
            raise ValueError("give a conversation: a list of messages with role and content.")
        batched = isinstance(conversation[0], list | tuple)
        complete = []
        for given in conversation if batched else [conversation]:
            messages = []
            for message in given:
                content = message.get("content") or ""
                parts = _parts(content) if isinstance(content, str) else list(content)
                messages.append({**message, "content": parts})
            if self.system_message and (not messages or messages[0]["role"] != "system"):
                opening = [{"type": "text", "text": self.system_message}]
                messages.insert(0, {"role": "system", "content": opening})
            complete.append(messages)
        return complete, batched

    def _marks(self) -> set[int]:
        """What the release learns wherever it stands: the marks of turns, and the newline where it is one token."""
        newline = self.tokenizer("\n", add_special_tokens=False)["input_ids"]
        marks = set(self.tokenizer.convert_tokens_to_ids([TURN_START, TURN_END]))
        return marks | set(newline) if len(newline) == 1 else marks

    def _encode(
        self,
        texts: list[str],
        spans: list[list[Span]] | None,
        names: list[str | int],
        truncation: bool | None,
        max_length: int | None,
        add_special_tokens: bool,
    ) -> list[TokenRow]:
        """Expands the placeholders, tokenises and cuts."""
        for text, name in zip(texts, names, strict=True):
            if not isinstance(text, str):
                raise _error(name, f"its text is a {type(text).__name__}: give a string")
            if text.count(IMAGE_TOKEN) != 2:
                raise _placeholder_error(name, text.count(IMAGE_TOKEN))
        if spans is not None and not getattr(self.tokenizer, "is_fast", False):
            raise ValueError("labels need a fast tokenizer, which knows where its tokens lie in the text.")
        image = self.replace_image_token()
        encoded = self.tokenizer(
            [text.replace(IMAGE_TOKEN, image) for text in texts],
            add_special_tokens=add_special_tokens,
            return_attention_mask=False,
            return_offsets_mapping=spans is not None,
            padding=False,
            truncation=False,
            verbose=False,
        )
        limit = max_length if truncation or truncation is None else None
        header, _ = self._header()
        marks = self._marks() if self.label_policy == "release" else ()
        rows = []
        for row, (text, name) in enumerate(zip(texts, names, strict=True)):
            ids = list(encoded["input_ids"][row])
            places = [place for place, number in enumerate(ids) if number == self.image_token_id]
            if len(places) != 2 * self.num_image_tokens:
                raise ValueError(f"the tokenizer splits {IMAGE_TOKEN}: prepare_tokenizer makes it a special token.")
            if limit is not None and len(ids) > limit:
                if limit <= places[-1]:
                    raise _error(
                        name,
                        f"max_length {limit} would cut an image: with its images and what stands before them it needs "
                        f"{places[-1] + 1} tokens ({self.num_image_tokens} an image); raise max_length",
                    )
                if header and text.endswith(header):
                    raise _error(
                        name, f"max_length {limit} would cut its question, which makes {len(ids)} tokens: raise it"
                    )
            assistant: list[int] = []
            labels: list[int] = []
            if spans is not None:
                offsets, growth = encoded["offset_mapping"][row], len(image) - len(IMAGE_TOKEN)
                assistant = overlapping(offsets, grown_spans(spans[row], text, IMAGE_TOKEN, growth))
                if self.label_policy == "release":
                    turns = whole_turns(spans[row], text, header)
                    turns = grown_spans(turns, text, IMAGE_TOKEN, growth)
                    labels = learnt(ids, overlapping(offsets, turns), marks)
                else:
                    labels = learnt(ids, assistant)
            rows.append(TokenRow(ids[:limit], assistant[:limit], labels[:limit]))
        return rows


# arguments of a call that `apply_chat_template` takes as its own, so that they do not go to the template
_CALL_OPTIONS = ("images", "pair_ids", "padding", "padding_side", "truncation", "max_length", "pad_to_multiple_of")
_CALL_OPTIONS += ("add_special_tokens", "return_notes")


def _error(name: str | int, reason: str) -> PairError:
    return PairError(f"Pair {name!r}: {reason}.", name)


def _placeholder_error(name: str | int, count: int) -> PairError:
    return _error(
        name, f"its prompt has {count} {IMAGE_TOKEN} where exactly two are needed, one for each date, before first"
    )


def _parts(text: str) -> list[dict[str, str]]:
    """A text with placeholders as the parts of a message."""
    words = text.split(IMAGE_TOKEN)
    parts: list[dict[str, str]] = []
    for number, said in enumerate(words):
        parts += [{"type": "text", "text": said}] if said else []
        parts += [{"type": "image"}] if number < len(words) - 1 else []
    return parts


def _images_of(messages: list[dict[str, Any]]) -> list[Any]:
    parts = [part for message in messages for part in message["content"] if part["type"] == "image"]
    return [part[key] for part in parts for key in ("image", "url", "path") if key in part]


CCExpertProcessor.register_for_auto_class("AutoProcessor")
