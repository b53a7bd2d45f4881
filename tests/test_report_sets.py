"""Which images `reports.measure` trains probes on, and which it tests them on."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from star_keras import evaluation, models, reports
from star_keras.__main__ import main
from star_keras.exceptions import ShapeError

SETTINGS = evaluation.ReportSettings(count=12, seeds=(0,), images=4, views=2, episodes=2, untrained=False)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "mine"
    models.save(models.create("resnet20", input_shape=(8, 8, 3)), folder)
    return folder


def write_images(folder, classes, count=6):
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = RNG.integers(0, 256, (8, 8, 3), dtype="uint8")
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def test_a_set_whose_only_split_is_a_test_split_is_not_tested_on_itself(mine, tmp_path):
    write_images(tmp_path / "images", "ab", count=15)
    files = [path.read_bytes() for path in sorted((tmp_path / "images").rglob("*.png"))]
    np.savez(
        tmp_path / "one.npz",
        test_blob=np.frombuffer(b"".join(files), "uint8"),
        test_offsets=np.cumsum([0, *map(len, files)]),
        test_labels=np.repeat([0, 1], 15),
        class_names=["a", "b"],
    )
    document = reports.measure(mine, tmp_path / "one.npz", settings=SETTINGS)
    assert "a fifth held out" in document.sources["test"]
    assert len(document.test_labels) == 6


def test_of_each_class_some_are_trained_on_and_a_fifth_is_held_out(mine, tmp_path):
    counts = np.array([10, 15, 2, *[1] * 12])
    images, labels = RNG.integers(0, 256, (counts.sum(), 8, 8, 3), "uint8"), np.arange(15).repeat(counts)
    np.savez(tmp_path / "rare.npz", x_train=images, y_train=labels)
    document = reports.measure(mine, tmp_path / "rare.npz", settings=SETTINGS)
    np.testing.assert_array_equal(np.bincount(document.test_labels), [2, 3, 1])
    assert document.report.data == {"train_images": 33, "test_images": 6, "classes": 15}


@pytest.mark.parametrize("shapes", [((6, 6), (12, 12)), ((12, 12), (6, 6)), ((6, 12), (6, 6))])
def test_images_of_both_sets_are_cut_to_size_where_one_is_larger(shapes, mine, tmp_path, monkeypatch):
    """So a set is never framed in black beside one that is not."""
    sets = []
    monkeypatch.setattr(evaluation, "report", lambda model, train, test, *_: sets.extend((train[0], test[0])))
    for shape, name in zip(shapes, ("train", "test"), strict=True):
        pixels = np.full((4, *shape), 200 + len(name), "uint8")
        pixels[:, 0] += np.arange(4, dtype="uint8")[:, None]
        np.savez(tmp_path / f"{name}.npz", x_train=pixels, y_train=np.arange(4) % 2)
    reports.measure(mine, tmp_path / "train.npz", tmp_path / "test.npz", SETTINGS)
    for images in sets:
        assert images.shape == (4, 8, 8, 3) and images.min() > 190


def test_a_model_that_takes_no_squares_is_measured_on_images_of_its_shape(tmp_path):
    models.save(models.create("resnet20", input_shape=(8, 12, 3)), tmp_path / "wide")
    for shape, name in (((8, 12), "wide.npz"), ((8, 8), "square.npz")):
        pixels = RNG.integers(0, 256, (30, *shape), "uint8")
        np.savez(tmp_path / name, x_train=pixels, y_train=np.arange(30) % 2)
    found = reports.measure(tmp_path / "wide", tmp_path / "wide.npz", settings=SETTINGS)
    assert found.test_images.shape == (6, 8, 12, 3) and "linear_probe" in found.report.measures
    with pytest.raises(ShapeError, match=r"of shape \(8, 12, 3\). Received: .* \(24, 8, 8, 3\)"):
        reports.measure(tmp_path / "wide", tmp_path / "square.npz", settings=SETTINGS)


def test_images_of_two_sets_that_fit_are_centred_on_black_unless_one_is_a_folder(mine, tmp_path, monkeypatch):
    sets = []
    monkeypatch.setattr(evaluation, "report", lambda model, train, test, *_: sets.extend((train[0], test[0])))
    for name in ("train", "test"):
        pixels = RNG.integers(100, 256, (4, 6, 6), "uint8")
        np.savez(tmp_path / f"{name}.npz", x_train=pixels, y_train=np.arange(4) % 2)
    reports.measure(mine, tmp_path / "train.npz", tmp_path / "test.npz", SETTINGS)
    assert all(not images[:, 0].any() and images[:, 1:-1, 1:-1].all() for images in sets)
    write_images(tmp_path / "photos", "ab")
    sets.clear()
    np.savez(tmp_path / "test.npz", x_train=pixels, y_train=np.arange(4) % 2, class_names=["a", "b"])
    reports.measure(mine, tmp_path / "photos", tmp_path / "test.npz", SETTINGS)
    assert sets[1][:, 0].all()


def test_classes_of_both_splits_go_by_their_names(mine, tmp_path, monkeypatch):
    write_images(tmp_path / "photos" / "train", ("cat", "dog", "horse"))
    write_images(tmp_path / "photos" / "test", ("cat", "horse"))
    monkeypatch.chdir(tmp_path)
    document = reports.measure(mine, pathlib.Path("photos"), settings=SETTINGS)
    assert document.class_names == ("cat", "dog", "horse")
    assert sorted(set(document.test_labels)) == [0, 2]


def test_classes_that_were_not_trained_on_are_told_by_name(mine, tmp_path):
    write_images(tmp_path / "photos" / "train", ("cat", "dog"))
    write_images(tmp_path / "photos" / "test", ("cat", "zebra"))
    with pytest.raises(ValueError, match="of the classes of the training images. Received: zebra, where"):
        reports.measure(mine, tmp_path / "photos", settings=SETTINGS)


def test_a_broken_image_stops_a_report_or_is_left_out(mine, tmp_path):
    write_images(tmp_path / "photos" / "train", ("cat", "dog"))
    write_images(tmp_path / "photos" / "test", ("cat", "dog"))
    (tmp_path / "photos" / "test" / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="1 of 12 images cannot be decoded"):
        reports.measure(mine, tmp_path / "photos", settings=SETTINGS)
    with pytest.warns(UserWarning, match="Skipped: 1 of 12 images"):
        document = reports.measure(mine, tmp_path / "photos", settings=SETTINGS, on_error="skip")
    assert len(document.test_labels) == 11


def test_the_command_line_leaves_broken_images_out_where_it_is_told(monkeypatch):
    taken = []

    def measure(*arguments):
        taken.append(arguments)
        raise ValueError("enough")

    monkeypatch.setattr(reports, "measure", measure)
    for words, told in (([], "raise"), (["--on-error", "skip"], "skip")):
        assert main(["evaluate", "star-resnet20", *words]) == 2
        *_, command, on_error = taken.pop()
        assert on_error == told and ("--on-error skip" in command) == (told == "skip")
