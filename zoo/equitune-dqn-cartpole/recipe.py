"""equitune-dqn-cartpole: a network that balances a pole on a cart, and treats left as it treats right.

Paper      Basu and others, Efficient Equivariant Transfer Learning from Pretrained Models (2023), section 5.1
Data       none: the task CartPole-v1 of gymnasium (extra `rl`)
Command    star-keras pretrain equitune-dqn-cartpole --folder runs/cartpole [--measure]

A plain network learns for a while by deep Q-learning. Then it is made equivariant to the mirror by equitune,
the mean of a state and its mirror image, and learns on; kept is how it was when it did best in episodes that
are there for choosing. `--smoke` shows in a minute that everything works,
`--measure` measures the finished model, `--publish` puts it into the zoo, too, where its name is still free.
"""

import functools
import pathlib
import typing

import keras
import numpy as np

import star_keras as sk

TASK = "CartPole-v1"
# The published return is that of the first seed; the others say how much chance there is in it.
SEEDS = (0, 1, 2)
EPISODES, CHOOSING_EPISODES = 100, 40
FIRST_EPISODE, FIRST_CHOOSING_EPISODE = 20_000, 30_000  # no seed of training is as high

control = sk.applications.control


def run(
    folder="runs/equitune-dqn-cartpole",
    steps=30_720,
    tuning=5_120,
    rounds=4,
    precision="float32",
    smoke=False,
    measure=False,
    publish=False,
):
    sk.recipes.set_precision(precision)
    options = {}
    if smoke:
        steps, tuning, rounds = 512, 512, 1
        options["warmup"] = 256

    # Data: the mirror is asked for, not assumed.
    control.symmetry_of(TASK).check(TASK)

    learn = functools.partial(
        learned, steps=steps, tuning=tuning, rounds=rounds, options=options, measure=measure or publish
    )
    kept = learn(SEEDS[0], verbose=1)
    sk.models.save(kept.model, pathlib.Path(folder) / "model", overwrite=True)

    if measure or publish:
        runs = [kept, *map(learn, SEEDS[1:])]
        results = measured(runs)
        results["run"] = {
            "epochs": len(kept.history["loss"]),
            "seeds": SEEDS,
            "precision": precision,
            "steps": steps,
            "tuning_steps": tuning * rounds,
            # Of each seed: before tuning, and after each round of it.
            "choosing_returns": [one.scores for one in runs],
            "history": kept.history,
        }
        sk.recipes.write_results(f"{folder}/results.json", results)
        if publish:
            put_into_zoo(kept.model, results)
    return kept.model


class Learned(typing.NamedTuple):
    """The model of a seed: returns before tuning, alone and wrapped; those it was chosen by; its history."""

    model: keras.Model
    untuned: tuple | None
    scores: list
    history: dict


def learned(seed, steps, tuning, rounds, options, measure, verbose=0):
    keras.utils.set_random_seed(seed)

    # Model: the default network of Stable-Baselines3, two layers of 64.
    network = sk.models.create("q_network", state_size=4, num_actions=2)

    # Optimiser: Adam at the rate that RL Baselines3 Zoo tuned for this task, then gently and with little
    # exploration: the network knows something already.
    history = control.DQN(**options).train(network, TASK, steps, seed, verbose)
    model = control.symmetry_of(TASK).wrap(network)
    untuned = (returns(network), returns(model)) if measure else None
    tuner = control.DQN(learning_rate=5e-4, exploration=(0.1, 0.04), **options)
    scores, kept = [chosen_by(model)], (model.get_weights(), history)
    for number in range(1, rounds + 1):
        tuned = tuner.train(model, TASK, tuning, seed + 1000 * number, verbose)
        history = {key: history[key] + tuned[key] for key in history}
        scores.append(chosen_by(model))
        if scores[-1] > max(scores[:-1]):
            kept = model.get_weights(), history
    weights, history = kept
    model.set_weights(weights)
    return Learned(model, untuned, scores, history)


def measured(runs):
    """Returns of every seed, before tuning, too, and how exactly the first model treats left as right."""
    found = [returns(one.model) for one in runs]
    alone, wrapped = zip(*(one.untuned for one in runs), strict=True)
    states = np.random.default_rng(0).normal(size=(100, 4)).astype("float32")
    results = {
        "return": found[0],
        "return_of_seeds": sk.recipes.spread(found),
        "return_pretrained": sk.recipes.spread(alone),
        "return_equitune_untuned": sk.recipes.spread(wrapped),
        "episodes": EPISODES,
        "equivariance_error": float(runs[0].model.equitune.equivariance_error(states).max()),
    }
    print(results)
    return results


def returns(model, episodes=EPISODES, first=FIRST_EPISODE):
    return float(control.evaluate_returns(model, TASK, episodes, first).mean())


def chosen_by(model):
    return returns(model, CHOOSING_EPISODES, FIRST_CHOOSING_EPISODE)


def put_into_zoo(model, results):
    sk.models.publish(
        model,
        "equitune-dqn-cartpole.cartpole-1",
        description="Equitune of a deep Q-network that balances the pole of CartPole-v1: left is treated as "
        "right.",
        task="control",
        training_data="CartPole-v1, 30,720 steps",
        license="Apache-2.0",
        results={
            "return": results["return"],
            "return_pretrained": results["return_pretrained"]["runs"][0],
            "return_equitune_untuned": results["return_equitune_untuned"]["runs"][0],
        },
    )
    sk.recipes.write_results(pathlib.Path(__file__).with_name("results.json"), results)


if __name__ == "__main__":
    sk.recipes.command_line(run)
