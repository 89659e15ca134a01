"""LMDB files are read as LMDB's own library reads them, and never trusted."""

import contextlib
import struct

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.core.parsing import parsing
from jaxkd.readers import lmdb_file

lmdb = pytest.importorskip("lmdb")


def write(folder, records, removed=()):
    with lmdb.open(str(folder), map_size=1 << 25) as environment:
        with environment.begin(write=True) as transaction:
            for key, value in records.items():
                transaction.put(key, value)
        with environment.begin(write=True) as transaction:
            for key in removed:
                transaction.delete(key)
    return folder / "data.mdb"


def random_records(count, seed=0):
    """Keys of 1 to 200 bytes, values of 0 to 9,000: of a leaf's, and of own pages."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice([0, 3, 300, 2000, 2050, 4080, 4081, 9000], count)
    keys = [rng.bytes(int(rng.integers(1, 200))) for _ in range(count)]
    return {k: rng.bytes(int(size)) for k, size in zip(keys, sizes, strict=True)}


def test_every_key_of_a_deep_tree(tmp_path):
    records = random_records(2000)
    keys = list(records)
    path = write(tmp_path, records, removed=keys[::3])
    with lmdb.open(str(tmp_path), readonly=True) as theirs, theirs.begin() as reading:
        assert theirs.stat()["depth"] >= 3
        others = [b"\0", b"\xff" * 300, *(key[:-1] + b"~" for key in keys[:300])]
        for key in [*keys, *others]:
            assert lmdb_file.get(path, key) == reading.get(key)


def test_empty_table(tmp_path):
    assert lmdb_file.get(write(tmp_path, {}), b"a") is None


def test_a_damaged_or_missing_page_is_an_error(tmp_path):
    records = random_records(400)
    path = write(tmp_path, records)
    content, rng = path.read_bytes(), np.random.default_rng(0)

    def read():
        with parsing(path, "an LMDB file", "Copy it anew."):
            return [lmdb_file.get(path, key) for key in records]

    for page in range(0, len(content) // 4096, 20):
        place = 4096 * page
        noise = rng.bytes(64)
        path.write_bytes(content[:place] + noise + content[place + 64 :])
        with contextlib.suppress(UserError):
            read()
        path.write_bytes(content[: place + 100])
        with pytest.raises(UserError, match="ends at byte"):
            read()


def test_a_page_that_names_itself_is_an_error(tmp_path):
    path = write(tmp_path, random_records(400))
    content = bytearray(path.read_bytes())
    meta = max((struct.unpack_from("<Q", content, at + 144), at) for at in (0, 4096))[1]
    (root,) = struct.unpack_from("<Q", content, meta + 128)
    for i in range(struct.unpack_from("<H", content, 4096 * root + 12)[0] // 2 - 8):
        (node,) = struct.unpack_from("<H", content, 4096 * root + 16 + 2 * i)
        struct.pack_into("<HHH", content, 4096 * root + node, root, 0, 0)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="deeper than 32 pages"):
        lmdb_file.get(path, b"a")
