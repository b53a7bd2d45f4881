"""Augmentations draw by the documented laws, behave as Keras layers, and refuse what they cannot do."""

import json

import keras
import numpy as np
import pytest
from _augmentations import applied, arrays, blur_reference, each_kind, encoded, photographs
from keras import ops

from star_keras import augmentation as aug
from star_keras.exceptions import ShapeError

# --- parameters are the only randomness -----------------------------------------------------------


@each_kind
def test_views_replay_bit_for_bit(make):
    augmentation, images = make(), photographs(9, 14, 14)
    parameters = augmentation.sample(9, (14, 14, 3), seed=1)
    keras.utils.set_random_seed(1)
    first = applied(augmentation, images, parameters)
    keras.utils.set_random_seed(2)
    np.testing.assert_array_equal(applied(make(), images, arrays(parameters)), first)


@each_kind
def test_rows_of_two_draws_may_be_mixed(make):
    augmentation, images = make(), photographs(8, 14, 14)
    draws = [arrays(augmentation.sample(8, (14, 14, 3), seed)) for seed in (0, 1)]
    order = np.array([15, 0, 3, 9, 8, 2])
    both = np.concatenate([applied(augmentation, images, draw) for draw in draws])
    names = augmentation.parameter_names
    rows = {name: np.concatenate([draw[name] for draw in draws])[order] for name in names}
    mixed = applied(augmentation, np.concatenate([images, images])[order], rows)
    np.testing.assert_allclose(mixed, both[order], atol=1e-3)


@each_kind
def test_an_int_repeats_the_draw_and_a_generator_moves_on(make):
    augmentation, generator = make(), keras.random.SeedGenerator(4)
    same = [encoded(augmentation, augmentation.sample(64, (14, 14, 3), 7)) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    other = encoded(augmentation, augmentation.sample(64, (14, 14, 3), 8))
    moved = [encoded(augmentation, augmentation.sample(64, (14, 14, 3), generator)) for _ in range(2)]
    assert (same[0] != other).any() and (moved[0] != moved[1]).any()


@each_kind
def test_a_small_batch_draws_the_first_rows_of_a_large_one(make):
    augmentation = make()
    large, small = (augmentation.sample(count, (14, 14, 3), 7) for count in (9, 4))
    assert tuple(large) == tuple(small) == augmentation.parameter_names
    for name in large:
        assert large[name].dtype == small[name].dtype and "float32" in str(large[name].dtype)
    for whole, part in zip(arrays(large).values(), arrays(small).values(), strict=True):
        np.testing.assert_array_equal(whole[:4], part)


def test_the_parts_of_star_views_draw_independently():
    views = aug.star_views(32)
    for seed in (11, keras.random.SeedGenerator(11)):
        parameters = arrays(views.sample(4000, (32, 32, 3), seed))
        codes = np.concatenate([encoded(views, parameters), parameters["jitter_order"]], axis=1)
        kinds = [0] * 4 + [1] + [2] * 4 + [3, 4] + [5] * 4
        correlations = np.abs(np.corrcoef(codes.T))
        apart = np.not_equal.outer(kinds, kinds)
        assert correlations[apart].max() < 4.5 / 4000**0.5


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "float32", "float64"])
def test_images_of_any_type_and_layout_give_the_same_float32_views(dtype):
    views, images = aug.star_views(14), photographs(4, 14, 14)
    parameters = views.sample(4, (14, 14, 3), 0)
    other = np.asfortranarray(images.astype(dtype))
    other.flags.writeable = False
    view = views.apply(other, parameters)
    assert "float32" in str(view.dtype)
    np.testing.assert_array_equal(ops.convert_to_numpy(view), applied(views, images, parameters))


# --- laws of the draws ----------------------------------------------------------------------------

SIZES = [(32, 32), (96, 96), (45, 70), (7, 5), (1, 1), (2, 300)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_boxes_lie_inside_the_image_in_whole_pixels(size):
    crop = aug.RandomResizedCrop(32)
    box = encoded(crop, crop.sample(5000, (*size, 3), 0))
    np.testing.assert_array_equal(box, np.round(box))
    assert (box[:, :2] >= 0).all() and (box[:, 2:] >= 1).all()
    assert (box[:, 0] + box[:, 2] <= size[0]).all() and (box[:, 1] + box[:, 3] <= size[1]).all()


def test_boxes_have_the_area_and_the_ratio_asked_for():
    crop = aug.RandomResizedCrop(32, scale=(0.1, 0.3), ratio=(0.5, 1.5))
    _, _, height, width = encoded(crop, crop.sample(5000, (200, 300, 3), 0)).T
    area, ratio = height * width / 60000, width / height
    assert 0.098 < area.min() < 0.102 and 0.298 < area.max() < 0.302
    assert 0.49 < ratio.min() < 0.51 and 1.48 < ratio.max() < 1.52
    assert abs(area.mean() - 0.2) < 4.5 * 0.2 / 12**0.5 / 5000**0.5
    assert abs(np.log(ratio).mean() - np.log(0.75) / 2) < 4.5 * np.log(3) / 12**0.5 / 5000**0.5


@pytest.mark.parametrize(
    "size, box", [((1000, 3), (498, 0, 4, 3)), ((3, 1000), (0, 498, 3, 4)), ((1, 1), (0, 0, 1, 1))], ids=str
)
@pytest.mark.fault(47)
def test_where_no_box_fits_the_largest_in_the_middle_is_taken(size, box):
    crop = aug.RandomResizedCrop(8)
    np.testing.assert_array_equal(encoded(crop, crop.sample(20, (*size, 3), 0)), [box] * 20)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sampled_moments_match_the_computed_ones(size):
    views = aug.Compose([aug.star_views(32), aug.QuarterTurn(), aug.Solarize()])
    mean, std = views.moments((*size, 3))
    assert mean.dtype == std.dtype == "float32"
    codes = encoded(views, views.sample(20000, (*size, 3), 2)).astype("float64")
    varies = codes.std(axis=0) > 1e-3
    np.testing.assert_array_equal(std[~varies], 1)
    error = 20000**-0.5
    assert (np.abs(codes.mean(axis=0) - mean) <= 4.5 * error * std).all()
    fourth = np.mean(((codes - mean) / std)[:, varies] ** 4, axis=0)
    tolerance = 4.5 * error * np.sqrt(fourth - 1 + 1e-6) / 2 + 1e-4
    assert (np.abs(codes.std(axis=0)[varies] / std[varies] - 1) <= tolerance).all()


def test_moments_at_96_pixels_are_those_of_the_published_recipe():
    mean, std = aug.star_views(96).moments((96, 96, 3))
    np.testing.assert_allclose(mean[:4], [13.19, 13.16, 69.62, 69.64], atol=0.06)
    np.testing.assert_allclose(std[:4], [11.57, 11.56, 14.65, 14.64], atol=0.06)
    np.testing.assert_allclose(mean[4:], [0.5, 1, 1, 1, 0, 0.2, 0.525], atol=1e-6)
    jitter = (0.8 * 0.8**2 / 12) ** 0.5
    np.testing.assert_allclose(std[4:], [0.5, jitter, jitter, jitter, 0.0516398, 0.4, 0.652719], atol=1e-6)


RATES = {
    "HorizontalFlip": (lambda: aug.HorizontalFlip(0.3), 0.3),
    "ColorJitter": (aug.ColorJitter, 0.8),
    "Grayscale": (aug.Grayscale, 0.2),
    "GaussianBlur": (lambda: aug.GaussianBlur(3, sigma=(0.5, 2)), 0.5),
    "Solarize": (aug.Solarize, 0.2),
    "QuarterTurn": (aug.QuarterTurn, 0.75),
}


@pytest.mark.parametrize("make, rate", RATES.values(), ids=RATES)
def test_pixels_change_at_the_documented_rate(make, rate):
    augmentation, images = make(), photographs(2500, 4, 4)
    views = applied(augmentation, images, augmentation.sample(2500, (4, 4, 3), 6))
    changed = (np.abs(views - images).max(axis=(1, 2, 3)) > 0.1).mean()
    assert abs(changed - rate) < 4 * (rate * (1 - rate) / 2500) ** 0.5


@pytest.mark.parametrize("make", [aug.HorizontalFlip, lambda p: aug.GaussianBlur(3, probability=p)])
@pytest.mark.parametrize("probability", [0, 1])
def test_probability_zero_is_never_and_one_is_always(make, probability):
    augmentation = make(probability)
    happened = encoded(augmentation, augmentation.sample(500, (8, 8, 3), 0)) > 0
    assert happened.all() if probability else not happened.any()


def test_what_is_not_applied_is_encoded_as_neutral():
    kinds = [aug.HorizontalFlip, aug.ColorJitter, aug.Grayscale, aug.Solarize]
    never = aug.Compose([*(kind(probability=0) for kind in kinds), aug.GaussianBlur(3, probability=0)])
    codes = encoded(never, never.sample(50, (8, 8, 3), 0))
    np.testing.assert_array_equal(codes, [[0, 1, 1, 1, 0, 0, 0, 0]] * 50)


def test_every_order_of_the_jitter_is_as_likely():
    jitter = aug.ColorJitter()
    order = arrays(jitter.sample(12000, (8, 8, 3), 0))["jitter_order"]
    np.testing.assert_array_equal(np.sort(order, axis=1), [[0, 1, 2, 3]] * 12000)
    _, counts = np.unique(order, axis=0, return_counts=True)
    assert len(counts) == 24 and ((counts - 500) ** 2 / 500).sum() < 55  # chi-squared, 23 degrees: p = 2e-4


def test_equal_draws_still_give_an_order():
    uniform = np.full((1, 9), 0.25, "float32")
    order = arrays(aug.ColorJitter().from_uniform(ops.convert_to_tensor(uniform), (8, 8, 3)))["jitter_order"]
    np.testing.assert_array_equal(order, [[0, 1, 2, 3]])


def test_star_views_encode_the_eleven_numbers_of_the_paper_in_order():
    views = aug.star_views(96)
    assert views.columns == (
        "crop_top", "crop_left", "crop_height", "crop_width", "flip",
        "brightness", "contrast", "saturation", "hue", "grayscale", "sigma",
    )  # fmt: skip
    parameters = arrays(views.sample(6, (96, 96, 3), 0))
    codes = encoded(views, parameters)
    np.testing.assert_array_equal(codes[:, :4], parameters["crop"])
    np.testing.assert_array_equal(codes[:, 4:5], parameters["flip"])
    np.testing.assert_array_equal(codes[:, 5:9], parameters["jitter"])
    np.testing.assert_array_equal(codes[:, 9:10], parameters["grayscale"])
    np.testing.assert_array_equal(codes[:, 10:], parameters["sigma"])


@pytest.mark.parametrize("size, kernel_size", [(96, 9), (224, 23), (32, 3), (64, 7), (16, 3), (2, 3)])
def test_star_views_blur_under_the_odd_kernel_nearest_a_tenth_of_the_size(size, kernel_size):
    assert aug.star_views(size).augmentations[-1].kernel_size == kernel_size


# --- as a Keras layer -----------------------------------------------------------------------------


@each_kind
def test_config_round_trip_through_json(make):
    augmentation = make()
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(augmentation)))
    back = keras.saving.deserialize_keras_object(config)
    assert type(back) is type(augmentation) and back.columns == augmentation.columns
    images, parameters = photographs(5, 14, 14), augmentation.sample(5, (14, 14, 3), 3)
    again = back.sample(5, (14, 14, 3), 3)
    for values, other in zip(arrays(parameters).values(), arrays(again).values(), strict=True):
        np.testing.assert_array_equal(values, other)
    np.testing.assert_array_equal(applied(back, images, again), applied(augmentation, images, parameters))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float16"])
def test_everything_is_float32_whatever_the_policy(policy):
    views = aug.star_views(14)
    parameters = views.sample(4, (200, 200, 3), 0)
    images = photographs(4, 200, 200)
    keras.config.set_dtype_policy(policy)
    half = aug.star_views(14)
    again = aug.Compose(views.augmentations, dtype=policy)
    for other in (half, again):
        assert other.dtype_policy.name == "float32"
        np.testing.assert_array_equal(encoded(other, parameters), encoded(views, parameters))
        np.testing.assert_array_equal(applied(other, images, parameters), applied(views, images, parameters))
        assert other(images).dtype == "float32"


def test_as_a_layer_views_differ_in_training_and_are_plain_otherwise():
    layer = aug.RandomResizedCrop(8, seed=1)
    model = keras.Sequential([keras.Input((8, 8, 3), dtype="uint8"), layer, aug.HorizontalFlip(seed=2)])
    images = photographs(16, 8, 8)
    first, second = (ops.convert_to_numpy(model(images, training=True)) for _ in range(2))
    assert (first != second).any()
    np.testing.assert_array_equal(model.predict(images, verbose=0), images)
    assert model.output_shape == (None, 8, 8, 3)
    resized = aug.RandomResizedCrop(4)(images, training=False)
    assert tuple(resized.shape) == (16, 4, 4, 3)
    same = aug.RandomResizedCrop(8, seed=1)(images, training=True)
    again = aug.RandomResizedCrop(8, seed=1)(images, training=True)
    np.testing.assert_array_equal(ops.convert_to_numpy(same), ops.convert_to_numpy(again))


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "jit"])
def test_compiled_views_of_a_dynamic_batch_equal_eager_ones(jit):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("compiles with TensorFlow")
    views, images = aug.star_views(16), photographs(6, 20, 24)
    signature = [tf.TensorSpec((None, 20, 24, 3), "uint8")]

    @tf.function(input_signature=signature, jit_compile=jit)
    def compiled(images):
        parameters = views.sample(tf.shape(images)[0], images.shape[1:], 3)
        return parameters, views.apply(images, parameters), views.encode(parameters)

    for count in (6, 1):
        parameters, made, codes = compiled(images[:count])
        assert made.shape == (count, 16, 16, 3)
        np.testing.assert_allclose(made, applied(views, images[:count], parameters), atol=2e-3)
        np.testing.assert_array_equal(codes, encoded(views, parameters))


@pytest.mark.parametrize("jit", [False, True], ids=["graph", "jit"])
def test_training_step_draws_new_views_each_time(jit):
    class Codes(keras.Model):
        def __init__(self):
            super().__init__()
            self.views, self.dense = aug.star_views(8), keras.layers.Dense(1)
            self.seed_generator = keras.random.SeedGenerator(0)
            self.seen = keras.metrics.Mean(name="left")

        def build(self, images_shape):
            self.dense.build((None, 3))

        def call(self, images, training=None):
            parameters = self.views.sample(ops.shape(images)[0], images.shape[1:], self.seed_generator)
            self.seen.update_state(self.views.encode(parameters)[:, 1])
            return self.dense(ops.mean(self.views.apply(images, parameters), axis=(1, 2)))

    model = Codes()
    model.compile("sgd", "mse", jit_compile=jit)
    images, targets = photographs(4, 32, 32), np.zeros((4, 1))
    lefts = [model.train_on_batch(images, targets, return_dict=True)["left"] for _ in range(3)]
    assert len({float(left) for left in lefts}) == 3


# --- wrong arguments and odd images ---------------------------------------------------------------

WRONG = {
    "size 0": (lambda: aug.RandomResizedCrop(0), "`size`"),
    "size of three": (lambda: aug.RandomResizedCrop((8, 8, 3)), "`size`"),
    "size not whole": (lambda: aug.RandomResizedCrop((8, 7.5)), "`size`"),
    "scale turned round": (lambda: aug.RandomResizedCrop(8, scale=(0.9, 0.2)), "`scale`"),
    "scale above 1": (lambda: aug.RandomResizedCrop(8, scale=(0.2, 1.1)), "`scale`"),
    "ratio 0": (lambda: aug.RandomResizedCrop(8, ratio=(0, 1)), "`ratio`"),
    "probability 2": (lambda: aug.HorizontalFlip(2), "`probability`"),
    "probability -1": (lambda: aug.GaussianBlur(3, probability=-1), "`probability`"),
    "strength below 0": (lambda: aug.ColorJitter(brightness=-0.1), "`brightness`"),
    "hue 0.6": (lambda: aug.ColorJitter(hue=0.6), "`hue`"),
    "even kernel": (lambda: aug.GaussianBlur(4), "`kernel_size`"),
    "sigma 0": (lambda: aug.GaussianBlur(3, sigma=(0, 1)), "`sigma`"),
    "threshold 256": (lambda: aug.Solarize(256), "`threshold`"),
    "nothing composed": (lambda: aug.Compose([]), "`augmentations`"),
    "a foreign layer composed": (lambda: aug.Compose([keras.layers.RandomFlip()]), "`augmentations`"),
    "star views of 1": (lambda: aug.star_views(1), "`size`"),
    "no seed": (lambda: aug.Solarize().sample(2, (8, 8, 3), None), "`seed`"),
    "negative seed": (lambda: aug.Solarize().sample(2, (8, 8, 3), -1), "`seed`"),
    "seed not whole": (lambda: aug.Solarize().sample(2, (8, 8, 3), 0.5), "`seed`"),
    "parameter missing": (lambda: aug.ColorJitter().encode({"jitter": [[1, 1, 1, 0]]}), "jitter_order"),
}


@pytest.mark.parametrize("call, named", WRONG.values(), ids=WRONG)
def test_wrong_argument_is_named_with_what_was_received(call, named):
    with pytest.raises(ValueError, match=f"(?s){named}.*Received: "):
        call()


QUARTER = {"quarters": [[1]]}
WRONG_SHAPES = {
    "image without batch": (lambda: aug.Solarize().apply(np.zeros((8, 8, 3)), {"solarize": [[1]]}), "batch"),
    "one row for two": (lambda: aug.Solarize().apply(np.zeros((2, 8, 8, 3)), {"solarize": [[1]]}), "row"),
    "grey image": (lambda: aug.star_views(8).apply(*_with_parameters((8, 8, 1))), "three channels"),
    "alpha": (lambda: aug.Grayscale().apply(np.zeros((1, 8, 8, 4)), {"grayscale": [[1]]}), "three channels"),
    "turn of an oblong": (lambda: aug.QuarterTurn().sample(2, (8, 9, 3), 0), "high as they are wide"),
    "turn of an oblong image": (lambda: aug.QuarterTurn().apply(np.zeros((1, 8, 9, 3)), QUARTER), "as high"),
    "unknown size": (lambda: aug.star_views(8).sample(2, (None, 8, 3), 0), "image_shape"),
    "empty image": (lambda: aug.star_views(8).sample(2, (0, 8, 3), 0), "image_shape"),
    "batch in the shape": (lambda: aug.star_views(8).moments((2, 8, 8, 3)), "image_shape"),
    "blur wider than the image": (lambda: aug.GaussianBlur(9).sample(2, (4, 30, 3), 0), "at least 5 x 5"),
}


def _with_parameters(image_shape):
    return np.zeros((1, *image_shape)), aug.star_views(8).sample(1, (8, 8, 3), 0)


@pytest.mark.fault(47)
@pytest.mark.parametrize("call, named", WRONG_SHAPES.values(), ids=WRONG_SHAPES)
def test_wrong_shape_is_refused_with_the_shape_received(call, named):
    with pytest.raises(ShapeError, match=f"(?s){named}.*Received: "):
        call()


@pytest.mark.fault(47)
@pytest.mark.parametrize("size", [(1, 1), (10000, 3), (3, 5), (33, 31)], ids=str)
def test_images_smaller_than_the_crop_or_of_odd_sizes_give_finite_views(size):
    views = aug.star_views(16)
    images = np.full((3, *size, 3), 77, "uint8")
    parameters = views.sample(3, (*size, 3), 0)
    view = applied(views, images, {**parameters, "jitter": [[1, 1, 1, 0]] * 3})
    assert view.shape == (3, 16, 16, 3)
    np.testing.assert_allclose(view, 77, atol=1e-3)


@pytest.mark.fault(47)
def test_blur_refuses_an_image_with_too_little_to_reflect_and_names_the_least_size():
    with pytest.raises(ShapeError, match="at least 5 x 5"):
        aug.GaussianBlur(9).apply(np.zeros((1, 4, 8, 3)), {"sigma": [[1]]})
    smallest = applied(aug.GaussianBlur(9), photographs(1, 5, 5), {"sigma": [[1]]})
    np.testing.assert_allclose(smallest[0], blur_reference(photographs(1, 5, 5)[0], 1, 9), atol=1e-3)
