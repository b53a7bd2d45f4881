"""An agent that has only ever walked to goals on its right, and reaches goals on every side.

A Q-network learns to walk among pillars to goals in the right quarter of a square. The square looks the same
after a quarter turn, which its own `step` confirms, so the network is made equivariant: by equizero, which
takes the most hopeful of four turns, as it is; and by equitune, their mean, which learns a little more from
the same goals on the right. The picture shows the share of episodes that reach the goal, by the cell in which
it lies. Needs gymnasium (extra `rl`), takes a few minutes on two cores, prints a table and draws
symmetric_control.png.

It is not a benchmark: one seed, 20 episodes a cell.

    python examples/symmetric_control.py [--picture symmetric_control.png]
"""

import functools
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import matplotlib
import numpy as np

import star_keras as sk

matplotlib.use("Agg")
from matplotlib import pyplot as plt

control = sk.applications.control
PILLARS = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
ON_THE_RIGHT = [(1, 0), (2, -1), (2, 0), (2, 1), (2, 2)]
world = functools.partial(control.make, control.GRIDWORLD, size=5, obstacles=PILLARS)


def run(picture="symmetric_control.png", steps=15_360, smoke=False):
    started = time.time()
    keras.utils.set_random_seed(0)
    steps, episodes, learner = (512, 2, {"warmup": 256}) if smoke else (steps, 20, {})

    symmetry = control.symmetry_of(control.GRIDWORLD)
    symmetry.check(world)
    right = functools.partial(world, goals=ON_THE_RIGHT)
    network, copy = (sk.models.create("q_network", state_size=4, num_actions=4) for _ in range(2))
    control.DQN(**learner).train(network, right, steps)
    copy.set_weights(network.get_weights())
    tuned = symmetry.wrap(copy)
    control.DQN(exploration=(0.1, 0.04), **learner).train(tuned, right, steps // 2)
    models = {
        "The network alone": network,
        "Equizero, as it is": symmetry.wrap(network, "argmin"),
        "Equitune, fine-tuned": tuned,
    }

    free = world().unwrapped.free
    shares = {name: {goal: share(model, goal, episodes) for goal in free} for name, model in models.items()}
    print(f"\n{'Episodes that reach the goal':34}goals on the right   all other goals")
    for name, found in shares.items():
        known = np.mean([found[goal] for goal in ON_THE_RIGHT])
        others = np.mean([found[goal] for goal in free if goal not in ON_THE_RIGHT])
        print(f"{name:34}{known:18.0%}{others:18.0%}")
    draw(shares, picture)
    print(f"\nDrawn to {picture} in {time.time() - started:.0f} s.")


def share(model, goal, episodes):
    """The share of episodes with this goal that reach it before they are cut off after 50 steps."""
    returns = control.evaluate_returns(model, functools.partial(world, goals=[goal]), episodes)
    return float(np.mean(returns > -50))


def draw(shares, picture):
    figure, panels = plt.subplots(1, len(shares), figsize=(11, 4.4), layout="constrained")
    for axes, (name, found) in zip(panels, shares.items(), strict=True):
        image = np.full((5, 5), np.nan)
        for (x, y), value in found.items():
            image[y + 2, x + 2] = 100 * value
            axes.text(
                x,
                y,
                f"{100 * value:.0f}",
                ha="center",
                va="center",
                color="white" if value < 0.6 else "black",
            )
        drawn = axes.imshow(
            image, origin="lower", extent=(-2.5, 2.5, -2.5, 2.5), cmap="cividis", vmin=0, vmax=100
        )
        for x, y in PILLARS:
            axes.add_patch(plt.Rectangle((x - 0.5, y - 0.5), 1, 1, color="#333333"))
        for x, y in ON_THE_RIGHT:
            axes.add_patch(
                plt.Rectangle((x - 0.44, y - 0.44), 0.88, 0.88, fill=False, color="#d55e00", lw=2.5)
            )
        axes.set(title=name, xticks=[], yticks=[])
    figure.colorbar(drawn, ax=panels, shrink=0.8, label="episodes that reach the goal (%)")
    figure.suptitle(
        "Episodes that reach the goal, by the cell in which it lies.\n"
        "Training had goals in the orange cells alone; the dark ones are pillars."
    )
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    sk.recipes.command_line(run)
