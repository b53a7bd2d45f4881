"""Pretrains a small STAR model on images without labels for a few minutes, and shows the probe rising.

Images come from the embedded Fashion-MNIST subset, or from any set or folder you name. Every epoch ends
with a nearest-neighbour probe on frozen features: the labels are used by it alone. Stop it and start it
again as you like. It draws pretrain_star.png.

It is not a recipe for good weights: those take hours (see zoo/).

    python examples/pretrain_star.py [--images NAME_OR_FOLDER] [--epochs 6] [--folder runs/pretrain_star]
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import matplotlib

import star_keras as sk

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def run(
    images="fashion_mnist", epochs=6, count=2000, folder="runs/pretrain_star", picture="pretrain_star.png"
):
    keras.utils.set_random_seed(0)
    split = sk.data.load(images)
    pixels, labels = sk.data.to_rgb(split.images[:count], 32), split.labels[:count]

    model = sk.training.STARPretraining(
        backbone=sk.models.create("resnet20", input_shape=(32, 32, 3)),
        augmentation=sk.augmentation.star_views(32),
        projector=sk.layers.RoutedExperts(
            64, num_experts=4, tasks=("invariant", "equivariant"), hidden_units=(64,)
        ),
    )
    model.build(pixels.shape)
    schedule = keras.optimizers.schedules.CosineDecay(0.06, epochs * (len(pixels) // 64))
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=5e-3))

    half = len(pixels) // 2
    probe = sk.callbacks.NearestNeighborProbe((pixels[:half], labels[:half]), (pixels[half:], labels[half:]))
    resume = sk.callbacks.Resume(folder)
    model.fit(
        resume.batches(pixels, batch_size=64),
        epochs=epochs,
        initial_epoch=resume.epoch,
        shuffle=False,
        callbacks=[probe, resume],
    )
    draw(picture, resume.history)
    print(f"The picture is in {picture}. `model.backbone` is what one would keep.")
    return resume.history


def draw(picture, history):
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    epochs = range(1, len(history["loss"]) + 1)
    left.plot(epochs, history["invariance_loss"], color="#0072b2", label="invariance")
    left.plot(epochs, history["equivariance_loss"], color="#d55e00", label="equivariance")
    left.set(xlabel="epoch", ylabel="loss")
    left.legend(frameon=False)
    name = next(name for name in history if "neighbor" in name)
    right.plot(epochs, [100 * value for value in history[name]], color="#009e73", marker="o")
    right.set(xlabel="epoch", ylabel="1-NN accuracy on frozen features, %")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    sk.recipes.command_line(run)
