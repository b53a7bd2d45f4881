"""Fixtures for tests and for the examples in docstrings."""

import os
import pathlib

# Twice as fast where TensorFlow would leave it off, on processors without AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
import pytest


@pytest.fixture(scope="session")
def data_folder():
    """The folder of image sets named by STAR_KERAS_DATA."""
    folder = os.environ.get("STAR_KERAS_DATA")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("needs image sets: STAR_KERAS_DATA names no folder")
    return pathlib.Path(folder)


@pytest.fixture(autouse=True)
def numpy_in_examples(doctest_namespace):
    doctest_namespace["np"] = np


@pytest.fixture(autouse=True)
def fresh_names_and_seeds():
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
