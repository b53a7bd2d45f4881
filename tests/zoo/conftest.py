"""A zoo of one preset, published once for each file of tests; each test damages its own copy of it."""

import functools
import shutil

import pytest
from _preset import BARE, FULL, SMALL, WEIGHTS, trained_classifier

from star_keras.models import publishing, registry, resnet


@pytest.fixture(scope="module", autouse=True)
def small_architecture():
    """A row more in the table, for networks that are built in a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_architectures", dict(registry._architectures))
        patch.setitem(resnet.VARIANTS, "resnet8", SMALL)
        build, describe = (functools.partial(make, "resnet8") for make in (resnet.ResNet, resnet.describe))
        registry.register("resnet8", build, describe, resnet.OPTIONS)
        yield


@pytest.fixture(scope="module")
def classifier():
    return trained_classifier()


@pytest.fixture(scope="module")
def published(classifier, tmp_path_factory):
    """A catalogue with one preset, as a recipe leaves it."""
    folder = tmp_path_factory.mktemp("published")
    before = registry.CATALOGUE
    (folder / "presets.json").write_text('{"format": 1, "presets": {}, "aliases": {}, "renamed": {}}')
    registry.CATALOGUE = registry.Catalogue.read(folder / "presets.json", folder / "zoo")
    try:
        publishing.publish(
            classifier,
            FULL,
            description="Noise in a ResNet-20, for tests.",
            task="classification",
            training_data="none",
            license="Apache-2.0",
            results={"accuracy": 0.1},
        )
        yield registry.CATALOGUE
    finally:
        registry.CATALOGUE = before


@pytest.fixture(autouse=True)
def zoo(published, tmp_path, monkeypatch):
    """The test's own copy of the zoo."""
    shutil.copytree(published.zoo, tmp_path / "zoo")
    shutil.copy(published.file, tmp_path / "presets.json")
    catalogue = registry.Catalogue.read(tmp_path / "presets.json", tmp_path / "zoo")
    monkeypatch.setattr(registry, "CATALOGUE", catalogue)
    return catalogue


@pytest.fixture
def weights_file(zoo):
    return zoo.zoo / BARE / WEIGHTS


@pytest.fixture
def folder(zoo):
    return zoo.zoo / BARE
