"""A network that knows "jump" obeys "jump around left twice", a kind of command that it has never seen.

Trains a small encoder-decoder on commands of the SCAN grammar of one phrase, in which "jump" stands by itself
alone, then wraps it: equitune and equizero read every command with its verb exchanged by each of four, and
bring the answers back. Nothing is trained anew. It takes some minutes on two cores, fewer with
KERAS_BACKEND=jax, prints a table and draws compositional_commands.png.

It is not a benchmark: 20 commands, one seed. The benchmark is evidence/equitune_scan.py.

    python examples/compositional_commands.py [--picture compositional_commands.png]
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import matplotlib

import star_keras as sk

matplotlib.use("Agg")
from matplotlib import pyplot as plt

scan = sk.applications.scan
SHOWN = ("jump thrice", "jump opposite left twice", "jump around right")
LOOKS = {
    "I_JUMP": ("jump", "#d55e00"),
    "I_WALK": ("walk", "#0072b2"),
    "I_RUN": ("run", "#009e73"),
    "I_LOOK": ("look", "#cc79a7"),
    "I_TURN_LEFT": ("←", "#999999"),
    "I_TURN_RIGHT": ("→", "#666666"),
}


def run(picture="compositional_commands.png", epochs=400, smoke=False):
    started = time.time()
    keras.utils.set_random_seed(0)
    train, test = split(sk.data.scan_sentences())
    network = sk.models.create("gru_seq2seq", vocabulary_size=sk.data.SCAN_VOCABULARY.size, max_actions=24)
    scan.train(network, train, epochs=2 if smoke else epochs, batch_size=len(train.commands), lengths=(25,))

    verbs = scan.task_group("add_jump", order=4)
    models = {
        "the network alone": network,
        "equitune, mean of four": sk.models.EquivariantSequenceToSequence(network, verbs),
        "equizero, surest of four": sk.models.EquivariantSequenceToSequence(
            network, verbs, weighting="argmin", combine="sentence"
        ),
    }
    said, shares = {"asked for": dict(zip(*test, strict=True))}, {}
    print("\nCommands obeyed to the letter, %\n\n" + " " * 28 + "without jump   with jump")
    for name, model in models.items():
        translator = scan.Translator(model)
        said[name] = dict(zip(test.commands, translator(test.commands), strict=True))
        shares[name] = [translator.exact_match(sentences) for sentences in (train, test)]
        print(name.ljust(28) + "".join(f"{100 * share:>12.0f}" for share in shares[name]))
    draw(picture, said, shares)
    print(f"\nThe picture is in {picture}. It took {time.time() - started:.0f} seconds.")
    return shares


def split(sentences):
    """Commands of one phrase: those without "jump" and itself to learn from, and all others with it."""
    pairs = [pair for pair in zip(*sentences, strict=True) if not {"and", "after"} & set(pair[0].split())]
    known = [pair for pair in pairs if "jump" not in pair[0] or pair[0] == "jump"]
    new = [pair for pair in pairs if "jump" in pair[0] and pair[0] != "jump"]
    return (sk.data.Sentences(*map(list, zip(*part, strict=True))) for part in (known, new))


def draw(picture, said, shares):
    figure, axes = plt.subplots(len(SHOWN), 1, figsize=(9, 1 + 1.6 * len(SHOWN)), layout="constrained")
    for axis, command in zip(axes, SHOWN, strict=True):
        for row, (name, answers) in enumerate(said.items()):
            actions = answers[command].split()
            right = answers[command] == said["asked for"][command]
            for column, action in enumerate(actions[:9]):
                text, colour = LOOKS[action]
                axis.barh(-row, 0.94, left=column, height=0.86, color=colour, alpha=1 if right else 0.45)
                axis.text(column + 0.47, -row, text, ha="center", va="center", color="white", fontsize=9)
            verdict = "" if name == "asked for" else "✓" if right else "✗"
            axis.text(9.2, -row, verdict, va="center", fontsize=12)
        axis.set_title(f"“{command}”", loc="left", fontsize=11)
        axis.set(xlim=(0, 10), yticks=range(0, -len(said), -1), yticklabels=said, xticks=[])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    parts = (f"{name}: {100 * new:.0f} %" for name, (_, new) in shares.items())
    figure.suptitle("“jump” was only ever seen alone; new commands obeyed\n" + " · ".join(parts), fontsize=11)
    figure.savefig(picture, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    sk.recipes.command_line(run)
