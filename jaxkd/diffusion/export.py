"""Writes schedules for other people's samplers: diffusers and ComfyUI.

    python -m jaxkd.diffusion.export --family=sd1 --solver=unipc --nfe=6
    python -m jaxkd.diffusion.export --family=edm --solver=dpmpp --schedule=FILE

prints the sigmas, the integer timesteps of models that have them, and lines to paste;
``--output`` keeps all of it as JSON. A schedule is a name (polynomial, logsnr,
time-uniform, time-quadratic, ays, gits, or uniform of flows) or a file of
``schedules.save``, such as ``configs/gits.py`` writes for the model at hand.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.diffusion import noise_tables, schedules, solvers

TWO_CALLS = ("heun", "dpm")


class Family(NamedTuple):
    """What models of one kind have in common.

    Attributes:
      sigma_min: least noise that they were trained on.
      sigma_max: largest.
      default: the schedule to take where none is named.
      ays: of the published Align Your Steps schedules, theirs, or None.
      gits: of the published GITS schedules, theirs, or None.
      table: sigma of each integer timestep, increasing, or None.
    """

    sigma_min: float
    sigma_max: float
    default: str
    ays: str | None = None
    gits: str | None = None
    table: np.ndarray | None = None


def _discrete(default: str, ays: str | None, gits: str | None) -> Family:
    """Returns Stable Diffusion's kind: 1,000 timesteps, betas even in their root."""
    alphas = noise_tables.alphas_cumprod().astype(np.float64)
    table = np.sqrt((1 - alphas) / alphas)
    return Family(table[0], table[-1], default, ays, gits, table)


FAMILIES = {
    "edm": Family(0.002, 80.0, "time-quadratic", gits="cifar10"),
    "sd1": _discrete("ays", "sd15", "sd15"),
    "sd2": _discrete("time-quadratic", None, None),
    "sdxl": _discrete("ays", "sdxl", None),
    "flow": Family(0.0, np.inf, "uniform"),
}


class Exported(NamedTuple):
    """A schedule in the numbers of a model family.

    Attributes:
      family: one of ``FAMILIES``.
      solver: one of ``solvers.MAX_ORDER``.
      order: of a multistep solver, or None.
      nfe: calls of the model.
      schedule: its name, or the file it is from.
      sigmas: ``[steps + 1]``, decreasing; of flows the share of noise in [0, 1], and
        otherwise its standard deviation beside clean data.
      timesteps: what the model is given at all sigmas but the last: whole numbers
        below 1,000, ``1000 * sigma`` of flows, or None.
    """

    family: str
    solver: str
    order: int | None
    nfe: int
    schedule: str
    sigmas: tuple[float, ...]
    timesteps: tuple[float, ...] | None


def make(
    family: str,
    solver: str,
    nfe: int | None = None,
    schedule: str | None = None,
    *,
    order: int | None = None,
    shift: float = 3.0,
    to_zero: bool = False,
) -> Exported:
    """Makes a schedule for a family of models.

    Args:
      family: one of ``FAMILIES``.
      solver: one of ``solvers.MAX_ORDER``.
      nfe: calls of the model; None takes those of the file.
      schedule: name or file; None takes the family's usual one.
      order: of a multistep solver; None takes 2 of dpmpp and unipc, 3 of the others.
      shift: of flows: ``s = shift u / (1 + (shift - 1) u)`` of even ``u``; 3 is Stable
        Diffusion 3's. A file's sigmas are not shifted.
      to_zero: whether the last step goes to clean data instead of the last sigma.
        Flows always do.

    Raises:
      ValueError: if one of these is unknown, or they do not fit together.
    """
    _check_choice("family", family, FAMILIES)
    _check_choice("solver", solver, solvers.MAX_ORDER)
    kind, calls = FAMILIES[family], 2 if solver in TWO_CALLS else 1
    name = schedule or kind.default
    if nfe is not None and (nfe < calls or nfe % calls):
        raise ValueError(
            f"nfe is {nfe}, expected a multiple of {calls}: {solver} calls the model "
            "so often in a step."
        )
    steps = None if nfe is None else nfe // calls
    if Path(name).suffix == ".json":
        sigmas = _read(name, steps)
        sigmas = _to_flow(sigmas) if family == "flow" else sigmas
    else:
        if steps is None:
            raise ValueError("nfe is missing: the number of calls of the model.")
        sigmas = _named(kind, family, name, steps + 1, shift)
    if to_zero:
        sigmas[-1] = 0.0
    if order is None and solvers.MAX_ORDER[solver]:
        order = 2 if solver in ("dpmpp", "unipc") else 3
    return Exported(
        family,
        solver,
        order if solvers.MAX_ORDER[solver] else None,
        (len(sigmas) - 1) * calls,
        name,
        tuple(sigmas.tolist()),
        _timesteps(kind, family, sigmas[:-1]),
    )


def _check_choice(what: str, name: str, known) -> None:
    if name not in known:
        raise ValueError(f"{what} is {name!r}, expected one of {', '.join(known)}.")


def _read(path: str, steps: int | None) -> np.ndarray:
    found = schedules.load(path)
    if found.offsets is not None:
        raise ValueError(
            f"{path} has offsets: its model is given other sigmas than the steps', "
            "which other samplers cannot do. Take one that was fitted without."
        )
    if steps is not None and steps != len(found.sigmas) - 1:
        raise ValueError(
            f"{path} has {len(found.sigmas) - 1} steps, but nfe asks for {steps}. "
            "Leave nfe out: a schedule is good for the number of calls it was made for."
        )
    return found.sigmas


def _named(kind: Family, family: str, name: str, n: int, shift: float) -> np.ndarray:
    if family == "flow":
        _check_choice("schedule of family 'flow'", name, ("uniform", "a .json file"))
        if not 0 < shift < np.inf:
            raise ValueError(f"shift is {shift:g}, expected a positive number.")
        even = np.linspace(1.0, 0.0, n)
        return shift * even / (1 + (shift - 1) * even)
    low, high = kind.sigma_min, kind.sigma_max

    def by_time(rho: float) -> np.ndarray:
        if kind.table is None:
            return schedules.time_uniform(n, low, high, rho=rho)
        return schedules.discrete(n, low, high, rho=rho)

    makers = {
        "polynomial": lambda: schedules.polynomial(n, low, high),
        "logsnr": lambda: schedules.logsnr(n, low, high),
        "time-uniform": lambda: by_time(1.0),
        "time-quadratic": lambda: by_time(2.0),
    }
    if kind.ays:
        makers["ays"] = lambda: schedules.ays(n, kind.ays or "")
    if kind.gits:
        makers["gits"] = lambda: schedules.gits(n, kind.gits or "")
    _check_choice(f"schedule of family {family!r}", name, (*makers, "a .json file"))
    return makers[name]()


def _to_flow(sigmas: np.ndarray) -> np.ndarray:
    """Converts standard deviations to shares of noise, from pure noise to clean data.

    ``x + sigma noise`` over ``1 + sigma`` is ``(1 - s) x + s noise``.
    """
    shares = sigmas / (1 + sigmas)
    shares[0], shares[-1] = 1.0, 0.0
    return shares


def _timesteps(
    kind: Family, family: str, sigmas: np.ndarray
) -> tuple[float, ...] | None:
    if family == "flow":
        return tuple((1000 * sigmas).tolist())
    if kind.table is None:
        return None
    distance = np.abs(np.log(sigmas)[:, None] - np.log(kind.table))
    nearest = distance.argmin(axis=1)
    equal = np.flatnonzero(np.diff(nearest) >= 0)
    if equal.size:
        i = int(equal[0])
        raise ValueError(
            f"The sigmas {sigmas[i]:g} and {sigmas[i + 1]:g} are both nearest to "
            f"timestep {nearest[i]} of this family, whose models know 1,000. Take "
            "fewer calls, or another schedule."
        )
    return tuple(nearest.tolist())


# Schedulers of diffusers, by family and solver, with their options beside the order.
_VP = {
    "euler": ("EulerDiscreteScheduler", ""),
    "dpmpp": ("DPMSolverMultistepScheduler", 'algorithm_type="dpmsolver++", '),
    "unipc": ("UniPCMultistepScheduler", 'solver_type="bh2", '),
    "deis": ("DEISMultistepScheduler", ""),
}
_FLOW = {
    "euler": ("FlowMatchEulerDiscreteScheduler", ""),
    "dpmpp": (_VP["dpmpp"][0], _VP["dpmpp"][1] + "use_flow_sigmas=True, "),
    "unipc": (_VP["unipc"][0], _VP["unipc"][1] + "use_flow_sigmas=True, "),
}
_EDM = {
    "euler": ("EDMEulerScheduler", ""),
    "dpmpp": ("EDMDPMSolverMultistepScheduler", _VP["dpmpp"][1]),
}
# Samplers of ComfyUI.
_COMFY = {
    "euler": "euler",
    "heun": "heun",
    "dpm": "dpm_2",
    "ipndm": "ipndm",
    "ipndm_v": "ipndm_v",
    "deis": "deis",
    "dpmpp": "dpmpp_2m",
    "unipc": "uni_pc_bh2",
}


def diffusers_lines(exported: Exported) -> str | None:
    """Returns lines that give a pipeline of diffusers this very schedule, or None.

    They replace ``set_timesteps`` of the scheduler: most schedulers take timesteps or
    sigmas alone, and round what they take.
    """
    table = {"flow": _FLOW, "edm": _EDM}.get(exported.family, _VP)
    if exported.solver not in table:
        return None
    name, options = table[exported.solver]
    if exported.order:
        options += f"solver_order={exported.order}, "
    times = exported.timesteps
    if times is None:  # EDM's networks are given a quarter of the logarithm
        times = tuple(np.log(exported.sigmas[:-1]) / 4)
    return "\n".join(
        [
            "import torch",
            f"from diffusers import {name}",
            f"scheduler = {name}.from_config(",
            f"    pipe.scheduler.config, {options.rstrip(', ')})"
            if options
            else "    pipe.scheduler.config)",
            "usual = scheduler.set_timesteps",
            "def set_timesteps(num_inference_steps=None, device=None, **ignored):",
            f"    usual({len(times)}, device=device)",
            f"    scheduler.sigmas = torch.tensor([{_join(exported.sigmas)}])",
            f"    scheduler.timesteps = torch.tensor([{_join(times)}], device=device)",
            f"    scheduler.num_inference_steps = {len(times)}",
            "scheduler.set_timesteps = set_timesteps",
            "pipe.scheduler = scheduler",
        ]
    )


def diffusers_argument(exported: Exported) -> str | None:
    """Returns the argument of a pipeline's call, where its scheduler takes one.

    Whole timesteps, for ``DPMSolverMultistepScheduler`` of Stable Diffusion with
    ``final_sigmas_type="sigma_min"``, or the sigmas of Euler's schedulers, which go on
    to 0. A comment names the scheduler and what it must be set to.
    """
    timesteps = exported.timesteps
    if exported.solver == "dpmpp" and exported.family in ("sd1", "sd2", "sdxl"):
        scheduler = f'{_VP["dpmpp"][0]}, final_sigmas_type="sigma_min"'
        return f"timesteps=[{_join(timesteps or ())}],  # {scheduler}"
    if exported.solver == "euler":
        options = {"flow": ", shift=1, use_dynamic_shifting=False"}
        scheduler = {"flow": _FLOW, "edm": _EDM}.get(exported.family, _VP)["euler"][0]
        scheduler += options.get(exported.family, "")
        return f"sigmas=[{_join(exported.sigmas[:-1])}],  # {scheduler}"
    return None


def comfyui_line(exported: Exported) -> str:
    """Returns the text of ComfyUI's node ManualSigmas."""
    return _join(exported.sigmas)


def _join(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.7g}" for value in values)


def to_json(exported: Exported) -> dict[str, Any]:
    """Returns everything as JSON holds it; ``schedules.load`` reads its sigmas."""
    return exported._asdict() | {
        "diffusers": diffusers_lines(exported),
        "diffusers_argument": diffusers_argument(exported),
        "comfyui": comfyui_line(exported),
        "comfyui_sampler": _COMFY.get(exported.solver),
    }


def describe(exported: Exported) -> str:
    """Returns the numbers and the lines to paste, for people."""
    order = f" of order {exported.order}" if exported.order else ""
    parts = [
        f"{exported.schedule}, {exported.solver}{order}, {exported.nfe} calls of the "
        f"model, family {exported.family}",
        f"sigmas     {_join(exported.sigmas)}",
    ]
    if exported.timesteps is not None:
        parts.append(f"timesteps  {_join(exported.timesteps)}")
    lines, argument = diffusers_lines(exported), diffusers_argument(exported)
    if argument:
        parts.append(f"\ndiffusers, argument of the pipeline's call:\n{argument}")
    if lines:
        parts.append(f"\ndiffusers, exactly these numbers:\n{lines}")
    sampler = _COMFY.get(exported.solver)
    with_sampler = f" with the sampler {sampler}" if sampler else ""
    parts.append(
        f"\nComfyUI, node ManualSigmas{with_sampler}:\n{comfyui_line(exported)}"
    )
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a schedule; mistakes of the user end with a message and status 2."""
    parser = argparse.ArgumentParser(
        "python -m jaxkd.diffusion.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    families = ", ".join(FAMILIES) + " (Stable Diffusion 3, FLUX)"
    parser.add_argument("--family", required=True, help=families)
    parser.add_argument("--solver", default="dpmpp", help=", ".join(solvers.MAX_ORDER))
    parser.add_argument("--nfe", type=int, help="calls of the model")
    parser.add_argument("--schedule", help="name, or .json file; see above")
    parser.add_argument("--order", type=int, help="of a multistep solver, 1 to 3 or 4")
    parser.add_argument("--shift", type=float, default=3.0, help="of flows")
    parser.add_argument(
        "--to-zero", action="store_true", help="end on clean data, not the last sigma"
    )
    parser.add_argument("--output", type=Path, help="JSON file to write")
    chosen = vars(parser.parse_args(arguments))
    output = chosen.pop("output")
    try:
        exported = make(**chosen)
        if output:
            output = output.expanduser()
            output.write_text(json.dumps(to_json(exported), indent=2) + "\n", "utf-8")
    except (ValueError, OSError) as error:
        print(f"jaxkd: {error}", file=sys.stderr)
        sys.exit(2)
    print(describe(exported))


if __name__ == "__main__":
    main()
