"""Groups that exchange the entries of an axis, and the token ids that name them."""

import keras
import numpy as np
from keras import ops

from star_keras.groups.base import Group, negative_axis
from star_keras.guards.arguments import check_ids, is_whole


@keras.saving.register_keras_serializable(package="star_keras")
class Permutation(Group):
    """Permutations of an axis: they act on a tensor as on a function over the axis.

    `(g z)[g(v)] = z[v]`: what stood at `v` stands at `g(v)` afterwards. So the inverse is a gather by the
    row of `g`, `(g^-1 z)[v] = z[g(v)]`. On integer ids the same group acts by `v -> g(v)`: see `ids`.

    Args:
        permutations: `(order, size)`, rows of whole numbers, each a bijection of `0 .. size - 1`; the
            first is the identity, none repeats, and the composition of any two is a row.
        axis: of length `size`, counted from the end. Defaults to -1.

    Attributes:
        rows: the permutations as an array.

    Raises:
        ValueError: if the rows are no group; the message names the row or the pair.
        ShapeError: when the axis of a tensor is not of length `size`.

    Example:

    >>> group = Permutation([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
    >>> np.array(group.act(1, np.array([10, 11, 12])))
    array([12, 10, 11])
    >>> np.array(group.ids.act(1, np.array([0, 2])))
    array([1, 0])

    Reference: Basu et al., "Equi-Tuning" (AAAI 2023), on fairness in language generation.
    """

    def __init__(self, permutations, axis=-1):
        self.permutations = np.asarray(permutations).tolist()
        self.axis = negative_axis("Permutation", axis)
        self._set_rows(_check_rows(permutations))

    def _set_rows(self, rows):
        self.rows = rows
        super().__init__(_table_of(rows), {self.axis: rows.shape[1]})

    def __repr__(self):
        order, size = self.rows.shape
        return f"Permutation({order} rows of {size}, axis={self.axis})"

    @property
    def ids(self):
        """The same group acting on integer ids: `t -> g(t)`."""
        return TokenIds(self)

    def _move(self, element, x):
        return ops.take(x, self.rows[self.inverse(element)], axis=self.axis)

    def get_config(self):
        return {"permutations": self.permutations, "axis": self.axis}


@keras.saving.register_keras_serializable(package="star_keras")
class VocabularyCycle(Permutation):
    """The cyclic group that advances parallel rings of tokens together.

    The generator sends `ring[i]` to `ring[(i + 1) % d]` in every ring and leaves all other tokens alone;
    with `rings=[[man, woman], [father, mother]]` it exchanges both pairs. It acts on a function over the
    vocabulary, such as logits, by `(g z)[g(v)] = z[v]`, and through `ids` on the tokens themselves.

    Args:
        rings: lists of token ids, all of one length `d`, the order of the group; no id occurs twice.
            Words must be single tokens.
        size: number of tokens in the vocabulary.
        axis: of the vocabulary, counted from the end. Defaults to -1.

    Raises:
        ValueError: if rings differ in length, ids repeat, or are not in `0 .. size - 1`.
        ShapeError: when the axis of a tensor is not of length `size`.

    Example:

    >>> group = VocabularyCycle(rings=[[1, 3], [2, 4]], size=6)
    >>> np.array(group.act(1, np.arange(6)))
    array([0, 3, 4, 1, 2, 5])
    >>> np.array(group.ids.act(1, np.array([[0, 1, 4]])))
    array([[0, 3, 2]])

    Reference: Basu et al., "Equi-Tuning" (AAAI 2023), EquiGPT2.
    """

    def __init__(self, rings, size, axis=-1):
        _check_rings(rings, size)
        self.rings = [[int(token) for token in ring] for ring in rings]
        self.size = int(size)
        self.axis = negative_axis("VocabularyCycle", axis)
        ring = np.array(self.rings)
        rows = np.tile(np.arange(self.size, dtype="int32"), (ring.shape[1], 1))
        for step, row in enumerate(rows):
            row[ring] = np.roll(ring, -step, axis=1)
        self._set_rows(rows)

    def __repr__(self):
        return f"VocabularyCycle({len(self.rings)} rings of {self.order}, size={self.size})"

    def get_config(self):
        return {"rings": self.rings, "size": self.size, "axis": self.axis}


@keras.saving.register_keras_serializable(package="star_keras")
class TokenIds(Group):
    """A group of permutations acting on integer ids: `t -> g(t)`, entry by entry.

    Args:
        group: the `Permutation` or `VocabularyCycle`; `group.ids` makes this object.

    Raises:
        ValueError: when ids lie outside the vocabulary; seen where they have values, as they do eagerly.

    Example:

    >>> np.array(Permutation([[0, 1], [1, 0]]).ids.act(1, np.array([[0, 1, 1]])))
    array([[1, 0, 0]])
    """

    def __init__(self, group):
        if not isinstance(group, Permutation):
            raise ValueError(f"`group` must be a `Permutation` or `VocabularyCycle`. Received: {group!r}")
        self.group = group
        super().__init__(group.table, vocabulary=group.rows.shape[1])

    def __repr__(self):
        return f"{self.group!r}.ids"

    def _move(self, element, x):
        check_ids("x", x, self.vocabulary)
        return ops.cast(ops.take(self.group.rows[element], ops.cast(x, "int32"), axis=0), x.dtype)

    def get_config(self):
        return {"group": keras.saving.serialize_keras_object(self.group)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["group"]))


def _check_rows(permutations):
    """The rows as an int32 array, or ValueError that names the first row that is wrong."""
    rows = np.asarray(permutations)
    if rows.ndim != 2 or 0 in rows.shape or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(
            "`permutations` must be rows of whole numbers, one row an element, such as [[0, 1], [1, 0]]. "
            f"Received: an array of shape {rows.shape} and type {rows.dtype}"
        )
    every = np.arange(rows.shape[1])
    for index, row in enumerate(rows):
        if not np.array_equal(np.sort(row), every):
            raise ValueError(
                f"Every row of `permutations` must be a bijection of 0 .. {len(every) - 1}. "
                f"Received: row {index} = {_short(row)}"
            )
    if not np.array_equal(rows[0], every):
        raise ValueError(
            f"The first row of `permutations` must be the identity. Received: row 0 = {_short(rows[0])}"
        )
    return rows.astype("int32")


def _table_of(rows):
    """The composition table, or ValueError that names equal rows or the pair that leaves the group."""
    places = {}
    for index, row in enumerate(rows):
        other = places.setdefault(row.tobytes(), index)
        if other != index:
            raise ValueError(f"Elements must be distinct. Received: equal rows {other} and {index}")
    table = np.empty((len(rows), len(rows)), "int64")
    for first, row in enumerate(rows):
        for second, other in enumerate(rows):
            place = places.get(row[other].tobytes())
            if place is None:
                raise ValueError(
                    f"A group is closed. Received: rows {first} and {second}, whose composition "
                    f"{_short(row[other])} is no row"
                )
            table[first, second] = place
    return table


def _check_rings(rings, size):
    lengths = {len(ring) for ring in rings}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "`rings` must be lists of token ids, at least one, all of the same length. "
            f"Received: rings of lengths {[len(ring) for ring in rings]}"
        )
    broken = [token for ring in rings for token in ring if not is_whole(token)]
    if broken or not is_whole(size):
        raise ValueError(
            f"Token ids and `size` must be whole numbers. Received: size={size!r}, ids {broken[:5]}"
        )
    tokens, counts = np.unique(rings, return_counts=True)
    if counts.max() > 1:
        raise ValueError(
            f"A token may stand in one place of one ring. Received: token {tokens[counts.argmax()]} "
            f"{counts.max()} times"
        )
    if tokens[0] < 0 or tokens[-1] >= size:
        raise ValueError(
            f"Token ids must lie in 0 .. size - 1. Received: size={size}, ids from {tokens[0]} to "
            f"{tokens[-1]}"
        )


def _short(row):
    return str(np.asarray(row).tolist() if len(row) <= 12 else [*np.asarray(row)[:12].tolist(), "..."])
