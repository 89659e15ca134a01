"""Lists of labelled clips: the official csv columns, or folders real/ and fake/<kind>/.

A kind is a way of forging, such as the official subsets; real clips have the kind
``real``.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.readers import clips, listing

REAL = "real"
SPLITS = ("train", "val", "test")


class Row(NamedTuple):
    """A labelled clip.

    Attributes:
      name: as the list has it.
      video: the film.
      audio: its sound, where that is a file of its own.
      fake: 1 if anything is forged, 0 if it is real.
      kind: the way of forging.
      split: train, val or test; empty if the list does not say.
      labels: the official Audio, Video, Identi and Sync labels, where given.
    """

    name: str
    video: Path
    audio: Path | None
    fake: int
    kind: str
    split: str = ""
    labels: Mapping[str, int] = {}


def read(root: Path, base: Path | None = None) -> list[Row]:
    """Reads a manifest, or lists a folder.

    A clip that is listed several times, as the official tables of different forgeries
    list the same real ones, is returned once.

    Args:
      root: a csv file in the official columns; a folder of such files; or a folder
        with ``real/`` and ``fake/<kind>/``, or with these below ``train/`` and
        ``test/``.
      base: see ``read_manifest``.

    Raises:
      UserError: if there is nothing, a row is wrong, or a clip is both real and fake.
    """
    return _without_copies(_read(Path(root).expanduser(), base))


def _read(root: Path, base: Path | None) -> list[Row]:
    if root.suffix.lower() == ".csv":
        return read_manifest(root, base)
    if not root.is_dir():
        raise UserError(f"There is no folder or csv file {root}.")
    names = [name for name in listing.entries(root) if name.lower().endswith(".csv")]
    tables = [root / name for name in names]
    if tables:
        return [row for table in tables for row in read_manifest(table, base)]
    splits = [split for split in SPLITS if (root / split).is_dir()]
    rows = [row for split in splits or [""] for row in _folder(root, split)]
    if not rows:
        raise UserError(
            f"{root} has no clips in real/ and fake/<kind>/, nor a csv manifest."
        )
    return rows


def _without_copies(rows: list[Row]) -> list[Row]:
    found: dict[tuple, Row] = {}
    fakes: dict[tuple, int] = {}
    for row in rows:
        files = (row.video, row.audio)
        if fakes.setdefault(files, row.fake) != row.fake:
            raise UserError(
                f"{row.video} is listed as real and as fake, expected one of them. "
                "Correct the list."
            )
        found.setdefault((*files, row.kind, row.split), row)
    return list(found.values())


def read_manifest(path: Path, root: Path | None = None) -> list[Row]:
    """Reads a csv file in the official columns, whose case does not matter.

    ``Video_Path`` and ``ENtire_Label`` (1: fake) must be there. ``Audio_Path``,
    ``ID_Name``, ``Audio_Label``, ``Video_Label``, ``Identi_Label``, ``Sync_Label``, and
    our own ``Kind`` and ``Split`` may be. Without ``Kind`` a fake's is the file's name.

    Args:
      path: of the csv file.
      root: that relative paths begin at; None: the file's folder.

    Raises:
      UserError: if a column or a label is missing or wrong.
    """
    root = path.parent if root is None else root
    remedy = "Expected a table with the columns video_path and entire_label."
    text = parsing.read_text(path, "CSV", remedy)
    with parsing.parsing(path, "CSV", remedy):
        table = csv.DictReader(io.StringIO(text))
        names = {name.strip().lower(): name for name in table.fieldnames or ()}
        missing = {"video_path", "entire_label"} - set(names)
        if missing:
            raise UserError(
                f"{path} has no column {', '.join(sorted(missing))}; it has "
                f"{', '.join(names) or 'none'}."
            )
        lines = [(table.line_num, line) for line in table]
    for number, line in lines:
        parsing.check_cells(line, f"{path}, line {number}")
    cells = [
        (number, {key: (line[name] or "").strip() for key, name in names.items()})
        for number, line in lines
    ]
    return [_row(path, root, number, line) for number, line in cells]


def _row(path: Path, root: Path, number: int, line: Mapping[str, str]) -> Row:
    def label(name: str) -> int:
        try:
            value = float(line[name])
        except ValueError:
            value = -1.0
        if value not in (0.0, 1.0):
            raise UserError(
                f"{path}, line {number}: {name} is {line[name]!r}, expected 0 or 1."
            )
        return int(value)

    if not line["video_path"]:
        raise UserError(f"{path}, line {number}: video_path is empty, expected a film.")
    fake = label("entire_label")
    film = root / line["video_path"]
    sound = line.get("audio_path")
    others = ("audio_label", "video_label", "identi_label", "sync_label")
    split = line.get("split", "").lower()
    if split not in ("", *SPLITS):
        raise UserError(
            f"{path}, line {number}: split is {split!r}, expected one of "
            f"{', '.join(SPLITS)}, or nothing."
        )
    return Row(
        line.get("id_name") or film.stem,
        film,
        root / sound if sound else None,
        fake,
        (line.get("kind") or path.stem) if fake else REAL,
        split,
        {name.split("_")[0]: label(name) for name in others if line.get(name)},
    )


def _folder(root: Path, split: str) -> list[Row]:
    base = root / split
    folders = {REAL: base / "real"}
    fakes = base / "fake"
    if fakes.is_dir():
        named = {name: fakes / name for name in listing.entries(fakes)}
        folders |= {name: path for name, path in named.items() if path.is_dir()}
    return [
        Row(str(film.relative_to(root)), film, None, int(kind != REAL), kind, split)
        for kind, folder in folders.items()
        if folder.is_dir()
        for film in listing.named(folder, clips.SUFFIXES)
        if clips.is_clip(film)
    ]
