"""GPT-2 of keras-hub, as a model of this library."""

import numpy as np
from keras import ops

from star_keras.models import create
from star_keras.optional import needed


class HubTokenizer:
    """A tokenizer of keras-hub with the names of this room: `encode`, `decode` and `size`."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.size = tokenizer.vocabulary_size()

    def encode(self, text):
        """The token ids of a text, a list."""
        return np.asarray(self.tokenizer(text)).tolist()

    def decode(self, ids):
        """The text of token ids."""
        return self.tokenizer.detokenize(np.asarray(ids))


def load_gpt2(source):
    """GPT-2 of keras-hub as a `models.GPT`: the same logits, for `EquiLM` and `generate`.

    Args:
        source: the name of a preset, such as "gpt2_base_en", which keras-hub fetches; or a
            `keras_hub.models.GPT2CausalLM`, whose weights are copied.

    Returns:
        `(model, tokenizer)`; the tokenizer is None for a model without preprocessor.

    Raises:
        ImportError: if keras-hub is not installed.
        ValueError: if the source is no GPT-2.

    Reference: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).
    """
    library = needed("keras_hub", "GPT-2 comes from keras-hub", "hub")
    if isinstance(source, str):
        source = library.models.GPT2CausalLM.from_preset(source)
    if not isinstance(source, library.models.GPT2CausalLM):
        raise ValueError(f"`source` must be a `GPT2CausalLM` or the name of a preset. Received: {source!r}")
    hub = source.backbone
    model = create(
        "gpt",
        vocabulary_size=hub.vocabulary_size,
        max_length=hub.max_sequence_length,
        units=hub.hidden_dim,
        num_layers=hub.num_layers,
        num_heads=hub.num_heads,
        hidden_units=hub.intermediate_dim,
        dropout=hub.dropout,
        dtype=hub.layer_norm.dtype_policy,
    )
    _copy(hub, model)
    preprocessor = source.preprocessor
    return model, None if preprocessor is None else HubTokenizer(preprocessor.tokenizer)


def _copy(hub, model):
    for name, other in (("token_embedding",) * 2, ("position_embedding",) * 2, ("norm", "layer_norm")):
        getattr(model, name).set_weights(getattr(hub, other).get_weights())
    for block, layer in zip(model.blocks, hub.transformer_layers, strict=True):
        found = {
            variable.path.removeprefix(f"{layer.name}/"): ops.convert_to_numpy(variable)
            for variable in layer.weights
        }
        parts = [_attention(found, name) for name in ("query", "key", "value")]
        kernel, bias = _pair(found, "self_attention/attention_output")
        block.attention_norm.set_weights(_pair(found, "self_attention_layer_norm", ("gamma", "beta")))
        block.queries_keys_values.set_weights(
            [np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)]
        )
        block.attention_output.set_weights([kernel.reshape(model.units, model.units), bias])
        block.norm.set_weights(_pair(found, "feedforward_layer_norm", ("gamma", "beta")))
        block.hidden.set_weights(_pair(found, "feedforward_intermediate_dense"))
        block.output_dense.set_weights(_pair(found, "feedforward_output_dense"))


def _pair(found, layer, names=("kernel", "bias")):
    return [found[f"{layer}/{name}"] for name in names]


def _attention(found, name):
    """Kernel and bias with the axes of heads and of their units as one."""
    kernel, bias = _pair(found, f"self_attention/{name}")
    return kernel.reshape(len(kernel), -1), bias.reshape(-1)
