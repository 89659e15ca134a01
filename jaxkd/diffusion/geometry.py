"""The shape of sampling trajectories: how straight, how flat, how they bend.

Trajectories of the probability flow are nearly straight, lie almost in three
dimensions, and bend alike whatever sample they lead to (Chen et al., arXiv 2305.19947
and 2506.10177); that is why few steps do, and where they have to be.

All functions take the states of a ``samplers.Trajectory``, ``x`` of
``[num_sigmas, batch, ...]`` from noise to data, and compute on the host in float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Frenet(NamedTuple):
    """How curves bend and twist, from local cubics.

    Attributes:
      curvature: ``[num_sigmas, batch]``, one over the radius of the osculating circle.
      torsion: ``[num_sigmas, batch]``, the rate at which a curve leaves the plane of
        that circle. In three dimensions a right-handed screw is positive; in others
        it is a magnitude. NaN where the curve is straight and has no such plane.
    """

    curvature: np.ndarray
    torsion: np.ndarray


class Projection(NamedTuple):
    """Trajectories in the space of their chord and principal components.

    Attributes:
      coordinates: ``[num_sigmas, batch, 1 + count]`` relative to the end: along the
        chord (negative on the way, as it points to the end), then by component.
      axes: ``[batch, 1 + count, d]``, orthonormal.
      residual: ``[batch, 1 + count]``, the part of the trajectory's norm about its end
        that is missed by the first 1, 2, ... axes.
    """

    coordinates: np.ndarray
    axes: np.ndarray
    residual: np.ndarray


def deviation(x: np.ndarray | jax.Array) -> np.ndarray:
    """Returns the distance from the chord, the straight line between both ends.

    ``|(x_T - x_t) - <x_T - x_t, v> v|`` with v the direction of the chord (arXiv
    2405.11326).

    Args:
      x: ``[num_sigmas, batch, ...]``.

    Returns:
      ``[num_sigmas, batch]``; zero at both ends.

    Raises:
      ValueError: if there are fewer than two states or a trajectory ends where it
        began.
    """
    x = _flat(x)
    return np.linalg.norm(_beside(x, _chord(x)), axis=-1).T


def arc_length(x: np.ndarray | jax.Array) -> np.ndarray:
    """Returns the length travelled, as the sum of the steps' lengths.

    Args:
      x: ``[num_sigmas, batch, ...]``.

    Returns:
      ``[num_sigmas, batch]`` from 0 to the whole length.

    Raises:
      ValueError: if there are fewer than two states.
    """
    return _arc_length(_flat(x)).T


def explained_variance(x: np.ndarray | jax.Array, count: int = 3) -> np.ndarray:
    """Returns the share of each trajectory's variance in its principal components.

    Args:
      x: ``[num_sigmas, batch, ...]``.
      count: number of components.

    Returns:
      ``[batch, count]``, decreasing; a row sums to 1 if ``count`` components are all.

    Raises:
      ValueError: if there are not as many components, or as ``arc_length``.
    """
    x = _flat(x)
    _check_count(count, min(x.shape[1:]))
    values = np.linalg.svd(x - x.mean(axis=1, keepdims=True), compute_uv=False) ** 2
    total = values.sum(axis=1, keepdims=True)
    return values[:, :count] / np.where(total == 0, 1.0, total)


def project(x: np.ndarray | jax.Array, count: int = 2) -> Projection:
    """Projects trajectories on their chord and principal components about it.

    The first axis is the direction of the chord; the others are the principal
    components of what is left without it, found by a singular value decomposition
    (arXiv 2305.19947; the published code completes the chord to a basis of
    the whole space first, to the same effect). Signs are such that the middle state
    has no negative component.

    Args:
      x: ``[num_sigmas, batch, ...]``.
      count: number of components beside the chord.

    Raises:
      ValueError: as ``deviation`` and ``explained_variance``.
    """
    x = _flat(x)
    _check_count(count, min(x.shape[1], x.shape[2] - 1))
    away, chord = x - x[:, -1:], _chord(x)
    beside = _beside(x, chord)
    centred = beside - beside.mean(axis=1, keepdims=True)
    # With the chord as the longest row, what follows is orthogonal to it, even where
    # nothing is left of a straight trajectory.
    first = (2 * np.linalg.norm(centred, axis=(1, 2)) + 1)[:, None, None]
    rows = np.concatenate([first * chord[:, None], centred], axis=1)
    found = np.linalg.svd(rows, full_matrices=False)[2][:, 1 : 1 + count]
    middle = beside[:, x.shape[1] // 2, :, None]
    found = np.where(found @ middle < 0, -found, found)
    axes = np.concatenate([chord[:, None], found], axis=1)
    coordinates = away @ axes.swapaxes(1, 2)
    # What is missed by some axes is what the squares of the coordinates leave.
    total = (away**2).sum(axis=(1, 2))[:, None]
    held = np.cumsum((coordinates**2).sum(axis=1), axis=1)
    residual = np.sqrt(np.clip(1 - held / total, 0.0, None))
    return Projection(coordinates.swapaxes(0, 1), axes, residual)


def align(coordinates: np.ndarray, onto: int = 0) -> np.ndarray:
    """Turns projected trajectories about their chords to lie on one of them.

    Each is rotated in its last axes by orthogonal Procrustes analysis, which shows
    that they have one shape (arXiv 2305.19947).

    Args:
      coordinates: ``[num_sigmas, batch, 1 + count]``, such as ``project`` returns.
      onto: index in the batch of the one that stays.

    Returns:
      The coordinates, turned.
    """
    beside = np.asarray(coordinates, np.float64)[..., 1:].swapaxes(0, 1)
    left, _, right = np.linalg.svd(beside.swapaxes(1, 2) @ beside[onto])
    turned = (beside @ (left @ right)).swapaxes(0, 1)
    return np.concatenate([coordinates[..., :1], turned], axis=-1)


def frenet(x: np.ndarray | jax.Array, window: int = 101) -> Frenet:
    """Returns curvature and torsion along trajectories.

    Around each state a cubic in arc length is fitted by least squares to a window of
    states. With a1, a2, a3 the lengths of its three derivatives after Gram-Schmidt
    orthogonalisation, the curvature is ``a2 / a1^2`` and the torsion ``a3 / (a1 a2)``,
    in any dimension (arXiv 2506.10177; there in three). Near the ends the
    window is moved inside, where the published code repeats neighbours.

    Args:
      x: ``[num_sigmas, batch, ...]``; in many dimensions, project first, for speed and
        against rounding. States should be even in arc length, as those of a schedule
        even in sigma nearly are.
      window: odd number of states, at least 5.

    Raises:
      ValueError: if the window does not fit, or states coincide.
    """
    x = _flat(x)
    if not 5 <= window <= x.shape[1] or window % 2 == 0:
        raise ValueError(
            f"A window of {window} for {x.shape[1]} states; expected an odd number "
            "from 5 to the number of states."
        )
    length = _arc_length(x)
    if not np.all(np.diff(length) > 0):
        raise ValueError("Two states of a trajectory coincide; leave one of them out.")
    starts = np.arange(x.shape[1]) - window // 2
    starts = np.clip(starts, 0, x.shape[1] - window)
    bends = [
        _bend(length, x, index, slice(start, start + window))
        for index, start in enumerate(starts)
    ]
    curvature, torsion = (np.stack(part) for part in zip(*bends, strict=True))
    return Frenet(curvature, torsion)


def denoising_path(
    denoise: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    sigmas: np.ndarray,
) -> jax.Array:
    """Returns the implicit path of clean data: what is predicted from each state.

    An Euler step goes to ``(s'/s) x + (1 - s'/s) D(x, s)``, so that the states chase
    this path (arXiv 2305.19947).

    Args:
      denoise: ``(x, sigma) -> x0``.
      x: ``[num_sigmas, batch, ...]``.
      sigmas: ``[num_sigmas]``.

    Returns:
      ``[num_sigmas, batch, ...]``, to be measured as the states are.

    Raises:
      ValueError: if there is not one sigma for each state.
    """
    x, times = jnp.asarray(x), jnp.asarray(sigmas)
    if times.shape != x.shape[:1]:
        raise ValueError(
            f"{times.shape} sigmas for states {x.shape}; expected one for each state."
        )
    return jax.lax.map(lambda at: denoise(*at), (x, times.astype(x.dtype)))


def _flat(x: np.ndarray | jax.Array) -> np.ndarray:
    """Returns float64 ``[batch, num_sigmas, d]``."""
    states = np.asarray(x, np.float64)
    if states.ndim < 3 or len(states) < 2:
        raise ValueError(
            f"A trajectory of shape {states.shape}; expected [num_sigmas, batch, ...] "
            "with at least two states."
        )
    return states.reshape(*states.shape[:2], -1).swapaxes(0, 1)


def _chord(x: np.ndarray) -> np.ndarray:
    """Returns the direction from the first state to the last, ``[batch, d]``."""
    chord = x[:, -1] - x[:, 0]
    norm = np.linalg.norm(chord, axis=-1, keepdims=True)
    if not np.all(norm > 0):
        raise ValueError("A trajectory ends where it began, and so has no chord.")
    return chord / norm


def _beside(x: np.ndarray, chord: np.ndarray) -> np.ndarray:
    """Returns the states relative to the end, without what is along the chord."""
    away = x - x[:, -1:]
    return away - (away @ chord[..., None]) * chord[:, None]


def _arc_length(x: np.ndarray) -> np.ndarray:
    steps = np.linalg.norm(np.diff(x, axis=1), axis=-1)
    return np.pad(np.cumsum(steps, axis=1), ((0, 0), (1, 0)))


def _bend(
    length: np.ndarray, x: np.ndarray, index: int, around: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Returns curvature and torsion ``[batch]`` at one state."""
    offset = length[:, around] - length[:, index, None]
    reach = np.abs(offset).max(axis=1)
    offset = offset / reach[:, None]  # Or its powers would be of unlike size.
    powers = np.stack([offset, offset**2 / 2, offset**3 / 6], axis=-1)
    inverse = np.linalg.inv(powers.swapaxes(1, 2) @ powers)
    moved = x[:, around] - x[:, index, None]
    first, second, third = np.moveaxis(
        inverse @ (powers.swapaxes(1, 2) @ moved) / reach[:, None, None], 1, 0
    )
    # The derivatives are by offset: one more division by the reach for each order.
    second, third = second / reach[:, None], third / reach[:, None] ** 2
    return _invariants(first, second, third)


def _invariants(first, second, third) -> tuple[np.ndarray, np.ndarray]:
    speed = np.linalg.norm(first, axis=-1)
    tangent = first / speed[:, None]
    normal = second - np.sum(second * tangent, -1, keepdims=True) * tangent
    bend = np.linalg.norm(normal, axis=-1)
    curvature = bend / speed**2
    # Of a straight line only rounding is left, which has no direction.
    straight = bend <= 1e-12 * np.linalg.norm(second, axis=-1) + 1e-300
    bend = np.where(straight, np.nan, bend)
    normal = normal / bend[:, None]
    twist = third - np.sum(third * tangent, -1, keepdims=True) * tangent
    twist = twist - np.sum(twist * normal, -1, keepdims=True) * normal
    torsion = np.linalg.norm(twist, axis=-1) / (speed * bend)
    if first.shape[-1] == 3:
        torsion = torsion * np.sign(np.sum(np.cross(tangent, normal) * twist, -1))
    return curvature, torsion


def _check_count(count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise ValueError(f"{count} components; expected at least 1 and at most {most}.")
