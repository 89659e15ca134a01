"""Compiling for TPUs that are not there, and what is told about it."""

import importlib.util

import pytest
from ml_collections import ConfigDict

from jaxkd.aot import fake_data
from jaxkd.aot import plan as aot
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError

COMPILER = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu_aot"
)


def make_config(batch_size=64, seeds=(1, 2)):
    """A small study on CIFAR-100, whose files are not there."""
    config = configs.default()
    config.name = "plan"
    config.data = ConfigDict({"name": "cifar", "root": "nowhere"})
    config.model = ConfigDict({"name": "resnet8"})
    config.batch_size, config.seeds = batch_size, seeds
    config.needs = ConfigDict({"teacher": configs.needed(config)})
    config.students = configs.students(
        {"kd": {"method": "kd"}, "rld": {"method": "rld"}}
    )
    return config


def test_outlines_are_like_the_data():
    cifar = fake_data.make("cifar", classes=10, root="nowhere")
    assert cifar.info.num_classes == 10 and len(cifar.train(0)) == 50_000
    imagenet = fake_data.make("folder", root="nowhere", size=96)
    assert imagenet.info.image_shape == (96, 96, 3)
    assert (len(imagenet.train(0)), len(imagenet.test)) == (1_281_167, 50_000)
    with pytest.raises(UserError, match="only outlined"):
        imagenet.test[0]
    faces = fake_data.make("face_forgery", root="nowhere", size=64, graph="ffpp")
    assert faces.info.image_shape == (64, 64, 3)
    assert faces.fields["code"].shape == (10,)
    assert fake_data.make("npz", path="nowhere") is None


def test_the_compilers_refusal_is_read():
    refusals = {
        "RESOURCE_EXHAUSTED: total memory required (8.00T) exceeds available HBM "
        "(15.75G).": (2**43, int(15.75 * 2**30)),
        "Ran out of memory in memory space hbm. Used 20.5G of 15.75G hbm.": (
            int(20.5 * 2**30),
            int(15.75 * 2**30),
        ),
    }
    for text, wanted in refusals.items():
        assert aot._memory(RuntimeError(text)) == wanted
    assert aot._memory(RuntimeError("INVALID_ARGUMENT: something else")) is None


def test_without_the_compiler_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[tpu_aot\]'"):
        aot.plan(make_config(), "v5e:2x2")


def test_plans_as_text():
    plan = {
        "topology": "v5e:2x2",
        "device": "TPU v5 lite",
        "devices": 4,
        "mesh": {"seed": 2, "data": 2},
        "name": "plan",
        "data": "cifar100",
        "missing_weights": ["runs/teacher"],
        "batch_size": 64,
        "members": 6,
        "capacity": 16 * 2**30,
        "flops": 3_000_000_000,
        "fits": False,
        "peak": 20 * 2**30,
        "largest_batch_size": 48,
        "seconds": 3.2,
    }
    text = aot.format_plan(plan)
    assert "NO: 20.00 GiB of 16.00 GiB" in text and "about 48" in text
    assert "weights              runs/teacher (not found)" in text
    fitting = {"arguments": 2**30, "temporaries": 2**29}
    sent = {"all-reduce": {"number": 7, "bytes": 2_000_000}}
    text = aot.format_plan(plan | fitting | {"fits": True, "collectives": sent})
    assert "all-reduce           7 a step, 2.0 MB" in text


@COMPILER
@pytest.mark.parametrize("topology", ["v5litepod-8", "v9x:2x2"])
def test_an_unknown_topology_is_told(topology):
    with pytest.raises(UserError, match=r"Expected\s+KIND:AxB"):
        aot.plan(make_config(), topology)


@COMPILER
@pytest.mark.slow
def test_a_step_is_compiled_for_a_slice():
    plan = aot.plan(make_config(), "v5e:2x4", largest=False)
    assert (plan["devices"], plan["mesh"]["seed"], plan["mesh"]["data"]) == (8, 4, 2)
    assert plan["fits"] and plan["peak"] < plan["capacity"] < 16 * 2**30
    assert plan["data"] == "cifar100 (assumed, files not found)"
    # One of gradients and metrics, and of the nine batch norms a mean and a variance
    # each, forwards and backwards, of which the compiler joins some; a jump is a bug of
    # the layout.
    assert 1 + 2 * 9 <= plan["collectives"]["all-reduce"]["number"] <= 1 + 4 * 9
    assert "all-to-all" not in plan["collectives"]


@COMPILER
@pytest.mark.slow
def test_a_batch_that_is_too_large_is_told():
    plan = aot.plan(make_config(50_000, seeds=(1,)), "v5e:1x1", largest=False)
    assert not plan["fits"] and plan["peak"] > plan["capacity"]
