"""What the evidence on turned images shares: names of stages, an epoch of fine-tuning, accuracies."""

import keras
import numpy as np

import star_keras as sk

FROZEN, TUNING = "zero-shot", "fine-tuned"


def fine_tune(model, images, labels, rate):
    """One epoch."""
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(images, labels, batch_size=32, epochs=1, verbose=0)


def predict(model, images):
    batches = (images[start : start + 250] for start in range(0, len(images), 250))
    return np.concatenate([np.array(model(batch)).argmax(axis=-1) for batch in batches])


def share(guesses, labels):
    return float(np.mean(guesses == labels))


def difference(first, second):
    """Of the second from the first, in points."""
    return sk.evaluation.paired_comparison(100 * np.array(first), 100 * np.array(second))
