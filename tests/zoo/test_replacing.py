"""A model that takes the place of another: whatever happens meanwhile, one of the two is there, whole."""

import os
import shutil
import signal

import numpy as np
import pytest
from _preset import BARE, CONFIG, IMAGES, WEIGHTS, randomise

from star_keras import models
from star_keras.models import saving

README = "README.md"


@pytest.fixture(scope="module")
def pair():
    """Two models whose weights fit each other's configuration, and give something else with it."""
    old, new = (models.create("resnet8", input_shape=(32, 32, 3), mean=(m, m, m)) for m in (0.4, 0.1))
    for model in (old, new):
        randomise(model)
    return old, new


@pytest.fixture
def target(pair, tmp_path):
    """A folder of the old model, with another file in it."""
    models.save(pair[0], tmp_path / "mine")
    (tmp_path / "mine" / README).write_text("kept")
    return tmp_path / "mine"


def found(folder, pair):
    """Which of two models lies in a folder."""
    outputs = np.asarray(models.load(folder)(IMAGES))
    return [np.array_equal(outputs, np.asarray(model(IMAGES))) for model in pair].index(True)


def check_recovery(target, pair):
    models.save(pair[1], target, overwrite=True)
    assert found(target, pair) == 1
    assert sorted(os.listdir(target)) == [README, CONFIG, WEIGHTS]


def at_replacement(number, act, monkeypatch):
    """Acts instead of the replacement of this number, from 1 on."""
    replace, count = os.replace, 0

    def counted(*paths):
        nonlocal count
        count += 1
        act() if count == number else replace(*paths)

    monkeypatch.setattr(os, "replace", counted)


def full_disk():
    raise OSError(28, "No space left on device")


@pytest.mark.fault(19)
@pytest.mark.parametrize("number, left", [(1, 0), (2, 0), (3, 0), (4, 1)])
def test_a_replacement_that_fails_leaves_one_of_the_models(number, left, pair, target, monkeypatch):
    with monkeypatch.context() as patch:
        at_replacement(number, full_disk, patch)
        with pytest.raises(OSError, match="No space"):
            models.save(pair[1], target, overwrite=True)
    assert found(target, pair) == left
    assert left or sorted(os.listdir(target)) == [README, CONFIG, WEIGHTS]
    assert not [path for path in target.parent.iterdir() if path.suffix == ".part"]
    check_recovery(target, pair)


def killed_at(number, new, target, monkeypatch):
    """Replaces the model in a process that is killed before its replacement of this number."""
    child = os.fork()
    if not child:
        at_replacement(number, lambda: os.kill(os.getpid(), signal.SIGKILL), monkeypatch)
        try:
            saving.replace_files(new, target)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process to kill it")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.fault(16)
@pytest.mark.parametrize("number, left", [(1, 0), (2, 0), (3, 1)])
def test_a_kill_leaves_one_of_the_models(number, left, pair, target, tmp_path, monkeypatch):
    models.save(pair[1], tmp_path / "new")
    killed_at(number, tmp_path / "new", target, monkeypatch)
    assert found(target, pair) == left
    check_recovery(target, pair)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks a process to kill it")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_failure_after_a_kill_leaves_what_the_kill_left(pair, target, tmp_path, monkeypatch):
    models.save(pair[1], tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "again")
    killed_at(3, tmp_path / "new", target, monkeypatch)
    with monkeypatch.context() as patch:
        at_replacement(2, full_disk, patch)
        with pytest.raises(OSError, match="No space"):
            saving.replace_files(tmp_path / "again", target)
    assert found(target, pair) == 1
    check_recovery(target, pair)


@pytest.mark.fault(18)
def test_a_reader_who_is_overtaken_reads_the_new_model(pair, target, monkeypatch):
    find = saving._find

    def overtaken(name):
        source = find(name)
        monkeypatch.setattr(saving, "_find", find)
        models.save(pair[1], target, overwrite=True)
        return source

    monkeypatch.setattr(saving, "_find", overtaken)
    assert found(target, pair) == 1


@pytest.mark.fault(18)
def test_a_reader_keeps_the_file_that_was_checked(pair, target, monkeypatch):
    create = saving.registry.create

    def overtaken(*arguments, **config):
        monkeypatch.setattr(saving.registry, "create", create)
        models.save(pair[1], target, overwrite=True)
        return create(*arguments, **config)

    monkeypatch.setattr(saving.registry, "create", overtaken)
    assert found(target, pair) == 0


def test_names_of_waiting_weights_are_not_those_of_other_files(pair, target):
    (target / f".{BARE}.{WEIGHTS}").write_text("kept")
    models.save(pair[1], target, overwrite=True)
    assert (target / f".{BARE}.{WEIGHTS}").read_text() == "kept"
