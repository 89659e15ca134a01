"""The generative inpainter, with denoisers whose samples are known in closed form."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxkd import models
from jaxkd.core import checkpoint, records
from jaxkd.core.errors import UserError
from jaxkd.datasets import diffusion_inpainter
from jaxkd.methods import edm

SIZE = 8


def image():
    return np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def hole():
    found = np.zeros((SIZE, SIZE), bool)
    found[2:6, 3:7] = True
    return found


def gaussian(x, sigma):
    """The denoiser of pixels that are normal with mean 0.2 and deviation 0.1."""
    return (0.01 * x + sigma**2 * 0.2) / (0.01 + sigma**2)


def nearest_mean(x, sigma):
    """Continues into the hole the mean of all pixels as they are given."""
    del sigma
    return jnp.broadcast_to(jnp.mean(x, axis=(1, 2), keepdims=True), x.shape)


def test_samples_follow_the_law_of_the_denoiser():
    fill = diffusion_inpainter.make(Partial(gaussian))
    rng = np.random.default_rng(1)
    drawn = np.stack([fill(image(), hole(), rng)[hole()] for _ in range(40)])
    values = drawn / 127.5 - 1
    # 1,920 values; a seventh of the deviation is far beyond their standard error.
    assert values.mean() == pytest.approx(0.2, abs=0.015)
    assert values.std() == pytest.approx(0.1, rel=0.15)


def test_known_pixels_stay_and_hidden_ones_do_not_matter():
    fill = diffusion_inpainter.make(Partial(nearest_mean))
    filled = fill(image(), hole(), np.random.default_rng(0))
    known = ~hole()
    # The last sigma's noise, in grey levels, is all that is left on them.
    assert np.abs(filled[known].astype(int) - image()[known]).max() <= 6
    other = np.where(hole()[..., None], 255 - image(), image())
    again = fill(other, hole(), np.random.default_rng(0))
    np.testing.assert_array_equal(filled, again)
    assert (fill(image(), hole(), np.random.default_rng(1)) != filled).any()


def test_what_is_known_decides_what_is_filled_in():
    fill = diffusion_inpainter.make(Partial(nearest_mean))
    dark, bright = (np.full((SIZE, SIZE, 3), v, np.uint8) for v in (40, 200))
    filled = [
        fill(x, hole(), np.random.default_rng(0))[hole()].mean() for x in (dark, bright)
    ]
    assert filled[1] - filled[0] > 100


def test_other_runs_are_refused(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        diffusion_inpainter.from_run(str(tmp_path), SIZE)
    (tmp_path / "results.json").write_text(json.dumps({}))
    with pytest.raises(UserError):
        diffusion_inpainter.from_run(str(tmp_path), SIZE)


def write_run(folder, options, method="edm", side=SIZE):
    """The files of a finished run, whose checkpoint is left to the caller."""
    config = {"method": method, "model": {"name": "song_unet", **options}, "loss": {}}
    (folder / "config.json").write_text(json.dumps(config))
    one = {"method": method, "model": "song_unet", "last": {"loss": [0.5]}}
    records.write_results(
        folder,
        {
            **{"name": "x", "seeds": [0], "steps": 1, "batch_size": 1, "frozen": {}},
            "data": {
                **{"name": "x", "num_classes": 2, "class_names": ["a", "b"]},
                **{"train_examples": 1, "test_examples": 1},
            },
            "students": {"edm": one},
            "preprocessing": {"image_shape": [side, side, 3]},
        },
    )


def test_a_trained_run_is_an_inpainter(tmp_path, monkeypatch):
    """Its denoiser is the one that the method itself makes of the checkpoint."""
    options = {"model_channels": 4, "channel_mult": [1]}
    write_run(tmp_path, options)
    network = models.build("song_unet", 2, model_channels=4, channel_mult=(1,))
    variables = network.init(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda x: (x + rng.normal(0, 0.3, x.shape)).astype(x.dtype), variables
    )
    opened = []

    def load_member(folder, use):
        opened.append((folder, use))
        return variables

    monkeypatch.setattr(checkpoint, "load_member", load_member)
    fill = diffusion_inpainter.from_run(str(tmp_path), SIZE)
    assert opened == [(tmp_path / "checkpoints", "last")]
    filled = fill(image(), hole(), np.random.default_rng(0))
    denoise = edm.denoiser(network, variables, {}, sigma_data=0.5)
    expected = diffusion_inpainter.make(denoise)(
        image(), hole(), np.random.default_rng(0)
    )
    np.testing.assert_array_equal(filled, expected)
    assert (filled[hole()] != image()[hole()]).mean() > 0.9


def test_runs_of_other_images_or_methods_are_refused(tmp_path):
    write_run(tmp_path, {}, side=16)
    with pytest.raises(UserError, match=r"images of \(16, 16, 3\)"):
        diffusion_inpainter.from_run(str(tmp_path), SIZE)
    write_run(tmp_path, {}, method="vae")
    with pytest.raises(UserError, match="'vae'"):
        diffusion_inpainter.from_run(str(tmp_path), SIZE)


def test_a_checkpoint_of_another_network_is_refused(tmp_path, monkeypatch):
    network = models.build("song_unet", 2, model_channels=4, channel_mult=(1,))
    image = jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    monkeypatch.setattr(checkpoint, "load_member", lambda folder, use: variables)
    for options in (
        {"model_channels": 8, "channel_mult": [1]},
        {"name": "no_such_network"},
        {"no_such_option": 1},
    ):
        write_run(tmp_path, options)
        with pytest.raises(UserError, match="another network"):
            diffusion_inpainter.from_run(str(tmp_path), SIZE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"view": {"name": "standard"}}, r"scales pixels to \[-1, 1\]"),
        ({"students": {"a": {}, "b": {}}}, "students a, b"),
    ],
)
def test_runs_of_other_values_or_several_networks_are_refused(
    tmp_path, change, message
):
    write_run(tmp_path, {})
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        diffusion_inpainter.from_run(str(tmp_path), SIZE)
