"""Texts, returns and what is learned are the same on every backend."""

from pathlib import Path

import numpy as np
import pytest
from _control import q_network
from _elsewhere import run_elsewhere
from _language import small_gpt
from applications_elsewhere import answers

import star_keras as sk


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """A folder of models, and what they answer here."""
    folder = tmp_path_factory.mktemp("applications")
    for name, model in (("gpt", small_gpt()), ("network", q_network(hidden_units=(8,)))):
        sk.models.save(model, folder / name)
    return folder, answers(folder)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_say_earn_and_learn_the_same(backend, expected):
    folder, ours = expected
    run_elsewhere(Path(__file__).with_name("applications_elsewhere.py"), folder, backend=backend)
    theirs = dict(np.load(folder / f"{backend}.npz"))
    assert theirs.keys() == ours.keys()
    for name, values in ours.items():
        np.testing.assert_allclose(theirs[name], values, rtol=1e-3, atol=1e-5, err_msg=name)
    assert len(ours["loss"]) == 2 and np.ptp(ours["alone"]) > 0
