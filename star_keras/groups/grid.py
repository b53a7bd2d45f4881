"""Groups that move pixels of channels-last maps exactly: quarter turns and mirrors."""

import keras
from keras import ops

from star_keras.exceptions import ShapeError
from star_keras.groups.base import Group
from star_keras.guards.arguments import check_choice, is_whole

HEIGHT, WIDTH = -3, -2
# After so many counter-clockwise quarter turns: (reverse the height, reverse the width, then transpose)
QUARTER_TURNS = ((False, False, False), (False, True, True), (True, True, False), (True, False, True))


class _Grid(Group):
    """Elements `rotate by so many quarter turns . mirror the width or not`, the mirror first.

    Only transposes and flips are used: exact for every dtype, and every exporter knows them.
    """

    def __init__(self, moves):
        self._moves = tuple(moves)
        places = {move: element for element, move in enumerate(self._moves)}
        table = [[places[_after(first, second)] for second in self._moves] for first in self._moves]
        super().__init__(table, {HEIGHT: None, WIDTH: None} if len(self._moves) > 1 else {})

    def check_shape(self, shape, elements=None):
        super().check_shape(shape, elements)
        elements = range(self.order) if elements is None else elements
        turned = [element for element in elements if self._moves[element][0] % 2]
        if turned and None not in (shape[HEIGHT], shape[WIDTH]) and shape[HEIGHT] != shape[WIDTH]:
            raise ShapeError(
                f"Quarter turns (here element {turned[0]} of {self!r}) need square maps, of shape "
                f"(..., height, width, channels). Received: shape {tuple(shape)}. Move channels "
                "that come first to the end; crop or pad maps that are oblong, or use the group of flips or "
                "of half turns, `Flip(...)` or `Cyclic(2)`."
            )

    def _move(self, element, x):
        quarter_turns, mirrored = self._moves[element]
        reverse_height, reverse_width, transposed = QUARTER_TURNS[quarter_turns]
        axes = [HEIGHT] * reverse_height + [WIDTH] * (reverse_width != mirrored)
        if axes:
            x = ops.flip(x, axis=axes)
        return ops.swapaxes(x, HEIGHT, WIDTH) if transposed else x


def _after(first, second):
    """The move that does `second` and then `first`: a mirror turns a rotation round."""
    turns = first[0] + (-second[0] if first[1] else second[0])
    return turns % 4, first[1] != second[1]


@keras.saving.register_keras_serializable(package="star_keras")
class Trivial(_Grid):
    """The group of one element, which leaves every tensor alone.

    Example:

    >>> Trivial().order
    1
    """

    def __init__(self):
        super().__init__([(0, False)])

    def __repr__(self):
        return "Trivial()"

    def get_config(self):
        return {}


@keras.saving.register_keras_serializable(package="star_keras")
class Cyclic(_Grid):
    """Rotations of channels-last maps by `360 / n` degrees, exact.

    Element `k` turns counter-clockwise by `k * 360 / n` degrees, by transposing and flipping the axes
    (height, width) of `(..., height, width, channels)`.

    Args:
        n: 1, 2 (half turns, any size) or 4 (quarter turns, square maps). For other angles see
            `Rotations`.

    Raises:
        ValueError: if `n` is none of these.
        ShapeError: when a quarter turn meets maps that are not square.

    Example:

    >>> image = np.array([[1, 2], [3, 4]])[..., None]
    >>> np.array(Cyclic(4).act(1, image))[..., 0]
    array([[2, 4],
           [1, 3]])
    """

    def __init__(self, n):
        self.n = _check_n("Cyclic", n)
        super().__init__([(k * 4 // n, False) for k in range(n)])

    def __repr__(self):
        return f"Cyclic({self.n})"

    def get_config(self):
        return {"n": self.n}


@keras.saving.register_keras_serializable(package="star_keras")
class Flip(_Grid):
    """The mirror image of channels-last maps, a group of two.

    Args:
        axis: "width" (left and right change places, the default) or "height" (top and bottom).

    Raises:
        ValueError: if `axis` is neither.

    Example:

    >>> image = np.array([[1, 2], [3, 4]])[..., None]
    >>> np.array(Flip("width").act(1, image))[..., 0]
    array([[2, 1],
           [4, 3]])
    """

    def __init__(self, axis="width"):
        check_choice("axis", axis, ("width", "height"))
        self.axis = axis
        super().__init__([(0, False), (0 if axis == "width" else 2, True)])

    def __repr__(self):
        return f'Flip("{self.axis}")'

    def get_config(self):
        return {"axis": self.axis}


@keras.saving.register_keras_serializable(package="star_keras")
class Dihedral(_Grid):
    """Rotations by `360 / n` degrees and mirror images of channels-last maps, `2 n` elements, exact.

    Element `k + n * f` mirrors the width if `f` is 1 and then turns counter-clockwise by `k * 360 / n`
    degrees. For `n = 4` the group does not commute.

    Args:
        n: 4 (quarter turns, square maps), 2 (half turns) or 1 (the mirror alone). Defaults to 4.

    Raises:
        ValueError: if `n` is none of these.
        ShapeError: when a quarter turn meets maps that are not square.

    Example:

    >>> group = Dihedral(4)
    >>> group.compose(1, 4), group.compose(4, 1)
    (5, 7)
    """

    def __init__(self, n=4):
        self.n = _check_n("Dihedral", n)
        super().__init__([(k * 4 // n, mirrored) for mirrored in (False, True) for k in range(n)])

    def __repr__(self):
        return f"Dihedral({self.n})"

    def get_config(self):
        return {"n": self.n}


def _check_n(name, n):
    if not is_whole(n) or n not in (1, 2, 4):
        raise ValueError(
            f"`{name}(n)` moves pixels exactly, which only turns by 90 degrees do: n must be 1, 2 or 4. "
            f"Received: n={n!r}. For other angles use the interpolating `Rotations(n)`."
        )
    return int(n)
