"""Iris codes of signals whose code is known."""

import numpy as np
import pytest

from jaxkd.metrics import iris


def test_unrolling_a_picture_of_its_own_angle_and_radius():
    y, x = np.mgrid[:65, :65] - 32.0
    radius = np.hypot(x, y)
    strip = iris.unroll(radius, centre=(32, 32), radii=(8, 24), shape=(4, 16))
    np.testing.assert_allclose(
        strip, np.array([[10], [14], [18], [22]]) + 0 * strip, atol=0.05
    )
    strip = iris.unroll(x, centre=(32, 32), radii=(10, 30), shape=(1, 4))
    np.testing.assert_allclose(strip, [[20, 0, -20, 0]], atol=1e-9)
    with pytest.raises(ValueError, match="the pupil's below"):
        iris.unroll(x, centre=(0, 0), radii=(5, 5))


def test_haar_codes_of_a_square_wave():
    wave = np.tile([1.0] * 4 + [0.0] * 4, 4)[None]
    code = iris.haar_code(wave, scales=(4,))[0, 0]
    # The sum of four from i on falls over the next four for i = 0 and three beside it.
    expected = np.array(
        [
            s > t
            for s, t in zip(
                [sum(np.roll(wave[0], -i)[:4]) for i in range(32)],
                [sum(np.roll(wave[0], -i)[4:8]) for i in range(32)],
                strict=True,
            )
        ]
    )
    np.testing.assert_array_equal(code, expected)
    assert code[:2].tolist() == [True, True] and code[4] == False  # noqa: E712
    turned = iris.haar_code(np.roll(wave, 3, 1), scales=(4,))[0, 0]
    np.testing.assert_array_equal(turned, np.roll(code, 3))


def test_log_gabor_of_a_cosine_is_its_analytic_signal():
    angle = 2 * np.pi * np.arange(64) / 16 + 0.3  # at the filter's centre
    code = iris.log_gabor_code(5 + 2 * np.cos(angle)[None], wavelength=16)
    np.testing.assert_array_equal(code[0, 0], np.cos(angle) > 0)
    np.testing.assert_array_equal(code[1, 0], np.sin(angle) > 0)


def test_distances_of_all_pairs():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, (5, 2, 3, 24)).astype(bool)
    codes[3] = np.roll(codes[0], 5, -1)
    identities = np.array([0, 1, 1, 0, 2])
    genuine, impostor = iris.pair_distances(codes, identities, shifts=6)
    expected = {True: [], False: []}
    for i in range(5):
        for j in range(i + 1, 5):
            same = bool(identities[i] == identities[j])
            expected[same].append(iris.distance(codes[i], codes[j], shifts=6))
    np.testing.assert_array_equal(genuine, expected[True])
    np.testing.assert_array_equal(impostor, expected[False])
    assert genuine.min() == 0  # the rotated code
    assert iris.distance(codes[0], codes[3], shifts=4) > 0.2


def test_equal_error_rates():
    genuine = np.array([0.1, 0.2, 0.3, 0.6])
    impostor = np.array([0.25, 0.5, 0.7, 0.8])
    # At 0.3: one of four rejected, one of four accepted.
    assert iris.equal_error_rate(genuine, impostor) == 0.25
    assert iris.equal_error_rate(impostor, genuine) == 0.75
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 20_000), rng.normal(2, 1, 20_000)
    assert abs(iris.equal_error_rate(a, b) - 0.1587) < 0.006  # Phi(-1)
    assert np.isnan(iris.equal_error_rate(a, np.array([])))
