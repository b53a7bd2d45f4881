"""Do equizero's proxies, the scores that pick the best member of an orbit, travel between applications?

Paper      Basu and others, Efficient Equivariant Transfer Learning (NeurIPS 2023), arXiv:2305.09900
Data       cifar10_test1k, imagenette224_small and scan.zip in the folder STAR_KERAS_DATA; tasks of
           gymnasium (extra `rl`)
Command    python examples/evidence/equitune_proxies.py [--minutes 20]

The paper takes a proxy of its own for each application. Here three of them meet in five applications: least
entropy, greatest confidence (both of a softmax, also where a model does not mean its numbers so, as a
Q-network) and greatest value (of a logit, an action, a similarity). Nothing is fine-tuned or chosen here:

- images: resnet20.cifar10-1 on the first 1,000 test images of CIFAR-10, each turned by random quarter turns,
  in ten parts
- zero-shot: the dual encoders of equitune_zero_shot.py, five seeds, on turned images of Imagenette
- commands: the network inside equizero-gru-scan-add-jump.scan-1 on all test commands of SCAN's add_jump, in
  ten parts; four verbs change places, and whole sentences are compared, by the mean over their actions
- CartPole, gridworld: ten networks each, pretrained by deep Q-learning as in equitune_control.py, not to the
  end; mean returns of the same episodes

Intervals are of networks in the last two and zero-shot, and of one network's test rows in the others. Most
of these test rows had been seen by the scripts of their applications, which changed nothing here. With two
actions and a mirror, the member that is surest acts as the mean does: in CartPole, entropy and confidence
come to equitune. Every part or seed is a line of results/equitune_proxies.jsonl, with all methods; the same
command goes on where it stopped and prints the tables once all are there.
"""

import functools
import itertools
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import equitune_control
import equitune_zero_shot
import keras
import numpy as np
from measuring import FROZEN, predict, share

import star_keras as sk

control = sk.applications.control
RESULTS = pathlib.Path(__file__).parent / "results"
TURNS = sk.groups.Cyclic(4)
PROXIES = {"entropy": "entropy", "confidence": "confidence", "max_value": "max value"}
NAMES = {
    "pretrained": "network alone",
    "equitune": "equitune (mean)",
    **{proxy: f"equizero, {name}" for proxy, name in PROXIES.items()},
}
TASKS = {"CartPole": "CartPole-v1", "gridworld": control.GRIDWORLD}
# How many parts or seeds, and with --smoke: without encoders, whose training is tried with their own script.
WHOLE = {"images": 10, "zero-shot": 5, "commands": 10, "CartPole": 10, "gridworld": 10}
SMALL = {"images": 2, "commands": 2, "CartPole": 2, "gridworld": 2}


def run(results=str(RESULTS), folder="runs/equitune_zero_shot", minutes=None, smoke=False):
    plan = SMALL if smoke else WHOLE
    experiment = Experiment(pathlib.Path(folder), plan, smoke)
    runs = [{"application": name, "part": part} for name, count in plan.items() for part in range(count)]
    path = sk.recipes.results_file(results, "equitune_proxies", smoke)
    rows = sk.recipes.sweep(experiment, runs, path, minutes)
    if len(rows) == len(runs):
        scores = by_application(rows)
        print_table(scores)
        print_verdicts(scores)
        print_travel(scores)
    return rows


class Experiment:
    """Called with a run's arguments, it measures all methods on a part of an application."""

    def __init__(self, folder, plan, smoke):
        self.folder, self.plan, self.smoke = folder, plan, smoke

    def __call__(self, application, part):
        keras.utils.set_random_seed(part)
        if application in TASKS:
            return self._returns(TASKS[application], part)
        measure = {"images": self._images, "zero-shot": self._zero_shot, "commands": self._commands}
        return {method: measure[application](method, part) for method in NAMES}

    def _images(self, method, part):
        images, labels = (array[part :: self.plan["images"]] for array in self._test_images())
        turned = equitune_zero_shot.move(TURNS, images, part)
        return share(predict(self._classifier(method), turned), labels)

    @functools.lru_cache  # noqa: B019 - one experiment lives as long as the process
    def _test_images(self):
        if self.smoke:
            found = sk.data.load("fashion_mnist", split="test")
            return sk.data.to_rgb(found.images[:40], 32), found.labels[:40]
        return sk.data.load("cifar10_test1k")[:2]

    @functools.lru_cache  # noqa: B019
    def _classifier(self, method):
        logits = sk.models.load("resnet20.cifar10-1", part="classifier", classifier_activation=None)
        return wrap(method, logits, TURNS)

    def _zero_shot(self, method, seed):
        found = self._encoders()(FROZEN, method, None, "quarter turns", seed, "test")
        return found["moved"]

    @functools.lru_cache  # noqa: B019
    def _encoders(self):
        return equitune_zero_shot.Experiment(self.folder, smoke=False)

    def _commands(self, method, part):
        sentences = self._test_commands()
        rows = np.random.default_rng(0).permutation(len(sentences.commands))[part :: self.plan["commands"]]
        return self._translator(method).exact_match(sentences.pick(rows), batch_size=len(rows))

    @functools.lru_cache  # noqa: B019
    def _test_commands(self):
        if not self.smoke:
            return sk.data.load_scan("add_jump", "test")
        found = sk.data.scan_sentences()
        return found.pick([row for row, command in enumerate(found.commands) if "jump" in command][:32])

    @functools.lru_cache  # noqa: B019
    def _translator(self, method):
        preset = sk.models.load("equizero-gru-scan-add-jump.scan-1")
        network, group = preset.model, preset.group
        if method == "pretrained":
            return sk.applications.scan.Translator(network)
        options = {} if method == "equitune" else {"weighting": "argmin", "proxy": method}
        wrapped = sk.models.EquivariantSequenceToSequence(network, group, combine="sentence", **options)
        return sk.applications.scan.Translator(wrapped)

    def _returns(self, task, seed):
        """Mean returns of all methods, from one network of this seed."""
        plan = equitune_control.SMALL if self.smoke else equitune_control.TASKS[task]
        symmetry = control.symmetry_of(task)
        symmetry.check(task, seed=seed)
        numbers, actions = len(symmetry.states.matrices[0]), symmetry.actions.rows.shape[1]
        network = sk.models.create("q_network", state_size=numbers, num_actions=actions)
        control.DQN(**plan.get("learner", {})).train(network, task, plan["pretraining"], seed=seed)
        found = {}
        for method in NAMES:
            states = keras.Input(network.input_shape[1:])
            values = wrap(method, network, symmetry.states, symmetry.actions)(states)
            model = keras.Model(states, values)
            returns = control.evaluate_returns(model, task, plan["episodes"], seed=10_000)
            found[method] = float(returns.mean())
        return found


def wrap(method, network, group, output_group=None):
    if method == "pretrained":
        return network
    options = {} if method == "equitune" else {"weighting": "argmin", "score": method}
    return sk.layers.EquiTune(network, group, output_group, **options)


def by_application(rows):
    """Scores of each application and method, part by part: returns, of others shares in %."""
    scores = {}
    for row in rows:
        of_all = scores.setdefault(row["application"], {method: [] for method in NAMES})
        for method, values in of_all.items():
            values.append(row[method] if row["application"] in TASKS else 100 * row[method])
    return {
        name: {method: np.array(values) for method, values in of_all.items()}
        for name, of_all in scores.items()
    }


def ranks(scores):
    """Of the proxies in an application, 1 for the best; equals share the better one."""
    means = {proxy: scores[proxy].mean() for proxy in PROXIES}
    return {proxy: 1 + sum(other > mean for other in means.values()) for proxy, mean in means.items()}


def print_table(scores):
    print("\nRight answers in %, or mean returns ± deviation over parts or seeds; in brackets the rank\n")
    print(f"| method | {' | '.join(scores)} |")
    print("|---" * (len(scores) + 1) + "|")
    for method, name in NAMES.items():
        cells = []
        for of_all in scores.values():
            rank = f" ({ranks(of_all)[method]})" if method in PROXIES else ""
            cells.append(sk.recipes.mean_and_deviation(of_all[method]) + rank)
        print(f"| {name} | {' | '.join(cells)} |")


def print_verdicts(scores):
    """Which method is above which, by bootstrap intervals over parts or seeds."""
    pairs = [("equitune", "pretrained")]
    pairs += [(proxy, low) for proxy in PROXIES for low in ("pretrained", "equitune")]
    pairs += itertools.combinations(PROXIES, 2)
    for name, of_all in scores.items():
        print(f"\n{name}:")
        for high, low in pairs:
            found = sk.evaluation.paired_comparison(of_all[low], of_all[high])
            print(f"- {NAMES[high]} above {NAMES[low]}: {found.verdict}, {found:+.1f}")


def print_travel(scores):
    """How far the best proxy of each application falls behind the best of the others."""
    first = {name: [p for p, rank in ranks(of_all).items() if rank == 1] for name, of_all in scores.items()}
    print(
        "\nThe best proxy of an application in the others: its distance to the best one there. Which is best"
    )
    print("is seen on the same rows: a lead within noise is none\n")
    print(f"| best in | proxy | {' | '.join(scores)} |")
    print("|---" * (len(scores) + 2) + "|")
    for home, proxy in ((home, proxy) for home, best in first.items() for proxy in best):
        cells = [distance(of_all, proxy, first[name]) for name, of_all in scores.items()]
        print(f"| {home} | {PROXIES[proxy]} | {' | '.join(cells)} |")
    print()
    for home, best in first.items():
        for proxy in best:
            count = sum(proxy in first[name] for name in scores if name != home)
            print(f"- {PROXIES[proxy]}, best in {home}: best in {count} of {len(scores) - 1} others")
    everywhere = [PROXIES[proxy] for proxy in PROXIES if all(proxy in best for best in first.values())]
    print(f"- best everywhere: {', '.join(everywhere) or 'none'}")


def distance(scores, proxy, best):
    if proxy in best:
        return "best"
    found = sk.evaluation.paired_comparison(scores[best[0]], scores[proxy])
    return f"{'behind' if found.high < 0 else 'within noise'}, {found:+.1f}"


if __name__ == "__main__":
    sk.recipes.command_line(run)
