"""Does a function that no rotation changes come easier to equitune, and does lambda-equitune fit any?

Paper      Basu and others, Efficient Equivariant Transfer Learning (NeurIPS 2023), arXiv:2305.09900, and the
           discussion of its reviews; the function is that of Finzi and others (2021), in the plane
Data       drawn by the seed: 10,000 training and 10,000 test pairs of vectors, standard normal
Command    python examples/evidence/equitune_continuous.py [--minutes 20]

    f(u, v) = sin |u| - |v|^3 / 2 + u . v / (|u| |v|)

Rotations of the plane are a continuous group; 16 of them stand for it, all in each step or four that are
drawn anew. A network of three hidden layers learns f, alone and wrapped, from nothing, for 100 epochs of
batches of 500, by Adam with a rate that falls from 5e-3 to 0. Nothing is chosen on test pairs: rates and
epochs are the same for all. Told are the mean squared error as a share of the variance of f, and how far the
answers follow rotations by any angle. Then lambda-equitune's error by the width of the network, and by what
its score is made of. Every run is a line of results/equitune_continuous.jsonl; the same command goes on where
it stopped and prints the tables of what is there.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np

import star_keras as sk

RESULTS = pathlib.Path(__file__).parent / "results"
METHODS = {
    "alone": "network alone",
    "mean": "equitune",
    "argmin": "equizero, greatest value",
    "lambda": "λ-equitune",
    "mean drawn": "equitune, 4 of 16 drawn",
    "lambda drawn": "λ-equitune, 4 of 16 drawn",
}
SCORES = {"linear": (), "one layer": (32,), "three layers": (32, 32, 32)}
PAIRS = (
    ("mean", "alone"),
    ("argmin", "mean"),
    ("lambda", "mean"),
    ("mean drawn", "mean"),
    ("lambda drawn", "lambda"),
)
USUAL = {"width": 64, "score": "one layer"}
# What is run, and with --smoke.
WHOLE = {"seeds": (0, 1, 2, 3, 4), "methods": METHODS, "widths": (8, 16, 32, 128), "scores": SCORES}
SMALL = {"seeds": (0, 1), "methods": ("alone", "mean", "lambda drawn"), "widths": (), "scores": ()}
ORDER = 16


def run(results=str(RESULTS), minutes=None, smoke=False):
    plan = SMALL if smoke else WHOLE
    settings = [{"method": method, **USUAL} for method in plan["methods"]]
    settings += [{"method": "lambda", **USUAL, "width": width} for width in plan["widths"]]
    settings += [{"method": "lambda", **USUAL, "score": score} for score in plan["scores"]]
    settings = [one for number, one in enumerate(settings) if one not in settings[:number]]
    runs = [{**setting, "seed": seed} for setting in settings for seed in plan["seeds"]]
    experiment = Experiment(count=500, epochs=2) if smoke else Experiment(count=10_000, epochs=100)
    rows = sk.recipes.sweep(
        experiment, runs, sk.recipes.results_file(results, "equitune_continuous", smoke), minutes
    )
    print_table(settings, rows)
    print_verdicts(rows)
    return rows


class Experiment:
    """Called with a run's arguments, it trains a network and measures it."""

    def __init__(self, count, epochs):
        self.count, self.epochs = count, epochs

    def __call__(self, method, width, score, seed):
        keras.utils.set_random_seed(seed)
        rng = np.random.default_rng(seed)
        pairs, test_pairs = rng.normal(size=(2, self.count, 4)).astype("float32")
        model = wrap(network(width), method, SCORES[score])
        rate = keras.optimizers.schedules.CosineDecay(5e-3, self.epochs * -(-self.count // 500))
        model.compile(keras.optimizers.Adam(rate), "mse")
        model.fit(pairs, target(pairs), batch_size=500, epochs=self.epochs, verbose=0)
        answers, wanted = model.predict(test_pairs, verbose=0), target(test_pairs)
        turned = rotated(test_pairs, rng.uniform(0, 2 * np.pi, self.count))
        moved = model.predict(turned, verbose=0) - answers
        found = {
            "error": float(np.mean((answers - wanted) ** 2) / np.var(wanted)),
            "change_when_turned": float(np.sqrt(np.mean(moved**2) / np.var(wanted))),
        }
        if method.startswith("lambda"):
            weights = np.array(model.orbit_weights(test_pairs[:500]))
            entropy = -np.sum(weights * np.log(np.maximum(weights, 1e-30)), axis=1)
            found["entropy"] = float(entropy.mean() / np.log(ORDER))
        return found


def target(pairs):
    u, v = pairs[:, :2], pairs[:, 2:]
    long, other = np.linalg.norm(u, axis=1), np.linalg.norm(v, axis=1)
    values = np.sin(long) - other**3 / 2 + np.sum(u * v, axis=1) / (long * other)
    return values[:, None].astype("float32")


def rotated(pairs, angles):
    """Both vectors of each pair turned by the pair's own angle."""
    return np.einsum("nij,nj->ni", np.stack([both(angle) for angle in angles]), pairs).astype("float32")


def both(angle):
    """The matrix that turns two vectors."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.kron(np.eye(2), [[cos, -sin], [sin, cos]])


def network(width):
    layers = [keras.layers.Dense(width, "relu") for _ in range(2)]
    layers += [keras.layers.Dense(width, "relu", name="features"), keras.layers.Dense(1)]
    inputs = outputs = keras.Input((4,))
    for layer in layers:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def wrap(model, method, hidden_units):
    if method == "alone":
        return model
    rotations = sk.groups.Linear([both(2 * np.pi * turn / ORDER) for turn in range(ORDER)])
    weighting, *drawn = method.split()
    options = {"weighting": weighting, "num_samples": 4 if drawn else None}
    if weighting == "argmin":
        options["score"] = "max_value"
    if weighting == "lambda":
        hidden = [keras.layers.Dense(units, "relu") for units in hidden_units]
        options |= {"score": keras.Sequential([*hidden, keras.layers.Dense(1)]), "features": "features"}
    return sk.layers.EquiTune(model, rotations, **options)


def print_table(settings, rows):
    print("\n| | width | score | error, % of variance | change when turned, % | entropy of λ |")
    print("|---|---|---|---|---|---|")
    for setting in settings:
        found = [row for row in rows if setting.items() <= row.items()]
        if len(found) > 1:
            cells = [
                sk.recipes.mean_and_deviation([row[name] for row in found], ".2f", 100)
                for name in ("error", "change_when_turned")
            ]
            entropy = f"{np.mean([row['entropy'] for row in found]):.2f}" if "entropy" in found[0] else "–"
            name, width, score = METHODS[setting["method"]], setting["width"], setting["score"]
            score = score if setting["method"].startswith("lambda") else "–"
            print(f"| {name} | {width} | {score} | {' | '.join(cells)} | {entropy} |")


def print_verdicts(rows):
    """Whose error is smaller, by bootstrap intervals over seeds."""
    errors = {
        method: [100 * row["error"] for row in rows if {"method": method, **USUAL}.items() <= row.items()]
        for method in METHODS
    }
    print()
    for one, other in PAIRS:
        if len(errors[one]) == len(errors[other]) > 1:
            found = sk.evaluation.paired_comparison(errors[one], errors[other])
            print(f"{METHODS[one]} errs less than {METHODS[other]}: {found.verdict}, {found:+.2f} points")
    least, most = WHOLE["widths"][0], WHOLE["widths"][-1]
    narrow, wide = (
        [100 * row["error"] for row in rows if (row["method"], row["width"]) == ("lambda", width)]
        for width in (least, most)
    )
    if len(narrow) == len(wide) > 1:
        found = sk.evaluation.paired_comparison(wide, narrow)
        print(f"width {most} errs less than width {least}: {found.verdict}, {found:+.2f} points")


if __name__ == "__main__":
    sk.recipes.command_line(run)
