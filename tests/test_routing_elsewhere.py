"""Laws of routing that arithmetic could break on one backend alone, on the two others."""

from pathlib import Path

import pytest
from _elsewhere import assert_laws_hold

FILES = [str(Path(__file__).parent / f"test_{name}.py") for name in ("gates", "metrics", "routing_monitor")]
LAWS = "in_float64 or finite_gradient or no_gate or nan or broken or deep or without_input or of_any_type"


@pytest.mark.slow
@pytest.mark.fault(49)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_gates_metrics_and_monitor_obey_their_laws_on_other_backends(backend):
    assert_laws_hold(backend, FILES, LAWS)
