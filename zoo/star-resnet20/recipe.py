"""star-resnet20: STAR pretraining of a ResNet-20 with eight experts on 45,000 CIFAR-10 images, no labels.

Paper      Jeon and others, Soft Task-Aware Routing of Experts (NeurIPS 2025), sections 3 and 4
Data       cifar10_train45k, the first 45,000 training images, and to measure cifar10_test1k, in the folder
           STAR_KERAS_DATA
Command    star-keras pretrain star-resnet20 --folder runs/star-resnet20 [--minutes 30]
Published  the same with `--precision mixed_bfloat16`

Run the command again to go on where it stopped; `--strategy mirrored` takes all devices. `--smoke` shows
in a minute that everything works, `--measure` measures the finished run, `--publish` puts it into the zoo,
too, where its name is still free.
"""

import pathlib

import keras

import star_keras as sk


def run(
    folder="runs/star-resnet20",
    epochs=40,
    minutes=None,
    precision="auto",
    strategy="one",
    seed=0,
    smoke=False,
    measure=False,
    publish=False,
):
    # Data: labels are for the probes alone.
    train = sk.data.load("fashion_mnist" if smoke else "cifar10_train45k")
    images, labels = sk.data.to_rgb(train.images, 32), train.labels
    batch_size = 256
    if smoke:
        images, labels, epochs, batch_size = images[:256], labels[:256], min(epochs, 2), 64

    precision = sk.recipes.set_precision(precision, folder)
    sk.recipes.set_strategy(strategy)
    keras.utils.set_random_seed(seed)

    # Model: experts as narrow as the features, for a backbone of a quarter of a million weights.
    model = sk.training.STARPretraining(
        backbone=sk.models.create("resnet20", input_shape=(32, 32, 3)),
        augmentation=sk.augmentation.star_views(32),
        projector=sk.layers.RoutedExperts(
            128, num_experts=8, tasks=("invariant", "equivariant"), hidden_units=(64, 64)
        ),
        seed=seed,
    )
    model.build(images.shape)

    # Optimiser: the paper's SGD couples decay and momentum; 5e-4 / (1 - 0.9) is the same rule for Keras.
    # Twice the paper's rate, for a fifth of its epochs.
    schedule = keras.optimizers.schedules.CosineDecay(0.06, sk.recipes.num_steps(images, batch_size, epochs))
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
            seed=seed,
            precision=precision,
        )
        sk.recipes.write_results(f"{folder}/results.json", results)
        if publish:
            put_into_zoo(model, results)
    return model


def put_into_zoo(model, results):
    sk.models.publish(
        model,
        "star-resnet20.cifar10-1",
        description="STAR pretraining (8 experts) of a ResNet-20 on CIFAR-10 at 32 px, no labels.",
        task="self-supervised",
        training_data="CIFAR-10, first 45,000 training images, no labels",
        license="Apache-2.0",
        results={name: results[name]["mean"] for name in ("linear_probe", "nearest_neighbor")},
    )
    sk.recipes.write_results(pathlib.Path(__file__).with_name("results.json"), results)


if __name__ == "__main__":
    sk.recipes.command_line(run)
