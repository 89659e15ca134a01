"""CLIP's image tower with a head, against torch, and the size of SO-ViT-B."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import models
from jaxkd.convert.stable_diffusion import names

PARTS = ("clip_vit_tiny", "clip_vit_tiny_joint")


def count(name, classes, side=224):
    network = models.build(name, classes)
    variables = jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, side, side, 3))
    )
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def drawn(name, classes=10):
    network = models.build(name, classes)
    variables = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    rng = np.random.default_rng(0)
    noise = jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape), variables)
    return network, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), noise)


@pytest.mark.slow
def test_the_number_of_parameters():
    # Radford et al., table 20: the tower of ViT-B/32, of 224 pixels, has width 768 and
    # 12 layers, and embeds in 512 numbers. By hand:
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    tower = 3 * 32 * 32 * 768 + 768 + 50 * 768 + 12 * layer + 4 * 768 + 768 * 512
    assert tower == 87_849_216
    assert count("clip_vit_b32", 12) == tower + 512 * 12 + 12 == 87_855_372
    assert count("clip_vit_b32_joint", 12) == tower + 512 * 12
    assert count("clip_vit_l14", 12) - 768 * 12 - 12 == 303_966_208


@pytest.mark.torch
@pytest.mark.parametrize("name", PARTS)
def test_logits_as_in_torch(name):
    torch = pytest.importorskip("torch")
    from tests import torch_stable_diffusion as reference

    network, variables = drawn(name)
    pixels = np.random.default_rng(1).normal(size=(3, 16, 16, 3)).astype(np.float32)
    logits, features = network.apply(variables, pixels)
    tower = names.to_state(variables["params"]["image"])
    state = {key: torch.tensor(value) for key, value in tower.items()}
    seen = torch.tensor(pixels.transpose(0, 3, 1, 2))
    embedded = reference.clip_image(state, seen, 2, 2)
    np.testing.assert_allclose(features["embedding"], embedded.numpy(), atol=1e-4)
    head = jax.tree.map(
        lambda x: torch.tensor(np.asarray(x)), variables["params"]["fc"]
    )
    if name.endswith("joint"):
        unit = torch.nn.functional.normalize
        scale = float(np.exp(variables["constants"]["fc"]["log_scale"]))
        expected = scale * unit(embedded, dim=-1) @ unit(head["embeddings"], dim=-1).T
    else:
        expected = embedded @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, expected.numpy(), atol=2e-4)


def test_another_size_and_another_head_are_refused():
    network, variables = drawn("clip_vit_tiny")
    with pytest.raises(ValueError, match=r"expected \[batch, 16, 16, 3\]"):
        network.apply(variables, jnp.zeros((1, 8, 8, 3)))
    strange = models.build("clip_vit_tiny", 10, head="both")
    with pytest.raises(ValueError, match="head is 'both', expected one of"):
        strange.apply(variables, jnp.zeros((1, 16, 16, 3)))
