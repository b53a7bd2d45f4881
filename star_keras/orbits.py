"""How the members of an orbit are ranked, weighted and averaged, also when they come in chunks."""

import keras
import numpy as np
from keras import ops

from star_keras.backend import known_values
from star_keras.exceptions import NonFiniteError

TIE = 1e-6  # relative distance at which two losses count as equal


class RunningAverage:
    """The weighted average of an orbit whose members arrive a few at a time.

    Holds one sum, whatever the number of members. Weights are relative to the best member so far, as in a
    running softmax: `exp(s - best)` for scores `s` of "lambda", 1 or 0 for "argmin", 1 for "mean".

    Args:
        weighting: "mean", "lambda" or "argmin".
        ties: "mean" or "first", for "argmin".
        gradient: "equitune", "identity" or "selected", for "argmin".
    """

    def __init__(self, weighting, ties, gradient):
        self.weighting = weighting
        self.ties = ties
        self.surrogate = gradient if weighting == "argmin" and gradient != "selected" else None
        self.best = self.weight = self.sum = self.base = None
        self.count = 0

    def add(self, scores, members):
        """Takes the next members in.

        Args:
            scores: `(members, rows)`, the greater the better; None for "mean".
            members: structure of tensors `(members, rows, ...)` in float32 or float64.
        """
        weights, kept = self._weigh(scores)
        self._add_surrogate(members)
        fresh = keras.tree.map_structure(lambda leaf: _weighted_sum(weights, leaf), members)
        if self.sum is None:
            self.sum = fresh
        else:
            self.sum = keras.tree.map_structure(lambda old, new: _scale(old, kept) + new, self.sum, fresh)
        self.count += keras.tree.flatten(members)[0].shape[0]

    def result(self):
        """The average of all members so far, a structure of `(rows, ...)`."""
        if self.weighting == "mean":
            return keras.tree.map_structure(lambda total: total / self.count, self.sum)
        average = keras.tree.map_structure(lambda total: _scale(total, 1 / self.weight), self.sum)
        if self.surrogate is None:
            return average
        parts = self.count if self.surrogate == "equitune" else 1
        return keras.tree.map_structure(
            lambda outputs, base: _straight_through(outputs, base / parts), average, self.base
        )

    def _weigh(self, scores):
        """Weights of new members, and the factor of what is already in the sum."""
        if self.weighting == "mean":
            return None, None
        before, best = self.best, ops.stop_gradient(ops.max(scores, axis=0))
        if before is not None:
            best = ops.maximum(before, best)
        weights, kept = self._relative(scores, before, best)
        total = ops.sum(weights, axis=0)
        self.weight = total if before is None else self.weight * kept + total
        self.best = best
        return weights, kept

    def _relative(self, scores, before, best):
        if self.weighting == "lambda":
            return ops.exp(scores - best), None if before is None else ops.exp(before - best)
        if self.ties == "first":
            chosen, kept = _first_best(scores, before)
        else:
            # Of an infinite best, which has no neighbourhood, all that equal it.
            limit = ops.where(ops.abs(best) == float("inf"), best, best - TIE * (1 + ops.abs(best)))
            chosen, kept = scores >= limit, None if before is None else before >= limit
        broken = ops.any(ops.isnan(scores), axis=0)
        weights = ops.where(broken, float("nan"), ops.cast(chosen, scores.dtype))
        return weights, None if kept is None else ops.cast(kept, scores.dtype)

    def _add_surrogate(self, members):
        """What the gradient of "argmin" flows through: the sum of all members, or the first of all."""
        if self.surrogate == "equitune":
            sums = keras.tree.map_structure(lambda leaf: ops.sum(leaf, axis=0), members)
            if self.base is not None:
                sums = keras.tree.map_structure(lambda old, new: old + new, self.base, sums)
            self.base = sums
        elif self.surrogate == "identity" and self.base is None:
            self.base = keras.tree.map_structure(lambda leaf: leaf[0], members)


def orbit_weights(scores, weighting, ties):
    """Weights `(rows, order)` of scores `(order, rows)`: what `RunningAverage` uses, normalised."""
    running = RunningAverage(weighting, ties, "selected")
    weights, _ = running._weigh(scores)
    return ops.transpose(weights / running.weight)


def refuse_broken(scores, weighting):
    """Raises NonFiniteError, eagerly, where members cannot be ranked: one of `scores` is no number."""
    values = known_values(scores, fetch=True)
    if values is None:
        return
    broken = np.isnan(values) if weighting == "argmin" else ~np.isfinite(values)
    if broken.any():
        raise NonFiniteError(
            f"Scores must be numbers. Received: {values[broken].flat[0]} for {broken.sum()} of {broken.size} "
            "members of orbits. Look for NaN in the weights, for overflow in the model's outputs, or for the "
            "logarithm of zero in the score."
        )


def _first_best(scores, before):
    position = ops.argmax(scores, axis=0)
    chosen = ops.expand_dims(ops.arange(scores.shape[0]), 1) == ops.cast(position, "int32")
    if before is None:
        return chosen, None
    kept = before >= ops.max(scores, axis=0)
    return ops.logical_and(chosen, ops.logical_not(kept)), kept


def _weighted_sum(weights, leaf):
    return ops.sum(_scale(leaf, weights), axis=0)


def _scale(leaf, factors):
    """Multiplies by factors that have the first axes of the leaf; None is a factor of one.

    What counts nothing may be infinite, as the logit of a forbidden class is: 0 times it is 0.
    """
    if factors is None:
        return leaf
    for _ in range(len(leaf.shape) - len(factors.shape)):
        factors = ops.expand_dims(factors, -1)
    factors = ops.cast(factors, leaf.dtype)
    return ops.where(factors == 0, 0.0, leaf) * factors


def _straight_through(outputs, base):
    """`outputs` to the last bit, with the gradient of `base` where that is finite."""
    change = ops.where(ops.isfinite(base), base - ops.stop_gradient(base), 0.0)
    return ops.stop_gradient(outputs) + change


def brought_back(group, members, elements=None):
    """What was said of moved inputs in the frame of the first: member i moved by the inverse of its element.

    Args:
        group: moves one member.
        members: `(members, rows, ...)`.
        elements: the element of each. Defaults to None: all of the group, in turn.
    """
    elements = range(group.order) if elements is None else elements
    return ops.stack([group.act(group.inverse(g), members[i]) for i, g in enumerate(elements)])


def accurate(tensor):
    """In float64 if it is already, else in float32."""
    kind = keras.backend.standardize_dtype(tensor.dtype)
    return tensor if kind == "float64" else ops.cast(tensor, "float32")


# --- losses that rank the members -----------------------------------------------------------------


def probabilities(outputs, from_logits):
    outputs = accurate(outputs)
    return ops.softmax(outputs, axis=-1) if from_logits else outputs


def log_probabilities(outputs, from_logits):
    outputs = accurate(outputs)
    return ops.log_softmax(outputs, axis=-1) if from_logits else ops.log(ops.maximum(outputs, 1e-30))


def loss(name, outputs, from_logits):
    """The loss of that name of each row, NaN where an output is: a jitted maximum may overlook NaN."""
    values = LOSSES[name](outputs, from_logits)
    values = ops.mean(values, axis=tuple(range(1, len(values.shape)))) if len(values.shape) > 1 else values
    broken = ops.any(ops.isnan(outputs), axis=tuple(range(1, len(outputs.shape))))
    return ops.where(broken, float("nan"), values)


def entropy(outputs, from_logits):
    """`-sum_v p_v log p_v`."""
    logs = ops.maximum(log_probabilities(outputs, from_logits), -1e30)  # 0 log 0 is 0
    return -ops.sum(ops.exp(logs) * logs, axis=-1)


def confidence(outputs, from_logits):
    """`log((1 - p) / p)` of the greatest probability p: ranks as -p does, but p rounds to 1."""
    logs = log_probabilities(outputs, from_logits)
    greatest = ops.one_hot(ops.argmax(logs, axis=-1), logs.shape[-1], dtype="bool")
    others = ops.logsumexp(ops.where(greatest, -1e30, logs), axis=-1)
    return others - ops.max(logs, axis=-1)


def max_value(outputs, from_logits):
    """`-max_v outputs_v`, such as minus the value of the best action."""
    return -ops.max(accurate(outputs), axis=-1)


LOSSES = {"entropy": entropy, "confidence": confidence, "max_value": max_value}
