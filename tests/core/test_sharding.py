import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxkd.core import sharding
from jaxkd.core.errors import UserError
from tests.core import sharded_study, tiny


@pytest.fixture
def devices(monkeypatch):
    """Pretends that there are so many devices."""
    monkeypatch.setattr(
        jax,
        "make_mesh",
        lambda shape, axes, axis_types, devices: dict(zip(axes, shape, strict=1)),
    )

    def pretend(count, backend="gpu"):
        monkeypatch.setattr(jax, "devices", lambda: list(range(count)))
        monkeypatch.setattr(jax, "default_backend", lambda: backend)

    return pretend


@pytest.mark.parametrize(
    ("count", "sizes", "wanted"),
    [
        (1, (0, -1, 1), (1, 1, 1)),
        (1, (1, 1, 1), (1, 1, 1)),
        (8, (1, -1, 1), (1, 8, 1)),
        (8, (1, -1, 2), (1, 4, 2)),
        (8, (1, 2, -1), (1, 2, 4)),
        (8, (1, 2, 4), (1, 2, 4)),
        (6, (1, 3, 2), (1, 3, 2)),
        (8, (2, -1, 1), (2, 4, 1)),
        (8, (6, -1, 1), None),
        # 0 takes as many as divide every group's members, here 12 and 6.
        (8, (0, -1, 1), (2, 4, 1)),
        (6, (0, -1, 1), (6, 1, 1)),
        (3, (0, -1, 1), (3, 1, 1)),
        (5, (0, -1, 1), (1, 5, 1)),
        (8, (0, 4, 1), (2, 4, 1)),
        (8, (0, 8, 1), (1, 8, 1)),
        (8, (0, 2, 2), (2, 2, 2)),
    ],
)
def test_mesh_sizes(devices, count, sizes, wanted):
    devices(count)
    sizes = dict(zip(sharding.AXES, sizes, strict=True))
    if wanted is None:
        with pytest.raises(UserError, match="multiply to the number of devices"):
            sharding.make_mesh(sizes, (12, 6))
    else:
        mesh = sharding.make_mesh(sizes, (12, 6))
        assert mesh == dict(zip(sharding.AXES, wanted, strict=True))


@pytest.mark.parametrize(
    ("members", "wanted"), [((12, 6), 2), ((1,), 1), ((24,), 8), ((5,), 1)]
)
def test_a_cpu_spreads_nothing_but_members(devices, members, wanted):
    devices(8, "cpu")
    mesh = sharding.make_mesh({"seed": 0, "data": -1, "fsdp": 1}, members)
    assert mesh == {"seed": wanted, "data": 1, "fsdp": 1}
    mesh = sharding.make_mesh({"seed": 1, "data": -1, "fsdp": 1}, members)
    assert mesh == {"seed": 1, "data": 8, "fsdp": 1}


def test_members_that_cannot_be_spread_evenly(devices):
    devices(8)
    with pytest.raises(UserError, match=r"seed is 4.*groups of 12, 6 .*or 0"):
        sharding.make_mesh({"seed": 4, "data": 2, "fsdp": 1}, (12, 6))


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, (2, 1)),
        (8, (4, 1)),
        (8, (-1, 3)),
        (8, (-1, -1)),
        (8, (-1, 0)),
        (8, (0, -1)),
        (8, (-2, -4)),
        (8, (-1, -2)),
        (8, (-1, 16)),
    ],
)
def test_mesh_sizes_that_do_not_fit_say_what_would(devices, count, sizes):
    devices(count)
    with pytest.raises(UserError) as error:
        sharding.make_mesh(dict(zip(sharding.AXES, (1, *sizes), strict=True)))
    message = str(error.value)
    assert f"there are {count} devices" in message
    assert f"'data': {sizes[0]}" in message and f"'fsdp': {sizes[1]}" in message


def test_a_real_mesh_of_one_device():
    mesh = sharding.make_mesh({"seed": 0, "data": -1, "fsdp": 1})
    assert dict(mesh.shape) == {"seed": 1, "data": 1, "fsdp": 1}
    array = np.arange(12).reshape(3, 4)
    for layout in (sharding.replicated(mesh), sharding.batch(mesh, axis=1)):
        for placed in (
            sharding.put({"a": array}, layout),
            sharding.put_local({"a": array}, layout),
        ):
            np.testing.assert_array_equal(placed["a"], array)
            assert placed["a"].sharding == layout


@pytest.mark.parametrize("size", [1, 7, 8, 1024])
def test_every_batch_divides_over_one_device(size):
    sharding.check_batch(SimpleNamespace(size=1), size, "batch")


@pytest.mark.parametrize(
    ("count", "size", "near"), [(4, 6, 8), (4, 1, 4), (8, 100, 96), (3, 64, 63)]
)
def test_a_batch_that_does_not_divide(count, size, near):
    sharding.check_batch(SimpleNamespace(size=count), near, "config.batch_size")
    with pytest.raises(UserError) as error:
        sharding.check_batch(SimpleNamespace(size=count), size, "config.batch_size")
    message = str(error.value)
    assert f"config.batch_size is {size}" in message
    assert f"{count} devices" in message and f"{near} would do" in message


@pytest.mark.parametrize(
    ("fsdp", "shape", "spec"),
    [
        (2, (24, 512, 256), ("seed", "fsdp", None)),
        (2, (24, 256, 512), ("seed", None, "fsdp")),
        # The largest that divides, not the largest.
        (4, (24, 1022, 256), ("seed", None, "fsdp")),
        (2, (512, 3, 3, 128, 256), ("seed", None, None, None, "fsdp")),
        # Never the axis over members, however large.
        (2, (4096, 301, 301), ("seed", None, None)),
        (4, (24, 1022, 301), ("seed", None, None)),  # none divides
        (2, (24, 100), ("seed", None)),  # not worth it
        (2, (100_000,), ("seed",)),  # one number per member
        (2, (), ()),
        (1, (24, 512, 256), ("seed", None, None)),  # nothing to split over
    ],
)
def test_fsdp_splits_the_largest_axis_that_divides(fsdp, shape, spec):
    mesh = jax.sharding.AbstractMesh(
        (2, 2, fsdp), sharding.AXES, axis_types=(AxisType.Auto,) * 3
    )
    leaf = jax.ShapeDtypeStruct(shape, np.float32)
    layout = sharding.state(mesh, {"a": leaf})["a"]
    assert layout.spec == PartitionSpec(*spec)
    parts = [dict(mesh.shape)[axis] for axis in layout.spec if axis]
    assert np.prod(layout.shard_shape(shape)) * np.prod(parts) == np.prod(shape)


def laid_out(rules):
    """The specs of a small state on 2 x 2 x 2 devices."""
    mesh = jax.sharding.AbstractMesh(
        (2, 2, 2), sharding.AXES, axis_types=(AxisType.Auto,) * 3
    )
    shapes = {"conv": (4, 3, 3, 128, 256), "head": (4, 64, 5), "bias": (4, 5)}
    state = {
        kind: {
            name: {"kernel": jax.ShapeDtypeStruct(shape, np.float32)}
            for name, shape in shapes.items()
        }
        for kind in ("params", "trace")
    }
    found = sharding.state(mesh, state, rules)
    return {
        f"{kind}/{name}": tuple(leaf["kernel"].spec)
        for kind, leaves in found.items()
        for name, leaf in leaves.items()
    }


def test_the_first_rule_that_fits_counts():
    rules = (("params/conv", "replicate"), ("head", 0), ("conv", -2))
    found = laid_out((*rules, (".*", "fsdp")))
    assert found == {
        "params/conv": ("seed", None, None, None, None),
        "trace/conv": ("seed", None, None, "fsdp", None),
        "params/head": ("seed", "fsdp", None),  # however small
        "trace/head": ("seed", "fsdp", None),
        "params/bias": ("seed", None),
        "trace/bias": ("seed", None),
    }
    assert laid_out(rules)["params/bias"] == ("seed", None)  # no rule fits
    conv = ("seed", None, None, None, "fsdp")
    assert laid_out(sharding.RULES)["params/conv"] == conv


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([("haed", "fsdp")], "'haed' is found in no leaf's path"),
        ([("head", 1)], "axis 1 of params/head/kernel, which has shape (64, 5)"),
        ([("head", 2)], "axis 2 of params/head"),
        ([("head", -3)], "axis -3 of params/head"),
    ],
)
def test_rules_that_cannot_be_followed(rules, said):
    with pytest.raises(UserError) as error:
        laid_out(rules)
    assert said in str(error.value)


@pytest.mark.slow
def test_training_does_not_depend_on_the_mesh(tmp_path):
    sizes = [(1, 4, 1), (1, 2, 2), (1, 1, 4), (4, 1, 1), (2, 2, 1), (2, 1, 2)]
    meshes = [dict(zip(sharding.AXES, each, strict=True)) for each in sizes]
    script = Path(sharded_study.__file__)
    command = [sys.executable, script, json.dumps(meshes), tmp_path / "out.npz"]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, check=True, timeout=300, env=os.environ | paths)
    with np.load(tmp_path / "out.npz") as found:
        found = dict(found)
    specs = [str(found[f"spec{n}"]) for n in range(len(meshes))]
    assert specs == [
        "P()",
        "P(None, 'fsdp')",
        "P(None, None, 'fsdp')",
        "P('seed',)",
        "P('seed',)",
        "P('seed', 'fsdp')",
    ]
    network, variables = tiny.teacher_of(tiny.Net(width=9))
    groups = tiny.make_study(sharded_study.ROWS, network, sharded_study.SEEDS)
    params, _ = sharded_study.train(
        {"seed": 1, "data": 1, "fsdp": 1}, groups, variables
    )
    for place, wanted in enumerate(jax.tree.leaves(params)):
        for number in range(len(meshes)):
            got = found[f"{number}/{place}"]
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
