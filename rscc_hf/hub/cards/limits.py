"""What a model cannot do, or cannot be said to do: sentences that follow from the facts about it."""

from rscc_hf.data.catalog import known_data
from rscc_hf.evaluation.scores import TITLES
from rscc_hf.formats.records import Evaluation
from rscc_hf.hub.cards.facts import ModelFacts
from rscc_hf.hub.cards.rendering import last_part, plain


def limits_of(facts: ModelFacts) -> list[str]:
    """Return the sentences of a card's section on limits, the general ones first."""
    return [
        *_untrained(facts),
        *_domain(facts),
        *_images(facts),
        *_maps(facts),
        *_words(facts),
        *_contamination(facts),
        *_selection(facts),
    ]


def notes_on(evaluation: Evaluation, facts: ModelFacts) -> list[str]:
    """Return what a reader of these scores must know."""
    notes = []
    data = known_data(evaluation.dataset_id or evaluation.dataset) or known_data(evaluation.dataset)
    training = facts.training
    if data is not None and data.holds_second and facts.model_type == "ccexpert" and _saw_second(facts):
        notes.append("Contaminated: images of SECOND were in the training data of these weights.")
    if facts.model_type == "ccexpert" and facts.is_release and data is not None and data.key == "levir-cc":
        notes.append("The authors chose the released weights by their score on LEVIR-CC's test split.")
    if training is not None and evaluation.split == _validation_split(facts):
        where = training.recipe.get("validation_data") or training.recipe.get("train_data")
        if where is not None and _is_of(evaluation, str(where), facts):
            notes.append("These weights were chosen by their score on this very split: the scores are optimistic.")
    if evaluation.maps:
        notes.append("The model was given true semantic maps; with predicted ones it will do worse.")
    if evaluation.maps is False:
        notes.append("The model was given no semantic maps.")
    return notes


def _is_of(evaluation: Evaluation, where: str, facts: ModelFacts) -> bool:
    """Tell whether the scores are on the data that the validation was given as `where`."""
    names = [name for name in (evaluation.dataset_id, evaluation.dataset) if name]
    if where in names or last_part(where).lower() in [last_part(name).lower() for name in names]:
        return True
    scored = {data.key for name in names if (data := known_data(name)) is not None}
    there = [known_data(where)]
    if facts.training is not None and where == facts.training.data:
        there += facts.seen
    return any(data is not None and data.key in scored for data in there)


def _untrained(facts: ModelFacts) -> list[str]:
    if facts.training is None and facts.conversion is not None and facts.conversion.new_weights:
        return ["It is a start for training. Some of its weights are random, so that its captions mean nothing."]
    return []


def _domain(facts: ModelFacts) -> list[str]:
    seen, unknown = facts.seen, facts.seen_unknown
    if not seen and not unknown:
        return []
    shown = "; ".join(
        [
            *(f"{data.name} ({data.shows})" for data in seen),
            *(f"{plain(name)} (data that rscc_hf does not know)" for name in unknown),
        ]
    )
    if facts.training is None:
        said = f"The authors' release was trained on {shown}."
    else:
        said = f"It was trained on {shown}."
    if [data.key for data in seen] == ["synthetic"] and not unknown:
        return [f"{said} It has seen no photograph: do not expect sensible captions of real images."]
    return [f"{said} Other regions, sensors, seasons and ground resolutions were not tried."]


def _images(facts: ModelFacts) -> list[str]:
    limits = ["The two images must show the same ground, co-registered, the earlier one first."]
    if facts.image_size is not None:
        height, width = facts.image_size
        limits.append(
            f"Every image is resized to {width}x{height} pixels, whatever its shape. Cut large scenes into tiles "
            "whose ground resolution is that of the training data."
        )
    return limits


def _maps(facts: ModelFacts) -> list[str]:
    if facts.maps == "none":
        return []
    recipe = facts.training.recipe if facts.training else {}
    limits = []
    if facts.maps == "required":
        limits.append(
            "It answers only pairs with semantic maps in SECOND's palette, which have to come from somewhere."
        )
    if recipe.get("semantic_coverage") == "changed":
        limits.append(
            "It was trained with maps that show changed pixels only. Such maps give away whether anything changed."
        )
    return limits


def _words(facts: ModelFacts) -> list[str]:
    if facts.model_type == "mmodalcc":
        size = facts.config.get("vocab_size")
        words = f"a vocabulary of {size:,} words, special ones included" if isinstance(size, int) else "its vocabulary"
        limits = [f"It writes with {words}; what is not among them it cannot say."]
        splits = (facts.training.recipe if facts.training else {}).get("vocabulary_splits") or []
        if any(split not in ("train", "training") for split in splits):
            limits.append(f"Its vocabulary was built from the captions of these splits: {', '.join(splits)}.")
        return limits
    if facts.model_type == "ccexpert":
        return ["A language model writes the captions: it may state things that are not there, fluently."]
    return []


def _saw_second(facts: ModelFacts) -> bool:
    return any(data.holds_second for data in facts.seen)


def _contamination(facts: ModelFacts) -> list[str]:
    if facts.training is None:
        return list(facts.system.release_limits) if facts.system is not None and facts.is_release else []
    if facts.model_type == "ccexpert" and _saw_second(facts):
        return ["SECOND is in its training data: its scores on SECOND-CC are contaminated."]
    start = str(facts.training.recipe.get("init_from") or "")
    if facts.model_type == "ccexpert" and start:
        return [
            f"It starts from {plain(last_part(start))}. Where that one has seen CC-Foundation, SECOND is among what "
            "these weights have seen, and scores on SECOND-CC are contaminated."
        ]
    return []


def _validation_split(facts: ModelFacts) -> str | None:
    recipe = facts.training.recipe if facts.training else {}
    if not recipe or recipe.get("eval_unit") == "never":
        return None
    return recipe.get("validation_split")


def _selection(facts: ModelFacts) -> list[str]:
    split = _validation_split(facts)
    if facts.training is None or split is None:
        return []
    metric = TITLES.get(str(facts.training.recipe.get("metric_for_best")), "their score")
    chosen = f"The weights were chosen by {plain(metric)} on the {split} split"
    if split == "test":
        return [f"{chosen}: scores on it are optimistic, and there is no untouched split left."]
    return [f"{chosen}; scores on that split are optimistic."]
