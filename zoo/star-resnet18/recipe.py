"""star-resnet18: STAR pretraining of a ResNet-18 with sixteen experts on CIFAR-10 at 32 px, no labels.

Paper      Jeon and others, Soft Task-Aware Routing of Experts (NeurIPS 2025), sections 3 and 4, STL10 recipe
Data       cifar10_train45k, the first 45,000 training images, and to measure cifar10_test1k, in the folder
           STAR_KERAS_DATA
GPU        KERAS_BACKEND=jax star-keras pretrain star-resnet18 --folder runs/star-resnet18
CPU        star-keras pretrain star-resnet18 --folder runs/star-resnet18 --stem strided --epochs 20
Published  that of the GPU with `--precision mixed_bfloat16`
Compared   the same with `--method simclr --epochs 100`: one expert, the invariant loss alone
Own images star-keras pretrain star-resnet18 --images ./photos --folder runs/photos

Run the command again to go on where it stopped; `--strategy mirrored` takes all devices. `--smoke` shows
in a minute that everything works, `--measure` measures the finished run, `--publish` puts it into the zoo,
too: of the method star the backbone, where its name is still free.
"""

import pathlib
import typing

import keras

import star_keras as sk

OWN = "cifar10_train45k"


def run(
    images=OWN,
    folder="runs/star-resnet18",
    method: typing.Literal["star", "simclr"] = "star",
    stem: typing.Literal["cifar", "strided", "imagenet"] = "cifar",
    epochs=200,
    minutes=None,
    precision="auto",
    strategy="one",
    seed=0,
    batch_size=256,
    smoke=False,
    measure=False,
    publish=False,
):
    if (measure or publish) and images != OWN:
        raise ValueError(f"`measure` and `publish` are for {OWN}. Received: images={images!r}")
    # Data: labels are for the probes alone.
    train = sk.data.load("fashion_mnist" if smoke and images == OWN else images, size=32)
    images, labels = sk.data.to_rgb(train.images), train.labels
    units, num_experts = 512, 16 if method == "star" else 1
    if smoke:
        images, labels, epochs, batch_size, units = images[:64], labels[:64], min(epochs, 2), 32, 16

    precision = sk.recipes.set_precision(precision, folder)
    sk.recipes.set_strategy(strategy)
    keras.utils.set_random_seed(seed)

    # Model: the paper's for 96 px, but for the stem. A strided one takes a quarter of the arithmetic and sees
    # half as sharply.
    model = sk.training.STARPretraining(
        backbone=sk.models.create("resnet18", input_shape=(32, 32, 3), stem=stem),
        augmentation=sk.augmentation.star_views(32),
        projector=sk.layers.RoutedExperts(
            128, num_experts, tasks=("invariant", "equivariant"), hidden_units=(units, units)
        ),
        equivariance_weight=1.0 if method == "star" else 0.0,
        seed=seed,
    )
    model.build(images.shape)

    # Optimiser: the paper's SGD couples decay and momentum; 5e-4 / (1 - 0.9) is the same rule for Keras.
    # Short runs need a higher rate than the paper's 0.03 for 200 epochs.
    rate = 0.03 if epochs >= 100 else 0.06
    schedule = keras.optimizers.schedules.CosineDecay(rate, sk.recipes.num_steps(images, batch_size, epochs))
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=5e-3))

    history = sk.recipes.pretrain(model, images, (images, labels), folder, epochs, batch_size, seed, minutes)
    if history and (measure or publish):
        keras.config.set_dtype_policy("float32")
        test = sk.data.load("cifar10_test1k")
        results = sk.recipes.pretraining_results(
            model.backbone,
            (images, labels),
            (test.images, test.labels),
            history,
            method=method,
            stem=stem,
            seed=seed,
            precision=precision,
        )
        sk.recipes.write_results(f"{folder}/results.json", results)
        if publish:
            put_into_zoo(model, results, method)
    return model


def put_into_zoo(model, results, method):
    if method == "star":
        sk.models.publish(
            model.backbone,
            "star-resnet18.cifar10-1",
            description="STAR pretraining (16 experts) of a ResNet-18 on CIFAR-10 at 32 px, no labels.",
            task="self-supervised",
            training_data="CIFAR-10, first 45,000 training images, no labels",
            license="Apache-2.0",
            results={name: results[name]["mean"] for name in ("linear_probe", "nearest_neighbor")},
        )
    name = "results.json" if method == "star" else "simclr.json"
    sk.recipes.write_results(pathlib.Path(__file__).with_name(name), results)


if __name__ == "__main__":
    sk.recipes.command_line(run)
