"""Whether a representation knows, and moves with, what an augmentation did."""

import dataclasses

import keras
import numpy as np
from keras import ops

from star_keras.augmentation.base import unaugmented
from star_keras.evaluation.arrays import TooFewSamples, unit_rows
from star_keras.evaluation.embeddings import extract_embeddings, in_batches
from star_keras.evaluation.features import check_image_size
from star_keras.evaluation.regression import ridge, ridge_by_groups, variance_explained
from star_keras.exceptions import ShapeError
from star_keras.guards.arguments import check_count, check_range
from star_keras.guards.pixels import image_array

PREDICTORS = ("auto", "own", "fitted")
_SAME = 1e-6
_COMPONENTS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class EquivarianceResult:
    """What `equivariance_metrics` measured on images that nothing was fitted to.

    Attributes:
        mrr: mean of 1 / rank of the true view.
        hits_at_1, hits_at_5: part of the predictions whose true view is the first, among the first five.
        prediction_error: squared difference between the parameters of the view that is nearest to the
            prediction and those of the true one, over that of a view chosen at random: 0 is perfect; NaN,
            not applicable, where the parameters never vary.
        gain: mean of `cos(prediction, view) - cos(image, view)`; 0 if predictions ignore the parameters
            and repeat the image's embedding.
        r2: variance of the standardised parameters that a linear function of two frozen features explains;
            NaN where they never vary.
        r2_by_column: the same for each column of the encoded parameters; NaN where a column never varies.
        floors: of each measure, what a representation without any knowledge of the augmentation has.
        predictor: "own" or "fitted".
        images: number of images measured.
        fitted_images: number of images the regressions were fitted to.
        views: number of views of each image.
        seed: of the split and of the views.
    """

    mrr: float
    hits_at_1: float
    hits_at_5: float
    prediction_error: float
    gain: float
    r2: float
    r2_by_column: dict
    floors: dict
    predictor: str
    images: int
    fitted_images: int
    views: int
    seed: int

    def to_dict(self):
        """The fields as a dict of plain Python values, with None for NaN."""
        return _without_nan(dataclasses.asdict(self))


def _without_nan(value):
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def equivariance_metrics(
    model,
    images,
    augmentation=None,
    predictor="auto",
    views=50,
    fit_fraction=0.5,
    batch_size=256,
    seed=0,
):
    """How well embeddings of augmented images can be predicted, and augmentations be read from features.

    Each image gets `views` views. From the embedding of the image itself and the parameters of one view,
    that view's embedding is predicted; its rank by cosine among the views of the same image gives MRR and
    hits. Views of equal similarity, to 1e-6 as float32 rounds, share their ranks evenly, so an embedding
    that ignores the augmentation has the score of guessing, given as `floors`. R2 is of a ridge regression
    from the pair of features of image and view to the encoded parameters, each column in units of its
    standard deviation and with the penalty, from 0.001 to 10,000, that errs least on a fifth of the images
    for fitting: so that features which know nothing have about 0, however wide they are.

    Predictions are made by the model's own predictor between its equivariant embeddings, or by one that is
    fitted afterwards to frozen features, so that models without a predictor can be compared: the view's
    features less the image's are a ridge regression of the parameters, their products, and their products
    with up to 64 principal components of the image's features, with a penalty of 0.001 for standardised
    inputs. Regressions are fitted to one part of the images and measured on the other.

    Args:
        model: a `STARPretraining`, or any backbone.
        images: array `(n, height, width, 3)` with values in [0, 255]; a thousand are enough. The first
            half, in the order of the seed, is for fitting.
        augmentation: an `Augmentation` whose views have the size the backbone takes. Defaults to None: the
            model's.
        predictor: "own", "fitted", or "auto" (the default), its own where it has one.
        views: number of views of each image, at least 2. Defaults to 50.
        fit_fraction: part of the images for fitting. Defaults to 0.5.
        batch_size: images at a time; the result does not depend on it. Defaults to 256.
        seed: integer. Defaults to 0.

    Returns:
        An `EquivarianceResult`.

    Raises:
        ValueError: if there is no augmentation or no predictor of its own, an argument is out of range, or
            there are too few images.
        ShapeError: if views are not of the size that the backbone takes.
        NonFiniteError: if an embedding is NaN or infinite.

    Example:

    >>> import star_keras as sk
    >>> pixels = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    >>> images = np.random.default_rng(0).uniform(0, 255, (12, 8, 8, 3))
    >>> result = equivariance_metrics(pixels, images, sk.augmentation.QuarterTurn(), views=3)
    >>> result.floors["hits_at_1"]
    0.3333333333333333

    Reference: Garrido and others, Self-Supervised Learning of Split Invariant Equivariant
    Representations (ICML 2023); Devillers and Lefort, EquiMod (ICLR 2023), for the gain.
    """
    augmentation = getattr(model, "augmentation", None) if augmentation is None else augmentation
    own = _choose_predictor(model, augmentation, predictor)
    images = image_array(images)
    fitted, measured = _split(len(images), fit_fraction, views, seed)
    backbone, order = getattr(model, "backbone", model), np.concatenate([fitted, measured])
    _check_views(backbone, augmentation, images)
    # In the order given, so that an error names the image.
    sources = extract_embeddings(backbone, _plain(backbone, images), "backbone", batch_size, verbose=0)
    sources, images = sources[order], images[order]
    fitted, measured = slice(0, len(fitted)), slice(len(fitted), None)

    parameters = augmentation.sample(len(images) * views, images.shape[1:], int(seed))
    parameters = {name: ops.convert_to_numpy(values) for name, values in parameters.items()}
    encoded = ops.convert_to_numpy(augmentation.encode(parameters))
    offset, scale = augmentation.moments(images.shape[1:])
    actions = ((encoded - offset) / scale).astype("float64").reshape(len(images), views, -1)

    targets = _view_features(backbone, augmentation, images, parameters, views, batch_size)
    r2, by_column = _read_parameters(sources, targets, actions, fitted, measured)
    if own:
        sources, targets, predictions = _own_predictions(
            model, sources[measured], targets[measured], encoded.reshape(actions.shape)[measured], batch_size
        )
    else:
        predict = _fit_predictor(sources[fitted], targets[fitted], actions[fitted])
        predictions = predict(sources[measured], actions[measured])
        sources, targets = sources[measured], targets[measured]
    scores = prediction_scores(sources, targets, predictions, actions[measured])
    return EquivarianceResult(
        **scores,
        r2=r2,
        r2_by_column=dict(zip(augmentation.columns, by_column.tolist(), strict=True)),
        floors=_floors(views),
        predictor="own" if own else "fitted",
        images=len(sources),
        fitted_images=len(images) - len(sources),
        views=views,
        seed=seed,
    )


def prediction_scores(sources, targets, predictions, actions):
    """MRR, hits, prediction error and gain of predicted embeddings.

    Args:
        sources: embeddings of the images, `(n, d)`.
        targets: embeddings of their views, `(n, views, d)`.
        predictions: what was predicted for each view, of the same shape.
        actions: standardised parameters of the views, `(n, views, columns)`.

    Returns:
        A dict of floats, as the fields of `EquivarianceResult`.
    """
    sources, targets, predictions = unit_rows(sources), unit_rows(targets), unit_rows(predictions)
    similarities = predictions @ targets.transpose(0, 2, 1)
    true = np.diagonal(similarities, axis1=1, axis2=2)
    above = np.sum(similarities > true[..., None] + _SAME, axis=2)
    equal = np.sum(np.abs(similarities - true[..., None]) <= _SAME, axis=2)
    inverse_ranks = np.concatenate([[0], np.cumsum(1 / np.arange(1, targets.shape[1] + 1))])
    nearest = similarities >= similarities.max(axis=2, keepdims=True) - _SAME
    differences = _squared_differences(actions)
    retrieved = np.sum(nearest * differences, axis=2) / nearest.sum(axis=2)
    random, varies = differences.mean(), np.ptp(actions, axis=1).any()
    return {
        "mrr": float(np.mean((inverse_ranks[above + equal] - inverse_ranks[above]) / equal)),
        "hits_at_1": float(np.mean(np.clip(1 - above, 0, equal) / equal)),
        "hits_at_5": float(np.mean(np.clip(5 - above, 0, equal) / equal)),
        "prediction_error": float(retrieved.mean() / random) if varies else float("nan"),
        "gain": float(np.mean(true - np.einsum("nd,nvd->nv", sources, targets))),
    }


def _squared_differences(actions):
    """Squared distances between the parameters of all views of an image, `(n, views, views)`."""
    squares = np.sum(actions**2, axis=2)
    products = actions @ actions.transpose(0, 2, 1)
    return np.maximum(squares[:, :, None] + squares[:, None] - 2 * products, 0)


def _floors(views):
    guessed = float(np.mean(1 / np.arange(1, views + 1)))
    return {
        "mrr": guessed,
        "hits_at_1": 1 / views,
        "hits_at_5": min(5 / views, 1.0),
        "prediction_error": 1.0,
        "gain": 0.0,
        "r2": 0.0,
    }


def _choose_predictor(model, augmentation, predictor):
    """Whether the model's own predictor is used."""
    if predictor not in PREDICTORS:
        raise ValueError(f"`predictor` must be one of {PREDICTORS}. Received: predictor={predictor!r}")
    if augmentation is None:
        raise ValueError("`augmentation` is needed for a model without one. Received: augmentation=None")
    has_own = getattr(model, "predictor", None) is not None
    if predictor == "own" and not has_own:
        raise ValueError(
            'The model has no predictor of its own; pass predictor="fitted". Received: predictor="own" and '
            f"a {type(model).__name__}"
        )
    return has_own and predictor != "fitted"


def _split(count, fit_fraction, views, seed):
    size = round(check_range("fit_fraction", fit_fraction, 0, 1) * count)
    if not 2 <= size <= count - 2 or check_count("views", views) < 2:
        raise TooFewSamples(
            "Needed are at least 2 views, 2 images to fit and 2 to measure. Received: "
            f"views={views}, fit_fraction={fit_fraction} of {count} images"
        )
    order = np.random.default_rng(seed).permutation(count)
    return order[:size], order[size:]


def _check_views(backbone, augmentation, images):
    if images.ndim != 4:
        raise ShapeError(
            f"`images` must be an array (images, height, width, channels). Received: shape {images.shape}"
        )
    check_image_size(backbone, augmentation.compute_output_shape(images.shape))


def _plain(backbone, images):
    """The images without augmentation, cut and resized to the size the backbone takes."""
    size = tuple((getattr(backbone, "input_shape", None) or (None,) * 4)[1:3])
    plain = unaugmented(images, size)
    return plain if plain is images else ops.convert_to_numpy(plain)


def _view_features(backbone, augmentation, images, parameters, views, batch_size):
    """Features of all views, `(images, views, d)`."""
    network = backbone if isinstance(backbone, keras.Model) else keras.Sequential([backbone])
    names = list(parameters)

    def features(rows, *values):
        made = augmentation.apply(images[rows], dict(zip(names, values, strict=True)))
        return network.predict_on_batch(made)

    rows = np.arange(len(images)).repeat(views)
    found = in_batches(features, batch_size, rows, *parameters.values(), part="backbone")
    return found.reshape(len(images), views, -1)


def _own_predictions(model, sources, targets, encoded, batch_size):
    """Equivariant embeddings of images and views, and the predicted ones."""

    def embed(features):
        embeddings = model.projector(features, training=False)
        return embeddings["equivariant"] if isinstance(embeddings, dict) else embeddings

    shape = encoded.shape[:2]
    sources = in_batches(embed, batch_size, sources)
    targets = in_batches(embed, batch_size, targets.reshape(-1, targets.shape[-1]))
    predictions = in_batches(
        lambda *rows: model.predictor(*rows, training=False),
        batch_size,
        sources.repeat(shape[1], axis=0),
        encoded.reshape(-1, encoded.shape[-1]),
        part="predictor",
    )
    return sources, targets.reshape(*shape, -1), predictions.reshape(*shape, -1)


def _read_parameters(sources, targets, actions, fitted, measured):
    """R2 over all columns, and of each."""
    views, columns = actions.shape[1:]
    pairs = np.concatenate([np.repeat(sources[:, None], views, axis=1), targets], axis=2)
    read = ridge_by_groups(pairs[fitted], actions[fitted])
    answers = read(pairs[measured].reshape(-1, pairs.shape[-1]))
    return variance_explained(actions[measured].reshape(-1, columns), answers)


def _fit_predictor(sources, targets, actions):
    """A function from features of images and parameters of views to features of views."""
    center = sources.mean(axis=0, dtype="float64")
    _, values, directions = np.linalg.svd(sources - center, full_matrices=False)
    directions = directions[values > 1e-6 * values[:1]][:_COMPONENTS]
    first, second = np.triu_indices(actions.shape[2])

    def describe(sources, actions):
        components = (sources - center) @ directions.T
        products = actions[..., first] * actions[..., second]
        moved = components[:, None, :, None] * actions[:, :, None, :]
        parts = actions, products, moved.reshape(*actions.shape[:2], -1)
        return np.concatenate(parts, axis=2).reshape(actions.shape[0] * actions.shape[1], -1)

    shifts = targets - sources[:, None]
    fit = ridge(describe(sources, actions), shifts.reshape(-1, shifts.shape[2]))

    def predict(sources, actions):
        return sources[:, None] + fit(describe(sources, actions)).reshape(*actions.shape[:2], -1)

    return predict
