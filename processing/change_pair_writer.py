"""From pairs to what a model writes about them, in steps: prepare each pair, join a batch, generate, decode.

The one way of `ChangeCaptioner`, of the `change-captioning` pipeline and (from a joined batch on) of validation in
training. What a checkpoint takes besides two images is asked here, and nowhere else.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from .change_pair import Pair


@dataclass(frozen=True)
class PreparedPair:
    """One pair as its processor made it ready; may be pickled for workers.

    Attributes:
        id: Of the pair.
        inputs: Tensors of a batch of one, by the names that `generate` takes.
        notes: What there is to say of how the pair was read.
    """

    id: str | int
    inputs: dict[str, torch.Tensor]
    notes: tuple[str, ...] = ()


class CaptionWriter:
    """A model and its processor, asked about pairs.

    Args:
        model: Anything that generates.
        processor: Takes `images` and, where it does, `semantic_maps`, `text`, `pair_ids`, `return_notes`; and decodes.
    """

    def __init__(self, model: Any, processor: Any):
        self.model, self.processor = model, processor
        self._accepted = frozenset(inspect.signature(type(processor).__call__).parameters)
        self._made = frozenset(getattr(processor, "model_input_names", ()))

    @property
    def semantic_maps(self) -> Literal["none", "optional", "required"]:
        """Whether semantic maps are taken: not at all, as they come, or for every pair.

        The processor says whether it reads them, the model's configuration whether the model has a use for them.
        """
        if "semantic_values" not in self._made:
            return "none"
        config = self.model.config
        return use_of_maps(getattr(config, "modalities", None), getattr(config, "semantics_optional", None))

    @property
    def takes_questions(self) -> bool:
        """Whether the model is asked with words, and so can be asked something else."""
        return "input_ids" in self._made

    def prepare(self, pair: Pair, **settings: Any) -> PreparedPair:
        """Read one pair.

        Args:
            pair: The pair.
            **settings: Of the image processor, for this call.

        Raises:
            ValueError: The pair cannot be used; one sentence that names it, and the file.
        """
        arguments: dict[str, Any] = {"images": [[pair.before, pair.after]], "return_tensors": "pt", **settings}
        maps = self._maps_of(pair)
        if maps is not None:
            arguments["semantic_maps"] = [maps]
        if pair.question is not None:
            if not self.takes_questions:
                raise ValueError(f"pair {pair.id} has a text, but this model takes no questions; leave it out.")
            if not isinstance(pair.question, str):
                raise ValueError(f"pair {pair.id}: text must be a string, not a {type(pair.question).__name__}.")
            arguments["text"] = [pair.question]
        if "pair_ids" in self._accepted:
            arguments["pair_ids"] = [pair.id]
        if "return_notes" in self._accepted:
            arguments["return_notes"] = True
        inputs = dict(self.processor(**arguments))
        notes = tuple(note["message"] for note in inputs.pop("notes", None) or ())
        return PreparedPair(pair.id, inputs, notes)

    def _maps_of(self, pair: Pair) -> list[Any] | None:
        """Return the maps of a pair; None where it has none.

        Raises:
            ValueError: There is one of two, or they are not what the checkpoint takes.
        """
        if pair.maps is None:
            if self.semantic_maps == "required":
                raise ValueError(f"pair {pair.id}: it has no semantic maps, and this model needs them; give both.")
            return None
        if self.semantic_maps == "none":
            raise ValueError(f"pair {pair.id} has semantic maps, which this model does not take; leave them out.")
        before, after = pair.maps
        if before is None or after is None:
            missing = "semantic_before" if before is None else "semantic_after"
            raise ValueError(f"pair {pair.id}: {missing} is missing; give the maps of both dates or of none.")
        return [before, after]

    def join(self, prepared: Sequence[PreparedPair]) -> dict[str, torch.Tensor]:
        """Return one batch for `generate`, where the model lies and in its dtype.

        Token ids are padded on the left; a pair without maps among others with some gets zeros (and is marked).

        Raises:
            ValueError: Images of two pairs differ in size or type, because resizing is off.
        """
        joined = {}
        for name in dict.fromkeys(name for one in prepared for name in one.inputs):
            first = next(one.inputs[name] for one in prepared if name in one.inputs)
            given = [one.inputs.get(name, torch.zeros_like(first)) for one in prepared]
            if first.ndim == 2 and not first.is_floating_point():
                given = self._padded(name, given)
            for one, tensor in zip(prepared, given, strict=True):
                if tensor.shape[1:] != given[0].shape[1:] or tensor.dtype != given[0].dtype:
                    was, now = (f"{it.dtype} of shape {tuple(it.shape[1:])}" for it in (given[0], tensor))
                    raise ValueError(
                        f"pair {one.id}: {name} is {now} where the first pair of the batch is {was}; turn do_resize "
                        "on or convert the images."
                    )
            batch = torch.cat(given).to(self.model.device)
            joined[name] = batch.to(self.model.dtype) if batch.is_floating_point() else batch
        return joined

    def _padded(self, name: str, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        """Return rows of tokens, (1, T) each, as long as the longest."""
        lacking = [max(row.shape[1] for row in rows) - row.shape[1] for row in rows]
        if not any(lacking):
            return rows
        pad = self.processor.tokenizer.pad_token_id if name == "input_ids" else 0
        return [torch.nn.functional.pad(row, (few, 0), value=pad) for row, few in zip(rows, lacking, strict=True)]

    def write(
        self, inputs: Mapping[str, torch.Tensor], generate: Callable[..., Any] | None = None, **generate_kwargs: Any
    ) -> torch.Tensor:
        """Return what the model writes about a batch, (sequences, tokens); modules keep the mode that they had.

        Args:
            inputs: What `join` gives.
            generate: Takes `inputs` and `generate_kwargs`, and generates with the model; None: its own `generate`.
            **generate_kwargs: Of the model's `generate`.
        """
        with _evaluating(self.model), torch.no_grad():
            if generate is None:
                written = self.model.generate(**inputs, **generate_kwargs)
            else:
                written = generate(inputs, **generate_kwargs)
        return written if isinstance(written, torch.Tensor) else written.sequences  # return_dict_in_generate

    def texts(self, sequences: Any) -> list[str]:
        """Return the texts of sequences."""
        return [text.strip() for text in self.processor.batch_decode(sequences, skip_special_tokens=True)]


def use_of_maps(modalities: Any, optional: Any) -> Literal["none", "optional", "required"]:
    """Return what a model does with semantic maps by its configuration: `modalities` and `semantics_optional`."""
    names = [modalities] if isinstance(modalities, str) else modalities or ()
    if not any("semantic" in str(name) for name in names):
        return "none"
    return "optional" if optional else "required"


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Set evaluation mode for a while; every module gets back its mode (a frozen part is not set to training)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
