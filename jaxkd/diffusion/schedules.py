"""Time schedules: at which noise levels a sampler stops.

A schedule of ``n`` sigmas is a float64 NumPy array ``[n]`` of strictly decreasing
sigma, and has ``n - 1`` steps. Schedules stay on the host because a solver computes
its coefficients from them in float64 before anything is compiled.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxkd.diffusion import noise_schedules, published_schedules

# Sigmas nearer than this share of their sigma are one: solvers divide by the gaps.
NEAREST = 1e-5


class Schedule(NamedTuple):
    """A schedule that was searched for, and how.

    Attributes:
      sigmas: float64 ``[num_sigmas]``, decreasing.
      indices: ``[num_sigmas]``, their places in the grid they are from, or None.
      cost: ``[T, T]``, the cost matrix of that grid, or None. It is not saved.
      details: what else is worth keeping, such as the metric, the solver, the seed
        and the model's hash; anything JSON can hold.
      offsets: ``[num_sigmas - 1]`` of ``samplers.sample``, or None.
    """

    sigmas: np.ndarray
    indices: np.ndarray | None = None
    cost: np.ndarray | None = None
    details: Mapping[str, Any] = MappingProxyType({})
    offsets: np.ndarray | None = None


def polynomial(
    n: int, sigma_min: float, sigma_max: float, rho: float = 7.0
) -> np.ndarray:
    """Returns sigmas even in ``sigma^(1/rho)`` (arXiv 2206.00364, equation 5).

    Args:
      n: number of sigmas, one more than the steps.
      sigma_min: last sigma.
      sigma_max: first sigma.
      rho: 1 is even in sigma; larger values put more sigmas at low noise.

    Raises:
      ValueError: if there are fewer than two sigmas, the range is empty or reversed,
        or rho is not positive.
    """
    _check_arguments(n, sigma_min, sigma_max, rho)
    roots = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), n)
    return _with_ends(roots**rho, sigma_min, sigma_max)


def logsnr(n: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """Returns sigmas even in the logarithm of sigma (arXiv 2206.00927).

    Raises:
      ValueError: as ``polynomial``.
    """
    _check_arguments(n, sigma_min, sigma_max)
    logs = np.linspace(np.log(sigma_max), np.log(sigma_min), n)
    return _with_ends(np.exp(logs), sigma_min, sigma_max)


def saturating(
    n: int, sigma_min: float, sigma_max: float, rho: float = 2.0, knee: float = 1.0
) -> np.ndarray:
    """Returns sigmas even in ``(sigma / (1 + sigma / knee))^(1/rho)``.

    Below the knee it is like ``polynomial``, which a knee at infinity makes it; far
    above, the sigmas grow sparse, since there the flow contracts what errors they make.

    Args:
      n: number of sigmas.
      sigma_min: last sigma.
      sigma_max: first sigma.
      rho: as in ``polynomial``.
      knee: the sigma beyond which the scale saturates.

    Raises:
      ValueError: as ``polynomial``, or if the knee is not positive.
    """
    _check_arguments(n, sigma_min, sigma_max, rho)
    if not 0 < knee < np.inf:
        raise ValueError(f"knee={knee:g}; expected a positive sigma.")
    first, last = (
        (end / (1 + end / knee)) ** (1 / rho) for end in (sigma_max, sigma_min)
    )
    scaled = np.linspace(first, last, n) ** rho
    # The ends come last: rounding can bring the first to where it would be infinite.
    sigmas = scaled / np.maximum(1 - scaled / knee, np.finfo(np.float64).tiny)
    return _with_ends(sigmas, sigma_min, sigma_max)


def time_uniform(
    n: int, sigma_min: float, sigma_max: float, rho: float = 1.0, eps: float = 1e-3
) -> np.ndarray:
    """Returns sigmas even in ``t^(1/rho)`` of a variance-preserving clock.

    The clock is fitted so that it shows ``eps`` at sigma_min and 1 at sigma_max; rho 1
    is known as time-uniform, rho 2 as time-quadratic (arXiv 2204.13902).

    Raises:
      ValueError: as ``polynomial``, or if no such clock spans the range.
    """
    _check_arguments(n, sigma_min, sigma_max, rho)
    clock = noise_schedules.fit_linear_beta(sigma_min, sigma_max, eps)
    times = np.linspace(1.0, eps ** (1 / rho), n) ** rho
    return _with_ends(clock.sigma(times), sigma_min, sigma_max)


def discrete(
    n: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 1.0,
    clock: noise_schedules.TableClock | None = None,
) -> np.ndarray:
    """Returns sigmas even in ``t^(1/rho)`` of a model trained at discrete times.

    The published code leaves the root out of the first time, which is right only
    where the table ends at time 1; here both ends have it.

    Args:
      n: number of sigmas.
      sigma_min: last sigma.
      sigma_max: first sigma.
      rho: the power.
      clock: the model's table; by default Stable Diffusion's.

    Raises:
      ValueError: as ``polynomial``.
    """
    _check_arguments(n, sigma_min, sigma_max, rho)
    clock = noise_schedules.stable_diffusion_clock() if clock is None else clock
    first, last = clock.time(np.array([sigma_max, sigma_min])) ** (1 / rho)
    times = np.linspace(first, last, n) ** rho
    return _with_ends(clock.sigma(times), sigma_min, sigma_max)


def ays(n: int, model: str = "sd15") -> np.ndarray:
    """Returns the Align Your Steps schedule of a model (arXiv 2404.14507).

    Lengths other than the published 11 sigmas are interpolated linearly in the
    logarithm of sigma over the relative index.

    Args:
      n: number of sigmas.
      model: ``sd15``, ``sdxl`` or ``svd``.

    Raises:
      ValueError: if there are fewer than two sigmas, or no schedule of that model.
    """
    if model not in published_schedules.ALIGN_YOUR_STEPS:
        raise ValueError(
            f"No Align Your Steps schedule of {model!r}; there are those of "
            f"{', '.join(published_schedules.ALIGN_YOUR_STEPS)}."
        )
    return interpolate(published_schedules.ALIGN_YOUR_STEPS[model], n)


def gits(n: int, model: str = "sd15") -> np.ndarray:
    """Returns a published GITS schedule of a model, at any number of sigmas.

    The one with the nearest number of sigmas, the longer of two that are as near; of
    several coefficients the one that the authors' table has first. Other numbers are
    interpolated as ``ays`` does. Searching for the model at hand is better:
    ``jaxkd.diffusion.search.gits``.

    Args:
      n: number of sigmas.
      model: ``cifar10`` or ``sd15``.

    Raises:
      ValueError: if there are fewer than two sigmas, or no schedule of that model.
    """
    lengths = {key: key[1] for key in published_schedules.GITS if key[0] == model}
    if not lengths:
        known = dict.fromkeys(key[0] for key in published_schedules.GITS)
        raise ValueError(
            f"No published GITS schedule of {model!r}; there are those of "
            f"{', '.join(known)}."
        )
    nearest = min(lengths, key=lambda key: (abs(lengths[key] - n), -lengths[key]))
    return interpolate(published_schedules.GITS[nearest], n)


def interpolate(sigmas: Sequence[float] | np.ndarray, n: int) -> np.ndarray:
    """Returns a schedule at another number of sigmas.

    Linearly in the logarithm of sigma over the relative index, as the authors of Align
    Your Steps propose (arXiv 2404.14507). At its own length it stays as it is.

    Args:
      sigmas: ``[m]``, decreasing.
      n: number of sigmas of the result.

    Raises:
      ValueError: if ``n`` is less than 2, or the schedule is none.
    """
    table = explicit(sigmas)
    _check_arguments(n, table[-1], table[0])
    if n == len(table):
        return table
    logs = np.interp(np.linspace(0, 1, n), np.linspace(0, 1, len(table)), np.log(table))
    return _with_ends(np.exp(logs), table[-1], table[0])


def gits_published(model: str, n: int, coeff: float) -> np.ndarray:
    """Returns a schedule printed by the authors of GITS (arXiv 2405.11326).

    Args:
      model: ``cifar10`` or ``sd15``.
      n: number of sigmas.
      coeff: the coefficient it was searched with.

    Raises:
      ValueError: if that one was not published.
    """
    if (model, n, coeff) not in published_schedules.GITS:
        raise ValueError(
            f"No published GITS schedule of {model!r} with {n} sigmas and coefficient "
            f"{coeff:g}; there are (model, sigmas, coefficient) "
            f"{', '.join(map(str, published_schedules.GITS))}."
        )
    return explicit(published_schedules.GITS[model, n, coeff])


def explicit(sigmas: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns the user's own sigmas as float64, checked.

    Raises:
      ValueError: if they are not a list of at least two finite, positive, strictly
        decreasing numbers, of which no two are nearer than 1e-5 of their size.
    """
    sigmas = np.array(sigmas, np.float64)
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(
            f"A schedule of shape {sigmas.shape}; expected a list of at least two "
            "sigmas."
        )
    if not np.all(np.isfinite(sigmas)):
        raise ValueError(f"A schedule must be finite, got {sigmas.tolist()}.")
    rises = np.flatnonzero(np.diff(sigmas) >= 0)
    if rises.size:
        i = int(rises[0])
        raise ValueError(
            f"A schedule must decrease strictly, but sigma {i} is {sigmas[i]:g} and "
            f"sigma {i + 1} is {sigmas[i + 1]:g}. Sort it from the largest sigma to "
            "the smallest and drop repetitions."
        )
    if sigmas[-1] <= 0:
        raise ValueError(
            f"The last sigma is {sigmas[-1]:g}, expected a positive sigma. To end on "
            "clean data, end on a small sigma and sample with denoise_to_zero=True."
        )
    if (near := np.flatnonzero(sigmas[1:] > (1 - NEAREST) * sigmas[:-1])).size:
        i = int(near[0])
        raise ValueError(
            f"Sigmas {i} and {i + 1} of a schedule are {sigmas[i]!r} and "
            f"{sigmas[i + 1]!r}, nearer than {NEAREST:g} of their size, where rounding "
            "is all that is left of a step. Drop one of them."
        )
    return sigmas


def save(path: str | Path, schedule: Schedule) -> None:
    """Writes a schedule to a JSON file: sigmas, indices, offsets and details."""
    contents: dict[str, Any] = {"sigmas": explicit(schedule.sigmas).tolist()}
    if schedule.indices is not None:
        contents["indices"] = np.asarray(schedule.indices).tolist()
    if schedule.offsets is not None:
        contents["offsets"] = np.asarray(schedule.offsets).tolist()
    contents["details"] = dict(schedule.details)
    text = json.dumps(contents, indent=2, default=_plain)
    Path(path).write_text(text + "\n", encoding="utf-8")


def load(path: str | Path) -> Schedule:
    """Reads a schedule from a JSON file, exactly as it was saved.

    Raises:
      ValueError: if the file holds no schedule.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}, expected a schedule in JSON.")
    try:
        contents = json.loads(Path(path).read_text(encoding="utf-8"))
        indices, offsets = contents.get("indices"), contents.get("offsets")
        sigmas = np.array(contents["sigmas"], np.float64)
        schedule = Schedule(
            sigmas,
            None if indices is None else np.array(indices, np.int64),
            None,
            MappingProxyType(contents.get("details", {})),
            None if offsets is None else np.array(offsets, np.float64),
        )
        for values in (indices, offsets):
            if values is not None and not np.all(np.isfinite(np.array(values, float))):
                raise ValueError("it holds numbers that are not finite")
    except Exception as error:  # the file is somebody's, and can hold anything
        raise ValueError(
            f'{path} holds no schedule; expected a JSON object such as {{"sigmas": '
            f"[80.0, 1.0, 0.002]}}: {type(error).__name__}: {str(error)[:200]}"
        ) from error
    return schedule._replace(sigmas=explicit(sigmas))


def cached(
    folder: str | Path, key: Mapping[str, Any], make: Callable[[], Schedule]
) -> Schedule:
    """Reads a schedule that was made before, or makes it and keeps it as JSON.

    Args:
      folder: of the files, made if it is missing.
      key: all that the schedule depends on and JSON can hold, NumPy's numbers and
        arrays included: a hash of the model, the solver, its order, the number of
        sigmas. It is kept as ``details["key"]``.
      make: makes the schedule.
    """
    text = json.dumps(dict(key), sort_keys=True, default=_plain)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = Path(folder) / f"{name}.json"
    if path.is_file():
        return load(path)
    made = make()
    made = made._replace(details=dict(made.details) | {"key": json.loads(text)})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    save(partial, made)
    partial.replace(path)  # So that nobody reads half a file.
    return load(path)


def _plain(value: Any) -> Any:
    """Returns a number or an array of NumPy or JAX as JSON can hold it."""
    if isinstance(value, Mapping):
        return dict(value)
    if not hasattr(value, "__array__"):
        raise TypeError(f"JSON cannot hold {value!r} of type {type(value).__name__}.")
    return np.asarray(value).tolist()


def _check_arguments(
    n: int, sigma_min: float, sigma_max: float, rho: float = 1.0
) -> None:
    if n < 2:
        raise ValueError(f"{n} sigmas; expected at least 2 (one step).")
    if not 0 < sigma_min < sigma_max < np.inf:
        raise ValueError(
            f"sigma_min={sigma_min:g} and sigma_max={sigma_max:g}; expected "
            "0 < sigma_min < sigma_max."
        )
    if not 0 < rho < np.inf:
        raise ValueError(f"rho={rho:g}; expected a positive number.")


def _with_ends(sigmas: np.ndarray, sigma_min: float, sigma_max: float) -> np.ndarray:
    """Returns sigmas whose ends are exact despite rounding."""
    sigmas[0], sigmas[-1] = sigma_max, sigma_min
    return sigmas
