"""Noise fields and tree crowns, made once a process from fixed seeds and cut out by every scene."""

import math
from functools import lru_cache

import numpy as np
from PIL import Image

_BANK_SIDE = 640
CROWN_SHAPES = 5
CROWN_HUES = 4
SUN_STEPS = 12


def _octave(rng: np.random.Generator, cell: int) -> np.ndarray:
    """Return smooth noise of unit deviation whose blobs are about `cell` pixels wide."""
    n = math.ceil(_BANK_SIDE / cell) + 2
    small = Image.fromarray(rng.standard_normal((n, n)).astype(np.float32))
    side = n * cell
    big = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))[cell : cell + _BANK_SIDE]
    field = big[:, cell : cell + _BANK_SIDE]
    return (field - field.mean()) / field.std()


@lru_cache(maxsize=1)
def noise_bank() -> dict[str, np.ndarray]:
    """Return the fields (float32, unit deviation, 640x640): `patches`, `clumps`, `grain`, `hue`, `speckle`."""
    rng = np.random.default_rng(20250110)

    def mixed(weights: dict[int, float]) -> np.ndarray:
        field = np.zeros((_BANK_SIDE, _BANK_SIDE), np.float32)
        for cell, weight in weights.items():
            field += np.float32(weight) * _octave(rng, cell)
        return ((field - field.mean()) / field.std()).astype(np.float32)

    patches = mixed({96: 1.0, 48: 0.8, 24: 0.55, 12: 0.35})
    clumps = mixed({12: 0.6, 7: 0.8, 4: 0.8, 3: 0.5})
    # Dark tufts and stones are rarer than the ground between them.
    clumps = (clumps - 0.35 * np.maximum(clumps, 0) ** 1.0).astype(np.float32)
    grain = mixed({2: 1.0, 1: 0.45})
    hue = mixed({64: 1.0, 32: 0.7, 16: 0.4})
    speckle = mixed({2: 0.8, 3: 1.0, 6: 0.9, 20: 0.8})
    speckle = np.clip(speckle - 1.2, 0, 2.0)
    return {
        "patches": patches,
        "clumps": (clumps / clumps.std()).astype(np.float32),
        "grain": grain,
        "hue": hue,
        "speckle": (speckle / speckle.std()).astype(np.float32),
    }


def cut(name: str, place: tuple[float, float, bool, bool], side: int) -> np.ndarray:
    """Cut a square of `side` pixels out of a field.

    Args:
        name: A field of `noise_bank`.
        place: Two numbers in [0, 1) for the position, then whether to mirror up-down and left-right.
        side: At most 640: larger squares repeat the field mirrored.
    """
    field = noise_bank()[name]
    if side > _BANK_SIDE:
        repeat = math.ceil(side / _BANK_SIDE)
        field = np.pad(field, ((0, _BANK_SIDE * (repeat - 1)),) * 2, mode="symmetric")
    room = field.shape[0] - side
    y, x = int(place[0] * (room + 1)), int(place[1] * (room + 1))
    part = field[y : y + side, x : x + side]
    if place[2]:
        part = part[::-1]
    if place[3]:
        part = part[:, ::-1]
    return part


def sun_step(azimuth: float) -> int:
    """Return the nearest of the directions for which crowns are drawn."""
    return round(azimuth / (2 * math.pi) * SUN_STEPS) % SUN_STEPS


@lru_cache(maxsize=2048)
def _lit(radius: int, shape: int, step: int) -> tuple[Image.Image, Image.Image]:
    """Return the light on a crown and its mask (both L)."""
    rng = np.random.default_rng([radius, shape, 77])
    r = radius / 2
    half = math.ceil(r) + 1
    axis = np.arange(-half, half + 1, dtype=np.float32)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    distance = np.hypot(x, y)
    angle = np.arctan2(y, x)
    outline = np.full_like(distance, r)
    for harmonic in (2, 3, 5, 7):
        outline *= 1 + 0.07 * float(rng.normal()) * np.cos(harmonic * angle + float(rng.uniform(0, 6.28)))
    alpha = np.clip(outline - distance + 0.5, 0, 1)
    height = np.sqrt(np.clip(1 - (distance / (outline + 0.6)) ** 2, 0, 1)) * r
    lumps = max(3, int(r * 1.4))
    for _ in range(lumps):
        a, d = rng.uniform(0, 6.28), r * math.sqrt(rng.uniform(0, 0.75))
        bump = (x - d * math.cos(a)) ** 2 + (y - d * math.sin(a)) ** 2
        height = height + 0.22 * r * np.exp(-bump / (0.08 * r * r + 0.4))
    gy, gx = np.gradient(height)
    sun = step / SUN_STEPS * 2 * math.pi
    slope = -(gx * math.cos(sun) + gy * math.sin(sun)) / np.sqrt(1 + gx**2 + gy**2)
    rim = 0.78 + 0.22 * np.clip(height / r, 0, 1)
    light = np.clip(0.50 + 0.36 * slope, 0.10, 0.92) * rim * (0.86 + 0.28 * rng.random(distance.shape))
    lit = Image.fromarray(np.clip(light * 200, 0, 255).astype(np.uint8))
    return lit, Image.fromarray((alpha * 255).astype(np.uint8))


@lru_cache(maxsize=8192)
def crown(radius: int, shape: int, hue: int, step: int) -> tuple[Image.Image, Image.Image]:
    """Draw a tree crown.

    Args:
        radius: In half pixels, at least 2.
        shape: Which of the outlines, 0..4.
        hue: Which of the tints, 0..3.
        step: Direction towards the sun in steps of 30 degrees; the outline does not depend on it.

    Returns:
        The crown as RGB (R: light; G: light times tint; B: 255, which adds up to the coverage when it is pasted) and
        its mask (L), both of `2 * ceil(radius / 2) + 3` pixels a side.
    """
    light, mask = _lit(radius, shape, step)
    tinted = light.point([level * hue // (CROWN_HUES - 1) for level in range(256)])
    return Image.merge("RGB", (light, tinted, Image.new("L", light.size, 255))), mask


@lru_cache(maxsize=256)
def disc(radius: int) -> Image.Image:
    """Return a soft disc (L) as the mask of a crown's shadow; `radius` in half pixels, sides as in `crown`."""
    r = radius / 2
    half = math.ceil(r) + 1
    axis = np.arange(-half, half + 1, dtype=np.float32)
    distance = np.hypot(*np.meshgrid(axis, axis))
    return Image.fromarray((np.clip(r - distance + 0.5, 0, 1) * 255).astype(np.uint8))
