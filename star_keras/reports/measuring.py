"""A model and image sets by name, and what a report has measured of them."""

import dataclasses
import os
import pathlib
import platform

import keras
import numpy as np

from star_keras import data as image_sets
from star_keras import evaluation, models
from star_keras.data.images import UnknownSplit, resize
from star_keras.version import __version__

TEST_SPLITS = ("test", "validation", "val")
HELD_OUT = 0.2
_FACTS = ("description", "task", "data", "license", "results", "bytes", "sha256")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Document:
    """All that a report tells.

    Attributes:
        model: facts about the model, `name` and `parameters` among them.
        sources: `{"train": words, "test": words}`: where the images come from.
        class_names: tuple of strings, indexed by label; None where there are none.
        command: the words that make the report again.
        versions: of the software.
        report: the `evaluation.Report`.
        test_images, test_labels: the images that rows of the report count in.
        loaded: the model itself.
    """

    model: dict
    sources: dict
    class_names: tuple | None
    command: str
    versions: dict
    report: evaluation.Report
    test_images: np.ndarray
    test_labels: np.ndarray
    loaded: keras.Model

    def to_dict(self):
        """What is plain data, and all of it: the JSON beside the page."""
        return {
            "model": self.model,
            "sources": self.sources,
            "command": self.command,
            "versions": self.versions,
            **self.report.to_dict(),
        }


def measure(
    name, data="fashion_mnist", test_data=None, settings=None, folder=None, command="", on_error="raise"
):
    """Loads a model and images, and takes every measure that applies to them.

    Where all images, of both sets, fit into the square that the model takes, they are centred on black.
    Else, and always where one of the sets is a folder, the shorter side of each is brought to the side of
    that square and what goes beyond it is cut off. A model of another shape takes only images that have it.
    Grey images are repeated in three channels.

    Args:
        name: of a preset, or a folder with a model.
        data: name of an image set, or a path, as in `data.load`. Defaults to the embedded
            "fashion_mnist".
        test_data: of another set to test on. Defaults to None: the test or validation split of `data`, or
            where it has neither, a fifth of the images of each class, held out; one of each is always
            trained on.
        settings: `evaluation.ReportSettings`. Defaults to None: its defaults.
        folder: of finished measures, see `evaluation.report`. Defaults to None: none are kept.
        command: that makes the report again. Defaults to "".
        on_error: of `data.load`: "skip" leaves out images that cannot be read. Defaults to "raise".

    Returns:
        A `Document`.

    Raises:
        PresetError, IntegrityError, ConfigError: if there is no such model, or it is damaged.
        ValueError: if the model has no backbone, there are no such images, or they have no single label.
    """
    name, data, test_data = map(_named, (name, data, test_data))
    model = _load(name)
    backbone = getattr(model, "backbone", model)
    train, test, sources = _image_sets(data, test_data, backbone, on_error)
    names, facts = train.class_names, _facts(name, model)
    train, test = ((split.images, split.labels) for split in (train, test))
    return Document(
        report=evaluation.report(model, train, test, settings, folder),
        model=facts,
        sources=sources,
        class_names=names,
        command=command,
        versions={
            "star_keras": __version__,
            "keras": keras.version(),
            "backend": keras.backend.backend(),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        test_images=test[0],
        test_labels=test[1],
        loaded=model,
    )


def _named(name):
    """A path as text that is taken for one, with a separator in it; names as they are."""
    return os.path.join(os.curdir, name) if isinstance(name, os.PathLike) else name


def _load(name):
    parts = models.parts(name)
    if "backbone" not in parts:
        raise ValueError(
            "A report is about the features of a backbone. Received: a model with the parts "
            f"{', '.join(parts)}; measure its outputs with the functions of `star_keras.evaluation`."
        )
    return models.load(name, part="pretraining" if "pretraining" in parts else "backbone")


def _facts(name, model):
    if any(separator in name for separator in {"/", os.sep}):
        record = {"name": name}
    else:
        known = models.info(name)
        record = {"name": known["name"], **{key: known[key] for key in _FACTS if known.get(key)}}
    backbone = getattr(model, "backbone", model)
    record["input_shape"] = list(backbone.input_shape[1:])
    record["features"] = backbone.output_shape[-1]
    record["parameters"] = {"backbone": backbone.count_params()}
    if backbone is not model:
        record["parameters"]["whole pretraining model"] = model.count_params()
    return record


def _image_sets(data, test_data, backbone, on_error):
    _, height, width, _ = backbone.input_shape
    side, names = height if height == width else None, [data, data if test_data is None else test_data]
    train, found = _loaded(data, None, side, on_error), _test_split(names[1], side, on_error)
    if found is None and test_data is not None:
        found = _loaded(test_data, None, side, on_error), test_data
    sets = [train] if found is None else [train, found[0]]
    train, *others = _in_one_size(sets, side, cut=any(map(_is_folder, names)))
    if others and not np.array_equal(others[0].images, train.images):
        test, where = _numbered_alike(train, others[0]), found[1]
    else:
        train, test = _held_out(train)
        where = f"{data}, a fifth held out, by class (seed 0)"
    return train, test, {"train": _words(data, train), "test": _words(where, test)}


def _held_out(split):
    """Those to train on and those to test on: of each class a fifth, but never all."""
    order, held = np.random.default_rng(0).permutation(len(split.labels)), np.arange(0)
    for label in np.unique(split.labels):
        own = order[split.labels[order] == label]
        held = np.append(held, own[: min(max(1, round(HELD_OUT * len(own))), len(own) - 1)])
    rows = np.setdiff1d(order, held), np.sort(held)
    return [split._replace(images=split.images[own], labels=split.labels[own]) for own in rows]


def _numbered_alike(train, test):
    """The test images with the numbers that their classes have among the training images, by their names."""
    if not (train.class_names and test.class_names) or train.class_names == test.class_names:
        return test
    numbers = {name: number for number, name in enumerate(train.class_names)}
    names = [test.class_names[label] for label in test.labels]
    unknown = sorted(set(names) - set(numbers))
    if unknown:
        raise ValueError(
            "Test images must be of the classes of the training images. "
            f"Received: {', '.join(unknown[:5])}, where those are {', '.join(train.class_names[:5])}, ..."
        )
    return test._replace(labels=np.array([numbers[name] for name in names]), class_names=train.class_names)


def _test_split(name, side, on_error):
    """The images to test on and their name, or None where the set has no split for it."""
    for split in TEST_SPLITS:
        try:
            return _loaded(name, split, side, on_error), f"{name}, split {split}"
        except UnknownSplit:
            continue
    return None


def _is_folder(name):
    return any(separator in name for separator in {"/", os.sep}) and pathlib.Path(name).is_dir()


def _loaded(name, split, side, on_error):
    """A split; photographs of a folder are brought to the size of the backbone one by one."""
    found = image_sets.load(name, split, size=side if _is_folder(name) else None, on_error=on_error)
    if found.boxes is not None:
        raise ValueError(
            f"A report needs one label an image. Received: {name!r}, a set of boxes for detection."
        )
    return found


def _in_one_size(sets, side, cut):
    """Splits in the size that the backbone takes: the images of all cut to it, or of all centred on black."""
    cut = cut or any(max(image.shape[:2]) > (side or np.inf) for split in sets for image in split.images)
    images = [image_sets.to_rgb(resize(split.images, side if cut else None), side) for split in sets]
    return [split._replace(images=own) for split, own in zip(sets, images, strict=True)]


def _words(where, split):
    return f"{where} ({len(split.labels):,} images)"
