"""The changes: what appears, disappears, is replaced or widened; and the whole of a scene's layout."""

import math
from collections.abc import Callable

import numpy as np

from rscc_hf.errors import InputError
from rscc_hf.synthetic import things
from rscc_hf.synthetic.canvas import Area, Grain, State, Strip
from rscc_hf.synthetic.geometry import Path, Polygon, blob, centroid, grown, hull, rough_edge
from rscc_hf.synthetic.layout import (
    ALL_CELLS,
    BUILDERS,
    Event,
    Layout,
    Road,
    backdrop,
    bearing,
    cell_of,
    claim,
    clip,
    furnish,
    group,
    in_frame,
    lay_roads,
    place_thing,
    scatter_trees,
    spot,
)
from rscc_hf.synthetic.style import Material
from rscc_hf.synthetic.things import Rng, Thing


def _appear(rng: Rng, layout: Layout, cells: list[tuple[int, int]], number: int, name: str) -> Event | None:
    thing = place_thing(rng, layout, BUILDERS[name], cells, 12)
    if thing is None:
        return None
    claim(layout, thing.belongs_to(number))
    layout.after.append(thing)
    return Event("appear", name, None, thing.count, thing.outline, thing.layout, bool(thing.layout))


def _disappear(rng: Rng, layout: Layout, cells: list[tuple[int, int]], number: int, name: str) -> Event | None:
    thing = place_thing(rng, layout, BUILDERS[name], cells, 12)
    if thing is None:
        return None
    claim(layout, thing.belongs_to(number))
    layout.before.append(thing)
    return Event("disappear", name, None, thing.count, thing.outline, thing.layout, bool(thing.layout))


def _new_road(rng: Rng, layout: Layout, cells: list[tuple[int, int]], number: int, name: str) -> Event | None:
    for _ in range(10):
        px, py = rng.uniform(30, 226, 2).tolist()
        path = clip(px, py, bearing(rng))
        width = float(rng.uniform(14, 19))
        if layout.roads and rng.random() < 0.5:
            other = layout.roads[0]
            x, y, angle = other.path.at(float(rng.uniform(0.25, 0.75)) * other.path.length)
            side = 1 if rng.random() < 0.5 else -1
            end = clip(x, y, angle + side * math.pi / 2).points[1]
            path = Path([(x, y), end])
        outline = path.strip(0, path.length, -width / 2 - 3, width / 2 + 3)
        if path.length < 90 or any(_alongside(path, each.path) for each in layout.roads):
            continue
        if cell_of(outline) in cells and layout.taken.free(outline):
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
    """Draw houses on both sides of a new road from the border; on the place of a forest or a field."""
    for _ in range(14):
        cell = cells[int(rng.integers(len(cells)))]
        x, y = spot(rng, layout, cell, 56)
        k, spacing = int(rng.choice([2, 3])), float(rng.uniform(31, 34))
        toward = float(rng.integers(4) * math.pi / 2 + rng.normal(0, 0.06))
        width, length = 14.0, k * spacing
        dx, dy = math.cos(toward), math.sin(toward)
        inner = (x - dx * length / 2, y - dy * length / 2)
        edge = clip(x, y, toward).points[1]
        path = Path([edge, inner])
        if path.length > 215:
            continue
        site = path.strip(path.length - length - 4, path.length + 6, -width / 2 - 48, width / 2 + 48)
        area = grown(hull(site), 1.06)
        corridor = path.strip(0, path.length, -width / 2 - 3, width / 2 + 3)
        if not in_frame(area, 14) or cell_of(area) not in cells:
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


def _former(rng: Rng, name: str, area: Polygon, number: int) -> tuple[Thing, Thing]:
    """Return what stood on an area, and the cleared ground that covers it afterwards."""
    if name == "forest":
        old = things.forest(rng, rough_edge(rng, area, 9, 3.5))
    elif name == "field":
        old = things.farm_field(rng, area, math.atan2(area[1][1] - area[0][1], area[1][0] - area[0][0]))
    elif name == "lake":
        cx, cy = centroid(area)
        spread = max(math.hypot(x - cx, y - cy) for x, y in area)
        old = things.lake(rng, blob(rng, cx, cy, spread * 0.9, spread * 0.8, 0.08))
    else:
        raise InputError(f"nothing is known of a former {name}")
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
    builder = group if name == "house" else BUILDERS[name]
    for _ in range(10):
        thing = place_thing(rng, layout, builder, cells, 3)
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
            if not all(layout.is_free(grown(each, 0.92)) and in_frame(each, 9) for each in outline):
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
            if not (layout.is_free(area) and in_frame(area, 14)):
                continue
            old, cover = _former(rng, replaced, area, number)
            if not all(layout.is_free(each) for each in old.outline):
                continue
            layout.before.append(old)
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
        if each.path.length < 150 or cell_of(outline) not in cells or not layout.taken.free(outline):
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
        small = blob(rng, *spot(rng, layout, cell, 52), r[0], r[1], 0.12)
        big = rough_edge(rng, grown(small, float(rng.uniform(1.6, 1.8))), 8, 1.0)
        if cell_of(big) not in cells or not in_frame(big, 10) or not layout.is_free(big):
            continue
        old, new = things.lake(rng, small), things.lake(rng, big).belongs_to(number)
        for item in [*old.state.grounds, *new.state.grounds]:
            if isinstance(item, Area) and item.material == Material.WATER:
                item.tone = 1.0  # one depth: no ring where the old shore was
        for item in old.state.grounds:
            if isinstance(item, Area) and item.material == Material.WATER:
                item.z += 0.15  # the old water stays what it was
        layout.base.append(old)
        layout.after.append(new)
        layout.taken.reserve(big, 3)
        return Event("widen", "lake", None, None, [grown(big, 1.02)])
    return None


Maker = Callable[[Rng, Layout, list[tuple[int, int]], int, str], Event | None]

EVENTS: list[tuple[float, str, Maker, str]] = [
    (10, "appear", _appear, "house"),
    (6, "appear", _appear, "villa"),
    (6, "appear", _appear, "large building"),
    (5, "appear", _appear, "parking lot"),
    (4, "appear", _appear, "playground"),
    (4, "appear", _appear, "forest"),
    (4, "appear", _appear, "lake"),
    (6, "appear", _new_road, "road"),
    (4, "disappear", _disappear, "house"),
    (4, "disappear", _disappear, "large building"),
    (6, "disappear", _disappear, "forest"),
    (4, "disappear", _disappear, "lake"),
    (2, "disappear", _disappear, "villa"),
    (8, "replace", _replace, "forest by house"),
    (3, "replace", _replace, "forest by villa"),
    (3, "replace", _replace, "forest by large building"),
    (2, "replace", _replace, "forest by parking lot"),
    (4, "replace", _replace, "field by house"),
    (2, "replace", _replace, "field by parking lot"),
    (2, "replace", _replace, "field by playground"),
    (2, "replace", _replace, "house by large building"),
    (2, "replace", _replace, "house by parking lot"),
    (2, "replace", _replace, "large building by parking lot"),
    (2, "replace", _replace, "lake by house"),
    (3, "replace", _replace, "bare land by parking lot"),
    (2, "replace", _replace, "bare land by large building"),
    (6, "widen", _widen_road, "road"),
    (4, "widen", _widen_lake, "lake"),
]


def _make_events(rng: Rng, layout: Layout, wanted: int) -> None:
    weights = np.array([weight for weight, _, _, _ in EVENTS])
    weights = weights / weights.sum()
    cells = list(ALL_CELLS)
    for _ in range(8 * wanted):
        if len(layout.events) == wanted:
            return
        _, kind, make, name = EVENTS[int(rng.choice(len(EVENTS), p=weights))]
        if name.startswith("bare land") and layout.backdrop != "grass":
            continue
        if any((each.kind, each.name) == (kind, name.split(" by ")[-1]) for each in layout.events):
            continue
        event = make(rng, layout, cells, len(layout.events) + 1, name)
        if event is not None:
            layout.events.append(event)
            used = cell_of(event.outline[0])
            cells = [cell for cell in cells if cell != used]


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
        kind = ("bareland", "grass", "mixed")[int(rng.choice(3, p=[0.4, 0.35, 0.25]))]
        layout = Layout(kind, Grain(*places))
        backdrop(rng, layout)
        lay_roads(rng, layout)
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
        furnish(rng, layout, 0 if wanted else 1)
        scatter_trees(rng, layout)
        return layout
