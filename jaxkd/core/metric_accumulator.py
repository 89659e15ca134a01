"""Running means of training metrics, and the steps that were left out of them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class MetricAccumulator:
    """What training has measured since it last told, kept on the devices.

    Steps of a member whose update was not finite are in no mean; they are counted.
    """

    def __init__(self, saved: Mapping[str, Any] | None = None):
        """Starts anew, or goes on from what ``to_json`` returned."""
        saved = saved or {"sums": None, "weights": None, "skipped": None}
        self._sums, self._weights, self._skipped = (
            jax.tree.map(np.float32, saved[name], is_leaf=_is_list)
            for name in ("sums", "weights", "skipped")
        )
        self._newest: Any = None

    def add(self, metrics: Mapping[str, Mapping[str, jax.Array]], steps: int) -> None:
        """Adds what a training call has returned.

        Waits for the call before this one, so that at most two are under way: the
        devices always have work, and progress is not reported far ahead of them.
        """
        jax.block_until_ready(self._newest)
        self._newest = metrics
        skipped = {group: found["skipped"] for group, found in metrics.items()}
        weights = {group: steps - count for group, count in skipped.items()}
        sums = {
            group: {
                name: values * weights[group]
                for name, values in found.items()
                if name != "skipped"
            }
            for group, found in metrics.items()
        }
        self._sums = _plus(self._sums, sums)
        self._weights = _plus(self._weights, weights)
        self._skipped = _plus(self._skipped, skipped)

    def take(self) -> dict[str, dict[str, np.ndarray]]:
        """Returns the means, group -> name -> ``[members]``, and starts new ones.

        NaN where every step was left out, so that nothing was measured.
        """
        sums, weights = jax.device_get((self._sums, self._weights))
        self._sums = self._weights = None
        return {
            group: {
                name: np.divide(
                    values,
                    weights[group],
                    out=np.full_like(values, np.nan),
                    where=weights[group] > 0,
                )
                for name, values in found.items()
            }
            for group, found in sums.items()
        }

    def skipped(self) -> dict[str, np.ndarray]:
        """Returns how many steps were left out in all, group -> ``[members]``."""
        return jax.device_get(self._skipped) or {}

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as plain lists, exactly."""
        kept = {
            "sums": self._sums,
            "weights": self._weights,
            "skipped": self._skipped,
        }
        return jax.tree.map(lambda x: np.asarray(x).tolist(), jax.device_get(kept))


def _is_list(tree: Any) -> bool:
    return isinstance(tree, list)


def _plus(total: Any, more: Any) -> Any:
    return more if total is None else jax.tree.map(jnp.add, total, more)
