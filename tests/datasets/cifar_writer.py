"""Writes tiny data sets in the official CIFAR layouts, byte for byte in their form."""

import struct
import tarfile

import numpy as np


def python2_pickle(content):
    """Pickles a dictionary as Python 2 and its NumPy did (protocol 2, byte strings)."""
    return b"\x80\x02" + _value(content) + b"."


def _value(value):
    if isinstance(value, dict):
        items = b"".join(_value(k) + _value(v) for k, v in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_value, value)) + b"e"
    if isinstance(value, str):
        data = value.encode()
        return b"U" + struct.pack("<B", len(data)) + data
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    return _array(value)


def _array(array):
    empty = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    )
    dtype = b"cnumpy\ndtype\nU\x02" + array.dtype.str[1:].encode() + b"K\x00K\x01\x87R"
    order = b"(K\x03U\x01" + array.dtype.str[:1].encode() + b"NNNJ\xff\xff\xff\xff"
    dtype += order + b"J\xff\xff\xff\xffK\x00tb"
    shape = b"(" + b"".join(map(_value, array.shape)) + b"t"
    data = b"T" + struct.pack("<i", array.nbytes) + array.tobytes()
    return empty + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


def random_split(count, classes, seed):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, 32, 32, 3), np.uint8),
        "label": (np.arange(count) * 7 + seed) % classes,
        "coarse": (np.arange(count) * 3 + seed) % 20,
    }


def planes(images):
    """The official order of the bytes: all red, all green, all blue."""
    return np.stack([images[..., c].reshape(len(images), -1) for c in range(3)], 1)


def write_python(root, classes, train, test, names, coarse_names=()):
    """Writes the folder of pickles and returns it."""
    if classes == 100:
        folder = root / "cifar-100-python"
        meta = {"fine_label_names": list(names), "coarse_label_names": [*coarse_names]}
        files = {"train": _pickle100(train), "test": _pickle100(test), "meta": meta}
    else:
        folder = root / "cifar-10-batches-py"
        files = {f"data_batch_{i + 1}": _pickle10(part) for i, part in fifths(train)}
        files |= {"test_batch": _pickle10(test)}
        files |= {"batches.meta": {"label_names": list(names), "num_vis": 3072}}
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(python2_pickle(content))
    return folder


def fifths(split):
    count = len(split["label"]) // 5
    return [
        (i, {k: v[i * count : (i + 1) * count] for k, v in split.items()})
        for i in range(5)
    ]


def _pickle100(split):
    return {
        "filenames": [f"{i}.png" for i in range(len(split["label"]))],
        "batch_label": "training batch 1 of 1",
        "fine_labels": split["label"].tolist(),
        "coarse_labels": split["coarse"].tolist(),
        "data": planes(split["image"]).reshape(-1, 3072),
    }


def _pickle10(split):
    return {
        "batch_label": "a batch",
        "labels": split["label"].tolist(),
        "data": planes(split["image"]).reshape(-1, 3072),
    }


def write_binary(root, classes, train, test, names, coarse_names=()):
    """Writes the folder of fixed records and returns it."""
    if classes == 100:
        folder = root / "cifar-100-binary"
        files = {"train.bin": _records(train, ("coarse", "label"))}
        files |= {"test.bin": _records(test, ("coarse", "label"))}
        files |= {"fine_label_names.txt": _lines(names)}
        files |= {"coarse_label_names.txt": _lines(coarse_names)}
    else:
        folder = root / "cifar-10-batches-bin"
        files = {
            f"data_batch_{i + 1}.bin": _records(part, ("label",))
            for i, part in fifths(train)
        }
        files |= {"test_batch.bin": _records(test, ("label",))}
        files |= {"batches.meta.txt": _lines(names) + b"\n"}
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def _lines(names):
    return "".join(f"{name}\n" for name in names).encode()


def _records(split, keys):
    labels = [split[key].astype(np.uint8)[:, None] for key in keys]
    pixels = planes(split["image"]).reshape(-1, 3072)
    return np.concatenate([*labels, pixels], 1).tobytes()


def pack_folder(folder, name):
    """Packs a folder into an archive beside it, and removes the folder."""
    path = folder.parent / name
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return path
