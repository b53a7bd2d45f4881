"""Two mixtures of five experts, one behind features that the soft nearest neighbour loss disentangles.

Trains the same small network twice on 4,000 Fashion-MNIST images, without the loss and with it, and draws how
alike the experts are: left by the cosine of their weights, as the paper does, right by that of what they
answer to the same test images. Everything it needs travels with the package; it takes a few minutes on two
cores, prints a table and draws moe_without_collapse.png.

Look at both halves. Weights are nearly orthogonal from the first step on, with the loss or without; answers
tell whether experts do the same work. It is one seed, and one seed proves nothing: evidence/moe_collapse.py
trains ten of each kind.

    python examples/moe_without_collapse.py [--weight 1] [--picture moe_without_collapse.png]
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np

import star_keras as sk

NUM_EXPERTS = 5


def run(weight=1.0, picture="moe_without_collapse.png", epochs=10, seed=0, smoke=False):
    started = time.time()
    train, test = sk.data.load("fashion_mnist"), sk.data.load("fashion_mnist", split="test")
    count, num_test, epochs = (200, 100, 1) if smoke else (4000, 2000, epochs)
    train = sk.data.to_rgb(train.images[:count]), train.labels[:count]
    test = sk.data.to_rgb(test.images[:num_test]), test.labels[:num_test]

    found = {}
    for name, factor in (("cross entropy alone", 0.0), ("with neighbour loss", weight)):
        print(f"Training: {name}", flush=True)
        found[name] = measured(trained(train, factor, epochs, seed), *test)

    print_table(found)
    draw(picture, found)
    print(f"\nThe picture is in {picture}. It took {time.time() - started:.0f} seconds.")
    return found


def trained(train, weight, epochs, seed):
    keras.utils.set_random_seed(seed)
    classifier = sk.models.create(
        "moe_cnn", num_classes=10, num_experts=NUM_EXPERTS, input_shape=train[0].shape[1:]
    )
    model = sk.training.SoftNearestNeighborRegularization(classifier, ("conv_1", "conv_2", "code"), weight)
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=1e-5), "sparse_categorical_crossentropy")
    bar = keras.utils.Progbar(epochs, unit_name="epoch")
    progress = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: bar.update(epoch + 1))
    model.fit(*train, batch_size=200, epochs=epochs, callbacks=[progress], verbose=0)
    return classifier


def measured(classifier, images, labels):
    """Accuracy, entanglement, routing and similarity of the experts on test images."""
    experts = classifier.get_layer("experts")
    code = keras.Model(classifier.input, experts.input).predict(images, batch_size=200, verbose=0)
    gates, outputs = experts.route(code), np.swapaxes(experts.expert_outputs(code), 0, 1)
    routing = {}
    for metric in (sk.metrics.RoutingEntropy(NUM_EXPERTS), sk.metrics.RoutingInformation(NUM_EXPERTS)):
        metric.update_state(gates)
        routing[metric.name] = float(metric.result())
    guesses = classifier.predict(images, batch_size=200, verbose=0).argmax(axis=-1)
    return {
        "accuracy": float(np.mean(guesses == labels)),
        "entanglement": float(sk.losses.SoftNearestNeighbor()(labels, code)),
        **routing,
        "weights": sk.evaluation.expert_similarity(experts),
        "outputs": sk.evaluation.expert_similarity(outputs - outputs.mean(axis=(1, 2), keepdims=True)),
    }


def print_table(found):
    rows = {
        "test accuracy, %": lambda one: 100 * one["accuracy"],
        "entanglement of the code": lambda one: one["entanglement"],
        "routing entropy, nats": lambda one: one["routing_entropy"],
        "information of the routing, nats": lambda one: one["routing_information"],
        "mean cosine of experts' weights": lambda one: one["weights"].mean,
        "mean cosine of experts' answers": lambda one: one["outputs"].mean,
    }
    print("\n" + "".ljust(34) + "".join(name.rjust(32) for name in found))
    for label, value in rows.items():
        print(label.ljust(34) + "".join(f"{value(one):32.3f}" for one in found.values()))


def draw(picture, found):
    panels = {
        f"{what}, {name}": one[key].matrix
        for what, key in (("Weights", "weights"), ("Answers", "outputs"))
        for name, one in found.items()
    }
    sk.plots.correlations(panels, label="cosine of two experts").savefig(picture, dpi=130)


if __name__ == "__main__":
    sk.recipes.command_line(run)
