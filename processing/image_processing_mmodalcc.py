"""Image processor of MModalCC: pairs of images, and of semantic maps, into one tensor each.

Preprocessing of the release: 256x256, bilinear, divided by 255, no mean and standard deviation; white in semantic maps
becomes black before resizing (arXiv 2501.10075; github.com/ChangeCapsInRS/SecondCC, no licence stated; nothing is
copied from it). New models normalise RGB by ImageNet's statistics, which their backbones were trained with.
"""

from collections.abc import Sequence
from typing import Any

from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling

# All are named here so that they travel with this file: see `processing_mmodalcc.py`.
from .change_pair_files import open_page as open_page
from .change_pair_images import PairError as PairError
from .change_pair_reader import PairReader as PairReader
from .change_pair_values import reading_settings as reading_settings
from .change_pair_web import read_address as read_address
from .image_processing_pairs import PairImageProcessor, PairImagesKwargs


class MModalCCImagesKwargs(PairImagesKwargs, total=False):
    """Settings of `MModalCCImageProcessor` beyond those of `PairImagesKwargs`.

    Attributes:
        semantic_resample: Filter of `PIL.Image.Resampling` for semantic maps: 2 bilinear (the release), 0 nearest.
        semantic_mean: Mean of each channel of the maps after rescaling; None: not normalised (the release).
        semantic_std: Standard deviation of each channel of the maps, given together with `semantic_mean`.
        white_to_void: White pixels of 3-channel maps become black before resizing.
        num_channels: Channels of an image.
        semantic_num_channels: Channels of a semantic map.
    """

    semantic_resample: int | None
    semantic_mean: float | list[float] | tuple[float, ...] | None
    semantic_std: float | list[float] | tuple[float, ...] | None
    white_to_void: bool | None
    num_channels: int | None
    semantic_num_channels: int | None


class MModalCCImageProcessor(PairImageProcessor):
    """Turns pairs of images and of semantic maps into `pixel_values` and `semantic_values`, (batch, 2, C, H, W) each.

    With maps there is `semantic_present` (batch,) bool as well; see `PairImageProcessor`.
    """

    valid_kwargs = MModalCCImagesKwargs
    model_input_names = ["pixel_values", "semantic_values", "semantic_present"]  # noqa: RUF012 (transformers' way)

    size = {"height": 256, "width": 256}  # noqa: RUF012
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    semantic_resample = int(PILImageResampling.BILINEAR)
    semantic_mean = None
    semantic_std = None
    white_to_void = True
    num_channels = 3
    semantic_num_channels = 3

    def _standardize_kwargs(  # type: ignore[override]
        self,
        semantic_mean: float | Sequence[float] | None = None,
        semantic_std: float | Sequence[float] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(**kwargs)
        kwargs["semantic_mean"] = tuple(semantic_mean) if isinstance(semantic_mean, list) else semantic_mean
        kwargs["semantic_std"] = tuple(semantic_std) if isinstance(semantic_std, list) else semantic_std
        return kwargs

    def _validate_preprocess_kwargs(  # type: ignore[override]
        self, semantic_mean: Any = None, semantic_std: Any = None, **kwargs: Any
    ) -> None:
        super()._validate_preprocess_kwargs(**kwargs)
        if (semantic_mean is None) != (semantic_std is None):
            raise ValueError("semantic_mean and semantic_std must be given together; give both or neither.")


MModalCCImageProcessor.register_for_auto_class("AutoImageProcessor")
