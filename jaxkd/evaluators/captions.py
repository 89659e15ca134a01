"""Evaluates a model of drawn scenes: are its pictures as their captions claim?"""

import jax
import numpy as np

from jaxkd.drawing import scenes
from jaxkd.evaluators.base import EvaluationReport, TrainedStudy
from jaxkd.models.stable_diffusion.scene_model import SceneDiffusion
from jaxkd.pipelines import text_to_image
from jaxkd.pipelines.parallel_edits.scene_edits import redraw
from jaxkd.report.image_grid import as_bytes, mosaic
from jaxkd.report.items import Figure, Table

SAMPLES, SHOWN = 64, 32
STEPS, SCALE = 20, 3.0


def find(trained: TrainedStudy, network: SceneDiffusion) -> EvaluationReport:
    """Samples captioned scenes and reads their attributes off the pictures.

    Args:
      trained: the networks.
      network: of all of them.
    """
    rng = np.random.default_rng(0)
    asked = scenes.draw_scenes(rng, SAMPLES)
    texts = scenes.captions(asked)
    scores, figures, rows = {}, [], [["", "background", "shape", "colour", "all"]]
    for name, members in trained.by_student().items():
        shares, images = [], None
        for member in members:
            backbone = text_to_image.of_scenes(network, member.params["student"])
            drawn = redraw(backbone, texts, jax.random.key(0), STEPS, SCALE)
            match = scenes.attributes_match(scenes.read(drawn), asked)
            images = drawn if images is None else images
            parts = [match[k].mean() for k in ("background", "shape", "colour")]
            every = match["background"] & (match["shape"] & match["colour"]).all(1)
            shares.append([*parts, every.mean()])
        means = np.mean(shares, axis=0)
        rows.append([name, *(f"{100 * value:.1f}" for value in means)])
        scores[name] = {"caption": [float(one[-1]) for one in shares]}
        path = trained.folder / f"samples-{name}.png"
        mosaic(as_bytes(2 * images[:SHOWN] - 1)).save(path, format="PNG")
        figures.append(Figure(path.stem, f"Samples of {name}", _CAPTION))
    return EvaluationReport(scores, figures, [Table(_TITLE, rows, _NOTE)])


_TITLE = "Attributes drawn as the caption claims, percent"
_NOTE = (
    f"Of {SAMPLES} samples by {STEPS} steps of DDIM with guidance {SCALE:g}, read off "
    "the pictures. Chance is 33, 33, 25 and below 1."
)
_CAPTION = f"Of the first network, {STEPS} steps of DDIM with guidance {SCALE:g}."
