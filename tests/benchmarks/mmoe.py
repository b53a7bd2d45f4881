"""Experts behind two gates, 512 -> hidden -> 128, forward and backward: `--case eEXPERTS-bBATCH-hHIDDEN`."""

import protocol


def make(case, impl):
    """`e8-b512-h512`; `star_keras`, or `first-call...`: a first jitted call, compiler included."""
    import keras
    import tensorflow as tf

    import star_keras as sk

    experts, batch, hidden = (int(part[1:]) for part in case.split("-"))
    width, units = 512, 128
    layer = sk.layers.RoutedExperts(
        units, num_experts=experts, tasks=("first", "second"), hidden_units=(hidden,), batch_norm=False
    )
    layer.build((batch, width))
    inputs = keras.random.normal((batch, width), seed=0)
    weights = [variable.value for variable in layer.trainable_variables]

    def gradients():
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = sum(tf.reduce_mean(tf.square(task)) for task in layer(inputs).values())
        return tape.gradient(loss, [inputs, *weights])

    facts = {"flops": 3 * 2 * batch * experts * (width * hidden + hidden * units), "images": batch}
    if impl.startswith("first-call"):
        return lambda: tf.function(gradients, jit_compile=True)(), facts
    return tf.function(gradients), facts


if __name__ == "__main__":
    protocol.main(make, repetitions=25, warmup=3, budget=4)
