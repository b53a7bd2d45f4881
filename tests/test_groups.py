"""Laws of the groups: every one, a non-abelian one and several of order above two among them."""

import itertools
import json

import keras
import numpy as np
import pytest
from _arrays import array
from keras import ops

from star_keras import groups
from star_keras.exceptions import ShapeError

RNG = np.random.default_rng(0)
S3 = [list(row) for row in itertools.permutations(range(3))]
TURN = np.array([[0.0, -1.0], [1.0, 0.0]])
MIRROR = np.diag([1.0, -1.0])
D4_MATRICES = [np.linalg.matrix_power(TURN, k) @ m for m in (np.eye(2), MIRROR) for k in range(4)]
SHIFTS = [[(channel + turn) % 4 for channel in range(4)] for turn in range(4)]

# group -> shape of what it moves, without the batch
GROUPS = {
    groups.Trivial(): (3, 5, 2),
    groups.Cyclic(1): (3, 5, 2),
    groups.Cyclic(2): (3, 5, 2),
    groups.Cyclic(4): (5, 5, 2),
    groups.Flip("width"): (3, 4, 2),
    groups.Flip("height"): (3, 4, 2),
    groups.Dihedral(1): (3, 4, 2),
    groups.Dihedral(2): (3, 4, 2),
    groups.Dihedral(4): (4, 4, 2),
    groups.Permutation(S3): (2, 3),
    groups.Permutation(S3, axis=-2): (3, 2),
    groups.VocabularyCycle([[1, 3, 2], [4, 6, 0]], size=8): (8,),
    groups.VocabularyCycle([[1, 3, 2], [4, 6, 0]], size=8, axis=-2): (8, 2),
    groups.Linear(D4_MATRICES): (3, 2),
    groups.Linear(D4_MATRICES, axis=-2): (2, 3),
    groups.Linear(D4_MATRICES, center=[0.5, -2.0]): (3, 2),
    groups.Product(groups.Flip("width"), groups.Flip("height")): (3, 4, 2),
    groups.Product(groups.Cyclic(2), groups.Permutation(S3)): (3, 4, 3),
    groups.Joint(groups.Cyclic(4), groups.Permutation(SHIFTS)): (5, 5, 4),
}
VOCABULARY = groups.VocabularyCycle([[1, 3, 2], [4, 6, 0]], size=8)
TWO_VOCABULARIES = groups.Product(
    groups.VocabularyCycle([[1, 3, 2]], size=8), groups.VocabularyCycle([[4, 6]], size=8)
)
IDS = [VOCABULARY.ids, groups.Permutation(S3).ids, TWO_VOCABULARIES.ids]

each_group = pytest.mark.parametrize("group", GROUPS, ids=repr)


def sample(group, batch=2):
    return RNG.normal(size=(batch, *GROUPS[group])).astype("float32")


# --- laws -----------------------------------------------------------------------------------------


@each_group
def test_composition_is_one_element_after_the_other(group):
    orbit = [array(member) for member in group.orbit(sample(group))]
    for first in range(group.order):
        for second in range(group.order):
            once_more = array(group.act(first, orbit[second]))
            np.testing.assert_allclose(once_more, orbit[group.compose(first, second)], atol=1e-6)


@pytest.mark.parametrize("group", IDS, ids=repr)
def test_composition_is_one_element_after_the_other_on_ids(group):
    ids = np.arange(group.vocabulary).reshape(2, -1) if group.vocabulary % 2 == 0 else np.arange(3)
    orbit = [array(member) for member in group.orbit(ids)]
    for first in range(group.order):
        for second in range(group.order):
            once_more = array(group.act(first, orbit[second]))
            np.testing.assert_array_equal(once_more, orbit[group.compose(first, second)])


@each_group
def test_the_identity_is_zero_and_the_inverse_undoes(group):
    x = sample(group)
    np.testing.assert_array_equal(array(group.act(0, x)), x)
    for element in range(group.order):
        inverse = group.inverse(element)
        assert group.compose(element, inverse) == group.compose(inverse, element) == 0
        assert group.compose(element, 0) == group.compose(0, element) == element
        np.testing.assert_allclose(array(group.act(inverse, group.act(element, x))), x, atol=1e-6)


@each_group
def test_only_the_identity_leaves_everything_alone(group):
    x = sample(group)
    for element in range(1, group.order):
        assert np.abs(array(group.act(element, x)) - x).max() > 0.1


def test_all_groups_here_move_exactly():
    assert all(group.exact for group in GROUPS)


@each_group
def test_the_orbit_holds_every_member_in_order(group):
    x = sample(group)
    orbit = array(group.orbit(x))
    assert orbit.shape == (group.order, *x.shape)
    for element in range(group.order):
        np.testing.assert_array_equal(orbit[element], array(group.act(element, x)))


@each_group
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "uint8", "int32"])
def test_moving_keeps_shape_and_dtype(group, dtype):
    if isinstance(group, groups.Linear) and "int" in dtype:
        with pytest.raises(ValueError, match="floating tensors. Received: dtype"):
            group.act(1, ops.cast(np.abs(sample(group)), dtype))
        return
    x = ops.cast(np.abs(sample(group)) * 9, dtype)
    for element in range(group.order):
        moved = group.act(element, x)
        assert moved.shape == x.shape and keras.backend.standardize_dtype(moved.dtype) == dtype


@each_group
def test_leading_axes_are_left_alone(group):
    x = sample(group, batch=6)
    element = group.order - 1
    each = np.stack([array(group.act(element, one)) for one in x])
    np.testing.assert_allclose(array(group.act(element, x)), each, atol=1e-6)
    deep = x.reshape(2, 3, *x.shape[1:])
    np.testing.assert_allclose(array(group.act(element, deep)), each.reshape(deep.shape), atol=1e-6)


@each_group
def test_moving_has_symbolic_shapes(group):
    inputs = keras.Input(GROUPS[group])
    assert group.act(group.order - 1, inputs).shape == inputs.shape
    assert group.orbit(inputs).shape == (group.order, *inputs.shape)


@pytest.mark.parametrize("group", [*GROUPS, *IDS, groups.Rotations(8, "nearest")], ids=repr)
def test_a_group_comes_back_from_its_record(group):
    record = json.loads(json.dumps(keras.saving.serialize_keras_object(group)))
    again = keras.saving.deserialize_keras_object(record)
    assert type(again) is type(group) and repr(again) == repr(group)
    np.testing.assert_array_equal(again.table, group.table)
    assert again.get_config() == group.get_config()
    assert keras.saving.get_registered_name(type(group)) == f"star_keras>{type(group).__name__}"


# --- pixels ---------------------------------------------------------------------------------------


def test_quarter_turns_are_those_of_numpy():
    x = RNG.normal(size=(2, 5, 5, 3))
    for k in range(4):
        np.testing.assert_array_equal(array(groups.Cyclic(4).act(k, x)), np.rot90(x, k, axes=(1, 2)))
    half = np.rot90(x[:, :3], 2, axes=(1, 2))
    np.testing.assert_array_equal(array(groups.Cyclic(2).act(1, x[:, :3])), half)


def test_flips_reverse_the_axis_they_name():
    x = RNG.normal(size=(2, 3, 4, 1))
    np.testing.assert_array_equal(array(groups.Flip("width").act(1, x)), x[:, :, ::-1])
    np.testing.assert_array_equal(array(groups.Flip("height").act(1, x)), x[:, ::-1])


def test_dihedral_elements_mirror_first_and_then_turn():
    x = RNG.normal(size=(2, 4, 4, 3))
    group = groups.Dihedral(4)
    for k in range(4):
        np.testing.assert_array_equal(array(group.act(k + 4, x)), np.rot90(x[:, :, ::-1], k, axes=(1, 2)))
    assert group.compose(1, 4) == 5 and group.compose(4, 1) == 7


def test_pixels_are_moved_by_transposes_and_flips_alone():
    tf = pytest.importorskip("tensorflow")
    graph = tf.function(groups.Dihedral(4).orbit).get_concrete_function(tf.TensorSpec((None, 6, 6, 3)))
    kinds = {operation.type for operation in graph.graph.get_operations()}
    assert kinds <= {"Placeholder", "Const", "Transpose", "ReverseV2", "Pack", "Identity", "NoOp"}, kinds


@pytest.mark.fault(52)
def test_quarter_turns_of_maps_that_are_not_square_are_refused_and_others_are_not():
    wide = np.zeros((2, 4, 6, 3), "float32")
    for element in (1, 3):
        with pytest.raises(ShapeError, match=r"square maps.*Received: shape \(2, 4, 6, 3\)"):
            groups.Cyclic(4).act(element, wide)
    with pytest.raises(ShapeError, match="square maps"):
        groups.Dihedral(4).orbit(wide)
    assert groups.Cyclic(4).act(2, wide).shape == wide.shape
    for group in (groups.Cyclic(2), groups.Flip("width"), groups.Flip("height"), groups.Dihedral(2)):
        assert group.orbit(wide).shape == (group.order, *wide.shape)


# --- permutations and tokens ----------------------------------------------------------------------


@pytest.mark.parametrize("group", [groups.Permutation(S3), VOCABULARY], ids=repr)
def test_what_stood_at_v_stands_at_g_of_v_and_the_inverse_is_a_gather_by_the_row(group):
    z = RNG.normal(size=group.rows.shape[1])
    for element, row in enumerate(group.rows):
        moved = array(group.act(element, z))
        for v in range(len(z)):
            assert moved[row[v]] == z[v]
        np.testing.assert_array_equal(array(group.act(group.inverse(element), z)), z[row])


@pytest.mark.parametrize("group", [groups.Permutation(S3), VOCABULARY, TWO_VOCABULARIES], ids=repr)
def test_moved_logits_at_moved_ids_are_the_logits(group):
    size = group.ids.vocabulary
    logits, ids = RNG.normal(size=size), RNG.integers(0, size, 5)
    for element in range(group.order):
        moved, moved_ids = array(group.act(element, logits)), array(group.ids.act(element, ids))
        np.testing.assert_array_equal(moved[moved_ids], logits[ids])


def test_rings_of_three_advance_together():
    group = groups.VocabularyCycle([[1, 3, 2], [4, 6, 0]], size=8)
    assert group.order == 3
    assert group.rows[1].tolist() == [4, 3, 1, 2, 6, 5, 0, 7]
    assert group.rows[2].tolist() == [6, 2, 3, 1, 0, 5, 4, 7]


def test_ids_keep_their_type():
    ids = ops.cast([[0, 1]], "int64")
    assert keras.backend.standardize_dtype(VOCABULARY.ids.act(1, ids).dtype) == "int64"


@pytest.mark.parametrize(
    ("rings", "size", "message"),
    [
        ([[0, 1], [2]], 4, "same length.*Received: rings of lengths"),
        ([], 4, "Received: rings of lengths"),
        ([[0, 1], [1, 2]], 4, "Received: token 1 2 times"),
        ([[0, 4]], 4, "Received: size=4"),
        ([[-1, 2]], 4, "Received: size=4"),
        ([[1.7, 3]], 6, r"whole numbers. Received: size=6, ids \[1.7\]"),
        ([[1, 3]], 6.5, "whole numbers. Received: size=6.5"),
    ],
)
def test_rings_that_are_none_are_refused(rings, size, message):
    with pytest.raises(ValueError, match=message):
        groups.VocabularyCycle(rings, size)


# --- broken laws ----------------------------------------------------------------------------------


class Table(groups.Group):
    """A group made of a table alone, whose elements shift an axis."""

    def __init__(self, table, exact=False):
        super().__init__(table, {-1: len(table)}, exact=exact)

    def __repr__(self):
        return "Table"

    def _move(self, element, x):
        return ops.roll(x, element, axis=-1)


CYCLIC_3 = [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
BROKEN = [
    (lambda: groups.Permutation([]), "Received: an array of shape"),
    (lambda: groups.Permutation([[0, 0], [1, 0]]), r"bijection.*Received: row 0 = \[0, 0\]"),
    (lambda: groups.Permutation([[0, 1, 2], [1, 2, 2]]), "bijection.*Received: row 1"),
    (lambda: groups.Permutation([[1, 0], [0, 1]]), "identity. Received: row 0"),
    (lambda: groups.Permutation([[0, 1, 2], [1, 2, 0]]), "closed. Received: rows 1 and 1"),
    (lambda: groups.Permutation([[0, 1], [1, 0], [1, 0]]), "distinct. Received: equal rows 1 and 2"),
    (lambda: groups.Permutation([[0.5, 1.0]]), "whole numbers"),
    (lambda: groups.Linear(np.zeros((0, 2, 2))), "Received: shape"),
    (lambda: groups.Linear([-np.eye(2), np.eye(2)]), "identity. Received: matrix 0"),
    (lambda: groups.Linear([np.eye(2), TURN]), "closed. Received: matrices 1 and 1"),
    (lambda: groups.Linear([np.eye(2), np.zeros((2, 2))]), "inverse. Received: element 1"),
    (lambda: groups.Linear([np.eye(2), -np.eye(2), -np.eye(2)]), r"equal matrices \[1, 2\]"),
    (lambda: groups.Linear([np.eye(2), np.full((2, 2), np.nan)]), "NaN or infinity in matrix 1"),
    (lambda: Table(np.zeros((0, 0), int)), "at least one element"),
    (lambda: Table([[0, 1], [1, 5]]), r"closed. Received: compose\(1, 1\) = 5"),
    (lambda: Table([[1, 0], [0, 1]]), r"identity. Received: compose\(0, 0\) = 1"),
    (lambda: Table([[0, 1], [1, 1]]), "inverse. Received: element 1"),
    (
        # A loop of five elements, in which every one is its own inverse.
        lambda: Table([[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]]),
        "associative. Received: .* elements 1, 1 and 2",
    ),
    (lambda: Table([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]], exact=True), r"compose\(1, 1\)"),
    (
        lambda: groups.Product(groups.Cyclic(4), groups.Flip("width")),
        r"commute. Received: element 1 of Cyclic\(4\) and element 1 of Flip",
    ),
    (
        lambda: groups.Product(groups.Permutation(S3), groups.Permutation([[0, 1], [1, 0]])),
        r"want axis -1 of sizes \[2, 3\]",
    ),
    (lambda: groups.Product(VOCABULARY, VOCABULARY.ids), "on ids and on axes"),
    (lambda: groups.Product(VOCABULARY, "Cyclic(4)"), "`second` must be a group"),
    (lambda: groups.Joint(groups.Cyclic(4), groups.Dihedral(2)), "same composition table"),
]


@pytest.mark.fault(51)
@pytest.mark.parametrize(("make", "message"), BROKEN)
def test_a_broken_law_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_group_of_ones_own_is_a_subclass_with_a_table_and_a_move():
    group = Table(CYCLIC_3, exact=True)
    np.testing.assert_array_equal(array(group.act(2, np.arange(3.0))), [1, 2, 0])


@pytest.mark.parametrize("element", [-1, 4, 1.0, True, "1", None])
def test_elements_are_whole_numbers_below_the_order(element):
    for ask in (lambda g: groups.Cyclic(4).act(g, np.zeros((2, 2, 1))), groups.Cyclic(4).inverse):
        with pytest.raises(ValueError, match="from 0 to 3. Received: "):
            ask(element)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: groups.Cyclic(8), r"`Rotations\(n\)`"),
        (lambda: groups.Cyclic(True), "Received: n=True"),
        (lambda: groups.Dihedral(3), "n must be 1, 2 or 4"),
        (lambda: groups.Flip("both"), "Received: axis='both'"),
        (lambda: groups.Rotations(0), "Received: n=0"),
        (lambda: groups.Rotations(4, "cubic"), "Received: interpolation='cubic'"),
        (lambda: groups.Permutation(S3, axis=1), "from the end.*Received: axis=1"),
        (lambda: groups.Linear(D4_MATRICES, axis=0), "from the end.*Received: axis=0"),
        (lambda: groups.Linear(D4_MATRICES, center=[0.0]), r"2 finite numbers.*Received: center=\[0.0\]"),
        (lambda: groups.Linear(D4_MATRICES, center=[0, np.nan]), "finite numbers.*nan"),
        (lambda: groups.TokenIds(groups.Cyclic(4)), "Received: Cyclic"),
    ],
)
def test_wrong_arguments_are_refused_with_what_was_received(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("group", "shape"),
    [
        (groups.Permutation(S3), (2, 4)),
        (groups.Permutation(S3, axis=-2), (3,)),
        (groups.Linear(D4_MATRICES), (2, 3)),
        (VOCABULARY, (2, 9)),
        (groups.Cyclic(4), (4, 4)),
    ],
    ids=repr,
)
def test_tensors_of_another_size_are_refused(group, shape):
    with pytest.raises(ShapeError, match="Received: shape"):
        group.act(1, np.zeros(shape, "float32"))


def test_a_center_stays_and_what_lies_around_it_turns():
    group = groups.Linear(D4_MATRICES, center=[0.5, -2.0])
    np.testing.assert_allclose(array(group.act(1, np.array([0.5, -2.0], "float32"))), [0.5, -2.0])
    np.testing.assert_allclose(array(group.act(1, np.array([1.5, -2.0], "float32"))), [0.5, -1.0])
