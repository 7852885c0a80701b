"""Scores of change captions: metrics, protocols, baselines, the report."""

from rscc_hf.errors import MeteorError, PredictionsError
from rscc_hf.evaluation.baselines import best_constant, leave_one_out
from rscc_hf.evaluation.corpus import corpus_scores
from rscc_hf.evaluation.meteor import Meteor, find_java
from rscc_hf.evaluation.predictions import read_predictions
from rscc_hf.evaluation.protocols import PROTOCOLS
from rscc_hf.evaluation.report import Report, render_table, write_json
from rscc_hf.evaluation.scorer import ChangeCaptionScorer, evaluate_file
from rscc_hf.evaluation.scores import SCORE_KEYS

__all__ = [
    "PROTOCOLS",
    "SCORE_KEYS",
    "ChangeCaptionScorer",
    "Meteor",
    "MeteorError",
    "PredictionsError",
    "Report",
    "best_constant",
    "corpus_scores",
    "evaluate_file",
    "find_java",
    "leave_one_out",
    "read_predictions",
    "render_table",
    "write_json",
]
