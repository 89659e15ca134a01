"""What sampling with EDM's ImageNet-64 network takes on TPUs, compiled without one.

    pip install -e '.[tpu_aot]'
    python -m benchmarks.sampler_plans [--topology v5e:2x4] [--batch 64 256]

Compiles a sampling run (iPNDM of order 4, the 295.9 million parameters on every chip,
the batch spread over all) and prints a Markdown table: memory of a device, and the
operations of one call of the denoiser. Nothing is executed.
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxkd.aot import flops, hlo, plan
from jaxkd.diffusion import denoisers, samplers, schedules
from jaxkd.models import edm

NFE = 10
# The program is looked at, not run: this takes a fifth of the time.
_OPTIONS = {"exec_time_optimization_effort": -1.0}


def main() -> None:
    """Compiles for each batch and prints a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--topology", default="v5e:2x4", help="default: %(default)s")
    add("--batch", type=int, nargs="+", default=(64,), help="images, over all chips")
    add("--width", type=int, default=192, help="of the network (default: %(default)s)")
    args = parser.parse_args()
    print(
        "| topology | batch | parameters | arguments MiB | temporaries MiB | "
        "peak MiB of a device | GFLOP a call and device | all-reduce | compiled in s |"
        "\n" + "|---" * 9 + "|",
        flush=True,
    )
    for batch in args.batch:
        print(_row(args, batch), flush=True)


def _row(args: argparse.Namespace, batch: int) -> str:
    mesh = jax.make_mesh(
        (len(devices := plan._devices(args.topology)),),
        ("data",),
        devices=devices,
        axis_types=(jax.sharding.AxisType.Auto,),
    )
    module = edm.build(
        "imagenet-64x64-cond-adm", dtype=jnp.bfloat16, model_channels=args.width
    )
    variables, x, labels = _arguments(module, batch)
    split = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    variables = jax.tree.map(lambda one: _laid_out(one, whole), variables)
    x, labels = _laid_out(x, split), _laid_out(labels, split)
    sigmas = schedules.polynomial(NFE + 1, 0.002, 80.0)

    def sample(variables: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
        denoise = denoisers.edm(edm.bind(module, variables, labels))
        return samplers.sample(denoise, x, sigmas, "ipndm", 4).x[-1]

    began = time.monotonic()
    traced = jax.jit(sample, out_shardings=split).trace(variables, x, labels)
    operations = flops.count(traced.jaxpr) / mesh.size / NFE
    compiled = traced.lower(lowering_platforms=("tpu",)).compile(_OPTIONS)
    seconds = time.monotonic() - began
    memory = compiled.memory_analysis()
    sent = hlo.collectives(compiled.as_text())
    count = sum(int(np.prod(one.shape)) for one in jax.tree.leaves(variables))
    cells = (
        args.topology,
        batch,
        f"{count:,}",
        f"{memory.argument_size_in_bytes / 2**20:,.0f}",
        f"{memory.temp_size_in_bytes / 2**20:,.0f}",
        f"{memory.peak_memory_in_bytes / 2**20:,.0f}",
        f"{operations / 1e9:,.0f}",
        sum(one.number for one in sent.values()),
        f"{seconds:.0f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _arguments(module: edm.UNet, batch: int) -> tuple[Any, Any, Any]:
    """Returns the shapes of the network's variables, latents and labels."""
    x = jax.ShapeDtypeStruct((batch, 64, 64, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch, 1000), jnp.float32)
    noise = jax.ShapeDtypeStruct((batch,), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), x, noise, labels), x, labels


def _laid_out(one: Any, layout: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=layout)


if __name__ == "__main__":
    main()
