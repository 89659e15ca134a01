"""Length buckets: batches of examples of about the same length.

Padding everything to the longest example spends most of a step on nothing. Here every
example belongs to a bucket and a batch is of one bucket alone, so that it is as long
as its bucket. The training step is compiled once for each length. As in
``jaxkd.datasets.batching``, batch ``i`` depends on the seed and ``i`` alone.
"""

from collections.abc import Sequence

import numpy as np

from jaxkd.core.errors import UserError

# The step is compiled for every length; more than these would take longer than they
# save.
MOST = 8


def check_lengths(buckets: Sequence[int], longest: int) -> list[int]:
    """Returns the lengths of all buckets, rising; ``longest`` is always the last.

    Args:
      buckets: lengths of shorter ones; ``longest`` may be among them.
      longest: length of the last.

    Raises:
      UserError: if a length is not within 1 and ``longest``, or there are too many.
    """
    lengths = sorted({*buckets, longest})
    if lengths[0] < 1 or lengths[-1] > longest or len(lengths) > MOST:
        raise UserError(
            f"config.data.buckets is {tuple(buckets)}, expected lengths from 1 to "
            f"{longest} (config.data.frames), and {MOST} of them at most, that one "
            "among them: the step is compiled for every length."
        )
    return lengths


def length_for(length: int, lengths: Sequence[int]) -> int:
    """Returns the least of the rising ``lengths`` that holds an example, or the last.

    >>> [length_for(n, (50, 100)) for n in (7, 50, 51, 300)]
    [50, 50, 100, 100]
    """
    return next((one for one in lengths if one >= length), lengths[-1])


class BucketSchedule:
    """The bucket of each batch.

    A bucket has as many batches as its share of the examples. Its k-th of every
    ``sum(sizes)`` batches is due at the time ``(k + 1/2) / size``; batches come in the
    order of these times, those of each epoch shuffled. After any number of epochs a
    bucket lacks less than ``(1 + number of buckets) / 2`` batches of its share, or has
    as many too many.
    """

    def __init__(self, sizes: Sequence[int], batch_size: int):
        """Plans the batches.

        Args:
          sizes: examples of each bucket; those of empty ones never come.
          batch_size: examples of a batch.

        Raises:
          UserError: if there are no examples.
        """
        self.sizes = np.asarray(sizes, np.int64)
        total = int(self.sizes.sum())
        if not total:
            raise UserError("The data set has no examples, expected at least one.")
        due = np.concatenate([(np.arange(n) + 0.5) / n for n in self.sizes if n])
        owner = np.repeat(np.arange(len(self.sizes)), self.sizes)
        self._cycle = owner[np.argsort(due, kind="stable")]
        self._epoch = -(-total // batch_size)

    def __call__(self, batch: int) -> tuple[int, int]:
        """Returns the bucket of a batch, and how many batches it had before.

        The same for every seed: studies stack the batches of several seeds.
        """
        epoch, place = divmod(batch, self._epoch)
        first, total = epoch * self._epoch, len(self._cycle)
        own = self._cycle[(first + np.arange(self._epoch)) % total]
        own = np.random.Generator(np.random.Philox(key=[0, epoch])).permutation(own)
        bucket = int(own[place])
        turns, rest = divmod(first, total)
        before = turns * int(self.sizes[bucket])
        before += int(np.sum(self._cycle[:rest] == bucket))
        return bucket, before + int(np.sum(own[:place] == bucket))
