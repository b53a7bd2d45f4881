"""Does the soft nearest neighbour loss help other mixtures: sparse, large ones, or of long-tailed classes?

Data       the 10,000 images of Fashion-MNIST that travel with the package
Command    python examples/evidence/moe_variants.py [--minutes 20]

None of this is in the paper. Each variant of the network of moe_collapse.py is trained without the loss and
with it, at the weight that was chosen there, on five of its seeds; with five and with 16 experts a balance
loss, at a weight settled beforehand, takes the place of the other. The network itself, of five experts, has
its runs there. With five seeds no rank test can find a difference, so there are intervals alone. Every run
is a line of results/moe_variants.jsonl; the same command goes on where it stopped and prints the table once
all runs are there.
"""

import json

import numpy as np
from moe_collapse import RESULTS, SEEDS, Experiment

import star_keras as sk

WEIGHT, IMBALANCE = 1.0, 100
BALANCE = {"load_balance": 0.01}
FIVE = "five experts"
VARIANTS = {
    "top-1": {"network": {"top_k": 1}},
    "top-2": {"network": {"top_k": 2}},
    "16 experts": {"network": {"num_experts": 16}},
    "64 experts": {"network": {"num_experts": 64}},
    "long tail": {},
    "balance loss": {"router_weights": BALANCE},
    "balance loss, 16 experts": {"network": {"num_experts": 16}, "router_weights": BALANCE},
}
# Those without the neighbour loss, and the mixture that each is compared with.
BALANCED = {"balance loss": FIVE, "balance loss, 16 experts": "16 experts"}
MEASURES = {
    "accuracy, %": ("accuracy", 100),
    "entropy of the gates": ("routing_entropy", 1),
    "of the mean gates": ("utilization_entropy", 1),
    "cosine of answers": ("expert_output_similarity", 1),
    "dead experts": ("dead_experts", 1),
}


def run(results=str(RESULTS), minutes=None, smoke=False):
    even, tail = Experiment("fashion_mnist", smoke), Experiment("fashion_mnist", smoke, IMBALANCE)

    def trained(variant, weight, seed):
        experiment = tail if variant == "long tail" else even
        return experiment("snnl" if weight else "baseline", weight, seed, "test", **VARIANTS[variant])

    variants, seeds = (("long tail",), SEEDS[:2]) if smoke else (VARIANTS, SEEDS[:5])
    runs = [
        {"variant": variant, "weight": weight, "seed": seed}
        for seed in seeds
        for variant in variants
        for weight in ((0.0,) if variant in BALANCED else (0.0, WEIGHT))
    ]
    rows = sk.recipes.sweep(trained, runs, sk.recipes.results_file(results, "moe_variants", smoke), minutes)
    if len(rows) == len(runs):
        print_table(five_experts(seeds) + rows, (FIVE, *variants))
    return rows


def five_experts(seeds):
    """The runs of moe_collapse.py on the same images, in the order of the seeds."""
    lines = (RESULTS / "moe_collapse_fashion_mnist.jsonl").read_text().splitlines()
    compared = [row for row in map(json.loads, lines) if row["method"] in ("baseline", "snnl")]
    return [
        {"variant": FIVE} | row
        for seed in seeds
        for row in compared
        if row["seed"] == seed and row["split"] == "test"
    ]


def print_table(rows, variants):
    def values(variant, weight, title):
        key, factor = MEASURES[title]
        found = [r[key] for r in rows if r["variant"] == variant and r["weight"] == weight]
        return factor * np.array(found)

    print("\n| mixture | loss | " + " | ".join(MEASURES) + " |\n|---|---|" + "---|" * len(MEASURES))
    for variant in variants:
        for weight in (0.0, WEIGHT):
            cells = [
                sk.recipes.mean_and_deviation(values(variant, weight, title), ".2f") for title in MEASURES
            ]
            if len(values(variant, weight, "dead experts")):
                print(f"| {variant} | {'with' if weight else 'without'} | " + " | ".join(cells) + " |")
    print()
    for variant in variants:
        plain, weight = (BALANCED[variant], 0.0) if variant in BALANCED else (variant, WEIGHT)
        for title in ("accuracy, %", "dead experts"):
            found = sk.evaluation.paired_comparison(values(plain, 0.0, title), values(variant, weight, title))
            loss = "neighbour" if weight else "balance"
            sure = "within" if found.verdict == "within noise" else "beyond"
            print(f"- {variant}, {title}: {found:+.2f} by the {loss} loss, {sure} noise")


if __name__ == "__main__":
    sk.recipes.command_line(run)
