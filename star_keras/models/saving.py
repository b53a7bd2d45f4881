"""Trained models from the zoo or a folder, and models into folders."""

import contextlib
import dataclasses
import functools
import os
import re
import secrets
import shutil
from pathlib import Path

from star_keras.exceptions import ConfigError, IntegrityError, OfflineError, PresetError, ShapeError
from star_keras.files import sync, write_text
from star_keras.models import checks, registry
from star_keras.models import weights as weight_files
from star_keras.models.classifier import Classifier
from star_keras.version import __version__

FORMAT = 1
CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.weights.h5"
REFUSED_FILES = {
    ".keras": "It holds code paths besides numbers: load it with `keras.saving.load_model` if you trust it.",
    ".pth": "PyTorch files are pickles, which run code when opened: read the tensors with "
    "`torch.load(path, weights_only=True)`, assign them to a model of `create`, and `save` that.",
    ".npz": "Read it with `numpy.load(path, allow_pickle=False)`, assign the arrays to a model of `create`, "
    "and `save` that.",
    ".pkl": "Pickles run code when opened: get the numbers in another format.",
    ".h5": "Weights come in a folder with their `config.json`; a bare file is for `model.load_weights`.",
    ".zip": "Archives are not opened: unpack it first if you trust it.",
}
REFUSED_FILES |= {
    **dict.fromkeys((".pt", ".bin", ".ckpt"), REFUSED_FILES[".pth"]),
    **dict.fromkeys((".pickle", ".joblib"), REFUSED_FILES[".pkl"]),
    **dict.fromkeys((".tar", ".gz", ".tgz"), REFUSED_FILES[".zip"]),
    ".hdf5": REFUSED_FILES[".h5"],
}
FILE_OPTIONS = {"bytes": checks.integer(1, 2**40), "sha256": checks.sha256}
TOP_OPTIONS = {
    "format": checks.integer(1, FORMAT),
    "star_keras": checks.version,
    "architecture": registry.known_architecture,
    "config": checks.plain_object,
    "weights": checks.mapping(FILE_OPTIONS, required=FILE_OPTIONS),
}
WITHOUT_WEIGHTS = {"dtype", *registry.MODEL_OPTIONS, *registry.HEAD_OPTIONS}


@dataclasses.dataclass(frozen=True)
class _Source:
    """A model that lies somewhere: what it is, and the file of its weights."""

    label: str
    architecture: str
    config: dict
    path: Path
    file: dict

    @contextlib.contextmanager
    def opened(self, weights):
        """What fills a model, or a group of it, with the weights; within, none is made that needs more."""
        if not weights:
            yield lambda model, group="": None
            return
        with self._open() as file, checks.held_by_file(weight_files.count(file)):
            yield functools.partial(weight_files.read, file)

    def _open(self):
        record = self.file["bytes"], self.file["sha256"]
        with contextlib.suppress(OfflineError, FileNotFoundError):
            return weight_files.open_file(self.path.with_name(_waiting_name(record[1])), *record)
        return weight_files.open_file(self.path, *record)

    @property
    def parts(self):
        return registry.parts(self.architecture, self.config)


def load(name_or_folder, weights=True, num_classes=None, part=None, **overrides):
    """A trained model, from the zoo or from a folder that `save` wrote.

    Nothing is executed or unpickled: a file gives numbers to an architecture of this library, and only
    after its size and SHA-256 have matched.

    Args:
        name_or_folder: name of a preset, in full ("star-resnet18.cifar10-1", the same numbers for
            ever) or bare ("star-resnet18", the best so far); or a folder, as a `pathlib.Path` or as a
            string with a separator in it ("./my-model"): a string without one is always a name.
        weights: True, or False for the same model with random weights, which touches neither disk nor
            network when a preset is named; those of a file are for `model.load_weights`.
        num_classes: for transfer, puts a new head with a float32 softmax on the backbone
            (`classifier_activation=None` for logits). With `trainable=False` the backbone is frozen and the
            head trains; `model.trainable = True` thaws it for fine-tuning.
        part: "backbone", from images to features; "classifier" with the head it was trained with;
            "pretraining", the whole pretraining model; "model", one that no head goes on, such as a
            Q-network: where they were saved. Defaults to None: the first of these that was.
        **overrides: of the configuration, such as `input_shape=(64, 64, 3)`, and `dtype`, `name`,
            `trainable`.

    Returns:
        A built model. Image models take `(batch, height, width, 3)`, uint8 or float, in [0, 255].

    Raises:
        PresetError: if no preset and no folder has this name.
        IntegrityError: if a file is damaged, of a refused kind, or not the one its record describes.
        OfflineError: if the preset's file is not on this machine.
        ConfigError: if the folder's configuration is not one of a known architecture, lacks the size and
            hash of the weights, or `weights` is neither True nor False; None is False, as in Keras.
        ShapeError: if the weights belong to another model, overrides included.
        NonFiniteError: if the weights hold NaN or infinity.
        ValueError: if `part` was not saved, or does not go with `num_classes`.

    Example:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp() + "/mine"
    >>> save(registry.create("resnet20", input_shape=(32, 32, 3)), folder)
    >>> load(folder).output_shape
    (None, 64)
    >>> load(folder, num_classes=3).output_shape
    (None, 3)
    """
    if not (weights is None or isinstance(weights, bool)):
        raise ConfigError(
            "`weights` must be True, for those that were trained, or False, for random ones. Received: "
            f"weights={checks.shorten(repr(weights))}. Those of a file go into a model that is there: "
            "`model = load(name, weights=False)`, then `model.load_weights(path)`."
        )
    source = _find(name_or_folder)
    while True:
        try:
            return _load(source, weights, num_classes, part, dict(overrides))
        except ShapeError as error:
            _blame_overrides(error, source, overrides if weights else {})
            raise
        except IntegrityError:
            before, source = source, _find(name_or_folder)
            if source == before:  # else another model took its place just now
                raise


def _blame_overrides(error, source, overrides):
    """Raises a ShapeError that names what was overridden in the configuration of the weights, if it was."""
    changed = {key: value for key, value in overrides.items() if key not in WITHOUT_WEIGHTS}
    if not changed:
        return
    config = {**source.config, **source.config.get(registry.architecture(source.architecture).backbone, {})}
    given = ", ".join(f"{key}={checks.shorten(repr(value))}" for key, value in changed.items())
    known = ", ".join(f"{key}={checks.shorten(repr(config.get(key)))}" for key in changed)
    raise ShapeError(
        f"What is overridden must fit the weights of {source.label}. Received: {given} where they belong to "
        f"{known}. Leave it out and make the images fit, or pass `weights=False` for random ones. ({error})"
    ) from error


def _load(source, weights, num_classes, part, overrides):
    if num_classes is not None and part is None and source.parts[0] != "backbone":
        raise ValueError(
            f"`num_classes` puts a new head on a backbone, and {source.label} has none, only the part "
            f"{source.parts[0]!r}. Received: num_classes={num_classes!r}. Leave it out, or take a preset "
            f"with a backbone: {', '.join(registry.with_backbone())}."
        )
    part = source.parts[0] if part is None else part
    if part not in source.parts:
        raise ValueError(
            f"`part` must be one of {', '.join(map(repr, source.parts))} for {source.label}. "
            f"Received: part={part!r}"
        )
    if num_classes is not None and part != "backbone":
        raise ValueError(
            f"`num_classes` puts a new head on the backbone and does not go with part={part!r}. "
            f"Received: num_classes={num_classes!r}. Leave one of the two out."
        )
    if part != "backbone":
        with source.opened(weights) as fill:
            model = registry.create(source.architecture, **{**source.config, **overrides})
            fill(model)
        return model
    if num_classes is None:
        return _load_backbone(source, weights, overrides)
    head = {"num_classes": num_classes, "name": "classifier"}
    head |= {key: overrides.pop(key) for key in ("classifier_activation", "name") if key in overrides}
    head = checks.validate(head, {**registry.HEAD_OPTIONS, "name": checks.identifier})
    return Classifier(_load_backbone(source, weights, overrides), **head)


def parts(name_or_folder):
    """What `load` can give of a preset or a folder, the default first.

    Args:
        name_or_folder: as in `load`.

    Returns:
        A tuple of "backbone", "classifier", "pretraining" and "model".

    Raises:
        PresetError, IntegrityError, ConfigError: as `load`.

    Example:

    >>> parts("star-resnet20")
    ('backbone', 'pretraining')
    """
    return _find(name_or_folder).parts


def save(model, folder, float16=False, overwrite=False):
    """Writes a model of `create` or `load` into a folder, from which `load` makes it again.

    Of a classifier `load(folder)` gives the backbone, for another head; `load(folder, part="classifier")`
    gives it with its own.

    The folder holds `config.json`, plain data, and `model.weights.h5`, which `model.load_weights` reads
    as well. It appears whole or not at all. The optimiser is not saved, and low-rank updates of Keras'
    `enable_lora` are added to the kernels they belong to.

    Args:
        model: a backbone, a classifier or a pretraining model of a registered architecture.
        folder: path of the folder; its parent is made if need be.
        float16: whether to store numbers with 16 bits: half the size, outputs equal to about 1e-3.
            Defaults to False.
        overwrite: whether to replace a model that is there already. Defaults to False; other files in
            the folder are never touched.

    Raises:
        FileExistsError: if the folder is not empty and `overwrite` is False.
        ConfigError: if `create` cannot make such a model.
        NonFiniteError: if a weight is NaN or infinite.
        OSError: if the folder cannot be written. It then holds, as at every moment of the replacement, the
            model that was there or the new one, whole.

    Example:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp() + "/mine"
    >>> save(registry.create("resnet20", input_shape=(32, 32, 3)), folder)
    >>> sorted(os.listdir(folder))
    ['config.json', 'model.weights.h5']
    """
    architecture, config = registry.describe(model)
    folder = Path(folder)
    if folder.exists() and not overwrite and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(
            f"`folder` must be new or empty. Received: {folder}, which is neither. Pass `overwrite=True` to "
            "replace the model in it."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.part"
    part.mkdir()
    try:
        _write(model, architecture, config, part, float16)
        if folder.is_dir():
            replace_files(part, folder)
        else:
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_files(new, folder):
    """Moves a model out of the folder `new` into another, where `load` finds one of the two at every moment.

    The weights wait under a name made of their hash, where `load` looks for those that a configuration
    names; so the configuration alone says which model is there, and it is replaced in one step.
    """
    waiting = folder / _waiting_name(weight_files.file_hash(new / WEIGHTS_NAME))
    waits_already = waiting.exists()  # and may be all there is of the model: a replacement was interrupted
    os.replace(new / WEIGHTS_NAME, waiting)
    try:
        os.replace(new / CONFIG_NAME, folder / CONFIG_NAME)
    except OSError:
        if not waits_already:
            waiting.unlink()
        raise
    os.replace(waiting, folder / WEIGHTS_NAME)
    for file in folder.iterdir():  # of those that never got so far
        if re.fullmatch(_waiting_name("[0-9a-f]{64}"), file.name):
            file.unlink(missing_ok=True)


def _waiting_name(sha256):
    return f".{sha256}.{WEIGHTS_NAME}"


def _write(model, architecture, config, folder, float16):
    path = folder / WEIGHTS_NAME
    weight_files.write(path, model, float16)
    sync(path)
    again = registry.create(architecture, dtype=model.dtype_policy, **config)
    weight_files.read(path, again)  # what is saved can be loaded
    content = {
        "format": FORMAT,
        "star_keras": __version__,
        "architecture": architecture,
        "config": config,
        "weights": {"bytes": path.stat().st_size, "sha256": weight_files.file_hash(path)},
    }
    text = checks.to_json(content)
    if len(text.encode()) > checks.MAX_BYTES:
        raise ConfigError(
            f"A configuration must have at most {checks.MAX_BYTES} bytes. Received: {len(text.encode())}; "
            "shorten its vocabulary."
        )
    write_text(folder / CONFIG_NAME, text)


def _load_backbone(source, weights, overrides):
    key = registry.architecture(source.architecture).backbone
    if key is not None:
        with source.opened(weights) as fill:
            backbone = registry.create_nested(source.config[key], **overrides)
            fill(backbone, key)
        return backbone
    config = dict(source.config)
    head = {key: config.pop(key) for key in registry.HEAD_OPTIONS if key in config}
    with source.opened(weights) as fill:
        backbone = registry.create(source.architecture, **{**config, **overrides})
        fill(Classifier(backbone, **head) if weights and head.get("num_classes") else backbone)
    return backbone


def _find(name_or_folder):
    """Where the model of a name or a folder lies; only what looks like a path is looked for on disk."""
    if isinstance(name_or_folder, os.PathLike):
        return _read_folder(os.fspath(name_or_folder))
    if isinstance(name_or_folder, str):
        if any(separator in name_or_folder for separator in ("/", os.sep)):
            return _read_folder(name_or_folder)
        _refuse_file_types(name_or_folder)
    full, record = registry.find_preset(name_or_folder)
    return _Source(
        f"the preset {full!r}",
        record["architecture"],
        record["config"],
        registry.CATALOGUE.zoo / record["weights"],
        {"bytes": record["bytes"], "sha256": record["sha256"]},
    )


def _read_folder(text):
    _refuse_file_types(text)
    folder = Path(text)
    if not os.path.isdir(text):
        raise PresetError(
            f"Expected the name of a preset or an existing folder. Received: {checks.shorten(text)!r}, "
            "which is no folder. `star_keras.models.list()` gives the names of all presets."
        )
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise IntegrityError(
            f"{folder} must hold {CONFIG_NAME} and {WEIGHTS_NAME}. Received: no {CONFIG_NAME}."
        )
    content = checks.read_json(path)
    format_ = content.get("format")
    if isinstance(format_, int) and format_ > FORMAT:
        raise ConfigError(
            f"{path} has format {format_} and needs star_keras >= "
            f"{checks.shorten(str(content.get('star_keras')))}. Received: star_keras {__version__}, "
            f"which reads formats up to {FORMAT}. Upgrade star_keras."
        )
    try:
        content = checks.validate(content, TOP_OPTIONS, required=TOP_OPTIONS)
        config = registry.architecture(content["architecture"]).check(content["config"], where="config.")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return _Source(f"{folder}", content["architecture"], config, folder / WEIGHTS_NAME, content["weights"])


def _refuse_file_types(text):
    suffix = os.path.splitext(text[-20:].strip().lower())[1]
    if suffix in REFUSED_FILES:
        raise IntegrityError(
            f"Expected a preset or a folder of `save`. Received: a {suffix} file, {checks.shorten(text)!r}. "
            f"{REFUSED_FILES[suffix]}"
        )
