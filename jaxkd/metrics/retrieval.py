"""Nearest neighbours among embeddings: recall@K and identification.

Distances are Euclidean; between rows of length 1 (``verification.unit_rows``) their
order is that of cosines. Scikit-learn searches by brute force, in chunks, so that the
matrix of all distances is never held.
"""

from collections.abc import Sequence

import numpy as np


def nearest(
    gallery: np.ndarray, k: int, queries: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest rows of a gallery.

    Args:
      gallery: ``[images, features]``.
      k: neighbours to find.
      queries: ``[queries, features]``; the gallery itself if not given, and then no
        row is its own neighbour.

    Returns:
      Distances and rows of the gallery, both ``[queries, k]``, nearest first.

    Raises:
      ValueError: if shapes do not fit, there are too few rows, or one is not finite.
    """
    from sklearn.neighbors import NearestNeighbors

    gallery = _rows(gallery, "gallery")
    candidates = len(gallery) - (queries is None)
    if not 1 <= k <= candidates:
        raise ValueError(
            f"{k} neighbours were asked for, expected 1 to {candidates}: the gallery "
            f"has {len(gallery)} "
            f"rows{', of which one asks' if queries is None else ''}."
        )
    if queries is not None:
        queries = _rows(queries, "queries")
        if queries.shape[1] != gallery.shape[1]:
            raise ValueError(
                f"queries have {queries.shape[1]} features and the gallery "
                f"{gallery.shape[1]}, expected as many: embed both by one network."
            )
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(gallery)
    return search.kneighbors(queries)


def recall_at_k(
    embeddings: np.ndarray, labels: np.ndarray, ks: Sequence[int] = (1, 2, 4, 8)
) -> np.ndarray:
    """Measures in how many cases one of the nearest K images has the same label.

    Every image asks, and all others answer. Jégou et al., "Product Quantization for
    Nearest Neighbor Search", 2011; the metric of CUB and Cars196 in metric learning.

    Args:
      embeddings: ``[images, features]``.
      labels: ``[images]``.
      ks: the values of K.

    Returns:
      ``[ks]``, in [0, 1].

    Raises:
      ValueError: if shapes do not fit, or a label occurs once only, since its image
        cannot be found.
    """
    labels = np.asarray(labels)
    _check_labels(labels, embeddings, "labels")
    values, counts = np.unique(labels, return_counts=True)
    if (counts < 2).any():
        raise ValueError(
            f"Label {values[counts < 2][0]} has one image ({np.sum(counts < 2)} such "
            "labels), expected at least 2 of each. Leave those images out."
        )
    _, found = nearest(embeddings, max(ks))
    return _hits(labels[found] == labels[:, None], ks)


def identification(
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    probes: np.ndarray,
    probe_labels: np.ndarray,
    ranks: Sequence[int] = (1,),
) -> np.ndarray:
    """Measures in how many cases a probe's identity is among the nearest images.

    Closed set: every identity of the probes must be in the gallery.

    Args:
      gallery: ``[images, features]``.
      gallery_labels: ``[images]``.
      probes: ``[probes, features]``.
      probe_labels: ``[probes]``.
      ranks: numbers of nearest images to look at; 1 for rank-1 identification.

    Returns:
      ``[ranks]``, in [0, 1].

    Raises:
      ValueError: if shapes do not fit, or an identity is not in the gallery.
    """
    gallery_labels, probe_labels = np.asarray(gallery_labels), np.asarray(probe_labels)
    _check_labels(gallery_labels, gallery, "gallery_labels")
    _check_labels(probe_labels, probes, "probe_labels")
    strangers = np.setdiff1d(probe_labels, gallery_labels)
    if strangers.size:
        raise ValueError(
            f"Probes of label {strangers[0]} have no image in the gallery "
            f"({strangers.size} such labels). Add one of each, or leave them out."
        )
    _, found = nearest(gallery, max(ranks), probes)
    return _hits(gallery_labels[found] == probe_labels[:, None], ranks)


def _hits(right: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    return np.array([right[:, :k].any(axis=1).mean() for k in ks])


def _rows(array, name: str) -> np.ndarray:
    rows = np.asarray(array, np.float64)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"{name} has shape {rows.shape}, expected [images, features].")
    if not np.isfinite(rows).all():
        wrong = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"Row {wrong} of {name} is not finite.")
    return rows


def _check_labels(labels, embeddings, name: str) -> None:
    if labels.shape != (len(embeddings),):
        raise ValueError(
            f"{name} have shape {labels.shape}, expected ({len(embeddings)},), one per "
            "embedding."
        )
