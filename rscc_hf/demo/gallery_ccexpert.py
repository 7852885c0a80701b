"""What the page of CCExpert's demo shows of a test pair: gates, and change features as a heat map on both images."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image

from rscc_hf.demo.report import data_uri, judged
from rscc_hf.inference.captioner import ChangeCaptioner

#: Opacity of the strongest change on an image.
_OPACITY = 0.75
_CLOSED = 0.01


def change_strength(captioner: ChangeCaptioner, pairs: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return how much the module sees change where, and the gates of its levels.

    Args:
        captioner: With a CCExpert that has its module.
        pairs: Rows of the schema.

    Returns:
        Lengths of the change features, after the median over all patches of all pairs was taken off,
        (pairs, side, side); and the gates (pairs, levels), each in 0..1.
    """
    images = [[pair["image_before"], pair["image_after"]] for pair in pairs]
    inputs = captioner.processor.image_processor(images, return_tensors="pt").to(captioner.model.device)
    with torch.inference_mode():
        output = captioner.model.get_image_features(inputs["pixel_values"], output_change_features=True)
    features = output.change_features.float()
    # where nothing changes, the features are all alike: what is left without their median tells changes
    usual = features.flatten(0, 1).median(dim=0).values
    strength = (features - usual).norm(dim=-1)
    side = round(strength.shape[1] ** 0.5)
    return strength.unflatten(1, (side, side)).cpu().numpy(), output.gates.float().cpu().numpy()


def heat_map(image: Image.Image, strength: np.ndarray) -> Image.Image:
    """Return the image, greyed, with the strength of change in colour over it.

    Args:
        image: RGB.
        strength: (side, side) in 0..1.
    """
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32) / 255
    field = Image.fromarray(strength.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    smooth = np.clip(np.asarray(field), 0, 1)
    colour = colormaps["inferno"](smooth)[..., :3]
    opacity = _OPACITY * smooth[..., None]
    mixed = (1 - opacity) * (0.35 + 0.65 * grey) + opacity * colour
    return Image.fromarray((255 * mixed).round().astype(np.uint8))


def gallery_entries(
    captioner: ChangeCaptioner, pairs: list[dict[str, Any]], captions: list[str], without_module: list[str]
) -> list[dict[str, Any]]:
    """Return what the template shows of these test pairs.

    Args:
        captioner: With the model of stage III.
        pairs: Rows of the schema.
        captions: Its captions of them.
        without_module: Those of stage 0, where the module is off.
    """
    strengths, gates = change_strength(captioner, pairs)
    low, high = np.quantile(strengths, (0.05, 0.995))  # one scale for all pairs, so that they compare
    scaled = np.clip((strengths - low) / max(high - low, 1e-9), 0, 1)
    levels = captioner.model.config.used_levels
    entries = []
    for number, pair in enumerate(pairs):
        before, after = pair["image_before"], pair["image_after"]
        images = [
            ("before", before),
            ("after", after),
            ("change features on before", heat_map(before, scaled[number])),
            ("change features on after", heat_map(after, scaled[number])),
        ]
        entries.append(
            {
                **judged(pair, captions[number]),
                "images": [(label, data_uri(image)) for label, image in images],
                "caption_without_module": without_module[number],
                "gates": [
                    (f"level {level}", float(value)) for level, value in zip(levels, gates[number], strict=True)
                ],
            }
        )
    return entries


def closed_levels(entries: list[dict[str, Any]]) -> list[str]:
    """Return the names of the levels whose gate is next to 0 for all of these pairs."""
    names = [name for name, _ in entries[0]["gates"]]
    return [name for place, name in enumerate(names) if max(entry["gates"][place][1] for entry in entries) < _CLOSED]
