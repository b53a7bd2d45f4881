"""Architectures and presets by name: what can be built, and what has been trained."""

import copy
import dataclasses
import difflib
import fnmatch
import string
import warnings
from collections.abc import Callable
from pathlib import Path

from star_keras.exceptions import ConfigError, PresetError
from star_keras.models import checks, weights
from star_keras.models.classifier import Classifier

HEAD_OPTIONS = {
    "num_classes": checks.optional(checks.integer(1, 100_000)),
    "classifier_activation": checks.choice("softmax", "sigmoid", None),
}
MODEL_OPTIONS = {"name": checks.identifier, "trainable": checks.boolean}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """How models of one name are built and described; see `register`."""

    build: Callable
    describe: Callable
    options: dict
    required: tuple = ()
    backbone: str | None = None
    whole: bool = False

    def check(self, config, where=""):
        """The checked configuration, or a `ConfigError`."""
        wraps_head = not (self.backbone or self.whole or "num_classes" in self.options)
        options = {**self.options, **HEAD_OPTIONS} if wraps_head else self.options
        config = checks.validate(config, options, self.required, where)
        if "classifier_activation" in config and config.get("num_classes") is None:
            raise ConfigError(
                f"`{where}classifier_activation` needs `num_classes`, the number of classes. Received: "
                f"classifier_activation={config['classifier_activation']!r} alone; pass both or leave it out."
            )
        return config


_architectures = {}


def register(name, build, describe, options, required=(), backbone=None, whole=False):
    """Makes an architecture known to `create`, `save` and `load`.

    Only registered architectures are ever built from a file, and only with configurations that pass
    their checks: nothing in a file can name code.

    Args:
        name: of the architecture.
        build: function `(dtype=None, name=None, **config) -> built model`.
        describe: function of any model: the plain configuration with which `build` makes it again,
            or None for a model of another architecture.
        options: `{key: check}` of the configuration; see `star_keras.models.checks.validate`.
        required: keys that a configuration must have.
        backbone: for a model around a backbone, the key of the backbone's configuration, which is
            also the model's attribute and its group in a weights file.
        whole: whether models are used as they are: no head goes on, and `load` calls them "model".

    Raises:
        ValueError: if the name is taken by something else.
    """
    new = Architecture(build, describe, options, tuple(required), backbone, whole)
    if _architectures.setdefault(name, new) != new:
        raise ValueError(f"The architecture names must differ. Received: {name!r}, which is taken.")


def architecture(name, or_preset=False):
    """The registered architecture of a name.

    Args:
        name: of the architecture.
        or_preset: whether the error says so where a preset has that name.

    Raises:
        ConfigError: if there is none.
    """
    if isinstance(name, str) and name in _architectures:
        return _architectures[name]
    error = checks.wrong("architecture", f"one of {', '.join(sorted(_architectures))}", name)
    if or_preset and isinstance(name, str) and name in {*CATALOGUE.presets, *CATALOGUE.aliases}:
        raise ConfigError(f"{error}. That is a preset: `star_keras.models.load({name!r})`.")
    raise error


def known_architecture(key, value):
    """The check for names of registered architectures."""
    architecture(value)
    return value


def create(architecture_name, /, *, dtype=None, name=None, trainable=True, **config):
    """A new model with random weights.

    Args:
        architecture_name: "resnet18", "resnet34", "resnet50", or the narrow "resnet20", "resnet32",
            "resnet56" of CIFAR; "moe_cnn", a small classifier that is a mixture of experts;
            "lambda_equitune", a classifier with one answer for all quarter turns; "star", a whole
            pretraining model; "dual_encoder", of images and texts; "gpt", a language model;
            "gru_seq2seq", "lstm_seq2seq" or "rnn_seq2seq", from tokens to tokens; "q_network", the values
            of actions in a state; "equivariant_seq2seq" or "equitune_q_network", one of these made
            equivariant.
        dtype: a dtype or dtype policy of floating-point numbers. Defaults to the global one.
        name: of the model. Defaults to the architecture's.
        trainable: whether the weights are trained, those of a head among them; `load` freezes the
            backbone alone where it puts a new head on it. Defaults to True.
        **config: of the architecture, such as `input_shape=(32, 32, 3)`; see `ResNet`, `MoECNN` and
            others. With `num_classes` a backbone becomes a `Classifier` that ends in a float32 softmax, or
            in logits with `classifier_activation=None`.

    Returns:
        A model from images in [0, 255] to features, or to probabilities; "gpt" from token ids to logits,
        "q_network" from states to values.

    Raises:
        ConfigError: if the architecture or an option is unknown, of the wrong type or out of bounds;
            before anything is allocated.
        ShapeError: if the images are too small for the architecture.

    Example:

    >>> create("resnet20", input_shape=(32, 32, 3)).output_shape
    (None, 64)
    >>> create("resnet20", input_shape=(32, 32, 3), num_classes=10).output_shape
    (None, 10)
    """
    chosen = architecture(architecture_name, or_preset=True)
    config = chosen.check(config)
    extra = checks.validate({"name": name or architecture_name, "trainable": trainable}, MODEL_OPTIONS)
    policy = checks.float_policy(dtype)
    head = {key: config.pop(key) for key in HEAD_OPTIONS if key in config and key not in chosen.options}
    if head.get("num_classes") is None:
        model = chosen.build(dtype=policy, name=extra["name"], **config)
    else:
        model = Classifier(chosen.build(dtype=policy, **config), name=extra["name"], **head)
    if not trainable:
        model.trainable = False
    return model


def describe(model):
    """`(architecture, config)` with which `create` makes a model like this one.

    Raises:
        ConfigError: if the model is not one that `create` makes.
    """
    if isinstance(model, Classifier):
        name, config = describe(model.backbone)
        return name, {**config, **{key: getattr(model, key) for key in HEAD_OPTIONS}}
    for name, candidate in _architectures.items():
        config = candidate.describe(model)
        if config is not None:
            return name, candidate.check(config)
    raise ConfigError(
        f"The model must be of a registered architecture: {', '.join(sorted(_architectures))}. "
        f"Received: {checks.shorten(repr(model))}. Save other models with `model.save`."
    )


def create_nested(config, **overrides):
    """The model that lies inside another, from its configuration as `nested` checks it; see `create`."""
    config = dict(config)
    name = config.pop("architecture")
    return create(name, **{**config, **overrides})


def describe_nested(model):
    """The configuration with which `create_nested` makes a model like this one."""
    name, config = describe(model)
    return {"architecture": name, **config}


def nested(key, value):
    """The check for the configuration of a model inside another: `architecture` and its own options."""
    if not isinstance(value, dict):
        raise checks.wrong(key, "an object with an `architecture`", value)
    config = dict(value)
    name = config.pop("architecture", None)
    return {"architecture": name, **architecture(name).check(config, where=f"{key}.")}


def nested_backbone(key, value):
    """The check for the configuration of a backbone inside another model."""
    config = nested(key, value)
    kinds = parts(config["architecture"], config)
    if kinds[0] != "backbone" or "pretraining" in kinds or config.get("num_classes"):
        raise checks.wrong(key, "the configuration of a backbone, without `num_classes`", value)
    return config


def nested_in(*architectures):
    """A check for the configuration of a model inside another, of one of a few architectures."""

    def check(key, value):
        config = nested(key, value)
        name = config["architecture"]
        if name not in architectures:
            raise checks.wrong(f"{key}.architecture", f"one of {', '.join(architectures)}", name)
        return config

    return check


def with_backbone():
    """Bare names of the presets that have a backbone, on which a new head can go."""
    records = {name: CATALOGUE.presets[full] for name, full in CATALOGUE.aliases.items()}
    return sorted(
        name
        for name, record in records.items()
        if not record.get("withdrawn") and "backbone" in parts(record["architecture"], record["config"])
    )


def parts(name, config):
    """What `load` can make of a saved model of this architecture and configuration, the default first."""
    entry = architecture(name)
    if entry.whole:
        return ("model",)
    if entry.backbone is not None:
        return ("backbone", "pretraining")
    if "num_classes" in entry.options:
        return ("classifier",)
    return ("backbone", "classifier") if config.get("num_classes") else ("backbone",)


@dataclasses.dataclass
class Catalogue:
    """The records of all presets, the file they are kept in, and the folder of their weights."""

    file: Path
    zoo: Path
    presets: dict
    aliases: dict
    renamed: dict

    @classmethod
    def read(cls, file, zoo):
        content = checks.read_json(file)
        return cls(Path(file), Path(zoo), content["presets"], content["aliases"], content["renamed"])


CATALOGUE = Catalogue.read(Path(__file__).with_name("presets.json"), weights.zoo_folder())


def list_presets(pattern="*"):
    """Full names of the presets that can be loaded, sorted.

    Args:
        pattern: shell-style, such as "star-*", matched with full names and with the bare names that
            stand for them.

    Example:

    >>> list_presets("no-such-method-*")
    []
    """
    names = {name: [name] for name, record in CATALOGUE.presets.items() if not record.get("withdrawn")}
    for bare, full in CATALOGUE.aliases.items():
        if full in names:
            names[full].append(bare)
    return sorted(full for full, known in names.items() if fnmatch.filter(known, pattern))


def info(name):
    """What is known about a preset.

    Args:
        name: full or bare name.

    Returns:
        A dict: `name` in full, `description`, `architecture`, `config`, `task`, `data`, `parts` that
        `load` can give, `license`, `results`, `weights` (path in the zoo), `bytes`, `sha256`,
        `format`, `embeddings` of the fixed images, and `withdrawn`.

    Raises:
        PresetError: if there is no such preset.
        TypeError: if the name is not a string.
    """
    full, record = find_preset(name, withdrawn=True)
    return {"name": full, **copy.deepcopy(record)}


def find_preset(name, withdrawn=False):
    """`(full name, record)` of a preset; capitals and space around the name do not matter.

    Raises:
        PresetError: if there is no such preset, or it was withdrawn and `withdrawn` is False.
        TypeError: if the name is not a string.
    """
    if not isinstance(name, str):
        raise TypeError(
            "A preset's name must be a string, and a folder a string with a separator or a `pathlib.Path`. "
            f"Received: {checks.shorten(repr(name))} ({type(name).__name__})"
        )
    plain = name.strip(string.whitespace)
    plain = plain.lower() if plain.isascii() else plain
    if plain in CATALOGUE.renamed:
        new = CATALOGUE.renamed[plain]
        warnings.warn(f"The preset {plain!r} is now called {new!r}.", DeprecationWarning, stacklevel=3)
        plain = new
    full = CATALOGUE.aliases.get(plain, plain)
    if full not in CATALOGUE.presets:
        raise PresetError(_unknown(name))
    record = CATALOGUE.presets[full]
    if record.get("withdrawn") and not withdrawn:
        raise PresetError(
            f"The preset {full!r} was withdrawn in star_keras {record['withdrawn']['since']}: "
            f"{record['withdrawn']['reason']} Received: {name!r}; use another one of "
            "`star_keras.models.list()`."
        )
    return full, record


def _unknown(name):
    full = [full for full in CATALOGUE.presets if "." in name or full not in CATALOGUE.aliases.values()]
    known = full if "." in name else [*full, *CATALOGUE.aliases]
    close = difflib.get_close_matches(name[:80].lower(), known, n=3, cutoff=0)
    hint = f"The closest names are {', '.join(close)}. " if close else ""
    if "/" in name:
        hint = "A folder is for `star_keras.models.load`. "
    if name in _architectures:
        hint = f"That is an architecture: `star_keras.models.create({name!r}, ...)`. {hint}"
    return (
        f"Expected the name of a preset, or in `load` a folder with a separator in its path. Received: "
        f"{checks.shorten(repr(name))}. {hint}`star_keras.models.list()` gives all names."
    )
