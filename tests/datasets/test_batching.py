import itertools

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Info
from jaxkd.datasets.batching import batches, eval_batches, index_stream

INFO = Info("toy", 5, (1, 1, 1), (0.5,), (0.5,), tuple("abcde"))
COUNT = 11


def numbered(count=COUNT):
    """Example i has the image [[[i]]] and the label i % 5."""
    image = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return ArraySource({"image": image, "label": np.arange(count) % 5})


def noisy(example, rng):
    return example | {"draw": rng.random()}


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def train_batches(count, batch_size=4, workers=0, seed=3, **options):
    stream = batches(
        numbered(), noisy, batch_size, info=INFO, seed=seed, workers=workers, **options
    )
    return take(stream, count)


def pairs(batch_list):
    """(example, draw) of every row, in order."""
    return [
        (int(i), float(d))
        for batch in batch_list
        for i, d in zip(batch["image"].reshape(-1), batch["draw"], strict=True)
    ]


def test_index_stream_permutes_every_epoch():
    stream = index_stream(7, 3, seed=1, start=0, count=7)
    assert stream.shape == (7, 3) and stream.dtype == np.int32
    epochs = stream.reshape(3, 7)
    for epoch in epochs:
        assert sorted(epoch) == list(range(7))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    other = index_stream(7, 3, seed=2, start=0, count=7)
    assert not np.array_equal(other, stream)


@pytest.mark.parametrize(("num_examples", "batch_size"), [(7, 3), (7, 7), (5, 16)])
def test_index_stream_depends_on_the_position_only(num_examples, batch_size):
    whole = index_stream(num_examples, batch_size, seed=4, start=0, count=20)
    for start, count in [(0, 1), (3, 5), (6, 14), (19, 1), (7, 0)]:
        part = index_stream(num_examples, batch_size, seed=4, start=start, count=count)
        np.testing.assert_array_equal(part, whole[start : start + count])


def test_index_stream_far_into_training():
    part = index_stream(50_000, 64, seed=0, start=10**6, count=2)
    assert part.shape == (2, 64) and len(np.unique(part)) == 128


def test_permutations_are_uniform():
    first = [index_stream(4, 4, seed=s, start=0, count=50) for s in range(20)]
    orders, counts = np.unique(np.concatenate(first), axis=0, return_counts=True)
    assert len(orders) == 24
    # Chi-square with 23 degrees of freedom: 49.7 is exceeded once in a thousand.
    assert ((counts - 1000 / 24) ** 2 / (1000 / 24)).sum() < 49.7


def test_every_epoch_has_every_example_once():
    stream = [i for i, _ in pairs(train_batches(3 * COUNT))]
    epochs = np.reshape(stream, (-1, COUNT))
    for epoch in epochs:
        assert sorted(epoch) == list(range(COUNT))
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_labels_and_draws_follow_their_example():
    drawn = train_batches(6)
    for batch in drawn:
        assert batch["label"].dtype == np.int32
        np.testing.assert_array_equal(batch["label"], batch["image"].reshape(-1) % 5)
    draws = [draw for _, draw in pairs(drawn)]
    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("workers", [0, 3])
def test_resuming_continues_exactly(workers):
    whole = pairs(train_batches(12, workers=0))
    resumed = pairs(train_batches(5, workers=workers, start=7))
    assert resumed == whole[7 * 4 :]


def test_seed_changes_order_and_draws():
    assert pairs(train_batches(3, seed=3)) != pairs(train_batches(3, seed=4))


def test_processes_share_the_global_batch():
    whole = train_batches(11)
    parts = [
        train_batches(11, process_index=i, process_count=2, workers=2) for i in (0, 1)
    ]
    for one, *two in zip(whole, *parts, strict=True):
        assert len(two[0]["label"]) == len(two[1]["label"]) == 2
        assert sorted(pairs(two)) == sorted(pairs([one]))
    together = [i for step in zip(*parts, strict=True) for i, _ in pairs(step)]
    counts = np.bincount(together, minlength=COUNT)
    np.testing.assert_array_equal(counts, 4)  # 44 draws, four epochs


def test_labels_out_of_range_are_found_when_read():
    source = numbered()
    source.arrays["label"][7] = 5
    for workers in (0, 2):
        stream = batches(source, noisy, 4, info=INFO, seed=0, workers=workers)
        with pytest.raises(UserError, match="toy: example 7 has label 5"):
            take(stream, 3)
    with pytest.raises(UserError, match="toy: example 7 has label 5"):
        take(eval_batches(source, lambda e: e, 4, info=INFO), 3)


def test_indivisible_batch_and_empty_source():
    with pytest.raises(
        UserError, match="batch_size is 4, expected a multiple of the 3"
    ):
        train_batches(1, process_count=3)
    with pytest.raises(UserError, match="no examples"):
        index_stream(0, 4, seed=0, start=0, count=1)
    with pytest.raises(UserError, match="no examples"):
        take(eval_batches(numbered(0), lambda e: e, 4, info=INFO), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_in_order_and_padded(workers):
    double = eval_batches(
        numbered(),
        lambda e: e | {"image": e["image"] * 2},
        4,
        info=INFO,
        workers=workers,
    )
    drawn = list(double)
    assert [len(batch["label"]) for batch in drawn] == [4, 4, 4]
    mask = np.concatenate([batch["mask"] for batch in drawn])
    np.testing.assert_array_equal(mask, [True] * 11 + [False])
    images = np.concatenate([batch["image"] for batch in drawn]).reshape(-1)
    np.testing.assert_array_equal(images[mask], 2 * np.arange(11))


@pytest.mark.parametrize(("count", "batch_size"), [(11, 6), (13, 6), (2, 6), (12, 6)])
def test_processes_evaluate_equally_many_batches(count, batch_size):
    whole = list(eval_batches(numbered(count), lambda e: e, batch_size, info=INFO))
    parts = [
        list(
            eval_batches(
                numbered(count),
                lambda e: e,
                batch_size,
                info=INFO,
                process_index=i,
                process_count=3,
            )
        )
        for i in range(3)
    ]
    assert len({len(part) for part in parts} | {len(whole)}) == 1
    for one, *three in zip(whole, *parts, strict=True):
        for name in ("image", "label", "mask"):
            joined = np.concatenate([part[name] for part in three])
            np.testing.assert_array_equal(joined, one[name])
