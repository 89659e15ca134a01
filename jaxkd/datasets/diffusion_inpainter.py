"""Inpaints with a trained diffusion model: what is filled in is drawn, not continued.

The model is one of ``jaxkd.methods.edm``, trained on whole crops. A sampler turns noise
into a crop whose known pixels are held on their own path from noise: at every sigma
they are the photograph plus sigma times a fixed noise. That is the replacement of
RePaint (Lugmayr et al., arXiv:2201.09865, equation 8) without its repeated steps, for
the ordinary differential equation of EDM (arXiv:2206.00364).
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jax.tree_util import Partial

from jaxkd import models
from jaxkd.core import checkpoint, records
from jaxkd.core.errors import UserError
from jaxkd.datasets.inpainters import Filler
from jaxkd.diffusion import denoisers, samplers, schedules

ENDS = 0.01, 80.0  # the last and the first sigma
NUM_SIGMAS = 16
_VIEW = "signed"  # by which images are scaled to [-1, 1]
_SIGMA_DATA = 0.5  # the default of ``jaxkd.methods.edm``


def from_run(folder: str, size: int) -> Filler:
    """Loads the inpainter of a finished run.

    Args:
      folder: of a run of the method "edm" on crops of ``size`` pixels.
      size: side of the images that are to be filled in.

    Raises:
      UserError: if it is no such run, was trained on crops of another size or of other
        values than [-1, 1], or its network is not the one of its checkpoint.
    """
    place = Path(folder).expanduser()
    if not (place / records.RESULTS).is_file():
        raise UserError(
            f"data.inpainter is {folder!r}, which holds no finished run. Expected the "
            "folder of a diffusion model of photographs: `jaxkd --config=defi:inpainter"
            f" --workdir={folder}` trains one."
        )
    config = records.read_config(place)
    _check_run(folder, config, records.read_results(place), (size, size, 3))
    variables = checkpoint.load_member(place / "checkpoints", "last")
    try:
        denoise = _denoiser(config, variables)
        # A trace, which shows in a moment what would else end the first filling.
        jax.eval_shape(denoise, jnp.zeros((1, size, size, 3)), jnp.ones(()))
    except (KeyError, TypeError, ValueError, FlaxError) as error:
        raise UserError(
            f"data.inpainter is {folder!r}, whose config.json describes another "
            f"network than its checkpoint holds: {error} Expected the files of one "
            "run: bring them back, or train it again in an empty folder."
        ) from error
    return make(denoise)


def _check_run(
    folder: str,
    config: Mapping[str, Any],
    results: Mapping[str, Any],
    shape: tuple[int, ...],
) -> None:
    found = results.get("preprocessing")
    trained = found.get("image_shape") if isinstance(found, Mapping) else None
    trained = tuple(trained) if isinstance(trained, list) else trained
    if config.get("method") != "edm" or trained != shape:
        raise UserError(
            f"data.inpainter is {folder!r}, a run of {config.get('method')!r} on "
            f"images of {trained}; expected 'edm' on images of {shape}."
        )
    view = config.get("view", {}).get("name", _VIEW)
    students = list(config.get("students", {}))
    if view != _VIEW or students:
        raise UserError(
            f"data.inpainter is {folder!r}, a run with the view {view!r} and the "
            f"students {', '.join(students) or 'none'}; expected {_VIEW!r}, which "
            "scales pixels to [-1, 1], and one network without students."
        )


def _denoiser(config: Mapping[str, Any], variables: Any) -> Partial:
    options = dict(config["model"])
    network = models.build(options.pop("name"), 2, **_hashable(options))
    sigma_data = float(config.get("loss", {}).get("sigma_data", _SIGMA_DATA))
    apply = functools.partial(_apply, network)
    return denoisers.edm(Partial(apply, variables), sigma_data)


def make(denoise: Partial) -> Filler:
    """Makes an inpainter of a denoiser ``(x [b, h, w, c], sigma) -> x0`` in [-1, 1]."""
    sigmas = schedules.polynomial(NUM_SIGMAS, *ENDS)

    def fill(
        image: np.ndarray, hole: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        known = ~hole[None, ..., None]
        clean = (image[None] / 127.5 - 1).astype(np.float32)
        noise = sigmas[0] * rng.standard_normal(clean.shape)
        start = np.where(known, clean, 0) + noise
        held = Partial(_hold_known, denoise, known, clean)
        drawn = samplers.sample(held, start.astype(np.float32), sigmas, "ipndm")
        pixels = (np.asarray(drawn.x[-1, 0]) + 1) * 127.5
        return np.round(np.clip(pixels, 0, 255)).astype(np.uint8)

    return fill


def _hold_known(denoise, known, clean, x: jax.Array, sigma: jax.Array) -> jax.Array:
    """Denoises; known pixels are the photograph's, whatever is made of them.

    A solver then moves them along a straight line: they stay the photograph plus sigma
    times the noise that they started with.
    """
    return jnp.where(known, clean, denoise(x, sigma))


def _apply(network: nn.Module, variables: Any, x: jax.Array, c_noise: jax.Array):
    return network.apply(variables, x, c_noise)[0]


def _hashable(options: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
