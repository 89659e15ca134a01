"""Detection: COCO's average precisions of trained detectors, and their boxes drawn."""

from collections.abc import Sequence

import numpy as np

from jaxkd.evaluators.base import EvaluationReport, TrainedStudy
from jaxkd.metrics.detection import NAMES, ImageBoxes, average_precision
from jaxkd.report.items import Figure, Table
from jaxkd.report.statistics import format_mean

SHOWN, LEAST = 12, 0.3
_COLOURS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#42d4f4")


def find(trained: TrainedStudy) -> EvaluationReport:
    """Measures all members with pycocotools; see ``jaxkd.evaluators.base``.

    Scores are ``coco_ap``, ``coco_ap50`` and so on, in [0, 1]; NaN (no object of that
    size) is left out.
    """
    truths: list[ImageBoxes] = []
    found: list[list[ImageBoxes]] = [[] for _ in trained.members]
    shown: np.ndarray | None = None
    for batch in trained.batches():
        mask = np.asarray(batch["mask"])
        truths += _images(batch["boxes"], batch["classes"], None, mask)
        for member, rows in zip(trained.members, found, strict=True):
            outputs = member.predict(batch)
            rows += _images(
                outputs["boxes"], outputs["classes"], outputs["scores"], mask
            )
        if shown is None:
            shown = np.asarray(batch["image"])[:SHOWN]
    values: dict[tuple[str, int], dict[str, float]] = {
        (member.student, member.seed): average_precision(rows, truths)
        for member, rows in zip(trained.members, found, strict=True)
    }
    scores, table = {}, [["", *NAMES]]
    for student, members in trained.by_student().items():
        each = [values[student, member.seed] for member in members]
        scores[student] = {
            f"coco_{name}": [one[name] for one in each]
            for name in NAMES
            if not np.isnan([one[name] for one in each]).any()
        }
        percent = {name: [100 * one[name] for one in each] for name in NAMES}
        table.append(
            [
                student,
                *(
                    "-" if np.isnan(x).any() else format_mean(x, 1)
                    for x in percent.values()
                ),
            ]
        )
    figures: list[Figure] = []
    for member, rows in zip(trained.members, found, strict=True):
        path = trained.folder / f"boxes-{member.student}.png"
        if shown is None or any(figure.name == path.stem for figure in figures):
            continue
        pictures = [
            draw(image, one, trained.dataset.info.class_names)
            for image, one in zip(_bytes(shown), rows, strict=False)
        ]
        _sheet(pictures).save(path, format="PNG")
        caption = f"Boxes of score {LEAST} and more on the first test images."
        figures.append(Figure(path.stem, f"Detections of {member.student}", caption))
    note = "By pycocotools, in percent; mean ± standard error over seeds."
    return EvaluationReport(scores, figures, [Table("COCO evaluation", table, note)])


def _images(boxes, classes, scores, mask) -> list[ImageBoxes]:
    boxes, classes = np.asarray(boxes), np.asarray(classes)
    scores = None if scores is None else np.asarray(scores)
    return [
        ImageBoxes(boxes[i], classes[i], None if scores is None else scores[i])
        for i in np.flatnonzero(mask)
    ]


def _bytes(images: np.ndarray) -> np.ndarray:
    """Stretches normalised images to 0 to 255."""
    low = images.min((1, 2, 3), keepdims=True)
    span = np.maximum(images.max((1, 2, 3), keepdims=True) - low, 1e-6)
    return np.round(255 * (images - low) / span).astype(np.uint8)


def draw(
    image: np.ndarray, objects: ImageBoxes, names: Sequence[str], least: float = LEAST
):
    """Draws boxes with class and score into an image.

    Args:
      image: uint8 ``[h, w, 3]``.
      objects: in its pixels.
      names: of the classes.
      least: score from which a box is drawn.

    Returns:
      A Pillow image.
    """
    from PIL import Image, ImageDraw

    picture = Image.fromarray(image).convert("RGB")
    pen = ImageDraw.Draw(picture)
    scores = np.ones(len(objects.classes)) if objects.scores is None else objects.scores
    for box, label, score in zip(objects.boxes, objects.classes, scores, strict=True):
        if label < 0 or score < least:
            continue
        colour = _COLOURS[int(label) % len(_COLOURS)]
        left, top, right, bottom = (float(x) for x in box)
        pen.rectangle(
            (left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour
        )
        text = str(names[int(label)])
        if objects.scores is not None:
            text += f" {score:.2f}"
        pen.text((left + 2, max(top - 10, 0)), text, fill=colour)
    return picture


def _sheet(pictures: Sequence):
    """Lays pictures of one size out in rows of four, enlarged if they are small."""
    from PIL import Image

    factor = max(192 // pictures[0].width, 1)
    width, height = (factor * side for side in pictures[0].size)
    rows = -(-len(pictures) // 4)
    sheet = Image.new("RGB", (4 * width, rows * height), "white")
    for place, picture in enumerate(pictures):
        enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (place % 4 * width, place // 4 * height))
    return sheet
