"""Length buckets: shares, batches of one bucket, and exact resumption."""

import itertools

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.datasets import buckets
from jaxkd.datasets.batching import batches

INFO = Info("toy", 0, (1,), (0.0,), (1.0,), ())
# The length of each example: 5 of bucket 2, 9 of bucket 4, 2 of bucket 8.
LENGTHS = np.array([1, 4, 3, 8, 4, 2, 3, 3, 2, 4, 1, 4, 7, 3, 2, 4])
SIDES = [2, 4, 8]


class Source:
    """Example i is an array of its length, full of i."""

    buckets = np.searchsorted(SIDES, LENGTHS)

    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, index):
        return {"x": np.full(LENGTHS[index], index), "number": np.asarray(index)}


def prepare(example, rng):
    length = buckets.length_for(len(example["x"]), SIDES)
    padded = np.pad(example["x"], (0, length - len(example["x"])), constant_values=-1)
    return {"x": padded, "number": example["number"], "draw": np.asarray(rng.random())}


def take(count, batch_size=4, workers=0, seed=3, **options):
    stream = batches(
        Source(), prepare, batch_size, info=INFO, seed=seed, workers=workers, **options
    )
    return list(itertools.islice(stream, count))


def equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize(
    ("sizes", "batch_size"), [((5, 9, 2), 4), ((100, 1, 0, 37), 8), ((3,), 16)]
)
def test_buckets_have_their_share_of_batches(sizes, batch_size):
    schedule, total = buckets.BucketSchedule(sizes, batch_size), sum(sizes)
    steps = 3 * total
    owners, places = zip(*(schedule(batch) for batch in range(steps)), strict=True)
    seen = np.cumsum(np.eye(len(sizes))[list(owners)], axis=0)
    # A batch knows how many of its bucket were before it: none is lost or repeated.
    for batch, (owner, place) in enumerate(zip(owners, places, strict=True)):
        assert place == seen[batch, owner] - 1
    epoch = -(-total // batch_size)
    ends = np.arange(epoch, steps + 1, epoch)
    share = ends[:, None] * np.array(sizes) / total
    assert np.abs(seen[ends - 1] - share).max() < (1 + len(sizes)) / 2
    if steps % epoch == 0:
        np.testing.assert_array_equal(seen[steps - 1], 3 * np.array(sizes))


def test_epochs_are_shuffled():
    schedule = buckets.BucketSchedule((8, 8), 1)
    epochs = {tuple(schedule(16 * e + i)[0] for i in range(16)) for e in range(20)}
    assert len(epochs) == 20
    assert len({owners[0] for owners in epochs}) == 2


def test_a_batch_is_of_one_bucket_and_every_example_comes_equally_often():
    drawn = take(4 * len(LENGTHS))
    assert {batch["x"].shape for batch in drawn} == {(4, side) for side in SIDES}
    for batch in drawn:
        length = batch["x"].shape[1]
        fitting = [buckets.length_for(LENGTHS[i], SIDES) for i in batch["number"]]
        assert fitting == [length] * 4
        rows = np.arange(length) < LENGTHS[batch["number"]][:, None]
        expected = np.where(rows, batch["number"][:, None], -1)
        np.testing.assert_array_equal(batch["x"], expected)
    # 64 batches of 4 over 16 examples: sixteen times each, whatever their bucket.
    numbers = np.concatenate([batch["number"] for batch in drawn])
    np.testing.assert_array_equal(np.bincount(numbers), 16)
    for side in SIDES:
        own = [b["number"] for b in drawn if b["x"].shape[1] == side]
        members = np.flatnonzero(Source.buckets == SIDES.index(side))
        epochs = np.concatenate(own).reshape(-1, len(members))
        np.testing.assert_array_equal(np.sort(epochs), [members] * len(epochs))


@pytest.mark.parametrize("workers", [0, 3])
def test_resuming_continues_exactly(workers):
    whole = take(40)
    equal(take(11, workers=workers, start=29), whole[29:])
    draws = np.concatenate([batch["draw"] for batch in whole])
    assert len(set(draws)) == len(draws)


def test_seeds_agree_on_the_bucket_and_on_nothing_else():
    one, other = take(30, seed=3), take(30, seed=4)
    assert [b["x"].shape for b in one] == [b["x"].shape for b in other]
    assert any(
        (a["number"] != b["number"]).any() for a, b in zip(one, other, strict=True)
    )


def test_processes_share_the_global_batch():
    whole = take(20)
    parts = [take(20, process_index=i, process_count=2, workers=2) for i in (0, 1)]
    for one, *two in zip(whole, *parts, strict=True):
        assert {part["x"].shape[1] for part in two} == {one["x"].shape[1]}
        together = np.concatenate([part["number"] for part in two])
        assert sorted(together) == sorted(one["number"])


def test_impossible_lengths_are_refused():
    assert buckets.check_lengths((100, 50), 150) == [50, 100, 150]
    assert buckets.check_lengths((150, 50), 150) == [50, 150]
    for wrong in ((0, 50), (50, 200), tuple(range(1, 12))):
        with pytest.raises(UserError, match="expected lengths from 1 to 150"):
            buckets.check_lengths(wrong, 150)
    with pytest.raises(UserError, match="no examples"):
        buckets.BucketSchedule((0, 0), 4)
