"""Chest CT scans drawn by formula, with masks of lungs and lesions.

The laws they are drawn by are in ``jaxkd.drawing.ct``. Nothing medical can be learnt
from them: they show whether code works, and whether a heat map finds what is there.

The scans of a data set are drawn once and kept in the cache folder.

    python -m jaxkd.datasets.phantoms FOLDER

writes six scans that no data set holds, as NIfTI files and as DICOM series.
"""

import os
from pathlib import Path

import numpy as np

from jaxkd.core import files, lookup
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Info
from jaxkd.drawing.ct import LAWS, Scan
from jaxkd.drawing.ct.diseases import CLASSES, SHAPE, SPACING

DISEASES = "diseases"
TRAIN, TEST, VALIDATION, EXAMPLES = range(4)  # folded into the seed, so never renumber
VERSION = 2  # of the laws; part of the cached files' names


def load(
    train: int = 480,
    test: int = 120,
    scans_per_patient: int = 2,
    crop: tuple[int, int, int] | None = None,
    evaluate_on: str = "test",
    seed: int = 0,
    cache: str | None = None,
    law: str = DISEASES,
) -> Dataset:
    """Makes the data set: draws the scans, or reads those it drew before.

    Examples hold ``image`` int16 ``[d, h, w]`` in Hounsfield units, ``label``,
    ``patient`` (int32), ``lesion`` and ``lungs`` (uint8 ``[d, h, w]``); where the law
    has them, ``distractors``, which are as bright as lesions, like ``lesion``. No
    patient is in two splits.

    Args:
      train: training scans, as many of each class.
      test: scans to evaluate on, likewise.
      scans_per_patient: scans that share a body; they also share their class.
      crop: size of the middle to keep of each scan; ``(24, 32, 40)`` of the law
        ``"diseases"`` holds both lungs.
      evaluate_on: ``"test"``, or ``"validation"`` to choose settings.
      seed: of everything.
      cache: folder for drawn scans; by default ``jaxkd`` in the user's cache folder.
      law: of the drawing, one of ``jaxkd.drawing.ct.LAWS``.

    Raises:
      UserError: if an option is out of its range.
    """
    splits = {"test": TEST, "validation": VALIDATION}
    if evaluate_on not in splits:
        raise UserError(
            f"evaluate_on is {evaluate_on!r}, expected one of {', '.join(splits)}."
        )
    classes = lookup.choose(law, LAWS, what="law").classes
    for name, count in (("train", train), ("test", test)):
        unit = len(classes) * scans_per_patient
        if count <= 0 or count % unit:
            raise UserError(
                f"{name} is {count}, expected a positive multiple of {unit}: as many "
                f"scans of every class, {scans_per_patient} of each patient."
            )
    _check_crop(crop, LAWS[law].shape)
    folder = Path(cache).expanduser() if cache else files.user_cache("phantoms")

    def source(split: int, count: int) -> ArraySource:
        arrays = _cached(folder, law, split, count, scans_per_patient, seed)
        return ArraySource(_cropped(arrays, crop))

    held_out = source(splits[evaluate_on], test)
    training = source(TRAIN, train)
    shape = held_out.arrays["image"].shape[1:]
    title = "CT phantoms" if law == DISEASES else f"CT phantoms ({law})"
    info = Info(title, len(classes), shape, (0.0,), (1.0,), classes)
    return Dataset(info, lambda seed: training, held_out)


def draw_many(
    split: int,
    count: int,
    scans_per_patient: int = 2,
    seed: int = 0,
    law: str = DISEASES,
) -> dict[str, np.ndarray]:
    """Draws scans; scan ``i`` does not depend on how many there are.

    Args:
      split: ``TRAIN``, ``TEST`` or ``VALIDATION``.
      count: number of scans.
      scans_per_patient: consecutive scans of one patient.
      seed: of everything.
      law: see ``load``.

    Returns:
      The arrays of ``load``'s examples, stacked. Patient ``p`` has class ``p % c`` of
      ``c`` classes.
    """
    from tqdm import tqdm

    patients = np.arange(count) // scans_per_patient
    labels = (patients % len(LAWS[law].classes)).astype(np.int32)
    numbers = tqdm(range(count), "drawing CT phantoms", unit="scan", disable=None)
    scans = [
        draw(int(labels[i]), (seed, split, int(patients[i])), (seed, split, i, 1), law)
        for i in numbers
    ]
    arrays = {
        "image": np.stack([scan.image for scan in scans]),
        "label": labels,
        "patient": (patients + 1_000_000 * split).astype(np.int32),
        "lesion": np.stack([scan.lesion for scan in scans]),
        "lungs": np.stack([scan.lungs for scan in scans]),
    }
    distractors = [s.distractors for s in scans if s.distractors is not None]
    return arrays | ({"distractors": np.stack(distractors)} if distractors else {})


def draw(
    label: int, patient: tuple[int, ...], scan: tuple[int, ...], law: str = DISEASES
) -> Scan:
    """Draws one scan.

    Args:
      label: index into the law's classes.
      patient: seed of the body.
      scan: seed of everything else.
      law: see ``load``.
    """
    body_rng, rng = np.random.default_rng(patient), np.random.default_rng(scan)
    return LAWS[law].draw(label, body_rng, rng)


def _check_crop(crop, whole: tuple[int, ...]) -> None:
    """Refuses a crop that no scan has, before minutes of drawing."""
    if crop is None:
        return
    if len(crop) != 3 or any(not 0 < c <= s for c, s in zip(crop, whole, strict=True)):
        raise UserError(
            f"crop is {tuple(crop)}, expected three sizes, at most those of {whole}."
        )


def _cropped(arrays: dict[str, np.ndarray], crop) -> dict[str, np.ndarray]:
    if crop is None:
        return arrays
    whole = arrays["image"].shape[1:]
    starts = [(size - kept) // 2 for size, kept in zip(whole, crop, strict=True)]
    box = tuple(slice(a, a + n) for a, n in zip(starts, crop, strict=True))
    return {
        name: np.ascontiguousarray(array[(slice(None), *box)])
        if array.ndim == 4
        else array
        for name, array in arrays.items()
    }


def _cached(
    folder: Path, law: str, split: int, count: int, per_patient: int, seed: int
):
    """Reads the scans of a split, or draws and keeps them."""
    prefix = "" if law == DISEASES else f"{law}-"
    path = folder / f"{prefix}v{VERSION}-{seed}-{split}-{count}-{per_patient}.npz"
    try:
        with path.open("rb") as file, np.load(file) as content:
            return dict(content)
    except FileNotFoundError:
        pass
    except Exception:  # a damaged file is drawn again
        path.unlink(missing_ok=True)
    arrays = draw_many(split, count, per_patient, seed, law)
    folder.mkdir(parents=True, exist_ok=True)
    # Complete or not there: another process may draw the same scans.
    part = path.with_name(f"{path.stem}.{os.getpid()}.part")
    with part.open("wb") as output:
        np.savez(output, **arrays)  # type: ignore[arg-type]
    part.replace(path)
    return arrays


def affine() -> np.ndarray:
    """Returns the affine of a scan whose axes are turned to ``[width, height, depth]``.

    Of the first law. As in NIfTI: from indices to mm (right, anterior, superior).
    """
    depth, height, width = SPACING
    result = np.diag([-width, -height, depth, 1.0])
    result[:3, 3] = -result[:3, :3] @ (np.array(SHAPE[::-1]) - 1) / 2
    return result


def main(arguments: list[str] | None = None) -> None:
    """Writes scans for trying things out."""
    import argparse

    from jaxkd.readers.ct import dicom_writing, nifti

    parser = argparse.ArgumentParser(
        prog="python -m jaxkd.datasets.phantoms",
        description="Writes six CT phantoms: three NIfTI files, three DICOM series.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(6):
        label = index % len(CLASSES)
        scan = draw(label, (0, EXAMPLES, index), (0, EXAMPLES, index, 1))
        stored = scan.image.transpose(2, 1, 0)
        name = f"{CLASSES[label].lower()}-{index}"
        if index < len(CLASSES):
            nifti.write(folder / f"{name}.nii.gz", stored, affine())
        else:
            dicom_writing.write(folder / name, stored, affine())
    print(f"6 scans -> {folder}")


if __name__ == "__main__":
    main()
