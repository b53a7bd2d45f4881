"""Image sets behind one call: the embedded one, files, folders, tensorflow-datasets. And texts."""

from star_keras.data.images import Split, to_rgb
from star_keras.data.loading import load
from star_keras.data.texts import load_text

__all__ = ["Split", "load", "load_text", "to_rgb"]
