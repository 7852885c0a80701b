"""A pickle interpreter that can build plain values and inert records, and nothing else.

Python's own unpickler calls what a pickle names. This one has no way to call anything: each instruction is read by
`pickletools` (which only parses), an allow-list says which names may occur, and each of them becomes a record of what
was written. What is unknown is refused by name; there is no fallback.

The instructions are those of PEP 307 and PEP 3154 that `torch.save` makes use of.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rscc_hf.errors import UnsafePickleError

# What a checkpoint of some hundred modules needs, many times over; a bomb needs more.
MAX_PICKLE_BYTES = 64 * 2**20
MAX_STEPS = 2_000_000
_MAX_INTEGER_BYTES = 16
_MAX_PROTOCOL = 5


class Readable(Protocol):
    """What `pickletools` needs of a file."""

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes."""
        ...

    def readline(self) -> bytes:
        """Read a line."""
        ...


@dataclass(frozen=True)
class Name:
    """A global that a pickle may name; it stands for nothing but its name.

    Attributes:
        module: Where the pickle says that it is defined.
        name: What the pickle calls it.
        rebuild: Makes a record of the arguments that it would have been called with; `None` where calling is refused.
        is_class: Whether the pickle may make (empty) objects of it.
    """

    module: str
    name: str
    rebuild: Callable[[tuple[Any, ...]], Any] | None = None
    is_class: bool = False


@dataclass(eq=False)
class Placeholder:
    """An object of a class that is not here: its name and its `__dict__` as it was written.

    Attributes:
        class_name: Name of the class, without its module; empty for a number of numpy.
        fields: Its `__dict__`.
    """

    class_name: str
    fields: dict[Any, Any] = field(default_factory=dict, repr=False)  # as text it could be endless
    built: bool = field(default=False, repr=False)


class BoundedFile:
    """A file of which at most so many bytes are read, however many a length field declares."""

    def __init__(self, file: Any, limit: int):
        self._file = file
        self.left = limit

    def read(self, size: int) -> bytes:
        """Read as a file does; asking for more than the limit leaves is refused before memory is taken for it."""
        if not 0 <= size <= self.left:
            raise UnsafePickleError(f"its pickle ends before it should, where a value declares {size} bytes")
        self.left -= size
        return self._file.read(size)

    def readline(self) -> bytes:
        """Read a line as a file does, within the limit."""
        line = self._file.readline(min(self.left, 4096))
        self.left -= len(line)
        return line


class PickleMachine:
    """Runs one pickle.

    Args:
        allowed: What may be named, by (module, name).
        persistent: Turns a persistent id (a tuple) into a value; raises `UnsafePickleError` for others.
    """

    def __init__(self, allowed: Mapping[tuple[str, str], Name], persistent: Callable[[Any], Any]):
        self._allowed = allowed
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._steps = 0

    def run(self, file: Readable) -> Any:
        """Read one pickle from where the file is; the file is left behind its end.

        Raises:
            UnsafePickleError: The pickle is damaged, names something that is not allowed, or exceeds a limit.
        """
        # pickletools wants a typing.IO and uses these two methods only
        instructions = pickletools.genops(file)  # type: ignore[arg-type]
        while True:
            try:
                opcode, argument, _ = next(instructions)
            except UnsafePickleError:
                raise
            except (ValueError, struct.error, OverflowError, StopIteration) as error:
                raise UnsafePickleError(f"its pickle is damaged ({_short(error)})") from error
            self.charge(1)
            if opcode.name == "STOP":
                if len(self._stack) != 1 or self._marks:
                    raise UnsafePickleError("its pickle is damaged (it does not end with one value)")
                return self._stack.pop()
            self._step(opcode.name, argument)

    def charge(self, steps: int) -> None:
        """Count work, and refuse too much of it."""
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise UnsafePickleError(f"its pickle takes more than {MAX_STEPS} steps, which no checkpoint needs")

    def _step(self, opcode: str, argument: Any) -> None:
        if opcode in _EMPTY:
            self._stack.append(_EMPTY[opcode]())
        elif opcode in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > 8 * _MAX_INTEGER_BYTES:
                raise UnsafePickleError(f"its pickle holds an integer of {argument.bit_length()} bits")
            self._stack.append(_CONSTANTS.get(opcode, argument))
        elif opcode in _PUTS:
            self._put(len(self._memo) if argument is None else argument)
        elif opcode in _GETS:
            if argument not in self._memo:
                raise UnsafePickleError(f"its pickle is damaged (it recalls value {argument}, which it never stored)")
            self._stack.append(self._memo[argument])
        elif handler := _HANDLERS.get(opcode):
            handler(self, argument)
        elif opcode in ("INST", "GLOBAL"):
            self._global(*argument.split(" ", 1))
        else:
            raise UnsafePickleError(f"its pickle uses the instruction {opcode}, which checkpoints do not need")

    def _put(self, index: int) -> None:
        # picklers count up from 0 (or, old ones, from 1): other indices are tricks or damage
        if index > self._steps or index in self._memo:
            raise UnsafePickleError(f"its pickle is damaged (it stores a value as number {index} out of order)")
        self._memo[index] = self._top()

    def _pop(self) -> Any:
        if not self._stack or (self._marks and self._marks[-1] == len(self._stack)):
            raise UnsafePickleError("its pickle is damaged (a value is missing)")
        return self._stack.pop()

    def _top(self, kind: type[Any] | None = None) -> Any:
        value = self._pop()
        self._stack.append(value)
        if kind is not None and type(value) is not kind:
            raise UnsafePickleError(
                f"its pickle is damaged (a {type(value).__name__} where a {kind.__name__} belongs)"
            )
        return value

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise UnsafePickleError("its pickle is damaged (a mark is missing)")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _check_protocol(self, version: int) -> None:
        if version > _MAX_PROTOCOL:
            raise UnsafePickleError(f"its pickle has protocol {version}; {_MAX_PROTOCOL} is the last that is known")

    def _skip(self, _: Any) -> None:
        """Skip a frame: it only says how much may be read ahead."""

    def _pop_one(self, _: Any) -> None:
        self._pop()

    def _append(self, _: Any) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _appends(self, _: Any) -> None:
        values = self._pop_mark()
        self._top(list).extend(values)

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_mark()))

    def _tuple_of(self, size: int) -> None:
        values = [self._pop() for _ in range(size)]
        self._stack.append(tuple(reversed(values)))

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._top(dict)[checked_key(key)] = value

    def _set_items(self, _: Any) -> None:
        values = self._pop_mark()
        if len(values) % 2:
            raise UnsafePickleError("its pickle is damaged (a key without a value)")
        target = self._top(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[checked_key(key)] = value

    def _add_items(self, _: Any) -> None:
        values = self._pop_mark()
        self._top(set).update(checked_key(value) for value in values)

    def _global(self, module: str, name: str) -> None:
        known = self._allowed.get((module, name))
        if known is None:
            raise UnsafePickleError(
                f"it names {printable(f'{module}.{name}')}, which is not on the list of what a checkpoint may hold, "
                "so it was not opened further and nothing of it was run"
            )
        self._stack.append(known)

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            raise UnsafePickleError("its pickle is damaged (a global whose name is no text)")
        self._global(module, name)

    def _reduce(self, _: Any) -> None:
        arguments, function = self._pop(), self._pop()
        if type(function) is not Name or type(arguments) is not tuple:
            raise UnsafePickleError(f"its pickle wants to call a {type(function).__name__}")
        if function.rebuild is None:
            raise UnsafePickleError(f"its pickle wants to call {function.module}.{function.name}")
        self.charge(sum(len(item) for item in arguments if isinstance(item, list | dict | tuple)))
        self._stack.append(function.rebuild(arguments))

    def _new_object(self, _: Any) -> None:
        arguments, name = self._pop(), self._pop()
        if type(name) is not Name or not name.is_class or arguments != ():
            what = f"{name.module}.{name.name}" if type(name) is Name else f"a {type(name).__name__}"
            raise UnsafePickleError(f"its pickle wants to make an object of {what}, with arguments or of no class")
        self._stack.append(Placeholder(name.name))

    def _build(self, _: Any) -> None:
        state, target = self._pop(), self._top()
        if type(target) is Placeholder and not target.built:
            target.built = True
            if type(state) is dict:
                target.fields = state
            elif target.class_name:
                raise UnsafePickleError(f"its pickle sets an object's fields from a {type(state).__name__}")
        # the attributes of an OrderedDict (torch's `_metadata`) say nothing that is needed
        elif type(target) is not dict or type(state) is not dict:
            raise UnsafePickleError(f"its pickle sets the fields of a {type(target).__name__}")

    def _persistent_id(self, _: Any) -> None:
        self._stack.append(self._persistent(self._pop()))


def checked_key(key: Any) -> Any:
    """Return a key of a dict or a member of a set, of a kind whose hash is quick to take and hard to make collide.

    Text, small integers, truths and None; and records that say so, for the state of an optimizer is kept by tensor.
    Hashing deep tuples can exhaust the C stack; floats and huge integers can be chosen to have one hash.

    Raises:
        UnsafePickleError: It is of another kind.
    """
    plain = type(key) in (str, int, bool, type(None)) or getattr(type(key), "may_be_key", False)
    if not plain or (type(key) is int and key.bit_length() > 60):
        raise UnsafePickleError(f"its pickle has a {type(key).__name__} as the key of a dict or in a set")
    return key


def printable(text: str, limit: int = 120) -> str:
    """Return text from a foreign file for a message: one line, no control characters, not too long."""
    shown = ascii(text[: limit + 1])[1:-1]
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


def _short(error: BaseException) -> str:
    return printable(str(error) or "it ends too early", 80)


_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set, "EMPTY_TUPLE": tuple}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = {
    *_CONSTANTS,
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_PUTS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_GETS = {"BINGET", "LONG_BINGET"}
_HANDLERS: dict[str, Callable[[PickleMachine, Any], None]] = {
    "PROTO": PickleMachine._check_protocol,
    "FRAME": PickleMachine._skip,
    "MARK": PickleMachine._mark,
    "POP": PickleMachine._pop_one,
    "APPEND": PickleMachine._append,
    "APPENDS": PickleMachine._appends,
    "TUPLE": PickleMachine._tuple,
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "SETITEM": PickleMachine._set_item,
    "SETITEMS": PickleMachine._set_items,
    "ADDITEMS": PickleMachine._add_items,
    "STACK_GLOBAL": PickleMachine._stack_global,
    "REDUCE": PickleMachine._reduce,
    "NEWOBJ": PickleMachine._new_object,
    "BUILD": PickleMachine._build,
    "BINPERSID": PickleMachine._persistent_id,
}
