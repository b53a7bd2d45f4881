"""A Keras 3 model zoo: STAR pretraining, lambda-equitune, and mixtures of experts that do not collapse.

>>> import star_keras as sk
>>> backbone = sk.models.create("resnet20", input_shape=(32, 32, 3))
>>> backbone.output_shape
(None, 64)
"""

from star_keras import augmentation, layers, losses, models, training, callbacks, recipes
from star_keras.version import __version__
