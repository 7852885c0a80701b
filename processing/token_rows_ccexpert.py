"""Conversations as rows of ids: where the assistant speaks in them, what is learnt, and padding to one length."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

IGNORED = -100
LABEL_POLICIES = ("assistant", "release")

Span = tuple[int, int]
"""Characters of a text: the first, and one after the last."""


class TokenRow(NamedTuple):
    """One encoded conversation.

    Attributes:
        ids: Its tokens, images expanded.
        assistant: 1 on what the assistant says; empty where nobody asked.
        labels: The ids that are learnt, -100 elsewhere; empty where nobody asked.
    """

    ids: list[int]
    assistant: list[int]
    labels: list[int]


def grown_spans(spans: Sequence[Span], text: str, placeholder: str, growth: int) -> list[Span]:
    """Tell where spans of `text` lie once every placeholder in front of them has grown by `growth` characters."""
    before = {place: text.count(placeholder, 0, place) for span in spans for place in span}
    return [(start + growth * before[start], end + growth * before[end]) for start, end in spans]


def whole_turns(spans: Sequence[Span], text: str, header: str) -> list[Span]:
    """Return what the assistant says, with the header in front of it and the newline after its closing mark."""
    turns = []
    for start, end in spans:
        opened = start - len(header) if text[:start].endswith(header) else start
        turns.append((opened, end + 1 if text[end : end + 1] == "\n" else end))
    return turns


def overlapping(offsets: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """Give 1 for each token that shares a character with a span.

    Args:
        offsets: The characters of each token; tokens of no width overlap nothing.
        spans: In the same text.
    """
    return [int(any(first < end and last > start for start, end in spans)) for first, last in offsets]


def learnt(ids: Sequence[int], turns: Sequence[int], marks: Collection[int] = ()) -> list[int]:
    """Return labels: the ids where `turns` is 1, and of `marks` wherever they stand; -100 elsewhere."""
    return [number if inside or number in marks else IGNORED for number, inside in zip(ids, turns, strict=True)]


def pad_rows(
    rows: Sequence[TokenRow],
    *,
    pad: int | None,
    side: str,
    padding: bool | str,
    max_length: int | None,
    multiple: int | None,
    labels: bool,
    masks: bool,
) -> dict[str, Any]:
    """Pad rows to one length.

    Args:
        rows: At least one.
        pad: Id of the padding token.
        side: "left" or "right".
        padding: True or "longest", "max_length", or False.
        max_length: The length with "max_length".
        multiple: The length is a multiple of this.
        labels: Whether `labels` are given, padded with -100.
        masks: Whether `assistant_masks` are given, padded with 0.

    Returns:
        `input_ids` and `attention_mask`, and what was asked for: (rows, T) each.

    Raises:
        ValueError: A setting is wrong, or there is no padding token where one is needed.
    """
    if side not in ("left", "right"):
        raise ValueError(f"padding_side is {side!r}; there are left and right.")
    if padding not in (True, False, "longest", "max_length"):
        raise ValueError(f"padding is {padding!r}; there are True, False, longest and max_length.")
    length = max(len(row.ids) for row in rows)
    if padding == "max_length":
        if max_length is None:
            raise ValueError("padding is max_length; give max_length.")
        length = max(length, max_length)
    length += -length % (multiple or 1)
    if padding is not False and pad is None and any(len(row.ids) < length for row in rows):
        raise ValueError("the tokenizer has no padding token; prepare_tokenizer adds one.")

    def padded(values: list[int], filler: Any) -> list[int]:
        missing = [filler] * (length - len(values)) if padding is not False else []
        return missing + values if side == "left" else values + missing

    data = {
        "input_ids": [padded(row.ids, pad) for row in rows],
        "attention_mask": [padded([1] * len(row.ids), 0) for row in rows],
    }
    if labels:
        data["labels"] = [padded(row.labels, IGNORED) for row in rows]
    if masks:
        data["assistant_masks"] = [padded(row.assistant, 0) for row in rows]
    return data
