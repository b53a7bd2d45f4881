"""Tensors of any backend as arrays."""

from keras import ops


def array(tensor):
    return ops.convert_to_numpy(tensor)
