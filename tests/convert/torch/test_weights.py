"""From torch to jaxkd and back, through files of every layout that is around."""

import argparse
import re
import zipfile

import jax
import numpy as np
import pytest
from flax import traverse_util

from jaxkd import models
from jaxkd.convert import load_torch, save_torch
from jaxkd.convert.torch import names, weights
from jaxkd.core.errors import UserError

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch
zoo = pytest.importorskip("tests.torch_zoo")

CLASSES = 7
OPTIONS = {"blocks": 1, "stem": 4, "widths": (4, 6, 8)}
GROUPS = ((1, 4, 1, 1), (6, 6, 2, 2))
SHUFFLE_V1 = {"widths": (48, 96, 144), "blocks": (1, 2, 1)}
SHUFFLE_V2 = {"widths": (24, 32, 48), "blocks": (1, 1, 1), "head": 64}

FAMILIES = {
    "resnet8": (OPTIONS, lambda: zoo.ResNet(CLASSES, 1, 4, (4, 6, 8))),
    "wrn_16_1": ({"blocks": 1}, lambda: zoo.WideResNet(CLASSES, 1, 1)),
    "vgg8": (
        {"blocks": ((4,), (6, 6), (8,))},
        lambda: zoo.VGG(CLASSES, ((4,), (6, 6), (8,))),
    ),
    "MobileNetV2": (
        {"stem": 4, "groups": GROUPS, "head": 8},
        lambda: zoo.MobileNetV2(CLASSES, 4, GROUPS, 8, tapped=(0, 1)),
    ),
    "ShuffleV1": (SHUFFLE_V1, lambda: zoo.ShuffleV1(CLASSES, **SHUFFLE_V1)),
    "ShuffleV2": (SHUFFLE_V2, lambda: zoo.ShuffleV2(CLASSES, **SHUFFLE_V2)),
}


def randomize(network, seed=0):
    """Makes every tensor of a torch network random, counters too."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.dtype == torch.int64:
            tensor.fill_(1000)
        else:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network


@pytest.fixture
def network():
    return randomize(zoo.ResNet(CLASSES, 1, 4, (4, 6, 8)))


def load(path, **arguments):
    return load_torch(path, "resnet8", CLASSES, options=OPTIONS, **arguments)


def assert_is(variables, network):
    """Compares with a torch network by a way of its own: by module, not by table."""
    params, statistics = variables["params"], variables["batch_stats"]
    block, ours = network.layer2[0], params["stage2_block0"]
    for torch_conv, flax_conv in (
        (network.conv1, params["conv1"]),
        (block.conv2, ours["conv2"]),
        (block.downsample[0], ours["shortcut_conv"]),
    ):
        wanted = torch_conv.weight.detach().numpy()
        np.testing.assert_array_equal(
            np.einsum("hwio->oihw", flax_conv["kernel"]), wanted
        )
    norm = block.downsample[1]
    moments = statistics["stage2_block0"]["shortcut_bn"]
    np.testing.assert_array_equal(ours["shortcut_bn"]["scale"], norm.weight.detach())
    np.testing.assert_array_equal(ours["shortcut_bn"]["bias"], norm.bias.detach())
    np.testing.assert_array_equal(moments["mean"], norm.running_mean)
    np.testing.assert_array_equal(moments["var"], norm.running_var)
    np.testing.assert_array_equal(params["fc"]["kernel"].T, network.fc.weight.detach())
    np.testing.assert_array_equal(params["fc"]["bias"], network.fc.bias.detach())
    assert {x.dtype for x in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


def with_prefix(state, prefix):
    return {prefix + key: tensor for key, tensor in state.items()}


def optimizer_of(network):
    return torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9).state_dict()


def wrap(network, kind):
    """What published training scripts save."""
    state = network.state_dict()
    teacher = with_prefix(
        randomize(zoo.ResNet(9, 1, 4, (4, 4, 4)), seed=1).state_dict(), "teacher."
    )
    return {
        "plain": state,
        "parallel": with_prefix(state, "module."),
        "epoch": {
            "epoch": 240,
            "model": state,
            "accuracy": torch.tensor(79.4),
            "optimizer": optimizer_of(network),
        },
        "last": {
            "opt": argparse.Namespace(model="resnet8", lr=0.05, steps=[150, 180]),
            "model": state,
            "optimizer": optimizer_of(network),
        },
        "student_best": {"model": state},
        "state_dict": {"state_dict": with_prefix(state, "module."), "arch": "resnet"},
        "latest": {
            "epoch": 3,
            "model": with_prefix(
                with_prefix(state, "student.")
                | teacher
                | {"conv_reg.weight": torch.ones(2, 2)},
                "module.",
            ),
            "optimizer": optimizer_of(network),
            "best_acc": torch.tensor(70.0),
        },
        "old": {
            key: tensor
            for key, tensor in state.items()
            if not key.endswith("num_batches_tracked")
        },
    }[kind]


KINDS = [
    "plain",
    "parallel",
    "epoch",
    "last",
    "student_best",
    "state_dict",
    "latest",
    "old",
]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_layouts(tmp_path, network, kind, zipped):
    path = tmp_path / kind
    content = wrap(network, kind)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert_is(load(path), network)


def test_the_teacher_of_a_distiller(tmp_path, network):
    teacher = with_prefix(network.state_dict(), "module.teacher.")
    student = with_prefix({"a": torch.ones(2)}, "module.student.")
    torch.save({"model": teacher | student}, tmp_path / "latest")
    assert_is(load(tmp_path / "latest", part="teacher"), network)
    with pytest.raises(UserError, match=r"missing: bn1\.bias"):
        load(tmp_path / "latest")


def test_safetensors(tmp_path, network):
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "model.safetensors")
    assert_is(load(tmp_path / "model.safetensors"), network)


def test_parts_that_are_not_there(tmp_path, network):
    path = tmp_path / "file"
    torch.save(network.state_dict(), path)
    with pytest.raises(UserError, match=r"one network without a role.*is teacher"):
        load(path, part="teacher")
    torch.save(with_prefix(network.state_dict(), "module.teacher."), path)
    with pytest.raises(UserError, match=r"holds teacher, but .* is None"):
        load(path)


def test_another_network_is_refused(tmp_path, network):
    path = tmp_path / "file"
    torch.save({"model": network.state_dict()}, path)
    with pytest.raises(UserError) as error:
        load_torch(path, "resnet14", CLASSES, options=OPTIONS | {"blocks": 2})
    assert "missing: layer1.1.bn1.bias" in str(error.value)
    assert f"The checkpoint {path} is of another model" in str(error.value)
    with pytest.raises(
        UserError, match=re.escape("fc.bias: got (7,), expected (100,)")
    ):
        load_torch(path, "resnet8", 100, options=OPTIONS)
    with pytest.raises(UserError, match=r"conv1.weight: got \(4, 3.*expected \(4, 1"):
        load(path, channels=1)
    with pytest.raises(UserError, match="Did you mean 'resnet8x4'"):
        load_torch(path, "resnet8x", CLASSES)
    model_state = network.state_dict() | {"bn9.num_batches_tracked": torch.tensor(0)}
    torch.save(model_state, path)
    with pytest.raises(UserError, match=r"unexpected: bn9\.num_batches"):
        load(path)


def test_files_without_a_state_dictionary(tmp_path):
    torch.save({"epoch": 3, "weights": torch.ones(2)}, tmp_path / "file")
    with pytest.raises(UserError, match="holds a dictionary of epoch, weights"):
        load(tmp_path / "file")
    torch.save([torch.ones(2)], tmp_path / "file")
    with pytest.raises(UserError, match="holds list"):
        load(tmp_path / "file")
    torch.save({1: torch.ones(2)}, tmp_path / "file")
    with pytest.raises(UserError, match="holds a dictionary of 1"):
        load(tmp_path / "file")


def test_files_that_cannot_be_written(tmp_path):
    weights.check_file(tmp_path / "student_best")
    for name, match in (
        ("", "is a folder"),
        ("gone/a.pth", "in a folder that is not there"),
        ("a.onnx", "ends in .onnx, expected one of .pth"),
    ):
        with pytest.raises(UserError, match=match):
            weights.check_file(tmp_path / name)


@pytest.mark.parametrize("name", FAMILIES)
def test_round_trip(tmp_path, name):
    options, make = FAMILIES[name]
    network = randomize(make())
    wanted = network.state_dict()
    there, back = tmp_path / "there", tmp_path / "back"
    torch.save(wanted, there)
    variables = load_torch(there, name, CLASSES, options=options)
    save_torch(back, variables, name, options=options)
    got = torch.load(back, weights_only=True)["model"]
    assert list(got) == list(wanted)
    for key, tensor in wanted.items():
        if key.endswith(names.COUNTER):
            assert (got[key].dtype, got[key].item()) == (torch.int64, 0)
        else:
            assert torch.equal(got[key], tensor), key
            assert got[key].stride() == tensor.stride()
    make().load_state_dict(got)  # strict
    assert torch.equal(torch.load(back, mmap=True)["model"][key], got[key])


def test_our_own_files_are_read_and_equal_each_time(tmp_path):
    network = models.build("resnet8", CLASSES, **OPTIONS)
    variables = jax.eval_shape(network.init, jax.random.key(0), np.ones((1, 8, 8, 1)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape), variables)
    for name in ("a", "b"):
        save_torch(tmp_path / name, variables, "resnet8", options=OPTIONS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    got = traverse_util.flatten_dict(load(tmp_path / "a", channels=1))
    wanted = traverse_util.flatten_dict(variables)
    assert set(got) == set(wanted)
    for path, array in wanted.items():
        np.testing.assert_array_equal(got[path], array.astype(np.float32))


def test_variables_of_another_network_are_not_saved(tmp_path):
    with pytest.raises(UserError, match="not those of a resnet8: batch_stats/bn1/mean"):
        save_torch(tmp_path / "a", {"params": {}}, "resnet8", options=OPTIONS)
    assert not list(tmp_path.iterdir())


def test_families_without_names():
    with pytest.raises(UserError, match="'transformer' are not known"):
        names.leaves("transformer", models.build("resnet8", 10))


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."),
        *("model.", "backbone.", "module.model.", "model.module."),
    ],
)
@pytest.mark.parametrize("wrapper", ["model", "state_dict", "net", "model_ema", ""])
def test_names_as_wrappers_leave_them(tmp_path, prefix, wrapper):
    state = {
        f"{prefix}conv.weight": torch.ones(2, 3),
        f"{prefix}fc.bias": torch.ones(2),
    }
    if prefix.startswith("module."):
        state["n_averaged"] = torch.tensor(4)
    if prefix.startswith("model."):
        state[f"{prefix}n_averaged"] = torch.tensor(4)
    path = tmp_path / "file.pth"
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    assert set(weights.read_state(path)) == {"conv.weight", "fc.bias"}


def test_a_prefix_chooses_names(tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"encoder.fc.bias": torch.ones(2), "head.bias": torch.zeros(2)}, path)
    for prefix in ("encoder.", "encoder"):
        assert set(weights.read_state(path, prefix=prefix)) == {"fc.bias"}
    with pytest.raises(UserError, match=r"begins with 'body\.'.*encoder, head"):
        weights.read_state(path, prefix="body.")


def test_weights_that_diverged_are_refused(tmp_path):
    path = tmp_path / "file.pth"
    torch.save({"fc.bias": torch.tensor([1.0, float("nan")])}, path)
    with pytest.raises(UserError, match=r"fc\.bias holds numbers that are not finite"):
        weights.read_state(path)


def test_what_schedules_and_devices_leave_is_ignored(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    path = tmp_path / "file.pth"
    content = {
        "model": {"fc.bias": torch.ones(2)},
        "scheduler": schedule.state_dict(),
        "optimizer": optimizer.state_dict(),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
    }
    torch.save(content, path)
    assert set(weights.read_state(path)) == {"fc.bias"}


def test_a_torchscript_file_is_named(tmp_path):
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:  # as torch.jit.save lays it out
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"script/{name}", b"")
    with pytest.raises(UserError, match="is a TorchScript file"):
        weights.read_state(path)
