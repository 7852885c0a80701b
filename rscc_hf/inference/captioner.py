"""Pairs of images in, captions out: the front door of a checkpoint.

Works with every checkpoint that answers the four lines of the public API (`AutoModel`, `AutoProcessor`,
`generate`, `batch_decode`); whether semantic maps are taken, needed or refused is read from the checkpoint.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import torch

from rscc_hf.checkpoint import load_checkpoint
from rscc_hf.errors import InputError
from rscc_hf.inference.captioner_inputs import (
    NAMES,
    AskedPair,
    listed,
    names_of,
    names_semantics,
    of_one_length,
    one_question_each,
    present,
    range_settings,
)

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin

    ImageInput = str | bytes | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor | Mapping[str, Any]
    ImageList = Iterable[ImageInput]  # in an order: lists, columns, arrays of paths or of images, generators
    MapList = Iterable[ImageInput | None]
    Questions = str | Iterable[str | None]
    Range = tuple[float, float]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionResult:
    """The answer for one pair when errors are skipped: a caption, or the reason why there is none.

    Attributes:
        caption: The caption; `None` when the pair was skipped.
        error: Why the pair was skipped, one sentence; `None` when there is a caption.
        notes: What was done to the images so that they fit (for instance that one date was resized to the other).
    """

    caption: str | None
    error: str | None = None
    notes: tuple[str, ...] = ()


class ChangeCaptioner:
    """Captions pairs of images with a model and its processor.

    Example:
        >>> captioner = ChangeCaptioner.from_pretrained("demo_output/model")  # doctest: +SKIP
        >>> captioner("before.png", "after.png")  # doctest: +SKIP
        'two houses appear along the road'

    Args:
        model: A captioning model (what `AutoModel` gives for a checkpoint of this library).
        processor: Its processor.
        name: What the model is called in output files; the name it was loaded by when omitted.
        fingerprint: A digest of the weights, or the Hub's commit; `None` when unknown.
        trained_on: What the checkpoint's `training_summary.json` says it was trained on (`"synthetic"`, ...).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        *,
        name: str | None = None,
        fingerprint: str | None = None,
        trained_on: str | None = None,
    ) -> None:
        self.model: Any = model  # transformers' mixins are beyond a type checker
        self.processor: Any = processor
        self.name = name or getattr(model.config, "name_or_path", "") or type(model).__name__
        self.fingerprint = fingerprint
        self.trained_on = trained_on
        self._processor_accepts = frozenset(inspect.signature(type(processor).__call__).parameters)

    @classmethod
    def from_pretrained(
        cls,
        path_or_id: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
    ) -> ChangeCaptioner:
        """Loads a checkpoint from a folder or the Hub.

        Args:
            path_or_id: A folder that `save_pretrained` wrote, or a Hub id.
            device: See `rscc_hf.checkpoint.choose_device`.
            dtype: See `rscc_hf.checkpoint.choose_dtype`.
            trust_remote_code: Run the Python files that ship with the checkpoint. Not needed for the models of this
                library.
            revision: Branch, tag or commit on the Hub.

        Raises:
            ValueError: There is no such checkpoint, it is damaged or incomplete, or it cannot write captions.
        """
        checkpoint = load_checkpoint(
            path_or_id, device=device, dtype=dtype, trust_remote_code=trust_remote_code, revision=revision
        )
        return cls(
            checkpoint.model,
            checkpoint.processor,
            name=checkpoint.name,
            fingerprint=checkpoint.fingerprint,
            trained_on=checkpoint.trained_on,
        )

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.device

    @property
    def semantic_maps(self) -> Literal["none", "optional", "required"]:
        """Whether this checkpoint takes semantic maps: not at all, as it comes, or for every pair."""
        config = self.model.config
        modalities = getattr(config, "modalities", None)
        if "semantic_maps" not in self._processor_accepts or not names_semantics(modalities):
            return "none"
        return "optional" if getattr(config, "semantics_optional", False) else "required"

    @property
    def takes_questions(self) -> bool:
        """Whether this checkpoint is asked with a prompt, and so can be asked something else."""
        return isinstance(getattr(self.processor, "prompt", None), str)

    @overload
    def __call__(
        self,
        before: ImageInput,
        after: ImageInput,
        semantic_before: ImageInput | None = None,
        semantic_after: ImageInput | None = None,
        *,
        batch_size: int = 8,
        on_error: Literal["raise"] = "raise",
        pair_ids: str | None = None,
        text: str | None = None,
        value_range: Range | None = None,
        **generate_kwargs: Any,
    ) -> str: ...

    @overload
    def __call__(
        self,
        before: ImageList,
        after: ImageList,
        semantic_before: MapList | None = None,
        semantic_after: MapList | None = None,
        *,
        batch_size: int = 8,
        on_error: Literal["raise"] = "raise",
        pair_ids: Iterable[str] | None = None,
        text: Questions | None = None,
        value_range: Range | None = None,
        **generate_kwargs: Any,
    ) -> list[str]: ...

    @overload
    def __call__(
        self,
        before: ImageInput,
        after: ImageInput,
        semantic_before: ImageInput | None = None,
        semantic_after: ImageInput | None = None,
        *,
        batch_size: int = 8,
        on_error: Literal["skip"],
        pair_ids: str | None = None,
        text: str | None = None,
        value_range: Range | None = None,
        **generate_kwargs: Any,
    ) -> CaptionResult: ...

    @overload
    def __call__(
        self,
        before: ImageList,
        after: ImageList,
        semantic_before: MapList | None = None,
        semantic_after: MapList | None = None,
        *,
        batch_size: int = 8,
        on_error: Literal["skip"],
        pair_ids: Iterable[str] | None = None,
        text: Questions | None = None,
        value_range: Range | None = None,
        **generate_kwargs: Any,
    ) -> list[CaptionResult]: ...

    def __call__(
        self,
        before: ImageInput | ImageList,
        after: ImageInput | ImageList,
        semantic_before: ImageInput | MapList | None = None,
        semantic_after: ImageInput | MapList | None = None,
        *,
        batch_size: int = 8,
        on_error: Literal["raise", "skip"] = "raise",
        pair_ids: str | Iterable[str] | None = None,
        text: Questions | None = None,
        value_range: Range | None = None,
        **generate_kwargs: Any,
    ) -> str | list[str] | CaptionResult | list[CaptionResult]:
        """Says what changed from `before` to `after`.

        Images are paths, bytes, PIL images, arrays, tensors, or undecoded images of `datasets`; one or a list of them
        (an array with four dimensions is a list, as is a column of a table or an array of paths; a generator is read
        to its end first).

        Args:
            before: The earlier image, or a list of them.
            after: The later image, or as many.
            semantic_before: The semantic map of the earlier image, for checkpoints that take maps; in a list, `None`
                where a pair has no map.
            semantic_after: The semantic map of the later image.
            batch_size: How many pairs go through the model at once.
            on_error: What a pair that cannot be read does: `"raise"` stops with its error; `"skip"` goes on and
                returns a :class:`CaptionResult` for every pair, with the reason in place of the caption.
            pair_ids: Names of the pairs for error messages; their positions when omitted.
            text: A question to ask instead of the checkpoint's own, for checkpoints that take questions: one for all
                pairs, or a list with one for each (`None`: the checkpoint's own).
            value_range: The values that are black and white in images of more than 8 bits, for instance `(0, 4095)`
                for 12 bits in 16; what the checkpoint's processor says when omitted.
            **generate_kwargs: Go to `model.generate` (`num_beams`, `max_new_tokens`, `do_sample`, ...); what is
                not given is as the checkpoint's `generation_config.json` says.

        Returns:
            One answer for one pair, a list in the order of the pairs for lists: strings, or :class:`CaptionResult`
            with `on_error="skip"`. What there is to note about the images is in the latter, else it is logged.

        Raises:
            ValueError: Lists of unequal length, a map for one date only, maps or a question for a checkpoint that
                takes none, no maps for one that needs them, or (`"raise"`) a pair that cannot be read.
        """
        given: dict[str, Any] = {"before": before, "after": after}
        given |= {"semantic_before": semantic_before, "semantic_after": semantic_after}
        lists = {name: listed(value, name) for name, value in given.items()}
        single = lists["before"] is None
        if single:
            others = {**lists, "text": None if isinstance(text, str) else text}
            others["pair_ids"] = None if isinstance(pair_ids, str) else pair_ids
            wrong = [name for name, value in others.items() if value is not None]
            if wrong:
                raise InputError(f"before is one image but {wrong[0]} is a list; give one of each or lists of all.")
            lists = {name: None if value is None and name in NAMES[2:] else [value] for name, value in given.items()}
            pair_ids = None if pair_ids is None else [str(pair_ids)]
        batches = self.in_batches(
            *(value if lists[name] is None else lists[name] for name, value in given.items()),  # type: ignore[arg-type]
            batch_size=batch_size,
            on_error=on_error,
            pair_ids=pair_ids,
            text=text,
            value_range=value_range,
            **generate_kwargs,
        )
        results = [result for batch in batches for result in batch]
        noted = [note for result in results for note in result.notes] if on_error == "raise" else []
        if noted:  # strings have no place for them
            logger.warning("%s%s", noted[0], f" (and {len(noted) - 1} more such notes)" if len(noted) > 1 else "")
        answers: list[Any] = list(results) if on_error == "skip" else [result.caption for result in results]
        return answers[0] if single else answers

    def in_batches(
        self,
        before: ImageList,
        after: ImageList,
        semantic_before: MapList | None = None,
        semantic_after: MapList | None = None,
        *,
        batch_size: int = 8,
        on_error: Literal["raise", "skip"] = "raise",
        pair_ids: Iterable[str] | None = None,
        text: Questions | None = None,
        value_range: Range | None = None,
        **generate_kwargs: Any,
    ) -> Iterator[list[CaptionResult]]:
        """As calling the captioner with lists, a batch of results at a time; images are opened batch by batch.

        What is wrong with the call as a whole raises here, before the first batch.
        """
        given: dict[str, Any] = {"before": before, "after": after}
        given |= {"semantic_before": semantic_before, "semantic_after": semantic_after}
        lists = self._lists(given)
        count = len(lists["before"])
        names = names_of(pair_ids, count)
        if pair_ids is not None and names is None:
            raise InputError("before is a list, so pair_ids must be a list too.")
        if text is not None and not self.takes_questions:
            raise InputError(f"{self.name} answers no questions; leave text out.")
        questions = one_question_each(text, count)
        reading = range_settings(self.processor, value_range, self.name)
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, not {batch_size}.")
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error must be 'raise' or 'skip', not {on_error!r}.")
        if generate_kwargs.get("num_return_sequences", 1) != 1 or generate_kwargs.get("return_dict_in_generate"):
            raise InputError("a captioner gives one caption for a pair; call captioner.model.generate for more.")

        def batches() -> Iterator[list[CaptionResult]]:
            for start in range(0, count, batch_size):
                rows = range(start, min(start + batch_size, count))
                pairs = []
                for row in rows:
                    image, later, map_, later_map = (
                        present(lists[name][row]) if name in lists else None for name in NAMES
                    )
                    name = row if names is None else names[row]
                    pairs.append(AskedPair(name, [image, later], (map_, later_map), questions[row]))
                yield self._caption(pairs, reading, on_error == "skip", generate_kwargs)

        return batches()

    def _lists(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments that are there, as lists of one length.

        Raises:
            ValueError: They are not, or maps are missing or too many.
        """
        lists = of_one_length(given)
        maps = [name for name in NAMES[2:] if name in lists]
        if len(maps) == 1:
            missing = next(name for name in NAMES[2:] if name not in lists)
            raise InputError(f"{missing} is missing; give the semantic maps of both dates or of none.")
        if maps and self.semantic_maps == "none":
            raise InputError(f"{self.name} takes no semantic maps; leave semantic_before and semantic_after out.")
        if not maps and self.semantic_maps == "required":
            raise InputError(
                f"{self.name} was trained with semantic maps and needs them; give semantic_before and semantic_after."
            )
        return lists

    def _caption(
        self, pairs: list[AskedPair], reading: dict[str, Any], skip: bool, generate_kwargs: dict[str, Any]
    ) -> list[CaptionResult]:
        """Captions one batch; with `skip` the pairs that cannot be prepared get their reason."""
        errors: dict[int, str] = {}
        try:
            inputs, notes = self._prepare(pairs, reading)
        except (ValueError, OSError):
            if not skip:
                raise
            # The processor takes a batch whole or not at all: ask it about each pair, then take the good ones.
            for index, pair in enumerate(pairs):
                try:
                    self._prepare([pair], reading)
                except (ValueError, OSError) as error:
                    errors[index] = " ".join(str(error).split())
            good = [pair for index, pair in enumerate(pairs) if index not in errors]
            if not good:
                return [CaptionResult(None, error=error) for error in errors.values()]
            inputs, notes = self._prepare(good, reading)
        captions = self._generate(inputs, generate_kwargs)
        answers = iter(zip(captions, notes, strict=True))
        results = []
        for index in range(len(pairs)):
            if index in errors:
                results.append(CaptionResult(None, error=errors[index]))
            else:
                caption, noted = next(answers)
                results.append(CaptionResult(caption, notes=noted))
        return results

    def _prepare(self, pairs: list[AskedPair], reading: dict[str, Any]) -> tuple[Any, list[tuple[str, ...]]]:
        """The model's inputs for these pairs, and what there is to note about each."""
        for pair in pairs:
            if (pair.maps[0] is None) != (pair.maps[1] is None):
                missing = "semantic_before" if pair.maps[0] is None else "semantic_after"
                raise InputError(f"pair {pair.id}: {missing} is missing; give the maps of both dates or of none.")
            if pair.maps[0] is None and self.semantic_maps == "required":
                raise InputError(f"pair {pair.id}: it has no semantic maps, and {self.name} needs them.")
        arguments: dict[str, Any] = {"images": [pair.images for pair in pairs], "return_tensors": "pt", **reading}
        if any(pair.maps[0] is not None for pair in pairs):
            arguments["semantic_maps"] = [None if pair.maps[0] is None else list(pair.maps) for pair in pairs]
        if any(pair.question is not None for pair in pairs):
            arguments["text"] = [pair.question for pair in pairs]
        if "pair_ids" in self._processor_accepts:
            arguments["pair_ids"] = [pair.id for pair in pairs]
        if "return_notes" in self._processor_accepts:
            arguments["return_notes"] = True
        inputs = self.processor(**arguments)
        notes: list[list[str]] = [[] for _ in pairs]
        ids = [pair.id for pair in pairs]
        for note in inputs.pop("notes", None) or ():
            notes[note["index"] if "index" in note else ids.index(note["pair"])].append(note["message"])
        return inputs, [tuple(told) for told in notes]

    def _generate(self, inputs: Any, generate_kwargs: dict[str, Any]) -> list[str]:
        with _evaluating(self.model), torch.inference_mode():
            tokens = self.model.generate(**inputs.to(self.device, self.model.dtype), **generate_kwargs)
        return [caption.strip() for caption in self.processor.batch_decode(tokens, skip_special_tokens=True)]


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets back the mode it had (a frozen part is not set to training)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
