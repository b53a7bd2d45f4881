"""Do models that know "jump" say "jump twice" once equitune, equizero or lambda-equitune exchanges words?

Paper      Basu and others, Efficient Equivariant Transfer Learning (NeurIPS 2023), arXiv:2305.09900
Data       scan.zip in the folder STAR_KERAS_DATA
Command    KERAS_BACKEND=jax python examples/evidence/equitune_scan.py [--minutes 60]

Encoder-decoders of 64 units learn nine tenths of the training commands of SCAN's tasks add_jump and
around_right for 20 epochs. Wrapped, zero-shot or fine-tuned for one epoch more, each says the actions of
1,000 test commands drawn by seed 0, of a kind that it has not seen. Members of an orbit meet after every
action ("step") or after whole sentences ("sentence", as in the paper's code); the group has order 2, as
there, or for add_jump also 4, all verbs with actions of their own. Nothing is chosen on test commands:
rates and epochs are the same for all methods. Trained models are kept in `--folder`. Every run is a line of
results/equitune_scan.jsonl; the same command goes on where it stopped and prints the tables of what is there.
"""

import functools
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np

import star_keras as sk

RESULTS = pathlib.Path(__file__).parent / "results"
TASKS = ("add_jump", "around_right")
METHODS = {"alone": None, "equitune": "mean", "equizero": "argmin", "λ-equitune": "lambda"}
MEET = {"alone": None, "equizero": "sentence", "equitune": "step", "λ-equitune": "step"}  # when fine-tuned
ZERO_SHOT, TUNED = "zero-shot", "fine-tuned"
EPOCHS, RATE, TUNING_RATE = 20, 3e-3, 3e-4


def run(
    results=str(RESULTS),
    folder="runs/equitune_scan",
    tasks="add_jump,around_right",
    cells="gru,lstm,rnn",
    minutes=None,
    smoke=False,
):
    experiment = Experiment(pathlib.Path(folder), smoke)
    models = [
        {"task": task, "cell": cell, "seed": seed}
        for cell in cells.split(",")
        for seed in ((0, 1, 2) if cell == "gru" and not smoke else (0,))
        for task in tasks.split(",")
    ]
    runs = [one for model in models for one in zero_shot(model, smoke)]
    runs += [one for model in models if model["cell"] == "gru" for one in trained(model, smoke)]
    path = sk.recipes.results_file(results, "equitune_scan", smoke)
    rows = sk.recipes.sweep(experiment, runs, path, minutes)
    print_table(rows)
    print_verdicts(rows)
    return rows


def zero_shot(model, smoke):
    runs = [{"stage": ZERO_SHOT, **model, "method": "alone", "combine": None, "order": 1}]
    for order in orders(model, smoke):
        for combine in ("sentence", "step"):
            for method in ("equizero", "equitune"):
                runs.append(
                    {"stage": ZERO_SHOT, **model, "method": method, "combine": combine, "order": order}
                )
    return runs


def trained(model, smoke):
    """Runs in which something learns: the score of lambda-equitune, or the model itself."""
    score = {"stage": ZERO_SHOT, **model, "method": "λ-equitune", "combine": "step"}
    runs = [{**score, "order": order} for order in orders(model, smoke)]
    for method, combine in MEET.items():
        order = 1 if method == "alone" else orders(model, smoke)[-1]
        runs.append({"stage": TUNED, **model, "method": method, "combine": combine, "order": order})
    return runs


def orders(model, smoke):
    return (2, 4) if model["task"] == "add_jump" and not smoke else (2,)


class Experiment:
    """Called with a run's arguments, it wraps a trained model and counts the commands that it obeys."""

    def __init__(self, folder, smoke):
        self.folder, self.smoke = folder, smoke
        self.epochs, self.held_out, self.tested = (1, 8, 8) if smoke else (EPOCHS, 500, 1000)

    def __call__(self, stage, task, cell, seed, method, combine, order):
        keras.utils.set_random_seed(seed)
        data = self._data(task)
        model = self._pretrained(task, cell, seed)
        if method != "alone":
            group = sk.applications.scan.task_group(task, order)
            model = sk.models.EquivariantSequenceToSequence(model, group, METHODS[method], combine)
        if method == "λ-equitune":
            model.model.trainable = False
            sk.applications.scan.train(model, data["train"], epochs=1, seed=seed)
            model.model.trainable, model.score.trainable = True, False
        if stage == TUNED:
            sk.applications.scan.train(model, data["train"], epochs=1, learning_rate=TUNING_RATE, seed=seed)
        translator = sk.applications.scan.Translator(model)
        return {
            "exact_match": translator.exact_match(data["test"]),
            "validation": translator.exact_match(data["validation"]),
        }

    @functools.lru_cache  # noqa: B019 - one experiment lives as long as the process
    def _data(self, task):
        known, test = (load(task, split, self.smoke) for split in ("train", "test"))
        rows = np.random.default_rng(0).permutation(len(known.commands))
        return {
            "train": known.pick(rows[len(rows) // 10 :]),
            "validation": known.pick(rows[: self.held_out]),
            "test": test.pick(np.random.default_rng(0).permutation(len(test.commands))[: self.tested]),
        }

    def _pretrained(self, task, cell, seed):
        """The trained model of a file, or of a training that leaves one."""
        folder = self.folder / f"{task}-{cell}-{seed}"
        if folder.is_dir():
            return sk.models.load(folder)
        model = sk.models.create(f"{cell}_seq2seq", vocabulary_size=sk.data.SCAN_VOCABULARY.size)
        train = self._data(task)["train"]
        sk.applications.scan.train(model, train, self.epochs, learning_rate=RATE, seed=seed)
        sk.models.save(model, folder)
        return model


def load(task, split, smoke):
    if not smoke:
        return sk.data.load_scan(task, split)
    found, word = sk.data.scan_sentences(), {"add_jump": "jump", "around_right": "around right"}[task]
    rows = [row for row, command in enumerate(found.commands) if (word in command) == (split == "test")]
    return found.pick(rows[:64])


def print_table(rows):
    print("\nCommands obeyed to the letter, %, mean ± deviation over seeds\n")
    print("| stage | cell | method | meet | order | add_jump | around_right |\n|---|---|---|---|---|---|---|")
    keys = ("stage", "cell", "method", "combine", "order")
    for kind in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        found = [scores(rows, task=task, **dict(zip(keys, kind, strict=True))) for task in TASKS]
        cells = [sk.recipes.mean_and_deviation(of_task, factor=100) for of_task in found]
        print(f"| {' | '.join(str(value or '–') for value in (*kind, *cells))} |")


def print_verdicts(rows):
    """The paper's orderings, and what fine-tuning adds, by bootstrap intervals over the seeds of GRU."""
    print()
    for task in TASKS:
        orderings, sizes = {}, orders({"task": task}, smoke=False)
        for combine in ("sentence", "step"):
            alone, mean = (kind(task, one, combine) for one in ("alone", "equitune"))
            orderings[f"by {combine}: equitune above the model alone"] = alone, mean
        for order in sizes:
            for method, ways in {"equizero": ("sentence", "step"), "λ-equitune": ("step",)}.items():
                for combine in ways:
                    mean, other = (kind(task, one, combine, order) for one in ("equitune", method))
                    orderings[f"by {combine}, order {order}: {method} above equitune"] = mean, other
        tuned = {one: kind(task, one, meet, sizes[-1], TUNED) for one, meet in MEET.items()}
        for one in MEET:
            orderings[f"{one}: fine-tuned above zero-shot"] = {**tuned[one], "stage": ZERO_SHOT}, tuned[one]
        orderings["fine-tuned: equizero above equitune"] = tuned["equitune"], tuned["equizero"]
        for name, (low, high) in orderings.items():
            print_verdict(rows, f"{task}, {name}", low, high)


def kind(task, method, combine, order=2, stage=ZERO_SHOT):
    """What rows of runs have in common that differ in their seed alone."""
    if method == "alone":
        combine, order = None, 1
    return dict(stage=stage, task=task, cell="gru", method=method, combine=combine, order=order)


def print_verdict(rows, name, low, high):
    """Compares two kinds of runs over the seeds that both have, where these are two or more."""
    low, high = (
        {row["seed"]: row["exact_match"] for row in rows if one.items() <= row.items()} for one in (low, high)
    )
    seeds = sorted(low.keys() & high.keys())
    if len(seeds) > 1:
        low, high = (100 * np.array([found[seed] for seed in seeds]) for found in (low, high))
        found = sk.evaluation.paired_comparison(low, high)
        print(f"- {name}: {found.verdict}, {found:+.1f} points")


def scores(rows, **kind):
    return [row["exact_match"] for row in rows if kind.items() <= row.items()]


if __name__ == "__main__":
    sk.recipes.command_line(run)
