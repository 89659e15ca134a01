"""Finds objects in people's own images with a trained detector, and draws boxes."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxkd.core.errors import UserError
from jaxkd.datasets.boxes import fit, fitted
from jaxkd.evaluators.detection import draw
from jaxkd.metrics.detection import ImageBoxes
from jaxkd.models import fcos
from jaxkd.predictors.inputs import (
    attempt,
    output_names,
    summary,
    write_status,
    write_table,
)
from jaxkd.predictors.restore import Restored, restore
from jaxkd.readers import images


def predict(
    workdir: Path,
    inputs: Sequence[Path],
    output: Path,
    *,
    student: str | None = None,
    seed: int | None = None,
    use: str = "last",
    threshold: float = 0.3,
    num_boxes: int = 100,
) -> str:
    """Detects objects and writes ``boxes.csv`` and a picture of each image.

    ``files.csv`` has a row for each image with its status. Pictures are called as their
    images; where two have one name, the second is numbered (``a.png``, ``a-2.png``).
    Images are fitted into the square that the run was trained on, and boxes are brought
    back to their pixels. Columns: ``file``, ``class``, ``score``, ``left``, ``top``,
    ``right``, ``bottom``.

    Args:
      workdir: folder of a finished run; its data set is not needed.
      inputs: image files and folders; folders are searched through.
      output: a folder, made if it is not there.
      student: which; None where the run has one alone.
      seed: which of its seeds; None for the first.
      use: "last" or "best" parameters.
      threshold: score from which objects are written.
      num_boxes: most objects of an image.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: if an input is missing or no image, or the run is unknown or no
        detector.
    """
    files = output_names(list(images.find(inputs, output)))
    restored = restore(workdir, student, seed, use)
    if not hasattr(restored.network, "first_level"):
        raise UserError(
            f"{workdir} holds no detector, expected a run of msad or detection. Choose "
            "another predictor with --predictor."
        )
    detect, side = _detector(restored, num_boxes), restored.info.image_shape[0]
    output.mkdir(parents=True, exist_ok=True)
    rows: list[tuple] = []
    errors: dict[Path, str] = {}
    for name, file in tqdm(files.items(), unit="image", disable=None):
        image = attempt(images.decode, file, errors)
        if image is None:
            continue
        found = to_image(detect(_square(image, side)), image.shape, side, threshold)
        scores = np.asarray(found.scores)
        for box, label, score in zip(*found[:2], scores, strict=True):
            title = restored.info.class_names[int(label)]
            corners = (f"{value:.1f}" for value in box)
            rows.append((file, title, f"{score:.4f}", *corners))
        draw(image, found, restored.info.class_names, 0.0).save(output / f"{name}.png")
    header = ("file", "class", "score", "left", "top", "right", "bottom")
    write_table(output / "boxes.csv", header, rows)
    write_status(output / "files.csv", list(files.values()), errors)
    return (
        f"{len(rows)} objects of score {threshold} and more in "
        f"{len(files) - len(errors)} images, by {restored.name}, in "
        f"{output / 'boxes.csv'}{summary(errors)}"
    )


def _square(image: np.ndarray, side: int) -> np.ndarray:
    nothing = {"boxes": np.zeros((0, 4)), "classes": np.zeros(0)}
    return fit({"image": image, **nothing}, side, 0)["image"]


def _detector(restored: Restored, num_boxes: int):
    network = restored.network
    size = restored.info.image_shape[0], restored.info.image_shape[1]
    low = restored.config.model.get("input", "image") == "low"

    @jax.jit
    def run(batch):
        seen = restored.see({"image": batch, **_no_boxes()})
        head, _ = network.apply(
            restored.variables, seen, train=False, first_level=2 if low else 3
        )
        return fcos.decode(
            head, size, strides=fcos.STRIDES[: network.levels], num_boxes=num_boxes
        )

    return lambda image: jax.tree.map(lambda x: np.asarray(x)[0], run(image[None]))


def _no_boxes() -> dict[str, jax.Array]:
    return {"boxes": jnp.zeros((1, 1, 4)), "classes": jnp.full((1, 1), -1)}


def to_image(
    found: fcos.Detections, shape: Sequence[int], side: int, threshold: float
) -> ImageBoxes:
    """Brings boxes of a padded square back to the pixels of the image.

    Args:
      found: of one image.
      shape: height and width of the image.
      side: of the square, which the longer side was scaled to.
      threshold: score from which boxes are kept.
    """
    kept = np.asarray((found.classes >= 0) & (found.scores >= threshold))
    height, width = fitted(shape, side)
    scale = np.array([shape[1] / width, shape[0] / height] * 2)
    limits = np.array([shape[1], shape[0]] * 2)
    boxes = np.clip(np.asarray(found.boxes)[kept] * scale, 0, limits)
    classes, scores = np.asarray(found.classes), np.asarray(found.scores)
    return ImageBoxes(boxes, classes[kept], scores[kept])
