"""What the runs of comparison.py show: tables, a verdict on every ordering of the paper, pictures."""

import keras
import numpy as np

import star_keras as sk

ROUTED = {f"star {n}": n for n in (2, 4, 8, 16)}
TITLES = {
    "simclr": "SimCLR",
    "equivariance": "equivariance only",
    "direct": "EquiMod-like, direct",
    "separate": "EquiMod-like, shifts",
    "shared": "STAR-SS",
    **{method: f"STAR, {n} experts" for method, n in ROUTED.items()},
}
# The paper's own method, with the experts of star-resnet20, and what both stand for its EquiMod.
STAR, HEADS = "star 8", ("separate", "direct")
# (higher, lower) in the orderings that the paper reports.
PAIRS = (
    *((STAR, lower) for lower in (*HEADS, "shared", "simclr")),
    *((heads, "simclr") for heads in HEADS),
    ("star 16", "star 2"),
)
# measure: (its name in tables, factor, digits); more is better, but of an error and of correlations.
MEASURES = {
    "probe": ("CIFAR-10, %", 100, 1),
    "transfer": ("other sets, %", 100, 1),
    "one_shot": ("one shot, %", 100, 1),
    "five_shots": ("five shots, %", 100, 1),
    "mrr": ("MRR", 1, 3),
    "error": ("prediction error", 1, 3),
    "r2": ("R² of parameters", 1, 3),
    "tasks": ("correlation of tasks", 1, 3),
    "experts": ("correlation of experts", 1, 3),
}
OWN = {
    "own_mrr": ("MRR of the own predictor", 1, 3),
    "own_error": ("its prediction error", 1, 3),
    "own_gain": ("its gain", 1, 3),
}
DETECTION = {"ap": ("AP of cells, %", 100, 1), "ap50": ("AP50", 100, 1), "ap75": ("AP75", 100, 1)}
TOLD = MEASURES | OWN | DETECTION
# Compared only where structure is the same, see comparison.py.
OF_STRUCTURE = "tasks"
LESS_IS_BETTER = ("error", "tasks", "experts", "own_error")
NEAR = 0.2


def tell(rows, detected, plan, stem, width=64):
    """Prints and draws what there is of the planned runs, those of detection in rows of their own."""
    print_table(rows, MEASURES, values)
    print_table(rows, OWN, values)
    titles = {name: (f"{name}, %", 100, 1) for name in plan["sets"]}
    print_table(rows, titles, lambda rows, method, name: [row[name] for row in values(rows, method, "sets")])
    if detected:
        print_table(detected, DETECTION, values)
    print_orderings(orderings(rows, detected), plan["seeds"])
    print_pairs(rows)
    untrained = untrained_tasks(width, plan["seeds"])
    print("\ncorrelation of tasks of random experts and routers, nothing trained, on normal features")
    for number, found in zip(ROUTED.values(), untrained, strict=True):
        print(f"- {number} experts: {sk.recipes.mean_and_deviation(found, '.3f')}")
    print(f"- falls by {-per_doubling(untrained).mean():.3f} for each doubling\n")
    spaces = neighbors(rows)
    for method, found in spaces.items():
        alike, shown = same_class(**found)
        print(f"- {TITLES[method]}: {alike} of {shown} nearest images are of the query's class")
    draw(rows, stem, untrained, spaces)


def values(rows, method, measure):
    """One value a seed, in the order of the seeds; none where the measure does not apply."""
    return [row[measure] for row in rows if row["method"] == method and measure in row]


def print_table(rows, titles, values_of):
    """Mean and deviation of every method, and what chance or no knowledge gives."""
    print("\n| | " + " | ".join(title for title, _, _ in titles.values()) + " |")
    print("|---" * (len(titles) + 1) + "|")
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = [
            sk.recipes.mean_and_deviation(values_of(rows, method, name), f".{digits}f", factor)
            for name, (_, factor, digits) in titles.items()
        ]
        print(f"| {TITLES[method]} | " + " | ".join(cells) + " |")
    floors = {name: [row["floors"][name] for row in rows if name in row.get("floors", {})] for name in titles}
    if any(floors.values()):
        cells = [
            f"{factor * np.mean(floors[name]):.{digits}f}" if floors[name] else "–"
            for name, (_, factor, digits) in titles.items()
        ]
        print("| chance | " + " | ".join(cells) + " |")


def by_seed(rows, measure, *methods):
    """Values `(methods, seeds)` of all seeds that each of the methods has."""
    found = [
        {row["seed"]: row[measure] for row in rows if row["method"] == method and measure in row}
        for method in methods
    ]
    seeds = sorted(set(found[0]).intersection(*found[1:]))
    return np.array([[one[seed] for seed in seeds] for one in found])


def gap(rows, measure, higher, lower):
    """By how much the first of two methods is better, for every seed."""
    above, below = by_seed(rows, measure, higher, lower)
    return TOLD[measure][1] * (below - above if measure in LESS_IS_BETTER else above - below)


def orderings(rows, detected):
    """The five orderings of the paper: `{ordering: {what decides it: (values above 0 if so, digits)}}`.

    Fixed before any run. Where the paper says EquiMod, heads of both kinds have to stand where it does. The
    trend over experts is the slope for each doubling of their number.
    """
    steps = {}
    for measure in ("mrr", "error"):
        steps |= chain(rows, measure, HEADS)
        for heads in HEADS:
            star, middle, simclr = by_seed(rows, measure, STAR, heads, "simclr")
            sign = -1 if measure in LESS_IS_BETTER else 1
            told = f"{TOLD[measure][0]}: the step to {TITLES[heads]} the larger one"
            steps[told] = sign * (2 * middle - star - simclr), TOLD[measure][2]
    return {
        "1. transfer: STAR above EquiMod above SimCLR": chain(rows, "transfer", HEADS),
        "2. equivariance: STAR above EquiMod above SimCLR, the second step the larger": steps,
        "3. more experts: tasks correlate less, accuracy rises": {
            "correlation of tasks falls": (-slope(rows, "tasks"), 3),
            "other sets, %, rise": (slope(rows, "transfer"), 2),
        },
        "4. routing: an expert near 1, others near 0": roles(rows),
        "5. detection: STAR above EquiMod above SimCLR": chain(detected, "ap", HEADS[:1]),
    }


def chain(rows, measure, heads):
    pairs = [pair for head in heads for pair in ((STAR, head), (head, "simclr"))]
    title, _, digits = TOLD[measure]
    return {
        f"{title}: {TITLES[higher]} above {TITLES[lower]}": (gap(rows, measure, higher, lower), digits)
        for higher, lower in pairs
    }


def slope(rows, measure):
    """Of a measure over the binary logarithm of the number of experts, for every seed."""
    found = TOLD[measure][1] * by_seed(rows, measure, *ROUTED)
    return per_doubling(found) if found.size else found[0]


def per_doubling(found):
    """Slopes of `(numbers of experts, runs)` values."""
    return np.polyfit(np.log2(list(ROUTED.values())), found, 1)[0]


def roles(rows):
    """How far inside 0.2 of 1 the most shared expert lies, and inside 0.2 of 0 the second of one task."""
    most, second = [], []
    for routing in values(rows, STAR, "routing"):
        used = np.array(routing["ratios"])[np.array(routing["roles"]) != "unused"]
        most.append(used.max() - (1 - NEAR))
        second.append(NEAR - np.sort([*used, 1.0])[1])
    return {
        f"min/max of the most shared expert above {1 - NEAR}": (np.array(most), 2),
        f"min/max of two others below {NEAR}": (np.array(second), 2),
    }


def print_orderings(found, seeds):
    """One verdict an ordering: confirmed where all that decides it is, not confirmed where any is not.

    None where a planned seed is missing in what decides it.
    """
    for ordering, deciding in found.items():
        compared = {
            told: (sk.evaluation.paired_comparison(np.zeros(len(differences)), differences), digits)
            for told, (differences, digits) in deciding.items()
            if len(differences) > 1
        }
        verdicts = {comparison.verdict for comparison, _ in compared.values()}
        weakest = next((one for one in ("not confirmed", "within noise") if one in verdicts), "confirmed")
        whole = len(seeds) > 1 and all(len(differences) == len(seeds) for differences, _ in deciding.values())
        print(f"\n{ordering}: {weakest if whole else 'not judged, runs are missing'}")
        for told, (comparison, digits) in compared.items():
            print(f"- {told}: {comparison:+.{digits}f}, n={comparison.count} seeds, {comparison.verdict}")


def print_pairs(rows):
    """Of every pair, differences in the direction that the paper reports, over seeds, and over the sets."""
    for higher, lower in PAIRS:
        print(f"\n{TITLES[higher]} beside {TITLES[lower]}")
        judged = {
            title: (gap(rows, name, higher, lower), digits, "seeds")
            for name, (title, _, digits) in MEASURES.items()
            if name != OF_STRUCTURE or {higher, lower} <= ROUTED.keys()
        }
        if by_seed(rows, "sets", higher, lower).shape[1] > 1:
            judged["other sets, %, over sets"] = gaps_of_sets(rows, higher, lower), 1, "sets"
        for title, (differences, digits, of) in judged.items():
            if len(differences) > 1:
                found = sk.evaluation.paired_comparison(np.zeros(len(differences)), differences)
                print(f"- {title}: better by {found:+.{digits}f}, n={found.count} {of}, {found.verdict}")
    for row in rows:
        if "routing" in row:
            ratios = np.sort(row["routing"]["ratios"]).round(2).tolist()
            print(f"{TITLES[row['method']]}, seed {row['seed']}: min/max of experts {ratios}")


def gaps_of_sets(rows, higher, lower):
    """By how much the first of two methods is better on each set, in the mean of the seeds."""
    pairs = by_seed(rows, "sets", higher, lower).T
    return 100 * np.array(
        [np.mean([above[name] - below[name] for above, below in pairs]) for name in pairs[0, 0]]
    )


def untrained_tasks(width, seeds):
    """Above chance, `(numbers of experts, seeds)`: how tasks correlate that no training has told apart."""

    def correlation(num_experts, seed):
        keras.utils.set_random_seed(seed)
        tasks, hidden = ("invariant", "equivariant"), (width, width)
        experts = sk.layers.RoutedExperts(128, num_experts, tasks, hidden, dtype="float32")
        features = np.random.default_rng(seed).normal(size=(2000, width)).astype("float32")
        embeddings = experts(features, training=True).values()  # with the statistics of these features
        found = sk.evaluation.canonical_correlation(*map(keras.ops.convert_to_numpy, embeddings))
        return above_chance(found.to_dict())

    return [[correlation(number, seed) for seed in seeds] for number in ROUTED.values()]


def above_chance(found):
    """0 for independent embeddings, 1 for equal spaces; between, comparable for as many directions."""
    return (found["mean"] - found["floor"]) / (1 - found["floor"])


def neighbors(rows):
    """What the two methods of one task, seed 0, take for alike."""
    first = {row["method"]: row for row in rows if row["seed"] == 0}
    return {method: first[method]["neighbors"] for method in ("simclr", "equivariance") if method in first}


def same_class(queries, indices, similarities):
    """How many neighbours have the label of their query, and how many there are."""
    labels = fashion_mnist()[1]
    alike = labels[np.array(indices)] == labels[np.array(queries)][:, None]
    return alike.sum(), alike.size


def draw(rows, stem, untrained, spaces):
    """Accuracy and correlation over experts, what two spaces take for alike, experts and who uses them."""
    runs = {method: values(rows, method, "transfer") for method in ROUTED}
    if min(map(len, runs.values())) > 1 and len(set(map(len, runs.values()))) == 1:
        save(over_experts(rows, untrained), stem, "experts")
    if len(spaces) > 1:
        save(retrieval(spaces), stem, "neighbors")
    for row in (row for row in rows if (row["method"], row["seed"]) == (STAR, 0)):
        report = sk.evaluation.RoutingReport.from_dict(row["routing"])
        save(sk.plots.routing(report), stem, "routing")
        matrices = {f"{TITLES[STAR]}, seed 0": row["expert_matrix"]}
        floor = row["raw"]["experts"][1]
        save(sk.plots.correlations(matrices, floor=floor, order=report.order), stem, "matrix")


def over_experts(rows, untrained):
    titles = {
        "transfer": "probes of other sets, %",
        "tasks": "correlation of both embeddings,\nshare above chance",
    }
    panels, marks = {}, {}
    for measure, title in titles.items():
        factor = MEASURES[measure][1]
        panels[title] = {"STAR": [factor * np.array(values(rows, method, measure)) for method in ROUTED]}
    panels[titles["tasks"]]["nothing trained"] = untrained
    others = {TITLES[name]: values(rows, name, "transfer") for name in ("simclr", "separate")}
    marks[titles["transfer"]] = {name: 100 * np.mean(found) for name, found in others.items() if found}
    return sk.plots.over_experts(panels, list(ROUTED.values()), marks)


def retrieval(found):
    images = sk.data.to_rgb(fashion_mnist()[0])
    neighbors = {
        TITLES[method]: sk.evaluation.Neighbors(np.array(one["indices"]), np.array(one["similarities"]))
        for method, one in found.items()
    }
    return sk.plots.retrieval(images[found["simclr"]["queries"]], images, neighbors)


def fashion_mnist():
    found = sk.data.load("fashion_mnist", split="test")
    return found.images, found.labels


def save(figure, stem, name):
    figure.savefig(f"{stem}_{name}.png", dpi=110)
