"""LPIPS against float64 NumPy written from the paper, and a PyTorch forward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from jaxkd.models import lpips
from jaxkd.readers import lpips_weights
from tests.lpips_weights import state as random_state

SHAPE = {"alex": (2, 40, 35, 3), "vgg": (2, 19, 24, 3)}


def images(backbone, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (2, *SHAPE[backbone]))


def convolve(x, kernel, bias, stride, pad):
    """Slides ``[out, in, k, k]`` over ``[in, h, w]``."""
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad)])
    windows = sliding_window_view(x, kernel.shape[2:], (1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", windows, kernel) + bias[:, None, None]


def pool(x, size):
    return sliding_window_view(x, (size, size), (1, 2))[:, ::2, ::2].max((-2, -1))


def reference(backbone, state, a, b):
    """The distance of two images ``[h, w, 3]``, layer by layer."""
    state = {key: np.float64(value) for key, value in state.items()}
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    x, y = (((image - shift) / scale).transpose(2, 0, 1) for image in (a, b))
    pools = {"alex": {3: 3, 6: 3}, "vgg": dict.fromkeys((5, 10, 17, 24), 2)}[backbone]
    taps = {"alex": (0, 3, 6, 8, 10), "vgg": (2, 7, 14, 21, 28)}[backbone]
    how = {0: (4, 2), 3: (1, 2)} if backbone == "alex" else {}
    total = 0.0
    for index in sorted({int(k.split(".")[1]) for k in state if k[0] == "f"}):
        if index in pools:
            x, y = pool(x, pools[index]), pool(y, pools[index])
        weight, bias = (state[f"features.{index}.{n}"] for n in ("weight", "bias"))
        stride, pad = how.get(index, (1, 1))
        x, y = (np.maximum(convolve(z, weight, bias, stride, pad), 0) for z in (x, y))
        if index in taps:
            u, v = (z / (np.sqrt((z**2).sum(0)) + 1e-10) for z in (x, y))
            head = state[f"lin{taps.index(index)}.model.1.weight"][0]
            total += (head * (u - v) ** 2).sum(0).mean()
    return total


@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_as_float64(backbone):
    state = random_state(backbone)
    network, variables = lpips_weights.from_state(state, "here")
    a, b = images(backbone)
    found = jax.jit(network.apply)(variables, jnp.asarray(a), jnp.asarray(b))
    expected = [reference(backbone, state, *pair) for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(found, expected, 2e-5)
    np.testing.assert_allclose(network.apply(variables, b, a), found, 1e-5)
    np.testing.assert_array_equal(network.apply(variables, a, a), [0, 0])
    grey = jnp.asarray(a[..., :1]), jnp.asarray(b[..., :1])
    wide = (jnp.repeat(x, 3, axis=-1) for x in grey)
    np.testing.assert_allclose(
        network.apply(variables, *grey), network.apply(variables, *wide), 1e-6
    )


@pytest.mark.torch
@pytest.mark.parametrize("backbone", ["alex", "vgg"])
def test_as_torch(backbone):
    torch = pytest.importorskip("torch")
    nn, state = torch.nn, random_state(backbone, seed=1)
    size = {key: value.shape for key, value in state.items()}
    modules, kinds = (
        [],
        {
            "alex": "ci r p c r p c r c r c r",
            "vgg": "c r c r p c r c r p c r c r c r p c r c r c r p c r c r c r",
        },
    )
    for index, kind in enumerate(kinds[backbone].split()):
        shape = size.get(f"features.{index}.weight")
        window = 3 if backbone == "alex" else 2
        modules.append({
            "ci": lambda s=shape: nn.Conv2d(s[1], s[0], s[2], stride=4, padding=2),
            "c": lambda s=shape: nn.Conv2d(s[1], s[0], s[2], padding=s[2] // 2),
            "r": nn.ReLU,
            "p": lambda w=window: nn.MaxPool2d(w, 2),
        }[kind]())  # fmt: skip
    features = nn.Sequential(*modules)
    features.load_state_dict(
        {k[9:]: torch.tensor(v) for k, v in state.items() if k.startswith("features.")}
    )
    after = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}[backbone]
    a, b = (np.float32(x) for x in images(backbone, seed=2))
    shift = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)
    x = (torch.tensor(np.concatenate([a, b])).permute(0, 3, 1, 2) - shift) / scale
    total = 0
    with torch.no_grad():
        for index, module in enumerate(features):
            x = module(x)
            if index in after:
                u, v = nn.functional.normalize(x, eps=1e-10).chunk(2)
                head = torch.tensor(state[f"lin{after.index(index)}.model.1.weight"])
                part = nn.functional.conv2d((u - v) ** 2, head)
                total = total + part.mean((1, 2, 3))
    network, variables = lpips_weights.from_state(state, "here")
    np.testing.assert_allclose(network.apply(variables, a, b), total, 2e-5)


@pytest.mark.parametrize(
    ("backbone", "parameters"), [("alex", 2_469_696), ("vgg", 14_714_688)]
)
def test_published_sizes(backbone, parameters):
    """Of torchvision's ``features``; the heads have a number for each channel."""
    side = lpips.least_side(backbone)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    network = lpips.LPIPS(backbone)
    params = jax.eval_shape(network.init, jax.random.key(0), image, image)["params"]
    heads = [params[f"lin{i}"]["weight"].size for i in range(5)]
    total = sum(x.size for x in jax.tree.leaves(params))
    assert total - sum(heads) == parameters
    published = {"alex": [64, 192, 384, 256, 256], "vgg": [64, 128, 256, 512, 512]}
    assert heads == published[backbone]
    small = jax.ShapeDtypeStruct((1, side, side - 1, 3), jnp.float32)
    with pytest.raises(ValueError, match=f"at least {side} for the backbone"):
        jax.eval_shape(network.init, jax.random.key(0), small, small)
    with pytest.raises(ValueError, match="expected equal ones of 1 or 3 channels"):
        jax.eval_shape(network.init, jax.random.key(0), image, small)
