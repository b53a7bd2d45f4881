"""NT-Xent, forward and backward, temperature 0.5, 128 dimensions: `--case ntxent-PAIRS`."""

import protocol


def make(case, impl):
    """`ntxent-4096`; the only implementation is `star_keras`."""
    import keras
    import tensorflow as tf

    import star_keras as sk

    pairs, width = int(case.removeprefix("ntxent-")), 128
    loss = sk.losses.NTXent(temperature=0.5)
    targets, predictions = (keras.random.normal((pairs, width), seed=seed) for seed in (0, 1))

    @tf.function(input_signature=[tf.TensorSpec((None, width))] * 2)
    def value_and_gradients(targets, predictions):
        with tf.GradientTape() as tape:
            tape.watch([targets, predictions])
            value = loss(targets, predictions)
        return value, tape.gradient(value, [targets, predictions])

    # The graph exists before memory is looked at; what the batch needs does not.
    value_and_gradients(targets[:8], predictions[:8])
    rows = 2 * pairs
    facts = {"flops": 3 * 2 * rows**2 * width, "bytes": 3 * 4 * rows * width, "exps": rows**2}
    return lambda: float(value_and_gradients(targets, predictions)[0]), facts


if __name__ == "__main__":
    protocol.main(make, repetitions=4, budget=8)
