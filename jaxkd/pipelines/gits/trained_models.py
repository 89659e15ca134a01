"""Networks that the house trained, as targets of the sampling benchmark."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.preemption import StopRequest
from jaxkd.core.source import Dataset
from jaxkd.diffusion import frechet
from jaxkd.pipelines.gits.densities import DENSITIES, SampledModel
from jaxkd.training import choice, components, preprocessing

METHOD = "edm"
RANGE = 0.002, 80.0  # of sigma, as EDM samples


def check(name: str, need: Any) -> None:
    """Checks a needed run before anything is trained.

    Raises:
      UserError: if it is no run of a diffusion model, or has the name of a density.
    """
    if not isinstance(need, ConfigDict) or "init_from" not in need:
        raise UserError(
            f"config.needs.{name} is {type(need).__name__}, expected "
            "configs.needed(config) of a run such as configs/edm.py."
        )
    if name in DENSITIES:
        raise UserError(
            f"config.needs.{name} has the name of a density; choose another."
        )
    _check_method(components.source_config(need), f"config.needs.{name}")


def train(config: ConfigDict, workdir: Path, stop_requested: StopRequest) -> None:
    """Trains the needed runs that are not finished, each in its own folder."""
    from jaxkd.train import train  # The loop is a floor above.

    for name, need in config.needs.items():
        if not choice.parse(need.init_from).path:
            train(configs.standalone(need), workdir / name, stop_requested)


def load(config: ConfigDict, name: str, workdir: Path) -> SampledModel:
    """Loads the network of a needed run, its averaged parameters if it kept them.

    Raises:
      UserError: if there is no finished run.
    """
    from jaxkd.methods import edm

    need = config.needs[name]
    chosen = choice.parse(need.init_from)
    source = Path(chosen.path) if chosen.path else workdir / name
    run = components.source_config(need)
    _, loaded = choice.load(run, source, chosen)
    dataset = components.load_data(run)
    # Which a fine-tuned network took over from where it started.
    info = preprocessing.normalised_as(dataset.info, preprocessing.read(source))
    dataset = dataset._replace(info=info)
    network = components.build_network(run, dataset.info.num_classes)
    variables = jax.tree.map(jnp.asarray, loaded)
    sigma_data = float(run.loss.get("sigma_data", 0.5))

    def denoise(count: int) -> Partial:
        labels = jnp.arange(count) % dataset.info.num_classes
        return edm.denoiser(network, variables, {"label": labels}, sigma_data)

    shape = dataset.info.image_shape
    size = sum(one.size for one in jax.tree.leaves(variables["params"]))
    return SampledModel(
        name,
        f"{run.model.name} of {size:,} parameters trained on {dataset.info.name}",
        denoise,
        shape,
        max(config.sigma_min, RANGE[0]),
        min(config.sigma_max, RANGE[1]),
        _moments(run, dataset),
        (chosen.path or name, variables),
    )


def _moments(run: ConfigDict, dataset: Dataset) -> frechet.Moments:
    """Measures the training images as the network saw them."""
    source = dataset.train(run.seeds[0])
    images = np.stack([source[i]["image"] for i in range(len(source))])
    see = components.build_view(run, dataset.info).evaluate
    return frechet.moments(np.asarray(see({"image": images})["image"]))


def _check_method(config: ConfigDict, where: str) -> None:
    if config.get("method") != METHOD:
        raise UserError(
            f"{where} is a run of the method {config.get('method')!r}, expected "
            f"{METHOD!r}, as configs/edm.py makes it."
        )
