"""Pairs of images in, captions out: the front door of a checkpoint.

Works with every checkpoint that answers the four lines of the public API (`AutoModel`, `AutoProcessor`,
`generate`, `batch_decode`); whether semantic maps are taken, needed or refused is read from the checkpoint.
File runs, the command line and the demo are loops over `ChangeCaptioner.caption`; the pipeline and validation in
training, which are batched by transformers and by accelerate, take the same steps (`CaptionWriter`). The galleries of
the demo look into a model instead of captioning, and ask its processor by themselves.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, overload

from rscc_hf.checkpoint import load_checkpoint
from rscc_hf.data.captions import is_no_change
from rscc_hf.errors import InputError, input_errors
from rscc_hf.inference.captioner_inputs import NAMES, check_generation, listed, pairs_of, range_settings
from rscc_hf.pair import Caption, Pair
from rscc_hf.processing.change_pair_images import fetched
from rscc_hf.processing.change_pair_writer import CaptionWriter, PreparedPair

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin

    ImageInput = str | bytes | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor | Mapping[str, Any]
    ImageList = Iterable[ImageInput]  # in an order: lists, columns, arrays of paths or of images, generators
    MapList = Iterable[ImageInput | None]
    Questions = str | Iterable[str | None]
    Range = tuple[float, float]

logger = logging.getLogger(__name__)


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
        self._writer = CaptionWriter(model, processor)

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
        """Load a checkpoint from a folder or the Hub.

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
        return self._writer.semantic_maps

    @property
    def takes_questions(self) -> bool:
        """Whether this checkpoint is asked with a prompt, and so can be asked something else."""
        return self._writer.takes_questions

    def caption(
        self,
        pairs: Iterable[Pair],
        *,
        batch_size: int = 8,
        on_error: Literal["raise", "skip"] = "raise",
        value_range: Range | None = None,
        allow_web: bool = False,
        **generate_kwargs: Any,
    ) -> Iterator[Caption]:
        """Say what changed in each of the pairs, in their order, as the captions are asked for.

        Args:
            pairs: The pairs, from anywhere and without an end if need be: no more of them are drawn than the batch at
                hand needs.
            batch_size: How many pairs go through the model at once.
            on_error: What a pair that cannot be used does: `"raise"` stops with its error, `"skip"` gives it a
                :class:`rscc_hf.pair.Caption` with the reason and goes on.
            value_range: As for calling the captioner, like the next.
            allow_web: As for calling the captioner.
            **generate_kwargs: For `model.generate`.

        Returns:
            An iterator with one caption for each pair. What is wrong with the call as a whole is raised by the call
            itself, before a pair is drawn.

        Raises:
            ValueError: A setting is wrong, or (`"raise"`) a pair cannot be used.
        """
        if isinstance(pairs, Pair):
            raise InputError("pairs is one pair; give a list or another iterable of pairs.")
        try:
            drawn = iter(pairs)
        except TypeError as error:
            raise InputError(
                f"pairs is a {type(pairs).__name__}; give a list or another iterable of pairs."
            ) from error
        if not isinstance(batch_size, SupportsIndex) or batch_size < 1:
            raise InputError(f"batch_size is {batch_size!r}; give a whole number of at least 1.")
        if not isinstance(allow_web, bool):
            raise InputError(f"allow_web is {allow_web!r}; give True or False.")
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error is {on_error!r}; give 'raise' or 'skip'.")
        if generate_kwargs.get("num_return_sequences", 1) != 1 or generate_kwargs.get("return_dict_in_generate"):
            raise InputError("a captioner gives one caption for a pair; call captioner.model.generate for more.")
        check_generation(self.model, generate_kwargs)
        reading = range_settings(self.processor, value_range, self.name)
        return self._captions(drawn, batch_size, reading, allow_web, on_error == "skip", generate_kwargs)

    def _captions(
        self,
        pairs: Iterator[Pair],
        batch_size: int,
        reading: dict[str, Any],
        allow_web: bool,
        skip: bool,
        generate_kwargs: dict[str, Any],
    ) -> Iterator[Caption]:
        writer = self._writer
        while drawn := list(islice(pairs, batch_size)):
            read = [self._read(pair, reading, allow_web, skip) for pair in drawn]
            ready = [one for one in read if isinstance(one, PreparedPair)]
            texts: Iterator[str] = iter(())
            if ready:
                with input_errors():
                    batch = writer.join(ready)
                texts = iter(writer.texts(writer.write(batch, **generate_kwargs)))
            for one in read:
                if isinstance(one, PreparedPair):
                    text = next(texts)
                    yield Caption(text, changed=not is_no_change(text), notes=one.notes)
                else:
                    yield Caption(None, error=one)

    def _read(self, pair: Pair, reading: dict[str, Any], allow_web: bool, skip: bool) -> PreparedPair | str:
        """Return a pair as the model takes it; with `skip` of one that cannot be used the reason."""
        if not isinstance(pair, Pair):
            raise InputError(f"there is a {type(pair).__name__} among the pairs; make it a rscc_hf.Pair.")
        try:
            with input_errors():
                return self._writer.prepare(fetched(pair, allow_web), **reading)
        except (InputError, OSError) as error:
            if not skip:
                raise
            return " ".join(str(error).split())

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
        allow_web: bool = False,
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
        allow_web: bool = False,
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
        allow_web: bool = False,
        **generate_kwargs: Any,
    ) -> Caption: ...

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
        allow_web: bool = False,
        **generate_kwargs: Any,
    ) -> list[Caption]: ...

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
        allow_web: bool = False,
        **generate_kwargs: Any,
    ) -> str | list[str] | Caption | list[Caption]:
        """Say what changed from `before` to `after`.

        Images are paths, addresses, bytes, PIL images, arrays, tensors, or undecoded images of `datasets`; one or a
        list of them (an array with four dimensions is a list, as is a column of a table or an array of paths; a
        generator is read to its end first).

        Args:
            before: The earlier image, or a list of them.
            after: The later image, or as many.
            semantic_before: The semantic map of the earlier image, for checkpoints that take maps; in a list, `None`
                where a pair has no map.
            semantic_after: The semantic map of the later image.
            batch_size: How many pairs go through the model at once.
            on_error: What a pair that cannot be read does: `"raise"` stops with its error; `"skip"` goes on and
                returns a :class:`rscc_hf.pair.Caption` for every pair, with the reason in place of the caption.
            pair_ids: Names of the pairs for error messages; their positions when omitted.
            text: A question to ask instead of the checkpoint's own, for checkpoints that take questions: one for all
                pairs, or a list with one for each (`None`: the checkpoint's own).
            value_range: The values that are black and white in images of more than 8 bits, for instance `(0, 4095)`
                for 12 bits in 16; what the checkpoint's processor says when omitted.
            allow_web: Fetch images that are given by an https address, as `rscc_hf.processing.change_pair_web` says;
                nothing is fetched unless it is asked for.
            **generate_kwargs: Go to `model.generate` (`num_beams`, `max_new_tokens`, `do_sample`, ...); what is
                not given is as the checkpoint's `generation_config.json` says.

        Returns:
            One answer for one pair, a list in the order of the pairs for lists: strings, or with `on_error="skip"`
            :class:`rscc_hf.pair.Caption`. What there is to note about the images is in the latter, else it is logged.

        Raises:
            ValueError: Lists of unequal length, a map for one date only, maps or a question for a checkpoint that
                takes none, no maps for one that needs them, or (`"raise"`) a pair that cannot be read.
        """
        given: dict[str, Any] = dict(zip(NAMES, (before, after, semantic_before, semantic_after), strict=True))
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
        for name, value in given.items():
            if lists[name] is None and (value is not None or name in NAMES[:2]):
                raise InputError(f"before is a list, so {name} must be a list too; give one for each pair.")
        pairs = pairs_of(lists, pair_ids, text)
        maps = lists["semantic_before"] is not None
        if maps and self.semantic_maps == "none":
            raise InputError(f"{self.name} takes no semantic maps; leave semantic_before and semantic_after out.")
        if not maps and self.semantic_maps == "required":
            raise InputError(
                f"{self.name} was trained with semantic maps and needs them; give semantic_before and semantic_after."
            )
        if text is not None and not self.takes_questions:
            raise InputError(f"{self.name} answers no questions; leave text out.")
        captions = list(
            self.caption(
                pairs,
                batch_size=batch_size,
                on_error=on_error,
                value_range=value_range,
                allow_web=allow_web,
                **generate_kwargs,
            )
        )
        noted = [note for caption in captions for note in caption.notes] if on_error == "raise" else []
        if noted:  # strings have no place for them
            logger.warning("%s%s", noted[0], f" (and {len(noted) - 1} more such notes)" if len(noted) > 1 else "")
        answers: list[Any] = captions if on_error == "skip" else [caption.text for caption in captions]
        return answers[0] if single else answers
