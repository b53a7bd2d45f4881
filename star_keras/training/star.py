"""Soft task-aware routing of experts: pretraining that is invariant and equivariant at once."""

import keras
import numpy as np
from keras import ops

from star_keras import backend
from star_keras.augmentation import Augmentation
from star_keras.augmentation.base import unaugmented
from star_keras.exceptions import ShapeError
from star_keras.guards.arguments import check_choice, is_finite, is_whole
from star_keras.guards.pixels import LooksAtArrays, look_at_pixels, refuse_list, without_looking
from star_keras.layers import EquivariantPredictor
from star_keras.layers.wrapping import ends_in_softmax
from star_keras.losses import NTXent
from star_keras.ops import global_mean, regularization
from star_keras.training.finite_check import FiniteCheck, own_callbacks_first


@keras.saving.register_keras_serializable(package="star_keras")
class STARPretraining(LooksAtArrays, keras.Model):
    """Pretrains a backbone on unlabelled images, by plain `compile` and `fit`.

    Two views of every image are drawn inside the step. With `z` the projector's embeddings, `x` the
    image, `v1`, `v2` its views and `a1`, `a2` what the augmentation drew,

        invariance   = NTXent(z_inv(v1), z_inv(v2))
        equivariance = NTXent(z_eq(v1) | z_eq(v2), predictor(z_eq(x), a1) | predictor(z_eq(x), a2))
        loss         = invariance_weight * invariance + equivariance_weight * equivariance

    where `|` joins both views into one batch; regularisers of the parts are added. Nothing is detached. What
    is kept afterwards is `.backbone`. The relatives of the method are settings of it:

    | method | projector | weights |
    |---|---|---|
    | STAR with learned routing | `RoutedExperts(..., routing="learned")` | 1, 1 |
    | STAR with one shared expert | `RoutedExperts(..., routing="shared")` | 1, 1 |
    | EquiMod-like, separate heads | `RoutedExperts(..., routing="separate")` | 1, 1 |
    | equivariance only | any | 0, 1 |
    | SimCLR | any, such as `Projector` | 1, 0 |

    Args:
        backbone: model from images in [0, 255] to features `(batch, features)`.
        augmentation: an `Augmentation`, such as `augmentation.star_views(32)`.
        projector: layer from features to `{"invariant": z, "equivariant": z}`, or to one embedding
            that serves both tasks.
        predictor: layer `(embedding, augmentation) -> embedding`. Defaults to an
            `EquivariantPredictor` that standardises the encoded parameters by their moments for
            images of the backbone's size, or to none where `equivariance_weight` is 0.
        temperature: of the invariance loss. Defaults to 0.2.
        equivariance_temperature: of the equivariance loss. Defaults to 0.2.
        invariance_weight: factor of the invariance loss, at least 0. Defaults to 1.0.
        equivariance_weight: factor of the equivariance loss, at least 0. Defaults to 1.0. A weight
            of exactly 0 skips that loss and the passes only it needs.
        passes: "separate" (default, the paper) runs image and views one after the other, so that
            batch statistics are those of one view; "joint" runs them as one batch, which is faster
            on an accelerator and a different model while training.
        seed: integer from which the views of training are drawn. Defaults to 0. `evaluate` and
            `predict` draw the same views every time and leave the training draws alone.

    Call arguments:
        images: `(batch, height, width, 3)`, uint8 or float in [0, 255].

    Returns:
        A dict of the embeddings the losses need, each `(batch, units)`: `invariant_1`,
        `invariant_2`, `equivariant_1`, `equivariant_2`, `prediction_1`, `prediction_2`.

    Raises:
        ValueError: if a weight is negative or both are 0, a temperature is not positive, the seed is out of
            range, `passes` is unknown, the backbone is not built or a classifier, the augmentation is none,
            the projector lacks a task, or the default predictor is asked for and the backbone's image size
            is not fixed; in `fit`, if there are weights of samples.
        ShapeError: if the views have another size than the backbone takes.
        NonFiniteError: in `fit`, if a loss or a weight becomes NaN or infinite.

    Example:

    >>> import star_keras as sk
    >>> model = sk.training.STARPretraining(
    ...     backbone=sk.models.create("resnet20", input_shape=(32, 32, 3)),
    ...     augmentation=sk.augmentation.star_views(32),
    ...     projector=sk.layers.RoutedExperts(16, num_experts=2, tasks=("invariant", "equivariant")),
    ... )
    >>> model.compile("sgd")
    >>> images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype="uint8")
    >>> history = model.fit(images, batch_size=4, verbose=0)
    >>> sorted(history.history)
    ['equivariance_loss', 'invariance_loss', 'loss']

    Reference: Jeon, Jang, Sohn and Lee, "Soft Task-Aware Routing of Experts for Equivariant
    Representation Learning" (NeurIPS 2025), arXiv:2510.27222.
    """

    def __init__(
        self,
        backbone,
        augmentation,
        projector,
        predictor=None,
        temperature=0.2,
        equivariance_temperature=0.2,
        invariance_weight=1.0,
        equivariance_weight=1.0,
        passes="separate",
        seed=0,
        **kwargs,
    ):
        weights = invariance_weight, equivariance_weight
        if not all(is_finite(weight) and weight >= 0 for weight in weights) or not any(weights):
            raise ValueError(
                "`invariance_weight` and `equivariance_weight` must be finite and not negative, and one of "
                f"them positive. Received: {invariance_weight} and {equivariance_weight}"
            )
        if not is_whole(seed) or not 0 <= seed < 2**32 - 2:
            raise ValueError(f"`seed` must be a whole number in [0, 2**32 - 2). Received: seed={seed!r}")
        check_choice("passes", passes, ("separate", "joint"))
        if not isinstance(getattr(backbone, "input_shape", None), tuple):
            raise ValueError(
                "`backbone` must be a built model of one batch of images, such as `keras.Model(inputs, "
                f"features)`. Received: a {type(backbone).__name__} without an `input_shape`; begin it with "
                "`keras.Input`."
            )
        _check_parts(backbone, augmentation)
        super().__init__(autocast=False, **kwargs)
        self.backbone = backbone
        self.augmentation = augmentation
        self.projector = projector
        if predictor is None and equivariance_weight:
            predictor = self._default_predictor()
        self.predictor = predictor
        self.temperature = temperature
        self.equivariance_temperature = equivariance_temperature
        self.invariance_weight = invariance_weight
        self.equivariance_weight = equivariance_weight
        self.passes = passes
        self.seed = int(seed)
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.invariance = NTXent(temperature)
        self.equivariance = NTXent(equivariance_temperature)
        if invariance_weight:
            self.invariance_tracker = keras.metrics.Mean(name="invariance_loss")
        if equivariance_weight:
            self.equivariance_tracker = keras.metrics.Mean(name="equivariance_loss")

    def _default_predictor(self):
        image_shape = self.backbone.input_shape[1:]
        if None in image_shape:
            raise ValueError(
                "The default predictor standardises crop coordinates in pixels and needs a backbone "
                f"of a fixed image size. Received: image shape {image_shape}; pass `predictor`, with "
                "`offset` and `scale` from `augmentation.moments((height, width, 3))`."
            )
        mean, std = self.augmentation.moments(image_shape)
        return EquivariantPredictor(
            offset=[float(value) for value in mean],
            scale=[float(value) for value in std],
            dtype=self.dtype_policy,
        )

    def build(self, images_shape):
        features = self.backbone.compute_output_shape((None, *self.backbone.input_shape[1:]))
        if not self.projector.built:
            self.projector.build(features)
        embeddings = self.projector.compute_output_shape(features)
        if isinstance(embeddings, dict):
            self._check_tasks(embeddings)
            embeddings = embeddings.get("equivariant")
        if self.predictor is not None and not self.predictor.built:
            self.predictor.build(embeddings, (None, len(self.augmentation.columns)))
        self.built = True

    def _check_tasks(self, embeddings):
        weights = {"invariant": self.invariance_weight, "equivariant": self.equivariance_weight}
        needed = [task for task, weight in weights.items() if weight]
        if not {*needed} <= {*embeddings}:
            raise ValueError(
                f"`projector` must have the tasks {', '.join(map(repr, needed))}. Received: the tasks "
                f"{', '.join(map(repr, embeddings))}; name them so in `tasks`, or set a weight to 0."
            )

    def call(self, images, training=None):
        if not training:
            look_at_pixels(images)
        images = ops.cast(images, "float32")
        first, first_parameters = self._view(images, 1, training)
        second, second_parameters = self._view(images, 2, training)
        if not self.equivariance_weight:
            one, two = self._embed([first, second], training)
            return {"invariant_1": one["invariant"], "invariant_2": two["invariant"]}
        plain = unaugmented(images, self.backbone.input_shape[1:3])
        plain, one, two = self._embed([plain, first, second], training)
        source = plain["equivariant"]
        predictions = self._predict_views(source, [first_parameters, second_parameters], training)
        embeddings = {
            "equivariant_1": one["equivariant"],
            "equivariant_2": two["equivariant"],
            "prediction_1": predictions[0],
            "prediction_2": predictions[1],
        }
        if self.invariance_weight:
            embeddings |= {"invariant_1": one["invariant"], "invariant_2": two["invariant"]}
        return embeddings

    def _view(self, images, number, training):
        """One view of every image and the encoded parameters that made it.

        Every replica draws for the whole global batch and keeps its own rows, so that replicas
        see different views, and the views one replica would have seen.
        """
        seed = self.seed_generator if training else self.seed + number
        parameters = backend.own_rows(
            lambda total: self.augmentation.sample(total, tuple(images.shape[1:]), seed),
            ops.shape(images)[0],
        )
        return self.augmentation.apply(images, parameters), self.augmentation.encode(parameters)

    def _embed(self, batches, training):
        def embed(images):
            with without_looking():
                features = self.backbone(images, training=training)
            embeddings = self.projector(features, training=training)
            if isinstance(embeddings, dict):
                return embeddings
            return {"invariant": embeddings, "equivariant": embeddings}

        if self.passes == "separate":
            return [embed(images) for images in batches]
        joint = embed(ops.concatenate(batches))
        parts = {task: ops.split(rows, len(batches)) for task, rows in joint.items()}
        return [{task: rows[i] for task, rows in parts.items()} for i in range(len(batches))]

    def _predict_views(self, source, encoded, training):
        if self.passes == "separate":
            return [self.predictor(source, columns, training=training) for columns in encoded]
        sources = ops.concatenate([source] * len(encoded))
        joint = self.predictor(sources, ops.concatenate(encoded), training=training)
        return ops.split(joint, len(encoded))

    def fit(self, x=None, y=None, batch_size=None, epochs=1, verbose="auto", callbacks=None, **kwargs):
        """As `keras.Model.fit`; NaN stops it, in the images, in a loss or in a weight."""
        own = [FiniteCheck(self._where)]
        return super().fit(
            x, y, batch_size, epochs, verbose, own_callbacks_first(callbacks, own, self), **kwargs
        )

    def _where(self, broken):
        """The terms that are not finite; where none is named, the rest of the loss."""
        return f"in {', '.join(name for name in broken if name != 'loss') or 'a regulariser of its parts'}"

    def look_at_array(self, x):
        refuse_list(x)
        look_at_pixels(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if sample_weight is not None:
            raise ValueError(
                "Contrastive losses compare all images of a batch and take no weight per image. "
                "Received: `sample_weight`; leave it out of `fit`."
            )
        loss = 0.0
        if self.invariance_weight:
            rows = self.invariance.call(y_pred["invariant_1"], y_pred["invariant_2"])
            self.invariance_tracker.update_state(rows)
            loss += self.invariance_weight * global_mean(rows)
        if self.equivariance_weight:
            rows = self.equivariance.call(
                ops.concatenate([y_pred["equivariant_1"], y_pred["equivariant_2"]]),
                ops.concatenate([y_pred["prediction_1"], y_pred["prediction_2"]]),
            )
            self.equivariance_tracker.update_state(rows)
            loss += self.equivariance_weight * global_mean(rows)
        if not (self.invariance_weight and self.equivariance_weight):
            loss += _zero_gradient(self.trainable_variables)
        return loss + regularization(self)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["seed_state"] = ops.convert_to_numpy(self.seed_generator.state.value)

    def load_own_variables(self, store):
        self.seed_generator.state.assign(np.asarray(store["seed_state"]))
        super().load_own_variables({key: store[key] for key in store.keys() if key != "seed_state"})

    def get_config(self):
        parts = ("backbone", "augmentation", "projector", "predictor")
        numbers = (
            "temperature",
            "equivariance_temperature",
            "invariance_weight",
            "equivariance_weight",
            "passes",
            "seed",
        )
        return {
            **super().get_config(),
            **{name: keras.saving.serialize_keras_object(getattr(self, name)) for name in parts},
            **{name: getattr(self, name) for name in numbers},
        }

    @classmethod
    def from_config(cls, config):
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("backbone", "augmentation", "projector", "predictor")
        }
        return cls(**{**config, **parts})


def _check_parts(backbone, augmentation):
    classifies = hasattr(backbone, "backbone") and hasattr(backbone, "num_classes")
    if classifies or ends_in_softmax(backbone):
        raise ValueError(
            "`backbone` must be a model that ends in features; those of a classifier are "
            f"`classifier.backbone`, or `keras.Model(inputs, features)` of it. Received: {backbone!r}, which "
            "ends in classes."
        )
    if not isinstance(augmentation, Augmentation):
        raise ValueError(
            "`augmentation` must be one of `star_keras.augmentation`, such as `star_views(32)`, which tells "
            f"what it drew, as layers of Keras do not. Received: {augmentation!r}"
        )
    size = backbone.input_shape[1:3]
    views = augmentation.compute_output_shape(backbone.input_shape)[1:3]
    if any(None not in pair and pair[0] != pair[1] for pair in zip(size, views, strict=True)):
        fitting = f"star_views({size[0]})" if size[0] == size[1] else f"RandomResizedCrop({size})"
        raise ShapeError(
            "The views must have the size that the backbone takes. Received: an augmentation that makes "
            f"{views[0]} x {views[1]} pixels and a backbone of {size[0]} x {size[1]}; take one with "
            f"`{fitting}`, or make the backbone for the other size."
        )


def _zero_gradient(variables):
    """0, with a gradient of exactly 0 for parts that no loss reaches, so that optimizers accept them."""
    return 0.0 * sum(ops.sum(ops.cast(variable, "float32")) for variable in variables)
