"""Which values become black and white: told or refused where it is not known, and alike for both dates."""

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toys.tiffs import PHOTOMETRIC, PLANES, write_tiff

from rscc_hf.processing.change_pair_images import PairError
from rscc_hf.processing.image_processing_ccexpert import CCExpertImageProcessor
from rscc_hf.processing.image_processing_mmodalcc import MModalCCImageProcessor

REAL = Path(__file__).resolve().parents[2] / "../shared/real"
SIZE = 24
DRAW = np.random.default_rng(0)
EIGHT = DRAW.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
TWELVE = DRAW.integers(0, 4096, (SIZE, SIZE, 3)).astype(np.uint16)
FULL = DRAW.integers(0, 65536, (SIZE, SIZE, 3)).astype(np.uint16)


@pytest.fixture
def processor():
    return MModalCCImageProcessor(size=SIZE, do_normalize=False)


def read(processor, before, after=None, **options):
    """(2, 3, H, W) uint8 of one pair, and its notes."""
    batch = processor(
        [[before, before if after is None else after]], return_notes=True, return_tensors="np", **options
    )
    pixels = batch["pixel_values"][0]
    assert np.array_equal(np.rint(pixels * 255) / 255, pixels) or not options.get("do_rescale", True)
    return np.rint(pixels * 255).astype(np.uint8), [note["message"] for note in batch["notes"]]


def by_hand(array, low, high):
    scaled = np.rint((np.clip(array.astype(np.float64), low, high) - low) * 255.0 / (high - low))
    return np.moveaxis(scaled, 2, 0)


@pytest.mark.parametrize("kind", ["<u2", ">u2", "i2", "i4", ">i4", "u4", "i8", "u8", "f4", "f8", ">f8"])
def test_a_range_means_the_same_in_every_type(processor, kind):
    for low, high in ((0, 4095), (100, 3000), (-50, 10000), (0.5, 4000.5)):
        pixels, notes = read(processor, TWELVE.astype(kind), value_range=(low, high))
        assert np.abs(pixels[0] - by_hand(TWELVE, low, high)).max() <= (0 if isinstance(low, int) else 1)
        assert not [note for note in notes if "cut off" not in note]
    assert np.array_equal(
        read(processor, torch.from_numpy(TWELVE.astype(np.int32)), value_range=[0, 4095])[0][1],
        by_hand(TWELVE, 0, 4095),
    )


@settings(deadline=None, max_examples=30)
@given(st.integers(-(2**40), 2**40), st.integers(1, 2**41), st.integers(0, 10**6))
def test_any_range_is_monotonous_saturates_and_reaches_black_and_white(low, width, seed):
    draw = np.random.default_rng(seed)
    values = np.sort(draw.integers(low - width, low + 2 * width, SIZE * SIZE)).reshape(SIZE, SIZE)
    values[0, 0], values[-1, -1] = min(low, values[0, 0]), max(low + width, values[-1, -1])
    processor = MModalCCImageProcessor(size=SIZE, do_normalize=False, value_range=(low, low + width))
    pixels, _ = read(processor, values)
    grey = pixels[0, 0].reshape(-1).astype(int)
    assert (np.diff(grey) >= 0).all() and grey[0] == 0 and grey[-1] == 255
    assert (grey[values.reshape(-1) <= low] == 0).all() and (grey[values.reshape(-1) >= low + width] == 255).all()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (TWELVE, r"uint16 from \d+ to 409\d.*0,65535.*0,4095"),
        (TWELVE.astype(">u2"), r"uint16 from \d+ to 409\d"),
        (TWELVE[..., 0], "uint16"),
        (EIGHT.astype(np.uint16), r"uint16 from 0 to 255.*for example 0,255"),
        (EIGHT.astype(np.uint16) // 128, "uint16 from 0 to 1"),
        (np.full_like(FULL, 300), "uint16 from 300 to 300"),
        (np.where(DRAW.random(FULL.shape) < 0.3, 65535, TWELVE).astype(np.uint16), "almost black"),  # 65535: no data
        (EIGHT.astype(np.int32), r"int32 from 0 to 255.*for example 0,255"),
        (EIGHT.astype(np.int64), "int64 from 0 to 255"),
        (np.where(TWELVE > 4000, -9999, TWELVE).astype(np.int16), r"int16 from -9999 to \d+"),
        (FULL.astype(np.uint32) * 65537, "uint32 from"),
        (EIGHT.astype(np.int8), "int8"),
        (torch.from_numpy(EIGHT.astype(np.int16)), "int16"),
        (torch.from_numpy(TWELVE), "uint16"),
        (EIGHT.astype(np.float32), "float.*from 0 to 255.*scale them to 0..1"),
        (TWELVE.astype(np.float64), "floating-point values"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_what_is_not_known_is_refused_with_its_remedy(processor, values, words, place):
    pair = [EIGHT, EIGHT]
    pair[place] = values
    for one in (processor, CCExpertImageProcessor(size={"height": SIZE, "width": SIZE})):
        with pytest.raises(PairError, match=words) as caught:
            one([pair], pair_ids=["p7"])
        told = str(caught.value)
        assert told.startswith(f"Pair 'p7': image {('before', 'after')[place]} ") and "\n" not in told
        assert "value_range=(LOW, HIGH)" in told and "--value-range" in told


def _files(folder):
    """Files of 12-bit values in 16 and 32 bits, as other programs write them."""
    grey = TWELVE[..., 0]
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(grey).save(folder / "grey.tif")
    Image.fromarray(grey).save(folder / "lzw.tif", compression="tiff_lzw")
    for kind in ("u2", "i2", "i4", "u4"):
        write_tiff(folder / f"{kind}.tif", [(grey.astype(kind), {})])
        if kind != "u4":  # which Pillow does not read
            write_tiff(folder / f"{kind}b.tif", [(grey.astype(kind), {})], order=">")
    for order in "<>":
        write_tiff(folder / f"rgb{ord(order)}.tif", [(TWELVE, {})], order=order)
        write_tiff(folder / f"four{ord(order)}.tif", [(np.dstack([TWELVE, grey]), {})], order=order)
    for bands, name in ((3, "rgb.png"), (4, "rgba.png")):
        (folder / name).write_bytes(_png16(TWELVE if bands == 3 else np.dstack([TWELVE, grey])))
    return sorted(folder.iterdir())


def _png16(array):
    """A PNG of 16-bit colours, which Pillow reads and does not write."""
    height, width, bands = array.shape
    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[bands], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    crc = [struct.pack(">I", zlib.crc32(name + content)) for name, content in parts]
    chunks = [struct.pack(">I", len(content)) + name + content + crc[n] for n, (name, content) in enumerate(parts)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_files_are_read_in_all_of_their_bits_or_refused(processor, tmp_path):
    for path in _files(tmp_path):
        for given_as in (path, path.read_bytes(), Image.open(path)):
            with pytest.raises(PairError, match=r"u?int(16|32) from \d+ to 409\d.*value_range"):
                processor([[given_as, EIGHT]])
        pixels, _ = read(processor, path, value_range=(0, 4095))
        expected = by_hand(TWELVE, 0, 4095)
        grey = path.name[:1] in "gliu"
        assert np.array_equal(pixels[0], np.stack([expected[0]] * 3) if grey else expected), path.name


def test_sixteen_bit_colours_are_read_as_arrays_are(processor, tmp_path):
    expected = read(processor, FULL)[0]
    (tmp_path / "a.png").write_bytes(_png16(FULL))
    for order in "<>":
        assert np.array_equal(read(processor, write_tiff(tmp_path / "a.tif", [(FULL, {})], order=order))[0], expected)
    assert np.array_equal(read(processor, tmp_path / "a.png", Image.open(tmp_path / "a.png"))[0], expected)
    with pytest.raises(PairError, match="a plane for each colour"):
        processor([[write_tiff(tmp_path / "planes.tif", [(FULL, {PLANES: 2})]), FULL]])
    eight = write_tiff(tmp_path / "planes8.tif", [(EIGHT, {PLANES: 2})])
    assert np.array_equal(read(processor, eight)[0][0], np.moveaxis(EIGHT, 2, 0))
    with pytest.raises(PairError, match="zero is white"):
        processor([[write_tiff(tmp_path / "white.tif", [(FULL[..., 0], {PHOTOMETRIC: 0})]), FULL]])


def _jpeg2000(array, bits, signed=False, **options):
    """A JPEG 2000 of numbers of so many bits: Pillow writes 8 and 16, the head then says another number.

    Args:
        array: (H, W), or (H, W, 3) uint8, whose numbers then become others.
        bits: From 9 to 16.
        signed: Whether the numbers have a sign.
        **options: Of Pillow; `no_jp2` for the mere codestream.
    """
    stream = io.BytesIO()
    if array.ndim == 2:  # they are stored less the middle of their range
        array = (array.astype(np.int64) + 2**15 - (0 if signed else 2 ** (bits - 1))).astype(np.uint16)
    Image.fromarray(array).save(stream, "JPEG2000", **options)
    content = bytearray(stream.getvalue())
    size = bits - 1 | (0x80 if signed else 0)
    place = content.index(b"\xff\x4f\xff\x51") + 42
    for band in range(1 if array.ndim == 2 else 3):
        content[place + 3 * band] = size
    if b"ihdr" in content:
        content[content.index(b"ihdr") + 14] = size
    return bytes(content)


@pytest.mark.parametrize("no_jp2", [False, True])
@pytest.mark.parametrize("bits", [10, 12, 15, 16])
def test_jpeg2000_is_read_in_its_own_numbers(processor, bits, no_jp2):
    values = DRAW.integers(0, 2**bits, (SIZE, SIZE)).astype(np.uint16)
    content = _jpeg2000(values, bits, no_jp2=no_jp2)
    for span in ((0, 2**bits - 1), (100, 800)):
        expected, _ = read(processor, values, value_range=span)
        assert np.array_equal(read(processor, content, value_range=span)[0], expected)
        if span[0] == 0:
            assert np.array_equal(read(processor, content)[0], expected)
    dark = _jpeg2000(values % 2 ** (bits - 3), bits, no_jp2=no_jp2)
    with pytest.raises(PairError, match=rf"uint16.* from 0,{2**bits - 1}, all that its bits hold, .*value_range"):
        processor([[dark, EIGHT]])
    numbers = (values.astype(np.int32) - 2 ** (bits - 1)).astype(np.int16)
    content = _jpeg2000(numbers, bits, signed=True, no_jp2=no_jp2)
    expected, _ = read(processor, numbers, value_range=(-100, 300))
    assert np.array_equal(read(processor, content, value_range=(-100, 300))[0], expected)
    with pytest.raises(PairError, match="values of type int16 from -"):
        processor([[content, EIGHT]])


def test_jpeg2000_that_pillow_cuts_is_refused(processor, tmp_path):
    for bits in (9, 12, 16):
        (tmp_path / "a.jp2").write_bytes(_jpeg2000(EIGHT, bits))
        for one in (tmp_path / "a.jp2", _jpeg2000(EIGHT, bits, no_jp2=True)):
            with pytest.raises(PairError, match=f"JPEG 2000 file of {bits} bits and several bands, which Pillow cuts"):
                processor([[one, EIGHT]])
    with pytest.raises(PairError, match="JPEG 2000 file of 9 bits, which Pillow cuts"):  # it takes them for 8
        processor([[_jpeg2000(EIGHT[..., 0].astype(np.uint16), 9), EIGHT]])
    Image.fromarray(EIGHT).save(tmp_path / "eight.jp2")
    assert np.array_equal(read(processor, tmp_path / "eight.jp2")[0][0], np.moveaxis(EIGHT, 2, 0))


@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
@pytest.mark.parametrize("top", [300, 4095, 65535])
def test_portable_maps_are_read_in_their_own_numbers(processor, kind, top):
    values = DRAW.integers(0, top + 1, (SIZE, SIZE, 3)).astype(np.uint16)
    values[0, 0] = top
    values = values if kind in ("P3", "P6") else values[..., 0]
    plain = "\n".join(map(str, values.reshape(-1))).encode() + b" # the end\n"
    head = f"{kind}\n# a remark\n{SIZE} {SIZE}\n{top}\n".encode()
    content = head + (plain if kind in ("P2", "P3") else values.astype(">u2").tobytes())
    for span in ((0, top), (100, 250)):
        expected, _ = read(processor, values, value_range=span)
        assert np.array_equal(read(processor, content, value_range=span)[0], expected)
        if span[0] == 0:
            assert np.array_equal(read(processor, content)[0], expected)
    with pytest.raises(PairError, match="is truncated or damaged"):
        processor([[content[: len(head) + 100], EIGHT]])
    if top < 65535:
        with pytest.raises(PairError, match=r"damaged \(it has numbers outside of its range 0\.\.299\)"):
            processor([[content.replace(f"{top}".encode(), b"299", 1), EIGHT]])


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (FULL, {}, None),
        (FULL, {"value_range": (0, 65535)}, None),
        (TWELVE, {"value_range": (0, 4095)}, None),
        (TWELVE, {"uint16_max": 4095}, None),
        (np.zeros_like(FULL), {}, None),
        (np.full_like(FULL, 65535), {}, None),
        (np.full_like(FULL, 40000), {}, None),
        (np.where(FULL > 30000, 65535, 0).astype(np.uint16), {}, None),
        (EIGHT, {}, None),
        (EIGHT // 100, {}, None),
        (EIGHT / 255, {}, None),
        (EIGHT > 9, {}, None),
        (FULL % 300 + np.uint16(30000), {}, "uint16 from 30000 to 30299.* 1 of 255 greys in 0,65535"),
        (TWELVE, {"value_range": (0, 65535)}, "uint16 .*almost black in 0,65535"),
        (TWELVE, {"uint16_max": 60000}, "almost black in 0,60000"),
        (EIGHT / 65025, {}, "float64 .*almost black in 0,1"),
        (EIGHT / 255, {"value_range": (0, 10000)}, "float64 from 0 to 1, almost black in 0,10000"),
        (TWELVE, {"value_range": (0, 2000)}, r"\d+% of them outside of 0,2000"),
        (np.where(TWELVE > 2000, -9999, TWELVE).astype(np.int16), {"value_range": (0, 2000)}, r"int16 from -9999 .*%"),
        (EIGHT, {"value_range": (0, 10000)}, "uint8 and taken as they are"),
        (EIGHT, {"value_range": (0, 255)}, None),
    ],
)
def test_notes_are_made_where_something_matters(processor, values, options, words):
    _, notes = read(processor, values, **options)
    if words is None:
        assert notes == []
    else:
        assert notes and all(re.search(words, note) for note in notes), notes


def test_two_dates_of_two_types_are_noted_where_their_ranges_differ(processor):
    for after, options, told in (
        (FULL, {}, "uint16 (read from 0,65535)"),
        (TWELVE, {"value_range": (0, 4095)}, "uint16 (read from 0,4095)"),
        (EIGHT / 255, {}, "float64 (read from 0,1)"),
    ):
        pixels, notes = read(processor, EIGHT, after, **options)
        assert np.array_equal(pixels[0], np.moveaxis(EIGHT, 2, 0))
        assert len(notes) == 1 and "its image before is uint8 and its image after" in notes[0] and told in notes[0]
    assert read(processor, TWELVE.astype(np.int16), TWELVE.astype(np.float32), value_range=(0, 4095))[1] == []
    with pytest.raises(PairError, match="image before"):  # a range each would be a change of exposure
        processor([[TWELVE, FULL]])


def test_maps_keep_their_colours_in_any_number_of_bits(processor, tmp_path):
    colours = np.array([[128, 0, 0], [0, 0, 255], [0, 128, 0]], dtype=np.uint8)[DRAW.integers(0, 3, (SIZE, SIZE))]

    def maps(one, **options):
        batch = processor([[EIGHT, EIGHT]], semantic_maps=[[one, colours]], do_rescale=False, **options)
        return batch["semantic_values"][0]

    for one in (
        colours.astype(np.uint16),
        colours.astype(np.int64),
        colours.astype(">u2") * 257,
        colours.astype(np.uint16) * 256,
        torch.from_numpy(colours.astype(np.int32)),
        _png16(colours.astype(np.uint16) * 257),
    ):
        for options in ({}, {"value_range": (0, 10000)}, {"uint16_max": 4095}):
            assert np.array_equal(maps(one, **options)[0], maps(one, **options)[1])
    classes = DRAW.integers(0, 7, (SIZE, SIZE))
    for one in (classes.astype(np.uint16), classes, Image.fromarray(classes.astype(np.int32))):
        with pytest.raises(PairError, match=r"looks like class numbers"):
            maps(one)
    with pytest.raises(PairError, match=r"semantic map before .*no colours"):
        maps(TWELVE)


def test_a_ready_batch_is_checked_as_images_are(processor):
    images = torch.from_numpy(np.moveaxis(np.stack([[EIGHT, EIGHT]] * 2), 4, 2).copy())
    classes = images.clone()
    classes[1, 1] = torch.from_numpy(DRAW.integers(0, 7, (SIZE, SIZE)).astype(np.uint8))
    with pytest.raises(PairError, match=r"Pair 1: semantic map after .*class numbers"):
        processor(images, semantic_maps=classes)
    with pytest.raises(PairError, match="larger than the limit"):
        processor(images, do_resize=False, max_image_pixels=100)
    with pytest.raises(PairError, match="masked values"):
        processor(np.ma.masked_equal(images.numpy(), 3))
    with pytest.raises(PairError, match="int16"):
        processor(images.to(torch.int16))
    fixed = images.numpy().copy()
    fixed.flags.writeable = False
    assert np.array_equal(processor(fixed)["pixel_values"], processor(images, return_tensors="np")["pixel_values"])


@pytest.mark.parametrize(
    "value", [(1, 1), (5, 1), (0, float("nan")), (0, float("inf")), "0,5", 5, (0, 1, 2), (True, 2), ("0", "5"), {0, 5}]
)
def test_what_is_no_range_is_refused(processor, value):
    with pytest.raises(ValueError, match=r"value_range is .*; give two numbers"):
        processor([[TWELVE, TWELVE]], value_range=value)
    with pytest.raises(ValueError, match=r"value_range is .*; give two numbers"):
        MModalCCImageProcessor(value_range=value)


def test_one_range_for_all_of_a_call(tmp_path):
    with pytest.raises(ValueError, match=r"value_range is \(0, 4095\) and uint16_max is 1000; give value_range alone"):
        CCExpertImageProcessor(value_range=(0, 4095), uint16_max=1000)
    for wrong in (0, -5, 2.5, True):
        with pytest.raises(ValueError, match="uint16_max is"):
            CCExpertImageProcessor(uint16_max=wrong)
    # what a call says goes before what was saved, in either form
    older = MModalCCImageProcessor(size=SIZE, do_normalize=False, uint16_max=10000)
    newer = MModalCCImageProcessor(size=SIZE, do_normalize=False, value_range=(0, 10000))
    for one in (older, newer):
        assert np.array_equal(read(one, TWELVE)[0][0], by_hand(TWELVE, 0, 10000))
        for options in ({"value_range": (0, 4095)}, {"uint16_max": 4095}):
            assert np.array_equal(read(one, TWELVE, **options)[0][0], by_hand(TWELVE, 0, 4095))
    assert np.array_equal(read(older, EIGHT / 255)[0][0], np.moveaxis(EIGHT, 2, 0))  # as before: of 16 bits alone
    with pytest.raises(PairError, match="almost black"):
        read(newer, TWELVE, value_range=None)
    for one in (older, newer):  # the default is as good as any other value where a call says it
        assert np.array_equal(read(one, FULL, uint16_max=65535)[0][0], by_hand(FULL, 0, 65535))
    with pytest.raises(ValueError, match=r"value_range is \(0, 4095\) and uint16_max is 65535; give"):
        read(newer, TWELVE, value_range=(0, 4095), uint16_max=65535)
    newer.save_pretrained(tmp_path)
    loaded = MModalCCImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == newer.to_dict()
    assert np.array_equal(read(loaded, TWELVE)[0], read(newer, TWELVE)[0])
    assert "value_range" not in MModalCCImageProcessor().to_dict()


def test_floats_that_are_not_rescaled_pass_unless_there_is_a_range():
    processor = MModalCCImageProcessor(size=SIZE, do_rescale=False, do_normalize=False)
    decibels = DRAW.normal(-12, 4, (SIZE, SIZE, 3)).astype(np.float32)
    assert np.array_equal(processor([[decibels, decibels]])["pixel_values"][0, 0], np.moveaxis(decibels, 2, 0))
    scaled = processor([[decibels, decibels]], value_range=(-25, 0))["pixel_values"]
    assert scaled.dtype == np.uint8 and np.array_equal(scaled[0, 0], by_hand(decibels, -25, 0))
    decibels[0, 0] = np.nan
    with pytest.raises(PairError, match="not finite"):
        processor([[decibels, decibels]], value_range=(-25, 0))


def test_real_sixteen_bits():
    bands = sorted((REAL / "oscd/norcia").glob("imgs_*/*B04.tif"))
    if not bands:
        pytest.skip("the real images are not here")
    processor = MModalCCImageProcessor(size=SIZE, do_normalize=False)
    with pytest.raises(PairError, match=r"uint16 from \d+ to \d+.*value_range"):
        processor([bands])
    pixels, notes = read(processor, *bands, value_range=(0, 3000))
    assert pixels[0].std() > 10 and notes == []
    encoded = io.BytesIO(bands[0].read_bytes())
    assert np.array_equal(read(processor, encoded, bands[1], value_range=(0, 3000))[0], pixels)
