"""Pretraining as recipes do it, and what its features come to."""

import pathlib

import numpy as np

from star_keras import callbacks, evaluation, models
from star_keras.evaluation import untrained
from star_keras.recipes.results import spread


def num_steps(images, batch_size, epochs):
    """How many steps a run takes: `epochs * (len(images) // batch_size)`.

    Raises:
        ValueError: if there is none.

    Example:

    >>> num_steps(np.zeros(100), batch_size=32, epochs=2)
    6
    """
    steps = epochs * (len(images) // batch_size) if batch_size > 0 else 0
    if steps < 1:
        raise ValueError(
            f"A run needs at least one epoch of one batch of images. Received: {len(images)} images, "
            f"batch_size={batch_size}, epochs={epochs}; take a smaller batch or more images."
        )
    return steps


def measure(backbone, train, test, count=10000, seeds=(0, 1, 2)):
    """Linear probe and nearest neighbour on frozen features, for several draws of training images.

    The probe standardises features and chooses its decay on a tenth of the training images drawn.

    Args:
        backbone: model from images to features.
        train, test: `(images, labels)`.
        count: training images drawn, without replacement. Defaults to 10,000.
        seeds: one draw each. Defaults to three.

    Returns:
        A dict of plain JSON: for `linear_probe` and `nearest_neighbor` the mean, the standard deviation
        over draws, and each result.
    """
    (images, labels), (test_images, test_labels) = train, test
    test_features = evaluation.extract_features(backbone, test_images, verbose=0)
    found = {"linear_probe": [], "nearest_neighbor": []}
    for seed in seeds:
        rows = np.random.default_rng(seed).choice(len(images), min(count, len(images)), replace=False)
        split = (
            evaluation.extract_features(backbone, images[rows]),
            labels[rows],
            test_features,
            test_labels,
        )
        weights = np.logspace(-1, 4, 11)
        probe = evaluation.linear_probe(*split, weights=weights, seed=seed, standardize=True)
        found["linear_probe"].append(probe.to_dict())
        found["nearest_neighbor"].append(evaluation.nearest_neighbors(*split).to_dict())
    return {
        name: {**spread([result["accuracy"] for result in results]), "runs": results}
        for name, results in found.items()
    }


def pretrain(model, images, labelled, folder, epochs, batch_size, seed, minutes=None):
    """Fits a compiled pretraining model with checkpoints and a monitor, and goes on where it stopped.

    A checkpoint is written after every epoch, or where there are many, some forty times in the run. The
    monitor, every five epochs, is the nearest neighbour of a fifth of the labelled images, at most a
    thousand, among at most five thousand others. Give it training images: test images are for the end.

    Args:
        model: a built and compiled `STARPretraining`.
        images: array of images in [0, 255] to train on.
        labelled: `(images, labels)` for the monitor; of one class, there is none.
        folder: of the checkpoint, and of the folder "backbone", which `models.load` takes.
        epochs, batch_size, seed: integers.
        minutes: stop, resumably, after about as many. Defaults to None: run to the end.

    Returns:
        The history, a dict of lists, of all epochs once they are done; None before.
    """
    resume = callbacks.Resume(folder, every=max(1, epochs // 40), minutes=minutes)
    monitors = [resume]
    known, labels = labelled
    rows = np.random.default_rng(seed).permutation(len(known))
    queries, bank = np.split(rows, [min(1000, len(known) // 5)])
    bank = bank[:5000]
    queries = queries[np.isin(labels[queries], labels[bank])]
    if len(queries) and np.ptp(labels[bank]):
        neighbors = (known[bank], labels[bank]), (known[queries], labels[queries])
        monitors.insert(0, callbacks.NearestNeighborProbe(*neighbors, every=5))
    model.fit(
        resume.batches(images, batch_size, seed),
        epochs=epochs,
        initial_epoch=resume.epoch,
        shuffle=False,
        callbacks=monitors,
    )
    backbone = pathlib.Path(folder) / "backbone"
    models.save(model.backbone, backbone, overwrite=True)
    print(f"The backbone after {resume.epoch} of {epochs} epochs, for `star_keras.models.load`: {backbone}")
    return resume.history if resume.epoch == epochs else None


def pretraining_results(backbone, train, test, history, **run):
    """What a finished self-supervised run came to, beside the same network without any training.

    Args:
        backbone: of the trained model.
        train, test: `(images, labels)`.
        history: of the run, a dict of lists.
        **run: further facts about the run, such as its seed.

    Returns:
        A dict for `write_results`.
    """
    return {
        **measure(backbone, train, test),
        "untrained": measure(untrained(backbone, train[0]), train, test),
        "run": {"epochs": len(history["loss"]), **run, "history": history},
    }
