"""Relation losses of a batch over four CPU devices; run by ``test_sharded_relations``.

In a process of its own, because the number of devices is fixed when JAX starts. Prints
the largest difference of each loss and of its gradient from the unsharded ones.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxkd import losses

LABELS = np.arange(16) % 5
LOSSES = {
    "first": lambda s, t: losses.first_order(s, t).mean(),
    "second": losses.second_order,
    "second gram": lambda s, t: losses.second_order(s, t, form="gram"),
    "third": losses.third_order,
    "third gram": lambda s, t: losses.third_order(s, t, form="gram"),
    "third chunked": lambda s, t: losses.third_order(s, t, chunk=4),
    "pkt": losses.pkt,
    "sp": losses.similarity_preserving,
    "cc": losses.correlation_congruence,
    "darkrank": lambda s, t: losses.darkrank(s, t).mean(),
    "relation contrast": losses.relation_contrast,
    "instance contrast": lambda s, t: losses.instance_contrast(s, t, LABELS).mean(),
}


def main():
    """Prints name -> (difference of values, of gradients, number of shards)."""
    jax.config.update("jax_num_cpu_devices", 4)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec("data"))
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 16, 8)).astype(np.float32)

    def measure(s, t):
        return {name: jax.value_and_grad(f)(s, t) for name, f in LOSSES.items()}

    whole = jax.device_get(jax.jit(measure)(s, t))
    spread = jax.jit(measure, in_shardings=(split, split))
    parts = jax.device_put((jnp.asarray(s), jnp.asarray(t)), split)
    found = spread(*parts)
    result = {}
    for name in LOSSES:
        value, slope = (np.asarray(x) for x in found[name])
        result[name] = [
            float(abs(value - whole[name][0])),
            float(abs(slope - whole[name][1]).max()),
            len(parts[0].sharding.device_set),
        ]
    # A control: the mean over shards, each by itself, is another number.
    alone = np.mean([losses.second_order(*x) for x in zip(
        s.reshape(4, 4, 8), t.reshape(4, 4, 8), strict=True)])  # fmt: skip
    result["control"] = [float(abs(alone - whole["second"][0]))]
    print("RESULT" + json.dumps(result))


if __name__ == "__main__":
    main()
