"""Enlarges people's own images with a trained network, in tiles, at any size."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxkd.core.errors import UserError
from jaxkd.diffusion import resshift as diffusion
from jaxkd.methods import resshift
from jaxkd.models.super_resolution import enlarged
from jaxkd.predictors.inputs import attempt, output_names, summary, write_status
from jaxkd.predictors.restoration_quality import Quality
from jaxkd.predictors.restore import Restored, restore
from jaxkd.readers import images
from jaxkd.report.statistics import plural
from jaxkd.views import real_esrgan


def predict(
    workdir: Path,
    inputs: Sequence[Path],
    output: Path,
    *,
    student: str | None = None,
    seed: int | None = None,
    use: str = "last",
    tile: int = 64,
    overlap: int = 8,
    references: str = "",
    lpips: str = "",
) -> str:
    """Enlarges image files and writes PNG files of the same names.

    Where two inputs have one name, the second is numbered (``a.png``, ``a-2.png``).
    ``files.csv`` has a row for each image with its status, in the order of the names,
    and ``quality.csv``, where there are references, one with PSNR, SSIM and LPIPS.

    Images are cut into overlapping tiles of one size, so that the network is compiled
    once and any size fits into memory; where tiles overlap, they fade into each other.

    Args:
      workdir: folder of a finished run; its data set is not needed.
      inputs: image files and folders; folders are searched through.
      output: a folder, made if it is not there.
      student: which; None where the run has one alone.
      seed: which of its seeds; None for the first.
      use: "last" or "best" parameters.
      tile: side of a tile, in pixels of the small image.
      overlap: of neighbouring tiles, likewise, below half a tile.
      references: folder of the true large images, of the inputs' names; empty for none.
      lpips: file of weights for LPIPS, see ``jaxkd.readers.lpips_weights``.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: if an input or its reference is missing or no image, the run is unknown
        or does not enlarge, its network cannot read tiles of that size, or LPIPS' file
        is refused.
    """
    files = output_names(list(images.find(inputs, output)))
    if lpips and not references:
        raise UserError("lpips compares with references; give --option=references=DIR.")
    quality = Quality(references, list(files.values()), lpips) if references else None
    restored = restore(workdir, student, seed, use)
    scale, run = _enlarger(restored)
    if not scale:
        raise UserError(
            f"{workdir} holds no network that enlarges images, expected a run of mkd, "
            "super_resolution, tad_sr or iris. Choose another one with --predictor."
        )

    def enlarge(patch: np.ndarray) -> np.ndarray:
        return np.asarray(run(patch[None]))[0]

    channels = restored.info.image_shape[2]
    check_tiles(tile, overlap)
    _check_network(run, tile, channels)
    decode = functools.partial(images.decode, channels=channels)
    output.mkdir(parents=True, exist_ok=True)
    from PIL import Image

    errors: dict[Path, str] = {}
    for name, file in tqdm(files.items(), unit="image", disable=None):
        image = attempt(decode, file, errors)
        if image is None:
            continue
        pixels = image.astype(np.float32) / 127.5 - 1
        large = in_tiles(enlarge, pixels, scale=scale, tile=tile, overlap=overlap)
        levels = np.round(255 * np.clip((large + 1) / 2, 0, 1)).astype(np.uint8)
        picture = Image.fromarray(levels[..., 0] if channels == 1 else levels)
        picture.save(output / f"{name}.png")
        if quality:
            quality.add(file, levels, scale)
    compared = quality.write(output / "quality.csv") if quality else ""
    write_status(output / "files.csv", list(files.values()), errors)
    return (
        f"{plural(len(files) - len(errors), 'image')} enlarged {scale} times by "
        f"{restored.name}, in {output}{summary(errors)}{compared}"
    )


def _check_network(run: Callable, tile: int, channels: int) -> None:
    """Raises UserError if a network cannot read tiles of that size."""
    try:
        jax.eval_shape(run, jax.ShapeDtypeStruct((1, tile, tile, channels), np.float32))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"The network does not read tiles of {tile} pixels: {error} Choose another "
            "size by --option=tile=SIDE, such as that of the small images that it was "
            "trained on."
        ) from error


def _enlarger(restored: Restored) -> tuple[int, Callable[[Any], jax.Array]]:
    """Returns a run's scale, 0 if it does not enlarge, and the compiled function."""
    network, variables = restored.network, restored.variables
    if hasattr(network, "scale"):

        def run(batch):
            return network.apply(variables, batch, train=False)[0]

        return network.scale, jax.jit(run)
    if not hasattr(network, "step_scale"):
        return 0, jax.jit(lambda batch: batch)
    loss, scale = restored.config.loss, _diffusion_scale(restored)
    process = resshift.process(network, loss.get("schedule", {}))
    s = process.schedule()
    once = restored.config.method == "tad_sr" or loss.get("one_step", False)

    def run_diffusion(batch):
        y = enlarged(batch, scale)
        noise = jax.random.normal(jax.random.key(0), y.shape)  # alike in every tile
        sample = diffusion.sample_once if once else diffusion.sample
        return sample(process.denoiser(variables, y), s, y, noise)

    return scale, jax.jit(run_diffusion)


def _diffusion_scale(restored: Restored) -> int:
    """Returns the ratio of sides: the view's, or that of small images on disk."""
    low = restored.config.view.base
    if "side" in low:
        return restored.info.image_shape[0] // low.side
    if low.get("name") == "real_esrgan":
        return low.get("scale", real_esrgan.PUBLISHED.scale)
    return restored.config.data.get("scale", 2)


def check_tiles(tile: int, overlap: int) -> None:
    """Raises UserError if tiles do not go on by at least half of themselves."""
    if tile < 1 or not 0 <= overlap <= tile // 2:
        raise UserError(
            f"tile is {tile} and overlap {overlap}, expected an overlap from 0 to half "
            "of the tile."
        )


def in_tiles(
    enlarge: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    *,
    scale: int,
    tile: int,
    overlap: int,
) -> np.ndarray:
    """Applies a function to overlapping tiles of an image and joins the results.

    Args:
      enlarge: ``[tile, tile, c] -> [scale tile, scale tile, c]``.
      image: ``[height, width, c]`` of any size; smaller ones are mirrored to a tile.
      scale: see above.
      tile: side of a tile.
      overlap: of neighbouring tiles at least.

    Returns:
      ``[scale height, scale width, c]``; weights of overlapping tiles rise linearly
      from their borders.

    Raises:
      UserError: if tiles do not go on by at least half of themselves.
    """
    check_tiles(tile, overlap)
    height, width = image.shape[:2]
    pad = [(0, max(tile - side, 0)) for side in (height, width)]
    padded = np.pad(image, [*pad, (0, 0)], mode="symmetric")
    rows, columns = (_starts(side, tile, overlap) for side in padded.shape[:2])
    size = [scale * side for side in padded.shape[:2]]
    total = np.zeros((*size, image.shape[2]), np.float64)
    weight = np.zeros((*size, 1), np.float64)
    edge = np.minimum(np.arange(1, scale * tile + 1), scale * max(overlap, 1))
    edge = np.minimum(edge, edge[::-1]).astype(np.float64)
    mask = (edge[:, None] * edge)[..., None]
    for top in rows:
        for left in columns:
            part = (
                slice(scale * top, scale * (top + tile)),
                slice(scale * left, scale * (left + tile)),
            )
            patch = padded[top : top + tile, left : left + tile]
            total[part] += mask * enlarge(patch)
            weight[part] += mask
    return (total / weight)[: scale * height, : scale * width]


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    """Lists where tiles begin; the last ends with the image."""
    starts = list(range(0, side - tile, tile - overlap))
    return [*starts, side - tile]
