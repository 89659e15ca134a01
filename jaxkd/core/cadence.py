"""When a run logs, evaluates and saves: pure arithmetic on steps."""

from collections.abc import Iterator
from typing import NamedTuple


class Cadence(NamedTuple):
    """The periods of a run, in steps.

    Attributes:
      total: steps of the run.
      log: steps between records of training metrics.
      evaluate: steps between evaluations.
      save: steps between checkpoints.
      ends: the step at which each student ends.
    """

    total: int
    log: int
    evaluate: int
    save: int
    ends: tuple[int, ...]

    def stops(self, start: int, limit: int) -> Iterator[int]:
        """Yields the steps at which calls end, from after ``start`` to ``total``.

        No call is longer than ``limit`` steps or runs across a step at which
        something else has to happen.
        """
        while start < self.total:
            nexts = [
                (start // period + 1) * period
                for period in (self.log, self.evaluate, self.save)
            ]
            ends = [end for end in self.ends if end > start]
            start = min(start + limit, self.total, *nexts, *ends)
            yield start

    def logs(self, step: int) -> bool:
        """Tells whether training metrics are recorded at ``step``."""
        return step % self.log == 0 or self.evaluates(step)

    def evaluates(self, step: int) -> bool:
        """Tells whether students are evaluated: regularly, and when one ends."""
        return step % self.evaluate == 0 or step == self.total or step in self.ends

    def saves(self, step: int) -> bool:
        """Tells whether a checkpoint is saved at ``step``."""
        return step % self.save == 0 or step == self.total
