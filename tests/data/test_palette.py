"""SECOND's palette: colours to classes and back, brightened colours, unknown colours."""

import numpy as np
import pytest

from rscc_hf.data.palette import (
    BRIGHTENED,
    CLASS_NAMES,
    CLASSES,
    classes_to_colours,
    colours_to_classes,
    restrict_to_changes,
)


def test_the_colours_are_seconds():
    assert [CLASSES[name] for name in CLASS_NAMES] == [
        (255, 255, 255), (128, 128, 128), (0, 128, 0), (0, 255, 0), (0, 0, 255), (128, 0, 0), (255, 0, 0),
    ]  # fmt: skip
    assert [BRIGHTENED[name] for name in CLASS_NAMES[1:]] == [
        (208, 208, 208), (80, 208, 80), (80, 255, 80), (80, 80, 255), (208, 80, 80), (255, 80, 80),
    ]  # fmt: skip


def test_classes_survive_the_round_trip():
    classes = np.random.default_rng(0).integers(0, len(CLASS_NAMES), (13, 7)).astype(np.uint8)
    np.testing.assert_array_equal(colours_to_classes(classes_to_colours(classes)), classes)


def test_brightened_maps_mean_the_same():
    classes = np.arange(len(CLASS_NAMES), dtype=np.uint8)[None]
    colours = classes_to_colours(classes).astype(int)
    np.testing.assert_array_equal(colours_to_classes(np.minimum(colours + 80, 255).astype(np.uint8)), classes)


def test_black_and_white_are_void():
    array = np.zeros((2, 1, 3), np.uint8)
    array[1] = 255
    assert colours_to_classes(array).tolist() == [[0], [0]]


def test_an_unknown_colour_is_named_with_its_file():
    array = np.full((4, 4, 3), 128, np.uint8)
    array[2, 3] = (1, 2, 3)
    with pytest.raises(ValueError, match=r"sem/00013\.png.*\(1, 2, 3\).*row 2, column 3"):
        colours_to_classes(array, "sem/00013.png")


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_a_wrong_array_is_refused(array):
    with pytest.raises(ValueError, match=r"^map\.png: .*RGB"):
        colours_to_classes(array, "map.png")


def test_class_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="between 0 and 6"):
        classes_to_colours(np.array([7]))


def test_only_changes_keep_their_colour():
    colours = classes_to_colours(np.array([[5, 3], [2, 4]], np.uint8))
    kept = restrict_to_changes(colours, np.array([[255, 0], [0, 1]], np.uint8))
    np.testing.assert_array_equal(colours_to_classes(kept), [[5, 0], [0, 4]])
    np.testing.assert_array_equal(colours_to_classes(colours), [[5, 3], [2, 4]])  # the input is left alone


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match="same height and width"):
        restrict_to_changes(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8))
