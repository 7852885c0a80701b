"""Lay a scene out: backdrop, roads, the pair's events, and everything else that stands there at both dates."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rscc_hf.synthetic import things
from rscc_hf.synthetic.canvas import Area, Grain, State, Strip
from rscc_hf.synthetic.geometry import (
    FRAME,
    Occupancy,
    Path,
    Polygon,
    blob,
    centroid,
    grown,
    rough_edge,
)
from rscc_hf.synthetic.style import Material
from rscc_hf.synthetic.things import Rng, Thing

# Where the middle third of the frame begins and ends; sites keep `_CLEAR` units away from these lines.
THIRDS = (0.37, 0.63)
_CLEAR = 5.0


@dataclass
class Road:
    """A road of the scene."""

    path: Path
    width: float


@dataclass
class Event:
    """A change: what it is, and the ground on which it happens."""

    kind: str  # appear, disappear, replace, widen
    name: str
    replaced: str | None
    count: int | None
    outline: list[Polygon]
    layout: str = ""
    along_road: bool = False
    new_road: bool = False


@dataclass
class Layout:
    """A scene at two dates."""

    backdrop: str  # bareland, grass, mixed
    grain: Grain
    roads: list[Road] = field(default_factory=list)
    base: list[Thing] = field(default_factory=list)
    before: list[Thing] = field(default_factory=list)
    after: list[Thing] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    taken: Occupancy = field(default_factory=Occupancy)
    paved: Occupancy = field(default_factory=Occupancy)

    def states(self) -> tuple[State, State]:
        """Return what stands before and after."""
        return _merged([*self.base, *self.before]), _merged([*self.base, *self.after])

    def is_free(self, outline: Polygon) -> bool:
        """Tell whether nothing stands on the outline and no road crosses it."""
        return self.taken.free(outline) and self.paved.free(outline)


def _merged(parts: list[Thing]) -> State:
    state = State()
    for thing in parts:
        state.grounds += thing.state.grounds
        state.roofs += thing.state.roofs
        state.trees += thing.state.trees
        state.cars += thing.state.cars
        state.ploughed += thing.state.ploughed
    return state


def third(value: float) -> int:
    """Return 0, 1 or 2: in which third of the frame a coordinate (0..1) lies."""
    return int(value >= THIRDS[0]) + int(value >= THIRDS[1])


def cell_of(outline: Polygon) -> tuple[int, int] | None:
    """Return the cell (column, row) of an outline's centre, or None near the line between two cells."""
    x, y = centroid(outline)
    for value in (x, y):
        if any(abs(value - line * FRAME) < _CLEAR for line in THIRDS):
            return None
    return third(x / FRAME), third(y / FRAME)


def spot(rng: Rng, layout: Layout, cell: tuple[int, int], reach: float) -> tuple[float, float]:
    """Return a point in a cell whose surroundings up to `reach` mostly lie in the frame.

    Of six tries it is the first around which some ground is free; whether the thing fits is for its outline to tell.
    """
    low = min(76.0, max(28.0, reach - 8))
    spans = ((low, 82.0), (108.0, 148.0), (174.0, max(180.0, min(228.0, 264 - reach))))
    x = y = 0.0
    for _ in range(6):
        x, y = (float(rng.uniform(*spans[i])) for i in cell)
        if all(each.free_square(x, y, 0.4 * reach) for each in (layout.taken, layout.paved)):
            break
    return x, y


def in_frame(outline: Polygon, slack: float = 5.0) -> bool:
    """Tell whether all points of an outline lie in the frame, or up to `slack` pixels beyond."""
    return all(-slack <= v <= FRAME + slack for point in outline for v in point)


def clip(x: float, y: float, angle: float) -> Path:
    """Return the line through a point, cut a little outside the frame."""
    dx, dy = math.cos(angle), math.sin(angle)
    ends = []
    for sign in (-1, 1):
        reach = [
            ((FRAME + 16 if sign * d > 0 else -16.0) - p) / (sign * d) for p, d in ((x, dx), (y, dy)) if abs(d) > 1e-9
        ]
        t = min(reach)
        ends.append((x + sign * dx * t, y + sign * dy * t))
    return Path(ends)


def bearing(rng: Rng) -> float:
    """Draw a direction in radians: along an axis, or oblique."""
    if rng.random() < 0.35:
        return float(rng.uniform(0.3, 1.27) * rng.choice([-1, 1]))
    return float(rng.normal(0, 0.10) + rng.choice([0, math.pi / 2]))


def lay_roads(rng: Rng, layout: Layout) -> None:
    """Lay the roads of a scene: none, a curve, a straight one, a junction or a crossing."""
    kind = rng.choice(5, p=[0.10, 0.36, 0.20, 0.17, 0.17])
    width = float(rng.uniform(13, 18))
    if kind == 0:
        return
    if kind == 2:
        a = rng.uniform(0, 2 * math.pi)
        start = (128 + 200 * math.cos(a), 128 + 200 * math.sin(a))
        b = a + math.pi + rng.uniform(-0.9, 0.9)
        end = (128 + 200 * math.cos(b), 128 + 200 * math.sin(b))
        mid = rng.uniform(60, 196, 2)
        t = np.linspace(0, 1, 28)[:, None]
        curve = (1 - t) ** 2 * np.array(start) + 2 * t * (1 - t) * mid + t**2 * np.array(end)
        layout.roads.append(Road(Path(curve.tolist()), width))
    else:
        angle = bearing(rng)
        x, y = rng.uniform(40, 216, 2)
        main = clip(x, y, angle)
        layout.roads.append(Road(main, width))
        if kind > 2:
            s = float(rng.uniform(0.3, 0.7)) * main.length
            px, py, direction = main.at(s)
            cross = clip(px, py, direction + math.pi / 2 + rng.normal(0, 0.08))
            if kind == 3:
                cross = Path([(px, py), cross.points[int(rng.integers(2))]])
            layout.roads.append(Road(cross, width * float(rng.uniform(0.8, 1.0))))
    for each in layout.roads:
        layout.paved.reserve_path(each.path, each.width + 3)


# --- proposals: a thing at a place, or None when it does not fit --------------------------------------------------


def _row(rng: Rng, layout: Layout, most: int = 7) -> Thing | None:
    if not layout.roads:
        return None
    each = layout.roads[int(rng.integers(len(layout.roads)))]
    n = min(most, int(rng.choice([2, 3, 4, 5, 6, 7], p=[0.16, 0.2, 0.22, 0.18, 0.14, 0.1])))
    spacing = float(rng.uniform(31, 35))
    room = each.path.length - 30 - n * spacing
    if room <= 0:
        return None
    start, side = 15 + float(rng.uniform(0, room)), -1 if rng.random() < 0.5 else 1
    probe = each.path.strip(start, start + n * spacing, side * (each.width / 2 + 6), side * (each.width / 2 + 47))
    if not in_frame(probe, 9) or not layout.is_free(probe):
        return None
    return things.house_row(rng, each.path, each.width / 2, side, start, n, spacing)


def road_angle(rng: Rng, layout: Layout) -> float:
    """Return a direction that goes with the roads."""
    if layout.roads and rng.random() < 0.85:
        path = layout.roads[0].path
        return path.at(path.length * 0.5)[2] + (math.pi / 2 if rng.random() < 0.5 else 0) + float(rng.normal(0, 0.03))
    return float(rng.uniform(0, math.pi))


ALL_CELLS = [(column, row) for row in range(3) for column in range(3)]

Builder = Callable[[Rng, Layout, tuple[int, int]], Thing | None]


def group(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    """Make a group of one to six houses in a cell of the grid."""
    n = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.22, 0.2, 0.18, 0.15, 0.1, 0.15]))
    return things.house_group(rng, *spot(rng, layout, cell, 24 + 8 * n), road_angle(rng, layout), n)


def _houses(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    if layout.roads and rng.random() < 0.6:
        return _row(rng, layout)
    return group(rng, layout, cell)


def _villas(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    n = int(rng.choice([1, 2, 3], p=[0.45, 0.33, 0.22]))
    return things.villas(rng, *spot(rng, layout, cell, 30 + 20 * n), road_angle(rng, layout), n)


def _large(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    n = 1 if rng.random() < 0.7 else 2
    return things.large_buildings(rng, *spot(rng, layout, cell, 52), road_angle(rng, layout), n)


def _parking(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    return things.parking_lot(rng, *spot(rng, layout, cell, 50), road_angle(rng, layout))


def _playground(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    return things.playground(rng, *spot(rng, layout, cell, 52), road_angle(rng, layout))


def _forest(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    r = rng.uniform(36, 56, 2)
    outline = rough_edge(rng, blob(rng, *spot(rng, layout, cell, 48), r[0], r[1]), 7, 2.5)
    return things.forest(rng, outline) if layout.is_free(outline) else None  # its crowns take time


def _lake(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    r = rng.uniform(34, 52, 2)
    return things.lake(rng, blob(rng, *spot(rng, layout, cell, 46), r[0], r[1], 0.13))


BUILDERS: dict[str, Builder] = {
    "house": _houses,
    "villa": _villas,
    "large building": _large,
    "parking lot": _parking,
    "playground": _playground,
    "forest": _forest,
    "lake": _lake,
}


def place_thing(rng: Rng, layout: Layout, builder: Builder, cells: list[tuple[int, int]], tries: int) -> Thing | None:
    """Build a thing whose ground is free and whose centre lies clearly in one of `cells`."""
    for _ in range(tries):
        cell = cells[int(rng.integers(len(cells)))]
        thing = builder(rng, layout, cell)
        if thing is None or not all(in_frame(outline, 9) for outline in thing.outline):
            continue
        if cell_of(thing.outline[0]) in cells and all(layout.is_free(inner) for inner in _probe(thing)):
            return thing
    return None


def _probe(thing: Thing) -> list[Polygon]:
    # A row touches its road's verge: its own builder has looked already.
    return [grown(outline, 0.9) for outline in thing.outline]


def claim(layout: Layout, thing: Thing) -> None:
    """Reserve the place of a thing, so that nothing else is put there."""
    for outline in thing.outline:
        layout.taken.reserve(outline, 3)


# --- what stands there at both dates --------------------------------------------------------------------------


def backdrop(rng: Rng, layout: Layout) -> None:
    """Cover the frame with what lies under everything: grass or bare land, patches of others, tracks."""
    grounds: list[Area | Strip] = []
    frame: Polygon = [(-8.0, -8.0), (FRAME + 8, -8.0), (FRAME + 8, FRAME + 8), (-8.0, FRAME + 8)]
    if layout.backdrop == "grass":
        grounds.append(Area(frame, Material.GRASS, 0.0, float(rng.uniform(0.95, 1.05))))
        patches = [Material.GRASS] * int(rng.integers(2, 5))
    elif layout.backdrop == "bareland":
        patches = [Material.BARE] * int(rng.integers(1, 4)) + [Material.DIRT] * int(rng.integers(0, 3))
    else:
        patches = [Material.GRASS] * int(rng.integers(2, 5)) + [Material.DIRT]
    grounds += [things.wild_blob(rng, material) for material in patches]
    for _ in range(int(rng.choice([0, 1, 2], p=[0.5, 0.35, 0.15]))):
        a = rng.uniform(0, 2 * math.pi)
        t = np.linspace(0, 1, 24)[:, None]
        ends = 128 + 190 * np.array([[math.cos(a), math.sin(a)], [math.cos(a + 2.4), math.sin(a + 2.4)]])
        curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * rng.uniform(30, 226, 2) + t**2 * ends[1]
        path = Path(curve.tolist())
        for offset in (-1.8, 1.8):
            points = [things.local(*path.at(s), 0, offset) for s in np.linspace(0, path.length, 40).tolist()]
            grounds.append(Strip(Path(points), 1.7, Material.DIRT, 1.8, 1.05))
    layout.base.append(Thing("backdrop", [], State(grounds=list(grounds)), None))


def furnish(rng: Rng, layout: Layout, plenty: int) -> None:
    """Put things into the layout, rows along roads and then single ones; more of both with `plenty`."""
    for _ in range(int(rng.integers(2, 7)) + plenty if layout.roads else 0):
        for attempt in range(4):
            row = _row(rng, layout, 7 - attempt)
            if row is not None:
                claim(layout, row)
                layout.base.append(row)
                break
    chances: list[tuple[str, float]] = [
        ("large building", 0.2),
        ("forest", 0.6),
        ("forest", 0.4),
        ("field", 0.3),
        ("lake", 0.16),
        ("parking lot", 0.16),
        ("villa", 0.2),
        ("group", 0.35),
        ("playground", 0.08),
        ("forest", 0.3),
        ("field", 0.2),
        ("villa", 0.1),
    ]
    for name, chance in chances:
        if rng.random() < chance * (1 + 0.25 * plenty):
            thing = place_thing(rng, layout, _BASE_BUILDERS[name], ALL_CELLS, 4)
            if thing is not None:
                claim(layout, thing)
                layout.base.append(thing)


def _field(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    angle = road_angle(rng, layout)
    w, d = rng.uniform(60, 110), rng.uniform(50, 90)
    outline = things.rectangle(*spot(rng, layout, cell, 45), w, d, angle)
    return things.farm_field(rng, outline, angle)


_BASE_BUILDERS: dict[str, Builder] = {**BUILDERS, "field": _field, "group": group}


def scatter_trees(rng: Rng, layout: Layout) -> None:
    """Scatter trees, in clumps and alone."""
    n = int(rng.choice([15, 40, 90, 150], p=[0.25, 0.35, 0.25, 0.15]) * rng.uniform(0.6, 1.4))
    clumps = rng.uniform(-8, FRAME + 8, (max(2, n // 9), 2))
    centre = clumps[rng.integers(len(clumps), size=n)] + rng.normal(0, 13, (n, 2))
    lone = rng.uniform(-8, FRAME + 8, (n, 2))
    spots = np.where(rng.random((n, 1)) < 0.65, centre, lone)
    radius = (rng.gamma(3.2, 0.8, n) * rng.uniform(0.7, 1.25)).clip(1.2, 7.0)
    reach = np.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
    around = spots[:, None] + reach[None] * (radius[:, None, None] + 1)
    taken = layout.taken.taken_at(spots[:, 0], spots[:, 1])
    for occupancy in (layout.taken, layout.paved):
        near = occupancy.taken_at(around[..., 0].ravel(), around[..., 1].ravel()).reshape(n, 5)
        off = (np.abs(around - 128) > 128 + 7.9).any(-1)
        taken |= (near & ~off).any(1)
    keep = ~taken
    rows = np.column_stack(
        [spots, radius, rng.integers(things.CROWN_SHAPES, size=n), rng.integers(things.CROWN_HUES, size=n)]
    )[keep]
    layout.base.append(Thing("trees", [], State(trees=[rows]), None))
