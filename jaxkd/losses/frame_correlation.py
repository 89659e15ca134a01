"""Correlation distillation: how much two modalities agree, frame by frame.

Two frozen recognisers, one of speech and one of lips, give class posteriors for every
frame of a clip. Their divergence is a soft target for the similarity of a student's
audio and video embeddings. Yu et al., "Explicit Correlation Learning for Generalizable
Cross-Modal Deepfake Detection" (arXiv:2404.19171; the losses as in its official code)::

    target      = clip(1 - teacher_divergence(log p, log q), 0, 1)   [batch, time]
    correlation = audio_visual_correlation(a, v)                     [batch, time]
    loss = cross entropy + mean(correlation_distillation(correlation, target))
         + mean(correlation_contrastive(correlation, target, labels))

Targets are never differentiated. See ``jaxkd.losses`` for the shared conventions.
"""

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import Scalar, drop_rows, label_side, reject_labels
from jaxkd.losses.numerics import at_least_float32, unit

KINDS = ("jeffreys_mean", "js")

# Log-probabilities of exactly zero become this: far below what a float32 softmax
# gives, and such that every product with it stays finite, in half precision too.
_FLOOR = -1e4
# Correlations stay this far from 0 and 1, where logarithms are infinite.
_EDGE = 1e-7


def teacher_divergence(
    audio_log_probs: jax.Array,
    video_log_probs: jax.Array,
    *,
    kind: str = "jeffreys_mean",
) -> jax.Array:
    """Computes the divergence of two posteriors over the same classes.

    ``"jeffreys_mean"``: ``1/(2C) sum_c (p_c - q_c) (log p_c - log q_c)``, half the
    Jeffreys divergence, as a mean over the classes; it may exceed 1. The official code
    calls it JS and takes ``log(p / q + 1e-10)`` of probabilities, which is undefined
    once a softmax underflows; here both stay logarithms.

    ``"js"``: the Jensen-Shannon divergence in bits, summed over the classes, in
    ``[0, 1]``.

    Args:
      audio_log_probs: ``[..., classes]``, from a log-softmax. Minus infinity is read
        as -10 000, so that one-hot posteriors give finite values.
      video_log_probs: likewise.
      kind: one of ``KINDS``.

    Returns:
      ``[...]``, at least 0.

    Raises:
      ValueError: if shapes differ or the kind is unknown.

    >>> import jax.numpy as jnp
    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.25, 0.75]))
    >>> print(f"{teacher_divergence(p, q):.4f}")
    0.2747
    >>> print(f"{teacher_divergence(p, q, kind='js'):.4f}")
    0.1887
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}.")
    _check_equal(audio_log_probs, video_log_probs, "audio_log_probs", "video_log_probs")
    log_p, log_q = (
        jnp.maximum(at_least_float32(x), _FLOOR)
        for x in (audio_log_probs, video_log_probs)
    )
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    if kind == "jeffreys_mean":
        return jnp.mean((p - q) * (log_p - log_q), axis=-1) / 2
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0)
    nats = jnp.sum(p * (log_p - log_m) + q * (log_q - log_m), axis=-1) / 2
    return jnp.clip(nats / jnp.log(2.0), 0.0, 1.0)


def audio_visual_correlation(audio: jax.Array, video: jax.Array) -> jax.Array:
    """Computes the similarity of two embeddings: ``(cos(audio, video) + 1) / 2``.

    The cosine with a zero vector is 0. Rows are scaled by their largest entry before
    they are squared, so that neither tiny nor huge ones lose their direction.

    Args:
      audio: ``[..., channels]``.
      video: ``[..., channels]``.

    Returns:
      ``[...]``, in ``[0, 1]``.

    Raises:
      ValueError: if shapes differ.

    >>> import jax.numpy as jnp
    >>> a, v = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[2.0, 0.0], [0.0, 3.0]])
    >>> audio_visual_correlation(a, v).tolist()
    [1.0, 0.5]
    """
    _check_equal(audio, video, "audio", "video")
    cosine = jnp.sum(_direction(audio) * _direction(video), axis=-1)
    return (jnp.clip(cosine, -1.0, 1.0) + 1) / 2


def correlation_distillation(correlation: jax.Array, target: jax.Array) -> jax.Array:
    """Computes the binary cross entropy of correlations and their soft targets.

    ``-s log c - (1 - s) log(1 - c)``, with ``c`` kept in ``[1e-7, 1 - 1e-7]`` and ``s``
    in ``[0, 1]``.

    Args:
      correlation: of the student's embeddings, ``[...]`` in ``[0, 1]``.
      target: one minus the teachers' divergence, ``[...]``; not differentiated.

    Returns:
      ``[...]``. Its minimum is the entropy of the target, not 0.

    Raises:
      ValueError: if shapes differ.

    >>> import jax.numpy as jnp
    >>> print(f"{correlation_distillation(jnp.array(0.5), jnp.array(0.9)):.4f}")
    0.6931
    """
    _check_equal(correlation, target, "correlation", "target")
    c = jnp.clip(at_least_float32(correlation), _EDGE, 1 - _EDGE)
    s = _as_target(target)
    return -s * jnp.log(c) - (1 - s) * jnp.log1p(-c)


def correlation_contrastive(
    correlation: jax.Array,
    target: jax.Array,
    labels: jax.Array,
    *,
    margin: Scalar = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Computes the contrastive loss between correlations and their targets in a clip.

    ``d = sigmoid(sqrt(sum_t (s_t - c_t)^2))`` is a distance in ``[0.5, 1)``; the loss
    is ``d^2`` for real clips and ``max(0, margin - d)^2`` for fakes: real clips are
    drawn to the teachers' correlation, fakes pushed from it. The official code's root
    has an infinite gradient at 0; here 1e-12 is added below it.

    Args:
      correlation: of the student's embeddings, ``[batch, time]``.
      target: one minus the teachers' divergence, likewise; not differentiated.
      labels: ``[batch]``, 1 for fake and 0 for real; others make their row NaN.
      margin: distance from which fakes cost nothing.
      where: ``[batch, time]``, False for frames to leave out; None keeps all. A clip
        without frames gives exactly 0.

    Returns:
      ``[batch]``.

    Raises:
      ValueError: if shapes do not fit.

    >>> import jax.numpy as jnp
    >>> c, s = jnp.full((2, 4), 0.5), jnp.full((2, 4), 1.0)
    >>> [round(x, 4) for x in correlation_contrastive(c, s, jnp.array([0, 1])).tolist()]
    [0.5344, 0.0723]
    """
    _check_equal(correlation, target, "correlation", "target")
    shape = jnp.shape(correlation)
    if jnp.shape(labels) != shape[:-1]:
        raise ValueError(
            f"labels have shape {jnp.shape(labels)}, expected {shape[:-1]}, one for "
            f"each clip of correlations of shape {shape}."
        )
    gap = _as_target(target) - at_least_float32(correlation)
    kept = None
    if where is not None:
        _check_equal(where, correlation, "where", "correlation")
        # Before any arithmetic: what a frame left out holds may not be a number.
        c = jnp.where(where, at_least_float32(correlation), 0)
        gap = jnp.where(where, _as_target(jnp.where(where, target, 0)) - c, 0)
        kept = jnp.any(where, axis=-1)
    distance = jax.nn.sigmoid(jnp.sqrt(jnp.sum(gap**2, axis=-1) + 1e-12))
    fake = at_least_float32(labels)
    close = (1 - fake) * distance**2
    far = fake * jnp.maximum(margin - distance, 0) ** 2
    loss = reject_labels(close + far, label_side(labels, kept), 2)
    return drop_rows(loss, kept)


def _as_target(target) -> jax.Array:
    return jax.lax.stop_gradient(jnp.clip(at_least_float32(target), 0.0, 1.0))


def _direction(x) -> jax.Array:
    """Scales rows to length 1; those of zeros stay, with a gradient of zero."""
    x = at_least_float32(x)
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    return unit(x / jnp.where(largest > 0, largest, 1))


def _check_equal(first, second, first_name: str, second_name: str) -> None:
    if jnp.shape(first) != jnp.shape(second):
        raise ValueError(
            f"{first_name} has shape {jnp.shape(first)} and {second_name} "
            f"{jnp.shape(second)}, expected the same for both."
        )
