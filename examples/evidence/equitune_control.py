"""Does equitune help a Q-network, as it is and fine-tuned, in tasks with a symmetry?

Paper      Basu and others, Efficient Equivariant Transfer Learning (NeurIPS 2023), arXiv:2305.09900
Data       none: CartPole, Acrobot (gymnasium, extra `rl`) and a gridworld with obstacles
Command    python examples/evidence/equitune_control.py [--task CartPole-v1] [--minutes 20]

A network is pretrained by deep Q-learning, not to the end, and meets the task with its knowledge as it is and
shared among symmetric states by equitune (mean), equizero (greatest value) and λ-equitune, whose weights are
learned first, by as many steps as the fine-tuning has, while the network is frozen. Then all four are
fine-tuned. Every task is first asked by its own step whether it has the symmetry. Lengths of pretraining were
chosen by seed 17, so that the network still has something to learn (Acrobot: two thirds of what it nearly
needs); nothing else was chosen, and the number of seeds is what the time allowed. Every seed is a line of
results/equitune_control.jsonl; the same command goes on where it stopped and prints the tables.
"""

import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np

import star_keras as sk

control = sk.applications.control
RESULTS = pathlib.Path(__file__).parent / "results"
METHODS = {
    "pretrained": "network alone",
    "mean": "equitune",
    "argmin": "equizero",
    "lambda": "λ-equitune",
}
ACROBOT = {"learning_rate": 6.3e-4, "batch_size": 128}  # of RL Baselines3 Zoo, as are the defaults
TASKS = {
    "CartPole-v1": {"seeds": 10, "pretraining": 15_360, "tuning": 5_120, "episodes": 100},
    control.GRIDWORLD: {"seeds": 10, "pretraining": 30_720, "tuning": 5_120, "episodes": 200},
    "Acrobot-v1": {"seeds": 10, "pretraining": 10_240, "tuning": 5_120, "episodes": 50, "learner": ACROBOT},
}
SMALL = {"seeds": 2, "pretraining": 512, "tuning": 256, "episodes": 2, "learner": {"warmup": 256}}


def run(results=str(RESULTS), task="", minutes=None, smoke=False):
    plans = dict.fromkeys(["CartPole-v1", control.GRIDWORLD], SMALL) if smoke else TASKS
    plans = {task: plans[task]} if task else plans
    left, found = sk.recipes.time_left(minutes), []
    for task, plan in plans.items():
        numbers = {key: value for key, value in plan.items() if key != "seeds"}
        runs = [{"task": task, "seed": seed, **numbers} for seed in range(plan["seeds"])]
        path = sk.recipes.results_file(results, "equitune_control", smoke)
        rows = sk.recipes.sweep(returns_of_all, runs, path, minutes=left())
        if len(rows) == len(runs):
            print_table(task, rows)
        found += rows
    return found


def returns_of_all(task, seed, pretraining, tuning, episodes, learner=None):
    """Mean returns of all methods, zero-shot and fine-tuned, from one pretrained network."""
    keras.utils.set_random_seed(seed)
    symmetry = control.symmetry_of(task)
    symmetry.check(task, seed=seed)
    space = control.make(task)
    sizes = {
        "state_size": space.observation_space.shape[0],
        "num_actions": int(space.action_space.n),
    }
    network = sk.models.create("q_network", **sizes)
    settings = learner or {}
    control.DQN(**settings).train(network, task, pretraining, seed=seed)
    knowledge = network.get_weights()
    # Fine-tuning explores little and starts gently: the network knows something already.
    tuner = control.DQN(**{**settings, "learning_rate": 5e-4, "exploration": (0.1, 0.04)})

    def measured(model):
        returns = control.evaluate_returns(model, task, episodes, seed=10_000)
        return float(returns.mean())

    found = {"zero_shot": {}, "fine_tuned": {}, "equivariance_error": {}}
    for method in METHODS:
        network.set_weights(knowledge)
        model = network if method == "pretrained" else symmetry.wrap(network, method)
        if method == "lambda":
            network.trainable = False
            tuner.train(model, task, tuning, seed=seed + 1000)
            network.trainable = True
        found["zero_shot"][method] = measured(model)
        if method != "pretrained":
            states = np.random.default_rng(seed).normal(size=(100, sizes["state_size"])).astype("float32")
            found["equivariance_error"][method] = float(model.equitune.equivariance_error(states).max())
        tuner.train(model, task, tuning, seed=seed + 2000)
        found["fine_tuned"][method] = measured(model)
    return found


def print_table(task, rows):
    print(f"\n{task}: mean return ± deviation over {len(rows)} seeds\n")
    print("| method | zero-shot | fine-tuned |\n|---|---|---|")
    stages = ("zero_shot", "fine_tuned")
    scores = {(m, stage): [row[stage][m] for row in rows] for m in METHODS for stage in stages}
    for method, name in METHODS.items():
        columns = (scores[method, stage] for stage in stages)
        print(f"| {name} | {' | '.join(map(sk.recipes.mean_and_deviation, columns))} |")
    if task == control.GRIDWORLD:
        print(f"(shortest ways: {shortest(rows[0]['episodes']):.1f})")
    print()
    for stage in stages:
        for low, high in (
            ("pretrained", "mean"),
            ("pretrained", "argmin"),
            ("pretrained", "lambda"),
            ("mean", "argmin"),
            ("mean", "lambda"),
        ):
            found = sk.evaluation.paired_comparison(scores[low, stage], scores[high, stage])
            print(f"- {stage}: {METHODS[high]} above {METHODS[low]}: {found.verdict}, {found:+.1f}")
    print(f"Greatest equivariance error: {max(max(row['equivariance_error'].values()) for row in rows):.1g}")


def shortest(episodes):
    """The mean return of the shortest ways in the episodes that are measured."""
    world = control.make(control.GRIDWORLD).unwrapped
    returns = []
    for episode in range(episodes):
        world.reset(seed=10_000 + episode)
        returns.append(1 - world.distances(world.goal)[world.cell])
    return float(np.mean(returns))


if __name__ == "__main__":
    sk.recipes.command_line(run)
