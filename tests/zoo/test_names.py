"""Names and configurations: what is not one is refused, by its key and with the closest that is."""

import pathlib
import shutil
import sys

import pytest
from _preset import BARE, CONFIG, FULL, WEIGHTS, change_config, memory_growth, sign, watching, written

from star_keras import models
from star_keras.exceptions import (
    ConfigError,
    IntegrityError,
    PresetError,
    ShapeError,
)

# Names


@pytest.mark.fault(1)
def test_an_unknown_preset_is_answered_with_the_closest_names(zoo):
    for name in ("star-resnet18", "star-resnet8", "simclr-resnet8", "moe-cnn"):
        zoo.presets[f"{name}.a-1"] = zoo.presets[FULL]
        zoo.aliases[name] = f"{name}.a-1"
    with pytest.raises(PresetError) as caught:
        models.load("star-resnet81")
    message = str(caught.value)
    assert "The closest names are star-resnet8, star-resnet18, test-resnet8. " in message
    assert "models.list()" in message
    with pytest.raises(PresetError, match=r"are star-resnet8\.a-1, star-resnet18\.a-1, "):
        models.load("star-resnet81.a-1")


@pytest.mark.fault(2)
@pytest.mark.parametrize("name", [None, 7, 1.5, b"test-resnet8", ["test-resnet8"], b"x" * 10_000_000])
def test_names_of_another_type_are_type_errors(name):
    with pytest.raises(TypeError, match=type(name).__name__) as caught:
        models.load(name)
    assert len(str(caught.value)) < 400


@pytest.mark.fault(2)
@pytest.mark.parametrize("name", ["", " ", "x" * 10_000_000, "/" * 10_000_000, "x/" * 5_000_000])
def test_names_without_sense_are_preset_errors_of_readable_length(name):
    with pytest.raises(PresetError) as caught:
        models.load(name)
    assert len(str(caught.value)) < 400


@pytest.mark.fault(3)
@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "C:\\x", "a/b\0c", "~", "~/x", "%2e%2e/", "/no/such/folder", "a" * 300 + "/b"],
)
def test_paths_that_lead_nowhere_are_preset_errors_and_leave_no_trace(name, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with watching() as events, pytest.raises(PresetError):
        models.load(name)
    assert not written(events) and not list((tmp_path / "empty").iterdir())


@pytest.mark.fault(4)
def test_capitals_and_space_around_a_name_do_not_matter():
    for name in ("TEST-ResNet8", f"  {BARE}", f"{BARE}\n", f"\t{FULL.upper()} "):
        assert models.info(name)["name"] == FULL
    for name in ("test-resnet８", "test-reſnet8", "test -resnet8", "tеst-resnet8", f"{BARE}\u00a0"):
        with pytest.raises(PresetError, match=f"closest names are {BARE}"):
            models.load(name)


@pytest.mark.fault(5)
def test_renamed_presets_warn_and_withdrawn_ones_say_why(zoo):
    zoo.renamed["old-resnet8"] = FULL
    with pytest.warns(DeprecationWarning, match=FULL):
        assert models.load("old-resnet8").output_shape == (None, 32)
    zoo.presets["bad-resnet8.a-1"] = zoo.presets[FULL] | {
        "withdrawn": {"since": "0.2.0", "reason": "It was trained on test images."},
        "weights": None,
    }
    zoo.aliases["bad-resnet8"] = "bad-resnet8.a-1"
    for name in ("bad-resnet8", "bad-resnet8.a-1"):
        with pytest.raises(PresetError, match=r"0\.2\.0: It was trained on test images"):
            models.load(name)
    assert models.list() == [FULL]
    assert models.info("bad-resnet8")["withdrawn"]["since"] == "0.2.0"


@pytest.mark.fault(6)
def test_a_preset_wins_over_a_folder_of_its_name(tmp_path, monkeypatch):
    models.save(models.create("resnet8", input_shape=(16, 16, 3)), tmp_path / BARE)
    monkeypatch.chdir(tmp_path)
    assert models.load(BARE).input_shape == (None, 32, 32, 3)
    for path in (f"./{BARE}", pathlib.Path(BARE), f"{BARE}/", str(tmp_path / BARE)):
        assert models.load(path).input_shape == (None, 16, 16, 3)


@pytest.mark.fault(7)
@pytest.mark.parametrize("signed", [True, False])
def test_weights_of_another_backbone_are_listed_and_refused(signed, folder, tmp_path):
    models.save(models.create("resnet20", input_shape=(32, 32, 3), num_classes=10), tmp_path / "other")
    shutil.copy(tmp_path / "other" / WEIGHTS, folder / WEIGHTS)
    if not signed:
        with pytest.raises(IntegrityError, match="bytes"):
            models.load(folder)
        return
    sign(folder)
    with pytest.raises(ShapeError, match="and [0-9]+ more") as caught:
        models.load(folder)
    assert str(caught.value).count(";") == 5


# Configurations


@pytest.mark.fault(29)
@pytest.mark.parametrize(
    "changes",
    [
        {"module": "os", "class_name": "system", "config": {"command": "true"}},
        {"architecture": "os.system"},
        {"architecture": "Lambda"},
        {"architecture": "TFSMLayer", "config": {"filepath": "/tmp"}},
        {"architecture": "keras.config.enable_unsafe_deserialization"},
        {"architecture": {"module": "antigravity", "class_name": "system"}},
        {"config": {"registered_name": "antigravity>x"}},
        {"architecture": None},
    ],
    ids=str,
)
def test_nothing_in_a_configuration_names_code(changes, folder):
    change_config(folder, **changes)
    before = set(sys.modules)
    with pytest.raises(ConfigError):
        models.load(folder)
    assert set(sys.modules) == before


@pytest.mark.fault(30, 31, 32)
@pytest.mark.parametrize(
    "config, key",
    [
        ({"surprise": 1}, "config.surprise"),
        ({"num_classes": True}, "config.num_classes"),
        ({"num_classes": "3"}, "config.num_classes"),
        ({"num_classes": 3.0}, "config.num_classes"),
        ({"num_classes": 0}, "config.num_classes"),
        ({"num_classes": 10**9}, "config.num_classes"),
        ({"zero_init_residual": 1}, "config.zero_init_residual"),
        ({"stem": "huge"}, "config.stem"),
        ({"stem": ["cifar"]}, "config.stem"),
        ({"input_shape": [32, 32]}, "config.input_shape"),
        ({"input_shape": [0, 32, 3]}, "config.input_shape"),
        ({"input_shape": [10**9, 10**9, 3]}, "config.input_shape"),
        ({"input_shape": [32, 32, 10**6]}, "config.input_shape"),
        ({"input_shape": [32, -1, 3]}, "config.input_shape"),
        ({"mean": [0.5, 0.5]}, "config.mean"),
        ({"std": [0, 1, 1]}, "config.std"),
        ({"name": ".."}, "config.name"),
        ({"classifier_activation": "softmax"}, "config.classifier_activation"),
        ({"classifier_activation": "os.system", "num_classes": 3}, "config.classifier_activation"),
        ([], "config"),
    ],
    ids=str,
)
def test_wrong_configurations_are_refused_by_key_before_anything_is_built(config, key, folder):
    change_config(folder, config=config)
    with memory_growth() as growth, pytest.raises(ConfigError) as caught:
        models.load(folder)
    assert f"`{key}" in str(caught.value)
    assert growth.mb < 20


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    "text, message",
    [
        ('{"format": 1, "format": 1}', "Received: `format` more than once"),
        ('{"format": NaN}', "finite"),
        ('{"format": -Infinity}', "finite"),
        ('{"format": 1e400}', "finite"),
        ('{"format": ' + "9" * 5000 + "}", "plain JSON"),
        ('{"format": ' + "[" * 100_000, "plain JSON"),
        ('{"format": ' + "[" * 50 + "]" * 50 + "}", "deep"),
        ('{"a": ' * 50 + "1" + "}" * 50, "deep"),
        ('{"a": ' * 900 + "1" + "}" * 900, "deep|recursion"),
        ("[]", "JSON object"),
        ("", "plain JSON"),
        ("{'format': 1}", "plain JSON"),
        ("\xff", "plain JSON"),
        ("{}", "`format`"),
        ('{"format": true}', "`format`"),
        ('{"format": "1"}', "`format`"),
        ('{"format": 1, "star_keras": "../x"}', "`star_keras`"),
        ('{"format": 1, "star_keras": "0.1.0", "architecture": "resnet8"}', "`config`"),
        ('{"format": 1, "weights": {"bytes": 1}}', "sha256"),
        (" " * 1_000_001, "1000001 bytes"),
    ],
    ids=range(20),
)
def test_files_that_are_not_plain_small_json_are_refused(text, message, folder):
    (folder / CONFIG).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as caught:
        models.load(folder)
    assert len(str(caught.value)) < 600


@pytest.mark.fault(31)
def test_bounds_hold_for_create_as_well():
    for config in (
        {"num_classes": 10**9},
        {"input_shape": (10**9, 10**9, 3)},
        {"depth": -1},
        {"width": 10**9},
    ):
        with pytest.raises(ConfigError):
            models.create("resnet8", **config)


@pytest.mark.fault(32)
@pytest.mark.parametrize("name", ["..", "/abs", "", "x" * 10_000, "a/b", 7])
def test_names_of_models_are_plain(name):
    if name == "":
        assert models.create("resnet8", name=name).name == "resnet8"
        return
    with pytest.raises(ConfigError, match="name"):
        models.create("resnet8", name=name)
