"""How experts are used, by metrics that any split into batches leaves the same."""

import keras
import numpy as np
from keras import ops

from star_keras.ops import entropy


class _GateTotals(keras.metrics.Metric):
    """Sums over samples; subclasses name them and make the result of them."""

    def __init__(self, num_experts, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype or "float32")
        self.num_experts = num_experts
        self.samples = self._total("samples", ())
        self.gates = self._total("gates", (num_experts,))

    def _total(self, name, shape):
        return self.add_weight(name=name, shape=shape, initializer="zeros")

    def update_state(self, gates, sample_weight=None):
        """Adds a batch.

        Args:
            gates: `(batch, num_experts)`, rows that sum to one, such as `RoutedExperts.route` gives.
            sample_weight: `(batch,)`, 0 for padding. Defaults to `None`: ones.
        """
        gates, weights = _as_rows(gates, sample_weight, self.num_experts)
        self.samples.assign_add(ops.sum(weights))
        self.gates.assign_add(ops.sum(gates * weights, axis=0))

    def _mean_gates(self):
        return ops.divide_no_nan(ops.convert_to_tensor(self.gates), ops.convert_to_tensor(self.samples))

    def get_config(self):
        return {"name": self.name, "dtype": self.dtype, "num_experts": self.num_experts}


@keras.saving.register_keras_serializable(package="star_keras")
class RoutingEntropy(_GateTotals):
    """Mean entropy of the gates of a sample, `mean_i H(gates_i)`, in nats.

    0 where each sample has one expert, log(num_experts) where all experts share all samples: also when
    they are all alike, so read it with `evaluation.expert_similarity`.

    Args:
        num_experts: number of experts.
        normalize: whether to divide by log(num_experts). Defaults to `False`.
        name, dtype: as for any Keras metric.

    Example:

    >>> metric = RoutingEntropy(2)
    >>> metric.update_state(np.array([[0.5, 0.5], [1.0, 0.0]]))
    >>> round(float(metric.result()), 4)  # (ln 2 + 0) / 2
    0.3466

    Reference: Agarap and Azcarraga (2026), arXiv:2603.26734, figure 5: our reading of its
        "expert specialization entropy".
    """

    def __init__(self, num_experts, normalize=False, name="routing_entropy", dtype=None):
        super().__init__(num_experts, name, dtype)
        self.normalize = normalize
        self.entropies = self._total("entropies", ())

    def update_state(self, gates, sample_weight=None):
        super().update_state(gates, sample_weight)
        gates, weights = _as_rows(gates, sample_weight, self.num_experts)
        self.entropies.assign_add(ops.sum(entropy(gates) * weights[:, 0]))

    def result(self):
        return self._mean_entropy() / _unit(self.normalize, self.num_experts)

    def _mean_entropy(self):
        return ops.divide_no_nan(ops.convert_to_tensor(self.entropies), ops.convert_to_tensor(self.samples))

    def get_config(self):
        return {**super().get_config(), "normalize": self.normalize}


@keras.saving.register_keras_serializable(package="star_keras")
class UtilizationEntropy(_GateTotals):
    """Entropy of the mean gates, `H(mean_i gates_i)`, in nats.

    log(num_experts) where all experts get the same in all, less where some get little.

    Args:
        num_experts, normalize, name, dtype: as of `RoutingEntropy`.

    Example:

    >>> metric = UtilizationEntropy(2)
    >>> metric.update_state(np.array([[0.0, 1.0], [1.0, 0.0]]))
    >>> round(float(metric.result()), 4)
    0.6931
    """

    def __init__(self, num_experts, normalize=False, name="utilization_entropy", dtype=None):
        super().__init__(num_experts, name, dtype)
        self.normalize = normalize

    def result(self):
        return entropy(self._mean_gates()) / _unit(self.normalize, self.num_experts)

    def get_config(self):
        return {**super().get_config(), "normalize": self.normalize}


@keras.saving.register_keras_serializable(package="star_keras")
class RoutingInformation(RoutingEntropy):
    """What a sample tells about its expert: `UtilizationEntropy - RoutingEntropy`, in nats.

    The mutual information of samples and experts: 0 where routing is the same for all samples, uniform
    or collapsed, log(num_experts) where experts divide the samples evenly among them.

    Args:
        num_experts, normalize, name, dtype: as of `RoutingEntropy`.

    Example:

    >>> metric = RoutingInformation(2, normalize=True)
    >>> metric.update_state(np.array([[0.0, 1.0], [1.0, 0.0]]))
    >>> round(float(metric.result()), 4)
    1.0
    """

    def __init__(self, num_experts, normalize=False, name="routing_information", dtype=None):
        super().__init__(num_experts, normalize, name, dtype)

    def result(self):
        information = entropy(self._mean_gates()) - self._mean_entropy()
        return information / _unit(self.normalize, self.num_experts)


@keras.saving.register_keras_serializable(package="star_keras")
class ExpertLoad(_GateTotals):
    """Mean gate of every expert: the share of the work it is given, a vector that sums to one.

    Args:
        num_experts, name, dtype: as of `RoutingEntropy`.

    Example:

    >>> metric = ExpertLoad(2)
    >>> metric.update_state(np.array([[0.5, 0.5], [1.0, 0.0]]))
    >>> np.asarray(metric.result())
    array([0.75, 0.25], dtype=float32)
    """

    def __init__(self, num_experts, name="expert_load", dtype=None):
        super().__init__(num_experts, name, dtype)

    def result(self):
        return self._mean_gates()


@keras.saving.register_keras_serializable(package="star_keras")
class DeadExperts(_GateTotals):
    """Number of experts that are given next to nothing.

    Args:
        num_experts, name, dtype: as of `RoutingEntropy`.
        threshold: an expert is dead whose mean gate is below this part of an equal share,
            `threshold / num_experts`. Defaults to 0.1.

    Example:

    >>> metric = DeadExperts(3)
    >>> metric.update_state(np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]))
    >>> float(metric.result())
    1.0
    """

    def __init__(self, num_experts, threshold=0.1, name="dead_experts", dtype=None):
        super().__init__(num_experts, name, dtype)
        self.threshold = threshold

    def result(self):
        gates = self._mean_gates()
        dead = ops.cast(gates < self.threshold / self.num_experts, "float32")
        count = ops.sum(ops.where(ops.isnan(gates), gates, dead))
        return ops.where(self.samples == 0, 0.0, count)

    def get_config(self):
        return {**super().get_config(), "threshold": self.threshold}


class _ClassTotals(keras.metrics.Metric):
    """What every class gave to every expert in all, `(num_classes, num_experts)`."""

    def __init__(self, num_classes, num_experts, normalize=False, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype or "float32")
        self.num_classes = num_classes
        self.num_experts = num_experts
        self.normalize = normalize
        self.table = self.add_weight(name="table", shape=(num_classes, num_experts), initializer="zeros")

    def update_state(self, labels, gates, sample_weight=None):
        """Adds a batch.

        Args:
            labels: `(batch,)` or `(batch, 1)` whole numbers in [0, num_classes); others are left out.
            gates: `(batch, num_experts)`, rows that sum to one.
            sample_weight: `(batch,)`. Defaults to `None`: ones.
        """
        gates, weights = _as_rows(gates, sample_weight, self.num_experts)
        labels = ops.one_hot(_as_labels(labels, gates, self.num_classes), self.num_classes, dtype="float32")
        self.table.assign_add(ops.matmul(ops.transpose(labels), gates * weights))

    def _mean_over_members(self, axis, outcomes):
        """Mean entropy of the distributions along `axis` of the table; empty ones do not count."""
        table = ops.convert_to_tensor(self.table)
        totals = ops.sum(table, axis=axis, keepdims=True)
        shares = ops.divide_no_nan(table, totals)
        entropies = entropy(shares if axis == 1 else ops.transpose(shares))
        used = ops.reshape(ops.cast(totals != 0, "float32"), (-1,))  # NaN is used, too
        mean = ops.divide_no_nan(ops.sum(entropies * used), ops.sum(used))
        return mean / _unit(self.normalize, outcomes)

    def get_config(self):
        names = ("name", "dtype", "num_classes", "num_experts", "normalize")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="star_keras")
class ClassRoutingEntropy(_ClassTotals):
    """Mean entropy of the mean gates of a class, `mean_c H(mean_{i in c} gates_i)`, in nats.

    0 where the class decides the expert; classes without samples do not count.

    Args:
        num_classes: number of classes.
        num_experts: number of experts.
        normalize: whether to divide by log(num_experts). Defaults to `False`.
        name, dtype: as for any Keras metric.

    Example:

    >>> metric = ClassRoutingEntropy(2, 2)
    >>> metric.update_state(np.array([0, 0, 1]), np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]))
    >>> round(float(metric.result()), 4)  # (ln 2 + 0) / 2
    0.3466
    """

    def __init__(self, num_classes, num_experts, normalize=False, name="class_routing_entropy", dtype=None):
        super().__init__(num_classes, num_experts, normalize, name, dtype)

    def result(self):
        return self._mean_over_members(1, self.num_experts)


@keras.saving.register_keras_serializable(package="star_keras")
class ExpertClassEntropy(_ClassTotals):
    """Mean entropy of the classes that an expert is given, `mean_e H(class given e)`, in nats.

    0 where every expert is a specialist for one class; experts that got nothing do not count.

    Args:
        num_classes, num_experts, name, dtype: as of `ClassRoutingEntropy`.
        normalize: whether to divide by log(num_classes). Defaults to `False`.

    Example:

    >>> metric = ExpertClassEntropy(2, 3)
    >>> metric.update_state(np.array([0, 1, 1]), np.array([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]]))
    >>> round(float(metric.result()), 4)  # (ln 2 + 0) / 2
    0.3466
    """

    def __init__(self, num_classes, num_experts, normalize=False, name="expert_class_entropy", dtype=None):
        super().__init__(num_classes, num_experts, normalize, name, dtype)

    def result(self):
        return self._mean_over_members(0, self.num_classes)


def _as_rows(gates, sample_weight, num_experts):
    """Gates in float32, and weights of the samples as a column."""
    gates = ops.cast(gates, "float32")
    if len(gates.shape) != 2 or gates.shape[-1] != num_experts:
        raise ValueError(
            f"`gates` must have the shape (batch, {num_experts}), one column for each expert. "
            f"Received: shape {tuple(gates.shape)}"
        )
    weights = ops.ones_like(gates[:, 0]) if sample_weight is None else ops.cast(sample_weight, "float32")
    return gates, ops.reshape(weights, (-1, 1))


def _as_labels(labels, gates, num_classes):
    """Signed labels in one axis, if there is one for each row of gates; -1 for those of no class."""
    labels = labels if hasattr(labels, "shape") else np.asarray(labels)
    sizes = {labels.shape[0] if len(labels.shape) else 0, gates.shape[0]} - {None}
    if tuple(labels.shape[1:]) not in ((), (1,)) or len(sizes) > 1:
        raise ValueError(
            "`labels` must be whole numbers of shape (batch,) or (batch, 1), one for each row of `gates`. "
            f"Received: `labels` of shape {tuple(labels.shape)} and `gates` of shape {tuple(gates.shape)}. "
            "Take the argmax of one-hot labels."
        )
    if isinstance(labels, np.ndarray):  # of large ones JAX would keep 32 bits
        labels = np.where((labels >= 0) & (labels < num_classes), labels.astype("int32"), -1)
    # Unsigned numbers too large for their signed type become negative, and are no class either.
    wide = keras.backend.standardize_dtype(labels.dtype) in ("int64", "uint64")
    labels = ops.reshape(ops.cast(labels, "int64" if wide else "int32"), (-1,))
    return ops.where(labels < num_classes, labels, -1)  # PyTorch refuses to encode what lies above


def _unit(normalize, outcomes):
    return float(np.log(outcomes)) if normalize and outcomes > 1 else 1.0
