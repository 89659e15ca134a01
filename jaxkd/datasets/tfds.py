"""Data sets prepared by TensorFlow Datasets, read without TensorFlow.

Only folders in the ``array_record`` format are read: it gives random access, and needs
neither TensorFlow nor the code that made the data set. The message of ``load`` for a
missing data set says how to prepare one.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxkd.core import optional
from jaxkd.core.errors import UserError
from jaxkd.core.source import (
    ArraySource,
    Dataset,
    Example,
    Info,
    Source,
    check_labels,
    statistics,
)
from jaxkd.readers.images import (
    CENTER_CROP,
    IMAGENET_MEAN,
    IMAGENET_STD,
    center_crop,
    random_resized_crop,
)

IN_MEMORY_BYTES = 2 * 2**30  # larger splits stay on disk
PREPARE = """Prepare it once, in a throw-away environment with TensorFlow:
  pip install tensorflow tensorflow-datasets array-record importlib-resources
  python -c "import tensorflow_datasets as tfds; tfds.builder('{dataset}', \
data_dir='{data_dir}', file_format='array_record').download_and_prepare()"
and read it here without."""


class TfdsSource:
    """The image and the label of each example, decoded when it is asked for."""

    def __init__(self, records, image_key: str, label_key: str):
        self.records, self.image_key, self.label_key = records, image_key, label_key

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        example = self.records[int(index)]
        label = np.asarray(example[self.label_key])
        return {"image": example[self.image_key], "label": label}


def load(
    dataset: str,
    data_dir: str,
    train_split: str = "train",
    test_split: str = "test",
    image_key: str = "image",
    label_key: str = "label",
    size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Dataset:
    """Opens a prepared data set.

    Args:
      dataset: its name in TensorFlow Datasets, such as ``"cifar100"`` or
        ``"imagenet2012:5.1.0"``.
      data_dir: folder it was prepared in.
      train_split: such as ``"train"`` or ``"train[:90%]"``.
      test_split: such as ``"test"`` or ``"validation"``.
      image_key: feature that holds the image.
      label_key: feature that holds the class label.
      size: side of the crops made on the host (as in ``folder``), for images that
        differ in size; not given, images are used as they are.
      mean: of each channel in [0, 1]; of the training images if they are in memory,
        else ImageNet's.
      std: likewise.

    Raises:
      UserError: if the package or the data set is missing, or it has other features.
    """
    builder = _open(dataset, os.path.expanduser(data_dir))
    shape, names = _features(builder.info.features, dataset, image_key, label_key)
    if size is None and None in shape:
        raise UserError(
            f"Images of {dataset} differ in size ({shape}). Set size to crop them."
        )
    channels = shape[-1]
    shape = shape if size is None else (size, size, channels)
    train, test = (
        TfdsSource(_records(builder, split), image_key, label_key)
        for split in (train_split, test_split)
    )
    train_source: Source = train
    test_source: Source = test
    if size is None:
        train_source = _in_memory(train, shape, len(names), dataset)
        test_source = _in_memory(test, shape, len(names), dataset)
    if mean is None or std is None:
        mean, std = _statistics(train_source, channels, dataset)
    rule = "" if size is None else CENTER_CROP
    numbered = names == tuple(map(str, range(len(names))))  # of labels without names
    info = Info(
        *(dataset, len(names), shape, tuple(mean), tuple(std), names, rule, numbered)
    )
    plain = Dataset(info, lambda seed: train_source, test_source)
    if size is None:
        return plain
    return plain._replace(
        prepare_train=random_resized_crop(size), prepare_test=center_crop(size)
    )


def _open(dataset: str, data_dir: str):
    tfds = optional.load(
        "tensorflow_datasets", extra="tfds", purpose="Data sets of TFDS"
    )
    recipe = PREPARE.format(dataset=dataset, data_dir=data_dir)
    try:
        # From the files alone: the code of many data sets would import TensorFlow.
        builder = tfds.core.read_only_builder.builder_from_files(
            dataset, data_dir=data_dir
        )
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(f"No {dataset} prepared in {data_dir}. {recipe}") from error
    found = builder.info.file_format.value
    if found != "array_record":
        raise UserError(
            f"{dataset} in {data_dir} is in the format {found}, expected array_record. "
            f"Choose another folder. {recipe}"
        )
    return builder


def _features(features: Mapping[str, Any], dataset, image_key, label_key):
    """Returns the image's shape and the class names."""
    for key in (image_key, label_key):
        if key not in features:
            raise UserError(
                f"{dataset} has no feature {key!r}; it has {', '.join(features)}. "
                "Set image_key and label_key."
            )
    image, label = features[image_key], features[label_key]
    if len(image.shape) != 3 or image.np_dtype != np.uint8:
        raise UserError(
            f"{image_key} of {dataset} is {image}, expected uint8 images of shape "
            "(height, width, channels)."
        )
    if not hasattr(label, "num_classes"):
        raise UserError(f"{label_key} of {dataset} is {label}, expected a ClassLabel.")
    return tuple(image.shape), tuple(label.names)


def _records(builder, split: str):
    try:
        return builder.as_data_source(split)
    except ValueError as error:
        raise UserError(f"{builder.name}: {error}") from error


def _in_memory(source: TfdsSource, shape, classes: int, dataset: str) -> Source:
    """Reads all examples into arrays, unless they are too many."""
    if len(source) * math.prod(shape) > IN_MEMORY_BYTES:
        return source
    images = np.empty((len(source), *shape), np.uint8)
    labels = np.empty(len(source), np.int64)
    for index in range(len(source)):
        example = source[index]
        images[index], labels[index] = example["image"], example["label"]
    return ArraySource(
        {"image": images, "label": check_labels(labels, classes, dataset)}
    )


def _statistics(train: Source, channels: int, dataset: str):
    if isinstance(train, ArraySource):
        return statistics(train.arrays["image"], dataset)
    if channels != len(IMAGENET_MEAN):
        raise UserError(
            f"{dataset} has {channels} channels and is too large to measure. Set mean "
            "and std."
        )
    return IMAGENET_MEAN, IMAGENET_STD
