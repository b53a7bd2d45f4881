"""Functional models under names of their own."""

import keras


class FunctionalModel(keras.Model):
    """A functional model that is frozen to its last layer where it is made with `trainable=False`.

    Keras would freeze the model but not its layers, whose batch statistics would go on moving.

    Args:
        inputs, outputs: as for `keras.Model`.
        name, trainable: as for any model.
    """

    def __init__(self, inputs, outputs, name=None, trainable=True):
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        if not trainable:
            self.trainable = False
