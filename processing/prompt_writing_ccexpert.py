"""Questions and conversations as text, and text as rows of ids: the language half of CCExpert's processor."""

import re
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

from .change_pair_images import PairError
from .chat_templates_ccexpert import IMAGE_TOKEN, TURN_END, TURN_START, has_token
from .token_rows_ccexpert import Span, TokenRow, grown_spans, learnt, overlapping, whole_turns


class PromptWriting:
    """Writes what the language model reads; for the meaning of the attributes see `CCExpertProcessor`."""

    tokenizer: Any
    chat_template: Any
    prompt: str
    system_message: str | None
    num_image_tokens: int
    label_policy: str
    image_token: str
    image_token_id: int
    _header_of: tuple[Any, str, list[int]] | None

    def replace_image_token(self, image_inputs: Any = None, image_idx: int = 0, **kwargs: Any) -> str:
        """Return what one `<image>` becomes: as many as the image has tokens. transformers' own name for it."""
        return self.image_token * self.num_image_tokens

    def _header(self) -> tuple[str, list[int]]:
        """Return what opens the assistant's turn, as text and as ids; empty where a template writes nothing."""
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
        """Return the conversations as texts and, where wanted, where the assistant speaks in each."""
        template: Any = self.chat_template if chat_template is None else chat_template
        if isinstance(self.chat_template, dict):
            template = self.chat_template.get(chat_template or "default", chat_template)
        if want_spans and not re.search(r"\{%-?\s*generation\s*-?%\}", str(template)):
            raise ValueError("the chat template has no {% generation %} around what the assistant says; add it.")
        rendered: Any = render_jinja_template(  # two lists, whatever its type says
            conversations=conversations,
            chat_template=template,
            return_assistant_tokens_mask=want_spans,
            **{**self.tokenizer.special_tokens_map, **kwargs},
        )
        texts, spans = rendered
        return list(texts), [[(start, end) for start, end in given] for given in spans] if want_spans else None

    def _write(
        self, questions: list[Any], answers: list[Any] | None, names: list[str | int]
    ) -> tuple[list[str], list[list[Span]] | None]:
        """Write the text of each pair, and with answers where they stand in it."""
        header = self._header()[0].strip()
        if answers is None and header and all(isinstance(asked, str) and header in asked for asked in questions):
            return list(questions), None
        conversations = []
        for row, (asked, name) in enumerate(zip(questions, names, strict=True)):
            if asked is not None and not isinstance(asked, str):
                raise _error(name, f"its text is a {type(asked).__name__}; give a string")
            if asked is not None and header and header in asked:
                raise _error(
                    name,
                    "its text is a whole conversation, which goes neither with captions nor with plain questions; "
                    "give the conversations to apply_chat_template",
                )
            asked = self._prompt_of(asked, name)
            messages = [{"role": "user", "content": _parts(asked)}]
            if answers is not None:
                if not isinstance(answers[row], str):
                    raise _error(name, f"its caption is a {type(answers[row]).__name__}; give a string")
                self._refuse_marks(answers[row], "caption", name)
                messages.append({"role": "assistant", "content": [{"type": "text", "text": answers[row].strip()}]})
            conversations.append(messages)
        opens = answers is None
        return self._render(self._complete(conversations)[0], None, not opens, add_generation_prompt=opens)

    def _prompt_of(self, asked: str | None, name: str | int) -> str:
        """Return the prompt of a pair: the processor's, the given one, or the given question after its images."""
        if asked is None:
            return self.prompt
        placeholders = asked.count(IMAGE_TOKEN)
        if placeholders not in (0, 2):
            raise _placeholder_error(name, placeholders)
        self._refuse_marks(asked.replace(IMAGE_TOKEN, ""), "text", name)
        if placeholders == 0:
            about_images = re.match(rf"(?s).*{re.escape(IMAGE_TOKEN)}[^\w<]*", self.prompt)
            assert about_images is not None  # the prompt has two
            return about_images[0] + asked.strip()
        return asked

    def _refuse_marks(self, words: str, what: str, name: str | int) -> None:
        """Refuse what the tokenizer would take for the end of a turn or for an image."""
        marks = {IMAGE_TOKEN, TURN_START, TURN_END, self.tokenizer.bos_token, self.tokenizer.eos_token} - {None, ""}
        found = sorted(mark for mark in marks if mark in words and has_token(self.tokenizer, mark))
        if found:
            raise _error(name, f"its {what} contains {found[0]}, which has a meaning of its own; remove it")

    def _complete(self, conversation: Any) -> tuple[list[list[dict[str, Any]]], bool]:
        """Copy the conversations, with the system message in front and their content in parts."""
        if not isinstance(conversation, list | tuple) or not conversation:
            raise ValueError("there is no conversation; give a list of messages with role and content.")
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
        """Return what the release learns wherever it stands: marks of turns, and the newline where it is one token."""
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
        """Expand the placeholders, tokenise and cut."""
        for text, name in zip(texts, names, strict=True):
            if not isinstance(text, str):
                raise _error(name, f"its text is a {type(text).__name__}; give a string")
            if text.count(IMAGE_TOKEN) != 2:
                raise _placeholder_error(name, text.count(IMAGE_TOKEN))
        if spans is not None and not getattr(self.tokenizer, "is_fast", False):
            raise ValueError("the tokenizer does not know where its tokens lie in the text; labels need a fast one.")
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
                raise ValueError(f"the tokenizer splits {IMAGE_TOKEN}; prepare_tokenizer makes it a special token.")
            if limit is not None and len(ids) > limit:
                if limit <= places[-1]:
                    raise _error(
                        name,
                        f"max_length {limit} would cut an image: with its images and what stands before them it needs "
                        f"{places[-1] + 1} tokens ({self.num_image_tokens} an image); raise max_length",
                    )
                if header and text.endswith(header):
                    raise _error(
                        name, f"max_length {limit} would cut its question, which makes {len(ids)} tokens; raise it"
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


def _error(name: str | int, reason: str) -> PairError:
    return PairError.of(name, reason)


def _placeholder_error(name: str | int, count: int) -> PairError:
    return _error(
        name, f"its prompt has {count} {IMAGE_TOKEN} where exactly two are needed, one for each date, before first"
    )


def _parts(text: str) -> list[dict[str, str]]:
    """Return a text with placeholders as the parts of a message."""
    words = text.split(IMAGE_TOKEN)
    parts: list[dict[str, str]] = []
    for number, said in enumerate(words):
        parts += [{"type": "text", "text": said}] if said else []
        parts += [{"type": "image"}] if number < len(words) - 1 else []
    return parts
