"""What Pillow makes of an image file, put right: which page, turned as a viewer shows it, and all of its bits."""

import io
import os
import re
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

_ORIENTATION = 0x0112  # the EXIF tag
# Tags of TIFF
_SUBFILE, _OLD_SUBFILE, _BITS, _PHOTOMETRIC, _PLANES = 254, 255, 258, 262, 284
_CODESTREAM = b"\xff\x4f\xff\x51"  # how the image itself begins in a JPEG 2000 file
# Pillow reads more, some of it by starting other programs or without an end on damaged files
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
# what Pillow's and numpy's readers raise on damaged files
READ_ERRORS = (
    *(OSError, SyntaxError, EOFError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError),
    *(RuntimeError, MemoryError, struct.error, zlib.error),
)
_MOST_PAGES = 1000  # of a TIFF that are looked at
Error = Callable[[str], ValueError]


class Pixels(NamedTuple):
    """An image as an array.

    Attributes:
        array: (H, W) or (H, W, C), in the machine's byte order.
        kind: The type of its numbers in the file, where the array has another; None: the array's.
        top: The largest number that its bits can hold, where it is not what the array's type says; else None.
        whole: False where only the upper eight of sixteen bits could be read.
        guess: Whether `top` may be far above what is white: the file holds numbers of that many bits, and no more is
            known.
    """

    array: np.ndarray
    kind: str | None = None
    top: int | None = None
    whole: bool = True
    guess: bool = False


def first_line(err: BaseException) -> str:
    """Return what an error says, in one line without a full stop."""
    return (str(err).splitlines() or [type(err).__name__])[0].rstrip(".")


def open_image(file: Any, error: Error) -> Image.Image:
    """Open a path or a binary file with Pillow.

    Raises:
        ValueError: Of `error`: it is no image that is read here.
    """
    try:
        Image.init()  # so that the table of formats is full; a build of Pillow may lack some
        return Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as err:
        if _head(file)[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            raise error(
                "is a TIFF with another number of bands or of bits than Pillow reads; give it as a numpy array"
            ) from err
        raise error(f"is not an image in a format that is read here; give one of {', '.join(FORMATS)}") from err
    except Image.DecompressionBombError as err:
        raise error(f"is larger than Pillow's own limit ({first_line(err)}); give a smaller image") from err
    except READ_ERRORS as err:
        raise error(f"cannot be read ({first_line(err)}); give a whole file") from err


def open_page(file: Any, error: Error) -> tuple[Image.Image, str | None]:
    """Open a file at the page that is the image, and say which that is where there are several.

    Pages that their file calls reduced copies or masks are not the image; nor is a first page that is a smaller copy
    of a later one, by its shape.

    Args:
        file: A path or a binary file, which can be read from its beginning again.
        error: Makes the error that says a reason.

    Raises:
        ValueError: Of `error`: it is no image that is read here, or damaged.
    """
    image = open_image(file, error)
    try:
        if image.format not in ("TIFF", "GIF", "PNG", "WEBP") or not getattr(image, "is_animated", False):
            return image, None
        if image.format != "TIFF":
            return image, f"has {getattr(image, 'n_frames', 'several')} frames: the first was read"
        with image:
            chosen, note = _choose_page(image)
    except READ_ERRORS as err:
        raise error(f"is truncated or damaged ({first_line(err)}); give a whole file") from err
    image = open_image(file, error)  # anew, for Pillow cannot load a page of some kinds after having seen others
    try:
        if chosen:
            image.seek(chosen)
    except READ_ERRORS as err:
        image.close()
        raise error(f"is truncated or damaged ({first_line(err)}); give a whole file") from err
    return image, note


def _choose_page(image: Image.Image) -> tuple[int, str | None]:
    """Return the place of the page that is the image, and what to say of it."""
    sizes: dict[int, tuple[int, int]] = {}
    whole = []
    count = 0
    for page in range(_MOST_PAGES):
        try:
            image.seek(page)
        except EOFError:
            break
        except READ_ERRORS:
            count += 1
            continue  # of a kind that Pillow does not read, as some masks are
        count += 1
        tags: Any = image.tag_v2  # type: ignore[attr-defined]
        sizes[page] = image.size
        if not tags.get(_SUBFILE, 0) & 0b101 and tags.get(_OLD_SUBFILE, 1) != 2:
            whole.append(page)
    candidates = whole or list(sizes)
    largest = max(candidates, key=lambda page: sizes[page][0] * sizes[page][1])
    chosen = largest if not whole or _copies(sizes[whole[0]], sizes[largest]) else whole[0]
    shown = "x".join(map(str, sizes[chosen]))
    if chosen > 0:
        first = f"a reduced copy ({sizes[0][0]}x{sizes[0][1]})" if 0 in sizes else "none that is read here"
        return chosen, f"has {count} pages, of which the first is {first}: page {chosen + 1} was read ({shown})"
    others = [page for page in whole if page != chosen and not _copies(sizes[page], sizes[chosen])]
    return chosen, f"has {count} pages: the first was read ({shown})" if others else None


def pixels_of(image: Image.Image, num_channels: int, error: Error) -> Pixels:
    """Return an image's pixels, by the rules of `change_pair_images`.

    Args:
        image: At the page that is wanted.
        num_channels: Channels that the model takes: with 3, inks become colours.
        error: Makes the error that says a reason.

    Raises:
        ValueError: Of `error`: the file is damaged, or of a kind that Pillow does not read rightly.
    """
    tiles = [(str(tile[0]), _raw_mode(tile)) for tile in getattr(image, "tile", None) or ()]
    raw = tiles[0][1] if tiles else ""
    tags: Any = getattr(image, "tag_v2", None) if image.format == "TIFF" else None
    depth: tuple[int, bool] | None = None  # of a JPEG 2000
    if tags is not None:
        apart = 16 in tuple(tags.get(_BITS, ())) and tags.get(_PLANES, 1) == 2
        if apart and not image.mode.startswith("I") and any(codec != "libtiff" for codec, _ in tiles):
            raise error(
                "is a 16-bit TIFF with a plane for each colour, which Pillow misreads; save it with its colours "
                "interleaved (INTERLEAVE=PIXEL), or give it as a numpy array"
            )
        if tags.get(_PHOTOMETRIC) == 0 and image.mode in ("I;16", "I;16B", "I", "F"):
            raise error("is a TIFF whose zero is white in more than 8 bits; save it with zero as black")
    try:
        high_bytes_only = ";16" in raw and image.mode not in ("I", "I;16", "I;16L", "I;16B", "I;16N")
        twin = _low_bytes(image) if high_bytes_only else None
        if tiles and image.format == "PPM" and (deep := _deep_ppm(image)) is not None:
            return deep
        depth = _depth_of_jpeg2000(image) if tiles and image.format == "JPEG2000" else None
        image.load()
        array = _as_array(image, num_channels)
        if high_bytes_only:
            array = array.astype(np.uint16)
            whole = twin is not None and twin.mode == image.mode
            low = _as_array(twin, num_channels) if whole and twin is not None else array
            return Pixels(array * 256 + low, "uint16", whole=whole)
    except Image.DecompressionBombError as err:
        raise error(f"is larger than Pillow's own limit ({first_line(err)}); give a smaller image") from err
    except READ_ERRORS as err:
        raise error(f"is truncated or damaged ({first_line(err)}); give a whole file") from err
    if image.mode == "LAB":
        raise error("is in the LAB colour space; convert it to RGB")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if depth is not None:
        return _pixels_of_jpeg2000(array, *depth, error)
    if raw == "I;12":
        return Pixels(array, "uint16 (12 bits)", top=4095)
    if image.mode != "I":
        return Pixels(array)
    if raw in ("I;16S", "I;16BS", "I;16NS"):
        return Pixels(array.astype(np.int16))
    if raw in ("I;32", "I;32B", "I;32N"):  # Pillow's numbers have a sign
        array = array.view(np.uint32)
    # how Pillow opens some 16-bit files, and keeps what it made of others
    if array.min() >= 0 and array.max() <= 65535:
        return Pixels(array.astype(np.uint16), None if ";16" in raw or image.format == "PPM" else array.dtype.name)
    return Pixels(array)


def _as_array(image: Image.Image, num_channels: int) -> np.ndarray:
    """Return (H, W) or (H, W, C), turned upright and in a mode whose channels mean something here."""
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "PA":
        image = image.convert("RGBA")
    if image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("P", "YCbCr", "HSV", "RGBX") or (image.mode == "CMYK" and num_channels == 3):
        image = image.convert("RGB")
    elif image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    return np.asarray(image)


def _low_bytes(image: Image.Image) -> Image.Image | None:
    """Open the same page with the lower byte of each 16-bit sample, where Pillow takes the upper; None: it cannot.

    Read as if its bytes were in the other order, the byte that Pillow keeps is the lower one.
    """
    file: Any = getattr(image, "fp", None)
    raw = _raw_mode(image.tile[0])  # type: ignore[attr-defined]
    if file is None or image.mode not in ("RGB", "RGBA") or not raw.startswith(("RGB;16", "RGBA;16", "RGBX;16")):
        return None
    other = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}[raw[-1]]
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    twin: Any = Image.open(io.BytesIO(content), formats=[str(image.format)])
    if image.tell():
        twin.seek(image.tell())
    changed = []
    for tile in twin.tile:
        swapped = _raw_mode(tile)[:-1] + other
        arguments = swapped if isinstance(tile[3], str) else (swapped, *tile[3][1:])
        changed.append(tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments))
    twin.tile = changed
    twin.load()
    return twin


def _deep_ppm(image: Image.Image) -> Pixels | None:
    """Read the numbers of a PPM or PGM of over 8 bits, which Pillow cuts or stretches; None: it reads them rightly.

    Raises:
        ValueError: There are too few, or some above the one that the file calls its largest.
    """
    codec, _, start, arguments = image.tile[0]  # type: ignore[attr-defined]
    top = arguments[-1] if codec in ("ppm", "ppm_plain") and isinstance(arguments, tuple) else 0
    if top < 256:
        return None
    file: Any = getattr(image, "fp", None)
    file.seek(start)
    content = file.read()
    bands = len(image.getbands())
    count = image.height * image.width * bands
    if codec == "ppm":
        numbers = np.frombuffer(content[: 2 * count], dtype=">u2")
    else:
        numbers = np.array(re.sub(rb"#[^\r\n]*", b"", content).split()[:count], dtype=np.int64)
    if len(numbers) < count:
        raise ValueError(f"it has {len(numbers)} numbers of {count}")
    if numbers.min() < 0 or numbers.max() > top:
        raise ValueError(f"it has numbers outside of its range 0..{top}")
    array = numbers.astype(np.uint16).reshape(image.height, image.width, bands)
    kind = f"uint16 (up to {top})" if top < 65535 else None
    return Pixels(array if bands > 1 else array[..., 0], kind, top)


def _depth_of_jpeg2000(image: Image.Image) -> tuple[int, bool]:
    """Return how many bits a JPEG 2000 has at most and whether its numbers have a sign, which Pillow does not say.

    Raises:
        ValueError: The file is damaged; or, for the same reason, `struct.error`.
    """
    file: Any = getattr(image, "fp", None)
    place = file.tell()
    file.seek(0)
    if file.read(4) != _CODESTREAM:
        file.seek(0)
        while True:  # from box to box, each with its length, to the one of the image
            start = file.tell()
            length, kind = struct.unpack(">I4s", file.read(8))
            if length == 1:
                (length,) = struct.unpack(">Q", file.read(8))
            if kind == b"jp2c":
                break
            if length < 8:
                raise ValueError("it has no image")
            file.seek(start + length)
        file.seek(len(_CODESTREAM), os.SEEK_CUR)
    (bands,) = struct.unpack(">36xH", file.read(38))
    sizes = struct.unpack(f">{3 * bands}B", file.read(3 * bands))[::3]
    file.seek(place)
    return max(size & 0x7F for size in sizes) + 1, bool(sizes[0] & 0x80)


def _pixels_of_jpeg2000(array: np.ndarray, bits: int, signed: bool, error: Error) -> Pixels:
    """Return a JPEG 2000 in its own numbers, for Pillow moves those of one band to the top of 16 bits.

    Args:
        array: What Pillow makes of it: uint16, or uint8 where it knows no more bits.
        bits: That the file has.
        signed: Whether its numbers have a sign, which Pillow moves away.
        error: Makes the error that says a reason.

    Raises:
        ValueError: Of `error`: Pillow cuts it, and makes black of the brightest.
    """
    if bits > 8 * array.dtype.itemsize:
        raise error(
            f"is a JPEG 2000 file of {bits} bits{' and several bands' if array.ndim > 2 else ''}, which Pillow cuts; "
            "save it as a TIFF or PNG, or give it as a numpy array"
        )
    if array.dtype != np.uint16:
        return Pixels(array)
    if bits <= 8:
        return Pixels((array >> 8).astype(np.uint8))
    numbers = array >> (16 - bits)
    if signed:
        return Pixels((numbers.astype(np.int32) - 2 ** (bits - 1)).astype(np.int16))
    if bits == 16:
        return Pixels(numbers)
    # satellites' files have more bits than their numbers need: Sentinel-2's 15 for reflectances of 10000
    return Pixels(numbers, f"uint16 ({bits} bits)", top=2**bits - 1, guess=True)


def _raw_mode(tile: Any) -> str:
    """Return how the samples of a part lie in the file, by Pillow's name for it."""
    arguments = tile[3]
    if isinstance(arguments, tuple | list):
        arguments = arguments[0] if arguments else None
    return arguments if isinstance(arguments, str) else ""


def _copies(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether an image of one size is by its shape a smaller copy of an image of the other."""
    smaller = one[0] < other[0] and one[1] < other[1]
    return smaller and abs(one[0] * other[1] / (one[1] * other[0]) - 1) < 0.05


def _head(file: Any) -> bytes:
    """Return the first bytes of a path or a binary file."""
    try:
        if isinstance(file, str | os.PathLike):
            with Path(file).open("rb") as opened:
                return opened.read(8)
        file.seek(0)
        return file.read(8)
    except (OSError, ValueError):
        return b""
