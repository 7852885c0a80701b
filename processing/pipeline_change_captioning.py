"""The `change-captioning` pipeline of transformers: pairs in whatever form they come, captions out.

    from transformers import pipeline

    captioner = pipeline("change-captioning", model="org/ccexpert-7b", trust_remote_code=True)
    captioner(("before.png", "after.png"))  # [{"generated_text": "two houses appear along the road"}]

It ships with every checkpoint; after `import rscc_hf` the installed one is used, without `trust_remote_code`.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset
from transformers import GenerationConfig, Pipeline

from .change_pair import Pair
from .change_pair_images import fetched
from .change_pair_writer import CaptionWriter

TASK = "change-captioning"
# A pair as a dictionary: our names, and the columns of a data set.
_DATES = {"before": ("before", "image_before"), "after": ("after", "image_after")}
_MAPS = ("semantic_before", "semantic_after")
_KEYS = {"images", "semantic_maps", "text", "pair_id", *_MAPS, *(key for keys in _DATES.values() for key in keys)}
_GENERATION = {field for field in vars(GenerationConfig()) if not field.startswith("_")} | {
    *("generation_config", "logits_processor", "stopping_criteria", "streamer", "prefix_allowed_tokens_fn"),
}


class ChangeCaptioningPipeline(Pipeline):
    """Captions pairs of images, each as a whole.

    A pair is a tuple `(before, after)`, a list of two images, an array (2, C, H, W), a `Pair`, or a dictionary:
    `before` and `after` (or `image_before` and `image_after`, as in the rows of a data set; further columns are left
    alone), and where there are any `semantic_before`, `semantic_after`, `text`, `pair_id`. An image is a path, a data
    URL, bytes, a PIL image, a numpy array or a torch tensor, and with `allow_web=True` an https address.

    The answer to a pair is a list of dictionaries, one for each returned sequence, as transformers' other pipelines
    that write text give it: `[{"generated_text": caption}]`. A list of pairs gives a list of such answers; a data set
    or a generator gives them one by one as they are asked for.
    """

    model: Any  # transformers' mixins are beyond a type checker
    processor: Any
    _load_processor: Any = True
    _load_tokenizer: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_video_processor: Any = False

    def __init__(self, model: Any, *, processor: Any = None, **kwargs: Any):
        if processor is None or not hasattr(processor, "image_processor"):
            raise ValueError(f"{TASK} needs the processor of the checkpoint; give processor=AutoProcessor's.")
        if not getattr(model, "can_generate", lambda: False)():
            raise ValueError(f"{type(model).__name__} cannot write captions; give a change captioning model.")
        self.writer = CaptionWriter(model, processor)
        super().__init__(model, processor=processor, **kwargs)

    def _sanitize_parameters(  # type: ignore[override]
        self,
        text: str | None = None,
        allow_web: bool | None = None,
        timeout: float | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        return_tensors: bool | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        unknown = sorted(set(kwargs) - _GENERATION)
        if unknown:
            raise TypeError(
                f"{', '.join(unknown)}: no setting of the {TASK} pipeline; settings of the processor go into "
                "processor_kwargs and other arguments of generate into generate_kwargs."
            )
        twice = sorted(set(kwargs) & set(generate_kwargs or ()))
        if twice:
            raise ValueError(f"{', '.join(twice)} is given both by itself and in generate_kwargs; give it once.")
        if text is not None and not self.writer.takes_questions:
            raise ValueError(f"{type(self.model).__name__} takes no questions; leave text out.")
        if text is not None and not isinstance(text, str):
            raise ValueError("text must be one string here; give each pair its own in its dictionary, under 'text'.")
        before = {"text": text, "allow_web": allow_web, "timeout": timeout, "processor_kwargs": processor_kwargs}
        during = {**(generate_kwargs or {}), **kwargs}
        after = {"return_tensors": return_tensors}
        return (
            {name: value for name, value in before.items() if value is not None},
            during,
            {name: value for name, value in after.items() if value is not None},
        )

    def __call__(self, images: Any, *, semantic_maps: Any = None, text: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Caption pairs.

        Args:
            images: A pair, a list of pairs (also a column of a table or an array of paths), an array (batch, 2, C, H,
                W), a data set (torch's or `datasets`') or a generator of pairs; see the class for what a pair can be.
            semantic_maps: Where `images` is a pair or a list of pairs without dictionaries: its maps
                `(before, after)`, or a list of such with None for a pair without. Else they are in the dictionaries.
            text: What is asked (CCExpert): one question or prompt for all pairs, or a list with one for each of a list
                of pairs, None for the checkpoint's prompt.
            **kwargs: `batch_size` and `num_workers`; `generate_kwargs`, a dictionary for `generate`, or its settings
                by name (`num_beams=1`, `max_new_tokens=20`, ...); `processor_kwargs`, settings of the image
                processor; `allow_web=True` to fetch images from https addresses (see `change_pair_web`), each within
                `timeout` seconds; `return_tensors=True` for token ids, `generated_token_ids` (tokens,), in place of
                text.

        Returns:
            `[{"generated_text": str}, ...]`, as many as `num_return_sequences`; for a list a list of those; for a
            data set or generator an iterator over those.

        Raises:
            ValueError: A pair cannot be used (the sentence names the pair and the file); maps or a question for a
                model that takes none; no maps for one that needs them; a table, or a row of one.
            TypeError: A setting has an unknown name.
        """
        images = _without_labels(images)
        several = _as_list(images)
        if several is None and not _is_pair(images):  # a data set or a generator
            if semantic_maps is not None or not isinstance(text, str | None):
                raise ValueError("give the maps and texts of a data set or generator inside of its dictionaries.")
            for_all = {} if text is None else {"text": text}
            return super().__call__(_stream(images), **for_all, **kwargs)
        pairs = [images] if several is None else several
        if not pairs:
            return []
        maps = [semantic_maps] if several is None else _spread(semantic_maps, len(pairs), "semantic_maps")
        one = several is None or isinstance(text, str | None)
        texts = [text] * len(pairs) if one else _spread(text, len(pairs), "text")
        given = [
            _pair(pair, index, maps=one, text=words)
            for index, (pair, one, words) in enumerate(zip(pairs, maps, texts, strict=True))
        ]
        return super().__call__(given[0] if several is None else given, **kwargs)

    def preprocess(  # type: ignore[override]
        self,
        inputs: Any,
        text: str | None = None,
        allow_web: bool = False,
        timeout: float | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Read one pair."""
        pair = _pair(inputs, 0)
        if pair.question is None and text is not None:
            pair = dataclasses.replace(pair, question=text)
        settings = {"allow_web": allow_web, **(processor_kwargs or {})}
        pair = fetched(pair, settings.pop("allow_web"), *(() if timeout is None else (timeout,)))
        # a list of these is what transformers' batches make of them
        return {"pair": self.writer.prepare(pair, **settings)}

    def _forward(self, inputs: dict[str, Any], **generate_kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Write the captions of one batch."""
        batch = inputs["pair"] if isinstance(inputs["pair"], list) else [inputs["pair"]]
        sequences = self.writer.write(self.writer.join(batch), **generate_kwargs)
        return {"sequences": sequences.unflatten(0, (len(batch), -1))}  # (pairs, sequences a pair, tokens)

    def postprocess(  # type: ignore[override]
        self, model_outputs: dict[str, Any], return_tensors: bool = False
    ) -> list[dict[str, Any]]:
        """Return the answer to one pair."""
        rows = model_outputs["sequences"][0]
        if return_tensors:
            return [{"generated_token_ids": row} for row in rows]
        return [{"generated_text": text} for text in self.writer.texts(rows)]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Write the checkpoint: model and processor, and the code of all three."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)


class _Rows(Dataset):
    """A data set as pairs, each with its place."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Pair:
        return _pair(self.rows[index], index)


def _stream(images: Any) -> Any:
    """Return data sets and generators in a form that transformers streams."""
    if not isinstance(images, IterableDataset) and hasattr(images, "__getitem__") and hasattr(images, "__len__"):
        return _Rows(images)
    if not isinstance(images, Iterable):
        raise ValueError(
            f"{type(images).__name__} is no pair; give (before, after), a dictionary with before and after, a list "
            "of such, or a data set or generator."
        )
    return _Stream(images)


class _Stream(IterableDataset):
    """Pairs that come one by one; older transformers (5.6) would read a bare generator to its end."""

    def __init__(self, pairs: Iterable[Any]):
        self.pairs = pairs

    def __iter__(self) -> Iterator[Pair]:
        for index, pair in enumerate(self.pairs):
            yield _pair(pair, index)


def _is_image(value: Any) -> bool:
    """Return whether it is one image, in any form that the processors read, or an address."""
    if isinstance(value, str | bytes | bytearray | memoryview | os.PathLike | Image.Image):
        return True
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.ndim in (2, 3)
    if isinstance(value, Mapping):  # an undecoded `datasets.Image`
        return bool(value) and set(value) <= {"bytes", "path"}
    return hasattr(value, "read")


def _is_pair(value: Any) -> bool:
    """Return whether it is one pair and not several."""
    if isinstance(value, tuple | Mapping | Pair):
        return True
    if isinstance(value, np.ndarray | torch.Tensor):
        return value.ndim != 5
    if isinstance(value, list):
        return len(value) == 2 and all(image is None or _is_image(image) for image in value)
    return _is_image(value)  # half a pair, which `_pair` refuses


def _without_labels(images: Any) -> Any:
    """Return as a list what is asked for by its place: a column of pandas, whose `[]` means labels, or an array.

    Raises:
        ValueError: It is a table, or a row of one, whose order says nothing.
    """
    if isinstance(images, np.ndarray | Dataset):
        return _listed(images)
    kind = type(images).__name__
    if hasattr(images, "columns"):
        raise ValueError(
            f"images is a {kind}; give a list of pairs, such as list(zip(table['before'], table['after'])), or of "
            "dictionaries."
        )
    if not hasattr(images, "iloc"):
        return images
    if _KEYS & set(images.index):
        raise ValueError(f"images is a {kind} that is a row of a table; give it as a dictionary (to_dict()).")
    return list(images)


def _listed(images: Any) -> Any:
    """Return an array of paths or of images, (2,) for a pair or (pairs, 2), as lists; anything else as it is."""
    is_list = isinstance(images, np.ndarray) and images.dtype.kind in "OUT" and images.ndim in (1, 2)
    return images.tolist() if is_list else images


def _as_list(images: Any) -> list[Any] | None:
    """Return the pairs of a list or of an array of pairs; None for anything else."""
    if isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 5:
        return list(images)
    return list(images) if isinstance(images, list) and not _is_pair(images) else None


def _spread(given: Any, count: int, name: str) -> list[Any]:
    """Return one value for each pair of a list."""
    if given is None:
        return [None] * count
    single = isinstance(given, str | bytes | bytearray | memoryview | Mapping | set | frozenset | Image.Image)
    single = single or hasattr(given, "columns")  # of a table, whose names they would be
    values = list(given) if isinstance(given, Iterable) and not single else None
    if values is None or len(values) != count:
        shown = f"{len(values)} values" if values is not None else f"a {type(given).__name__}"
        raise ValueError(f"{name} has {shown} for {count} pairs; give one for each, None where there is none.")
    return values


def _pair(pair: Any, index: int, maps: Any = None, text: str | None = None) -> Pair:
    """Return a pair in whatever form, in one.

    Args:
        pair: See `ChangeCaptioningPipeline`.
        index: Its place, which names it in errors where it has no `pair_id`.
        maps: Its maps, where they are given apart.
        text: Its text, where that is given apart.

    Raises:
        ValueError: It is no pair, or one of its parts is given twice.
    """
    if isinstance(pair, Pair):
        given = {"images": [pair.before, pair.after], "semantic_maps": pair.maps, "text": pair.question}
        pair = {"pair_id": pair.id, **given}
    if not isinstance(pair, Mapping):
        return _made(index, pair, maps, text)
    row = {key: value for key, value in pair.items() if value is not None}
    name = row.get("pair_id", index)
    for keys in (
        ("images", *_DATES["before"]),
        ("images", *_DATES["after"]),
        *(("semantic_maps", key) for key in _MAPS),
    ):
        twice = [key for key in keys if key in row]
        if len(twice) > 1:
            raise ValueError(f"pair {name!r} has both {' and '.join(twice)}; give one of them.")
    if "images" in row:
        images = row["images"]
    else:
        images = [next((row[key] for key in keys if key in row), None) for keys in _DATES.values()]
        is_row = any(keys[1] in row for keys in _DATES.values())
        unknown = sorted(str(key) for key in set(pair) - _KEYS)
        if unknown and not is_row:
            raise ValueError(f"pair {name!r} has {', '.join(unknown)}; known are {', '.join(sorted(_KEYS))}.")
        missing = [date for date, image in zip(_DATES, images, strict=True) if image is None]
        if missing:
            raise ValueError(f"pair {name!r} has no {' and no '.join(missing)}; give both dates.")
    theirs = row.get("semantic_maps")
    if theirs is None and any(key in row for key in _MAPS):
        theirs = [row.get(key) for key in _MAPS]
    for what, inside, apart in (("semantic maps", theirs, maps), ("text", row.get("text"), text)):
        if inside is not None and apart is not None:
            raise ValueError(f"pair {name!r} has its {what} in its dictionary and beside it; give them once.")
    return _made(name, images, maps if theirs is None else theirs, text if row.get("text") is None else row["text"])


def _made(name: str | int, images: Any, maps: Any, text: str | None) -> Pair:
    before, after = _two(images, "images", name)
    both = None if maps is None else _two(maps, "maps", name)
    return Pair(name, before, after, maps=None if both is None else (both[0], both[1]), question=text)


def _two(images: Any, what: str, name: str | int) -> list[Any]:
    """Return before and after.

    Raises:
        ValueError: There are not two.
    """
    images = _listed(images)
    one = isinstance(images, str | bytes | bytearray | os.PathLike | Mapping) or not isinstance(
        images, Sequence | np.ndarray | torch.Tensor
    )
    if one:
        raise ValueError(
            f"pair {name!r}: one {type(images).__name__} is given where two {what} are expected; give both."
        )
    if len(images) != 2 or getattr(images, "ndim", 4) != 4:
        raise ValueError(
            f"pair {name!r}: {len(images)} {what} are given where two are expected; give before and after."
        )
    return list(images)
