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


def reason_of(error: BaseException, *, whole: bool = False) -> str:
    """Return what an error says, to stand in a sentence: on one line, without its full stop; else the error's type.

    Args:
        error: Any; of the system's errors the words and the file.
        whole: All of its lines, and not the first alone: some libraries begin with a headline.
    """
    words = str(error)
    if isinstance(error, OSError) and error.strerror:
        words = error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    elif isinstance(error, KeyError) and error.args:
        words = f"{error} is missing"
    lines = words.strip().splitlines()
    if not whole or isinstance(error, OSError):  # the Hub's go on with advice
        lines = lines[:1]
    return " ".join(" ".join(lines).split()).rstrip(". ") or type(error).__name__


def sentence_of(error: BaseException) -> str:
    """Return an error as it is told to a person, in one line: of the system's errors the file and what was wrong."""
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}.")
    return printable(str(error)) or type(error).__name__


class JsonObject(dict[str, Any]):
    """A JSON object that also knows the fields that stand in it twice: an `object_pairs_hook` of `json.loads`.

    Attributes:
        fields: All fields with their values in their order.
    """

    def __init__(self, fields: list[tuple[str, Any]]) -> None:
        super().__init__(fields)
        self.fields = fields


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

    def unrepeated(fields: list[tuple[str, Any]]) -> dict[str, Any]:
        if repeated := [name for name, number in Counter(name for name, _ in fields).items() if number > 1]:
            raise error(f"{where} has the field `{repeated[0]}` twice; keep one of them.")
        return dict(fields)

    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        row = json.loads(text, object_pairs_hook=unrepeated)
    except InputError:
        raise
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
