import os
import pickle

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.core.safe_pickle import read_arrays
from tests.datasets.cifar_writer import python2_pickle

CONTENT = {
    "data": np.arange(24, dtype=np.uint8).reshape(4, 6),
    "labels": [3, 1, 4, 1],
    "big": np.arange(5, dtype=np.int64) - 2,
    "swapped": np.arange(5, dtype=">i4"),
}


def assert_same(ours, wanted):
    assert set(ours) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(ours[name], value)


def test_pickles_of_python_2():
    data = python2_pickle(CONTENT)
    # The writer is right: Python's own reader gets the same out of it.
    theirs = pickle.loads(data, encoding="bytes")
    assert_same({name.decode(): value for name, value in theirs.items()}, CONTENT)
    assert_same(read_arrays(data, "file"), CONTENT)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_pickles_of_python_3(protocol):
    assert_same(read_arrays(pickle.dumps(CONTENT, protocol), "file"), CONTENT)


def test_column_major_arrays():
    array = np.asfortranarray(CONTENT["data"])
    ours = read_arrays(pickle.dumps({"a": array}, 2), "file")["a"]
    np.testing.assert_array_equal(ours, array)


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_is_executed(tmp_path, protocol):
    target = tmp_path / "made"
    data = pickle.dumps({"data": Harmful(target)}, protocol)
    with pytest.raises(UserError, match=r"file was refused: it asks for \w+\.mkdir"):
        read_arrays(data, "file")
    assert not target.exists()
    pickle.loads(data)  # the attack is real
    assert target.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins\neval",
        "__builtin__\neval",
        "numpy\nload",
        "numpy\nndarray.tofile",
        "numpy.core.multiarray\nscalar",
        "_codecs\ndecode",
        "copyreg\n_reconstructor",
        "jaxkd.datasets.pickles\n_Array",
    ],
)
def test_every_other_name_is_refused(name):
    asked = name.replace("\n", ".")
    with pytest.raises(UserError, match=f"asks for {asked}"):
        read_arrays(b"\x80\x02c" + name.encode() + b"\n.", "file")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pickle",
        python2_pickle(CONTENT)[:-30],
        pickle.dumps([1, 2]),
        pickle.dumps({"a": np.array(["text"])}, 2),
        pickle.dumps({"a": np.array([None])}, 2),
        # An array of 100 entries with the data of one.
        python2_pickle({"a": np.zeros(1, np.uint8)}).replace(b"J\1\0", b"J\x64\0", 1),
        # A change of the stand-in functions themselves.
        b"\x80\x02c_codecs\nencode\n}U\x01xU\x01ysb.",
        b"\x80\x02cnumpy\nndarray\n}U\x01xU\x01ysb.",
        # Bytes by way of another codec.
        b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0hex\x86R.",
    ],
)
def test_damaged_or_foreign_pickles(data):
    with pytest.raises(UserError, match="file is not a whole pickled dictionary"):
        read_arrays(data, "file")
