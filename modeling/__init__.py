"""What ships beside the weights: configurations and models."""

from .configuration_ccexpert import CCExpertConfig
from .configuration_mmodalcc import MModalCCConfig
from .modeling_ccexpert import (
    CCExpertForConditionalGeneration,
    CCExpertImageOutput,
    CCExpertOutput,
    CCExpertPreTrainedModel,
)
from .modeling_mmodalcc import (
    MModalCCEncoderOutput,
    MModalCCExplanation,
    MModalCCForConditionalGeneration,
    MModalCCOutput,
    MModalCCPreTrainedModel,
    load_backbone_weights,
)

__all__ = [
    "CCExpertConfig",
    "CCExpertForConditionalGeneration",
    "CCExpertImageOutput",
    "CCExpertOutput",
    "CCExpertPreTrainedModel",
    "MModalCCConfig",
    "MModalCCEncoderOutput",
    "MModalCCExplanation",
    "MModalCCForConditionalGeneration",
    "MModalCCOutput",
    "MModalCCPreTrainedModel",
    "load_backbone_weights",
]
