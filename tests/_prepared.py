"""Small sets in the form in which tensorflow-datasets prepares them."""

import pytest


def write_prepared(folder, name, **splits):
    """Writes `split=(images, labels)`, labels from 0, as the set `name` in a folder."""
    tfds = pytest.importorskip("tensorflow_datasets")
    images, labels = next(iter(splits.values()))
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=images.shape[1:]),
            "label": tfds.features.ClassLabel(num_classes=int(max(labels)) + 1),
        }
    )
    place = folder / name / "1.0.0"
    place.mkdir(parents=True)
    identity = tfds.core.dataset_info.DatasetIdentity
    info = tfds.core.DatasetInfo(
        builder=identity(name, tfds.core.Version("1.0.0"), data_dir=str(place), module_name="test"),
        features=features,
    )
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=4)
    writer.initialize_splits(list(splits))
    for split, pairs in splits.items():
        rows = [{"image": image, "label": label} for image, label in zip(*pairs, strict=True)]
        writer.add_examples({split: rows})
    writer.close_all()
