"""A teacher's own field: its size and its normalisation, of the student's very crop."""

import jax
import numpy as np
import pytest

from jaxkd import views
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info

INFO = Info("made", 2, (8, 8, 3), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), ())
OTHER = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.25, 0.5)}
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


def _view(**fields):
    return views.build("inputs", INFO, base={"name": "crop_flip"}, fields=fields)


def test_normalised_by_its_own_mean_from_the_same_crop():
    view = _view(teacher=OTHER, larger={"size": 16})
    batch = view.train(jax.random.key(1), {"image": IMAGES})
    pixels = np.asarray(batch["image"]) * INFO.std + INFO.mean
    expected = (pixels - OTHER["mean"]) / OTHER["std"]
    np.testing.assert_allclose(batch["teacher"], expected, 1e-5, 1e-5)
    assert batch["larger"].shape == (3, 16, 16, 3)
    # Enlarged images show the same: their means over 2x2 pixels are near.
    means = np.asarray(batch["larger"]).reshape(3, 8, 2, 8, 2, 3).mean((2, 4))
    assert np.corrcoef(means.ravel(), np.ravel(batch["image"]))[0, 1] > 0.95

    seen = view.evaluate({"image": IMAGES, "label": np.arange(3)})
    raw = (IMAGES / 255 - np.asarray(OTHER["mean"])) / np.asarray(OTHER["std"])
    np.testing.assert_allclose(seen["teacher"], raw, 1e-5, 1e-5)
    np.testing.assert_array_equal(seen["label"], np.arange(3))


def test_mistakes_are_explained():
    for wrong in ({"side": 3}, {"size": 0}, {"mean": (0.5,)}):
        with pytest.raises(UserError, match=r"config\.view\.fields\.teacher is"):
            _view(teacher=wrong)
