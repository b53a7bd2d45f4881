"""A zero-shot classifier that takes images on any side."""

import keras

from star_keras.applications.zero_shot.classifier import ZeroShotClassifier
from star_keras.guards.arguments import check_choice, check_widths
from star_keras.layers.equitune import EquiTune, score_network

METHODS = ("equitune", "equizero", "lambda")
# Which method an option belongs to, and what it is where nothing is said.
OPTIONS = {
    "proxy": ("equizero", "max_value"),
    "hidden_units": ("lambda", (100,)),
    "frozen_features": ("lambda", False),
}


def invariant(
    classifier, group, method="equitune", proxy="max_value", hidden_units=(100,), frozen_features=False
):
    """A zero-shot classifier with one answer for all members of an orbit of images.

    | `method` | logits for `x`, with `M` the classifier |
    |---|---|
    | "equitune" | `mean_g M(g x)` |
    | "equizero" | `M(g x)` of the `g` that the proxy prefers, with the straight-through gradient |
    | "lambda" | `sum_g w_g M(g x)`, `w = softmax_g score(embedding(g x))`, the score a small dense network |

    One softmax at the end gives probabilities. It gives the same ones whether members are averaged as logits
    or as log-probabilities, since these differ by one number for all classes.

    "lambda" has to be trained: jointly, as it is; or in two stages, the score with `.model.trainable = False`
    first, then the classifier with `.score.trainable = False` and, so that the score stays the same function
    meanwhile, `frozen_features=True`.

    Args:
        classifier: a `ZeroShotClassifier`.
        group: how images are moved, such as `groups.Cyclic(4)` for quarter turns, `Cyclic(2)` for half turns,
            `Flip("width")` for mirror images.
        method: "equitune" (default), "equizero" or "lambda".
        proxy: of "equizero": "max_value" (default), the greatest similarity with a class; "confidence";
            "entropy"; or a function, as for `EquiTune`.
        hidden_units: widths of the hidden layers of the score of "lambda". Defaults to `(100,)`.
        frozen_features: whether that score sees the embedding of a copy of the image encoder, frozen as it is
            now, at the cost of a second pass. Defaults to False.

    Returns:
        An `EquiTune` from images to logits.

    Raises:
        ValueError: if the method is unknown, an option is that of another one or out of range, or
            `classifier` is no `ZeroShotClassifier`.
        ShapeError: if the group cannot move images of the classifier's size.

    Example:

    >>> import star_keras as sk
    >>> encoders = sk.models.create(
    ...     "dual_encoder",
    ...     backbone={"architecture": "resnet20", "input_shape": [32, 32, 3]},
    ...     vocabulary=["a", "photo", "of", "church", "golf", "ball"],
    ... )
    >>> classifier = sk.applications.zero_shot.from_prompts(encoders, ["church", "golf ball"])
    >>> robust = invariant(classifier, sk.groups.Cyclic(4))
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype="uint8")
    >>> upright, turned = np.array(robust(images)), np.array(robust(np.rot90(images, axes=(1, 2))))
    >>> bool(np.abs(upright - turned).max() < 1e-3)
    True

    Reference: Basu et al., "Efficient Equivariant Transfer Learning from Pretrained Models" (NeurIPS 2023),
    arXiv:2305.09900, sections 3 and 5.
    """
    check_choice("method", method, METHODS)
    if not isinstance(classifier, ZeroShotClassifier):
        raise ValueError(
            f"`classifier` must be a `ZeroShotClassifier`. Received: {classifier!r}. Wrap others "
            "in `EquiTune`."
        )
    _check_options(method, proxy=proxy, hidden_units=hidden_units, frozen_features=frozen_features)
    if method == "equitune":
        options = {}
    elif method == "equizero":
        options = {"weighting": "argmin", "score": proxy}
    else:
        score = score_network(check_widths("hidden_units", hidden_units))
        features = _frozen_embedding(classifier) if frozen_features else "embedding"
        options = {"weighting": "lambda", "score": score, "features": features}
    wrapper = EquiTune(classifier, group, **options)
    wrapper.build((None, *classifier.input_shape[1:]))
    return wrapper


def _check_options(method, **options):
    for name, value in options.items():
        owner, default = OPTIONS[name]
        if method != owner and value != default:
            raise ValueError(
                f'`{name}` is an option of method="{owner}". Received: {name}={value!r}, method={method!r}; '
                "leave it out"
            )


def _frozen_embedding(classifier):
    copy = ZeroShotClassifier.from_config(classifier.get_config())
    copy.set_weights(classifier.get_weights())
    frozen = keras.Model(copy.input, copy.get_layer("embedding").output, name="frozen_embedding")
    frozen.trainable = False
    return frozen
