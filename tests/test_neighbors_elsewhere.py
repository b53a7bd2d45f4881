"""The soft nearest neighbour loss in other processes: its memory, two replicas, the other backends."""

import itertools

import numpy as np
import pytest
from _elsewhere import MEMORY, TWO_CPUS, reads_memory, run_elsewhere
from _neighbors import CASES, DISTANCES, TEMPERATURES, assert_like_naive, naive

GRADIENT = """
import numpy as np
import tensorflow as tf
from star_keras.losses import SoftNearestNeighbor

@tf.function(input_signature=[tf.TensorSpec((None,), "int32"), tf.TensorSpec((None, 128))])
def gradient(labels, embeddings):
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        loss = SoftNearestNeighbor()(labels, embeddings)
    return tape.gradient(loss, embeddings)

rng = np.random.default_rng(0)
embeddings = tf.constant(rng.normal(size=(8192, 128)).astype("float32"))
labels = tf.constant(rng.integers(0, 10, 8192).astype("int32"))
gradient(labels[:64], embeddings[:64])
print(megabytes_of(lambda: gradient(labels, embeddings)))
"""


@pytest.mark.slow
@reads_memory
def test_8192_rows_need_no_more_than_100_megabytes():
    # One matrix of distances would be 268 MB.
    assert float(run_elsewhere(MEMORY + GRADIENT)) <= 100


REPLICAS = """
import sys
import numpy as np
import keras
from _neighbors import CASES
from star_keras import losses, training
from star_keras.layers import RoutedExperts

TERMS = ("load_balance", "router_z", "gate_entropy", "importance_variation", "expert_overlap")
mirrored = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
results = {}

def step(labels, embeddings, distance):
    loss = losses.SoftNearestNeighbor(0.5, distance, ignore_class=2)
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        rows, share = loss.call(labels, embeddings), loss(labels, embeddings)
    return rows, tape.gradient(share, embeddings)

labels, embeddings = CASES["random"]
for share, distance in [(share, distance) for share in (11, 20) for distance in ("cosine", "squared")]:
    parts = zip(np.split(labels, [share]), np.split(embeddings, [share]))
    parts = [[tf.constant(array) for array in part] for part in parts]
    def values(index):
        return mirrored.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group][index]
        )
    run = tf.function(lambda y, x: mirrored.run(step, (y, x, distance)))
    for name, result in zip(("rows", "gradient"), run(values(0), values(1))):
        results[f"{share}/{distance}/{name}"] = np.concatenate(mirrored.experimental_local_results(result))

def train(strategy, batch_size, count=20, loss="sparse_categorical_crossentropy", **options):
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = [keras.layers.Dense(5, activation="tanh", name=name) for name in ("first", "code")]
        layers.append(RoutedExperts(4, num_experts=3, batch_norm=False, hidden_units=(4,)))
        classifier = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Softmax()])
        model = training.SoftNearestNeighborRegularization(
            classifier, ("first", "code"), weight=2.0, router_weights=dict.fromkeys(TERMS, 0.1), **options
        )
        model.compile(keras.optimizers.SGD(0.1), loss, jit_compile=False)
    rows, sizes = (embeddings[:count], labels[:count]), {"batch_size": batch_size, "epochs": 3}
    history = model.fit(*rows, **sizes, shuffle=False, verbose=0).history
    return history, [np.asarray(weight) for weight in classifier.get_weights()]

# Of nine rows in batches of four a last one is left, and nothing for the second replica. There Keras takes
# the mean of the means of replicas for the compiled loss, so it is left out.
nine = {"count": 9, "loss": lambda labels, outputs: 0 * outputs[:, 0]}
for batch_size, options in [(10, {}), (4, nine | {"optimize_temperature": True, "distance": "squared"})]:
    one, one_weights = train(tf.distribute.get_strategy(), batch_size, **options)
    two, two_weights = train(mirrored, batch_size, **options)
    for name in one:
        results[f"one/{batch_size}/{name}"], results[f"two/{batch_size}/{name}"] = one[name], two[name]
    for index, pair in enumerate(zip(one_weights, two_weights)):
        results[f"one/{batch_size}/{index}"], results[f"two/{batch_size}/{index}"] = pair
np.savez(sys.argv[1], **results)
"""


@pytest.mark.slow
def test_two_replicas_equal_one_with_the_global_batch(tmp_path):
    run_elsewhere(TWO_CPUS + REPLICAS, tmp_path / "results.npz")
    results = np.load(tmp_path / "results.npz")
    labels, embeddings = CASES["random"]
    for share, distance in itertools.product((11, 20), DISTANCES):
        rows, gradient, _ = naive(labels, embeddings, 0.5, distance, mask=labels != 2)
        found, slopes = (results[f"{share}/{distance}/{name}"] for name in ("rows", "gradient"))
        np.testing.assert_allclose(found, rows, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(slopes, gradient, rtol=0, atol=1e-5 * np.abs(gradient).max())
    names = [name.removeprefix("one/") for name in results.files if name.startswith("one/")]
    seen = {"loss", "task_loss", "code_entanglement", "load_balance", "router_z", "0", "5"}
    assert {f"{size}/{name}" for size in (4, 10) for name in seen} <= set(names)
    for name in names:
        np.testing.assert_allclose(results[f"two/{name}"], results[f"one/{name}"], rtol=1e-5, atol=2e-5)


BACKENDS = """
import sys
import keras
import numpy as np
from _neighbors import CASES, DISTANCES, TEMPERATURES
from star_keras.losses import SoftNearestNeighbor, neighbors

def evaluation(**options):
    loss = SoftNearestNeighbor(**options)
    if keras.backend.backend() == "jax":
        import jax

        def at(embeddings, temperature, labels):
            loss.temperature = temperature
            return loss(labels, embeddings), loss.call(labels, embeddings)

        run = jax.jit(jax.grad(at, argnums=(0, 1), has_aux=True))

        def evaluate(labels, embeddings, temperature):
            gradients, rows = run(embeddings, jax.numpy.float32(temperature), labels)
            return rows, *gradients

        return evaluate
    import torch

    def evaluate(labels, embeddings, temperature):
        embeddings = torch.tensor(embeddings, requires_grad=True)
        loss.temperature = torch.tensor(temperature, dtype=torch.float32, requires_grad=True)
        loss(labels, embeddings).backward()
        slope = loss.temperature.grad
        rows = loss.call(labels, embeddings).detach()
        return rows, embeddings.grad, torch.zeros(()) if slope is None else slope

    return evaluate

neighbors.BLOCK_SIZE = 7
results = {}

def keep(name, found):
    for part, result in zip(("rows", "gradient", "slope"), found):
        results[f"{name}/{part}"] = np.asarray(result)

for distance in DISTANCES:
    evaluate = evaluation(distance=distance)
    for case, (labels, embeddings) in CASES.items():
        for temperature in TEMPERATURES:
            keep(f"{case}/{distance}/{temperature}", evaluate(labels, embeddings, temperature))
    labels, embeddings = CASES["random"]
    padded = np.where(np.arange(20) < 5, -1, labels)
    keep(f"padded/{distance}", evaluation(distance=distance, ignore_class=-1)(padded, embeddings, 0.5))
    improved = evaluation(distance=distance, optimize_temperature=True)
    keep(f"improved/{distance}", improved(labels, embeddings, 3.0))
np.savez(sys.argv[1], **results)
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_agree_with_the_naive_float64_matrices(backend, tmp_path):
    run_elsewhere(BACKENDS, tmp_path / "results.npz", backend=backend)
    results = np.load(tmp_path / "results.npz")

    def found(name):
        return [results[f"{name}/{part}"] for part in ("rows", "gradient", "slope")]

    for distance in DISTANCES:
        for case, (labels, embeddings) in CASES.items():
            for temperature in TEMPERATURES:
                expected = naive(labels, embeddings, temperature, distance)
                actual = found(f"{case}/{distance}/{temperature}")
                if embeddings.dtype == np.float16 and np.abs(expected[1]).max() > 6e4:
                    actual, expected = actual[:1], expected[:1]  # no float16 holds such a gradient
                assert_like_naive(actual, expected, embeddings, temperature, distance)
        labels, embeddings = CASES["random"]
        expected = naive(labels, embeddings, 0.5, distance, mask=np.arange(20) >= 5)
        assert_like_naive(found(f"padded/{distance}"), expected, embeddings, 0.5, distance)
        slope = -3.0 * naive(labels, embeddings, 3.0, distance)[2]
        improved = 3.0 / (1 - 0.1 * slope)
        expected = naive(labels, embeddings, improved, distance)[:2]
        assert_like_naive(found(f"improved/{distance}")[:2], expected, embeddings, improved, distance)
