"""Finite groups, and how their elements move a tensor.

Elements are the whole numbers `0 .. order - 1`, and 0 is the identity. `act(element, x)` keeps shape and
dtype, and `act(compose(g, h), x) == act(g, act(h, x))`: laws that are checked when a group is made.
"""

from star_keras.groups.base import Group
from star_keras.groups.grid import Cyclic, Dihedral, Flip, Trivial
from star_keras.groups.linear import Linear
from star_keras.groups.permutations import Permutation, TokenIds, VocabularyCycle
from star_keras.groups.products import Joint, Product
from star_keras.groups.rotations import Rotations

__all__ = [
    "Cyclic",
    "Dihedral",
    "Flip",
    "Group",
    "Joint",
    "Linear",
    "Permutation",
    "Product",
    "Rotations",
    "TokenIds",
    "Trivial",
    "VocabularyCycle",
]
