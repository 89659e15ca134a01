import itertools

import numpy as np
import pytest

from jaxkd.core.cadence import Cadence


def draw(rng):
    total = int(rng.integers(1, 60))
    log, evaluate, save = (int(rng.integers(1, 80)) for _ in range(3))
    ends = [int(end) for end in rng.integers(1, total + 1, rng.integers(0, 3))]
    return Cadence(total, log, evaluate, save, (*ends, total))


def events(cadence):
    """The steps at which anything happens, by asking each step of the run."""
    return [
        step
        for step in range(1, cadence.total + 1)
        if cadence.logs(step) or cadence.evaluates(step) or cadence.saves(step)
    ]


@pytest.mark.parametrize("seed", range(60))
def test_stops_by_brute_force(seed):
    rng = np.random.default_rng(seed)
    cadence, limit = draw(rng), int(rng.integers(1, 30))
    stops = list(cadence.stops(0, limit))
    assert stops[-1] == cadence.total
    steps = np.diff([0, *stops])
    assert steps.min() >= 1 and steps.max() <= limit
    assert set(events(cadence)) <= set(stops)  # no call crosses an event
    # No call is shorter than it has to be.
    for before, stop in itertools.pairwise([0, *stops]):
        assert stop - before == limit or stop in events(cadence)


@pytest.mark.parametrize("seed", range(20))
def test_resuming_at_any_stop_gives_the_same_tail(seed):
    rng = np.random.default_rng(100 + seed)
    cadence, limit = draw(rng), int(rng.integers(1, 30))
    stops = list(cadence.stops(0, limit))
    for index, stop in enumerate(stops):
        assert list(cadence.stops(stop, limit)) == stops[index + 1 :]


def test_what_happens_when():
    cadence = Cadence(total=20, log=3, evaluate=8, save=7, ends=(5, 20))
    steps = range(1, 21)
    assert [s for s in steps if cadence.evaluates(s)] == [5, 8, 16, 20]
    assert [s for s in steps if cadence.saves(s)] == [7, 14, 20]
    # Training metrics are recorded with every evaluation too.
    assert [s for s in steps if cadence.logs(s)] == [3, 5, 6, 8, 9, 12, 15, 16, 18, 20]
    assert list(cadence.stops(0, 100)) == [
        3, 5, 6, 7, 8, 9, 12, 14, 15, 16, 18, 20
    ]  # fmt: skip
    assert list(cadence.stops(20, 100)) == []
