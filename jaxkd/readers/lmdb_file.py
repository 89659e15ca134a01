"""Looks keys up in an LMDB file, and trusts nothing that the file says.

LMDB's own library maps the file into memory and follows its numbers: one changed byte
can end the process. Here every page is read, and its kind, its number and
its offsets are compared with what there is. Nothing stays open, so that processes and
threads may share an object.

The layout is that of LMDB 0.9 (``mdb.c``, LMDB_0.9 branch) on 64-bit machines of low
byte order: two pages of metadata, of which the one with the higher transaction holds,
and a B+ tree of branch, leaf and overflow pages.
"""

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEAD = struct.Struct("<QHHHH")  # page number, padding, flags, lower, upper bound
_NODE = struct.Struct("<HHHH")  # low and high half of a size, flags, size of the key
_META = struct.Struct("<IIQQ48s48sQQ")
_TABLE = struct.Struct("<IHHQQQQQ")  # padding, flags, depth, pages, entries, root
_BRANCH, _LEAF, _OVERFLOW, _KINDS = 1, 2, 4, 0x2F
_LARGE = 1  # flag of a node whose value lies on overflow pages
_EMPTY = (1 << 64) - 1  # root of a table without entries
_DEEPEST = 32


class _Page(NamedTuple):
    kind: int
    content: bytes

    def node(self, index: int) -> tuple[bytes, int, int, int, int]:
        """Returns key, both halves of a size, flags, and where the value begins."""
        (place,) = struct.unpack_from("<H", self.content, _HEAD.size + 2 * index)
        low, high, flags, length = _NODE.unpack_from(self.content, place)
        start = place + _NODE.size
        key = self.content[start : start + length]
        if len(key) < length:
            raise ValueError("a key reaches beyond its page")
        return key, low, high, flags, start + length

    def size(self) -> int:
        """Returns how many nodes there are."""
        lower = _HEAD.unpack_from(self.content)[3]
        if not _HEAD.size < lower <= len(self.content) or lower % 2:
            raise ValueError(f"a page declares {lower} bytes of offsets")
        return (lower - _HEAD.size) // 2


def get(path: Path, key: bytes) -> bytes | None:
    """Returns the value of a key in the main table, or None if there is none.

    Args:
      path: of ``data.mdb``.
      key: not empty.

    Raises:
      Exception: of any kind, if the file is missing or damaged; wrap it by ``parsing``.
    """
    with path.open("rb") as file:
        tree = _Tree(file)
        if tree.root == _EMPTY:
            return None
        number = tree.root
        for _ in range(_DEEPEST):
            page = tree.page(number, _BRANCH, _LEAF)
            if page.kind == _LEAF:
                return tree.value(page, key)
            low, high, flags = page.node(_last(page, key, first=1))[1:4]
            number = low | high << 16 | flags << 32
    raise ValueError(f"its tree is deeper than {_DEEPEST} pages")


class _Tree:
    def __init__(self, file: BinaryIO):
        self._file, self._size = file, file.seek(0, 2)
        page_size, one = _meta(self._read(_HEAD.size, _META.size))
        if page_size & (page_size - 1) or not 256 <= page_size <= 65_536:
            raise ValueError(f"it declares pages of {page_size:,} bytes")
        self._page_size = page_size
        other_size, other = _meta(self._read(page_size + _HEAD.size, _META.size))
        if other_size != page_size:
            raise ValueError("its two pages of metadata differ in the size of pages")
        _, flags, self.root = max(one, other)
        if flags:
            raise ValueError(f"its main table has the flags {flags}, expected none")

    def page(self, number: int, *kinds: int) -> _Page:
        """Reads a page of one of some kinds."""
        content = self._read(number * self._page_size, self._page_size)
        found, _, flags, _, _ = _HEAD.unpack_from(content)
        kind = flags & _KINDS
        if found != number or kind not in kinds:
            raise ValueError(f"page {number} is damaged, or none of the tree")
        return _Page(kind, content)

    def value(self, page: _Page, key: bytes) -> bytes | None:
        """Returns the value of a key that can only be on this leaf."""
        found, low, high, flags, start = page.node(_last(page, key, first=0))
        if found != key:
            return None
        length = low | high << 16
        if flags == _LARGE:
            (number,) = struct.unpack_from("<Q", page.content, start)
            first = self.page(number, _OVERFLOW)
            (pages,) = struct.unpack_from("<I", first.content, 12)
            if _HEAD.size + length > pages * self._page_size:
                raise ValueError(
                    f"a value of {length:,} bytes reaches beyond its pages"
                )
            return self._read(number * self._page_size + _HEAD.size, length)
        value = page.content[start : start + length]
        if flags or len(value) < length:
            raise ValueError(
                "a value reaches beyond its page, or is a table of its own"
            )
        return value

    def _read(self, place: int, length: int) -> bytes:
        if place + length > self._size:
            raise ValueError(
                f"it ends at byte {self._size:,}, expected {length:,} from {place:,}"
            )
        self._file.seek(place)
        return self._file.read(length)


def _meta(content: bytes) -> tuple[int, tuple[int, int, int]]:
    """Returns the size of pages; transaction, flags and root of the main table."""
    magic, version, _, _, free, main, _, transaction = _META.unpack(content)
    if (magic, version & 0xFFFF) != (_MAGIC, _VERSION):
        raise ValueError("it does not begin as one of a 64-bit machine does")
    page_size = _TABLE.unpack(free)[0]
    _, flags, _, _, _, _, _, root = _TABLE.unpack(main)
    return page_size, (transaction, flags, root)


def _last(page: _Page, key: bytes, first: int) -> int:
    """Returns the last node whose key is not above ``key``.

    The keys before node ``first`` are taken to be below: a branch page keeps none for
    its first node. It is node 0 if there is no other.
    """
    low, high = first, page.size()
    while low < high:
        middle = (low + high) // 2
        if page.node(middle)[0] <= key:
            low = middle + 1
        else:
            high = middle
    return max(low - 1, 0)
