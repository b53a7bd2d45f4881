"""Text and control on one backend: what saved models generate, earn and learn.

KERAS_BACKEND=jax python tests/applications_elsewhere.py FOLDER
"""

import sys
from pathlib import Path

import keras
import numpy as np
from _language import RANKS, TEXTS, TOKENIZER, about, equizero

import star_keras as sk
from star_keras.applications import control, language


def answers(folder):
    """Arrays by name, of the models `gpt` and `network` in a folder."""
    gpt, network = (sk.models.load(folder / name) for name in ("gpt", "network"))
    (stop,) = language.token_ids(["was"], TOKENIZER)
    fair = language.EquiLM(gpt, RANKS)
    found = {
        "alone": language.generate(gpt, TEXTS, 4, seed=1),
        "fair": language.generate(fair, TEXTS, 4, stop=stop),
        "kind": equizero(model=gpt).generate(about("king", "duke"), 4, stop=stop),
        "variation": language.total_variation(gpt, RANKS, TEXTS),
    }
    model = control.symmetry_of("CartPole-v1").wrap(network)
    found["returns"] = control.evaluate_returns(model, "CartPole-v1", 3)
    learner = control.DQN(warmup=128, steps_per_epoch=128, updates_per_epoch=4, exploration=(1.0, 1.0))
    found["loss"] = learner.train(model, "CartPole-v1", 256)["loss"]
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    np.savez(folder / f"{keras.backend.backend()}.npz", **answers(folder))
