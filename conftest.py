"""Fixtures for tests and for the examples in docstrings."""

import os

# Twice as fast where TensorFlow would leave it off, on processors without AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def numpy_in_examples(doctest_namespace):
    doctest_namespace["np"] = np


@pytest.fixture(autouse=True)
def fresh_keras():
    """Names, seeds and settings are for each test as they are for the first."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
