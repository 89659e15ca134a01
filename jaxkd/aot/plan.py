"""Knowing before paying: a run's training step, compiled for TPUs that are not there.

The compiler of TPUs runs on any machine. It tells what a step needs on each device and
whether that fits, which batch would fit, and what the devices send each other. Nothing
is executed: times are not measured, numbers are not checked.
"""

import importlib.util
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from jaxkd.aot import fake_data, flops, hlo
from jaxkd.core import config as configs
from jaxkd.core import optional
from jaxkd.core.errors import UserError
from jaxkd.core.source import Dataset
from jaxkd.training import choice, program, reads, target_cache
from jaxkd.training.build import Run, build
from jaxkd.training.components import load_data

# The step is compiled to be looked at, not to be run: this takes a fifth of the time.
_OPTIONS = {"exec_time_optimization_effort": -1.0}
_LIMITS = (
    re.compile(r"([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])"),
    re.compile(r"([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm"),
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def plan(config: ConfigDict, topology: str, largest: bool = True) -> dict[str, Any]:
    """Compiles the training step of a configuration for a TPU topology.

    The runs it needs are not compiled: each is a configuration of its own. Data whose
    files are missing is replaced by what is known of it (``jaxkd.aot.fake_data``), and
    of weights that are missing the shapes are enough.

    Args:
      config: of a run.
      topology: kind and chips, such as ``"v5e:2x4"`` or ``"v5p:2x2x1"``.
      largest: whether to look for the largest batch that fits, by compiling others.

    Returns:
      What ``format_plan`` shows; bytes and operations are those of one device.

    Raises:
      UserError: if there is no compiler, no such topology, or the configuration is
        wrong.
    """
    configs.check(config)
    config, missing = _without_missing(config)
    devices = _devices(topology)
    dataset, assumed = _find_data(config)
    capacity = _capacity(devices[0])
    run = _build(config, dataset, devices)
    plan = {
        "topology": topology,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "mesh": dict(run.mesh.shape),
        "name": config.name,
        "data": dataset.info.name + (" (assumed, files not found)" if assumed else ""),
        "batch_size": config.batch_size,
        "members": sum(len(group.members) for group in run.groups),
        "capacity": capacity,
        "missing_weights": missing,
        **_compile(run),
    }
    if largest:
        batch = _largest_batch(config, dataset, devices, plan)
        plan["largest_batch_size"] = batch
    return plan


def _devices(topology: str) -> Sequence[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "--mode=compile needs the TPU compiler, which is not installed: "
            f"{optional.install('tpu_aot')}"
        )
    # No TPU is asked for its metadata, which would be waited for.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Nothing runs on a chip here, so that another process may have the library loaded.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    options: dict[str, Any] = {}
    if re.search(r":1x1(x1)?$", topology):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(topology, platform="tpu", **options)
    except Exception as error:
        raise UserError(
            f"--topology={topology} is not available ({_first_line(error)}). Expected "
            "KIND:AxB or KIND:AxBxC, such as v5e:2x4, v5p:2x2x1, v4:2x2x2 or v6e:4x4."
        ) from error
    return found.devices


def _without_missing(config: ConfigDict) -> tuple[ConfigDict, list[str]]:
    """Returns a configuration that starts from no missing run, and which these are."""
    config, missing = configs.copied(config), []
    for part in (config, *config.needs.values()):
        path = choice.parse(part.init_from).path
        if path and not Path(path).exists():
            part.init_from = ""
            missing.append(path)
    return config, missing


def _find_data(config: ConfigDict) -> tuple[Dataset, bool]:
    try:
        return load_data(config), False
    except UserError:
        options = configs.resolved(config.data)
        known = fake_data.make(options.pop("name"), **options)
        if known is None:
            raise
        return known, True


def _build(config: ConfigDict, dataset: Dataset, devices: Sequence[Any]) -> Run:
    run = build(config, dataset, devices)
    target_cache.check(run)
    reads.check(run)
    program.check_losses(run)
    return run


def _capacity(device: Any) -> int:
    """Returns the bytes that a program may use, by asking for far too many."""
    mesh = jax.make_mesh((1,), ("all",), devices=[device])
    whole = NamedSharding(mesh, PartitionSpec())
    huge = jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32, sharding=whole)
    try:
        jax.jit(jnp.sin).lower(huge).compile()
    except jax.errors.JaxRuntimeError as error:
        if memory := _memory(error):
            return memory[1]
        raise
    raise RuntimeError("The compiler of TPUs accepts a program of four terabytes.")


def _memory(error: Exception) -> tuple[int, int] | None:
    """Reads the bytes expected and available out of the compiler's refusal."""
    for pattern in _LIMITS:
        if found := pattern.search(str(error)):
            wanted, unit, available, other = found.groups()
            return _bytes(wanted, unit), _bytes(available, other)
    return None


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * _UNITS[unit])


def _compile(run: Run) -> dict[str, Any]:
    """Compiles a run's step; the memory alone is told where it does not fit."""
    inputs = program.abstract_inputs(run)
    call = program.train_call(run, inputs[0])
    began = time.monotonic()
    traced = call.trace(*inputs)
    operations = flops.count(traced.jaxpr) // run.mesh.size
    common = {"flops": operations}
    try:
        compiled = traced.lower(lowering_platforms=("tpu",)).compile(_OPTIONS)
    except jax.errors.JaxRuntimeError as error:
        memory = _memory(error)
        if memory is None:
            raise
        seconds = time.monotonic() - began
        return common | {"fits": False, "peak": memory[0], "seconds": seconds}
    memory = compiled.memory_analysis()
    sent = hlo.collectives(compiled.as_text())
    return common | {
        "fits": True,
        "peak": memory.peak_memory_in_bytes,
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "collectives": {kind: one._asdict() for kind, one in sent.items()},
        "seconds": time.monotonic() - began,
    }


def _largest_batch(config, dataset, devices, plan: dict[str, Any]) -> int:
    """Returns the largest batch that fits, or 0, to about a tenth.

    Memory is nearly linear in large batches: two sizes give a guess, which is compiled
    and lowered until it fits.
    """
    step = len(devices) * config.accumulate

    def attempt(batch: int) -> dict[str, Any]:
        other = configs.copied(config)
        other.batch_size = batch
        return _compile(_build(other, dataset, devices))

    first = config.batch_size
    # The other one is that at which the guess is likely to be, if all went with it.
    second = int(first * plan["capacity"] / plan["peak"] * 0.8) // step * step
    second = min(second or step, len(dataset.train(0)) // step * step)
    if second == first:
        return first if plan["fits"] else 0
    other = attempt(second)
    slope = (plan["peak"] - other["peak"]) / (first - second)
    best = max([b for b, p in ((first, plan), (second, other)) if p["fits"]], default=0)
    room = plan["capacity"] - plan["peak"]
    guess = int(first + room / max(slope, 1)) // step * step
    guess = min(guess, len(dataset.train(0)) // step * step)
    while guess > best:
        if attempt(guess)["fits"]:
            return guess
        guess = int(guess * 0.9) // step * step
    return best


def format_plan(plan: dict[str, Any]) -> str:
    """Returns a plan as text."""
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan["mesh"].items())
    lines = [
        f"{plan['name']} on {plan['topology']}: {plan['devices']} x {plan['device']}",
        f"  mesh                 {mesh}",
        f"  data                 {plan['data']}",
        *(
            f"  weights              {path} (not found)"
            for path in plan["missing_weights"]
        ),
        f"  batch                {plan['batch_size']} over all devices, for "
        f"{plan['members']} (student, seed) pairs",
        f"  fits                 {'yes' if plan['fits'] else 'NO'}: "
        f"{_gigabytes(plan['peak'])} of {_gigabytes(plan['capacity'])} per device",
        f"  step                 {plan['flops'] / 1e9:,.1f} GFLOP per device",
    ]
    if "largest_batch_size" in plan:
        lines.append(f"  largest batch        about {plan['largest_batch_size']}")
    if plan["fits"]:
        lines += [
            f"  arguments            {_gigabytes(plan['arguments'])}",
            f"  temporaries          {_gigabytes(plan['temporaries'])}",
        ]
        lines += [
            f"  {kind:<20} {sent['number']} a step, {sent['bytes'] / 1e6:,.1f} MB"
            for kind, sent in plan["collectives"].items()
        ]
    return "\n".join([*lines, f"  compiled in          {plan['seconds']:.0f} s"])


def _gigabytes(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
