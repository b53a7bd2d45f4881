"""Soft nearest neighbour loss, forward and backward, 10 classes, 128 dimensions: `--case snnl-ROWS`."""

import protocol


def make(case, impl):
    """`snnl-4096`; the implementation is `star_keras`, or `star_keras-squared` for Euclidean distances."""
    import keras
    import tensorflow as tf

    import star_keras as sk

    count, width = int(case.removeprefix("snnl-")), 128
    loss = sk.losses.SoftNearestNeighbor(distance="squared" if impl.endswith("squared") else "cosine")
    embeddings = keras.random.normal((count, width), seed=0) / width**0.5
    labels = keras.random.randint((count,), 0, 10, seed=1)

    @tf.function(input_signature=[tf.TensorSpec((None,), "int32"), tf.TensorSpec((None, width))])
    def value_and_gradient(labels, embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            value = loss(labels, embeddings)
        return value, tape.gradient(value, embeddings)

    # The graph exists before memory is looked at; what the batch needs does not.
    value_and_gradient(labels[:8], embeddings[:8])
    facts = {"flops": 3 * 2 * count**2 * width, "bytes": 3 * 4 * count * width, "exps": count**2}
    return lambda: float(value_and_gradient(labels, embeddings)[0]), facts


if __name__ == "__main__":
    protocol.main(make, repetitions=4, budget=8)
