"""What a mixture of experts may be punished for, as functions of its gates, logits or weights."""

from keras import ops

from star_keras import backend
from star_keras.ops import entropy, l2_normalize, over_replicas


def load_balance(gates, mask=None):
    """The product of how often experts are chosen and how much they get: 1 when balanced.

    `num_experts * sum_e(f_e * p_e)`, `f_e` being the share of the samples whose largest gate is that of
    expert `e` (without gradient) and `p_e` the mean gate. It is `num_experts` when one expert takes all.

    Args:
        gates: `(batch, num_experts)`, rows that sum to one.
        mask: `(batch,)` bool, False for padding. Defaults to `None`: all samples count.

    Returns:
        A float32 scalar. A replica returns its share: the shares of all replicas sum to the value.

    Example:

    >>> round(float(load_balance(np.array([[0.9, 0.1], [0.2, 0.8]], "float32"))), 4)
    1.0

    Reference:
        Fedus, Zoph and Shazeer, Switch Transformers (JMLR 2022), section 2.2.
    """
    gates, shown = _prepare(gates, mask)
    experts = gates.shape[-1]
    first = ops.one_hot(ops.argmax(gates, axis=-1), experts, dtype="float32")
    number = ops.maximum(over_replicas(ops.sum(shown)), 1.0)
    chosen = ops.stop_gradient(over_replicas(ops.sum(first * shown, axis=0))) / number
    return experts * ops.sum(chosen * ops.sum(gates * shown, axis=0)) / number


def router_z(logits):
    """How large the router's logits are: `logsumexp(logits)**2` of every sample.

    Args:
        logits: `(batch, num_experts)`, what `RoutedExperts.router_logits` gives for one task.

    Returns:
        `(batch,)` float32 values.

    Example:

    >>> round(float(router_z(np.zeros((1, 4)))[0]), 4)  # ln(4) ** 2
    1.9218

    Reference:
        Zoph et al., ST-MoE (2022), section 3.1.
    """
    return ops.square(ops.logsumexp(ops.cast(logits, "float32"), axis=-1))


def gate_entropy(gates):
    """How undecided the router is about every sample: `-sum_e(gates[e] * log(gates[e]))`, in nats.

    0 for one expert alone, log(num_experts) for all alike. Added with a negative weight it keeps
    routing soft, with a positive one it makes routing decided.

    Args:
        gates: `(batch, num_experts)`, rows that sum to one.

    Returns:
        `(batch,)` float32 values, with finite gradients also where gates are 0.

    Example:

    >>> round(float(gate_entropy(np.array([[0.5, 0.5, 0.0]]))[0]), 4)
    0.6931
    """
    return entropy(gates)


def importance_variation(gates, mask=None):
    """Squared coefficient of variation of what the experts get in all: `var(sum of gates) / mean**2`.

    Args:
        gates, mask: as of `load_balance`.

    Returns:
        A float32 scalar, 0 when balanced, `num_experts - 1` when one takes all; of a replica its share.

    Example:

    >>> float(importance_variation(np.array([[1.0, 0.0], [1.0, 0.0]])))
    1.0

    Reference:
        Shazeer et al., Outrageously Large Neural Networks (ICLR 2017), section 4.
    """
    gates, shown = _prepare(gates, mask)
    importance = over_replicas(ops.sum(gates * shown, axis=0))
    mean = ops.mean(importance)
    variation = ops.mean(ops.square(importance - mean)) / ops.maximum(ops.square(mean), 1e-12)
    return variation / backend.num_replicas()


def expert_overlap(kernels):
    """Mean squared cosine of pairs of experts' weights, 0 when they are orthogonal.

    Args:
        kernels: `(num_experts, ...)`, one stack of a `RoutedExperts` layer.

    Returns:
        A float32 scalar, 0 for a single expert.

    Example:

    >>> float(expert_overlap(np.array([[1.0, 0.0], [0.0, 2.0]])))
    0.0
    """
    experts = kernels.shape[0]
    vectors = l2_normalize(ops.reshape(kernels, (experts, -1)))
    cosines = ops.matmul(vectors, ops.transpose(vectors)) * (1 - ops.eye(experts))
    return ops.sum(ops.square(cosines)) / max(experts * (experts - 1), 1)


def _prepare(gates, mask):
    """Gates in float32, and `(batch, 1)` ones for samples that count."""
    gates = ops.cast(gates, "float32")
    shown = ops.ones_like(gates[:, 0]) if mask is None else ops.cast(mask, "float32")
    return gates, shown[:, None]
