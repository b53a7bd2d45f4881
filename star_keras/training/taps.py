"""Outputs of layers inside a model, beside the model's own."""

import functools
import threading

import keras

RESERVED = ("outputs", "features", "gates", "router_logits")


class Taps:
    """Calls a model and returns what some of its layers put out on the way.

    A functional model is extended by outputs. In any other model the layers note their output while the
    model is called, each thread (and so each replica) for itself.

    Args:
        model: a Keras model.
        layers: names of layers of the model, or layers.
        inputs_of: a layer of the model whose inputs are returned as `"features"`. Defaults to None.

    Raises:
        ValueError: if a layer is not part of the model, or names repeat; when called, if the model did not
            call one of the layers.
    """

    def __init__(self, model, layers, inputs_of=None):
        found = [_find(model, layer) for layer in layers]
        if not found:
            raise ValueError("`taps` must name a layer of the model at least. Received: taps=()")
        self.names = tuple(layer.name for layer in found)
        if len({*self.names, *RESERVED}) != len(self.names) + len(RESERVED):
            raise ValueError(
                f"`taps` must name different layers, none of them called one of {RESERVED}. "
                f"Received: taps={self.names}"
            )
        self._model, self._extended = model, None
        if _is_functional(model):
            outputs = {layer.name: _output(model, layer) for layer in found}
            if inputs_of is not None:
                outputs["features"] = _output(model, inputs_of, "input")
            self._extended = keras.Model(model.input, {"outputs": model.output, **outputs})
        else:
            self._notes = threading.local()
            for layer in found:
                layer.call = self._noting(layer.name, layer.call)
            if inputs_of is not None:
                inputs_of.call = self._noting_features(inputs_of.call)

    def __call__(self, inputs, training=None):
        """`{"outputs": ..., tap: ...}` for every tap."""
        if self._extended is not None:
            return self._extended(inputs, training=training)
        self._notes.outputs = {}
        outputs = self._model(inputs, training=training)
        noted = self._notes.outputs
        del self._notes.outputs
        silent = [name for name in self.names if name not in noted]
        if silent:
            raise ValueError(f"`taps` must be layers that the model calls. Received: not called, {silent}")
        return {"outputs": outputs, **noted}

    def _noting(self, name, call):
        @functools.wraps(call)
        def noted(*args, **kwargs):
            outputs = call(*args, **kwargs)
            if hasattr(self._notes, "outputs"):
                self._notes.outputs[name] = outputs
            return outputs

        return noted

    def _noting_features(self, call):
        @functools.wraps(call)
        def noted(inputs, *args, **kwargs):
            if hasattr(self._notes, "outputs"):
                self._notes.outputs["features"] = inputs
            return call(inputs, *args, **kwargs)

        return noted


def _is_functional(model):
    return bool(hasattr(model, "operations") and getattr(model, "inputs", None))


def _find(model, layer):
    """The layer of the model that is meant by its name or by itself."""
    for candidate in layers_of(model):
        if candidate is layer or candidate.name == layer:
            return candidate
    known = ", ".join(candidate.name for candidate in layers_of(model))
    raise ValueError(
        f"`taps` must be layers of the model, or their names: {known}. "
        f"Received: {getattr(layer, 'name', layer)!r}"
    )


def layers_of(model):
    """All layers of a model, those of models inside it as well."""
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from layers_of(layer)


def _output(model, layer, side="output"):
    try:
        if any(own is layer for own in model.layers):
            return getattr(layer, side)
    except (AttributeError, ValueError):
        pass
    raise ValueError(
        "A tap must be used once, in the model itself and not in a model inside it. "
        f"Received: the layer {layer.name!r}"
    )
