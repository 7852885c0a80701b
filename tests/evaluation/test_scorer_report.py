"""The scorer as its users call it, the file in and the report out."""

import io
import json
import os
import unicodedata
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
from pycocoevalcap.bleu import bleu_scorer
from pycocoevalcap.cider import cider_scorer
from rich.console import Console

from rscc_hf.errors import MeteorError, PredictionsError
from rscc_hf.evaluation import (
    SCORE_KEYS,
    ChangeCaptionScorer,
    Report,
    corpus_scores,
    evaluate_file,
    prepared,
    protocols,
    render_table,
    write_json,
)
from rscc_hf.evaluation import scorer as module

Captions = tuple[list[str], list[list[str]]]


def render(report: Report, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(render_table(report))
    return console.export_text()


def test_the_json_has_every_promised_key(scorer: ChangeCaptionScorer, captions: Captions) -> None:
    fields = scorer.score(*captions).to_dict()
    assert json.loads(json.dumps(fields)) == fields
    for part in ("all", "changed", "unchanged"):
        assert tuple(fields[part]) == SCORE_KEYS
    assert set(fields["baseline"]) == {*SCORE_KEYS, "caption", "changed", "unchanged"}
    assert set(fields["accuracy"]) == {"changed", "unchanged"}
    assert (fields["protocol"], fields["n"], fields["n_changed"], fields["n_unchanged"]) == ("words", 8, 5, 3)
    assert fields["versions"]["pycocoevalcap"].startswith("1.2")
    assert "version" in fields["versions"]["java"]
    assert fields["duplicates_dropped"] == 0
    assert "bootstrap" not in fields


def test_parts_and_baseline_are_sets_of_their_own(scorer: ChangeCaptionScorer, captions: Captions) -> None:
    predictions, references = captions
    report = scorer.score(predictions, references)
    assert report.all == pytest.approx(corpus_scores(predictions, references, scorer.meteor))
    assert report.changed == pytest.approx(corpus_scores(predictions[:5], references[:5], scorer.meteor))
    assert report.unchanged == pytest.approx(corpus_scores(predictions[5:], references[5:], scorer.meteor))
    assert report.baseline is not None
    constant = [report.baseline["caption"]] * 8
    assert {key: report.baseline[key] for key in SCORE_KEYS} == pytest.approx(
        corpus_scores(constant, references, scorer.meteor)
    )
    assert report.baseline["changed"] == pytest.approx(corpus_scores(constant[:5], references[:5], scorer.meteor))


def test_accuracy_counts_what_a_caption_says(scorer: ChangeCaptionScorer, captions: Captions) -> None:
    predictions, references = captions
    report = scorer.score(predictions, references, baseline=False)
    assert report.accuracy == {"changed": pytest.approx(80), "unchanged": pytest.approx(100 * 2 / 3)}
    assert report.baseline is None
    predictions = ["No change is occurred ." if p == "a house is built" else p for p in predictions]
    assert scorer.score(predictions, references, baseline=False).accuracy["unchanged"] == 100


def test_a_data_sets_own_no_change_sentence_counts(captions: Captions) -> None:
    predictions, references = captions
    with ChangeCaptionScorer(no_change_sentences=["A house is built"]) as scorer:
        report = scorer.score(predictions, references, baseline=False)
    assert report.accuracy["unchanged"] == 100


def test_an_empty_part_is_null(scorer: ChangeCaptionScorer, captions: Captions) -> None:
    predictions, references = captions
    report = scorer.score(predictions[:5], references[:5], bootstrap=20)
    fields = report.to_dict()
    assert fields["unchanged"] is None
    assert fields["accuracy"]["unchanged"] is None
    assert fields["baseline"]["unchanged"] is None
    assert fields["bootstrap"]["unchanged"] is None
    assert fields["all"] == fields["changed"]
    assert "none there" in render(report, 80)


def test_given_flags_win_over_the_references(scorer: ChangeCaptionScorer, captions: Captions) -> None:
    report = scorer.score(*captions, [True] * 8, baseline=False)
    assert (report.n_changed, report.n_unchanged) == (8, 0)


def test_repeats_by_pair_id(scorer: ChangeCaptionScorer, captions: Captions) -> None:
    predictions, references = captions
    ids = [f"p{i}" for i in range(8)]
    once = scorer.score(predictions, references, pair_ids=ids, baseline=False)
    padded = scorer.score([*predictions, predictions[0]], [*references, references[0]], pair_ids=[*ids, "p0"])
    assert padded.all == once.all
    assert (padded.n, padded.duplicates_dropped) == (8, 1)
    with pytest.raises(ValueError, match="Pair 'p0' is given twice, differently, at positions 1 and 9"):
        scorer.score([*predictions, "else"], [*references, references[0]], pair_ids=[*ids, "p0"])
    with pytest.raises(ValueError, match="Prediction number 8 has no pair id"):
        scorer.score(predictions, references, pair_ids=[*ids[:7], ""])
    with pytest.raises(ValueError, match="There are 1 pair ids for 8"):
        scorer.score(predictions, references, pair_ids=["p0"])
    with pytest.raises(ValueError, match="`changed` has 2 entries for 8"):
        scorer.score(predictions, references, [True, False])


def test_an_unknown_protocol_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="words, rsicc_ids"):
        ChangeCaptionScorer("ptb")


def test_a_missing_java_is_an_error_and_not_a_score(tmp_path: Path, captions: Captions) -> None:
    with ChangeCaptionScorer(java=tmp_path / "java") as scorer, pytest.raises(MeteorError, match="cannot be run"):
        scorer.score(*captions)


def write(folder: Path, captions: Captions, more: tuple[int, ...] = ()) -> Path:
    path = folder / "predictions.jsonl"
    rows = list(zip(*captions, strict=True))
    lines = [
        json.dumps({"uid": f"pair_{i}", "pred": rows[i][0], "change_caption": rows[i][1]})
        for i in [*range(len(rows)), *more]
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_file_is_scored_like_its_captions(
    tmp_path: Path, scorer: ChangeCaptionScorer, captions: Captions, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One METEOR process for all tests; the slow test below lets `evaluate_file` start its own.
    monkeypatch.setattr(module, "ChangeCaptionScorer", lambda *args, **options: nullcontext(scorer))
    report = evaluate_file(write(tmp_path, captions, more=(0, 6, 0)), bootstrap=10)
    expected = scorer.score(*captions, bootstrap=10).to_dict()
    assert report.to_dict() == {**expected, "duplicates_dropped": 3}


def test_a_set_is_prepared_once_whatever_is_asked_of_it(
    tmp_path: Path, scorer: ChangeCaptionScorer, captions: Captions, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()

    def count(owner: object, name: str) -> None:
        called = getattr(owner, name)

        def counted(*args: object, **options: object) -> object:
            calls[name] += 1
            return called(*args, **options)

        monkeypatch.setattr(owner, name, counted)

    count(prepared, "prepare")
    count(prepared, "_first_of_each")
    count(protocols, "normalise")
    count(bleu_scorer, "cook_refs")
    count(cider_scorer, "precook")
    monkeypatch.setattr(module, "ChangeCaptionScorer", lambda *args, **options: nullcontext(scorer))
    report = evaluate_file(write(tmp_path, captions), bootstrap=10)
    assert report.baseline and report.bootstrap
    predictions, references = captions
    lists = {tuple(texts) for texts in references}
    assert calls["prepare"] == 1 and calls["_first_of_each"] == 0  # the reader of the file has dropped repeats
    assert calls["normalise"] == len(predictions) + sum(map(len, references))
    assert calls["cook_refs"] == len(lists)  # three pairs share their references
    # of CIDEr-D: the references, the captions, and the best constant one said of every pair
    assert calls["precook"] == sum(map(len, lists)) + 2 * len(predictions)


def test_a_caption_that_cannot_be_scored_names_file_and_pair(tmp_path: Path, captions: Captions) -> None:
    predictions, references = captions
    predictions[3] = "word " * 2_000
    path = write(tmp_path, (predictions, references))
    with pytest.raises(PredictionsError, match=r"predictions\.jsonl: The prediction of pair 'pair_3' has 2,000 words"):
        evaluate_file(path)


def test_the_json_file_is_whole_or_not_there(
    tmp_path: Path, scorer: ChangeCaptionScorer, captions: Captions, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = scorer.score(*captions)
    path = tmp_path / "new" / "report.json"
    write_json(report, path)
    assert json.loads(path.read_text(encoding="utf-8")) == report.to_dict()
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    path.write_text("old", encoding="utf-8")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_json(report, path)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_says_what_is_needed(scorer: ChangeCaptionScorer, captions: Captions, width: int) -> None:
    report = scorer.score(*captions, bootstrap=10)
    text = render(report, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    for part in ("all", "changed", "unchanged", "best constant"):
        assert any(line.strip().startswith(part) for line in text.splitlines()), part
    for number in (report.all["s_m"], report.all["bleu_1"], report.all["cider_d"]):
        assert f"{number:.2f}" in text
    assert "…" not in text  # nothing was cut off
    assert "protocol words · 8 pairs: 5 changed, 3 unchanged" in text
    assert "changed 80.0 %, unchanged 66.7 %" in text
    assert report.baseline is not None
    assert report.baseline["caption"] in text


@pytest.mark.slow
def test_the_published_file_gives_the_published_row(published_predictions: Path) -> None:
    report = evaluate_file(published_predictions)
    row = [86.651, 78.473, 71.308, 65.482, 41.819, 76.541, 143.279, 81.780]
    assert [report.all[key] for key in SCORE_KEYS] == pytest.approx(row, abs=0.002)
    assert (report.n, report.duplicates_dropped) == (1929, 7)
    assert report.baseline is not None
    assert report.baseline["caption"] == "the scene is the same as before"
    assert report.baseline["s_m"] < report.all["s_m"]
    assert report.unchanged is not None
    assert report.unchanged["cider_d"] == 0


def test_the_scores_are_blind_to_the_unicode_form(scorer: ChangeCaptionScorer) -> None:
    text = "une maison est apparue près de la forêt"
    for form in ("NFC", "NFD"):
        report = scorer.score([unicodedata.normalize(form, text), "a road"], [[text], ["a road"]], baseline=False)
        assert report.all["bleu_4"] == pytest.approx(100, abs=1e-3)
        assert report.notes == []
    ids = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    assert scorer.score(["a", "a"], [["a"], ["a"]], pair_ids=ids, baseline=False).duplicates_dropped == 1


@pytest.mark.parametrize(
    ("predictions", "references", "changed", "note"),
    [
        (
            ["道路旁边出现了房屋", "x"],
            [["道路旁边出现了房子"], ["x"]],
            None,
            "Written without spaces between words, as “道路旁",
        ),
        (["", "x"], [["a road"], ["x"]], None, "Empty, so that they match nothing: 1 of 2 predictions"),
        (
            ["x", "x"],
            [["no change has occurred"], ["x"]],
            [True, True],
            "Marked as changed although all references say",
        ),
        (
            ["x", "x"],
            [["rien de neuf"], ["x"]],
            [False, True],
            "Marked as unchanged although no reference is",
        ),
        (["x", "x"], [["no change has occurred", "a road"], ["x"]], [False, True], None),
        (["x", "x"], [["no change has occurred"], ["a road"]], [False, True], None),
    ],
)
def test_what_makes_scores_doubtful_is_noted(
    scorer: ChangeCaptionScorer, predictions: list, references: list, changed: list | None, note: str | None
) -> None:
    report = scorer.score(predictions, references, changed, baseline=False)
    assert [text[: len(note or "")] for text in report.notes] == ([] if note is None else [note])
    assert report.to_dict().get("notes", []) == report.notes
    if note is not None:
        assert f"Note: {note}" in render(report, 200)


def test_validation_says_once_that_captions_have_no_spaces(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        corpus_scores(["x"], [["建筑物出现在道路旁边了"]], meteor=False)
    assert caplog.text.count("Written without spaces") == 1


def test_numbers_of_six_digits_fit_eighty_columns(scorer: ChangeCaptionScorer) -> None:
    report = scorer.score(["a new house", "the road is gone"], [["a new house"], ["the road is gone"]])
    text = render(report, 80)
    assert " 875.00 293.75" in text and "…" not in text
