"""Turned and mirrored pairs stay pairs."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.views import restoration


def test_large_and_small_images_move_together():
    small = np.random.default_rng(0).integers(0, 256, (40, 3, 3, 2), dtype=np.uint8)
    batch = {"image": small.repeat(2, 1).repeat(2, 2), "low": small}
    view = restoration.signed_dihedral(None)
    seen = view.train(jax.random.key(0), dict(batch))
    np.testing.assert_array_equal(seen["image"][:, ::2, ::2], seen["low"])
    scaled = small.astype(np.float32) / 127.5 - 1
    both = scaled, scaled[:, :, ::-1]
    turned = [np.rot90(x, k, (1, 2)) for x in both for k in range(4)]
    which = np.array(
        [[np.array_equal(seen["low"][i], t[i]) for t in turned] for i in range(40)]
    )
    assert (which.sum(1) == 1).all() and (which.sum(0) > 0).all()
    plain = view.evaluate(dict(batch))
    np.testing.assert_allclose(plain["low"], scaled, 1e-6)
    bits = jnp.ones((3, 2, 1, 1, 1), bool)
    wide = restoration.dihedral(jnp.zeros((2, 3, 5, 1)), bits)
    assert wide.shape == (2, 3, 5, 1)
