"""A scene model with random weights, for tests of pipelines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.drawing import scenes
from jaxkd.models.stable_diffusion.scene_model import SceneDiffusion
from jaxkd.pipelines import text_to_image

SOURCE = "a red circle left of a blue square on white background"


@functools.cache
def backbone(dtype=jnp.float32):
    network = SceneDiffusion(widths=(16, 24), text_width=16, groups=4, dtype=dtype)

    def init(key):
        args = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1,)), jnp.zeros((1, 13), int)
        return network.init(key, *args)["params"]

    params = jax.jit(init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    # Also what starts at zero, so that every part counts.
    params = jax.tree.map(
        lambda x: np.asarray(x + 0.05 * rng.normal(size=x.shape), dtype), params
    )
    return text_to_image.of_scenes(network, params)


def image():
    drawn, _ = scenes.draw(scenes.draw_scenes(np.random.default_rng(3), 1))
    return text_to_image.to_signed(drawn[0])
