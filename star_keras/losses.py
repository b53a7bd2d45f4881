"""Losses: one float32 value per sample, whatever the policy, with memory linear in the batch."""

import math

import keras
from keras import ops

from star_keras import backend
from star_keras.ops import l2_normalize

_EXCLUDED = -1e30
_BLOCK = 256


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
        temperature: divides the cosine similarities, a positive number. Defaults to `0.2`.
        reduction: as in `keras.losses.Loss`. Defaults to `"sum_over_batch_size"`.
        name: name of the loss. Defaults to `"nt_xent"`.
        block_size: rows that are compared at once, a positive integer. `None`, the default, keeps
            a block within a few megabytes.

    Call arguments:
        targets: one side of the pairs, `(n, d)`, any float type.
        predictions: the other side, `(n, d)`. The loss is the same when the sides are swapped.
        sample_weight: optional weights of the pairs, `(n,)`.

    Returns:
        A float32 scalar, or `(n,)` values with `reduction=None`. A batch whose size is unknown
        until it runs and turns out to hold one pair has loss and gradient zero.

    Raises:
        ValueError: if an argument is out of range, the sides do not have one shape `(n, d)`, or
            the batch is known to hold a single pair.

    Example:

    >>> loss = NTXent(temperature=0.5)
    >>> sides = np.eye(4, dtype="float32")
    >>> round(float(loss(sides, sides)), 4)   # ln(1 + 6 exp(-2))
    0.5946

    Reference:
        Chen et al., A Simple Framework for Contrastive Learning of Visual Representations
        (ICML 2020), section 2.1; used by STAR for both of its terms.
    """

    def __init__(self, temperature=0.2, reduction="sum_over_batch_size", name="nt_xent", block_size=None):
        if not 0 < temperature < math.inf:
            raise ValueError(f"`temperature` must be a positive number. Received: temperature={temperature}")
        if block_size is not None and block_size < 1:
            raise ValueError(f"`block_size` must be a positive integer or None. Received: block_size={block_size}")
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.temperature = temperature
        self.block_size = block_size

    def call(self, targets, predictions):
        if len(targets.shape) != 2 or targets.shape[-1] != predictions.shape[-1]:
            raise ValueError(
                "`targets` and `predictions` must be pairs of vectors of one shape (n, d). "
                f"Received: shapes {tuple(targets.shape)} and {tuple(predictions.shape)}"
            )
        if targets.shape[0] == 1 and backend.num_replicas() == 1:
            raise ValueError(
                "NTXent needs >= 2 samples, for a pair is told from the others of its batch. "
                "Received: a batch of 1. Use a larger batch, or drop the last incomplete one."
            )
        scale = 1 / math.sqrt(self.temperature)
        targets, predictions = l2_normalize(targets) * scale, l2_normalize(predictions) * scale
        count = ops.shape(targets)[0]
        start, total = backend.replica_rows(count)
        rows = ops.concatenate([targets, predictions])
        own = start + ops.arange(count, dtype="int32")
        if backend.num_replicas() == 1:
            keys = rows
        else:
            keys = ops.concatenate([backend.gather(targets), backend.gather(predictions)])
        others = _log_sum_exp_of_others(rows, keys, ops.concatenate([own, total + own]), self.block_size)
        others = (others[:count] + others[count:]) / 2
        losses = others - ops.sum(targets * predictions, axis=-1)
        return ops.where(total > 1, losses, 0.0)

    def get_config(self):
        return {**super().get_config(), "temperature": self.temperature, "block_size": self.block_size}


def _log_sum_exp_of_others(rows, keys, own, block_size=None):
    """`log(sum_{j != own[i]} exp(rows[i] @ keys[j]))` for every row, in memory linear in their number.

    The products are made for one block of rows at a time, and made again in the backward pass.

    Args:
        rows: `(n, d)` float32.
        keys: `(m, d)` float32.
        own: `(n,)` integers, the key each row is not compared with.
        block_size: rows of a block, an int. Defaults to 256.

    Returns:
        `(n,)` float32 values with gradients for `rows` and `keys`.
    """
    count, width = ops.shape(rows)[0], rows.shape[-1]
    block = block_size or _BLOCK
    if isinstance(count, int):
        block = min(block, count)
    else:
        block = ops.minimum(block, count)
    steps = -(-count // block)

    def first_row(step):
        return ops.minimum(step * block, count - block)

    def part(array, first):
        return ops.slice(array, (first,), (block,)) if len(array.shape) == 1 else ops.slice(
            array, (first, 0), (block, width)
        )

    def similarities(rows, keys, own, first):
        similarity = ops.matmul(part(rows, first), ops.transpose(keys))
        columns = ops.arange(ops.shape(keys)[0], dtype="int32")
        return ops.where(columns == part(own, first)[:, None], _EXCLUDED, similarity)

    def forward(rows, keys):
        def fill(step, values):
            first = first_row(step)
            return ops.slice_update(values, (first,), _log_sum_exp(similarities(rows, keys, own, first)))

        values = ops.fori_loop(0, steps, fill, ops.zeros_like(rows[:, 0]))

        def backward(upstream):
            def accumulate(step, gradients):
                first = first_row(step)
                of_rows, of_keys = gradients
                fresh = first + ops.arange(block, dtype="int32") >= step * block
                weights = ops.where(fresh, part(upstream, first), 0.0)
                weights = weights[:, None] * ops.exp(similarities(rows, keys, own, first) - part(values, first)[:, None])
                update = part(of_rows, first) + ops.matmul(weights, keys)
                of_keys = of_keys + ops.matmul(ops.transpose(weights), part(rows, first))
                return ops.slice_update(of_rows, (first, 0), update), of_keys

            return ops.fori_loop(0, steps, accumulate, (ops.zeros_like(rows), ops.zeros_like(keys)))

        return values, backward

    return backend.custom_gradient(forward)(rows, keys)


def _log_sum_exp(logits):
    largest = ops.max(logits, axis=-1)
    return largest + ops.log(ops.sum(ops.exp(logits - largest[:, None]), axis=-1))
