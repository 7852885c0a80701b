"""The tower's training on land cover: its targets, what it moves, what it refuses."""

import numpy as np
import pytest
import torch
from toys.ccexpert_stages import save_start, stage_recipe
from toys.pairs import write_pairs

from rscc_hf import CCExpertForConditionalGeneration, CCExpertProcessor
from rscc_hf.data.palette import CLASS_NAMES, classes_to_colours
from rscc_hf.errors import RecipeError
from rscc_hf.training.aids.land_cover import LandCoverRecipe, class_shares, train_land_cover


def maps_of(classes: np.ndarray) -> torch.Tensor:
    """(n, 2, H, W) class numbers to (n, 2, 3, H, W) colours."""
    return torch.from_numpy(classes_to_colours(classes)).movedim(-1, 2).contiguous()


def test_shares_count_the_pixels_of_each_patch_row_by_row():
    classes = np.zeros((1, 2, 5, 5), dtype=np.uint8)  # patches of 2: the fifth row and column are left out
    classes[0, 0, :2, 2:4] = 5  # the patch on the right of the first row
    classes[0, 1, 2, 0] = 4  # a quarter of the first patch of the second row
    shares = class_shares(maps_of(classes), grid=2)
    assert shares.shape == (1, 2, 4, len(CLASS_NAMES))
    assert torch.equal(shares.sum(-1), torch.ones(1, 2, 4))
    assert shares[0, 0, :, 5].tolist() == [0, 1, 0, 0]
    assert shares[0, 1, :, 4].tolist() == [0, 0, 0.25, 0]


def test_a_colour_outside_of_the_palette_is_refused():
    maps = maps_of(np.zeros((1, 2, 4, 4), dtype=np.uint8))
    maps[0, 1, :, 3, 3] = 77
    with pytest.raises(ValueError, match="palette"):
        class_shares(maps, grid=2)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> str:
    return write_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> str:
    """A CCExpert without its module, as the recipe wants it."""
    folder = tmp_path_factory.mktemp("start")
    save_start(folder / "with")
    model = CCExpertForConditionalGeneration.from_pretrained(folder / "with")
    config = model.config
    config.integration = False
    bare = CCExpertForConditionalGeneration(config)
    bare.load_state_dict({name: value for name, value in model.state_dict().items() if "integration" not in name})
    bare.save_pretrained(folder / "without")
    CCExpertProcessor.from_pretrained(folder / "with").save_pretrained(folder / "without")
    return str(folder / "without")


def test_the_tower_alone_learns_and_the_whole_is_saved(pairs, start, tmp_path, caplog):
    recipe = stage_recipe(
        pairs, start, tmp_path, LandCoverRecipe, max_steps=30, learning_rate=1e-2, max_caption_length=1
    )
    losses = []
    train_land_cover(recipe, on_step=lambda step, total, loss: losses.append(loss))
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    before = CCExpertForConditionalGeneration.from_pretrained(start).state_dict()
    after = CCExpertForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"vision_tower"}
    assert "left out" not in caplog.text  # a pair needs no caption here


@pytest.mark.parametrize(
    ("key", "value"), [("eval_unit", "epochs"), ("integration", True), ("trained_parts", ["projector"])]
)
def test_what_land_cover_has_no_use_for_is_refused(key, value):
    with pytest.raises(RecipeError, match=key):
        LandCoverRecipe(train_data="x", init_from="y", **{key: value})
