"""Reads PIE-Bench and PIE-Bench++: images, prompts, edits and masks.

PIE-Bench (Ju et al., ICLR 2024) is a folder of images with ``mapping_file.json``;
PIE-Bench++ (arXiv 2406.00985) adds the edited words and comes as parquet files.
"""

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core import optional, parsing, schema
from jaxkd.core.errors import UserError
from jaxkd.readers import images, listing

SIDE = 512  # pixels of its square images
MAPPING = "mapping_file.json"
_ENTRIES = {
    ...: {
        "image_path?": str,
        "original_prompt?": str,
        "editing_prompt?": str,
        "mask?": [(int, str)],
        "editing_type_id?": (int, str),
        "blended_word?": (str, schema.NULL),
    }
}
_PLAIN_FIELDS = ("image_path", "original_prompt", "editing_prompt", "mask")
_REMEDY = "Download it again."
# Field -> names it has in the published files.
_FIELDS = {
    "image": ("image",),
    "source_prompt": ("source_prompt", "original_prompt"),
    "target_prompt": ("target_prompt", "editing_prompt"),
    "actions": ("edit_action", "editing"),
    "mapping": ("aspect_mapping", "obj-adj-pair"),
    "mask": ("mask",),
}


class EditExample(NamedTuple):
    """One image and the edit that is asked for.

    Attributes:
      name: of the example.
      image: ``[512, 512, 3]`` uint8.
      source: prompt of the image, without marks.
      target: prompt of the edited image, without marks.
      actions: as ``aspects.from_actions`` reads them; empty in PIE-Bench.
      mapping: object -> its attributes; empty in PIE-Bench.
      local_words: words of the target that are edited, where they are named.
      mask: ``[512, 512]`` bool, what is to be edited.
      edit_type: number of the category, 0 to 9; None where there are several.
    """

    name: str
    image: np.ndarray
    source: str
    target: str
    actions: dict[str, Any]
    mapping: dict[str, list[str]]
    local_words: tuple[str, ...]
    mask: np.ndarray
    edit_type: int | None


def decode_mask(runs: Sequence[int], side: int = SIDE) -> np.ndarray:
    """Decodes ``[start, length, start, length, ..]`` over pixels in rows.

    A run beyond the end is cut, and the border of one pixel is set, both as in the
    published code.

    Args:
      runs: whole numbers, as many starts as lengths.
      side: of the square mask.

    Returns:
      ``[side, side]`` bool.

    Raises:
      UserError: for an odd count or negative numbers.
    """
    if len(runs) % 2 or any(number < 0 for number in runs):
        raise UserError(
            f"A mask of {len(runs)} numbers; expected pairs of a start and a length, "
            "none of them negative."
        )
    flat = np.zeros(side * side, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] = True
    mask = flat.reshape(side, side)
    mask[[0, -1], :] = True
    mask[:, [0, -1]] = True
    return mask


def read_pie_bench(folder: str | Path) -> Iterator[EditExample]:
    """Reads PIE-Bench: ``mapping_file.json`` beside ``annotation_images``.

    Raises:
      UserError: if a file is missing or damaged, an entry lacks a field, or an image is
        of another size than its mask.
    """
    folder = Path(folder)
    path = folder / MAPPING
    if not path.is_file():
        raise UserError(
            f"{folder} has no {MAPPING}. Expected the folder data of PIE-Bench, with "
            f"{MAPPING} and annotation_images."
        )
    for name, entry in _entries(path):
        missing = [field for field in _PLAIN_FIELDS if field not in entry]
        if missing:
            raise UserError(f"{path}: {name} lacks {', '.join(missing)}.")
        words = (entry.get("blended_word") or "").split()
        with parsing.parsing(f"{path}: {name}", "an entry", _REMEDY):
            mask = decode_mask([int(number) for number in entry["mask"]])
            kind = int(entry["editing_type_id"]) if "editing_type_id" in entry else None
        yield EditExample(
            name,
            _open(folder / "annotation_images" / entry["image_path"]),
            _clean(entry["original_prompt"]),
            _clean(entry["editing_prompt"]),
            {},
            {},
            tuple(words[1:2]),
            mask,
            kind,
        )


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    content = parsing.read_json(path, "the mapping of PIE-Bench", _REMEDY)
    with parsing.parsing(path, "the mapping of PIE-Bench", _REMEDY):
        schema.check(content, _ENTRIES, "the file")
    if not content:
        raise UserError(f"{path} has no entries. {_REMEDY}")
    yield from content.items()


def read_pie_bench_pp(path: str | Path) -> Iterator[EditExample]:
    """Reads PIE-Bench++ from a parquet file, or all of those below a folder.

    Fields that are not known are named in a warning.

    Raises:
      UserError: if there is no file, one lacks a field or has no rows, or an image is
        of another size than its mask; or without ``pyarrow``.
    """
    path = Path(path)
    files = [path] if path.is_file() else listing.named(path, (".parquet",))
    if not files:
        raise UserError(f"{path} holds no .parquet files of PIE-Bench++.")
    for file in files:
        number = -1
        for number, row in enumerate(_rows(file)):
            name = f"{file.stem}-{number}"
            with parsing.parsing(f"{file}: row {number}", "an edit", _REMEDY):
                example = _example(row, name)
            yield example
        if number < 0:
            raise UserError(f"{file} has no rows. {_REMEDY}")


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    parquet = optional.load("pyarrow.parquet", extra="diffusion", purpose="PIE-Bench++")
    with _parsing(file):
        table = parquet.ParquetFile(file, page_checksum_verification=True)
        names = set(table.schema_arrow.names)
        batches = table.iter_batches(batch_size=8)
    missing = [field for field, known in _FIELDS.items() if not names & set(known)]
    if missing:
        raise UserError(
            f"{file} lacks {', '.join(missing)}; its fields are "
            f"{', '.join(sorted(names))}."
        )
    known = {name for some in _FIELDS.values() for name in some}
    unknown = names - known - {"id", "blended_words"}
    if unknown:
        warnings.warn(f"{file}: unused fields {sorted(unknown)}.", stacklevel=3)
    while True:
        with _parsing(file):
            batch = next(batches, None)
            rows = [] if batch is None else batch.to_pylist()
        if batch is None:
            return
        yield from rows


def _parsing(file: Path) -> contextlib.AbstractContextManager[None]:
    return parsing.parsing(file, "a Parquet table", _REMEDY)


def _example(row: Mapping[str, Any], name: str) -> EditExample:
    def field(key: str) -> Any:
        return next(row[known] for known in _FIELDS[key] if known in row)

    actions = {k: v for k, v in _parsed(field("actions")).items() if v is not None}
    mapping = {k: v for k, v in _parsed(field("mapping")).items() if v is not None}
    pairs = _parsed(row.get("blended_words") or "[]")
    runs = field("mask")
    runs = runs.split() if isinstance(runs, str) else runs
    types = {int(one.get("edit_type", 0)) for one in actions.values()}
    return EditExample(
        str(row.get("id", name)),
        _decode(field("image"), name),
        _clean(field("source_prompt")),
        _clean(field("target_prompt")),
        actions,
        mapping,
        tuple(str(pair).split(",")[-1].strip() for pair in pairs),
        decode_mask([int(number) for number in runs]),
        types.pop() if len(types) == 1 else None,
    )


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _decode(value: Any, name: str) -> np.ndarray:
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(data, bytes):
        raise UserError(f"{name}: the image is not stored in the file as bytes.")
    return _square(images.decode_bytes(data, name, remedy=_REMEDY), name)


def _open(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"There is no image {path}. Copy the data set whole.")
    return _square(images.decode(path), path)


def _square(image: np.ndarray, origin: Any) -> np.ndarray:
    """Checks that an image has the size of the masks, which have no size of their own.

    Raises:
      UserError: if it has another.
    """
    height, width, _ = image.shape
    if (height, width) != (SIDE, SIDE):
        raise UserError(
            f"{origin}: an image of {height} x {width} pixels; expected {SIDE} x "
            f"{SIDE}, which the masks are of. {_REMEDY}"
        )
    return image


def _clean(prompt: str) -> str:
    return " ".join(prompt.replace("[", " ").replace("]", " ").split())
