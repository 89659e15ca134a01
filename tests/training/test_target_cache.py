"""Cached targets against the same targets computed while training."""

import functools

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd.core import checkpoint
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.train import train
from jaxkd.training import target_cache
from jaxkd.training.build import build

STEPS = 9  # of 16 out of 64 examples: a little over two epochs
VIEW = ConfigDict({"name": "crop_flip", "pad": 2, "flip": True})


@pytest.fixture(scope="module")
def teacher(finished_run):
    workdir, _ = finished_run
    return workdir


@pytest.fixture
def study(squares_run, teacher):
    """A function of ``config.targets`` that returns the configuration of a study."""

    needed = configs.needed(squares_run, f"{teacher}:student=zebra")

    def make(**targets):
        config = squares_run
        config.seeds, config.batches = (1, 2), "per_seed"
        config.view = VIEW
        config.accumulate = 2
        config.duration = STEPS
        config.method = "rld"
        config.needs = ConfigDict({"teacher": needed})
        config.allow_weak_teacher = True  # it has seen few steps
        config.targets.update(targets)
        return config

    return make


def params(workdir):
    return [
        checkpoint.load_member(workdir / "checkpoints", "last", seed=seed)
        for seed in (1, 2)
    ]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder for what several tests train."""
    return tmp_path_factory.mktemp("offline")


def run_once(config, workdir):
    if not (workdir / "results.json").exists():
        train(config, workdir)
    return params(workdir)


@pytest.mark.slow
def test_training_on_cached_targets_is_the_same(study, shared):
    """To rounding: the teacher is compiled alone here, and with its students there."""
    online = run_once(study(visits=2), shared / "online")
    cached = run_once(study(visits=2, cache=True), shared / "cached")
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, online, cached)


@pytest.mark.slow
def test_repeated_views_are_others_than_endless_ones(study, shared):
    repeated = run_once(study(visits=2), shared / "online")
    endless = run_once(study(visits=0), shared / "endless")
    leaves = zip(jax.tree.leaves(repeated), jax.tree.leaves(endless), strict=True)
    assert any((a != b).any() for a, b in leaves)


@pytest.mark.slow
def test_another_run_of_the_same_teacher_computes_nothing(study, shared, monkeypatch):
    run_once(study(visits=2, cache=True), shared / "cached")
    monkeypatch.setattr(target_cache, "_make_compute", None)
    config = study(visits=2, cache=True)
    config.method = "kd"
    config.duration = 3
    train(config, shared / "kd")


@pytest.mark.slow
def test_only_missing_visits_are_computed(study, teacher, shared, monkeypatch):
    wanted = run_once(study(visits=2, cache=True), shared / "cached")
    (lost,) = list((teacher / "targets").glob("*/0001"))[:1]
    for file in lost.iterdir():
        file.unlink()
    lost.rmdir()
    computed, make = [], target_cache._make_compute

    def spy(*arguments):
        compute = make(*arguments)

        def counting(visit, calls):
            computed.append(visit)
            return compute(visit, calls)

        return counting

    monkeypatch.setattr(target_cache, "_make_compute", spy)
    train(study(visits=2, cache=True), shared / "mended")
    assert computed == [1]
    jax.tree.map(np.testing.assert_array_equal, params(shared / "mended"), wanted)


@pytest.mark.slow
def test_a_changed_cache_is_noticed_and_computed_again(study, teacher, shared):
    wanted = run_once(study(visits=2, cache=True), shared / "cached")
    for file in (teacher / "targets").rglob("*.npy"):
        np.save(file, np.load(file)[:, ::-1])
    with pytest.warns(UserWarning, match=r"are damaged .* and are computed again"):
        train(study(visits=2, cache=True), shared / "poisoned")
    got = jax.tree.leaves(params(shared / "poisoned"))
    jax.tree.map(np.testing.assert_array_equal, got, jax.tree.leaves(wanted))


@pytest.mark.slow
def test_the_most_probable_classes_alone_can_be_kept(study, teacher, shared):
    exact = run_once(study(visits=2, cache=True), shared / "cached")
    near = run_once(study(visits=2, cache=True, top_k=2), shared / "top")
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(near), strict=True):
        np.testing.assert_allclose(a, b, atol=0.05)
    assert list((teacher / "targets").rglob("teacher.classes.npy"))


def test_what_cannot_be_cached_is_told_before_anything_is_trained(study, tmp_path):
    with pytest.raises(UserError, match="visits"):
        train(study(cache=True, visits=0), tmp_path)
    with pytest.raises(UserError, match="4 classes"):
        train(study(visits=1, cache=True, top_k=4), tmp_path)
    config = study(visits=1, cache=True, top_k=0)
    config.method = "at"
    with pytest.raises(UserError, match="features"):
        train(config, tmp_path)
    config.method = "supervised"
    with pytest.raises(UserError, match="no student learns"):
        train(config, tmp_path)


def test_a_disk_too_small_is_told_first(study, teacher, monkeypatch):
    run = build(study(visits=3, cache=True))
    frozen = {"teacher": Stub(teacher)}
    monkeypatch.setattr(
        target_cache.shutil, "disk_usage", lambda path: Stub(teacher, free=100)
    )
    with pytest.raises(UserError, match=r"0\.0 MB free"):
        target_cache.prepare(run, frozen)


class Stub:
    """What ``prepare`` asks of a frozen network before it computes."""

    def __init__(self, source, free=0):
        self.source, self.free, self.hash = source, free, "none"
