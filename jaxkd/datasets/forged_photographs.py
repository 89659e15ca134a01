"""Writes whole photographs, filled in here and there, with their masks.

    python -m jaxkd.datasets.forged_photographs FOLDER --inpainter=runs/inpainter

takes the test photographs of ``jaxkd.datasets.inpainted`` and writes of each

- ``images/``: filled in within many small windows, by the methods in turn, and
  ``labels/``, where that was;
- ``authentic/``: as it was; and blurred, recompressed and so on within as many windows,
  which is no forgery.

A localiser is compared with them by ``--mode=predict --option=truth=FOLDER``.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from jaxkd.core import disk, files
from jaxkd.core.errors import UserError
from jaxkd.datasets import diffusion_inpainter, hard_negatives, inpainted
from jaxkd.datasets.inpainters import (
    GENERATIVE,
    METHODS,
    Filler,
    inpaint,
    require_generative,
)

# Side of the square, in windows, of which one window is changed on average.
_SPARSE = 3

Change = Callable[[np.ndarray, np.ndarray, str], np.ndarray]


def write(
    folder: Path,
    size: int = 48,
    methods: Sequence[str] = METHODS,
    seed: int = 0,
    generate: Filler | None = None,
) -> int:
    """Writes forged, smoothed and untouched photographs.

    Args:
      folder: made if it is not there; what is written must not be there yet.
      size: side of the windows that are changed, in pixels.
      methods: of ``inpainted.FORGED``, in turn.
      seed: of windows, masks and fillings.
      generate: the filler that is "generative".

    Returns:
      The number of photographs.

    Raises:
      UserError: if windows do not fit into the photographs, "generative" is one of the
        methods without a filler, the seed is negative, or there are files already.
    """
    photographs = inpainted.photographs(inpainted.TEST)
    inpainted.check_size(photographs, size)
    require_generative(methods, generate)
    if seed < 0:
        raise UserError(f"seed is {seed}, expected a whole number >= 0.")
    rng = np.random.default_rng([seed, size])
    parts = {name: folder / name for name in ("images", "labels", "authentic")}
    for part in parts.values():
        part.mkdir(parents=True, exist_ok=True)
        if any(part.iterdir()):
            # Photographs of two calls would be mixed, or somebody's own replaced.
            raise UserError(
                f"{part} holds files. Expected a new or empty folder: choose another, "
                "or move these away."
            )

    def fill(window: np.ndarray, mask: np.ndarray, method: str) -> np.ndarray:
        return inpaint(window, mask, method, rng, generate)

    def smooth(window: np.ndarray, mask: np.ndarray, kind: str) -> np.ndarray:
        return hard_negatives.smooth(window, mask, kind, rng)

    for name, picture in photographs.items():
        stem = Path(name).stem
        _save(parts["authentic"] / f"{stem}.png", picture)
        forged, mask = change(picture, size, methods, rng, fill)
        _save(parts["images"] / f"{stem}.png", forged)
        _save(parts["labels"] / f"{stem}.png", mask)
        smoothed, _ = change(picture, size, inpainted.NEGATIVES, rng, smooth)
        _save(parts["authentic"] / f"{stem}_smoothed.png", smoothed)
    return len(photographs)


def change(
    picture: np.ndarray,
    size: int,
    kinds: Sequence[str],
    rng: np.random.Generator,
    apply: Change,
) -> tuple[np.ndarray, np.ndarray]:
    """Changes a photograph within windows that do not overlap.

    Args:
      picture: uint8 ``[h, w, 3]``.
      size: side of the windows.
      kinds: what is done, in turn.
      rng: of windows and masks.
      apply: ``(window, mask, kind) -> window``.

    Returns:
      The changed photograph, and uint8 ``[h, w]``, 255 where it may be changed.
    """
    cells = [side // size for side in picture.shape[:2]]
    count = max(cells[0] * cells[1] // _SPARSE**2, 1)
    changed, mask = picture.copy(), np.zeros(picture.shape[:2], np.uint8)
    chosen = rng.choice(cells[0] * cells[1], min(count, cells[0] * cells[1]), False)
    for place, cell in enumerate(chosen):
        top, left = (int(i) * size for i in divmod(cell, cells[1]))
        part = slice(top, top + size), slice(left, left + size)
        window = np.ascontiguousarray(picture[part])
        mask[part] = inpainted.draw_mask(size, rng)
        changed[part] = apply(window, mask[part], kinds[place % len(kinds)])
    return changed, mask


def _save(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image

    with files.replacing(path) as temporary:
        Image.fromarray(pixels).save(temporary)


def main(arguments: list[str]) -> int:
    """Writes into a folder; returns 2 if something is missing."""
    parser = argparse.ArgumentParser(
        "python -m jaxkd.datasets.forged_photographs", description=__doc__
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--inpainter", default="", help="folder of the run that is 'generative'"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=inpainted.FORGED,
        help="in turn; all by default, 'generative' with --inpainter alone",
    )
    given = parser.parse_args(arguments)
    # Orbax warns of a file that checkpoints need not have.
    logging.set_verbosity(logging.ERROR)
    try:
        generate: Filler | None = None
        methods: Sequence[str] = METHODS
        if given.inpainter:
            generate = diffusion_inpainter.from_run(given.inpainter, given.size)
            methods = (*METHODS, GENERATIVE)
        methods = given.methods or methods
        with disk.writing("the photographs", given.folder):
            count = write(given.folder, given.size, methods, given.seed, generate)
    except UserError as error:
        print(f"jaxkd: {error}", file=sys.stderr)
        return 2
    print(f"{count} photographs -> {given.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
