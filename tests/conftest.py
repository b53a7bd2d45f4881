"""Fixtures for tests of every folder, which may import the helpers that stand beside this file."""

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def data_folder():
    """The folder of image sets named by STAR_KERAS_DATA."""
    folder = os.environ.get("STAR_KERAS_DATA")
    if not folder or not pathlib.Path(folder).is_dir():
        pytest.skip("needs image sets: STAR_KERAS_DATA names no folder")
    return pathlib.Path(folder)
