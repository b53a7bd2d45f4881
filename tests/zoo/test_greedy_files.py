"""Small files that ask for much memory are refused before they get it."""

import json
import zlib

import h5py
import numpy as np
import pytest
from _preset import CONFIG, KERNEL, WEIGHTS, change_weights, memory_growth, replace, sign

from star_keras import models
from star_keras.exceptions import ConfigError, IntegrityError, ShapeError
from star_keras.models import registry, resnet

KERNEL_SHAPE = (3, 3, 3, 8)


def test_what_is_measured_is_not_hidden_by_what_was_freed_before():
    np.ones(2**25)
    with memory_growth() as growth:
        np.ones(2**24)
    assert 120 < growth.mb < 140


# Weights


@pytest.mark.fault(34)
@pytest.mark.parametrize(
    "dataset",
    [
        {"shape": (2**26, 2**27), "dtype": "f4", "chunks": (1024, 1024)},
        {"shape": (10**10,), "dtype": "f4", "chunks": (2**20,)},
        {"shape": (2**25,), "dtype": "f4", "chunks": (2**20,), "compression": "gzip", "fillvalue": 1.0},
    ],
    ids=["32 PB", "40 GB", "compressed"],
)
def test_declared_sizes_are_compared_before_anything_is_read(dataset, folder):
    change_weights(folder, replace(KERNEL, **dataset))
    with memory_growth() as growth, pytest.raises(ShapeError, match="instead of"):
        models.load(folder)
    assert growth.mb < 50


def chunk_beyond_the_array(file):
    del file[KERNEL]
    chunks, maxshape = (3, 3, 512, 8192), (3, 3, None, None)
    kernel = file.create_dataset(
        KERNEL, KERNEL_SHAPE, "f4", maxshape=maxshape, chunks=chunks, compression="gzip"
    )
    kernel[:] = 1


def packed(file, data, **options):
    del file[KERNEL]
    kernel = file.create_dataset(KERNEL, KERNEL_SHAPE, "f4", chunks=KERNEL_SHAPE, compression="gzip")
    kernel.id.write_direct_chunk((0, 0, 0, 0), data, **options)


def chunk_that_goes_on(file):
    packing = zlib.compressobj(9)
    packed(file, b"".join(packing.compress(bytes(2**20)) for _ in range(256)) + packing.flush())


def chunk_that_ends_early(file):
    packed(file, zlib.compress(bytes(100)))


def chunk_that_is_not_packed(file):
    packed(file, bytes(4 * np.prod(KERNEL_SHAPE)), filter_mask=1)


def packed_twice(file):
    del file[KERNEL]
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(KERNEL_SHAPE)
    plist.set_deflate(9)
    plist.set_deflate(9)
    space = h5py.h5s.create_simple(KERNEL_SHAPE)
    h5py.h5d.create(file.id, KERNEL.encode(), h5py.h5t.IEEE_F32LE, space, plist)
    file[KERNEL][:] = 1


@pytest.mark.fault(34)
@pytest.mark.parametrize(
    "edit, message",
    [
        (chunk_beyond_the_array, r"chunks of shape \(3, 3, 512, 8192\) for an array of shape \(3, 3, 3, 8\)"),
        (chunk_that_goes_on, "does not unpack to its 864 bytes"),
        (chunk_that_ends_early, "does not unpack to its 864 bytes"),
        (chunk_that_is_not_packed, "does not unpack to its 864 bytes"),
        (packed_twice, "or twice by one"),
    ],
)
def test_chunks_unpack_to_the_array_and_no_further(edit, message, folder):
    change_weights(folder, edit)
    with memory_growth() as growth, pytest.raises(IntegrityError, match=message):
        models.load(folder)
    assert growth.mb < 50


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("fletcher32", [False, True])
def test_what_is_packed_in_parts_as_hdf5_does_it_is_read(shuffle, fletcher32, folder, classifier):
    kernel = np.asarray(classifier.get_layer("stem_conv").kernel)
    options = {"maxshape": (3, 3, None, None), "chunks": (2, 3, 3, 5), "compression": "gzip"}
    change_weights(folder, replace(KERNEL, data=kernel, shuffle=shuffle, fletcher32=fletcher32, **options))
    np.testing.assert_array_equal(np.asarray(models.load(folder).get_layer("stem_conv").kernel), kernel)


# Configurations

BACKBONE = {"architecture": "resnet20", "input_shape": [32, 32, 3]}
NETWORK = {"architecture": "q_network", "state_size": 4, "num_actions": 2, "hidden_units": [4096]}
SEQ2SEQ = {"vocabulary_size": 65_536, "units": 1024}
# {architecture: (a configuration of 400 MB or more, what takes it beyond the bound)}
GREEDY = {
    "moe_cnn": ({"num_classes": 10, "code_units": 16_384}, {"code_units": 65_536}),
    "gpt": ({"vocabulary_size": 1_000_000}, {"units": 4096}),
    "q_network": (
        {"state_size": 65_536, "num_actions": 2, "hidden_units": [2048]},
        {"hidden_units": [4096]},
    ),
    "gru_seq2seq": (SEQ2SEQ, {"units": 4096}),
    "lstm_seq2seq": (SEQ2SEQ, {"units": 4096}),
    "rnn_seq2seq": (SEQ2SEQ, {"units": 4096}),
    "star": (
        {
            "backbone": BACKBONE,
            "projector": {"units": 8192, "num_experts": 2, "hidden_units": [8192]},
            "predictor": {"hidden_units": []},
        },
        {"predictor": {"hidden_units": [65_536]}},
    ),
    "lambda_equitune": (
        {"backbone": BACKBONE, "num_classes": 10, "hidden_units": [8192, 16_384]},
        {"hidden_units": [65_536, 65_536]},
    ),
    "dual_encoder": (
        {
            "backbone": BACKBONE,
            "vocabulary": [f"w{i}" for i in range(30_000)],
            "word_units": 4096,
            "embedding_units": 4096,
        },
        {"vocabulary": [f"w{i}" for i in range(65_536)]},
    ),
    "equitune_q_network": (
        {
            "network": NETWORK,
            "states": np.stack([np.eye(4), -np.eye(4)]).tolist(),
            "actions": [[0, 1], [1, 0]],
            "weighting": "lambda",
            "score_units": [32_768],
        },
        {"score_units": [65_536, 65_536]},
    ),
    "equivariant_seq2seq": (
        {"model": {"architecture": "gru_seq2seq", "vocabulary_size": 6, "units": 2048}, "rings": [[3, 4]]},
        {"model": {"architecture": "gru_seq2seq", "vocabulary_size": 6, "units": 4096}},
    ),
}
# Networks of a fixed size: only their heads can be large, and each is below the bound.
HEADS = {name: {"num_classes": 100_000} for name in resnet.VARIANTS}
EVERY = {**{name: config for name, (config, _) in GREEDY.items()}, **HEADS}


def load_last_part(folder):
    return models.load(folder, part=models.parts(folder)[-1])


def write_config(folder, name):
    content = {"format": 1, "star_keras": "0.1.0", "architecture": name, "config": EVERY[name]}
    (folder / CONFIG).write_text(json.dumps(content))
    sign(folder)


def test_every_architecture_is_among_the_greedy_ones():
    assert set(registry._architectures) == {*EVERY, "resnet8"}


@pytest.mark.fault(31)
@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_built_before_the_weights_are_seen_to_be_a_file_of_weights(name, tmp_path, monkeypatch):
    def build(*_, **__):
        raise AssertionError("built")

    (tmp_path / WEIGHTS).write_bytes(b"x")
    write_config(tmp_path, name)
    monkeypatch.setattr(registry, "create", build)
    with pytest.raises(IntegrityError, match="whole HDF5 file"):
        load_last_part(tmp_path)


@pytest.mark.fault(31, 34)
@pytest.mark.parametrize("name", [*GREEDY, "resnet50"])
def test_no_model_is_built_that_a_small_file_cannot_fill(name, tmp_path):
    with h5py.File(tmp_path / WEIGHTS, "w") as file:
        file.create_dataset("all", (2**40,), "f4")  # of which nothing is stored
    write_config(tmp_path, name)
    with memory_growth() as growth, pytest.raises(ShapeError, match="must hold the [0-9]{8,9} that"):
        load_last_part(tmp_path)
    assert growth.mb < 200


@pytest.mark.fault(31)
@pytest.mark.parametrize("name", GREEDY)
def test_what_no_model_needs_is_refused_before_it_is_allocated(name):
    config, beyond = GREEDY[name]
    with memory_growth() as growth, pytest.raises(ConfigError, match="may come to"):
        models.create(name, **{**config, **beyond})
    assert growth.mb < 200
