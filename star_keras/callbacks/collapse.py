"""Watch whether embeddings still tell images apart while a model trains."""

import warnings

import numpy as np

from star_keras import evaluation
from star_keras.callbacks.every_epochs import EveryEpochs
from star_keras.callbacks.probes import watched
from star_keras.evaluation.embeddings import in_batches


class CollapseMonitor(EveryEpochs):
    """Writes how much of their space the embeddings of fixed images fill into the logs.

    Of a model with a projector, such as `STARPretraining`, the features and the embeddings of every task are
    looked at, of any other its features or outputs. Into the logs go, for each space,

    | log | value |
    |---|---|
    | `{space}_spread` | `evaluation.embedding_spread`: 1 is an even sphere, 0 a single direction |
    | `{space}_effective_rank` | `evaluation.effective_rank`: number of directions they vary in |

    where the space is "backbone", a task, or "embedding" for a projector without tasks. The first time that a
    space of more than two columns has a spread below 0.1 or an effective rank below 1.5, a warning says so.
    Features behind a ReLU, being positive, have a spread of 0.3 to 0.6 when all is well. Place it before
    callbacks that are to store the logs.

    Args:
        images: inputs of the model, looked at after every epoch; a few hundred are enough.
        every: number of epochs between two looks; epochs between repeat the last values. Defaults to 1.
        batch_size: images at a time. Defaults to 256.

    Raises:
        ValueError: if a number is not whole and positive.
        NonFiniteError: if an embedding is NaN or infinite.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> model.compile("sgd", "mse")
    >>> x = np.random.default_rng(0).normal(size=(8, 4))
    >>> history = model.fit(x, np.zeros((8, 3)), callbacks=[CollapseMonitor(x)], verbose=0).history
    >>> sorted(history)
    ['backbone_effective_rank', 'backbone_spread', 'loss']

    Reference: Chen and He, Exploring Simple Siamese Representation Learning (2021), section 4.1; Garrido and
    others, RankMe (ICML 2023).
    """

    def __init__(self, images, every=1, batch_size=256):
        super().__init__(every, batch_size)
        self.images = images

    def on_train_begin(self, logs=None):
        super().on_train_begin()
        self._warned = set()

    def _look(self, epoch):
        values = {}
        for space, rows in self._embeddings().items():
            spread, rank = evaluation.embedding_spread(rows), evaluation.effective_rank(rows)
            values |= {f"{space}_spread": spread, f"{space}_effective_rank": rank}
            collapsed = rows.shape[1] > 2 and (spread < 0.1 or rank < 1.5) and not _are_probabilities(rows)
            if collapsed and space not in self._warned:
                self._warned.add(space)
                warnings.warn(
                    f"The embeddings {space!r} have collapsed in epoch {epoch}: spread {spread:.3f} (1 is "
                    f"even), effective rank {rank:.1f} of {rows.shape[1]}. Lower the learning rate, or look "
                    "for batches too small for negatives.",
                    UserWarning,
                    stacklevel=2,
                )
        return values

    def _embeddings(self):
        """`{space: (images, columns) array}` of all spaces."""
        backbone = watched(self.model)
        features = evaluation.extract_features(backbone, self.images, self.batch_size, verbose=0)
        found, projector = {"backbone": features}, getattr(self.model, "projector", None)
        if projector is None:
            return found
        spaces = in_batches(lambda rows: projector(rows, training=False), self.batch_size, features)
        return found | (spaces if isinstance(spaces, dict) else {"embedding": spaces})


def _are_probabilities(rows):
    """Whether rows are answers of a classifier, which are alike where classes are."""
    return rows.min() >= 0 and np.allclose(rows.sum(axis=1), 1, atol=1e-2)
