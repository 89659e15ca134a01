"""How close enlarged images come to references: PSNR, SSIM and LPIPS in a table."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.evaluators import perceptual
from jaxkd.metrics import image_quality
from jaxkd.predictors.inputs import output_name, write_table
from jaxkd.readers import images

HEADER = ("file", "reference", "psnr", "ssim", "lpips", "error")


class Quality:
    """Compares enlarged images with the references of the same names.

    PSNR and SSIM are computed on luminance without a border of ``scale`` pixels, as
    after training; LPIPS on whole images.
    """

    def __init__(self, folder: str | Path, files: Sequence[Path], lpips: str):
        """Finds a reference for every input.

        Args:
          folder: of the references.
          files: inputs.
          lpips: file of weights, see ``jaxkd.readers.lpips_weights``; empty for none.

        Raises:
          UserError: if the folder or a reference is missing, several have one name, or
            the weights are refused.
        """
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise UserError(
                f"references is {folder}, expected a folder of the large images."
            )
        self.rows: list[tuple[Any, ...]] = []
        self.distance: Callable | None = perceptual.measure(lpips)[0] if lpips else None
        by_name: dict[str, list[Path]] = {}
        for path in images.find([folder]):
            by_name.setdefault(output_name(path), []).append(path)
        self.references: dict[Path, Path] = {}
        for file in files:
            found = by_name.get(output_name(file), [])
            if len(found) != 1:
                raise UserError(
                    f"{folder} has {len(found)} references for {file}, expected one, "
                    "of the same name but for its ending."
                )
            self.references[file] = found[0]

    def add(self, file: Path, levels: np.ndarray, scale: int) -> None:
        """Measures one enlarged image; what does not fit becomes the row's error.

        Args:
          file: the input.
          levels: uint8 ``[h, w, c]``, what was made of it.
          scale: how many times it was enlarged.
        """
        reference = self.references[file]
        cells: list[str] = [""] * 3
        try:
            cells = self._measure(reference, levels, scale)
            error = ""
        except (UserError, ValueError) as problem:
            error = f"{reference}: {problem}"
            print(f"jaxkd: {error}", file=sys.stderr)
        self.rows.append((file, reference, *cells, error))

    def _measure(self, reference: Path, levels: np.ndarray, scale: int) -> list[str]:
        truth = images.decode(reference, channels=levels.shape[-1])
        spare = [t - s for t, s in zip(truth.shape, levels.shape, strict=True)]
        if not 0 <= min(spare) <= max(spare) < scale:
            raise UserError(
                f"it is {truth.shape[0]} x {truth.shape[1]} pixels, expected "
                f"{levels.shape[0]} x {levels.shape[1]}, or less than {scale} more."
            )
        # Sides that the scale does not divide: small images were made without the rest.
        truth = truth[: levels.shape[0], : levels.shape[1]]
        pair = [jnp.asarray(x[None], jnp.float32) / 255 for x in (levels, truth)]
        luma = [
            image_quality.luminance(image_quality.crop_border(x, scale)) for x in pair
        ]
        cells = [image_quality.psnr(*luma), image_quality.ssim(*luma)]
        shown = [f"{float(x[0]):.4f}" for x in cells]
        if self.distance is None:
            return [*shown, ""]
        return [*shown, f"{float(self.distance(*(2 * x - 1 for x in pair))[0]):.4f}"]

    def write(self, path: Path) -> str:
        """Writes the table and returns its means, for the terminal."""
        write_table(path, HEADER, self.rows)
        means = []
        for place, unit in ((2, " dB"), (3, ""), (4, "")):
            values = [float(row[place]) for row in self.rows if row[place]]
            if values:
                means.append(f"{HEADER[place].upper()} {np.mean(values):.3f}{unit}")
        wrong = sum(bool(row[-1]) for row in self.rows)
        note = f"; {wrong} could not be compared" if wrong else ""
        return f"\n{', '.join(means) or 'Nothing was compared'}{note}: {path}"
