"""A data set's card: `README.md` rendered from what its parquet files hold."""

from typing import Any

from huggingface_hub import DatasetCardData

from rscc_hf.data.schema import OPTIONAL
from rscc_hf.formats.cards import own_text
from rscc_hf.hub.cards.dataset_facts import DatasetFacts
from rscc_hf.hub.cards.rendering import as_dataset_card, earlier_metadata, plain, render

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_MEANINGS = {
    "pair_id": "name of the pair",
    "image_before": "the earlier image",
    "image_after": "the later image",
    "semantic_before": "semantic map of the earlier image, in SECOND's palette",
    "semantic_after": "semantic map of the later image",
    "change_mask": "0 where nothing changed, 255 where something did",
    "captions": "sentences about what changed",
    "changed": "whether anything changed",
    "source": "the data set that the pair is from",
    "record": "what happened, where and how often, as JSON",
}
_SYNTHESIZED_LICENSE = "apache-2.0"
_RECOMPUTED = {"configs", "size_categories", "task_categories", "tags", "dataset_info"}


def render_dataset_card(
    facts: DatasetFacts, repo_id: str, *, license: str | None = None, existing: str | None = None
) -> str:
    """Return the text of the card.

    Args:
        facts: What was counted.
        repo_id: Its repository on the Hub.
        license: As the Hub names licences; that of an earlier card when omitted, and Apache-2.0 where `rscc data
            synthesize` drew every pair.
        existing: An earlier card: metadata that are not worked out anew and the user's own text stay.

    Raises:
        ValueError: The earlier card has damaged metadata.
    """
    metadata = _metadata(facts, earlier_metadata(existing), repo_id, license)
    content = render(
        "dataset_card.md.jinja",
        metadata=metadata.to_yaml(),
        title=plain(metadata.get("pretty_name")),
        repo_id=repo_id,
        split=next(iter(facts.splits)),
        splits=[
            (name, [f"{number:,}" for number in (one.pairs, one.changed, one.unchanged, one.captions)], one.bytes)
            for name, one in facts.splits.items()
        ],
        columns=[(name, kind, _MEANINGS.get(name, "")) for name, kind in facts.columns.items()],
        facts=facts,
        sources=[
            (plain(source), f"{number:,}", _terms(facts, source)) for source, number in facts.sources.most_common()
        ],
        limits=_limits(facts),
        license=metadata.get("license_name") or metadata.get("license"),
        own_text=own_text(existing),
    )
    as_dataset_card(content)
    return content


def _metadata(facts: DatasetFacts, earlier: dict[str, Any], repo_id: str, license: str | None) -> DatasetCardData:
    kept = {key: value for key, value in earlier.items() if key not in _RECOMPUTED and key != "train-eval-index"}
    if license is not None:
        kept = {**{key: value for key, value in kept.items() if not key.startswith("license")}, "license": license}
    if "license" not in kept and facts.is_synthesized:
        kept["license"] = _SYNTHESIZED_LICENSE
    languages = {data and data.language for data in map(facts.known_source, facts.sources)}
    if "language" not in kept and len(languages) == 1 and None not in languages:
        kept["language"] = languages.pop()
    kept.setdefault("pretty_name", repo_id.rpartition("/")[2])
    tags = ["remote-sensing", "change-captioning", "change-detection"]
    if facts.synthesized:
        tags.append("synthetic")
    earlier_tags = earlier.get("tags") or []
    return DatasetCardData(
        task_categories=["image-to-text"],
        size_categories=[next((name for limit, name in _SIZES if facts.pairs < limit), "1M<n<10M")],
        tags=[*tags, *(tag for tag in earlier_tags if tag not in tags)],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": one.files} for name, one in facts.splits.items()],
            }
        ],
        **kept,
    )


def _terms(facts: DatasetFacts, source: str) -> str:
    data = facts.known_source(source)
    if data is None:
        return "not known to rscc_hf"
    return f"{data.shows}; {data.terms}" + (f" ([authors]({data.link}))" if data.link else "")


def _limits(facts: DatasetFacts) -> list[str]:
    limits = []
    if facts.is_synthesized:
        limits.append("Nothing in it is a photograph: scores on it say little about real images.")
        limits.append("Scenes, events and wordings come from one generator, in train, validation and test alike.")
    if any(data.holds_second for data in facts.known):
        limits.append(
            "SECOND's maps are coloured only where something changed: true maps give away whether anything did."
        )
        limits.append("SECOND is part of CC-Foundation: models trained on that have seen these images.")
    unchanged = sum(one.unchanged for one in facts.splits.values())
    if unchanged:
        share = 100 * unchanged / facts.pairs
        limits.append(
            f"{share:.0f} % of its pairs are unchanged: a model that always says so scores well on the whole. Report "
            "changed and unchanged pairs apart, and the best constant caption beside."
        )
    missing = [name for name in OPTIONAL if name not in facts.columns]
    if missing:
        limits.append(f"There is no {' or '.join(missing)}.")
    return limits
