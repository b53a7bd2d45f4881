"""What every augmentation does: draw parameters, apply them, encode them."""

import keras
import numpy as np
from keras import ops

from star_keras.exceptions import ShapeError


def per_image(values):
    """Shapes `(batch, 1)` parameters so that they broadcast against `(batch, height, width)`."""
    return ops.reshape(values, (-1, 1, 1))


def checked_probability(probability):
    if not 0 <= probability <= 1:
        raise ValueError(f"`probability` must lie in [0, 1]. Received: probability={probability}")
    return probability


class Canvas:
    """A batch of images on its way through one augmentation or several.

    Resampling along the two axes is kept as one small matrix each and multiplied out only when the
    pixels themselves are asked for, so that neighbours such as crop, flip and blur cost one pass.
    Pixels are held channels-last or as one plane a channel; multiplying out switches between the
    two at no extra cost.

    Args:
        images: `(batch, height, width, channels)` of any type, values in [0, 255].
    """

    def __init__(self, images):
        if len(images.shape) != 4 or None in tuple(images.shape)[1:]:
            raise ShapeError(
                "Images must have the shape (batch, height, width, channels) with height, width and channels known. "
                f"Received: shape={tuple(images.shape)}. Add the batch axis with images[None] if it is missing."
            )
        self.images_shape = tuple(images.shape)[1:]
        self._images = ops.cast(images, "float32")
        self._planes = None
        self._rows = self._columns = None

    def resample(self, rows, columns):
        """Multiplies the height axis by `rows (batch, new, old)`, the width axis by `columns (batch, old, new)`."""
        if self._rows is not None:
            rows, columns = ops.matmul(rows, self._rows), ops.matmul(self._columns, columns)
        self._rows, self._columns = rows, columns
        self.images_shape = (rows.shape[1], columns.shape[2], self.images_shape[2])

    def mirror(self, applied):
        """Reverses the width axis of the images whose `applied (batch, 1)` is 1."""
        applied = per_image(applied) > 0.5
        if self._columns is not None:
            self._columns = ops.where(applied, ops.flip(self._columns, axis=2), self._columns)
        elif self._planes is not None:
            self._planes = [ops.where(applied, ops.flip(plane, axis=2), plane) for plane in self._planes]
        else:
            self._images = ops.where(applied[..., None], ops.flip(self._images, axis=2), self._images)

    @property
    def planes(self):
        """The channels, a list of `(batch, height, width)`."""
        if self._planes is None and self._rows is not None:
            self._multiply()
        if self._planes is None:
            self._planes = _split(ops.transpose(self._images, (3, 0, 1, 2)))
        elif self._rows is not None:
            self._multiply()
            return self.planes
        self._images = None
        return self._planes

    @planes.setter
    def planes(self, planes):
        self._planes, self._images = list(planes), None

    @property
    def images(self):
        """The batch, `(batch, height, width, channels)`."""
        if self._planes is not None and self._rows is not None:
            self._multiply()
        if self._planes is not None:
            self._images = ops.transpose(ops.stack(self._planes), (1, 2, 3, 0))
            self._planes = None
        elif self._rows is not None:
            self._multiply()
            return self.images
        return self._images

    @images.setter
    def images(self, images):
        self.images_shape = tuple(images.shape)[1:]
        self._images, self._planes = images, None

    def _multiply(self):
        rows, columns, self._rows, self._columns = self._rows, self._columns, None, None
        channels = self.images_shape[2]
        if self._planes is None:
            _, height, width, _ = self._images.shape
            images = ops.matmul(rows, ops.reshape(self._images, (-1, height, width * channels)))
            images = ops.reshape(images, (-1, rows.shape[1], width, channels))
            planes = _split(ops.transpose(images, (3, 0, 1, 2)))
            self._planes, self._images = [ops.matmul(plane, columns) for plane in planes], None
        else:
            _, height, _ = self._planes[0].shape
            images = ops.stack([ops.matmul(plane, columns) for plane in self._planes])
            images = ops.reshape(ops.transpose(images, (1, 2, 3, 0)), (-1, height, columns.shape[2] * channels))
            self._images = ops.reshape(ops.matmul(rows, images), (-1, *self.images_shape))
            self._planes = None


def _split(planes):
    return [planes[channel] for channel in range(planes.shape[0])]


class Augmentation(keras.layers.Layer):
    """Makes views in three steps: `sample` the parameters, `apply` them, `encode` them as numbers.

    The parameters are the only randomness: `apply` gives the same view for the same parameters, bit
    for bit. They are a dictionary of float32 tensors `(batch, k)`, one row an image, so that rows may
    be sliced, mixed and kept. Everything is float32 whatever the dtype policy, since half precision
    would round pixel positions.

    Images are `(batch, height, width, channels)` of any type with values in [0, 255]; views are
    float32 in the same range.

    A subclass sets `columns`, `parameter_names` and `num_draws` and writes `parameters`, `encode`, `raw_moments` and either
    `apply` or `transform`.

    Args:
        seed: int, what the draws of `augmentation(images)` follow. `sample` takes its own seed. Defaults
            to None, another sequence each time.

    Example:

    >>> import numpy as np, star_keras as sk
    >>> images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype="uint8")
    >>> augmentation = sk.augmentation.star_views(32)
    >>> parameters = augmentation.sample(4, (32, 32, 3), seed=0)
    >>> views = augmentation.apply(images, parameters)
    >>> tuple(views.shape), tuple(augmentation.encode(parameters).shape)
    ((4, 32, 32, 3), (4, 11))
    """

    columns = ()
    parameter_names = ()
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
            A dictionary of float32 tensors `(batch_size, k)`. The first rows of a larger batch are
            those of a smaller one.

        Raises:
            ShapeError: the images cannot be augmented; the message names the smallest size.
        """
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer, keras.random.SeedGenerator)):
            raise ValueError(f"`seed` must be an int or a keras.random.SeedGenerator. Received: seed={seed!r}")
        if len(image_shape) != 3 or None in tuple(image_shape) or min(image_shape) < 1:
            raise ShapeError(
                "`image_shape` must be three known, positive sizes (height, width, channels). "
                f"Received: image_shape={tuple(image_shape)}"
            )
        if isinstance(seed, np.integer):
            seed = int(seed)
        uniform = keras.random.uniform((batch_size, self.num_draws), dtype="float32", seed=seed)
        return self.parameters(uniform, tuple(image_shape))

    def parameters(self, uniform, image_shape):
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
            parameters: what `sample` returned, or rows of it.

        Returns:
            Views, float32 in [0, 255].
        """
        canvas = Canvas(ops.convert_to_tensor(images))
        self.transform(canvas, parameters)
        return canvas.images

    def transform(self, canvas, parameters):
        """Does on a `Canvas` what `apply` does on images; `Compose` calls this."""
        canvas.images = self.apply(canvas.images, parameters)

    def encode(self, parameters):
        """The parameters as one row of raw numbers an image.

        Returns:
            float32 tensor `(batch, len(columns))`; `columns` names its entries.
        """
        raise NotImplementedError

    def moments(self, image_shape):
        """Means and standard deviations of the encoded columns under `sample`.

        Args:
            image_shape: static `(height, width, channels)` of the images.

        Returns:
            `(mean, std)`, float32 arrays of length `len(columns)`. A column that never varies has
            the standard deviation 1, so that dividing by it is safe.
        """
        mean, variance = self.raw_moments(tuple(image_shape))
        std = np.sqrt(variance)
        return np.asarray(mean, "float32"), np.where(std > 1e-6, std, 1).astype("float32")

    def raw_moments(self, image_shape):
        """`(mean, variance)` of the encoded columns, sequences of floats."""
        raise NotImplementedError

    def build(self, images_shape):
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        super().build(images_shape)

    def call(self, images, training=True):
        if not training:
            return ops.cast(images, "float32")
        parameters = self.sample(ops.shape(images)[0], tuple(images.shape)[1:], self.seed_generator)
        return self.apply(images, parameters)

    def compute_output_shape(self, images_shape):
        return tuple(images_shape)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def mixture_moments(probability, low, high, otherwise):
    """Mean and variance of U(low, high) with the given probability, else the constant `otherwise`."""
    middle, spread = (low + high) / 2, (high - low) ** 2 / 12
    mean = probability * middle + (1 - probability) * otherwise
    variance = probability * (spread + (middle - mean) ** 2) + (1 - probability) * (otherwise - mean) ** 2
    return mean, variance
