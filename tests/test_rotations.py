"""Rotations by any angle: approximate on a grid, exact where they are quarter turns."""

import keras
import numpy as np
import pytest
from _arrays import array

from star_keras import groups
from star_keras.exceptions import ShapeError

RNG = np.random.default_rng(0)


@pytest.mark.fault(53)
def test_interpolated_quarter_turns_are_exact():
    for side in (4, 5):
        x = RNG.normal(size=(2, side, side, 3))
        for k in range(4):
            turned = array(groups.Rotations(8).act(2 * k, x))
            np.testing.assert_allclose(turned, np.rot90(x, k, axes=(1, 2)), atol=1e-7)


@pytest.mark.fault(53)
def test_smooth_maps_turn_as_their_formula_does():
    def blob(angle):
        rows, columns = np.mgrid[:33, :33] - 16.0
        row, column = -7 * np.sin(angle), 7 * np.cos(angle)  # rows grow downwards
        return np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 18)[..., None]

    group = groups.Rotations(12)
    for element in range(12):
        turned = array(group.act(element, blob(0.0)))
        assert np.abs(turned - blob(2 * np.pi * element / 12)).max() < 0.03


@pytest.mark.fault(53)
def test_the_composition_of_rotations_is_exact_and_their_action_is_said_not_to_be():
    group = groups.Rotations(8)
    assert not group.exact and groups.Cyclic(4).exact
    assert group.compose(7, 3) == 2 and group.inverse(3) == 5
    x = RNG.normal(size=(9, 9, 1))
    once = array(group.act(group.compose(1, 1), x))
    assert np.abs(array(group.act(1, group.act(1, x))) - once).max() > 0.1


def test_nearest_neighbours_keep_the_values_of_a_map_and_bytes_are_rounded():
    labels = RNG.integers(1, 5, (9, 9, 1)).astype("uint8")
    turned = array(groups.Rotations(8, "nearest").act(1, labels))
    assert set(np.unique(turned)) <= {0, 1, 2, 3, 4}
    image = np.full((9, 9, 1), 200, "uint8")
    assert array(groups.Rotations(8).act(1, image))[4, 4, 0] == 200


def test_rotations_keep_the_shape_of_wide_maps_and_fill_with_zeros():
    turned = array(groups.Rotations(4).act(1, np.ones((3, 7, 2), "float32")))
    np.testing.assert_allclose(turned[1, :, 0], [0, 0, 1, 1, 1, 0, 0], atol=1e-7)


def test_rotations_need_a_known_size():
    with pytest.raises(ShapeError, match="known height and width"):
        groups.Rotations(8).act(1, keras.Input((None, 8, 3)))
