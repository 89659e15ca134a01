"""Chest CT scans drawn by formula, with masks of lungs and lesions.

Three classes: ``NCP`` (fine-grained lesions, mostly at the lungs' shell), ``CP``
(smooth lesions, mostly central) and ``Normal``. Number, size and density of the lesions
have one law in both; normal lungs hold more of the harmless bands that every lung
holds, so that the amount of dense tissue does not tell the class. Nothing medical can
be learnt from them: they show whether code works, and whether a heat map finds what is
there.

The scans of a data set are drawn once and kept in the cache folder.

    python -m jaxkd.datasets.phantoms FOLDER

writes six scans that no data set holds, as NIfTI files and as DICOM series.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Info

CLASSES = ("NCP", "CP", "Normal")
SHAPE = (24, 48, 48)
SPACING = (10.0, 7.5, 7.5)  # mm, so that the drawn body has the size of a real one
TRAIN, TEST, VALIDATION, EXAMPLES = range(4)  # folded into the seed, so never renumber
VERSION = 1  # of the law; part of the cached files' names

AIR, BODY, BONE = -1000.0, 40.0, 400.0
_DENSE = -350.0  # bands and lesions are added only where there is less than this


class Scan(NamedTuple):
    """One scan on a grid ``(depth, height, width)``.

    Depth runs from feet to head, height from front to back, width from the patient's
    right to the left.

    Attributes:
      image: int16, Hounsfield units.
      lesion: uint8, 1 inside lesions; empty for a normal scan.
      lungs: uint8, 1 inside lungs.
    """

    image: np.ndarray
    lesion: np.ndarray
    lungs: np.ndarray


class _Lungs(NamedTuple):
    inside: np.ndarray  # bool
    radius: np.ndarray  # 0 in the middle of a lung, 1 at its border


def load(
    train: int = 480,
    test: int = 120,
    scans_per_patient: int = 2,
    crop: tuple[int, int, int] | None = None,
    evaluate_on: str = "test",
    seed: int = 0,
    cache: str | None = None,
) -> Dataset:
    """Makes the data set: draws the scans, or reads those it drew before.

    Examples hold ``image`` int16 ``[d, h, w]`` in Hounsfield units, ``label``,
    ``patient`` (int32), ``lesion`` and ``lungs`` (uint8 ``[d, h, w]``). No patient is
    in two splits.

    Args:
      train: training scans, as many of each class.
      test: scans to evaluate on, likewise.
      scans_per_patient: scans that share a body; they also share their class.
      crop: size of the middle to keep of each scan of ``SHAPE``; ``(24, 32, 40)`` holds
        both lungs.
      evaluate_on: ``"test"``, or ``"validation"`` to choose settings.
      seed: of everything.
      cache: folder for drawn scans; by default ``jaxkd`` in the user's cache folder.

    Raises:
      UserError: if an option is out of its range.
    """
    splits = {"test": TEST, "validation": VALIDATION}
    if evaluate_on not in splits:
        raise UserError(
            f"evaluate_on is {evaluate_on!r}, expected one of {', '.join(splits)}."
        )
    for name, count in (("train", train), ("test", test)):
        unit = len(CLASSES) * scans_per_patient
        if count <= 0 or count % unit:
            raise UserError(
                f"{name} is {count}, expected a positive multiple of {unit}: as many "
                f"scans of every class, {scans_per_patient} of each patient."
            )
    folder = Path(cache).expanduser() if cache else _cache_folder()

    def source(split: int, count: int) -> ArraySource:
        arrays = _cached(folder, split, count, scans_per_patient, seed)
        return ArraySource(_cropped(arrays, crop))

    held_out = source(splits[evaluate_on], test)
    training = source(TRAIN, train)
    shape = held_out.arrays["image"].shape[1:]
    info = Info("CT phantoms", len(CLASSES), shape, (0.0,), (1.0,), CLASSES)
    return Dataset(info, lambda seed: training, held_out)


def draw_many(
    split: int, count: int, scans_per_patient: int = 2, seed: int = 0
) -> dict[str, np.ndarray]:
    """Draws scans; scan ``i`` does not depend on how many there are.

    Args:
      split: ``TRAIN``, ``TEST`` or ``VALIDATION``.
      count: number of scans.
      scans_per_patient: consecutive scans of one patient.
      seed: of everything.

    Returns:
      The arrays of ``load``'s examples, stacked. Patient ``p`` has class ``p % 3``.
    """
    from tqdm import tqdm

    patients = np.arange(count) // scans_per_patient
    labels = (patients % len(CLASSES)).astype(np.int32)
    numbers = tqdm(range(count), "drawing CT phantoms", unit="scan", disable=None)
    scans = [
        draw(int(labels[i]), (seed, split, int(patients[i])), (seed, split, i, 1))
        for i in numbers
    ]
    return {
        "image": np.stack([scan.image for scan in scans]),
        "label": labels,
        "patient": (patients + 1_000_000 * split).astype(np.int32),
        "lesion": np.stack([scan.lesion for scan in scans]),
        "lungs": np.stack([scan.lungs for scan in scans]),
    }


def draw(label: int, patient: tuple[int, ...], scan: tuple[int, ...]) -> Scan:
    """Draws one scan.

    Args:
      label: index into ``CLASSES``.
      patient: seed of the body.
      scan: seed of everything else.
    """
    body_rng, rng = np.random.default_rng(patient), np.random.default_rng(scan)
    image, lungs = _body(body_rng)
    _add_vessels(image, lungs, rng)
    lesion = np.zeros(SHAPE, bool)
    if CLASSES[label] != "Normal":
        lesion = _add_lesions(image, lungs, rng, fine=CLASSES[label] == "NCP")
    bands = rng.integers(3, 8) if CLASSES[label] == "Normal" else rng.integers(0, 4)
    for _ in range(bands):
        _add_band(image, lungs, rng)
    image += rng.normal(0, rng.uniform(25, 60), SHAPE)
    image = np.clip(np.round(image), -1024, 3071).astype(np.int16)
    return Scan(image, lesion.astype(np.uint8), lungs.inside.astype(np.uint8))


def _grid() -> list[np.ndarray]:
    axes = [np.linspace(-1, 1, size) for size in SHAPE]
    return list(np.meshgrid(*axes, indexing="ij"))


def _body(rng: np.random.Generator) -> tuple[np.ndarray, _Lungs]:
    """Draws body, ribs and empty lungs."""
    z, y, x = _grid()
    angle = np.deg2rad(rng.uniform(-4, 4))
    y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    size = rng.uniform(0.93, 1.07)
    radius = np.hypot(x / (0.92 * size), y / (0.75 * size))
    image = np.where(radius < 1, BODY, AIR)
    ribs = np.cos(np.pi * (z + 0.35 * y) * rng.uniform(4.5, 5.5) + rng.uniform(0, 6))
    image[(radius > 0.88) & (radius < 0.98) & (ribs > 0.3)] = BONE
    base, gradient = rng.uniform(-900, -780), rng.uniform(0, 90)
    inside, nearest = np.zeros(SHAPE, bool), np.full(SHAPE, np.inf)
    for side in (-1, 1):
        width, height, depth = np.array([0.33, 0.55, 0.95]) * rng.uniform(0.93, 1.07, 3)
        distance = np.sqrt(
            ((x - side * 0.43) / width) ** 2 + (y / height) ** 2 + (z / depth) ** 2
        )
        inside |= (distance < 1) & (radius < 0.85)
        nearest = np.minimum(nearest, distance)
    image = np.where(inside, base + gradient * (y + 1) / 2, image)
    return image, _Lungs(inside, nearest)


def _smooth_noise(rng: np.random.Generator, sigma: float) -> np.ndarray:
    """Returns Gaussian noise, smoothed, of mean 0 and deviation 1."""
    from scipy.ndimage import gaussian_filter

    noise = rng.standard_normal(SHAPE, np.float32)
    noise = gaussian_filter(noise, sigma, mode="wrap")
    return (noise - noise.mean()) / noise.std()


def _add_vessels(image: np.ndarray, lungs: _Lungs, rng: np.random.Generator) -> None:
    field = _smooth_noise(rng, 1.2)
    share = rng.uniform(0.025, 0.07)
    vessels = lungs.inside & (field > np.quantile(field[lungs.inside], 1 - share))
    image[vessels] = rng.uniform(-300, 0, int(vessels.sum()))


def _way(centre: np.ndarray) -> list[np.ndarray]:
    """Returns the way from a voxel to all others along each axis, to be broadcast."""
    axes = [
        np.arange(n, dtype=np.float32) - c for n, c in zip(SHAPE, centre, strict=True)
    ]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _pick(where: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    places = np.argwhere(where)
    return places[rng.integers(len(places))]


def _add_band(image: np.ndarray, lungs: _Lungs, rng: np.random.Generator) -> None:
    """Adds a plate about 1.3 voxels thick: dense, and no lesion."""
    z, y, x = _way(_pick(lungs.inside, rng))
    normal = rng.normal(size=3).astype(np.float32)
    normal /= np.linalg.norm(normal)
    across = normal[0] * z + normal[1] * y + normal[2] * x
    along = np.sqrt(np.maximum(z**2 + y**2 + x**2 - across**2, 0))
    plate = np.exp(-0.5 * (across / 0.65) ** 2)
    plate /= 1 + np.exp(np.clip((along - rng.uniform(5, 9)) / 0.6, -30, 30))
    free = lungs.inside & (image < _DENSE)
    image[free] += rng.uniform(200, 420) * plate[free]


def _add_lesions(
    image: np.ndarray, lungs: _Lungs, rng: np.random.Generator, fine: bool
) -> np.ndarray:
    """Adds three to six foci and returns where they are."""
    texture = _smooth_noise(rng, 2.5)
    if fine:
        from scipy.ndimage import gaussian_filter

        noise = rng.standard_normal(SHAPE, np.float32)
        texture = gaussian_filter(noise, 0.6) - gaussian_filter(noise, 1.4)
        texture = (texture - texture.mean()) / texture.std()
    place = lungs.radius > 0.72 if fine else lungs.radius < 0.55
    ragged = _smooth_noise(rng, 1.0)
    amount = np.zeros(SHAPE, np.float32)
    for _ in range(rng.integers(3, 7)):
        anywhere = rng.random() < 0.3
        centre = _pick(lungs.inside & (place | anywhere), rng)
        z, y, x = _way(centre)
        border = 0.8 * np.roll(ragged, rng.integers(SHAPE), (0, 1, 2))
        edge = np.sqrt(z**2 + y**2 + x**2) + border - rng.uniform(3, 5.5)
        focus = 1 / (1 + np.exp(np.clip(edge / 0.5, -30, 30)))
        amount = np.maximum(amount, focus)
    free = lungs.inside & (image < _DENSE)
    density = rng.uniform(200, 420) * (1 + 0.55 * texture)
    image[free] += (amount * density)[free]
    return (amount > 0.5) & lungs.inside


def _cropped(arrays: dict[str, np.ndarray], crop) -> dict[str, np.ndarray]:
    if crop is None:
        return arrays
    if len(crop) != 3 or any(not 0 < c <= s for c, s in zip(crop, SHAPE, strict=True)):
        raise UserError(
            f"crop is {tuple(crop)}, expected three sizes, at most those of {SHAPE}."
        )
    starts = [(size - kept) // 2 for size, kept in zip(SHAPE, crop, strict=True)]
    box = tuple(slice(a, a + n) for a, n in zip(starts, crop, strict=True))
    return {
        name: np.ascontiguousarray(array[(slice(None), *box)])
        if array.ndim == 4
        else array
        for name, array in arrays.items()
    }


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "jaxkd" / "phantoms"


def _cached(folder: Path, split: int, count: int, per_patient: int, seed: int):
    """Reads the scans of a split, or draws and keeps them."""
    path = folder / f"v{VERSION}-{seed}-{split}-{count}-{per_patient}.npz"
    try:
        with path.open("rb") as file, np.load(file) as content:
            return dict(content)
    except FileNotFoundError:
        pass
    except Exception:  # a damaged file is drawn again
        path.unlink(missing_ok=True)
    arrays = draw_many(split, count, per_patient, seed)
    folder.mkdir(parents=True, exist_ok=True)
    # Complete or not there: another process may draw the same scans.
    part = path.with_name(f"{path.stem}.{os.getpid()}.part")
    with part.open("wb") as output:
        np.savez(output, **arrays)  # type: ignore[arg-type]
    part.replace(path)
    return arrays


def affine() -> np.ndarray:
    """Returns the affine of a scan whose axes are turned to ``[width, height, depth]``.

    As in NIfTI: from indices to mm (right, anterior, superior).
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
