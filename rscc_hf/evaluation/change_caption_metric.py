"""The scores as a metric of the `evaluate` package, for code that speaks its interface; needs no Hub.

    metric = ChangeCaptionMetric()                      # or config_name="rsicc_ids"
    metric.add_batch(predictions=captions, references=lists_of_references)
    metric.compute()["s_m"]

`evaluate.load("path/to/change_caption_metric.py")` works too. Batches are gathered before anything is scored, also
over processes (`num_process`, `process_id`): CIDEr-D of a share of a set means nothing.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from rscc_hf.errors import InputError
from rscc_hf.evaluation.protocols import PROTOCOLS
from rscc_hf.evaluation.scorer import ChangeCaptionScorer
from rscc_hf.evaluation.scores import SCORE_KEYS, flat_accuracy

_CITATION = """\
@inproceedings{denkowski2014meteor, title={Meteor Universal}, author={Denkowski, Michael and Lavie, Alon}, year={2014}}
@inproceedings{vedantam2015cider, title={CIDEr}, author={Vedantam, Ramakrishna and others}, year={2015}}
"""

_INPUTS = """
Args:
    predictions (list of str): one caption a pair.
    references (list of list of str): at least one reference a pair; the numbers may differ.
    changed (list of bool, optional, to `compute`): whether each pair is a changed one, in the order of the pairs; by
        default a pair is unchanged when all of its references say that nothing changed.
    baseline (bool, to `compute`): also score the best constant caption; False by default.
Returns:
    bleu_1 ... bleu_4, meteor, rouge_l, cider_d, s_m of the whole set, times 100; the same with `changed_` and
    `unchanged_` before the name for the parts that have pairs; `accuracy_changed`, `accuracy_unchanged`; with
    `baseline` the eight with `constant_` before the name and the `constant_caption`.
"""


class ChangeCaptionMetric(evaluate.Metric):
    """`ChangeCaptionScorer` behind the interface of `evaluate.Metric`; the configuration's name is the protocol."""

    config_name: str
    _scorer: ChangeCaptionScorer | None = None  # kept, METEOR's process too: `compute` may run every epoch

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name == "default":
            self.config_name = PROTOCOLS[0]
        if self.config_name not in PROTOCOLS:
            raise InputError(f"There is no protocol {self.config_name!r}; choose one of {', '.join(PROTOCOLS)}.")
        return evaluate.MetricInfo(
            description="Scores of change captions: BLEU, METEOR, ROUGE-L, CIDEr-D and their mean S*m.",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}
            ),
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        changed: Sequence[bool] | None = None,
        baseline: bool = False,
        **unknown: Any,
    ) -> dict[str, float | str]:
        if unknown:
            raise InputError(f"`compute` has no argument {', '.join(map(repr, unknown))}; see the metric's inputs.")
        if self._scorer is None:
            self._scorer = ChangeCaptionScorer(self.config_name)
        report = self._scorer.score(predictions, references, changed, baseline=baseline)
        result: dict[str, float | str] = {}
        for prefix, scores in (("", report.all), ("changed_", report.changed), ("unchanged_", report.unchanged)):
            result |= {f"{prefix}{key}": value for key, value in (scores or {}).items()}
        result |= flat_accuracy(report.accuracy)
        if report.baseline is not None:
            result |= {f"constant_{key}": report.baseline[key] for key in (*SCORE_KEYS, "caption")}
        return result
