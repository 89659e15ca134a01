import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.datasets import tfds as reader

pytest.importorskip("tensorflow_datasets")


def png(index, shape):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(index).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


def pixels(index, shape):
    return np.random.default_rng(index).integers(0, 256, shape, np.uint8)


def prepare(data_dir, dataset_name, image_shape, shapes):
    """Prepares a data set whose image i has shapes[i % len(shapes)] and label i % 3."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=image_shape),
            "label": tfds.features.ClassLabel(names=["a", "b", "c"]),
            "index": tfds.features.Scalar(np.int64),
        }
    )

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = dataset_name

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            del manager
            return {
                "train": self._generate_examples(range(12)),
                "test": self._generate_examples(range(12, 17)),
            }

        def _generate_examples(self, indices):
            for i in indices:
                image = png(i, shapes[i % len(shapes)])
                yield i, {"image": image, "label": i % 3, "index": i}

    Tiny(data_dir=data_dir, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder, "fixed", (8, 6, 3), [(8, 6, 3)])
    prepare(folder, "photos", (None, None, 3), [(20, 30, 3), (25, 15, 3)])
    return str(folder)


def as_set(source, shape):
    """(label, image) pairs, because preparation shuffles the examples."""
    examples = [source[i] for i in range(len(source))]
    assert all(e["image"].shape == shape for e in examples)
    return {(int(e["label"]), e["image"].tobytes()) for e in examples}


def test_small_sets_are_read_into_memory(data_dir, monkeypatch):
    monkeypatch.setenv("HOME", str(data_dir))
    dataset = reader.load("fixed", "~")
    assert dataset.info[:3] == ("fixed", 3, (8, 6, 3))
    assert dataset.info.class_names == ("a", "b", "c")
    wanted = {(i % 3, pixels(i, (8, 6, 3)).tobytes()) for i in range(12)}
    assert as_set(dataset.train(0), (8, 6, 3)) == wanted
    images = dataset.train(0).arrays["image"]
    assert images.dtype == np.uint8
    assert len(dataset.test) == 5
    np.testing.assert_allclose(dataset.info.mean, (images / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(dataset.info.std, (images / 255).std((0, 1, 2)))


def test_tensorflow_is_not_imported(data_dir):
    reader.load("fixed", data_dir)
    assert "tensorflow" not in sys.modules


def test_parts_of_splits(data_dir):
    dataset = reader.load(
        "fixed", data_dir, train_split="train[:75%]", test_split="train[75%:]"
    )
    assert (len(dataset.train(0)), len(dataset.test)) == (9, 3)
    both = as_set(dataset.train(0), (8, 6, 3)) | as_set(dataset.test, (8, 6, 3))
    assert len(both) == 12


def test_large_sets_stay_on_disk(data_dir, monkeypatch):
    monkeypatch.setattr(reader, "IN_MEMORY_BYTES", 8 * 6 * 3 * 11)
    dataset = reader.load("fixed", data_dir, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert not hasattr(dataset.train(0), "arrays")
    assert hasattr(dataset.test, "arrays")  # five images are within the limit
    wanted = {(i % 3, pixels(i, (8, 6, 3)).tobytes()) for i in range(12)}
    assert as_set(dataset.train(0), (8, 6, 3)) == wanted
    assert dataset.info.mean == (0.5,) * 3


def test_photographs_are_cropped_on_the_host(data_dir):
    dataset = reader.load("photos", data_dir, size=7)
    assert dataset.info.image_shape == (7, 7, 3)
    assert dataset.info.mean == (0.485, 0.456, 0.406)
    example = dataset.train(0)[0]
    assert example["image"].shape in [(20, 30, 3), (25, 15, 3)]
    assert dataset.prepare_test(example)["image"].shape == (7, 7, 3)
    prepared = dataset.prepare_train(example, np.random.default_rng(0))
    assert prepared["image"].shape == (7, 7, 3)
    with pytest.raises(UserError, match=r"Images of photos differ in size.*Set size"):
        reader.load("photos", data_dir)


def test_missing_data_set_says_how_to_prepare_it(data_dir):
    with pytest.raises(UserError) as error:
        reader.load("cifar100", data_dir)
    message = str(error.value)
    assert f"No cifar100 prepared in {data_dir}" in message
    assert "throw-away environment" in message
    assert "file_format='array_record'" in message
    assert f"data_dir='{data_dir}'" in message


def test_other_file_formats_are_refused(tmp_path):
    prepare(tmp_path, "fixed", (8, 6, 3), [(8, 6, 3)])
    path = tmp_path / "fixed" / "1.0.0" / "dataset_info.json"
    info = json.loads(path.read_text()) | {"fileFormat": "tfrecord"}
    path.write_text(json.dumps(info))
    with pytest.raises(
        UserError, match="in the format tfrecord, expected array_record"
    ):
        reader.load("fixed", str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_split": "valid"}, r"fixed: Unknown split 'valid'"),
        ({"image_key": "picture"}, "no feature 'picture'; it has .*image"),
        ({"label_key": "index"}, "index of fixed is .*, expected a ClassLabel"),
        ({"image_key": "label"}, "label of fixed is .*, expected uint8 images"),
    ],
)
def test_wrong_options(data_dir, options, message):
    with pytest.raises(UserError, match=message):
        reader.load("fixed", data_dir, **options)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"tensorflow_datasets is needed .*\.\[tfds\]"):
        reader.load("fixed", "anywhere")
