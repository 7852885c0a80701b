"""Base of the image processors: pairs of images, and of semantic maps, are read, and what was read is normalised."""

from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub.dataclasses import validate_typed_dict
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_base import BatchFeature
from transformers.processing_utils import ImagesKwargs
from transformers.utils import logging

from .change_pair_reader import PairPixels, PairReader
from .change_pair_values import reading_settings

logger = logging.get_logger(__name__)

# Of transformers' settings the ones that mean something here; cropping, padding or another layout would break a pair.
_SETTINGS = {"do_resize", "size", "default_to_square", "resample", "do_rescale", "rescale_factor", "do_normalize"}
_SETTINGS |= {"image_mean", "image_std"}


class PairImagesKwargs(ImagesKwargs, total=False):
    """Settings of `PairImageProcessor` beyond transformers' own; each can be given at construction and per call.

    Attributes:
        value_range: The values that become black and white in images of more than 8 bits, for example (0, 4095) for
            12 bits and (0, 10000) for reflectances; None: what the type says (16 bits 0..65535, floats 0..1). It is
            the same for all images, so that both dates of a pair are treated alike. 8 bits are taken as they are.
        uint16_max: `value_range` of older checkpoints, for 16 bits alone: the value that becomes 255.
        max_image_pixels: Largest accepted height x width of one image or map.
        size_tolerance: Largest relative difference of aspect ratios within a pair.
    """

    value_range: list[int | float] | tuple[int | float, ...] | None
    uint16_max: int | None
    max_image_pixels: int | None
    size_tolerance: float | None


class PairImageProcessor(PilBackend):
    """Turns pairs into what a model takes: `read_pairs`, then `normalize_pairs`; a call is one after the other.

    The images are read as `ImageSource` says and resized by Pillow. A uint8 array or tensor (batch, 2, C, H, W) of the
    model's size skips that: it is rescaled and normalised as a whole, on the device where it lies.
    """

    valid_kwargs = PairImagesKwargs

    do_resize = True
    default_to_square = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    value_range = None
    uint16_max = 65535
    max_image_pixels = 8192 * 8192  # below the size at which Pillow starts to warn
    size_tolerance = 0.01

    def __init__(self, **kwargs: Any):
        super().__init__(**reading_settings(kwargs))

    def set_value_range(self, value_range: Sequence[float] | None) -> None:
        """Set `value_range` for good: it is saved with the processor.

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
        allow_web: bool = False,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare a batch, all of it or nothing.

        Args:
            images: See `read_pairs`, as for `semantic_maps`, `pair_ids` and `allow_web`.
            semantic_maps: Of a model that takes them.
            pair_ids: Names of the pairs.
            return_notes: Adds `notes`, those of `PairPixels`. They never become a tensor and are no model input.
            allow_web: Fetch images from https addresses.
            **kwargs: Any setting of the processor, for this call. With `do_rescale=False, do_normalize=False` uint8
                images stay uint8. `return_tensors`: "pt" or "np"; arrays where absent.

        Returns:
            What `normalize_pairs` gives.

        Raises:
            PairError: See `read_pairs`.
            ValueError: A setting is wrong, or the numbers of pairs, maps and ids differ.
        """
        pixels = self.read_pairs(images, semantic_maps, pair_ids, allow_web, **kwargs)
        data: dict[str, Any] = dict(self.normalize_pairs(pixels, **kwargs))
        return_tensors: Any = kwargs.get("return_tensors", getattr(self, "return_tensors", None))
        if return_tensors is None or str(getattr(return_tensors, "value", return_tensors)) == "np":
            data = {name: tensor.cpu().numpy() for name, tensor in data.items()}
        if return_notes:
            data["notes"] = pixels.notes
        elif pixels.notes:
            logger.warning_once(
                "Some pairs were read with a note, as that their images differ in size (resolution mismatch) or use "
                "little of their range of values: return_notes=True tells which."
            )
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["notes"])

    def read_pairs(
        self,
        images: Any,
        semantic_maps: Any = None,
        pair_ids: Sequence[str] | None = None,
        allow_web: bool = False,
        **kwargs: Any,
    ) -> PairPixels:
        """Read a batch of pairs into pixels of the model's size, all of it or nothing.

        Args:
            images: A list of pairs `[before, after]`; or one such pair (a list of two images is one pair: images
                without a pair mean nothing here); or an array (batch, 2, C, H, W) or (2, C, H, W).
            semantic_maps: As `images`, with None in place of a pair that has no maps. Its colours are fed as they are.
            pair_ids: Names of the pairs for errors and notes; their index is used otherwise.
            allow_web: Fetch images that are given by an https address, as `change_pair_web` says. It is of a call
                alone: no saved processor can ask for it.
            **kwargs: Any setting of the processor, for this call.

        Returns:
            uint8 pixels; float32 where `do_rescale` is off and the images are of floats.

        Raises:
            PairError: An image or map is missing, unreadable, too large, of a wrong type, range or number of channels,
                or the aspect ratios within a pair differ by more than `size_tolerance`.
            ValueError: A setting is wrong, or the numbers of pairs, maps and ids differ.
            TypeError: There is no such setting, or the model takes no maps.
        """
        settings = self._settings(kwargs)
        if semantic_maps is not None and "semantic_num_channels" not in settings:
            raise TypeError("semantic_maps: no setting of this processor, whose model takes no maps; leave them out.")
        return PairReader({"num_channels": 3, **settings}, allow_web).read_batch(images, semantic_maps, pair_ids)

    def normalize_pairs(self, pixels: PairPixels, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Rescale and normalise pixels of the model's size, on the device where they lie.

        Args:
            pixels: What `read_pairs` gave, or the same after an augmentation; they are left as they are.
            **kwargs: Any setting of the processor, for this call.

        Returns:
            `pixel_values` (batch, 2, C, H, W); where there are maps also `semantic_values`, zeros for a pair without,
            and `semantic_present` (batch,) bool.

        Raises:
            ValueError: A setting is wrong.
            TypeError: There is no such setting.
        """
        settings = self._settings(kwargs)
        data = {"pixel_values": _rescale_and_normalize(pixels.images, "image", settings)}
        if pixels.maps is not None:
            values = _rescale_and_normalize(pixels.maps, "semantic", settings)
            if not pixels.present.all():  # normalising has made something else of the zeros
                values = values.masked_fill(~pixels.present.to(values.device)[:, None, None, None, None], 0)
            data |= {"semantic_values": values, "semantic_present": pixels.present}
        return data

    def _settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return all settings of one call, as transformers' `preprocess` completes and checks those that are given."""
        kinds: Any = self.valid_kwargs
        known = _SETTINGS | (kinds.__annotations__.keys() - ImagesKwargs.__annotations__.keys())
        if unknown := sorted(given.keys() - known - {"return_tensors"}):
            raise TypeError(
                f"{', '.join(unknown)}: no setting of this processor; there are {', '.join(sorted(known))}."
            )
        given = reading_settings(given, call=True)
        validate_typed_dict(kinds, given)
        own = {name: getattr(self, name, None) for name in kinds.__annotations__}
        settings = self._standardize_kwargs(**(own | given))
        self._validate_preprocess_kwargs(**settings)
        return settings


def _rescale_and_normalize(values: torch.Tensor, stream: str, settings: dict[str, Any]) -> torch.Tensor:
    """Compute `(values * factor - mean) / std` in float32, for a whole batch at once.

    Args:
        values: (batch, 2, C, H, W) uint8 or float32.
        stream: "image" or "semantic": whose mean and standard deviation, a number or one a channel; None: not
            normalised.
        settings: Of the call. A `rescale_factor` of 1/255 divides by 255, which rounds as the release's division does.

    Returns:
        float32, or `values` itself where nothing is to be done.

    Raises:
        ValueError: The number of means or deviations is not the number of channels, or a deviation is not positive.
    """
    normalize = settings["do_normalize"] and settings[f"{stream}_mean"] is not None
    if not settings["do_rescale"] and not normalize:
        return values
    result = values.to(torch.float32, copy=True)
    if settings["do_rescale"]:
        factor = settings["rescale_factor"]
        inverse = 1 / factor
        if abs(inverse - round(inverse)) < 1e-9 * inverse:
            result.div_(round(inverse))
        else:
            result.mul_(factor)
    if normalize:
        channels = values.shape[2]
        statistics = []
        for name in (f"{stream}_mean", f"{stream}_std"):
            given = settings[name]
            numbers = [given] * channels if isinstance(given, int | float) else list(given or ())
            if len(numbers) != channels:
                raise ValueError(f"{name} has {len(numbers)} numbers for {channels} channels; give one for each.")
            statistics.append(torch.tensor(numbers, dtype=torch.float32, device=values.device).view(-1, 1, 1))
        if (statistics[1] <= 0).any():
            raise ValueError(f"{stream}_std must be positive; it divides each channel.")
        result.sub_(statistics[0]).div_(statistics[1])
    return result
