"""Maps and masks of rows are opened as a processor opens images: the same formats, the same sentences."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from rscc_hf.data.images import open_stored, source_of
from rscc_hf.errors import InputError


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def opened(content: bytes | None, path: str | None = "m.png") -> Image.Image:
    return open_stored({"bytes": content, "path": path}, lambda reason: InputError(f"change_mask {reason}"))


MASK = Image.fromarray(np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "I;16"])
def test_pixels_are_those_of_pillow(mode):
    image = MASK.convert("I").convert("I;16") if mode == "I;16" else MASK.convert(mode)
    content = file_of(image)
    with Image.open(io.BytesIO(content)) as plain:
        assert np.array_equal(opened(content).convert("L"), plain.convert("L"))
        assert np.array_equal(opened(content).convert("RGB"), plain.convert("RGB"))


def test_it_is_turned_as_a_viewer_shows_it():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    turned = opened(file_of(MASK, exif=exif))
    assert np.array_equal(turned, MASK.transpose(Image.Transpose.ROTATE_270))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (file_of(MASK.resize((300, 300)))[:-400], "m.png is truncated or damaged"),
        (b"no image", "m.png is not an image in a format that is read here"),
        (file_of(MASK.convert("RGB"), "PCX"), "m.png is not an image in a format that is read here"),
    ],
)
def test_what_is_no_whole_image_is_one_sentence_that_names_the_file(content, said):
    with pytest.raises(InputError, match=f"^change_mask {said}"):
        opened(content)
    with pytest.raises(InputError, match=r"^change_mask is not an image"):
        opened(b"no image", None)


def test_a_path_is_read_and_named(tmp_path):
    MASK.save(tmp_path / "a.png")
    assert np.array_equal(opened(None, str(tmp_path / "a.png")), MASK)
    with pytest.raises(InputError, match=f"^change_mask {tmp_path}/b.png cannot be read"):
        opened(None, str(tmp_path / "b.png"))


def test_a_file_in_an_archive_is_read_as_it_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "masks.zip", "w") as archive:
        archive.writestr("a.png", file_of(MASK))
    value = {"bytes": None, "path": f"zip://a.png::{tmp_path}/masks.zip"}
    assert source_of(value)["bytes"] == file_of(MASK)
    assert np.array_equal(opened(**{"content": None, "path": value["path"]}), MASK)
