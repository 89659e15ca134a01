"""Retrieval metrics against all pairs of distances."""

import numpy as np
import pytest

from jaxkd.metrics import retrieval


def draw(images=60, labels=6, seed=0):
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(images) % labels)
    centres = rng.normal(size=(labels, 5))
    return centres[label] + rng.normal(size=(images, 5)), label


def distances(queries, gallery):
    return np.linalg.norm(queries[:, None] - gallery[None], axis=-1)


def test_nearest_neighbours():
    rows, _ = draw()
    far, found = retrieval.nearest(rows, 4, rows[:7] + 0.1)
    truth = distances(rows[:7] + 0.1, rows)
    np.testing.assert_array_equal(found, np.argsort(truth, axis=1)[:, :4])
    np.testing.assert_allclose(far, np.sort(truth, axis=1)[:, :4], 1e-12)


def test_no_row_is_its_own_neighbour_even_beside_a_twin():
    rows, _ = draw()
    rows[1] = rows[0]
    far, found = retrieval.nearest(rows, 3)
    assert not (found == np.arange(len(rows))[:, None]).any()
    assert found[0, 0] == 1 and found[1, 0] == 0
    np.testing.assert_allclose(far[:2, 0], 0, atol=1e-7)


def test_recall():
    rows, labels = draw()
    all_pairs = distances(rows, rows)
    np.fill_diagonal(all_pairs, np.inf)
    order = np.argsort(all_pairs, axis=1)
    right = labels[order] == labels[:, None]
    wanted = [right[:, :k].any(1).mean() for k in (1, 2, 4)]
    measured = retrieval.recall_at_k(rows, labels, (1, 2, 4))
    np.testing.assert_array_equal(measured, wanted)
    assert 1 / 6 < wanted[0] < wanted[1] < wanted[2] < 1
    # By chance, one in six: a control.
    shuffled = np.random.default_rng(1).permutation(labels)
    assert retrieval.recall_at_k(rows, shuffled, (1,))[0] < 0.35


def test_identification():
    rows, labels = draw()
    gallery, probes = rows[:40], rows[40:]
    order = np.argsort(distances(probes, gallery), axis=1)
    right = labels[:40][order] == labels[40:, None]
    measured = retrieval.identification(
        gallery, labels[:40], probes, labels[40:], (1, 5)
    )
    np.testing.assert_array_equal(
        measured, [right[:, :k].any(1).mean() for k in (1, 5)]
    )
    same = retrieval.identification(gallery, labels[:40], gallery, labels[:40])
    assert same.tolist() == [1.0]


def test_wrong_input():
    rows, labels = draw(12, 6)
    alone = labels.copy()
    alone[0] = 9
    with pytest.raises(ValueError, match=r"Label \d has one image \(2 such labels\)"):
        retrieval.recall_at_k(rows, alone)
    with pytest.raises(ValueError, match=r"Probes of label 9 have no image in the gal"):
        retrieval.identification(rows, labels, rows, alone)
    with pytest.raises(
        ValueError, match=r"12 neighbours were asked for, expected 1 to 11"
    ):
        retrieval.nearest(rows, 12)
    with pytest.raises(ValueError, match=r"queries have 4 features and the gallery 5"):
        retrieval.nearest(rows, 1, rows[:, :4])
    with pytest.raises(ValueError, match=r"Row 3 of gallery is not finite"):
        retrieval.nearest(np.where(np.arange(12)[:, None] == 3, np.inf, rows), 1)
    with pytest.raises(
        ValueError, match=r"labels have shape \(11,\), expected \(12,\)"
    ):
        retrieval.recall_at_k(rows, labels[1:])
