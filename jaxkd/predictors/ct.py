"""Classifies CT scans and writes heat maps that lie on the scans.

For research: a network of this library is no medical device, and what it says of a scan
is no diagnosis.
"""

import csv
import io
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.datasets import ct, phantoms
from jaxkd.metrics import heatmaps
from jaxkd.models.ct import heatmaps as heatmaps3d
from jaxkd.models.ct.nlran import NLRAN
from jaxkd.predictors import ct_page
from jaxkd.predictors.restore import Restored, restore
from jaxkd.readers.ct import nifti, volumes
from jaxkd.readers.ct import scans as ct_files
from jaxkd.readers.ct.scans import Options
from jaxkd.readers.ct.volumes import Placement, Volume

WARNING = "For research only. This is no diagnosis."


class Reading(NamedTuple):
    """What was found out about one scan.

    Attributes:
      case: name of its files.
      probabilities: of the classes; none where it could not be read.
      maps: names of its heat maps.
      notes: what a reader should know.
      error: why it could not be read, or nothing.
    """

    case: str
    probabilities: tuple[float, ...] = ()
    maps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""


def predict(
    workdir: Path,
    inputs: Sequence[Path],
    output: Path,
    *,
    student: str | None = None,
    seed: int | None = None,
    use: str = "last",
    fill_gaps: int = 0,
    pick_largest: bool = False,
    allow_tilt: bool = False,
    intensity_offset: float = 0.0,
    already_windowed: bool = False,
) -> str:
    """Classifies scans and writes what is found into a folder.

    ``predictions.csv`` and ``predictions.json``; for each scan ``<case>.png`` and its
    heat maps on the grid of the file, ``<case>-<map>.nii.gz``; and ``index.html``,
    which shows them all. A scan that cannot be read has a line that says why, and no
    files.

    Args:
      workdir: folder of a finished run; its data set is not needed.
      inputs: NIfTI files, folders of DICOM series, and folders of either.
      output: a folder, made if it is not there.
      student: which; None for the best by mean score at the end.
      seed: which of its seeds; None for the first.
      use: "last" or "best" parameters.
      fill_gaps: see ``dicom.read``.
      pick_largest: likewise.
      allow_tilt: likewise.
      intensity_offset: see ``nifti.read``.
      already_windowed: likewise.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: if there are no scans, none can be read, or the run or student is
        unknown.
    """
    restored = restore(workdir, student, seed, use)
    info = restored.info
    classify, fit = _classifier(restored)
    options = Options(
        fill_gaps, pick_largest, allow_tilt, intensity_offset, already_windowed
    )
    scans = _named(list(_find([Path(path) for path in inputs])))
    output.mkdir(parents=True, exist_ok=True)
    readings = [
        _read_scan(name, path, options, fit, classify, output, info)
        for name, path in scans.items()
    ]
    good = [reading for reading in readings if not reading.error]
    if not good:
        raise UserError(f"No scan can be read. The first: {readings[0].error}")
    _write_text(output / "predictions.csv", _as_csv(readings, info))
    _write_text(output / "predictions.json", _as_json(readings, info, restored.name))
    page = ct_page.page(
        readings,
        info.class_names,
        f"{restored.results['name']}: {restored.name}",
        WARNING,
    )
    _write_text(output / "index.html", page)
    bad = [
        f"  {reading.case}: {reading.error}" for reading in readings if reading.error
    ]
    text = f"{len(good)} scans -> {output} (see index.html). {WARNING}"
    return "\n".join([text, *(["Not read:", *bad] if bad else [])])


def _classifier(restored: Restored):
    """Returns ``int16 [d, h, w] -> probabilities, maps``, and how to fit a scan."""
    data, network = restored.config.data, restored.network
    if data.name not in ("ct", "phantoms"):
        raise UserError(
            f"The run was trained on {data.name!r}, expected a run on CT scans, such "
            "as configs/nlran.py."
        )
    spacing = data.get("spacing", None)
    if data.name == "phantoms":
        spacing = phantoms.SPACING

    @jax.jit
    def forward(scan: jax.Array):
        batch = {"image": scan[None]}
        if isinstance(network, NLRAN):
            seen = restored.see(batch)
            logits, maps = heatmaps3d.explain(network, restored.variables, seen)
        else:
            logits, maps = restored.apply(batch)[0], {}
        return jax.nn.softmax(logits)[0], {name: m[0] for name, m in maps.items()}

    def classify(scan: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        probabilities, maps = forward(jnp.asarray(scan))
        return np.asarray(probabilities), {k: np.asarray(m) for k, m in maps.items()}

    def fit(volume: Volume) -> tuple[np.ndarray, Placement]:
        crop = bool(data.get("lung_crop", False))
        return ct.fit(volume, restored.info.image_shape[:3], spacing, crop)

    return classify, fit


def _read_scan(
    case: str,
    path: Path,
    options: Options,
    fit: Callable,
    classify: Callable,
    output: Path,
    info: Info,
) -> Reading:
    """Classifies a scan and writes its files, all or none."""
    try:
        volume = ct_files.read(path, options)
    except UserError as error:
        print(f"{case}: {error}", file=sys.stderr)
        return Reading(case, error=str(error))
    scan, placement = fit(volume)
    probabilities, maps = classify(scan)
    notes = [*volume.notes, *_flat(maps)]
    grids = {
        name: volumes.unfit(heatmaps.normalized(heat), placement).astype(np.float32)
        for name, heat in maps.items()
    }
    with tempfile.TemporaryDirectory(dir=output) as name:
        folder = Path(name)
        for kind, heat in grids.items():
            stored = volumes.from_frame(heat, volume)
            nifti.write(folder / f"{case}-{kind}.nii.gz", stored, volume.affine)
        title = f"{case}: {_say(probabilities, info)}"
        ct_page.montage(folder / f"{case}.png", volume.voxels, grids, title, WARNING)
        for file in folder.iterdir():
            shutil.move(file, output / file.name)
    values = tuple(float(value) for value in probabilities)
    return Reading(case, values, tuple(grids), tuple(notes))


def _say(probabilities: np.ndarray, info: Info) -> str:
    pairs = zip(info.class_names, probabilities, strict=True)
    return ", ".join(f"{name} {value:.2f}" for name, value in pairs)


def _flat(maps: dict[str, np.ndarray]) -> list[str]:
    return [
        f"heat map {name} is constant and shows nothing"
        for name, heat in maps.items()
        if heatmaps.is_constant(heat)
    ]


def _find(inputs: Sequence[Path]) -> Iterator[Path]:
    """Yields the scans among files and folders."""
    if not inputs:
        raise UserError("--mode=predict needs --inputs, CT scans.")
    for path in inputs:
        if not path.exists():
            raise UserError(f"--inputs: {path} does not exist.")
        if path.is_file() or ct_files.is_scan(path):
            yield path
            continue
        found = list(ct_files.below(path))
        if not found:
            raise UserError(
                f"{path} holds no CT scans, expected NIfTI files or folders of DICOM "
                "series or slice images."
            )
        yield from found


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Gives every scan a name of its own for its files."""
    named: dict[str, Path] = {}
    for path in paths:
        stem = re.sub(r"\.nii(\.gz)?$", "", path.absolute().name, flags=re.IGNORECASE)
        stem = re.sub(r"[^\w.-]+", "-", stem) or "scan"
        name, number = stem, 2
        while name in named:
            name, number = f"{stem}-{number}", number + 1
        named[name] = path
    return named


def _as_csv(readings: Sequence[Reading], info: Info) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["case", "class", *info.class_names, "notes", "error"])
    for one in readings:
        values, best = [""] * info.num_classes, ""
        if one.probabilities:
            values = [f"{value:.6f}" for value in one.probabilities]
            best = info.class_names[int(np.argmax(one.probabilities))]
        table.writerow([one.case, best, *values, "; ".join(one.notes), one.error])
    return text.getvalue()


def _as_json(readings: Sequence[Reading], info: Info, student: str) -> str:
    content = {
        "warning": WARNING,
        "student": student,
        "classes": info.class_names,
        "scans": [reading._asdict() for reading in readings],
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
