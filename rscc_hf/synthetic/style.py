"""How one date looks: colours by season, sun, sharpness, the camera's view, and what differs between the two dates."""

import math
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any

import numpy as np

from rscc_hf.errors import InputError


class Material(IntEnum):
    """What a pixel shows. The number is the low half of a code; the high half tells the event that brought it."""

    BARE = 0
    GRASS = 1
    FIELD = 2
    UNDERGROWTH = 3
    TREE = 4
    WATER = 5
    ROAD = 6
    PARKING = 7
    BUILDING = 8
    TRACK = 9
    PITCH = 10
    CONCRETE = 11
    SHORE = 12
    DIRT = 13
    COURT = 14
    STUBBLE = 15


# The position in rscc_hf.data.palette.CLASS_NAMES of each material.
SEMANTIC_CLASS = np.array([1, 2, 2, 2, 3, 4, 1, 1, 5, 6, 6, 1, 1, 1, 6, 2], dtype=np.uint8)

# A material's texture: patches, clumps, grain (relative brightness), hue drift (grey levels).
TEXTURE = np.array(
    [
        (0.070, 0.075, 0.055, 3.0),  # bare
        (0.080, 0.070, 0.060, 3.5),  # grass
        (0.060, 0.040, 0.045, 2.5),  # field
        (0.090, 0.100, 0.070, 3.0),  # undergrowth
        (0.100, 0.050, 0.040, 0.0),  # tree
        (0.030, 0.008, 0.012, 2.0),  # water
        (0.030, 0.016, 0.024, 1.0),  # road
        (0.040, 0.020, 0.026, 1.0),  # parking
        (0.000, 0.000, 0.000, 0.0),  # building
        (0.020, 0.010, 0.020, 0.5),  # track
        (0.050, 0.025, 0.030, 1.0),  # pitch
        (0.035, 0.020, 0.028, 1.0),  # concrete
        (0.050, 0.040, 0.050, 2.0),  # shore
        (0.055, 0.050, 0.060, 2.5),  # dirt
        (0.015, 0.010, 0.018, 0.5),  # court
        (0.060, 0.050, 0.050, 2.5),  # stubble
    ],
    dtype=np.float32,
)

NUISANCES = (
    "illumination",
    "shadow_direction",
    "season",
    "blur",
    "resolution",
    "viewpoint",
    "registration",
    "traffic",
)


@dataclass(frozen=True)
class Nuisances:
    """What differs between the two dates although nothing changed: strengths in 0..1, where 0 switches one off.

    The conditions of SECOND-CC's robustness study (arXiv 2501.10075), with shadows and seasons told apart from
    illumination, and cars that come and go.

    Attributes:
        illumination: Brightness, contrast and colour cast.
        shadow_direction: Azimuth and height of the sun: where shadows fall, and how long they are.
        season: Green or dry plants, paler or darker soil and water.
        blur: One of the dates is out of focus (box blur), by a radius of up to 1.5 pixels at 256x256.
        resolution: One of the dates is reduced, down to half, and enlarged again.
        viewpoint: Buildings lean away by their height, up to a quarter of it.
        registration: The later date is shifted (up to 3 pixels at 256x256), turned and scaled a little.
        traffic: The share of the places for cars that are taken or left anew at the later date.
    """

    illumination: float = 0.5
    shadow_direction: float = 0.5
    season: float = 0.5
    blur: float = 0.35
    resolution: float = 0.25
    viewpoint: float = 0.4
    registration: float = 0.25
    traffic: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InputError(f"nuisances.{field.name} is {value!r}; give a strength between 0 (off) and 1.")

    @classmethod
    def off(cls) -> "Nuisances":
        """Return a set with every nuisance switched off."""
        return cls(**dict.fromkeys(NUISANCES, 0.0))


_SOILS = np.array(
    [
        (118, 110, 102),
        (140, 121, 98),
        (133, 108, 88),
        (163, 145, 118),
        (112, 104, 86),
        (126, 116, 96),
        (150, 138, 122),
    ],
    dtype=np.float32,
)
_GRASS_LUSH = np.array([(76, 92, 58), (88, 98, 66), (70, 88, 62), (96, 104, 70)], dtype=np.float32)
_GRASS_DRY = np.array([(128, 116, 86), (118, 106, 80), (110, 102, 78)], dtype=np.float32)
_FIELDS = np.array([(98, 112, 66), (122, 118, 72), (142, 126, 84), (84, 104, 60), (150, 136, 92)], dtype=np.float32)
_CROWNS_LUSH = np.array([(54, 78, 46), (62, 82, 50), (50, 72, 50), (70, 86, 52)], dtype=np.float32)
_CROWNS_DRY = np.array([(96, 96, 66), (104, 96, 64), (92, 86, 64)], dtype=np.float32)
_WATERS = np.array([(46, 66, 70), (52, 70, 58), (56, 74, 88), (38, 54, 62), (70, 84, 74)], dtype=np.float32)
_ROADS = np.array([(112, 111, 112), (126, 124, 121), (98, 98, 102), (142, 138, 131)], dtype=np.float32)
_ROOFS = np.array(
    [
        (96, 92, 88),
        (86, 84, 86),
        (106, 95, 84),
        (118, 104, 90),
        (128, 92, 76),
        (76, 78, 84),
        (112, 108, 104),
        (98, 84, 74),
    ],
    dtype=np.float32,
)
_FLAT_ROOFS = np.array(
    [(206, 206, 202), (182, 182, 178), (222, 222, 218), (150, 152, 152), (176, 166, 150), (132, 148, 158)],
    dtype=np.float32,
)
_CARS = np.array(
    [
        (200, 200, 200),
        (224, 224, 222),
        (60, 62, 66),
        (40, 40, 44),
        (126, 44, 40),
        (62, 76, 104),
        (140, 140, 142),
        (96, 94, 90),
    ],
    dtype=np.float32,
)


@dataclass(frozen=True)
class Style:
    """The look of one date.

    Attributes:
        colours: (16, 3) float32, the mean colour of each material, 0..255.
        crowns: (2, 3) float32, the two ends of the crowns' tints.
        roofs, flat_roofs, cars: (n, 3) float32, colours that objects choose by number.
        sun: Azimuth towards the sun in radians, in image axes.
        shadow: Length of a shadow per unit of height.
        shade: How dark shadows are, 0..1.
        lean: Displacement of a roof per unit of height (x, y).
        gain, gamma, cast: Illumination: a factor, an exponent, a factor for each channel (3,).
        blur: Radius of the box blur in units.
        reduction: Factor of the reduced resolution, 1 for none.
        warp: Shift in x and y (units), turn (radians) and scale of the whole picture.
        traffic: Seed of the cars of the first date, seed of those that are new, and the share of new ones.
        grain: Which cut of the fine noise this date shows (see `textures.cut`).
    """

    colours: np.ndarray
    crowns: np.ndarray
    roofs: np.ndarray
    flat_roofs: np.ndarray
    cars: np.ndarray
    sun: float
    shadow: float
    shade: float
    traffic: tuple[int, int, float]
    grain: tuple[float, float, bool, bool]
    lean: tuple[float, float] = (0.0, 0.0)
    gain: float = 1.0
    gamma: float = 1.0
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur: float = 0.0
    reduction: float = 1.0
    warp: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class _Country:
    """What both dates share: the soils, plants and roofs of the place."""

    soil: np.ndarray
    soil2: np.ndarray
    lush: np.ndarray
    dry: np.ndarray
    field: np.ndarray
    stubble: np.ndarray
    crown_lush: np.ndarray
    crown_dry: np.ndarray
    water: np.ndarray
    road: np.ndarray
    parking: np.ndarray
    concrete: np.ndarray
    track: np.ndarray
    court: np.ndarray
    roofs: np.ndarray
    flat_roofs: np.ndarray


def _pick(rng: np.random.Generator, table: np.ndarray, spread: float = 7.0) -> np.ndarray:
    """Return one colour of the table, or a mixture of two, moved a little."""
    a, b = table[rng.integers(len(table))], table[rng.integers(len(table))]
    part = rng.uniform(0, 0.5)
    jitter = rng.normal(0, spread * 0.6) + rng.normal(0, spread * 0.35, 3)
    return (a + (b - a) * part + jitter).astype(np.float32)


def _country(rng: np.random.Generator) -> _Country:
    grey = float(rng.uniform(0.5, 1.0))  # some cameras give pale colours

    def pale(colour: np.ndarray) -> np.ndarray:
        return (colour.mean(-1, keepdims=True) * (1 - grey) + colour * grey).astype(np.float32)

    return _Country(
        soil=pale(_pick(rng, _SOILS)),
        soil2=pale(_pick(rng, _SOILS)),
        lush=pale(_pick(rng, _GRASS_LUSH)),
        dry=pale(_pick(rng, _GRASS_DRY)),
        field=pale(_pick(rng, _FIELDS)),
        stubble=pale(_pick(rng, _FIELDS)),
        crown_lush=pale(_pick(rng, _CROWNS_LUSH, 4)),
        crown_dry=pale(_pick(rng, _CROWNS_DRY, 4)),
        water=pale(_pick(rng, _WATERS, 5)),
        road=_pick(rng, _ROADS, 4),
        parking=_pick(rng, _ROADS, 6) - 6,
        concrete=np.array((176, 170, 160), np.float32) + rng.normal(0, 9),
        track=np.array((156, 84, 66), np.float32) + rng.normal(0, 6, 3).astype(np.float32),
        court=np.array(((62, 104, 82), (70, 96, 132), (160, 92, 72))[rng.integers(3)], np.float32),
        roofs=pale(_ROOFS + rng.normal(0, 5)),
        flat_roofs=pale(_FLAT_ROOFS + rng.normal(0, 6)),
    )


def _dress(country: _Country, dryness: float, soil_light: float, common: dict[str, Any]) -> Style:
    """Return the style of the place in a season: `dryness` 0 (green) to 1, `soil_light` a factor for bare soil."""
    grass = country.lush + (country.dry - country.lush) * dryness
    field = country.field + (country.dry * 0.4 + country.field * 0.6 - country.field) * dryness
    crowns = country.crown_lush + (country.crown_dry - country.crown_lush) * max(0.0, dryness - 0.25)
    colours = np.zeros((16, 3), np.float32)
    colours[Material.BARE] = country.soil * soil_light
    colours[Material.GRASS] = grass
    colours[Material.FIELD] = field
    colours[Material.STUBBLE] = country.stubble * 0.9 + grass * 0.1
    colours[Material.UNDERGROWTH] = grass * 0.62 + country.soil * 0.22
    colours[Material.TREE] = crowns
    colours[Material.WATER] = country.water * (0.9 + 0.2 * soil_light - 0.1)
    colours[Material.ROAD] = country.road
    colours[Material.PARKING] = country.parking
    colours[Material.BUILDING] = 120
    colours[Material.TRACK] = country.track
    colours[Material.PITCH] = grass * 0.5 + np.array((62, 96, 54), np.float32) * 0.5
    colours[Material.CONCRETE] = country.concrete
    colours[Material.SHORE] = country.soil2 * 0.55 + 74
    colours[Material.DIRT] = country.soil2 * 0.5 + country.soil * 0.5 + 8
    colours[Material.COURT] = country.court
    ends = np.stack([crowns * 0.84, crowns * 1.12 + np.array((8, 5, 0), np.float32)])
    return Style(
        colours=colours,
        crowns=ends,
        roofs=country.roofs,
        flat_roofs=country.flat_roofs,
        cars=_CARS,
        **common,
    )


def _cut_place(numbers: np.ndarray) -> tuple[float, float, bool, bool]:
    return float(numbers[0]), float(numbers[1]), bool(numbers[2] > 0.5), bool(numbers[3] > 0.5)


def make_styles(rng: np.random.Generator, nuisances: Nuisances) -> tuple[Style, Style]:
    """Draw the looks of the two dates of a pair; they differ by the nuisances only."""
    country = _country(rng)
    # Every number is drawn whether or not its nuisance is on, so that a switch moves nothing else.
    dryness, dry_step = rng.uniform(0, 1), rng.uniform(-1, 1)
    light_step = rng.uniform(-1, 1)
    sun, sun_step = rng.uniform(0, 2 * math.pi), rng.uniform(-1, 1)
    shadow, shadow_step = rng.uniform(0.55, 1.05), rng.uniform(-1, 1)
    shade = rng.uniform(0.50, 0.68)
    exposure = rng.uniform(0.98, 1.30)
    gain_step, gamma_step, cast_step = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(-1, 1, 3)
    blurs, blurred = rng.uniform(0.4, 1), int(rng.integers(2))
    reduction, reduced = rng.uniform(0.4, 1), int(rng.integers(2))
    lean_angles, lean_sizes = rng.uniform(0, 2 * math.pi, 2), rng.uniform(0.2, 1, 2)
    shift, turn, scale = rng.uniform(-1, 1, 2), rng.uniform(-1, 1), rng.uniform(-1, 1)
    cars = [int(v) for v in rng.integers(2**31, size=2)]
    grain, grain_after = rng.uniform(0, 1, 4), rng.uniform(0, 1, 4)

    n = nuisances
    dry_after = float(np.clip(dryness + 0.9 * n.season * dry_step, 0, 1))
    common = {
        "sun": float(sun),
        "shadow": float(shadow),
        "shade": float(shade),
        "gain": float(exposure),
        "traffic": (cars[0], cars[1], 0.0),
        "grain": _cut_place(grain),
    }
    before = _dress(country, float(dryness), 1.0, common)
    after = _dress(country, dry_after, 1 + 0.16 * n.season * light_step, common)

    cast = 1 + 0.10 * n.illumination * (cast_step - cast_step.mean())
    after = replace(
        after,
        sun=float(sun + math.pi * n.shadow_direction * sun_step),
        shadow=float(shadow * (1 + 0.5 * n.shadow_direction * shadow_step)),
        gain=float(exposure * (1 + 0.40 * n.illumination * gain_step)),
        gamma=float(1 + 0.35 * n.illumination * gamma_step),
        cast=(float(cast[0]), float(cast[1]), float(cast[2])),
        grain=_cut_place(grain_after if n.illumination else grain),
        traffic=(cars[0], cars[1], float(n.traffic)),
        warp=(
            float(3 * n.registration * shift[0]),
            float(3 * n.registration * shift[1]),
            float(math.radians(0.7) * n.registration * turn),
            float(1 + 0.008 * n.registration * scale),
        ),
    )
    dates = [before, after]
    if n.blur:
        dates[blurred] = replace(dates[blurred], blur=float(1.5 * n.blur * blurs))
    if n.resolution:
        dates[reduced] = replace(dates[reduced], reduction=float(1 - 0.5 * n.resolution * reduction))
    if n.viewpoint:
        for i in (0, 1):
            size = 0.25 * n.viewpoint * lean_sizes[i]
            dates[i] = replace(
                dates[i], lean=(float(size * math.cos(lean_angles[i])), float(size * math.sin(lean_angles[i])))
            )
    return dates[0], dates[1]
