"""What routers do to their gates beyond a softmax: masks, the largest only, dropout."""

import keras
from keras import ops

from star_keras import backend

_MASKED = -1e30


def allow(logits, expert_mask):
    """Logits `(batch, tasks, experts)` with those of experts that may not be used at -1e30.

    Args:
        logits: float32.
        expert_mask: bool, True for experts that may be used, `(experts,)` or `(batch, experts)`. A
            sample with no such expert may use all.
    """
    allowed = ops.cast(expert_mask, "bool")
    allowed = ops.logical_or(allowed, ops.logical_not(ops.any(allowed, axis=-1, keepdims=True)))
    allowed = ops.expand_dims(allowed, 1) if len(allowed.shape) == 2 else allowed
    return ops.where(allowed, logits, _MASKED)


def keep_largest(gates, number):
    """The `number` largest gates over their sum, the others zero; of equal gates those that come first."""
    own, other = ops.expand_dims(gates, -1), ops.expand_dims(gates, -2)
    index = ops.arange(gates.shape[-1])
    earlier = index < index[:, None]
    ahead = ops.logical_or(other > own, ops.logical_and(other == own, earlier))
    return _renormalize(gates, ops.sum(ops.cast(ahead, "int32"), axis=-1) < number)


def drop_experts(gates, rate, seed):
    """Gates without those of experts that a sample loses at random; who would lose all keeps all."""
    kept = rows_of_global_batch(gates, lambda shape: keras.random.uniform(shape, seed=seed)) >= rate
    kept = ops.logical_and(kept, gates > 0)
    return _renormalize(gates, ops.logical_or(kept, ops.logical_not(ops.any(kept, axis=-1, keepdims=True))))


def rows_of_global_batch(like, draw):
    """Random numbers of the shape of `like`: the rows of this replica of one draw for all of them."""
    count = ops.shape(like)[0]
    start, total = backend.replica_rows(count)
    numbers = draw((total, *like.shape[1:]))
    return numbers if total is count else numbers[start : start + count]


def _renormalize(gates, kept):
    gates = ops.where(kept, gates, 0.0)
    return gates / ops.sum(gates, axis=-1, keepdims=True)
