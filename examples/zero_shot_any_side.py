"""Zero-shot classification of clothes that lie on any side, by prompts and the orbit of each photograph.

Trains a small dual encoder of images and texts by contrast on 2,000 upright Fashion-MNIST images with
captions, makes a classifier of prompts such as "a photo of a sandal.", and asks it about test images turned
by random quarter turns: as it is, and in three ways that give one answer for all four sides. Everything it
needs travels with the package; it takes a few minutes on two cores, prints a table and draws
zero_shot_any_side.png.

It is not a benchmark: 300 test images, one seed, and a bag of words for a language model. For real prompts
put `sk.applications.zero_shot.from_keras_hub("clip_vit_base_patch32")` in the place of the dual encoder.

    python examples/zero_shot_any_side.py [--picture zero_shot_any_side.png]
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

TEMPLATES = ("a photo of a {}.", "a {}.", "a picture of the {}.")
TURNS = sk.groups.Cyclic(4)


def run(picture="zero_shot_any_side.png", epochs=3, smoke=False):
    started = time.time()
    keras.utils.set_random_seed(0)
    train, test = sk.data.load("fashion_mnist"), sk.data.load("fashion_mnist", split="test")
    count, num_test = (64, 20) if smoke else (2000, 300)
    images, labels = sk.data.to_rgb(train.images[:count], 32), train.labels[:count]
    test_images, test_labels = sk.data.to_rgb(test.images[:num_test], 32), test.labels[:num_test]

    encoders = train_encoders(images, labels, train.class_names, 1 if smoke else epochs)
    classifier = sk.applications.zero_shot.from_prompts(encoders, train.class_names, TEMPLATES)
    models = {"the classifier alone": classifier}
    for name, method in {
        "mean of the turns\n(equitune)": "equitune",
        "turn most like a class\n(equizero)": "equizero",
        "learned weights\n(λ-equitune)": "lambda",
    }.items():
        models[name] = sk.applications.zero_shot.invariant(classifier, TURNS, method)
    weighted = models["learned weights\n(λ-equitune)"]
    few = slice(0, 500)  # The score learns from upright images: their orbits hold all turns.
    features, outputs = sk.recipes.orbit_outputs(weighted, images[few])
    sk.recipes.learn_orbit_weights(weighted, features, outputs, labels[few], epochs=2 if smoke else 30)

    drawn = np.random.default_rng(0).integers(4, size=num_test)
    turned = np.array(TURNS.orbit(test_images))[drawn, np.arange(num_test)]
    guesses = {
        name: [model.predict(x, batch_size=50, verbose=0).argmax(axis=-1) for x in (test_images, turned)]
        for name, model in models.items()
    }
    accuracies = {
        name: [100 * float(np.mean(one == test_labels)) for one in both] for name, both in guesses.items()
    }
    for name, (upright, on_any_side) in accuracies.items():
        print(f"{name.replace(chr(10), ' '):<42} upright {upright:5.1f} %   turned {on_any_side:5.1f} %")
    answers = [guesses[name][1] for name in ("the classifier alone", "learned weights\n(λ-equitune)")]
    draw(picture, accuracies, turned, test_labels, answers, train.class_names)
    print(f"\nThe picture is in {picture}. It took {time.time() - started:.0f} seconds.")
    return accuracies


def train_encoders(images, labels, class_names, epochs):
    """A dual encoder whose image tower starts from a pretrained backbone; each image has a random caption."""
    captions = [[template.replace("{}", name) for name in class_names] for template in TEMPLATES]
    encoders = sk.models.create(
        "dual_encoder",
        backbone={"architecture": "resnet20", "input_shape": [32, 32, 3]},
        vocabulary=sk.models.DualEncoder.words(sum(captions, [])),
    )
    encoders.backbone.set_weights(sk.models.load("resnet20").get_weights())
    token_ids = encoders.tokenize(sum(captions, [])).reshape(len(TEMPLATES), len(class_names), -1)
    drawn = np.random.default_rng(0).integers(len(TEMPLATES), size=len(labels))
    encoders.compile(keras.optimizers.Adam(1e-3))
    pairs = {"images": images, "token_ids": token_ids[drawn, labels]}
    encoders.fit(pairs, labels, batch_size=64, epochs=epochs, verbose=0)
    return encoders


def draw(picture, accuracies, turned, labels, answers, class_names):
    figure, (above, *below) = plt.subplots(3, 1, figsize=(8.5, 6.4), height_ratios=(5, 1.3, 1.3))
    figure.subplots_adjust(left=0.09, right=0.98, top=0.93, bottom=0.02, hspace=0.5)
    places = np.arange(len(accuracies))
    for shift, colour, label, column in ((-0.2, "#9a9a9a", "upright", 0), (0.2, "#0072b2", "on any side", 1)):
        values = [both[column] for both in accuracies.values()]
        bars = above.bar(places + shift, values, 0.38, color=colour, label=label)
        above.bar_label(bars, fmt="%.0f", fontsize=9)
    above.set(xticks=places, ylim=(0, 105), ylabel="test accuracy, %")
    above.set_xticklabels(accuracies, fontsize=9)
    above.set_title("Clothes named by prompts, photographs upright and on any side", fontsize=11)
    above.legend(frameon=False, ncols=2, fontsize=9, loc="upper right")
    alone, weighted = answers
    shown = np.flatnonzero((alone != labels) & (weighted == labels))[:8]
    for axes, guesses, colour, title in (
        (below[0], alone, "#d55e00", "alone it says"),
        (below[1], weighted, "#009e73", "with learned weights"),
    ):
        axes.set(xlim=(0, 8), ylim=(0, 1))
        axes.set_axis_off()
        axes.set_title(title, fontsize=10, color=colour, loc="left")
        for place, row in enumerate(shown):
            axes.imshow(turned[row], extent=(place + 0.1, place + 0.9, 0.1, 0.9), aspect="auto")
            axes.text(
                place + 0.5, 0, class_names[guesses[row]], ha="center", va="top", fontsize=9, color=colour
            )
    figure.savefig(picture, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    sk.recipes.command_line(run)
