"""The cases of the contract: one for each public class, how to make it and what to call it with.

A new class needs one `case(...)` below.
"""

import importlib

import keras
import numpy as np
from contract import CASES, case, floats, images, integers

__all__ = ["CASES"]

# --- layers ---------------------------------------------------------------------------------------

TASKS = ("invariant", "equivariant")

case("layers.BatchNormalization", dict(momentum=0.9, epsilon=1e-5), [floats(4, 5, 3, 6)])
case("layers.BatchNormalization", dict(unbiased=False), [floats(8, 6)], name="biased")
case("layers.Conv2D", dict(filters=4, kernel_size=(3, 3), padding="same"), [floats(4, 5, 3, 6)])
case("layers.Projector", dict(units=4, hidden_units=(8, 6)), [floats(8, 5)])
case("layers.Projector", dict(units=4, hidden_units=(8,), batch_norm=False), [floats(8, 5)], name="plain")
case("layers.RoutedExperts", dict(units=4, num_experts=3, tasks=TASKS, hidden_units=(8, 6)), [floats(8, 5)])
case(
    "layers.RoutedExperts",
    lambda: dict(
        units=4,
        num_experts=5,
        hidden_units=(8,),
        router_units=(7,),
        batch_norm=False,
        top_k=2,
        kernel_initializer=keras.initializers.HeNormal(seed=1),
        bias_initializer="zeros",
    ),
    [floats(8, 5)],
    name="top_k",
)
case(
    "layers.RoutedExperts",
    dict(units=4, num_experts=3, tasks=TASKS, hidden_units=(8,), routing="shared"),
    [floats(8, 5)],
    name="shared",
)
case(
    "layers.RoutedExperts",
    dict(units=4, num_experts=2, tasks=TASKS, hidden_units=(8,), routing="separate"),
    [floats(8, 5)],
    name="separate",
)
case("layers.RoutedExperts", dict(units=4, num_experts=1), [floats(8, 5)], name="one")
case(
    "layers.EquivariantPredictor",
    dict(hidden_units=(8,), embedding_units=6, offset=[0.0, 0.5, -1.0], scale=[1.0, 2.0, 0.5]),
    [floats(8, 4), floats(8, 3)],
)
case("layers.EquivariantPredictor", dict(residual=False), [floats(8, 4), floats(8, 3)], name="plain")


def wrapped(weighting, group, ends_in="classes", **options):
    """A network on 6 x 6 maps, and a score where the weighting needs a layer, for `EquiTune`."""

    def arguments():
        inputs = keras.Input((6, 6, 2))
        maps = keras.layers.Conv2D(3, 3, padding="same", activation="tanh", name="maps")(inputs)
        pooled = keras.layers.Flatten(name="pooled")(keras.layers.AveragePooling2D(3)(maps))
        outputs = {"classes": keras.layers.Dense(4)(pooled), "maps": maps}
        name, *numbers = group
        own = getattr(importlib.import_module("star_keras.groups"), name)(*numbers)
        more = dict(options, output_group=own if ends_in == "maps" else None)
        if weighting == "lambda" and ends_in == "maps":
            pool = keras.layers.GlobalAveragePooling2D()
            more["score"] = keras.Sequential([keras.Input((6, 6, 3)), pool, keras.layers.Dense(1)])
        elif weighting == "lambda":
            more |= {"score": keras.layers.Dense(1), "features": "pooled"}
        return dict(model=keras.Model(inputs, outputs[ends_in]), group=own, weighting=weighting, **more)

    return arguments


for identity, arguments in {
    "": wrapped("mean", ("Cyclic", 4)),
    "lambda": wrapped("lambda", ("Dihedral", 4), temperature=0.1),
    "lambda_maps": wrapped("lambda", ("Dihedral", 4), ends_in="maps", max_orbit_batch=8),
    "argmin": wrapped("argmin", ("Cyclic", 4), score="confidence"),
    "argmin_first": wrapped("argmin", ("Flip", "height"), score="entropy", ties="first", gradient="identity"),
}.items():
    case("layers.EquiTune", arguments, [floats(4, 6, 6, 2)], name=identity)
arguments = wrapped("mean", ("Dihedral", 4), num_samples=3)
case("layers.EquiTune", arguments, [floats(4, 6, 6, 2)], name="drawn", same_everywhere=False)

case(
    "layers.RoutedExperts",
    dict(units=4, num_experts=4, hidden_units=(8,), router_noise=0.5, expert_dropout=0.3, top_k=2, seed=1),
    [floats(8, 5)],
    name="noise",
    same_everywhere=False,
)
case(
    "layers.RoutedExperts",
    lambda: dict(
        units=4, num_experts=2, experts=[keras.layers.Dense(4), keras.layers.Dense(4, activation="relu")],
        router_temperature=2.0,
    ),
    [floats(8, 5)],
    name="own",
)  # fmt: skip

# --- losses ---------------------------------------------------------------------------------------

case("losses.NTXent", dict(temperature=0.5), [floats(6, 4), floats(6, 4)])
case("losses.NTXent", dict(reduction=None), [floats(6, 4), floats(6, 4)], name="rows")

for distance in ("cosine", "squared"):
    arguments = dict(temperature=0.5, distance=distance)
    case("losses.SoftNearestNeighbor", arguments, [integers(9, high=3), floats(9, 2, 4)], name=distance)
case(
    "losses.SoftNearestNeighbor",
    dict(anchors="batch", optimize_temperature=True, ignore_class=2, reduction=None),
    [integers(9, high=4), floats(9, 4)],
    name="padding",
)

# --- augmentation ---------------------------------------------------------------------------------


def views(augmentation, images, draws):
    """Views and codes that follow from given draws, so that every backend makes the same."""
    draws = keras.ops.convert_to_tensor(draws[:, : augmentation.num_draws])
    parameters = augmentation.from_uniform(draws, images.shape[1:])
    return {"views": augmentation.apply(images, parameters), "code": augmentation.encode(parameters)}


def augmentations(*names):
    module = importlib.import_module("star_keras.augmentation")
    return [getattr(module, name)(**AUGMENTATIONS[name]) for name in names]


def uniform(*shape):
    """Numbers from U(0, 1)."""
    return lambda rng: rng.uniform(size=shape).astype("float32")


AUGMENTATIONS = {
    "RandomResizedCrop": dict(size=8, scale=(0.3, 1.0)),
    "HorizontalFlip": dict(probability=0.7),
    "ColorJitter": dict(hue=0.2),
    "Grayscale": dict(probability=0.4),
    "GaussianBlur": dict(kernel_size=3, sigma=(0.2, 1.0)),
    "Solarize": dict(threshold=100.0),
    "QuarterTurn": {},
}
for name, arguments in AUGMENTATIONS.items():
    case(f"augmentation.{name}", arguments, [images(6, 12, 12, 3), uniform(6, 40)], call=views)
case(
    "augmentation.Compose",
    lambda: dict(augmentations=augmentations("RandomResizedCrop", "GaussianBlur", "Grayscale")),
    [images(6, 12, 12, 3), uniform(6, 40)],
    call=views,
)

# --- metrics --------------------------------------------------------------------------------------


def gates(*shape):
    """Rows that sum to one."""
    return lambda rng: rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype("float32")


for name in ("RoutingEntropy", "UtilizationEntropy", "RoutingInformation", "ExpertLoad", "DeadExperts"):
    case(f"metrics.{name}", dict(num_experts=4), [gates(9, 4)])
for name in ("ClassRoutingEntropy", "ExpertClassEntropy"):
    arguments = dict(num_classes=3, num_experts=4, normalize=True)
    case(f"metrics.{name}", arguments, [integers(9, high=4), gates(9, 4)])  # one label is out of range

# --- models ---------------------------------------------------------------------------------------


def backbone():
    """The smallest image model that ends in features."""
    inputs = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(keras.layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(maps))


case("models.ResNet", dict(architecture="resnet20", input_shape=(8, 8, 3)), [images(4, 8, 8, 3)])
case("models.Classifier", lambda: dict(backbone=backbone(), num_classes=3), [images(4, 8, 8, 3)])

case(
    "models.LambdaEquiTune",
    lambda: dict(backbone=backbone(), num_classes=3, hidden_units=[5]),
    [images(4, 8, 8, 3)],
)
case(
    "models.MoECNN",
    dict(num_classes=3, num_experts=2, input_shape=(14, 14, 3), code_units=6, hidden_units=[5]),
    [images(4, 14, 14, 3)],
)

case("models.GPT", dict(vocabulary_size=7, max_length=6, units=8, num_heads=2), [integers(4, 5, high=7)])


def fair_text(**options):
    """A small language model and a group of order 3 that moves its vocabulary."""
    model = importlib.import_module("star_keras.models").GPT(vocabulary_size=7, units=8, num_heads=2)
    group = importlib.import_module("star_keras.groups").VocabularyCycle([[1, 3, 2], [4, 6, 0]], size=7)
    return dict(model=model, group=group, **options)


case("applications.language.EquiLM", fair_text, [integers(4, 5, high=7)])
case(
    "applications.language.EquiLM",
    lambda: fair_text(general_ids=[5]),
    [integers(4, 5, high=7)],
    name="relaxed",
)


def pairs(rng):
    """Four images with the ids of three words."""
    return {"images": images(4, 8, 8, 3)(rng), "token_ids": integers(4, 3, high=5)(rng)}


case(
    "models.DualEncoder",
    lambda: dict(backbone=backbone(), vocabulary=["a", "of", "photo", "church"], embedding_units=6),
    [pairs],
    targets=integers(4, high=3),
    compile={"loss": None},
)
case(
    "applications.zero_shot.ZeroShotClassifier",
    lambda: dict(image_encoder=backbone(), class_names=["church", "golf ball"], logit_scale=20.0),
    [images(4, 8, 8, 3)],
)

case("models.QNetwork", dict(state_size=4, num_actions=3, hidden_units=[6, 5]), [floats(5, 4)])


def symmetric(weighting):
    """A small Q-network and the quarter turns of a task with four moves."""

    def arguments():
        groups = importlib.import_module("star_keras.groups")
        turn = np.kron(np.eye(2), [[0, -1], [1, 0]])
        return dict(
            network=importlib.import_module("star_keras.models").QNetwork(4, 4, hidden_units=[6]),
            states=groups.Linear([np.linalg.matrix_power(turn, k) for k in range(4)]),
            actions=groups.Permutation([np.roll(np.arange(4), -k) for k in range(4)]),
            weighting=weighting,
            score_units=[5],
        )

    return arguments


for weighting in ("mean", "argmin", "lambda"):
    case("models.EquiTuneQNetwork", symmetric(weighting), [floats(5, 4)], name=weighting)


def sentences(rng):
    """Commands, padded at the end, and the actions said so far."""
    commands, actions = (rng.integers(3, 9, (5, length)).astype("int32") for length in (4, 6))
    commands[1:3, 2:] = 0
    return {"commands": commands, "actions": actions}


def exchanged(weighting, combine):
    """A small encoder-decoder and a group of order 3 that moves its words."""

    def arguments():
        models = importlib.import_module("star_keras.models")
        group = importlib.import_module("star_keras.groups").VocabularyCycle([[3, 5, 4], [8, 6, 7]], size=9)
        model = models.SequenceToSequence("gru", vocabulary_size=9, units=4, dropout=0.0)
        return dict(model=model, group=group, weighting=weighting, combine=combine, hidden_units=[5])

    return arguments


for cell in ("gru", "lstm", "rnn"):
    arguments = dict(cell=cell, vocabulary_size=9, units=4, dropout=0.0)
    case("models.SequenceToSequence", arguments, [sentences], name=cell)
for weighting, combine in (("mean", "step"), ("argmin", "sentence"), ("argmin", "step"), ("lambda", "step")):
    arguments = exchanged(weighting, combine)
    case("models.EquivariantSequenceToSequence", arguments, [sentences], name=f"{weighting}_{combine}")

# --- training -------------------------------------------------------------------------------------


def pretraining():
    """The parts of a small pretraining model."""
    layers = importlib.import_module("star_keras.layers")
    projector = layers.RoutedExperts(4, num_experts=2, tasks=TASKS, hidden_units=(6,))
    return dict(backbone=backbone(), augmentation=augmentations("HorizontalFlip")[0], projector=projector)


case("training.STARPretraining", pretraining, [images(4, 8, 8, 3)], same_everywhere=False)


def tapped():
    """A small classifier with a hidden layer to shape."""
    code = keras.layers.Dense(5, activation="relu", name="code")
    return keras.Sequential([keras.Input((6,)), code, keras.layers.Dense(3, activation="softmax")])


classification = dict(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
for name, options in {
    "": {},
    "trainable": dict(temperature="trainable", weight=-0.5, distance="squared", reduce="sum"),
    "improved": dict(temperature=2.0, optimize_temperature=True, reduce="last"),
}.items():
    case(
        "training.SoftNearestNeighborRegularization",
        lambda options=options: dict(model=tapped(), taps=("code",), **options),
        [floats(9, 6)],
        name=name,
        targets=integers(9, high=3),
        compile=classification,
    )
