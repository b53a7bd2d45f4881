"""Plain JSON descriptions of models: read with suspicion, every value checked before anything is built."""

import contextlib
import contextvars
import itertools
import json
import math
import numbers
import re
from pathlib import Path

import keras

from star_keras.exceptions import ConfigError, ShapeError
from star_keras.guards.arguments import narrow_policy

MAX_BYTES = 1_000_000
MAX_DEPTH = 12
MAX_WEIGHTS = 2**28

_held = contextvars.ContextVar("held", default=math.inf)


def read_json(path):
    """The object in a JSON file of at most 1 MB, without duplicated keys, NaN or infinity.

    Args:
        path: of the file.

    Returns:
        A dict.

    Raises:
        ConfigError: if the file is anything else.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ConfigError(f"{path} must have at most {MAX_BYTES} bytes. Received: {size} bytes.")
    try:
        content = json.loads(
            path.read_bytes().decode("utf-8"),
            object_pairs_hook=_distinct_keys,
            parse_constant=_finite,
            parse_float=_finite,
        )
        depth = _depth(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not plain JSON. Received: {str(error)[:200]}") from None
    if not isinstance(content, dict) or depth > MAX_DEPTH:
        raise ConfigError(
            f"{path} must hold a JSON object nested at most {MAX_DEPTH} deep. Received: a "
            f"{type(content).__name__} nested {depth} deep. `star_keras.models.save` writes such an object."
        )
    return content


def to_json(content):
    """A dict as readable JSON, each list of numbers on one line."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    lines = re.sub(r'\[\n([^][{}"]*)\n *\]', lambda match: f"[{' '.join(match[1].split())}]", text)
    return lines + "\n"


def _distinct_keys(pairs):
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ConfigError(
            f"Each key must be given once. Received: `{shorten(twice)}` more than once; keep one of them."
        )
    return result


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise ConfigError(f"Numbers must be finite. Received: {shorten(text)}")
    return value


def _depth(content):
    if isinstance(content, dict):
        content = list(content.values())
    return 1 + max(map(_depth, content), default=0) if isinstance(content, list) else 0


def bound_weights(*stacks, most=MAX_WEIGHTS):
    """Refuses dense layers that come to too much together, before anything is allocated.

    Each width has a bound of its own.

    Args:
        *stacks: `(copies, widths)` of layers, one behind the other.
        most: number of weights. Defaults to 2**28.

    Raises:
        ConfigError: if there are more.
        ShapeError: if there are more than the file holds that the model is made for; see `held_by_file`.
    """
    weights = sum(copies * a * b for copies, widths in stacks for a, b in itertools.pairwise(widths))
    if weights > most:
        raise ConfigError(f"All layers may come to {most} weights. Received: {weights}. Make them smaller.")
    if weights > _held.get():
        raise ShapeError(
            f"A file of weights must hold the {weights} that its configuration asks for at least. Received: "
            f"a file that holds at most {_held.get()}. It belongs to another architecture or configuration."
        )


@contextlib.contextmanager
def held_by_file(weights):
    """Within, no model is made that needs more weights than the file has that it is made for."""
    token = _held.set(weights)
    try:
        yield
    finally:
        _held.reset(token)


def validate(config, options, required=(), where=""):
    """Checks every entry of a configuration.

    Args:
        config: a dict.
        options: `{key: check}`, where `check(key, value)` returns the value in its plain form or
            raises `ConfigError`; made by `integer`, `number`, `choice` and their neighbours.
        required: keys that must be there.
        where: said in front of each key in messages.

    Returns:
        A dict of the checked values.

    Raises:
        ConfigError: for an unknown or missing key, or a wrong value.

    Example:

    >>> validate({"width": 8}, {"width": integer(1, 64)})
    {'width': 8}
    """
    unknown = [key for key in config if key not in options]
    if unknown:
        raise ConfigError(
            f"Keys must be some of {', '.join(sorted(options))}. Received: `{where}{shorten(unknown[0])}`; "
            "correct it or leave it out."
        )
    checked = {key: options[key](where + key, value) for key, value in config.items()}
    missing = [key for key in required if key not in config]
    if missing:
        raise ConfigError(
            f"The key `{where}{missing[0]}` must be there. Received: "
            f"{', '.join(sorted(config)) or 'no keys'}; add it."
        )
    return checked


def integer(low, high):
    """A check for integers from `low` to `high`; booleans and strings are none."""

    def check(key, value):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not low <= value <= high:
            raise wrong(key, f"an integer from {low} to {high}", value)
        return int(value)

    return check


def number(low, high):
    """A check for finite numbers from `low` to `high`."""

    def check(key, value):
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not low <= value <= high:
            raise wrong(key, f"a number from {low} to {high}", value)
        return float(value)

    return check


def boolean(key, value):
    """The check for true and false."""
    if not isinstance(value, bool):
        raise wrong(key, "true or false", value)
    return value


def choice(*names):
    """A check for one of a few words; None may be among them."""

    def check(key, value):
        if not (value is None or isinstance(value, str)) or value not in names:
            raise wrong(key, f"one of {', '.join(map(repr, names))}", value)
        return value

    return check


def identifier(key, value):
    """The check for names: a letter, then at most 63 letters, digits, dots, dashes and underscores."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", value):
        raise wrong(key, "a name of at most 64 letters, digits, '_', '-' and '.', the first a letter", value)
    return value


def version(key, value):
    """The check for versions of star_keras, such as "0.1.0"."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Za-z.+-]{1,40}", value):
        raise wrong(key, "a version such as '0.1.0'", value)
    return value


def sha256(key, value):
    """The check for SHA-256 sums in hexadecimal."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise wrong(key, "64 hexadecimal digits", value)
    return value


def optional(check_value):
    """A check for what another check takes, or None."""

    def check(key, value):
        return None if value is None else check_value(key, value)

    return check


def sequence(check_item, low, high):
    """A check for lists and tuples of `low` to `high` items."""

    def check(key, value):
        if not isinstance(value, (list, tuple)) or not low <= len(value) <= high:
            raise wrong(
                key, f"a list of {low} to {high} items" if low < high else f"a list of {low} items", value
            )
        return [check_item(f"{key}[{index}]", item) for index, item in enumerate(value)]

    return check


def widths(key, value):
    """The check for the widths of up to 16 layers, each from 1 to 65536."""
    return sequence(integer(1, 65_536), 0, 16)(key, value)


def plain_object(key, value):
    """The check for dicts whose entries are checked elsewhere."""
    if not isinstance(value, dict):
        raise wrong(key, "an object", value)
    return value


def mapping(options, required=()):
    """A check for dicts with known keys."""

    def check(key, value):
        return validate(plain_object(key, value), options, required, where=f"{key}.")

    return check


def image_shape(key, value):
    """The check for `(height, width, 3)`, sides from 1 to 4096 pixels or None for any."""
    side = optional(integer(1, 4096))
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise wrong(key, "(height, width, 3)", value)
    if isinstance(value[2], bool) or not isinstance(value[2], numbers.Integral) or value[2] != 3:
        hint = "The last number is that of the channels red, green and blue"
        if value[2] == 1:
            hint = "`star_keras.data.to_rgb` makes colour images of grey ones"
        elif value[0] == 3:
            hint = "Images have channels last: `np.moveaxis(images, 1, -1)`"
        raise ConfigError(f"{wrong(key, '(height, width, 3)', value)}. {hint}.")
    return [side(f"{key}[0]", value[0]), side(f"{key}[1]", value[1]), 3]


def float_policy(dtype=None):
    """The dtype policy of a model, or of the global setting for None.

    Raises:
        ConfigError: unless it keeps variables in float32 or float64 and is not quantised.
    """
    policy = keras.dtype_policies.get(keras.config.dtype_policy() if dtype is None else dtype)
    if policy.quantization_mode is not None or policy.variable_dtype not in ("float32", "float64"):
        raise narrow_policy("a model", policy)
    return policy


def plain(value):
    """A value as JSON has it: of a tuple a list."""
    return list(value) if isinstance(value, tuple) else value


def shorten(value):
    """At most 80 characters of a value, for messages."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def wrong(key, expected, value):
    """The error of a value that is not what it must be."""
    return ConfigError(f"`{key}` must be {expected}. Received: {shorten(value)} ({type(value).__name__})")
