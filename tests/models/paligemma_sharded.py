"""Compiles the whole 3B model for eight devices of a CPU, and prints their bytes.

Run by test_paligemma_sharding.py in a process of its own. Nothing is allocated.
"""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxkd.losses import chunked_cross_entropy
from jaxkd.models import paligemma
from jaxkd.models.paligemma import PaliGemma, lora, sharding

BATCH, LENGTH = 8, 384


def compile_step(mesh, preset: str, mode: str):
    """Compiles a training step: "lora" on a bfloat16 base, or "full" in float32."""
    dtype = "bfloat16" if mode == "lora" else "float32"
    config = dataclasses.replace(paligemma.preset(preset), dtype=dtype, remat=True)
    model = PaliGemma(config)
    params = jax.eval_shape(
        lambda key: jax.tree.map(
            lambda x: x.astype(dtype), paligemma.init(config, key)
        ),
        jax.random.key(0),
    )
    if mode == "lora":
        params = jax.eval_shape(
            lambda p, k: lora.add(p, k, rank=8), params, jax.random.key(0)
        )
        base, trained = lora.split(params)
    else:
        base, trained = {}, params
    optimiser = optax.adamw(1e-4)
    state = jax.eval_shape(optimiser.init, trained)

    def step(base, trained, state, batch):
        def loss(trained):
            whole = lora.combine(base, trained)
            tokens = batch["tokens"]
            hidden = model.apply(
                {"params": whole},
                batch["images"],
                tokens,
                causal=batch["causal"],
                valid=batch["valid"],
                method="hidden",
            )
            table = whole["llm"]["embedder"]["input_embedding"]
            nll = chunked_cross_entropy(hidden[:, :-1], table, tokens[:, 1:], chunks=8)
            return jnp.mean(nll * batch["causal"][:, 1:])

        value, gradient = jax.value_and_grad(loss)(trained)
        updates, state_ = optimiser.update(gradient, state, trained)
        return optax.apply_updates(trained, updates), state_, value

    length = config.image_tokens + LENGTH - 256
    batch = {
        "images": jax.ShapeDtypeStruct(
            (BATCH, *config.vision.image_shape, 3), jnp.float32
        ),
        "tokens": jax.ShapeDtypeStruct((BATCH, length), jnp.int32),
        "causal": jax.ShapeDtypeStruct((BATCH, length), jnp.bool_),
        "valid": jax.ShapeDtypeStruct((BATCH, length), jnp.bool_),
    }
    rows = NamedSharding(mesh, sharding.BATCH)
    scalar = NamedSharding(mesh, PartitionSpec())
    places = (
        sharding.shardings(mesh, base),
        sharding.shardings(mesh, trained),
        sharding.shardings(mesh, state),
        {name: rows for name in batch},
    )
    jitted = jax.jit(
        step,
        in_shardings=places,
        out_shardings=(places[1], places[2], scalar),
        donate_argnums=(1, 2),
    )
    return jitted.lower(base, trained, state, batch)


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    found = {}
    for name in sys.argv[1:]:
        preset, mode, fsdp, model = name.split(",")
        shape = (8 // int(fsdp) // int(model), int(fsdp), int(model))
        mesh = jax.make_mesh(shape, sharding.AXES, axis_types=(AxisType.Auto,) * 3)
        compiled = compile_step(mesh, preset, mode).compile(
            compiler_options={"xla_llvm_disable_expensive_passes": True}
        )
        memory = compiled.memory_analysis()
        found[name] = {
            "arguments": memory.argument_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
