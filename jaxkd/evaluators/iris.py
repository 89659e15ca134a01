"""Iris recognition after super-resolution: equal error rates of iris codes."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxkd.evaluators.base import EvaluationReport, TrainedStudy
from jaxkd.metrics import iris
from jaxkd.models.super_resolution import enlarged
from jaxkd.report.items import Table
from jaxkd.report.statistics import format_mean

SHAPE = (8, 128)  # rows and angles of an unrolled iris
SHIFTS = 8
CODES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log_gabor": lambda strip: iris.log_gabor_code(strip, wavelength=16.0),
    "haar": lambda strip: iris.haar_code(strip, scales=(4, 8)),
}


def find(trained: TrainedStudy) -> EvaluationReport:
    """Compares irises of enlarged images; see ``jaxkd.evaluators.base``.

    Beside the networks stand bicubic enlargement and the large images themselves.
    Circles are known: segmentation is not part of this.
    """
    kept: dict[object, list[np.ndarray]] = {"bicubic": [], "large images": []}
    labels, circles = [], []
    for batch in trained.batches():
        mask = np.asarray(batch["mask"])
        scale = batch["image"].shape[1] // batch["low"].shape[1]
        seen: dict[object, Any] = {
            "bicubic": enlarged(jnp.asarray(batch["low"]), scale),
            "large images": batch["image"],
            **{
                (member.student, member.seed): member.predict(batch)["image"]
                for member in trained.members
            },
        }
        for name, images in seen.items():
            kept.setdefault(name, []).append(np.asarray(images)[mask])
        labels.append(np.asarray(batch["label"])[mask])
        circles.append(np.asarray(batch["circles"])[mask])
    identity, place = np.concatenate(labels), np.concatenate(circles)
    rates = {
        name: error_rates(np.concatenate(parts), place, identity)
        for name, parts in kept.items()
    }
    scores = {
        student: {
            f"eer_{code}": [rates[student, one.seed][code] for one in members]
            for code in CODES
        }
        for student, members in trained.by_student().items()
    }
    table = [["equal error rate, %", *CODES]]
    for name in ("bicubic", "large images"):
        table.append([name, *(f"{100 * rates[name][code]:.2f}" for code in CODES)])
    for student, found in scores.items():
        cells = (format_mean(found[f"eer_{code}"], 2, scale=100) for code in CODES)
        table.append([student, *cells])
    note = (
        f"All pairs of {len(identity)} test images of {len(set(identity.tolist()))} "
        "irises; mean ± standard error over seeds. Circles are known."
    )
    return EvaluationReport(scores, (), [Table("Iris recognition", table, note)])


def error_rates(
    images: np.ndarray, circles: np.ndarray, identities: np.ndarray
) -> dict[str, float]:
    """Computes the equal error rate of each code.

    Args:
      images: ``[n, h, w, 1]``.
      circles: ``[n, 4]``: centre (x, y), radii of pupil and iris.
      identities: ``[n]``.

    Returns:
      name of the code -> rate in [0, 1].
    """
    strips = [
        iris.unroll(
            image[..., 0],
            centre=(float(x), float(y)),
            radii=(float(pupil) + 1, float(outer) - 1),  # without their blurred borders
            shape=SHAPE,
        )
        for image, (x, y, pupil, outer) in zip(images, circles, strict=True)
    ]
    return {
        name: iris.equal_error_rate(
            *iris.pair_distances(
                np.stack([code(strip) for strip in strips]), identities, shifts=SHIFTS
            )
        )
        for name, code in CODES.items()
    }
