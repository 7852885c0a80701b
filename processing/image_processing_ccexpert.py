"""Image processor of CCExpert: pairs of RGB images into one tensor.

Preprocessing of SigLIP so400m/14-384, the tower of LLaVA-OneVision, each date as one square (arXiv 2411.11360;
github.com/Meize0729/CCExpert, Apache-2.0; nothing is copied from it): RGB, 384x384, bicubic, the aspect ratio not
kept, divided by 255, mean and standard deviation 0.5.
"""

from collections.abc import Sequence
from typing import Any

from transformers.image_processing_base import BatchFeature
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD, PILImageResampling

# All are named here so that they travel with this file: see `processing_ccexpert.py`.
from .change_pair_files import open_page as open_page
from .change_pair_images import PairError as PairError
from .change_pair_reader import PairReader as PairReader
from .change_pair_values import reading_settings as reading_settings
from .change_pair_web import read_address as read_address
from .image_processing_pairs import PairImageProcessor


class CCExpertImageProcessor(PairImageProcessor):
    """Turns pairs of images into `pixel_values` (batch, 2, 3, H, W): before, then after; see `PairImageProcessor`."""

    model_input_names = ["pixel_values"]  # noqa: RUF012 (transformers' way)

    size = {"height": 384, "width": 384}  # noqa: RUF012
    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD

    def preprocess(  # type: ignore[override]  # narrower: there are no maps
        self, images: Any, pair_ids: Sequence[str] | None = None, return_notes: bool = False, **kwargs: Any
    ) -> BatchFeature:
        """Prepare a batch, all of it or nothing; see `PairImageProcessor.preprocess`."""
        return super().preprocess(images, kwargs.pop("semantic_maps", None), pair_ids, return_notes, **kwargs)


CCExpertImageProcessor.register_for_auto_class("AutoImageProcessor")
