"""Batches: which examples, in which order, for which process.

Every function here is pure in the position: batch ``i`` depends on the seed and ``i``
alone, so that a run resumes from its step number and no iterator state is saved.
``batch_size`` is always the global one, whatever the number of processes.
"""

import sys
from collections.abc import Callable, Iterator

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.source import CheckedSource, Example, Info, Source
from jaxkd.datasets.buckets import BucketSchedule


def index_stream(
    num_examples: int, batch_size: int, seed: int, start: int, count: int
) -> np.ndarray:
    """Returns the examples of batches ``start`` to ``start + count - 1``.

    They come from an endless stream in which every epoch is a new permutation; batches
    straddle the border between epochs, so none is short.

    Args:
      num_examples: in the data set.
      batch_size: examples a batch; may exceed ``num_examples``.
      seed: of the permutations.
      start: first batch, counted from 0.
      count: number of batches.

    Returns:
      int32 ``[count, batch_size]``.

    Raises:
      UserError: if there are no examples.
    """
    _check_not_empty(num_examples)
    first, last = start * batch_size, (start + count) * batch_size
    if first == last:
        return np.empty((count, batch_size), np.int32)
    epochs = range(first // num_examples, -(-last // num_examples))
    stream = np.concatenate([_permutation(num_examples, seed, e) for e in epochs])
    skipped = first - epochs[0] * num_examples
    return stream[skipped : skipped + last - first].reshape(count, batch_size)


def epoch_stream(
    num_examples: int, batch_size: int, start: int, count: int
) -> np.ndarray:
    """Returns in which epoch each example of ``index_stream``'s batches stands.

    Returns:
      int32 ``[count, batch_size]``, counted from 0.
    """
    places = np.arange(start * batch_size, (start + count) * batch_size)
    return (places // num_examples).astype(np.int32).reshape(count, batch_size)


def _permutation(num_examples: int, seed: int, epoch: int) -> np.ndarray:
    # Philox is keyed, not seeded: any epoch's generator is made without the others'.
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return generator.permutation(num_examples).astype(np.int32)


def batches(
    source: Source,
    prepare: Callable[[Example, np.random.Generator], Example],
    batch_size: int,
    *,
    info: Info,
    seed: int,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 8,
) -> Iterator[Example]:
    """Yields training batches of a source that does not fit in memory, endlessly.

    Epochs and their borders are as in ``index_stream``, in Grain's order. The random
    generator of an example depends on the seed and its place in the global stream, so
    that the batches of all processes together are the same for any number of them.

    Args:
      source: examples. One with an attribute ``buckets``, the number of each example's
        bucket, ``[examples]``, gives batches of one bucket each, in the order of
        ``buckets.BucketSchedule``: ``prepare`` may then return arrays of another shape
        in each bucket.
      prepare: prepares one example, with a random generator.
      batch_size: examples a batch over all processes.
      info: of the data set; labels are checked against it as they are read.
      seed: of order and preparation.
      start: number of batches to skip, as if they had been drawn.
      process_index: of this process.
      process_count: of processes.
      workers: threads that read and prepare; 0 does it in the caller's.

    Yields:
      Arrays stacked over ``batch_size / process_count`` examples.

    Raises:
      UserError: if there are no examples, the batch cannot be divided, or a label is
        out of range.
    """
    import grain

    _check_not_empty(len(source))
    local = local_batch_size(batch_size, process_count)
    checked = CheckedSource(source, info)
    buckets = getattr(source, "buckets", None)
    if buckets is None:
        stream = grain.MapDataset.source(checked).seed(seed).shuffle().repeat(None)
    else:
        ordered = _BucketStream(checked, buckets, batch_size, seed)
        stream = grain.MapDataset.source(ordered).seed(seed)
    stream = stream.random_map(prepare)
    stream = stream[start * batch_size + process_index :: process_count]
    yield from _read(stream.batch(local), workers)


def eval_batches(
    source: Source,
    prepare: Callable[[Example], Example],
    batch_size: int,
    *,
    info: Info,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
) -> Iterator[Example]:
    """Yields the examples once, in order, the last batch padded.

    Each process gets its slice of every global batch, so that all of them see equally
    many batches, of equal shape.

    Args:
      source: examples.
      prepare: prepares one example.
      batch_size: examples a batch over all processes.
      info: of the data set; labels are checked against it as they are read.
      process_index: of this process.
      process_count: of processes.
      workers: threads that read and prepare; 0 does it in the caller's.

    Yields:
      Arrays stacked over ``batch_size / process_count`` examples, and ``mask``, bool,
      False on padding (which repeats the last example).

    Raises:
      UserError: as for ``batches``.
    """
    import grain

    _check_not_empty(len(source))
    local = local_batch_size(batch_size, process_count)
    part = _Slice(CheckedSource(source, info), batch_size, local, process_index)
    stream = grain.MapDataset.source(part).map(
        lambda example: prepare(example) | {"mask": example["mask"]}
    )
    yield from _read(stream.batch(local), workers)


def local_batch_size(batch_size: int, process_count: int) -> int:
    """Returns each process's part of a global batch.

    Raises:
      UserError: if it is not a whole number.
    """
    if batch_size % process_count:
        raise UserError(
            f"batch_size is {batch_size}, expected a multiple of the {process_count} "
            "processes."
        )
    return batch_size // process_count


def _check_not_empty(num_examples: int) -> None:
    if num_examples == 0:
        raise UserError("The data set has no examples, expected at least one.")


class _BucketStream:
    """An endless source: batch after batch of one bucket each.

    Within a bucket examples come as in ``index_stream``.
    """

    def __init__(self, source: Source, buckets: np.ndarray, batch_size: int, seed: int):
        """Orders the examples of a source.

        Args:
          source: examples.
          buckets: of each example, numbered from 0.
          batch_size: examples of a batch, over all processes.
          seed: of the permutations.
        """
        self.source, self.batch_size, self.seed = source, batch_size, seed
        count = int(np.max(buckets, initial=-1)) + 1
        self._members = [np.flatnonzero(buckets == one) for one in range(count)]
        self._schedule = BucketSchedule([len(m) for m in self._members], batch_size)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, position: int) -> Example:
        batch, row = divmod(position, self.batch_size)
        bucket, number = self._schedule(batch)
        members = self._members[bucket]
        order = index_stream(len(members), self.batch_size, self.seed, number, 1)
        return self.source[int(members[order[0, row]])]


class _Slice:
    """A process's part of every batch, with a mask, padded to whole batches."""

    def __init__(self, source: Source, batch_size: int, local: int, process_index: int):
        self.source, self.batch_size, self.local = source, batch_size, local
        self.first = process_index * local

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch_size) * self.local

    def __getitem__(self, index: int) -> Example:
        batch, place = divmod(index, self.local)
        position = batch * self.batch_size + self.first + place
        example = self.source[min(position, len(self.source) - 1)]
        return example | {"mask": np.asarray(position < len(self.source))}


def _read(stream, workers: int) -> Iterator[Example]:
    import grain

    options = grain.ReadOptions(
        num_threads=workers, prefetch_buffer_size=workers and workers + 2
    )
    yield from stream.to_iter_dataset(options)
