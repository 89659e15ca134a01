"""CT scans of your own: DICOM series, NIfTI files or folders of slice images.

Which scans there are, and their labels, is told by one of three layouts:

- a manifest: a CSV file with the columns ``case``, ``path``, ``label`` and, if there
  are any, ``patient``, ``split`` (train, val or test) and ``lesion_mask``; paths are
  relative to it;
- class folders, as CC-CCII has them: ``<class>/<patient>/<scan>/<slices>``;
- COVNet's: ``train.csv`` with ``case,label`` beside ``<case>/masked_ct.nii`` and
  ``<case>/mask.nii.gz``.

    python -m jaxkd.datasets.ct FOLDER_OR_CSV

reads all of them, says in one line each what is wrong, and changes nothing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.options import Range
from jaxkd.core.source import Dataset, Example, Info
from jaxkd.readers.ct import lungs, nifti, scans, volumes
from jaxkd.readers.ct.cache import Cache
from jaxkd.readers.ct.cases import Case, assign_splits, list_cases
from jaxkd.readers.ct.volumes import Volume


class ScanSource:
    """Scans that are read when they are asked for, and kept as the network wants them.

    Attributes:
      cases: their files and labels.
    """

    def __init__(self, cases: Sequence[Case], classes: Sequence[str], reader: "Reader"):
        self.cases, self.classes, self.reader = list(cases), list(classes), reader

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> Example:
        case = self.cases[index]
        label = np.asarray(self.classes.index(case.label), np.int32)
        example = {"image": self.reader.image(case), "label": label}
        if self.reader.masks:
            lesion, found = self.reader.drawn(case)
            example |= {"lesion": lesion, "lungs": found}
        return example


class Reader(NamedTuple):
    """Reads cases, or takes what is kept of them on disk.

    Attributes:
      options: for reading.
      size: of the result.
      spacing: of its voxels in mm, or None.
      lung_crop: whether to keep the box around the lungs alone.
      masks: whether cases have masks of lesions.
      cache: of what was read.
    """

    options: scans.Options
    size: tuple[int, int, int]
    spacing: tuple[float, float, float] | None
    lung_crop: bool
    masks: bool
    cache: Cache

    def image(self, case: Case) -> np.ndarray:
        """Returns the scan, int16 of ``size``."""

        def make() -> np.ndarray:
            volume = scans.read(case.path, self.options)
            return fit(volume, self.size, self.spacing, self.lung_crop)[0]

        return self.cache(make, case.path)

    def drawn(self, case: Case) -> np.ndarray:
        """Returns the masks of lesions and of lungs, uint8 ``[2, *size]``.

        Both are empty where no lesions are drawn or no lungs are found.
        """
        if case.lesion_mask is None:
            return np.zeros((2, *self.size), np.uint8)
        path = case.lesion_mask

        def make() -> np.ndarray:
            volume = scans.read(case.path, self.options)
            inside = lungs.find(volume)
            nothing = np.zeros(volume.voxels.shape, bool)
            both = [nothing, nothing]
            if inside is not None:
                both = [nifti.read_mask(path, volume), inside]
            _, placement = fit(volume, self.size, self.spacing, self.lung_crop)
            parts = [volumes.put(mask, placement, self.size, 0) for mask in both]
            return (np.stack(parts) >= 0.5).astype(np.uint8)

        return self.cache(make, case.path, path)


def fit(
    volume: Volume, size, spacing, lung_crop: bool
) -> tuple[np.ndarray, volumes.Placement]:
    """Calls ``volumes.fit``, for the box around the lungs if asked and found."""
    found = lungs.find(volume) if lung_crop else None
    return volumes.fit(
        volume, size, spacing, None if found is None else lungs.box(found)
    )


def load(
    root: str,
    classes: tuple[str, ...] | None = None,
    size: tuple[int, int, int] = (64, 128, 128),
    spacing: tuple[float, float, float] | None = None,
    lung_crop: bool = False,
    split_by: str = "patient",
    test_share: float = 0.2,
    evaluate_on: str = "test",
    shared_patients: bool = False,
    skip_bad: bool = False,
    fill_gaps: int = 0,
    pick_largest: bool = False,
    allow_tilt: bool = False,
    intensity_offset: Annotated[float, Range(low=None)] = 0.0,
    already_windowed: bool = False,
    series: str = "",
    correct_tilt: bool = False,
    even_spacing: bool = False,
    volume: int | None = None,
    cache: str | None = None,
    seed: int = 0,
) -> Dataset:
    """Lists the scans; each is read when it is first needed, and then kept on disk.

    Args:
      root: a manifest, or the folder of one of the other layouts.
      classes: in the order of the labels; the sorted names if not given.
      size: ``(depth, height, width)`` that the network sees.
      spacing: mm between its voxels; the middle of the scan is kept. None stretches
        every scan to ``size``.
      lung_crop: whether to keep only the box around the lungs, found by their air;
        where they are not found, the whole scan is kept.
      split_by: ``"patient"``, or ``"scan"`` as in the paper: then scans of one patient
        may be on both sides, which flatters the result, and a warning says so. Neither
        matters where the manifest has a column ``split``.
      test_share: of the patients, where the manifest has no column ``split``.
      evaluate_on: ``"test"`` or ``"val"``, a split of the manifest.
      shared_patients: accept a manifest with one patient in several splits.
      skip_bad: read all scans first and leave out, with a line each, those that cannot
        be read. Otherwise the first of them ends the run.
      fill_gaps: see ``dicom.read_survey``.
      pick_largest: likewise.
      allow_tilt: likewise.
      intensity_offset: see ``nifti.read``.
      already_windowed: likewise; needed for slice images.
      series: see ``dicom.read_survey``.
      correct_tilt: likewise.
      even_spacing: likewise.
      volume: see ``nifti.read``.
      cache: folder for the scans as the network sees them; by default ``jaxkd/ct`` in
        the user's cache folder.
      seed: of the split.

    Raises:
      UserError: if the layout, a label or a split is wrong.
    """
    cases, names = list_cases(Path(root).expanduser(), classes)
    options = scans.Options(
        fill_gaps=fill_gaps,
        pick_largest=pick_largest,
        allow_tilt=allow_tilt,
        intensity_offset=intensity_offset,
        already_windowed=already_windowed,
        series=series,
        correct_tilt=correct_tilt,
        even_spacing=even_spacing,
        volume=volume,
    )
    masks = any(case.lesion_mask for case in cases)
    kept = Cache(cache, (options, tuple(size), spacing, lung_crop))
    depth, height, width = size
    reader = Reader(options, (depth, height, width), spacing, lung_crop, masks, kept)
    if skip_bad:
        cases = _readable(cases, reader)
    cases = assign_splits(cases, names, split_by, test_share, seed, shared_patients)
    train, test = (
        ScanSource([c for c in cases if c.split == split], names, reader)
        for split in ("train", evaluate_on)
    )
    for split, source in (("train", train), (evaluate_on, test)):
        if not len(source):
            raise UserError(f"{root}: split {split!r} has no scans, expected some.")
    info, fields = describe_examples(Path(root).stem, names, size, masks)
    return Dataset(info, lambda seed: train, test, fields=fields)


def describe_examples(
    title: str,
    names: Sequence[str],
    size: tuple[int, int, int],
    masks: bool = False,
) -> tuple[Info, dict[str, jax.ShapeDtypeStruct]]:
    """Returns what a set of scans is like, and the fields of an example."""
    info = Info(title, len(names), tuple(size), (0.0,), (1.0,), tuple(names))
    drawn = jax.ShapeDtypeStruct(info.image_shape, np.uint8)
    return info, {
        "image": jax.ShapeDtypeStruct(info.image_shape, np.int16),
        "label": jax.ShapeDtypeStruct((), np.int32),
    } | ({"lesion": drawn, "lungs": drawn} if masks else {})


def _readable(cases: Sequence[Case], reader: Reader) -> list[Case]:
    good = []
    for case in cases:
        try:
            reader.image(case)
            if reader.masks:
                reader.drawn(case)
            good.append(case)
        except UserError as error:
            print(f"left out {case.name}: {error}", file=sys.stderr)
    if not good:
        raise UserError(f"None of the {len(cases)} scans can be read.")
    return good


def check(root: Path, options: scans.Options) -> tuple[list[str], int]:
    """Reads all scans and describes them.

    Args:
      root: see ``load``; or the folder of a single scan.
      options: for reading.

    Returns:
      A line for each scan, and how many are bad.
    """
    lines, bad = [], 0
    found, aside = _scans(root, options)
    for scan in found:
        try:
            volume = scans.read_scan(scan, options)
        except UserError as error:
            bad += 1
            lines.append(f"BAD  {scan.name}: {error}")
            continue
        depth, height, width = volume.voxels.shape
        spacing = " x ".join(f"{mm:.3g}" for mm in volume.spacing)
        low, high = volume.voxels.min(), volume.voxels.max()
        notes = "".join(f"; {note}" for note in volume.notes)
        lines.append(
            f"ok   {scan.name}: {depth} x {height} x {width} voxels of {spacing} mm, "
            f"{low} to {high} HU{notes}"
        )
    return [*lines, *aside], bad


def _scans(root: Path, options: scans.Options) -> tuple[list[scans.Scan], list[str]]:
    """Returns the scans of a layout, or all there are, and notes of other files."""
    single = scans.is_scan(root)
    if not single:
        try:
            cases, _ = list_cases(root, None)
            return [scans.Scan(case.name, case.path) for case in cases], []
        except UserError:  # of no layout: scans are scans all the same
            if not root.is_dir():
                raise
    if root.is_file():
        return [scans.Scan(root.name, root)], []
    found, aside = scans.find(root, options)
    if not found:
        raise UserError(f"{root} holds no CT scans, expected DICOM or NIfTI files.")
    if not single:
        found = [each._replace(name=_below(each, root)) for each in found]
    return found, [f"note {text}" for text in scans.describe_aside(aside)]


def _below(scan: scans.Scan, root: Path) -> str:
    """Names a scan by its place below a folder."""
    place = scan.path.relative_to(root).parent
    return scan.name if str(place) == "." else f"{place}/{scan.name}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks scans as asked; returns 1 if one is bad, 2 if there is none."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m jaxkd.datasets.ct",
        description="Reads CT scans and says what is wrong with them; changes nothing.",
        epilog="FOLDER_OR_CSV: a manifest (case,path,label), class folders, a folder "
        "in COVNet's layout, a scan, or any folder of scans.",
    )
    parser.add_argument("root", metavar="FOLDER_OR_CSV", type=Path)
    parser.add_argument("--fill-gaps", type=int, default=0, metavar="N")
    parser.add_argument("--pick-largest", action="store_true")
    parser.add_argument("--allow-tilt", action="store_true")
    parser.add_argument("--intensity-offset", type=float, default=0.0, metavar="HU")
    parser.add_argument("--already-windowed", action="store_true")
    parser.add_argument("--series", default="", metavar="UID_NUMBER_OR_DESCRIPTION")
    parser.add_argument("--correct-tilt", action="store_true")
    parser.add_argument("--even-spacing", action="store_true")
    parser.add_argument("--volume", type=int, metavar="N")
    given = vars(parser.parse_args(arguments))
    try:
        lines, bad = check(given.pop("root").expanduser(), scans.Options(**given))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    count = sum(not line.startswith("note ") for line in lines)
    print("\n".join([*lines, f"{count} scans, {bad} bad"]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
