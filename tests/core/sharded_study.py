"""Trains a tiny study on the mesh given as JSON, on four CPU devices.

Run by ``test_sharding.py`` in a process of its own, because the number of devices is
fixed when JAX starts. Writes the parameters to the ``.npz`` file named last.
"""

import json
import sys

import jax
import numpy as np

from jaxkd.core import sharding
from jaxkd.core.step import make_train_call
from jaxkd.core.study import init_group
from tests.core import tiny

EXAMPLES, STEPS, SEEDS = 40, 5, (1, 2)
ROWS = {
    "kd": tiny.Row("kd", 5, network=tiny.Net(width=8)),
    "ce": tiny.Row("supervised", 3, 0.2, 0.01, network=tiny.Net(width=8)),
}


def train(sizes, groups, variables):
    """Returns the parameters and how one kernel was laid out."""
    mesh = sharding.make_mesh(sizes, [len(group.members) for group in groups])
    abstract = jax.eval_shape(lambda: init(groups))
    layout = sharding.state(mesh, abstract)
    state = jax.jit(lambda: init(groups), out_shardings=layout)()
    index = np.random.default_rng(3).integers(0, EXAMPLES, (STEPS, 1, tiny.BATCH))
    batches = {
        "data": {
            "index": sharding.put(index.astype(np.int32), sharding.batch(mesh, axis=2))
        },
        "lr": sharding.put(
            {g.name: g.learning_rates(0, STEPS) for g in groups},
            sharding.replicated(mesh),
        ),
    }
    frozen, table = (
        sharding.put(tree, sharding.replicated(mesh))
        for tree in ({"teacher": variables}, tiny.make_table(EXAMPLES))
    )
    settings = tiny.settings(groups)._replace(mesh=mesh)
    call = tiny.jit(make_train_call(groups, settings), donate_argnums=0)
    state, _ = call(state, frozen, table, batches, STEPS)
    kernel = state["group0"].params["student"]["first"]["kernel"]
    return jax.device_get(state["group0"].params), kernel.sharding.spec


def init(groups):
    """Returns the initial state of all groups."""
    return {group.name: init_group(group, {}, ema=False) for group in groups}


def main():
    """Trains on every mesh and writes what came out."""
    jax.config.update("jax_num_cpu_devices", 4)
    sharding.FSDP_MIN_SIZE = 16
    network, variables = tiny.teacher_of(tiny.Net(width=9))
    groups = tiny.make_study(ROWS, network, SEEDS)
    found = {}
    for number, sizes in enumerate(json.loads(sys.argv[1])):
        params, spec = train(sizes, groups, variables)
        flat, _ = jax.tree.flatten(params)
        found |= {f"{number}/{place}": leaf for place, leaf in enumerate(flat)}
        found[f"spec{number}"] = np.array(str(spec))
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
