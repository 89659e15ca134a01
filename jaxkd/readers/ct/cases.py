"""Which CT scans there are: manifests, class folders, COVNet's layout; and splits."""

import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.readers import listing
from jaxkd.readers.ct import nifti

_REST = "\0"  # key of cells beyond the last column
SPLITS = ("train", "val", "test")


class Case(NamedTuple):
    """A scan.

    Attributes:
      name: of the case.
      path: of its file or folder.
      label: name of its class.
      patient: whose it is.
      split: ``"train"``, ``"val"``, ``"test"`` or not known yet.
      lesion_mask: a NIfTI file, if there is one.
    """

    name: str
    path: Path
    label: str
    patient: str
    split: str = ""
    lesion_mask: Path | None = None


def list_cases(
    root: Path, classes: Sequence[str] | None
) -> tuple[list[Case], tuple[str, ...]]:
    """Lists the scans of one of the layouts of ``ct``.

    Args:
      root: manifest or folder.
      classes: their names in the order of the labels; None for the sorted names.

    Returns:
      The scans and the classes.

    Raises:
      UserError: if there are none, a file is missing, a label is none of ``classes``
        or a class has no scan.
    """
    if root.is_file():
        cases = _manifest(root)
    elif (root / "train.csv").is_file():
        cases = _covnet(root)
    elif root.is_dir():
        cases = _folders(root)
    else:
        raise UserError(f"{root} does not exist, expected a manifest or a folder.")
    found = sorted({case.label for case in cases})
    names = tuple(classes or found)
    for case in cases:
        if case.label not in names:
            raise UserError(
                f"{root}: {case.name} has label {case.label!r}, expected one of "
                f"{', '.join(names)}."
            )
        for path in (case.path, case.lesion_mask):
            if path is not None and not parsing.exists(path):
                raise UserError(f"{root}: {case.name}: {path} does not exist.")
    counts = Counter(case.path for case in cases)
    if twice := [path for path, count in counts.items() if count > 1]:
        raise UserError(f"{root} lists {twice[0]} more than once. Keep one row of it.")
    if empty := [name for name in names if name not in found]:
        raise UserError(f"{root}: no scan has label {', '.join(empty)}.")
    if len(names) < 2:
        raise UserError(
            f"{root}: all scans have label {names[0]!r}, expected two or more."
        )
    return cases, names


def _rows(path: Path, wanted: Sequence[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, restkey=_REST)
            columns = [name.strip() for name in table.fieldnames or []]
            table.fieldnames = columns
            rows = [
                {k: "".join(v or "").strip() for k, v in row.items()} for row in table
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}.") from error
    if len(set(columns)) < len(columns):
        raise UserError(f"{path} has a column twice: {', '.join(columns)}.")
    if longer := [number for number, row in enumerate(rows, 2) if row.get(_REST)]:
        raise UserError(
            f"{path}, line {longer[0]}, has more cells than the {len(columns)} columns."
            " Put names with commas in quotes."
        )
    if missing := [name for name in wanted if name not in columns]:
        raise UserError(
            f"{path} has the columns {', '.join(columns) or 'none'}, but lacks "
            f"{', '.join(missing)}."
        )
    if not rows:
        raise UserError(f"{path} lists no scans.")
    for number, row in enumerate(rows, 2):
        if empty := [name for name in wanted if not row[name]]:
            raise UserError(f"{path}, line {number}: {', '.join(empty)} is empty.")
    return rows


def _manifest(path: Path) -> list[Case]:
    cases = []
    for row in _rows(path, ("case", "path", "label")):
        split, mask = row.get("split", ""), row.get("lesion_mask", "")
        if split and split not in SPLITS:
            raise UserError(
                f"{path}: {row['case']} has split {split!r}, expected one of "
                f"{', '.join(SPLITS)}."
            )
        cases.append(
            Case(
                *(row["case"], parsing.beside(path, row["path"]), row["label"]),
                *(row.get("patient") or row["case"], split),
                parsing.beside(path, mask) if mask else None,
            )
        )
    return cases


def _covnet(root: Path) -> list[Case]:
    return [
        Case(
            row["case"], root / row["case"] / "masked_ct.nii", row["label"], row["case"]
        )
        for row in _rows(root / "train.csv", ("case", "label"))
    ]


def _folders(root: Path) -> list[Case]:
    cases = []
    for label in _visible(root):
        if not label.is_dir():
            continue
        for patient in _visible(label):
            if not patient.is_dir():
                raise UserError(
                    f"{patient} is a file, expected {root}/<class>/<patient>/<scan>."
                )
            inside = _visible(patient)
            values = {p for p in inside if nifti.is_named(p)} - set(
                nifti.unpaired(inside)
            )
            for scan in inside:
                if scan in values:
                    continue
                if scan.is_file() and not nifti.is_named(scan):
                    raise UserError(
                        f"{scan} is a file, expected a folder of slices or a NIfTI "
                        f"file: {root}/<class>/<patient>/<scan>."
                    )
                name = f"{label.name}/{patient.name}/{scan.name}"
                cases.append(Case(name, scan, label.name, patient.name))
    if not cases:
        raise UserError(f"{root} holds no scans, expected <class>/<patient>/<scan>.")
    return cases


def _visible(folder: Path) -> list[Path]:
    return [folder / name for name in listing.entries(folder)]


def assign_splits(
    cases: Sequence[Case],
    classes: Sequence[str],
    split_by: str,
    test_share: float,
    seed: int,
    shared_patients: bool = False,
) -> list[Case]:
    """Splits scans into ``train`` and ``test``, unless they say their split already.

    Of each class the same share of patients is held out, at least one.

    Raises:
      UserError: if an option is out of its range, only some scans have a split, or a
        patient is in two splits.
    """
    given = [case for case in cases if case.split]
    if given:
        if len(given) < len(cases):
            lacking = next(case for case in cases if not case.split)
            raise UserError(f"{lacking.name} has no split, but others have one.")
        _check_patients(cases, shared_patients)
        return list(cases)
    if split_by not in ("patient", "scan") or not 0 < test_share < 1:
        raise UserError(
            f"split_by is {split_by!r} and test_share {test_share}, expected 'patient' "
            "or 'scan' and a share between 0 and 1."
        )
    if split_by == "scan":
        print(
            "warning: scans are split, not patients: scans of one patient may be in "
            "both parts, and the test is easier than it should be",
            file=sys.stderr,
        )
    key = {"patient": lambda case: case.patient, "scan": lambda case: case.name}[
        split_by
    ]
    held_out = _hold_out({key(c): c.label for c in cases}, classes, test_share, seed)
    return [
        case._replace(split="test" if key(case) in held_out else "train")
        for case in cases
    ]


def _hold_out(labels: dict[str, str], classes, share: float, seed: int) -> set[str]:
    rng = np.random.default_rng(seed)
    held_out: set[str] = set()
    for name in classes:
        # A patient with scans of two classes counts for the last.
        members = sorted(key for key, label in labels.items() if label == name)
        if len(members) < 2:
            raise UserError(
                f"Class {name!r} has {len(members)} patients, expected at least two to "
                "hold one out."
            )
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        held_out |= {members[i] for i in rng.permutation(len(members))[:count]}
    return held_out


def _check_patients(cases: Sequence[Case], shared_patients: bool) -> None:
    splits = defaultdict(set)
    for case in cases:
        splits[case.patient].add(case.split)
    for case in cases:
        if len(splits[case.patient]) > 1 and not shared_patients:
            raise UserError(
                f"{case.name}: its patient is in the splits "
                f"{', '.join(sorted(splits[case.patient]))}, expected one. Set "
                "shared_patients if that is meant."
            )
