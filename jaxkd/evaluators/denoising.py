"""What a trained denoiser can do: its errors by level of noise, and its samples."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxkd.diffusion import densities, frechet, samplers, schedules
from jaxkd.evaluators.base import EvaluationReport, Member, TrainedStudy
from jaxkd.report.image_grid import as_bytes, mosaic
from jaxkd.report.items import Figure, Table

SIGMAS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)
ENDS = 0.002, 80.0
NUM_SIGMAS = 18  # of Heun's method: what EDM samples CIFAR-10 with
SAMPLES, SHOWN = 512, 64

MakeDenoiser = Callable[[Member, jax.Array], Partial]


def find(
    trained: TrainedStudy, make_denoiser: MakeDenoiser, input_key: str
) -> EvaluationReport:
    """Measures denoising errors and samples; see ``jaxkd.evaluators.base``.

    Args:
      trained: the networks.
      make_denoiser: ``(member, labels [batch]) -> denoiser``.
      reads: the field of the batch that they see.
    """
    images = {
        "training": _gather(
            trained, trained.dataset.train(trained.seeds[0]), input_key
        ),
        "test": _gather(trained, None, input_key),
    }
    data = images["training"][0]
    known = {
        kind: _errors(lambda labels: densities.empirical(data), *pair)
        for kind, pair in images.items()
    }
    rows = [["", "images", *(f"{sigma:g}" for sigma in SIGMAS)]]
    rows += [_row("closed form of the training set", known, kind) for kind in known]
    scores, figures = {}, []
    for name, members in trained.by_student().items():
        errors = {
            kind: np.mean(
                [_errors(_of(make_denoiser, one), *pair) for one in members], axis=0
            )
            for kind, pair in images.items()
        }
        rows += [_row(name, errors, kind) for kind in errors]
        drawn = [
            _samples(_of(make_denoiser, one), *images["training"]) for one in members
        ]
        truth = frechet.moments(data)
        scores[name] = {
            "frechet": [frechet.distance(frechet.moments(x), truth) for x in drawn]
        }
        path = trained.folder / f"samples-{name}.png"
        mosaic(as_bytes(drawn[0][:SHOWN])).save(path, format="PNG")
        figures.append(Figure(path.stem, f"Samples of {name}", _caption(scores[name])))
    return EvaluationReport(scores, figures, [Table(_TITLE, rows, _NOTE)])


_TITLE = "Denoising error by sigma"
_NOTE = (
    "Root of the mean square per pixel, of images in [-1, 1]. The denoiser of the "
    "training set in closed form is the best there is on the training images, which it "
    "knows by heart; a network that generalises is better on test images at low noise."
)


def _caption(scores: Mapping[str, list[float]]) -> str:
    return (
        f"Of one network, {NUM_SIGMAS} sigmas of Heun's method. Fréchet distance of "
        f"{SAMPLES} samples to the training images on raw pixels, which is not FID: "
        f"{', '.join(f'{value:.3g}' for value in scores['frechet'])} by seed."
    )


def _of(make_denoiser: MakeDenoiser, member: Member):
    return lambda labels: make_denoiser(member, labels)


def _row(name: str, errors: Mapping[str, Any], kind: str) -> list[str]:
    return [name, kind, *(f"{value:.3f}" for value in errors[kind])]


def _gather(
    trained: TrainedStudy, source: Any, input_key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images of a source, the test examples by default, and labels."""
    images, labels = [], []
    for batch in trained.batches(source):
        kept = np.asarray(batch["mask"])
        images.append(np.asarray(batch[input_key])[kept])
        labels.append(np.asarray(batch["label"])[kept])
    return np.concatenate(images), np.concatenate(labels)


def _errors(make: Callable[[jax.Array], Any], images, labels) -> list[float]:
    """Returns the root mean square error at each of ``SIGMAS``, of fixed noise."""
    images, labels = images[:SAMPLES], jnp.asarray(labels[:SAMPLES])
    denoise = make(labels)
    found = []
    for index, sigma in enumerate(SIGMAS):
        key = jax.random.fold_in(jax.random.key(0), index)
        noisy = images + sigma * jax.random.normal(key, images.shape)
        found.append(float(_root_mean_square(denoise, noisy, sigma, images)))
    return found


@jax.jit
def _root_mean_square(denoise: Partial, noisy, sigma, images) -> jax.Array:
    return jnp.sqrt(jnp.mean((denoise(noisy, sigma) - images) ** 2))


def _samples(make: Callable[[jax.Array], Any], images, labels) -> np.ndarray:
    """Draws samples, of the classes of the first training images where told one."""
    count = min(SAMPLES, len(labels))
    x = samplers.latents(range(count), images.shape[1:], ENDS[1])
    sigmas = schedules.polynomial(NUM_SIGMAS, *ENDS)
    denoise = make(jnp.asarray(labels[:count]))
    return np.asarray(samplers.sample(denoise, x, sigmas, "heun").x[-1])
