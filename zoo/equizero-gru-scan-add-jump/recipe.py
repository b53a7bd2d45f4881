"""equizero-gru-scan-add-jump: a translator of commands that uses "jump" in sentences it has never seen.

Paper      Basu and others, Efficient Equivariant Transfer Learning from Pretrained Models (2023), section 5
Data       scan.zip (task add_jump) in the folder STAR_KERAS_DATA
Command    KERAS_BACKEND=jax star-keras pretrain equizero-gru-scan-add-jump --folder runs/scan [--measure]

A small GRU encoder-decoder with attention learns commands among which "jump" stands by itself alone.
Equizero then reads every command with its verb exchanged by each of the four that have actions of their own,
and answers with the sentence that the network is surest of, words brought back. `--smoke` shows in a minute
that everything works, `--measure` measures the finished model on all test commands, `--publish` puts it into
the zoo, too, where its name is still free.
"""

import pathlib

import keras
import numpy as np

import star_keras as sk

TASK = "add_jump"
# All verbs with actions of their own. The paper's group exchanges "jump" and "run" alone, which leaves a
# command with both as new as it was: nearly one in four.
ORDER = 4


def run(
    folder="runs/equizero-gru-scan-add-jump",
    epochs=20,
    seed=0,
    precision="float32",
    smoke=False,
    measure=False,
    publish=False,
):
    sk.recipes.set_precision(precision)
    epochs = min(epochs, 2) if smoke else epochs
    keras.utils.set_random_seed(seed)

    # Data: a tenth of the training commands is for looking at, not for learning.
    known = sentences("train", smoke)
    rows = np.random.default_rng(0).permutation(len(known.commands))
    held_out = len(rows) // 10
    train, validation = known.pick(rows[held_out:]), known.pick(rows[: min(held_out, 500)])

    # Model: 64 units, as in the paper's code.
    network = sk.models.create("gru_seq2seq", vocabulary_size=sk.data.SCAN_VOCABULARY.size)

    # Optimiser: Adam from 3e-3 to zero along a cosine, batches of 64; 20 epochs are what two cores can bear.
    history = sk.applications.scan.train(network, train, epochs, seed=seed, verbose=2)

    group = sk.applications.scan.task_group(TASK, ORDER)
    model = sk.models.EquivariantSequenceToSequence(network, group, weighting="argmin", combine="sentence")
    model.build()
    sk.models.save(model, pathlib.Path(folder) / "model", overwrite=True)

    if measure or publish:
        test = sentences("test", smoke)
        results = measured(model, validation, test)
        results["run"] = {
            "epochs": epochs,
            "seed": seed,
            "precision": precision,
            "backend": keras.backend.backend(),
            "training_commands": len(train.commands),
            "history": history,
        }
        sk.recipes.write_results(f"{folder}/results.json", results)
        if publish:
            put_into_zoo(model, results)
    return model


def sentences(split, smoke):
    """The sentences of a split, or with `smoke` a few like them that need no file."""
    if not smoke:
        return sk.data.load_scan(TASK, split)
    found = sk.data.scan_sentences()
    rows = [row for row, command in enumerate(found.commands) if ("jump" in command) == (split == "test")]
    return found.pick(rows[:80])


def measured(model, validation, test):
    """Commands obeyed to the letter: by the model, and by the network inside it alone."""
    translators = {
        name: sk.applications.scan.Translator(one)
        for name, one in (("alone", model.model), ("equizero", model))
    }
    shares = {
        name: {"validation": one.exact_match(validation), "test": one.exact_match(test)}
        for name, one in translators.items()
    }
    print(f"Commands obeyed to the letter: {shares}")
    return {
        "accuracy": shares["equizero"]["test"],
        "test_commands": len(test.commands),
        "exact_match": shares,
    }


def put_into_zoo(model, results):
    sk.models.publish(
        model,
        "equizero-gru-scan-add-jump.scan-1",
        description="Equizero of a GRU encoder-decoder on SCAN: commands with a verb that was only ever seen "
        "alone.",
        task="sequence to sequence",
        training_data="SCAN add_jump, nine tenths of its training commands",
        license="Apache-2.0",
        results={
            "accuracy": results["accuracy"],
            "accuracy_network_alone": results["exact_match"]["alone"]["test"],
        },
    )
    sk.recipes.write_results(pathlib.Path(__file__).with_name("results.json"), results)


if __name__ == "__main__":
    sk.recipes.command_line(run)
