"""Image processor of CCExpert: pairs of RGB images into one tensor.

Preprocessing of SigLIP so400m/14-384, the tower of LLaVA-OneVision, each date as one square (arXiv 2411.11360;
github.com/Meize0729/CCExpert, Apache-2.0; nothing is copied from it): RGB, 384x384, bicubic, the aspect ratio not
kept, divided by 255, mean and standard deviation 0.5.
"""

from collections.abc import Sequence
from typing import Any

from transformers.image_processing_backends import PilBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD, PILImageResampling
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

# All are named here so that they travel with this file: see `processing_ccexpert.py`.
from .change_pair_files import open_page as open_page
from .change_pair_images import PairError as PairError
from .change_pair_reader import PairReader, rescale_and_normalize
from .change_pair_values import reading_settings
from .change_pair_web import read_address as read_address

logger = logging.get_logger(__name__)


class CCExpertImagesKwargs(ImagesKwargs, total=False):
    """Settings of `CCExpertImageProcessor` beyond transformers' own; each can be given at construction and per call.

    Attributes:
        value_range: The values that become black and white in images of more than 8 bits, for example (0, 4095) for
            12 bits and (0, 10000) for reflectances; None: what the type says (16 bits 0..65535, floats 0..1). It is
            the same for all images, so that both dates of a pair are treated alike. 8 bits are taken as they are.
        uint16_max: `value_range` of older checkpoints, for 16 bits alone: the value that becomes 255.
        max_image_pixels: Largest accepted height x width of one image.
        size_tolerance: Largest relative difference of aspect ratios within a pair.
    """

    value_range: list[int | float] | tuple[int | float, ...] | None
    uint16_max: int | None
    max_image_pixels: int | None
    size_tolerance: float | None


# Of transformers' settings the ones that mean something here; cropping, padding or another layout would break a pair.
_SETTINGS = {"do_resize", "size", "default_to_square", "resample", "do_rescale", "rescale_factor", "do_normalize"}
_SETTINGS |= {"image_mean", "image_std"} | (
    set(CCExpertImagesKwargs.__annotations__) - set(ImagesKwargs.__annotations__)
)


class CCExpertImageProcessor(PilBackend):
    """Turns pairs of images into `pixel_values` (batch, 2, 3, H, W): before, then after.

    The images are read as `ImageSource` says and resized by Pillow. A uint8 array or tensor (batch, 2, 3, H, W) of the
    model's size skips that: it is rescaled and normalised as a whole, on the device where it lies.
    """

    valid_kwargs = CCExpertImagesKwargs
    model_input_names = ["pixel_values"]  # noqa: RUF012 (transformers' way)

    do_resize = True
    size = {"height": 384, "width": 384}  # noqa: RUF012
    default_to_square = True
    resample = PILImageResampling.BICUBIC
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    value_range = None
    uint16_max = 65535
    max_image_pixels = 8192 * 8192  # below the size at which Pillow starts to warn
    size_tolerance = 0.01

    def __init__(self, **kwargs: Any):
        super().__init__(**reading_settings(kwargs))

    def set_value_range(self, value_range: Sequence[float] | None) -> None:
        """Sets `value_range` for good: it is saved with the processor.

        Raises:
            ValueError: It is no range.
        """
        for name, value in reading_settings({"value_range": value_range}).items():
            setattr(self, name, value)

    def preprocess(
        self, images: Any, pair_ids: Sequence[str] | None = None, return_notes: bool = False, **kwargs: Any
    ) -> BatchFeature:
        """Prepares a batch, all of it or nothing.

        Args:
            images: A list of pairs `[before, after]`; or one such pair (a list of two images is one pair: images
                without a pair mean nothing here); or an array (batch, 2, C, H, W) or (2, C, H, W).
            pair_ids: Names of the pairs for errors and notes; their index is used otherwise.
            return_notes: Adds `notes`, a list of `{"pair": ..., "index": ..., "message": ...}` that tells which pairs
                had images of different sizes, of several pages, or with values that use little of the range they were
                read with. It never becomes a tensor and is no model input.
            **kwargs: Any setting of the processor, for this call. With `do_rescale=False, do_normalize=False` uint8
                images stay uint8. `return_tensors`: "pt" or "np"; arrays where absent.

        Returns:
            `pixel_values` (batch, 2, 3, H, W).

        Raises:
            PairError: An image is missing, unreadable, too large, of a wrong type, range or number of channels, or the
                aspect ratios within a pair differ by more than `size_tolerance`.
            ValueError: A setting is wrong, or the numbers of pairs and ids differ.
        """
        unknown = sorted(set(kwargs) - _SETTINGS - {"return_tensors"})
        if unknown:
            raise TypeError(
                f"{', '.join(unknown)}: no setting of this processor; there are {', '.join(sorted(_SETTINGS))}"
            )
        kwargs = reading_settings(kwargs, call=True)
        return super().preprocess(images, pair_ids, return_notes, **kwargs)

    def _preprocess_image_like_inputs(  # type: ignore[override]  # narrower: the settings are complete here
        self,
        images: Any,
        pair_ids: Sequence[str] | None = None,
        return_notes: bool = False,
        *,
        size: Any,
        do_resize: bool,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: Any,
        image_std: Any,
        return_tensors: Any = None,
        **settings: Any,
    ) -> BatchFeature:
        if size is None or not (size.height and size.width):
            raise ValueError('size must be {"height": ..., "width": ...}')
        target = (size.height, size.width) if do_resize else None
        reader = PairReader(target, do_rescale, {**settings, "num_channels": 3})
        pixel_values, _, _ = reader.read_batch(images, None, pair_ids)
        factor = rescale_factor if do_rescale else None
        mean_std = (image_mean, image_std) if do_normalize else None
        pixels: Any = rescale_and_normalize(pixel_values, factor, mean_std, "image")
        if return_tensors is None or str(getattr(return_tensors, "value", return_tensors)) == "np":
            pixels = pixels.cpu().numpy()
        data: dict[str, Any] = {"pixel_values": pixels}
        if return_notes:
            data["notes"] = reader.notes
        elif reader.notes:
            logger.warning_once(
                "Some pairs were read with a note, as that their images differ in size (resolution mismatch) or use "
                "little of their range of values: return_notes=True tells which."
            )
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["notes"])


CCExpertImageProcessor.register_for_auto_class("AutoImageProcessor")
