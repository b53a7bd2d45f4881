"""The Python of the README runs from top to bottom as a reader would run it, only smaller."""

import pathlib
import re

import numpy as np
import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
# What stands there, and what is run: less of everything, and no network.
SMALLER = {
    "batch_size=256": "batch_size=8",
    "fit(rgb, train.labels)": "fit(rgb[:16], train.labels[:16])",
    "epochs=200": "epochs=1",
    "num_experts=16": "num_experts=2",
    "hidden_units=(512, 512)": "hidden_units=(8,)",
    'zero_shot.from_keras_hub("clip_vit_base_patch32")': (
        'sk.models.create("dual_encoder", vocabulary=["a", "photo", "of", "church", "golf", "ball"],'
        ' backbone={"architecture": "resnet20", "input_shape": [32, 32, 3]})'
    ),
    "steps=50_000": "steps=1_280",
    'language.load_gpt2("gpt2_base_en")': "small_language_model(sk, language)",
    "length=15, top_k=40": "length=3, top_k=4",
    'sk.data.load_scan("add_jump")': "sk.data.Sentences(*(texts[:96] for texts in sk.data.scan_sentences()))",
    "epochs=20)": "epochs=1)",
}
WORDS = ["man", "woman", "father", "mother", "the", "worked", "as", "a", "kind", "doctor"]


def small_language_model(sk, language):
    tokenizer = language.WordTokenizer(WORDS)
    return sk.models.create(
        "gpt", vocabulary_size=tokenizer.size, max_length=32, units=8, num_layers=1, num_heads=2
    ), tokenizer


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    for written, smaller in SMALLER.items():
        assert written in code, f"The README no longer says {written}."
        code = code.replace(written, smaller)
    rng = np.random.default_rng(0)
    given = {
        "images": rng.integers(0, 256, (16, 32, 32, 3), dtype="uint8"),
        "labels": rng.integers(0, 10, 16),
        "small_language_model": small_language_model,
    }
    exec(compile(code, "README.md", "exec"), given)
    assert given["features"].shape == (16, 512)
    assert (tmp_path / "routing.png").stat().st_size
    turned = np.rot90(given["images"], axes=(1, 2))
    np.testing.assert_allclose(given["robust"](turned), given["robust"](given["images"]), atol=1e-3)
