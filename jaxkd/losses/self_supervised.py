"""Self-supervised losses between views of the same images, as pure functions.

``z`` are outputs of a projector, ``p`` of a predictor behind it; no array has to be of
length 1. Losses are written for the *global* batch: under ``jit`` with a batch that is
spread over devices, their statistics and negatives are those of the whole batch, so the
result is the same on any number of devices.

Memories and schedules that go with them are in ``self_supervised_state``.
"""

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import Scalar
from jaxkd.losses.numerics import at_least_float32, einsum, unit

STANDARDIZE_EPSILON = 1e-5  # added to the variances of Barlow Twins
VARIANCE_EPSILON = 1e-4  # added to the variances of VICReg


def nt_xent(z0: jax.Array, z1: jax.Array, *, temperature: Scalar = 0.5) -> jax.Array:
    """Computes NT-Xent, SimCLR's loss: each view is to find its other view.

    With cosines ``s`` of the ``2N`` rows of both views and ``p(i)`` the other view of
    row ``i``: ``-1/(2N) sum_i log(exp(s_ip(i)/T) / sum_{k != i} exp(s_ik/T))``.

    Args:
      z0: ``[batch, dim]``, of one view.
      z1: ``[batch, dim]``, of the other; both are differentiated.
      temperature: ``T``, positive.

    Returns:
      A scalar, since every row is compared with every other.

    Raises:
      ValueError: if shapes do not fit.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual
    Representations" (arXiv:2002.05709), equation 1.

    >>> z = jnp.eye(4)
    >>> float(nt_xent(z, z, temperature=0.5))  # log(1 + 6 exp(-2))
    0.594...
    """
    _check_pair(z0, z1, "z0", "z1")
    z = jnp.concatenate([unit(at_least_float32(z0)), unit(at_least_float32(z1))])
    count = z0.shape[0]
    scores = einsum("id,jd->ij", z, z) / temperature
    itself = jnp.eye(2 * count, dtype=bool)
    log_p = jax.nn.log_softmax(jnp.where(itself, -jnp.inf, scores), axis=-1)
    rows = jnp.arange(2 * count)
    return -jnp.mean(log_p[rows, (rows + count) % (2 * count)])


def moco(
    query: jax.Array, key: jax.Array, queue: jax.Array, *, temperature: Scalar = 0.1
) -> jax.Array:
    """Computes MoCo's InfoNCE: a query is to find its key among those of the queue.

    With cosines: ``-log(exp(qk/T) / (exp(qk/T) + sum_j exp(qm_j/T)))``. The queue must
    be the one from before this batch's keys enter it, also for the second term of a
    symmetric loss.

    Args:
      query: ``[batch, dim]``; differentiated.
      key: ``[batch, dim]``, of the other view by the momentum encoder.
      queue: ``[size, dim]``, see ``self_supervised_state.queue_update``.
      temperature: ``T``, positive.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit.

    Source: He et al., "Momentum Contrast for Unsupervised Visual Representation
    Learning" (arXiv:1911.05722), equation 1; ``T`` is 0.07 there.

    >>> query, queue = jnp.eye(3)[:1], jnp.eye(3)[1:]
    >>> moco(query, query, queue, temperature=1.0).round(4).tolist()  # log(1 + 2/e)
    [0.551...]
    """
    _check_pair(query, key, "query", "key")
    if jnp.ndim(queue) != 2 or jnp.shape(queue)[1] != jnp.shape(query)[1]:
        raise ValueError(
            f"queue has shape {jnp.shape(queue)}, expected [size, {query.shape[1]}] to "
            f"go with queries of shape {jnp.shape(query)}."
        )
    q = unit(at_least_float32(query))
    k, memory = (unit(_target(x)) for x in (key, queue))
    positive = jnp.sum(q * k, axis=-1, keepdims=True)
    scores = jnp.concatenate([positive, einsum("bd,md->bm", q, memory)], axis=-1)
    return -jax.nn.log_softmax(scores / temperature, axis=-1)[:, 0]


def negative_cosine(p: jax.Array, z: jax.Array) -> jax.Array:
    """Computes ``-cos(p, z)``, the term of BYOL and SimSiam.

    Their loss is the mean of both directions,
    ``0.5 negative_cosine(p0, z1) + 0.5 negative_cosine(p1, z0)``. BYOL's own
    ``2 - 2 cos`` has twice the gradient.

    Args:
      p: ``[..., dim]``, the predictor's output; differentiated.
      z: ``[..., dim]``, the other view's target, which gets no gradient.

    Returns:
      ``[...]``, in [-1, 1]. A zero vector gives 0 and no gradient.

    Raises:
      ValueError: if shapes do not fit.

    Source: Chen and He, "Exploring Simple Siamese Representation Learning"
    (arXiv:2011.10566), equation 1; Grill et al., BYOL (arXiv:2006.07733), equation 2.

    >>> p, z = jnp.array([[2.0, 0.0]]), jnp.array([[1.0, 1.0]])
    >>> negative_cosine(p, z).round(4).tolist()
    [-0.707...]
    """
    if jnp.shape(p) != jnp.shape(z) or jnp.ndim(p) < 1:
        raise ValueError(
            f"p has shape {jnp.shape(p)} and z {jnp.shape(z)}, expected [..., dim] for "
            "both, and equal."
        )
    return -jnp.sum(unit(at_least_float32(p)) * unit(_target(z)), axis=-1)


def fast_siam(p: jax.Array, z: jax.Array) -> jax.Array:
    """Computes FastSiam's loss: each view predicts the mean of all other views.

    ``1/V sum_i -cos(p_i, mean_{j != i} z_j)``, with the mean of ``z`` as they are, not
    scaled to length 1. With two views it is SimSiam's.

    Args:
      p: ``[views, batch, dim]``, the predictor's outputs; differentiated.
      z: ``[views, batch, dim]``, the projector's, which get no gradient.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit, or there is one view only.

    Source: Pototzky et al., "FastSiam: Resource-Efficient Self-supervised Learning on a
    Single GPU", GCPR 2022, equation 3, for every view in turn.

    >>> p = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]], [[1.0, 0.0]]])
    >>> fast_siam(p, p).round(4).tolist()  # -(2 / sqrt(2) + 0) / 3
    [-0.471...]
    """
    shape = jnp.shape(p)
    if shape != jnp.shape(z) or len(shape) != 3 or shape[0] < 2:
        raise ValueError(
            f"p has shape {shape} and z {jnp.shape(z)}, expected [views, batch, dim] "
            "for both, with at least two views."
        )
    z = _target(z)
    others = (jnp.sum(z, axis=0) - z) / (shape[0] - 1)
    return jnp.mean(negative_cosine(p, others), axis=0)


def dino(
    student: jax.Array,
    teacher: jax.Array,
    centre: jax.Array,
    *,
    student_temperature: Scalar = 0.1,
    teacher_temperature: Scalar = 0.04,
) -> jax.Array:
    """Computes DINO's cross-entropies between views of a teacher and of a student.

    ``-sum_c softmax((t - centre) / T_t)_c log_softmax(s / T_s)_c``, averaged over all
    pairs of a teacher's and a student's view that are not the same view. The centre is
    the one from before this batch, see ``self_supervised_state.centre_update``.

    Args:
      student: ``[views, batch, prototypes]``, the global views first; differentiated.
      teacher: ``[global views, batch, prototypes]``: of the student's first views.
      centre: ``[prototypes]``.
      student_temperature: ``T_s``, positive.
      teacher_temperature: ``T_t``, positive; smaller is sharper.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit, or no pair of different views exists.

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers"
    (arXiv:2104.14294), equation 3 and algorithm 1.

    >>> logits = jnp.array([[[0.2, 0.0]], [[0.0, 0.2]]])
    >>> loss = dino(logits, logits, jnp.zeros(2), teacher_temperature=0.01)
    >>> loss.round(4).tolist()  # log(1 + exp(2))
    [2.12...]
    """
    _check_dino(student, teacher, centre)
    views, targets = student.shape[0], teacher.shape[0]
    q = jax.nn.softmax((_target(teacher) - _target(centre)) / teacher_temperature)
    log_p = jax.nn.log_softmax(at_least_float32(student) / student_temperature)
    terms = -einsum("tbc,sbc->bts", q, log_p)
    different = ~jnp.eye(targets, views, dtype=bool)
    pairs = targets * views - min(targets, views)
    return jnp.sum(jnp.where(different, terms, 0), axis=(1, 2)) / pairs


def barlow_twins(z0: jax.Array, z1: jax.Array, *, weight: Scalar = 5e-3) -> jax.Array:
    """Computes Barlow Twins' loss: the views' cross-correlation is to be the identity.

    Each feature is standardised over the batch (biased variance plus 1e-5); with
    ``C = A^T B / N``: ``sum_i (C_ii - 1)^2 + weight sum_{i != j} C_ij^2``.

    Args:
      z0: ``[batch, dim]``, of one view.
      z1: ``[batch, dim]``, of the other; both are differentiated.
      weight: of the terms off the diagonal, 5e-3 in the paper.

    Returns:
      A scalar: sums over features, not means.

    Raises:
      ValueError: if shapes do not fit.

    Source: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy
    Reduction" (arXiv:2103.03230), equations 1 and 2. The official code averages the
    statistics of each device; here they are the whole batch's.

    >>> z = jnp.array([[1.0], [-1.0]])
    >>> float(barlow_twins(z, -z).round(3))  # (-1 - 1)^2
    4.0
    """
    _check_pair(z0, z1, "z0", "z1")
    a, b = (_standardized(at_least_float32(z)) for z in (z0, z1))
    correlation = einsum("bi,bj->ij", a, b) / z0.shape[0]
    diagonal = jnp.diagonal(correlation)
    off = jnp.where(jnp.eye(z0.shape[1], dtype=bool), 0, correlation)
    return jnp.sum((diagonal - 1) ** 2) + weight * jnp.sum(off**2)


def vicreg(
    z0: jax.Array,
    z1: jax.Array,
    *,
    invariance: Scalar = 25.0,
    variance: Scalar = 25.0,
    covariance: Scalar = 1.0,
) -> jax.Array:
    """Computes VICReg's loss, the weighted sum of ``vicreg_terms``.

    Args:
      z0: ``[batch, dim]``, of one view.
      z1: ``[batch, dim]``, of the other; both are differentiated.
      invariance: weight of the views' mean squared difference.
      variance: weight of the hinges at standard deviation 1.
      covariance: weight of the covariances between features.

    Returns:
      A scalar: variances and covariances are of the whole batch.

    Raises:
      ValueError: if shapes do not fit, or the batch has fewer than two examples.

    Source: Bardes et al., "VICReg" (arXiv:2105.04906), equation 6. As in the official
    code, the two variance terms are averaged and the two covariance terms added.

    >>> z = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
    >>> float(vicreg(z, z))  # two covariances of 2, squared, over 2, of both views
    8.0
    """
    terms = vicreg_terms(z0, z1)
    weights = invariance, variance, covariance
    return sum(
        (weight * term for weight, term in zip(weights, terms, strict=True)),
        start=jnp.zeros(()),
    )


def vicreg_terms(
    z0: jax.Array, z1: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes the three terms of VICReg, for methods that log each by its name.

    Invariance ``mean (z0 - z1)^2``; variance ``mean_d max(0, 1 - sqrt(Var(z_d) +
    1e-4))``, averaged over the views; covariance ``1/D sum_{i != j} Cov_ij^2``, added
    over the views. Variance and covariance are the unbiased ones.

    Args:
      z0: ``[batch, dim]``.
      z1: ``[batch, dim]``.

    Returns:
      Three scalars: invariance, variance, covariance.

    Raises:
      ValueError: if shapes do not fit, or the batch has fewer than two examples.

    >>> z = jnp.zeros((2, 3))
    >>> [round(float(term), 2) for term in vicreg_terms(z, z)]
    [0.0, 0.99, 0.0]
    """
    _check_pair(z0, z1, "z0", "z1")
    if z0.shape[0] < 2:
        raise ValueError(
            f"z0 and z1 have {z0.shape[0]} example, expected at least 2: an unbiased "
            "variance divides by the number of examples minus 1."
        )
    z0, z1 = at_least_float32(z0), at_least_float32(z1)
    spread = [_spread(z) for z in (z0, z1)]
    return (
        jnp.mean((z0 - z1) ** 2),
        0.5 * (spread[0][0] + spread[1][0]),
        spread[0][1] + spread[1][1],
    )


def _spread(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes VICReg's variance and covariance terms of one view."""
    count, dim = z.shape
    centred = z - jnp.mean(z, axis=0)
    covariance = einsum("bi,bj->ij", centred, centred) / (count - 1)
    # The variances are not read off the product's diagonal: it rounds differently.
    variances = jnp.sum(centred**2, axis=0) / (count - 1)
    hinge = jnp.maximum(0, 1 - jnp.sqrt(variances + VARIANCE_EPSILON))
    off = jnp.where(jnp.eye(dim, dtype=bool), 0, covariance)
    return jnp.mean(hinge), jnp.sum(off**2) / dim


def _standardized(z: jax.Array) -> jax.Array:
    centred = z - jnp.mean(z, axis=0)
    variance = jnp.mean(centred**2, axis=0)
    return centred * jax.lax.rsqrt(variance + STANDARDIZE_EPSILON)


def _target(x) -> jax.Array:
    """Prepares an array that is not differentiated."""
    return jax.lax.stop_gradient(at_least_float32(x))


def _check_pair(a, b, first: str, second: str) -> None:
    shape = jnp.shape(a)
    if shape != jnp.shape(b) or len(shape) != 2:
        raise ValueError(
            f"{first} has shape {shape} and {second} {jnp.shape(b)}, expected [batch, "
            "dim] for both, and equal. Flatten features first."
        )


def _check_dino(student, teacher, centre) -> None:
    s, t, c = jnp.shape(student), jnp.shape(teacher), jnp.shape(centre)
    fits = len(s) == len(t) == 3 and s[1:] == t[1:] and c == s[2:]
    if not fits or t[0] > s[0] or s[0] < 2:
        raise ValueError(
            f"student has shape {s}, teacher {t} and centre {c}, expected [views, "
            "batch, prototypes], [global views, batch, prototypes] and [prototypes], "
            "with at least two views of the student and no more of the teacher."
        )
