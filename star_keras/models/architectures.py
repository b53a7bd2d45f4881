"""The architectures that are made of this room's models alone, under their names."""

import functools

from star_keras.models import (
    dual_encoder,
    equitune_q_network,
    equivariant_sequence,
    lambda_equitune,
    language_model,
    moe_cnn,
    q_network,
    resnet,
    sequence_to_sequence,
)
from star_keras.models.registry import register

for _name in resnet.VARIANTS:
    register(
        _name,
        functools.partial(resnet.ResNet, _name),
        functools.partial(resnet.describe, _name),
        resnet.OPTIONS,
    )
register("moe_cnn", moe_cnn.MoECNN, moe_cnn.describe, moe_cnn.OPTIONS, required=("num_classes",))
register(
    "lambda_equitune",
    lambda_equitune.build,
    lambda_equitune.describe,
    lambda_equitune.OPTIONS,
    required=("backbone", "num_classes"),
)
register(
    "dual_encoder",
    dual_encoder.build,
    dual_encoder.describe,
    dual_encoder.OPTIONS,
    required=("backbone", "vocabulary"),
    backbone="backbone",
)
register(
    "gpt",
    language_model.GPT,
    language_model.describe,
    language_model.OPTIONS,
    required=("vocabulary_size",),
    whole=True,
)
for _cell in sequence_to_sequence.CELLS:
    register(
        f"{_cell}_seq2seq",
        functools.partial(sequence_to_sequence.build, _cell),
        functools.partial(sequence_to_sequence.describe, _cell),
        sequence_to_sequence.OPTIONS,
        required=("vocabulary_size",),
        whole=True,
    )
register(
    "equivariant_seq2seq",
    equivariant_sequence.build,
    equivariant_sequence.describe,
    equivariant_sequence.OPTIONS,
    required=("model", "rings"),
    whole=True,
)
register(
    "q_network",
    q_network.QNetwork,
    q_network.describe,
    q_network.OPTIONS,
    required=("state_size", "num_actions"),
    whole=True,
)
register(
    "equitune_q_network",
    equitune_q_network.build,
    equitune_q_network.describe,
    equitune_q_network.OPTIONS,
    required=("network", "states", "actions"),
    whole=True,
)
