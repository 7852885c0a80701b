"""Pickles are found by what they are, whatever they are called, and nothing else is taken for one."""

import bz2
import collections
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from rscc_hf.hub.pickles import pickle_in


class Evil:
    def __reduce__(self):
        return os.system, ("touch owned",)


def saved(value, zipped=True, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped, **options)
    return buffer.getvalue()


def zipped(name, content, first=b"hello"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", first)
        archive.writestr(name, content)
    return buffer.getvalue()


def tarred(*names_and_contents):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in zip(names_and_contents[::2], names_and_contents[1::2], strict=True):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def objects():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{1: 2}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def object_archive():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3), b=np.array([Evil], dtype=object))
    return buffer.getvalue()


EVIL = [pickle.dumps(Evil(), protocol) for protocol in range(6)]
PICKLES = {
    **{f"protocol {protocol}": content for protocol, content in enumerate(EVIL)},
    "weights": pickle.dumps({"a": [1.0, 2.0]}, 2),
    "ordered": pickle.dumps(collections.OrderedDict(a=1), 0),
    "torch": saved({"a": torch.zeros(3)}),
    "old torch": saved({"a": torch.zeros(3)}, zipped=False),
    "zip": zipped("inner/data.bin", EVIL[4]),
    "zip by name": zipped("archive/data.pkl", b"?"),
    "zip in zip": zipped("inner.zip", zipped("x", EVIL[0])),
    "tar": tarred("x.dat", EVIL[2]),
    "zip in tar": tarred("x.dat", zipped("y", EVIL[2])),
    "gzip": gzip.compress(EVIL[4]),
    "bz2": bz2.compress(EVIL[1]),
    "xz": lzma.compress(EVIL[3]),
    "zlib (joblib)": zlib.compress(EVIL[4]),
    "numpy objects": objects(),
    "numpy archive of objects": object_archive(),
    "zip behind a script": b"#!/bin/sh\nexit\n" + zipped("a", EVIL[4]),
    "cut protocol 0": pickle.dumps([Evil(), list(range(50_000))], 0),
    "late call": pickle.dumps([list(range(50_000)), Evil()], 0),
    "late call, protocol 1": pickle.dumps([list(range(50_000)), Evil()], 1),
    "behind a long line": b"V" + b"x" * 300_000 + b"\n0" + EVIL[0],
    "behind a long string": b"X" + (3_000_000).to_bytes(4, "little") + b"x" * 3_000_000 + b"0" + EVIL[1],
    "behind an endless nothing": b"N0" * 100_000 + EVIL[0],
    "nearly nothing": b"\x80\x04.",
    "PROTO 0": b"\x80\x00" + EVIL[0],
    "PROTO 1": b"\x80\x01cos\nsystem\n(S'touch owned'\ntR.",
    "without PROTO": b"\x8c\x05posix\x8c\x06system\x93\x8c\x0btouch owned\x85R.",
    "without an end": b"cos\nsystem\n(S'touch owned'\ntR",
    "instance": b"(S'touch owned'\nios\nsystem\n.",
    "several": pickle.dumps(1 << 70, 0) + pickle.dumps(7, 0) + pickle.dumps([1], 0),
    "old torch, protocol 0": saved({"a": torch.zeros(3)}, zipped=False, pickle_protocol=0),
    "zip in a long zip": zipped("inner.zip", zipped("x", EVIL[0], os.urandom(100_000))),
    "long tar, compressed": gzip.compress(tarred("a", os.urandom(100_000), "x.dat", EVIL[2])),
    "late in a compressed tar": gzip.compress(tarred("x.dat", pickle.dumps([list(range(50_000)), Evil()], 0))),
    "lzma": lzma.compress(EVIL[3], format=lzma.FORMAT_ALONE),
    "broken zip": zipped("a", EVIL[4])[:-30],
}


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("name", ["weights.bin", "notes.json"])
def test_a_pickle_is_found_under_any_name(tmp_path, monkeypatch, kind, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.write_bytes(PICKLES[kind])
    assert pickle_in(path) is not None
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["a.pkl", "b.pt", "c.PTH", "d.ckpt", "e.joblib"])
def test_what_is_called_a_pickle_counts_as_one(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert "named like a pickle" in pickle_in(tmp_path / name)


def png():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def plain_numbers():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3), b=np.array(["O", "text"]))
    return buffer.getvalue()


HARMLESS = {
    "empty": b"",
    "text": b"cats\nand\ndogs\n.",
    "two words": b"(see the notes below)\nSome lines.\nAnd more.\n",
    "prose": b"It was a pleasure. I am.\nGlad\n.",
    "json": json.dumps({"a": [1, 2, "(dp0\n."]}).encode(),
    "list": b"]",
    "yaml": b"seed: 1\ncaptions: flatten\n",
    "png": png(),
    "numbers": plain_numbers(),
    "zip of text": zipped("a.txt", b"nothing"),
    "gzip of text": gzip.compress(b"nothing at all"),
    "x": b"x" * 100,
    "letters": b"I\n.",
    "number": b"I1\n.",
    "a text that begins like a zip": b"PK is short for a name\n",
    "a text that begins like bz2": b"BZhello\n",
    "long line": b"Very long " + b"and longer " * 20_000,
    "long line of words": b"Programs " * 20_000,
    "word list": b"cat\ndog\n)\nRiver\n(\ntree\n" * 5_000,
    "long numbers": b"I1\nI2\nhello\n" * 10_000,
    "long tar, compressed": gzip.compress(tarred("a.txt", b"nothing", "b", os.urandom(200_000), "c", b"end")),
    "zip in a zip": zipped("inner.zip", zipped("x", b"nothing", os.urandom(100_000))),
    "cut gzip": gzip.compress(os.urandom(100_000))[:-50_000],
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_what_is_no_pickle_passes(tmp_path, kind):
    path = tmp_path / "file.dat"
    path.write_bytes(HARMLESS[kind])
    assert pickle_in(path) is None


@pytest.mark.parametrize("length", range(600, 700))
def test_no_length_of_a_safetensors_header_looks_like_a_pickle(tmp_path, length):
    """A header of 640 bytes begins with the two bytes of a pickle of protocol 2."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b'{"__metadata__":{"format":"pt"}}'.ljust(length))
    assert pickle_in(path) is None


def test_saved_weights_pass(tmp_path):
    save_file({"a": torch.zeros(100, 100)}, tmp_path / "model.safetensors")
    assert pickle_in(tmp_path / "model.safetensors") is None


def test_code_and_settings_of_this_package_are_no_pickles(tmp_path):
    root = Path(__file__).parents[2]
    texts = [path for kind in ("py", "md", "toml", "yaml") for path in root.glob(f"[!.]*/**/*.{kind}")]
    assert len(texts) > 100
    for path in [*texts, *root.glob("*.md")]:
        assert pickle_in(path) is None, path


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_prose_is_no_pickle(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "prose.md"
    path.write_text("Some notes: " + text)
    assert pickle_in(path) is None


WORD = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


@settings(max_examples=400, deadline=None)
@given(lines=st.lists(WORD, min_size=1, max_size=20), ending=st.sampled_from(["\n", "\r\n", " "]))
def test_lines_of_ascii_are_no_pickle(tmp_path_factory, lines, ending):
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_text(ending.join(lines), newline="")
    assert pickle_in(path) is None


@settings(max_examples=200, deadline=None)
@given(first=st.sampled_from("(cilIFLSVNdgpt]})PQRabejoqrsu0128"), words=st.lists(WORD, min_size=2, max_size=6))
def test_long_texts_of_any_beginning_are_no_pickles(tmp_path_factory, first, words):
    path = tmp_path_factory.getbasetemp() / "long.txt"
    path.write_text((first + "\n".join(["", *words]) + " and so on, ") * 4000, newline="")
    assert pickle_in(path) is None


@settings(max_examples=150, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=20,
    ),
    protocol=st.integers(0, 5),
    padding=st.sampled_from([None, "x" * 100_000, list(range(30_000)), b"y" * 100_000]),
)
def test_every_pickle_is_found(tmp_path_factory, value, protocol, padding):
    """In protocols 0 and 1 every one of a container: a bare `I1` and a full stop is text as well."""
    path = tmp_path_factory.getbasetemp() / "anything"
    whole = value if padding is None and protocol > 1 else [padding, value, collections.OrderedDict()]
    path.write_bytes(pickle.dumps(whole, protocol))
    assert pickle_in(path) == "is a pickle"
