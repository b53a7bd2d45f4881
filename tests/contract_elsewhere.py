"""The contract on one backend: loads what `test_contract.py` saved and writes what it computes.

KERAS_BACKEND=jax python tests/contract_elsewhere.py FOLDER
"""

import sys
import traceback
from pathlib import Path

import keras
import numpy as np
from contract import exists
from contract_cases import CASES


def main(folder):
    """Computes every saved case on this backend."""
    results = gather(lambda identity, one: answer(identity, one, folder))
    np.savez(folder / f"{keras.backend.backend()}.npz", **results)


def gather(compute):
    """Results of all cases; what fails leaves its traceback instead, and the others go on."""
    results = {}
    for identity, one in CASES.items():
        if exists(one.path):
            try:
                results |= compute(identity, one)
            except Exception:
                results[f"{identity}/error"] = np.array(traceback.format_exc())
    return results


def answer(identity, one, folder):
    """Outputs with the saved weights, and the weights after one step from there."""
    results = {}
    if one.kind not in ("layer", "model"):
        record(results, f"{identity}/computed", one.run(one.make(), *one.arrays()))
        return results
    loaded = keras.saving.load_model(folder / f"{identity}.keras")
    record(results, f"{identity}/loaded", loaded(one.model_inputs(), training=False))
    rebuilt = one.model()
    rebuilt.load_weights(folder / f"{identity}.weights.h5")
    record(results, f"{identity}/rebuilt", rebuilt(one.model_inputs(), training=False))
    if one.same_everywhere and rebuilt.trainable_variables:
        one.train_one_step(rebuilt)
        record(results, f"{identity}/trained", list(rebuilt.weights))
    return results


def record(results, key, structure):
    """Keeps the tensors of a structure under numbered keys, in the order of Keras."""
    for index, tensor in enumerate(keras.tree.flatten(structure)):
        results[f"{key}/{index}"] = keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
