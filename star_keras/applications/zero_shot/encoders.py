"""Pairs of an image and a text encoder, and the one of keras-hub."""

import typing

import keras
import numpy as np
from keras import layers, ops

from star_keras.optional import needed


class Encoders(typing.NamedTuple):
    """An image and a text encoder into one space; a `models.DualEncoder` has the same three attributes.

    Attributes:
        image_encoder: Keras model from images `(batch, height, width, 3)` in [0, 255] to embeddings
            `(batch, units)`, of any length. Put a `Rescaling` in front of one that takes other pixels.
        encode_texts: function of a list of strings that returns embeddings `(texts, units)`.
        logit_scale: factor of cosine similarities, positive: 100 in the CLIP of the web.
    """

    image_encoder: keras.Model
    encode_texts: typing.Callable
    logit_scale: float = 100.0


def from_keras_hub(backbone, preprocessor=None):
    """The encoders of a CLIP of keras-hub, which keep its weights.

    Args:
        backbone: a `keras_hub.models.CLIPBackbone`, or the name of a preset, such as
            "clip_vit_base_patch32", which keras-hub downloads.
        preprocessor: the `keras_hub.models.CLIPPreprocessor` that goes with it. It turns prompts into token
            ids; scale and offset of its image converter become part of the image encoder, and images are to
            come in the size of the backbone. Needed unless a preset is named.

    Returns:
        `Encoders`.

    Raises:
        ImportError: if keras-hub is not installed.
        ValueError: if `backbone` is neither a name nor a CLIP, or comes without a preprocessor.

    Example:

    ```python
    clip = sk.applications.zero_shot.from_keras_hub("clip_vit_base_patch32")
    classifier = sk.applications.zero_shot.from_prompts(clip, ["church", "golf ball"])
    ```
    """
    hub = needed("keras_hub", "CLIP comes from keras-hub", "hub")
    if isinstance(backbone, str):
        preprocessor = preprocessor or hub.models.CLIPPreprocessor.from_preset(backbone)
        backbone = hub.models.CLIPBackbone.from_preset(backbone)
    if not isinstance(backbone, hub.models.CLIPBackbone) or preprocessor is None:
        raise ValueError(
            "`backbone` must be a `keras_hub.models.CLIPBackbone` with its `preprocessor`, or the name of a "
            f"preset. Received: backbone={backbone!r}, preprocessor={preprocessor!r}. Make other pairs by "
            "`Encoders(image_encoder, encode_texts, logit_scale)`."
        )
    converter = getattr(preprocessor, "image_converter", None)
    scale, offset = (getattr(converter, name, None) for name in ("scale", "offset"))
    images = keras.Input(backbone.vision_encoder.image_shape, name="images")
    rescale = layers.Rescaling(
        1.0 if scale is None else scale, 0.0 if offset is None else offset, dtype="float32"
    )
    image_encoder = keras.Model(images, backbone.get_vision_embeddings(rescale(images)), name="image_encoder")

    def encode_texts(texts):
        token_ids = preprocessor({"images": None, "prompts": list(texts)})["token_ids"]
        return backbone.get_text_embeddings(token_ids)

    logit_scale = np.exp(ops.convert_to_numpy(backbone.clip_head.logit_scale))
    return Encoders(image_encoder, encode_texts, float(logit_scale))
