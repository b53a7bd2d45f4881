"""A Keras 3 model zoo: STAR pretraining, lambda-equitune, and mixtures of experts that do not collapse."""

from star_keras.version import __version__
