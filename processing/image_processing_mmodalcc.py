"""Image processor of MModalCC: pairs of images, and of semantic maps, into one tensor each.

Preprocessing of the release: 256x256, bilinear, divided by 255, no mean and standard deviation; white in semantic maps
becomes black before resizing (arXiv 2501.10075; github.com/ChangeCapsInRS/SecondCC, no licence stated; nothing is
copied from it). New models normalise RGB by ImageNet's statistics, which their backbones were trained with.
"""

from collections.abc import Sequence
from typing import Any

from transformers.image_processing_backends import PilBackend
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

# All are named here so that they travel with this file: see `processing_mmodalcc.py`.
from .change_pair_files import open_page as open_page
from .change_pair_images import PairError as PairError
from .change_pair_reader import PairReader, rescale_and_normalize
from .change_pair_values import reading_settings
from .change_pair_web import read_address as read_address

logger = logging.get_logger(__name__)


class MModalCCImagesKwargs(ImagesKwargs, total=False):
    """Settings of `MModalCCImageProcessor` beyond transformers' own; each can be given at construction and per call.

    Attributes:
        semantic_resample: Filter of `PIL.Image.Resampling` for semantic maps: 2 bilinear (the release), 0 nearest.
        semantic_mean: Mean of each channel of the maps after rescaling; None: not normalised (the release).
        semantic_std: Standard deviation of each channel of the maps, given together with `semantic_mean`.
        white_to_void: White pixels of 3-channel maps become black before resizing.
        num_channels: Channels of an image.
        semantic_num_channels: Channels of a semantic map.
        value_range: The values that become black and white in images of more than 8 bits, for example (0, 4095) for
            12 bits and (0, 10000) for reflectances; None: what the type says (16 bits 0..65535, floats 0..1). It is
            the same for all images, so that both dates of a pair are treated alike. 8 bits are taken as they are.
        uint16_max: `value_range` of older checkpoints, for 16 bits alone: the value that becomes 255.
        max_image_pixels: Largest accepted height x width of one image or map.
        size_tolerance: Largest relative difference of aspect ratios within a pair.
    """

    semantic_resample: int | None
    semantic_mean: float | list[float] | tuple[float, ...] | None
    semantic_std: float | list[float] | tuple[float, ...] | None
    white_to_void: bool | None
    num_channels: int | None
    semantic_num_channels: int | None
    value_range: list[int | float] | tuple[int | float, ...] | None
    uint16_max: int | None
    max_image_pixels: int | None
    size_tolerance: float | None


# Of transformers' settings the ones that mean something here; cropping, padding or another layout would break a pair.
_SETTINGS = {"do_resize", "size", "default_to_square", "resample", "do_rescale", "rescale_factor", "do_normalize"}
_SETTINGS |= {"image_mean", "image_std"} | (
    set(MModalCCImagesKwargs.__annotations__) - set(ImagesKwargs.__annotations__)
)


class MModalCCImageProcessor(PilBackend):
    """Turns pairs of images and of semantic maps into `pixel_values` and `semantic_values`, (batch, 2, C, H, W) each.

    The images are read as `ImageSource` says and resized by Pillow. A uint8 array or tensor (batch, 2, C, H, W) of the
    model's size skips that: it is rescaled and normalised as a whole, on the device where it lies.
    """

    valid_kwargs = MModalCCImagesKwargs
    model_input_names = ["pixel_values", "semantic_values", "semantic_present"]  # noqa: RUF012 (transformers' way)

    do_resize = True
    size = {"height": 256, "width": 256}  # noqa: RUF012
    default_to_square = True
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    semantic_resample = int(PILImageResampling.BILINEAR)
    semantic_mean = None
    semantic_std = None
    white_to_void = True
    num_channels = 3
    semantic_num_channels = 3
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
        self,
        images: Any,
        semantic_maps: Any = None,
        pair_ids: Sequence[str] | None = None,
        return_notes: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepares a batch, all of it or nothing.

        Args:
            images: A list of pairs `[before, after]`; or one such pair (a list of two images is one pair: images
                without a pair mean nothing here); or an array (batch, 2, C, H, W) or (2, C, H, W).
            semantic_maps: As `images`, with None in place of a pair that has no maps. Its colours are fed as they are.
            pair_ids: Names of the pairs for errors and notes; their index is used otherwise.
            return_notes: Adds `notes`, a list of `{"pair": ..., "index": ..., "message": ...}` that tells which pairs
                had images of different sizes, of several pages, or with values that use little of the range they were
                read with. It never becomes a tensor and is no model input.
            **kwargs: Any setting of the processor, for this call. With `do_rescale=False, do_normalize=False` uint8
                images stay uint8. `return_tensors`: "pt" or "np"; arrays where absent.

        Returns:
            `pixel_values` (batch, 2, C, H, W); where maps were given also `semantic_values`, zeros for a pair without
            maps, and `semantic_present` (batch,) bool.

        Raises:
            PairError: An image or map is missing, unreadable, too large, of a wrong type, range or number of channels,
                or the aspect ratios within a pair differ by more than `size_tolerance`.
            ValueError: A setting is wrong, or the numbers of pairs, maps and ids differ.
        """
        unknown = sorted(set(kwargs) - _SETTINGS - {"return_tensors"})
        if unknown:
            raise TypeError(
                f"{', '.join(unknown)}: no setting of this processor; there are {', '.join(sorted(_SETTINGS))}"
            )
        kwargs = reading_settings(kwargs, call=True)
        return super().preprocess(images, semantic_maps, pair_ids, return_notes, **kwargs)

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

    def _preprocess_image_like_inputs(  # type: ignore[override]  # narrower: the settings are complete here
        self,
        images: Any,
        semantic_maps: Any = None,
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
        if (settings["semantic_mean"] is None) != (settings["semantic_std"] is None):
            raise ValueError("semantic_mean and semantic_std must be given together")
        if size is None or not (size.height and size.width):
            raise ValueError('size must be {"height": ..., "width": ...}')
        reader = PairReader((size.height, size.width) if do_resize else None, do_rescale, settings)
        pixel_values, semantic_values, present = reader.read_batch(images, semantic_maps, pair_ids)

        factor = rescale_factor if do_rescale else None
        mean_std = (image_mean, image_std) if do_normalize else None
        data: dict[str, Any] = {"pixel_values": rescale_and_normalize(pixel_values, factor, mean_std, "image")}
        if semantic_values is not None:
            statistics = (settings["semantic_mean"], settings["semantic_std"])
            mean_std = statistics if do_normalize and statistics[0] is not None else None
            values = rescale_and_normalize(semantic_values, factor, mean_std, "semantic")
            if not present.all():
                values[~present.to(values.device)] = 0  # normalising has made something else of the zeros
            data |= {"semantic_values": values, "semantic_present": present}
        if return_tensors is None or str(getattr(return_tensors, "value", return_tensors)) == "np":
            data = {name: tensor.cpu().numpy() for name, tensor in data.items()}
        if return_notes:
            data["notes"] = reader.notes
        elif reader.notes:
            logger.warning_once(
                "Some pairs were read with a note, as that their images differ in size (resolution mismatch) or use "
                "little of their range of values: return_notes=True tells which."
            )
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["notes"])


MModalCCImageProcessor.register_for_auto_class("AutoImageProcessor")
