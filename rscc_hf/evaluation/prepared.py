"""A set of captions made ready once, for whatever is then asked of it: scores, parts, baseline, accuracies, notes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from rscc_hf.data.captions import contradictions, infer_changed, no_change_sentences, pair_key
from rscc_hf.errors import InputError
from rscc_hf.evaluation.corpus import CookedReferences, CookedSet, accuracy_of_parts
from rscc_hf.evaluation.meteor import Meteor
from rscc_hf.evaluation.protocols import caption_notes, encoder, pair_label, prepare
from rscc_hf.evaluation.scores import PARTS


@dataclass(frozen=True)
class PreparedSet:
    """n pairs, each once, with their captions as they are scored; see `prepare_set`.

    Attributes:
        predictions: n captions, normalised.
        references: n lists of captions, normalised.
        changed: Whether each pair is a changed one.
        labels: What messages call the pairs.
        encode: Turns a normalised caption into the tokens of the protocol, joined by spaces.
        accuracy: Of saying rightly whether anything changed; see `corpus.accuracy_of_parts`.
        duplicates_dropped: How many repeats of pairs were left out.
        notes: What to know before the scores are believed, a sentence each.
    """

    predictions: list[str]
    references: list[list[str]]
    changed: list[bool]
    labels: list[str]
    encode: Callable[[str], str]
    accuracy: dict[str, float | None]
    duplicates_dropped: int
    notes: list[str]

    @cached_property
    def parts(self) -> dict[str, list[int]]:
        """The indices of all pairs, of the changed and of the unchanged ones."""
        every = range(len(self.changed))
        return {"all": list(every)} | {
            part: [index for index in every if self.changed[index] == flag]
            for part, flag in zip(PARTS, (True, False), strict=True)
        }

    @cached_property
    def cooked_references(self) -> CookedReferences:
        """The references under the protocol, their n-grams counted."""
        return CookedReferences([[self.encode(caption) for caption in captions] for captions in self.references])

    def cooked(self, predictions: Sequence[str], meteor: Meteor) -> CookedSet:
        """Return n normalised captions, those of the set or others, ready to be scored against its references.

        Raises:
            MeteorError: METEOR could not be computed.
        """
        encoded = {caption: self.encode(caption) for caption in set(predictions)}
        return CookedSet([encoded[caption] for caption in predictions], self.cooked_references, meteor, self.labels)


def prepare_set(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    changed: Sequence[bool] | None = None,
    pair_ids: Sequence[str] | None = None,
    *,
    protocol: str = "words",
    extra_no_change: Sequence[str] = (),
    unique: bool = False,
) -> PreparedSet:
    """Make a set of captions ready: normalise them, refuse what cannot be scored, keep each pair once.

    Args:
        predictions: One caption a pair, as generated.
        references: At least one reference a pair.
        changed: Whether each pair is a changed one; by default this follows from the references.
        pair_ids: Names of the pairs, for messages and to drop repeats.
        protocol: One of `protocols.PROTOCOLS`.
        extra_no_change: Sentences that mean "no change" beside the known ones.
        unique: Whether `pair_ids` has no repeats, as when a file was read.

    Returns:
        The set.

    Raises:
        InputError: A caption cannot be scored (see `protocols.prepare`), lists have different lengths, or a repeated
            pair contradicts itself.
    """
    known = no_change_sentences(extra_no_change)
    ready, ready_references = prepare(predictions, references, pair_ids)
    if changed is None:
        flags = [infer_changed(captions, known.__contains__) for captions in ready_references]
    else:
        flags = [bool(flag) for flag in changed]
    if len(flags) != len(ready):
        raise InputError(f"`changed` has {len(flags):,} entries for {len(ready):,} predictions; give one a pair.")
    labels = [pair_label(index, pair_ids) for index in range(len(ready))]
    given = len(ready)
    if pair_ids is not None and not unique:
        kept = _first_of_each(pair_ids, ready, ready_references, flags)
        ready, ready_references = [ready[index] for index in kept], [ready_references[index] for index in kept]
        flags, labels = [flags[index] for index in kept], [labels[index] for index in kept]
    notes = caption_notes(ready, ready_references)
    if changed is not None:
        notes += contradictions(zip(labels, ready_references, flags, strict=True), known.__contains__)
    return PreparedSet(
        predictions=ready,
        references=ready_references,
        changed=flags,
        labels=labels,
        encode=encoder(ready, ready_references, protocol),
        accuracy=accuracy_of_parts(ready, flags, known.__contains__),
        duplicates_dropped=given - len(ready),
        notes=notes,
    )


def _first_of_each(pair_ids: Sequence[str], *columns: Sequence[object]) -> list[int]:
    """Return the indices to keep: the first of every pair."""
    first: dict[str, int] = {}
    for index, pair_id in enumerate(pair_ids):
        if pair_id is None or pair_id == "":
            raise InputError(f"Prediction number {index + 1} has no pair id; name every pair or none.")
        other = first.setdefault(pair_key(pair_id), index)
        if any(column[index] != column[other] for column in columns):
            raise InputError(
                f"Pair {pair_id!r} is given twice, differently, at positions {other + 1} and {index + 1}; "
                "keep one of them."
            )
    return list(first.values())
