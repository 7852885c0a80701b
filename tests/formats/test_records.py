"""What the package leaves is read as it was written, and what is damaged is one sentence."""

import json
from pathlib import Path

import pytest

from rscc_hf.errors import InputError
from rscc_hf.formats.recipes import RECIPE, read_settings
from rscc_hf.formats.records import AdapterBase, Conversion, Evaluation, Source
from rscc_hf.formats.training import LogLine, TrainingSummary, read_log

SUMMARY = TrainingSummary("toy", "pairs", "train", True, {"train_data": False, "init_from": True}, "v1")
LINES = [
    LogLine(10, 0, loss=1.5, learning_rates={"encoder": 1e-4, "decoder": 1e-3}, seconds=2.5),
    LogLine(10, 0, improved=True, validation={"s_m": 20.0}),
]
BASE = AdapterBase("/data/stage1", "../stage1", None, "ccexpert", "4f", "none", "float32")
EVALUATION = Evaluation("toy", "test", {"all": {}}, "0123abc", maps=True, settings={"num_beams": 2})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    SUMMARY.write(tmp_path)
    assert TrainingSummary.read(tmp_path / TrainingSummary.NAME) == SUMMARY
    assert list(json.loads((tmp_path / TrainingSummary.NAME).read_text())) == [
        *("trained_on", "data", "split", "synthesized", "data_is_local", "init_from_is_local", "data_revision")
    ]
    (tmp_path / LogLine.NAME).write_text("".join(line.text() for line in LINES))
    assert read_log(tmp_path) == LINES
    assert list(json.loads(LINES[0].text())) == [
        *("step", "epoch", "loss", "learning_rate/encoder", "learning_rate/decoder", "seconds")
    ]
    BASE.write(tmp_path)
    assert AdapterBase.read(tmp_path) == BASE
    assert Evaluation.parse(EVALUATION.text(), "here") == EVALUATION
    told = {"converter": "rscc convert mmodalcc", "dropped": ["a.b"], "seed": None}
    Conversion.write(tmp_path, told, [Source("a.bin", "ab", 7)])
    assert Conversion.read(tmp_path) == Conversion(
        converter="rscc convert mmodalcc", dropped=["a.b"], sources=[Source("a.bin", "ab", 7)]
    )
    with pytest.raises(TypeError, match="convertor"):
        Conversion.write(tmp_path, {"convertor": "x"}, [])


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (TrainingSummary.NAME, "[1]", "is no JSON object with fields but a list; remove it or write it again"),
        (TrainingSummary.NAME, '{"split": "a", "split": "b"}', "has the field `split` twice; keep one"),
        (TrainingSummary.NAME, '{"split": 1}', "`split` must be text; remove it"),
        (TrainingSummary.NAME, '{"data_is_local": "yes"}', "data_is_local: `value` must be true or false"),
        (
            LogLine.NAME,
            '{"step": 1, "epoch": 0}\n{"step": 1.5, "epoch": 0}\n',
            "line 2: `step` must be a whole number",
        ),
        (LogLine.NAME, '{"step": 1}\n', "line 1 has no field `epoch`; remove the line"),
        (AdapterBase.NAME, '{"path": 3}', "is damaged: it: `path` must be text; put back"),
        (Conversion.NAME, '{"sources": [{"name": "a"}]}', "sources has no field `sha256`; convert"),
        (RECIPE, "seed: 1\nseed: 2\n", "is no YAML (seed stands in line 1 and in line 2"),
        (RECIPE, "- 1\n", "is no list of `key: value` lines"),
    ],
)
def test_what_is_damaged_is_one_sentence(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    readers = {
        TrainingSummary.NAME: lambda: TrainingSummary.read(tmp_path / name),
        LogLine.NAME: lambda: read_log(tmp_path),
        AdapterBase.NAME: lambda: AdapterBase.read(tmp_path),
        Conversion.NAME: lambda: Conversion.read(tmp_path),
        RECIPE: lambda: read_settings(tmp_path),
    }
    with pytest.raises(InputError) as caught:
        readers[name]()
    sentence = str(caught.value)
    assert sentence.startswith(str(tmp_path / name)) and said in sentence and sentence.endswith(".")


def test_an_evaluation_with_a_field_that_nobody_knows_is_refused() -> None:
    with pytest.raises(InputError, match=r"^here has the field `score`, which is not known; remove it\.$"):
        Evaluation.parse('{"dataset": "a", "split": "b", "report": {}, "fingerprint": "c", "score": 1}', "here")
