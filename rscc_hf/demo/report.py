"""The demo's page: one self-contained HTML file with scores, training curve and a gallery of test pairs."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from rscc_hf.captioner import ChangeCaptioner
from rscc_hf.data.caption_facts import judge
from rscc_hf.data.captions import is_no_change
from rscc_hf.data.palette import CLASSES
from rscc_hf.data.synthetic import plain_sentence
from rscc_hf.demo.answers import CONTENT, Row
from rscc_hf.files import write_text

COLUMNS = (
    "BLEU-1", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D", "S*m",
    "changed", "unchanged", "kind", "object", "place", "count",
)  # fmt: skip
NOTHING = "-"
SCORE_KEYS = ("bleu_1", "bleu_4", "meteor", "rouge_l", "cider_d", "s_m")


@dataclass(frozen=True)
class Gates:
    """Mean gate values of one caption, a value a word, each in 0..1 (MGCA's g_rgb, g_sem, g_word)."""

    words: list[str]
    rgb: list[float]
    semantic: list[float]
    word: list[float]


def data_uri(image: Image.Image) -> str:
    """The picture as a PNG data URI, so that the page needs no other file."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def cells_of(row: Row) -> list[str]:
    """The row's numbers as the table shows them, a dash where a number does not apply."""
    values = [row.scores.get(key) for key in SCORE_KEYS]
    values += [row.accuracy.get("changed"), row.accuracy.get("unchanged")]
    values += [row.content.get(key) for key in CONTENT]
    return [NOTHING if value is None else f"{value:.1f}" for value in values]


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's `training_log.jsonl`."""
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text(encoding="utf-8").splitlines()]


def loss_plot(log: Sequence[dict[str, Any]], batch_size: int) -> str:
    """Training loss by samples seen, and S*m on the validation split, as inline SVG.

    Args:
        log: Entries of the run's log: those with `loss`, and those with `validation` scores.
        batch_size: Samples a step.
    """
    # the object interface: pyplot would keep global state and pick a display backend
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.6), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    steps = [(entry["step"] * batch_size, entry["loss"]) for entry in log if "loss" in entry]
    axes.plot(*zip(*steps, strict=True), color="#2171b5", linewidth=1.5)
    axes.set_xlabel("samples seen")
    axes.set_ylabel("loss (nats a word)", color="#2171b5")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    scores = [(entry["step"] * batch_size, entry["validation"]["s_m"]) for entry in log if "validation" in entry]
    if scores:
        right = axes.twinx()
        right.plot(*zip(*scores, strict=True), color="#b3402a", marker="o", linewidth=1.2, markersize=4)
        right.set_ylabel("S*m on validation", color="#b3402a")
        right.set_ylim(bottom=0)
        right.spines[["top"]].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def gates_of(captioner: ChangeCaptioner, pair: dict[str, Any], caption: str) -> Gates:
    """The gates of each word of `caption` in the last decoder layer, from one pass with maps."""
    processor, model = captioner.processor, captioner.model
    inputs = processor(
        images=[[pair["image_before"], pair["image_after"]]],
        semantic_maps=[[pair["semantic_before"], pair["semantic_after"]]],
        text=[caption],
        return_tensors="pt",
    ).to(model.device)
    labels = inputs.pop("labels")  # w1 .. wn <end>
    start = labels.new_full((1, 1), model.config.decoder_start_token_id)
    explained = model.explain(inputs, torch.cat([start, labels], dim=1))
    words = processor.tokenizer.convert_ids_to_tokens(labels[0, :-1].tolist())
    rgb, semantic, word = explained.gates[0, -1, : len(words)].unbind(-1)
    return Gates(words=words, rgb=rgb.tolist(), semantic=semantic.tolist(), word=word.tolist())


def gallery_entry(
    captioner: ChangeCaptioner, pair: dict[str, Any], caption: str, caption_without_maps: str
) -> dict[str, Any]:
    """What the template shows of one test pair."""
    record = json.loads(pair["record"])
    if pair["changed"]:
        verdict = judge(caption, record)
        verdicts = [(key, bool(verdict[key])) for key in CONTENT if verdict[key] is not None]
        truth = "record: " + plain_sentence(record)
    else:
        verdicts = [("unchanged", is_no_change(caption))]
        truth = "record: nothing changed; light, season, shadows and registration may differ"
    images = [
        ("before", pair["image_before"]),
        ("after", pair["image_after"]),
        ("map before", pair["semantic_before"]),
        ("map after", pair["semantic_after"]),
    ]
    return {
        "pair_id": pair["pair_id"],
        "truth": truth,
        "images": [(label, data_uri(image)) for label, image in images],
        "caption": caption,
        "caption_without_maps": caption_without_maps,
        "verdicts": verdicts,
        "references": pair["captions"],
        "gates": vars(gates_of(captioner, pair, caption)),
    }


def write_report(
    path: Path, *, rows: Sequence[Row], log: Sequence[dict[str, Any]], batch_size: int, **texts: Any
) -> None:
    """Render the page to `path`, atomically.

    Args:
        path: Where the page goes.
        rows: The rows of the score table.
        log: The training log, and
        batch_size: the samples a step (see `loss_plot`).
        **texts: The other variables of `report.html.jinja`.
    """
    template = resources.files("rscc_hf.demo").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template).render(
        columns=COLUMNS,
        sm_column=1 + SCORE_KEYS.index("s_m"),
        rows=[{"name": row.name, "ours": row.ours, "cells": cells_of(row)} for row in rows],
        palette=[(name.replace("_", " "), "rgb({}, {}, {})".format(*colour)) for name, colour in CLASSES.items()],
        loss_plot=Markup(loss_plot(log, batch_size)),  # our own SVG: no text of a user is in it
        **texts,
    )
    write_text(path, page)
