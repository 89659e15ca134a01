"""The trained scene model that the embedded benchmarks of editing systems share.

It is trained once, by the one loop, in the user's cache folder, and loaded from there
by every benchmark that asks for the same configuration.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core import files
from jaxkd.core.errors import UserError
from jaxkd.core.preemption import StopRequest
from jaxkd.models.stable_diffusion.scene_model import SceneDiffusion
from jaxkd.pipelines import text_to_image
from jaxkd.pipelines import workdir as folders
from jaxkd.pipelines.text_to_image import Backbone
from jaxkd.training import choice, components

METHOD = "captions"


def check(need: Any) -> None:
    """Checks ``config.needs.scenes`` before anything is trained.

    Raises:
      UserError: if it is no run of ``configs/scenes.py``.
    """
    if not isinstance(need, ConfigDict) or "init_from" not in need:
        raise UserError(
            "config.needs.scenes is missing; expected configs.needed(config) of a run "
            "such as configs/scenes.py."
        )
    method = components.source_config(need).get("method")
    if method != METHOD:
        raise UserError(
            f"config.needs.scenes is a run of the method {method!r}; expected "
            f"{METHOD!r}, as configs/scenes.py makes it."
        )


def folder(need: ConfigDict) -> Path:
    """Returns the folder of the run: ``init_from``, or one in the user's cache."""
    if path := choice.parse(need.init_from).path:
        return Path(path)
    content = json.dumps(configs.resolved(configs.standalone(need)), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    return files.user_cache(f"scenes-{digest}")


def load(
    need: ConfigDict, stop_requested: StopRequest, workdir: Path | None = None
) -> Backbone:
    """Trains the model unless that is done, and loads its averaged parameters.

    Args:
      need: ``config.needs.scenes``.
      stop_requested: see ``pipelines.run``.
      workdir: of a benchmark, whose parts must all be of this model; None to draw.

    Raises:
      UserError: if parts of the benchmark were computed with another model.
      Interrupted: if it was asked to stop while it trained.
    """
    from jaxkd.train import train  # The loop is a floor above.

    source, chosen = folder(need), choice.parse(need.init_from)
    if not chosen.path:
        train(configs.standalone(need), source, stop_requested)
    run = components.source_config(need)
    network = _network(run)
    _, variables = choice.load(run, source, chosen)
    params = jax.tree.map(jnp.asarray, variables["params"])
    if workdir is not None:
        folders.note_network(workdir, "scenes", source, params)
    return text_to_image.of_scenes(network, params)


def untrained(need: ConfigDict) -> Backbone:
    """Makes the same network with initial weights, as a control."""
    network = _network(components.source_config(need))
    blank = jnp.zeros((1, 32, 32, 3))
    params = jax.jit(network.init)(jax.random.key(0), blank)["params"]
    return text_to_image.of_scenes(network, params)


def _network(run: ConfigDict) -> SceneDiffusion:
    network = components.build_network(run, 0)
    if not isinstance(network, SceneDiffusion):
        raise UserError(
            f"config.needs.scenes trains {run.model.name!r}; expected a network such "
            "as 'scene_diffusion'."
        )
    return network
