"""Sampling and schedule search beside plain PyTorch and Python.

    python -m benchmarks.sampler [--parts sample search imagenet64] [--json FILE]

Run it from the repository's root; it needs PyTorch too (``pip install -e '.[bench]'``).

- ``sample``: iPNDM of order 4 with 10 model calls, compiled, beside the same loop in
  PyTorch with the same weights: small networks of EDM, and a mixture of Gaussians.
- ``search``: the costs of GITS and its dynamic programme, beside loops.
- ``imagenet64``: images per second of EDM's ImageNet-64 network by model calls, in
  bfloat16; without PyTorch. By default only where there is an accelerator.

Results are compared before anything is timed; the script stops where they differ.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from benchmarks import measure
from benchmarks.measure import Contestant, ratio, spread
from jaxkd.convert import edm as convert
from jaxkd.diffusion import denoisers, densities, samplers, schedules
from jaxkd.diffusion.search import gits
from jaxkd.models import edm

ENDS = 0.002, 80.0
STEPS = 10
SIGMA_DATA = 0.5
PARTS = ("sample", "search", "imagenet64")


class Case(NamedTuple):
    """Something to sample: options of a SongUNet, or None for the mixture; a batch."""

    name: str
    options: dict[str, Any] | None
    batch: int


_SMALL = {"attn_resolutions": (), "channel_mult": (1, 2), "num_blocks": 1, "dropout": 0}
_DIGITS = _SMALL | {"img_resolution": 8, "in_channels": 1, "out_channels": 1}
_COLOUR = _SMALL | {"img_resolution": 32, "in_channels": 3, "out_channels": 3}
CASES = (
    Case("8x8x1, width 16, batch 1", _DIGITS | {"model_channels": 16}, 1),
    Case("8x8x1, width 32, batch 64", _DIGITS | {"model_channels": 32}, 64),
    Case("32x32x3, width 32, batch 2", _COLOUR | {"model_channels": 32}, 2),
    Case("mixture of ten, 64-d, batch 1", None, 1),
    Case("mixture of ten, 64-d, batch 256", None, 256),
)
# Grid points and sigmas of the search; 61 is the paper's grid.
SEARCHES = ((61, 6), (61, 11), (241, 11))


def main() -> None:
    """Runs the parts asked for and prints their tables."""
    args = _parse()
    machine = measure.machine()
    print(measure.describe(machine), flush=True)
    report: dict[str, Any] = {"machine": machine, "settings": vars(args)}
    for name in args.parts:
        report[name] = rows = _RUN[name](args)
        print(f"\n{name} (load average {measure.load()})\n{measure.table(rows)}")
        print(flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2, default=str) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    usual = PARTS if jax.default_backend() != "cpu" else PARTS[:2]
    add("--parts", nargs="+", choices=PARTS, default=usual)
    add("--rounds", type=int, default=5, help="blocks of each (default: %(default)s)")
    add("--seconds", type=float, default=1.0, help="of a block (default: %(default)s)")
    add("--batch", type=int, default=64, help="of imagenet64 (default: %(default)s)")
    add("--width", type=int, default=192, help="of imagenet64 (default: %(default)s)")
    add("--nfe", type=int, nargs="+", default=(5, 8, 10), help="of imagenet64")
    add("--json", type=Path, metavar="FILE", help="write all figures to this file")
    return parser.parse_args()


def _sample(args: argparse.Namespace) -> list[dict[str, str]]:
    rows = []
    for case in CASES:
        rows.append(_sample_case(args, case))
        print(f"done: {case.name}", file=sys.stderr, flush=True)
    return rows


def _sample_case(args: argparse.Namespace, case: Case) -> dict[str, str]:
    import torch

    from benchmarks import torch_sampler

    ours, theirs, shape = _pair(case)
    sigmas = schedules.polynomial(STEPS + 1, *ENDS)
    x = samplers.latents(range(case.batch), shape, ENDS[1])
    axes = (0, 3, 1, 2) if x.ndim == 4 else (0, 1)
    moved = torch.tensor(np.ascontiguousarray(np.asarray(x).transpose(axes)))

    def run_jax(count):
        for _ in range(count):
            end = samplers.sample(ours, x, sigmas, "ipndm", 4).x[-1]
        return end.block_until_ready()

    def run_torch(count, threads=1):
        torch.set_num_threads(threads)
        for _ in range(count):
            end = torch_sampler.ipndm(theirs, moved, sigmas)
        return end

    # More threads may only wait for each other, above all on a busy machine.
    threads = min((1, torch.get_num_threads()), key=partial(_quickest, run_torch))

    began = time.perf_counter()
    end = np.asarray(run_jax(1))
    compile_seconds = time.perf_counter() - began
    same = _compare(case.name, end.transpose(axes), run_torch(1).numpy(), 1e-3)
    first = {
        "compile s": f"{compile_seconds:.1f}",
        "differ by": same,
        "threads of plain": str(threads),
    }
    plain = partial(run_torch, threads=threads)
    return _timed(args, case.name, run_jax, plain, first)


def _quickest(run: Callable[[int, int], Any], threads: int) -> float:
    """Returns the least seconds of three runs with so many threads."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        run(1, threads)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _pair(case: Case) -> tuple[Partial, Callable, tuple[int, ...]]:
    """Returns both sides' denoisers, of equal weights, and a sample's shape."""
    from benchmarks import torch_sampler

    if case.options is None:
        rng = np.random.default_rng(0)
        spread_out = rng.normal(size=(10, 64, 64)) / 8
        covariances = spread_out @ spread_out.transpose(0, 2, 1) + 1e-3 * np.eye(64)
        parts = np.full(10, 0.1), rng.normal(size=(10, 64)), covariances
        return densities.mixture(*parts), torch_sampler.mixture(*parts), (64,)
    configuration = convert.Configuration("SongUNet", case.options)
    module = convert.build(configuration)
    shape = (module.img_resolution,) * 2 + (module.in_channels,)
    shapes = jax.eval_shape(
        module.init, jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1)
    )
    rng = np.random.default_rng(0)

    def draw(one: jax.ShapeDtypeStruct) -> jax.Array:
        # As networks start, their last layers are zero and would hide the others.
        scale = np.prod(one.shape[:-1]) ** -0.5 if len(one.shape) > 1 else 0.3
        return jnp.asarray(scale * rng.normal(size=one.shape), jnp.float32)

    variables = jax.tree.map(draw, shapes)
    state = convert.to_state(configuration, jax.device_get(variables))
    ours = denoisers.edm(edm.bind(module, variables), SIGMA_DATA)
    return ours, torch_sampler.network(case.options, state, SIGMA_DATA), shape


def _compare(name: str, ours: np.ndarray, theirs: np.ndarray, allowed: float) -> str:
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    if not difference < allowed:
        raise SystemExit(f"{name}: results differ by {difference:.1e} of the largest.")
    return f"{difference:.0e}"


def _timed(
    args: argparse.Namespace,
    name: str,
    ours: Callable[[int], Any],
    theirs: Callable[[int], Any],
    first: dict[str, str],
) -> dict[str, str]:
    contestants = [Contestant("jaxkd", ours), Contestant("plain", theirs)]
    timings = measure.alternate(contestants, args.rounds, args.seconds)
    mine, other = timings["jaxkd"], timings["plain"]
    return {
        "": name,
        **first,
        "jaxkd ms": spread(mine.wall).text(1e3),
        "plain ms": spread(other.wall).text(1e3),
        "jaxkd's speed": ratio(other.wall, mine.wall).text(),
        "by CPU time": ratio(other.cpu, mine.cpu).text(),
    }


def _search(args: argparse.Namespace) -> list[dict[str, str]]:
    from benchmarks import torch_sampler

    denoise, _, shape = _pair(CASES[-1])
    rows = []
    for points in sorted({points for points, _ in SEARCHES}):
        grid = schedules.polynomial(points, *ENDS)
        x = samplers.latents(range(128), shape, ENDS[1])
        run = samplers.sample(denoise, x, grid, keep_denoised=True)
        assert run.denoised is not None
        rows.append(_cost_row(args, run.x, run.denoised, grid))
        cost = gits.cost_matrix(run.x, run.denoised, grid)
        lists = cost.tolist()
        for num_sigmas in (n for p, n in SEARCHES if p == points):
            name = f"plan of {num_sigmas} sigmas from {points} points"
            ours = gits.plan(cost, num_sigmas, 1.15)
            theirs = np.array(torch_sampler.plan(lists, num_sigmas, 1.15))
            same = {"compile s": "", "differ by": _compare(name, ours, theirs, 1e-9)}

            def run_ours(count, cost=cost, num_sigmas=num_sigmas):
                for _ in range(count):
                    gits.plan(cost, num_sigmas, 1.15)

            def run_theirs(count, lists=lists, num_sigmas=num_sigmas):
                for _ in range(count):
                    torch_sampler.plan(lists, num_sigmas, 1.15)

            rows.append(_timed(args, name, run_ours, run_theirs, same))
    return rows


def _cost_row(args, x: jax.Array, denoised: jax.Array, grid: np.ndarray):
    import torch

    from benchmarks import torch_sampler

    name = f"costs of {len(grid)} points, 128 samples"
    began = time.perf_counter()
    ours = gits.cost_matrix(x, denoised, grid)
    compile_seconds = time.perf_counter() - began
    states, outputs = (torch.tensor(np.asarray(array)) for array in (x, denoised))
    sigmas = grid.tolist()
    theirs = torch_sampler.cost_matrix(states, outputs, sigmas)
    same = _compare(name, ours, theirs, 1e-3)

    def run_ours(count):
        for _ in range(count):
            gits.cost_matrix(x, denoised, grid)

    def run_theirs(count):
        for _ in range(count):
            torch_sampler.cost_matrix(states, outputs, sigmas)

    first = {"compile s": f"{compile_seconds:.1f}", "differ by": same}
    return _timed(args, name, run_ours, run_theirs, first)


def _imagenet64(args: argparse.Namespace) -> list[dict[str, str]]:
    module = edm.build(
        "imagenet-64x64-cond-adm", dtype=jnp.bfloat16, model_channels=args.width
    )
    labels = jax.nn.one_hot(jnp.arange(args.batch) % 1000, 1000)
    x = samplers.latents(range(args.batch), (64, 64, 3), ENDS[1])
    variables = jax.jit(module.init)(jax.random.key(0), x[:1], jnp.zeros(1), labels[:1])
    denoise = denoisers.edm(edm.bind(module, variables, labels), SIGMA_DATA)
    contestants, compile_seconds = [], {}
    for nfe in args.nfe:
        sigmas = schedules.polynomial(nfe + 1, *ENDS)

        def run(count, sigmas=sigmas):
            for _ in range(count):
                samplers.sample(denoise, x, sigmas, "ipndm", 4).x.block_until_ready()

        began = time.perf_counter()
        run(1)
        compile_seconds[str(nfe)] = time.perf_counter() - began
        contestants.append(Contestant(str(nfe), run))
    timings = measure.alternate(contestants, args.rounds, args.seconds)
    return [
        {
            "NFE": name,
            "first call s": f"{compile_seconds[name]:.1f}",
            "s a batch": spread(timing.wall).text(),
            "images/s": spread([args.batch / s for s in timing.wall]).text(),
        }
        for name, timing in timings.items()
    ]


_RUN = {"sample": _sample, "search": _search, "imagenet64": _imagenet64}

if __name__ == "__main__":
    main()
