"""Checkpoints that want to run something, to use up memory, or are broken: builders of their bytes, with the reason.

What a payload would do is leave a file `canary` in the working folder.
"""

import ctypes
import functools
import importlib
import io
import operator
import os
import pickle
import runpy
import shutil
import struct
import subprocess
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from toys.mmodalcc_release import make, saved, toy_content

COMMAND = "touch canary"
PROTOCOL = b"\x80\x02"


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class SetState:
    """Would run its `__setstate__`."""

    def __getstate__(self) -> dict[str, str]:
        return {"command": COMMAND}

    def __setstate__(self, state: dict[str, str]) -> None:
        os.system(state["command"])


def system() -> Call:
    return Call(os.system, COMMAND)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


@lru_cache
def base(legacy: bool = False) -> bytes:
    return saved(toy_content(), legacy=legacy)


@lru_cache
def base_entries() -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(base())) as archive:
        return {entry: archive.read(entry) for entry in archive.namelist()}


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    return file.getvalue()


def changed(**changes: bytes | None) -> bytes:
    """The good zip with some entries replaced, added or (None) left out; `__` stands for `/`, `_pkl` for `.pkl`."""
    entries = dict(base_entries())
    for key, data in changes.items():
        entry = "archive/" + key.replace("__", "/").replace("_pkl", ".pkl")
        if data is None:
            del entries[entry]
        else:
            entries[entry] = data
    return zipped(entries)


def pickled(body: bytes) -> bytes:
    """The good zip around this pickle."""
    return changed(data_pkl=PROTOCOL + body + b".")


def patched(old: bytes, new: bytes) -> bytes:
    """The good checkpoint with the first occurrence of some bytes of its pickle replaced."""
    data = base_entries()["archive/data.pkl"]
    assert old in data
    return changed(data_pkl=data.replace(old, new, 1))


def legacy_patched(old: bytes, new: bytes) -> bytes:
    assert old in base(True)
    return base(True).replace(old, new, 1)


def content(change: Callable[[dict[str, Any]], Any], **options: Any) -> Callable[[], bytes]:
    """A good content after a change, saved; what the change returns (if anything) is saved in its place."""

    def build() -> bytes:
        value = toy_content()
        replaced = change(value)
        return saved(value if replaced is None else replaced, **options)

    return build


def directory_patched(entry: str, offset: int, value: bytes) -> bytes:
    """The good zip with some bytes of one entry of its directory replaced."""
    data = bytearray(base())
    start = data.index(b"PK\x01\x02")
    while data[start + 46 : start + 46 + len(entry)] != entry.encode():
        start = data.index(b"PK\x01\x02", start + 1)
    data[start + offset : start + offset + len(value)] = value
    return bytes(data)


def fake_tensor(offset: Any, size: Any, stride: Any, numel: int = 9) -> Call:
    """A tensor whose numbers say what they like."""
    storage = torch.arange(float(numel))._typed_storage()
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


def bias(value: Any) -> Callable[[], bytes]:
    """A checkpoint with this as the bias of its output projection."""
    return content(lambda c: c["decoder"].wdc._parameters.update(bias=value))


def _doubling() -> nn.Module:
    module = make("resblock")
    for _ in range(20):
        module = make("resblock", {"a": module, "b": module})
    return module


def _huge_directory() -> bytes:
    data = bytearray(zipped(base_entries()))
    data[-10:-6] = struct.pack("<I", 12 * 2**20)
    # there must be as many bytes as it says, or it is merely cut off
    return bytes(data[:4]) + bytes(12 * 2**20) + bytes(data[4:])


def _doubled() -> bytes:
    """A list of two lists of two lists ...: 2 to 33 times nothing, in some hundred bytes."""
    twice = b"".join(
        b"(h" + bytes([n]) + b"h" + bytes([n]) + b"t" + b"q" + bytes([n + 1]) + b"0" for n in range(1, 33)
    )
    return b"]q\x01" + b"0" + twice + b"h\x21"


def _nested() -> bytes:
    return b"]" * 200_000 + b"a" * 199_999


def _storage_of(numel: bytes) -> bytes:
    """A storage of so many numbers."""
    kind = name("torch", "FloatStorage")
    return pickled(b"(" + text("storage") + kind + text("0") + text("cpu") + numel + b"tQ")


def _transient_in_a_tuple(value: dict[str, Any]) -> None:
    """Many names to look up in a tuple of as many."""
    value["decoder"]._buffers.update(dict.fromkeys((f"b{number}" for number in range(60_000)), torch.zeros(1)))
    value["decoder"]._non_persistent_buffers_set = tuple(map(str, range(60_000)))


def _sharing() -> nn.Module:
    """Few modules with few parts each, but for a dict that all of them share."""
    shared = dict.fromkeys((f"w{number}" for number in range(2000)), None)
    parts = {f"m{number}": make("resblock") for number in range(2000)}
    for part in parts.values():
        part._parameters = shared  # type: ignore[assignment]
    return make("resblock", parts)


def _deep() -> bytes:
    return b"(}" + b")" + b"\x85" * 100_000 + b"K\x01s0N"


# Functions that somebody would like to see called, at the place of the epoch.
FUNCTIONS: dict[str, Call] = {
    "posix.system": system(),
    "subprocess.Popen": Call(subprocess.Popen, ["touch", "canary"]),
    "subprocess.check_output": Call(subprocess.check_output, ["touch", "canary"]),
    "builtins.eval": Call(eval, "open('canary', 'w')"),
    "builtins.exec": Call(exec, "open('canary', 'w')"),
    "builtins.getattr": Call(getattr, "canary", "upper"),
    "builtins.__import__": Call(__import__, "os"),
    "io.open": Call(io.open, "canary", "w"),
    "importlib.import_module": Call(importlib.import_module, "os"),
    "runpy.run_path": Call(runpy.run_path, "canary.py"),
    "functools.partial": Call(functools.partial, os.system, COMMAND),
    "operator.methodcaller": Call(operator.methodcaller, "system", COMMAND),
    "operator.attrgetter": Call(operator.attrgetter, "system"),
    "shutil.rmtree": Call(shutil.rmtree, "."),
    "ctypes.CDLL": Call(ctypes.CDLL, "canary.so"),
    "_pickle.loads": Call(pickle.loads, pickle.dumps(system())),
    "torch.serialization.load": Call(torch.load, "canary.pt"),
    "torch.storage._load_from_bytes": Call(torch.storage._load_from_bytes, b"canary"),
    "torch._utils._rebuild_sparse_tensor": Call(torch._utils._rebuild_sparse_tensor, 0, ()),
    "torch.jit._serialization.load": Call(torch.jit.load, "canary.pt"),
    "numpy.load": Call(np.load, "canary.npy"),
    "pathlib.Path": Call(Path, "canary"),
    "types.SimpleNamespace": Call(SimpleNamespace),
    "torch.nn.modules.rnn.LSTM": Call(nn.LSTM, 1, 1),
    f"{SetState.__module__}.SetState": SetState(),  # type: ignore[dict-item]
}

# Where in a checkpoint they may stand.
PLACES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "instead-of-all": lambda c: system(),
    "key": lambda c: c.update({system(): 1}),
    "instead-of-a-module": lambda c: c.update(decoder=system()),
    "field": lambda c: setattr(c["decoder"], "vocab_size", system()),
    "parameter": lambda c: c["decoder"].wdc._parameters.update(bias=system()),
    "buffer": lambda c: c["decoder"].position_encoding._buffers.update(pe=system()),
    "submodule": lambda c: c["decoder"]._modules.update(wdc=system()),
    "hook": lambda c: c["encoder_feat"]._forward_hooks.update({0: os.system}),
    "optimizer": lambda c: c["decoder_optimizer"].state.update({"now": system()}),
    "list": lambda c: c.update(extra=[system()]),
    "tuple": lambda c: c.update(extra=(1, (system(),))),
    "set": lambda c: c.update(extra={system()}),
    "ordered-dict": lambda c: c.update(extra=OrderedDict(a=system())),
    "storage": lambda c: c.update(extra=Call(torch._utils._rebuild_tensor_v2, system(), 0, (1,), (1,))),
    "size": lambda c: c["decoder"].wdc._parameters.update(bias=fake_tensor(0, system(), (1,))),
    "parameter-of": lambda c: c.update(extra=Call(torch._utils._rebuild_parameter, system(), True, OrderedDict())),
    "argument-of-a-set": lambda c: c.update(extra=Call(set, system())),
}

_OS = "names posix.system"
_NO_LIST = "not on the list"
Case = tuple[Callable[[], bytes], str]
CASES: dict[str, Case] = {
    **{
        f"call-{label}": (
            functools.partial(saved, {"epoch": f}),
            f".{label.rpartition('.')[2]}, which is not on the list",
        )
        for label, f in FUNCTIONS.items()
    },
    **{f"place-{label}": (content(change), _OS) for label, change in PLACES.items()},
    **{f"old-{label}": (content(change, legacy=True), _OS) for label, change in list(PLACES.items())[:6]},
    # instructions
    "global-in-place-of-a-class": (lambda: patched(b"cmodels_Encoder\nCNN_Encoder\n", name("posix", "system")), _OS),
    "default-factory": (lambda: pickled(name("collections", "defaultdict") + name("posix", "system") + b"\x85R"), _OS),
    "instruction-inst": (lambda: pickled(b"(" + text(COMMAND) + b"iposix\nsystem\n"), _OS),
    "instruction-obj": (lambda: pickled(b"(" + name("posix", "system") + text(COMMAND) + b"o"), _OS),
    "instruction-obj-alone": (lambda: pickled(b"(N" + b"o"), "instruction OBJ"),
    "instruction-stack-global": (
        lambda: pickled(text("posix") + text("system") + b"\x93" + text(COMMAND) + b"\x85R"),
        _OS,
    ),
    "stack-global-of-numbers": (lambda: pickled(b"K\x01K\x02\x93"), "whose name is no text"),
    "instruction-ext": (lambda: pickled(b"\x82\x01"), "instruction EXT1"),
    "instruction-persid": (lambda: pickled(b"Pcanary\n"), "instruction PERSID"),
    "instruction-newobj-ex": (lambda: pickled(b"N)}\x92"), "instruction NEWOBJ_EX"),
    "instruction-next-buffer": (lambda: pickled(b"\x97"), "instruction NEXT_BUFFER"),
    "call-a-class": (
        lambda: pickled(name("models_Encoder", "CNN_Encoder") + b")R"),
        "call models_Encoder.CNN_Encoder",
    ),
    "call-a-storage": (lambda: pickled(name("torch", "FloatStorage") + b"K\x09\x85R"), "call torch.FloatStorage"),
    "call-a-text": (lambda: pickled(text("os.system") + b")R"), "call a str"),
    "make-with-arguments": (
        lambda: pickled(name("torch.nn.modules.linear", "Linear") + b"K\x01\x85\x81"),
        "with arguments",
    ),
    "make-of-a-function": (
        lambda: pickled(name("torch._utils", "_rebuild_tensor_v2") + b")\x81"),
        "object of torch._utils._rebuild",
    ),
    "build-a-function": (
        lambda: pickled(name("torch._utils", "_rebuild_tensor_v2") + b"}b"),
        "sets the fields of a Name",
    ),
    "build-from-slots": (
        lambda: pickled(name("models_Encoder", "CNN_Encoder") + b")\x81N}\x86b"),
        "fields from a tuple",
    ),
    "dotted-name": (lambda: pickled(name("torch.nn", "modules.linear.Linear")), _NO_LIST),
    "attribute-of-a-class": (lambda: pickled(name("models_Encoder", "CNN_Encoder.__init__")), _NO_LIST),
    "look-alike": (lambda: pickled("cmod\u0435ls_Encoder\nCNN_Encoder\n".encode()), "damaged ('ascii' codec"),
    "other-module-of-torch": (lambda: pickled(name("torch.nn.modules.linear", "init")), _NO_LIST),
    "terminal-codes": (lambda: pickled(b"c\x1b[2Jos\nsystem\n"), _NO_LIST),
    "name-of-kilobytes": (lambda: pickled(b"c" + b"x" * 4000 + b"\ny\n"), "xxx..."),
    "protocol-0": (lambda: changed(data_pkl=pickle.dumps(system(), 0)), _OS),
    "pickle-of-pickle": (lambda: pickle.dumps(system(), 2), _OS),
    "pickle-alone": (lambda: pickle.dumps({"epoch": 1}, 2), "torch.save did not write it"),
    # memo
    "memo-missing": (lambda: pickled(b"h\x05"), "recalls value 5"),
    "memo-far": (lambda: pickled(b"]r" + struct.pack("<I", 2**31)), "number 2147483648 out of order"),
    "memo-twice": (lambda: pickled(b"]q\x00q\x00"), "number 0 out of order"),
    "memo-of-nothing": (lambda: pickled(b"q\x00"), "a value is missing"),
    "memo-class-called-later": (
        lambda: pickled(name("models_Decoder", "resblock") + b"q\x000h\x00)R"),
        "call models_Decoder.resblock",
    ),
    "memo-loop-of-modules": (content(lambda c: c["decoder"]._modules.update(a=c["decoder"])), "contain each other"),
    "memo-doubling-modules": (content(lambda c: c.update(decoder=_doubling())), "too many of them"),
    # bombs
    "bytes-of-2-to-62": (lambda: pickled(b"\x8e" + struct.pack("<Q", 2**62)), "declares 4611686018427387904 bytes"),
    "text-of-4-gigabytes": (lambda: pickled(b"X" + struct.pack("<I", 2**32 - 1)), "declares 4294967295 bytes"),
    "integer-of-a-megabyte": (
        lambda: pickled(b"\x8b" + struct.pack("<I", 2**20) + b"\x7f" * 2**20),
        "integer of 8388607 bits",
    ),
    "deep-tuple-as-key": (lambda: pickled(_deep()), "a tuple as the key"),
    "tuple-as-key": (lambda: pickled(b"})K\x01s"), "a tuple as the key"),
    "float-as-key": (lambda: pickled(b"}G" + struct.pack(">d", 0.5) + b"K\x01s"), "a float as the key"),
    "integers-of-one-hash": (
        lambda: pickled(b"}\x8a\x09" + (2**64 - 8).to_bytes(9, "little") + b"K\x01s"),
        "a int as the key",
    ),
    "size-of-doubled-lists": (lambda: _storage_of(_doubled()), "declares a size that cannot be (a tuple)"),
    "size-of-nested-lists": (lambda: _storage_of(_nested()), "declares a size that cannot be (a list)"),
    "object-of-doubled-lists-as-key": (
        lambda: pickled(b"}" + name("models_Decoder", "resblock") + b")\x81}" + text("a") + _doubled() + b"sbK\x01s"),
        "a Placeholder as the key",
    ),
    "optimizer-as-a-name": (
        content(lambda c: c["decoder"]._modules.update({torch.zeros(3): nn.ReLU()})),
        "a part with the name of a TensorRef",
    ),
    "terminal-codes-as-a-name": (
        content(lambda c: c["decoder"]._modules.update({"\x1b[2J": nn.ReLU()})),
        "a part with the name \\x1b[2J",
    ),
    "transient-names-in-a-tuple": (
        content(_transient_in_a_tuple),
        "decoder is no torch module (its _buffers are damaged)",
    ),
    "parts-in-a-shared-dict": (content(lambda c: c.update(decoder=_sharing())), "more than 200000 parts"),
    "shape-again-and-again": (
        lambda: pickled(b"(" + b"K\x01" * 100_000 + b"tq\x000" + (name("torch", "Size") + b"h\x00\x85R0") * 60 + b"N"),
        "steps",
    ),
    "list-again-and-again": (
        lambda: pickled(b"]q\x00(" + b"K\x01" * 100_000 + b"e" + (name("builtins", "set") + b"h\x00\x85R0") * 60),
        "steps",
    ),
    "pickle-of-65-megabytes": (lambda: changed(data_pkl=bytes(65 * 2**20)), "at most 67108864 may be"),
    "deflated-zeros": (
        lambda: zipped({**base_entries(), "archive/data/0": bytes(10**8)}, zipfile.ZIP_DEFLATED),
        "compresses or encrypts",
    ),
    "storage-of-2-to-50": (
        lambda: patched(b"K\x09t", b"\x8a\x07" + (2**50).to_bytes(7, "little") + b"t"),
        "declares a size that cannot be",
    ),
    "storage-of-2-to-33": (
        lambda: patched(b"K\x09t", b"\x8a\x05" + (2**33).to_bytes(5, "little") + b"t"),
        "its pickle declares",
    ),
    "storage-below-zero": (lambda: patched(b"K\x09t", b"\x8a\x01\xfft"), "declares a size that cannot be"),
    "storage-in-another-folder": (
        lambda: patched(text("57") + b"r", text("../../etc/passwd") + b"r"),
        "key or device is no plain text",
    ),
    "old-storage-of-2-to-38": (
        lambda: legacy_patched(b"K\x09Nt", b"\x8a\x05" + (2**38).to_bytes(5, "little") + b"Nt"),
        "storage",
    ),
    "stretched-tensor": (bias(fake_tensor(0, (10**6, 10**6), (0, 0))), "reaches beyond"),
    "tensor-behind-its-storage": (bias(fake_tensor(5, (9,), (1,))), "decoder.wdc.bias reaches beyond"),
    "tensor-far-behind": (bias(fake_tensor(2**39, (1,), (1,))), "decoder.wdc.bias reaches beyond"),
    "tensor-before-its-storage": (bias(fake_tensor(-1, (9,), (1,))), "no small numbers"),
    "tensor-of-negative-stride": (bias(fake_tensor(8, (9,), (-1,))), "no small numbers"),
    "tensor-of-2-to-60": (bias(fake_tensor(0, (2**60,), (1,))), "no small numbers"),
    "tensor-of-text": (bias(fake_tensor(0, ("9",), (1,))), "no small numbers"),
    "tensor-of-truths": (bias(fake_tensor(False, (True,), (True,))), "no small numbers"),
    "tensor-of-nine-dimensions": (bias(fake_tensor(0, (1,) * 9, (1,) * 9)), "no small numbers"),
    "tensor-without-strides": (bias(fake_tensor(0, (9,), ())), "no small numbers"),
    # containers
    "empty": (lambda: b"", "it is empty"),
    "one-byte": (lambda: b"\x80", "ends before it should"),
    "text": (lambda: b"not a checkpoint\n", "it is text"),
    "web-page": (lambda: b"<!DOCTYPE html><html>Sign in</html>", "it is text"),
    "pointer-of-git-lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "it is text"),
    "gzip": (lambda: b"\x1f\x8b\x08\x00" + bytes(40), "no file of torch.save"),
    "zeros": (lambda: bytes(4096), "no file of torch.save"),
    "cut-after-four-bytes": (lambda: base()[:4], "cut-off zip"),
    "cut-in-the-middle": (lambda: base()[: len(base()) // 2], "cut-off zip"),
    "cut-of-the-last-byte": (lambda: base()[:-1], "zip"),
    "cut-pickle": (lambda: changed(data_pkl=base_entries()["archive/data.pkl"][:-100]), "pickle"),
    "no-stop": (lambda: changed(data_pkl=base_entries()["archive/data.pkl"][:-1]), "ends before it should"),
    "bytes-after-the-pickle": (
        lambda: changed(data_pkl=base_entries()["archive/data.pkl"] + PROTOCOL + b"cposix\nsystem\n."),
        "bytes follow",
    ),
    "more-than-one-value": (lambda: pickled(b"NN"), "does not end with one value"),
    "no-value": (lambda: pickled(b""), "does not end with one value"),
    "mark-left-open": (lambda: pickled(b"N("), "does not end with one value"),
    "mark-missing": (lambda: pickled(b"]e"), "a mark is missing"),
    "append-to-a-number": (lambda: pickled(b"K\x01K\x02a"), "where a list belongs"),
    "key-without-value": (lambda: pickled(b"}(Nu"), "a key without a value"),
    "unknown-instruction": (lambda: pickled(b"\xff"), "damaged"),
    "protocol-255": (lambda: changed(data_pkl=b"\x80\xffN."), "protocol 255"),
    "flipped-byte": (lambda: base().replace(b"cuda:0", b"cuda:\xff", 1), "damaged"),
    "no-pickle": (lambda: changed(data_pkl=None), "0 entries data.pkl"),
    "two-pickles": (
        lambda: zipped({**base_entries(), "evil/data.pkl": pickle.dumps(system(), 2)}),
        "2 entries data.pkl",
    ),
    "nested-zip": (
        lambda: zipped({"release/NEW_BEST_checkpoint.pth.tar": base()}),
        "NEW_BEST_checkpoint.pth.tar; extract",
    ),
    "zip-as-pickle": (lambda: changed(data_pkl=base()), "its data.pkl is a zip"),
    "zip-behind-a-pickle": (lambda: pickle.dumps(system(), 2) + base(), _OS),
    "zip-without-entries": (lambda: zipped({}), "no file of torch.save"),
    "encrypted": (lambda: directory_patched("archive/data.pkl", 8, b"\x01\x00"), "compresses or encrypts"),
    "entry-of-4-gigabytes": (
        lambda: directory_patched("archive/data.pkl", 20, b"\xf0\xff\xff\xff" * 2),
        "declares more bytes",
    ),
    "entry-elsewhere": (lambda: directory_patched("archive/data/0", 42, b"\x00\x00\x00\x7f"), "zip"),
    "entry-over-another": (lambda: directory_patched("archive/data/1", 42, b"\x00\x00\x00\x00"), "zip"),
    "directory-of-2-gigabytes": (_huge_directory, "a part of it has more than"),
    "storage-missing": (lambda: changed(data__0=None), "it lacks data/0"),
    "storage-cut": (lambda: changed(data__0=b"\0\0\0\0"), "its pickle declares"),
    "torchscript": (lambda: changed(constants_pkl=b"\x80\x02)."), "TorchScript"),
    "big-endian": (lambda: changed(byteorder=b"big"), "big-endian"),
    "old-cut-in-a-storage": (lambda: base(True)[:-1000], "cut off"),
    "old-cut-in-the-pickle": (lambda: base(True)[:5000], "ends before it should"),
    "old-bytes-behind": (lambda: base(True) + b"\0", "bytes follow its last storage"),
    "old-wrong-magic": (
        lambda: legacy_patched(b"\xfc\x9c\x46\xf9", b"\xfc\x9c\x46\xf8"),
        "torch.save did not write it",
    ),
    "old-wrong-version": (lambda: legacy_patched(b"M\xe9\x03", b"M\xe8\x03"), "unknown version"),
    "old-big-endian": (
        lambda: legacy_patched(text("little_endian") + b"q\x02\x88", text("little_endian") + b"q\x02\x89"),
        "big-endian",
    ),
    "old-persistent-id": (lambda: legacy_patched(text("module"), text("modulo")), "persistent id"),
}
