"""Boxes in images: what is a set of them, and how precise detections are."""

import contextlib
import io
import typing

import numpy as np

from star_keras.exceptions import NonFiniteError, ShapeError
from star_keras.optional import needed


class AveragePrecision(typing.NamedTuple):
    """What `average_precision` found, all in [0, 1].

    Attributes:
        ap: mean over the thresholds of overlap 0.5, 0.55 .. 0.95 and over the classes.
        ap50, ap75: at the thresholds 0.5 and 0.75.
        per_class: `ap` of each class; NaN for one without boxes.
    """

    ap: float
    ap50: float
    ap75: float
    per_class: list

    def to_dict(self):
        """The fields as plain JSON, None for NaN."""
        return {**self._asdict(), "per_class": [None if np.isnan(ap) else ap for ap in self.per_class]}


def average_precision(boxes, labels, detections, num_classes):
    """The COCO average precision of detections, by pycocotools.

    Args:
        boxes: list of arrays `(k, 4)`, the true boxes of each image: left, top, right, bottom.
        labels: list of integer arrays `(k,)`, their classes.
        detections: list, for each image `(boxes (m, 4), labels (m,), scores (m,))`; at most 100 count. A
            box without area finds nothing.
        num_classes: number of classes.

    Returns:
        An `AveragePrecision`.

    Raises:
        ImportError: without pycocotools (extra `detection`).
        ShapeError, ValueError: if boxes, labels or scores are malformed.
        NonFiniteError: if a detection is NaN or infinite.

    Example:

    >>> boxes, labels = [np.array([[0, 0, 10, 10]])], [np.array([1])]
    >>> found = average_precision(boxes, labels, [(boxes[0], labels[0], np.array([0.9]))], num_classes=2)
    >>> np.round(found.per_class, 3).tolist()
    [nan, 1.0]

    Reference: Lin et al., "Microsoft COCO: Common Objects in Context" (ECCV 2014).
    """
    check_boxes(boxes, labels, len(detections), num_classes)
    _check_detections(detections, num_classes)
    coco, judge = pycocotools()
    rows, found = _rows(zip(boxes, labels, strict=True)), _rows(detections)
    if not rows:
        raise ValueError("Precision needs at least one true box. Received: none in all images")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _index(coco, len(detections), num_classes, rows)
        answers = _index(coco, len(detections), num_classes, found)
        judged = judge(truth, answers, "bbox")
        judged.evaluate()
        judged.accumulate()
    # thresholds of overlap, recalls, classes; of all sizes, the best 100 of an image
    precision = judged.eval["precision"][:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision)
    known = [bool((precision[:, :, c] >= 0).any()) for c in range(num_classes)]
    per_class = [float(precision[:, :, c].mean()) if known[c] else float("nan") for c in range(num_classes)]
    return AveragePrecision(
        ap=float(np.nanmean(precision)),
        ap50=float(np.nanmean(precision[0])),
        ap75=float(np.nanmean(precision[5])),
        per_class=per_class,
    )


def check_boxes(boxes, labels, num_images, num_classes):
    """Raises unless there are well-formed boxes, or none, and as many labels for every image."""
    if not num_images == len(boxes) == len(labels):
        raise ValueError(
            "`boxes` and `labels` must be lists with one array an image. "
            f"Received: {num_images} images, {len(boxes)} arrays of boxes, {len(labels)} of labels"
        )
    for i, (own, classes) in enumerate(zip(boxes, labels, strict=True)):
        own, classes = np.asarray(own), np.asarray(classes)
        _check_shapes(i, own, classes)
        proper = np.isfinite(own).all() and (not own.size or (own[:, 2:] > own[:, :2]).all())
        _check_values(i, own, classes, num_classes, proper)


def _check_detections(detections, num_classes):
    for i, found in enumerate(detections):
        own, classes, scores = map(np.asarray, found)
        _check_shapes(i, own, classes)
        _check_shapes(i, own, scores)
        if not (np.isfinite(own).all() and np.isfinite(scores).all()):
            raise NonFiniteError(
                "Boxes and scores of detections must be finite. Received: NaN or infinity for image "
                f"{i}; look at the weights of the detector."
            )
        proper = not own.size or (own[:, 2:] >= own[:, :2]).all()
        _check_values(i, own, classes, num_classes, proper)


def _check_shapes(image, boxes, values):
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4) or values.shape != (len(boxes),):
        raise ShapeError(
            "The boxes of an image must be of shape (k, 4), with k labels, and k scores where they were "
            f"detected. Received: boxes of shape {boxes.shape} and {values.shape} values for image {image}"
        )


def _check_values(image, boxes, labels, num_classes, proper):
    if not proper:
        raise ValueError(
            "A box must be finite and go from left to right and from top to bottom. "
            f"Received: {boxes.tolist()} for image {image}; boxes are (left, top, right, bottom)"
        )
    if labels.size and not np.isin(labels, np.arange(num_classes)).all():
        raise ValueError(
            f"Labels must be whole and must lie in 0 .. {num_classes - 1}. Received: {labels.tolist()} for "
            f"image {image}"
        )


def _rows(images):
    return [(i, *row) for i, columns in enumerate(images) for row in zip(*columns, strict=True)]


def _index(coco, num_images, num_classes, rows):
    """What pycocotools makes of rows `(image, box, label[, score])`."""
    indexed = coco()
    indexed.dataset = {
        "images": [{"id": i} for i in range(num_images)],
        "categories": [{"id": c} for c in range(num_classes)],
        "annotations": [_annotation(number, *row) for number, row in enumerate(rows, start=1)],
    }
    indexed.createIndex()
    return indexed


def _annotation(number, image, box, label, score=1.0):
    left, top, right, bottom = map(float, box)
    return {
        "id": number,
        "image_id": image,
        "category_id": int(label),
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
        "score": float(score),
    }


def pycocotools():
    """The two classes of the package, or an error that says how to have it."""
    parts = (("pycocotools.coco", "COCO"), ("pycocotools.cocoeval", "COCOeval"))
    return [getattr(needed(name, "Detection needs pycocotools", "detection"), part) for name, part in parts]
