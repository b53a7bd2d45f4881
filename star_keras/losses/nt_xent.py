"""Normalised-temperature cross entropy: contrast of pairs."""

import math
import numbers

import keras
from keras import ops

from star_keras import backend
from star_keras.losses.pairs import log_sum_exp_of_keys, log_sum_exp_of_others
from star_keras.ops import l2_normalize

BLOCK_SIZE = 384
_LARGEST_PLAIN_EXPONENT = 30.0


@keras.saving.register_keras_serializable(package="star_keras")
class NTXent(keras.losses.Loss):
    """Normalised-temperature cross entropy between the two sides of a batch of pairs.

    The `2n` vectors of both sides are scaled to length one and compared with one another. Each of
    them has to find its pair among the `2n - 1` others:

    `row_i = -s[i, pair(i)] + log(sum_{j != i} exp(s[i, j]))` with `s = h @ h.T / temperature`

    and sample `k` gets the mean of the two rows of pair `k`. Vectors are compared in blocks of rows
    whose products are computed again in the backward pass, so memory is linear in the batch. Under
    a TensorFlow strategy the others are those of all replicas, with gradient.

    Args:
        temperature: divides the cosine similarities, positive and finite. Defaults to `0.2`.
        reduction: as in `keras.losses.Loss`. Defaults to `"sum_over_batch_size"`.
        name: name of the loss. Defaults to `"nt_xent"`.

    Call arguments:
        targets: one side of the pairs, `(n, d)`, any float type.
        predictions: the other side, `(n, d)`. The loss is the same when the sides are swapped.
        sample_weight: optional weights of the pairs, `(n,)`.

    Returns:
        A float32 scalar, or `(n,)` values with `reduction=None`. A batch whose size is unknown
        until it runs and turns out to hold one pair has loss and gradient zero.

    Raises:
        ValueError: if the temperature is out of range, the sides do not have one shape `(n, d)`, or
            the batch is known to hold a single pair, or none.

    Example:

    >>> import numpy as np
    >>> loss = NTXent(temperature=0.5)
    >>> sides = np.eye(4, dtype="float32")
    >>> round(float(loss(sides, sides)), 4)  # ln(1 + 6 exp(-2))
    0.5944

    Reference:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations
        (ICML 2020), section 2.1; used by STAR for both of its terms.
    """

    def __init__(self, temperature=0.2, reduction="sum_over_batch_size", name="nt_xent"):
        if not isinstance(temperature, numbers.Real) or not 1e-30 <= temperature < math.inf:
            raise ValueError(
                "`temperature` divides the similarities and must be finite and at least 1e-30, such as 0.2. "
                f"Received: temperature={temperature!r}"
            )
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.temperature = temperature

    def call(self, targets, predictions):
        shapes = tuple(targets.shape), tuple(predictions.shape)
        paired = [len(shape) for shape in shapes] == [2, 2]
        if not paired or any(len({*sizes} - {None}) > 1 for sizes in zip(*shapes, strict=True)):
            raise ValueError(
                "`targets` and `predictions` must be pairs of vectors of one shape (n, d). "
                f"Received: shapes {shapes[0]} and {shapes[1]}"
            )
        count = targets.shape[0]
        if count in (0, 1) and backend.num_replicas() == 1:
            raise ValueError(
                "NTXent needs >= 2 samples, for a pair is told from the others of its batch. "
                f"Received: a batch of {count}. Use a larger batch, or drop the last incomplete one."
            )
        scale = 1 / math.sqrt(self.temperature)
        targets, predictions = l2_normalize(targets) * scale, l2_normalize(predictions) * scale
        count = ops.shape(targets)[0]
        start, total = backend.replica_rows(count)
        rows = ops.concatenate([targets, predictions])
        if backend.num_replicas() == 1 and 1 / self.temperature <= _LARGEST_PLAIN_EXPONENT:
            others = log_sum_exp_of_others(rows, BLOCK_SIZE)
        else:
            keys = ops.concatenate([backend.gather(targets), backend.gather(predictions)])
            own = start + ops.arange(count)
            others = log_sum_exp_of_keys(rows, keys, ops.concatenate([own, total + own]), BLOCK_SIZE)
        losses = (others[:count] + others[count:]) / 2 - ops.sum(targets * predictions, axis=-1)
        return losses * ops.cast(total > 1, "float32")

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature}
