"""Text that comes from elsewhere: what errors of other libraries say, and objects in JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rscc_hf.errors import InputError

_NO_TEXT = re.compile("[\ud800-\udfff]")


def count(number: int, noun: str) -> str:
    """Return `1 pair`, `2 pairs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    """Return text in one line; what would control the terminal is shown as its escape, letters as they are.

    Names out of files and archives of strangers are among what is told.
    """
    line = " ".join(text.split())
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)


def as_text(name: str, *, always: bool = False) -> str:
    r"""Return a file name as text that every program can read: bytes that are no UTF-8 as `\xe9`, a backslash as `\\`.

    Python keeps such bytes as lone surrogates, which no UTF-8 file can hold.

    Args:
        name: The name, or any text.
        always: Doubles the backslashes of proper text too, so that two names never become one.
    """
    if not always and not _NO_TEXT.search(name):
        return name
    return _NO_TEXT.sub(_escape, name.replace("\\", "\\\\"))


def _escape(found: re.Match[str]) -> str:
    number = ord(found.group())
    byte = number - 0xDC00  # what `os.fsdecode` adds to a byte that is no UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else f"\\u{number:04x}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, without its full stop, for a sentence; else the error's type."""
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
        """Make the same for a reader to whom no field may come twice.

        Raises:
            RepeatedField: One does.
        """
        row = cls(fields)
        if len(row) < len(fields):
            raise RepeatedField(Counter(name for name, _ in fields).most_common(1)[0][0])
        return row


def json_object(data: bytes | str, where: str, remedy: str, *, error: type[InputError] = InputError) -> dict[str, Any]:
    """Read a JSON object in which no field stands twice, at any depth.

    Args:
        data: The text, UTF-8.
        where: What it is, for the sentence: a file, with the number of a line.
        remedy: What to do about it, without a full stop.
        error: What is raised.

    Raises:
        InputError: It is something else.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        row = json.loads(text, object_pairs_hook=JsonObject.unrepeated)
    except RepeatedField as repeated:
        raise error(f"{where} has the field `{repeated}` twice; keep one of them.") from repeated
    except UnicodeDecodeError as reason:
        raise error(f"{where} is not UTF-8 text; {remedy}.") from reason
    except json.JSONDecodeError as reason:
        raise error(f"{where} is no JSON ({reason.msg}); {remedy}.") from reason
    except (ValueError, RecursionError) as reason:
        raise error(f"{where} is no JSON (nested too deep or a number too long); {remedy}.") from reason
    if not isinstance(row, dict):
        raise error(f"{where} is no JSON object with fields but a {type(row).__name__}; {remedy}.")
    return row


def is_torn(line: bytes) -> bool:
    """Tell whether a line of JSON was cut off by the kill of its writer: it has no end, and cannot be read."""
    if line.endswith(b"\n"):
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


def json_line(row: Mapping[str, Any]) -> str:
    """Return a line of JSON that is UTF-8 whatever names of files (in a note, say) are among its values."""
    text = json.dumps(row, ensure_ascii=False)
    # what is no text stands inside of a JSON string, where a backslash is written as two
    return _NO_TEXT.sub(lambda found: as_text(found.group()).replace("\\", "\\\\"), text) + "\n"
