"""Self-supervised losses of a batch over eight CPU devices.

Run by ``test_self_supervised`` in a process of its own, because the number of devices
is fixed when JAX starts. Prints the largest difference of each loss and of its gradient
from those on one device.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxkd import losses
from jaxkd.aot import hlo
from jaxkd.methods.common import self_supervised

QUEUE = np.random.default_rng(1).normal(size=(32, 8)).astype(np.float32)


def _dino(a, b):
    student, teacher = jnp.stack([a, b, a + b]), jnp.stack([b, a])
    return losses.dino(student, teacher, jnp.zeros(8), teacher_temperature=0.5).mean()


LOSSES = {
    "nt_xent": losses.nt_xent,
    "moco": lambda a, b: losses.moco(a, b, QUEUE).mean(),
    "negative_cosine": lambda a, b: losses.negative_cosine(a, b).mean(),
    "fast_siam": lambda a, b: losses.fast_siam(
        jnp.stack([a, b, a * b]), jnp.stack([b, a, a])
    ).mean(),
    "dino": _dino,
    # Means over features, so that one bound fits all.
    "barlow_twins": lambda a, b: losses.barlow_twins(a, b) / 8,
    "vicreg": lambda a, b: losses.vicreg(a, b) / 25,
    "centre": lambda a, b: jnp.sum(a * losses.centre_update(jnp.zeros(8), b)),
}


def _sent_for_views(split):
    """Returns what devices send each other to compute with all views at once."""

    def means(views):
        rows = jnp.tanh(self_supervised.join_views(views)).mean((1, 2))
        return self_supervised.split_views(rows, views.shape[1])

    views = jax.ShapeDtypeStruct((16, 2, 4, 4, 3), jnp.float32, sharding=split)
    return hlo.collectives(jax.jit(means).lower(views).compile().as_text())


def main():
    """Prints name -> (difference of values, of gradients, number of devices).

    Of ``views``, the names of what is sent.
    """
    jax.config.update("jax_num_cpu_devices", 8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    a, b = np.random.default_rng(0).normal(size=(2, 16, 8)).astype(np.float32)

    def measure(a, b):
        return {
            name: jax.value_and_grad(loss, (0, 1))(a, b)
            for name, loss in LOSSES.items()
        }

    whole = jax.device_get(jax.jit(measure)(a, b))
    parts = jax.device_put((jnp.asarray(a), jnp.asarray(b)), split)
    spread = jax.device_get(jax.jit(measure, in_shardings=(split, split))(*parts))
    result = {}
    for name in LOSSES:
        value, slopes = spread[name]
        result[name] = [
            float(abs(value - whole[name][0])),
            max(
                float(abs(x - y).max())
                for x, y in zip(slopes, whole[name][1], strict=True)
            ),
            len(parts[0].sharding.device_set),
        ]
    # A control: the mean over the devices, each by itself, is another number.
    shards = zip(a.reshape(8, 2, 8), b.reshape(8, 2, 8), strict=True)
    alone = np.mean([losses.vicreg(*shard) for shard in shards])
    result["control"] = float(abs(alone - losses.vicreg(a, b)))
    result["views"] = sorted(_sent_for_views(split))
    print("RESULT" + json.dumps(result))


if __name__ == "__main__":
    main()
