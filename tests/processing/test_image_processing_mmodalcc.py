"""Pairs of any kind of image into tensors, and what is said about pairs that cannot be used."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from rscc_hf.processing.change_pair_images import PairError
from rscc_hf.processing.image_processing_mmodalcc import MModalCCImageProcessor

SHARED = Path(__file__).resolve().parents[2] / "../shared"
SIZE = 32
BUILDING = (128, 0, 0)


@pytest.fixture
def processor():
    return MModalCCImageProcessor(size=SIZE, do_normalize=False)


def colours(seed, height=SIZE, width=SIZE, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def raw(processor, before, after=None, **options):
    """(2, C, H, W) of one pair, in 0..255."""
    pair = [before, before if after is None else after]
    return processor([pair], do_rescale=False, return_tensors="np", **options)["pixel_values"][0]


def first(array):
    return np.moveaxis(array, 2, 0)


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# --- what the release does, and what new models do


def test_golden_images_become_their_values_over_255():
    path = SHARED / "golden/mmodalcc/golden.safetensors"
    if not path.exists():
        pytest.skip("the golden data are not here")
    images = load_file(path)["images_uint8"][:3]
    released = MModalCCImageProcessor(do_normalize=False)
    slow = released(
        [[Image.fromarray(np.moveaxis(date.numpy(), 0, 2)) for date in pair[:2]] for pair in images],
        semantic_maps=[[date.numpy() for date in pair[2:]] for pair in images],
        return_tensors="pt",
    )
    fast = released(images[:, :2], semantic_maps=images[:, 2:], return_tensors="pt")
    for batch in (slow, fast):
        assert torch.equal(batch["pixel_values"], images[:, :2].float() / 255)
        assert torch.equal(batch["semantic_values"], images[:, 2:].float() / 255)
        assert batch["semantic_present"].tolist() == [True] * 3


def test_normalised_as_set(processor):
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    before, after = colours(0), colours(1)
    options = {"do_normalize": True, "image_mean": mean, "image_std": std}
    pixels = processor([[before, after]], return_tensors="pt", **options)["pixel_values"][0]
    expected = (first(after) / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert np.allclose(pixels[1], expected, atol=1e-6)
    # maps are not, unless their own statistics are given
    maps = [[before, after]]
    batch = processor([[before, after]], semantic_maps=maps, return_tensors="np", **options)
    assert np.array_equal(batch["semantic_values"][0, 0], first(before).astype(np.float32) / 255)
    batch = processor(
        [[before, after]] * 2,
        semantic_maps=[*maps, None],
        semantic_mean=mean,
        semantic_std=std,
        return_tensors="np",
        **options,
    )
    assert np.allclose(batch["semantic_values"][0, 1], expected, atol=1e-6)
    assert (batch["semantic_values"][1] == 0).all()  # a pair without maps stays zero, normalised or not


def test_new_models_are_normalised_by_imagenet_at_256():
    pixels = MModalCCImageProcessor()([[colours(0), colours(1)]], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 2, 3, 256, 256) and pixels.dtype == torch.float32 and pixels.min() < -1


def test_resize_is_pillows_bilinear_and_maps_can_keep_their_colours(processor):
    before = colours(0, 50, 50)
    expected = np.asarray(Image.fromarray(before).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert np.array_equal(raw(processor, before)[0], first(expected))
    map_ = np.where(np.arange(50)[:, None, None] < 23, np.uint8(BUILDING), np.uint8((0, 0, 255)))
    map_ = np.broadcast_to(map_, (50, 50, 3)).copy()

    def kinds(resample):
        batch = processor(
            [[before, before]],
            semantic_maps=[[map_, map_]],
            semantic_resample=resample,
            do_rescale=False,
            return_tensors="np",
        )
        return {tuple(colour) for colour in batch["semantic_values"][0, 0].reshape(3, -1).T}

    assert kinds(Image.Resampling.NEAREST) == {BUILDING, (0, 0, 255)}
    assert len(kinds(Image.Resampling.BILINEAR)) > 2


def test_white_becomes_void_before_resizing(processor):
    map_ = np.full((64, 64, 3), 255, dtype=np.uint8)
    map_[:31] = BUILDING
    options = {"do_rescale": False, "return_tensors": "np", "semantic_maps": [[map_, map_]]}
    pair = [[colours(0), colours(1)]]
    values = processor(pair, **options)["semantic_values"][0, 0]
    assert (values[0, -1] == 0).all() and values[1:].max() == 0  # no trace of white, also where it was blended
    kept = processor(pair, white_to_void=False, **options)["semantic_values"][0, 0]
    assert (kept[:, -1] == 255).all()
    # images keep their white
    assert raw(processor, map_).max() == 255


# --- the forms a pair can come in


def test_all_forms_of_the_same_pair_are_equal(processor, tmp_path):
    before, after = colours(0), colours(1)
    for name, array in {"before": before, "after": after}.items():
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    paths = [tmp_path / "before.png", tmp_path / "after.png"]
    forms = [
        paths,
        [str(path) for path in paths],
        [path.read_bytes() for path in paths],
        [{"bytes": path.read_bytes(), "path": None} for path in paths],
        [{"bytes": None, "path": str(path)} for path in paths],
        [io.BytesIO(path.read_bytes()) for path in paths],
        [Image.open(path) for path in paths],
        [before, after],
        [first(before), first(after)],
        (torch.from_numpy(first(before)), torch.from_numpy(after)),
        [before / 255, torch.from_numpy(first(after)) / 255],
        np.stack([before, after]),
        torch.from_numpy(np.stack([first(before), first(after)])),
    ]
    expected = np.stack([first(before), first(after)]).astype(np.float32) / 255
    for form in forms:
        for images in ([form], form):  # a list of one pair, and the pair itself
            batch = processor(images, return_tensors="np")["pixel_values"]
            assert batch.shape == (1, 2, 3, SIZE, SIZE) and np.array_equal(batch[0], expected)
    mixed = processor([forms[0], forms[2], forms[-1]])["pixel_values"]
    assert np.array_equal(mixed, np.stack([expected] * 3))


def test_one_pair_may_come_without_a_list_and_with_maps(processor):
    before, after = colours(0), colours(1)
    alone = processor([before, after], semantic_maps=[after, before])
    listed = processor([[before, after]], semantic_maps=[[after, before]])
    for name in ("pixel_values", "semantic_values", "semantic_present"):
        assert np.array_equal(alone[name], listed[name])
    assert processor([before, after], semantic_maps=[None, None])["semantic_present"].tolist() == [False]
    two = processor([[before, after]] * 2, semantic_maps=[None, None])
    assert two["semantic_present"].tolist() == [False, False] and (two["semantic_values"] == 0).all()


def test_maps_may_lack_for_some_pairs(processor):
    pair = [colours(0), colours(1)]
    batch = processor([pair, pair, pair], semantic_maps=[None, pair, [None, None]])
    assert batch["semantic_present"].tolist() == [False, True, False]
    assert (batch["semantic_values"][[0, 2]] == 0).all() and batch["semantic_values"][1].any()
    assert set(processor([pair])) == {"pixel_values"}


@settings(deadline=None, max_examples=15)
@given(
    st.integers(1, 3), st.integers(0, 10**6), st.booleans(), st.booleans(), st.sampled_from([1 / 255, 1 / 127.5, 0.01])
)
def test_fast_path_equals_the_slow_one(count, seed, normalise, rescale, factor):
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (count, 2, 3, 16, 16), dtype=np.uint8)
    maps = draw.choice(np.array([0, 255], dtype=np.uint8), (count, 2, 3, 16, 16))
    processor = MModalCCImageProcessor(size=16, do_normalize=normalise, do_rescale=rescale, rescale_factor=factor)
    slow = processor([list(pair) for pair in images], semantic_maps=[list(pair) for pair in maps], return_tensors="pt")
    for form in (lambda array: array, torch.from_numpy):
        fast = processor(form(images), semantic_maps=form(maps), return_tensors="pt")
        for name in ("pixel_values", "semantic_values"):
            assert fast[name].dtype == slow[name].dtype and torch.equal(fast[name], slow[name])
    if not rescale and not normalise:
        assert slow["pixel_values"].dtype == torch.uint8
        assert torch.equal(slow["pixel_values"], torch.from_numpy(images))


def test_the_input_is_never_changed(processor):
    images = torch.from_numpy(np.full((1, 2, 3, SIZE, SIZE), 255, dtype=np.uint8))
    floats = torch.rand(1, 2, 3, SIZE, SIZE)
    kept = floats.clone()
    processor(images, semantic_maps=images)
    processor(floats, do_rescale=False, do_normalize=True)
    assert (images == 255).all() and torch.equal(floats, kept)


# --- modes


def test_modes_with_an_exact_meaning(processor):
    rgb = colours(0)
    grey = rgb[..., 0]
    three = np.stack([grey] * 3)
    alpha = Image.fromarray(colours(1)[..., 0])
    image = Image.fromarray(rgb)
    rgba = image.copy()
    rgba.putalpha(alpha)
    la = Image.fromarray(grey)
    la.putalpha(alpha)
    palette = Image.fromarray(grey)  # any byte may be an index
    palette.putpalette(rgb.reshape(-1)[:768].tobytes())
    bits = Image.fromarray(grey > 127)
    cases = {
        "L": (Image.fromarray(grey), three),
        "LA": (la, three),
        "RGBA": (rgba, first(rgb)),
        "P": (palette, first(rgb.reshape(-1)[:768].reshape(256, 3)[grey])),
        "1": (bits, np.stack([np.where(grey > 127, 255, 0)] * 3)),
        "CMYK": (image.convert("CMYK"), first(rgb)),
    }
    for mode, (given_image, expected) in cases.items():
        assert given_image.mode == mode
        assert np.array_equal(raw(processor, given_image)[0], expected), mode
        if mode != "CMYK":
            assert np.array_equal(raw(processor, encoded(given_image))[0], expected), mode
    assert np.array_equal(raw(processor, np.asarray(rgba))[0], first(rgb))
    assert np.array_equal(raw(processor, grey)[1], three)
    assert np.array_equal(raw(processor, grey > 127)[0], cases["1"][1])


def test_transparent_pixels_keep_their_colour(processor):
    clear = Image.new("RGBA", (SIZE, SIZE), (10, 20, 30, 0))
    assert raw(processor, encoded(clear))[0, :, 0, 0].tolist() == [10, 20, 30]


def test_maps_go_through_their_palette(processor):
    map_ = Image.new("P", (SIZE, SIZE), 1)
    map_.putpalette([255, 255, 255, *BUILDING])
    map_.paste(0, (0, 0, SIZE, 4))
    batch = processor([[colours(0), colours(1)]], semantic_maps=[[map_, encoded(map_)]], do_rescale=False)
    for date in batch["semantic_values"][0]:
        assert date[:, 0, 0].tolist() == [0, 0, 0] and date[:, 8, 0].tolist() == list(BUILDING)


def test_sixteen_bits_are_scaled_by_one_rule(processor):
    values = np.random.default_rng(0).integers(0, 65536, (SIZE, SIZE)).astype(np.uint16)
    values[0, :4] = [0, 128, 129, 65535]
    expected = np.rint(values * 255.0 / 65535)
    assert expected[0, :4].tolist() == [0, 0, 1, 255]
    as_i = Image.fromarray(values.astype(np.int32))
    assert as_i.mode == "I"
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "TIFF")
    for given_image in (values, torch.from_numpy(values), encoded(Image.fromarray(values)), as_i, stream.getvalue()):
        assert np.array_equal(raw(processor, given_image)[0], np.stack([expected] * 3))
    big_endian = Image.frombytes("I;16B", (SIZE, SIZE), values.astype(">u2").tobytes())
    assert np.array_equal(raw(processor, big_endian)[0, 0], expected)
    # a sensor of 12 bits: its own white, and nothing wraps above it
    dark = raw(processor, np.minimum(values, 5000), uint16_max=4095)[0, 0]
    assert np.array_equal(dark, np.rint(np.minimum(values, 4095) * 255.0 / 4095))


def test_floats_are_0_to_1_or_refused(processor):
    rgb = colours(0)
    floats = processor([[rgb / 255, (rgb / 255).astype(np.float32)]], return_tensors="np")["pixel_values"]
    assert np.array_equal(floats[0, 0], first(rgb).astype(np.float32) / 255)
    with pytest.raises(PairError, match="floating-point values from 0 to 255; scale them"):
        processor([[np.where(rgb > 3, 255.0, 0.0), rgb]])
    with pytest.raises(PairError, match="not finite"):
        processor([[np.full((SIZE, SIZE, 3), np.nan), rgb]])
    with pytest.raises(PairError, match="values of type int64"):
        processor([[rgb.astype(np.int64), rgb]])


def test_exif_orientation_is_followed(processor):
    rgb = colours(0, SIZE, SIZE)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    turned = encoded(Image.fromarray(rgb), exif=exif)
    assert np.array_equal(raw(processor, turned)[0], first(np.rot90(rgb, -1)))


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_numbers_of_channels(channels):
    processor = MModalCCImageProcessor(size=SIZE, num_channels=channels, image_mean=[0.5] * channels, image_std=0.5)
    array = colours(0, 40, 40, channels)
    batch = processor([[array, torch.from_numpy(first(array))]], semantic_maps=[[colours(1), colours(2)]])
    assert batch["pixel_values"].shape == (1, 2, channels, SIZE, SIZE)
    assert np.array_equal(batch["pixel_values"][0, 0], batch["pixel_values"][0, 1])
    assert batch["pixel_values"].min() >= -1 and batch["pixel_values"].max() <= 1
    channel = np.asarray(Image.fromarray(array[..., -1]).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert np.array_equal(raw(processor, array, do_normalize=False)[0, -1], channel)
    with pytest.raises(PairError, match=f"{channels} channels are expected|the model takes {channels}"):
        processor([[Image.fromarray(colours(0)), array]])


def test_decibels_pass_untouched_where_nothing_is_rescaled(tmp_path):
    processor = MModalCCImageProcessor(
        size=SIZE, num_channels=2, do_rescale=False, image_mean=[-10.0, -17.0], image_std=[5.0, 5.0]
    )
    backscatter = np.random.default_rng(0).normal(-12, 4, (SIZE, SIZE, 2)).astype(np.float32)
    np.save(tmp_path / "vv_vh.npy", backscatter)
    pixels = processor([[backscatter, tmp_path / "vv_vh.npy"]])["pixel_values"][0]
    expected = (first(backscatter) - np.reshape([-10, -17], (2, 1, 1))) / 5
    assert np.allclose(pixels, expected, atol=1e-5)
    with pytest.raises(PairError, match="floating-point values where the other date has integers"):
        processor([[backscatter, colours(0, channels=2)]])


# --- sizes


def test_another_size_of_the_same_shape_is_resized_and_noted(processor, tmp_path):
    Image.fromarray(colours(0, 64, 64)).save(tmp_path / "fine.png")
    pairs = [[colours(0), colours(1)], [tmp_path / "fine.png", colours(1)], [colours(0, 64, 96), colours(1, 32, 48)]]
    batch = processor(pairs, pair_ids=["same", "coarse", "wide"], return_notes=True, return_tensors="pt")
    assert batch["pixel_values"].shape == (3, 2, 3, SIZE, SIZE)
    assert [note["pair"] for note in batch["notes"]] == ["coarse", "wide"]
    message = batch["notes"][0]["message"]
    assert "32x32" in message and "64x64" in message and "fine.png" in message
    assert "notes" not in processor(pairs)
    # within one per cent is the same shape
    assert processor([[colours(0, 100, 100), colours(1, 100, 101)]])["pixel_values"].shape[0] == 1


def test_maps_of_another_size_are_noted_too(processor):
    batch = processor([[colours(0), colours(1)]], semantic_maps=[[colours(2), colours(3, 64, 64)]], return_notes=True)
    assert len(batch["notes"]) == 1 and "semantic map after" in batch["notes"][0]["message"]


@pytest.mark.parametrize(
    ("before", "after", "maps"),
    [
        ((32, 32), (32, 33), None),
        ((32, 32), (64, 32), None),
        ((32, 32), (32, 32), ((32, 32), (32, 40))),
        ((32, 64), (32, 64), ((64, 32), (64, 32))),
    ],
)
def test_another_aspect_ratio_is_refused(processor, before, after, maps):
    maps = None if maps is None else [[colours(size, *shape) for size, shape in enumerate(maps)]]
    with pytest.raises(PairError, match="aspect ratios differ") as caught:
        processor([[colours(0, *before), colours(1, *after)]], semantic_maps=maps, pair_ids=["p7"])
    assert caught.value.pair == "p7" and "'p7'" in str(caught.value)


def test_tolerance_is_a_setting(processor):
    pair = [[colours(0, 32, 32), colours(1, 32, 34)]]
    assert processor(pair, size_tolerance=0.1)["pixel_values"].shape == (1, 2, 3, SIZE, SIZE)


def test_sizes_without_resizing(processor):
    pair = [colours(0, 20, 24), colours(1, 20, 24)]
    assert processor([pair], do_resize=False)["pixel_values"].shape == (1, 2, 3, 20, 24)
    with pytest.raises(PairError, match=r"Pair 1: .*turn do_resize on"):
        processor([pair, [colours(0), colours(1)]], do_resize=False)
    with pytest.raises(PairError, match="do_resize is off"):
        processor([[pair[0], colours(1, 40, 48)]], do_resize=False)


# --- what cannot be used


def test_truncated_files_are_found(processor, tmp_path):
    image = Image.fromarray(colours(0, 256, 256))
    good = tmp_path / "good.png"
    image.save(good)
    for kind in ("png", "jpeg", "tiff", "bmp", "webp"):
        whole = encoded(image, kind)
        assert raw(processor, whole).shape == (2, 3, SIZE, SIZE)
        for share in (0.3, 0.6, 0.95):
            path = tmp_path / f"half.{kind}"
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(PairError, match=r"truncated|damaged|not an image|cannot be read") as caught:
                processor([[good, path]], pair_ids=["p3"])
            assert caught.value.file == str(path) and caught.value.pair == "p3"
            assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_damaged_file_is_found(processor, tmp_path):
    whole = bytearray(encoded(Image.fromarray(colours(0, 64, 64))))
    whole[len(whole) // 2] ^= 0xFF
    with pytest.raises(PairError, match="truncated or damaged"):
        processor([[bytes(whole), colours(0)]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "gone.png", "does not exist"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: _write(folder / "empty.png", b""), r"is empty \(0 bytes\)"),
        (lambda folder: _write(folder / "note.png", b"hello, no image"), "is not an image"),
        (lambda folder: _write(folder / "note.npy", b"hello"), "cannot be read as a numpy array"),
        (lambda folder: b"", r"is empty \(0 bytes\)"),
        (lambda folder: None, "is missing; give both dates of the pair"),
        (lambda folder: 7, "is a int"),
        (lambda folder: "https://example.org/a.png", "download it"),
        (lambda folder: np.zeros((0, 5, 3), dtype=np.uint8), "has no pixels"),
        (lambda folder: np.zeros((1, 2, 3, 4, 5), dtype=np.uint8), "has shape"),
        (lambda folder: np.zeros((5, 5, 5), dtype=np.uint8), "3 channels are expected"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_unusable_images_name_the_pair_and_the_file(processor, tmp_path, make, message, place):
    bad = make(tmp_path)
    pair = [colours(0), colours(0)]
    pair[place] = bad
    with pytest.raises(PairError, match=message) as caught:
        processor([[colours(0), colours(1)], pair])
    error = caught.value
    assert isinstance(error, ValueError) and error.pair == 1 and str(error).startswith("Pair 1: ")
    assert ("image before", "image after")[place] in str(error)
    if isinstance(bad, Path):
        assert error.file == str(bad) and str(bad) in str(error)


def _write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "pair", [[colours(0)], [colours(0)] * 3, None, [None, colours(0)], [colours(0), None], []], ids=range(6)
)
def test_missing_partners(processor, pair):
    with pytest.raises(PairError, match=r"Pair 'x': .*(missing|expected)") as caught:
        processor([[colours(0), colours(1)], pair], pair_ids=["ok", "x"])
    assert caught.value.pair == "x"


def test_one_missing_map_is_no_pair_without_maps(processor):
    with pytest.raises(PairError, match="semantic map after is missing"):
        processor([[colours(0), colours(1)]], semantic_maps=[[colours(2), None]])


def test_limit_of_pixels(processor, tmp_path):
    limit = {"max_image_pixels": 100 * 100}
    before = Image.MAX_IMAGE_PIXELS
    large = colours(0, 101, 100)
    Image.fromarray(large).save(tmp_path / "large.png")
    np.save(tmp_path / "large.npy", large)
    for bad in (large, tmp_path / "large.png", tmp_path / "large.npy", Image.fromarray(large)):
        with pytest.raises(PairError, match="larger than the limit of 10000 pixels"):
            processor([[bad, bad]], **limit)
    assert raw(processor, colours(0, 100, 100), **limit).shape == (2, 3, SIZE, SIZE)
    assert before == Image.MAX_IMAGE_PIXELS


def test_wrong_maps_are_refused(processor):
    pair = [[colours(0), colours(1)]]
    with pytest.raises(PairError, match=r"semantic map before .* 3 channels are expected"):
        processor(pair, semantic_maps=[[np.zeros((SIZE, SIZE, 5), dtype=np.uint8), colours(0)]])
    classes = np.random.default_rng(0).integers(0, 7, (SIZE, SIZE), dtype=np.uint8)
    with pytest.raises(PairError, match="looks like class numbers"):
        processor(pair, semantic_maps=[[colours(2), classes]])
    with pytest.raises(PairError, match=r"semantic map after .* is empty"):
        processor(pair, semantic_maps=[[colours(2), b""]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": []}, "images is empty"),
        ({"images": "a.png"}, "give a list of pairs"),
        ({"images": np.zeros((3, SIZE, SIZE), dtype=np.uint8)}, r"\(batch, 2, C, H, W\)"),
        ({"images": [colours(0)] * 3}, "must be a list of pairs"),
        ({"semantic_maps": [None, None, None]}, "semantic_maps has 3 pairs for 2"),
        ({"pair_ids": ["a"]}, "pair_ids has 1 ids for 2"),
        ({"pair_ids": "ab"}, "one string"),
        ({"semantic_mean": 0.5}, "must be given together"),
        ({"do_normalize": True, "image_mean": [0.5, 0.5]}, "image_mean has 2 numbers for 3 channels"),
        ({"do_normalize": True, "image_std": [0.5, 0.5, 0.0]}, "image_std must be positive"),
        ({"size": {"shortest_edge": 32}}, "size must be"),
    ],
)
def test_wrong_calls_say_what_to_do(processor, options, message):
    call = {"images": [[colours(0), colours(1)]] * 2, **options}
    with pytest.raises(ValueError, match=message):
        processor(**call)


def test_unknown_settings_are_named(processor):
    with pytest.raises(TypeError, match="do_center_crop: no setting"):
        processor([[colours(0), colours(1)]], do_center_crop=True)


def test_errors_cross_processes():
    error = pickle.loads(pickle.dumps(PairError("Pair 3: bad", 3, "a.png")))  # noqa: S301 (our own bytes)
    assert (str(error), error.pair, error.file) == ("Pair 3: bad", 3, "a.png")
    assert str(PairError("one argument, as a data loader's worker builds it")) != ""


def test_files_are_closed(processor, tmp_path, recwarn):
    path = tmp_path / "a.png"
    Image.fromarray(colours(0)).save(path)
    processor([[path, path]])
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(PairError):
        processor([[path, path]])
    assert not [warning for warning in recwarn if warning.category is ResourceWarning]


def test_real_images_are_read():
    folder = SHARED / "samples/levir"
    if not folder.exists():
        pytest.skip("the samples are not here")
    names = sorted(path.name for path in (folder / "A").iterdir())
    batch = MModalCCImageProcessor(do_normalize=False)([[folder / "A" / name, folder / "B" / name] for name in names])
    assert batch["pixel_values"].shape == (len(names), 2, 3, 256, 256)
    expected = np.asarray(Image.open(folder / "B" / names[2]).convert("RGB"))
    assert np.array_equal(batch["pixel_values"][2, 1], first(expected).astype(np.float32) / 255)
