"""Xception against an independent network in torch, and its published size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxkd import models


def count(network, side=71):
    variables = jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, side, side, 3))
    )
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def test_the_published_number_of_parameters():
    # Chollet, table 3: 22,855,952 with the 1000 classes of ImageNet.
    assert count(models.build("xception", 1000)) == 22_855_952
    assert count(models.build("xception", 12)) == 22_855_952 - 988 * 2049


def torch_network(torch, stem, entry, middle, exits, classes):
    """Written from the paper and the keys of the published state dictionary."""
    nn = torch.nn

    class Separable(nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.conv1 = nn.Conv2d(
                inputs, inputs, 3, padding=1, groups=inputs, bias=False
            )
            self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)

        def forward(self, x):
            return self.pointwise(self.conv1(x))

    class Block(nn.Module):
        def __init__(self, inputs, widths, stride, relu):
            super().__init__()
            layers = []
            for before, width in zip([inputs, *widths], widths, strict=False):
                layers += [nn.ReLU()] if layers or relu else []
                layers += [Separable(before, width), nn.BatchNorm2d(width)]
            if stride > 1:
                layers.append(nn.MaxPool2d(3, stride, 1))
            self.rep = nn.Sequential(*layers)
            self.skip = None
            if stride > 1 or inputs != widths[-1]:
                self.skip = nn.Conv2d(inputs, widths[-1], 1, stride, bias=False)
                self.skipbn = nn.BatchNorm2d(widths[-1])

        def forward(self, x):
            return self.rep(x) + (x if self.skip is None else self.skipbn(self.skip(x)))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, stem[0], 3, 2, bias=False)
            self.bn1 = nn.BatchNorm2d(stem[0])
            self.conv2 = nn.Conv2d(*stem, 3, bias=False)
            self.bn2 = nn.BatchNorm2d(stem[1])
            inputs, place = stem[1], 1
            for width in entry:
                block = Block(inputs, [width] * 2, 2, place > 1)
                setattr(self, f"block{place}", block)
                inputs, place = width, place + 1
            for _ in range(middle):
                setattr(self, f"block{place}", Block(inputs, [inputs] * 3, 1, True))
                place += 1
            last = Block(inputs, [inputs, exits[0]], 2, True)
            setattr(self, f"block{place}", last)
            self.blocks = place
            self.conv3 = Separable(exits[0], exits[1])
            self.bn3 = nn.BatchNorm2d(exits[1])
            self.conv4 = Separable(exits[1], exits[2])
            self.bn4 = nn.BatchNorm2d(exits[2])
            self.fc = nn.Linear(exits[2], classes)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            x = torch.relu(self.bn2(self.conv2(x)))
            for place in range(1, self.blocks + 1):
                x = getattr(self, f"block{place}")(x)
            x = torch.relu(self.bn3(self.conv3(x)))
            x = torch.relu(self.bn4(self.conv4(x)))
            return self.fc(x.mean((2, 3)))

    return Network()


def from_torch(state, shapes):
    """Fills Flax variables by the mechanical naming: ``rep_1`` is ``rep.1``."""
    flat = {}
    for path in traverse_util.flatten_dict(shapes):
        *modules, leaf = path[1:]
        name = ".".join(modules).replace("rep_", "rep.")
        torch_leaf = {
            "kernel": "weight",
            "scale": "weight",
            "mean": "running_mean",
            "var": "running_var",
        }.get(leaf, leaf)
        value = state.pop(f"{name}.{torch_leaf}").numpy().copy()
        if leaf == "kernel":
            value = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0))
        flat[path] = value
    assert not [key for key in state if "num_batches" not in key]
    return traverse_util.unflatten_dict(flat)


@pytest.mark.torch
@pytest.mark.parametrize("side", [33, 40])
def test_forward_and_running_statistics_against_torch(side):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    network = models.build("xception_tiny", 12, dropout=0.0)
    reference = torch_network(torch, (8, 16), (16, 24), 1, (32, 48, 64), 12)
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
    images = np.random.default_rng(0).normal(size=(3, side, side, 3))
    images = images.astype(np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    variables = from_torch(reference.state_dict(), shapes)
    inputs = torch.tensor(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
        evaluated = reference.eval()(inputs).numpy()
        trained = reference.train()(inputs).numpy()
    apply = jax.jit(network.apply, static_argnames=("train", "mutable"))
    logits, features = apply(variables, images)
    np.testing.assert_allclose(logits, evaluated, 1e-4, 1e-5)
    (logits, _), updated = apply(variables, images, train=True, mutable="batch_stats")
    np.testing.assert_allclose(logits, trained, 1e-3, 1e-4)
    np.testing.assert_allclose(
        updated["batch_stats"]["block1"]["rep_1"]["mean"],
        reference.block1.rep[1].running_mean.numpy(),
        1e-3,
        1e-5,
    )
    assert features["pooled"].shape == (3, 64)
    assert set(features) == {"stem", "stage1", "stage2", "stage3", "pooled"}


def test_dropout_acts_in_training_alone_and_follows_its_key():
    network = models.build("xception_tiny", 2, dropout=0.5)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)))
    variables = jax.jit(network.init)(jax.random.key(0), images)

    @jax.jit
    def run(key):
        return network.apply(
            variables, images, True, mutable="batch_stats", rngs={"dropout": key}
        )[0][0]

    one, again, other = (run(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-4


def test_images_too_small_are_refused():
    with pytest.raises(ValueError, match="at least 7 pixels"):
        models.build("xception_tiny", 2).init(
            jax.random.key(0), jnp.zeros((1, 6, 6, 3))
        )


@pytest.mark.torch
def test_weights_of_torch_files_also_without_axes_of_pixels(tmp_path):
    torch = pytest.importorskip("torch")
    from jaxkd.convert import load_torch

    reference = torch_network(torch, (8, 16), (16, 24), 1, (32, 48, 64), 12)
    shapes = jax.eval_shape(
        models.build("xception_tiny", 12).init,
        jax.random.key(0),
        jnp.zeros((1, 16, 16, 3)),
    )
    wanted = traverse_util.flatten_dict(from_torch(reference.state_dict(), shapes))
    for published in (False, True):
        state = reference.state_dict()
        if published:
            state = {
                key: value[..., 0, 0] if "pointwise" in key else value
                for key, value in state.items()
            }
        torch.save(state, tmp_path / "xception.pth")
        found = load_torch(tmp_path / "xception.pth", "xception_tiny", 12)
        flat = traverse_util.flatten_dict(found)
        assert flat.keys() == wanted.keys()
        for path, value in flat.items():
            np.testing.assert_array_equal(value, wanted[path])
