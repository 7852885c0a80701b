"""rscc_hf: remote-sensing change captioning, the Hugging Face way.

Importing the package makes its checkpoints load through transformers' Auto classes without `trust_remote_code`.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import rscc_hf.links  # noqa: F401  (before what the links lead to)

# isort: split
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

# transformers before 5.18 hides this class at its top level where torchvision is absent, though it needs none
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from rscc_hf.modeling import (
    CCExpertConfig,
    CCExpertForConditionalGeneration,
    MModalCCConfig,
    MModalCCForConditionalGeneration,
)
from rscc_hf.pair import Caption, Pair
from rscc_hf.processing.image_processing_ccexpert import CCExpertImageProcessor
from rscc_hf.processing.image_processing_mmodalcc import MModalCCImageProcessor
from rscc_hf.processing.pipeline_change_captioning import ChangeCaptioningPipeline
from rscc_hf.processing.processing_ccexpert import CCExpertProcessor
from rscc_hf.processing.processing_mmodalcc import MModalCCProcessor

if TYPE_CHECKING:
    from rscc_hf.inference.captioner import ChangeCaptioner

try:
    __version__ = version("rscc_hf")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

AutoConfig.register("ccexpert", CCExpertConfig, exist_ok=True)
AutoModel.register(CCExpertConfig, CCExpertForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(CCExpertConfig, CCExpertForConditionalGeneration, exist_ok=True)
AutoProcessor.register(CCExpertConfig, CCExpertProcessor, exist_ok=True)
AutoImageProcessor.register(CCExpertConfig, image_processor_classes={"pil": CCExpertImageProcessor}, exist_ok=True)

AutoConfig.register("mmodalcc", MModalCCConfig, exist_ok=True)
AutoModel.register(MModalCCConfig, MModalCCForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(MModalCCConfig, MModalCCForConditionalGeneration, exist_ok=True)
AutoProcessor.register(MModalCCConfig, MModalCCProcessor, exist_ok=True)
AutoImageProcessor.register(MModalCCConfig, image_processor_classes={"pil": MModalCCImageProcessor}, exist_ok=True)

PIPELINE_REGISTRY.register_pipeline(
    "change-captioning",
    pipeline_class=ChangeCaptioningPipeline,
    pt_model=AutoModelForImageTextToText,
    type="multimodal",
)

# imported on first use: they need more than a model does
_LAZY = {
    "ChangeCaptioner": "rscc_hf.inference.captioner",
}


def __getattr__(name: str) -> Any:
    """Import what `_LAZY` names."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


__all__ = [
    "CCExpertConfig",
    "CCExpertForConditionalGeneration",
    "CCExpertImageProcessor",
    "CCExpertProcessor",
    "Caption",
    "ChangeCaptioner",
    "ChangeCaptioningPipeline",
    "MModalCCConfig",
    "MModalCCForConditionalGeneration",
    "MModalCCImageProcessor",
    "MModalCCProcessor",
    "Pair",
    "__version__",
]
