"""Finds and reads CT scans, whatever holds them: DICOM, NIfTI, slice images."""

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxkd.core.errors import UserError
from jaxkd.readers import listing
from jaxkd.readers.ct import dicom, nifti, pictures, volumes
from jaxkd.readers.ct import series as ct_series
from jaxkd.readers.ct.headers import Aside
from jaxkd.readers.ct.series import Series, Survey
from jaxkd.readers.ct.volumes import Volume


class Options(NamedTuple):
    """How to read; see ``dicom.read_survey`` and ``nifti.read``."""

    fill_gaps: int = 0
    pick_largest: bool = False
    allow_tilt: bool = False
    intensity_offset: float = 0.0
    already_windowed: bool = False
    series: str = ""
    correct_tilt: bool = False
    even_spacing: bool = False
    volume: int | None = None


STRICT = Options()


class Scan(NamedTuple):
    """One scan among the files of a folder.

    Attributes:
      name: of its folder or file.
      path: a NIfTI file, or the folder of everything else.
      found: its DICOM files; None for what is no DICOM.
    """

    name: str
    path: Path
    found: Survey | None = None

    @property
    def uid(self) -> str:
        """SeriesInstanceUID of a DICOM series, where there is one alone."""
        known = {each.uid for each in self.found.series} if self.found else set()
        return known.pop() if len(known) == 1 else ""


def read(path: Path, options: Options = STRICT) -> Volume:
    """Reads a scan.

    Args:
      path: a NIfTI file, the folder of a DICOM series, or of slice images.
      options: for reading.

    Raises:
      UserError: if it is not one whole CT scan; the message names the file and why.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist, expected a CT scan.")
    if path.is_file():
        if not nifti.is_named(path):
            raise UserError(
                f"{path} is no CT scan by its name, expected .nii or .nii.gz, or the "
                "folder of a DICOM series."
            )
        return _read_nifti(path, options)
    found = ct_series.survey(path)
    files = nifti.unpaired(path / name for name in listing.entries(path))
    if _holds_dicom(found):
        volume = read_scan(Scan(path.name, path, found), options)
        beside = [f"left out: {file.name} (a NIfTI file)" for file in files]
        return volume._replace(notes=(*volume.notes, *beside))
    if len(files) > 1:
        named = ", ".join(file.name for file in files[:5])
        raise UserError(
            f"{path} holds {len(files)} NIfTI files ({named}), expected one scan. "
            "Name the file itself."
        )
    if files:
        return _read_nifti(files[0], options)
    if pictures.find(path):
        return pictures.read(path, options.already_windowed)
    return read_scan(Scan(path.name, path, found), options)


def read_scan(scan: Scan, options: Options = STRICT) -> Volume:
    """Reads what ``find`` found.

    Raises:
      UserError: likewise.
    """
    if scan.found is None:
        return read(scan.path, options)
    return dicom.read_survey(
        scan.found,
        scan.path,
        fill_gaps=options.fill_gaps,
        pick_largest=options.pick_largest,
        allow_tilt=options.allow_tilt,
        series=options.series,
        correct_tilt=options.correct_tilt,
        even_spacing=options.even_spacing,
    )


def _read_nifti(path: Path, options: Options) -> Volume:
    return nifti.read(
        path,
        intensity_offset=options.intensity_offset,
        already_windowed=options.already_windowed,
        allow_tilt=options.allow_tilt,
        volume=options.volume,
    )


def _holds_dicom(found: Survey) -> bool:
    """Tells whether any file has to do with DICOM, read or not."""
    return bool(found.series) or any(a.damage or a.series for a in found.aside)


def is_scan(path: Path) -> bool:
    """Tells whether files of a scan lie in a folder itself, or a path is one."""
    if path.is_file():
        return nifti.is_named(path)
    if not path.is_dir():
        return False
    files = [path / name for name in listing.entries(path)]
    files = [file for file in files if file.is_file()]
    return bool(
        nifti.unpaired(files)
        or pictures.find(path)
        or any(ct_series.is_dicom(file) for file in files)
    )


def find(
    folder: Path, options: Options = STRICT, exclude: Collection[Path] = ()
) -> tuple[list[Scan], list[Aside]]:
    """Lists the scans below a folder, by what their files hold.

    Every DICOM series is a scan of its own; with ``pick_largest`` or ``series``, every
    study is. A folder of nothing but damaged files is listed, so that it is named.

    Args:
      folder: to search.
      options: for reading.
      exclude: folders that are not entered.

    Returns:
      The scans, by path, and the files that belong to none.
    """
    files = listing.below(Path(folder), exclude)
    named = nifti.unpaired(files)
    scans = [Scan(path.name, path) for path in named]
    others = [path for path in files if not nifti.is_named(path)]
    found = ct_series.survey_files(others)
    dicoms, used = _dicom_scans(found, options)
    scans += dicoms
    taken = {path.parent for path in named}
    taken |= {p for scan in dicoms for p in _folders(scan)}
    rest = [aside for aside in found.aside if aside not in used]
    folders = sorted({a.path.parent for a in rest if _is_picture(a.path)} - taken)
    drawn = [Scan(each.name, each) for each in folders]
    if scans:  # a logo or two beside scans
        drawn = [d for d in drawn if len(pictures.find(d.path)) >= volumes.MIN_SLICES]
    places = {scan.path for scan in drawn}
    rest = [a for a in rest if a.path.parent not in places or not _is_picture(a.path)]
    return sorted([*scans, *drawn], key=lambda scan: (scan.path, scan.name)), rest


def _is_picture(path: Path) -> bool:
    return path.name.lower().endswith(pictures.SUFFIXES)


def _folders(scan: Scan) -> set[Path]:
    assert scan.found is not None
    inside = {place for each in scan.found.series for place in each.folders}
    return inside | {aside.path.parent for aside in scan.found.damage}


def _dicom_scans(found: Survey, options: Options) -> tuple[list[Scan], list[Aside]]:
    """Groups series into scans, and says which files set aside are named by them."""
    studies: dict[tuple[str, str], list[Series]] = {}
    for each in found.series:
        key = each.first.tags.patient, each.first.tags.study
        studies.setdefault(key, []).append(each)
    groups: list[list[Series]] = []
    for members in studies.values():
        choice, _ = ct_series.candidates(Survey(tuple(members), ()))
        short = [one for one in choice if len(one.slices) < volumes.MIN_SLICES]
        if options.pick_largest or options.series or short:
            groups.append(members)
            continue
        by_uid: dict[str, list[Series]] = {}
        for each in choice:
            by_uid.setdefault(each.uid, []).append(each)
        # Companions too short for a volume are named by the first scan of their study.
        company = [one for one in members if one not in choice]
        first, *others = by_uid.values()
        groups += [[*first, *company], *others]
    scans, used = [], []
    for group in groups:
        places = {place for each in group for place in each.folders}
        uids = {each.uid for each in group}
        beside = [
            a for a in found.aside if a.path.parent in places or a.series in uids - {""}
        ]
        used += beside
        path = Path(os.path.commonpath([str(place) for place in places]))
        scans.append(Scan(path.name, path, Survey(tuple(group), tuple(beside))))
    lost = [aside for aside in found.damage if aside not in used]
    for place in sorted({aside.path.parent for aside in lost}):
        inside = tuple(aside for aside in found.aside if aside.path.parent == place)
        used += inside
        scans.append(Scan(place.name, place, Survey((), inside)))
    return _told_apart(scans), used


def _told_apart(scans: Sequence[Scan]) -> list[Scan]:
    """Adds the number of the series to names of scans in one folder."""
    paths = [scan.path for scan in scans]
    return [
        scan._replace(name=f"{scan.name}-{_number(scan)}")
        if paths.count(scan.path) > 1 and scan.found and scan.found.series
        else scan
        for scan in scans
    ]


def _number(scan: Scan) -> str:
    assert scan.found is not None
    tags = scan.found.series[0].first.tags
    return tags.number or tags.uid[-8:] or "series"


def describe_aside(aside: Iterable[Aside]) -> list[str]:
    """Returns lines on files that belong to no scan."""
    return ct_series.summarize(list(aside))
