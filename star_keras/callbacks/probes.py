"""Probe the backbone while it trains."""

from star_keras import evaluation
from star_keras.callbacks.every_epochs import EveryEpochs
from star_keras.training import SoftNearestNeighborRegularization


def watched(model):
    """What of a model, or of the classifier that it regularises, is measured: its backbone, or itself."""
    if isinstance(model, SoftNearestNeighborRegularization):
        model = model.model
    return getattr(model, "backbone", model)


class _Probe(EveryEpochs):
    """Measures the backbone every few epochs and puts the accuracy into the logs of every epoch."""

    def __init__(self, train, test, every=1, batch_size=256, name=None):
        super().__init__(every, batch_size)
        self.train, self.test = train, test
        self.name = name or self.default_name

    def _look(self, epoch):
        backbone = watched(self.model)
        (train_images, train_labels), (test_images, test_labels) = self.train, self.test
        train_features = evaluation.extract_features(backbone, train_images, self.batch_size, verbose=0)
        test_features = evaluation.extract_features(backbone, test_images, self.batch_size, verbose=0)
        found = self.measure(train_features, train_labels, test_features, test_labels)
        return {self.name: found.accuracy}


class NearestNeighborProbe(_Probe):
    """Accuracy of cosine nearest neighbours on frozen features, while training.

    Looks at `model.backbone`, or at the model itself where it has none, and writes the accuracy into
    the logs, where the progress bar's history, `CSVLogger` and `Resume` behind it find it.

    Args:
        train: `(images, labels)` that neighbours are taken from.
        test: `(images, labels)` that are classified. Take them from the training set: a test set is for the
            end.
        every: number of epochs between two probes. Defaults to 1. The first and the last epoch are always
            probed; epochs between two probes repeat the last value, so that every epoch has one.
        batch_size: images at a time. Defaults to 256.
        name: in the logs. Defaults to "nearest_neighbor_accuracy".
        k: number of neighbours. Defaults to 1.

    Raises:
        ValueError: if `every` or `batch_size` is no positive whole number; in `fit`, for what
            `evaluation.nearest_neighbors` refuses.

    Example:

    >>> import keras
    >>> rows, labels = np.eye(2).repeat(4, axis=0), np.arange(2).repeat(4)
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
    >>> model.compile("sgd", "sparse_categorical_crossentropy")
    >>> probe = NearestNeighborProbe((rows, labels), (rows, labels))
    >>> history = model.fit(rows, labels, callbacks=[probe], verbose=0)
    >>> history.history["nearest_neighbor_accuracy"]
    [1.0]
    """

    default_name = "nearest_neighbor_accuracy"

    def __init__(self, train, test, every=1, batch_size=256, name=None, k=1):
        super().__init__(train, test, every, batch_size, name)
        self.k = k

    def measure(self, *features_and_labels):
        return evaluation.nearest_neighbors(*features_and_labels, k=self.k)


class LinearProbe(_Probe):
    """Accuracy of a linear probe on frozen, standardised features, while training.

    As `NearestNeighborProbe`, with a logistic regression of one fixed weight decay, which takes seconds
    where the search of `evaluation.linear_probe` takes minutes.

    Args:
        train, test, every, batch_size, name: as there; the name defaults to "linear_probe_accuracy".
        weight: the decay `w` of `evaluation.linear_probe`. Defaults to 5.0.

    Raises:
        ValueError: as there.

    Example:

    >>> import keras
    >>> rows, labels = np.eye(2).repeat(4, axis=0), np.arange(2).repeat(4)
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
    >>> model.compile("sgd", "sparse_categorical_crossentropy")
    >>> probe = LinearProbe((rows, labels), (rows, labels), weight=0.1)
    >>> model.fit(rows, labels, callbacks=[probe], verbose=0).history["linear_probe_accuracy"]
    [1.0]
    """

    default_name = "linear_probe_accuracy"

    def __init__(self, train, test, every=1, batch_size=256, name=None, weight=5.0):
        super().__init__(train, test, every, batch_size, name)
        self.weight = weight

    def measure(self, *features_and_labels):
        return evaluation.linear_probe(*features_and_labels, weights=self.weight, standardize=True)
