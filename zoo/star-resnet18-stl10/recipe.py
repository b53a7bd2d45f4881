"""star-resnet18-stl10: the paper's own recipe at 96 px, a ResNet-18 with sixteen experts on STL10.

Paper      Jeon and others, Soft Task-Aware Routing of Experts (NeurIPS 2025), sections 3 and 4
Data       STL10, the 105,000 training and unlabelled images, prepared by tensorflow-datasets (3 GB in memory)
Command    star-keras pretrain star-resnet18-stl10 --folder runs/star-resnet18-stl10
Download   python -c "import star_keras as sk; sk.data.load('stl10', split='train', download=True)"
Hardware   a GPU; 410 steps an epoch, 200 epochs. Not run to its end here: the zoo has no such weights

Run the command again to go on where it stopped; `--strategy mirrored` takes all devices. `--smoke` shows
in a minute that everything works.
"""

import keras

import star_keras as sk


def run(
    folder="runs/star-resnet18-stl10",
    epochs=200,
    minutes=None,
    precision="auto",
    strategy="one",
    seed=0,
    smoke=False,
):
    # Data: labels are for the monitor alone.
    batch_size, units = 256, 512
    if smoke:
        labelled = sk.data.load("fashion_mnist")
        images, labels = sk.data.to_rgb(labelled.images[:32], 96), labelled.labels[:32]
        known, epochs, batch_size, units = images, min(epochs, 2), 16, 16
    else:
        images = sk.data.load("stl10", split="train+unlabelled").images
        known, labels, *_ = sk.data.load("stl10", split="train")

    precision = sk.recipes.set_precision(precision, folder)
    sk.recipes.set_strategy(strategy)
    keras.utils.set_random_seed(seed)

    # Model
    model = sk.training.STARPretraining(
        backbone=sk.models.create(
            "resnet18",
            input_shape=(96, 96, 3),
            stem="imagenet",
            mean=(0.43, 0.42, 0.39),
            std=(0.27, 0.26, 0.27),
        ),
        augmentation=sk.augmentation.star_views(96),
        projector=sk.layers.RoutedExperts(
            128, num_experts=16, tasks=("invariant", "equivariant"), hidden_units=(units, units)
        ),
        seed=seed,
    )
    model.build(images.shape)

    # Optimiser: the paper's SGD couples decay and momentum; 5e-4 / (1 - 0.9) is the same rule for Keras.
    schedule = keras.optimizers.schedules.CosineDecay(0.03, sk.recipes.num_steps(images, batch_size, epochs))
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=5e-3))
    sk.recipes.pretrain(model, images, (known, labels), folder, epochs, batch_size, seed, minutes)
    return model


if __name__ == "__main__":
    sk.recipes.command_line(run)
