"""What a forgery changes, and what its label code says that it changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.drawing import forged_faces as faces
from jaxkd.losses.label_graph import LabelGraph

SIZE, EACH = 32, 20
ATTRIBUTE = np.repeat(np.arange(-1, 5), EACH)


@pytest.fixture(scope="module")
def drawn():
    """The same faces, not forged, forged without a trace, and changed too little."""
    key, none = jax.random.key(0), np.full(len(ATTRIBUTE), -1)
    strong, weak = np.zeros(len(none), bool), np.ones(len(none), bool)
    return {
        name: faces.draw_faces(key, faces.Plan(*plan), SIZE)
        for name, plan in {
            "real": (none, none, strong),
            "forged": (ATTRIBUTE, none, strong),
            "weak": (ATTRIBUTE, none, weak),
        }.items()
    }


def test_codes_are_those_of_the_attribute_and_consistent(drawn):
    graph = LabelGraph.ffsc()
    assert graph.nodes == ("fake", *faces.ATTRIBUTES, *faces.REGIONS)
    for attribute, code in zip(ATTRIBUTE, drawn["forged"].codes, strict=True):
        graph.check(code.tolist())
        assert code[0] == (attribute >= 0)
        assert attribute < 0 or code[1 + attribute] == 1
    kinds = {tuple(c) for c in drawn["forged"].codes[ATTRIBUTE == 1].tolist()}
    assert len(kinds) == 2  # smiles and surprises
    assert not drawn["weak"].codes.any()


def test_a_forgery_changes_the_regions_of_its_code_and_nothing_else(drawn):
    change = np.abs(drawn["forged"].images.astype(int) - drawn["real"].images).max(-1)
    outside = drawn["forged"].regions.max(axis=-1) == 0
    assert change[outside].max() <= 1  # rounding
    seen = drawn["forged"].regions > 128
    for kind in {tuple(c) for c in drawn["forged"].codes.tolist()}:
        rows = np.all(drawn["forged"].codes == kind, axis=1)
        for index, region in enumerate(faces.REGIONS):
            covered = seen[rows, ..., index]
            assert covered.any() == (kind[6 + index] == 1), (kind, region)
            if covered.any():
                assert change[rows][covered].mean() > 6, (kind, region)


def test_a_weak_change_is_hard_to_notice(drawn):
    strong, weak = (
        np.abs(drawn[name].images.astype(int) - drawn["real"].images).mean()
        for name in ("forged", "weak")
    )
    assert 0 < weak < strong / 4


def test_a_face_depends_on_its_row_alone():
    plan = faces.Plan(np.array([0, 3]), np.array([1, 2]), np.zeros(2, bool))
    both = faces.draw_faces(jax.random.key(1), plan, 16)
    first = faces.draw_faces(jax.random.key(1), faces.Plan(*(x[:1] for x in plan)), 16)
    np.testing.assert_array_equal(both.images[:1], first.images)
    assert np.abs(both.images[0].astype(int) - both.images[1]).max() > 50


def test_methods():
    image = jax.random.uniform(jax.random.key(0), (16, 16, 3))
    apply = jax.jit(lambda method: faces.apply_method(image, method))
    results = {
        name: np.asarray(apply(index)) for index, name in enumerate(faces.METHODS)
    }
    np.testing.assert_array_equal(apply(-1), image)

    def contrast(z):
        return float(np.abs(np.diff(z, axis=0)).mean())

    assert contrast(results["blur"]) < contrast(image) < contrast(results["sharpen"])
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))
    np.testing.assert_allclose(
        results["denoise"], np.median(windows, axis=(-1, -2)), 1e-6
    )
    levels = results["quantize"] * 7
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-5)
    grid = results["grid"].reshape(8, 2, 8, 2, 3)
    np.testing.assert_array_equal(grid[:, 0], grid[:, 1])


def test_the_covers_share_out_the_face():
    draw = jax.jit(
        lambda key: faces.render(faces.draw_latents(key), jnp.zeros(3), SIZE)[1]
    )
    covers = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(2), 8)))
    assert covers.min() >= 0
    assert covers.max() <= 1
    skin, others = covers[..., 5], covers[..., :5].max(axis=-1)
    assert (skin * others)[(others == 1)].max() == 0
    assert np.all(covers.reshape(8, -1, 6).max(axis=1) > 0.5)
