"""Cards of models and data sets, rendered from what was measured."""

from rscc_hf.hub.cards.model import render_model_card, write_model_card

__all__ = ["render_model_card", "write_model_card"]
