import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxkd import views
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.views import ops, randaugment, standard

INFO = Info(
    "toy", 10, (6, 5, 3), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), tuple("abcdefghij")
)
KEY = jax.random.key(0)


def random_images(count=4, height=6, width=5, channels=3, seed=0):
    """Images without the value 0, so that padding can be told."""
    shape = (count, height, width, channels)
    return np.random.default_rng(seed).integers(1, 256, shape, np.uint8)


def normalized(images):
    return (images / 255.0 - np.array(INFO.mean)) / np.array(INFO.std)


def denormalized(images):
    scaled = np.asarray(images, np.float64) * INFO.std + INFO.mean
    return np.round(scaled * 255).astype(int)


def standardized(images):
    images = np.asarray(images, np.float64)
    mean, std = images.mean((1, 2), keepdims=True), images.std((1, 2), keepdims=True)
    return (images - mean) / (std + 0.1)


def train(view, images, key=KEY):
    """Returns what a view makes of images in training."""
    return jax.jit(view.train)(key, {"image": images})["image"]


def evaluate(view, images):
    return view.evaluate({"image": images})["image"]


@pytest.mark.parametrize(
    "name", ["plain", "flip", "crop_flip", "randaugment", "weak_strong"]
)
def test_evaluation_only_normalises(name):
    images = random_images()
    ours = evaluate(views.build(name, INFO), images)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, normalized(images), atol=1e-5)


def test_plain_view_is_the_same_in_training():
    images = random_images()
    ours = train(standard.plain(INFO), images)
    np.testing.assert_allclose(ours, normalized(images), atol=1e-5)


def test_half_of_the_images_are_flipped():
    images = np.repeat(random_images(1), 400, 0)
    ours = denormalized(train(standard.flip(INFO), images))
    same = (ours == images).all((1, 2, 3))
    mirrored = (ours == images[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.1  # four standard errors


@pytest.mark.parametrize("flip", [False, True])
def test_crops_are_windows_of_the_padded_image(flip):
    pad, count = 2, 600
    images = np.repeat(random_images(1), count, 0)
    view = standard.crop_flip(INFO, pad=pad, flip=flip)
    ours = denormalized(train(view, images))
    padded = np.pad(images[0], ((pad, pad), (pad, pad), (0, 0)))
    windows = {}
    for row, column in itertools.product(range(2 * pad + 1), repeat=2):
        window = padded[row : row + 6, column : column + 5].astype(int)
        windows[window.tobytes()] = (row, column, False)
        if flip:
            windows[window[:, ::-1].tobytes()] = (row, column, True)
    kinds = 25 * (2 if flip else 1)
    assert len(windows) == kinds
    drawn = [windows[image.tobytes()] for image in ours]  # any other is a KeyError
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == kinds
    expected = count / kinds
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < kinds - 1 + 4 * np.sqrt(2 * kinds)


@pytest.mark.parametrize("name", ["crop_flip", "randaugment"])
def test_more_padding_than_image_is_refused(name):
    with pytest.raises(UserError, match=r"view.pad is 6, more than the .* side, 5"):
        train(views.build(name, INFO, pad=6), random_images(1))


@pytest.mark.parametrize(
    ("name", "option"),
    [("glyph", "shift"), ("recolour", "shift"), ("ct", "depth_shift")],
)
def test_shifts_beyond_the_image_are_refused(name, option):
    with pytest.raises(
        UserError, match=rf"config.view.{option} is 30, but images have"
    ):
        views.build(name, INFO, **{option: 30})


@pytest.mark.parametrize("name", ["randaugment", "weak_strong", "handwriting"])
def test_cutout_is_a_share(name):
    with pytest.raises(UserError, match=r"cutout is 7.0, expected a number >= 0 and"):
        views.build(name, INFO, cutout=7.0)


def test_images_of_a_batch_are_cropped_independently():
    images = np.repeat(random_images(1), 20, 0)
    ours = np.asarray(train(standard.crop_flip(INFO), images))
    assert len({image.tobytes() for image in ours}) > 10
    again = np.asarray(train(standard.crop_flip(INFO), images))
    np.testing.assert_array_equal(ours, again)
    other = np.asarray(train(standard.crop_flip(INFO), images, jax.random.key(1)))
    assert (other != ours).any()


@pytest.mark.slow
def test_randaugment_without_operations_is_crop_flip():
    images = random_images(30)
    view = views.build("randaugment", INFO, pad=2, flip=True, ops=0, cutout=0.0)
    move_key = jax.random.split(KEY, 3)[0]
    wanted = train(standard.crop_flip(INFO, pad=2), images, move_key)
    np.testing.assert_allclose(train(view, images), wanted, atol=1e-5)
    seen = view.train(KEY, {"image": images, "label": 7})
    assert set(seen) == {"image", "label"} and seen["label"] == 7


def test_randaugment_works_on_levels_after_cropping(monkeypatch):
    seen = []
    images = random_images(30)

    def darken(key, images, *, ops):
        seen.append(images)
        assert ops == 3
        return images // 2

    def paint(key, images, *, side):
        assert side == 0.25
        return images + 7

    monkeypatch.setattr(randaugment, "randaugment", darken)
    monkeypatch.setattr(randaugment, "cutout", paint)
    view = standard.randaugment(INFO, ops=3, cutout=0.25)
    ours = view.train(KEY, {"image": images})["image"]
    assert seen[0].dtype == np.uint8 and (seen[0] != images).any()
    wanted = np.asarray(seen[0]) // 2 + 7
    np.testing.assert_allclose(ours, normalized(wanted), atol=1e-5)


def test_weak_and_strong_views_move_independently():
    images = np.repeat(random_images(1), 400, 0)
    view = views.build("weak_strong", INFO, pad=1, flip=True, ops=0, cutout=0.0)
    seen = view.train(KEY, {"image": images})
    weak, strong = np.asarray(seen["image"]), np.asarray(seen["strong"])
    alone = standard.crop_flip(INFO, pad=1).train(KEY, {"image": images})
    np.testing.assert_array_equal(weak, alone["image"])
    # 9 crops, flipped or not: equal once in 18.
    equal = (weak == strong).all((1, 2, 3)).mean()
    assert abs(equal - 1 / 18) < 4 * np.sqrt(1 / 18 / 400)


@pytest.mark.slow
def test_strong_views_repeat_by_key_and_differ_by_image():
    images = np.repeat(random_images(1, 16, 16), 40, 0)
    see = jax.jit(standard.weak_strong(INFO).train)
    ours = np.asarray(see(KEY, {"image": images})["strong"])
    assert ours.dtype == np.float32
    assert len({image.tobytes() for image in ours}) > 38
    again = see(KEY, {"image": images})["strong"]
    np.testing.assert_array_equal(again, ours)
    alone = train(standard.randaugment(INFO), images, jax.random.fold_in(KEY, 1))
    np.testing.assert_array_equal(alone, ours)


def test_warp_matches_scipy():
    rng = np.random.default_rng(0)
    images = rng.random((5, 9, 12, 2))
    angle = rng.uniform(-1, 1, 5)
    zoom = rng.uniform(0.7, 1.4, 5)
    shift = rng.uniform(-3, 3, (5, 2))
    to_float = [jnp.asarray(x, jnp.float32) for x in (images, angle, zoom, shift)]
    ours = ops.warp(*to_float)
    for i in range(5):
        # Output positions are rotated and zoomed inputs: invert that map.
        turn = [
            [np.cos(angle[i]), np.sin(angle[i])],
            [-np.sin(angle[i]), np.cos(angle[i])],
        ]
        inverse = np.linalg.inv(zoom[i] * np.array(turn))
        middle = np.array([4.0, 5.5])
        for channel in range(2):
            wanted = ndimage.affine_transform(
                images[i, ..., channel],
                inverse,
                offset=middle - inverse @ (middle + shift[i]),
                order=1,
                mode="nearest",
            )
            np.testing.assert_allclose(ours[i, ..., channel], wanted, atol=2e-5)


def test_warps_of_known_patterns():
    image = jnp.asarray(random_images(1, 7, 7), jnp.float32)

    def warp(angle=0.0, zoom=1.0, shift=(0.0, 0.0)):
        numbers = (jnp.array([x], jnp.float32) for x in (angle, zoom, shift))
        return np.asarray(ops.warp(image, *numbers))[0]

    still = np.asarray(image[0])
    np.testing.assert_allclose(warp(), still, atol=1e-4)
    np.testing.assert_allclose(warp(angle=np.pi / 2), np.rot90(still, -1), atol=1e-3)
    moved = warp(shift=(2.0, -1.0))
    np.testing.assert_allclose(moved[2:, :-1], still[:-2, 1:], atol=1e-4)
    np.testing.assert_allclose(moved[0, :-1], still[0, 1:], atol=1e-4)  # replicated
    np.testing.assert_allclose(warp(zoom=2.0)[1::2, 1::2], still[2:5, 2:5], atol=1e-4)


def test_poses_are_within_their_ranges():
    draws = ops.draw_pose(KEY, 2000, 8.0, 0.08, 1.25)
    angle, zoom, shift = (np.asarray(x) for x in draws)
    for values, limit in (
        (np.rad2deg(angle), 8.0),
        (np.log(zoom), 0.08),
        (shift[:, 0], 1.25),
        (shift[:, 1], 1.25),
    ):
        assert 0.98 * limit < np.abs(values).max() <= limit * 1.0001
        assert abs(values.mean()) < 0.06 * limit
        np.testing.assert_allclose(values.std(), limit / np.sqrt(3), rtol=0.05)
    assert abs(np.corrcoef(angle, np.log(zoom))[0, 1]) < 0.1


def test_glyph_view_without_motion_permutes_and_inverts():
    images = np.repeat(random_images(1, 8, 8), 600, 0)
    view = standard.glyph(INFO, rotation=0, zoom=0, shift=0, noise=0)
    ours = np.asarray(train(view, images))
    base = standardized((images[:1] / 255 - 0.5) * 4)[0]
    found = np.zeros((600, 12), bool)
    kinds = itertools.product(itertools.permutations(range(3)), (1, -1))
    for kind, (order, sign) in enumerate(kinds):
        close = np.abs(ours - sign * base[..., order]) < 1e-4
        found[:, kind] = close.all((1, 2, 3))
    np.testing.assert_array_equal(found.sum(1), 1)
    counts = found.sum(0)
    # Chi-square with 11 degrees of freedom: 31.3 is exceeded once in a thousand.
    assert ((counts - 50) ** 2 / 50).sum() < 31.3


def test_glyph_view_standardises_test_images():
    images = random_images(5, 16, 16)
    ours = evaluate(standard.glyph(INFO), images)
    wanted = standardized((images / 255 - 0.5) * 4)
    np.testing.assert_allclose(ours, wanted, atol=1e-4)


def test_noise_has_a_uniform_level_per_image():
    grey = np.full((800, 16, 16, 3), 128, np.uint8)
    view = standard.glyph(INFO, rotation=0, zoom=0, shift=0, noise=0.16)
    ours = np.asarray(train(view, grey))
    # A deviation s becomes s / (s + 0.1) by the standardisation.
    ratio = ours.std((1, 2)).mean(-1)
    level = 0.1 * ratio / (1 - ratio)
    assert level.min() < 0.003 and 0.15 < level.max() < 0.17
    np.testing.assert_allclose(level.mean(), 0.08, atol=0.006)
    np.testing.assert_allclose(level.std(), 0.16 / np.sqrt(12), rtol=0.07)
    assert np.abs(ours.mean((1, 2))).max() < 1e-4


def test_full_glyph_view_repeats_by_key_and_stays_finite():
    view = standard.glyph(INFO)
    images = random_images(7, 16, 16)
    images[3] = 255
    ours = np.asarray(train(view, images))
    assert ours.dtype == np.float32 and np.isfinite(ours).all()
    np.testing.assert_array_equal(train(view, images), ours)
    assert (
        (np.asarray(train(view, images, jax.random.key(1))) != ours)
        .any((1, 2, 3))
        .all()
    )


SHARDED = """
import jax, numpy as np
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxkd import views
from jaxkd.core.source import Info
info = Info("toy", 2, (8, 8, 3), (0.5,) * 3, (0.2,) * 3, ("a", "b"))
images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8)
mesh = Mesh(np.array(jax.devices()), ("data",))
split = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
for name in ("crop_flip", "randaugment", "glyph"):
    train = jax.jit(views.build(name, info).train)
    one, many = (
        train(jax.random.key(3), {"image": x})["image"] for x in (images, split)
    )
    assert len(many.sharding.device_set) == 4, many.sharding
    np.testing.assert_allclose(one, many, atol=1e-5)
"""


@pytest.mark.slow
def test_views_do_not_depend_on_the_sharding():
    subprocess.run([sys.executable, "-c", SHARDED], check=True, timeout=120)


def test_unknown_names_and_options():
    with pytest.raises(UserError, match=r"view is 'crop', expected one of plain, flip"):
        views.build("crop", INFO)
    with pytest.raises(UserError, match=r"'crop_flip' has no option 'padding'.*pad"):
        views.build("crop_flip", INFO, padding=4)
