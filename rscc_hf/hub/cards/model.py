"""A model's card: `README.md` rendered from what lies in its folder."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from rscc_hf.data.catalog import known_data
from rscc_hf.evaluation.report import Report
from rscc_hf.evaluation.scores import MEAN_TITLES, SCORES
from rscc_hf.formats.cards import is_ours, own_text
from rscc_hf.formats.records import Conversion, Evaluation
from rscc_hf.hub.cards.facts import ModelFacts, read_model_facts
from rscc_hf.hub.cards.limits import limits_of
from rscc_hf.hub.cards.model_tables import evaluation_table, properties_of, training_section
from rscc_hf.hub.cards.rendering import as_model_card, earlier_metadata, plain, read_card, render, write_card

_NOT_STATED = "not-stated"
# Keys of a recipe that say what the weights started from.
_STARTS = ("init_from", "backbone_weights_rgb", "backbone_weights_semantic")
# Metadata that is worked out anew each time; the rest of an earlier card's stays.
_RECOMPUTED = {"model-index", "pipeline_tag", "library_name", "tags", "datasets", "base_model", "metrics"}


def write_model_card(
    folder: str | os.PathLike[str],
    *,
    name: str | None = None,
    repo_id: str | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `README.md` of a checkpoint from what was measured and recorded in its folder.

    Args:
        folder: What `save_pretrained` wrote, with what training, a converter or `add_evaluation` left beside it.
        name: What to call it where it has no repository yet; the folder's name by default.
        repo_id: Its repository on the Hub, which the lines of code in the card then load.
        license: Of the weights, as the Hub names licences ("apache-2.0", "cc-by-4.0", ...); that of the card that is
            there when omitted.
        overwrite: Whether a card that somebody else wrote is replaced.

    Raises:
        ValueError: The folder is no checkpoint, a file in it is damaged, or its card was written by somebody else.
    """
    folder = Path(folder)
    content = render_model_card(folder, name=name, repo_id=repo_id, license=license)
    return write_card(folder, content, overwrite=overwrite)


def render_model_card(
    folder: Path, *, name: str | None = None, repo_id: str | None = None, license: str | None = None
) -> str:
    """Return the text of the card; see `write_model_card`."""
    facts = read_model_facts(folder)
    existing = read_card(folder)
    ours = existing if existing is not None and is_ours(existing) else None
    loads_from = repo_id or name or (folder.name if not folder.name.startswith(".") else "") or "."
    title = loads_from.rpartition("/")[2] if loads_from != "." else (facts.system.name if facts.system else "Model")
    metadata = _metadata(facts, earlier_metadata(ours), title, license)
    conversion = facts.conversion or Conversion()
    content = render(
        "model_card.md.jinja",
        metadata=metadata.to_yaml(),
        title=plain(title),
        system=facts.system,
        properties=properties_of(facts),
        snippet=snippet(loads_from, facts),
        pipeline=pipeline_lines(loads_from, facts),
        maps=facts.maps,
        evaluations=[evaluation_table(one, facts) for one in facts.evaluations],
        mean_of=MEAN_TITLES,
        training=None if facts.training is None else training_section(facts, facts.training),
        limits=limits_of(facts),
        provenance=_provenance(facts),
        sources=conversion.sources,
        dropped=sorted(conversion.dropped),
        licences=_licences(facts, metadata),
        own_text=own_text(existing),
    )
    as_model_card(content)  # the Hub's reader understands it, or this raises
    return content


def snippet(loads_from: str, facts: ModelFacts) -> str:
    """Return the lines of code that caption a pair: what a user copies, and what a test runs.

    Args:
        loads_from: Repository or folder.
        facts: Of the checkpoint.
    """
    where = f"{loads_from!r}".replace("'", '"')
    lines = [
        "from transformers import AutoModel, AutoProcessor",
        "",
        f"model = AutoModel.from_pretrained({where}, trust_remote_code=True)",
    ]
    if not facts.processor:
        return "\n".join(line.replace(", AutoProcessor", "") for line in lines)
    maps = ' semantic_maps=[["map_before.png", "map_after.png"]],' if facts.maps == "required" else ""
    return "\n".join(
        [
            *lines,
            f"processor = AutoProcessor.from_pretrained({where}, trust_remote_code=True)",
            f'inputs = processor(images=[["before.png", "after.png"]],{maps} return_tensors="pt")',
            "captions = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)",
        ]
    )


def pipeline_lines(loads_from: str, facts: ModelFacts) -> str | None:
    """Return the same by the pipeline that ships with the checkpoint; None where none does."""
    if "change-captioning" not in (facts.config.get("custom_pipelines") or {}) or not facts.processor:
        return None
    where = f"{loads_from!r}".replace("'", '"')
    pair = '("before.png", "after.png")'
    if facts.maps == "required":
        names = ("before", "after", "semantic_before", "semantic_after")
        files = ("before.png", "after.png", "map_before.png", "map_after.png")
        pair = "{" + ", ".join(f'"{name}": "{file}"' for name, file in zip(names, files, strict=True)) + "}"
    return (
        "from transformers import pipeline\n\n"
        f'captioner = pipeline("change-captioning", model={where}, trust_remote_code=True)\n'
        f"answer = captioner({pair})"
    )


def _metadata(facts: ModelFacts, earlier: dict[str, Any], title: str, license: str | None) -> ModelCardData:
    kept = {key: value for key, value in earlier.items() if key not in _RECOMPUTED}
    if license is not None:
        kept = {**{key: value for key, value in kept.items() if not key.startswith("license")}, "license": license}
    elif "license" not in kept and facts.is_release and facts.system is not None:
        kept |= {"license": "other", "license_name": _NOT_STATED, "license_link": facts.system.repository}
    if "language" not in kept:
        languages = {data.language for data in facts.seen}
        sure = len(languages) == 1 and not facts.seen_unknown
        kept |= {"language": languages.pop()} if sure else {}
    training = facts.training
    bases = [training.hub_id(key) for key in _STARTS] if training is not None else []
    bases.append((facts.conversion or Conversion()).base_model)  # a converter writes it for an id on the Hub only
    data = [training.hub_id("train_data")] if training is not None else []
    folders = _recorded_folders(facts)
    pipeline_tag = facts.system.pipeline_tag if facts.system else "image-to-text"
    results = [result for one in facts.evaluations for result in _eval_results(one, pipeline_tag)]
    tags = ["remote-sensing", "change-captioning", "change-detection"]
    if facts.model_type:
        tags.append(facts.model_type)
    if facts.config.get("auto_map"):
        tags.append("custom_code")
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=pipeline_tag,
        tags=[*tags, *(tag for tag in _listed(earlier.get("tags")) if tag not in tags)],
        base_model=_one_or_many([*bases, *_without(folders, earlier.get("base_model"))]),
        datasets=_one_or_many([*data, *_without(folders, earlier.get("datasets"))], always_list=True),
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=title if results else None,
        eval_results=results or None,
        **kept,
    )


def _recorded_folders(facts: ModelFacts) -> set[str]:
    """Return what was a folder when the run read it: an earlier card may have taken one for an id."""
    if facts.training is None:
        return set()
    named = {**facts.training.recipe, "train_data": facts.training.data}
    return {str(named.get(key)) for key, is_local in facts.training.is_local.items() if is_local}


def _without(folders: set[str], value: Any) -> list[str]:
    return [name for name in _listed(value) if name not in folders]


def _listed(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _one_or_many(values: Sequence[str | None], always_list: bool = False) -> Any:
    found = list(dict.fromkeys(value for value in values if value))
    return (found or None) if always_list or len(found) != 1 else found[0]


def _eval_results(one: Evaluation, task: str) -> list[EvalResult]:
    """Return the scores of the whole split and both accuracies, for the `model-index`."""
    report = Report.parse(one.report, f"The report on {one.dataset}", "remove it")
    values = [(score.metric, score.title, report.all[score.key]) for score in SCORES]
    values += [
        ("accuracy", f"says {kind} of {kind} pairs", value)
        for kind, value in report.accuracy.items()
        if value is not None
    ]
    arguments: dict[str, Any] = {"protocol": report.protocol}
    if one.maps is not None:
        arguments["semantic_maps"] = one.maps
    return [
        EvalResult(
            task_type=task,
            task_name="Change captioning",
            dataset_type=one.dataset_id or re.sub(r"[^a-z0-9]+", "-", one.dataset.lower()).strip("-"),
            dataset_name=one.dataset,
            dataset_split=one.split,
            metric_type=kind,
            metric_name=f"{title} (protocol {report.protocol})",
            metric_value=round(value, 3),
            metric_args=arguments,
        )
        for kind, title, value in values
    ]


def _provenance(facts: ModelFacts) -> list[str]:
    conversion = facts.conversion
    if conversion is None:
        return []
    version = conversion.versions.get("rscc_hf")
    by = f"`{plain(conversion.converter)}`" if conversion.converter else "rscc_hf"
    sentences = [f"Converted by {by}{f' of rscc_hf {version}' if version else ''}, without training."]
    if conversion.base_model:
        revision = f", commit `{plain(conversion.revision)}`" if conversion.revision else ""
        sentences.append(f"The weights are those of `{conversion.base_model}`{revision}.")
    if conversion.new_weights:
        seed = f" (seed {conversion.seed})" if conversion.seed is not None else ""
        sentences.append(f"New and random are {plain(conversion.new_weights)}{seed}.")
    if facts.system is not None and facts.is_release:
        sentences.append(
            f"The format is that of the authors' release ([repository]({facts.system.repository})); that the files "
            "are the authors' own is for their SHA-256 to tell."
        )
    return sentences


def _licences(facts: ModelFacts, metadata: ModelCardData) -> list[tuple[str, str]]:
    found = [("code in this repository (rscc_hf)", "Apache-2.0")]
    license = metadata.get("license")
    if facts.is_release and facts.system is not None and license == "other":
        found.append(("weights", f"{facts.system.code_terms} ([repository]({facts.system.repository}))"))
    elif license is not None:
        found.append(("weights", plain(metadata.get("license_name") or license)))
    else:
        found.append(("weights", "not stated yet by who trained them"))
    bases = _listed(metadata.get("base_model"))
    if bases:
        found.append(
            ("what the weights started from", f"{', '.join(f'`{base}`' for base in bases)}, each under its own")
        )
    for data in dict.fromkeys([*facts.seen, *(_of(one) for one in facts.evaluations)]):
        if data is not None:
            name = f"[{data.name}]({data.link})" if data.link else data.name
            found.append((f"data: {name}", data.terms))
    found += [(f"data: {plain(name)}", "not known to rscc_hf") for name in facts.seen_unknown]
    return found


def _of(one: Evaluation) -> Any:
    return known_data(one.dataset_id or one.dataset) or known_data(one.dataset)
