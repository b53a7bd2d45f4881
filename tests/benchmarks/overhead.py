"""What equitune, equizero and λ-equitune cost beside the model alone.

`--case commands-training --impl lambda`: images, zero_shot, control, text or commands, then `inference`,
`latency` (the same of one row) or `training`, of texts also `generation`; `alone` or a method.
"""

import itertools

import protocol

WEIGHTINGS = {"equitune": "mean", "equizero": "argmin", "lambda": "lambda"}
BATCH, MAX_ACTIONS, NEW_TOKENS = 32, 48, 20


def make(case, impl):
    """An application and what is done, such as `text-training`; `alone` or the name of a method."""
    import keras
    import tensorflow as tf

    application, act = case.split("-")
    count = 1 if act == "latency" else BATCH
    keras.utils.set_random_seed(0)
    if act == "generation":
        return _generation(impl), {"images": count}
    model, inputs, targets, loss = APPLICATIONS[application](impl)
    if act == "training":
        model.compile("sgd", loss)
        return lambda: model.train_on_batch(inputs, targets), {"images": count}
    if application == "commands":
        return _decoding(model, inputs["commands"][:count]), {"images": count}
    forward = tf.function(lambda rows: model(rows, training=False))
    rows = tf.constant(inputs[:count])
    return lambda: forward(rows).numpy(), {"images": count}


def images(impl):
    """ResNet-20 at 32 pixels, four quarter turns."""
    import star_keras as sk

    model = sk.models.create("resnet20", input_shape=(32, 32, 3), num_classes=10, classifier_activation=None)
    if impl != "alone":
        options = {
            "equitune": {},
            "equizero": {"weighting": "argmin", "score": "max_value"},
            "lambda": {"weighting": "lambda", "score": _score(), "features": "features"},
        }
        model = _wrapped(sk.layers.EquiTune(model, sk.groups.Cyclic(4), **options[impl]))
    return model, _pixels(), _integers((BATCH,), 10), _cross_entropy()


def zero_shot(impl):
    """A ResNet-20 beside a small text tower, ten prompts, four quarter turns."""
    import star_keras as sk
    from star_keras.applications import zero_shot

    words = [f"word{number}" for number in range(10)]
    backbone = {"architecture": "resnet20", "input_shape": [32, 32, 3]}
    model = zero_shot.from_prompts(
        sk.models.create("dual_encoder", backbone=backbone, vocabulary=words), words, ["{}"]
    )
    if impl != "alone":
        model = _wrapped(zero_shot.invariant(model, sk.groups.Cyclic(4), impl))
    return model, _pixels(), _integers((BATCH,), 10), _cross_entropy()


def control(impl):
    """The Q-network of CartPole and its mirror."""
    import numpy as np

    import star_keras as sk
    from star_keras.applications import control

    model = sk.models.create("q_network", state_size=4, num_actions=2)
    if impl != "alone":
        model = control.symmetry_of("CartPole-v1").wrap(model, WEIGHTINGS[impl])
    rng = np.random.default_rng(0)
    return model, rng.normal(size=(BATCH, 4)), rng.normal(size=(BATCH, 2)), "mse"


def text(impl):
    """A GPT of two layers of 64 on 64 tokens of 1,000, three words that change places."""
    import star_keras as sk
    from star_keras.applications import language

    size = 1000
    model = sk.models.create("gpt", vocabulary_size=size, max_length=64, units=64, num_layers=2, num_heads=4)
    if impl == "equitune":
        model = language.EquiLM(model, _cycle(size))
    return model, _integers((BATCH, 64), size), _integers((BATCH, 64), size), _cross_entropy()


def _generation(impl):
    """What writes on, from prompts of 44 tokens; equizero chooses after every five."""
    from star_keras.applications import language

    model, tokens, _, _ = text(impl)
    prompts = tokens[:, :-NEW_TOKENS]
    if impl != "equizero":
        return lambda: language.generate(model, prompts, NEW_TOKENS)
    spelt = map("".join, itertools.product("abcdefghij", repeat=3))
    words = language.WordTokenizer(itertools.islice(spelt, model.vocabulary_size - 1))
    writer = language.EquizeroLM(model, _cycle(words.size), lambda texts: list(map(len, texts)), words)
    return lambda: writer.generate(prompts, NEW_TOKENS)


def _cycle(size):
    import star_keras as sk

    return sk.groups.VocabularyCycle([[1, 2, 3]], size)


def commands(impl):
    """A GRU encoder-decoder of 64 units on SCAN, four verbs; inference decodes up to 48 actions."""
    import star_keras as sk
    from star_keras.applications import scan

    words = sk.data.SCAN_VOCABULARY
    model = sk.models.create("gru_seq2seq", vocabulary_size=words.size, units=64)
    if impl != "alone":
        verbs = scan.task_group("add_jump", order=4)
        model = sk.models.EquivariantSequenceToSequence(
            model, verbs, weighting=WEIGHTINGS[impl], combine="sentence" if impl == "equizero" else "step"
        )
    sentences = sk.data.scan_sentences()
    tokens = words.encode_actions(sentences.actions[-BATCH:], MAX_ACTIONS)
    inputs = {
        "commands": words.encode_commands(sentences.commands[-BATCH:], 9),
        "actions": tokens[:, :-1],
    }
    return model, inputs, tokens[:, 1:], _cross_entropy()


APPLICATIONS = {
    "images": images,
    "zero_shot": zero_shot,
    "control": control,
    "text": text,
    "commands": commands,
}


def _wrapped(layer):
    import keras

    return keras.Sequential([keras.Input((32, 32, 3)), layer])


def _score():
    import keras

    return keras.Sequential([keras.layers.Dense(100, "relu"), keras.layers.Dense(1)])


def _cross_entropy():
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _decoding(model, commands):
    from star_keras.models.decoding import GreedyDecoder

    decoder = GreedyDecoder(model, max_actions=MAX_ACTIONS)
    return lambda: decoder.predict_on_batch(commands)


def _pixels():
    return _integers((BATCH, 32, 32, 3), 256).astype("float32")


def _integers(shape, high):
    import numpy as np

    return np.random.default_rng(0).integers(0, high, shape, dtype="int32")


if __name__ == "__main__":
    protocol.main(make, repetitions=9, warmup=2, budget=10)
