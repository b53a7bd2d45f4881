"""Multinomial logistic regression to its optimum, along a path of penalties."""

import warnings

import numpy as np

_BLOCK_ENTRIES = 2**26
_MAX_STEPS = 200
_MAX_PRODUCTS = 500
_STALE_AFTER = 20


class Logistic:
    """Minimises `sum_i CE(y_i, W x_i) + weight * |W|^2`; the bias is a column of ones and penalised too.

    Newton steps by conjugate gradients, preconditioned with each class's own block of the Hessian. The
    features of a network are so correlated that L-BFGS does not arrive at small weights in 5,000
    iterations; this needs some dozens of products. The optimum is unique, so the way to it is free: walk a
    path of weights from the largest down, each solution starting the next.

    Args:
        features: array `(n, d)`.
        labels: integers `(n,)` in `[0, num_classes)`.
        num_classes: number of classes.
        tolerance: gain, relative to the objective, that the last Newton step may still promise; the
            remaining distance to the optimum is about a hundredth of it. Defaults to 1e-6.
    """

    def __init__(self, features, labels, num_classes, tolerance=1e-6):
        self.inputs = _with_ones(features)
        self.labels = labels
        self.one_hot = np.eye(num_classes)[labels]
        self.tolerance = tolerance
        self._blocks = None

    def solve(self, weight, start=None):
        """Coefficients `(d + 1, num_classes)` of the optimum; the last row is the bias."""
        shape = self.inputs.shape[1], self.one_hot.shape[1]
        solution = np.zeros(shape) if start is None else start
        value, gradient, probabilities = self._evaluate(solution, weight)
        rounding = len(self.labels) * np.finfo("float64").eps
        precondition, products = None, 0
        for _ in range(_MAX_STEPS):
            if self._blocks is None or products > _STALE_AFTER:
                self._blocks, precondition = self._hessian_blocks(probabilities), None
            precondition = precondition or _inverse(self._blocks, weight)
            step, products = self._newton_step(gradient, probabilities, weight, precondition)
            promised = -np.sum(gradient * step) / 2
            rate = 1.0
            while True:
                candidate = self._evaluate(solution + rate * step, weight)
                if candidate[0] <= value - 1e-4 * rate * promised or rate < 1e-6:
                    break
                rate /= 2
            solution = solution + rate * step
            value, gradient, probabilities = candidate
            if promised <= self.tolerance * value + rounding:
                return solution
        warnings.warn(f"Logistic regression did not converge at weight {weight:.3g}.", stacklevel=2)
        return solution

    def objective(self, solution, weight):
        """The value that `solve` minimises."""
        return self._evaluate(solution, weight)[0]

    def _evaluate(self, solution, weight):
        logits = self.inputs @ solution
        logits -= logits.max(axis=1, keepdims=True)
        log_sums = np.log(np.exp(logits).sum(axis=1))
        value = np.sum(log_sums - logits[np.arange(len(logits)), self.labels]) + weight * np.sum(solution**2)
        probabilities = np.exp(logits - log_sums[:, None])
        return value, self.inputs.T @ (probabilities - self.one_hot) + 2 * weight * solution, probabilities

    def _hessian_blocks(self, probabilities):
        """`X' diag(p (1 - p)) X` of each class, or of the average class where all would not fit."""
        curvatures = probabilities * (1 - probabilities)
        num_classes, size = probabilities.shape[1], self.inputs.shape[1]
        if num_classes * size**2 > _BLOCK_ENTRIES:
            curvatures = curvatures.sum(axis=1, keepdims=True) / (num_classes - 1)
        return np.stack([self._weighted_gram(column) for column in curvatures.T])

    def _weighted_gram(self, curvature):
        rows = np.flatnonzero(curvature > 1e-4 * curvature.max())
        inputs = self.inputs[rows]
        return inputs.T @ (inputs * curvature[rows, None])

    def _newton_step(self, gradient, probabilities, weight, precondition):
        """Conjugate gradients for `H step = -gradient`, until a tenth of the residual is left."""
        step, residual = np.zeros_like(gradient), -gradient
        direction = precondition(residual)
        size = first = np.sum(residual * direction)
        products = 0
        while size > 0 and products < _MAX_PRODUCTS:
            products += 1
            image = self._hessian_product(direction, probabilities, weight)
            rate = size / np.sum(direction * image)
            step += rate * direction
            residual -= rate * image
            scaled = precondition(residual)
            previous, size = size, np.sum(residual * scaled)
            if size <= 1e-2 * first:
                break
            direction = scaled + size / previous * direction
        return step, products

    def _hessian_product(self, direction, probabilities, weight):
        moved = self.inputs @ direction
        moved *= probabilities
        moved -= probabilities * moved.sum(axis=1, keepdims=True)
        return self.inputs.T @ moved + 2 * weight * direction


def predict(features, solution):
    """The class of the largest logit, for each row."""
    return np.argmax(features @ solution[:-1] + solution[-1], axis=1)


def _with_ones(features):
    return np.concatenate([features, np.ones((len(features), 1))], axis=1, dtype="float64")


def _inverse(blocks, weight):
    """Applies the inverses of `blocks + 2 * weight * I`, one a class, to the columns of an array."""
    rounding = 1e-13 * np.trace(blocks, axis1=1, axis2=2)[:, None, None]
    lower = np.linalg.cholesky(blocks + (2 * weight + rounding) * np.eye(blocks.shape[1]))
    factors = np.linalg.inv(lower)

    def apply(columns):
        scaled = factors.transpose(0, 2, 1) @ (factors @ columns.T[:, :, None])
        scaled = scaled[:, :, 0].T
        return scaled - scaled.mean(axis=1, keepdims=True)

    return apply
