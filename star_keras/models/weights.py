"""Weight files: found, verified, checked against the model, and only then assigned.

A file is HDF5 in the layout of Keras's `.weights.h5`, so that `model.load_weights` reads it too. What
is in a file is a stranger's word until its hash matches, and no variable of a model changes before
every variable of the file has been found to fit.
"""

import contextlib
import functools
import hashlib
import logging
import math
import os
import re
import zlib
from pathlib import Path

import h5py
import keras
import numpy as np

from star_keras.exceptions import ConfigError, IntegrityError, NonFiniteError, OfflineError, ShapeError

LOGGER = logging.getLogger("star_keras")
MAX_OBJECTS = 100_000
MAX_DEPTH = 32
MAX_PACKING = 1032  # deflate makes nothing smaller than this
HARMLESS_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
BFLOAT16 = np.dtype("V2")  # HDF5 has no such number; Keras stores the two bytes

_hashes = {}


def zoo_folder():
    """The folder of the shipped weights: `zoo/` of a checkout, else the one inside the package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    return (checkout if (checkout / "pyproject.toml").is_file() else package) / "zoo"


def open_file(path, size, sha256):
    """A file of weights, open for `count` and `read`: what was checked is read, whatever takes its place.

    Args:
        path: of the file.
        size, sha256: that it must have; hashes are remembered.

    Raises:
        OfflineError: if there is no such file.
        IntegrityError: if the file is another one than `size` and `sha256` describe.
    """
    path = Path(path)
    if not path.is_file():
        raise OfflineError(
            f"{path.name} of {size} bytes with SHA-256 {sha256} must be in {path.parent}. Received: no such "
            "file, and this version fetches none. Put it there, reinstall star_keras, or pass "
            "`weights=False` for a model with random weights."
        )
    file = open(path, "rb")
    try:
        _check_record(file, path, size, sha256)
    except BaseException:
        file.close()
        raise
    return file


def _check_record(file, path, size, sha256):
    found = os.fstat(file.fileno()).st_size
    if found != size:
        raise IntegrityError(
            f"{path} must have {size} bytes. Received: {found} bytes, a truncated or different file. "
            "Restore the file it was."
        )
    found = _hash(file)
    if found != sha256:
        raise IntegrityError(
            f"{path} must have the SHA-256 {sha256[:12]}... Received: {found[:12]}..., a damaged or "
            "different file. Restore the file it was."
        )


def file_hash(path):
    """The SHA-256 of a file in hexadecimal, computed once for each state of the file."""
    with open(path, "rb") as file:
        return _hash(file)


def _hash(file):
    status = os.fstat(file.fileno())
    path = Path(file.name).resolve()
    key = (path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key not in _hashes:
        _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[key]


def write(path, model, float16=False):
    """Writes the weights of a built model into a new file, without optimiser and metrics.

    Args:
        path: of the file, which must not exist yet.
        model: a built model.
        float16: whether numbers are stored with 16 bits, half the size, wherever they all fit.

    Raises:
        ConfigError: if the model was quantised.
        NonFiniteError: if a variable holds NaN or infinity.
    """
    variables = {name: _to_numpy(value) for name, value in _variables(model).items()}
    quantised = [name for name, value in variables.items() if value.dtype == "int8"]
    if quantised:
        raise ConfigError(
            f"Weights must be floating-point numbers. Received: integers at {quantised[0]!r}; save the model "
            "before `quantize`, and quantise what is loaded."
        )
    _refuse_non_finite(variables)
    with h5py.File(path, "x") as file:
        for name, value in variables.items():
            if float16 and value.dtype.kind == "f" and np.all(np.abs(value) <= np.finfo("float16").max):
                value = value.astype("float16")
                # Half precision leaves so few patterns that packing saves another sixth.
                packed = {"compression": "gzip", "shuffle": True} if value.size > 1024 else {}
                file.create_dataset(name, data=value, chunks=value.shape if packed else None, **packed)
            else:
                file.create_dataset(name, data=value)


def count(file):
    """How many numbers a file of `open_file` holds at most, by its own word and by its size.

    Raises:
        IntegrityError: as `read`.
    """
    with _datasets(file) as (found, _):
        numbers = sum(data.size or 0 for data in found.values())
    return min(numbers, MAX_PACKING * os.fstat(file.fileno()).st_size)


def read(file, model, group=""):
    """Assigns the weights in a file to a built model: all of them, or none and an error.

    Args:
        file: path of a file in the layout of `.weights.h5`, or one of `open_file`.
        model: a built model.
        group: the part of the file that belongs to the model, such as "backbone". Defaults to the
            whole file.

    Raises:
        IntegrityError: if the file is no HDF5 file, or holds links, external or virtual data, or
            anything but numbers.
        ShapeError: if a variable is missing, left over or has another shape.
        NonFiniteError: if a number is NaN or infinite.
    """
    expected = _variables(model)
    with _datasets(file) as (found, path):
        if group:
            found = {
                name.removeprefix(f"{group}/"): data
                for name, data in found.items()
                if name.startswith(f"{group}/")
            }
        _compare(path, expected, found)
        for name in expected:
            _check_packing(found[name], path, name)
        values = {name: _numbers(found[name], value.dtype) for name, value in expected.items()}
    _refuse_non_finite(values, path)
    _assign(model, values)


@contextlib.contextmanager
def _datasets(file):
    """`({name: dataset}, path)` of a path or an open file; whatever HDF5 trips over is an IntegrityError."""
    by_name = isinstance(file, str | os.PathLike)
    path = file if by_name else file.name
    try:
        # A file object rather than a name: HDF5 then takes no lock and writes nothing.
        with open(path, "rb") if by_name else contextlib.nullcontext(file) as raw:
            with h5py.File(raw, "r") as tree:
                yield _walk(tree, path), path
    except (IntegrityError, ShapeError):
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, zlib.error) as error:
        raise IntegrityError(
            f"{path} must be a whole HDF5 file of weights. Received: {str(error)[:200]}. Restore the file."
        ) from error


def _walk(file, path):
    """All datasets of a file by name; refuses, before anything is read, what could lead out of the file."""
    datasets, seen = {}, set()

    def visit(group, prefix, depth):
        for name in group:
            full_name = prefix + name
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _refused(path, full_name, "a soft or external link")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if depth > MAX_DEPTH or len(seen) > MAX_OBJECTS or address in seen:
                raise _refused(path, full_name, "a group that is nested too deep, too large or linked twice")
            seen.add(address)
            if isinstance(item, h5py.Group):
                visit(item, full_name + "/", depth + 1)
            else:
                _check_storage(item, path, full_name)
                datasets[full_name] = item

    visit(file, "", 0)
    return datasets


def _check_storage(item, path, name):
    if not isinstance(item, h5py.Dataset):
        raise _refused(path, name, "neither a group nor a dataset")
    if item.is_virtual or item.external:
        raise _refused(path, name, "data kept in another file")
    filters = _filters(item)
    if any(code not in HARMLESS_FILTERS for code in filters) or len(set(filters)) < len(filters):
        raise _refused(path, name, "data packed by an unknown filter, or twice by one")
    if item.chunks and item.size and np.any(np.greater(item.chunks, item.shape)):
        raise _refused(path, name, f"chunks of shape {item.chunks} for an array of shape {item.shape}")
    if not (item.dtype.kind in "fiu" or _is_bfloat16(item)):
        raise _refused(path, name, f"values of type {item.dtype}")


def _filters(item):
    plist = item.id.get_create_plist()
    return [plist.get_filter(number)[0] for number in range(plist.get_nfilters())]


def _check_packing(item, path, name):
    """Unpacks each chunk as far as it may go: HDF5 would follow it to its end, whatever the memory."""
    if h5py.h5z.FILTER_DEFLATE not in _filters(item):
        return
    size, chunks = math.prod(item.chunks) * item.dtype.itemsize, []
    item.id.chunk_iter(chunks.append)
    for chunk in chunks:
        unfiltered, packed = item.id.read_direct_chunk(chunk.chunk_offset)
        if unfiltered or len(zlib.decompressobj().decompress(packed, size + 1)) != size:
            raise _refused(path, name, f"a chunk that does not unpack to its {size} bytes")


def _refused(path, name, what):
    return IntegrityError(
        f"{path} must hold plain arrays of numbers. Received: {what} at {name[:80]!r}. "
        "Do not trust this file."
    )


def _is_bfloat16(item):
    return item.dtype == BFLOAT16 and item.attrs.get("dtype") == "bfloat16"


def _compare(path, expected, found):
    problems = []
    for name, value in expected.items():
        if name not in found:
            problems.append(f"{name} is missing")
            continue
        shape, dtype = tuple(value.shape), keras.backend.standardize_dtype(value.dtype)
        item = found[name]
        if item.shape != shape:
            problems.append(f"{name} has shape {item.shape} instead of {shape}")
        elif "float" in dtype and not (item.dtype.kind == "f" or _is_bfloat16(item)):
            raise _refused(path, name, f"values of type {item.dtype}")
        elif "float" not in dtype and item.dtype != np.dtype(dtype):
            raise _refused(path, name, f"values of type {item.dtype}")
    problems += [f"{name} is left over" for name in found if name not in expected]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ShapeError(
            f"{path} must hold the {len(expected)} variables of the model. Received: "
            f"{'; '.join(problems[:5])}{more}. The file belongs to another architecture or configuration; "
            "the model is unchanged."
        )


def _numbers(item, dtype):
    """The values of a dataset in the type of their variable, bfloat16 ones in float32."""
    if _is_bfloat16(item):
        values = (item[()].view("<u2").astype("uint32") << 16).view("float32")
    else:
        values = item[()]
    own = keras.backend.standardize_dtype(dtype)
    own = np.dtype("float32" if own == "bfloat16" else own)
    if item.dtype != own:
        LOGGER.info("%s is converted from %s to %s", item.name, item.dtype, own)
    with np.errstate(over="ignore"):  # what overflows is named afterwards
        return values.astype(own, copy=False)


def _refuse_non_finite(values, path="The model"):
    bad = [name for name, value in values.items() if value.dtype.kind == "f" and not np.isfinite(value).all()]
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise NonFiniteError(
            f"{path} must hold finite numbers. Received: NaN or infinity in {', '.join(bad[:5])}{more}. "
            "Go back to weights from before the numbers broke."
        )


def _to_numpy(value):
    value = keras.ops.convert_to_numpy(value.value if isinstance(value, keras.Variable) else value)
    return value if value.dtype.kind in "fiu" else value.astype("float32")


def _assign(model, values):
    for path, layer in _layers(model):
        prefix = f"{path}/vars/" if path else "vars/"
        names = [name for name in values if name.startswith(prefix) and "/" not in name.removeprefix(prefix)]
        store = {name.removeprefix(prefix): values[name] for name in names}
        if store:
            layer.load_own_variables(store)


def _variables(model):
    """`{name in the file: variable}` of a built model."""
    variables = {}
    for path, layer in _layers(model):
        store = {}
        layer.save_own_variables(store)
        variables |= {f"{path}/vars/{key}" if path else f"vars/{key}": value for key, value in store.items()}
    return variables


def _layers(model):
    """`(path, layer)` of a model and all layers in it, each once, under the paths Keras gives them.

    Keras names a layer after the attribute that holds it and, in a list or dict, after its class;
    attributes go in alphabetical order, private ones last, `layers` of a functional model first.
    """
    plain = set(dir(keras.layers.Layer()))
    functional = _functional_class()
    seen = set()

    def visit(path, child, containers=()):
        if isinstance(child, keras.layers.Layer):
            if id(child) not in seen:
                seen.add(id(child))
                yield path, child
                for name, value in attributes(child):
                    yield from visit(f"{path}/{name}" if path else name, value)
        elif isinstance(child, (list, tuple, dict)) and id(child) not in containers:
            names = {}
            for item in child.values() if isinstance(child, dict) else child:
                if isinstance(item, keras.layers.Layer):
                    name = _snake_case(type(item).__name__)
                elif isinstance(item, (list, tuple, dict)):
                    name = "container"
                else:
                    continue
                names[name] = names.get(name, -1) + 1
                unique = f"{name}_{names[name]}" if names[name] else name
                yield from visit(f"{path}/{unique}", item, (*containers, id(child)))

    def attributes(layer):
        if isinstance(layer, (functional, keras.Sequential)):
            yield "layers", layer.layers
        names = [name for name in dir(layer) if name not in plain and not name.startswith("__")]
        for name in sorted(names, key=lambda name: (name.startswith("_"), name)):
            try:
                yield name, getattr(layer, name)
            except Exception:  # a property that cannot be read yet holds no layer
                continue

    yield from visit("", model)


@functools.cache
def _functional_class():
    """The class of models made from inputs and outputs, which has no public name."""
    return type(keras.Model(inputs := keras.Input((1,)), inputs))


def _snake_case(name):
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
