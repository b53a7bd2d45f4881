"""Precision of boxes against values by hand, the packed pyramid, and detection as a user meets it."""

import json
import sys

import keras
import numpy as np
import pytest

import star_keras as sk
from star_keras.evaluation import average_precision, detection
from star_keras.evaluation.detector import frozen_maps
from star_keras.exceptions import NonFiniteError, ShapeError

RNG = np.random.default_rng(0)
BOX, NONE = [[0.0, 0.0, 10.0, 10.0]], np.zeros((0, 4))
IMAGES = RNG.integers(0, 256, (6, 32, 48, 3), dtype="uint8")


def scenes(num_images):
    """Images with one bright square of 8 or 16 pixels, its side the class."""
    images, boxes, labels = np.zeros((num_images, 32, 48, 3), "uint8"), [], []
    for i in range(num_images):
        label = i % 2
        side = (8, 16)[label]
        left, top = RNG.integers(0, 48 - side), RNG.integers(0, 32 - side)
        images[i, top : top + side, left : left + side] = 255
        boxes.append(np.array([[left, top, left + side, top + side]], "float32"))
        labels.append(np.array([label]))
    return images, boxes, labels


def backbone():
    keras.utils.set_random_seed(0)
    return sk.models.create("resnet20", input_shape=(32, 48, 3), stem="strided")


def found(boxes, scores, label=0):
    return np.array(boxes, "float32"), np.full(len(scores), label), np.array(scores)


def test_a_box_found_exactly_is_a_precision_of_one():
    precision = average_precision([BOX], [[0]], [found(BOX, [0.3])], num_classes=1)
    np.testing.assert_allclose([*precision[:3], *precision.per_class], 1.0)


def test_an_overlap_of_two_thirds_counts_at_four_thresholds_of_ten():
    half_shifted = [[2.0, 0.0, 12.0, 10.0]]  # 80 of 120 square pixels: 0.5, 0.55, 0.6, 0.65 are below
    precision = average_precision([BOX], [[0]], [found(half_shifted, [0.9])], num_classes=1)
    np.testing.assert_allclose(precision[:3], (0.4, 1.0, 0.0))


def test_a_surer_false_alarm_halves_precision_and_a_less_sure_one_costs_nothing():
    both = [BOX[0], [40.0, 40.0, 50.0, 50.0]]
    for scores, expected in (([0.9, 0.8], 1.0), ([0.8, 0.9], 0.5)):
        precision = average_precision([BOX], [[0]], [found(both, scores)], num_classes=1)
        np.testing.assert_allclose(precision.ap, expected)


def test_the_second_find_of_a_box_is_a_false_alarm_and_half_the_recall_is_half_the_precision():
    twice = found([BOX[0], BOX[0]], [0.9, 0.8])
    other = [[20.0, 20.0, 30.0, 30.0]]
    precision = average_precision([[BOX[0], other[0]]], [[0, 0]], [twice], num_classes=1)
    np.testing.assert_allclose(precision.ap, 51 / 101)  # recalls 0, 0.01 .. 0.5 of 0 .. 1


def test_classes_are_told_apart_and_one_without_boxes_does_not_count():
    precision = average_precision([BOX, BOX], [[0], [1]], [found(BOX, [1.0], label=0)] * 2, num_classes=3)
    np.testing.assert_allclose([*precision.per_class, precision.ap], [1.0, 0.0, np.nan, 0.5])
    assert json.loads(json.dumps(precision.to_dict(), allow_nan=False))["per_class"][1:] == [0.0, None]


def test_images_without_boxes_are_images_where_every_find_is_wrong():
    nothing = found(NONE, [])
    for second, expected in ((nothing, 1.0), (found(BOX, [0.9]), 0.5)):
        precision = average_precision([BOX, NONE], [[0], []], [found(BOX, [0.5]), second], num_classes=1)
        np.testing.assert_allclose(precision.ap, expected)
    assert average_precision([BOX], [[0]], [nothing], num_classes=1).ap == 0.0


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([BOX], [[0], [0]], "1 images, 1 arrays of boxes, 2 of labels"),
        ([BOX[0]], [[0]], "must be of shape .k, 4."),
        ([BOX], [[0, 0]], "with k labels"),
        ([[[10.0, 0.0, 0.0, 10.0]]], [[0]], "from left to right"),
        ([[[0.0, 5.0, 10.0, 5.0]]], [[0]], "from top to bottom"),
        ([[[0.0, 0.0, np.nan, 10.0]]], [[0]], "must be finite"),
        ([BOX], [[2]], r"must lie in 0 .. 1. Received: \[2\] for image 0"),
        ([BOX], [[-1]], "must lie in 0 .. 1"),
        ([NONE], [[]], "at least one true box"),
    ],
)
def test_boxes_and_labels_that_are_none_are_refused(boxes, labels, message):
    with pytest.raises(ValueError, match=message):
        average_precision(boxes, labels, [found(BOX, [1.0])], num_classes=2)


def test_broken_detections_are_no_perfect_ones():
    for boxes, scores in ((BOX, [np.nan]), ([[np.nan, 0, 10, 10]], [0.9]), ([[0, 0, np.inf, 10]], [0.9])):
        with pytest.raises(NonFiniteError, match="detections must be finite. Received: .* for image 0"):
            average_precision([BOX], [[0]], [found(boxes, scores)], num_classes=1)
    for label in (-1, 2, 0.6):
        with pytest.raises(
            ValueError, match="must be whole and must lie in 0 .. 1. Received: .* for image 0"
        ):
            average_precision([BOX], [[0]], [found(BOX, [0.9], label=label)], num_classes=2)
        with pytest.raises(ValueError, match="must be whole and must lie in 0 .. 1. Received"):
            average_precision([BOX], [[label]], [found(BOX, [0.9])], num_classes=2)
    with pytest.raises(ValueError, match="from left to right.*for image 0"):
        average_precision([BOX], [[0]], [found([[10, 0, 0, 10]], [0.9])], num_classes=1)
    with pytest.raises(ShapeError, match=r"boxes of shape \(1, 4\) and \(2,\) values"):
        average_precision([BOX], [[0]], [(np.array(BOX), np.zeros(1), np.ones(2))], num_classes=1)


def test_a_detection_without_area_is_a_false_alarm():
    flat = [[3.0, 3.0, 3.0, 8.0]]
    assert average_precision([BOX], [[0]], [found(flat, [0.9])], num_classes=1).ap == 0


def test_another_backend_is_refused_before_anything_is_trained(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(ValueError, match="needs the backend tensorflow.*Received: the backend torch"):
        detection(None, None, None, num_classes=2)


def test_the_pyramid_is_computed_once_and_packed_without_loss():
    network = backbone()
    maps, widths = frozen_maps(network, IMAGES, batch_size=4)
    assert maps.shape == (6, 8, 12, sum(widths)) and widths == [32, 64]
    for level, (name, stop) in enumerate(zip(("P2", "P3"), np.cumsum(widths), strict=True)):
        own = keras.Model(network.input, network.pyramid[name]).predict(IMAGES, verbose=0)
        unpacked = maps[:, :: 2**level, :: 2**level, stop - widths[level] : stop]
        np.testing.assert_allclose(unpacked, own, atol=1e-5)


def test_weights_that_are_not_finite_are_named():
    network = backbone()
    network.set_weights([np.full(weight.shape, np.nan) for weight in network.get_weights()])
    with pytest.raises(NonFiniteError, match="NaN or infinity in the pyramid"):
        frozen_maps(network, IMAGES)


def test_images_of_another_size_and_backbones_without_a_fine_map_are_refused():
    images, boxes, labels = scenes(2)
    with pytest.raises(ShapeError, match=r"`test` must hold an array of images of 32 x 48 pixels.*\(2, 16"):
        detection(backbone(), (images, boxes, labels), (images[:, :16], boxes, labels), num_classes=2)
    with pytest.raises(ShapeError, match="Received: list"):
        detection(backbone(), (list(images), boxes, labels), (images, boxes, labels), num_classes=2)
    with pytest.raises(ValueError, match="`test` must hold at least one box. Received: none in 2 images"):
        empty = images, [NONE] * 2, [np.zeros(0, int)] * 2
        detection(backbone(), (images, boxes, labels), empty, num_classes=2)
    coarse = keras.Sequential([keras.Input((32, 48, 3)), keras.layers.Conv2D(4, 3)])
    with pytest.raises(ShapeError, match="must take images of one size and have a map of stride 4"):
        detection(coarse, (images, boxes, labels), (images, boxes, labels), num_classes=2)
    with pytest.raises(ShapeError, match=r"Received: input shape \(None, None, None, 3\)"):
        any_size = sk.models.create("resnet20", input_shape=(None, None, 3))
        detection(any_size, (images, boxes, labels), (images, boxes, labels), num_classes=2)


@pytest.mark.parametrize("package", ["keras_cv", "pycocotools.coco"])
def test_a_missing_package_is_named_with_its_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    images, boxes, labels = scenes(2)
    with pytest.raises(ImportError, match=r"pip install 'star-keras\[detection\]'"):
        detection(backbone(), (images, boxes, labels), (images, boxes, labels), num_classes=2)


@pytest.mark.slow
def test_squares_are_found_and_the_backbone_is_left_as_it_was():
    train, test, network = scenes(48), scenes(16), backbone()
    train[1][0], train[2][0], train[0][0] = NONE, np.zeros(0, int), 0
    before = network.get_weights()
    arguments = {"num_classes": 2, "epochs": 40, "learning_rate": 4e-3, "anchor_sizes": (8, 12, 16)}
    result = detection(network, train, test, verbose=0, **arguments)
    assert result.ap50 > 0.5 and 0 <= result.ap75 <= result.ap50
    assert (result.num_train, result.num_test, result.num_boxes) == (48, 16, 16)
    assert result.to_dict()["per_class"] == result.per_class and len(result.per_class) == 2
    for was, now in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
