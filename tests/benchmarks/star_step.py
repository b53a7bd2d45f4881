"""One STAR step beside one with as many encoder passes and the least head: `--case bsBATCH`.

ResNet-18 with the CIFAR stem at 32 px, views made inside the step, bfloat16, three passes.
"""

import protocol


def make(case, impl):
    """`bs128`; `16-experts` is STAR, `one-head` the same losses behind one projector, no deep predictor."""
    import keras
    import numpy as np

    import star_keras as sk

    keras.config.set_dtype_policy("mixed_bfloat16")
    batch, shape = int(case.removeprefix("bs")), (32, 32, 3)
    heads = {
        "16-experts": lambda: {
            "projector": sk.layers.RoutedExperts(
                128, num_experts=16, tasks=("invariant", "equivariant"), hidden_units=(512, 512)
            )
        },
        "one-head": lambda: {
            "projector": sk.layers.Projector(128, hidden_units=(512, 512)),
            "predictor": sk.layers.EquivariantPredictor(hidden_units=()),
        },
    }
    model = sk.training.STARPretraining(
        sk.models.create("resnet18", input_shape=shape), sk.augmentation.star_views(32), **heads[impl]()
    )
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=5e-3), jit_compile=False)
    images = np.random.default_rng(0).integers(0, 256, (batch, *shape), dtype="uint8")
    return lambda: model.train_on_batch(images), {"images": batch}


if __name__ == "__main__":
    protocol.main(make, repetitions=3, budget=20)
