"""Zero-shot classifiers of the CLIP of keras-hub."""

import sys

import keras
import numpy as np
import pytest
from keras import ops

import star_keras as sk
from star_keras.applications import zero_shot

NAMES = ["church", "golf ball", "gas pump"]
RNG = np.random.default_rng(0)


def test_a_missing_keras_hub_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r"star-keras\[hub\]"):
        zero_shot.from_keras_hub("clip_vit_base_patch32")


@pytest.fixture(scope="module")
def hub():
    return pytest.importorskip("keras_hub")


@pytest.fixture(scope="module")
def clip(hub):
    """A CLIP with random weights: 16-pixel images, 12 tokens."""
    sizes = {"hidden_dim": 8, "num_layers": 2, "num_heads": 2, "intermediate_dim": 16}
    return hub.models.CLIPBackbone(
        hub.models.CLIPVisionEncoder(patch_size=4, image_shape=(16, 16, 3), **sizes),
        hub.models.CLIPTextEncoder(vocabulary_size=60, embedding_dim=8, max_sequence_length=12, **sizes),
        projection_dim=6,
    )


class Preprocessor:
    """Ids of letters between a start and an end, as the tokenizer of keras-hub needs tensorflow-text."""

    def __init__(self, converter=None):
        self.image_converter = converter

    def __call__(self, inputs):
        rows = [[58, *(ord(letter) % 57 for letter in text[-10:]), 59] for text in inputs["prompts"]]
        return {"token_ids": ops.convert_to_tensor([row + [0] * (12 - len(row)) for row in rows], "int32")}


def test_class_scores_are_those_of_the_clip_of_keras_hub(hub, clip):
    scale, offset = [0.01, 0.02, 0.03], [-1.0, -2.0, -0.5]
    converter = hub.layers.CLIPImageConverter(image_size=(16, 16), scale=scale, offset=offset)
    preprocessor = Preprocessor(converter)
    model = zero_shot.from_prompts(zero_shot.from_keras_hub(clip, preprocessor), NAMES, "a {}.")
    images = RNG.integers(0, 256, (4, 16, 16, 3), dtype="uint8")
    token_ids = preprocessor({"prompts": [f"a {name}." for name in NAMES]})["token_ids"]
    pixels = images.astype("float32") * np.float32(scale) + np.float32(offset)
    expected = clip({"images": ops.convert_to_tensor(pixels), "token_ids": token_ids})["vision_logits"]
    np.testing.assert_allclose(model(images), expected, atol=1e-4)
    assert np.ptp(ops.convert_to_numpy(expected)) > 0.5
    assert model.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)


@pytest.mark.parametrize("method", ["equitune", "equizero", "lambda"])
def test_a_clip_of_keras_hub_takes_turned_images(clip, method, tmp_path):
    model = zero_shot.from_prompts(zero_shot.from_keras_hub(clip, Preprocessor()), NAMES)
    robust = zero_shot.invariant(model, sk.groups.Cyclic(4), method)
    images = RNG.uniform(0, 255, (3, 16, 16, 3)).astype("float32")
    turned, upright = robust(np.rot90(images, axes=(1, 2))), robust(images)
    np.testing.assert_allclose(turned, upright, atol=1e-4)
    model.save(tmp_path / "clip.keras")
    again = keras.models.load_model(tmp_path / "clip.keras")
    np.testing.assert_allclose(again(images), model(images), atol=1e-5)


def test_what_is_no_clip_or_has_no_preprocessor_is_refused(clip):
    for arguments in ((keras.layers.Dense(6), Preprocessor()), (clip,)):
        with pytest.raises(ValueError, match="CLIPBackbone.*Received"):
            zero_shot.from_keras_hub(*arguments)


def test_a_clip_is_read_from_a_preset(clip, tmp_path):
    clip.save_to_preset(str(tmp_path / "clip"))
    images = RNG.uniform(0, 255, (3, 16, 16, 3)).astype("float32")
    logits = [
        zero_shot.from_prompts(zero_shot.from_keras_hub(source, Preprocessor()), NAMES)(images)
        for source in (str(tmp_path / "clip"), clip)
    ]
    np.testing.assert_allclose(*logits, atol=1e-5)


def test_the_own_preprocessor_of_keras_hub_makes_the_prompts(hub, clip):
    pytest.importorskip("tensorflow_text", reason="the tokenizer of keras-hub's CLIP needs tensorflow-text")
    letters = ["<|startoftext|>", *map(chr, range(97, 123)), *(f"{chr(i)}</w>" for i in range(97, 123))]
    vocabulary = {token: number for number, token in enumerate([*letters, "aa", "<|endoftext|>"])}
    tokenizer = hub.models.CLIPTokenizer(vocabulary=vocabulary, merges=["a a"])
    preprocessor = hub.models.CLIPPreprocessor(tokenizer, sequence_length=12)
    model = zero_shot.from_prompts(zero_shot.from_keras_hub(clip, preprocessor), ["cat", "dog"], "a {}")
    inputs = preprocessor({"images": None, "prompts": ["a cat", "a dog"]})
    images = RNG.uniform(0, 255, (3, 16, 16, 3)).astype("float32")
    tensors = {"images": ops.convert_to_tensor(images), "token_ids": inputs["token_ids"]}
    expected = clip(tensors)["vision_logits"]
    np.testing.assert_allclose(model(images), expected, atol=1e-4)
