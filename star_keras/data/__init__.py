"""Image sets behind one call: the embedded one, files, folders, tensorflow-datasets. Texts; SCAN."""

from star_keras.data.images import Split, to_rgb
from star_keras.data.loading import load
from star_keras.data.scan import SCAN_VOCABULARY, Sentences, Vocabulary, load_scan, scan_sentences
from star_keras.data.texts import load_text

__all__ = [
    "SCAN_VOCABULARY",
    "Sentences",
    "Split",
    "Vocabulary",
    "load",
    "load_scan",
    "load_text",
    "scan_sentences",
    "to_rgb",
]
