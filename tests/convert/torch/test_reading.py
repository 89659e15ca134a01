"""Files of torch.save, read without torch; files that mean harm are refused."""

import argparse
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from jaxkd.convert.torch import reading
from jaxkd.core.errors import UserError

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch

LAYOUTS = {"zip": True, "legacy": False}
DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def save(content, path, layout):
    torch.save(content, path, _use_new_zipfile_serialization=LAYOUTS[layout])
    return path


def values(content):
    """The content with arrays in place of tensors."""
    if isinstance(content, reading.Tensor):
        return content.value()
    if isinstance(content, dict):
        return {key: values(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(map(values, content))
    return content


def read(path):
    return values(reading.read(path))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes(tmp_path, layout, dtype):
    tensor = torch.arange(-3, 9).reshape(3, 4).to(dtype)
    got = read(save({"a": tensor}, tmp_path / "file", layout))["a"]
    wanted = tensor.to(torch.float64).numpy()
    assert got.dtype.itemsize == tensor.element_size()
    np.testing.assert_array_equal(got.astype(np.float64), wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_views_into_one_storage(tmp_path, layout):
    base = torch.arange(60.0).reshape(3, 4, 5)
    content = {
        "whole": base,
        "transposed": base.permute(2, 0, 1),
        "part": base[1:, ::2, 3],
        "scalar": base[2, 3, 4],
        "wide": base[0, 0, 0].expand(2, 3),
        "empty": torch.zeros(0, 3),
    }
    got = read(save(content, tmp_path / "file", layout))
    for name, tensor in content.items():
        np.testing.assert_array_equal(got[name], tensor.numpy(), err_msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_everything_that_training_scripts_save(tmp_path, layout):
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    content = {
        "epoch": 240,
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "accuracy": torch.tensor(79.4),
        "best_acc": np.float64(79.4),
        "opt": argparse.Namespace(model="resnet8", lr=0.05, betas=[1, 2]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "size": torch.Size([2, 3]),
        "mixed": [None, True, "text", 1.5, -7, 2**40, (1, {"a": b"bytes"})],
    }
    got = read(save(content, tmp_path / "file", layout))
    assert list(got) == list(content)
    assert got["epoch"] == 240
    assert got["accuracy"] == np.float32(79.4)
    assert got["size"] == (2, 3)
    assert got["mixed"][:-1] == content["mixed"][:-1]
    np.testing.assert_array_equal(got["parameter"], [1, 1])
    weight = network.state_dict()["weight"].numpy()
    np.testing.assert_array_equal(got["model"]["weight"], weight)
    momentum = optimizer.state_dict()["state"][0]["momentum_buffer"].numpy()
    saved = got["optimizer"]["state"][0]["momentum_buffer"]
    np.testing.assert_array_equal(saved, momentum)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tensors_of_a_gpu(tmp_path, layout):
    """The file names a device that this machine has not; older files a type as well."""
    path = save({"a": torch.arange(3.0)}, tmp_path / "file", layout)
    old, new = b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:1"
    kind = b"ctorch\nFloatStorage"
    if layout == "zip":
        rewrite(path, lambda data: data.replace(old, new))
        with zipfile.ZipFile(path) as archive:
            assert b"cuda:1" in archive.read("file/data.pkl")
    else:
        data = path.read_bytes()
        assert old in data and kind in data
        data = data.replace(old, new).replace(kind, b"ctorch.cuda\nFloatStorage")
        path.write_bytes(data)
    np.testing.assert_array_equal(read(path)["a"], [0, 1, 2])


def rewrite(path, change):
    """Changes the pickle within a zip file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, change(data) if name.endswith(".pkl") else data)


def test_safetensors(tmp_path):
    from safetensors.numpy import save_file

    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.ones(2, np.float32)}
    save_file(arrays, tmp_path / "file")
    got = reading.read(tmp_path / "file")
    assert set(got) == {"a", "b"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array)


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_executed(tmp_path, layout):
    canary = tmp_path / "canary"
    content = {"model": {"a": torch.ones(2)}, "extra": Harmful(canary)}
    path = save(content, tmp_path / "file", layout)
    with pytest.raises(UserError, match=r"file was refused: it asks for \w+\.system"):
        reading.read(path)
    assert not canary.exists()
    torch.load(path, weights_only=False)  # the attack is real
    assert canary.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins\neval",
        "builtins\ngetattr",
        "torch\nload",
        "torch.storage\n_load_from_bytes",
        "collections\nOrderedDict.fromkeys",
        "argparse\nFileType",
        "numpy\nload",
        "jaxkd.convert.torch.reading\nTensor",
    ],
)
def test_every_other_name_is_refused(tmp_path, name):
    asked = name.replace("\n", ".")
    for path in hand_written(tmp_path, b"\x80\x02c" + name.encode() + b"\n."):
        with pytest.raises(UserError, match=f"asks for {asked}"):
            reading.read(path)


def hand_written(folder, data):
    """Puts a pickle into files of both layouts."""
    legacy, zipped = folder / "legacy", folder / "zip"
    start = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    legacy.write_bytes(b"".join(pickle.dumps(x, 2) for x in start) + data)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/data/0", np.zeros(4, np.float32).tobytes())
    return legacy, zipped


def test_a_whole_pickled_model_is_refused(tmp_path):
    path = save(torch.nn.Linear(2, 2), tmp_path / "file", "zip")
    with pytest.raises(UserError, match=r"Linear.*write model.state_dict\(\)"):
        reading.read(path)


STORAGE = (
    b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"
)
REBUILD = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("


@pytest.mark.parametrize(
    "layout",
    [
        b"K\x00K\x05\x85K\x01\x85",  # longer than its storage
        b"K\x03K\x02\x85K\x01\x85",  # begins too late
        b"K\x00K\x02\x85K\x04\x85",  # steps too far
        b"J\xff\xff\xff\xffK\x02\x85K\x01\x85",  # begins before its storage
        b"K\x00K\x02\x85J\xff\xff\xff\xff\x85",  # steps backwards
        b"K\x00K\x02\x85)",  # a dimension without a step
    ],
)
def test_tensors_stay_within_their_storage(tmp_path, layout):
    _, path = hand_written(tmp_path, REBUILD + STORAGE + layout + b"\x89)tR.")
    with pytest.raises(ValueError, match="tensor"):
        reading.read(path).value()


def test_the_hand_written_tensor_is_right(tmp_path):
    data = REBUILD + STORAGE + b"K\x01K\x03\x85K\x01\x85\x89)tR."
    _, path = hand_written(tmp_path, data)
    np.testing.assert_array_equal(reading.read(path).value(), [0, 0, 0])


@pytest.mark.parametrize(
    "data",
    [
        # Changes of the stand-ins themselves, by dictionary and by attribute.
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x05\0\0\0valueK\x01sb.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x05\0\0\0valueK\x01s\x86b.",
        b"\x80\x02ccollections\nOrderedDict\n}X\x01\0\0\0aK\x01sb.",
        b"\x80\x02cargparse\nNamespace\nN}X\x01\0\0\0aK\x01s\x86b.",
        b"\x80\x02ctorch\nFloatStorage\nN}X\x05\0\0\0dtypeK\x01s\x86b.",
        b"\x80\x02ctorch\nSize\nN}X\x05\0\0\0countK\x01s\x86b.",
        # A storage that is called, one of another kind, and one of no type.
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02" + STORAGE.replace(b"storage", b"modules") + b".",
        b"\x80\x02" + STORAGE.replace(b"torch\nFloatStorage", b"torch\nSize") + b".",
        # Data of another size.
        b"\x80\x02" + STORAGE.replace(b"K\x04", b"K\x05") + b".",
    ],
)
def test_damaged_or_foreign_pickles(tmp_path, data):
    kept = dict(vars(reading.Tensor)), vars(OrderedDict).get("a")
    for path in hand_written(tmp_path, data):
        with pytest.raises(UserError, match="is not a whole torch checkpoint"):
            reading.read(path)
    assert (dict(vars(reading.Tensor)), vars(OrderedDict).get("a")) == kept


@pytest.mark.parametrize("layout", LAYOUTS)
def test_truncated_files(tmp_path, layout):
    path = save({"a": torch.ones(5000)}, tmp_path / "file", layout)
    whole = path.read_bytes()
    for size in (3, 40, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=f"torch checkpoint.*It has {size:,} bytes"):
            reading.read(path)


def test_files_of_other_kinds(tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        reading.read(tmp_path / "absent")
    inside = save({"a": torch.ones(2)}, tmp_path / "inside.pth", "legacy")
    with tarfile.open(tmp_path / "teachers.tar", "w:gz") as archive:
        archive.add(inside)
    with pytest.raises(UserError, match=r"is a tar archive\. Unpack it"):
        reading.read(tmp_path / "teachers.tar")
    np.savez(tmp_path / "arrays.npz", a=np.ones(2))
    (tmp_path / "text").write_text("no checkpoint at all, but long enough")
    for name in ("arrays.npz", "text"):
        with pytest.raises(UserError, match="is not a whole torch checkpoint"):
            reading.read(tmp_path / name)


def test_a_repeated_number_fills_no_memory():
    storage = reading._Storage(np.dtype(np.float32), 1)
    storage.fill(np.ones(1, np.float32).tobytes())
    assert reading.Tensor(storage, 0, (3, 2), (0, 0)).value().tolist() == [[1, 1]] * 3
    with pytest.raises(ValueError, match="with 1 numbers"):
        reading.Tensor(storage, 0, (1 << 40,), (0,)).value()
