"""CIFAR-10 and CIFAR-100 from the official archives, unpacked or not.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Both official
layouts are read, with NumPy alone: *python* (pickles, which are not executed) and
*binary* (fixed records).
"""

import gzip
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.parsing import check_declared, parsing, require_file
from jaxkd.core.safe_pickle import read_arrays
from jaxkd.core.source import ArraySource, Dataset, Info, check_labels

COUNTS = (50_000, 10_000)  # official training and test images
PIXELS = 3 * 32 * 32
STATISTICS = {
    10: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    100: ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
# Official archives unpack to 186 MB at most, in files of 154 MB at most.
MAX_FILE, MAX_UNPACKED = 160_000_000, 250_000_000
_REMEDY = "Download or unpack it again."
CIFAR10_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))


class Layout(NamedTuple):
    """Where an official archive keeps what.

    Attributes:
      folder: inside the archive.
      archive: file name of the archive.
      archive_bytes: its official size.
      train: files of training images.
      test: files of test images.
      labels: key of the labels in a pickle, or for records the number of label bytes
        and which of them is meant.
      names: file of the class names.
      names_key: their key in a pickle.
    """

    folder: str
    archive: str
    archive_bytes: int
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: str | tuple[int, int]
    names: str
    names_key: str = ""


def layouts(classes: int, coarse: bool) -> tuple[Layout, Layout]:
    """Returns the python and the binary layout."""
    return _cifar10() if classes == 10 else _cifar100(coarse)


def _cifar10() -> tuple[Layout, Layout]:
    python = Layout(
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        archive_bytes=170_498_071,
        train=CIFAR10_BATCHES,
        test=("test_batch",),
        labels="labels",
        names="batches.meta",
        names_key="label_names",
    )
    binary = Layout(
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        archive_bytes=170_052_171,
        train=tuple(f"{name}.bin" for name in CIFAR10_BATCHES),
        test=("test_batch.bin",),
        labels=(1, 0),
        names="batches.meta.txt",
    )
    return python, binary


def _cifar100(coarse: bool) -> tuple[Layout, Layout]:
    kind = "coarse" if coarse else "fine"
    python = Layout(
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        archive_bytes=169_001_437,
        train=("train",),
        test=("test",),
        labels=f"{kind}_labels",
        names="meta",
        names_key=f"{kind}_label_names",
    )
    binary = Layout(
        folder="cifar-100-binary",
        archive="cifar-100-binary.tar.gz",
        archive_bytes=168_513_733,
        train=("train.bin",),
        test=("test.bin",),
        labels=(2, 0 if coarse else 1),
        names=f"{kind}_label_names.txt",
    )
    return python, binary


def load(classes: int = 100, root: str = "data", coarse: bool = False) -> Dataset:
    """Reads CIFAR-100 or CIFAR-10 from the first official layout found in ``root``.

    Args:
      classes: 100 or 10.
      root: folder that holds an official archive, or the folder it unpacks to.
      coarse: for CIFAR-100, the 20 superclasses instead of the 100 classes.

    Raises:
      UserError: if no layout is there, or a file is damaged.
    """
    mean, std = lookup.choose(classes, STATISTICS, what="classes")
    if coarse and classes == 10:
        raise UserError(
            "coarse=True was given for CIFAR-10, expected False: it has no "
            "superclasses."
        )
    train, test, names = read(Path(root).expanduser(), classes, coarse)
    name = f"cifar{classes}{'-coarse' if coarse else ''}"
    info = Info(name, len(names), (32, 32, 3), mean, std, names)
    return Dataset(info, lambda seed: train, test)


def read(
    root: Path, classes: int, coarse: bool = False, counts: tuple[int, int] = COUNTS
) -> tuple[ArraySource, ArraySource, tuple[str, ...]]:
    """Reads training images, test images and class names.

    Args:
      root: where to look.
      classes: 100 or 10.
      coarse: whether labels are the superclasses of CIFAR-100.
      counts: of training and test images that the files must hold.

    Raises:
      UserError: as for ``load``.
    """
    layout, files, origin = _find(root, layouts(classes, coarse))
    names = _class_names(layout, files, origin, 20 if coarse else classes)
    train, test = (
        _split(layout, files, part, count, len(names), origin)
        for part, count in zip((layout.train, layout.test), counts, strict=True)
    )
    return train, test, names


def _find(root: Path, candidates: tuple[Layout, Layout]):
    """Returns the layout found, the content of its files, and where they were."""
    for layout in candidates:
        if (root / layout.folder).is_dir():
            return layout, _from_folder(root, layout), str(root / layout.folder)
    for layout in candidates:
        if (root / layout.archive).exists():
            origin = f"{root / layout.archive}: {layout.folder}"
            return layout, _from_archive(root, layout), origin
    looked = ", ".join(f"{each.folder}/, {each.archive}" for each in candidates)
    raise UserError(
        f"No CIFAR data in {root.absolute()}, expected one of: {looked}. Download "
        f"{candidates[0].archive} from the CIFAR page of the University of Toronto "
        "(www.cs.toronto.edu/~kriz/cifar.html) into that folder, or set root."
    )


def _from_folder(root: Path, layout: Layout) -> dict[str, bytes]:
    folder = root / layout.folder
    wanted = (*layout.train, *layout.test, layout.names)
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {', '.join(missing)}. Unpack {layout.archive} again."
        )
    for name in wanted:
        size = (folder / name).stat().st_size
        check_declared(folder / name, "bytes", size, MAX_FILE, _REMEDY)
    with parsing(folder, "a folder of CIFAR", _REMEDY):
        return {name: (folder / name).read_bytes() for name in wanted}


def _from_archive(root: Path, layout: Layout) -> dict[str, bytes]:
    path = root / layout.archive
    wanted = {
        f"{layout.folder}/{name}": name
        for name in (*layout.train, *layout.test, layout.names)
    }
    files = {}
    require_file(path, _REMEDY)
    what = f"the archive {layout.archive} of {layout.archive_bytes:,} bytes"
    with parsing(path, what, _REMEDY), _Bounded(path) as stream:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                if member.name in wanted and member.isfile():
                    content = archive.extractfile(member)
                    assert content is not None  # of an ordinary file
                    files[wanted[member.name]] = content.read()
        while stream.read(1 << 20):  # to its end, where its checksum is
            pass
    missing = [name for name in wanted.values() if name not in files]
    if missing:
        raise UserError(_damaged(path, layout, f"it lacks {', '.join(missing)}"))
    return files


class _Bounded(gzip.GzipFile):
    """A compressed stream that unpacks to no more than an official archive does."""

    def read(self, size: int | None = -1) -> bytes:
        asked = -1 if size is None else size
        if asked > MAX_FILE or self.tell() + max(asked, 0) > MAX_UNPACKED:
            raise ValueError("it unpacks to more bytes than any archive of CIFAR has")
        return super().read(asked)


def _damaged(path: Path, layout: Layout, why: str) -> str:
    return (
        f"{path} is damaged ({why}): it has {path.stat().st_size:,} bytes, the "
        f"official archive has {layout.archive_bytes:,}. Download it again."
    )


def _class_names(layout, files, origin: str, classes: int) -> tuple[str, ...]:
    data, where = files[layout.names], f"{origin}/{layout.names}"
    if layout.names_key:
        listed = read_arrays(data, where).get(layout.names_key, [])
    else:
        listed = data.split(b"\n")
    listed = listed if isinstance(listed, list) else []
    with parsing(where, "a list of class names", _REMEDY):
        texts = [n.decode() if isinstance(n, bytes) else str(n) for n in listed]
    names = tuple(text.strip() for text in texts if text.strip())
    if len(names) != classes:
        raise UserError(f"{where} has {len(names)} class names, expected {classes}.")
    return names


def _split(layout, files, parts, count: int, classes: int, origin: str) -> ArraySource:
    """Decodes the files of one split, which hold equally many of ``count`` images."""
    pixels, labels = [], []
    decode = _from_pickle if isinstance(layout.labels, str) else _from_records
    for name in parts:
        where = f"{origin}/{name}"
        flat, label = decode(files[name], layout.labels, count // len(parts), where)
        pixels.append(flat)
        labels.append(check_labels(label, classes, where))
    planes = np.concatenate(pixels).reshape(-1, 3, 32, 32)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return ArraySource({"image": images, "label": np.concatenate(labels)})


def _from_records(data: bytes, labels: tuple[int, int], count: int, where: str):
    label_bytes, column = labels
    wanted = count * (label_bytes + PIXELS)
    if len(data) != wanted:
        raise UserError(
            f"{where} has {len(data):,} bytes, expected {wanted:,} ({count:,} records "
            f"of {label_bytes + PIXELS:,}). Download or unpack it again."
        )
    records = np.frombuffer(data, np.uint8).reshape(count, -1)
    return records[:, label_bytes:], records[:, column]


def _from_pickle(data: bytes, key: str, count: int, where: str):
    if len(data) < count * PIXELS:
        raise UserError(
            f"{where} has {len(data):,} bytes, expected more than {count * PIXELS:,}, "
            f"which {count:,} images take. Download or unpack it again."
        )
    content: Mapping = read_arrays(data, where)
    missing = [name for name in ("data", key) if name not in content]
    if missing:
        raise UserError(f"{where} has no {missing[0]!r}; it has {', '.join(content)}.")
    with parsing(where, "images and labels", _REMEDY):
        pixels, labels = np.asarray(content["data"]), np.asarray(content[key])
    if (pixels.shape, pixels.dtype) != ((count, PIXELS), np.uint8):
        raise UserError(
            f"{where} has images {pixels.dtype} {pixels.shape}, expected uint8 "
            f"{(count, PIXELS)}: {count:,} images."
        )
    if labels.shape != (count,):
        raise UserError(f"{where} has labels {labels.shape}, expected {(count,)}.")
    return pixels, labels
