"""What ships beside the weights: configurations and models."""

from .configuration_mmodalcc import MModalCCConfig
from .modeling_mmodalcc import (
    MModalCCEncoderOutput,
    MModalCCExplanation,
    MModalCCForConditionalGeneration,
    MModalCCOutput,
    MModalCCPreTrainedModel,
    load_backbone_weights,
)

__all__ = [
    "MModalCCConfig",
    "MModalCCEncoderOutput",
    "MModalCCExplanation",
    "MModalCCForConditionalGeneration",
    "MModalCCOutput",
    "MModalCCPreTrainedModel",
    "load_backbone_weights",
]
