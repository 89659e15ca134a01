"""Attention of several prompts combined by pure functions.

A batch holds, for each half of classifier-free guidance, the rows

    [source, target 1, mutual 1, target 2, mutual 2, ...]

A branch n edits the result of branch n - 1 (branch 0 is the source). Its target takes
the layout, its mutual row the content of that base (InfEdit, arXiv 2312.04965;
ParallelEdits, arXiv 2406.00985). ``branch_attention`` makes the function that the UNet
calls; what changes with the step and the prompts is in ``BranchState``, so that one
compiled program serves all edits of as many branches.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.diffusion.attention import AttentionFn, Site, plain_attention, probabilities

RIGID, NON_RIGID, GLOBAL = range(3)
KINDS = ("rigid", "non-rigid", "global")
# What is kept of the cross-attention: the base's map and the mutual row's, both mapped
# to the branch's words; the target's own; the base's own, over the base's words.
BASE_MAP, MUTUAL_MAP, OWN_MAP, SOURCE_MAP = MAPS = range(4)


class BranchState(NamedTuple):
    """What the attention of the branches depends on; arrays.

    Attributes:
      kind: ``[branches]``, ``RIGID``, ``NON_RIGID`` or ``GLOBAL``.
      mapper: ``[branches, tokens]``, for each token of a branch its token in the base's
        prompt.
      mapped: ``[branches, tokens]``, 1 where there is such a token, else 0.
      matrix: ``[branches, tokens, tokens]``, from the base's tokens to the branch's.
      replace: ``[branches]``, whether ``matrix`` is used in place of ``mapper``.
      early: scalar, whether self-attention is still that of the base's layout.
      cross: scalar, whether cross-attention is still taken from the base.
    """

    kind: jax.Array
    mapper: jax.Array
    mapped: jax.Array
    matrix: jax.Array
    replace: jax.Array
    early: jax.Array
    cross: jax.Array


def rows(branches: int) -> int:
    """Returns the rows of one half of the batch."""
    return 2 * branches + 1


def target_row(branch: int) -> int:
    """Returns the row of a branch's target; branch 0 is the source."""
    return max(0, 2 * branch - 1)


def refine(
    source: jax.Array, target: jax.Array, mapper: jax.Array, mapped: jax.Array
) -> jax.Array:
    """Takes a source's attention for the words it shares, the target's for the others.

    ``out[..., w] = mapped_w source[..., mapper_w] + (1 - mapped_w) target[..., w]``
    (Prompt-to-Prompt, arXiv 2208.01626).

    Args:
      source: probabilities ``[..., tokens]``.
      target: of the same shape.
      mapper: ``[tokens]``, whole numbers.
      mapped: ``[tokens]``, 0 to 1.

    Example:
      >>> s, t = jnp.array([0.75, 0.25]), jnp.array([0.125, 0.875])
      >>> refine(s, t, jnp.array([1, 0]), jnp.array([1.0, 0.0])).tolist()
      [0.25, 0.875]
    """
    return mapped * jnp.take(source, mapper, axis=-1) + (1 - mapped) * target


def replace(source: jax.Array, matrix: jax.Array) -> jax.Array:
    """Moves a source's attention to the words that replace its own.

    Args:
      source: probabilities ``[..., tokens]``.
      matrix: ``[tokens, tokens]``, from the source's tokens to the target's.
    """
    return source @ matrix


def self_routes(
    kind: jax.Array, early: jax.Array, *, non_rigid: str = "late"
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns from which rows each row takes its queries, keys and values.

    =========  =========  ==========================  =========================
    kind       row        early                       late
    =========  =========  ==========================  =========================
    rigid      target     base, base, own             own, own, own
    non-rigid  target     own, own, own               own, base, base
    both       mutual     base, base, base            target, base, base
    global     both       own, own, own               own, own, own
    =========  =========  ==========================  =========================

    Args:
      kind: ``[branches]``.
      early: a scalar, bool.
      non_rigid: when the target of a non-rigid branch takes keys and values of the
        base: "late", "always" or "never".

    Returns:
      Three arrays ``[rows]``.
    """
    q, k, v = ([jnp.int32(0)] for _ in range(3))
    always = {
        "late": jnp.logical_not(early),
        "always": jnp.array(True),
        "never": jnp.array(False),
    }[non_rigid]
    for n in range(1, len(kind) + 1):
        base, target, mutual = target_row(n - 1), target_row(n), target_row(n) + 1
        rigid, free = kind[n - 1] == RIGID, kind[n - 1] == GLOBAL
        layout = rigid & early
        content = layout | ((kind[n - 1] == NON_RIGID) & always)
        q.append(jnp.where(layout, base, target))
        k.append(jnp.where(content, base, target))
        v.append(jnp.where(content & ~layout, base, target))
        q.append(jnp.where(free, mutual, jnp.where(early, base, target)))
        k.append(jnp.where(free, mutual, base))
        v.append(jnp.where(free, mutual, base))
    return jnp.stack(q), jnp.stack(k), jnp.stack(v)


def branch_attention(
    resolution: tuple[int, int],
    *,
    places: tuple[str, ...] = ("down", "up"),
    cross_from: str = "base",
    non_rigid: str = "late",
) -> AttentionFn:
    """Makes the attention of all branches; its state is a ``BranchState``.

    Probabilities are kept of cross-attention alone. Where it has ``resolution``, in one
    of ``places``, the mean over heads of the maps of each branch is returned,
    ``[branches, maps, height, width, tokens]``.

    Args:
      resolution: height and width of the maps to return.
      places: of "down", "mid" and "up".
      cross_from: whose map a target takes while ``cross``: "base" (ParallelEdits) or
        "mutual" (InfEdit).
      non_rigid: see ``self_routes``.

    Raises:
      ValueError: for another word.
    """
    for got, choices in (
        (cross_from, ("base", "mutual")),
        (non_rigid, ("late", "always", "never")),
    ):
        if got not in choices:
            raise ValueError(f"Got {got!r}; expected one of {', '.join(choices)}.")

    def attend(site: Site, q, k, v, scale: float, state: BranchState):
        if site.kind == "self":
            return _self_attention(site, q, k, v, scale, state, non_rigid), None
        kept = (site.height, site.width) == resolution and site.place in places
        return _cross_attention(site, q, k, v, scale, state, cross_from, kept)

    return attend


def mean_maps(aux: Mapping[str, Any]) -> jax.Array:
    """Averages the maps that ``branch_attention`` returned over the layers.

    Raises:
      ValueError: if there are none: no layer has the resolution asked for.
    """
    if not aux:
        raise ValueError(
            "No cross-attention has the resolution of the blend. Set it to one that "
            "the network has for images of this size."
        )
    return sum(aux.values()) / len(aux)


def word_mask(
    maps: jax.Array,
    selector: jax.Array,
    size: tuple[int, int],
    threshold: jax.Array | float,
) -> jax.Array:
    """Finds where selected words are attended to.

    The largest value among the selected tokens is enlarged to ``size``, divided by its
    maximum and compared with the threshold. No token selected gives no pixel.

    Args:
      maps: ``[height, width, tokens]``.
      selector: ``[tokens]``, 0 or 1.
      size: height and width of the result, multiples of the maps'.
      threshold: 0 to 1.

    Returns:
      Bool ``[*size]``.
    """
    scores = jnp.max(maps * selector, axis=-1)
    for axis in (0, 1):
        scores = jnp.repeat(scores, size[axis] // scores.shape[axis], axis=axis)
    top = jnp.max(scores)
    return (scores > threshold * top) & (top > 0)


def _self_attention(site, q, k, v, scale, state, non_rigid):
    count = rows(len(state.kind))
    routes = self_routes(state.kind, state.early, non_rigid=non_rigid)
    # Both halves of the guidance are routed alike.
    q, k, v = (
        jnp.take(x.reshape(-1, count, *x.shape[1:]), route, axis=1).reshape(x.shape)
        for x, route in zip((q, k, v), routes, strict=True)
    )
    return plain_attention(site, q, k, v, scale)[0]


def _cross_attention(site, q, k, v, scale, state, cross_from, kept):
    count = rows(len(state.kind))
    half = len(q) - count
    plain = plain_attention(site, q[:half], k[:half], v[:half], scale)[0]
    own = probabilities(q[half:], k[half:], scale)
    used, maps = [own[0]], []
    for n in range(1, count // 2 + 1):
        found = _branch_maps(own, n, state)
        taken = found[BASE_MAP if cross_from == "base" else MUTUAL_MAP]
        control = state.cross & (state.kind[n - 1] != GLOBAL)
        used += [jnp.where(control, taken, found[OWN_MAP]), own[target_row(n) + 1]]
        maps.append(jnp.stack([jnp.mean(one, axis=0) for one in found]))
    out = jnp.einsum("bhnm,bhmd->bhnd", jnp.stack(used).astype(v.dtype), v[half:])
    aux = None
    if kept:
        aux = jnp.stack(maps)
        aux = aux.reshape(*aux.shape[:2], site.height, site.width, -1)
    return jnp.concatenate([plain, out.astype(plain.dtype)]), aux


def _branch_maps(own: jax.Array, n: int, state: BranchState) -> tuple[jax.Array, ...]:
    """Returns the maps ``[heads, pixels, tokens]`` of branch n, in their order."""
    base, target = own[target_row(n - 1)], own[target_row(n)]
    mutual = own[target_row(n) + 1]
    mapper, mapped = state.mapper[n - 1], state.mapped[n - 1]
    replaced = replace(base, state.matrix[n - 1])
    swap = state.replace[n - 1]
    return (
        jnp.where(swap, replaced, refine(base, target, mapper, mapped)),
        jnp.where(swap, replaced, refine(mutual, target, mapper, mapped)),
        target,
        base,
    )
