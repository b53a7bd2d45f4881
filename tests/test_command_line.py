"""The command `star-keras` and the recipes it runs."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import star_keras.__main__ as program
from star_keras import data, evaluation, models
from star_keras.__main__ import DEFAULT_RECIPE, main
from star_keras.exceptions import IntegrityError

ROOT = pathlib.Path(__file__).parent.parent
RECIPES = sorted(path.parent.name for path in ROOT.glob("zoo/*/recipe.py"))
SHIPPED = ("resnet20", "star-resnet20")
# What a recipe prints when it has done its two epochs; deep Q-learning shows one bar for all of them.
DONE = dict.fromkeys(RECIPES, "Epoch 2/2") | {"equitune-dqn-cartpole": "2/2"}


def test_list_prints_every_preset_with_its_description(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == models.list()


def test_info_prints_the_record_as_json(capsys):
    name = models.list()[0]
    assert main(["info", name]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["name"] == name
    assert len(record["sha256"]) == 64


@pytest.mark.parametrize(
    "fault, told",
    [(IntegrityError, "another file"), (ValueError, f"{__file__}:\\d+: ValueError: another file")],
)
def test_verify_tells_of_each_model_whether_it_is_as_recorded(monkeypatch, capsys, fault, told):
    checked, names = [], models.list()[:3]

    def verify(name):
        checked.append(name)
        if name == names[1]:
            raise fault("another file")
        return 2e-7

    monkeypatch.setattr(models, "list", lambda: names)
    monkeypatch.setattr(models, "verify", verify)
    assert main(["verify"]) == 2 and checked == names
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [f"{name}: as recorded, to 2e-07" for name in names[::2]]
    assert re.fullmatch(f"star-keras: {names[1]}: {told}\n", printed.err)


def test_a_model_that_is_as_recorded_is_verified_by_its_name(capsys):
    assert main(["verify", "resnet20"]) == 0
    assert re.fullmatch(r"resnet20: as recorded, to \de-\d\d\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", ["info", "verify"])
def test_an_unknown_name_says_what_is_close_and_exits_with_two(command, capsys):
    assert main([command, "resnet21"]) == 2
    error = capsys.readouterr().err
    assert "resnet20" in error
    assert "Traceback" not in error


def test_a_folder_has_no_record(capsys, tmp_path):
    assert main(["info", str(tmp_path)]) == 2
    assert "A folder is for `star_keras.models.load`." in capsys.readouterr().err


def test_an_unknown_recipe_lists_the_known_ones(capsys):
    assert main(["pretrain", "star-resnet81"]) == 2
    assert "star-resnet20" in capsys.readouterr().err


WRONG_RECIPES = {
    "history = {}\nprint(history['loss'])": ("mine.py:2", "KeyError: 'loss'"),
    "\n\nint('three')": ("mine.py:3", "ValueError: invalid literal"),
    "def run():\n    raise RuntimeError\nrun()": ("mine.py:2", "RuntimeError: "),
    "import helper\nhelper.fail()": ("helper.py:2", "ValueError: failed"),
    "import keras\n\nkeras.layers.Dense(0)": ("mine.py:3", "ValueError: "),
    "import json\njson.loads('{')": ("mine.py:2", "JSONDecodeError: "),
    "x = 1\nif x\n    print(x)\n": ("mine.py:2", "SyntaxError: expected ':'"),
    "import broken": ("broken.py:1", "SyntaxError: "),
}


@pytest.mark.fault(67)
@pytest.mark.parametrize("text", WRONG_RECIPES)
def test_errors_of_a_recipe_of_ones_own_are_told_with_their_place(text, tmp_path, monkeypatch, capsys):
    place, message = WRONG_RECIPES[text]
    monkeypatch.syspath_prepend(tmp_path)
    for name, lines in {
        "mine": text,
        "helper": "def fail():\n    raise ValueError('failed')",
        "broken": "=1",
    }.items():
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(lines)
    assert main(["pretrain", str(tmp_path / "mine.py")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"star-keras: {tmp_path}/{place}: {message}") and "Traceback" not in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models.info('resnet21')", "Expected the name of a preset"),
        ("layers.Projector(0)", "`units` must be a positive whole number"),
    ],
)
def test_what_the_library_refuses_in_a_recipe_is_told_in_its_own_words(text, message, tmp_path, capsys):
    (tmp_path / "mine.py").write_text(f"from star_keras import layers, models\n{text}\n")
    assert main(["pretrain", str(tmp_path / "mine.py")]) == 2
    assert capsys.readouterr().err.startswith(f"star-keras: {message}")


def test_a_pattern_that_no_preset_fits_is_told(capsys):
    assert main(["list", "nosuch*"]) == 2
    assert "Received: pattern='nosuch*'" in capsys.readouterr().err


def test_a_key_that_the_library_itself_misses_is_told_with_its_place(monkeypatch, capsys):
    monkeypatch.setattr(models, "info", lambda name: {"name": name})
    assert main(["list", "resnet*"]) == 2
    assert re.fullmatch(
        r"star-keras: .*star_keras/__main__.py:\d+: KeyError: 'description'\n", capsys.readouterr().err
    )


QUICK = "--count 30 --images 8 --views 2 --episodes 4 --seeds 0 --no-untrained --folder kept".split()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A small image set, in a folder that is the working one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    sets = {f"x_{split}": rng.integers(0, 256, (count, 40, 36, 3), dtype="uint8")
            for split, count in (("train", 30), ("test", 12))}  # fmt: skip
    labels = {f"y_{split}": np.arange(count) % 2 for split, count in (("train", 30), ("test", 12))}
    np.savez(tmp_path / "photos.npz", **sets, **labels)
    return tmp_path


def test_report_of_the_zoo_goes_on_after_control_c(photos, capsys, monkeypatch):
    command = ["report", "star-resnet20", "--data", "./photos.npz", *QUICK, "--output", "pages/mine.html"]

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(evaluation.reporting.MEASURES, "routing", interrupt)
        assert main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert main(command) == 0
    assert "measures are in kept already" in capsys.readouterr().err
    assert sorted(path.name for path in (photos / "pages").iterdir()) == ["mine.html", "mine.json", "mine.md"]
    content = json.loads((photos / "pages" / "mine.json").read_text())
    assert content["model"]["name"] == "star-resnet20.cifar10-1"
    assert content["sources"]["test"] == "./photos.npz, split test (12 images)"
    assert {"own", "fitted"} == {run["predictor"] for run in content["measures"]["equivariance"]}
    assert "--views 2" in content["command"]

    assert main(["evaluate", *command[1:-1], "numbers.json"]) == 0
    assert "Linear probe" in capsys.readouterr().out
    assert json.loads((photos / "numbers.json").read_text())["table"] == content["table"]


@pytest.fixture
def hearing_control_c():
    """Processes in the background are deaf to it: shells see to that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("kind", [ValueError, TypeError])
def test_control_c_is_told_from_the_error_that_a_library_makes_of_it(
    kind, monkeypatch, capsys, hearing_control_c
):
    def pass_on(_):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise kind("the tracing was cut short") from None

    monkeypatch.setattr(models, "info", pass_on)
    assert main(["info", "resnet20"]) == 130
    error = capsys.readouterr().err
    assert "interrupted" in error and "cut short" not in error
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_a_process_that_is_sent_control_c_says_so_and_the_next_one_goes_on(photos, monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)  # so that the process starts anew
    command = [
        sys.executable,
        "-m",
        "star_keras",
        "evaluate",
        "star-resnet20",
        "--data",
        "./photos.npz",
        *QUICK,
    ]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=hear_control_c)
    until = time.monotonic() + 200
    while not list(photos.glob("kept/*.json")) and time.monotonic() < until:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=100)
    assert running.returncode == 130 and "Traceback" not in error
    assert "interrupted; the same command goes on where it stopped" in error
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and "are in kept already" in again.stderr and "Linear probe" in again.stdout


def hear_control_c():
    """Undoes what shells do to processes in the background: these are deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_folder_of_a_model_is_measured_on_a_folder_of_images(photos, capsys):
    models.save(models.create("resnet20", input_shape=(8, 8, 3)), photos / "mine")
    for i, image in enumerate(np.load(photos / "photos.npz")["x_train"]):
        (photos / "images" / f"kind {i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(photos / "images" / f"kind {i % 2}" / f"{i}.png")
    assert main(["evaluate", "./mine", "--data", "./images", *QUICK, "--output", "numbers.json"]) == 0
    content = json.loads((photos / "numbers.json").read_text())
    assert content["data"] == {"train_images": 24, "test_images": 6, "classes": 2}
    assert "a fifth held out" in content["sources"]["test"]
    assert not {"routing", "task_correlation"} & set(content["measures"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "star-resnet21"], "star-resnet20"),
        (["report", "./no-such-folder"], "is no folder"),
        (["evaluate", "resnet20", "--data", "fashion_minst"], "'fashion_mnist'"),
        (["report", "resnet20", "--output", "report.pdf"], "HTML page"),
        (["evaluate", "resnet20", "--seeds", "1", "1"], "`seeds` must be distinct"),
        (
            ["evaluate", "resnet20", "--data", "./photos.npz", "--test-data", "./other.npz"],
            "classes of the training images. Received: 2, where",
        ),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(photos, arguments, message, capsys):
    sets = np.load(photos / "photos.npz")
    np.savez(photos / "other.npz", **{**sets, "y_test": sets["y_test"] + 1})
    assert main([*arguments, "--folder", "kept"]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_models_without_features_and_images_without_one_label_are_refused(photos, monkeypatch, capsys):
    models.save(models.create("moe_cnn", num_classes=2, num_experts=2), photos / "mixture")
    assert main(["evaluate", "./mixture", *QUICK]) == 2
    assert "features of a backbone" in capsys.readouterr().err
    boxes = data.Split(
        np.zeros((2, 32, 32, 3), "uint8"), [np.zeros(1, int)] * 2, None, [np.zeros((1, 4))] * 2
    )
    monkeypatch.setattr(data, "load", lambda *_, **__: boxes)
    assert main(["evaluate", "resnet20", *QUICK]) == 2
    assert "one label an image" in capsys.readouterr().err


def test_a_page_without_matplotlib_is_refused_before_anything_is_measured(photos, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.image", None)
    assert main(["report", "resnet20", *QUICK]) == 2
    assert "star-keras[plots]" in capsys.readouterr().err
    assert not (photos / "kept").exists()


def pretrain(*arguments, cwd):
    command = [sys.executable, "-m", "star_keras", "pretrain", *arguments, "--smoke", "--folder", "run"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted({*RECIPES} - {DEFAULT_RECIPE, *SHIPPED}))
def test_every_recipe_runs_in_smoke_mode(recipe, tmp_path):
    assert DONE[recipe] in pretrain(recipe, cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", SHIPPED)
def test_a_recipe_goes_on_where_it_stopped(recipe, tmp_path):
    assert "Epoch 2/2" not in pretrain(recipe, "--minutes", "0.000001", cwd=tmp_path)
    printed = pretrain(recipe, cwd=tmp_path)
    assert "Epoch 2/2" in printed
    assert "Epoch 1/2" not in printed


@pytest.mark.slow
def test_images_of_ones_own_need_no_recipe_and_no_classes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 20, 24, 3), dtype="uint8")
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    assert "Epoch 2/2" in pretrain("--images", "./photos", cwd=tmp_path)
    backbone = models.load(tmp_path / "run" / "backbone")
    assert backbone.output_shape == (None, 512)


TOLD = """import os
print("starts with", os.environ.get("TF_ENABLE_ONEDNN_OPTS"), flush=True)
"""


def starts(folder, *arguments, form=("-m", "star_keras"), **variables):
    """With what each process of a command starts, before it imports anything, and how it ends."""
    (folder / "sitecustomize.py").write_text(TOLD)
    (folder / "mine.py").write_text("import sys\nprint('trains with', sys.argv[1:])\nsys.exit(7)")
    environment = {**os.environ, "PYTHONPATH": str(folder), "KERAS_BACKEND": "tensorflow", **variables}
    environment = {name: value for name, value in environment.items() if value is not None}
    command = [sys.executable, *form, *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    return [line for line in finished.stdout.splitlines() if " with " in line], finished.returncode


@pytest.mark.slow
def test_the_process_that_trains_has_had_onednn_on_from_its_start(tmp_path):
    script = tmp_path / "star-keras"  # as the installer writes it
    script.write_text("import sys\nfrom star_keras.__main__ import command\nsys.exit(command())")
    train = ["pretrain", "./mine.py", "--epochs", "two words"]
    trained = f"trains with {train[2:]}"
    for form in (("-m", "star_keras"), (str(script),)):
        assert starts(tmp_path, *train, form=form, TF_ENABLE_ONEDNN_OPTS=None) == (
            ["starts with None", "starts with 1", trained],
            7,
        )
    assert starts(tmp_path, *train, TF_ENABLE_ONEDNN_OPTS="0") == (["starts with 0", trained], 7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "backend"),
    [(["list"], "tensorflow"), (["pretrain", "--help"], "tensorflow"), (["pretrain", "./mine.py"], "jax")],
)
def test_what_does_not_compute_with_tensorflow_starts_once(arguments, backend, tmp_path):
    pytest.importorskip(backend)
    told, _ = starts(tmp_path, *arguments, TF_ENABLE_ONEDNN_OPTS=None, KERAS_BACKEND=backend)
    assert told[0] == "starts with None" and "starts with 1" not in told


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_a_process_starts_anew_with_the_same_words(system, monkeypatch):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "star_keras", "evaluate", "resnet20"])
    monkeypatch.setattr(sys, "argv", ["star-keras", "evaluate", "resnet20"])
    monkeypatch.setitem(sys.modules, "tensorflow", sys)
    for name in program.SETTINGS:
        monkeypatch.setenv(name, "to be put back")
        monkeypatch.delenv(name)
    asked = []
    monkeypatch.setattr(signal, "signal", lambda *given: asked.append(given))
    monkeypatch.setattr(subprocess, "call", lambda words: asked.append(words) or 130)
    monkeypatch.setattr(os, "execv", lambda path, words: asked.append(words))
    status = program.command()
    assert asked[-1] == [sys.executable, "-m", "star_keras", "evaluate", "resnet20"]
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
    if system == "win32":
        assert status == 130 and asked[0] == (signal.SIGINT, signal.SIG_IGN)
