"""Drawn irises: the code of the large image tells identities apart."""

import numpy as np

from jaxkd.datasets import irises as data
from jaxkd.drawing import irises
from jaxkd.evaluators import iris


def test_textures_are_those_of_their_identity():
    a, again, b = (irises.texture(i) for i in (3, 3, 4))
    np.testing.assert_array_equal(a, again)
    np.testing.assert_allclose([a.mean(), a.std()], [0, 1], atol=0.15)
    common = np.corrcoef(a.ravel(), b.ravel())[0, 1]
    assert abs(common - irises.COMMON) < 0.2
    pixels, place = irises.draw_iris(a, np.random.default_rng(0))
    y, x = np.mgrid[:64, :64]
    radius = np.hypot(y - place.y, x - place.x)
    image = pixels[..., 0].astype(float)
    assert image[radius < place.pupil - 2].mean() < 60  # a dark pupil
    assert image[radius > place.iris + 3].mean() > 180  # a bright white
    ring = (radius > place.pupil + 2) & (radius < place.iris - 2)
    assert 80 < image[ring].mean() < 150 and image[ring].std() > 15


def test_large_images_are_recognised_and_shrunk_ones_less():
    arrays = data.load(train_identities=1, test_identities=8, each=4).test.arrays
    images = arrays["image"].astype(float)
    rates = iris.error_rates(images, arrays["circles"], arrays["label"])
    assert max(rates.values()) < 0.1
    coarse = images.reshape(-1, 8, 8, 8, 8, 1).mean((2, 4)).repeat(8, 1).repeat(8, 2)
    worse = iris.error_rates(coarse, arrays["circles"], arrays["label"])
    assert all(worse[code] > rates[code] + 0.1 for code in rates)


def test_test_irises_are_others():
    found = data.load(train_identities=2, test_identities=2, each=2)
    train = found.train(0).arrays["image"].astype(float)
    assert train.shape == (4, 64, 64, 1) and len(found.test) == 4
    test = found.test.arrays["image"].astype(float)
    apart = np.abs(train[:, None] - test[None]).mean((2, 3, 4))
    assert apart.min() > 5
