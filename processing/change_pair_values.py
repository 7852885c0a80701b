"""Which values of an image are black and white: numbers of any type into uint8, and what is said about it.

8 bits are taken as they are. For anything else two numbers are needed, the same for both dates of a pair and for every
image of a data set, or a change of exposure would look like a change of the place; so they are never taken from what
an image shows. They are, in this order: `value_range`; for 16 bits `uint16_max`; what the type says (0..65535 without
a sign, 0..1 for floats). Other integers say nothing, and are refused. Where an image uses a sliver of what was assumed
its pixels would become black or a few greys: that is refused where the range was a guess, else noted.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

UINT16_TOP = 65535
Error = Callable[[str], ValueError]

_REMEDY = "value_range=(LOW, HIGH) (on the command line --value-range LOW,HIGH)"
_USUAL = (255, 1023, 2047, 4095, 10000, 16383)  # 8, 10, 11 and 12 bits, reflectance, 14 bits
_ASSUMED_DARK = 1 / 4  # of the range; 14 of 16 bits and less
_STATED_DARK = 1 / 8
_NARROW = 1 / 16  # 16 greys
_MOSTLY = 0.05  # share of values outside of a range that is worth a note; a usual stretch cuts 2 % at either end
_SAMPLE = 2**18  # pixels that the shares are counted on


class Values(NamedTuple):
    """An image in the numbers that go on.

    Attributes:
        array: (C, H, W) uint8, or float32 where floats pass as they are.
        kind: Its type as it was given, for sentences.
        span: The values that became black and white; None where nothing was scaled.
        note: What there is to say; None: nothing.
    """

    array: np.ndarray
    kind: str
    span: tuple[float, float] | None = None
    note: str | None = None


def checked_range(value: Any) -> tuple[float, float] | None:
    """Return `value_range` as a pair of numbers.

    Raises:
        ValueError: It is anything else than two finite numbers, the lower one first.
    """
    if value is None:
        return None
    numbers = value.tolist() if isinstance(value, np.ndarray) else value
    if (
        not isinstance(numbers, list | tuple)
        or len(numbers) != 2
        or not all(isinstance(number, Real) and not isinstance(number, bool) for number in numbers)
        or not all(math.isfinite(number) for number in numbers)
        or numbers[0] >= numbers[1]
    ):
        raise ValueError(
            f"value_range is {value!r}; give two numbers, the value that is black and the larger one that is white."
        )
    low, high = (int(number) if float(number).is_integer() else float(number) for number in numbers)
    return low, high


def reading_settings(given: dict[str, Any], call: bool = False) -> dict[str, Any]:
    """Return settings of one construction or call, with `value_range` checked and before `uint16_max`, its older form.

    Args:
        given: The settings.
        call: They are of a call, where all of them were given. A construction's may have been saved, and these have
            `uint16_max` at its default beside any `value_range`.

    Raises:
        ValueError: Both are given and say different things, or one is no range.
    """
    top = given.get("uint16_max")
    if top is not None and (isinstance(top, bool) or not isinstance(top, int | np.integer) or top < 1):
        raise ValueError(f"uint16_max is {top!r}; give the value that is white, or value_range.")
    said = top is not None and (call or top != UINT16_TOP)
    if "value_range" not in given:
        # what is given for this call goes before what was saved with the processor
        return {**given, "value_range": None} if said else given
    stated = checked_range(given["value_range"])
    if stated is not None and said and stated != (0, top):
        raise ValueError(f"value_range is {stated} and uint16_max is {top}; give value_range alone.")
    return {**given, "value_range": stated} | ({} if stated is None else {"uint16_max": UINT16_TOP})


def image_values(
    array: np.ndarray,
    error: Error,
    value_range: tuple[float, float] | None,
    uint16_max: int = UINT16_TOP,
    keep_float: bool = False,
    kind: str | None = None,
    guess: bool = False,
) -> Values:
    """Return an image's values as uint8.

    Args:
        array: (C, H, W) of any type.
        error: Makes the error that says a reason.
        value_range: The values that are black and white in images of more than 8 bits; None: what the type says.
        uint16_max: What is white in 16 bits where `value_range` is None.
        keep_float: Floats pass as they are, unless `value_range` is given.
        kind: What to call the type where the array has another one than the file.
        guess: Nobody set `uint16_max`: it is all that the file's bits can hold.

    Raises:
        ValueError: Of `error`: another type, values that are not finite, or a range that is not known.
    """
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    kind = kind or array.dtype.name
    if array.dtype == np.bool_:
        return Values(array.astype(np.uint8) * 255, "uint8")
    if array.dtype == np.uint8:
        return Values(array, "uint8")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise error("has values that are not finite; replace them first")
        if keep_float and value_range is None:
            return Values(array.astype(np.float32, copy=False), kind)
    elif not np.issubdtype(array.dtype, np.integer):
        raise error(f"has values of type {array.dtype}; give uint8, uint16 or floating-point values in 0..1")
    low, high = float(array.min()), float(array.max())
    if value_range is not None:
        span = value_range
    elif array.dtype == np.uint16:
        span = (0, uint16_max)
    elif np.issubdtype(array.dtype, np.floating):
        if low < -1e-4 or high > 1 + 1e-4:  # room for the rounding of an earlier resize
            raise error(
                f"has floating-point values from {low:g} to {high:g}; scale them to 0..1, give uint8 or uint16 "
                f"values, or say what is black and white with {_REMEDY}"
            )
        span = (0, 1)
    else:
        raise error(
            f"has values of type {kind} from {low:g} to {high:g}, and nothing says which of them is black and which "
            f"white; say it with {_REMEDY}, for example {_usual(low, high)}, or give uint8 values"
        )
    assumed = value_range is None and array.dtype == np.uint16 and (guess or uint16_max == UINT16_TOP)
    note = _judge(array, kind, (low, high), span, assumed, error)
    return Values(_scaled(array, *span), kind, span, note)


def map_values(array: np.ndarray, error: Error, keep_float: bool = False, kind: str | None = None) -> Values:
    """Return a semantic map's values as uint8: its colours as they are, in however many bits they are kept.

    Args:
        array: (C, H, W) of any type. 16 bits may hold 0..255, or the same as 256 or 257 times as much.
        error: Makes the error that says a reason.
        keep_float: As for `image_values`.
        kind: As for `image_values`.

    Raises:
        ValueError: Of `error`: the values are no colours.
    """
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not np.issubdtype(array.dtype, np.integer) or array.dtype == np.uint8:
        return image_values(array, error, None, keep_float=keep_float, kind=kind)
    kind = kind or array.dtype.name
    low, high = int(array.min()), int(array.max())
    if low >= 0 and high <= 255:
        return Values(array.astype(np.uint8), kind)
    if low >= 0 and high <= UINT16_TOP:
        for step in (257, 256):
            if not (array % step).any():
                return Values((array // step).astype(np.uint8), kind)
        if high >= _ASSUMED_DARK * UINT16_TOP:  # colours that a resize has mixed
            return Values(_scaled(array, 0, UINT16_TOP), kind)
    raise error(f"has values of type {kind} from {low} to {high}, which are no colours; give its colours as uint8")


def compare(first: Values, second: Values, value_range: tuple[float, float] | None) -> str | None:
    """Say what there is to say of two dates whose values are not of one type, or that are outside of what was set."""
    if first.array.dtype != second.array.dtype:
        return None  # floats beside integers, which is an error elsewhere
    if first.span == second.span and value_range is not None and first.span is not None:
        return None  # of two types, but by the same range
    told = [f"{one.kind} (read from {_shown(one.span)})" if one.span else one.kind for one in (first, second)]
    if first.kind != second.kind and not {first.span, second.span} <= {None, (0, 255)}:
        return (
            f"its image before is {told[0]} and its image after {told[1]}: where that makes one of them brighter it "
            "looks like a change; convert both alike"
        )
    if first.span is None and first.kind == "uint8" and value_range not in (None, (0, 255)):
        return f"its images are uint8 and taken as they are: value_range {_shown(value_range)} is for more bits"
    return None


def _scaled(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Compute `round((value - low) * 255 / (high - low))`, saturated."""
    if np.issubdtype(array.dtype, np.integer):
        fits = array.dtype.itemsize <= 2 and max(abs(low), abs(high)) < 2**24
        array = array.astype(np.float32 if fits else np.float64)  # in which each of the numbers is exact
    elif array.dtype.itemsize < 4:
        array = array.astype(np.float32)
    inside = array.clip(low, high)
    if low != 0:
        inside = inside - low
    if high - low >= 2**24:
        return np.rint(inside.astype(np.float64) * (255.0 / (high - low))).astype(np.uint8)
    return np.rint(inside.astype(np.float32) * (255.0 / (high - low))).astype(np.uint8)


def _judge(
    array: np.ndarray,
    kind: str,
    extremes: tuple[float, float],
    span: tuple[float, float],
    assumed: bool,
    error: Error,
) -> str | None:
    """Refuse an image that an assumed range would make black, and say what else a range does to an image."""
    low, high = span
    step = max(1, math.isqrt(array.shape[1] * array.shape[2] // _SAMPLE))
    # as float64, for numpy 2.0 crashes where integers in steps are compared with numbers beyond their type
    sample = array[:, ::step, ::step].astype(np.float64)
    seen = f"{kind} from {extremes[0]:g} to {extremes[1]:g}"
    outside = float(((sample < low) | (sample > high)).mean())
    cut = ""
    if outside > _MOSTLY:
        cut = f"has values of type {seen}, {outside:.0%} of them outside of {_shown(span)} and cut off"
    inside = sample[(sample > low) & (sample < high)]  # black and white are often what is not there
    if inside.size < sample.size / 1000 or inside.size == 0:
        return cut or None
    least, most = (float(number) for number in np.percentile(inside, (1, 99)))
    width = high - low
    if most < low + width * (_ASSUMED_DARK if assumed else _STATED_DARK):
        if assumed:
            raise error(
                f"has values of type {seen}, 99 % of them up to {most:g}: from {_shown(span)}, all that its bits "
                f"hold, it would be read almost black; say what is black and white with {_REMEDY}, for example "
                f"{_usual(extremes[0], most)}; {_shown(span)} keeps it dark"
            )
        return f"has values of type {seen}, almost black in {_shown(span)}, from which it was read; see {_REMEDY}"
    if least < most < least + width * _NARROW:
        greys = max(1, round((most - least) * 255 / width))
        return (
            f"has values of type {seen}, about {greys} of 255 greys in {_shown(span)}, from which it was read; "
            f"another range is set with {_REMEDY}"
        )
    return cut or None


def _usual(low: float, high: float) -> str:
    """Return a range to start from."""
    bottom = 0 if low >= 0 or high > 0 else math.floor(low)
    top = next((number for number in _USUAL if high <= number), max(math.ceil(high), bottom + 1))
    return f"{bottom},{top}"


def _shown(span: tuple[float, float] | None) -> str:
    return "nothing" if span is None else f"{span[0]:g},{span[1]:g}"
