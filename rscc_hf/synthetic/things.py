"""Builders of what can stand in a scene: houses, villas, large buildings, parking lots, woods, lakes, fields, roads.

Each returns a `Thing`: what to draw, how many, and the ground that it takes. Sizes in units of half a metre.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from rscc_hf.synthetic.canvas import Area, Mark, Roof, State, Strip
from rscc_hf.synthetic.geometry import FRAME, Path, Polygon, blob, grown, local, rectangle, rough_edge
from rscc_hf.synthetic.style import Material
from rscc_hf.synthetic.textures import CROWN_HUES, CROWN_SHAPES

Rng = np.random.Generator


@dataclass
class Thing:
    """Something in a scene.

    Attributes:
        name: The object's name in records and captions.
        outline: The ground it takes; everything that it draws as a code lies inside.
        state: What to draw.
        count: How many; None where counting makes no sense (a forest).
        layout: "row" or "" (how the parts are arranged).
    """

    name: str
    outline: list[Polygon]
    state: State = field(default_factory=State)
    count: int | None = 1
    layout: str = ""

    def belongs_to(self, event: int) -> "Thing":
        """Set the event that brings (or takes) this thing."""
        for item in [*self.state.grounds, *self.state.roofs]:
            if not isinstance(item, Mark):
                item.event = event
        return self


def _house(rng: Rng, x: float, y: float, angle: float, colour: int, size: float = 1.0) -> list[Roof]:
    """Return a house whose street side looks along `angle` - 90 degrees (towards negative `across`)."""
    width, depth = rng.uniform(24, 29) * size, rng.uniform(18, 22) * size
    kind = "gable" if rng.random() < 0.35 else "hip"
    height = rng.uniform(7, 9.5)
    roofs = [Roof(x, y, width, depth, angle, height, kind, colour)]
    if rng.random() < 0.7:
        wing, out = rng.uniform(11, 13.5) * size, rng.uniform(5, 8) * size
        side = (width - wing) / 2 * (1 if rng.random() < 0.5 else -1)
        wx, wy = local(x, y, angle, side, -out / 2)
        roofs.append(Roof(wx, wy, depth + out, wing, angle + math.pi / 2, height - 0.5, kind, colour))
    return roofs


def _garden_trees(rng: Rng, outline: Polygon, n: int) -> np.ndarray:
    xs, ys = [p[0] for p in outline], [p[1] for p in outline]
    return np.column_stack(
        [
            rng.uniform(min(xs), max(xs), n),
            rng.uniform(min(ys), max(ys), n),
            rng.uniform(2.2, 5.0, n),
            rng.integers(CROWN_SHAPES, size=n),
            rng.integers(CROWN_HUES, size=n),
        ]
    )


def house_row(rng: Rng, path: Path, half_width: float, side: int, start: float, n: int, spacing: float) -> Thing:
    """Build `n` houses along a road, on its left (side -1) or right (1), from arc length `start` on."""
    plot, setback = rng.uniform(42, 47), rng.uniform(8, 11)
    near, far = half_width + 2.5, half_width + plot
    end = start + n * spacing
    outline = path.strip(start, end, side * near, side * far)
    thing = Thing("house", [outline], count=n, layout="row" if n > 2 else "")
    grounds = thing.state.grounds
    lawn = rng.random() < 0.65
    tone = rng.uniform(0.86, 1.06)
    if lawn:
        grounds.append(Area(outline, Material.GRASS, 7.0, tone))
    else:
        grounds.append(Area(outline, Material.DIRT, 7.0, rng.uniform(0.92, 1.04)))
    colours = rng.integers(8, size=3)
    for i in range(n):
        s = start + (i + 0.5) * spacing
        x, y, angle = path.at(s)
        jitter = rng.uniform(-1.2, 1.2)
        hx, hy = local(x, y, angle, jitter, side * (half_width + setback + 11))
        front = angle if side > 0 else angle + math.pi
        thing.state.roofs += _house(rng, hx, hy, front + rng.normal(0, 0.012), int(colours[rng.integers(3)]))
        dx = rng.uniform(5, 8) * (1 if rng.random() < 0.5 else -1)
        drive = path.strip(s + dx - 3.4, s + dx + 3.4, side * near, side * (half_width + setback + 6))
        grounds.append(Area(drive, Material.CONCRETE, 7.6, rng.uniform(0.94, 1.06)))
        if rng.random() < 0.5:
            cx, cy = local(x, y, angle, dx, side * (half_width + 6))
            thing.state.cars.append((cx, cy, angle + math.pi / 2))
        if lawn:
            if i:
                a, b, _ = path.at(start + i * spacing)
                fence = [local(a, b, angle, 0, side * (half_width + setback + 8)), local(a, b, angle, 0, side * far)]
                grounds.append(Mark(fence, None, 8.2, 0.9, Material.GRASS, 0.55))
            yard = path.strip(s - spacing / 2, s + spacing / 2, side * (far - 14), side * (far - 3))
            thing.state.trees.append(_garden_trees(rng, yard, int(rng.integers(0, 3))))
    if lawn:
        back = outline[len(outline) // 2 :]
        grounds.append(Mark(back, None, 8.2, 0.9, Material.GRASS, 0.55))
    return thing


def house_group(rng: Rng, cx: float, cy: float, angle: float, n: int) -> Thing:
    """Build 1 to 9 houses in a loose grid around (cx, cy)."""
    columns = {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3}.get(n, 3)
    rows = math.ceil(n / columns)
    pitch_x, pitch_y = rng.uniform(35, 39), rng.uniform(35, 39)
    outline = rectangle(cx, cy, columns * pitch_x, rows * pitch_y, angle)
    thing = Thing("house", [outline], count=n)
    ground = Material.GRASS if rng.random() < 0.6 else Material.DIRT
    thing.state.grounds.append(Area(rough_edge(rng, outline), ground, 7.0, rng.uniform(0.88, 1.05)))
    colours = rng.integers(8, size=2)
    turned = rng.random() < 0.5
    for i in range(n):
        along = (i % columns - (columns - 1) / 2) * pitch_x
        across = (i // columns - (rows - 1) / 2) * pitch_y
        if i // columns == rows - 1:  # the last row is centred
            along += (columns * rows - n) * pitch_x / 2
        x, y = local(cx, cy, angle, along + rng.uniform(-1.5, 1.5), across + rng.uniform(-1.5, 1.5))
        front = angle + (math.pi if turned else 0) + rng.normal(0, 0.03)
        thing.state.roofs += _house(rng, x, y, front, int(colours[rng.integers(2)]), 0.94)
        px, py = local(x, y, front, rng.uniform(-5, 5), -14)
        thing.state.grounds.append(Area(rectangle(px, py, 6.5, 7, front), Material.CONCRETE, 7.6))
        tx, ty = local(x, y, front, rng.choice([-15.5, 15.5]), rng.uniform(-6, 14))
        if rng.random() < 0.6:
            row = (tx, ty, rng.uniform(2.5, 4.5), rng.integers(CROWN_SHAPES), rng.integers(CROWN_HUES))
            thing.state.trees.append(np.array([row], dtype=float))
    return thing


def villas(rng: Rng, cx: float, cy: float, angle: float, n: int) -> Thing:
    """Build 1 to 3 villas: large L-shaped houses, each in a garden with a drive and often a pool."""
    plot_x, plot_y = rng.uniform(56, 61), rng.uniform(60, 66)
    outline = rectangle(cx, cy, n * plot_x, plot_y, angle)
    thing = Thing("villa", [outline], count=n)
    grounds = thing.state.grounds
    for i in range(n):
        x, y = local(cx, cy, angle, (i - (n - 1) / 2) * plot_x, 0)
        garden = rectangle(x, y, plot_x, plot_y, angle)
        grounds.append(Area(garden, Material.GRASS, 7.0, rng.uniform(0.84, 0.98)))
        grounds.append(Mark([*garden, garden[0]], None, 8.2, 1.6, Material.GRASS, 0.5))
        colour = int(rng.integers(8))
        flip = 1 if rng.random() < 0.5 else -1
        hx, hy = local(x, y, angle, 0, -7)
        height = rng.uniform(9, 11.5)
        main = Roof(hx, hy, rng.uniform(40, 44), rng.uniform(20, 23), angle, height, "hip", colour)
        wing_x, wing_y = local(hx, hy, angle, flip * (main.width / 2 - 9), 12)
        wing = Roof(wing_x, wing_y, rng.uniform(30, 34), 18, angle + math.pi / 2, height - 0.8, "hip", colour)
        thing.state.roofs += [main, wing]
        dx, dy = local(x, y, angle, flip * 14, -plot_y / 2 + 7)
        grounds.append(Area(rectangle(dx, dy, 11, 15, angle), Material.CONCRETE, 7.6))
        thing.state.cars.append((dx, dy, angle + math.pi / 2))
        tx, ty = local(x, y, angle, -flip * 10, 18)
        grounds.append(Area(rectangle(tx, ty, 24, 15, angle), Material.CONCRETE, 7.5, 0.96))
        if rng.random() < 0.7:
            grounds.append(Mark(rectangle(tx, ty, 16, 8, angle), (96, 160, 176), 9.5))
        rows = []
        for _ in range(int(rng.integers(3, 7))):
            a = rng.choice([-1, 1]) * (plot_x / 2 - rng.uniform(4, 6))
            px, py = local(x, y, angle, a, rng.uniform(-0.45, 0.45) * plot_y)
            rows.append((px, py, rng.uniform(2.6, 4.6), rng.integers(CROWN_SHAPES), rng.integers(CROWN_HUES)))
        thing.state.trees.append(np.array(rows, dtype=float))
    return thing


def large_buildings(rng: Rng, cx: float, cy: float, angle: float, n: int) -> Thing:
    """Build 1 or 2 large flat-roofed buildings on a paved yard."""
    width, depth = rng.uniform(66, 86), rng.uniform(38, 50)
    if n > 1:
        width, depth = width * 0.92, depth * 0.86
    gap = 16
    height = n * depth + (n - 1) * gap + 16
    outline = rectangle(cx, cy, width + 16, height, angle)
    thing = Thing("large building", [outline], count=n)
    thing.state.grounds.append(Area(outline, Material.CONCRETE, 7.2, rng.uniform(0.82, 1.0)))
    colour, kind = int(rng.integers(6)), "ribbed" if rng.random() < 0.45 else "flat"
    for i in range(n):
        x, y = local(cx, cy, angle, 0, (i - (n - 1) / 2) * (depth + gap))
        tall = rng.uniform(11, 17)
        furniture = [
            (float(rng.uniform(-0.75, 0.75)), float(rng.uniform(-0.6, 0.6)), float(s), float(s * rng.uniform(0.7, 1)))
            for s in rng.uniform(3, 7, rng.integers(4, 11))
        ]
        if rng.random() < 0.4 and n == 1:  # an L: a second box of the same height
            thing.state.roofs.append(Roof(x, y, width, depth * 0.62, angle, tall, kind, colour, tuple(furniture[:4])))
            side = width / 2 - 15
            wx, wy = local(x, y, angle, side if rng.random() < 0.5 else -side, depth * 0.1)
            thing.state.roofs.append(Roof(wx, wy, 30, depth, angle, tall, "flat", colour, tuple(furniture[4:7])))
        else:
            thing.state.roofs.append(Roof(x, y, width, depth, angle, tall, kind, colour, tuple(furniture)))
        for a in np.arange(-width / 2 + 6, width / 2 - 5, 7.0).tolist():
            px, py = local(x, y, angle, a, -depth / 2 - 5)
            if i == 0 and rng.random() < 0.35:
                thing.state.cars.append((px, py, angle + math.pi / 2))
    return thing


def parking_lot(rng: Rng, cx: float, cy: float, angle: float) -> Thing:
    """Build a parking lot with marked bays in two or four rows."""
    rows = 2 if rng.random() < 0.45 else 4
    width = rng.uniform(66, 92)
    depth = 34 if rows == 2 else 64
    outline = rectangle(cx, cy, width, depth, angle)
    thing = Thing("parking lot", [outline])
    grounds = thing.state.grounds
    grounds.append(Area(outline, Material.PARKING, 7.4))
    grounds.append(Mark([*outline, outline[0]], (176, 172, 164), 8.0, 1.6))
    bay, length = 5.8, 11.0
    lines = [-depth / 2 + length / 2 + 1, depth / 2 - length / 2 - 1]
    if rows == 4:
        lines = [lines[0], -length / 2, length / 2, lines[1]]
    for across in lines:
        for along in np.arange(-width / 2 + 6, width / 2 - 5, bay).tolist():
            a, b = (
                local(cx, cy, angle, along, across - length / 2),
                local(cx, cy, angle, along, across + length / 2),
            )
            grounds.append(Mark([a, b], (196, 196, 190), 9.6, 0.8))
            x, y = local(cx, cy, angle, along + bay / 2, across)
            if along + bay < width / 2 - 5:
                thing.state.cars.append((x, y, angle + math.pi / 2))
    return thing


def playground(rng: Rng, cx: float, cy: float, angle: float) -> Thing:
    """Build a running track around a pitch, or two sports courts."""
    grounds: list[Area | Strip | Mark] = []
    if rng.random() < 0.6:
        width, depth = rng.uniform(88, 98), rng.uniform(50, 56)
        outline = rectangle(cx, cy, width, depth, angle)

        def oval(inset: float) -> Polygon:
            r, half = depth / 2 - inset, (width - depth) / 2
            turn = np.linspace(-math.pi / 2, math.pi / 2, 12).tolist()
            points = [(half + r * math.cos(t), r * math.sin(t)) for t in turn]
            points += [(-half - r * math.cos(t), -r * math.sin(t)) for t in turn]
            return [local(cx, cy, angle, a, b) for a, b in points]

        grounds.append(Area(oval(0), Material.TRACK, 7.3))
        grounds.append(Area(oval(9), Material.PITCH, 7.4))
        for inset in (3.0, 6.0):
            ring = oval(inset)
            grounds.append(Mark([*ring, ring[0]], (196, 150, 136), 9.5, 0.5))
        lines = rectangle(cx, cy, width - depth + 8, depth - 26, angle)
        grounds.append(Mark([*lines, lines[0]], (190, 196, 180), 9.5, 0.7))
        mid = [local(cx, cy, angle, 0, -(depth - 26) / 2), local(cx, cy, angle, 0, (depth - 26) / 2)]
        grounds.append(Mark(mid, (190, 196, 180), 9.5, 0.7))
    else:
        width, depth = rng.uniform(70, 78), rng.uniform(40, 46)
        outline = rectangle(cx, cy, width, depth, angle)
        grounds.append(Area(outline, Material.TRACK, 7.3))
        for side in (-1, 1):
            x, y = local(cx, cy, angle, side * width / 4, 0)
            court = rectangle(x, y, width / 2 - 7, depth - 9, angle)
            grounds.append(Area(court, Material.COURT, 7.4))
            inner = rectangle(x, y, width / 2 - 13, depth - 16, angle)
            grounds.append(Mark([*inner, inner[0]], (224, 224, 218), 9.5, 0.8))
            net = [local(x, y, angle, -(width / 4 - 6.5), 0), local(x, y, angle, width / 4 - 6.5, 0)]
            grounds.append(Mark(net, (224, 224, 218), 9.5, 0.8))
    return Thing("playground", [outline], State(grounds=grounds))


def crowns_in(rng: Rng, outline: Polygon, spacing: float, radius: tuple[float, float]) -> np.ndarray:
    """Return crowns on a jittered lattice inside a polygon: rows of x, y, radius, shape, hue."""
    xs, ys = np.array([p[0] for p in outline]), np.array([p[1] for p in outline])
    gx = np.arange(max(-8.0, xs.min()), min(FRAME + 8, xs.max()), spacing)
    gy = np.arange(max(-8.0, ys.min()), min(FRAME + 8, ys.max()), spacing * 0.87)
    if not len(gx) or not len(gy):
        return np.zeros((0, 5))
    x, y = np.meshgrid(gx, gy)
    x = x + (np.arange(len(gy)) % 2 * spacing / 2)[:, None] + rng.normal(0, spacing * 0.2, x.shape)
    y = y + rng.normal(0, spacing * 0.2, y.shape)
    spots = np.stack([x.ravel(), y.ravel()])
    spots = spots[:, inside(spots[0], spots[1], outline) & (rng.random(spots.shape[1]) < 0.96)]
    n = spots.shape[1]
    radii, shapes = rng.uniform(radius[0], radius[1], n), rng.integers(CROWN_SHAPES, size=n)
    tints = np.clip(np.rint(rng.normal(1.5, 1.0, n)), 0, CROWN_HUES - 1)
    rows = np.column_stack([spots[0], spots[1], radii, shapes, tints])
    return rows[np.argsort(rows[:, 2])]


def inside(x: np.ndarray, y: np.ndarray, polygon: Polygon) -> np.ndarray:
    """Tell for each point whether it lies inside the polygon (even-odd rule)."""
    result = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if y0 != y1:
            crosses = (y0 > y) != (y1 > y)
            result ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return result


def forest(rng: Rng, outline: Polygon) -> Thing:
    """Build a wood of single crowns over undergrowth."""
    big = rng.uniform(4.4, 6.4)
    trees = crowns_in(rng, grown(outline, 0.97), big * 1.38, (big * 0.62, big * 1.18))
    state = State(grounds=[Area(outline, Material.UNDERGROWTH, 4.0)], trees=[trees])
    return Thing("forest", [grown(outline, 1.08)], state, count=None)


def lake(rng: Rng, outline: Polygon) -> Thing:
    """Build still water with a pale shore."""
    state = State(
        grounds=[
            Area(outline, Material.SHORE, 5.0, rng.uniform(0.92, 1.05)),
            Area(grown(outline, 0.93), Material.WATER, 6.0),
            Area(grown(outline, 0.80), Material.WATER, 6.1, 0.93),
        ]
    )
    return Thing("lake", [outline], state, count=None)


def farm_field(rng: Rng, outline: Polygon, angle: float) -> Thing:
    """Build a field with plough lines."""
    material = Material.FIELD if rng.random() < 0.6 else Material.STUBBLE
    state = State(
        grounds=[
            Area(outline, material, 2.0, rng.uniform(0.92, 1.06)),
            Mark([*outline, outline[0]], None, 2.1, 1.6, Material.GRASS, 0.78),
        ],
        ploughed=[(outline, angle + (math.pi / 2 if rng.random() < 0.5 else 0), rng.uniform(4.5, 7.5))],
    )
    return Thing("field", [outline], state, count=None)


def bare_patch(rng: Rng, outline: Polygon) -> Thing:
    """Build cleared ground: a patch of earth in a meadow."""
    state = State(grounds=[Area(rough_edge(rng, outline, 5, 2), Material.DIRT, 4.5, rng.uniform(0.94, 1.08))])
    return Thing("bare land", [grown(outline, 1.05)], state, count=None)


def road(rng: Rng, path: Path, width: float, *, marked: bool, curb: bool = True) -> Thing:
    """Build a road along a path."""
    grounds: list[Area | Strip | Mark] = []
    if curb:
        grounds.append(Strip(path, width + 4, Material.CONCRETE, 8.0, 0.92))
    grounds.append(Strip(path, width, Material.ROAD, 8.5))
    cars = []
    s = float(rng.uniform(8, 30))
    while s < path.length - 10:
        x, y, angle = path.at(s)
        side = 1 if rng.random() < 0.5 else -1
        cars.append((*local(x, y, angle, 0, side * width / 4), angle))
        s += float(rng.uniform(45, 110))
    if marked:
        grounds += _lane_marks(path)
    outline = path.strip(0, path.length, -width / 2 - 3, width / 2 + 3)
    return Thing("road", [outline], State(grounds=grounds, cars=cars))


def _lane_marks(path: Path) -> list[Area | Strip | Mark]:
    marks: list[Area | Strip | Mark] = []
    s = 2.0
    while s < path.length - 6:
        a, b = path.at(s), path.at(s + 5)
        marks.append(Mark([a[:2], b[:2]], (206, 202, 186), 9.0, 0.9))
        s += 10
    return marks


def cul_de_sac(x: float, y: float, width: float) -> tuple[list[Area | Strip | Mark], Polygon]:
    """Return the turning circle at the end of a road, and its outline."""

    def circle(radius: float) -> Polygon:
        turns = [i * math.pi / 12 for i in range(24)]
        return [(x + radius * math.cos(turn), y + radius * math.sin(turn)) for turn in turns]

    return [
        Area(circle(width + 3.5), Material.CONCRETE, 8.0, 0.92),
        Area(circle(width + 1.5), Material.ROAD, 8.5),
    ], circle(width + 4)


def wild_blob(rng: Rng, material: Material) -> Area:
    """Return a large irregular patch of another ground, as backdrop."""
    x, y, rx, ry = rng.uniform((0, 0, 45, 30), (FRAME, FRAME, 120, 90)).tolist()
    outline = blob(rng, x, y, rx, ry, 0.3)
    return Area(rough_edge(rng, outline, 4, 3), material, 1.0 + rng.random() * 0.5, float(rng.uniform(0.9, 1.1)))
