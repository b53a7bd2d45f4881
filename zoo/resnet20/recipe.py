"""resnet20: a ResNet-20 classifier of CIFAR-10, the supervised neighbour of star-resnet20.

Paper      He and others, Deep Residual Learning (2016), section 4.2, with a shorter schedule
Data       cifar10_train45k, the first 45,000 training images, and to measure cifar10_test1k, in the folder
           STAR_KERAS_DATA
Command    star-keras pretrain resnet20 --folder runs/resnet20 [--minutes 10]
Published  the same with `--precision mixed_bfloat16`

Run the command again to go on where it stopped. `--smoke` shows in a minute that everything works,
`--measure` measures the finished run, `--publish` puts it into the zoo, too, where its name is still free.
"""

import pathlib

import keras

import star_keras as sk


def run(
    folder="runs/resnet20",
    epochs=24,
    minutes=None,
    precision="auto",
    seed=0,
    smoke=False,
    measure=False,
    publish=False,
):
    # Data
    train = sk.data.load("fashion_mnist" if smoke else "cifar10_train45k")
    images, labels = sk.data.to_rgb(train.images, 32), train.labels
    if smoke:
        images, labels, epochs = images[:256], labels[:256], min(epochs, 2)

    precision = sk.recipes.set_precision(precision, folder)
    keras.utils.set_random_seed(seed)

    # Model: views are made on the device, inside the step. At inference they are the images.
    classifier = sk.models.create("resnet20", input_shape=(32, 32, 3), num_classes=10)
    views = sk.augmentation.Compose(
        [sk.augmentation.RandomResizedCrop(32, scale=(0.7, 1.0)), sk.augmentation.HorizontalFlip()], seed=seed
    )
    model = keras.Sequential([keras.Input((32, 32, 3)), views, classifier])

    # Optimiser: weight decay of 1e-4, coupled through momentum as in the paper, is 1e-3 for Keras.
    batch_size = 128
    schedule = keras.optimizers.schedules.CosineDecay(0.1, sk.recipes.num_steps(images, batch_size, epochs))
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, weight_decay=1e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    resume = sk.callbacks.Resume(folder, minutes=minutes)
    model.fit(
        resume.batches((images, labels), batch_size, seed),
        epochs=epochs,
        initial_epoch=resume.epoch,
        shuffle=False,
        callbacks=[resume],
    )
    if resume.epoch == epochs and (measure or publish):
        results = measured(classifier, (images, labels))
        run = {"epochs": epochs, "seed": seed, "precision": precision, "history": resume.history}
        results["run"] = run
        sk.recipes.write_results(f"{folder}/results.json", results)
        if publish:
            put_into_zoo(classifier, results)
    return classifier


def measured(classifier, train):
    keras.config.set_dtype_policy("float32")
    test = sk.data.load("cifar10_test1k")
    classifier.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    _, accuracy = classifier.evaluate(test.images, test.labels, verbose=0)
    found = sk.recipes.measure(classifier.backbone, train, (test.images, test.labels))
    print(f"accuracy: {accuracy:.1%}")
    return {"accuracy": accuracy, "test_images": len(test.labels), **found}


def put_into_zoo(classifier, results):
    sk.models.publish(
        classifier,
        "resnet20.cifar10-1",
        description="ResNet-20 classifier of CIFAR-10 at 32 px.",
        task="classification",
        training_data="CIFAR-10, first 45,000 training images",
        license="Apache-2.0",
        results={
            "accuracy": results["accuracy"],
            "linear_probe": results["linear_probe"]["mean"],
            "nearest_neighbor": results["nearest_neighbor"]["mean"],
        },
    )
    sk.recipes.write_results(pathlib.Path(__file__).with_name("results.json"), results)


if __name__ == "__main__":
    sk.recipes.command_line(run)
