"""Object detection on frozen features: what a backbone knows of where things are."""

import contextlib
import dataclasses
import warnings

import keras
import numpy as np
from keras import layers

from star_keras.backend import require_tensorflow
from star_keras.evaluation.boxes import average_precision, check_boxes, pycocotools
from star_keras.exceptions import NonFiniteError, ShapeError
from star_keras.optional import needed

STRIDE = 4
LEVELS = ("P2", "P3", "P4")
WIDTH = 32
ASPECT_RATIOS, SCALES = (0.5, 1.0, 2.0), (1.0, 2 ** (1 / 3), 2 ** (2 / 3))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionResult:
    """What `detection` measured.

    Attributes:
        ap: COCO average precision, mean over overlaps of 0.5 to 0.95 and over classes, in [0, 1].
        ap50, ap75: at overlaps of 0.5 and 0.75.
        per_class: `ap` of each class; None for one without boxes in the test images.
        num_train, num_test: images.
        num_boxes: boxes in the test images.
        epochs, seed: as given.
    """

    ap: float
    ap50: float
    ap75: float
    per_class: list
    num_train: int
    num_test: int
    num_boxes: int
    epochs: int
    seed: int

    def to_dict(self):
        """The fields as a dict of plain Python values."""
        return dataclasses.asdict(self)


def detection(
    backbone,
    train,
    test,
    num_classes,
    epochs=60,
    learning_rate=1e-3,
    batch_size=16,
    anchor_sizes=(8, 20, 40),
    seed=0,
    verbose="auto",
):
    """Average precision of a RetinaNet that is trained on the frozen pyramid of a backbone.

    The maps of the backbone, of stride 4 and coarser, are computed once; a small feature pyramid and two
    heads of 32 channels, of keras-cv's `RetinaNet`, learn on them, by the focal loss of the classes and the
    smooth L1 loss of the corners, with Adam and a cosine to zero. Levels up to stride 16 that a
    backbone does not have are learned from the coarsest it has. It runs on TensorFlow alone, which keras-cv
    computes boxes with.

    Args:
        backbone: an image model with `pyramid`, such as a `ResNet`, for images of one size.
        train, test: `(images, boxes, labels)`: an array of images; for each a float array `(k, 4)` of left,
            top, right, bottom in pixels; for each integers `(k,)`. An image may be without boxes, not all.
        num_classes: number of classes.
        epochs: Defaults to 60.
        learning_rate: at the start. Defaults to 1e-3.
        batch_size: Defaults to 16.
        anchor_sizes: sides in pixels of the square anchors of stride 4, 8 and 16; each comes in three
            scales up to 1.6 times as large and three aspect ratios. Defaults to `(8, 20, 40)`.
        seed: of initialisation and order. Defaults to 0.
        verbose: of `fit`. Defaults to `"auto"`.

    Returns:
        A `DetectionResult`.

    Raises:
        ImportError: without keras-cv or pycocotools (extra `detection`).
        ShapeError: if the backbone has no map of stride 4, or the images are of another size.
        ValueError: if boxes or labels are malformed, or on another backend than TensorFlow.
        NonFiniteError: if a feature or a detection is NaN or infinite.

    Example: `examples/evidence/detection.py`, on blood cells.

    Reference: Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017); Jeon et al., "Soft
    Task-Aware Routing of Experts" (NeurIPS 2025), section 4, detection with a frozen backbone.
    """
    require_tensorflow("Detection by keras-cv")
    keras_cv, _ = needed("keras_cv", "Detection needs keras-cv", "detection"), pycocotools()
    for name, part in (("train", train), ("test", test)):
        _check(name, part, backbone, num_classes)
    (images, boxes, labels), (test_images, test_boxes, test_labels) = train, test
    maps, widths = frozen_maps(backbone, images)
    anchors = keras_cv.layers.AnchorGenerator(
        bounding_box_format="xyxy",
        sizes=[size / STRIDE for size in anchor_sizes],
        scales=list(SCALES),
        aspect_ratios=list(ASPECT_RATIOS),
        strides=[2**level for level in range(len(LEVELS))],
    )
    keras.utils.set_random_seed(seed)
    detector = _retinanet(keras_cv, maps.shape[1:], widths, num_classes, anchors)
    steps = epochs * -(-len(images) // batch_size)
    detector.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
        box_loss="smoothl1",
        classification_loss="focal",
        jit_compile=False,
    )
    with _images_without_name():
        detector.fit(maps, _padded(boxes, labels), batch_size=batch_size, epochs=epochs, verbose=verbose)
    found = _detections(detector, frozen_maps(backbone, test_images)[0], batch_size)
    precision = average_precision(test_boxes, test_labels, found, num_classes)
    return DetectionResult(
        **precision.to_dict(),
        num_train=len(images),
        num_test=len(test_images),
        num_boxes=sum(map(len, test_boxes)),
        epochs=epochs,
        seed=seed,
    )


def frozen_maps(backbone, images, batch_size=32):
    """The maps of stride 4 and coarser, in one array: coarse ones repeated to the grid of the finest.

    keras-cv's `RetinaNet` trains on one array of images; this is what it gets in their place.

    Returns:
        `(maps, widths)`: a float32 array `(n, height / 4, width / 4, channels)`, and the channels of each
        level. `maps[:, ::2, ::2]` of the second level's channels is that level again.
    """
    levels = [level for level in LEVELS if level in backbone.pyramid]
    model = keras.Model(backbone.input, [backbone.pyramid[level] for level in levels])
    found = model.predict(np.asarray(images), batch_size=batch_size, verbose=0)
    found = found if isinstance(found, list) else [found]
    height, width = found[0].shape[1:3]
    repeated = [
        np.repeat(np.repeat(level, 2**i, axis=1), 2**i, axis=2)[:, :height, :width]
        for i, level in enumerate(found)
    ]
    maps = np.concatenate(repeated, axis=-1).astype("float32")
    if not np.isfinite(maps).all():
        raise NonFiniteError(
            "Features must be finite. Received: NaN or infinity in the pyramid; look at the weights, "
            "or compute in float32."
        )
    return maps, [level.shape[-1] for level in found]


def _retinanet(keras_cv, shape, widths, num_classes, anchors):
    """A RetinaNet on packed maps. In units of their cells its anchors are those of the image."""
    packed = keras.Input(shape)
    ends = np.cumsum(widths)
    levels = {}
    for i, name in enumerate(LEVELS):
        if i < len(widths):
            own = packed[:, :: 2**i, :: 2**i, ends[i] - widths[i] : ends[i]]
        else:
            own = _convolution(levels[LEVELS[i - 1]], strides=2)
        levels[name] = layers.Activation("linear", name=name)(own)
    extractor = keras.Model(packed, levels)
    # keras-cv has fixed names for the three levels
    extractor.pyramid_level_inputs = dict(zip(("P3", "P4", "P5"), LEVELS, strict=True))
    kinds = len(SCALES) * len(ASPECT_RATIOS)
    rare = keras.initializers.Constant(-np.log(99.0))  # a probability of 1 %: most anchors are background
    return keras_cv.models.RetinaNet(
        extractor,
        num_classes,
        bounding_box_format="xyxy",
        anchor_generator=anchors,
        prediction_decoder=keras_cv.layers.NonMaxSuppression(
            bounding_box_format="xyxy", from_logits=True, iou_threshold=0.5, confidence_threshold=0.02
        ),
        feature_pyramid=_top_down(extractor, list(extractor.pyramid_level_inputs)),
        classification_head=_head(kinds * num_classes, rare),
        box_head=_head(kinds * 4, "zeros"),
    )


def _top_down(extractor, names):
    """Each level, with what the coarser ones know added, as maps of 32 channels, finest first."""
    maps = zip(names, LEVELS, strict=True)
    inputs = {name: keras.Input(extractor.output[level].shape[1:], name=name) for name, level in maps}
    merged, outputs = None, []
    for name in reversed(names):
        own = _convolution(inputs[name], size=1)
        if merged is not None:
            coarse = layers.UpSampling2D(2)(merged)
            own = layers.Add()([own, coarse[:, : own.shape[1], : own.shape[2]]])
        merged = own
        outputs.insert(0, _convolution(layers.Activation("relu")(merged)))
    return keras.Model(inputs, outputs)


def _convolution(x, size=3, strides=1):
    x = layers.Conv2D(WIDTH, size, strides=strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization()(x)


def _head(units, bias_initializer):
    inputs = keras.Input((None, None, WIDTH))
    x = inputs
    for _ in range(2):
        x = layers.Conv2D(WIDTH, 3, padding="same", activation="relu")(x)
    outputs = layers.Conv2D(
        units,
        3,
        padding="same",
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        bias_initializer=bias_initializer,
    )(x)
    return keras.Model(inputs, outputs)


def _padded(boxes, labels):
    """Boxes in units of cells, and classes, filled up with -1 to the longest list."""
    most = max(1, *map(len, boxes))
    padded = {
        "boxes": np.full((len(boxes), most, 4), -1, "float32"),
        "classes": np.full((len(boxes), most), -1, "float32"),
    }
    for i, (own, classes) in enumerate(zip(boxes, labels, strict=True)):
        if len(own):
            padded["boxes"][i, : len(own)] = np.asarray(own) / STRIDE
            padded["classes"][i, : len(own)] = classes
    return padded


def _detections(detector, maps, batch_size):
    """For each image its boxes in pixels, their classes and confidences."""
    with _images_without_name():
        found = detector.predict(maps, batch_size=batch_size, verbose=0)
    return [
        (STRIDE * boxes[:count], classes[:count], confidence[:count])
        for boxes, classes, confidence, count in zip(
            *(found[key] for key in ("boxes", "classes", "confidence", "num_detections")), strict=True
        )
    ]


@contextlib.contextmanager
def _images_without_name():
    """keras-cv names the input of its models and passes tensors without that name, which Keras warns of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The structure of `inputs` doesn't match")
        yield


def _check(name, part, backbone, num_classes):
    images, boxes, labels = part
    size = tuple(backbone.input_shape[1:3])
    if None in size or not hasattr(backbone, "pyramid") or LEVELS[0] not in backbone.pyramid:
        raise ShapeError(
            "`backbone` must take images of one size and have a map of stride 4 in `pyramid`. Received: "
            f"input shape {backbone.input_shape}, maps {sorted(getattr(backbone, 'pyramid', ()))}. "
            'Make it with `input_shape=(height, width, 3)` and, for a small network, `stem="strided"`.'
        )
    shape = np.shape(images) if isinstance(images, np.ndarray) else ()
    if len(shape) != 4 or tuple(shape[1:3]) != size:
        raise ShapeError(
            f"`{name}` must hold an array of images of {size[0]} x {size[1]} pixels, as the backbone takes. "
            f"Received: {f'shape {shape}' if shape else type(images).__name__}. Resize them, and their boxes."
        )
    check_boxes(boxes, labels, len(images), num_classes)
    if not any(map(len, boxes)):
        raise ValueError(f"`{name}` must hold at least one box. Received: none in {len(images)} images")
