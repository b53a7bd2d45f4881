"""What is said about pixels on another scale, where they are seen, and where nothing is said."""

import warnings

import keras
import numpy as np
import pytest
from _elsewhere import assert_laws_hold

from star_keras import models, training
from star_keras.augmentation import star_views
from star_keras.exceptions import ShapeError
from star_keras.groups import Cyclic
from star_keras.layers import EquiTune, RoutedExperts

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype("float32")
LABELS = np.array([0, 1, 2, 0])
WRONG = {
    "divided by 255": IMAGES / 255,
    "from -1 to 1": IMAGES / 127.5 - 1,
    "standardised": (IMAGES - 127) / 64,
    "sparse and standardised": np.where(IMAGES > 250, 2.8, -0.42).astype("float32"),
    "without the mean": IMAGES - 127,
}
RIGHT = {
    "as they are": IMAGES,
    "black": 0 * IMAGES,
    "white": 0 * IMAGES + 255,
    "night": IMAGES / 64,
    "resized beyond the range": IMAGES * 1.3 - 38,
    "night, resized beyond the range": IMAGES / 8 - 3,
    "rounded": IMAGES - 1e-5,
}


class Batches(keras.utils.PyDataset):
    def __init__(self, images, labels):
        super().__init__()
        self.images, self.labels, self.visits = images, labels, []

    def __len__(self):
        return 2

    def __getitem__(self, index):
        self.visits.append(index)
        rows = slice(2 * index, 2 * index + 2)
        return (self.images[rows],) if self.labels is None else (self.images[rows], self.labels[rows])


def classifier():
    model = models.create("moe_cnn", num_classes=3, num_experts=2, input_shape=(16, 16, 3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def star(backbone=None):
    pooled = keras.layers.GlobalAveragePooling2D()
    return training.STARPretraining(
        backbone or keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3), pooled]),
        star_views(16),
        RoutedExperts(4, num_experts=2, tasks=("invariant", "equivariant")),
    )


def warned(act, *arguments, **options):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        act(*arguments, **options)
    return [str(one.message) for one in seen if "[0, 255]" in str(one.message)]


@pytest.mark.fault(46)
@pytest.mark.parametrize("act", ["fit", "evaluate", "predict", "__call__"])
@pytest.mark.parametrize("kind", WRONG)
def test_pixels_on_another_scale_are_warned_about(kind, act):
    model, images = classifier(), WRONG[kind]
    rest = [LABELS] if act in ("fit", "evaluate") else []
    silent = {} if act == "__call__" else {"verbose": 0}
    (message, *_) = warned(getattr(model, act), images, *rest, **silent)
    assert ("smallest pixel" in message) == (images.min() < 0)


@pytest.mark.fault(46)
@pytest.mark.parametrize("act", ["predict", "__call__"])
@pytest.mark.parametrize("kind", RIGHT)
def test_dark_and_constant_images_and_pixels_just_out_of_range_are_not(kind, act):
    assert not warned(getattr(classifier(), act), RIGHT[kind])


@pytest.mark.fault(46)
@pytest.mark.parametrize("act", ["fit", "evaluate", "predict"])
@pytest.mark.parametrize("wrap", ["image model", "equitune", "neighbors", "star"])
def test_the_first_batch_of_a_py_dataset_is_looked_at(wrap, act):
    model = {
        "image model": classifier,
        "equitune": lambda: EquiTune(classifier(), Cyclic(4)),
        "neighbors": lambda: training.SoftNearestNeighborRegularization(classifier(), "code"),
        "star": star,
    }[wrap]()
    losses = [] if wrap == "star" else ["sparse_categorical_crossentropy"]
    model.compile("sgd", *losses)
    labels = None if wrap == "star" else LABELS
    assert warned(getattr(model, act), Batches(IMAGES / 255, labels), verbose=0)
    assert not warned(getattr(model, act), Batches(IMAGES, labels), verbose=0)


def test_held_out_images_are_looked_at_once_and_a_generator_is_left_alone():
    model, held_out = classifier(), Batches(IMAGES / 255, LABELS)
    model.evaluate(Batches(IMAGES, LABELS), verbose=0)  # what Keras itself reads ahead
    options = {"epochs": 3, "shuffle": False, "verbose": 0}
    assert warned(model.fit, IMAGES, LABELS, validation_data=held_out, **options)
    looks = held_out.visits.count(0)
    plain = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    plain.compile("sgd", "sparse_categorical_crossentropy")
    unseen = Batches(IMAGES / 255, LABELS)
    plain.fit(IMAGES, LABELS, validation_data=unseen, **options)
    assert looks == unseen.visits.count(0) + 1
    taken = []

    def generator():
        for start in (0, 2):
            taken.append(start)
            yield IMAGES[start : start + 2], LABELS[start : start + 2]

    model.fit(generator(), steps_per_epoch=2, shuffle=False, verbose=0)
    assert taken == [0, 2]


def test_shapes_are_inferred_without_a_word_about_pixels():
    model = star(models.create("resnet20", input_shape=(16, 16, 3)))
    model.build(IMAGES.shape)
    model.compile("sgd")
    assert not warned(model.fit, IMAGES, verbose=0)
    assert not warned(model.evaluate, IMAGES, verbose=0)
    assert warned(model, IMAGES / 255)
    for wrapper in (EquiTune(classifier(), Cyclic(4)), subclassed()):
        wrapper.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        assert not warned(wrapper.fit, IMAGES, LABELS, verbose=0)


def subclassed():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner, self.head = classifier(), keras.layers.Dense(3, activation="softmax")

        def call(self, images):
            if keras.backend.backend() == "torch":
                float(images.sum())  # so that Keras infers the shapes from numbers, which it makes up
            return self.head(self.inner(images))

    return Subclassed()


@pytest.mark.slow
@pytest.mark.fault(46, 60)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_pixels_are_looked_at_alike_on_other_backends(backend):
    assert_laws_hold(backend, [__file__], "warned or py_dataset or inferred or dark or once")


@pytest.mark.fault(46)
@pytest.mark.parametrize("act", ["fit", "evaluate", "predict"])
def test_a_list_of_images_is_told_to_become_one_array(act):
    small = IMAGES[1, :12]
    for model in (classifier(), EquiTune(classifier(), Cyclic(4)), star()):
        with pytest.raises(ShapeError, match=r"several shapes.*data\.load\(\.\.\., size="):
            getattr(model, act)([IMAGES[0], small])
        for images in (list(IMAGES), IMAGES.tolist()):
            with pytest.raises(ShapeError, match=r"a list of 4.*`np\.asarray\(images\)`"):
                getattr(model, act)(images)
    assert classifier().predict([IMAGES], verbose=0).shape == (4, 3)
