"""Compiles Stable Diffusion's steps for one TPU v5e ahead of time: their memory.

    python -m benchmarks.stable_diffusion_plans [sd-1.5 sd-2.1 ...]

For each network, in bfloat16: one denoising step with guidance at 64 x 64 latents, and
for sd-1.5 the gradient step of D-TIIL's alignment, with each block computed again.
Needs no TPU, but its compiler: pip install -e '.[tpu_aot]'. Minutes for each program.
"""

import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from jaxkd.convert.stable_diffusion import param_shapes
from jaxkd.models.stable_diffusion import UNet
from jaxkd.models.stable_diffusion.unet import PUBLISHED

_TOKENS, _SIDE = 77, 64
_OPTIONS = {"exec_time_optimization_effort": -1.0}  # compiles several times as fast


def main(names: list[str]) -> None:
    """Compiles the programs of the networks named, or of all."""
    topology = topologies.get_topology_desc(
        "v5e:1x1", platform="tpu", chips_per_host_bounds=(1, 1, 1)
    )
    sharding = SingleDeviceSharding(topology.devices[0])
    for name in names or PUBLISHED:
        network = UNet(**PUBLISHED[name], dtype=jnp.bfloat16, remat=True)
        _compile(
            f"{name}: denoising step", partial(_denoise, network), network, sharding
        )
        if name == "sd-1.5":
            _compile(
                f"{name}: gradient", partial(_gradient, network), network, sharding
            )


def _denoise(network, params, x, timestep, context):
    shape = (2, *x.shape[1:])
    eps = network.apply(
        {"params": params}, jnp.broadcast_to(x, shape), timestep, context
    )
    return eps[:1] + 7.5 * (eps[1:] - eps[:1])


def _gradient(network, params, x, timestep, context):
    def loss(context):
        eps = network.apply({"params": params}, x, timestep, context)
        return jnp.mean((eps - x[..., : eps.shape[-1]]) ** 2)

    return jax.grad(loss)(context[:1].astype(jnp.float32))


def _compile(title, function, network, sharding) -> None:
    def abstract(shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    params = jax.tree.map(lambda leaf: abstract(leaf.shape), param_shapes(network))
    arguments = (
        params,
        abstract((1, _SIDE, _SIDE, network.in_channels)),
        abstract((), jnp.int32),
        abstract((2, _TOKENS, network.context_width)),
    )
    began = time.perf_counter()
    compiled = jax.jit(function).lower(*arguments).compile(compiler_options=_OPTIONS)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    print(
        f"{title}: peak {memory.peak_memory_in_bytes / 1e9:.2f} GB, of which arguments "
        f"{memory.argument_size_in_bytes / 1e9:.2f} GB; "
        f"{cost.get('flops', 0) / 1e12:.2f} TFLOP; compiled in "
        f"{time.perf_counter() - began:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
