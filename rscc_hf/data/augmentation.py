"""Augmentation of pairs: pixels, semantic maps and the words of a caption are moved together.

The moves are those of SECOND-CC's augmenter (mirrors, quarter turns, brightness; arXiv 2501.10075), with two
differences: every word of place changes with the image (`place_words`), and a pair whose caption cannot be said after
a move is left as it is. Colour jitter touches images only, never maps.
"""

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
import torch

from rscc_hf.data.place_words import Move, move_words
from rscc_hf.errors import InputError

Pixels = TypeVar("Pixels", np.ndarray, torch.Tensor)
Words = TypeVar("Words", str | None, tuple[str, ...])
Generator = np.random.Generator | torch.Generator

_TURNS = {1: Move.ROTATE_90, 2: Move.ROTATE_180, 3: Move.ROTATE_270}


def mirror_pair(
    images: Pixels, semantics: Pixels | None, caption: str | None, axis: str = "horizontal"
) -> tuple[Pixels, Pixels | None, str | None]:
    """Mirror a pair, its maps and its caption.

    Args:
        images: (2, C, H, W), or any (..., H, W).
        semantics: Maps of the same height and width, or None.
        caption: The caption, or None.
        axis: "horizontal": left and right change places. "vertical": top and bottom do.

    Returns:
        New images, maps and caption.

    Raises:
        ValueError: `axis` is another word, or the caption cannot be said of the mirrored image.
    """
    moves = {"horizontal": Move.MIRROR_HORIZONTAL, "vertical": Move.MIRROR_VERTICAL}
    if axis not in moves:
        raise InputError(f'axis is {axis!r}; give "horizontal" or "vertical".')
    moved = _words(caption, moves[axis])
    dimension = -1 if axis == "horizontal" else -2
    return _apply(images, flip=(dimension,)), _apply_optional(semantics, flip=(dimension,)), moved


def rotate_pair(
    images: Pixels, semantics: Pixels | None, caption: str | None, quarter_turns: int = 1
) -> tuple[Pixels, Pixels | None, str | None]:
    """Turn a pair, its maps and its caption counter-clockwise: the top goes to the left.

    Args:
        images: (2, C, H, W), or any (..., H, W).
        semantics: Maps of the same height and width, or None.
        caption: The caption, or None.
        quarter_turns: Number of quarter turns, of either sign. Odd ones exchange height and width.

    Returns:
        New images, maps and caption.

    Raises:
        ValueError: The caption cannot be said of the turned image (see `place_words`).
    """
    turns = quarter_turns % 4
    moved = _words(caption, _TURNS[turns]) if turns else caption
    return _apply(images, turns=turns), _apply_optional(semantics, turns=turns), moved


def jitter_colours(images: Pixels, generator: Generator, strength: float, independent: float = 0.5) -> Pixels:
    """Change brightness, contrast and the balance of the channels of both dates.

    A value v becomes `((v - 128) * contrast + 128) * gain + 128 * shift`, with contrast and gain (one a channel, half
    as strong) drawn around 1 and shift around 0, uniformly, at most `strength` away; then rounded and saturated.

    Args:
        images: (2, C, H, W) uint8.
        generator: Source of the random numbers.
        strength: Largest change, 0..1; 0.2 is a visible one.
        independent: Share of it that is drawn for each date by itself (0: the dates change alike; 1: nothing in
            common). What differs between the dates is the illumination condition of the field.

    Raises:
        ValueError: The images are not (2, C, H, W) uint8.
    """
    _check(images, None)
    draws = _uniform(generator, _jitter_draws(images.shape[1]))
    return _jitter(images, draws, strength, independent)


@dataclass(frozen=True)
class Augmentation:
    """Random moves and colours for one sample. Each field is a probability or a strength, 0 turns it off.

    Args:
        mirror_horizontal: Probability that left and right change places.
        mirror_vertical: Probability that top and bottom change places.
        rotate: Probability of a quarter, half or three-quarter turn, each as likely (images that are not square: half
            turns only). Captions with "upper", "above" and the like allow half turns only.
        colour_jitter: Strength of `jitter_colours`.
        jitter_independent: Its share that differs between the dates.
    """

    mirror_horizontal: float = 0.5
    mirror_vertical: float = 0.5
    rotate: float = 0.0
    colour_jitter: float = 0.0
    jitter_independent: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value <= 1:
                raise InputError(f"{field.name} is {value}; give a number between 0 and 1.")

    def __call__(
        self, images: Pixels, semantics: Pixels | None, caption: Words, generator: Generator
    ) -> tuple[Pixels, Pixels | None, Words]:
        """Augment one sample.

        The same state of the generator gives the same result, and each call takes the same number of draws from it,
        whatever comes out. A move that the caption cannot follow is not made.

        Args:
            images: (2, C, H, W) uint8, numpy or torch (on the CPU).
            semantics: (2, C, H, W) uint8 maps of the same height and width, or None.
            caption: The caption in English, a tuple of several, or None.
            generator: numpy's or torch's.

        Returns:
            New images, maps and caption; the inputs are not changed.

        Raises:
            ValueError: Shapes or types are wrong.
        """
        _check(images, semantics)
        draws = _uniform(generator, 4 + _jitter_draws(images.shape[1]))
        flip: tuple[int, ...] = ()
        for draw, probability, move, dimension in (
            (draws[0], self.mirror_horizontal, Move.MIRROR_HORIZONTAL, -1),
            (draws[1], self.mirror_vertical, Move.MIRROR_VERTICAL, -2),
        ):
            moved = _try_words(caption, move) if draw < probability else None
            if moved is not None:
                flip, caption = (*flip, dimension), moved[0]
        turns = 0
        if draws[2] < self.rotate:
            possible = [number for number in _TURNS if number == 2 or images.shape[-2] == images.shape[-1]]
            after = {number: _try_words(caption, _TURNS[number]) for number in possible}
            allowed = [number for number, moved in after.items() if moved is not None]
            if allowed:
                turns = allowed[min(int(draws[3] * len(allowed)), len(allowed) - 1)]
                moved = after[turns]
                caption = moved[0] if moved else caption
        images = _apply(images, flip, turns)
        if self.colour_jitter > 0:
            images = _jitter(images, draws[4:], self.colour_jitter, self.jitter_independent)
        return images, _apply_optional(semantics, flip, turns), caption


def _try_words(caption: Words, move: Move) -> tuple[Words] | None:
    """Return the moved captions in a tuple (None stays None), or None where one of them forbids the move."""
    if caption is None:
        return (caption,)
    if isinstance(caption, str):
        moved = move_words(caption, move)
        return None if moved is None else (moved,)
    several = [move_words(text, move) for text in caption]
    if any(text is None for text in several):
        return None
    return (tuple(text for text in several if text is not None),)


def _words(caption: str | None, move: Move) -> str | None:
    moved = _try_words(caption, move)
    if moved is None:
        raise InputError(f"{caption!r} cannot be said of an image after {move.value}; leave the pair as it is.")
    return moved[0]


def _apply_optional(pixels: Pixels | None, flip: tuple[int, ...] = (), turns: int = 0) -> Pixels | None:
    return None if pixels is None else _apply(pixels, flip, turns)


def _apply(pixels: Pixels, flip: tuple[int, ...] = (), turns: int = 0) -> Pixels:
    """Flip along dimensions, then turn counter-clockwise; always a new array."""
    if isinstance(pixels, torch.Tensor):
        moved = torch.flip(pixels, flip) if flip else pixels
        moved = torch.rot90(moved, turns, (-2, -1)) if turns else moved
        return moved.clone(memory_format=torch.contiguous_format) if moved is pixels else moved.contiguous()
    array = np.flip(pixels, flip) if flip else pixels
    return np.array(np.rot90(array, turns, (-2, -1)), order="C")


def _jitter_draws(channels: int) -> int:
    return 3 * (2 + channels)  # contrast, shift and gains: common ones, and for each date


def _jitter(images: Pixels, draws: np.ndarray, strength: float, independent: float) -> Pixels:
    channels = images.shape[1]
    common, *own = (2 * draws - 1).reshape(3, 2 + channels) * strength
    array = images.numpy() if isinstance(images, torch.Tensor) else images
    result = np.empty_like(array)
    # of each date (2, C): the 256 values that its channels' levels become
    amount = ((1 - independent) * common + independent * np.stack(own))[:, :, None]
    contrast, shift, gains = 1 + amount[:, :1], amount[:, 1:2], 1 + amount[:, 2:] / 2
    values = ((np.arange(256, dtype=np.float64) - 128) * contrast + 128) * gains + 128 * shift
    tables = np.rint(values.clip(0, 255)).astype(np.uint8)
    for date in range(2):
        for channel in range(channels):
            np.take(tables[date, channel], array[date, channel], out=result[date, channel], mode="clip")
    return torch.from_numpy(result) if isinstance(images, torch.Tensor) else result


def _uniform(generator: Generator, count: int) -> np.ndarray:
    """Draw `count` numbers in [0, 1)."""
    if isinstance(generator, torch.Generator):
        return torch.rand(count, generator=generator, dtype=torch.float64).numpy()
    return generator.random(count)


def _check(images: Pixels, semantics: Pixels | None) -> None:
    for name, pixels in (("images", images), ("semantics", semantics)):
        if pixels is None:
            continue
        if pixels.ndim != 4 or pixels.shape[0] != 2 or pixels.dtype not in (np.uint8, torch.uint8):
            raise InputError(f"{name} is {pixels.dtype} {tuple(pixels.shape)}; give uint8 (2, C, H, W).")
        if tuple(pixels.shape[-2:]) != tuple(images.shape[-2:]):
            sizes = f"{tuple(pixels.shape[-2:])}, images {tuple(images.shape[-2:])}"
            raise InputError(f"{name} has size {sizes}; give both one size.")
