"""Losses between two readers of text lines, of which one sees more detail (KD-LTR).

Guo et al., "One-stage Low-resolution Text Recognition with High-resolution Knowledge
Transfer" (arXiv:2308.02770). A reader has ``slots``: the places of the characters, of
which the last one that counts is the end of the word. ``valid`` marks the slots that
count. See ``jaxkd.losses`` for the shared conventions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import one_hot
from jaxkd.losses.logit import cross_entropy
from jaxkd.losses.numerics import at_least_float32, unit

_FLOOR = -10.0


def character_focus(attention: jax.Array, valid: jax.Array) -> jax.Array:
    """Finds where the characters are: the largest attention any of them pays.

    Args:
      attention: ``[batch, slots, height, width]``, of the teacher.
      valid: boolean ``[batch, slots]``.

    Returns:
      ``[batch, height, width]``, not differentiated; zero if no slot is valid.

    >>> import jax.numpy as jnp
    >>> attention = jnp.array([[[[0.9, 0.1]], [[0.3, 0.7]], [[1.0, 1.0]]]])
    >>> focus = character_focus(attention, jnp.array([[True, True, False]]))
    >>> [round(float(x), 1) for x in focus.ravel()]
    [0.9, 0.7]
    """
    kept = jnp.where(valid[:, :, None, None], at_least_float32(attention), 0)
    return jax.lax.stop_gradient(jnp.max(kept, axis=1))


def focused_visual(
    student: jax.Array, teacher: jax.Array, focus: jax.Array | None = None
) -> jax.Array:
    """Computes one minus the cosine of standardised feature maps, where the text is.

    ``mean over channels of 1 - cos(m z_s, m z_t)`` over the positions, with ``z`` a
    channel's map less its mean and over its standard deviation (n - 1 in the
    denominator, plus 1e-6), and ``m`` the focus (arXiv:2308.02770, equation 3). The
    public code adds no 1e-6 and turns a constant channel into NaN; here such a channel
    counts 1 and has no gradient.

    Args:
      student: ``[batch, positions ..., channels]``, such as a map or tokens.
      teacher: the same shape; not differentiated.
      focus: ``[batch, positions ...]`` from 0 to 1; None weighs all alike, as for the
        tokens of PARSeq.

    Returns:
      ``[batch]``, from 0 to 2.

    Raises:
      ValueError: if shapes do not fit.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(24.0).reshape(1, 2, 4, 3)
    >>> bool(jnp.abs(focused_visual(5 * x + 1, x)[0]) < 1e-5)
    True
    """
    shape = jnp.shape(student)
    if len(shape) < 3 or shape != jnp.shape(teacher):
        raise ValueError(
            f"student has shape {shape} and teacher {jnp.shape(teacher)}, expected "
            "equal, [batch, positions ..., channels]. Halve the student's first "
            "stride, so that its maps are as large as the teacher's."
        )
    if focus is not None and jnp.shape(focus) != shape[:-1]:
        raise ValueError(
            f"focus has shape {jnp.shape(focus)}, expected {shape[:-1]}: one weight "
            "per position of the features."
        )
    flat = (shape[0], -1, shape[-1])
    s = _standardised(at_least_float32(student).reshape(flat))
    t = _standardised(at_least_float32(teacher).reshape(flat))
    if focus is not None:
        weight = jax.lax.stop_gradient(at_least_float32(focus)).reshape(shape[0], -1, 1)
        s, t = s * weight, t * weight
    t = jax.lax.stop_gradient(t)
    cosine = jnp.sum(unit(s, axis=1) * unit(t, axis=1), axis=1)
    return jnp.mean(1 - cosine, axis=-1)


def _standardised(x: jax.Array) -> jax.Array:
    """Standardises ``[batch, positions, channels]`` over the positions."""
    x = x - jnp.mean(x, axis=1, keepdims=True)
    variance = jnp.sum(x**2, axis=1, keepdims=True) / max(x.shape[1] - 1, 1)
    positive = variance > 0
    deviation = jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)
    return x / (deviation + 1e-6)


def semantic_contrast(
    student: jax.Array,
    teacher: jax.Array,
    valid: jax.Array,
    *,
    temperature: float = 0.1,
) -> jax.Array:
    """Computes a contrastive loss between the characters of two readers (NT-Xent).

    All valid characters of the batch, of both readers, are unit vectors; each has to
    find the same character of the other reader among all but itself:
    ``-log(exp(<a, a'> / T) / sum over b != a of exp(<a, b> / T))``
    (arXiv:2308.02770, equation 5; Chen et al., arXiv:2002.05709). Both sides are
    differentiated, because both come out of one projection that is trained with it;
    stop the gradient of the teacher's vectors *before* that projection.

    This loss couples the batch.

    Args:
      student: ``[batch, slots, width]``.
      teacher: the same shape.
      valid: boolean ``[batch, slots]``.
      temperature: ``T``, positive.

    Returns:
      A scalar: the mean over the valid characters of both; 0 if there are none.

    Raises:
      ValueError: if shapes do not fit.

    >>> import jax.numpy as jnp
    >>> x = jnp.eye(3)[None]  # three characters that have nothing in common
    >>> loss = semantic_contrast(x, x, jnp.ones((1, 3), bool), temperature=1.0)
    >>> round(float(loss), 4), round(float(jnp.log(jnp.e + 4) - 1), 4)
    (0.9048, 0.9048)
    """
    shape = jnp.shape(student)
    if len(shape) != 3 or shape != jnp.shape(teacher) or shape[:2] != jnp.shape(valid):
        raise ValueError(
            f"student has shape {shape}, teacher {jnp.shape(teacher)} and valid "
            f"{jnp.shape(valid)}, expected [batch, slots, width] twice and "
            "[batch, slots]."
        )
    flat = [at_least_float32(x).reshape(-1, shape[-1]) for x in (student, teacher)]
    items = unit(jnp.concatenate(flat))
    kept = jnp.tile(jnp.reshape(valid, -1), 2)
    scores = jnp.matmul(items, items.T, precision=jax.lax.Precision.HIGHEST)
    count = len(items) // 2
    partner = jnp.roll(jnp.arange(2 * count), count)
    scores = scores / temperature
    positives = jnp.take_along_axis(scores, partner[:, None], axis=1)[:, 0]
    others = kept[None, :] & ~jnp.eye(2 * count, dtype=bool)
    # Rows that do not count look at everything, lest their sum be empty.
    scores = jnp.where(others | ~kept[:, None], scores, -jnp.inf)
    each = jax.nn.logsumexp(scores, axis=1) - positives
    return jnp.sum(jnp.where(kept, each, 0)) / jnp.maximum(jnp.sum(kept), 1)


class Paths(NamedTuple):
    """The most probable readings of lines.

    Attributes:
      tokens: integers ``[batch, paths, slots]``, best first; ``end`` after the end.
      probability: ``[batch, paths]``, the product over the characters, ``end`` counted;
        0 for paths that do not exist.
      length: ``[batch, paths]``, characters with the end; 0 likewise.
    """

    tokens: jax.Array
    probability: jax.Array
    length: jax.Array


def best_paths(
    probabilities: jax.Array, *, width: int = 3, num_paths: int = 6, end: int = 0
) -> Paths:
    """Searches the readings of largest probability per character.

    At every slot a reading goes on with one of the ``width`` most probable classes; it
    is finished by ``end``, or by the last slot. Readings are ranked by their
    probability over their length, as in KD-LTR's public code, whose best-first search
    gives up after 200 readings. As slots are independent of each other, keeping
    ``num_paths`` unfinished readings at each slot loses none of the best, so this one
    is exact.

    Args:
      probabilities: ``[batch, slots, classes]``.
      width: classes tried at each slot.
      num_paths: readings to find.
      end: class number of the end.

    >>> import jax.numpy as jnp
    >>> p = jnp.array([[[0.1, 0.6, 0.3], [0.8, 0.1, 0.1]]])
    >>> paths = best_paths(p, width=2, num_paths=2)
    >>> paths.tokens[0].tolist(), [round(float(x), 2) for x in paths.probability[0]]
    ([[1, 0], [2, 0]], [0.48, 0.24])
    """
    batch, slots, classes = probabilities.shape
    width = min(width, classes)
    values, choices = jax.lax.top_k(at_least_float32(probabilities), width)

    def extend(carry, slot):
        live_probability, live_tokens, done = carry
        index, value, choice = slot
        grown = live_probability[:, :, None] * value[:, None, :]
        grown = grown.reshape(batch, -1)
        tokens = jnp.repeat(live_tokens, width, axis=1)
        picked = jnp.tile(choice, (1, num_paths))
        tokens = jnp.where(jnp.arange(slots) == index, picked[:, :, None], tokens)
        finished = (picked == end) | (index == slots - 1)
        length = jnp.full_like(picked, index + 1)
        ended = Paths(tokens, jnp.where(finished, grown, 0), length)
        merged = (
            jnp.concatenate(pair, axis=1) for pair in zip(done, ended, strict=True)
        )
        done = _keep_best(Paths(*merged), num_paths)
        live, order = jax.lax.top_k(jnp.where(finished, 0, grown), num_paths)
        live_tokens = jnp.take_along_axis(tokens, order[:, :, None], axis=1)
        return (live, live_tokens, done), None

    blank = jnp.full((batch, num_paths, slots), end)
    first = jnp.zeros((batch, num_paths), values.dtype).at[:, 0].set(1)
    none = jnp.zeros((batch, num_paths), blank.dtype)
    start = (first, blank, Paths(blank, jnp.zeros_like(first), none))
    steps = (jnp.arange(slots), values.swapaxes(0, 1), choices.swapaxes(0, 1))
    (_, _, paths), _ = jax.lax.scan(extend, start, steps)
    real = paths.probability > 0
    return paths._replace(length=jnp.where(real, paths.length, 0))


def _keep_best(paths: Paths, count: int) -> Paths:
    score = paths.probability / jnp.maximum(paths.length, 1)
    _, order = jax.lax.top_k(score, count)
    return Paths(
        jnp.take_along_axis(paths.tokens, order[:, :, None], axis=1),
        jnp.take_along_axis(paths.probability, order, axis=1),
        jnp.take_along_axis(paths.length, order, axis=1),
    )


def soft_path_targets(
    teacher_logits: jax.Array,
    *,
    temperature: float = 4.0,
    alpha: float = 0.2,
    threshold: float = 0.1,
    width: int = 3,
    num_paths: int = 6,
    end: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Corrects a teacher's distributions by its most probable readings.

    ``alpha G + (1 - alpha) p`` with ``p = softmax(t / T)``. ``G`` gives each slot's
    classes the probability of the best readings that go through them, over that of all
    of them; readings go on with ``end`` after their end. Where even the best reading is
    less probable than ``threshold``, the target is ``p`` alone (arXiv:2308.02770,
    section 3.4).

    Args:
      teacher_logits: ``[batch, slots, classes]``; not differentiated.
      temperature: ``T``, positive.
      alpha: part of the readings.
      threshold: probability from which the best reading is trusted.
      width: see ``best_paths``.
      num_paths: likewise.
      end: likewise.

    Returns:
      Targets ``[batch, slots, classes]``, which sum to 1, and the length of the best
      reading, its end counted, ``[batch]``.

    Raises:
      ValueError: if the logits have no such shape.

    >>> import jax.numpy as jnp
    >>> p = jnp.array([[[0.1, 0.9], [0.9, 0.1]]])
    >>> targets, length = soft_path_targets(jnp.log(p), temperature=1.0, num_paths=1)
    >>> [round(float(x), 2) for x in targets[0, 0]], int(length[0])
    ([0.08, 0.92], 2)
    """
    if jnp.ndim(teacher_logits) != 3:
        raise ValueError(
            f"teacher_logits have shape {jnp.shape(teacher_logits)}, expected "
            "[batch, slots, classes]."
        )
    logits = jax.lax.stop_gradient(at_least_float32(teacher_logits))
    p = jax.nn.softmax(logits / temperature)
    paths = best_paths(p, width=width, num_paths=num_paths, end=end)
    total = jnp.sum(paths.probability, axis=1)[:, None, None]
    through = one_hot(paths.tokens, p.shape[-1])
    graph = jnp.sum(paths.probability[:, :, None, None] * through, axis=1)
    graph = graph / jnp.where(total > 0, total, 1)
    trusted = paths.probability[:, 0] >= threshold
    part = jnp.where(trusted, alpha, 0)[:, None, None]
    return part * graph + (1 - part) * p, paths.length[:, 0]


def path_kd(
    student_logits: jax.Array,
    targets: jax.Array,
    lengths: jax.Array,
    *,
    temperature: float = 4.0,
) -> jax.Array:
    """Computes the divergence of a student's slots from corrected targets.

    ``sum over the slots before length of KL(target || softmax(s / T)) / length``, with
    the student's log-probabilities held above -10, and no factor ``T^2``
    (arXiv:2308.02770, equation 8).

    Args:
      student_logits: ``[batch, slots, classes]``.
      targets: distributions of that shape, from ``soft_path_targets``.
      lengths: ``[batch]``, slots that count.
      temperature: ``T``, positive.

    Returns:
      ``[batch]``; 0 where the length is 0.

    Raises:
      ValueError: if shapes do not fit.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[[0.25, 0.75], [0.5, 0.5]]]))
    >>> targets = jnp.array([[[0.25, 0.75], [1.0, 0.0]]])
    >>> round(float(path_kd(logits, targets, jnp.array([2]), temperature=1.0)[0]), 4)
    0.3466
    """
    shape = jnp.shape(student_logits)
    if (
        len(shape) != 3
        or shape != jnp.shape(targets)
        or jnp.shape(lengths) != shape[:1]
    ):
        raise ValueError(
            f"student_logits have shape {shape}, targets {jnp.shape(targets)} and "
            f"lengths {jnp.shape(lengths)}, expected [batch, slots, classes] twice and "
            "[batch]."
        )
    log_q = jax.nn.log_softmax(at_least_float32(student_logits) / temperature)
    log_q = jnp.maximum(log_q, _FLOOR)
    p = jax.lax.stop_gradient(at_least_float32(targets))
    log_p = jnp.log(jnp.where(p > 0, p, 1))
    each = jnp.sum(p * (log_p - log_q), axis=-1)
    counted = jnp.arange(shape[1]) < lengths[:, None]
    total = jnp.sum(jnp.where(counted, each, 0), axis=1)
    return total / jnp.maximum(lengths, 1)


def character_cross_entropy(
    logits: jax.Array, labels: jax.Array, valid: jax.Array
) -> jax.Array:
    """Computes the cross-entropy of a line's characters, averaged over them.

    Args:
      logits: ``[batch, slots, classes]``.
      labels: integers ``[batch, slots]``; a valid one that is no class gives NaN.
      valid: boolean ``[batch, slots]``.

    Returns:
      ``[batch]``; 0 for lines without a valid slot.

    >>> import jax.numpy as jnp
    >>> valid = jnp.array([[True, False]])
    >>> loss = character_cross_entropy(
    ...     jnp.zeros((1, 2, 4)), jnp.zeros((1, 2), int), valid)
    >>> round(float(loss[0]), 4)
    1.3863
    """
    each = cross_entropy(logits, labels, where=valid)
    total = jnp.sum(each, axis=-1)
    return total / jnp.maximum(jnp.sum(valid, axis=-1), 1)
