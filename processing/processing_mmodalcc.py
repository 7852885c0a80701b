"""Processor of MModalCC: pairs of images and maps in, model inputs out; captions to labels and back."""

from collections.abc import Sequence
from typing import Any

from transformers.image_processing_base import BatchFeature
from transformers.processing_utils import ProcessorMixin

# All are named here so that they travel with this file: transformers 5.6 copies from a local checkpoint what the file
# itself imports, and not (as 5.23 does) what those files import in turn.
from .change_pair import Pair as Pair
from .change_pair_files import open_page as open_page
from .change_pair_images import PairError as PairError
from .change_pair_reader import PairReader as PairReader
from .change_pair_values import reading_settings as reading_settings
from .change_pair_web import read_address as read_address
from .change_pair_writer import CaptionWriter as CaptionWriter
from .image_processing_mmodalcc import MModalCCImageProcessor as MModalCCImageProcessor
from .image_processing_pairs import PairImageProcessor as PairImageProcessor
from .pipeline_change_captioning import ChangeCaptioningPipeline as ChangeCaptioningPipeline

IGNORED = -100


class MModalCCProcessor(ProcessorMixin):
    """`MModalCCImageProcessor` and a tokenizer with `<start>`, `<end>` and a padding token, in one.

    Args:
        image_processor: A `MModalCCImageProcessor`.
        tokenizer: Tokenizer of the captions; its end of sequence closes the labels.
    """

    def __init__(self, image_processor: Any, tokenizer: Any):
        super().__init__(image_processor, tokenizer)

    @property
    def model_input_names(self) -> list[str]:
        """Return names of the tensors that the processor makes for the model's encoder."""
        return list(self.image_processor.model_input_names)

    def __call__(  # type: ignore[override]  # the mixin's text, videos and audio make no sense here
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        semantic_maps: Any = None,
        pair_ids: Sequence[str] | None = None,
        return_tensors: str | None = "pt",
        max_length: int | None = None,
        return_notes: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare a batch of pairs, of captions, or of both; all of it or nothing.

        Args:
            images: List of pairs `[before, after]` (paths, addresses, bytes, PIL, numpy, torch), or one pair, or an
                array (batch, 2, C, H, W).
            text: A caption for each pair (a string for a single pair), or several for each, as many and pair by pair.
            semantic_maps: As `images`, None in place of a pair without maps.
            pair_ids: Names of the pairs in errors and notes.
            return_tensors: "pt", "np", or None (arrays and lists).
            max_length: Labels longer than this, `<end>` included, lose their last words; None: all words stay.
            return_notes: Adds `notes`: what there is to say of how the pairs were read.
            **kwargs: Settings of the image processor for this call, as `do_normalize=False`; `allow_web=True` fetches
                https addresses.

        Returns:
            `pixel_values` (batch, 2, C, H, W) float32; with maps `semantic_values` of the same layout, zeros where a
            pair has none, and `semantic_present` (batch,) bool; with text `labels` (captions, T): `w1..wn <end>`,
            padded with -100.

        Raises:
            PairError: A pair cannot be used; it names the pair and the file.
            ValueError: Nothing was given, or the numbers of pairs, maps, captions and ids differ.
        """
        if images is None and text is None:
            raise ValueError("give images, text, or both.")
        if images is None and semantic_maps is not None:
            raise ValueError("semantic_maps are given without images; give both.")
        data: dict[str, Any] = {}
        if images is not None:
            data.update(
                self.image_processor(
                    images,
                    semantic_maps=semantic_maps,
                    pair_ids=pair_ids,
                    return_notes=return_notes,
                    return_tensors=return_tensors,
                    **kwargs,
                )
            )
        if text is not None:
            captions = [text] if isinstance(text, str) else list(text)
            pairs = 1 if images is None else len(data["pixel_values"])
            if len(captions) % pairs or (images is not None and not captions):
                raise ValueError(
                    f"text has {len(captions)} captions for {pairs} pairs; give each pair as many, pair by pair."
                )
            data["labels"] = self._labels(captions, max_length)
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["notes"])

    def _labels(self, captions: list[str], max_length: int | None) -> list[list[int]]:
        """Return word ids and `<end>`, padded with -100 to the longest; (batch, T)."""
        if not captions or not all(isinstance(caption, str) for caption in captions):
            raise ValueError("text must be a caption or a list with one caption for each pair; give strings.")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length is {max_length}; it must be at least 1, the place of <end>.")
        rows = []
        for words in self.tokenizer(captions, add_special_tokens=False)["input_ids"]:
            kept = list(words) if max_length is None else list(words)[: max_length - 1]
            rows.append([*kept, self.tokenizer.eos_token_id])
        longest = max(len(row) for row in rows)
        return [row + [IGNORED] * (longest - len(row)) for row in rows]


MModalCCProcessor.register_for_auto_class("AutoProcessor")
