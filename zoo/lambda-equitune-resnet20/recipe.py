"""lambda-equitune-resnet20: the classifier resnet20.cifar10-1 made proof against quarter turns.

Paper      Basu and others, Efficient Equivariant Transfer Learning from Pretrained Models (2023), section 3
Data       cifar10_train45k, of which 11,000 images are used, and to measure cifar10_test1k, in the folder
           STAR_KERAS_DATA
Command    star-keras pretrain lambda-equitune-resnet20 --folder runs/lambda [--measure]

The classifier stays as it is. It sees every image from four sides once; a small network then learns from its
64 features which side to believe. `--smoke` shows in a minute that everything works, `--measure` measures
the finished model, `--publish` puts it into the zoo, too, where its name is still free.
"""

import pathlib

import keras
import numpy as np

import star_keras as sk

# The published score is that of the first seed; the others say how much chance there is in it.
SEEDS = (0, 1, 2)
# Widths of the score's hidden layers, chosen on validation images.
WIDTHS = ((100,), (100, 100))
PRETRAINED = "resnet20.cifar10-1"


def run(
    folder="runs/lambda-equitune-resnet20",
    epochs=20,
    count=10_000,
    precision="float32",
    smoke=False,
    measure=False,
    publish=False,
):
    sk.recipes.set_precision(precision)

    # Data: the last images drawn are for choosing. Nothing has to be turned: the loss of an image is that
    # of its turns.
    train = sk.data.load("fashion_mnist" if smoke else "cifar10_train45k")
    if smoke:
        count, epochs = 40, min(epochs, 2)
    held_out = count // 10
    rows = np.random.default_rng(0).permutation(len(train.labels))[: count + held_out]
    images, labels = sk.data.to_rgb(train.images[rows], 32), train.labels[rows]

    # Model: what the frozen classifier says of each side of each image, once.
    features, outputs = sk.recipes.orbit_outputs(wrapped(WIDTHS[0], 0).equitune, images)
    known, asked = slice(0, count), slice(count, None)

    # Optimiser: Adam at its default of 1e-3 for the score alone.
    def learned(widths, seed):
        model = wrapped(widths, seed)
        history = sk.recipes.learn_orbit_weights(
            model.equitune, features[known], outputs[known], labels[known], epochs, verbose=2
        )
        return model, history

    found = {widths: learned(widths, SEEDS[0]) for widths in WIDTHS}
    scores = {
        widths: accuracy_from_outputs(model.equitune, features[asked], outputs[asked], labels[asked])
        for widths, (model, _) in found.items()
    }
    widths = max(scores, key=scores.get)
    model, history = found[widths]
    sk.models.save(model, pathlib.Path(folder) / "model", overwrite=True)
    print(f"Accuracy on {held_out} validation images by widths: {scores}. Chosen: {widths}")

    if measure or publish:
        others = [learned(widths, seed)[0] for seed in SEEDS[1:]]
        results = measured([model, *others])
        results["run"] = {
            "epochs": epochs,
            "seeds": SEEDS,
            "precision": precision,
            "training_images": count,
            "validation_images": held_out,
            "validation_accuracy": [{"widths": key, "accuracy": value} for key, value in scores.items()],
            "history": history,
        }
        sk.recipes.write_results(f"{folder}/results.json", results)
        if publish:
            put_into_zoo(model, results)
    return model


def wrapped(widths, seed):
    """The pretrained classifier inside a `LambdaEquiTune` whose score is untrained."""
    keras.utils.set_random_seed(seed)
    record = sk.models.info(PRETRAINED)
    config = dict(record["config"])
    head = {key: config.pop(key) for key in ("num_classes", "classifier_activation")}
    backbone = {"architecture": record["architecture"], **config}
    model = sk.models.create("lambda_equitune", backbone=backbone, hidden_units=widths, **head)
    pretrained = sk.models.load(PRETRAINED, part="classifier")
    model.equitune.model.set_weights(pretrained.get_weights())
    return model


def accuracy_from_outputs(wrapper, features, outputs, labels):
    """The accuracy of a wrapper by what its model said of the members of orbits."""
    scores = wrapper.score.predict(features.reshape(-1, features.shape[-1]), verbose=0)
    weights = keras.ops.softmax(scores.reshape(len(labels), -1, 1), axis=1)
    return share(np.sum(weights * outputs, axis=1), labels)


def measured(models):
    """Upright, turned by each angle and at random, beside the classifier alone and the mean of the orbit."""
    test = sk.data.load("cifar10_test1k")
    drawn = np.random.default_rng(0).integers(4, size=len(test.labels))
    turned = {f"{90 * k}": np.rot90(test.images, k, axes=(1, 2)) for k in range(4)}
    turned["random"] = np.stack([turned[f"{90 * k}"][i] for i, k in enumerate(drawn)])

    def accuracies(model, *asked):
        return {name: share(model.predict(turned[name], verbose=0), test.labels) for name in asked}

    logits = sk.models.load(PRETRAINED, part="classifier", classifier_activation=None)
    mean = sk.layers.EquiTune(logits, sk.groups.Cyclic(4))
    scores = [accuracies(model, "random")["random"] for model in models]
    by_angle = {
        "pretrained": accuracies(logits, *turned),
        "equitune": accuracies(mean, "random"),
        "lambda_equitune": accuracies(models[0], *turned),
    }
    for name, found in by_angle.items():
        print(f"{name}: " + ", ".join(f"{angle} {value:.1%}" for angle, value in found.items()))
    return {
        "accuracy": scores[0],
        "accuracy_of_seeds": sk.recipes.spread(scores),
        "test_images": len(test.labels),
        "by_angle": by_angle,
        "invariance_error": float(models[0].equitune.equivariance_error(test.images[:100]).max()),
    }


def share(outputs, labels):
    return float(np.mean(np.argmax(outputs, axis=-1) == labels))


def put_into_zoo(model, results):
    sk.models.publish(
        model,
        "lambda-equitune-resnet20.cifar10-1",
        description="Lambda-equitune of a ResNet-20 classifier of CIFAR-10 at 32 px: one answer for all "
        "quarter turns.",
        task="classification",
        training_data="CIFAR-10, first 45,000 training images",
        license="Apache-2.0",
        results={
            "accuracy": results["accuracy"],
            "accuracy_pretrained_turned": results["by_angle"]["pretrained"]["random"],
            "accuracy_equitune_turned": results["by_angle"]["equitune"]["random"],
            "accuracy_pretrained_upright": results["by_angle"]["pretrained"]["0"],
        },
    )
    sk.recipes.write_results(pathlib.Path(__file__).with_name("results.json"), results)


if __name__ == "__main__":
    sk.recipes.command_line(run)
