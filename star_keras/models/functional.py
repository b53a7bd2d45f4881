"""Functional models under names of their own."""

import keras

from star_keras.models.trainability import set_trainability


class FunctionalModel(keras.Model):
    """A functional model that is frozen to its last layer where it is made with `trainable=False`.

    Keras would freeze the model but not its layers, whose batch statistics would go on moving. And
    `model.trainable = True` thaws them all, also where only some are frozen.

    Args:
        inputs, outputs: as for `keras.Model`.
        name: as for any model.
        trainable: as for any model, or what `trainability` gives.
    """

    def __init__(self, inputs, outputs, name=None, trainable=True):
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        set_trainability(self, trainable)

    def __setattr__(self, name, value):
        if name == "trainable":  # TensorFlow passes over what is so already, and over the layers inside
            keras.Model.trainable.fset(self, not value)
            keras.Model.trainable.fset(self, value)
        else:
            super().__setattr__(name, value)
