"""Sampling and schedule search in plain PyTorch and Python, as one writes them first.

The loops of published samplers: one model call after the other, a list of past slopes,
costs entry by entry, and the dynamic programme over nested lists.
"""

import importlib.util
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Adams-Bashforth weights of equal steps, the latest slope first.
_WEIGHTS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
_TWIN = Path(__file__).parent.parent / "tests" / "torch_edm.py"


def network(
    options: Mapping[str, Any], state: Mapping[str, np.ndarray], sigma_data: float
) -> Denoiser:
    """Makes the preconditioned denoiser of a SongUNet's twin with the same weights.

    Args:
      options: of the network.
      state: its state dictionary, names beginning with ``model.``.
      sigma_data: of EDM's preconditioning.
    """
    threads = torch.get_num_threads()
    spec = importlib.util.spec_from_file_location("torch_edm", _TWIN)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.set_num_threads(threads)  # The file is for tests, and takes one.
    twin = module.UNet("song", **options).eval()
    tensors = {key.partition(".")[2]: torch.tensor(x) for key, x in state.items()}
    twin.load_state_dict(tensors)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        total = sigma**2 + sigma_data**2
        condition = (sigma.log() / 4).expand(len(x))
        output = twin(x / total.sqrt(), condition)
        return sigma_data**2 / total * x + sigma * sigma_data / total.sqrt() * output

    return denoise


def mixture(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray
) -> Denoiser:
    """Makes the denoiser of a Gaussian mixture, on flat ``[batch, d]``."""
    values, axes = np.linalg.eigh(covariances)
    log_weights, centres, spreads, turns = (
        torch.tensor(np.asarray(array), dtype=torch.float32)
        for array in (np.log(weights), means, values, axes)
    )

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        noisy = spreads + sigma**2
        away = torch.einsum("bkd,kde->bke", x[:, None] - centres, turns)
        scores = (away**2 / noisy + noisy.log()).sum(-1)
        share = torch.softmax(log_weights - scores / 2, 1)
        shrunk = share[..., None] * away * (spreads / noisy)
        return share @ centres + torch.einsum("bke,kde->bd", shrunk, turns)

    return denoise


@torch.inference_mode()
def ipndm(denoise: Denoiser, x: torch.Tensor, sigmas: np.ndarray) -> torch.Tensor:
    """Samples by iPNDM of order 4 and returns the samples."""
    levels = torch.tensor(sigmas, dtype=x.dtype)
    slopes: list[torch.Tensor] = []
    for now, following in itertools.pairwise(levels):
        slopes = [(x - denoise(x, now)) / now, *slopes[:3]]
        weights = _WEIGHTS[len(slopes) - 1]
        step = sum(w * s for w, s in zip(weights, slopes, strict=True))
        x = x + (following - now) * step
    return x


@torch.inference_mode()
def cost_matrix(
    x: torch.Tensor, denoised: torch.Tensor, grid: Sequence[float]
) -> np.ndarray:
    """Returns GITS's costs by deviation, one Euler step after the other.

    Args:
      x: ``[T, batch, d]``, the teacher's states.
      denoised: ``[T - 1, batch, d]``.
      grid: ``[T]``.
    """
    chord = x[-1] - x[0]
    chord = chord / chord.norm(dim=1, keepdim=True)

    def deviation(points: torch.Tensor) -> torch.Tensor:
        rest = x[-1] - points
        return (rest - (rest * chord).sum(1, keepdim=True) * chord).norm(dim=1)

    known = [deviation(state).mean() for state in x]
    cost = np.zeros((len(grid), len(grid)))
    for i in range(len(grid) - 1):
        slope = (x[i] - denoised[i]) / grid[i]
        for j in range(i + 1, len(grid)):
            reached = x[i] + (grid[j] - grid[i]) * slope
            cost[i, j] = deviation(reached).mean() - known[j]
    return cost


def plan(cost: Sequence[Sequence[float]], num_sigmas: int, coeff: float) -> list[int]:
    """Plans the cheapest path by lists and loops; ties go to the earlier sigma."""
    last, steps = len(cost) - 1, num_sigmas - 1
    value = [[float("inf")] * (steps + 1) for _ in range(last + 1)]
    choice = [[last] * (steps + 1) for _ in range(last + 1)]
    for i in range(last):
        value[i][1] = cost[i][last]
    for k in range(2, steps + 1):
        for i in range(last):
            for j in range(i + 1, last):
                through = cost[i][j] + coeff * value[j][k - 1]
                if through < value[i][k]:
                    value[i][k], choice[i][k] = through, j
    path = [0]
    for k in range(steps, 0, -1):
        path.append(choice[path[-1]][k])
    return path
