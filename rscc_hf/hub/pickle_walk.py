"""Telling a pickle by its opcodes. None of them is carried out."""

import pickletools
import struct
from typing import IO, Any

from rscc_hf.errors import InputError

# What calls something, once a name of a module's member is there to be called.
_CALLS = frozenset({"REDUCE", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"})
# Only a reader made for them goes on at these; and Parquet and PNG begin with a PERSID.
_UNUSUAL = frozenset({"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4"})
_ENOUGH = 3  # valid opcodes after which a file that begins with PROTO is a pickle
_MANY = 10_000  # valid opcodes, on a valid stack, after which anything is
_ARGUMENT = 64 << 20  # bytes of an argument, above which the walk ends
_SKIPPED = 1 << 20  # bytes of an argument, above which it is not read but passed over


def is_pickle(file: IO[bytes], cut: bool = False) -> bool:
    """Tell whether a pickle begins where a seekable file begins, of whatever protocol, with PROTO or without.

    One that begins with PROTO counts after a few valid opcodes. Else it counts when, on a stack as `pickle` keeps it,
    something named is called, when it ends and holds a name or numbers its objects as `pickle` does, and when there is
    no end to its valid opcodes. A bare number or None in protocol 0 or 1 ("I1" and a full stop) is text as well, and
    runs nothing: it does not count.

    Args:
        file: The file; left at any position.
        cut: It was cut off after as many bytes as we read, so that its end says nothing.
    """
    size = file.seek(0, 2)
    file.seek(0)
    reader = _Reader(file, size, cut)
    walk = _Walk()
    try:
        while file.tell() < size:  # torch's old files are several pickles in a row
            walk.begin()
            for opcode, argument, _ in pickletools.genops(reader):  # type: ignore[arg-type]
                found = walk.step(opcode, argument)
                if found is not None:
                    return found
    except (ValueError, IndexError, KeyError, OverflowError, struct.error):
        pass
    return reader.went_past and walk.is_likely


class _Reader:
    """A file for `pickletools.genops` that passes over long arguments, and remembers whether our limits ended it."""

    def __init__(self, file: IO[bytes], size: int, cut: bool) -> None:
        self._file, self._size, self._cut = file, size, cut
        self.went_past = False

    def read(self, length: int) -> bytes:
        place = self._file.tell()
        if place + length > self._size:
            self.went_past = self._cut
            return b""
        if length > _ARGUMENT:
            self.went_past = True
            return b""
        if length > _SKIPPED:
            self._file.seek(place + length)
            return b" " * length
        return self._file.read(length)

    def readline(self) -> bytes:
        line = self._file.readline(_ARGUMENT)
        if not line.endswith(b"\n"):
            self.went_past = len(line) == _ARGUMENT or self._cut
        return line

    def tell(self) -> int:
        return self._file.tell()


class _Walk:
    """What the opcodes so far would have left on the stack (as `pickletools.dis` keeps it), and what was seen."""

    def __init__(self) -> None:
        self._seen = 0
        self._marked = False
        self._names = False
        self._numbered = False
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def begin(self) -> None:
        """Begin a new pickle in the same file."""
        self._stack, self._memo = [], {}

    @property
    def is_likely(self) -> bool:
        """Whether a walk that our limits ended was one through a pickle."""
        return self._marked or self._names or self._numbered or self._seen >= 100

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> bool | None:
        """Tell whether it is a pickle; None: that is not known yet. Raises ValueError where `pickle` would stop."""
        name = opcode.name
        if name == "PROTO":
            if argument > 5:
                raise InputError("no protocol")
            self._marked = self._marked or self._seen == 0
        self._seen += 1
        if (self._marked and (self._seen >= _ENOUGH or name == "STOP")) or self._seen >= _MANY:
            return True
        if name in _UNUSUAL and not self._marked:
            return False
        if name in ("GLOBAL", "INST") and not _is_name(argument):
            return False
        if name == "STACK_GLOBAL" and [item is pickletools.pyunicode for item in self._stack[-2:]] != [True, True]:
            return False
        self._move(opcode, argument)
        if name == "INST" or (name in _CALLS and self._names):
            return True
        self._names = self._names or name in ("GLOBAL", "STACK_GLOBAL")
        if name == "STOP" and (self._names or self._numbered):
            return True
        return None

    def _move(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Take from the stack and put on it."""
        mark = pickletools.markobject
        stack, before, after = self._stack, opcode.stack_before, opcode.stack_after
        taken = len(before)
        if mark in before or (opcode.name == "POP" and stack and stack[-1] is mark):
            while stack[-1] is not mark:  # IndexError: there is none
                stack.pop()
            stack.pop()
            taken = before.index(mark) if mark in before else 0
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            number = len(self._memo) if argument is None else argument
            self._numbered = self._numbered or (number in (0, 1) and not self._memo)
            self._memo[number] = stack[-1]
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            after = [self._memo[argument]]
        if len(stack) < taken:
            raise InputError("nothing there to take")
        if taken:
            del stack[-taken:]
        stack.extend(after)


def _is_name(argument: object) -> bool:
    """Tell whether the text of a GLOBAL reads `module name`, as it does in no prose."""
    parts = str(argument).split(" ")
    return len(parts) == 2 and all(part.replace(".", "_").isidentifier() for part in parts)
