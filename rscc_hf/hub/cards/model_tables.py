"""The tables and sentences of a model's card, each from the facts about the model."""

import shlex
from typing import Any, get_args

from rscc_hf.evaluation.report import NO_CIDER_D, Report
from rscc_hf.evaluation.scores import PARTS, SCORE_KEYS, TITLES, BestScore
from rscc_hf.formats.recipes import RECIPE
from rscc_hf.formats.records import Evaluation
from rscc_hf.hub.cards.facts import ModelFacts, Training
from rscc_hf.hub.cards.limits import notes_on
from rscc_hf.hub.cards.rendering import last_part, plain
from rscc_hf.text import count

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "U8": "4 or 8 bit"}
# Shown of a recipe, which is there as a whole beside the card.
_SETTINGS = (
    "trained_parts lora_rank quantization captions global_batch_size max_epochs max_steps optimizer learning_rate "
    "schedule warmup_ratio weight_decay mixed_precision image_size normalize_images modalities semantics_optional "
    "semantic_coverage feature_enhancement num_stages vision_levels num_integration_layers prompt label_policy "
    "backbone_weights_rgb backbone_weights_semantic init_from seed"
)


def properties_of(facts: ModelFacts) -> list[tuple[str, str]]:
    """Return the rows of the table at the top: what the model is, name and value."""
    found: list[tuple[str, str]] = []
    weights, config = facts.weights, facts.config
    if weights is not None:
        formats = ", ".join(_DTYPES.get(name, name.lower()) for name in list(weights.dtypes)[:2] if name != "I64")
        found.append(("Parameters", f"{_counted(weights.parameters)}, stored as {formats}"))
    if facts.image_size is not None:
        height, width = facts.image_size
        found.append(("Images", f"RGB, resized to {width}x{height} pixels{_normalisation(facts)}"))
    if facts.model_type == "mmodalcc":
        kinds = {"none": "not taken", "optional": "taken where they are given", "required": "needed"}
        found.append(("Semantic maps", kinds[facts.maps]))
        if config.get("feature_enhancement"):
            found.append(
                (
                    "Feature enhancement",
                    f"{config['feature_enhancement']}, {count(config.get('num_stages') or 0, 'stage')}",
                )
            )
    if facts.model_type == "ccexpert":
        found += _ccexpert_properties(facts)
    beams = facts.generation.get("num_beams")
    penalty = facts.generation.get("length_penalty")
    decoding = "greedy" if beams in (None, 1) else f"{beams} beams"
    if penalty is not None and beams not in (None, 1):
        decoding += f", length penalty {penalty:g}"
    found.append(("Decoding, by default", decoding))
    return found


def _normalisation(facts: ModelFacts) -> str:
    settings = facts.processor.get("image_processor", facts.processor)
    if "do_normalize" not in settings:
        return ""
    if not settings["do_normalize"]:
        return ", divided by 255, not normalised"
    mean, deviation = settings.get("image_mean"), settings.get("image_std")
    if (mean, deviation) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]):
        return ", normalised by ImageNet's mean and deviation"
    return f", normalised by mean {mean} and deviation {deviation}"


def _ccexpert_properties(facts: ModelFacts) -> list[tuple[str, str]]:
    config = facts.config
    found = []
    for name, key in (("Vision tower", "vision_config"), ("Language model", "text_config")):
        part = config.get(key) or {}
        if part.get("model_type"):
            layers, width = part.get("num_hidden_layers"), part.get("hidden_size")
            found.append((name, f"{part['model_type']}, {layers} layers of width {width}"))
    if config.get("integration"):
        levels = ", ".join(str(level) for level in config.get("vision_levels") or [])
        layers = config.get("num_integration_layers")
        found.append(
            ("Difference-aware Integration Module", f"{count(layers or 0, 'layer')}, levels {levels} of the tower")
        )
    elif "integration" in config:
        found.append(("Difference-aware Integration Module", "off"))
    if facts.processor.get("prompt"):
        found.append(("Prompt", plain(facts.processor["prompt"])))
    return found


def _counted(number: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def evaluation_table(one: Evaluation, facts: ModelFacts) -> dict[str, Any]:
    """Return what the template shows of an evaluation: its rows, its protocol, and what a reader must know."""
    report = Report.parse(one.report, f"The report on {one.dataset}", "remove it")
    parts = [f"{report.n:,} pairs", f"{report.n_changed:,} changed, {report.n_unchanged:,} unchanged"]
    rows: list[tuple[str, dict[str, Any]]] = [("all pairs", report.all)]
    rows += [(f"{kind} pairs", scores) for kind in PARTS if (scores := getattr(report, kind))]
    if report.baseline:
        rows.append(("best constant caption", report.baseline))
    cells = [(name, [f"{scores[key]:.2f}" for key in SCORE_KEYS]) for name, scores in rows]
    interval = (report.bootstrap or {}).get("all") or {}
    if interval:
        ends = [interval.get(key) for key in SCORE_KEYS]
        cells.insert(1, ("95 % interval", [f"{end[0]:.1f}\u2013{end[1]:.1f}" if end else "" for end in ends]))
    accuracy = [
        f"{value:.1f} % of the {kind} pairs got a caption that says so"
        for kind, value in report.accuracy.items()
        if value is not None
    ]
    sentences = [f"{'; '.join(accuracy)}."] if accuracy else []
    if report.baseline and report.baseline.get("caption"):
        sentences.append(f"The best constant caption is “{plain(report.baseline['caption'])}”.")
    if report.has_no_cider_d:
        sentences.append(f"{NO_CIDER_D}, as unchanged ones do.")
    version = report.versions.get("rscc_hf")
    if version:
        sentences.append(f"Scored by rscc_hf {version}.")
    return {
        "dataset": one.dataset,
        "split": one.split,
        "counts": ": ".join(parts) + ".",
        "protocol": report.protocol,
        "decoding": ", ".join(f"`{key}` {plain(value)}" for key, value in (one.settings or {}).items()),
        "columns": [plain(title) for title in TITLES.values()],
        "rows": cells,
        "sentences": sentences,
        "notes": notes_on(one, facts),
    }


def training_section(facts: ModelFacts, training: Training) -> dict[str, Any]:
    """Return what the template shows of a run: sentences, the command that repeats it, and settings."""
    recipe = training.recipe
    hub_data = training.hub_id("train_data")
    revision = f" at `{plain(training.revision)}`" if training.revision else ""
    data = f"`{hub_data}`{revision}" if hub_data else None
    split = f", {plain(training.split)} split" if training.split else ""
    unknown = [plain(name) for name in facts.seen_unknown if name != hub_data]
    names = ", ".join([*(item.name for item in facts.seen), *unknown])
    sentences = []
    if names or data:
        shown = f"{names} ({data}{split})" if names and data else f"{names or data}{split}"
        sentences.append(f"Trained by rscc_hf on {shown}.")
    if training.steps is not None:
        took = (
            f" in {count(round(training.seconds / 60), 'minute')}"
            if training.seconds and training.seconds >= 60
            else ""
        )
        batch = f" of {recipe['global_batch_size']} samples" if recipe.get("global_batch_size") else ""
        sentences.append(f"The run took {training.steps:,} steps{batch}{took}, as logged.")
    if training.best is not None:
        choosing = get_args(BestScore)
        kept = {TITLES[key]: value for key, value in (training.best.validation or {}).items() if key in choosing}
        scores = ", ".join(f"{plain(name)} {value:.2f}" for name, value in kept.items())
        limit = recipe.get("max_validation_pairs")
        pairs = f" on {limit} pairs of it at most" if limit else ""
        which = plain(recipe.get("validation_split") or "validation")
        sentences.append(
            f"The weights are those of step {training.best.step:,}, the best on the {which} split: {scores}{pairs}."
            " As these scores chose the weights, they are no measure of how good the weights are."
        )
    script = _script(facts, recipe)
    command = None
    if script is not None and (facts.folder / RECIPE).is_file():
        given = shlex.quote(hub_data or "YOUR_DATA")
        command = f"accelerate launch {script} --config {RECIPE} --train_data {given} --output_dir outputs/again"
        if recipe.get("init_from") and training.hub_id("init_from") is None:
            command += " --init_from YOUR_START"
    return {
        "sentences": sentences,
        "command": command,
        "about_command": "From a checkout of rscc_hf. `recipe.yaml` of this repository has every setting; among them:",
        "settings": [
            (key, _shown(last_part(str(recipe[key])) if training.is_local.get(key) else recipe[key]))
            for key in _SETTINGS.split()
            if recipe.get(key) not in (None, [], "")
        ],
    }


def _shown(value: Any) -> str:
    """Return a setting's value; of a path that may be on somebody's machine, its last part."""
    if isinstance(value, str) and value.startswith(("/", "~", ".")):
        value = value.rstrip("/").rpartition("/")[2]
    return plain(", ".join(str(item) for item in value) if isinstance(value, list) else value)


def _script(facts: ModelFacts, recipe: dict[str, Any]) -> str | None:
    """Return the script that the recipe belongs to; those of CCExpert's stages differ in their defaults alone."""
    if facts.model_type == "mmodalcc":
        return "training/mmodalcc.py"
    if facts.model_type != "ccexpert":
        return None
    if recipe.get("trained_parts") in (["integration"], ["integration", "projector"]):
        return "training/stage1.py"
    return "training/stage3.py" if recipe.get("captions") == "random_choice" else "training/stage2.py"
