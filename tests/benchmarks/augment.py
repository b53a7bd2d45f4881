"""Views of 256 images with their parameters, crop to blur, sizes kept: `--case augSIZE`."""

import protocol


def make(case, impl):
    """`aug32` or `aug96`; the only implementation is `star_keras`."""
    import keras
    import numpy as np
    import tensorflow as tf

    import star_keras as sk

    count, size = 256, int(case.removeprefix("aug"))
    shape = (size, size, 3)
    images = tf.constant(np.random.default_rng(0).integers(0, 256, (count, *shape), dtype="uint8"))
    views, seed = sk.augmentation.star_views(size), keras.random.SeedGenerator(0)

    @tf.function
    def run():
        parameters = views.sample(count, shape, seed)
        return views.apply(images, parameters), views.encode(parameters)

    # The least that has to move: pixels read as bytes, written as float32.
    return run, {"images": count, "bytes": count * size * size * 3 * (1 + 4)}


if __name__ == "__main__":
    protocol.main(make, repetitions=5, budget=8)
