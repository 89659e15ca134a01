"""Views of a batch: what their random keys depend on."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core import batches


def noise(key, batch):
    assert set(batch) == {"image"}  # no more than the examples hold
    other = jax.random.fold_in(key, 1)
    seen = [
        batch["image"] + jax.random.uniform(k, batch["image"].shape)
        for k in (key, other)
    ]
    return dict(zip(("image", "strong"), seen, strict=True))


def see(index, visit=None, seeds=(3, 4), step=0):
    """Returns views of zeros, ``[draws, batch]`` when there is one pixel."""
    how = SimpleNamespace(view=noise, draw_seeds=seeds)
    index = jnp.asarray(index)
    data = {"image": jnp.zeros((*index.shape, 1, 1, 1)), "index": index}
    if visit is not None:
        data["visit"] = jnp.asarray(visit)
    seen = batches.view(how, batches.step_keys(seeds, step), data)
    assert "visit" not in seen
    return {k: np.asarray(seen[k])[..., 0, 0, 0] for k in ("image", "strong")}


def test_a_repeated_view_depends_on_seed_example_and_visit_alone():
    first = see([[5, 6, 7], [5, 6, 7]], [[0, 0, 1], [0, 0, 1]])["image"]
    later = see([[7, 5], [7, 5]], [[1, 0], [1, 0]], step=9)["image"]
    np.testing.assert_array_equal(later, first[:, [2, 0]])
    assert len(np.unique(first)) == 6


def test_other_visits_are_other_views():
    one = see([[5], [5]], [[0], [0]])["image"]
    other = see([[5], [5]], [[1], [1]])["image"]
    assert (one != other).all()


def test_endless_views_are_new_at_every_step():
    one, other = (see([[5, 6], [5, 6]], step=step)["image"] for step in (0, 1))
    assert len(np.unique([one, other])) == 8


def test_fields_that_a_view_adds_join_the_batch():
    for visit in (None, [[0, 0], [0, 0]]):
        seen = see([[5, 6], [5, 6]], visit)
        assert len(np.unique([seen["image"], seen["strong"]])) == 8


def test_targets_in_the_inputs_are_taken_out():
    data, targets = batches.split_targets({"image": 1, "targets": {"teacher": 2}})
    assert (data, targets) == ({"image": 1}, {"teacher": 2})
    assert batches.split_targets({"image": 1}) == ({"image": 1}, {})
