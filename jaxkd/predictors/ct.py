"""Classifies CT scans and writes heat maps that lie on the scans.

For research: a network of this library is no medical device, and what it says of a scan
is no diagnosis.
"""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core import files
from jaxkd.core.errors import UserError
from jaxkd.core.options import Range
from jaxkd.core.source import Info
from jaxkd.datasets import ct, phantoms
from jaxkd.metrics import heatmaps
from jaxkd.models.ct import heatmaps as heatmaps3d
from jaxkd.models.ct.nlran import NLRAN
from jaxkd.predictors import ct_page
from jaxkd.predictors.inputs import OK, UNREADABLE, table
from jaxkd.predictors.restore import Restored, restore
from jaxkd.readers import images, listing
from jaxkd.readers.ct import nifti, volumes
from jaxkd.readers.ct import scans as ct_files
from jaxkd.readers.ct.scans import Options, Scan
from jaxkd.readers.ct.volumes import Placement, Volume

WARNING = "For research only. This is no diagnosis."


class Reading(NamedTuple):
    """What was found out about one scan.

    Attributes:
      case: name of its files.
      path: of the file or folder.
      series: SeriesInstanceUID, of DICOM alone.
      probabilities: of the classes; none where it could not be read.
      maps: names of its heat maps.
      notes: what a reader should know.
      error: why it could not be read, or nothing.
    """

    case: str
    path: str = ""
    series: str = ""
    probabilities: tuple[float, ...] = ()
    maps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""

    @property
    def status(self) -> str:
        """Returns ``"ok"`` or ``"unreadable"``."""
        return UNREADABLE if self.error else OK


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
    intensity_offset: Annotated[float, Range(low=None)] = 0.0,
    already_windowed: bool = False,
    series: str = "",
    correct_tilt: bool = False,
    even_spacing: bool = False,
    volume: int | None = None,
) -> str:
    """Classifies scans and writes what is found into a folder.

    ``predictions.csv`` and ``predictions.json``; for each scan ``<case>.png`` and its
    heat maps on the grid of the file, ``<case>-<map>.nii.gz``; and ``index.html``,
    which shows them all. Every scan has a row with its path, series and status; one
    that cannot be read has the reason, and no files. Every DICOM series is a scan.

    Args:
      workdir: folder of a finished run; its data set is not needed.
      inputs: NIfTI files, folders of DICOM series, and folders of either.
      output: a folder, made if it is not there.
      student: which; None where the run has one alone.
      seed: which of its seeds; None for the first.
      use: "last" or "best" parameters.
      fill_gaps: see ``dicom.read_survey``.
      pick_largest: likewise.
      allow_tilt: likewise.
      intensity_offset: see ``nifti.read``.
      already_windowed: likewise.
      series: see ``dicom.read_survey``.
      correct_tilt: likewise.
      even_spacing: likewise.
      volume: see ``nifti.read``.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: if there are no scans, the run or student is unknown, or, once the
        tables are written, no scan could be read.
    """
    restored = restore(workdir, student, seed, use)
    info = restored.info
    classify, fit = _classifier(restored)
    options = Options(
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
    found, aside = _find([Path(path) for path in inputs], options, output)
    output.mkdir(parents=True, exist_ok=True)
    readings = [
        _read_scan(name, scan, options, fit, classify, output, info)
        for name, scan in _named(found).items()
    ]
    good = [reading for reading in readings if not reading.error]
    files.write_text(output / "predictions.csv", _as_csv(readings, info))
    text = _as_json(readings, info, restored.name, aside)
    files.write_text(output / "predictions.json", text)
    page = ct_page.page(
        readings,
        info.class_names,
        f"{restored.results['name']}: {restored.name}",
        WARNING,
    )
    files.write_text(output / "index.html", page)
    if not good:
        raise UserError(
            f"No scan can be read. The first: {readings[0].error} All of them are in "
            f"{output / 'predictions.csv'}."
        )
    bad = [
        f"  {reading.case}: {reading.error}" for reading in readings if reading.error
    ]
    text = f"{len(good)} scans -> {output} (see index.html). {WARNING}"
    return "\n".join([text, *(["Not read:", *bad] if bad else []), *aside])


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
        spacing = phantoms.LAWS[data.get("law", phantoms.DISEASES)].spacing

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
    scan: Scan,
    options: Options,
    fit: Callable,
    classify: Callable,
    output: Path,
    info: Info,
) -> Reading:
    """Classifies a scan and writes its files, all or none."""
    path = listing.shown(scan.path)
    try:
        volume = ct_files.read_scan(scan, options)
    except UserError as error:
        print(f"{case}: {error}", file=sys.stderr)
        return Reading(case, path, scan.uid, error=listing.shown(str(error)))
    fitted, placement = fit(volume)
    probabilities, maps = classify(fitted)
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
    uid = volume.uid or scan.uid
    return Reading(case, path, uid, values, tuple(grids), tuple(notes))


def _say(probabilities: np.ndarray, info: Info) -> str:
    pairs = zip(info.class_names, probabilities, strict=True)
    return ", ".join(f"{name} {value:.2f}" for name, value in pairs)


def _flat(maps: dict[str, np.ndarray]) -> list[str]:
    return [
        f"heat map {name} is constant and shows nothing"
        for name, heat in maps.items()
        if heatmaps.is_constant(heat)
    ]


def _find(
    inputs: Sequence[Path], options: Options, output: Path
) -> tuple[list[Scan], list[str]]:
    """Returns the scans among files and folders, and notes of what is none."""
    if not inputs:
        raise UserError("--mode=predict needs --inputs, CT scans.")
    scans: list[Scan] = []
    notes: list[str] = []
    for path in inputs:
        if not path.exists():
            raise UserError(f"--inputs: {path} does not exist.")
        if path.is_file():
            scans.append(Scan(path.name, path))
            continue
        images.check_output(path, output)
        found, aside = ct_files.find(path, options, [output])
        if not found:
            raise UserError(
                f"{path} holds no CT scans, expected NIfTI files or folders of DICOM "
                "series or slice images."
            )
        scans += found
        notes += ct_files.describe_aside(aside)
    return scans, notes


def _named(scans: Sequence[Scan]) -> dict[str, Scan]:
    """Gives every scan a name of its own for its files."""
    named: dict[str, Scan] = {}
    for scan in scans:
        stem = scan.name or scan.path.absolute().name
        stem = re.sub(r"\.nii(\.gz)?$", "", stem, flags=re.IGNORECASE)
        stem = re.sub(r"[^\w.-]+", "-", stem) or "scan"
        name, number = stem, 2
        while name in named:
            name, number = f"{stem}-{number}", number + 1
        named[name] = scan
    return named


def _as_csv(readings: Sequence[Reading], info: Info) -> str:
    head = ("case", "path", "series", "status", "class")
    rows = []
    for one in readings:
        values, best = [""] * info.num_classes, ""
        if one.probabilities:
            values = [f"{value:.6f}" for value in one.probabilities]
            best = info.class_names[int(np.argmax(one.probabilities))]
        first = (one.case, one.path, one.series, one.status, best)
        rows.append([*first, *values, "; ".join(one.notes), one.error])
    return table([*head, *info.class_names, "notes", "error"], rows)


def _as_json(
    readings: Sequence[Reading], info: Info, student: str, aside: Sequence[str]
) -> str:
    rows = [reading._asdict() | {"status": reading.status} for reading in readings]
    content = {
        "warning": WARNING,
        "student": student,
        "classes": info.class_names,
        "scans": rows,
        "aside": list(aside),
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"
