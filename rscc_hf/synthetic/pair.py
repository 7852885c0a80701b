"""Draw a laid-out scene at its two dates, and write down what happened."""

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from rscc_hf.data.palette import classes_to_colours
from rscc_hf.synthetic.canvas import Canvas
from rscc_hf.synthetic.geometry import MARGIN
from rscc_hf.synthetic.layout import Event, Layout
from rscc_hf.synthetic.places import describe_mask
from rscc_hf.synthetic.style import SEMANTIC_CLASS, Style


def draw_pair(
    layout: Layout, styles: tuple[Style, Style], size: int
) -> tuple[list[Image.Image], list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Draw both dates.

    Returns:
        The two images (RGB); the two semantic maps, uint8 (size, size, 3); the change mask, bool (size, size),
        straight from above and in the frame of the earlier date; and the part of the mask that belongs to each event.
    """
    canvas = Canvas(size, layout.grain)
    images, maps, plans = [], [], []
    for state, style in zip(layout.states(), styles, strict=True):
        picture, seen, plan = canvas.draw(state, style)
        images.append(canvas.frame(canvas.develop(picture, style), style))
        classes = np.asarray(canvas.frame(Image.fromarray(SEMANTIC_CLASS[seen & 15]), style))
        maps.append(classes_to_colours(classes))
        plans.append(np.asarray(canvas.frame(Image.fromarray(plan))))
    mask = plans[0] != plans[1]
    if not layout.events:
        return images, maps, mask, []
    return images, maps, mask, _parts(mask, layout.events, canvas)


def _parts(mask: np.ndarray, events: list[Event], canvas: Canvas) -> list[np.ndarray]:
    """Give every pixel of the mask to one event: the one whose outline holds it, or else comes nearest.

    What an event brings may stick out of its outline by a crown or a rounded pixel.
    """
    if len(events) == 1:
        return [mask]
    owner = Image.new("L", (canvas.size, canvas.size))
    draw = ImageDraw.Draw(owner)
    outlines = [
        (number, [v * canvas.scale for point in outline for v in point])
        for number, event in enumerate(events, 1)
        for outline in event.outline
    ]
    for reach in (12 * MARGIN, 3 * MARGIN, MARGIN):
        for number, points in outlines:
            draw.line(points + points[:4], fill=number, width=max(1, round(reach * canvas.scale)), joint="curve")
    for number, points in outlines:
        draw.polygon(points, fill=number)
    owners = np.asarray(owner)
    return [mask & (owners == number) for number in range(1, len(events) + 1)]


def describe(event: Event, part: np.ndarray, ground: str | None) -> dict[str, Any]:
    """Return the record of an event; `part` is its share of the change mask."""
    place, box, centre, share = describe_mask(part)
    return {
        "kind": event.kind,
        "object": event.name,
        "replaced": event.replaced,
        "count": event.count,
        "place": place,
        "bbox": box,
        "centroid": centre,
        "area": share,
        "row": event.layout == "row",
        "along_road": event.along_road,
        "new_road": event.new_road,
        "ground": ground if event.kind == "appear" else None,
    }


def too_small(part: np.ndarray) -> bool:
    """Tell whether an event would be hard to see at 128x128 (less than 0.7 per cent of the frame)."""
    return int(part.sum()) < math.ceil(0.007 * part.size)
