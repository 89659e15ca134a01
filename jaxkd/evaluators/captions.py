"""Evaluates a model of drawn scenes: are its pictures as their captions claim?"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.diffusion import ddim
from jaxkd.drawing import scenes
from jaxkd.evaluators.base import EvaluationReport, TrainedStudy
from jaxkd.report.image_grid import as_bytes, mosaic
from jaxkd.report.items import Figure, Table

SAMPLES, SHOWN = 64, 32
STEPS, SCALE = 20, 3.0


def find(trained: TrainedStudy, network: nn.Module) -> EvaluationReport:
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
        shares, grids = [], []
        for member in members:
            ids = jnp.asarray(scenes.Tokenizer().encode([*texts, ""]))
            params = member.params["student"]
            signed = sample(network, params, ids, jax.random.key(0))
            drawn = np.clip(np.asarray(signed, np.float32) / 2 + 0.5, 0, 1)
            match = scenes.attributes_match(scenes.read(drawn), asked)
            grids.append(drawn[:SHOWN])
            parts = [match[k].mean() for k in ("background", "shape", "colour")]
            every = match["background"] & (match["shape"] & match["colour"]).all(1)
            shares.append([*parts, every.mean()])
        means = np.mean(shares, axis=0)
        rows.append([name, *(f"{100 * value:.1f}" for value in means)])
        scores[name] = {"caption": [float(one[-1]) for one in shares]}
        path = trained.folder / f"samples-{name}.png"
        mosaic(as_bytes(2 * grids[0] - 1)).save(path, format="PNG")
        figures.append(Figure(path.stem, f"Samples of {name}", _CAPTION))
    return EvaluationReport(scores, figures, [Table(_TITLE, rows, _NOTE)])


@partial(jax.jit, static_argnums=0)
def sample(
    network: nn.Module, params: Any, ids: jax.Array, key: jax.Array
) -> jax.Array:
    """Samples images of about [-1, 1] by DDIM with guidance.

    Args:
      network: such as ``scene_diffusion``.
      params: of it.
      ids: token numbers of the captions ``[samples + 1, tokens]``, the last without
        text.
      key: of the noise.
    """
    variables = {"params": params}

    def predict(x, timestep, context):
        return network.apply(variables, x, timestep, context, method="controlled")[0]

    contexts = jnp.asarray(network.apply(variables, ids, method="encode_text"))
    guided = ddim.guided(predict, contexts[:-1], contexts[-1], SCALE)
    shape = (len(ids) - 1, scenes.SIDE, scenes.SIDE, 3)
    return ddim.sample(guided, jax.random.normal(key, shape), ddim.table(STEPS))


_TITLE = "Attributes drawn as the caption claims, percent"
_NOTE = (
    f"Of {SAMPLES} samples by {STEPS} steps of DDIM with guidance {SCALE:g}, read off "
    "the pictures. Chance is 33, 33, 25 and below 1."
)
_CAPTION = f"Of the first network, {STEPS} steps of DDIM with guidance {SCALE:g}."
