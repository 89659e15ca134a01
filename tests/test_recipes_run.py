"""Every student of the recipes takes two steps, on few and small drawn images.

Two of them are tested always, one like its teacher and one unlike it; the others, whose
networks and losses have tests of their own, before a release.
"""

import functools

import jax
import numpy as np
import pytest

from jaxkd.aot import fake_data
from jaxkd.core import config as configs
from jaxkd.core.source import ArraySource
from jaxkd.training import program
from jaxkd.training.build import build
from tests.test_configs import MODULES, RECIPES

# These programs run for two steps: compiling them is what takes the time.
QUICK = {"xla_backend_optimization_level": 0}
# With the first teacher that it has in the tables.
PAIRS = {arg.split(",")[-1]: arg for arg in reversed(RECIPES)}
ALWAYS = ("resnet8x4", "vgg8")


def small_data(config):
    """Random images of the recipe's classes; those of ImageNet are 64 pixels wide."""
    options = configs.resolved(config.data)
    known = fake_data.make(options.pop("name"), **options)
    side = min(known.info.image_shape[0], 64)
    info = known.info._replace(image_shape=(side, side, 3))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, side, side, 3)).astype(np.uint8)
    labels = rng.integers(0, info.num_classes, 12).astype(np.int32)
    source = ArraySource({"image": images, "label": labels})
    return known._replace(info=info, train=lambda seed: source, test=source)


@pytest.mark.parametrize(
    "arg",
    [
        pytest.param(
            arg,
            id=student,
            marks=pytest.mark.slow if student in ALWAYS else pytest.mark.nightly,
        )
        for student, arg in PAIRS.items()
    ],
)
def test_two_steps(arg):
    config = MODULES["rld"].get_config(arg)
    config.students = configs.students({n: config.students[n] for n in ("kd", "rld")})
    config.seeds, config.batch_size, config.steps_per_call = (1,), 4, 2
    run = build(config, small_data(config))
    program.check_losses(run)
    shapes = program.abstract_inputs(run)
    init = functools.partial(program.init, run)
    networks = {
        name: jax.jit(one.network.init, compiler_options=QUICK)(
            jax.random.key(1), np.zeros((1, *run.dataset.info.image_shape), np.float32)
        )
        for name, one in run.frozen.items()
    }
    state, _ = jax.jit(init, compiler_options=QUICK)(networks)
    before = jax.device_get(state)
    table = run.draws[0].arrays
    batches = {
        "data": {"index": np.arange(8, dtype=np.int32).reshape(2, 1, 4)},
        "lr": {group.name: group.learning_rates(0, 2) for group in run.groups},
    }
    call = program.train_call(run, shapes[0]).lower(*shapes).compile(QUICK)
    state, metrics = call(state, networks, table, batches, 2)
    for group in run.groups:
        assert np.isfinite(metrics[group.name]["loss"]).all()
        assert not np.any(metrics[group.name]["skipped"])
        now = jax.device_get(state[group.name].params)
        moved = jax.tree.map(
            lambda a, b: not np.array_equal(a, b), before[group.name].params, now
        )
        assert all(jax.tree.leaves(moved))
