"""Image sets from every source: what arrives is what lies there, and errors say where it was looked for."""

import gzip
import io
import pathlib
import runpy

import keras
import numpy as np
import pytest
from _prepared import write_prepared
from PIL import Image

from star_keras import data
from star_keras.data import loading
from star_keras.exceptions import IntegrityError, ShapeError

ROOT = pathlib.Path(__file__).parent.parent
SOURCE = pathlib.Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype="uint8")


def encoded(pixels, kind="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def blob(files):
    ends = np.cumsum([0, *(len(file) for file in files)])
    return {"blob": np.frombuffer(b"".join(files), "uint8"), "offsets": ends.astype("int64")}


class TestEmbedded:
    def test_is_balanced_and_of_the_promised_size(self):
        for split, per_class in (("train", 1000), ("test", 200)):
            found = data.load("fashion_mnist", split=split)
            assert found.images.shape == (10 * per_class, 28, 28)
            assert found.images.dtype == "uint8"
            np.testing.assert_array_equal(np.bincount(found.labels), [per_class] * 10)
        assert found.class_names[9] == "ankle boot"
        assert (
            sum(path.stat().st_size for path in (ROOT / "star_keras/data").iterdir() if path.is_file())
            < 2**22 + 2**16
        )

    def test_pixels_are_those_of_the_original_first_of_each_class(self):
        if not SOURCE.is_dir():
            pytest.skip("needs the original files: Debian's package dataset-fashion-mnist")
        for split, prefix, per_class in (("train", "train", 1000), ("test", "t10k", 200)):
            found = data.load("fashion_mnist", split=split)
            with gzip.open(SOURCE / f"{prefix}-images-idx3-ubyte.gz") as file:
                images = np.frombuffer(file.read(), "uint8", offset=16).reshape(-1, 28, 28)
            with gzip.open(SOURCE / f"{prefix}-labels-idx1-ubyte.gz") as file:
                labels = np.frombuffer(file.read(), "uint8", offset=8)
            rows = np.sort(np.concatenate([np.flatnonzero(labels == k)[:per_class] for k in range(10)]))
            np.testing.assert_array_equal(found.images, images[rows])
            np.testing.assert_array_equal(found.labels, labels[rows])


class TestNpz:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("STAR_KERAS_DATA", str(tmp_path))
        return tmp_path

    def test_encoded_images_in_splits(self, folder):
        train, val = ({f"{split}_{key}": rows for key, rows in blob([encoded(p) for p in part]).items()}
                      for split, part in (("train", PIXELS[:4]), ("val", PIXELS[4:])))  # fmt: skip
        np.savez(folder / "mine.npz", **train, **val, train_labels=np.uint8([0, 1, 1, 0]),
                 val_labels=np.uint8([1, 0]), class_names=np.array(["ant", "bee"]))  # fmt: skip
        found = data.load("mine")
        np.testing.assert_array_equal(found.images, PIXELS[:4])
        assert found.labels.tolist() == [0, 1, 1, 0]
        assert found.class_names == ("ant", "bee")
        np.testing.assert_array_equal(data.load("mine", split="val").images, PIXELS[4:])

    def test_sheets_are_cut_into_tiles_row_by_row(self, folder):
        sheet = PIXELS.reshape(2, 3, 5, 4, 3).transpose(0, 2, 1, 3, 4).reshape(10, 12, 3)
        np.savez(folder / "sheets.npz", **blob([encoded(sheet)]), labels=np.arange(6, dtype="uint8"),
                 class_names=np.array(list("abcdef")), grid=np.array([2, 3]))  # fmt: skip
        np.testing.assert_array_equal(data.load("sheets").images, PIXELS)

    def test_boxes_come_image_by_image(self, folder):
        np.savez(folder / "boxes.npz", **blob([encoded(p) for p in PIXELS[:3]]), labels=np.zeros(3, "uint8"),
                 class_names=np.array(["a", "b"]), split=np.array(["train", "test", "train"]),
                 boxes_xyxy=np.float32([[0, 0, 1, 1], [0, 1, 2, 2], [1, 1, 3, 3]]),
                 box_image=np.array([0, 2, 2]), box_labels=np.uint8([0, 1, 0]))  # fmt: skip
        found = data.load("boxes", split="train")
        np.testing.assert_array_equal(found.images, PIXELS[[0, 2]])
        assert [labels.tolist() for labels in found.labels] == [[0], [1, 0]]
        assert [boxes.shape for boxes in found.boxes] == [(1, 4), (2, 4)]

    def test_arrays_of_keras_lose_their_columns(self, folder):
        np.savez(folder / "grey.npz", x_train=PIXELS[..., :1], y_train=np.arange(6)[:, None])
        found = data.load("grey")
        np.testing.assert_array_equal(found.images, PIXELS[..., 0])
        assert found.labels.tolist() == list(range(6)) and found.labels.dtype == "int64"
        assert data.load("grey", size=8).images.shape == (6, 8, 8)

    def test_arrays_of_any_split_may_name_their_classes(self, folder):
        names = np.array(["ant", "bee"])
        np.savez(folder / "test.npz", x_test=PIXELS, y_test=np.arange(6) % 2, class_names=names)
        found = data.load("test")
        np.testing.assert_array_equal(found.images, PIXELS)
        assert found.class_names == ("ant", "bee") == data.load("test", split="test").class_names
        with pytest.raises(ValueError, match="it has 'test'"):
            data.load("test", split="train")

    @pytest.mark.parametrize(
        ("images", "labels"),
        [
            (PIXELS / 255, np.arange(6)),
            (PIXELS, np.arange(5)),
            (PIXELS, np.eye(6)),
        ],
        ids=["scaled", "labels", "one-hot"],
    )
    def test_arrays_that_are_no_images_with_labels_are_refused(self, folder, images, labels):
        np.savez(folder / "odd.npz", x_train=images, y_train=labels)
        with pytest.raises(ValueError, match="`x_train` and `y_train` .* uint8 images.*Received"):
            data.load("odd")

    @pytest.mark.parametrize("missing", ["offsets", "split", "box_image", "box_labels"])
    def test_boxes_need_arrays_that_tell_whose_they_are(self, folder, missing):
        arrays = blob([encoded(PIXELS[0])]) | {
            "split": np.array(["train"]),
            "boxes_xyxy": np.float32([[0, 0, 1, 1]]),
            "box_image": np.array([0]),
            "box_labels": np.uint8([1]),
        }
        np.savez(folder / "boxes.npz", **arrays)
        assert data.load("boxes").class_names == ("0", "1")
        np.savez(folder / "boxes.npz", **{name: arrays[name] for name in arrays if name != missing})
        with pytest.raises(ValueError, match=f"must hold `{missing}`, too. Received: arrays"):
            data.load("boxes")

    def test_image_files_need_labels_and_may_do_without_names(self, folder):
        files = blob([encoded(p) for p in PIXELS[:3]])
        np.savez(folder / "mine.npz", **files, labels=np.uint8([2, 0, 2]))
        assert data.load("mine").class_names == ("0", "1", "2")
        np.savez(folder / "mine.npz", **files)
        with pytest.raises(ValueError, match="must hold `labels`, too. Received: arrays"):
            data.load("mine")

    def test_a_file_that_is_not_whole_is_refused(self, folder):
        np.savez(folder / "cut.npz", x_train=PIXELS, y_train=np.arange(6))
        whole = (folder / "cut.npz").read_bytes()
        (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(IntegrityError, match="whole npz"):
            data.load("cut")

    def test_pickles_are_never_opened(self, folder):
        np.savez(folder / "evil.npz", x_train=np.array([print], dtype=object), y_train=np.arange(1))
        with pytest.raises(ValueError, match="pickle"):
            data.load("evil")

    def test_unknown_names_say_what_is_close_and_where_was_looked(self, folder):
        np.savez(folder / "cifar11.npz", x_train=PIXELS, y_train=np.arange(6))
        with pytest.raises(ValueError, match=r"cifar11.*STAR_KERAS_DATA|cifar11") as caught:
            data.load("cifar12")
        assert "embedded" in str(caught.value)

    @pytest.mark.parametrize(
        "path",
        ["./missing", "/missing/images.npz", "~/missing", "../missing.npz", pathlib.Path("fashion_mnist")],
    )
    def test_a_path_that_is_not_there_is_not_taken_for_a_name(self, path):
        with pytest.raises(ValueError) as caught:
            data.load(path)
        message = f"`name` must be an existing folder or npz file. Received: name={str(path)!r}"
        assert str(caught.value) == message

    def test_a_missing_set_of_the_recipes_says_what_writes_it(self, folder):
        with pytest.raises(ValueError, match=r"make_cifar10.py FOLDER` .* writes it, see Data") as caught:
            data.load("cifar10_train45k")
        assert "tensorflow-datasets;" not in str(caught.value) and "download" not in str(caught.value)

    def test_unknown_splits_list_the_known_ones(self):
        with pytest.raises(ValueError, match="'train', 'test'"):
            data.load("fashion_mnist", split="validation")


@pytest.mark.parametrize(
    "name, split, count, shape, classes",
    [
        ("cifar10_test1k", None, 1000, (32, 32, 3), 10),
        ("tiny_imagenet32_val5k", None, 5000, (32, 32, 3), 200),
        ("imagenette224_small", "val", 500, (224, 224, 3), 10),
        ("mnist", "test", 10000, (28, 28), 10),
        pytest.param("cifar10_train45k", None, 45000, (32, 32, 3), 10, marks=pytest.mark.slow),
    ],
)
def test_real_sets_load_whole(data_folder, name, split, count, shape, classes):
    found = data.load(name, split=split)
    assert found.images.shape == (count, *shape)
    assert found.images.dtype == "uint8"
    assert len(np.unique(found.labels)) == classes == len(found.class_names)
    assert 40 < found.images.mean() < 220 or name == "mnist"


def test_real_boxes_lie_inside_their_images(data_folder):
    found = data.load("bccd_detection", split="test")
    assert len(found.images) == 72
    for image, boxes, labels in zip(found.images, found.boxes, found.labels, strict=True):
        assert len(boxes) == len(labels)
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= image.shape[1]).all()
        assert (boxes[:, [1, 3]] <= image.shape[0]).all()


class TestFolders:
    @pytest.fixture
    def folder(self, tmp_path):
        for kind, start in (("ant", 0), ("bee", 3)):
            (tmp_path / kind).mkdir()
            for i in range(start, start + 3):
                (tmp_path / kind / f"{i}.png").write_bytes(encoded(PIXELS[i]))
        return tmp_path

    def test_subfolders_are_classes_in_the_order_of_their_names(self, folder):
        found = data.load(folder)
        np.testing.assert_array_equal(found.images, PIXELS)
        assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert found.class_names == ("ant", "bee")

    def test_size_brings_all_images_to_one_square(self, folder):
        assert data.load(folder, size=8).images.shape == (6, 8, 8, 3)

    @pytest.mark.fault(48)
    @pytest.mark.parametrize(
        "broken", [b"", b"not an image", encoded(PIXELS[0])[:40]], ids=["empty", "text", "cut"]
    )
    def test_broken_files_stop_or_are_counted(self, folder, broken):
        (folder / "ant" / "broken.png").write_bytes(broken)
        with pytest.raises(ValueError, match="1 of 7 images.*broken.png"):
            data.load(folder)
        with pytest.warns(UserWarning, match="1 of 7 images"):
            found = data.load(folder, on_error="skip")
        np.testing.assert_array_equal(found.images, PIXELS)
        with pytest.raises(ValueError, match="'raise', 'skip'.*'ignore'"):
            data.load(folder, on_error="ignore")

    def test_photographs_are_turned_upright(self, folder):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter, clockwise
        flat = np.zeros((4, 8, 3), "uint8")
        flat[:, :4] = 255
        (folder / "ant" / "turned.jpg").write_bytes(encoded(flat, "JPEG", exif=exif, quality=95))
        image = next(image for image in data.load(folder).images if image.shape == (8, 4, 3))
        assert image[:3].mean() > 240
        assert image[5:].mean() < 15

    def test_cmyk_and_animations_become_one_rgb_image(self, tmp_path):
        (tmp_path / "a").mkdir()
        Image.new("CMYK", (6, 6), (0, 255, 255, 0)).save(tmp_path / "a" / "0.jpg", quality=95)
        frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "blue")]
        frames[0].save(tmp_path / "a" / "1.gif", save_all=True, append_images=frames[1:])
        found = data.load(tmp_path)
        assert found.images.shape == (2, 6, 6, 3)
        assert (found.images.mean(axis=(1, 2)) @ [1, -1, -1] > 200).all()  # both are red

    def test_images_without_classes_are_all_of_class_0(self, tmp_path):
        for i in range(3):
            (tmp_path / f"{i}.png").write_bytes(encoded(PIXELS[i]))
        found = data.load(tmp_path)
        np.testing.assert_array_equal(found.images, PIXELS[:3])
        assert found.labels.tolist() == [0, 0, 0] and found.class_names is None

    def test_a_folder_without_images_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="and no image"):
            data.load(tmp_path)


@pytest.mark.slow
def test_prepared_tensorflow_datasets_are_read_in_order_and_never_fetched(tmp_path):
    write_prepared(tmp_path, "mine", train=(PIXELS, [0, 1, 0, 1, 0, 1]))
    found = data.load("mine", data_dir=tmp_path)
    np.testing.assert_array_equal(found.images, PIXELS)
    assert found.labels.tolist() == [0, 1, 0, 1, 0, 1]
    with pytest.raises(ValueError, match="download=True"):
        data.load("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize("size", [0, -8, 2.5, "32"])
def test_a_size_that_is_none_is_no_fault_of_the_images(size):
    with pytest.raises(ValueError, match="`size` must be a positive whole number. Received: size="):
        data.load("fashion_mnist", size=size)


def test_to_rgb_repeats_grey_and_centres_on_black():
    grey = np.full((2, 28, 28), 7, "uint8")
    for images in (grey, grey[..., None]):
        square = data.to_rgb(images, 32)
        assert square.shape == (2, 32, 32, 3)
        assert (square[:, 2:30, 2:30] == 7).all()
        assert square.sum() == 3 * 7 * grey.size
    with pytest.raises(ShapeError, match="at least 28"):
        data.to_rgb(grey, 16)
    with pytest.raises(ShapeError, match="Received: images of several shapes; resize"):
        data.to_rgb([grey[0], grey[0, :9]])
    with pytest.raises(ShapeError, match="Received"):
        data.to_rgb(grey[0], 32)


def test_texts_are_read_by_path_and_by_name(tmp_path, monkeypatch):
    (tmp_path / "story.txt").write_text("Naïve\n", encoding="utf-8")
    (tmp_path / "broken.txt").write_bytes(b"\xff")
    monkeypatch.delenv("STAR_KERAS_DATA", raising=False)
    assert data.load_text(tmp_path / "story.txt") == "Naïve\n"
    with pytest.raises(ValueError, match="not set.*name='story'"):
        data.load_text("story")
    monkeypatch.setenv("STAR_KERAS_DATA", str(tmp_path))
    assert data.load_text("story") == "Naïve\n"
    with pytest.raises(ValueError, match="UTF-8. Received: .*broken.txt"):
        data.load_text("broken")


@pytest.mark.parametrize("name", [None, 7, b"mnist"])
def test_names_that_are_no_names_are_refused(name):
    with pytest.raises(TypeError, match="Received"):
        data.load(name)


def test_the_making_script_writes_the_shipped_file_again(tmp_path):
    if not SOURCE.is_dir():
        pytest.skip("needs the original files: Debian's package dataset-fashion-mnist")
    script = runpy.run_path(str(ROOT / "tools/make_fashion_mnist.py"))
    script["make"](SOURCE, tmp_path / "made.npz")
    assert (tmp_path / "made.npz").read_bytes() == (ROOT / "star_keras/data/fashion_mnist.npz").read_bytes()


def test_the_script_writes_both_sets_of_cifar10_and_tells_others_apart(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    sides = [
        (
            rng.integers(0, 256, (count, 4, 4, 3), dtype="uint8"),
            rng.integers(0, 10, (count, 1), dtype="uint8"),
        )
        for count in (45_010, 1_010)
    ]
    monkeypatch.setattr(keras.datasets.cifar10, "load_data", lambda: sides)
    monkeypatch.setenv("STAR_KERAS_DATA", str(tmp_path / "made"))
    script = runpy.run_path(str(ROOT / "tools/make_cifar10.py"))
    assert script["make"](tmp_path / "made") == dict.fromkeys(loading.MADE, False)
    for name, (images, labels), count in zip(loading.MADE, sides, (45_000, 1_000), strict=True):
        found = data.load(name)
        np.testing.assert_array_equal(found.images, images[:count])
        np.testing.assert_array_equal(found.labels, labels[:count, 0])
        assert found.class_names[3] == "cat"
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        f"{name}.npz" for name in sorted(loading.MADE)
    ]


@pytest.mark.slow
def test_the_script_knows_the_images_of_the_published_weights(data_folder):
    script = runpy.run_path(str(ROOT / "tools/make_cifar10.py"))
    for name, (_, count, published) in script["SETS"].items():
        found = data.load(name)
        assert len(found.images) == count
        assert script["fingerprint"](found.images, found.labels) == published
        assert found.class_names == script["CLASS_NAMES"]
