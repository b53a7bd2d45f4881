"""All measures of a model on one image set, kept one by one, so that a run goes on where it stopped."""

import dataclasses
import hashlib
import json
import pathlib
import sys
import time

import keras
import numpy as np

from star_keras.evaluation import baseline
from star_keras.evaluation.arrays import TooFewSamples, whole_labels
from star_keras.evaluation.features import check_image_size
from star_keras.evaluation.measures import MEASURES, Subject, plan
from star_keras.evaluation.table import rows
from star_keras.exceptions import ConfigError
from star_keras.files import write_text
from star_keras.guards.arguments import is_whole
from star_keras.guards.pixels import image_array
from star_keras.models import registry
from star_keras.version import __version__

FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """How much a report measures.

    Attributes:
        count: training images drawn for linear probe and nearest neighbour. Defaults to 5,000.
        seeds: one draw each; the first is also that of all else. Defaults to three.
        images: test images for spread, correlations, routing, retrieval and equivariance. Defaults to 1,000.
        views: of each image, for equivariance. Defaults to 20.
        episodes: of few-shot classification. Defaults to 2,000.
        untrained: whether the same network at random initialisation is measured too. Defaults to True.

    Raises:
        ValueError: if a number is too small, or the seeds are not distinct.
    """

    count: int = 5000
    seeds: tuple = (0, 1, 2)
    images: int = 1000
    views: int = 20
    episodes: int = 2000
    untrained: bool = True

    def __post_init__(self):
        for name, least in {"count": 2, "images": 4, "views": 2, "episodes": 1}.items():
            value = getattr(self, name)
            if not is_whole(value) or value < least:
                raise ValueError(
                    f"`{name}` must be a whole number of at least {least}. Received: {name}={value}"
                )
            object.__setattr__(self, name, int(value))
        seeds = tuple(self.seeds)
        whole = all(is_whole(seed) and 0 <= seed < 2**32 for seed in seeds)
        if not seeds or not whole or len(set(seeds)) < len(seeds):
            raise ValueError(f"`seeds` must be distinct whole numbers in [0, 2**32). Received: seeds={seeds}")
        object.__setattr__(self, "seeds", tuple(map(int, seeds)))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """What `report` measured.

    Attributes:
        measures: `{measure: list of runs}`; a run holds its arguments, its seed among them, and its results.
        untrained: the same of the network without training; empty where it was not asked for.
        skipped: `{measure: reason}` of those for which there are too few images; where some of its runs
            are in `measures` or `untrained`, with the names of the others.
        settings: the `ReportSettings`.
        data: number of training and test images and of classes.
    """

    measures: dict
    untrained: dict
    skipped: dict
    settings: ReportSettings
    data: dict

    @property
    def table(self):
        """The numbers in short, a list of `Row`: each with its spread, floor, samples and seeds."""
        return rows(self.measures, self.untrained, self.data["train_images"])

    def to_dict(self):
        """The fields as a dict of plain Python values, and the table."""
        return {
            "data": self.data,
            "settings": {**dataclasses.asdict(self.settings), "seeds": list(self.settings.seeds)},
            "table": [row._asdict() for row in self.table],
            "measures": self.measures,
            "untrained": self.untrained,
            "skipped": self.skipped,
        }


def report(model, train, test, settings=None, folder=None, batch_size=256, verbose=True):
    """Measures what a model's representation is worth: accuracy, spread, equivariance, redundancy, routing.

    Linear probe and nearest neighbour for several draws of training images, few-shot episodes, spread and
    effective rank of the features, equivariance and R2 of the views' parameters; of a pretraining model also
    what its own predictor knows, canonical correlation between tasks and between experts, and the routing.
    Each is taken once more of the same network without training, which is what the architecture is worth.

    Measures for which there are too few images, such as those that need labels where there is one class, or
    shots where a class has fewer images, are left out, and `skipped` says why.

    Args:
        model: a `STARPretraining`, or any backbone of the zoo.
        train, test: `(images, labels)`: arrays `(n, height, width, channels)` with values in [0, 255], of
            the size the backbone takes, and integers. Every test label must occur in training.
        settings: a `ReportSettings`. Defaults to None: its defaults.
        folder: where each finished measure is kept, whole or not at all, under a hash of the model's
            weights, the images, the arguments, Keras and its backend: the same call goes on where it was
            stopped, and any other measures anew. Defaults to None: nothing is kept.
        batch_size: images at a time; the numbers do not depend on it. Defaults to 256.
        verbose: whether progress, with an estimate of the time left, goes to standard error. Defaults to
            True.

    Returns:
        A `Report`.

    Raises:
        ValueError: if images and labels do not fit together, or a test label does not occur in training.
        ShapeError: if the images are of another size than the backbone takes.
        NonFiniteError: if a feature is NaN or infinite.

    Example:

    >>> import star_keras as sk
    >>> backbone = sk.models.create("resnet20", input_shape=(8, 8, 3))
    >>> images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype="uint8")
    >>> settings = ReportSettings(count=4, seeds=(0,), images=4, views=2, untrained=False)
    >>> unlabelled = images, np.zeros(12, int)
    >>> found = report(backbone, unlabelled, unlabelled, settings, verbose=False)
    >>> sorted(found.measures), sorted(found.skipped)
    (['equivariance', 'retrieval', 'spread'], ['few_shot', 'linear_probe', 'nearest_neighbor'])
    """
    settings = settings or ReportSettings()
    train, test = _checked(model, train, "train"), _checked(model, test, "test")
    subject = Subject(model, train, test, batch_size)
    unknown = np.setdiff1d(subject.test_labels, subject.train_labels)
    if len(unknown):
        raise ValueError(
            "Every test label must occur in training. Received: "
            f"{unknown[:5].tolist()}, {len(unknown)} unknown labels; are both of one image set?"
        )
    sides = {"measures": plan(model, settings, len(train[0]))}
    if settings.untrained:
        sides["untrained"] = plan(model, settings, len(train[0]), untrained=True)
    kept = _Kept(folder, _digest_of_model(model), _digest_of_images(subject), settings.seeds[0])
    progress = _Progress(sides, kept, verbose)
    found, failed = {"measures": {}, "untrained": {}}, []
    for side, steps in sides.items():
        for step in steps:
            run = kept.read(side, step)
            if run is None:
                if side == "untrained" and subject.model is model:
                    fresh = baseline.untrained(model, train[0], settings.seeds[0])
                    subject = Subject(fresh, train, test, batch_size)
                run = _taken(side, step, subject, failed)
                kept.write(side, step, run)
                progress.done(side, step)
            if run:
                found[side].setdefault(step.measure, []).append(run)
    return Report(
        **found,
        skipped=_reasons(failed, found, sides),
        settings=settings,
        data={
            "train_images": len(subject.train_images),
            "test_images": len(subject.test_images),
            "classes": len(np.unique(subject.train_labels)),
        },
    )


def _checked(model, data, name):
    images, labels = image_array(data[0]), data[1]
    check_image_size(getattr(model, "backbone", model), images.shape)
    if not len(images):
        raise ValueError(f"`{name}` must hold at least one image. Received: none")
    return images, whole_labels(f"labels of {name}", labels, len(images))


def _taken(side, step, subject, failed):
    """The run of a step, as plain as when it is read again.

    Where there are too few images for it, the run is None, and `(side, step, reason)` is added to `failed`.
    """
    try:
        run = {**step.arguments, **MEASURES[step.measure](subject, **step.arguments)}
        return json.loads(json.dumps(run))
    except TooFewSamples as error:
        failed.append((side, step, str(error)))
        return None


def _reasons(failed, found, sides):
    """`{measure: reason}` of what was not taken; of one with other runs, the names of those it lacks, too."""
    told = {}
    for side, step, reason in failed:
        told.setdefault(step.measure, {}).setdefault(reason, []).append(_name(side, step, sides[side]))
    return {
        measure: "; ".join(
            f"{' and '.join(names)}: {reason}" if any(measure in side for side in found.values()) else reason
            for reason, names in reasons.items()
        )
        for measure, reasons in told.items()
    }


def _name(side, step, steps):
    """What tells a step from those of the same measure, such as "untrained network, seed 1"."""
    others = [other.arguments for other in steps if other.measure == step.measure]
    words = ["untrained network"] if side == "untrained" else []
    words += [
        f"{name} {value}"
        for name, value in step.arguments.items()
        if any(other[name] != value for other in others)
    ]
    return ", ".join(words)


def _digest_of_model(model):
    """A hash of the weights, the precision, and what the zoo or else Keras says of the model."""
    try:
        described = registry.describe(model)
    except ConfigError:
        described = keras.saving.serialize_keras_object(model)
    described = [described, model.dtype_policy.name]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for variable in model.weights:
        _add_array(digest, keras.ops.convert_to_numpy(variable.value).astype("float32"))
    return digest.hexdigest()


def _digest_of_images(subject):
    digest = hashlib.sha256()
    for array in (subject.train_images, subject.train_labels, subject.test_images, subject.test_labels):
        _add_array(digest, array)
    return digest.hexdigest()


def _add_array(digest, array):
    digest.update(f"{array.shape} {array.dtype}".encode())
    digest.update(np.ascontiguousarray(array).data)


class _Kept:
    """Finished measures in a folder, a file each, named by all that the measure depends on."""

    def __init__(self, folder, model, images, seed):
        self.folder = None if folder is None else pathlib.Path(folder)
        self.common = [FORMAT, __version__, keras.version(), keras.backend.backend(), model, images]
        self.sides = {"untrained": ["untrained", seed, baseline.BATCH_SIZE, baseline.STEPS]}
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)

    def read(self, side, step):
        """The run of an earlier call; None where there is none, or its file is not whole."""
        if self.folder is None:
            return None
        path, key = self._place(side, step)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return content["run"] if content["key"] == key else None
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def write(self, side, step, run):
        if self.folder is not None and run is not None:
            path, key = self._place(side, step)
            write_text(path, json.dumps({"key": key, "run": run}, indent=1) + "\n")

    def _place(self, side, step):
        key = [*self.common, self.sides.get(side, side), step.measure, step.arguments]
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{step.measure}-{digest[:16]}.json", key


class _Progress:
    """A line for every measure taken, with the time that the others will take at this pace."""

    def __init__(self, sides, kept, verbose):
        self.verbose, self.began, self.last = verbose, time.monotonic(), time.monotonic()
        to_do = [step for side, steps in sides.items() for step in steps if kept.read(side, step) is None]
        total = sum(map(len, sides.values()))
        self.count, self.total = total - len(to_do), total
        self.spent, self.cost = 0.0, sum(step.cost for step in to_do)
        if self.count:
            self._say(f"{self.count} of {total} measures are in {kept.folder} already.")

    def done(self, side, step):
        now = time.monotonic()
        self.count, self.spent = self.count + 1, self.spent + step.cost
        left = (now - self.began) * (self.cost - self.spent) / self.spent
        name = step.measure.replace("_", " ") + (", untrained network" if side == "untrained" else "")
        told = f"about {_duration(left)} left" if self.count < self.total else "done"
        self._say(f"[{self.count}/{self.total}] {name}: {_duration(now - self.last)}; {told}")
        self.last = now

    def _say(self, text):
        if self.verbose:
            print(text, file=sys.stderr, flush=True)


def _duration(seconds):
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
