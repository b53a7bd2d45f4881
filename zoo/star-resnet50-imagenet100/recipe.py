"""star-resnet50-imagenet100: the paper's own recipe at 224 px, a ResNet-50 with eight experts.

Paper      Jeon and others, Soft Task-Aware Routing of Experts (NeurIPS 2025), sections 3 and 4
Data       a folder with one subfolder of images for each of the 100 classes (19 GB in memory)
Command    star-keras pretrain star-resnet50-imagenet100 --images ./imagenet100/train --strategy mirrored
Hardware   four GPUs in the paper, or one; 494 steps an epoch, 500 epochs. Not run to
           its end here: the zoo has no such weights
Differs    images are brought to squares of 224 px first, where the paper crops from images of full size

Run the command again to go on where it stopped; `--strategy mirrored` takes all devices. `--smoke` shows
in a minute that everything works.
"""

import keras

import star_keras as sk


def run(
    images="./imagenet100/train",
    folder="runs/star-resnet50-imagenet100",
    epochs=500,
    minutes=None,
    precision="auto",
    strategy="one",
    seed=0,
    smoke=False,
):
    # Data: labels are for the monitor alone.
    size, batch_size, units = (64, 8, 16) if smoke else (224, 256, 2048)
    if smoke:
        source = sk.data.load("fashion_mnist")
        images, labels, epochs = source.images[:16], source.labels[:16], min(epochs, 2)
    else:
        images, labels, *_ = sk.data.load(images, size=size)
    images = sk.data.to_rgb(images, size)

    precision = sk.recipes.set_precision(precision, folder)
    sk.recipes.set_strategy(strategy)
    keras.utils.set_random_seed(seed)

    # Model
    model = sk.training.STARPretraining(
        backbone=sk.models.create("resnet50", input_shape=(size, size, 3), stem="imagenet"),
        augmentation=sk.augmentation.star_views(size),
        projector=sk.layers.RoutedExperts(
            128, num_experts=8, tasks=("invariant", "equivariant"), hidden_units=(units, units)
        ),
        seed=seed,
    )
    model.build(images.shape)

    # Optimiser: the paper's SGD couples decay and momentum; 5e-4 / (1 - 0.9) is the same rule for Keras.
    schedule = keras.optimizers.schedules.CosineDecay(0.03, sk.recipes.num_steps(images, batch_size, epochs))
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9, weight_decay=5e-3))
    sk.recipes.pretrain(model, images, (images, labels), folder, epochs, batch_size, seed, minutes)
    return model


if __name__ == "__main__":
    sk.recipes.command_line(run)
