"""Networks of the zoo: create a new one, load a trained one."""

from star_keras.models import architectures  # noqa: F401
from star_keras.models.classifier import Classifier
from star_keras.models.dual_encoder import DualEncoder
from star_keras.models.equitune_q_network import EquiTuneQNetwork
from star_keras.models.equivariant_sequence import EquivariantSequenceToSequence
from star_keras.models.lambda_equitune import LambdaEquiTune
from star_keras.models.language_model import GPT
from star_keras.models.moe_cnn import MoECNN
from star_keras.models.publishing import publish, verify
from star_keras.models.q_network import QNetwork
from star_keras.models.registry import create, info
from star_keras.models.registry import list_presets as list
from star_keras.models.resnet import ResNet
from star_keras.models.saving import load, parts, save
from star_keras.models.sequence_to_sequence import SequenceToSequence

__all__ = [
    "GPT",
    "Classifier",
    "DualEncoder",
    "EquiTuneQNetwork",
    "EquivariantSequenceToSequence",
    "LambdaEquiTune",
    "MoECNN",
    "QNetwork",
    "ResNet",
    "SequenceToSequence",
    "create",
    "info",
    "list",
    "load",
    "parts",
    "publish",
    "save",
    "verify",
]
