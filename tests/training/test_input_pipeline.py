import itertools

import jax
import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource
from jaxkd.datasets import batching
from jaxkd.training import build, components, input_pipeline


def make_run(config, **changes):
    for key, value in changes.items():
        config[key] = value
    return build.build(config)


def looked_up(feed, batches, count):
    """The examples that the train call will see, ``[count, draws, batch, ...]``."""
    table, index = jax.device_get((feed.table, batches["data"]["index"][:count]))
    return {name: array[index] for name, array in table.items()}


@pytest.mark.parametrize("batches", ["shared", "per_seed"])
def test_batches_in_memory_are_those_of_the_index_stream(squares_run, batches):
    run = make_run(squares_run, seeds=(3, 8), batches=batches, steps_per_call=4)
    feed = input_pipeline.make_inputs(run, 0)
    assert feed.steps_per_call == 4
    whole = run.dataset.train(3).arrays
    for start, count in ((0, 4), (4, 1), (5, 3), (90, 2)):
        found = feed.next(start, count)
        assert found["data"]["index"].shape == (4, len(run.draws), 16)
        seen = looked_up(feed, found, count)
        for draw, seed in enumerate(run.draw_seeds):
            wanted = batching.index_stream(64, 16, seed, start, count)
            for name in ("image", "label"):
                np.testing.assert_array_equal(seen[name][:, draw], whole[name][wanted])
    assert len(run.draw_seeds) == (1 if batches == "shared" else 2)


def test_each_draw_has_its_own_examples(squares_run, monkeypatch):
    load = components.load_data

    def personal(config):
        dataset = load(config)
        whole = dataset.train(0).arrays

        def train(seed):
            arrays = {
                "image": whole["image"][:20] // 9 * 9,
                "label": whole["label"][:20],
            }
            return ArraySource(arrays | {"image": arrays["image"] + np.uint8(seed)})

        return dataset._replace(train=train)

    monkeypatch.setattr(build, "load_data", personal)
    run = make_run(squares_run, seeds=(3, 8), batches="per_seed")
    feed = input_pipeline.make_inputs(run, 0)
    seen = looked_up(feed, feed.next(0, 5), 5)
    for draw, seed in enumerate((3, 8)):
        assert set(np.unique(seen["image"][:, draw] % 9)) == {seed}
        wanted = batching.index_stream(20, 16, seed, 0, 5)
        labels = run.draws[draw].arrays["label"]
        np.testing.assert_array_equal(seen["label"][:, draw], labels[wanted])


def test_a_call_may_stop_anywhere(squares_run):
    run = make_run(squares_run, steps_per_call=6)
    feed = input_pipeline.make_inputs(run, 0)
    long = looked_up(feed, feed.next(2, 6), 6)
    parts = [looked_up(feed, feed.next(start, 2), 2) for start in (2, 4, 6)]
    for name, array in long.items():
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(array, joined)


def test_learning_rates_are_padded(squares_run):
    squares_run.students = {"a": {"optim": {"lr": 0.3}}, "b": {"duration": 4}}
    run = make_run(squares_run, seeds=(1, 2), steps_per_call=5)
    found = input_pipeline.make_inputs(run, 0).next(3, 2)["lr"]
    (group,) = run.groups
    rates = np.asarray(found[group.name]["main"])
    assert rates.shape == (5, 4) and rates.dtype == np.float32
    np.testing.assert_array_equal(rates[:2], group.learning_rates(3, 2)["main"])
    assert not rates[2:].any()
    cosine = 0.5 * (1 + np.cos(np.pi * np.array([3, 4]) / 9))
    np.testing.assert_allclose(rates[:2, 0], 0.3 * cosine, rtol=1e-5)
    cosine = 0.5 * (1 + np.cos(np.pi * np.array([3, 4]) / 4))
    np.testing.assert_allclose(rates[:2, 3], 0.1 * cosine, atol=1e-7)


class Slow:
    """A source that is not in memory."""

    def __init__(self, arrays):
        self.arrays_elsewhere = arrays

    def __len__(self):
        return len(self.arrays_elsewhere["label"])

    def __getitem__(self, index):
        return {name: array[index] for name, array in self.arrays_elsewhere.items()}


def brighten(example, rng):
    noise = rng.integers(0, 40, example["image"].shape).astype(np.uint8)
    return example | {"image": example["image"] // 2 + noise}


@pytest.fixture
def from_files(squares_run, monkeypatch):
    load = components.load_data

    def slow(config):
        dataset = load(config)
        source = Slow(dataset.train(0).arrays)
        return dataset._replace(train=lambda seed: source, prepare_train=brighten)

    monkeypatch.setattr(build, "load_data", slow)
    squares_run.workers = 2
    return squares_run


@pytest.mark.parametrize("start", [0, 7])
def test_batches_from_files_are_those_of_the_pipeline(from_files, start):
    run = make_run(from_files, seeds=(3, 8), batches="per_seed")
    feed = input_pipeline.make_inputs(run, start)
    assert feed.steps_per_call == 1 and feed.table == {}
    streams = [
        batching.batches(
            run.draws[0], brighten, 16, info=run.dataset.info, seed=s, workers=0
        )
        for s in (3, 8)
    ]
    for step in range(start + 6):
        wanted = [next(stream) for stream in streams]
        if step < start:
            continue
        found = feed.next(step, 1)
        for name in ("image", "label"):
            got = np.asarray(found["data"][name])
            assert got.shape[:3] == (1, 2, 16)
            for draw in range(2):
                np.testing.assert_array_equal(got[0, draw], wanted[draw][name])
        rates = run.groups[0].learning_rates(step, 1)["main"]
        np.testing.assert_array_equal(found["lr"][run.groups[0].name]["main"], rates)


def test_both_feeds_give_uint8_images_and_int32_labels(squares_run, from_files):
    run = make_run(from_files)
    found = input_pipeline.make_inputs(run, 0).next(0, 1)["data"]
    assert found["image"].dtype == np.uint8 and found["label"].dtype == np.int32
    memory = run._replace(draws=(ArraySource(run.draws[0].arrays_elsewhere),))
    table = input_pipeline.make_inputs(memory, 0).table
    assert table["image"].dtype == np.uint8 and table["label"].dtype == np.int32


def test_labels_in_memory_are_checked(squares_run):
    run = make_run(squares_run)
    arrays = run.draws[0].arrays
    wrong = np.where(np.arange(64) == 5, 4, arrays["label"])
    run = run._replace(draws=(ArraySource(arrays | {"label": wrong}),))
    with pytest.raises(UserError, match="example 5 has label 4, expected 0 to 3"):
        input_pipeline.make_inputs(run, 0)


def test_test_batches_are_in_order_and_padded(squares_run):
    run = make_run(squares_run, eval_batch_size=32)
    batches = jax.device_get(list(input_pipeline.test_batches(run)))
    assert [batch["mask"].sum() for batch in batches] == [32, 18]
    labels = itertools.chain(*[batch["label"][batch["mask"]] for batch in batches])
    np.testing.assert_array_equal(list(labels), run.dataset.test.arrays["label"])
