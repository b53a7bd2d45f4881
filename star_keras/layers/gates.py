"""What routers do to their gates beyond a softmax: masks, the largest only, noise, dropout."""

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

    Raises:
        ValueError: if the mask has another shape.
    """
    allowed = ops.cast(expert_mask, "bool")
    shape, (samples, _, experts) = tuple(allowed.shape), logits.shape
    sizes = zip(shape[::-1], (experts, samples), strict=False)
    if len(shape) not in (1, 2) or any(a != b and None not in (a, b) for a, b in sizes):
        raise ValueError(
            f"`expert_mask` must have the shape ({experts},) or (batch, {experts}), a value for each expert. "
            f"Received: `expert_mask` of shape {shape} for inputs of {samples or 'some'} samples"
        )
    return _where_any(ops.expand_dims(allowed, 1) if len(shape) == 2 else allowed, logits)


def keep_largest(gates, number):
    """The `number` largest gates over their sum, the others zero; of equal gates those that come first."""
    own, other = ops.expand_dims(gates, -1), ops.expand_dims(gates, -2)
    index = ops.arange(gates.shape[-1])
    earlier = index < index[:, None]
    ahead = ops.logical_or(other > own, ops.logical_and(other == own, earlier))
    gates = ops.where(ops.sum(ops.cast(ahead, "int32"), axis=-1) < number, gates, 0.0)
    return gates / ops.sum(gates, axis=-1, keepdims=True)


def add_noise(logits, deviation, seed):
    """Logits with normal noise of this standard deviation."""
    noise = rows_of_global_batch(logits, lambda shape: keras.random.normal(shape, seed=seed))
    return logits + deviation * noise


def drop_experts(logits, rate, seed):
    """Logits with those of experts that a sample loses at random at -1e30; who would lose all keeps all."""
    kept = rows_of_global_batch(logits, lambda shape: keras.random.uniform(shape, seed=seed)) >= rate
    masked = logits <= _MASKED  # not so NaN, which must not be hidden
    return _where_any(ops.logical_and(kept, ops.logical_not(masked)), logits)


def leave_out(experts, gates):
    """Outputs `(batch, experts, units)` with zeros where all tasks' gates are 0: 0 * NaN would be NaN."""
    return ops.where(ops.any(gates != 0, axis=1)[..., None], experts, 0.0)


def rows_of_global_batch(like, draw):
    """Random numbers of the shape of `like`: the rows of this replica of one draw for all of them."""
    return backend.own_rows(lambda total: draw((total, *like.shape[1:])), ops.shape(like)[0])


def _where_any(kept, logits):
    """Logits that are kept, the others at -1e30; all of a row where none is kept."""
    kept = ops.logical_or(kept, ops.logical_not(ops.any(kept, axis=-1, keepdims=True)))
    return ops.where(kept, logits, _MASKED)
