"""equitune-dqn-cartpole: a network that balances a pole on a cart, and treats left as it treats right.

Paper      Basu and others, Efficient Equivariant Transfer Learning from Pretrained Models (2023), section 5.1
Data       none: the task CartPole-v1 of gymnasium (extra `rl`)
Command    star-keras pretrain equitune-dqn-cartpole --folder runs/cartpole [--measure]

A plain network learns for a while by deep Q-learning. Then it is made equivariant to the mirror by equitune,
the mean of a state and its mirror image, and learns on. `--smoke` shows in a minute that everything works,
`--measure` measures the finished model, `--publish` puts it into the zoo, too, where its name is still free.
"""

import pathlib

import keras
import numpy as np

import star_keras as sk

TASK = "CartPole-v1"
# The published return is that of the first seed; the others say how much chance there is in it.
SEEDS = (0, 1, 2)
EPISODES = 100
FIRST_EPISODE = 20_000  # no seed of training is as high

control = sk.applications.control


def run(
    folder="runs/equitune-dqn-cartpole",
    steps=15_360,
    tuning=10_240,
    precision="float32",
    smoke=False,
    measure=False,
    publish=False,
):
    sk.recipes.set_precision(precision)
    if smoke:
        steps = tuning = 512

    # Data: the mirror is asked for, not assumed.
    symmetry = control.symmetry_of(TASK)
    symmetry.check(TASK)

    def learned(seed, verbose):
        keras.utils.set_random_seed(seed)

        # Model: the default network of Stable-Baselines3, two layers of 64.
        network = sk.models.create("q_network", state_size=4, num_actions=2)

        # Optimiser: Adam at the rate that RL Baselines3 Zoo tuned for this task, then gently and with little
        # exploration: the network knows something already.
        history = control.DQN().train(network, TASK, steps, seed, verbose)
        model = symmetry.wrap(network)
        before = returns(network), returns(model)
        tuner = control.DQN(learning_rate=5e-4, exploration=(0.1, 0.04))
        tuned = tuner.train(model, TASK, tuning, seed + 1000, verbose)
        return model, before, {key: history[key] + tuned[key] for key in history}

    def returns(model):
        if not (measure or publish):
            return None
        return float(control.evaluate_returns(model, TASK, EPISODES, FIRST_EPISODE).mean())

    model, before, history = learned(SEEDS[0], verbose=1)
    sk.models.save(model, pathlib.Path(folder) / "model", overwrite=True)

    if measure or publish:
        others = [learned(seed, verbose=0)[:2] for seed in SEEDS[1:]]
        found = [returns(each) for each in (model, *(other for other, _ in others))]
        zero_shot = [before, *(numbers for _, numbers in others)]
        states = np.random.default_rng(0).normal(size=(100, 4)).astype("float32")
        results = {
            "return": found[0],
            "return_of_seeds": spread(found),
            "return_pretrained": spread([alone for alone, _ in zero_shot]),
            "return_equitune_untuned": spread([wrapped for _, wrapped in zero_shot]),
            "episodes": EPISODES,
            "equivariance_error": float(model.equitune.equivariance_error(states).max()),
            "run": {
                "epochs": len(history["loss"]),
                "seeds": SEEDS,
                "precision": precision,
                "steps": steps,
                "tuning_steps": tuning,
                "history": history,
            },
        }
        sk.recipes.write_results(f"{folder}/results.json", results)
        print({key: value for key, value in results.items() if key != "run"})
        if publish:
            put_into_zoo(model, results)
    return model


def spread(values):
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "runs": values}


def put_into_zoo(model, results):
    sk.models.publish(
        model,
        "equitune-dqn-cartpole.cartpole-1",
        description="Equitune of a deep Q-network that balances the pole of CartPole-v1: left is treated as "
        "right.",
        task="control",
        training_data="CartPole-v1, 25,600 steps",
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
