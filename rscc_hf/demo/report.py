"""The demo's page: one self-contained HTML file with scores, training curve and a gallery of test pairs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from rscc_hf.data.captions import is_no_change
from rscc_hf.data.palette import CLASSES
from rscc_hf.demo.answers import CONTENT, Row
from rscc_hf.evaluation.scores import PARTS, SCORES, TITLES
from rscc_hf.files import write_text
from rscc_hf.formats.training import LogLine
from rscc_hf.synthetic.caption_facts import judge
from rscc_hf.synthetic.dataset import plain_sentence

SHOWN = tuple(score.key for score in SCORES if score.is_shown)
COLUMNS = (*(TITLES[key] for key in SHOWN), *PARTS, *CONTENT)
NOTHING = "-"
CURVE_COLOURS = ("#2171b5", "#8c5aaa", "#238b45", "#d97b12", "#1d2733")
#: A stage of training: its name, the entries of its log, and the samples a step.
Curve = tuple[str, list[LogLine], int]


def data_uri(image: Image.Image) -> str:
    """Return the picture as a PNG data URI, so that the page needs no other file."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def cells_of(row: Row) -> list[str]:
    """Return the row's numbers as the table shows them, a dash where a number does not apply."""
    values = [row.scores.get(key) for key in SHOWN]
    values += [row.accuracy.get(part) for part in PARTS]
    values += [row.content.get(key) for key in CONTENT]
    return [NOTHING if value is None else f"{value:.1f}" for value in values]


def loss_plot(curves: Sequence[Curve]) -> str:
    """Draw the loss by samples seen, stage after stage, as inline SVG; where there was validation, its S*m.

    Args:
        curves: Of the stages, in their order.
    """
    # the object interface: pyplot would keep global state and pick a display backend
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    right = None
    seen = 0
    for number, (name, log, batch_size) in enumerate(curves):
        steps = [(seen + line.step * batch_size, line.loss) for line in log if line.loss is not None]
        colour = CURVE_COLOURS[number % len(CURVE_COLOURS)]
        axes.plot(*zip(*steps, strict=True), color=colour, linewidth=1.5, label=name)
        scores = [(seen + line.step * batch_size, line.validation["s_m"]) for line in log if line.validation]
        if scores:
            right = right or axes.twinx()
            right.plot(*zip(*scores, strict=True), color="#b3402a", marker="o", linewidth=1.2, markersize=4)
        seen = max((place for place, _ in steps), default=seen)
    axes.set_xlabel("samples seen")
    axes.set_ylabel("loss (nats a word)")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize="small")
    if right is not None:
        right.set_ylabel(f"{TITLES['s_m']} on validation", color="#b3402a")
        right.set_ylim(bottom=0)
        right.spines[["top"]].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def judged(pair: dict[str, Any], caption: str) -> dict[str, Any]:
    """Return what the page says of a pair and its caption for any model: what is true, what the caption has right."""
    record = json.loads(pair["record"])
    if pair["changed"]:
        verdict = judge(caption, record)
        verdicts = [(key, bool(verdict[key])) for key in CONTENT if verdict[key] is not None]
        truth = "record: " + plain_sentence(record)
    else:
        verdicts = [("unchanged", is_no_change(caption))]
        truth = "record: nothing changed; light, season, shadows and registration may differ"
    return {
        "pair_id": pair["pair_id"],
        "truth": truth,
        "caption": caption,
        "verdicts": verdicts,
        "references": pair["captions"],
    }


def write_report(path: Path, template: str, *, rows: Sequence[Row], curves: Sequence[Curve], **texts: Any) -> None:
    """Render the page to `path`, atomically.

    Args:
        path: Where the page goes.
        template: A file beside this one that extends `report.html.jinja`.
        rows: The rows of the score table.
        curves: Of training, see `loss_plot`.
        **texts: The other variables of the template.
    """
    environment = Environment(
        loader=PackageLoader("rscc_hf.demo", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template(template).render(
        columns=COLUMNS,
        sm_column=1 + SHOWN.index("s_m"),
        rows=[{"name": row.name, "ours": row.ours, "cells": cells_of(row)} for row in rows],
        palette=[(name.replace("_", " "), "rgb({}, {}, {})".format(*colour)) for name, colour in CLASSES.items()],
        loss_plot=Markup(loss_plot(curves)),  # our own SVG: no text of a user is in it
        **texts,
    )
    write_text(path, page)
