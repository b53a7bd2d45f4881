"""Image sets behind one call: the embedded one, files, folders of images and tensorflow-datasets."""

from star_keras.data.images import Split, to_rgb
from star_keras.data.loading import load

__all__ = ["Split", "load", "to_rgb"]
