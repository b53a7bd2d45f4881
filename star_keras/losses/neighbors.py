"""The soft nearest neighbour loss: how entangled the classes are in a layer."""

import math
import numbers
import warnings

import keras
import numpy as np
from keras import ops

from star_keras import backend
from star_keras.guards.arguments import check_choice
from star_keras.losses.pairs import partner_slope, partner_surprise
from star_keras.ops import l2_normalize, over_replicas

BLOCK_SIZE = 128
DISTANCES = ("cosine", "squared")
ANCHORS = ("valid", "batch")
_SMALLEST_TEMPERATURE = 1e-30
_LARGEST_LOGIT = 1e37
_SMALLEST_INVERSE = 1e-2
_STEP = 0.1
_SMALLEST_LENGTH = {"float16": 6.2e-5}  # below it float16 holds no full digits


def soft_nearest_neighbor(
    labels,
    embeddings,
    temperature=1.0,
    distance="cosine",
    mask=None,
    optimize_temperature=False,
    anchors="valid",
):
    """How surprising it is that a random neighbour of each sample has the sample's label.

    A neighbour `j != i` of sample `i` is drawn with probability proportional to
    `exp(-distance(i, j) / temperature)`, and

    `row_i = -log(sum_{j != i, y_j = y_i} exp(-d_ij / T) / sum_{k != i} exp(-d_ik / T))`

    0 means that all near neighbours have the right label. Rows whose label occurs once have no partner:
    their value and gradient are 0. Distances are compared in blocks of rows and again in the backward
    pass, so memory is linear in the batch, and both sums are taken in logarithms with a maximum of
    their own: partners may be as far away as they like. Under a TensorFlow strategy neighbours are
    those of all replicas, with gradient.

    Args:
        labels: `(n,)` or `(n, 1)` whole numbers of any size and sign; in a compiled step of JAX their last
            32 bits count, unless it was told to keep 64.
        embeddings: `(n, ...)`, any float type and rank; all axes but the first are one vector.
        temperature: divides the distances: a positive finite number, or a scalar tensor or
            `keras.Variable`, which gets a gradient. Defaults to 1.0.
        distance: "cosine" (the default), one minus the cosine, between 0 and 2, a zero vector being at
            distance 1 from all; or "squared", the squared Euclidean distance. That is taken from products
            of float32: of vectors `r` away from the mean of the batch it is off by about `1e-7 * r ** 2`.
            TensorFlow and JAX multiply in TF32 on recent GPUs: then by about `2e-4 * r ** 2`, unless told
            `tf.config.experimental.enable_tensor_float_32_execution(False)` or
            `jax.config.update("jax_default_matmul_precision", "highest")`.
        mask: `(n,)` bool, False for padding: samples that are neither anchors nor neighbours, whatever
            their embeddings hold. Defaults to `None`: all samples count.
        optimize_temperature: whether `temperature` is where to start from. Each evaluation divides it
            by `t = 1 - 0.1 * d(mean)/dt`, one gradient step from `t = 1`; no gradient passes through `t`.
            Defaults to `False`.
        anchors: of the mean that `optimize_temperature` improves; see `SoftNearestNeighbor`.

    Returns:
        `(n,)` float32 values, none below 0 but for rounding.

    Raises:
        ValueError: if an argument is out of range, labels are not whole numbers of shape `(n,)` or
            `(n, 1)`, or the label -1, by custom padding, is not masked (seen only where labels have
            values: not inside a compiled step).

    Example:

    >>> embeddings = np.array([[1.0, 0], [1, 0], [0, 1]], "float32")
    >>> np.round(soft_nearest_neighbor([0, 0, 1], embeddings), 4)  # ln(1 + exp(-1)), twice, and alone
    array([0.3133, 0.3133, 0.    ], dtype=float32)

    Reference:
        Salakhutdinov and Hinton, Learning a Nonlinear Embedding by Preserving Class Neighbourhood
        Structure (AISTATS 2007); Frosst, Papernot and Hinton, Analyzing and Improving Representations
        with the Soft Nearest Neighbor Loss (ICML 2019), section 2.
    """
    check_temperature(temperature)
    check_choice("distance", distance, DISTANCES)
    check_choice("anchors", anchors, ANCHORS)
    batch = _LabelledBatch(labels, embeddings, mask)
    return batch.surprise(temperature, distance, optimize_temperature and anchors)


@keras.saving.register_keras_serializable(package="star_keras")
class SoftNearestNeighbor(keras.losses.Loss):
    """Mean of `soft_nearest_neighbor` over the samples that have a partner: how entangled classes are.

    Minimised, it gathers each class around itself; times a negative weight, it spreads every class
    among the others. Its floor depends on the temperature: for `K` balanced classes of a batch of `n`
    and cosine distance it is `log(1 + (n - n/K) / (n/K - 1) * exp(-(1 + 1/(K - 1)) / T))`. A loss that
    falls with an annealed temperature is no progress; compare at a fixed one.

    Args:
        temperature: divides the distances: a positive finite number, or a `keras.Variable`, whose value
            is looked up at every call. Defaults to 1.0.
        distance: "cosine" (the default) or "squared" (Euclidean).
        anchors: "valid" (the default) averages over samples that have a partner in the batch, "batch"
            over all; the other samples add 0. Numbers are those of all replicas.
        optimize_temperature: whether each evaluation first improves the temperature by one gradient
            step; see `soft_nearest_neighbor`. Defaults to `False`.
        ignore_class: label of padding, such as -1: neither anchors nor neighbours. Defaults to `None`.
        reduction: as in `keras.losses.Loss`. Defaults to `"sum_over_batch_size"`, the mean over anchors.
        name: name of the loss. Defaults to `"soft_nearest_neighbor"`.

    Call arguments:
        labels: `(n,)` or `(n, 1)` whole numbers.
        embeddings: `(n, ...)`, any float type and rank.
        sample_weight: optional weights of the anchors, `(n,)`.

    Returns:
        A float32 scalar, or `(n,)` values with `reduction=None`. A batch without partners has loss and
        gradient zero, and a warning where labels have values. `call` gives the plain values. A replica
        returns its share of the global mean: the shares of all replicas sum to it.

    Raises:
        ValueError: as `soft_nearest_neighbor`.

    Example:

    >>> embeddings = np.array([[1.0, 0], [1, 0], [0, 1]], "float32")
    >>> loss = SoftNearestNeighbor(anchors="batch")
    >>> round(float(loss(np.array([0, 0, 1]), embeddings)), 4)  # 2 / 3 * ln(1 + exp(-1))
    0.2088

    Reference:
        Frosst, Papernot and Hinton (ICML 2019), section 2; cosine distance as in Agarap and Azcarraga,
        Improving k-Means Clustering Performance with Disentangled Internal Representations (IJCNN 2020).
    """

    def __init__(
        self,
        temperature=1.0,
        distance="cosine",
        anchors="valid",
        optimize_temperature=False,
        ignore_class=None,
        reduction="sum_over_batch_size",
        name="soft_nearest_neighbor",
    ):
        check_temperature(temperature)
        check_choice("distance", distance, DISTANCES)
        check_choice("anchors", anchors, ANCHORS)
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.temperature = temperature
        self.distance = distance
        self.anchors = anchors
        self.optimize_temperature = bool(optimize_temperature)
        self.ignore_class = ignore_class

    def call(self, labels, embeddings):
        return self._rows(self._batch(labels, embeddings))

    def __call__(self, labels, embeddings, sample_weight=None):
        batch = self._batch(labels, embeddings)
        rows, counted = self._rows(batch), batch.anchors(self.anchors)
        if sample_weight is not None:
            sample_weight = ops.reshape(ops.cast(sample_weight, "float32"), (-1,))
            rows = rows * sample_weight
        if self.reduction in (None, "none"):
            return rows
        if self.reduction == "sum":
            return ops.sum(rows)
        if self.reduction == "mean_with_sample_weight" and sample_weight is not None:
            counted = counted * sample_weight
        return ops.divide_no_nan(ops.sum(rows), over_replicas(ops.sum(counted)))

    def _batch(self, labels, embeddings):
        if self.ignore_class is None:
            return _LabelledBatch(labels, embeddings)
        return _LabelledBatch(labels, embeddings, mask=_whole_numbers(labels) != self.ignore_class)

    def _rows(self, batch):
        return batch.surprise(self.temperature, self.distance, self.optimize_temperature and self.anchors)

    def get_config(self):
        known = isinstance(self.temperature, numbers.Real)
        return {
            **super().get_config(),
            "temperature": self.temperature if known else float(ops.convert_to_numpy(self.temperature)),
            "distance": self.distance,
            "anchors": self.anchors,
            "optimize_temperature": self.optimize_temperature,
            "ignore_class": self.ignore_class,
        }


class _LabelledBatch:
    """Vectors of all replicas and who is whose partner; own rows are a slice of the keys."""

    def __init__(self, labels, embeddings, mask=None):
        given, labels, embeddings = _with_shape(labels), _whole_numbers(labels), _with_shape(embeddings)
        mask = mask if mask is None else _with_shape(mask)
        _check_lengths(labels, embeddings, mask)
        values = backend.known_values(given)
        if values is not None:
            values = values.reshape(-1)
            _refuse_padding(values, mask)
            if backend.num_replicas() == 1:
                _warn_without_partners(values, mask)
                labels = np.unique(values, return_inverse=True)[1].astype("int32")
        labels, embeddings = ops.convert_to_tensor(labels), ops.convert_to_tensor(embeddings)
        count = ops.shape(labels)[0]
        self.vectors = ops.reshape(embeddings, (count, math.prod(ops.shape(embeddings)[1:])))
        self.hidden_keys = mask is not None
        self.present = ops.ones_like(labels, "bool")
        if self.hidden_keys:
            self.present = ops.convert_to_tensor(mask, "bool")
            self.vectors = ops.where(self.present[:, None], self.vectors, ops.zeros_like(self.vectors))
        self.first_own, _ = backend.replica_rows(count)
        self._find_partners(labels, count)

    def _find_partners(self, labels, count):
        """Groups are numbered by where their label would stand among all labels, sorted."""
        labels = backend.gather(labels)
        seen = backend.gather(ops.cast(self.present, "int32"))
        groups = ops.cast(ops.searchsorted(ops.sort(labels), labels), "int32")
        members = ops.take(ops.segment_sum(seen, groups, ops.shape(groups)[0]), groups)
        self.key_groups = ops.where(seen > 0, groups, -1)
        self.row_groups = ops.slice(groups, (self.first_own,), (count,))
        members = ops.slice(members, (self.first_own,), (count,))
        self.partnered = ops.logical_and(self.present, members > 1)

    def anchors(self, kind):
        """1 for the rows that a mean is taken over, 0 for the others."""
        return ops.cast(self.partnered if kind == "valid" else self.present, "float32")

    def surprise(self, temperature, distance, improve_for=None):
        """Values of the rows; `improve_for` names the anchors for whose mean the temperature is improved."""
        temperature = ops.maximum(ops.cast(temperature, "float32"), _SMALLEST_TEMPERATURE)
        layout = {
            "first_own": self.first_own,
            "row_groups": self.row_groups,
            "key_groups": self.key_groups,
            "hidden_keys": self.hidden_keys,
            "last_is_added": distance == "squared",
            "block_size": BLOCK_SIZE,
        }
        factors = self._cosine_factors if distance == "cosine" else self._squared_factors
        if improve_for:
            slopes = partner_slope(*factors(temperature), self.partnered, **layout)
            number = over_replicas(ops.sum(self.anchors(improve_for)))
            slope = ops.divide_no_nan(over_replicas(ops.sum(slopes)), number)
            temperature = temperature / ops.maximum(1 - _STEP * slope, _SMALLEST_INVERSE)
        return partner_surprise(*factors(temperature), self.partnered, **layout)

    def _cosine_factors(self, temperature):
        """Rows and keys whose products are `-distance / temperature`, up to a constant of each row."""
        vectors = _directions(self.vectors)
        return vectors / temperature, backend.gather(vectors)

    def _squared_factors(self, temperature):
        """As `_cosine_factors`. Centred vectors lose the fewest digits and are as far from one another."""
        keys = backend.gather(ops.cast(self.vectors, "float32"))
        seen = ops.cast(self.key_groups >= 0, "float32")[:, None]
        centre = ops.sum(keys * seen, axis=0) / ops.maximum(ops.sum(seen), 1.0)
        width = ops.cast(ops.shape(keys)[1], "float32")
        limit = ops.sqrt(_LARGEST_LOGIT / (4 * width)) * ops.minimum(ops.sqrt(temperature), 1.0)
        limit = ops.stop_gradient(limit)

        def centred(vectors):
            return ops.clip(ops.cast(vectors, "float32") - ops.stop_gradient(centre), -limit, limit)

        rows, keys = centred(self.vectors), centred(keys)
        lengths = ops.sum(ops.square(keys), axis=1, keepdims=True)
        rows = ops.concatenate([2 * rows / temperature, ops.ones_like(rows[:, :1])], axis=1)
        return rows, ops.concatenate([keys, -lengths / temperature], axis=1)


def check_temperature(temperature):
    """Raises ValueError unless `temperature` is a positive finite number, or a tensor."""
    scalar = hasattr(temperature, "dtype") and tuple(temperature.shape) == ()
    value = temperature.item() if scalar and isinstance(temperature, np.ndarray) else temperature
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (_SMALLEST_TEMPERATURE <= value < math.inf if number else scalar and value is temperature):
        raise ValueError(
            "`temperature` divides the distances and must be a positive finite number of at least "
            f"{_SMALLEST_TEMPERATURE}, or a scalar tensor. Received: temperature={temperature!r}"
        )


def _directions(vectors):
    """Vectors `(n, d)` of any float type, in float32 and scaled to length one.

    The direction of zero is zero, with gradient zero; what is shorter than 1e-30, in float16 than its
    smallest normal number, counts as zero.
    """
    smallest = _SMALLEST_LENGTH.get(keras.backend.standardize_dtype(vectors.dtype), 1e-30)
    vectors = ops.cast(vectors, "float32")
    largest = ops.stop_gradient(ops.max(ops.abs(vectors), axis=-1, keepdims=True))
    factors = ops.where(largest > smallest, 1 / ops.maximum(largest, smallest), 0.0)
    return l2_normalize(vectors * factors)


def _with_shape(array):
    return array if hasattr(array, "shape") and hasattr(array, "dtype") else np.asarray(array)


def _whole_numbers(labels):
    """`labels` as a vector of whole numbers in a type that backends can sort."""
    labels = _with_shape(labels)
    text = isinstance(labels, np.ndarray) and labels.dtype.kind not in "biuf"
    dtype = str(labels.dtype) if text else keras.backend.standardize_dtype(labels.dtype)
    shape = tuple(labels.shape)
    if "int" not in dtype or len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
        raise ValueError(
            "`labels` must be whole numbers of shape (n,) or (n, 1). "
            f"Received: shape {shape}, dtype {dtype}. Take the arg max of one-hot labels and cast others."
        )
    labels = labels.reshape(-1) if isinstance(labels, np.ndarray) else ops.reshape(labels, (-1,))
    if dtype in ("int32", "int64"):
        return labels
    wider = "int64" if dtype in ("uint32", "uint64") else "int32"
    return labels.astype(wider) if isinstance(labels, np.ndarray) else ops.cast(labels, wider)


def _check_lengths(labels, embeddings, mask):
    lengths = [array.shape[0] if array.shape else 0 for array in (labels, embeddings)]
    lengths += [] if mask is None else [tuple(mask.shape)[0]]
    if len({*lengths} - {None}) > 1:
        raise ValueError(
            "`labels`, `embeddings` and `mask` must have one row for each sample. Received: labels of shape "
            f"{tuple(labels.shape)}, embeddings of shape {tuple(embeddings.shape)}"
            + ("." if mask is None else f", a mask of shape {tuple(mask.shape)}.")
        )
    if lengths[0] == 0 and backend.num_replicas() == 1:
        raise ValueError("A batch must have a row at least. Received: 0 labels.")


def _refuse_padding(labels, mask):
    shown = np.ones(labels.shape, bool) if mask is None else backend.known_values(mask)
    if shown is not None and np.any((labels == -1) & shown):
        raise ValueError(
            "The label -1 stands for padding and must be masked. Received: the label -1 in "
            f"{int(np.sum((labels == -1) & shown))} of {len(labels)} rows. Pass `mask=labels != -1` to the "
            "function or `ignore_class=-1` to the loss; give a class that is called -1 another number."
        )


def _warn_without_partners(labels, mask):
    shown = np.ones(labels.shape, bool) if mask is None else backend.known_values(mask)
    if len(labels) > 1 and shown is not None and len(np.unique(labels[shown])) == np.sum(shown):
        warnings.warn(
            "No label occurs twice in this batch, so the soft nearest neighbour loss and its gradient "
            "are 0. Use larger batches, or batches with several samples of each class.",
            UserWarning,
            stacklevel=5,
        )
