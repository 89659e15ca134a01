"""What a data set is: a description, training examples and test examples."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import numpy as np

from jaxkd.core.errors import UserError

Example = dict[str, np.ndarray]


class Info(NamedTuple):
    """What models, views and reports need to know about a data set.

    Attributes:
      name: for people to read.
      num_classes: number of labels; labels are ``0 .. num_classes - 1``. 0 for data
        without labels, or whose field ``label`` is no class: it is then not checked.
      image_shape: of an example's image, such as ``(height, width, channels)``.
      mean: of each channel, of images scaled to [0, 1].
      std: likewise the standard deviation.
      class_names: one per label.
      resize: how the data set brings photographs to ``image_shape`` for evaluation:
        ``"center_crop"`` (see ``jaxkd.readers.images``); empty where it changes none.
      numbered: whether the class names are but the labels' numbers, for want of names.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    resize: str = ""
    numbered: bool = False


class Source(Protocol):
    """Random access to examples, dictionaries of arrays of equal shape.

    The names of the fields are conventions of the methods and views that use them:
    ``image``, mostly uint8 ``[h, w, c]``; ``label`` int32; any others. Ragged fields
    are padded by the data set, with a mask beside them. ``mask`` is reserved: it marks
    the padding rows of evaluation. An attribute ``buckets`` keeps training examples
    that are prepared to different shapes in batches of their own; see
    ``jaxkd.datasets.batching``.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class ArraySource:
    """A data set that fits in memory: arrays whose leading axis runs over examples."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        """Holds arrays.

        Raises:
          UserError: if there are none, or they differ in length.
        """
        self.arrays = dict(arrays)
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1:
            raise UserError(
                f"The fields of a data set have {lengths} examples, expected as many "
                "in each, and at least one field."
            )

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, index: int) -> Example:
        return {name: array[index] for name, array in self.arrays.items()}


class CheckedSource:
    """A source whose labels, if it has any, are checked as they are read.

    For data that cannot be checked as a whole, because it does not fit in memory.
    """

    def __init__(self, source: Source, info: Info):
        self.source, self.info = source, info

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        if "label" not in example or not self.info.num_classes:
            return example
        label = np.asarray(example["label"])
        integer = label.ndim == 0 and np.issubdtype(label.dtype, np.integer)
        if not (integer and 0 <= label < self.info.num_classes):
            raise UserError(
                f"{self.info.name}: example {index} has label {label} "
                f"({label.dtype}), expected an integer from 0 to "
                f"{self.info.num_classes - 1}. Check the number of classes, and "
                "whether labels start at 0."
            )
        return example | {"label": label.astype(np.int32)}


def _unchanged(example: Example, rng: np.random.Generator | None = None) -> Example:
    del rng
    return example


class Dataset(NamedTuple):
    """A description with its training and test examples.

    Attributes:
      info: the description.
      train: ``seed -> Source``. Most data sets ignore the seed; a few-shot one gives
        each seed its own labelled images. Empty where there are none, and the data are
        for evaluation alone.
      test: the examples for evaluation.
      prepare_train: host-side preparation of one example, with a random generator:
        only for data that is not yet of ``info.image_shape``, such as photographs.
      prepare_test: the same for evaluation, without randomness.
      fields: shapes and dtypes of a prepared example, for data that is not in memory
        and has other fields than ``image`` uint8 and ``label``.
    """

    info: Info
    train: Callable[[int], Source]
    test: Source
    prepare_train: Callable[[Example, np.random.Generator], Example] = _unchanged
    prepare_test: Callable[[Example], Example] = _unchanged
    fields: Mapping[str, jax.ShapeDtypeStruct] | None = None

    def example(self, source: Source) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes and dtypes of one prepared training example."""
        if isinstance(source, ArraySource):
            return {
                name: jax.ShapeDtypeStruct(array.shape[1:], array.dtype)
                for name, array in source.arrays.items()
            }
        return dict(self.fields or {}) or {
            "image": jax.ShapeDtypeStruct(self.info.image_shape, np.uint8),
            "label": jax.ShapeDtypeStruct((), np.int32),
        }


def check_labels(labels: np.ndarray, num_classes: int, origin: str) -> np.ndarray:
    """Returns labels as int32.

    Raises:
      UserError: if a label is not an integer in ``0 .. num_classes - 1``.
    """
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{origin}: labels have dtype {labels.dtype}, expected integers."
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        first = int(wrong[0])
        raise UserError(
            f"{origin}: example {first} has label {labels[first]}, expected 0 to "
            f"{num_classes - 1} ({wrong.size} such labels). Check the number of "
            "classes, and whether labels start at 0."
        )
    return labels.astype(np.int32)


def check_layout(shape: tuple[int, ...], origin: str) -> None:
    """Raises UserError for images that are evidently channels-first.

    Evident are ``[n, c, h, h]`` with ``c <= 5 < h``, and ``[n, c, h, w]`` with 1, 3 or
    4 channels first, not last, and sides above 4. It cannot be told of images as small
    as their channels are many, such as ``[n, 3, 4, 4]``, of other numbers of channels
    with sides that differ, such as ``[n, 2, 28, 20]``, or where both ends may be
    channels: ``[n, 3, 8, 3]``.

    Args:
      shape: of all images, ``[n, h, w, c]``; others are not looked at.
      origin: where they come from, for the error message.
    """
    few = (1, 3, 4)
    if len(shape) != 4:
        return
    square = shape[1] <= 5 < shape[2] == shape[3]
    known = shape[1] in few and shape[3] not in few and min(shape[2:]) > 4
    if square or known:
        raise UserError(
            f"{origin} are {shape}, which would be images of {shape[1]} x {shape[2]} "
            f"pixels with {shape[3]} channels, expected (examples, height, width, "
            "channels). Channels come last: images.transpose(0, 2, 3, 1)."
        )


def to_bytes(
    images: np.ndarray, value_range: tuple[float, float] | None, origin: str
) -> np.ndarray:
    """Returns images as uint8, the range of their values as 0 to 255.

    Args:
      images: uint8, or of any other real dtype with a range.
      value_range: which values are black and white; that of uint8 is (0, 255) if not
        given.
      origin: where they come from, for the error message.

    Raises:
      UserError: if they need a range and have none, or values lie outside of it, or
        take up next to nothing of it: see ``check_shades``.
    """
    if value_range is None and images.dtype == np.uint8:
        check_shades(images, origin)
        return images
    if images.dtype.kind not in "iuf" or images.size == 0:
        raise UserError(
            f"{origin} are {images.dtype} {images.shape}, expected uint8, or real "
            "numbers with value_range."
        )
    low, high = float(images.min()), float(images.max())
    seen = f"{origin} are {images.dtype} from {low:g} to {high:g}"
    if value_range is None:
        raise UserError(
            f"{seen}, expected uint8, or the values of black and white: "
            "value_range=(0.0, 1.0), say, or (0, 65535)."
        )
    black, white = map(float, value_range)
    if not (black < white and black <= low and high <= white):  # also for NaN
        raise UserError(
            f"{seen}, expected values within value_range=({black:g}, {white:g}), black "
            "below white."
        )
    if (high - low) * 32 < white - black:
        raise UserError(
            f"{seen}, which is next to nothing of value_range=({black:g}, {white:g}): "
            "fewer than 8 of 256 shades would be left. Give the range that they have."
        )
    scaled = (images.astype(np.float64) - black) * (255 / (white - black))
    return np.rint(scaled).astype(np.uint8)


def check_shades(images: np.ndarray, origin: str) -> None:
    """Raises UserError for uint8 images of fewer than 8 of the 256 shades.

    They have been divided by 255, or their white is another value than 255.

    Args:
      images: uint8, any number.
      origin: where they come from, for the error message.
    """
    low, high = int(images.min(initial=255)), int(images.max(initial=0))
    if images.size and high - low < 7:
        raise UserError(
            f"{origin} are uint8 from {low} to {high}, expected 0 to 255. If they were "
            "divided by 255, save them as they were; if they have other values for "
            f"black and white, declare them: value_range=({low}, {max(high, 1)}), say."
        )


def count_classes(labels: np.ndarray, most: int, origin: str) -> int:
    """Counts the classes of labels from 0 on, each of which must have an example.

    Args:
      labels: integers ``[n]``.
      most: largest number of classes that is plausible.
      origin: where they come from, for the error message.

    Raises:
      UserError: if a label is no integer in range, or a class has no example.
    """
    present = np.unique(check_labels(labels, most, origin))
    if not present.size:
        raise UserError(f"{origin} are empty, expected at least one label.")
    first, last = int(present[0]), int(present[-1])
    if len(present) == last + 1:
        return last + 1
    absent = np.setdiff1d(np.arange(last), present)
    shown = ", ".join(map(str, absent[:5])) + (", ..." if len(absent) > 5 else "")
    remedy = "Number them: labels = np.unique(labels, return_inverse=True)[1]"
    if first == 1 and len(present) == last:
        remedy = "They start at 1: subtract 1"
    raise UserError(
        f"{origin} have {len(present)} different values from {first} to {last}, which "
        f"would be {last + 1} classes, of which {shown} "
        f"{'have' if len(absent) > 1 else 'has'} no example. {remedy}; or give "
        f"classes={last + 1}, if there are so many."
    )


def statistics(
    images: np.ndarray, origin: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel, images scaled to [0, 1].

    Args:
      images: uint8 ``[..., channels]``.
      origin: where they come from, for the error message.

    Raises:
      UserError: if a channel has the same value everywhere, or all have fewer than 8
        shades.
    """
    check_shades(images, origin)
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[-1]):
        # By histogram, so that large sets are never copied to floats.
        counts = np.bincount(images[..., channel].reshape(-1), minlength=256)
        mean.append(float(counts @ values / counts.sum()))
        std.append(float(np.sqrt(counts @ (values - mean[-1]) ** 2 / counts.sum())))
        if std[-1] == 0:
            raise UserError(
                f"{origin}: channel {channel} of the images is {mean[-1] * 255:.0f} "
                "everywhere, so it cannot be normalised. Leave it out."
            )
    return tuple(mean), tuple(std)
