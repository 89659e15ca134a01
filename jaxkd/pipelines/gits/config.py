"""What the configuration of the sampling benchmark may hold, and its checks."""

import math
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxkd.core.errors import UserError
from jaxkd.diffusion import solvers
from jaxkd.diffusion.search import gits
from jaxkd.pipelines.gits import models, trained_models
from jaxkd.pipelines.gits.densities import DENSITIES

SCHEDULES = (
    "polynomial",
    "logsnr",
    "time-uniform",
    "time-quadratic",
    "gits",
    "fit",
    "fit-offsets",
)
TWO_STAGES = ("heun", "dpm")
# Held-out latents have seeds from here on, warm-up latents below.
HELD_OUT = 10**9


def default() -> ConfigDict:
    """Returns the default configuration: two closed-form densities, minutes on CPU."""
    config = ConfigDict()
    config.pipeline = "gits"
    config.name = "gits"
    config.seeds = (0,)  # of the warm-up latents that GITS and the fits see

    # What is sampled: densities in closed form, by name, and an EDM model of a file.
    config.densities = ("digits", "ring")
    config.edm = ConfigDict(
        {
            "path": "",
            "precondition": "edm",  # of files that do not tell
            "label": -1,  # of a conditional model; -1 takes all classes in turn
            "reference": "",  # npz with the data's mu and sigma, over raw pixels
        }
    )
    # Runs of configs/edm.py by name, trained first in folders of these names unless
    # ``init_from`` is the folder of a finished one: configs.needed(config, init_from).
    config.needs = ConfigDict()
    config.sigma_min, config.sigma_max = 0.002, 80.0

    # With what: every solver at every number of model calls on every schedule.
    config.solvers = ("euler", "heun", "dpm", "ipndm", "deis", "dpmpp", "unipc")
    config.orders = ConfigDict(
        {k: order for k, order in solvers.MAX_ORDER.items() if order}
    )
    config.schedules = SCHEDULES[:-1]  # offsets are opted in to
    config.nfe = (3, 4, 5, 6, 7, 8, 9, 10)

    # On how many latents: a batch to fit, one to validate, and held-out blocks of a
    # batch, whose spread is the standard error.
    config.batch = 128
    config.blocks = 4
    config.exact_sigmas = 401  # of the fine solution that errors are measured from
    config.gits = ConfigDict(
        {
            "grid": 61,
            "metrics": ("dev", "l2"),
            "coeffs": (0.9, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25),
        }
    )
    config.fit = ConfigDict({"reference": 61, "starts": 3})
    # Of the figures: sigmas of the trajectories, and those a cubic is fitted to.
    config.geometry = ConfigDict({"num_sigmas": 401, "window": 41})

    # What differs for networks, since their calls are dear and compiling takes longer.
    config.networks = ConfigDict(
        {
            "solvers": ("ipndm", "dpmpp", "unipc"),
            "nfe": (5, 6, 8, 10),
            "batch": 64,
            "blocks": 2,
            "exact_sigmas": 121,
            "fit": {"reference": 61, "starts": 1},
            "geometry": {"num_sigmas": 121, "window": 11},
        }
    )

    # For --mode=sample: what to sample, with what. ``schedule`` is a JSON file; by
    # default the best one found for the target, the solver and the calls.
    config.sample = ConfigDict(
        {"target": "", "solver": "", "nfe": 10, "schedule": "", "batch": 64}
    )
    config.lock()
    config.needs.unlock()
    return config


def check(config: ConfigDict) -> None:
    """Checks a configuration before anything is compiled.

    Raises:
      UserError: for an unknown key or an impossible value.
    """
    known = default()
    _check_keys(config, known, "config")
    for key in ("edm", "orders", "gits", "fit", "geometry", "networks", "sample"):
        _check_keys(config[key], known[key], f"config.{key}")
    for key in ("fit", "geometry"):
        _check_keys(config.networks[key], known[key], f"config.networks.{key}")
    _check_choices(config.schedules, SCHEDULES, "schedules")
    _check_choices(config.gits.metrics, gits.METRICS, "gits.metrics")
    _check_targets(config)
    if config.sample.solver:
        _check_choices((config.sample.solver,), solvers.MAX_ORDER, "sample.solver")
    _check_orders(config.orders)
    for own in (config, *(of_target(config, n) for n in models.names(config))):
        _check_choices(own.solvers, solvers.MAX_ORDER, "solvers")
        _check_numbers(own)
        _check_nfe(own)
        _check_seeds(own)


def of_target(config: ConfigDict, name: str) -> ConfigDict:
    """Returns the settings that a target is measured with."""
    if name in config.densities:
        return config
    own = config.copy_and_resolve_references()
    own.update(config.networks)
    return own


def num_sigmas(solver: str, nfe: int) -> int | None:
    """Returns how many sigmas take so many model calls; None if no number does."""
    if solver not in TWO_STAGES:
        return nfe + 1
    return nfe // 2 + 1 if nfe % 2 == 0 else None


def order(config: ConfigDict, solver: str) -> int:
    """Returns the order that a solver runs at, 1 for those that have but one."""
    return config.orders.get(solver, 1)


def _check_keys(given: Any, known: ConfigDict, where: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise UserError(
            f"{where} has no key {', '.join(unknown)}. "
            f"Keys: {', '.join(sorted(known))}."
        )


def _check_choices(given: Any, known: Any, key: str, empty: bool = False) -> None:
    names = list(given) if isinstance(given, list | tuple) else None
    if names is None or len(set(names)) < len(names) or not (names or empty):
        raise UserError(
            f"config.{key} is {given!r}, expected different names of "
            f"{', '.join(known)}, such as ({next(iter(known))!r},)."
        )
    for name in names:
        if name not in known:
            raise UserError(
                f"config.{key} has {name!r}, expected some of {', '.join(known)}."
            )


def _check_targets(config: ConfigDict) -> None:
    _check_choices(config.densities, DENSITIES, "densities", empty=True)
    path = config.edm.path
    if not (config.densities or path or config.needs):
        raise UserError(
            "config.densities, config.edm.path and config.needs are all empty; "
            f"expected something to sample, such as {', '.join(DENSITIES)}."
        )
    for name, need in config.needs.items():
        trained_models.check(name, need)
    if path and not Path(path).is_file():
        raise UserError(
            f"config.edm.path: there is no file {path}; expected an EDM model, such as "
            "a .pkl, .npz or .safetensors."
        )


def _check_orders(orders: ConfigDict) -> None:
    for solver, value in orders.items():
        most = solvers.MAX_ORDER[solver]
        if not _is_whole(value) or not 1 <= value <= most:
            raise UserError(
                f"config.orders.{solver} is {value!r}, expected a whole number from 1 "
                f"to {most}."
            )


def _check_numbers(config: ConfigDict) -> None:
    for key, least in (
        ("batch", 2),
        ("blocks", 1),
        ("exact_sigmas", 3),
        ("gits.grid", 3),
        ("fit.reference", 3),
        ("fit.starts", 1),
        ("geometry.num_sigmas", 9),
        ("sample.batch", 1),
        ("sample.nfe", 1),
        ("edm.label", -1),
    ):
        value: Any = config
        for part in key.split("."):
            value = value[part]
        if not _is_whole(value) or value < least:
            raise UserError(
                f"config.{key} is {value!r}, expected a whole number >= {least}."
            )
    window, most = config.geometry.window, config.geometry.num_sigmas - 2
    if not _is_whole(window) or window % 2 == 0 or not 5 <= window <= most:
        raise UserError(
            f"config.geometry.window is {window!r}, expected an odd number from 5 to "
            f"{most}, less than config.geometry.num_sigmas."
        )
    coeffs = config.gits.coeffs
    if not _is_tuple_of(coeffs, lambda c: _is_number(c) and c > 0):
        raise UserError(
            f"config.gits.coeffs is {coeffs!r}, expected positive numbers such as "
            "(1.1,)."
        )
    low, high = config.sigma_min, config.sigma_max
    if not (_is_number(low) and _is_number(high) and 0 < low < high):
        raise UserError(
            f"config.sigma_min is {low!r} and config.sigma_max {high!r}, expected "
            "0 < sigma_min < sigma_max."
        )


def _check_nfe(config: ConfigDict) -> None:
    """Checks the numbers of calls, also against the grids that sigmas are from."""
    most = min(config.gits.grid, config.fit.reference) - 1
    if not _is_tuple_of(config.nfe, lambda n: _is_whole(n) and 1 <= n <= most):
        raise UserError(
            f"config.nfe is {config.nfe!r}, expected whole numbers from 1 to {most}, "
            "one less than config.gits.grid and config.fit.reference."
        )
    if len(set(config.nfe)) < len(config.nfe):
        raise UserError(f"config.nfe is {config.nfe!r}, expected different numbers.")
    for solver in config.solvers:
        if all(num_sigmas(solver, nfe) is None for nfe in config.nfe):
            raise UserError(
                f"{solver} takes two model calls a step, so that it cannot make "
                f"config.nfe = {config.nfe!r}; expected an even number among them, or "
                f"config.solvers without {solver}."
            )


def _check_seeds(config: ConfigDict) -> None:
    most = HELD_OUT // (2 * config.batch)
    fit = _is_tuple_of(config.seeds, lambda s: _is_whole(s) and 0 <= s < most)
    if not fit or len(set(config.seeds)) < len(config.seeds):
        raise UserError(
            f"config.seeds is {config.seeds!r}, expected different whole numbers from "
            f"0 to {most - 1}."
        )


def _is_tuple_of(values: Any, good: Any) -> bool:
    return isinstance(values, list | tuple) and bool(values) and all(map(good, values))


def _is_number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
