"""One METEOR process for all tests of the scores; made-up captions in the manner of the field."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rscc_hf.data.captions import NO_CHANGE_TEMPLATES
from rscc_hf.evaluation import ChangeCaptionScorer, Meteor

CHANGED = [
    ("a road is built", ["a new road is built", "a road appears in the forest", "some trees give way to a road"]),
    ("many houses appear along the road", ["many houses are built along the road", "rows of villas appear"]),
    (
        "a lake dries up",
        ["the lake in the corner has dried up", "a lake disappears", "the water is gone"],
    ),
    ("the scene is the same as before", ["a parking lot replaces the meadow", "cars are parked on a new parking lot"]),
    ("a large building is constructed on the bare land", ["a large building is constructed on the bare land"]),
]
UNCHANGED = [
    ("the scene is the same as before", list(NO_CHANGE_TEMPLATES)),
    ("there is no difference", list(NO_CHANGE_TEMPLATES)),
    ("a house is built", list(NO_CHANGE_TEMPLATES)),
]


@pytest.fixture(scope="session")
def scorer() -> Iterator[ChangeCaptionScorer]:
    with ChangeCaptionScorer() as scorer:
        yield scorer


@pytest.fixture(scope="session")
def meteor(scorer: ChangeCaptionScorer) -> Meteor:
    return scorer.meteor


@pytest.fixture
def captions() -> tuple[list[str], list[list[str]]]:
    """Predictions and references of five changed pairs and then three unchanged ones."""
    pairs = CHANGED + UNCHANGED
    return [prediction for prediction, _ in pairs], [list(references) for _, references in pairs]


@pytest.fixture(scope="session")
def published_predictions() -> Path:
    path = Path(__file__).resolve().parents[2] / "../shared/samples/ccexpert_7b_levir_cc_test.jsonl"
    if not path.is_file():
        pytest.skip("the CCExpert authors' predictions are not beside this checkout")
    return path
