"""Lay a scene out: backdrop, roads, the pair's events, and everything else that stands there at both dates."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rscc_hf.data.scenes import things
from rscc_hf.data.scenes.canvas import Area, Grain, State, Strip
from rscc_hf.data.scenes.geometry import (
    FRAME,
    Occupancy,
    Path,
    Polygon,
    blob,
    centroid,
    grown,
    hull,
    rough_edge,
)
from rscc_hf.data.scenes.style import Material
from rscc_hf.data.scenes.things import Rng, Thing

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


def _cell_of(outline: Polygon) -> tuple[int, int] | None:
    """Return the cell (column, row) of an outline's centre, or None near the line between two cells."""
    x, y = centroid(outline)
    for value in (x, y):
        if any(abs(value - line * FRAME) < _CLEAR for line in THIRDS):
            return None
    return third(x / FRAME), third(y / FRAME)


def _spot(rng: Rng, cell: tuple[int, int], reach: float) -> tuple[float, float]:
    """Return a point in a cell whose surroundings up to `reach` mostly lie in the frame."""
    spans = ((min(76.0, max(28.0, reach - 8)), 82.0), (108.0, 148.0), (174.0, max(180.0, min(228.0, 264 - reach))))
    x, y = (rng.uniform(*spans[i]) for i in cell)
    return float(x), float(y)


def _in_frame(outline: Polygon, slack: float = 5.0) -> bool:
    return all(-slack <= v <= FRAME + slack for point in outline for v in point)


def _clip(x: float, y: float, angle: float) -> Path:
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


def _bearing(rng: Rng) -> float:
    if rng.random() < 0.35:
        return float(rng.uniform(0.3, 1.27) * rng.choice([-1, 1]))
    return float(rng.normal(0, 0.10) + rng.choice([0, math.pi / 2]))


def _lay_roads(rng: Rng, layout: Layout) -> None:
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
        angle = _bearing(rng)
        x, y = rng.uniform(40, 216, 2)
        main = _clip(x, y, angle)
        layout.roads.append(Road(main, width))
        if kind > 2:
            s = float(rng.uniform(0.3, 0.7)) * main.length
            px, py, direction = main.at(s)
            cross = _clip(px, py, direction + math.pi / 2 + rng.normal(0, 0.08))
            if kind == 3:
                cross = Path([(px, py), cross.points[int(rng.integers(2))]])
            layout.roads.append(Road(cross, width * float(rng.uniform(0.8, 1.0))))
    for each in layout.roads:
        layout.paved.reserve_path(each.path, each.width + 3)


# --- proposals: a thing at a place, or None when it does not fit --------------------------------------------------


def _row(rng: Rng, layout: Layout) -> Thing | None:
    if not layout.roads:
        return None
    each = layout.roads[int(rng.integers(len(layout.roads)))]
    n, spacing = (
        int(rng.choice([2, 3, 4, 5, 6, 7], p=[0.16, 0.2, 0.22, 0.18, 0.14, 0.1])),
        float(rng.uniform(30.5, 34)),
    )
    room = each.path.length - 30 - n * spacing
    if room <= 0:
        return None
    start, side = 15 + float(rng.uniform(0, room)), -1 if rng.random() < 0.5 else 1
    probe = each.path.strip(start, start + n * spacing, side * (each.width / 2 + 6), side * (each.width / 2 + 47))
    if not _in_frame(probe, 9) or not layout.is_free(probe):
        return None
    return things.house_row(rng, each.path, each.width / 2, side, start, n, spacing)


def _angle(rng: Rng, layout: Layout) -> float:
    """Return a direction that goes with the roads."""
    if layout.roads and rng.random() < 0.85:
        path = layout.roads[0].path
        return path.at(path.length * 0.5)[2] + (math.pi / 2 if rng.random() < 0.5 else 0) + float(rng.normal(0, 0.03))
    return float(rng.uniform(0, math.pi))


Builder = Callable[[Rng, Layout, tuple[int, int]], Thing | None]


def _group(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    n = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.22, 0.2, 0.18, 0.15, 0.1, 0.15]))
    return things.house_group(rng, *_spot(rng, cell, 24 + 8 * n), _angle(rng, layout), n)


def _houses(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    if layout.roads and rng.random() < 0.6:
        return _row(rng, layout)
    return _group(rng, layout, cell)


def _villas(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    n = int(rng.choice([1, 2, 3], p=[0.45, 0.33, 0.22]))
    return things.villas(rng, *_spot(rng, cell, 30 + 20 * n), _angle(rng, layout), n)


def _large(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    n = 1 if rng.random() < 0.7 else 2
    return things.large_buildings(rng, *_spot(rng, cell, 52), _angle(rng, layout), n)


def _parking(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    return things.parking_lot(rng, *_spot(rng, cell, 50), _angle(rng, layout))


def _playground(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    return things.playground(rng, *_spot(rng, cell, 52), _angle(rng, layout))


def _forest(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    r = rng.uniform(36, 56, 2)
    return things.forest(rng, rough_edge(rng, blob(rng, *_spot(rng, cell, 48), r[0], r[1]), 7, 2.5))


def _lake(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    r = rng.uniform(34, 52, 2)
    return things.lake(rng, blob(rng, *_spot(rng, cell, 46), r[0], r[1], 0.13))


BUILDERS: dict[str, Builder] = {
    "house": _houses,
    "villa": _villas,
    "large building": _large,
    "parking lot": _parking,
    "playground": _playground,
    "forest": _forest,
    "lake": _lake,
}


def _place_thing(rng: Rng, layout: Layout, builder: Builder, cells: list[tuple[int, int]], tries: int) -> Thing | None:
    """Build a thing whose ground is free and whose centre lies clearly in one of `cells`."""
    for _ in range(tries):
        cell = cells[int(rng.integers(len(cells)))]
        thing = builder(rng, layout, cell)
        if thing is None or not all(_in_frame(outline, 9) for outline in thing.outline):
            continue
        if _cell_of(thing.outline[0]) in cells and all(layout.is_free(inner) for inner in _probe(thing)):
            return thing
    return None


def _probe(thing: Thing) -> list[Polygon]:
    # A row touches its road's verge: its own builder has looked already.
    return [grown(outline, 0.9) for outline in thing.outline]


def _claim(layout: Layout, thing: Thing) -> None:
    for outline in thing.outline:
        layout.taken.reserve(outline, 3)


# --- events ---------------------------------------------------------------------------------------------------


def _appear(rng: Rng, layout: Layout, cells: list[tuple[int, int]], number: int, name: str) -> Event | None:
    thing = _place_thing(rng, layout, BUILDERS[name], cells, 12)
    if thing is None:
        return None
    _claim(layout, thing.belongs_to(number))
    layout.after.append(thing)
    return Event("appear", name, None, thing.count, thing.outline, thing.layout, bool(thing.layout))


def _disappear(rng: Rng, layout: Layout, cells: list[tuple[int, int]], number: int, name: str) -> Event | None:
    thing = _place_thing(rng, layout, BUILDERS[name], cells, 12)
    if thing is None:
        return None
    _claim(layout, thing.belongs_to(number))
    layout.before.append(thing)
    return Event("disappear", name, None, thing.count, thing.outline, thing.layout, bool(thing.layout))


def _new_road(rng: Rng, layout: Layout, cells: list[tuple[int, int]], number: int, name: str) -> Event | None:
    for _ in range(10):
        path = _clip(*rng.uniform(30, 226, 2), _bearing(rng))
        width = float(rng.uniform(14, 19))
        if layout.roads and rng.random() < 0.5:
            other = layout.roads[0]
            x, y, angle = other.path.at(float(rng.uniform(0.25, 0.75)) * other.path.length)
            side = 1 if rng.random() < 0.5 else -1
            end = _clip(x, y, angle + side * math.pi / 2).points[1]
            path = Path([(x, y), end])
        outline = path.strip(0, path.length, -width / 2 - 3, width / 2 + 3)
        if path.length < 90 or any(_alongside(path, each.path) for each in layout.roads):
            continue
        if _cell_of(outline) in cells and layout.taken.free(outline):
            thing = things.road(rng, path, width, marked=bool(rng.random() < 0.5)).belongs_to(number)
            layout.taken.reserve(outline, 2)
            layout.after.append(thing)
            return Event("appear", "road", None, 1, thing.outline)
    return None


def _alongside(a: Path, b: Path) -> bool:
    """Tell whether two roads run so much alike, and so close, that they would merge."""
    turn = abs(math.sin(a.at(a.length / 2)[2] - b.at(b.length / 2)[2]))
    ax, ay, _ = a.at(a.length / 2)
    bx, by, _ = b.at(b.length / 2)
    return turn < 0.5 and math.hypot(ax - bx, ay - by) < 60


def _residential(
    rng: Rng, layout: Layout, cells: list[tuple[int, int]], number: int, replaced: str | None
) -> Event | None:
    """Houses on both sides of a new road that comes from the border; on the place of a forest or a field."""
    for _ in range(14):
        cell = cells[int(rng.integers(len(cells)))]
        x, y = _spot(rng, cell, 56)
        k, spacing = int(rng.choice([2, 3])), float(rng.uniform(31, 34))
        toward = float(rng.integers(4) * math.pi / 2 + rng.normal(0, 0.06))
        width, length = 14.0, k * spacing
        dx, dy = math.cos(toward), math.sin(toward)
        inner = (x - dx * length / 2, y - dy * length / 2)
        edge = _clip(x, y, toward).points[1]
        path = Path([edge, inner])
        if path.length > 215:
            continue
        site = path.strip(path.length - length - 4, path.length + 6, -width / 2 - 48, width / 2 + 48)
        area = grown(hull(site), 1.06)
        corridor = path.strip(0, path.length, -width / 2 - 3, width / 2 + 3)
        if not _in_frame(area, 14) or _cell_of(area) not in cells:
            continue
        if not (layout.is_free(area) and layout.taken.free(corridor)):
            continue
        rows = [things.house_row(rng, path, width / 2, side, path.length - length, k, spacing) for side in (-1, 1)]
        street = things.road(rng, path, width, marked=False)
        circle, _ = things.cul_de_sac(inner[0], inner[1], 9.0)
        street.state.grounds += circle
        parts = [*rows, street]
        if replaced:
            old, cover = _former(rng, replaced, area, number)
            layout.before.append(old)
            if cover is not None:
                parts.insert(0, cover)
        for part in parts:
            layout.after.append(part.belongs_to(number))
        outline = [grown(area, 1.08), corridor]
        for each in outline:
            layout.taken.reserve(each, 2)
        layout.roads.append(Road(path, width))
        kind = "replace" if replaced else "appear"
        return Event(kind, "house", replaced, 2 * k, outline, "", True, True)
    return None


def _former(rng: Rng, name: str, area: Polygon, number: int) -> tuple[Thing, Thing | None]:
    """Return what stood on an area, and the cleared ground that covers it afterwards."""
    if name == "forest":
        old = things.forest(rng, rough_edge(rng, area, 9, 3.5))
    elif name == "field":
        old = things.farm_field(rng, area, math.atan2(area[1][1] - area[0][1], area[1][0] - area[0][0]))
    elif name == "lake":
        cx, cy = centroid(area)
        spread = max(math.hypot(x - cx, y - cy) for x, y in area)
        old = things.lake(rng, blob(rng, cx, cy, spread * 0.98, spread * 0.86, 0.08))
    else:
        raise ValueError(f"nothing is known of a former {name}")
    material = Material.DIRT if rng.random() < 0.6 else Material.GRASS
    ground = Area(grown(old.outline[0], 0.97), material, 4.2, float(rng.uniform(0.92, 1.06)))
    cover = Thing("bare land", old.outline, State(grounds=[ground]), None)
    return old.belongs_to(number), cover


def _replace(rng: Rng, layout: Layout, cells: list[tuple[int, int]], number: int, pair: str) -> Event | None:
    replaced, name = pair.split(" by ")
    if name == "house" and replaced in ("forest", "field"):
        event = _residential(rng, layout, cells, number, replaced)
        if event is not None or rng.random() < 0.5:
            return event
    builder = _group if name == "house" else BUILDERS[name]
    for _ in range(10):
        thing = _place_thing(rng, layout, builder, cells, 3)
        if thing is None or thing.layout:
            continue
        core = thing.outline[0]
        if replaced in ("house", "large building"):
            cx, cy = centroid(core)
            angle = math.atan2(core[1][1] - core[0][1], core[1][0] - core[0][0])
            long, short = math.dist(core[0], core[1]), math.dist(core[1], core[2])
            if replaced == "house":
                n = 2 if short < 60 else 4
                if long < 60 or short < 34:
                    continue
                old = things.house_group(rng, cx, cy, angle, n)
            else:
                old = things.large_buildings(rng, cx, cy, angle, 1)
            outline = [grown(core, 1.02), old.outline[0]]
            if not all(layout.is_free(grown(each, 0.92)) and _in_frame(each, 9) for each in outline):
                continue
            layout.before.append(old.belongs_to(number))
        elif replaced == "bare land":
            area = grown(core, 1.25)
            if not layout.is_free(area):
                continue
            layout.base.append(things.bare_patch(rng, area))
            outline = [grown(core, 1.02)]
            layout.taken.reserve(area, 2)
        else:
            area = grown(core, 1.12)
            if not (layout.is_free(area) and _in_frame(area, 14)):
                continue
            old, cover = _former(rng, replaced, area, number)
            layout.before.append(old)
            if cover is not None:
                layout.after.append(cover.belongs_to(number))
            outline = [grown(each, 1.05) for each in old.outline]
        layout.after.append(thing.belongs_to(number))
        for each in outline:
            layout.taken.reserve(each, 3)
        return Event("replace", name, replaced, thing.count, outline)
    return None


def _widen_road(rng: Rng, layout: Layout, cells: list[tuple[int, int]], number: int, name: str) -> Event | None:
    order = rng.permutation(len(layout.roads))
    for i in order.tolist():
        each = layout.roads[i]
        new = float(rng.uniform(27, 32))
        outline = each.path.strip(0, each.path.length, -new / 2 - 4, new / 2 + 4)
        if each.path.length < 150 or _cell_of(outline) not in cells or not layout.taken.free(outline):
            continue
        each.width = float(rng.uniform(10, 12))
        wide = things.road(rng, each.path, new, marked=True).belongs_to(number)
        layout.after.append(wide)
        layout.taken.reserve(outline, 2)
        event = Event("widen", "road", None, 1, wide.outline)
        layout.paved.reserve_path(each.path, new + 6)
        return event
    return None


def _widen_lake(rng: Rng, layout: Layout, cells: list[tuple[int, int]], number: int, name: str) -> Event | None:
    for _ in range(10):
        cell = cells[int(rng.integers(len(cells)))]
        r = rng.uniform(26, 34, 2)
        small = blob(rng, *_spot(rng, cell, 52), r[0], r[1], 0.12)
        big = rough_edge(rng, grown(small, float(rng.uniform(1.6, 1.8))), 8, 1.0)
        if _cell_of(big) not in cells or not _in_frame(big, 10) or not layout.is_free(big):
            continue
        old, new = things.lake(rng, small), things.lake(rng, big).belongs_to(number)
        for item in old.state.grounds:
            if isinstance(item, Area) and item.material == Material.WATER:
                item.z += 0.15  # the old water stays what it was
        layout.base.append(old)
        layout.after.append(new)
        layout.taken.reserve(big, 3)
        return Event("widen", "lake", None, None, [grown(big, 1.02)])
    return None


Maker = Callable[[Rng, Layout, list[tuple[int, int]], int, str], Event | None]

EVENTS: list[tuple[float, Maker, str]] = [
    (10, _appear, "house"),
    (6, _appear, "villa"),
    (6, _appear, "large building"),
    (5, _appear, "parking lot"),
    (4, _appear, "playground"),
    (4, _appear, "forest"),
    (4, _appear, "lake"),
    (6, _new_road, "road"),
    (4, _disappear, "house"),
    (4, _disappear, "large building"),
    (6, _disappear, "forest"),
    (4, _disappear, "lake"),
    (2, _disappear, "villa"),
    (8, _replace, "forest by house"),
    (3, _replace, "forest by villa"),
    (3, _replace, "forest by large building"),
    (2, _replace, "forest by parking lot"),
    (4, _replace, "field by house"),
    (2, _replace, "field by parking lot"),
    (2, _replace, "field by playground"),
    (2, _replace, "house by large building"),
    (2, _replace, "house by parking lot"),
    (2, _replace, "large building by parking lot"),
    (2, _replace, "lake by house"),
    (3, _replace, "bare land by parking lot"),
    (2, _replace, "bare land by large building"),
    (6, _widen_road, "road"),
    (4, _widen_lake, "lake"),
]

ALL_CELLS = [(column, row) for row in range(3) for column in range(3)]


def _make_events(rng: Rng, layout: Layout, wanted: int) -> None:
    weights = np.array([weight for weight, _, _ in EVENTS])
    weights = weights / weights.sum()
    cells = list(ALL_CELLS)
    for _ in range(8 * wanted):
        if len(layout.events) == wanted:
            return
        _, make, name = EVENTS[int(rng.choice(len(EVENTS), p=weights))]
        if name.startswith("bare land") and layout.backdrop != "grass":
            continue
        if any((each.kind, each.name) == (_kind(make), name.split(" by ")[-1]) for each in layout.events):
            continue
        event = make(rng, layout, cells, len(layout.events) + 1, name)
        if event is not None:
            layout.events.append(event)
            used = _cell_of(event.outline[0])
            cells = [cell for cell in cells if cell != used]


def _kind(make: Maker) -> str:
    return {_appear: "appear", _new_road: "appear", _disappear: "disappear", _replace: "replace"}.get(make, "widen")


# --- what stands there at both dates --------------------------------------------------------------------------


def _backdrop(rng: Rng, layout: Layout) -> None:
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


def _furnish(rng: Rng, layout: Layout, plenty: int) -> None:
    for _ in range(int(rng.integers(1, 4)) + plenty if layout.roads else 0):
        for _ in range(3):
            row = _row(rng, layout)
            if row is not None:
                _claim(layout, row)
                layout.base.append(row)
                break
    chances: list[tuple[str, float]] = [
        ("large building", 0.2), ("forest", 0.6), ("forest", 0.35), ("field", 0.3), ("lake", 0.16), ("parking lot", 0.16),
        ("villa", 0.15), ("group", 0.25), ("playground", 0.08), ("forest", 0.2), ("field", 0.15),
    ]  # fmt: skip
    for name, chance in chances:
        if rng.random() < chance * (1 + 0.25 * plenty):
            thing = _place_thing(rng, layout, _BASE_BUILDERS[name], ALL_CELLS, 2)
            if thing is not None:
                _claim(layout, thing)
                layout.base.append(thing)


def _field(rng: Rng, layout: Layout, cell: tuple[int, int]) -> Thing | None:
    angle = _angle(rng, layout)
    w, d = rng.uniform(60, 110), rng.uniform(50, 90)
    outline = things.rectangle(*_spot(rng, cell, 45), w, d, angle)
    return things.farm_field(rng, outline, angle)


_BASE_BUILDERS: dict[str, Builder] = {**BUILDERS, "field": _field, "group": _group}


def _scatter_trees(rng: Rng, layout: Layout) -> None:
    n = int(rng.integers(6, 60))
    clumps = rng.uniform(-8, FRAME + 8, (max(2, n // 6), 2))
    centre = clumps[rng.integers(len(clumps), size=n)] + rng.normal(0, 16, (n, 2))
    lone = rng.uniform(-8, FRAME + 8, (n, 2))
    spots = np.where(rng.random((n, 1)) < 0.6, centre, lone)
    radius = rng.gamma(4.0, 0.85, n).clip(1.6, 7.5)
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


def make_layout(rng: Rng, wanted: int) -> Layout:
    """Lay out a scene.

    Args:
        rng: Source of all its choices.
        wanted: Number of events, 0 for an unchanged pair. The layout has at least one when it is not 0.

    Returns:
        The scene; its `events` are numbered from 1 in order.
    """
    while True:
        numbers = rng.uniform(0, 1, (4, 4))
        places = [(float(a), float(b), bool(c > 0.5), bool(d > 0.5)) for a, b, c, d in numbers]
        backdrop = ("bareland", "grass", "mixed")[int(rng.choice(3, p=[0.4, 0.35, 0.25]))]
        layout = Layout(backdrop, Grain(*places))
        _backdrop(rng, layout)
        _lay_roads(rng, layout)
        static = list(layout.roads)
        if wanted:
            _make_events(rng, layout, wanted)
            if not layout.events:
                continue
        for each in static:
            marked = bool(rng.random() < 0.6) and each.width > 12.5
            thing = things.road(rng, each.path, each.width, marked=marked, curb=each.width > 12.5)
            for item in thing.state.grounds:
                if isinstance(item, Strip) and item.material == Material.ROAD:
                    item.z = 8.6  # above a new road: the crossing stays what it was
            layout.base.append(thing)
        _furnish(rng, layout, 0 if wanted else 1)
        _scatter_trees(rng, layout)
        return layout
