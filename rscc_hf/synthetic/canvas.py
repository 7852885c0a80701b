"""Draw a state of a scene: the colour image and the code of every pixel.

Flat shapes are drawn twice as large with Pillow and reduced; textures, shadows and crowns are laid over as arrays. The
code of a pixel is `material + 16 * event`: what it shows, and which event of the pair brought it (0: the scene
itself).
"""

import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from rscc_hf.synthetic.geometry import FRAME, MARGIN, Path, Point, Polygon, hull, local, rectangle
from rscc_hf.synthetic.style import TEXTURE, Material, Style
from rscc_hf.synthetic.textures import crown, cut, disc, sun_step

Place = tuple[float, float, bool, bool]


@dataclass
class Area:
    """A filled polygon of one material; `tone` multiplies its colour."""

    outline: Polygon
    material: Material
    z: float
    tone: float = 1.0
    event: int = 0


@dataclass
class Strip:
    """A line of one material: a road, a track."""

    path: Path
    width: float
    material: Material
    z: float
    tone: float = 1.0
    event: int = 0


@dataclass
class Mark:
    """Paint or relief without a material of its own: a line (or, without `width`, a polygon)."""

    points: list[Point]
    colour: tuple[int, int, int] | None  # None: the ground's own colour times `tone`
    z: float
    width: float = 0.0
    material: Material = Material.BARE
    tone: float = 1.0


@dataclass
class Roof:
    """One box of a building with its roof; sizes in units."""

    cx: float
    cy: float
    width: float
    depth: float
    angle: float
    height: float
    kind: str  # hip, gable, flat, ribbed
    colour: int
    furniture: tuple[tuple[float, float, float, float], ...] = ()
    event: int = 0


@dataclass
class State:
    """Everything that stands at one date."""

    grounds: list[Area | Strip | Mark] = field(default_factory=list)
    roofs: list[Roof] = field(default_factory=list)
    trees: list[np.ndarray] = field(default_factory=list)  # rows of x, y, radius, shape, hue
    cars: list[tuple[float, float, float]] = field(default_factory=list)  # places: x, y, angle
    ploughed: list[tuple[Polygon, float, float]] = field(default_factory=list)  # outline, direction, spacing


@dataclass(frozen=True)
class Grain:
    """Where the ground textures of a scene are cut from (both dates show the same ground)."""

    patches: Place
    clumps: Place
    hue: Place
    speckle: Place


def _planes(picture: Image.Image) -> np.ndarray:
    """Return an RGB picture as float32 (3, height, width)."""
    return np.asarray(picture).transpose(2, 0, 1).astype(np.float32, order="C")


class Canvas:
    """Draws states of one scene at one image size."""

    def __init__(self, size: int, grain: Grain) -> None:
        self.size = size
        self.scale = size / FRAME
        self.margin = round(MARGIN * self.scale)
        self.side = size + 2 * self.margin
        self.grain = grain

    def _fine(self, points: list[Point]) -> list[float]:
        k = 2 * self.scale
        return [(v + MARGIN) * k - 0.5 for point in points for v in point]

    def draw(self, state: State, style: Style) -> tuple[Image.Image, np.ndarray, np.ndarray]:
        """Draw one date, margins included, before illumination and camera.

        Returns:
            The image (RGB, a side of `self.side` pixels); the codes as seen, uint8 (side, side); and the codes as they
            lie on the ground, straight from above, uint8 (side, side).
        """
        colour, codes = self._ground(state, style)
        planes = self._textured(colour, codes, state, style)  # (3, side, side): arithmetic on planes is the fastest
        roof_planes, roof_alpha, seen, plan, shadow = self._buildings(state, style)
        (light, tint, cover), tree_shadow = self._crowns(state, style)
        codes = np.where(cover >= 128, np.uint8(Material.TREE), codes)
        shade = np.maximum(shadow, tree_shadow) * np.float32(style.shade)
        cover = cover * np.float32(1 / 255)
        bare, roofless = 1 - cover, 1 - roof_alpha
        out = []
        for channel, blue_sky in enumerate((1.0, 0.97, 0.88)):
            near, far = (float(v) / 100 for v in style.crowns[:, channel])
            plane = planes[channel]
            plane *= 1 - shade * np.float32(blue_sky)
            plane *= bare
            plane += light * np.float32(near)
            plane += tint * np.float32(far - near)
            plane *= roofless
            plane += roof_planes[channel]
            np.clip(plane, 0, 255, out=plane)
            out.append(Image.fromarray(plane.astype(np.uint8)))
        picture = Image.merge("RGB", out)
        return picture, np.where(seen > 0, seen, codes), np.where(plan > 0, plan, codes)

    def _ground(self, state: State, style: Style) -> tuple[np.ndarray, np.ndarray]:
        side = 2 * self.side
        base = tuple(int(v) for v in style.colours[Material.BARE])
        colour = Image.new("RGB", (side, side), base)
        codes = Image.new("L", (side, side), int(Material.BARE))
        draw, draw_code = ImageDraw.Draw(colour), ImageDraw.Draw(codes)
        k = 2 * self.scale
        table = style.colours.tolist()

        def shade(material: Material, tone: float) -> tuple[int, int, int]:
            red, green, blue = table[material]
            return int(min(255, red * tone)), int(min(255, green * tone)), int(min(255, blue * tone))

        for item in sorted(state.grounds, key=lambda each: each.z):
            if isinstance(item, Area):
                points = self._fine(item.outline)
                draw.polygon(points, fill=shade(item.material, item.tone))
                draw_code.polygon(points, fill=item.material + 16 * item.event)
            elif isinstance(item, Strip):
                points = self._fine(item.path.points)
                width = max(1, round(item.width * k))
                draw.line(points, fill=shade(item.material, item.tone), width=width, joint="curve")
                draw_code.line(points, fill=item.material + 16 * item.event, width=width, joint="curve")
            else:
                fill = item.colour or shade(item.material, item.tone)
                points = self._fine(item.points)
                if item.width:
                    draw.line(points, fill=fill, width=max(1, round(item.width * k)))
                else:
                    draw.polygon(points, fill=fill)
        self._cars(state, style, draw)
        # A pixel's code is that of one of its four quarters: the edge is exact to half a pixel.
        return _planes(colour.reduce(2)), np.asarray(codes)[1::2, 1::2].copy()

    def _cars(self, state: State, style: Style, draw: ImageDraw.ImageDraw) -> None:
        if not state.cars:
            return
        first, new, share = style.traffic
        rng, other = np.random.default_rng(first), np.random.default_rng(new)
        # A row for each place: cars that are in both states draw the same numbers in both.
        numbers, anew = rng.random((len(state.cars), 2)), other.random((len(state.cars), 3))
        numbers = np.where(anew[:, 2:] < share, anew[:, :2], numbers)
        taken, colours = numbers[:, 0] < 0.55, (numbers[:, 1] * len(style.cars)).astype(int)
        away = style.sun + math.pi
        dx, dy = 1.6 * style.shadow * math.cos(away), 1.6 * style.shadow * math.sin(away)
        for i in np.flatnonzero(taken).tolist():
            x, y, angle = state.cars[i]
            body = rectangle(x, y, 8.6, 4.0, angle)
            draw.polygon(self._fine([(px + dx, py + dy) for px, py in body]), fill=(52, 52, 55))
            red, green, blue = style.cars[colours[i]].tolist()
            draw.polygon(self._fine(body), fill=(int(red), int(green), int(blue)))
            cx, cy = local(x, y, angle, -0.6, 0)
            draw.polygon(self._fine(rectangle(cx, cy, 4.6, 3.2, angle)), fill=(44, 48, 54))
            draw.polygon(
                self._fine(rectangle(cx, cy, 2.8, 3.2, angle)),
                fill=(int(red * 0.92), int(green * 0.92), int(blue * 0.92)),
            )

    def _textured(self, colour: np.ndarray, codes: np.ndarray, state: State, style: Style) -> np.ndarray:
        material = codes & 15
        texture = TEXTURE
        # Below 256 pixels a texel covers more ground: its contrast averages out.
        side, calm = self.side, np.float32(min(1.0, 0.35 + 0.65 * self.scale))
        light = cut("patches", self.grain.patches, side) * texture[:, 0][material]
        light += cut("clumps", self.grain.clumps, side) * (texture[:, 1] * calm)[material]
        light += cut("grain", style.grain, side) * (texture[:, 2] * calm)[material]
        light -= cut("speckle", self.grain.speckle, side) * (texture[:, 1] * calm * np.float32(0.45))[material]
        for outline, direction, spacing in state.ploughed:
            self._plough(light, outline, direction, spacing)
        drift = cut("hue", self.grain.hue, side) * texture[:, 3][material]
        light += 1
        for plane, share in zip(colour, (0.8, 0.2, -0.7), strict=True):
            plane *= light
            plane += drift * np.float32(share)
        return colour

    def _plough(self, light: np.ndarray, outline: Polygon, direction: float, spacing: float) -> None:
        points = [(v + MARGIN) * self.scale for point in outline for v in point]
        mask = Image.new("L", (self.side, self.side))
        ImageDraw.Draw(mask).polygon(points, fill=255)
        axis = np.arange(self.side, dtype=np.float32)
        turn = 2 * math.pi / max(2.5, spacing * self.scale)
        phase = axis[None, :] * np.float32(math.cos(direction) * turn) + axis[:, None] * np.float32(
            math.sin(direction) * turn
        )
        wobble = cut("patches", self.grain.hue, self.side)
        lines = np.sin(phase + wobble * np.float32(0.5))
        light += lines * (np.asarray(mask) > 0) * (np.float32(0.06) + np.float32(0.02) * wobble)

    def _crowns(self, state: State, style: Style) -> tuple[np.ndarray, np.ndarray]:
        """Return the crowns (see `textures.crown`), float32 (3, side, side), and their shadow in 0..1."""
        crowns = Image.new("RGB", (self.side, self.side))
        shadow = Image.new("L", (self.side, self.side))
        step = sun_step(style.sun)
        away = style.sun + math.pi
        dx, dy = style.shadow * math.cos(away), style.shadow * math.sin(away)
        for rows in state.trees:
            for x, y, radius, shape, hue in rows.tolist():
                r = max(2, round(2 * radius * self.scale))
                sprite, mask = crown(r, int(shape), int(hue), step)
                half = sprite.width // 2
                px, py = (x + MARGIN) * self.scale, (y + MARGIN) * self.scale
                crowns.paste(sprite, (int(px) - half, int(py) - half), mask)
                reach = 0.75 * radius * self.scale
                shade = disc(r)
                sx, sy = int(px + dx * reach) - half, int(py + dy * reach) - half
                shadow.paste(255, (sx, sy, sx + shade.width, sy + shade.width), shade)
        return _planes(crowns), np.asarray(shadow, dtype=np.float32) * np.float32(1 / 255)

    def _buildings(
        self, state: State, style: Style
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return roof colour (times alpha), alpha, codes as seen and from above, and the shadow in 0..1."""
        side = 2 * self.side
        colour = Image.new("RGB", (side, side))
        alpha, shadow = Image.new("L", (side, side)), Image.new("L", (side, side))
        seen, plan = Image.new("L", (side, side)), Image.new("L", (side, side))
        draw, cover = ImageDraw.Draw(colour), ImageDraw.Draw(alpha)
        draw_seen, draw_plan, draw_shadow = ImageDraw.Draw(seen), ImageDraw.Draw(plan), ImageDraw.Draw(shadow)
        away = style.sun + math.pi
        sx, sy = style.shadow * math.cos(away), style.shadow * math.sin(away)
        lx, ly = style.lean
        for roof in state.roofs:
            code = int(Material.BUILDING) + 16 * roof.event
            base = rectangle(roof.cx, roof.cy, roof.width, roof.depth, roof.angle)
            top = [(x + lx * roof.height, y + ly * roof.height) for x, y in base]
            reach = roof.height + (0.12 * roof.depth if roof.kind in ("hip", "gable") else 0)
            cast = hull([*base, *((x + sx * reach, y + sy * reach) for x, y in base)])
            draw_shadow.polygon(self._fine(cast), fill=255)
            outline = self._fine(hull([*base, *top]) if lx or ly else base)
            cover.polygon(outline, fill=255)
            draw_seen.polygon(outline, fill=code)
            draw_plan.polygon(self._fine(base), fill=code)
            tint = (style.roofs if roof.kind in ("hip", "gable") else style.flat_roofs)[roof.colour]
            wall = tuple(int(v) for v in (tint * 0.45 + 62))
            draw.polygon(outline, fill=wall)
        for roof in state.roofs:
            self._roof(draw, roof, style)
        seen_codes, plan_codes = np.asarray(seen)[1::2, 1::2], np.asarray(plan)[1::2, 1::2]
        pale = np.asarray(alpha.reduce(2), dtype=np.float32) * np.float32(1 / 255)
        grain = cut("grain", style.grain, self.side) * np.float32(0.03)
        grain += cut("patches", self.grain.patches, self.side) * np.float32(0.02)
        tones = _planes(colour.reduce(2))
        tones *= 1 + grain
        dark = np.asarray(shadow.reduce(2), dtype=np.float32) * np.float32(1 / 255)
        return tones, pale, seen_codes, plan_codes, dark

    def _roof(self, draw: ImageDraw.ImageDraw, roof: Roof, style: Style) -> None:
        pitched = roof.kind in ("hip", "gable")
        tint = (style.roofs if pitched else style.flat_roofs)[roof.colour].tolist()
        lx, ly = style.lean

        def fill(facing: float | None, extra: float = 1.0) -> tuple[int, int, int]:
            tone = extra * (1.0 if facing is None else 0.98 + 0.27 * math.cos(facing - style.sun))
            return int(min(255, tint[0] * tone)), int(min(255, tint[1] * tone)), int(min(255, tint[2] * tone))

        def at(along: float, across: float, rise: float) -> Point:
            x, y = local(roof.cx, roof.cy, roof.angle, along, across)
            return x + lx * rise, y + ly * rise

        w, d, h = roof.width / 2, roof.depth / 2, roof.height
        corners = [at(-w, -d, h), at(w, -d, h), at(w, d, h), at(-w, d, h)]
        if not pitched:
            draw.polygon(self._fine(corners), fill=fill(None))
            if roof.kind == "ribbed":
                n = max(3, int(roof.width / 5))
                for i in range(1, n):
                    a = -w + 2 * w * i / n
                    draw.line(self._fine([at(a, -d, h), at(a, d, h)]), fill=fill(None, 0.94), width=1)
            edge = [*corners, corners[0]]
            draw.line(self._fine(edge), fill=fill(None, 0.80), width=max(1, round(2 * self.scale)))
            away = style.sun + math.pi
            for along, across, fw, fd in roof.furniture:
                x, y = at(along * w, across * d, h)
                box = rectangle(x, y, fw, fd, roof.angle)
                cast = [(px + 2.2 * math.cos(away), py + 2.2 * math.sin(away)) for px, py in box]
                draw.polygon(self._fine(cast), fill=fill(None, 0.52))
                draw.polygon(self._fine(box), fill=fill(None, 0.86))
            return
        rise = h + 0.35 * roof.depth
        end = w if roof.kind == "gable" else max(0.0, w - 0.95 * d)
        ridge = [at(-end, 0, rise), at(end, 0, rise)]
        normal = roof.angle + math.pi / 2
        draw.polygon(self._fine([corners[3], corners[2], ridge[1], ridge[0]]), fill=fill(normal))
        draw.polygon(self._fine([corners[0], corners[1], ridge[1], ridge[0]]), fill=fill(normal + math.pi))
        if roof.kind == "hip":
            draw.polygon(self._fine([corners[1], corners[2], ridge[1]]), fill=fill(roof.angle))
            draw.polygon(self._fine([corners[0], corners[3], ridge[0]]), fill=fill(roof.angle + math.pi))
        draw.line(self._fine(ridge), fill=fill(None, 1.16), width=max(1, round(1.4 * self.scale)))

    def develop(self, picture: Image.Image, style: Style) -> Image.Image:
        """Apply illumination, blur and resolution of the date, and return RGB with the margins still there."""
        level = np.arange(256) / 255 * style.gain
        table = np.concatenate([np.clip(level * cast, 0, 1) ** style.gamma * 255 + 0.5 for cast in style.cast])
        picture = picture.point(table.astype(np.uint8).tolist())
        if style.reduction < 1:
            small = max(8, round(self.side * style.reduction))
            picture = picture.resize((small, small), Image.Resampling.BILINEAR)
            picture = picture.resize((self.side, self.side), Image.Resampling.BILINEAR)
        if style.blur:
            picture = picture.filter(ImageFilter.BoxBlur(style.blur * self.scale))
        return picture

    def frame(self, picture: Image.Image, style: Style | None = None) -> Image.Image:
        """Cut the frame out of a picture with margins, misregistered as the style says (codes: nearest neighbour)."""
        box = (self.margin, self.margin, self.margin + self.size, self.margin + self.size)
        if style is None or style.warp == (0.0, 0.0, 0.0, 1.0):
            return picture.crop(box)
        dx, dy, turn, scale = style.warp
        c, s = math.cos(turn) / scale, math.sin(turn) / scale
        centre_in, centre_out = self.side / 2, self.size / 2
        x0 = centre_in - c * centre_out + s * centre_out - dx * self.scale
        y0 = centre_in - s * centre_out - c * centre_out - dy * self.scale
        how = Image.Resampling.BILINEAR if picture.mode == "RGB" else Image.Resampling.NEAREST
        return picture.transform((self.size, self.size), Image.Transform.AFFINE, (c, -s, x0, s, c, y0), resample=how)
