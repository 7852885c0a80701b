"""Reading one image of a pair, whatever it is given as, into a channels-first array.

The rules, all independent of what an image shows, so that both dates of a pair are treated alike:

- files, bytes and PIL images: turned as their EXIF orientation says (as any viewer shows them), first frame only;
- `P` and `PA` go through their palette; `1`, `L` and `LA` become three equal channels; the alpha of `LA`, `RGBA` and
  `PA` is dropped, never blended; `CMYK` and `YCbCr` are converted to RGB without a colour profile;
- 16 bits (`I;16*`, `I`, uint16 arrays): `round(value * 255 / uint16_max)`, values above `uint16_max` saturate.
  16-bit *colour* files are read by Pillow through the high byte of each sample;
- floating point (`F`, float arrays): `round(value * 255)` of values in 0..1, anything else is refused; where the
  processor does not rescale, floats pass through untouched (SAR in decibels, reflectances);
- arrays are (H, W), (H, W, C) or (C, H, W). Where both readings fit, a torch tensor is (C, H, W) and a numpy array
  (H, W, C).
"""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

_ORIENTATION = 0x0112  # the EXIF tag
# Pillow reads more, some of it by starting other programs or without an end on damaged files
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000")
# what Pillow's and numpy's readers raise on damaged files
_READ_ERRORS = (
    *(OSError, SyntaxError, EOFError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError),
    *(RuntimeError, MemoryError, struct.error, zlib.error),
)


class PairError(ValueError):
    """An unusable pair: one sentence that names the pair and the file.

    Args:
        message: The whole sentence.
        pair: The pair's id, or its index in the batch.
        file: Path of the file, or a description of the object given in its place.
    """

    def __init__(self, message: str, pair: str | int | None = None, file: str | None = None):
        super().__init__(message)
        self.pair = pair
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        # so that it crosses the border of a data loader's worker with its attributes
        return type(self), (str(self), self.pair, self.file)


class ImageSource:
    """One image as it was given, with the words to speak about it.

    Args:
        value: Path, bytes, file object, PIL image, numpy array, torch tensor, or the dictionary with `bytes` and
            `path` of an undecoded `datasets.Image`.
        pair: Id or index of the pair it belongs to.
        role: For example "image before" or "semantic map after".
    """

    def __init__(self, value: Any, pair: str | int, role: str):
        self.file = _name_of(value, role)
        if isinstance(value, dict) and value and set(value) <= {"bytes", "path"}:
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        self.value = value
        self.pair = pair
        self.role = role

    def error(self, reason: str) -> PairError:
        """The error that says `reason` about this image."""
        name = repr(self.pair) if isinstance(self.pair, str) else self.pair
        subject = self.role if self.file is None else f"{self.role} {self.file}"
        return PairError(f"Pair {name}: {subject} {reason}", self.pair, self.file)

    def read(self, num_channels: int, uint16_max: int, max_pixels: int, keep_float: bool) -> np.ndarray:
        """Reads the image.

        Args:
            num_channels: Channels that the model takes. With 3, grey becomes RGB and alpha is dropped; with any other
                number the bands are taken as they are.
            uint16_max: The 16-bit value that becomes 255.
            max_pixels: Largest accepted height x width.
            keep_float: Floats pass through as they are instead of being read as 0..1.

        Returns:
            (C, H, W) uint8, or float32 for floats with `keep_float`.

        Raises:
            PairError: The image is missing, empty, truncated, too large, of a wrong type, range or shape.
        """
        value = self.value
        if value is None:
            raise self.error("is missing: a pair needs both dates")
        opened = None
        if isinstance(value, str | os.PathLike):
            opened = self._open_path()
        elif isinstance(value, bytes | bytearray | memoryview):
            if len(value) == 0:
                raise self.error("is empty (0 bytes)")
            opened = self._open(io.BytesIO(value))
        elif hasattr(value, "read") and not isinstance(value, Image.Image):
            start = value.tell() if value.seekable() else None
            opened = self._open(io.BytesIO(value.read()))  # closing it leaves the caller's file open
            if start is not None:
                value.seek(start)
        value = value if opened is None else opened

        if isinstance(value, Image.Image):
            try:
                self._check_size(value.height, value.width, max_pixels)
                array, layout = self._from_pil(value, num_channels, uint16_max), "last"
            finally:
                if opened is not None:
                    opened.close()
        elif isinstance(value, torch.Tensor):
            tensor = value.detach().cpu()
            array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
            layout = "first or last"
        elif isinstance(value, np.ndarray):
            array, layout = value, "last or first"
        else:
            raise self.error(
                f"is a {type(value).__name__}: give a path, bytes, a PIL image, a numpy array or a torch tensor"
            )
        array = self._to_channels_first(array, num_channels, layout)
        self._check_size(array.shape[1], array.shape[2], max_pixels)
        array = self._fit_channels(self._to_uint8(array, uint16_max, keep_float), num_channels)
        return np.array(array) if isinstance(array, np.memmap) else np.ascontiguousarray(array)

    def _open_path(self) -> Any:
        assert self.file is not None
        if self.file.startswith(("http://", "https://")):
            raise self.error("is an address on the web, which is not fetched: download it and give the path")
        path = Path(self.file)
        if path.is_dir():
            raise self.error("is a folder: give the path of an image file")
        if not path.exists():
            raise self.error("does not exist")
        if path.stat().st_size == 0:
            raise self.error("is empty (0 bytes)")
        if path.suffix == ".npy":
            try:
                return np.load(path, mmap_mode="r", allow_pickle=False)
            except _READ_ERRORS as err:
                raise self.error(f"cannot be read as a numpy array ({_first_line(err)})") from err
        return self._open(path)

    def _open(self, file: Any) -> Image.Image:
        try:
            Image.init()  # so that the table of formats is full; a build of Pillow may lack some
            return Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])
        except UnidentifiedImageError as err:
            raise self.error(f"is not an image in a format that is read here ({', '.join(_FORMATS)})") from err
        except Image.DecompressionBombError as err:
            raise self.error(f"is larger than Pillow's own limit ({_first_line(err)})") from err
        except _READ_ERRORS as err:
            raise self.error(f"cannot be read ({_first_line(err)})") from err

    def _check_size(self, height: int, width: int, max_pixels: int) -> None:
        if height < 1 or width < 1:
            raise self.error(f"has no pixels (width {width}, height {height})")
        if height * width > max_pixels:
            raise self.error(
                f"is larger than the limit of {max_pixels} pixels (width {width}, height {height}): "
                "crop it or raise max_image_pixels"
            )

    def _from_pil(self, image: Image.Image, num_channels: int, uint16_max: int) -> np.ndarray:
        tile = getattr(image, "tile", None) or []
        high_bytes_only = image.mode == "RGB" and any(";16" in str(part[-1]) for part in tile)
        if high_bytes_only and uint16_max != 65535:
            raise self.error("is a 16-bit colour file, which Pillow cannot read in full: give it as a uint16 array")
        try:
            image.load()
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
        except Image.DecompressionBombError as err:
            raise self.error(f"is larger than Pillow's own limit ({_first_line(err)})") from err
        except _READ_ERRORS as err:
            raise self.error(f"is truncated or damaged ({_first_line(err)})") from err
        if image.mode == "LAB":
            raise self.error("is in the LAB colour space: convert it to RGB")
        array = np.asarray(image)
        if image.mode == "I":  # how Pillow opens some 16-bit files
            if array.min() < 0 or array.max() > 65535:
                raise self.error("has 32-bit values outside 0..65535: give it as a float array in 0..1")
            array = array.astype(np.uint16)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def _to_channels_first(self, array: np.ndarray, num_channels: int, layout: str) -> np.ndarray:
        if array.ndim == 2:
            return array[None]
        if array.ndim != 3:
            raise self.error(f"has shape {tuple(array.shape)}: (H, W), (H, W, C) or (C, H, W) is expected")
        if layout == "last":
            return np.moveaxis(array, 2, 0)
        # an exact number of channels is a better reading than one that has to be converted
        readings: list[tuple[int, ...]] = [(num_channels,)] + ([(4, 1, 2)] if num_channels == 3 else [])
        for counts in readings:
            first, last = array.shape[0] in counts, array.shape[2] in counts
            if first and (layout == "first or last" or not last):
                return array
            if last:
                return np.moveaxis(array, 2, 0)
        raise self.error(f"has shape {tuple(array.shape)}: {num_channels} channels are expected, first or last")

    def _to_uint8(self, array: np.ndarray, uint16_max: int, keep_float: bool) -> np.ndarray:
        if array.dtype == np.uint8:
            return array
        if array.dtype == np.bool_:
            return array.astype(np.uint8) * 255
        if array.dtype == np.uint16:
            scaled = np.minimum(array, uint16_max).astype(np.float32) * (255.0 / uint16_max)
            return np.rint(scaled).astype(np.uint8)
        if np.issubdtype(array.dtype, np.floating):
            if not np.isfinite(array).all():
                raise self.error("has values that are not finite")
            if keep_float:
                return array.astype(np.float32, copy=False)
            low, high = float(array.min()), float(array.max())
            if low < -1e-4 or high > 1 + 1e-4:  # room for the rounding of an earlier resize
                raise self.error(
                    f"has floating-point values from {low:g} to {high:g}: scale them to 0..1, "
                    "or give uint8 or uint16 values"
                )
            return np.rint(array.clip(0, 1).astype(np.float32) * 255).astype(np.uint8)
        raise self.error(f"has values of type {array.dtype}: give uint8, uint16 or floating-point values in 0..1")

    def _fit_channels(self, array: np.ndarray, num_channels: int) -> np.ndarray:
        channels = array.shape[0]
        if channels == num_channels:
            return array
        if num_channels == 3:
            if channels == 4:  # RGBA without its alpha
                return array[:3]
            if channels in (1, 2):  # grey, and grey with alpha
                return np.repeat(array[:1], 3, axis=0)
        raise self.error(f"has {channels} channels, the model takes {num_channels}")


def white_to_black(array: np.ndarray) -> np.ndarray:
    """Makes pure white black: both say "void" in SECOND's maps, and the release feeds black.

    Args:
        array: (C, H, W) uint8.

    Returns:
        The same array, or a changed copy.
    """
    white = (array == 255).all(axis=0)
    return np.where(white, np.uint8(0), array) if white.any() else array


def resize_channels(array: np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    """Resizes by Pillow, which smooths when it shrinks (unlike OpenCV, with which the release resized).

    Args:
        array: (C, H, W) uint8 or float32.
        height: New height in pixels.
        width: New width in pixels.
        resample: One of `PIL.Image.Resampling`.

    Returns:
        (C, height, width) of the same type.
    """
    if array.shape[1:] == (height, width):
        return array
    if array.dtype == np.uint8 and array.shape[0] == 3:
        image = Image.fromarray(np.ascontiguousarray(np.moveaxis(array, 0, 2)))
        resized = np.asarray(image.resize((width, height), resample))
        return np.ascontiguousarray(np.moveaxis(resized, 2, 0))
    channels = [np.asarray(Image.fromarray(channel).resize((width, height), resample)) for channel in array]
    return np.stack(channels)


def same_aspect(first: tuple[int, int], second: tuple[int, int], tolerance: float) -> bool:
    """Whether two sizes (height, width) have the same aspect ratio within `tolerance` (0.01 is one per cent)."""
    ratio = (first[0] * second[1]) / (first[1] * second[0])
    return max(ratio, 1 / ratio) <= 1 + tolerance


def _name_of(value: Any, role: str) -> str | None:
    """The path of an image, or words for an object that has none; None for no image."""
    if value is None:
        return None
    if isinstance(value, str | os.PathLike):
        return str(os.fspath(value))
    if isinstance(value, dict):
        return str(value.get("path") or f"<bytes, {role}>")
    if isinstance(value, Image.Image):
        return str(getattr(value, "filename", "") or f"<PIL image, {role}>")
    if hasattr(value, "read"):
        return str(getattr(value, "name", None) or f"<file object, {role}>")
    return f"<{type(value).__name__}, {role}>"


def _first_line(err: BaseException) -> str:
    return (str(err).splitlines() or [type(err).__name__])[0].rstrip(".")
