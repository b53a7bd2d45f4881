"""Models, groups and inputs that tests of `EquiTune` share."""

import keras
import numpy as np
import pytest
from _arrays import array
from keras import ops

from star_keras import groups
from star_keras.layers import EquiTune

S3 = [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1], [2, 1, 0], [1, 0, 2]]
TURN = [[0.0, -1.0], [1.0, 0.0]]
C4_MATRICES = [np.linalg.matrix_power(TURN, k) for k in range(4)]
SHIFTS = [[(channel + turn) % 4 for channel in range(4)] for turn in range(4)]
REGULAR = groups.Joint(groups.Cyclic(4), groups.Permutation(SHIFTS))
MIRRORS = groups.Product(groups.Flip("width"), groups.Flip("height"))
VOCABULARY = groups.VocabularyCycle([[1, 3, 2], [4, 6, 0]], size=7)

# group of the inputs, their shape without the batch, group of the outputs
SETTINGS = {
    "trivial": (groups.Trivial(), (3, 4, 2), groups.Trivial()),
    "half turns": (groups.Cyclic(2), (3, 4, 2), groups.Cyclic(2)),
    "quarter turns": (groups.Cyclic(4), (4, 4, 2), groups.Cyclic(4)),
    "regular channels": (groups.Cyclic(4), (4, 4, 4), REGULAR),
    "mirror": (groups.Flip("width"), (3, 4, 2), groups.Flip("width")),
    "upside down": (groups.Flip("height"), (3, 4, 2), groups.Flip("height")),
    "dihedral": (groups.Dihedral(4), (4, 4, 2), groups.Dihedral(4)),
    "both mirrors": (MIRRORS, (3, 4, 2), MIRRORS),
    "permutations": (groups.Permutation(S3), (2, 3), groups.Permutation(S3)),
    "tokens": (VOCABULARY.ids, (5,), VOCABULARY),
    "states": (groups.Linear(C4_MATRICES), (2,), groups.Permutation(SHIFTS)),
}
WEIGHTINGS = {
    "mean": dict(),
    "lambda": dict(weighting="lambda", features="hidden", temperature=0.2),
    "argmin": dict(weighting="argmin", score="entropy"),
    "argmin max": dict(weighting="argmin", score="max_value", gradient="selected"),
}
OUTPUT_SIZES = {VOCABULARY: (7,), SETTINGS["states"][2]: (4,)}

each_setting = pytest.mark.parametrize("setting", SETTINGS)
each_weighting = pytest.mark.parametrize("weighting", WEIGHTINGS)


def network(shape, output_shape=(4,), dtype="float32", tokens=None):
    """An untrained network without any symmetry; its weights are of order one."""
    spread = keras.initializers.RandomNormal(stddev=0.7)
    dense = dict(kernel_initializer=spread, bias_initializer=spread, dtype=dtype)
    inputs = keras.Input(shape, dtype=dtype.removeprefix("mixed_") if tokens is None else "int32")
    x = inputs if tokens is None else keras.layers.Embedding(tokens, 3, spread, dtype=dtype)(inputs)
    x = keras.layers.Flatten(dtype=dtype)(x)
    x = keras.layers.Dense(6, "tanh", name="hidden", **dense)(x)
    x = keras.layers.Dense(int(np.prod(output_shape)), **dense)(x)
    return keras.Model(inputs, keras.layers.Reshape(output_shape, dtype=dtype)(x))


def wrap(setting, weighting="mean", invariant=False, dtype="float32", **options):
    group, shape, output_group = SETTINGS[setting]
    tokens = group.vocabulary
    output_shape = (4,) if invariant else OUTPUT_SIZES.get(output_group, shape)
    options = {**WEIGHTINGS[weighting], **options}
    if options.get("weighting") == "lambda":
        options["score"] = keras.layers.Dense(1, dtype=dtype)
    model = network(shape, output_shape, dtype, tokens)
    return EquiTune(model, group, None if invariant else output_group, dtype=dtype, **options)


def rng(seed):
    return np.random.default_rng(seed)


def sample(setting, batch=3, dtype="float64"):
    group, shape, _ = SETTINGS[setting]
    if group.vocabulary:
        return rng(1).integers(0, group.vocabulary, (batch, *shape))
    return rng(1).normal(size=(batch, *shape)).astype(dtype)


def classifier(shape=(4, 4, 2), **kwargs):
    return network(shape, **kwargs)


def members(wrapper, x):
    """`g^-1 M(g x)` for every element, one call of the model each."""
    group, output_group = wrapper.group, wrapper.output_group
    outputs = [wrapper.model(group.act(g, x)) for g in range(group.order)]
    if output_group is None:
        return np.stack([array(y) for y in outputs]), outputs
    back = [output_group.act(output_group.inverse(g), y) for g, y in enumerate(outputs)]
    return np.stack([array(y) for y in back]), outputs


@keras.saving.register_keras_serializable(package="tests")
class Counting(keras.layers.Layer):
    """Passes on, and notes how many rows it saw."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    def call(self, inputs):
        self.seen.append(inputs.shape[0])
        return ops.mean(inputs, axis=(1, 2))
