"""Inference averaged over quarter turns, ResNet-18 at 32 pixels, float32: `--case B1`, B8, B32."""

import protocol


def make(case, impl):
    """`B8`, a batch of 8; `star_keras`, the average over the orbit of four, or `single`, one forward."""
    import numpy as np
    import tensorflow as tf

    import star_keras as sk

    batch = int(case[1:])
    backbone = sk.models.create("resnet18", input_shape=(32, 32, 3))
    model = backbone if impl == "single" else sk.layers.EquiTune(backbone, sk.groups.Cyclic(4))
    images = np.random.default_rng(0).uniform(0, 255, (batch, 32, 32, 3)).astype("float32")
    images = tf.constant(images)
    forward = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec(images.shape)])
    return lambda: forward(images).numpy(), {"images": batch}


if __name__ == "__main__":
    protocol.main(make, repetitions=9, warmup=2, budget=6)
