"""Surveys the files of a CT export: its series, and what was set aside and why.

``survey`` is the one place that decides what is a series; reading, listing, prediction
and the table of ``python -m jaxkd.readers.ct FOLDER`` all go by it.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.readers import listing
from jaxkd.readers.ct import dicom_files, headers, volumes
from jaxkd.readers.ct.headers import Aside, Slice

PLANES = ("sagittal", "coronal", "axial")
# By how much slices of one series may differ, as exports round their tags.
_DIRECTION = 0.01
_SPACING = 0.005
_NAMED = 3  # files of a kind that a note names


class Series(NamedTuple):
    """Slices of one series, size, spacing and orientation, in no order."""

    slices: tuple[Slice, ...]

    @property
    def first(self) -> Slice:
        """The slice that the others were compared with."""
        return self.slices[0]

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return self.first.tags.uid

    @property
    def plane(self) -> str:
        """Which way its slices lie."""
        return PLANES[int(np.argmax(np.abs(self.first.normal)))]

    @property
    def folders(self) -> set[Path]:
        """Where its files are."""
        return {each.path.parent for each in self.slices}

    def describe(self) -> str:
        """Returns what tells it from others, in one line."""
        tags, (rows, columns) = self.first.tags, self.first.size
        title = f" {tags.description!r}" if tags.description else ""
        return (
            f"{len(self.slices)} {self.plane} of {rows}x{columns} voxels of "
            f"{self.first.spacing[0]:.3g} mm, such as {self.first.path.name}; series "
            f"{tags.number or 'without number'}{title}, {tags.uid or 'no UID'}"
        )


class Survey(NamedTuple):
    """What is in a folder.

    Attributes:
      series: by patient, study and number.
      aside: files that belong to none.
    """

    series: tuple[Series, ...]
    aside: tuple[Aside, ...]

    @property
    def damage(self) -> list[Aside]:
        """Files that may have been slices."""
        return [aside for aside in self.aside if aside.damage]


def survey(folder: Path, exclude: Collection[Path] = ()) -> Survey:
    """Reads the headers of all files in a folder and in those inside it.

    Raises:
      UserError: if pydicom is not installed, or a folder cannot be opened.
    """
    return survey_files(listing.below(Path(folder), exclude))


def survey_files(paths: Iterable[Path]) -> Survey:
    """Likewise, of given files."""
    dicom_files.library()
    slices: list[Slice] = []
    aside: list[Aside] = []
    for path in paths:
        found = headers.read(path)
        if isinstance(found, Aside):
            aside.append(found)
        else:
            nameless = [one for one in found if one.problem and not one.tags.uid]
            aside += [Aside(path, one.problem, damage=True) for one in nameless[:1]]
            slices += [one for one in found if not one.problem or one.tags.uid]
    known = {each.path for each in slices}
    known |= {each.path for each in aside if each.series or "index" in each.reason}
    alike = {(path.parent, _ending(path)) for path in known}
    judged = [each if each.reason else _judge(each, alike) for each in aside]
    seen: dict[str, int] = {}  # patients and studies by their first file
    for each in sorted(slices, key=lambda one: one.path):
        seen.setdefault(each.tags.patient, len(seen))
        seen.setdefault(each.tags.study, len(seen))
    order = sorted(_group(slices), key=lambda series: _order(series, seen))
    return Survey(tuple(order), tuple(sorted(judged)))


def is_dicom(path: Path) -> bool:
    """Tells whether a file has a DICOM header, whatever it holds."""
    if dicom_files.has_magic(path):
        return True
    found = headers.read(path)
    return not isinstance(found, Aside) or bool(found.series)


def _judge(aside: Aside, alike: set[tuple[Path, str]]) -> Aside:
    """Decides about a file without content to go by."""
    path = aside.path
    size = path.stat().st_size if path.exists() else 0
    reason = f"it is no DICOM file ({size:,} bytes)" if size else "it is empty"
    ending = _ending(path)
    named = ending in headers.ENDINGS or (path.parent, ending) in alike
    return Aside(path, reason, damage=named)


def _ending(path: Path) -> str:
    """Returns the ending of a file's name; numbers are one ending."""
    ending = path.suffix.lower()
    return "." if re.fullmatch(r"\.\d+", ending) else ending


def _order(series: Series, seen: Mapping[str, int]) -> tuple:
    tags = series.first.tags
    number = int(tags.number) if re.fullmatch(r"\d{1,9}", tags.number) else 1 << 30
    place = seen[tags.patient], seen[tags.study]
    return *place, number, tags.uid, str(series.first.path)


def _group(slices: Sequence[Slice]) -> list[Series]:
    by_tags: dict[tuple, list[Slice]] = {}
    broken: dict[str, list[Slice]] = {}
    for each in slices:
        if each.problem:
            broken.setdefault(each.tags.uid, []).append(each)
        else:
            key = each.tags.uid, each.tags.patient, each.tags.frame
            by_tags.setdefault(key, []).append(each)
    groups: list[list[Slice]] = []
    for members in by_tags.values():
        own: list[list[Slice]] = []
        for each in members:
            group = next((g for g in own if _alike(g[0], each)), None)
            if group is None:
                own.append([each])
            else:
                group.append(each)
        groups += own
    # A slice with an unreadable header belongs to what bears its series' name.
    for uid, members in broken.items():
        same = [group for group in groups if group[0].tags.uid == uid]
        if same:
            max(same, key=len).extend(members)
        else:
            groups.append(members)
    return [Series(tuple(group)) for group in groups]


def _alike(one: Slice, other: Slice) -> bool:
    return bool(
        one.size == other.size
        and one.oriented == other.oriented
        and np.allclose(one.spacing, other.spacing, rtol=_SPACING)
        and np.allclose(one.row, other.row, atol=_DIRECTION)
        and np.allclose(one.column, other.column, atol=_DIRECTION)
    )


def candidates(found: Survey, chosen: str = "") -> tuple[list[Series], list[str]]:
    """Returns the series that may be meant, and notes of those that cannot be.

    Args:
      found: of ``survey``.
      chosen: UID, number or description of the series; empty for any.

    Raises:
      ValueError: if there is none.
    """
    series = list(found.series)
    if chosen:
        wanted = chosen.strip().lower()
        series = [each for each in series if wanted in _names(each)]
        if not series:
            there = "; ".join(each.describe() for each in found.series) or "none"
            raise ValueError(
                f"no series has the UID, number or description {chosen!r}, expected "
                f"one of: {there}"
            )
    if not series:
        raise ValueError(_nothing(found))
    notes = [] if not chosen else [f"chosen by {chosen!r}: {series[0].describe()}"]
    if len(series) > 1:
        large = [one for one in series if len(one.slices) >= volumes.MIN_SLICES]
        small = [one for one in series if _is_company(one, large)]
        notes += [
            f"left out, too few slices for a volume: {one.describe()}" for one in small
        ]
        series = [one for one in series if one not in small]
    return series, notes


def _names(series: Series) -> set[str]:
    tags = series.first.tags
    return {tags.uid.lower(), tags.number, tags.description.lower()} - {""}


def _is_company(small: Series, large: Sequence[Series]) -> bool:
    """Tells whether a short series is a companion, and no part of a long one."""
    if not large or len(small.slices) >= volumes.MIN_SLICES:
        return False
    one = small.first
    for series in large:
        other = series.first
        if one.tags.uid == other.tags.uid:
            return False
        if _alike(one, other) and one.tags.frame == other.tags.frame:
            return False
    return True


def _nothing(found: Survey) -> str:
    if found.damage:
        return f"it holds no whole CT slice: {'; '.join(map(damaged, found.damage))}"
    kinds = "; ".join(summarize(found.aside))
    return "it holds no DICOM files of CT slices" + (f" ({kinds})" if kinds else "")


def damaged(aside: Aside) -> str:
    """Returns a sentence about a damaged file."""
    return f"{aside.path.name} is damaged: {aside.reason}"


def summarize(aside: Sequence[Aside]) -> list[str]:
    """Returns notes of files that were set aside, by the reason."""
    by_reason: dict[str, list[str]] = {}
    for each in aside:
        by_reason.setdefault(each.reason, []).append(each.path.name)
    notes = []
    for reason, names in by_reason.items():
        more = len(names) - _NAMED
        listed = ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        notes.append(f"left out: {listed} ({reason})")
    return notes


def table(folder: Path) -> str:
    """Lists the series in a folder, and what was set aside and why, as text."""
    found = survey(folder)
    patients = _numbered(each.first.tags.patient for each in found.series)
    studies = _numbered(each.first.tags.study for each in found.series)
    head = ("patient", "study", "series", "slices", "plane", "voxels", "mm", "folder")
    rows: list[Sequence[str]] = [(*head, "description", "UID")]
    for each in found.series:
        tags, first = each.first.tags, each.first
        size = f"{first.size[0]}x{first.size[1]}"
        places = os.path.commonpath([str(place) for place in each.folders])
        rows.append(
            (
                *(patients[tags.patient], studies[tags.study], tags.number or "-"),
                *(str(len(each.slices)), each.plane, size, f"{first.spacing[0]:.3g}"),
                listing.shown(os.path.relpath(places, folder)),
                *(tags.description or "-", tags.uid or "-"),
            )
        )
    lines = _columns(rows) if found.series else ["no CT series"]
    problems = [
        Aside(one.path, one.problem, damage=True)
        for each in found.series
        for one in each.slices
        if one.problem
    ]
    aside = sorted([*found.aside, *problems])
    if aside:
        lines += ["", f"set aside: {_counted(aside)}"]
        listed: list[Sequence[str]] = [("file", "", "reason")]
        for one in aside:
            name = listing.shown(os.path.relpath(one.path, folder))
            listed.append((name, "DAMAGED" if one.damage else "", one.reason))
        lines += _columns(listed)
    return "\n".join(lines)


def _counted(aside: Sequence[Aside]) -> str:
    count = Counter(each.damage for each in aside)
    return f"{len(aside)} files, {count[True]} of them damaged"


def _numbered(values: Iterable[str]) -> dict[str, str]:
    """Replaces identifiers by numbers in the order in which they occur."""
    return {value: str(n) for n, value in enumerate(dict.fromkeys(values), 1)}


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
