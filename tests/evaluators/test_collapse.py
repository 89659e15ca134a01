"""Collapsed and diverged encoders are named, sound ones are not."""

from types import SimpleNamespace

import numpy as np
import pytest

from jaxkd.evaluators import collapse


def _report(embedding):
    member = SimpleNamespace(
        student="vicreg", seed=0, predict=lambda batch: {"embedding": embedding}
    )
    batch = {"mask": np.ones(len(embedding), bool)}
    return collapse.evaluate(
        SimpleNamespace(members=[member], batches=lambda: iter([batch]))
    )


def test_one_direction_and_no_number_are_reported_and_a_full_sphere_is_not():
    rows = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    assert not _report(rows).tables
    # A common mean, as behind a ReLU, is no collapse: this has a spread of about 0.2.
    assert not _report(rows + 5).tables
    with pytest.warns(UserWarning, match="Collapsed"):
        assert _report(rows + 50).tables
    for wrong in (np.ones_like(rows), np.full_like(rows, np.nan)):
        with pytest.warns(UserWarning, match=r"Collapsed, .*vicreg \(seed 0\)"):
            tables = _report(wrong).tables
        assert len(tables) == 1
