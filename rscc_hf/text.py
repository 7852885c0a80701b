"""Text that comes from elsewhere: what errors of other libraries say, and objects in JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without its full stop, to stand in a sentence; else the error's type."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(". ")


class RepeatedField(Exception):
    """A JSON object has a field twice, of which a dict keeps the last; its text is the name of the field."""


class JsonObject(dict[str, Any]):
    """A JSON object that also knows the fields that stand in it twice: an `object_pairs_hook` of `json.loads`.

    Attributes:
        fields: All fields with their values in their order.
    """

    def __init__(self, fields: list[tuple[str, Any]]) -> None:
        super().__init__(fields)
        self.fields = fields

    @classmethod
    def unrepeated(cls, fields: list[tuple[str, Any]]) -> JsonObject:
        """The same for a reader to whom no field may come twice.

        Raises:
            RepeatedField: One does.
        """
        row = cls(fields)
        if len(row) < len(fields):
            raise RepeatedField(Counter(name for name, _ in fields).most_common(1)[0][0])
        return row
