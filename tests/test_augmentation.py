"""Augmentations do to pixels what their parameters say, fused or not, on every backend."""

import colorsys
import itertools
import json

import keras
import numpy as np
import pytest
from _augmentations import applied, arrays, blur_reference, encoded, photographs
from _elsewhere import run_elsewhere
from PIL import Image

from star_keras import augmentation as aug

# --- references: naive, one image at a time, in float64 -------------------------------------------


def crop_reference(image, box, size):
    top, left, height, width = (int(side) for side in box)
    patch = image[top : top + height, left : left + width].astype("float32")
    channels = [
        np.asarray(Image.fromarray(patch[..., c]).resize((size, size), Image.Resampling.BILINEAR))
        for c in range(patch.shape[2])
    ]
    return np.stack(channels, axis=-1)


def jitter_reference(image, factors, order):
    brightness, contrast, saturation, hue = (float(factor) for factor in factors)
    image = image.astype("float64") / 255
    for operation in np.argsort(order):
        if operation == 0:
            image = np.clip(image + brightness - 1, 0, 1)
        elif operation == 1:
            image = np.clip(image * contrast, 0, 1)
        else:
            pixels = image.reshape(-1, 3).copy()
            for i, (h, s, v) in enumerate([colorsys.rgb_to_hsv(*pixel) for pixel in pixels]):
                s, h = (min(s * saturation, 1), h) if operation == 2 else (s, (h + hue) % 1)
                pixels[i] = colorsys.hsv_to_rgb(h, s, v)
            image = pixels.reshape(image.shape)
    return 255 * image


def star_reference(image, code, order, size, kernel_size):
    """The view that the eleven numbers, and the order they leave out, describe."""
    view = crop_reference(image, code[:4], size)
    view = view[:, ::-1] if code[4] else view
    view = jitter_reference(view, code[5:9], order)
    view = np.repeat(view @ [[0.299], [0.587], [0.114]], 3, axis=2) if code[9] else view
    return blur_reference(view, code[10], kernel_size) if code[10] else view


# --- the view is the one that the parameters and the encoded numbers describe ---------------------


@pytest.mark.parametrize("source", [(32, 32), (45, 70), (20, 31), (40, 33)], ids=str)
def test_encoded_numbers_reproduce_the_view_from_the_source(source):
    images, augmentation = photographs(16, *source), aug.star_views(32)
    parameters = arrays(augmentation.sample(16, (*source, 3), seed=3))
    codes = encoded(augmentation, parameters)
    assert codes[:, 4].any() and codes[:, 9].any() and codes[:, 10].any() and (codes[:, 8] != 0).any()
    views = applied(augmentation, images, parameters)
    for image, view, code, order in zip(images, views, codes, parameters["jitter_order"], strict=True):
        np.testing.assert_allclose(view, star_reference(image, code, order, 32, 3), atol=3e-3)


@pytest.mark.parametrize(
    "box", [(0, 0, 40, 50), (3, 7, 20, 30), (39, 49, 1, 1), (0, 10, 33, 9), (10, 0, 9, 50)], ids=str
)
@pytest.mark.parametrize("size", [8, 31, 64])
def test_crop_resizes_as_pillow_does(box, size):
    image = photographs(1, 40, 50)
    view = applied(aug.RandomResizedCrop(size), image, {"crop": np.array([box], "float32")})
    np.testing.assert_allclose(view[0], crop_reference(image[0], box, size), atol=2e-3)


def test_crop_to_a_pair_of_sizes_takes_height_first():
    view = aug.RandomResizedCrop((6, 9)).apply(photographs(1, 8, 8), {"crop": [[0, 0, 8, 8]]})
    assert tuple(view.shape) == (1, 6, 9, 3)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_jitter_in_every_order_equals_the_naive_one(order):
    rng = np.random.default_rng(sum(10**place * operation for place, operation in enumerate(order)))
    grey = np.repeat([0, 1, 77, 255], 12).reshape((1, 4, 4, 3))
    images = np.concatenate([photographs(7, 4, 4, seed=1), grey])
    low, high = np.array([[0.0, 0.0, 0.0, -0.5], [2.0, 3.0, 4.0, 0.5]])
    factors = rng.uniform(low, high, (8, 4))
    factors[0], factors[1], factors[2] = (2, 0, 0, 0.5), (0, 1, 1, -0.5), (1.3, 0.7, 1.4, -0.1)
    orders = np.tile(np.argsort(order), (8, 1))
    views = applied(aug.ColorJitter(), images, {"jitter": factors, "jitter_order": orders})
    for image, view, own in zip(images, views, factors, strict=True):
        np.testing.assert_allclose(view, jitter_reference(image, own, orders[0]), atol=2e-3)


@pytest.mark.parametrize("kernel_size", [1, 3, 9])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0, 30.0])
def test_blur_equals_a_reflected_gaussian(sigma, kernel_size):
    image = photographs(1, 5, 11)
    view = applied(aug.GaussianBlur(kernel_size), image, {"sigma": [[sigma]]})
    np.testing.assert_allclose(view[0], blur_reference(image[0], sigma, kernel_size), atol=1e-3)


def test_quarter_turns_are_those_of_numpy_and_their_code_is_the_angle():
    images, turn = photographs(4, 5, 5), aug.QuarterTurn()
    views = applied(turn, images, {"quarters": [[0], [1], [2], [3]]})
    for quarters, (image, view) in enumerate(zip(images, views, strict=True)):
        np.testing.assert_array_equal(view, np.rot90(image, quarters))
    codes = encoded(turn, {"quarters": [[0], [1], [2], [3]]})
    np.testing.assert_array_equal(codes, [[1, 0], [0, 1], [-1, 0], [0, -1]])


def test_solarize_inverts_from_the_threshold_on():
    row = np.array([0, 99, 100, 255], "uint8").reshape((1, 1, 4, 1))
    view = applied(aug.Solarize(100), row, {"solarize": [[1]]})
    np.testing.assert_array_equal(view.ravel(), [0, 99, 155, 0])


NEUTRAL = {
    "RandomResizedCrop": (lambda: aug.RandomResizedCrop(12), {"crop": [[0, 0, 12, 12]]}),
    "HorizontalFlip": (aug.HorizontalFlip, {"flip": [[0]]}),
    "ColorJitter": (aug.ColorJitter, {"jitter": [[1, 1, 1, 0]], "jitter_order": [[2, 0, 3, 1]]}),
    "Grayscale": (aug.Grayscale, {"grayscale": [[0]]}),
    "GaussianBlur": (lambda: aug.GaussianBlur(5), {"sigma": [[0]]}),
    "Solarize": (aug.Solarize, {"solarize": [[0]]}),
    "QuarterTurn": (aug.QuarterTurn, {"quarters": [[0]]}),
}


@pytest.mark.parametrize("make, parameters", NEUTRAL.values(), ids=NEUTRAL)
def test_neutral_parameters_give_the_image_back(make, parameters):
    image = photographs(1, 12, 12)
    np.testing.assert_allclose(applied(make(), image, parameters), image, atol=1e-4)


def test_neutral_parameters_of_star_views_give_the_image_back():
    image, views = photographs(1, 12, 12), aug.star_views(12)
    parameters = {name: values for _, one in NEUTRAL.values() for name, values in one.items()}
    np.testing.assert_allclose(applied(views, image, parameters), image, atol=1e-4)


# --- one fused pass -------------------------------------------------------------------------------

CHAINS = {
    "star": lambda: list(aug.star_views(16).augmentations),
    "linear": lambda: [
        aug.RandomResizedCrop(16),
        aug.GaussianBlur(3),
        aug.HorizontalFlip(),
        aug.GaussianBlur(5),
    ],
    "crop twice": lambda: [aug.RandomResizedCrop(20), aug.HorizontalFlip(), aug.RandomResizedCrop((9, 14))],
    "colour first": lambda: [aug.ColorJitter(), aug.HorizontalFlip(), aug.RandomResizedCrop(8)],
    "flip first": lambda: [aug.HorizontalFlip(), aug.QuarterTurn(), aug.GaussianBlur(3), aug.QuarterTurn()],
    "nested": lambda: [
        aug.Compose([aug.RandomResizedCrop(16), aug.Solarize()]),
        aug.Solarize(9),
        aug.QuarterTurn(),
    ],
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_fused_chain_equals_one_after_the_other(chain):
    chain, images = chain(), photographs(12, 18, 18)
    composed = aug.Compose(chain)
    parameters = arrays(composed.sample(12, (18, 18, 3), seed=5))
    views, names = images, iter(composed.parameter_names)
    for one in chain:
        views = applied(one, views, {name: parameters[next(names)] for name in one.parameter_names})
    fused = applied(composed, images, parameters)
    assert fused.shape == views.shape == composed.compute_output_shape(images.shape)
    np.testing.assert_allclose(fused, views, atol=2e-3)


def test_names_met_twice_are_numbered_and_drawn_independently():
    pair = aug.Compose([aug.HorizontalFlip(), aug.HorizontalFlip()])
    chain = aug.Compose([aug.HorizontalFlip(), pair, aug.HorizontalFlip()])
    assert chain.columns == chain.parameter_names == ("flip", "flip_2", "flip_2_2", "flip_3")
    flips = encoded(chain, chain.sample(2000, (8, 8, 3), seed=0))
    assert np.abs(np.corrcoef(flips.T) - np.eye(4)).max() < 4 / 2000**0.5


def test_an_augmentation_that_only_applies_can_be_composed():
    class Negative(aug.Augmentation):
        def apply(self, images, parameters):
            return 255.0 - images

    images = photographs(2, 6, 6)
    composed = aug.Compose([aug.Grayscale(), Negative(), aug.HorizontalFlip()])
    view = applied(composed, images, {"grayscale": [[0], [0]], "flip": [[0], [1]]})
    np.testing.assert_allclose(view, np.stack([255.0 - images[0], 255.0 - images[1, :, ::-1]]), atol=1e-4)


# --- other backends -------------------------------------------------------------------------------

OTHER_BACKEND = """
import sys
import numpy as np
import keras
from star_keras import augmentation as aug
given = dict(np.load(sys.argv[1]))
images = given.pop("images")
augmentation = keras.saving.deserialize_keras_object(__import__("json").loads(sys.argv[3]))
generator = keras.random.SeedGenerator(0)
drawn = [keras.ops.convert_to_numpy(augmentation.encode(augmentation.sample(6, (20, 20, 3), seed)))
         for seed in (5, 5, generator, generator)]
np.savez(sys.argv[2], views=keras.ops.convert_to_numpy(augmentation.apply(images, given)),
         codes=keras.ops.convert_to_numpy(augmentation.encode(given)), drawn=np.stack(drawn))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", sorted({"tensorflow", "jax", "torch"} - {keras.backend.backend()}))
def test_given_parameters_make_the_same_views_on_every_backend(backend, tmp_path):
    augmentation = aug.Compose([*aug.star_views(16).augmentations, aug.Solarize(), aug.QuarterTurn()])
    images, parameters = photographs(12, 20, 20), arrays(augmentation.sample(12, (20, 20, 3), 3))
    np.savez(tmp_path / "given.npz", images=images, **parameters)
    config = json.dumps(keras.saving.serialize_keras_object(augmentation))
    run_elsewhere(OTHER_BACKEND, tmp_path / "given.npz", tmp_path / "made.npz", config, backend=backend)
    made = np.load(tmp_path / "made.npz")
    np.testing.assert_allclose(made["views"], applied(augmentation, images, parameters), atol=5e-3)
    np.testing.assert_array_equal(made["codes"], encoded(augmentation, parameters))
    repeated, again, first, second = made["drawn"]
    np.testing.assert_array_equal(repeated, again)
    assert (first != second).any()


def test_sizes_may_be_numbers_of_numpy():
    views = aug.star_views(np.int64(8))
    assert views.compute_output_shape((1, 16, 16, 3)) == (1, 8, 8, 3)
    oblong = aug.RandomResizedCrop(np.array([8, 6]))
    assert oblong.size == (8, 6) and type(oblong.size[0]) is int
