"""Feeds a run: from a table on the devices, or from files through reader threads.

Both ways the data position is a function of the step alone, so that a resumed run sees
the batches that it would have seen.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkd.core import sharding
from jaxkd.core.source import ArraySource, check_labels
from jaxkd.datasets import batching
from jaxkd.training.build import Run
from jaxkd.training.target_cache import Lookup


class Inputs(NamedTuple):
    """A feed of training batches.

    Attributes:
      table: examples that stay on the devices, ``[examples, ...]``; empty when batches
        are read from files.
      steps_per_call: the most steps that one call of ``next`` can cover.
      next: ``(start, count) -> batches`` for the training call.
    """

    table: dict[str, jax.Array]
    steps_per_call: int
    next: Callable[[int, int], dict[str, Any]]


def make_inputs(run: Run, start: int, lookup: Lookup | None = None) -> Inputs:
    """Makes the feed of a run that continues at step ``start``.

    Args:
      run: what to feed.
      start: step.
      lookup: where batches find their targets, if they were computed before.
    """
    tables = [draw.arrays for draw in run.draws if isinstance(draw, ArraySource)]
    if len(tables) == len(run.draws):
        return _from_memory(run, tables, lookup)
    return _from_files(run, start)


def _learning_rates(run: Run, start: int, count: int, padded: int) -> dict[str, Any]:
    def one(group):
        rates = group.learning_rates(start, count)
        return jax.tree.map(lambda x: np.pad(x, ((0, padded - count), (0, 0))), rates)

    return {group.name: one(group) for group in run.groups}


def _from_memory(
    run: Run, tables: Sequence[dict[str, np.ndarray]], lookup: Lookup | None
) -> Inputs:
    info = run.dataset.info
    for table in tables:
        if "label" in table and info.num_classes:
            check_labels(table["label"], info.num_classes, info.name)
    table = {
        name: np.concatenate([table[name] for table in tables]) for name in tables[0]
    }
    size = len(run.draws[0])
    chunk = run.config.steps_per_call

    def next_batches(start: int, count: int) -> dict[str, Any]:
        batch = run.config.batch_size
        index = np.stack(
            [
                batching.index_stream(size, batch, seed, start, count)
                for seed in run.draw_seeds
            ],
            axis=1,
        )
        data: dict[str, Any] = {
            "index": index + size * np.arange(len(tables), dtype=np.int32)[:, None]
        }
        if visits := run.config.targets.visits:
            visit = batching.epoch_stream(size, batch, start, count) % visits
            data["visit"] = np.broadcast_to(visit[:, None], index.shape)
            if lookup:
                data["targets"] = lookup(index, data["visit"])
        data = jax.tree.map(
            lambda x: np.pad(x, [(0, chunk - count)] + [(0, 0)] * (x.ndim - 1)), data
        )
        data = sharding.put(data, sharding.batch(run.mesh, axis=2))
        rates = _learning_rates(run, start, count, chunk)
        return {"data": data, "lr": sharding.put(rates, sharding.replicated(run.mesh))}

    device_table = sharding.put(table, sharding.replicated(run.mesh))
    return Inputs(device_table, chunk, next_batches)


def _from_files(run: Run, start: int) -> Inputs:
    streams = [
        batching.batches(
            draw,
            run.dataset.prepare_train,
            run.config.batch_size,
            info=run.dataset.info,
            seed=seed,
            start=start,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=run.config.workers,
        )
        for draw, seed in zip(run.draws, run.draw_seeds, strict=True)
    ]

    def next_batches(start: int, count: int) -> dict[str, Any]:
        del count
        rows = [next(stream) for stream in streams]
        data = {name: np.stack([row[name] for row in rows])[None] for name in rows[0]}
        rates = _learning_rates(run, start, 1, 1)
        return {
            "data": sharding.put_local(data, sharding.batch(run.mesh, axis=2)),
            "lr": sharding.put(rates, sharding.replicated(run.mesh)),
        }

    return Inputs({}, 1, next_batches)


def test_batches(run: Run) -> Iterator[dict[str, jax.Array]]:
    """Yields the test examples in order, padded, with ``mask`` False on padding."""
    batches = batching.eval_batches(
        run.dataset.test,
        run.dataset.prepare_test,
        # Batches are padded anyway, so that the last is not short.
        -(-run.config.eval_batch_size // run.mesh.size) * run.mesh.size,
        info=run.dataset.info,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for batch in batches:
        yield sharding.put_local(dict(batch), sharding.batch(run.mesh))
