"""What every augmentation does: draw parameters, apply them, encode them."""

import keras
import numpy as np
from keras import ops

from star_keras.augmentation.canvas import Canvas
from star_keras.exceptions import ShapeError
from star_keras.guards.arguments import is_whole


class Augmentation(keras.layers.Layer):
    """Makes views in three steps: `sample` parameters, `apply` them, `encode` them as numbers.

    The parameters are the only randomness: `apply` gives the same view for the same parameters, bit
    for bit. They are a dictionary of float32 tensors `(batch, k)`, one row an image, so rows may be
    sliced, mixed and kept. Everything is float32 whatever the dtype policy: half precision would round
    pixel positions.

    Images are `(batch, height, width, channels)` of any type with values in [0, 255]; views are float32
    in the same range. Called as a layer, an augmentation samples from a seed of its own while training, and
    otherwise passes the images on, resized where views have a size of their own.

    Unlike other layers it is training unless told otherwise: `augmentation(images)` draws views.

    A subclass names its `parameter_names`, `columns` and `num_draws` (numbers from U(0, 1) an image) and
    writes `from_uniform`, `raw_moments` and either `apply` or `transform`; `encode` and
    `compute_output_shape` where the defaults, all parameters side by side and the same shape, do not fit.

    Args:
        seed: int or None; what calls as a layer draw from. `sample` takes its own seed. Defaults to None:
            other views in each run.

    Example:

    >>> import numpy as np, star_keras as sk
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype="uint8")
    >>> augmentation = sk.augmentation.star_views(32)
    >>> parameters = augmentation.sample(4, (32, 32, 3), seed=0)
    >>> tuple(augmentation.apply(images, parameters).shape)
    (4, 32, 32, 3)
    >>> tuple(augmentation.encode(parameters).shape)
    (4, 11)
    """

    parameter_names = ()
    columns = ()
    num_draws = 0

    def __init__(self, seed=None, **kwargs):
        kwargs["dtype"] = "float32"
        super().__init__(autocast=False, **kwargs)
        self.seed = seed

    def sample(self, batch_size, image_shape, seed):
        """Draws the parameters of a batch.

        Args:
            batch_size: int or scalar integer tensor.
            image_shape: static `(height, width, channels)` of the images.
            seed: an int, which gives the same draw each time, or a `keras.random.SeedGenerator`, which
                moves on. An int captured in a jitted step would freeze the views.

        Returns:
            A dictionary of float32 tensors `(batch_size, k)`, every number drawn independently of the
            others. The rows of a small batch are the first rows of a large one.

        Raises:
            ValueError: `seed` is neither.
            ShapeError: such images cannot be augmented.
        """
        is_int = is_whole(seed) and 0 <= seed < 2**32
        if not is_int and not isinstance(seed, keras.random.SeedGenerator):
            raise ValueError(
                "`seed` must be an int in [0, 2**32) or a keras.random.SeedGenerator. "
                f"Received: seed={seed!r}"
            )
        image_shape = _checked_shape(image_shape)
        seed = int(seed) if is_int else seed
        uniform = keras.random.uniform((batch_size, self.num_draws), dtype="float32", seed=seed)
        return self.from_uniform(uniform, image_shape)

    def from_uniform(self, uniform, image_shape):
        """Turns independent draws from U(0, 1) into parameters.

        Args:
            uniform: `(batch, num_draws)`.
            image_shape: static `(height, width, channels)`.

        Returns:
            The dictionary that `sample` returns.
        """
        raise NotImplementedError

    def apply(self, images, parameters):
        """Makes the views that the parameters describe.

        Args:
            images: `(batch, height, width, channels)`, values in [0, 255].
            parameters: what `sample` returned, or as many rows of it as there are images.

        Returns:
            Views, float32 in [0, 255].

        Raises:
            ValueError: a parameter is missing.
            ShapeError: images and parameters differ in number, or the images cannot be augmented.
        """
        images = ops.convert_to_tensor(images)
        canvas = Canvas(images)
        parameters = self._float32(parameters)
        for name, values in parameters.items():
            if None not in (values.shape[0], images.shape[0]) and values.shape[0] != images.shape[0]:
                raise ShapeError(
                    f"Each image needs one row of parameters. Received: {images.shape[0]} images and "
                    f"{values.shape[0]} rows of {name!r}. Sample for this batch, or slice the rows."
                )
        self.transform(canvas, parameters)
        return canvas.images

    def transform(self, canvas, parameters):
        """Does on a `Canvas` what `apply` does on images; this is what `Compose` calls."""
        canvas.images = self.apply(canvas.images, parameters)

    def encode(self, parameters):
        """The parameters as one row of raw numbers an image.

        Returns:
            float32 tensor `(batch, len(columns))`; `columns` names its entries.
        """
        return ops.concatenate(list(self._float32(parameters).values()), axis=1)

    def moments(self, image_shape):
        """Means and standard deviations of the encoded columns under `sample`.

        Args:
            image_shape: static `(height, width, channels)` of the images.

        Returns:
            `(mean, std)`, float32 arrays of length `len(columns)`. A column that never varies has the
            standard deviation 1, so that dividing by it is safe.
        """
        mean, variance = self.raw_moments(_checked_shape(image_shape))
        std = np.sqrt(variance)
        return np.asarray(mean, "float32"), np.where(std > 1e-6, std, 1).astype("float32")

    def raw_moments(self, image_shape):
        """`(mean, variance)` of the encoded columns, two sequences of floats."""
        raise NotImplementedError

    def build(self, images_shape):
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        super().build(images_shape)

    def call(self, images, training=True):
        if not training:
            images, size = ops.cast(images, "float32"), self.compute_output_shape(images.shape)[1:3]
            if tuple(images.shape[1:3]) == size:
                return images
            return ops.image.resize(images, size, antialias=True, data_format="channels_last")
        parameters = self.sample(ops.shape(images)[0], images.shape[1:], self.seed_generator)
        return self.apply(images, parameters)

    def compute_output_shape(self, images_shape):
        return tuple(images_shape)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}

    def _float32(self, parameters):
        missing = [name for name in self.parameter_names if name not in parameters]
        if missing:
            raise ValueError(
                f"`{type(self).__name__}` needs the parameters {list(self.parameter_names)}. "
                f"Received: {sorted(parameters)}, without {missing}. `sample` draws all of them."
            )
        return {name: ops.convert_to_tensor(parameters[name], "float32") for name in self.parameter_names}


class Sometimes(Augmentation):
    """An augmentation that either happens to an image or does not: its one parameter is 1 or 0.

    Args:
        probability: share of the images it happens to.
    """

    num_draws = 1

    def __init__(self, probability, **kwargs):
        super().__init__(**kwargs)
        self.probability = checked_probability(probability)

    def from_uniform(self, uniform, image_shape):
        return {self.parameter_names[0]: ops.cast(uniform < self.probability, "float32")}

    def raw_moments(self, image_shape):
        return [self.probability], [self.probability * (1 - self.probability)]

    def get_config(self):
        return {**super().get_config(), "probability": self.probability}


def unaugmented(images, size):
    """The images beside their views: cut and resized to `(height, width)`, where a None fits any."""
    if None in size or tuple(images.shape[1:3]) == tuple(size):
        return images
    images = ops.cast(images, "float32")
    return ops.image.resize(
        images, size, crop_to_aspect_ratio=True, antialias=True, data_format="channels_last"
    )


def checked_probability(probability):
    if not 0 <= probability <= 1:
        raise ValueError(f"`probability` must lie in [0, 1]. Received: probability={probability}")
    return probability


def mixture_moments(probability, low, high, otherwise):
    """Mean and variance of U(low, high) with the given probability, else of the constant `otherwise`."""
    middle, spread = (low + high) / 2, (high - low) ** 2 / 12
    mean = probability * middle + (1 - probability) * otherwise
    variance = probability * (spread + (middle - mean) ** 2) + (1 - probability) * (otherwise - mean) ** 2
    return mean, variance


def _checked_shape(image_shape):
    shape = tuple(image_shape)
    if len(shape) != 3 or None in shape or min(shape) < 1:
        raise ShapeError(
            "`image_shape` must be three known, positive sizes (height, width, channels). "
            f"Received: image_shape={shape}"
        )
    return shape
