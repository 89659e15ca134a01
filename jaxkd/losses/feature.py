"""Losses between the feature maps of a student and of its teacher, layer by layer.

Every function takes one layer of each network, ``[batch, height, width, channels]``,
and returns one value per example, ``[batch]``; its mean over the batch is the
published loss of that layer, and layers are added up. Whatever is trained to bring
the student's features into the teacher's shape (a regressor, a connector) is a
network, not a loss: these functions take its output. See ``jaxkd.losses`` for the
conventions all losses share.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.losses._masked import student_side, teacher_side
from jaxkd.losses.numerics import (
    at_least_float32,
    check_maps,
    check_same_shape,
    einsum,
    unit,
)


def adaptive_average_pool(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Averages a map over a grid of ``size`` cells that cover it.

    Along an axis of length ``n``, cell ``i`` of ``m`` runs from ``floor(i n / m)`` up
    to, not including, ``ceil((i + 1) n / m)``. Cells therefore overlap when ``m`` does
    not divide ``n``, and repeat pixels when ``m > n``. This is PyTorch's
    ``adaptive_avg_pool2d``, for every pair of sizes.

    Args:
      x: ``[..., height, width, channels]``.
      size: the new ``(height, width)``.

    Returns:
      ``[..., *size, channels]``, at least float32.

    Raises:
      ValueError: if ``x`` is no map or ``size`` is not positive.
    """
    x = at_least_float32(x)
    if x.ndim < 3 or min(size) < 1:
        raise ValueError(
            f"x has shape {x.shape} and size is {size}, expected [..., height, width, "
            "channels] and two positive numbers."
        )
    height, width = x.shape[-3:-1]
    if size[0] != height:
        x = einsum("oh,...hwc->...owc", _cells(height, size[0], x.dtype), x)
    if size[1] != width:
        x = einsum("ow,...hwc->...hoc", _cells(width, size[1], x.dtype), x)
    return x


def hint(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the hint loss of FitNets: the mean squared difference.

    Romero et al., "FitNets: Hints for Thin Deep Nets" (arXiv:1412.6550, section 2.2),
    averaged over positions and channels, where the paper has half the sum: so do the
    benchmarks, which take cross-entropy + 100 times this, on one layer in the middle.

    Args:
      student: ``[batch, ...]``, the regressor's output.
      teacher: ``[batch, ...]``, the same shape.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_same_shape(student, teacher)
    return _mean_square(student_side(student) - teacher_side(teacher))


def attention_transfer(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the attention transfer loss of one layer (AT).

    A layer's attention is the mean over channels of its squared features, flattened
    and scaled to length 1; the loss is the mean squared difference over positions.
    Zagoruyko and Komodakis, "Paying More Attention to Attention" (arXiv:1612.03928,
    section 3.1). The paper's loss is the length of the difference; the mean square is
    that of the benchmarks, which take cross-entropy + 1000 times the sum over layers.

    Args:
      student: ``[batch, height, width, channels]``.
      teacher: the same, of any height, width and channels. Where sizes differ, the
        larger is pooled to the smaller.

    Returns:
      ``[batch]``. A map that is zero everywhere has attention zero.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_maps(student, teacher, same_channels=False)
    maps = _to_common_size(student_side(student), teacher_side(teacher))
    attention = [unit(jnp.mean(x**2, axis=-1).reshape(x.shape[0], -1)) for x in maps]
    return _mean_square(attention[0] - attention[1])


def neuron_selectivity(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the neuron selectivity transfer loss of one layer (NST).

    The squared maximum mean discrepancy between the channels of the two networks, each
    a map scaled to length 1 over its positions, with the kernel ``k(a, b) = <a, b>^2``:
    ``mean k(t, t) + mean k(s, s) - 2 mean k(s, t)``. Huang and Wang, "Like What You
    Like" (arXiv:1707.01219, polynomial kernel). The benchmarks take
    cross-entropy + 50 times the sum over layers.

    Args:
      student: ``[batch, height, width, channels]``.
      teacher: the same, of any height, width and channels. Where sizes differ, the
        larger is pooled to the smaller.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_maps(student, teacher, same_channels=False)
    maps = _to_common_size(student_side(student), teacher_side(teacher))
    s, t = (unit(x.reshape(x.shape[0], -1, x.shape[-1]), axis=1) for x in maps)
    return _mean_kernel(t, t) + _mean_kernel(s, s) - 2 * _mean_kernel(s, t)


def ofd_margins(scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Computes the margins of OFD from a batch normalisation of the teacher.

    A channel's margin is the expectation of its negative values, taking it to be
    normal with mean ``m = bias`` and deviation ``s = |scale|``:
    ``m - s phi(m / s) / Phi(-m / s)``, or ``-3 s`` where less than a thousandth of the
    values are negative. Heo et al., "A Comprehensive Overhaul of Feature Distillation"
    (arXiv:1904.01866). A channel of scale 0, which the official code does
    not allow, is the constant ``m``: its margin is ``min(m, 0)``.

    Args:
      scale: ``[channels]`` (gamma), of the normalisation before the tapped ReLU.
      bias: ``[channels]`` (beta).

    Returns:
      ``[channels]``, at most 0, without gradient.

    Raises:
      ValueError: if shapes do not fit.
    """
    if jnp.shape(scale) != jnp.shape(bias):
        raise ValueError(
            f"scale has shape {jnp.shape(scale)} and bias {jnp.shape(bias)}, expected "
            "[channels] for both."
        )
    deviation, mean = jnp.abs(teacher_side(scale)), teacher_side(bias)
    varies = deviation > 0
    ratio = mean / jnp.where(varies, deviation, 1)
    negative = jax.scipy.stats.norm.cdf(-ratio)
    density = jax.scipy.stats.norm.pdf(ratio)
    often = negative > 1e-3
    expected = mean - deviation * density / jnp.where(often, negative, 1)
    margins = jnp.where(often, expected, -3 * deviation)
    return jnp.where(varies, margins, jnp.minimum(mean, 0))


def ofd(student: jax.Array, teacher: jax.Array, margins: jax.Array) -> jax.Array:
    """Computes the partial squared distance of one layer (OFD).

    The target is the teacher's feature *before* its ReLU, raised to the margin where
    it lies below. Squared differences are summed over positions and channels, leaving
    out those where target and student both need no change: the target is not positive
    and the student does not exceed it. Heo et al. (arXiv:1904.01866). The official
    recipe halves the weight of a layer with every layer that follows it, and takes
    cross-entropy + 1e-3 (CIFAR) or 1e-4 (ImageNet) times the sum.

    Args:
      student: ``[batch, height, width, channels]``, the connector's output.
      teacher: the same channels, before the ReLU and in evaluation mode (the official
        code leaves its batch normalisation in training mode); pooled to the student's
        size where that differs.
      margins: ``[channels]``, see ``ofd_margins``.

    Returns:
      ``[batch]``, a sum over positions and channels.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_maps(student, teacher, same_channels=True)
    _check_channels("margins", margins, teacher)
    student = student_side(student)
    height, width = student.shape[1:3]
    pooled = adaptive_average_pool(teacher_side(teacher), (height, width))
    target = jnp.maximum(pooled, teacher_side(margins))
    counts = (student > target) | (target > 0)
    return jnp.sum(jnp.where(counts, (student - target) ** 2, 0), axis=(1, 2, 3))


def vid(student: jax.Array, teacher: jax.Array, variance: jax.Array) -> jax.Array:
    """Computes the variational information loss of one layer (VID).

    The mean over positions and channels of
    ``((mu - t)^2 / variance + log variance) / 2``: the negative log-likelihood of the
    teacher's features ``t`` under a normal distribution whose mean ``mu`` the student
    predicts, up to a constant. It may be negative. Ahn et al., "Variational
    Information Distillation for Knowledge Transfer" (arXiv:1904.05835). The
    benchmarks take cross-entropy + the sum over layers, with the variance
    ``softplus(rho) + 1e-5`` of trained ``rho``, 5 at first. In mdistiller's code
    ``rho`` never reaches the optimiser, so that there the variance stays 5.

    Args:
      student: ``[batch, height, width, channels]``, the predicted mean.
      teacher: the same channels. Where sizes differ, the larger is pooled to the
        smaller. The official code pools the student *before* it predicts; for that,
        apply ``adaptive_average_pool`` there.
      variance: ``[channels]``, positive; differentiated.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_maps(student, teacher, same_channels=True)
    _check_channels("variance", variance, teacher)
    mean, target = _to_common_size(student_side(student), teacher_side(teacher))
    variance = at_least_float32(variance)
    terms = (mean - target) ** 2 / variance + jnp.log(variance)
    return jnp.mean(terms, axis=(1, 2, 3)) / 2


def hierarchical_context(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Computes the hierarchical context loss of one level of ReviewKD (HCL).

    The mean squared difference of the maps as they are, with weight 1, and pooled to
    4x4, 2x2 and 1x1, each with half the weight of the one before; divided by the sum
    of weights. A grid is left out, and no weight is spent on it, unless it is smaller
    than the map's height. Chen et al., "Distilling Knowledge via Knowledge Review"
    (arXiv:2104.09044). Levels are added up; the weight of the sum beside
    cross-entropy depends on the pair of networks (1 to 30) and rises over the first 20
    epochs (CIFAR) or the first (ImageNet).

    Args:
      student: ``[batch, height, width, channels]``, fused and of the teacher's shape.
        Pooled features are ``[batch, 1, 1, channels]``.
      teacher: the same shape.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_maps(student, teacher, same_channels=True)
    check_same_shape(student, teacher)
    # Pooling is linear: the difference of pooled maps is the pooled difference.
    difference = student_side(student) - teacher_side(teacher)
    loss, weight, total = _mean_square(difference), 1.0, 1.0
    for cells in (4, 2, 1):
        if cells < difference.shape[1]:
            weight /= 2
            total += weight
            pooled = adaptive_average_pool(difference, (cells, cells))
            loss = loss + weight * _mean_square(pooled)
    return loss / total


def _cells(length: int, cells: int, dtype) -> jax.Array:
    """Averages as a matrix: ``[cells, length]`` with rows that sum to 1."""
    index = np.arange(cells)
    first = index * length // cells
    end = -(-(index + 1) * length // cells)
    position = np.arange(length)
    inside = (position >= first[:, None]) & (position < end[:, None])
    return jnp.asarray(inside / inside.sum(axis=1, keepdims=True), dtype)


def _to_common_size(*maps: jax.Array) -> list[jax.Array]:
    """Pools maps to the smallest height and the smallest width among them."""
    heights, widths = zip(*(x.shape[1:3] for x in maps), strict=True)
    size = (min(heights), min(widths))
    return [adaptive_average_pool(x, size) for x in maps]


def _mean_square(x: jax.Array) -> jax.Array:
    """Averages squares over all axes but the first."""
    return jnp.mean(x**2, axis=tuple(range(1, x.ndim)))


def _mean_kernel(a: jax.Array, b: jax.Array) -> jax.Array:
    """Averages ``<a_i, b_j>^2`` over pairs of channels of ``[batch, place, channel]``.

    Returns ``[batch]``.
    """
    return jnp.mean(einsum("npi,npj->nij", a, b) ** 2, axis=(1, 2))


def _check_channels(name: str, array, teacher) -> None:
    wanted = jnp.shape(teacher)[-1:]
    if jnp.shape(array) != wanted:
        raise ValueError(
            f"{name} has shape {jnp.shape(array)}, expected {wanted}: one per channel "
            f"of the teacher's features, which have shape {jnp.shape(teacher)}."
        )
