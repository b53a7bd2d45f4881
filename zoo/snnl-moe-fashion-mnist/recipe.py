"""snnl-moe: a mixture of five experts behind features that the soft nearest neighbour loss disentangles.

Paper      Agarap and Azcarraga, Mixture of Experts with Soft Nearest Neighbor Loss (2026), arXiv:2603.26734
Data       the 12,000 images of Fashion-MNIST that travel with the package; `--data cifar10` for
           cifar10_train45k and cifar10_test1k in the folder STAR_KERAS_DATA
Command    star-keras pretrain snnl-moe-fashion-mnist --folder runs/moe [--minutes 10]
Published  the same with `--precision float32`

Sizes and settings are our reading of the paper, which could not be had in full. Its baseline is the same
recipe with `--weight 0`. Run the command again to go on where it stopped. `--smoke` shows in a minute that
everything works, `--measure` measures the finished run, `--publish` puts it into the zoo, too, where its
name is still free.
"""

import pathlib
import typing

import keras
import numpy as np

import star_keras as sk

# Taps of the loss: the least entangled one is trained.
TAPS = ("conv_1", "conv_2", "code")
# name: (training set, test set, split of the test set, how it is called)
DATA = {
    "fashion_mnist": ("fashion_mnist", "fashion_mnist", "test", "10,000 training images of Fashion-MNIST"),
    "cifar10": ("cifar10_train45k", "cifar10_test1k", None, "CIFAR-10, first 45,000 training images"),
}


def run(
    folder="runs/snnl-moe-fashion-mnist",
    data: typing.Literal["fashion_mnist", "cifar10"] = "fashion_mnist",
    weight=1.0,
    epochs=30,
    minutes=None,
    precision="auto",
    seed=42,
    smoke=False,
    measure=False,
    publish=False,
):
    # Data: grey images become three equal channels.
    train, test = sk.data.load(DATA[data][0]), sk.data.load(DATA[data][1], split=DATA[data][2])
    if smoke:
        train, test, epochs = first(train, 300), first(test, 100), min(epochs, 2)
    images, labels = sk.data.to_rgb(train.images), train.labels

    precision = sk.recipes.set_precision(precision, folder)
    keras.utils.set_random_seed(seed)

    # Model: a weight of 0 measures the entanglement and trains nothing by it.
    classifier = sk.models.create("moe_cnn", num_classes=10, input_shape=images.shape[1:])
    model = sk.training.SoftNearestNeighborRegularization(classifier, TAPS, weight)
    model.build(images.shape)

    # Optimiser
    model.compile(
        keras.optimizers.AdamW(1e-3, weight_decay=1e-5),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    resume = sk.callbacks.Resume(folder, minutes=minutes)
    model.fit(
        resume.batches((images, labels), 256 if len(images) > 256 else 64, seed),
        epochs=epochs,
        initial_epoch=resume.epoch,
        shuffle=False,
        callbacks=[resume],
    )
    if resume.epoch == epochs and (measure or publish):
        results = measured(classifier, sk.data.to_rgb(test.images), test.labels)
        results["run"] = {
            "data": data,
            "weight": weight,
            "epochs": epochs,
            "seed": seed,
            "precision": precision,
            "history": resume.history,
        }
        sk.recipes.write_results(f"{folder}/results.json", results)
        if publish:
            put_into_zoo(classifier, data, weight, results)
    return classifier


def first(split, count):
    return split._replace(images=split.images[:count], labels=split.labels[:count])


def measured(classifier, images, labels):
    """Accuracy, and how the experts of a test set's images are chosen and how alike they are."""
    keras.config.set_dtype_policy("float32")
    experts = classifier.get_layer("experts")
    code = keras.Model(classifier.input, experts.input).predict(images, verbose=0)
    gates, outputs = experts.route(code), np.swapaxes(experts.expert_outputs(code), 0, 1)
    routing = {}
    for kind in (sk.metrics.RoutingEntropy, sk.metrics.UtilizationEntropy, sk.metrics.RoutingInformation):
        metric = kind(experts.num_experts)
        metric.update_state(gates)
        routing[metric.name] = float(metric.result())
    outputs = outputs - outputs.mean(axis=(1, 2), keepdims=True)
    classifier.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = classifier.evaluate(images, labels, verbose=0)
    print(f"accuracy: {accuracy:.1%}")
    return {
        "accuracy": accuracy,
        "cross_entropy": loss,
        "test_images": len(labels),
        "entanglement_of_the_code": float(sk.losses.SoftNearestNeighbor()(labels, code)),
        **routing,
        "expert_weights_similarity": sk.evaluation.expert_similarity(experts).mean,
        "expert_outputs_similarity": sk.evaluation.expert_similarity(outputs).mean,
    }


def put_into_zoo(classifier, data, weight, results):
    name = f"{'snnl-moe' if weight else 'moe'}-{data.replace('_', '-')}"
    title = {"fashion_mnist": "Fashion-MNIST at 28 px", "cifar10": "CIFAR-10 at 32 px"}[data]
    trained = "with soft nearest neighbour loss" if weight else "without soft nearest neighbour loss"
    sk.models.publish(
        classifier,
        f"{name}.1",
        description=f"Mixture of five experts on a small CNN, trained {trained}, on {title}.",
        task="classification",
        training_data=DATA[data][3],
        license="Apache-2.0",
        results={"accuracy": results["accuracy"], "routing_entropy": results["routing_entropy"]},
    )
    path = pathlib.Path(__file__).parents[1] / name / "results.json"
    sk.recipes.write_results(path, results)


if __name__ == "__main__":
    sk.recipes.command_line(run)
