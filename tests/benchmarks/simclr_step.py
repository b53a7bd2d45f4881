"""One SimCLR step, ResNet-18 with the CIFAR stem, two 32x32 views, head 512-512-128: `--case bsBATCH`."""

import protocol

FORWARD_FLOPS = 1_110_835_200  # multiplications and additions of the convolutions for one image


def make(case, impl):
    """`bs64`; implementations `star_keras-fp32` and `star_keras-bf16`.

    They take ready views, as the peers do. With `-views` appended the views are made inside the step, with
    `-joint` both views go through the network in one pass, as the peers' do.
    """
    import keras
    import numpy as np

    import star_keras as sk

    class Unchanged(sk.augmentation.Augmentation):
        """Views that were made before."""

        columns = parameter_names = ("none",)

        def sample(self, batch_size, image_shape, seed):
            return {"none": keras.ops.zeros((batch_size, 1))}

        def apply(self, images, parameters):
            return images

        def encode(self, parameters):
            return parameters["none"]

    batch, shape = int(case.removeprefix("bs")), (32, 32, 3)
    dtype = "mixed_bfloat16" if "bf16" in impl else "float32"
    backbone = sk.models.create("resnet18", input_shape=shape, dtype=dtype)
    model = sk.training.STARPretraining(
        backbone,
        sk.augmentation.star_views(32) if impl.endswith("-views") else Unchanged(),
        sk.layers.Projector(128, hidden_units=(512,), dtype=dtype),
        temperature=0.5,
        equivariance_weight=0.0,
        passes="joint" if impl.endswith("-joint") else "separate",
    )
    # As 5e-4 where weight decay passes through momentum.
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=5e-3), jit_compile=False)
    images = np.random.default_rng(0).integers(0, 256, (batch, *shape), dtype="uint8")
    facts = {"images": batch, "flops": 3 * 2 * batch * FORWARD_FLOPS}
    return lambda: model.train_on_batch(images), facts


if __name__ == "__main__":
    protocol.main(make, repetitions=3, budget=12)
