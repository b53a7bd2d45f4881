"""All measures of a model: the numbers of their functions, kept one by one, never those of something else."""

import dataclasses
import json
import random

import keras
import numpy as np
import pytest
from _reporting import SMALL, images, pretraining_model

import star_keras as sk
from star_keras import evaluation
from star_keras.evaluation import Report, ReportSettings, report, reporting
from star_keras.evaluation.arrays import TooFewSamples
from star_keras.evaluation.table import shown_value
from star_keras.exceptions import NonFiniteError, ShapeError

TRAIN, TEST = images(40), images(30, seed=1)
SETTINGS = ReportSettings(**SMALL)
BARE = ReportSettings(**SMALL, untrained=False)
LABELLED = {"linear_probe", "nearest_neighbor", "few_shot"}


@pytest.fixture(scope="module")
def model():
    return pretraining_model()


@pytest.fixture(scope="module")
def straight(model):
    return report(model, TRAIN, TEST, SETTINGS, verbose=False)


@pytest.fixture
def taken(monkeypatch):
    """The names of the measures that are taken, as they are."""
    names = []

    def counted(name, function):
        def measure(subject, **arguments):
            names.append(name)
            return function(subject, **arguments)

        return measure

    for name, function in reporting.MEASURES.items():
        monkeypatch.setitem(reporting.MEASURES, name, counted(name, function))
    return names


def values(found):
    return [row.value for row in found.table]


def test_numbers_are_those_of_the_functions_of_evaluation(model, straight):
    rows = np.random.default_rng(1).permutation(40)[:24]
    features = [evaluation.extract_features(model.backbone, part[0], verbose=0) for part in (TRAIN, TEST)]
    expected = evaluation.nearest_neighbors(features[0][rows], TRAIN[1][rows], features[1], TEST[1])
    assert straight.measures["nearest_neighbor"][1] == {"count": 24, "seed": 1, **expected.to_dict()}

    seen = TEST[0][np.sort(np.random.default_rng(0).permutation(30)[:16])]
    tasks = [evaluation.extract_embeddings(model, seen, task, verbose=0) for task in model.projector.tasks]
    correlation = evaluation.canonical_correlation(*tasks)
    (found,) = straight.measures["task_correlation"]
    assert found["mean"] == pytest.approx(correlation.mean)
    assert found["floor"] == pytest.approx(correlation.floor)

    experts = evaluation.extract_embeddings(model, seen, "experts", verbose=0)
    (found,) = straight.measures["expert_correlation"]
    np.testing.assert_allclose(found["matrix"], evaluation.expert_correlations(experts), atol=1e-6)


def test_every_number_has_its_seed_and_samples_and_its_floor_where_there_is_one(straight):
    assert isinstance(straight, Report) and not straight.skipped
    for row in straight.table:
        assert row.seeds == ([0, 1] if "robe" in row.label or "Nearest" in row.label else [0]), row
        assert any(character.isdigit() for character in row.samples), row
        assert (row.floor is None) == (row.group == "Routing"), row
        assert (row.untrained is None) == (row.group == "Views, by its own predictor"), row
    few = [row for row in straight.table if row.label.startswith("Few-shot")]
    assert [row.floor for row in few] == [1 / 3, 1 / 3]


def test_the_report_does_not_depend_on_the_batch_size(model, straight):
    found = report(model, TRAIN, TEST, BARE, batch_size=7, verbose=False)
    np.testing.assert_allclose(values(found), values(straight), atol=2e-4)


def test_interrupted_and_gone_on_equals_straight(model, straight, tmp_path, taken, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setitem(reporting.MEASURES, "expert_correlation", interrupt)
        with pytest.raises(KeyboardInterrupt):
            report(model, TRAIN, TEST, SETTINGS, folder=tmp_path)
    first = list(taken)
    assert first and len(list(tmp_path.iterdir())) == len(first)

    found = report(model, TRAIN, TEST, SETTINGS, folder=tmp_path)
    assert found.to_dict() == straight.to_dict()
    again = len(taken)
    assert again == 24
    assert report(model, TRAIN, TEST, SETTINGS, folder=tmp_path).to_dict() == straight.to_dict()
    assert len(taken) == again
    assert all(path.suffix == ".json" and not path.name.startswith(".") for path in tmp_path.iterdir())
    said = capsys.readouterr().err
    assert f"{len(first)} of 24 measures are in" in said
    assert "left" in said and "[24/24]" in said


def interrupt(subject, **arguments):
    raise KeyboardInterrupt


def test_another_model_other_images_and_other_settings_are_measured_anew(tmp_path, taken):
    model = pretraining_model().backbone
    first = report(model, TRAIN, TEST, BARE, folder=tmp_path, verbose=False)
    every = len(taken)

    model.layers[-1].kernel.assign(np.flip(model.layers[-1].kernel, axis=0))
    second = report(model, TRAIN, TEST, BARE, folder=tmp_path, verbose=False)
    assert len(taken) == 2 * every and values(first) != values(second)

    report(model, TRAIN, (TEST[0][::-1].copy(), TEST[1][::-1].copy()), BARE, folder=tmp_path, verbose=False)
    assert len(taken) == 3 * every

    more = ReportSettings(**{**SMALL, "episodes": 6, "untrained": False})
    report(model, TRAIN, TEST, more, folder=tmp_path, verbose=False)
    assert taken[3 * every :] == ["few_shot", "few_shot"]


@pytest.mark.parametrize("change", [dict(pooling="max"), dict(dtype="mixed_bfloat16")])
def test_the_same_weights_in_another_network_are_measured_anew(change, tmp_path, taken):
    def network(pooling="average", dtype="float32"):
        pool = {"average": keras.layers.GlobalAveragePooling2D, "max": keras.layers.GlobalMaxPooling2D}
        conv = keras.layers.Conv2D(5, 3, dtype=dtype, name="conv")
        layers = [keras.Input((8, 8, 3)), conv, pool[pooling](name="pool", dtype=conv.dtype_policy)]
        return keras.Sequential(layers, name="network")

    one, other = network(), network(**change)
    other.set_weights(one.get_weights())
    report(one, TRAIN, TEST, BARE, folder=tmp_path, verbose=False)
    every = len(taken)
    report(other, TRAIN, TEST, BARE, folder=tmp_path, verbose=False)
    assert len(taken) == 2 * every


def test_a_file_that_is_not_whole_is_measured_anew(model, tmp_path, taken):
    model = model.backbone
    first = report(model, TRAIN, TEST, BARE, folder=tmp_path, verbose=False)
    every = len(taken)
    for path, text in zip(sorted(tmp_path.glob("few_shot*")), ("", '{"key": 3}'), strict=True):
        path.write_text(text)
    assert report(model, TRAIN, TEST, BARE, folder=tmp_path, verbose=False).to_dict() == first.to_dict()
    assert taken[every:] == ["few_shot", "few_shot"]


def test_images_of_one_class_leave_out_what_needs_labels_and_say_why(model):
    one = report(model, (TRAIN[0], 0 * TRAIN[1]), (TEST[0], 0 * TEST[1]), BARE, verbose=False)
    assert set(one.skipped) == LABELLED
    assert "at least two classes" in one.skipped["linear_probe"]
    assert {"spread", "equivariance", "routing", "retrieval"} <= set(one.measures)


def test_fewer_samples_than_shots_leave_out_those_shots(model):
    few = report(model, TRAIN, (TEST[0][:12], TEST[1][:12]), BARE, verbose=False)
    assert [run["shots"] for run in few.measures["few_shot"]] == [1]
    assert "more than shots=5 images" in few.skipped["few_shot"]


def test_a_single_test_image_leaves_out_what_compares_images_and_says_why(model):
    one = report(model, TRAIN, (TEST[0][:1], TEST[1][:1]), BARE, verbose=False)
    compared = {"few_shot", "task_correlation", "expert_correlation", "retrieval", "equivariance"}
    assert set(one.skipped) == compared
    assert "at least two samples. Received: 1" in one.skipped["task_correlation"]


def test_constant_images_have_finite_numbers_at_their_floor(model):
    grey = np.full_like(TEST[0], 90)
    found = report(model, (np.full_like(TRAIN[0], 90), TRAIN[1]), (grey, TEST[1]), BARE, verbose=False)
    assert not found.skipped and np.isfinite(values(found)).all()
    chance = {row.label: (row.value, row.floor) for row in found.table}
    for label in ("Nearest neighbour", "Linear probe", "Few-shot: 3-way, 5-shot"):
        assert chance[label][0] == pytest.approx(chance[label][1])
    assert chance["Spread (at most 1)"][0] == pytest.approx(0, abs=1e-3)
    assert found.measures["task_correlation"][0]["mean"] == 0


def test_a_backbone_alone_gets_the_parts_that_apply(model):
    found = report(model.backbone, TRAIN, TEST, BARE, verbose=False)
    assert set(found.measures) == {*LABELLED, "spread", "equivariance", "retrieval"}
    assert [run["predictor"] for run in found.measures["equivariance"]] == ["fitted"]
    assert list(found.measures["retrieval"][0]["neighbors"]) == ["backbone"]


def test_the_untrained_network_is_another_one_and_always_the_same(model):
    one, other = (evaluation.untrained(model, TRAIN[0], batch_size=8, steps=3) for _ in range(2))
    features = [evaluation.extract_features(own.backbone, TEST[0], verbose=0) for own in (model, one, other)]
    assert not np.allclose(features[0], features[1], atol=1e-2)
    np.testing.assert_array_equal(features[1], features[2])


def test_the_untrained_network_is_that_of_its_seed_and_moves_no_generator(model):
    def drawn():
        return random.random(), np.random.random(), float(keras.random.uniform(()))

    keras.utils.set_random_seed(3)
    expected = drawn()
    keras.utils.set_random_seed(3)
    one = evaluation.untrained(model, TRAIN[0], seed=5, batch_size=8, steps=1)
    assert drawn() == expected
    keras.utils.set_random_seed(5)
    two = type(model).from_config(model.get_config())
    two.build(TRAIN[0].shape)
    for weight, other in zip(one.trainable_weights, two.trainable_weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), other.numpy())


def test_an_untrained_network_needs_images_that_fit(model):
    with pytest.raises(ValueError, match="at least one image. Received: none"):
        evaluation.untrained(model, TRAIN[0][:0])
    with pytest.raises(ShapeError, match="give one as"):
        evaluation.untrained(model, TRAIN[0][0])


@pytest.mark.parametrize("kind", [keras.layers.BatchNormalization, sk.layers.BatchNormalization])
def test_statistics_of_the_untrained_network_have_forgotten_what_they_begin_with(kind):
    inputs, normalization = keras.Input((8, 8, 3)), kind(momentum=0.9, name="norm")
    backbone = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(normalization(inputs)))
    calm = np.random.default_rng(0).normal(100, 0.1, (40, 8, 8, 3)).astype("float32")
    first = evaluation.untrained(backbone, calm).get_layer("norm")
    np.testing.assert_allclose(first.moving_variance, 0.01, rtol=0.05)
    np.testing.assert_allclose(first.moving_mean, 100, rtol=1e-4)


def test_draws_of_all_images_have_no_spread_over_seeds_but_an_error_by_the_test_images(model):
    whole = ReportSettings(**{**SMALL, "count": 40, "untrained": False})
    found = report(model.backbone, TRAIN, TEST, whole, verbose=False)
    (neighbor,) = found.measures["nearest_neighbor"]
    by_label = {row.label: row for row in found.table}
    row = by_label["Nearest neighbour"]
    assert (row.spread, row.spread_of, row.seeds) == (neighbor["standard_error"], "test images", [0])
    row, probes = by_label["Linear probe"], found.measures["linear_probe"]
    assert (row.spread_of, row.seeds) == ("test images", [0, 1])
    assert row.spread == pytest.approx(np.mean([run["standard_error"] for run in probes])) != 0
    drawn = {row.label: row.spread_of for row in report(model, TRAIN, TEST, BARE, verbose=False).table}
    assert drawn["Linear probe"] == drawn["Nearest neighbour"] == "seeds"


def test_an_untrained_network_of_another_seed_or_from_other_images_is_measured_anew(
    model, tmp_path, taken, monkeypatch
):
    def measured(seeds):
        before, settings = len(taken), ReportSettings(**{**SMALL, "seeds": seeds})
        found = report(model.backbone, TRAIN, TEST, settings, folder=tmp_path, verbose=False)
        return len(taken) - before, sum(map(len, found.untrained.values()))

    own, untrained = 9, 8
    assert measured((0, 1)) == (own + untrained, untrained)
    probes_and_neighbors = 4
    assert measured((1, 0)) == (own - probes_and_neighbors + untrained, untrained)
    monkeypatch.setattr(evaluation.baseline, "STEPS", 7)
    assert measured((1, 0)) == (untrained, untrained)


@pytest.mark.parametrize("change", [(keras, "version"), (keras.backend, "backend")])
def test_another_keras_or_backend_measures_anew(model, change, tmp_path, taken, monkeypatch):
    report(model.backbone, TRAIN, TEST, BARE, folder=tmp_path, verbose=False)
    every = len(taken)
    real = reporting._Kept.__init__

    def other(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(*change, lambda: "another")
            real(*arguments)

    monkeypatch.setattr(reporting._Kept, "__init__", other)
    report(model.backbone, TRAIN, TEST, BARE, folder=tmp_path, verbose=False)
    assert len(taken) == 2 * every


def test_a_measure_that_only_some_seeds_have_says_which_it_lacks(model, monkeypatch):
    real = reporting.MEASURES["linear_probe"]

    def fails(subject, count, seed):
        if seed == 1 or subject.model is not model:
            raise TooFewSamples("too few images.")
        return real(subject, count, seed)

    monkeypatch.setitem(reporting.MEASURES, "linear_probe", fails)
    found = report(model, TRAIN, TEST, SETTINGS, verbose=False)
    assert [run["seed"] for run in found.measures["linear_probe"]] == [0]
    names = "seed 1 and untrained network, seed 0 and untrained network, seed 1"
    assert found.skipped == {"linear_probe": f"{names}: too few images."}


def test_of_few_test_images_of_many_classes_some_are_left_to_be_found(model):
    few = ReportSettings(**{**SMALL, "images": 4, "untrained": False})
    found = report(model, TRAIN, (TEST[0][:4], np.array([0, 1, 2, 2])), few, verbose=False)
    (retrieval,) = found.measures["retrieval"]
    assert len(retrieval["queries"]) == 2
    two = report(model, TRAIN, (TEST[0][:2], np.array([0, 1])), few, verbose=False)
    assert len(two.measures["retrieval"][0]["queries"]) == 1


def test_what_does_not_apply_is_a_dash(model):
    never = sk.augmentation.HorizontalFlip(probability=0.0)
    config = model.get_config()
    still = type(model).from_config(
        {**config, "augmentation": keras.saving.serialize_keras_object(never), "predictor": None}
    )
    still.build(TRAIN[0].shape)
    found = report(still, TRAIN, TEST, BARE, verbose=False)
    rows = {row.label: shown_value(row) for row in found.table}
    assert rows["Prediction error"] == rows["R² of the parameters"] == "–"


def test_the_untrained_twin_of_a_frozen_network_has_seen_images_too():
    free = sk.models.create("resnet20", input_shape=(8, 8, 3))
    frozen = sk.models.create("resnet20", input_shape=(8, 8, 3), trainable=False)
    features = [
        evaluation.extract_features(evaluation.untrained(one, TRAIN[0], steps=3), TEST[0], verbose=0)
        for one in (free, frozen)
    ]
    np.testing.assert_array_equal(*features)


@pytest.mark.parametrize(
    ("train", "test", "error", "message"),
    [
        (images(40), (np.zeros((9, 16, 16, 3), "uint8"), np.arange(9) % 3), ShapeError, "resize the images"),
        (images(40, classes=2), images(30), ValueError, "must occur in training. Received: .2., 1 unknown"),
        (
            (images(40)[0], np.zeros(39, int)),
            images(30),
            ValueError,
            "`labels of train` must be 40 .* shape .39,",
        ),
        ((images(40)[0], np.zeros(40)), images(30), ValueError, "type float64"),
    ],
)
def test_images_that_do_not_fit_are_refused_before_anything_is_measured(
    model, train, test, error, message, taken
):
    with pytest.raises(error, match=message):
        report(model, train, test, BARE, verbose=False)
    assert not taken


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"count": 1}, "`count`"), ({"seeds": ()}, "`seeds`"), ({"seeds": (1, 1)}, "`seeds`"),
     ({"seeds": (-1,)}, "`seeds`"), ({"views": 1}, "`views`"), ({"images": 2.5}, "`images`")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ReportSettings(**wrong)


def test_settings_may_be_numbers_of_numpy():
    told = dataclasses.asdict(ReportSettings(count=np.int64(5), seeds=np.arange(2)))
    assert json.loads(json.dumps(told))["seeds"] == [0, 1] and told["count"] == 5


@pytest.mark.parametrize("error", [np.linalg.LinAlgError, ShapeError, ValueError])
def test_any_other_error_of_a_measure_stops_the_report_and_is_no_lack_of_images(model, error, monkeypatch):
    def fails(subject, **arguments):
        raise error("SVD did not converge")

    monkeypatch.setitem(reporting.MEASURES, "spread", fails)
    with pytest.raises(error, match="did not converge"):
        report(model, images(40), images(30), BARE, verbose=False)


def test_weights_that_are_not_finite_stop_the_report():
    broken = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])
    broken.layers[-1].kernel.assign(np.full((192, 3), np.nan))
    with pytest.raises(NonFiniteError):
        report(broken, TRAIN, TEST, BARE, verbose=False)
