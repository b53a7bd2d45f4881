"""What a pretraining model makes of images, at each of its places."""

import keras
import numpy as np
from keras import ops

from star_keras.evaluation.features import check_image_size, extract_features
from star_keras.exceptions import NonFiniteError
from star_keras.guards.pixels import image_array


def extract_embeddings(model, images, space="backbone", batch_size=256, verbose="auto"):
    """Embeddings of images in one of the spaces of a pretraining model, in inference mode.

    Args:
        model: a `STARPretraining`, or for `space="backbone"` any backbone.
        images: array `(n, height, width, channels)`, of the size the backbone takes.
        space: `"backbone"`, the features (the default); the name of a task, such as `"equivariant"`, the
            projector's embedding for it; a whole number, the outputs of that expert; or `"experts"`, those
            of all experts. A projector with a single embedding calls it `"embedding"`, or by any task.
        batch_size: images at a time; the embeddings do not depend on it. Defaults to 256.
        verbose: as in `keras.Model.predict`. Defaults to `"auto"`.

    Returns:
        A float32 NumPy array `(n, units)`, for `"experts"` `(n, experts, units)`.

    Raises:
        ValueError: if the model has no such space, or there is no image.
        ShapeError: if the images are of another size than the backbone takes.
        NonFiniteError: if a number is NaN or infinite.

    Example:

    >>> import star_keras as sk
    >>> model = sk.models.load("star-resnet20", part="pretraining")
    >>> images = np.zeros((2, 32, 32, 3), "uint8")
    >>> extract_embeddings(model, images, "experts", verbose=0).shape
    (2, 8, 128)
    """
    images = image_array(images)
    backbone = getattr(model, "backbone", model)
    project = _projection(model, space)
    check_image_size(backbone, images.shape)
    features = extract_features(backbone, images, batch_size, verbose)
    return features if project is None else in_batches(project, batch_size, features)


def in_batches(function, batch_size, *arrays, part="projector"):
    """A function of rows, applied to some at a time: its outputs, or each of them, as a finite float32 array.

    Where they are not finite, the weights of `part` are to be looked at.
    """
    parts = []
    for start in range(0, len(arrays[0]), batch_size):
        found = function(*(array[start : start + batch_size] for array in arrays))
        parts.append(keras.tree.map_structure(lambda x: ops.convert_to_numpy(ops.cast(x, "float32")), found))
    outputs = keras.tree.map_structure(lambda *rows: np.concatenate(rows), *parts)
    if not all(np.isfinite(rows).all() for rows in keras.tree.flatten(outputs)):
        raise NonFiniteError(
            f"Embeddings must be finite. Received: NaN or infinity; look at the {part}'s weights, or "
            "compute in float32."
        )
    return outputs


def _projection(model, space):
    """The function from features to a space; None for the space of the features."""
    if space == "backbone":
        return None
    projector = getattr(model, "projector", None)
    experts = getattr(projector, "num_experts", 0)
    if experts and space == "experts":
        return lambda features: projector.expert_outputs(features, training=False)
    if isinstance(space, int | np.integer) and 0 <= space < experts:
        return lambda features: projector.expert_outputs(features, training=False)[:, space]
    tasks = getattr(projector, "tasks", None)
    if tasks and space in tasks:
        return lambda features: projector(features, training=False)[space]
    if projector is not None and not tasks and space in ("embedding", "invariant", "equivariant"):
        return lambda features: projector(features, training=False)
    known = ["backbone", *(tasks or (["embedding"] if projector is not None else []))]
    known += ["experts", f"0 to {experts - 1}"] if experts else []
    raise ValueError(f"`space` must be one of {known} for {_name(model)!r}. Received: space={space!r}")


def _name(model):
    return model.name if isinstance(model, keras.layers.Layer) else type(model).__name__
