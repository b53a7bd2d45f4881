"""A classifier that has only seen clothes upright, made proof against turns without retraining it.

Fine-tunes a pretrained backbone on 1,000 upright Fashion-MNIST images, then wraps it in `EquiTune` in three
ways and draws the accuracy by the angle that test images are turned by. Quarter turns cost nothing any more:
every wrapped curve repeats itself after 90 degrees, exactly. Everything it needs travels with the package;
it takes a few minutes on two cores, prints a table and draws rotation_proof_classifier.png.

It is not a benchmark: 300 test images, one seed, and between quarter turns pixels are interpolated.

    python examples/rotation_proof_classifier.py [--model resnet20] [--picture rotation_proof_classifier.png]
"""

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

NUM_ANGLES = 24
STYLES = {
    "the classifier alone": ("#d55e00", "-", "s"),
    "mean of the orbit (equitune)": ("#0072b2", "-", "o"),
    "most confident member (equizero)": ("#009e73", "--", "^"),
    "learned weights (lambda-equitune)": ("#cc79a7", "-", "D"),
}


def run(model="resnet20", picture="rotation_proof_classifier.png", epochs=10, smoke=False):
    started = time.time()
    keras.utils.set_random_seed(0)
    train, test = sk.data.load("fashion_mnist"), sk.data.load("fashion_mnist", split="test")
    count, num_test, angles = (100, 20, 4) if smoke else (1000, 300, NUM_ANGLES)
    images, labels = sk.data.to_rgb(train.images[:count], 32), train.labels[:count]
    test_images, test_labels = sk.data.to_rgb(test.images[:num_test], 32), test.labels[:num_test]

    classifier = sk.models.load(model, num_classes=10)
    classifier.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    classifier.fit(images, labels, batch_size=25, epochs=1 if smoke else epochs, verbose=0)

    turns = sk.groups.Cyclic(4)
    score = keras.Sequential([keras.layers.Dense(100, "relu"), keras.layers.Dense(1)])
    # The classifier ends in a softmax, so what is averaged, and ranked by confidence, are probabilities.
    models = {
        "the classifier alone": classifier,
        "mean of the orbit (equitune)": sk.layers.EquiTune(classifier, turns),
        "most confident member (equizero)": sk.layers.EquiTune(
            classifier, turns, weighting="argmin", score="confidence", from_logits=False
        ),
        "learned weights (lambda-equitune)": sk.layers.EquiTune(
            classifier, turns, weighting="lambda", score=score, features="features"
        ),
    }
    learn_weights(models["learned weights (lambda-equitune)"], images, labels, 1 if smoke else 5)

    turned = sk.groups.Rotations(angles)
    accuracies = {name: [] for name in models}
    progress = keras.utils.Progbar(angles * len(models), unit_name="angle")
    for element in range(angles):
        rotated = np.array(turned.act(element, test_images))
        for name, one in models.items():
            guesses = one.predict(rotated, batch_size=50, verbose=0).argmax(axis=-1)
            accuracies[name].append(float(np.mean(guesses == test_labels)))
            progress.add(1)

    print_table(accuracies, angles)
    draw(picture, accuracies, angles, np.array(turned.orbit(test_images[:1]))[:, 0])
    print(f"\nThe picture is in {picture}. It took {time.time() - started:.0f} seconds.")
    return accuracies


def learn_weights(wrapper, images, labels, epochs):
    """Trains the score alone. The orbit of an upright image holds all its turns, so none are added."""
    wrapper.model.trainable = False
    wrapper.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    wrapper.fit(images, labels, batch_size=25, epochs=epochs, verbose=0)


def print_table(accuracies, angles):
    step = max(1, angles // 8)
    print("\nAccuracy in % on turned test images\n")
    degrees = "".join(f"{360 * k / angles:>7.0f}" for k in range(0, angles, step))
    print("degrees".ljust(36) + degrees + "   mean")
    for name, values in accuracies.items():
        cells = "".join(f"{100 * value:>7.1f}" for value in values[::step])
        print(name.ljust(36) + cells + f"{100 * np.mean(values):>7.1f}")


def draw(picture, accuracies, angles, views):
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 5.6), height_ratios=(5, 1), layout="constrained")
    degrees = 360 * np.arange(angles + 1) / angles
    for name, (colour, line, marker) in STYLES.items():
        values = 100 * np.array([*accuracies[name], accuracies[name][0]])
        above.plot(degrees, values, color=colour, linestyle=line, marker=marker, markersize=4, label=name)
    above.set(xlabel="test images turned by, degrees", ylabel="test accuracy, %", xticks=range(0, 361, 45))
    above.set_title("Trained on upright clothes only", fontsize=11)
    above.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    shown = views[:: max(1, angles // 8)]
    below.imshow(np.concatenate([np.pad(view, ((1, 1), (1, 1), (0, 0))) for view in shown], axis=1))
    below.set_axis_off()
    figure.savefig(picture, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    sk.recipes.command_line(run)
