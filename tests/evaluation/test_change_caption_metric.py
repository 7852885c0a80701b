"""The scores behind the interface of the `evaluate` package."""

from pathlib import Path

import evaluate
import pytest

from rscc_hf.evaluation import SCORE_KEYS, ChangeCaptionScorer, Report, change_caption_metric
from rscc_hf.evaluation.change_caption_metric import ChangeCaptionMetric

Captions = tuple[list[str], list[list[str]]]


@pytest.fixture
def both(scorer: ChangeCaptionScorer) -> dict[str, ChangeCaptionScorer]:
    """A scorer for each protocol; they share the one METEOR process of the tests."""
    ids = ChangeCaptionScorer("rsicc_ids")
    ids.meteor = scorer.meteor
    return {"words": scorer, "rsicc_ids": ids}


@pytest.mark.parametrize("protocol", ["words", "rsicc_ids"])
def test_batches_are_gathered_and_scored_once(
    tmp_path: Path, captions: Captions, both: dict[str, ChangeCaptionScorer], protocol: str
) -> None:
    predictions, references = captions
    metric = ChangeCaptionMetric(protocol, cache_dir=str(tmp_path))
    metric._scorer = both[protocol]
    for start in (0, 3, 6):
        stop = min(start + 3, 7)
        metric.add_batch(predictions=predictions[start:stop], references=references[start:stop])
    metric.add(prediction=predictions[7], reference=references[7])
    result = metric.compute(baseline=True)
    report = both[protocol].score(predictions, references)
    assert report.baseline is not None
    assert report.changed is not None
    assert {key: result[key] for key in SCORE_KEYS} == pytest.approx(report.all)
    assert {key: result[f"changed_{key}"] for key in SCORE_KEYS} == pytest.approx(report.changed)
    assert result["constant_s_m"] == pytest.approx(report.baseline["s_m"])
    assert result["constant_caption"] == report.baseline["caption"]
    assert result["accuracy_changed"] == report.accuracy["changed"]


def test_it_scores_by_its_protocol_and_keeps_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Recorder:
        def __init__(self, protocol: str) -> None:
            made.append(protocol)

        def score(self, predictions: list[str], *args: object, **options: object) -> Report:
            return Report({"s_m": 1.0 * len(predictions)}, None, None, None, {}, "rsicc_ids", 1, 1, 0, 0, {})

    monkeypatch.setattr(change_caption_metric, "ChangeCaptionScorer", Recorder)
    metric = ChangeCaptionMetric("rsicc_ids", cache_dir=str(tmp_path))
    assert metric.compute(predictions=["a"], references=[["b"]]) == {"s_m": 1.0}
    assert metric.compute(predictions=["a", "c"], references=[["b"], ["d"]]) == {"s_m": 2.0}  # nothing is left over
    assert made == ["rsicc_ids"]


def test_it_loads_from_its_file_without_the_hub(
    tmp_path: Path, captions: Captions, scorer: ChangeCaptionScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    metric = evaluate.load(change_caption_metric.__file__, cache_dir=str(tmp_path))
    metric._scorer = scorer
    result = metric.compute(predictions=captions[0][:5], references=captions[1][:5])
    assert result["bleu_1"] == pytest.approx(result["changed_bleu_1"])
    assert not any(key.startswith(("unchanged_", "constant_")) for key in result)


def test_bad_requests_are_refused(tmp_path: Path, captions: Captions) -> None:
    with pytest.raises(ValueError, match="words, rsicc_ids"):
        ChangeCaptionMetric("ptb", cache_dir=str(tmp_path))
    metric = ChangeCaptionMetric(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="no argument 'bootstraps'"):
        metric.compute(predictions=captions[0], references=captions[1], bootstraps=3)
