"""Reading one image of a pair, whatever it is given as, into a channels-first array.

The rules, all independent of what an image shows, so that both dates of a pair are treated alike:

- addresses: as `change_pair_web` says, from the web only where the call asks for it;
- files, bytes and PIL images: turned as their EXIF orientation says (as any viewer shows them), one page or frame:
  the first that is no reduced copy (`change_pair_files`);
- `P` and `PA` go through their palette; `1`, `L` and `LA` become three equal channels; the alpha of `LA`, `RGBA` and
  `PA` is dropped, never blended; `CMYK` and `YCbCr` are converted to RGB without a colour profile;
- more than 8 bits: `round((value - low) * 255 / (high - low))`, saturated, from `value_range`, or for 16 bits from
  0..65535 and for floats from 0..1 (`change_pair_values`); where the processor does not rescale, floats pass through
  untouched (SAR in decibels, reflectances) unless there is a `value_range`;
- semantic maps keep their colours, in however many bits they are;
- arrays are (H, W), (H, W, C) or (C, H, W). Where both readings fit, a torch tensor is (C, H, W) and a numpy array
  (H, W, C).
"""

import dataclasses
import io
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .change_pair import Pair
from .change_pair_files import READ_ERRORS, Pixels, first_line, open_page, pixels_of
from .change_pair_values import Values, image_values, map_values
from .change_pair_web import MOST_SECONDS, read_address, shown_address

_LONGEST_NAME = 4096  # of a path; what is longer is something else, as a picture in base64
_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"


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

    @classmethod
    def of(cls, pair: str | int, words: str, file: str | None = None) -> "PairError":
        """Make the error that says `words`, a sentence without its full stop, of a pair."""
        return cls(f"Pair {repr(pair) if isinstance(pair, str) else pair}: {words}.", pair, file)

    def __reduce__(self) -> tuple[Any, ...]:
        # so that it crosses the border of a data loader's worker with its attributes
        return type(self), (str(self), self.pair, self.file)


class ImageSource:
    """One image as it was given, with the words to speak about it, and after reading what there is to note.

    Args:
        value: Path, address, bytes, file object, PIL image, numpy array, torch tensor, or the dictionary with `bytes`
            and `path` of an undecoded `datasets.Image`.
        pair: Id or index of the pair it belongs to.
        role: For example "image before" or "semantic map after".
        allow_web: Whether an https address may be fetched; see `change_pair_web`.
    """

    def __init__(self, value: Any, pair: str | int, role: str, allow_web: bool = False):
        self.file = _name_of(value, role)
        self.notes: list[str] = []
        if isinstance(value, dict) and value and set(value) <= {"bytes", "path"}:
            value = value["bytes"] if value.get("bytes") is not None else value.get("path")
        self.value = value
        self.pair = pair
        self.role = role
        self.allow_web = allow_web

    def error(self, reason: str) -> PairError:
        """Make the error that says `reason` about this image."""
        subject = self.role if self.file is None else f"{self.role} {self.file}"
        return PairError.of(self.pair, f"{subject} {reason}", self.file)

    def read(
        self,
        num_channels: int,
        max_pixels: int,
        keep_float: bool,
        value_range: tuple[float, float] | None = None,
        uint16_max: int = 65535,
        semantic: bool = False,
    ) -> Values:
        """Read the image.

        Args:
            num_channels: Channels that the model takes. With 3, grey becomes RGB and alpha is dropped; with any other
                number the bands are taken as they are.
            max_pixels: Largest accepted height x width.
            keep_float: Floats pass through as they are instead of being read as 0..1.
            value_range: What becomes 0 and 255 in images of more than 8 bits; None: what their type says.
            uint16_max: What becomes 255 in 16 bits where `value_range` is None.
            semantic: It is a map: its numbers are colours, which no range changes.

        Returns:
            (C, H, W) uint8, or float32 for floats with `keep_float`, and how it came about. What there is to note is
            in `notes`.

        Raises:
            PairError: The image is missing, empty, truncated, too large, of a wrong type, range or shape.
        """
        value, opened = self._opened()
        kind, whole, top, guess = None, True, uint16_max, False
        if isinstance(value, Image.Image):
            try:
                self._check_size(value.height, value.width, max_pixels)
                if not opened:
                    self._note_page(value)
                pixels: Pixels = pixels_of(value, num_channels, self.error)
            finally:
                if opened:
                    value.close()
            array, layout = pixels.array, "last"
            kind, whole = pixels.kind, pixels.whole
            if pixels.top is not None and uint16_max == 65535:
                top, guess = pixels.top, pixels.guess
        elif isinstance(value, torch.Tensor):
            array, layout = self._of_tensor(value), "first or last"
        else:
            array, layout = self._of_array(value), "last or first"
        if not whole and (value_range is not None or uint16_max != 65535) and not semantic:
            raise self.error("is a 16-bit colour file, which Pillow cannot read in full; give it as a uint16 array")
        array = self._to_channels_first(array, num_channels, layout)
        self._check_size(array.shape[1], array.shape[2], max_pixels)
        array = self._fit_channels(array, num_channels)
        if semantic:
            values = map_values(array, self.error, keep_float, kind)
        else:
            values = image_values(array, self.error, value_range, top, keep_float, kind, guess)
        if values.note:
            self.note(values.note)
        array = values.array
        array = np.array(array) if isinstance(array, np.memmap) else np.ascontiguousarray(array)
        return values._replace(array=array)

    def note(self, words: str) -> None:
        """Keep a sentence about this image."""
        self.notes.append(f"{self.role} {self.file} {words}")

    def _opened(self) -> tuple[Any, bool]:
        """Return what was given, or the image of Pillow's or array that its path, bytes or file hold; whether opened.

        Pillow's images that were opened here have to be closed.
        """
        value = self.value
        if value is None:
            raise self.error("is missing; give both dates of the pair")
        if isinstance(value, str | os.PathLike):
            return self._open_path()
        if isinstance(value, bytes | bytearray | memoryview):
            return self._open_bytes(bytes(value))
        if hasattr(value, "read") and not isinstance(value, Image.Image):
            try:
                start = value.tell() if getattr(value, "seekable", lambda: False)() else None
                content = value.read()
                if start is not None:
                    value.seek(start)
            except READ_ERRORS as err:
                raise self.error(f"cannot be read ({first_line(err)}); give an open file") from err
            if not isinstance(content, bytes | bytearray | memoryview):
                raise self.error(f"gives {type(content).__name__} where bytes are expected; open it with mode 'rb'")
            if not len(content) and start:
                raise self.error("was read to its end already; go back to its beginning with seek(0)")
            return self._open_bytes(bytes(content))  # closing that leaves the caller's file open
        return value, False

    def _open_path(self) -> tuple[Any, bool]:
        path_name = os.fspath(self.value)
        if isinstance(path_name, bytes):
            path_name = os.fsdecode(path_name)
        content = read_address(path_name, self.allow_web, self.error)
        if content is not None:
            return self._open_bytes(content)
        path = Path(path_name)
        try:
            found = path.stat()
        except FileNotFoundError:
            was_address = isinstance(self.value, Path) and path.parts[:1] in (("https:",), ("http:",))
            hint = " (a Path takes a slash out of an address; give it as a string)" if was_address else ""
            raise self.error(f"does not exist{hint}; give the path of a file that does") from None
        except (OSError, ValueError) as err:
            reason = getattr(err, "strerror", None) or first_line(err)
            raise self.error(f"is no path that can be opened ({reason}); give the path of an image file") from err
        if stat.S_ISDIR(found.st_mode):
            raise self.error("is a folder; give the path of an image file")
        if not stat.S_ISREG(found.st_mode):
            raise self.error("is no regular file; give the path of an image file")
        try:
            with path.open("rb") as file:
                head = file.read(8)
        except OSError as err:
            raise self.error(f"cannot be read ({err.strerror or first_line(err)}); see who may read it") from err
        return self._open_file(path, head, path.suffix.lower() == ".npy")

    def _open_bytes(self, content: bytes) -> tuple[Any, bool]:
        return self._open_file(io.BytesIO(content), content[:8])

    def _open_file(self, file: Path | io.BytesIO, head: bytes, is_array: bool = False) -> tuple[Any, bool]:
        if not head:
            raise self.error("is empty (0 bytes); give a whole file")
        if is_array or head.startswith(_NPY):
            return self._load_array(file), False
        if head.startswith(_ZIP):
            raise self.error("is an archive (.npz or .zip); give one image, an array as .npy")
        image, note = open_page(file, self.error)
        if note:
            self.note(note)
        return image, True

    def _load_array(self, file: Any) -> np.ndarray:
        try:
            return np.load(file, mmap_mode="r" if isinstance(file, Path) else None, allow_pickle=False)
        except READ_ERRORS as err:
            if "Object arrays" in str(err) or "Python objects" in str(err):
                raise self.error("holds Python objects, which are not read; save the numbers of the image") from err
            if "allow_pickle" in str(err):  # what numpy says of any file that is not its own
                raise self.error(
                    "cannot be read as a numpy array (it is no .npy file); write it with numpy.save"
                ) from err
            raise self.error(f"cannot be read as a numpy array ({first_line(err)}); give a whole file") from err

    def _note_page(self, image: Image.Image) -> None:
        """Note which page or frame of an image of Pillow's is read: the one that it stands at."""
        try:
            count = getattr(image, "n_frames", 1) if image.format in ("TIFF", "GIF", "PNG", "WEBP") else 1
            if count > 1:
                self.note(f"has {count} pages: page {image.tell() + 1} was read ({image.width}x{image.height})")
        except READ_ERRORS:  # its file is closed: nothing is known of other pages
            return

    def _of_tensor(self, tensor: torch.Tensor) -> np.ndarray:
        try:
            tensor = tensor.detach().cpu()
            return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).resolve_conj().numpy()
        except (TypeError, RuntimeError, NotImplementedError) as err:
            raise self.error(f"is a tensor without plain values ({first_line(err)}); give a dense one") from err

    def _of_array(self, value: Any) -> np.ndarray:
        """Return anything that numpy takes for an array of numbers as one."""
        if not isinstance(value, np.ndarray) and (
            not hasattr(value, "__array__") or isinstance(value, np.generic) or hasattr(value, "columns")
        ):
            raise self.error(
                f"is a {type(value).__name__}; give a path, bytes, a PIL image, a numpy array or a torch tensor"
            )
        if np.ma.isMaskedArray(value) and np.ma.is_masked(value):
            raise self.error("has masked values; fill them (filled()) first")
        try:
            array = np.asarray(value)
        except READ_ERRORS as err:
            raise self.error(f"cannot be read as a numpy array ({first_line(err)}); give one") from err
        if array.dtype.kind not in "buif":
            shown = "named fields" if array.dtype.names else f"type {array.dtype}"
            raise self.error(f"has values of {shown}; give uint8, uint16 or floating-point values in 0..1")
        return array

    def _check_size(self, height: int, width: int, max_pixels: int) -> None:
        if height < 1 or width < 1:
            raise self.error(f"has no pixels (width {width}, height {height}); leave it out")
        if height * width > max_pixels:
            raise self.error(
                f"is larger than the limit of {max_pixels} pixels (width {width}, height {height}); "
                "crop it or raise max_image_pixels"
            )

    def _to_channels_first(self, array: np.ndarray, num_channels: int, layout: str) -> np.ndarray:
        if array.ndim == 2:
            return array[None]
        if array.ndim != 3:
            raise self.error(f"has shape {tuple(array.shape)}; give (H, W), (H, W, C) or (C, H, W)")
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
        raise self.error(f"has shape {tuple(array.shape)}; {num_channels} channels are expected, first or last")

    def _fit_channels(self, array: np.ndarray, num_channels: int) -> np.ndarray:
        channels = array.shape[0]
        if channels == num_channels:
            return array
        if num_channels == 3:
            if channels == 4:  # RGBA without its alpha
                return array[:3]
            if channels in (1, 2):  # grey, and grey with alpha
                return np.repeat(array[:1], 3, axis=0)
        raise self.error(f"has {channels} channels, the model takes {num_channels}; give as many")


def fetched(pair: Pair, allow_web: bool, seconds: float = MOST_SECONDS) -> Pair:
    """Return a pair with the bytes of its images that are given by an address, read once and for all.

    Args:
        pair: The pair.
        allow_web: See `change_pair_web`.
        seconds: For each image.

    Raises:
        PairError: An address is not read, or its bytes cannot be had.
    """

    def content(value: Any, role: str) -> Any:
        source = ImageSource(value, pair.id, role)
        if not isinstance(source.value, str):
            return value
        found = read_address(source.value, allow_web, source.error, seconds)
        return value if found is None else {"bytes": found, "path": source.file}

    before, after = (content(getattr(pair, date), f"image {date}") for date in ("before", "after"))
    maps = pair.maps
    if maps is not None:
        maps = (content(maps[0], "semantic map before"), content(maps[1], "semantic map after"))
    return dataclasses.replace(pair, before=before, after=after, maps=maps)


def white_to_black(array: np.ndarray) -> np.ndarray:
    """Make pure white black: both say "void" in SECOND's maps, and the release feeds black.

    Args:
        array: (C, H, W) uint8.

    Returns:
        The same array, or a changed copy.
    """
    white = (array == 255).all(axis=0)
    return np.where(white, np.uint8(0), array) if white.any() else array


def resize_channels(array: np.ndarray, height: int, width: int, resample: int) -> np.ndarray:
    """Resize by Pillow, which smooths when it shrinks (unlike OpenCV, with which the release resized).

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
    """Tell whether two sizes (height, width) have the same aspect ratio within `tolerance` (0.01 is one per cent)."""
    ratio = (first[0] * second[1]) / (first[1] * second[0])
    return max(ratio, 1 / ratio) <= 1 + tolerance


def _name_of(value: Any, role: str) -> str | None:
    """Return the path of an image, or words for an object that has none; None for no image."""
    if value is None:
        return None
    if isinstance(value, str | os.PathLike):
        name = os.fspath(value)
        name = shown_address(os.fsdecode(name) if isinstance(name, bytes) else str(name))
        return name if len(name) <= _LONGEST_NAME else f"{name[:60]}..."
    if isinstance(value, dict):
        return shown_address(str(value.get("path") or f"<bytes, {role}>"))
    if isinstance(value, Image.Image):
        return str(getattr(value, "filename", "") or f"<PIL image, {role}>")
    if hasattr(value, "read"):
        return str(getattr(value, "name", None) or f"<file object, {role}>")
    return f"<{type(value).__name__}, {role}>"
