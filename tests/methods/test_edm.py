"""EDM's training: its loss from the paper's formulas, its evaluation, a small run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from jaxkd import views
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.core.types import Spec
from jaxkd.methods import edm
from jaxkd.models import build
from jaxkd.recipes import diffusion
from jaxkd.report import image_grid
from jaxkd.train import train
from tests.fields import fields, loss_of

SHAPE = (4, 4, 1)
QUICK = {"xla_backend_optimization_level": 0}
EMPTY: dict[str, Any] = {"student": {}}
OPTIONS = {"model_channels": 8, "channel_mult": (1,)}


def make(network=None, **options):
    network = network or build("song_unet", 3, **OPTIONS)
    return edm.make(Spec(network, {}, 3, fields(SHAPE), 1.0), **options)


def make_batch(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.uniform(-1, 1, (count, *SHAPE)).astype(np.float32),
        "label": (np.arange(count) % 3).astype(np.int32),
        "mask": np.arange(count) < count - 1,
    }


class Constant:
    """A network that always says the same."""

    conditional = False

    def __init__(self, value):
        self.value = value

    def apply(self, variables, x, c_noise, labels, train, rngs):
        assert c_noise.shape == (len(x),) and labels is None
        return jnp.full_like(x, self.value), {}


def preconditioned(noisy, sigma, value, sigma_data):
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total * noisy + sigma * sigma_data / np.sqrt(total) * value


@pytest.mark.parametrize("sigma_data", [0.5, 0.8])
def test_the_loss_is_the_papers(sigma_data):
    method = make(Constant(0.3), sigma_data=sigma_data)
    batch = make_batch()
    outputs, model_state = method.forward(EMPTY, EMPTY, batch, jax.random.key(5))
    value, aux = loss_of(method, EMPTY, model_state, outputs, batch, {}, None, 0)
    sigma = np.asarray(outputs["sigma"], np.float64)
    denoised = np.asarray(outputs["denoised"], np.float64)
    clean = np.float64(batch["image"])
    # The network's part of the output is known, which gives the noise away.
    each = sigma[:, None, None, None]
    total = each**2 + sigma_data**2
    noisy = (denoised - each * sigma_data / np.sqrt(total) * 0.3) * total
    noise = (noisy / sigma_data**2 - clean) / each
    assert np.abs(noise).max() < 5 and 0.8 < noise.std() < 1.2
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    wanted = np.mean(weight * np.mean((denoised - clean) ** 2, axis=(1, 2, 3)))
    assert float(value) == pytest.approx(wanted, rel=1e-5)
    assert aux.metrics == {}


def test_sigma_is_log_normal():
    method = make(Constant(0.0), log_mean=-0.4, log_std=0.7)
    batch = make_batch(4000)
    sigma = method.forward(EMPTY, EMPTY, batch, jax.random.key(0))[0]["sigma"]
    assert np.log(sigma).mean() == pytest.approx(-0.4, abs=0.05)
    assert np.log(sigma).std() == pytest.approx(0.7, abs=0.05)


def test_the_evaluation_takes_quantiles_and_leaves_out_padding():
    method = make(Constant(0.3), levels=3)
    batch = make_batch()
    found = method.evaluate(method.predict(EMPTY, EMPTY, batch), batch).compute()
    clean, errors = np.float64(batch["image"]), []
    for level, quantile in enumerate((1 / 6, 1 / 2, 5 / 6)):
        sigma = np.exp(-1.2 + 1.2 * norm.ppf(quantile))
        key = jax.random.fold_in(jax.random.key(0), level)
        noisy = clean + sigma * np.asarray(jax.random.normal(key, clean.shape))
        denoised = preconditioned(noisy, sigma, 0.3, 0.5)
        weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
        errors.append(weight * np.mean((denoised - clean) ** 2, axis=(1, 2, 3)))
    wanted = np.mean(errors, axis=0)[:-1].mean()
    assert float(found["loss"]) == pytest.approx(wanted, rel=1e-4)
    assert method.score.lower and not method.score.percent


@pytest.mark.slow
def test_a_conditional_network_is_told_the_class():
    network = build("song_unet", 3, conditional=True, dropout=0.2, **OPTIONS)
    method = make(network)
    params, model_state = jax.jit(method.init, compiler_options=QUICK)(
        jax.random.key(0)
    )
    # As it starts, the last layer hides everything.
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: 0.3 * rng.normal(size=p.shape), params)
    predict = jax.jit(method.predict, compiler_options=QUICK)
    batch = make_batch()
    one, other = (
        predict(params, model_state, batch | {"label": jnp.full(6, label)})
        for label in (0, 1)
    )
    assert float(jnp.abs(one["loss"] - other["loss"]).max()) > 1e-4
    forward = jax.jit(method.forward, compiler_options=QUICK)
    first, again, changed = (
        forward(params, model_state, batch, jax.random.key(seed))[0]["denoised"]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - changed).max()) > 1e-3


@pytest.mark.parametrize(
    "options", [{"sigma_data": 0.0}, {"log_std": -1.0}, {"levels": 0}]
)
def test_impossible_options(options):
    with pytest.raises(UserError, match="expected all positive"):
        make(**options)


def test_images_that_are_not_square():
    network = build("song_unet", 3, **OPTIONS)
    with pytest.raises(ValueError, match=r"\(4, 6, 1\); expected square"):
        jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 4, 6, 1)))


def test_the_signed_view_and_back():
    info = Info("any", 2, (2, 2, 1), (0.5,), (0.5,), ("a", "b"))
    view = views.build("signed", info)
    images = np.array([0, 1, 128, 255], np.uint8).reshape(1, 2, 2, 1)
    seen = view.evaluate({"image": images, "label": np.zeros(1)})["image"]
    assert float(seen.min()) == -1.0 and float(seen.max()) == 1.0
    trained = view.train(jax.random.key(0), {"image": images})["image"]
    np.testing.assert_array_equal(seen, trained)
    np.testing.assert_array_equal(image_grid.as_bytes(seen), images)


def test_a_mosaic_holds_its_images():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(64, 1)
    page = np.asarray(image_grid.mosaic(images.repeat(64, 2)))
    assert page.shape == (2 * 66 + 2, 3 * 66 + 2)
    assert page[2 + 30, 2 + 66 + 30] == 1 and page[68 + 30, 2 + 30] == 3
    assert page[0, 0] == page[100, 180] == 255


@pytest.mark.slow
def test_a_small_run_learns(tmp_path):
    config = diffusion.digits()
    config.name = "tiny"
    config.model = configs.ConfigDict({"name": "song_unet", "model_channels": 8})
    config.duration, config.eval_every, config.checkpoint_every = 60, 30, 30
    config.optim.update({"warmup": 5, "lr": 5e-3})
    config.ema, config.batch_size = 0.9, 32
    results = train(config, tmp_path)
    student = results["students"]["edm"]
    untrained = 1.9  # The network starts as zero: the loss is that of the skip alone.
    assert student["best"]["loss"][0] == student["last"]["loss"][0] < 0.7 * untrained
    assert student["last"]["frechet"][0] > 0
    (table,) = results["tables"]
    by = {tuple(row[:2]): [float(x) for x in row[2:]] for row in table["rows"][1:]}
    known = by["closed form of the training set", "training"]
    assert np.all(np.array(known) <= np.array(by["edm", "training"]) + 0.01)
    with Image.open(tmp_path / "figures" / "samples-edm.png") as image:
        assert min(image.size) > 300
