"""Pages, frames, arrays in files and whatever stands in the place of an image or a pair: read, or one sentence."""

import io
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys.tiffs import MASK, REDUCED, SUBFILE, write_tiff

from rscc_hf.processing.change_pair_images import PairError
from rscc_hf.processing.image_processing_mmodalcc import MModalCCImageProcessor

SIZE = 24
DRAW = np.random.default_rng(0)
IMAGE = DRAW.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
OTHER = DRAW.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
SMALL = np.ascontiguousarray(IMAGE[::2, ::2])
FIRST = np.moveaxis(IMAGE, 2, 0)


@pytest.fixture
def processor():
    return MModalCCImageProcessor(size=SIZE, do_normalize=False, do_rescale=False)


def read(processor, before, **options):
    """(3, H, W) of an image, and what is noted about it."""
    batch = processor([[before, IMAGE]], return_notes=True, **options)
    return batch["pixel_values"][0, 0], [note["message"] for note in batch["notes"]]


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ([(SMALL, {SUBFILE: REDUCED}), (IMAGE, {})], r"2 pages.*reduced copy \(12x12\): page 2 was read \(24x24\)"),
        ([(SMALL, {255: 2}), (IMAGE, {})], "page 2 was read"),
        ([(SMALL, {}), (IMAGE, {})], "page 2 was read"),
        ([(SMALL[..., 0], {SUBFILE: MASK}), (SMALL, {SUBFILE: REDUCED}), (IMAGE, {})], "3 pages.*page 3 was read"),
        ([(SMALL, {SUBFILE: REDUCED}), (IMAGE, {SUBFILE: REDUCED})], "page 2 was read"),
        ([(IMAGE, {}), (OTHER, {})], r"2 pages: the first was read \(24x24\)"),
        ([(IMAGE, {}), (OTHER[:10], {})], "2 pages: the first was read"),
        ([(IMAGE, {}), (SMALL, {SUBFILE: REDUCED}), (SMALL[..., 0], {SUBFILE: MASK | REDUCED})], None),
        ([(IMAGE, {}), (SMALL, {})], None),
        ([(IMAGE, {SUBFILE: REDUCED})], None),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_page_that_is_the_image_is_read_and_told(processor, tmp_path, pages, words, order):
    path = write_tiff(tmp_path / "pages.tif", pages, order)
    for one in (path, path.read_bytes(), {"bytes": path.read_bytes(), "path": None}):
        pixels, notes = read(processor, one)
        assert np.array_equal(pixels, FIRST)
        if words is None:
            assert notes == []
        else:
            assert len(notes) == 1
            with pytest.raises(ValueError, match=words):
                raise ValueError(notes[0])
    assert str(path) in (read(processor, path)[1] or [str(path)])[0]


def test_an_image_of_pillows_stays_at_its_page_and_says_which(processor, tmp_path):
    image = Image.open(write_tiff(tmp_path / "pages.tif", [(SMALL, {SUBFILE: REDUCED}), (IMAGE, {})]))
    assert "2 pages: page 1 was read (12x12)" in read(processor, image)[1][0]
    image.seek(1)
    pixels, notes = read(processor, image)
    assert np.array_equal(pixels, FIRST) and "page 2 was read (24x24)" in notes[0]


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_the_first_frame_is_read_and_told(processor, tmp_path, kind):
    frames = [Image.fromarray(IMAGE), Image.fromarray(OTHER)]
    frames[0].save(tmp_path / f"moving.{kind}", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(tmp_path / f"still.{kind}", lossless=True)
    pixels, notes = read(processor, tmp_path / f"moving.{kind}")
    assert np.array_equal(pixels, read(processor, tmp_path / f"still.{kind}")[0])
    assert len(notes) == 1 and "has 2 frames: the first was read" in notes[0]
    assert read(processor, tmp_path / f"still.{kind}")[1] == []


def test_arrays_in_files_are_known_by_their_content(processor, tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.asfortranarray(IMAGE))
    content = stream.getvalue()
    for name in ("A.NPY", "a.npy", "a.png", "a"):
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(read(processor, tmp_path / name)[0], FIRST)
    for one in (content, bytearray(content), io.BytesIO(content), {"bytes": content, "path": "x.npy"}):
        assert np.array_equal(read(processor, one)[0], FIRST)
    np.savez(tmp_path / "a.npz", IMAGE)
    np.save(tmp_path / "objects.npy", np.array([None, 1], dtype=object), allow_pickle=True)
    np.save(tmp_path / "fields.npy", np.zeros((4, 4), dtype=[("red", "u1")]))
    np.save(tmp_path / "short.npy", IMAGE)
    (tmp_path / "short.npy").write_bytes((tmp_path / "short.npy").read_bytes()[:200])
    for name, words in {
        "a.npz": "is an archive",
        "objects.npy": "holds Python objects, which are not read",
        "fields.npy": "values of named fields",
        "short.npy": "cannot be read as a numpy array",
    }.items():
        for one in (tmp_path / name, (tmp_path / name).read_bytes()):
            with pytest.raises(PairError, match=words):
                read(processor, one)


class _Path:
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


class _Array:
    def __array__(self, dtype=None, copy=None):
        return IMAGE


def _forms(path):
    content = path.read_bytes()
    wide = np.dstack([IMAGE, OTHER])
    fixed = IMAGE.copy()
    fixed.flags.writeable = False
    return {
        "a path": path,
        "os.PathLike": _Path(str(path)),
        "PathLike of bytes": _Path(os.fsencode(path)),
        "numpy's string": np.str_(path),
        "bytearray": bytearray(content),
        "memoryview": memoryview(content),
        "a part of a memoryview": memoryview(b"x" + content)[1:],
        "big-endian": (IMAGE * np.uint16(257)).astype(">u2"),
        "big-endian floats": (IMAGE / 255).astype(">f8"),
        "read-only": fixed,
        "not contiguous": wide[:, :, :3],
        "turned": np.ascontiguousarray(IMAGE[::-1])[::-1],
        "Fortran order": np.asfortranarray(IMAGE),
        "masked, without masks": np.ma.array(IMAGE),
        "__array__": _Array(),
        "float16": torch.from_numpy(FIRST / 255).half(),
        "float64": torch.from_numpy(FIRST / 255),
        "uint16": torch.from_numpy(FIRST.astype(np.uint16) * 257),
        "with a gradient": (torch.from_numpy(FIRST.copy()) / 255).requires_grad_(),
        "a view": torch.from_numpy(wide).permute(2, 0, 1)[:3],
    }


def test_array_likes_of_one_image_are_read(tmp_path):
    processor = MModalCCImageProcessor(size=SIZE, do_normalize=False)
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    for name, one in _forms(tmp_path / "a.png").items():
        assert np.abs(processor([[one, IMAGE]])["pixel_values"][0, 0] * 255 - FIRST).max() < 1e-4, name
    half = processor([[torch.from_numpy(FIRST / 255).bfloat16(), IMAGE]])["pixel_values"][0, 0] * 255
    assert np.abs(half - FIRST).max() <= 1  # eight bits less the sign


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (np.ma.masked_equal(IMAGE, IMAGE[0, 0, 0]), "has masked values"),
        (IMAGE.astype(object), "values of type object"),
        (IMAGE.astype(complex), "values of type complex128"),
        (np.array("2020-01-01", dtype="datetime64[D]").repeat(16).reshape(4, 4), "values of type datetime64"),
        (np.array(["a.png"]), "values of type <U5"),
        (torch.from_numpy(IMAGE).to_sparse(), "a tensor without plain values"),
        (torch.empty(3, 4, 4, device="meta"), "a tensor without plain values"),
        (IMAGE.tolist(), "is a list"),
        ((row for row in IMAGE), "is a generator"),
        (np.int64(3), "is a int64"),
        (float("nan"), "is a float"),
        (IMAGE[:0], "has no pixels"),
        (np.full(IMAGE.shape, np.inf), "not finite"),
        (io.StringIO("text"), "open it with mode 'rb'"),
        (io.BytesIO(), r"is empty \(0 bytes\)"),
        ("s3://bucket/a.png", r"is an address \(s3://\), which is not fetched"),
        ("file:///tmp/a.png", "is an address"),
        ("HTTPS://example.org/a.png", "is not fetched unless it is asked for; give allow_web=True .* or download it"),
        ("http://example.org/a.png", "is an http address, which is not fetched"),
        ("https://u:secret@host.org/a.png?secret", r"before https://\*\*\*@host.org/a.png\?\.\.\. is an address"),
        (Path("https://example.org/a.png"), "a Path takes a slash out of an address; give it as a string"),
        ({"bytes": None, "path": "https://example.org/a.png"}, "give allow_web=True"),
        ("data:image/png;base64,iVBORw0KGgo=", r"data:image/png;base64,\.\.\. is not an image"),
        ("data:image/png,abc", "is not in base64"),
        ("a" * 5000, r"a\.\.\. is no path that can be opened"),
        ("a\0b", "is no path that can be opened"),
        (os.devnull, "is no regular file"),
        ({"bytes": None, "path": None}, "is missing"),
        ({"bytes": b"", "path": "a.png"}, r"a\.png is empty"),
        ({"image": IMAGE}, "is a dict"),
        (b"a.png", "is not an image"),
    ],
)
def test_what_is_no_image_gets_one_fitting_sentence(processor, one, words):
    with pytest.raises(PairError, match=words) as caught:
        read(processor, one)
    told = str(caught.value)
    assert told.startswith("Pair 0: image before ") and "\n" not in told and len(told) < 400


def test_files_that_are_closed_or_read_already(processor, tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        assert np.array_equal(read(processor, file)[0], FIRST) and file.tell() == 0
        file.read()
        with pytest.raises(PairError, match=r"a\.png was read to its end already"):
            read(processor, file)
    with pytest.raises(PairError, match=r"a\.png cannot be read \(.*closed"):
        read(processor, file)


def test_lists_of_pairs_in_any_form(processor, tmp_path):
    pandas = pytest.importorskip("pandas")
    paths = [str(tmp_path / f"{n}.png") for n in range(4)]
    for n, path in enumerate(paths):
        Image.fromarray(IMAGE + np.uint8(n)).save(path)
    before, after = paths[:2], paths[2:]
    expected = processor(list(zip(before, after, strict=True)))["pixel_values"]
    table = pandas.DataFrame({"before": before, "after": after})
    objects = np.empty((2, 2), dtype=object)
    objects[:] = [[Image.open(one), Path(other)] for one, other in zip(before, after, strict=True)]
    for form in (
        zip(before, after, strict=True),
        ([one, other] for one, other in zip(before, after, strict=True)),
        np.array([before, after]).T,
        objects,
        table.to_numpy(),
        [row for _, row in table.iterrows()],
        [np.array(pair) for pair in zip(before, after, strict=True)],
        {0: (before[0], after[0]), 1: (before[1], after[1])}.values(),
        tuple(zip(before, after, strict=True)),
    ):
        assert np.array_equal(processor(form)["pixel_values"], expected)
    one = processor(np.array([before[0], after[0]]), pair_ids=np.array(["west"]))["pixel_values"]
    assert np.array_equal(one, expected[:1])
    with pytest.raises(PairError, match=r"^Pair 'west': image after gone\.png"):
        processor([[before[0], "gone.png"]], pair_ids=pandas.Series(["west"]))
    for form, words in (
        (table, "is a DataFrame; give a list of pairs"),
        ({"before": before}, "is a dict; give a list"),
        ({before[0], after[0]}, "is a set; give a list"),
        (table.before.iloc[:1], "must be a list of pairs"),
        (before[0], "is a str; give a list"),
        (itertools.repeat(IMAGE, 3), "must be a list of pairs"),
        (7, "is a int"),
    ):
        with pytest.raises(ValueError, match=words):
            processor(form)
