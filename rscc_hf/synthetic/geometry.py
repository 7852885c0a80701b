"""Plane geometry of the scenes: rectangles, blobs, roads, and the raster that keeps objects apart.

One unit is one pixel of a 256x256 image, half a metre on the ground; x grows to the right, y downwards. A scene is
drawn `MARGIN` units beyond the frame on every side, so that a misregistered date still has something to show at its
borders.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from PIL import Image, ImageChops, ImageDraw

FRAME = 256.0
MARGIN = 8.0

Point = tuple[float, float]
Polygon = list[Point]


def rectangle(cx: float, cy: float, width: float, depth: float, angle: float) -> Polygon:
    """Return the corners of a rectangle: `width` along `angle` (radians), `depth` across it."""
    ux, uy = math.cos(angle) * width / 2, math.sin(angle) * width / 2
    vx, vy = -math.sin(angle) * depth / 2, math.cos(angle) * depth / 2
    return [
        (cx - ux - vx, cy - uy - vy),
        (cx + ux - vx, cy + uy - vy),
        (cx + ux + vx, cy + uy + vy),
        (cx - ux + vx, cy - uy + vy),
    ]


def local(cx: float, cy: float, angle: float, along: float, across: float) -> Point:
    """Return the point `along` and `across` from (cx, cy) in axes turned by `angle`."""
    c, s = math.cos(angle), math.sin(angle)
    return cx + c * along - s * across, cy + s * along + c * across


def blob(rng: np.random.Generator, cx: float, cy: float, rx: float, ry: float, rough: float = 0.16) -> Polygon:
    """Return a smooth closed outline around (cx, cy) with radii `rx`, `ry`, turned at random."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = np.ones_like(turn)
    for harmonic in (2, 3, 4, 5, 7):
        radius += rough / harmonic**0.7 * rng.normal() * np.cos(harmonic * turn + rng.uniform(0, 2 * np.pi))
    radius = np.clip(radius, 0.62, 1.4)
    x, y = rx * radius * np.cos(turn), ry * radius * np.sin(turn)
    tilt = rng.uniform(0, np.pi)
    c, s = math.cos(tilt), math.sin(tilt)
    return list(zip((cx + c * x - s * y).tolist(), (cy + s * x + c * y).tolist(), strict=True))


def rough_edge(rng: np.random.Generator, polygon: Polygon, step: float = 6.0, noise: float = 1.6) -> Polygon:
    """Return the polygon with points every `step` units along its sides, each moved by up to `noise` units."""
    out: Polygon = []
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        n = max(1, round(math.hypot(x1 - x0, y1 - y0) / step))
        for i, (dx, dy) in enumerate(rng.uniform(-noise, noise, (n, 2)).tolist()):
            out.append((x0 + (x1 - x0) * i / n + dx, y0 + (y1 - y0) * i / n + dy))
    return out


def grown(polygon: Polygon, factor: float) -> Polygon:
    """Return the polygon scaled by `factor` about the mean of its corners."""
    cx = sum(x for x, _ in polygon) / len(polygon)
    cy = sum(y for _, y in polygon) / len(polygon)
    return [(cx + (x - cx) * factor, cy + (y - cy) * factor) for x, y in polygon]


def hull(points: Sequence[Point]) -> Polygon:
    """Return the convex hull (Andrew's monotone chain)."""
    ordered = sorted(set(points))
    if len(ordered) < 3:
        return ordered

    def chain(sequence: Sequence[Point]) -> Polygon:
        out: Polygon = []
        for p in sequence:
            while len(out) > 1 and (out[-1][0] - out[-2][0]) * (p[1] - out[-2][1]) <= (out[-1][1] - out[-2][1]) * (
                p[0] - out[-2][0]
            ):
                out.pop()
            out.append(p)
        return out[:-1]

    return chain(ordered) + chain(ordered[::-1])


def centroid(polygon: Polygon) -> Point:
    """Return the centre of the polygon's area inside the frame's bounding box (corners clamped to the frame)."""
    points = [(min(max(x, 0.0), FRAME), min(max(y, 0.0), FRAME)) for x, y in polygon]
    area = sx = sy = 0.0
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        cross = x0 * y1 - x1 * y0
        area += cross
        sx += (x0 + x1) * cross
        sy += (y0 + y1) * cross
    if abs(area) < 1e-6:
        return points[0]
    return sx / (3 * area), sy / (3 * area)


class Path:
    """A polyline with arc length: the axis of a road."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = [(float(x), float(y)) for x, y in points]
        steps = [math.dist(a, b) for a, b in pairwise(self.points)]
        self._stops = list(accumulate(steps, initial=0.0))

    @property
    def length(self) -> float:
        """Length in units."""
        return self._stops[-1]

    def at(self, s: float) -> tuple[float, float, float]:
        """Return x, y and the direction (radians) at arc length `s`; beyond the ends, on the prolonged last piece."""
        i = min(max(bisect_left(self._stops, s) - 1, 0), len(self.points) - 2)
        (x0, y0), (x1, y1) = self.points[i], self.points[i + 1]
        part = (s - self._stops[i]) / max(1e-9, self._stops[i + 1] - self._stops[i])
        return x0 + (x1 - x0) * part, y0 + (y1 - y0) * part, math.atan2(y1 - y0, x1 - x0)

    def strip(self, start: float, end: float, near: float, far: float) -> Polygon:
        """Return the area between `start` and `end` along the path and `near` and `far` across it."""
        pieces = max(1, int((end - start) / 12))
        sides: list[Polygon] = [[], []]
        for i in range(pieces + 1):
            x, y, angle = self.at(start + (end - start) * i / pieces)
            sides[0].append(local(x, y, angle, 0, near))
            sides[1].append(local(x, y, angle, 0, far))
        return sides[0] + sides[1][::-1]


class Occupancy:
    """A raster (one cell is 2x2 units) of the ground that is taken."""

    CELL = 2.0

    def __init__(self) -> None:
        side = int((FRAME + 2 * MARGIN) / self.CELL)
        self._image = Image.new("L", (side, side))
        self._draw = ImageDraw.Draw(self._image)

    def _cells(self, polygon: Sequence[Point]) -> list[float]:
        return [(v + MARGIN) / self.CELL for point in polygon for v in point]

    def reserve(self, polygon: Polygon, margin: float = 0.0) -> None:
        """Take a polygon, and `margin` units around it."""
        cells = self._cells(polygon)
        self._draw.polygon(cells, fill=255)
        if margin:
            self._draw.line(cells + cells[:4], fill=255, width=max(1, round(2 * margin / self.CELL)), joint="curve")

    def reserve_path(self, path: Path, width: float) -> None:
        """Take a strip of `width` units along a path."""
        self._draw.line(self._cells(path.points), fill=255, width=max(1, round(width / self.CELL)), joint="curve")

    def free(self, polygon: Polygon) -> bool:
        """Tell whether no cell of the polygon is taken."""
        cells = self._cells(polygon)
        xs, ys = cells[::2], cells[1::2]
        side = self._image.size[0]
        x0, y0 = max(0, math.floor(min(xs))), max(0, math.floor(min(ys)))
        x1, y1 = min(side, math.ceil(max(xs)) + 1), min(side, math.ceil(max(ys)) + 1)
        if x1 <= x0 or y1 <= y0:
            return False
        mask = Image.new("L", (x1 - x0, y1 - y0))
        moved = [v - (y0 if i % 2 else x0) for i, v in enumerate(cells)]
        ImageDraw.Draw(mask).polygon(moved, fill=255)
        return ImageChops.darker(self._image.crop((x0, y0, x1, y1)), mask).getbbox() is None

    def free_square(self, x: float, y: float, half: float) -> bool:
        """Tell whether no cell of an upright square around a point is taken."""
        edges = [round((v + MARGIN) / self.CELL) for v in (x - half, y - half, x + half, y + half)]
        return self._image.crop((edges[0], edges[1], edges[2], edges[3])).getbbox() is None

    def taken_at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return for each point whether its cell is taken; points off the raster count as taken."""
        side = self._image.size[0]
        i = np.floor((y + MARGIN) / self.CELL).astype(int)
        j = np.floor((x + MARGIN) / self.CELL).astype(int)
        inside = (i >= 0) & (j >= 0) & (i < side) & (j < side)
        array = np.asarray(self._image)
        return ~inside | (array[np.clip(i, 0, side - 1), np.clip(j, 0, side - 1)] > 0)

    def copy(self) -> "Occupancy":
        """Return an independent copy."""
        other = Occupancy()
        other._image = self._image.copy()
        other._draw = ImageDraw.Draw(other._image)
        return other
