"""Networks of the zoo: create a new one, load a trained one."""

from star_keras.models.registry import create
from star_keras.models.resnet import Classifier, ResNet

__all__ = ["Classifier", "ResNet", "create"]
