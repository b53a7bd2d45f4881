"""Scores of `EquiTune` that learn from what a frozen model said once."""

import keras
import numpy as np


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
        ValueError: if the wrapper learns no weights, brings outputs back, or averages anything but what its
            model returns.
    """
    if wrapper.weighting != "lambda" or wrapper.output_group is not None or wrapper.combine != "output":
        raise ValueError(
            'Weights are learned so for invariant wrappers with weighting "lambda" that average what the '
            f"model returns. Received: weighting={wrapper.weighting!r}, "
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
