"""Which parts of a model are frozen, as plain data for its configuration."""

import keras

from star_keras.guards.arguments import freeze_parts


def trainability(model):
    """Whether all of a model is trained or none, or `{"frozen": positions}` of the frozen layers inside."""
    frozen = _frozen_positions(model) if model.trainable else []
    return {"frozen": frozen} if frozen else model.trainable


def set_trainability(model, trainable):
    """Freezes what `trainable` says: False all, a dict of `trainability` the layers that it names."""
    if isinstance(trainable, dict):
        for position in trainable["frozen"]:
            _freeze(_layer_at(model, position))
    elif not trainable:
        _freeze(model)


def freeze_built_parts(model):
    """Freezes the weights of frozen layers, once these have weights."""
    set_trainability(model, trainability(model))


def _freeze(layer):
    layer.trainable = False
    freeze_parts(layer)


def _frozen_positions(model):
    """Where frozen layers lie among those of the model, `[3]`, or of models inside it, `[5, 1]`."""
    positions = []
    for number, layer in enumerate(model.layers):
        if not layer.trainable:
            positions.append([number])
        elif isinstance(layer, keras.Model):
            positions += [[number, *inside] for inside in _frozen_positions(layer)]
    return positions


def _layer_at(model, position):
    for number in position:
        model = model.layers[number]
    return model
