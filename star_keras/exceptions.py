"""The errors a user of the zoo can meet, one class for each kind of cause."""


class PresetError(KeyError):
    """No preset and no folder of that name exists; the message lists the closest names."""

    def __str__(self):
        return str(self.args[0]) if self.args else ""


class DownloadError(OSError):
    """A file could not be brought to this machine: for versions that fetch files. This one fetches none."""


class IntegrityError(OSError):
    """A file is not the one its record describes: size, hash or type differ."""


class OfflineError(OSError):
    """A file is needed, is not on this machine, and fetching it was forbidden."""


class ConfigError(ValueError):
    """A configuration names something unknown, has the wrong type or is out of bounds."""


class ShapeError(ValueError):
    """An array, an image or a weight does not have the shape it must have."""


class NonFiniteError(FloatingPointError):
    """NaN or infinity where only finite numbers may be."""


class ResumeError(RuntimeError):
    """A checkpoint does not belong to the run that tries to go on from it."""
