"""What every group has in common: elements, composition table, orbit, and the laws."""

import functools
import numbers

import keras
import numpy as np
from keras import ops

from star_keras.exceptions import ShapeError

FREE_SIZE = 4  # of an axis of the probe whose size the group leaves open


class Group:
    """A finite group together with the way it moves a tensor.

    Elements are `0 .. order - 1`; 0 is the identity. A group is a table, `table[g, h]` being the element
    that does `h` first and then `g`, and an action that follows it:
    `act(compose(g, h), x) == act(g, act(h, x))`. Both are verified here, the action on a random probe.

    To make a group of your own, write a subclass with `_move(element, x)` and, to save models that use
    it, `get_config` and `@keras.saving.register_keras_serializable`. Axes are counted from the end, so
    that leading axes (batch, elements) are left alone.

    Args:
        table: `(order, order)` integers, the composition of each pair.
        sizes: `{axis: size}` of the axes that are moved, negative axes; None for a size that is free.
        exact: whether the action follows the table exactly, as against up to interpolation.
        vocabulary: number of tokens, for groups that act on integer ids instead of on axes.

    Attributes:
        order: number of elements.
        exact, table: as above.

    Raises:
        ValueError: if a law is broken; the message names the elements that break it.

    Reference: Basu et al., "Efficient Equivariant Transfer Learning from Pretrained Models" (NeurIPS
    2023), section 3.
    """

    def __init__(self, table, sizes=None, exact=True, vocabulary=None):
        self.table = np.asarray(table)
        self.order = len(self.table)
        self.sizes = dict(sizes or {})
        self.exact = exact
        self.vocabulary = vocabulary
        self.inverses = _verify_table(self, self.table)
        if exact:
            self._verify_action(self._probe())

    @property
    def moves_maps(self):
        """Whether height and width of channels-last maps are among the axes that move."""
        return {-3, -2} <= self.sizes.keys()

    def act(self, element, x):
        """Moves `x` by one element.

        Args:
            element: a Python integer in `0 .. order - 1`, or a scalar integer tensor, where it is known
                only when it runs: the action of all elements is compiled then.
            x: tensor or array; axes before those that the group moves are left alone.

        Returns:
            A tensor of the shape and dtype of `x`.

        Raises:
            ShapeError: if this element cannot move a tensor of this shape.
        """
        if not isinstance(x, keras.KerasTensor):
            x = ops.convert_to_tensor(x)
        if ops.is_tensor(element):
            self.check_shape(x.shape)
            return ops.switch(element, [functools.partial(self._moved, g) for g in range(self.order)], x)
        element = self._check_element(element)
        self.check_shape(x.shape, (element,))
        return self._moved(element, x)

    def orbit(self, x):
        """`x` moved by every element in turn, `(order, *x.shape)`."""
        return ops.stack([self.act(element, x) for element in range(self.order)])

    def inverse(self, element):
        """The element that undoes `element`, a Python integer or a scalar integer tensor."""
        if ops.is_tensor(element):
            return ops.take(ops.convert_to_tensor(self.inverses, dtype="int32"), element)
        return int(self.inverses[self._check_element(element)])

    def compose(self, first, second):
        """The element that does `second` and then `first`."""
        return int(self.table[self._check_element(first), self._check_element(second)])

    def check_shape(self, shape, elements=None):
        """Raises `ShapeError` unless the elements (default: all) can move a tensor of this shape."""
        shape = tuple(shape)
        for axis, size in self.sizes.items():
            if len(shape) < -axis:
                raise ShapeError(
                    f"{self!r} moves axis {axis}, so it needs tensors of at least {-axis} axes beside the "
                    f"batch. Received: shape {shape}"
                )
            if None not in (size, shape[axis]) and shape[axis] != size:
                raise ShapeError(f"{self!r} needs axis {axis} to be of size {size}. Received: shape {shape}")

    def get_config(self):
        raise NotImplementedError(f"`{type(self).__name__}` has no `get_config`, which saving needs.")

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def _moved(self, element, x):
        return x if element == 0 else self._move(element, x)

    def _move(self, element, x):
        raise NotImplementedError(f"`{type(self).__name__}` must implement `_move(element, x)`.")

    def _check_element(self, element):
        whole = isinstance(element, numbers.Integral) and not isinstance(element, bool)
        if not whole or not 0 <= element < self.order:
            raise ValueError(
                f"Elements of {self!r} are Python integers from 0 to {self.order - 1}. Received: {element!r}"
            )
        return int(element)

    def _probe(self):
        """Random numbers, or all token ids, that the group can move."""
        if self.vocabulary is not None:
            return np.arange(self.vocabulary, dtype="int32")
        rank = max((-axis for axis in self.sizes), default=1)
        shape = [self.sizes.get(axis) or FREE_SIZE for axis in range(-rank, 0)]
        return np.random.default_rng(0).normal(size=shape).astype("float32")

    def _verify_action(self, probe):
        moved = ops.convert_to_numpy(self.orbit(probe))
        for first in range(self.order):
            once_more = ops.convert_to_numpy(self.act(first, moved))
            expected = moved[self.table[first]]
            axes = tuple(range(1, moved.ndim))
            wrong = ~np.isclose(once_more, expected, rtol=1e-4, atol=1e-4).all(axis=axes)
            if wrong.any():
                second = int(np.argmax(wrong))
                raise ValueError(
                    f"The action must follow the composition. Received: {self!r}, where "
                    f"act({self.table[first, second]}, x) is not act({first}, act({second}, x)) although "
                    f"compose({first}, {second}) is {self.table[first, second]}"
                )


def _verify_table(group, table):
    """Checks that a composition table is that of a group; returns the inverse of each element."""
    order = len(table)
    if order == 0 or table.shape != (order, order) or not np.issubdtype(table.dtype, np.integer):
        raise ValueError(
            "A group has at least one element and a composition table of shape (order, order). "
            f"Received: a table of shape {table.shape} and type {table.dtype}"
        )
    elements = np.arange(order)
    if not np.isin(table, elements).all():
        first, second = np.argwhere(~np.isin(table, elements))[0]
        raise ValueError(
            f"A group is closed. Received: compose({first}, {second}) = {table[first, second]}, which is "
            f"no element of 0 .. {order - 1}"
        )
    for first, second, result in ((0, elements, table[0]), (elements, 0, table[:, 0])):
        if (result != elements).any():
            wrong = int(np.argmax(result != elements))
            pair = (first, wrong) if isinstance(first, int) else (wrong, second)
            raise ValueError(
                f"Element 0 must be the identity. Received: compose{pair} = {result[wrong]}, not {wrong}"
            )
    for element in elements:
        if np.count_nonzero(table[element] == 0) != 1 or np.count_nonzero(table[:, element] == 0) != 1:
            raise ValueError(
                f"Every element needs one inverse. Received: element {element}, which composes to the "
                f"identity with {np.flatnonzero(table[element] == 0).tolist()}"
            )
    for element in elements:
        wrong = table[table[element]] != table[element][table]
        if wrong.any():
            second, third = np.argwhere(wrong)[0]
            raise ValueError(
                "Composition must be associative. Received: a table where the elements "
                f"{element}, {second} and {third} give two results"
            )
    return np.argmin(table, axis=1)


def negative_axis(group, axis):
    """Returns `axis` if it counts from the end, else raises ValueError."""
    if isinstance(axis, bool) or not isinstance(axis, numbers.Integral) or axis >= 0:
        raise ValueError(
            f"`{group}` counts its axis from the end, so that it means the same with and without a batch: "
            f"-1 is the last. Received: axis={axis!r}"
        )
    return int(axis)
