"""Weights are used only after size, hash, structure and numbers have been seen to be right."""

import hashlib
import os
import pickle

import h5py
import numpy as np
import pytest
from _preset import (
    BARE,
    CONFIG,
    FULL,
    IMAGES,
    KERNEL,
    WEIGHTS,
    change_config,
    change_weights,
    replace,
    sign,
    sockets,
    watching,
    written,
)

from star_keras import models
from star_keras.exceptions import (
    ConfigError,
    IntegrityError,
    NonFiniteError,
    OfflineError,
    ShapeError,
)
from star_keras.models import publishing, registry, weights

# Files


@pytest.mark.fault(8)
@pytest.mark.parametrize("size", [0, 1, 100, "half", "all but one"])
@pytest.mark.parametrize("by", ["preset", "folder"])
def test_truncated_files_are_refused_before_they_are_opened(size, by, weights_file, monkeypatch):
    content = weights_file.read_bytes()
    size = {"half": len(content) // 2, "all but one": len(content) - 1}.get(size, size)
    weights_file.write_bytes(content[:size])

    def opened(*_, **__):
        raise AssertionError("opened")

    monkeypatch.setattr(h5py, "File", opened)
    with pytest.raises(IntegrityError, match=f"Received: {size} bytes"):
        models.load(BARE if by == "preset" else weights_file.parent)


@pytest.mark.fault(8)
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_truncated_files_with_a_right_hash_are_integrity_errors_too(share, folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(share * len(content)) or 1])
    sign(folder)
    with pytest.raises(IntegrityError, match="whole HDF5 file"):
        models.load(folder)


@pytest.mark.fault(9, 10)
@pytest.mark.parametrize("weights", [True, False])
def test_a_configuration_without_size_and_hash_of_the_weights_is_refused(weights, folder):
    change_config(folder, weights=None)
    with (
        watching() as events,
        pytest.raises(ConfigError, match=r"config\.json: The key `weights` must be there"),
    ):
        models.load(folder, weights=weights)
    assert not [event for event in events if event[1] == str(folder / WEIGHTS)]


@pytest.mark.fault(9, 10)
@pytest.mark.parametrize("by", ["preset", "folder"])
def test_one_flipped_bit_is_refused_with_both_hashes(by, weights_file, zoo):
    assert models.load(BARE)  # the hash of the good file is remembered, and must not help the bad one
    content = bytearray(weights_file.read_bytes())
    right = hashlib.sha256(content).hexdigest()
    content[len(content) // 2] ^= 1
    weights_file.write_bytes(content)
    with pytest.raises(IntegrityError, match=right[:12]) as caught:
        models.load(BARE if by == "preset" else weights_file.parent)
    assert hashlib.sha256(content).hexdigest()[:12] in str(caught.value)


def test_a_file_is_hashed_once(weights_file):
    models.load(BARE)
    with watching() as events:
        models.load(BARE)
    assert len([event for event in events if event[1] == str(weights_file)]) == 1


@pytest.mark.fault(20)
def test_loading_writes_nothing(zoo):
    before = {path: path.stat().st_mtime_ns for path in zoo.zoo.rglob("*")}
    models.load(BARE)
    with watching() as events:
        models.load(BARE, part="classifier")
        models.load(zoo.zoo / BARE)
    assert not written(events)
    assert before == {path: path.stat().st_mtime_ns for path in zoo.zoo.rglob("*")}


@pytest.mark.fault(25)
def test_loading_opens_no_socket():
    with watching() as events:
        models.load(BARE)
    assert [event for event in events if event[0] == "open"] and not sockets(events)


SHIPPED = registry.CATALOGUE


@pytest.mark.slow
@pytest.mark.fault(25)
@pytest.mark.parametrize("name", registry.list_presets())
def test_shipped_presets_are_whole_and_need_no_network(name, monkeypatch):
    monkeypatch.setattr(registry, "CATALOGUE", SHIPPED)
    with watching() as events:
        assert publishing.verify(name) <= 1e-3
    assert not sockets(events) and not written(events)


@pytest.mark.fault(26)
def test_a_missing_file_is_an_error_and_never_random_weights(zoo, weights_file):
    weights_file.unlink()
    with pytest.raises(OfflineError) as caught:
        models.load(BARE)
    record = zoo.presets[FULL]
    for fact in (WEIGHTS, str(record["bytes"]), record["sha256"], str(weights_file.parent), "weights=False"):
        assert fact in str(caught.value)
    with pytest.raises(OfflineError, match=WEIGHTS):
        models.load(weights_file.parent)
    (weights_file.parent / CONFIG).unlink()
    with pytest.raises(IntegrityError, match=CONFIG):
        models.load(weights_file.parent)


@pytest.mark.fault(38)
@pytest.mark.parametrize(
    "suffix, hint",
    [
        (".keras", "load_model"),
        (".pth", "weights_only=True"),
        (".PT", "weights_only=True"),
        (".pkl", "run code"),
        (".npz", "allow_pickle=False"),
        (".h5", "load_weights"),
        (".zip", "not opened"),
    ],
)
def test_other_file_types_are_refused_with_a_way_out(suffix, hint, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pickle.dumps(IMAGES))
    for given in (path, str(path), f"model{suffix}"):
        with watching() as events, pytest.raises(IntegrityError, match=hint):
            models.load(given)
        assert not [event for event in events if event[1] == str(path)]


@pytest.mark.fault(39)
def test_a_newer_format_says_what_it_needs_before_anything_else(folder):
    change_config(folder, format=7, star_keras="9.1.0", surprise=[1], architecture="resnet800")
    with pytest.raises(ConfigError, match=r"needs star_keras >= 9\.1\.0"):
        models.load(folder)


# What is inside a weights file


def external_link(file):
    del file[KERNEL]
    file[KERNEL] = h5py.ExternalLink("canary.h5", "/secret")


def soft_link(file):
    file["elsewhere"] = file[KERNEL][()]
    del file[KERNEL]
    file[KERNEL] = h5py.SoftLink("/elsewhere")


def external_link_of_a_parent(file):
    del file["layers/conv2d"]
    file["layers/conv2d"] = h5py.ExternalLink("canary.h5", "/conv2d")


def external_dataset(file):
    shape = file[KERNEL].shape
    del file[KERNEL]
    file.create_dataset(KERNEL, shape, "f4", external=[("canary.h5", 0, h5py.h5f.UNLIMITED)])


def virtual_dataset(file):
    layout = h5py.VirtualLayout(file[KERNEL].shape, "f4")
    layout[...] = h5py.VirtualSource("canary.h5", "secret", shape=file[KERNEL].shape)
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


def circle(file):
    file["layers/conv2d/again"] = file["layers"]


def named_type(file):
    file["layers/type"] = np.dtype("f4")


@pytest.mark.fault(33)
@pytest.mark.parametrize(
    "edit",
    [
        external_link,
        soft_link,
        external_link_of_a_parent,
        external_dataset,
        virtual_dataset,
        circle,
        named_type,
    ],
)
@pytest.mark.parametrize("reader", ["folder", "file"])
def test_what_leads_out_of_a_file_is_refused_unread(edit, reader, folder, classifier):
    canary = folder / "canary.h5"
    with h5py.File(canary, "w") as file:
        file["secret"] = np.zeros((3, 3, 3, 8), "f4")
        file["conv2d/vars/0"] = file["secret"][()]
    change_weights(folder, edit)
    os.utime(canary, ns=(10**9, 2 * 10**9))
    before = classifier.get_weights()
    with pytest.raises(IntegrityError, match="Do not trust"):
        models.load(folder) if reader == "folder" else weights.read(folder / WEIGHTS, classifier)
    assert canary.stat().st_atime_ns == 10**9
    for old, new in zip(before, classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.fault(35)
@pytest.mark.parametrize(
    "dataset",
    [
        {"dtype": h5py.string_dtype()},
        {"dtype": h5py.vlen_dtype("f4")},
        {"dtype": h5py.ref_dtype},
        {"dtype": "complex64"},
        {"dtype": "int64"},
        {"dtype": "uint8"},
        {"dtype": "bool"},
        {"dtype": "S8"},
        {"dtype": "V2"},
        {"dtype": "V8"},
        {"dtype": [("a", "f4")]},
    ],
    ids=lambda dataset: str(dataset["dtype"]),
)
def test_anything_but_floating_point_is_refused(dataset, folder, classifier):
    change_weights(folder, replace(KERNEL, shape=(3, 3, 3, 8), **dataset))
    with pytest.raises(IntegrityError, match="plain arrays of numbers"):
        weights.read(folder / WEIGHTS, classifier)


@pytest.mark.fault(35)
def test_unknown_filters_are_refused(folder):
    change_weights(
        folder, replace(KERNEL, shape=(3, 3, 3, 8), dtype="f4", chunks=(3, 3, 3, 8), compression="lzf")
    )
    with pytest.raises(IntegrityError, match="filter"):
        models.load(folder)


@pytest.mark.fault(35)
@pytest.mark.parametrize("dtype, tolerance", [("f2", 1e-3), ("bfloat16", 8e-3), (">f4", 0), ("f8", 0)])
def test_floating_point_numbers_are_converted(dtype, tolerance, folder, classifier, caplog):
    caplog.set_level("INFO", "star_keras")
    value = np.asarray(classifier.get_layer("stem_conv").kernel)
    stored = value if dtype == "bfloat16" else value.astype(dtype)
    if dtype == "bfloat16":
        stored = (value.view("<u4") >> 16).astype("<u2").view("V2")

    def edit(file):
        del file[KERNEL]
        file[KERNEL] = stored
        if dtype == "bfloat16":
            file[KERNEL].attrs["dtype"] = "bfloat16"

    change_weights(folder, edit)
    loaded = models.load(folder).get_layer("stem_conv").kernel
    np.testing.assert_allclose(np.asarray(loaded), value, rtol=tolerance, atol=0)
    assert any(KERNEL in record.getMessage() for record in caplog.records)


def rename(old, new):
    return lambda file: file.move(old, new)


def transpose(file):
    value = file["layers/dense/vars/0"][()]
    del file["layers/dense/vars/0"]
    file["layers/dense/vars/0"] = value.T


@pytest.mark.fault(36)
@pytest.mark.parametrize(
    "edit, message",
    [
        (
            rename(KERNEL, "layers/conv2d/vars/9"),
            "conv2d/vars/0 is missing; layers/conv2d/vars/9 is left over",
        ),
        (lambda file: file.create_dataset("layers/more/vars/0", data=1.0), "more/vars/0 is left over"),
        (transpose, r"dense/vars/0 has shape \(10, 32\) instead of \(32, 10\)"),
        (replace(KERNEL, shape=(3, 3, 3, 9), dtype="f4"), r"\(3, 3, 3, 9\) instead of \(3, 3, 3, 8\)"),
        (replace(KERNEL, shape=(3, 3, 24), dtype="f4"), "instead of"),
        (replace(KERNEL, dtype=h5py.Empty("f4").dtype, shape=None), "shape None"),
    ],
    ids=["renamed", "extra", "transposed", "off by one", "other rank", "empty"],
)
def test_variables_that_do_not_fit_are_listed_and_nothing_is_assigned(edit, message, folder, classifier):
    change_weights(folder, edit)
    before = classifier.get_weights()
    with pytest.raises(ShapeError, match=message):
        weights.read(folder / WEIGHTS, classifier)
    for old, new in zip(before, classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.fault(37)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_broken_numbers_are_refused_by_name_and_nothing_is_assigned(value, folder, classifier):
    def edit(file):
        broken = file["layers/dense/vars/0"][()]
        broken[3, 4] = value
        file["layers/dense/vars/0"][...] = broken

    change_weights(folder, edit)
    before = classifier.get_weights()
    with pytest.raises(NonFiniteError, match="layers/dense/vars/0"):
        weights.read(folder / WEIGHTS, classifier)
    with pytest.raises(NonFiniteError, match="layers/dense/vars/0"):
        models.load(folder)
    for old, new in zip(before, classifier.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.fault(37)
def test_numbers_that_overflow_their_variable_are_refused(folder):
    change_weights(folder, replace(KERNEL, data=np.full((3, 3, 3, 8), 1e300)))
    with pytest.raises(NonFiniteError, match=KERNEL):
        models.load(folder)
