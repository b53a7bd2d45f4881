"""What recipes share: a command line made from their own arguments, measurements, the results file."""

import argparse
import inspect
import json
import math
import os
import pathlib
import platform
import time

import keras
import numpy as np

from star_keras import backend, callbacks, evaluation, models
from star_keras.evaluation import untrained


def command_line(run, arguments=None, **defaults):
    """Runs a recipe from the command line: every keyword argument of `run` becomes a flag.

    Flags take the type of the default; an argument whose default is False becomes a switch. The help
    text is the docstring of the module that defines `run`.

    Args:
        run: function with keyword arguments only.
        arguments: list of words. Defaults to those of the process.
        **defaults: take the place of defaults of `run`, where one recipe varies another.

    Returns:
        What `run` returns.

    Example:

    >>> def run(epochs=40, smoke=False):
    ...     return epochs, smoke
    >>> command_line(run, ["--epochs", "2", "--smoke"])
    (2, True)
    """
    parser = argparse.ArgumentParser(
        description=run.__globals__["__doc__"], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, parameter in inspect.signature(run).parameters.items():
        flag, default = "--" + name.replace("_", "-"), defaults.get(name, parameter.default)
        if default is False:
            parser.add_argument(flag, action="store_true")
        else:
            kind = float if default is None else type(default)
            parser.add_argument(flag, type=kind, default=default, help=f"default: {default}")
    return run(**vars(parser.parse_args(arguments)))


def set_precision(name="auto", folder=None):
    """Sets the dtype policy; "auto" trains two convolutions for a moment and takes what was faster.

    Processors without products of bfloat16 train ten times slower in it, others and accelerators faster.

    Args:
        name: a dtype policy, or "auto" (the default) for "mixed_bfloat16" or "float32".
        folder: of a `callbacks.Resume`: "auto" is what the run there began with. Defaults to None.

    Returns:
        The name of the policy that was set.

    Example:

    >>> set_precision("float32")
    'float32'
    """
    if name == "auto" and folder is not None:
        name = callbacks.Resume(folder).stored_run().get("precision", name)
    if name == "auto":
        name = min(("float32", "mixed_bfloat16"), key=_seconds_of_a_step)
        print(f"Precision: {name}, the faster one here.")
    keras.config.set_dtype_policy(name)
    return name


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


def set_strategy(name):
    """Says on which devices models train that are made afterwards, until the process ends.

    Args:
        name: "one" device, or "mirrored": all devices, each with its share of a batch and the same weights,
            by `tf.distribute.MirroredStrategy`. Negatives and batch statistics are those of the whole batch.

    Raises:
        ValueError: for another name, or on another backend than TensorFlow.

    Example:

    >>> set_strategy("one")
    """
    if name not in ("one", "mirrored"):
        raise ValueError(f"`strategy` must be 'one' or 'mirrored'. Received: strategy={name!r}")
    if name == "mirrored":
        backend.use_all_devices()


def _seconds_of_a_step(policy):
    layers = [
        keras.layers.Conv2D(64, 3, padding="same", dtype=policy, name=f"convolution_{number}")
        for number in (1, 2)
    ]
    model = keras.Sequential([keras.Input((8, 8, 64)), *layers], name="precision")
    model.compile("sgd", "mse")
    images = np.zeros((64, 8, 8, 64), "float32")
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        model.train_on_batch(images, images)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


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
    summary = {}
    for name, results in found.items():
        accuracies = [result["accuracy"] for result in results]
        spread = float(np.std(accuracies, ddof=1)) if len(seeds) > 1 else 0.0
        summary[name] = {"mean": float(np.mean(accuracies)), "std": spread, "runs": results}
    return summary


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


def orbit_outputs(wrapper, images, batch_size=256):
    """What the model inside an `EquiTune` says of every member of the orbits of images.

    Args:
        wrapper: an `EquiTune` with weighting "lambda" whose `features` name a layer of its model.
        images: array of images.
        batch_size: images in one pass. Defaults to 256.

    Returns:
        `(features, outputs)`, arrays `(images, order, ...)`: what the score sees and what is averaged.
    """
    model, group = wrapper.model, wrapper.group
    both = keras.Model(model.input, [model.get_layer(wrapper.features).output, model.output])
    found = [
        both.predict(np.array(group.act(element, images)), batch_size=batch_size, verbose=0)
        for element in range(group.order)
    ]
    return tuple(np.stack(members, axis=1) for members in zip(*found, strict=True))


def learn_orbit_weights(
    wrapper, features, outputs, labels, epochs, learning_rate=1e-3, batch_size=128, verbose=0
):
    """Trains the score of an `EquiTune` on what its frozen model said once: the first of two stages.

    The loss is that of training the whole wrapper with a frozen model, without a pass of the model in each
    epoch. It is the same for every turn of an image, so orbits of upright images train for turned ones.

    Args:
        wrapper: an `EquiTune` with weighting "lambda"; its `score` is trained in place, by Adam.
        features, outputs: of `orbit_outputs`.
        labels: integer classes.
        epochs: integer.
        learning_rate, batch_size: default to 1e-3 and 128.
        verbose: of `fit`. Defaults to 0.

    Returns:
        The history of loss and accuracy, a dict of lists.

    Raises:
        ValueError: if the wrapper brings outputs back, or averages anything but what its model returns.
    """
    if wrapper.output_group is not None or wrapper.combine != "output":
        raise ValueError(
            "Weights are learned so for invariant wrappers that average what the model returns. Received: "
            f"output_group={wrapper.output_group!r}, combine={wrapper.combine!r}. Train the wrapper itself, "
            "with `wrapper.model.trainable = False`."
        )
    order, *shape = features.shape[1:]
    seen, members = keras.Input((order, *shape)), keras.Input(outputs.shape[1:])
    if not wrapper.score.built:
        wrapper.score.build((None, *shape))
    scores = wrapper.score(keras.ops.reshape(seen, (-1, *shape))) / wrapper.temperature
    weights = keras.ops.softmax(keras.ops.reshape(scores, (-1, order, 1)), axis=1)
    model = keras.Model([seen, members], keras.ops.sum(weights * members, axis=1))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=wrapper.from_logits)
    model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    fitted = model.fit([features, outputs], labels, batch_size=batch_size, epochs=epochs, verbose=verbose)
    return fitted.history


def sweep(function, runs, path, minutes=None):
    """Calls `function(**run)` for every run that a file of results does not hold yet, and adds the results.

    One line of JSON is one run: its arguments and what the function returned. After each the file is
    written anew, whole or not at all, so the same call goes on where the last one was stopped.

    Args:
        function: takes a run's arguments, returns a dict of plain JSON.
        runs: list of dicts of plain JSON, the arguments of each run.
        path: of the results, a `.jsonl` file.
        minutes: start no further run after as many. Defaults to None: do all.

    Returns:
        The rows of `runs`, in their order, without those that are still to do.

    Example:

    >>> import tempfile
    >>> path = tempfile.mkdtemp() + "/squares.jsonl"
    >>> rows = sweep(lambda x: {"square": x * x}, [{"x": 2}, {"x": 3}], path)
    1/2 {'x': 2}: 0 s
    2/2 {'x': 3}: 0 s
    >>> rows[1]
    {'x': 3, 'square': 9}
    """
    path, until = pathlib.Path(path), time.monotonic() + 60 * (math.inf if minutes is None else minutes)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for number, run in enumerate(runs, start=1):
        if _row(rows, run) or time.monotonic() > until:
            continue
        began = time.monotonic()
        rows.append({**run, **function(**run)})
        _replace(path, "".join(json.dumps(row) + "\n" for row in rows))
        print(f"{number}/{len(runs)} {run}: {time.monotonic() - began:.0f} s", flush=True)
    return [row for row in (_row(rows, run) for run in runs) if row]


def results_file(folder, name, smoke=False):
    """`folder/name.jsonl`; runs in the small have a file of their own, lest they be taken for whole ones."""
    return pathlib.Path(folder) / f"{name}{'_smoke' if smoke else ''}.jsonl"


def mean_and_deviation(values, form=".1f", factor=1):
    """What a table says of a value's runs: "mean ± standard deviation", of one run its value, of none a dash.

    Args:
        values: array or list of numbers.
        form: of both numbers, as `format` takes it. Defaults to ".1f".
        factor: of all values, such as 100 for percent. Defaults to 1.

    Example:

    >>> mean_and_deviation([0.81, 0.83], factor=100)
    '82.0 ± 1.4'
    """
    values = factor * np.asarray(values)
    if len(values) < 2:
        return f"{values[0]:{form}}" if len(values) else "–"
    return f"{values.mean():{form}} ± {values.std(ddof=1):{form}}"


def time_left(minutes):
    """How much is left of a limit that several sweeps share: a function that returns minutes.

    Args:
        minutes: from now on; None for no limit, and then the function returns None.

    Example:

    >>> left = time_left(5)
    >>> 4.9 < left() <= 5
    True
    """
    until = math.inf if minutes is None else time.monotonic() + 60 * minutes
    return lambda: None if minutes is None else (until - time.monotonic()) / 60


def _row(rows, run):
    return next((row for row in rows if run.items() <= row.items()), None)


def _replace(path, text):
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_results(path, results):
    """Writes a results file, whole or not at all, with what it was measured on, and prints its heart."""
    machine = {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count()}
    path = pathlib.Path(path)
    _replace(path, json.dumps({**results, "machine": machine}, indent=1) + "\n")
    for name in [name for name in ("linear_probe", "nearest_neighbor") if name in results]:
        print(f"{name}: {results[name]['mean']:.1%} ± {results[name]['std']:.1%}")
    print(f"All results are in {path}.")
