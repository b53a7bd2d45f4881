"""Stateless tensor mathematics that two rooms or more use; float32 inside, finite gradients everywhere."""

from keras import ops

from star_keras import backend


def regularization(model):
    """What regularisers of a model's parts add to its loss: this replica's share, a float32 scalar."""
    return sum(ops.sum(ops.cast(term, "float32")) for term in model.losses) / backend.num_replicas()


def l2_normalize(vectors):
    """Scales vectors to length one in float32: `x / sqrt(max(sum(x**2), 1e-12))`.

    Args:
        vectors: tensor of any float type, vectors along the last axis. Those whose squares overflow are
            normalised as well; a zero vector stays zero and has a finite gradient.

    Returns:
        A float32 tensor of the shape of `vectors`.
    """
    vectors = ops.cast(vectors, "float32")
    largest = ops.max(ops.abs(vectors), axis=-1, keepdims=True)
    vectors = vectors / ops.stop_gradient(ops.maximum(largest, 1.0))
    squared = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    return vectors * ops.rsqrt(ops.maximum(squared, 1e-12))


def global_mean(rows):
    """The mean of one value for each row over all replicas, as this replica's part; see `equal_part`."""
    _, total = backend.replica_rows(ops.shape(rows)[0])
    return equal_part(ops.sum(rows) / ops.cast(total, rows.dtype))


def equal_part(shares):
    """The sum of what all replicas hold, divided by their number, with the gradient of the own share.

    Gradients are summed over replicas, but of the losses that they report Keras takes the mean weighed by
    their rows, which is the whole only if all report the same.
    """
    return over_replicas(shares) / backend.num_replicas()


def over_replicas(shares):
    """The sum of what all replicas hold, with gradient; `shares` themselves outside a strategy."""
    return ops.sum(backend.gather(shares[None]), axis=0)


def entropy(probabilities):
    """`-sum(p * log(p))` over the last axis in float32 and nats, with finite gradients where `p` is 0."""
    probabilities = ops.cast(probabilities, "float32")
    return -ops.sum(probabilities * ops.log(ops.maximum(probabilities, 1e-30)), axis=-1)
