"""Two groups on one tensor: independently, or as one."""

import keras
import numpy as np
from keras import ops

from star_keras.groups.base import Group


class _Pair(Group):
    """Two groups that move the same tensors, the second first."""

    def __init__(self, first, second, table):
        self.first, self.second = first, second
        for axis in first.sizes.keys() & second.sizes.keys():
            sizes = {first.sizes[axis], second.sizes[axis]} - {None}
            if len(sizes) > 1:
                raise ValueError(
                    "Both groups must move the same tensors. Received: "
                    f"{first!r} and {second!r}, which want axis {axis} of sizes {sorted(sizes)}"
                )
        if first.vocabulary != second.vocabulary:
            raise ValueError(
                "Both groups must move the same tensors. Received: "
                f"{first!r} and {second!r}, which act on different token ids, or on ids and on axes"
            )
        sizes = {axis: size for axis, size in first.sizes.items() if size is not None}
        exact = first.exact and second.exact
        super().__init__(table, {**first.sizes, **second.sizes, **sizes}, exact, first.vocabulary)

    def check_shape(self, shape, elements=None):
        elements = range(self.order) if elements is None else elements
        pairs = [self.parts(element) for element in elements]
        self.first.check_shape(shape, sorted({first for first, _ in pairs}))
        self.second.check_shape(shape, sorted({second for _, second in pairs}))

    def _move(self, element, x):
        first, second = self.parts(element)
        return self.first.act(first, self.second.act(second, x))

    def _verify_action(self, probe):
        one = ops.convert_to_numpy(self.first.orbit(self.second.orbit(probe)))
        other = ops.convert_to_numpy(self.second.orbit(self.first.orbit(probe))).swapaxes(0, 1)
        wrong = ~np.isclose(one, other, rtol=1e-4, atol=1e-4).all(axis=tuple(range(2, one.ndim)))
        if wrong.any():
            first, second = np.argwhere(wrong)[0]
            raise ValueError(
                f"The two groups must commute. Received: element {first} of {self.first!r} and element "
                f"{second} of {self.second!r}, which do not; for turns with mirrors use `Dihedral`"
            )
        super()._verify_action(probe)

    def get_config(self):
        parts = {"first": self.first, "second": self.second}
        return {name: keras.saving.serialize_keras_object(group) for name, group in parts.items()}

    @classmethod
    def from_config(cls, config):
        return cls(**{name: keras.saving.deserialize_keras_object(group) for name, group in config.items()})


@keras.saving.register_keras_serializable(package="star_keras")
class Product(_Pair):
    """The direct product of two groups that act on the same tensors and commute.

    Element `i * second.order + j` is element `i` of `first` with element `j` of `second`:
    `act((i, j), x) = first.act(i, second.act(j, x))`.

    Args:
        first, second: groups; each element of one commutes with each of the other.

    Attributes:
        ids: the product acting on token ids, where both groups have `ids`.

    Raises:
        ValueError: if the groups do not commute or move tensors of different sizes.

    Example:

    >>> from star_keras.groups import Flip
    >>> group = Product(Flip("width"), Flip("height"))
    >>> group.order, group.parts(3)
    (4, (1, 1))
    >>> image = np.array([[1, 2], [3, 4]])[..., None]
    >>> np.array(group.act(3, image))[..., 0]
    array([[4, 3],
           [2, 1]])
    """

    def __init__(self, first, second):
        _check_groups(first, second)
        table = first.table[:, None, :, None] * second.order + second.table[None, :, None, :]
        super().__init__(first, second, table.reshape((first.order * second.order,) * 2))

    def __repr__(self):
        return f"Product({self.first!r}, {self.second!r})"

    def parts(self, element):
        """The elements of both groups that an element is made of."""
        return divmod(self._check_element(element), self.second.order)

    @property
    def ids(self):
        return Product(self.first.ids, self.second.ids)


@keras.saving.register_keras_serializable(package="star_keras")
class Joint(_Pair):
    """One group that moves a tensor in two ways at once: `act(g, x) = first.act(g, second.act(g, x))`.

    So maps of a group convolution are turned: the pixels by `Cyclic(4)`, and the channels, one for each
    orientation, by a permutation with the same composition table.

    Args:
        first, second: groups with the same composition table, whose actions commute.

    Raises:
        ValueError: if tables differ, the actions do not commute or want tensors of different sizes.

    Example:

    >>> from star_keras.groups import Cyclic, Permutation
    >>> shifts = [[(channel + turn) % 4 for channel in range(4)] for turn in range(4)]
    >>> group = Joint(Cyclic(4), Permutation(shifts))
    >>> group.order
    4
    """

    def __init__(self, first, second):
        _check_groups(first, second)
        if not np.array_equal(first.table, second.table):
            raise ValueError(
                "`Joint` needs one group that acts in two ways, with the same composition table. "
                f"Received: {first!r} and {second!r}"
            )
        super().__init__(first, second, first.table)

    def __repr__(self):
        return f"Joint({self.first!r}, {self.second!r})"

    def parts(self, element):
        """The elements of both groups that an element is made of: itself, twice."""
        return (self._check_element(element),) * 2


def _check_groups(first, second):
    for name, group in (("first", first), ("second", second)):
        if not isinstance(group, Group):
            raise ValueError(f"`{name}` must be a group. Received: {name}={group!r}")
