"""Images while augmentations work on them: resampling is collected, pixels are touched once."""

from keras import ops

from star_keras.exceptions import ShapeError


def per_image(values):
    """Shapes `(batch, 1)` parameters so that they broadcast against `(batch, height, width)`."""
    return ops.reshape(values, (-1, 1, 1))


class Canvas:
    """A batch of images on its way through one augmentation or several.

    Resampling is linear along each axis. It is kept as one matrix an axis until the pixels themselves
    are asked for, so that neighbours such as crop, flip and blur cost one pass. Pixels are held
    channels-last or, for arithmetic on colours, channels first; resampling switches between the two.

    Args:
        images: `(batch, height, width, channels)` of any type.
    """

    def __init__(self, images):
        shape = tuple(images.shape)
        if len(shape) != 4 or None in shape[1:] or min(shape[1:]) < 1:
            raise ShapeError(
                "Images must have the shape (batch, height, width, channels) with known, positive sizes. "
                f"Received: shape={shape}. If only the batch axis is missing, add it with images[None]."
            )
        self.images = ops.cast(images, "float32")

    @property
    def images_shape(self):
        """`(height, width, channels)` of the images, resampling included."""
        if self._planes is None:
            height, width, channels = self._images.shape[1:]
        else:
            channels, _, height, width = self._planes.shape
        if self._rows is not None:
            height, width = self._rows.shape[1], self._columns.shape[2]
        return height, width, channels

    def resample(self, rows, columns):
        """Multiplies the height by `rows (batch, new, old)` and the width by `columns (batch, old, new)`."""
        if self._rows is not None:
            rows, columns = ops.matmul(rows, self._rows), ops.matmul(self._columns, columns)
        self._rows, self._columns = rows, columns

    def mirror(self, applied):
        """Reverses the width of the images whose `applied (batch, 1)` is 1."""
        applied = per_image(applied) > 0.5
        if self._rows is not None:
            self._columns = ops.where(applied, ops.flip(self._columns, axis=2), self._columns)
        elif self._planes is not None:
            self._planes = ops.where(applied, ops.flip(self._planes, axis=3), self._planes)
        else:
            self._images = ops.where(applied[..., None], ops.flip(self._images, axis=2), self._images)

    @property
    def planes(self):
        """The pixels as `(channels, batch, height, width)`."""
        if self._rows is not None:
            self._resample()
        if self._planes is None:
            self.planes = ops.transpose(self._images, (3, 0, 1, 2))
        return self._planes

    @planes.setter
    def planes(self, planes):
        self._planes, self._images = planes, None
        self._rows = self._columns = None

    @property
    def images(self):
        """The pixels as `(batch, height, width, channels)`."""
        if self._rows is not None:
            self._resample()
        if self._images is None:
            self.images = ops.transpose(self._planes, (1, 2, 3, 0))
        return self._images

    @images.setter
    def images(self, images):
        self._images, self._planes = images, None
        self._rows = self._columns = None

    def _resample(self):
        rows, columns = self._rows, self._columns
        _, new_height, height = rows.shape
        _, width, new_width = columns.shape
        if self._planes is None:
            channels = self._images.shape[3]
            images = ops.matmul(rows, ops.reshape(self._images, (-1, height, width * channels)))
            images = ops.reshape(images, (-1, new_height, width, channels))
            self.planes = _multiply_width(ops.transpose(images, (3, 0, 1, 2)), columns)
        else:
            channels = self._planes.shape[0]
            images = ops.transpose(_multiply_width(self._planes, columns), (1, 2, 3, 0))
            images = ops.matmul(rows, ops.reshape(images, (-1, height, new_width * channels)))
            self.images = ops.reshape(images, (-1, new_height, new_width, channels))


def _multiply_width(planes, columns):
    """`planes[c] @ columns` for each channel.

    Channel by channel, since TensorFlow's CPU product of a batch of one with a broadcast axis,
    `(3, 1, h, w) @ (1, 1, w, v)`, returns wrong numbers and overwrites memory (2.21, oneDNN).
    """
    return ops.stack([ops.matmul(plane, columns) for plane in ops.unstack(planes)])
