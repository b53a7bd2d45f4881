"""Functional models under names of their own."""

import keras


class FunctionalModel(keras.Model):
    """A functional model that is frozen to its last layer where it is made with `trainable=False`.

    Keras would freeze the model but not its layers, whose batch statistics would go on moving.

    Args:
        inputs, outputs: as for `keras.Model`.
        name: as for any model.
        trainable: as for any model, or what `trainability` gave.
    """

    def __init__(self, inputs, outputs, name=None, trainable=True):
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        if isinstance(trainable, dict):
            for position in trainable["frozen"]:
                _layer_at(self, position).trainable = False
        elif not trainable:
            self.trainable = False

    def trainability(self):
        """For the configuration: whether all or none is trained, or the positions of the frozen layers."""
        frozen = _frozen_positions(self) if self.trainable else []
        return {"frozen": frozen} if frozen else self.trainable


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
