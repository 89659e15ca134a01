"""Deterministic sampling: one compiled loop for every solver and schedule.

A denoiser is any function ``denoise(x, sigma) -> x0``, with ``x`` of ``[batch, ...]``
and ``sigma`` a scalar (or ``[batch]``) that returns the expected clean data. The loop
integrates ``dx/dsigma = (x - denoise(x, sigma)) / sigma`` (arXiv 2206.00364, eq. 1).

The denoiser is compiled once for a batch shape and a number of evaluations. To keep a
network's parameters out of the compiled program, bind them with
``jax.tree_util.Partial(apply, params)``: they are then arguments, and new parameters
do not compile again.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxkd.diffusion import solvers
from jaxkd.diffusion.solvers.recurrence import Recurrence

Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


class Trajectory(NamedTuple):
    """The states of a sampling run.

    Attributes:
      x: ``[num_sigmas, batch, ...]``; the last are the samples. With
        ``denoise_to_zero`` one more follows the last sigma's.
      nfe: evaluations of the denoiser for each sample.
      denoised: ``[num_sigmas - 1, batch, ...]``, the denoiser's outputs at the sigmas
        but the last, where asked for.
    """

    x: jax.Array
    nfe: int
    denoised: jax.Array | None = None


def sample(
    denoise: Denoiser,
    x_init: jax.Array,
    sigmas: np.ndarray,
    solver: str = "ipndm",
    order: int = 4,
    afs: bool = False,
    *,
    denoise_to_zero: bool = False,
    predict: str = "x0",
    thresholding: bool = False,
    lower_order_final: bool = True,
    variant: str | None = None,
    offsets: np.ndarray | None = None,
    keep_denoised: bool = False,
) -> Trajectory:
    """Samples from noise to data along a schedule.

    Args:
      denoise: ``(x, sigma) -> x0``.
      x_init: ``[batch, ...]``, noise of standard deviation ``sigmas[0]``. Computes in
        its precision, and at least in float32.
      sigmas: ``[num_sigmas]``, decreasing and positive.
      solver: a name in ``solvers.MAX_ORDER``.
      order: of a multistep solver: up to 4, and up to 3 for dpmpp and unipc.
      afs: whether the first evaluation is replaced by ``x / sqrt(1 + sigma^2)``, the
        noise prediction for data of unit variance (analytical first step, arXiv
        2210.05475), which saves one.
      denoise_to_zero: whether to end with the denoiser's output at the last sigma,
        for one evaluation more.
      predict: ``"x0"`` or ``"eps"``: what dpmpp and unipc expand.
      thresholding: whether dpmpp and unipc limit the clean data dynamically
        (arXiv 2205.11487, section 2.3); for pixels in [-1, 1] and ``predict="x0"``.
      lower_order_final: whether dpmpp and unipc lower the order of the last steps.
      variant: of deis (``tab``, ``rhoab``) and unipc (``bh2``, ``bh1``).
      offsets: ``[num_sigmas - 1]``, logarithms of the factors by which the sigma that
        the denoiser is given differs from the schedule's; the solver's steps stay.
        For solvers of one evaluation a step (arXiv 2405.15506, section 4, learns such).
      keep_denoised: whether to return the denoiser's outputs too.

    Returns:
      All states and the number of evaluations.

    Raises:
      ValueError: for arguments that do not fit together, a denoiser of another output
        shape, or a state that is not finite (this last not inside another ``jit``,
        where values are unknown).
    """
    recurrence = solvers.make(
        solver,
        sigmas,
        order,
        predict=predict,
        lower_order_final=lower_order_final,
        variant=variant,
    )
    if offsets is not None:
        recurrence = shifted(recurrence, offsets, afs)
    return integrate(
        denoise,
        x_init,
        recurrence,
        afs=afs,
        denoise_to_zero=denoise_to_zero,
        thresholding=thresholding,
        keep_denoised=keep_denoised,
    )


def integrate(
    denoise: Denoiser,
    x_init: jax.Array,
    recurrence: Recurrence,
    *,
    afs: bool = False,
    denoise_to_zero: bool = False,
    thresholding: bool = False,
    keep_denoised: bool = False,
) -> Trajectory:
    """Runs a solver's recurrence; ``sample`` with the solver made by hand.

    Raises:
      ValueError: as ``sample``.
    """
    if thresholding and recurrence.predict != "x0":
        raise ValueError(
            "thresholding limits clean data; use it with dpmpp or unipc and "
            "predict='x0'."
        )
    x_init = _as_state(x_init)
    x, denoised, finite = _run(
        denoise if isinstance(denoise, Partial) else Partial(denoise),
        x_init,
        coefficients(recurrence, x_init.dtype, denoise_to_zero),
        predict=recurrence.predict,
        stages=recurrence.stages,
        afs=afs,
        denoise_to_zero=denoise_to_zero,
        thresholding=thresholding,
        keep_denoised=keep_denoised,
    )
    _check_finite(finite, recurrence.sigmas)
    nfe = len(recurrence.times) - int(afs) + int(denoise_to_zero)
    return Trajectory(x, nfe, denoised)


def shifted(
    recurrence: Recurrence, offsets: np.ndarray, afs: bool = False
) -> Recurrence:
    """Returns a recurrence that evaluates the denoiser beside its sigmas.

    Args:
      recurrence: of a solver with one evaluation a step.
      offsets: as in ``sample``.
      afs: whether the first evaluation is left out, which no offset then concerns.

    Raises:
      ValueError: if there are two evaluations a step, or not one offset for each.
    """
    offsets = np.array(offsets, np.float64)
    if recurrence.stages > 1:
        raise ValueError(
            "Offsets shift the one evaluation of a step; heun and dpm have two."
        )
    if offsets.shape != recurrence.times.shape or not np.all(np.isfinite(offsets)):
        raise ValueError(
            f"Offsets {offsets.tolist()}; expected {len(recurrence.times)} finite "
            "numbers, one for each sigma but the last."
        )
    if afs:
        offsets[0] = 0.0  # The denoiser is not asked there.
    return recurrence._replace(times=recurrence.times * np.exp(offsets))


def latents(seeds: Sequence[int], shape: Sequence[int], sigma: float) -> jax.Array:
    """Draws one latent per seed, ``[seeds, *shape]``, whatever the batch it is in.

    Args:
      seeds: whole numbers from 0 to 2**64 - 1; different ones give different latents.
      shape: of one sample.
      sigma: standard deviation, the schedule's first sigma.

    Raises:
      ValueError: for other seeds.
    """
    low, high = _seed_words(seeds)
    root = jax.random.key(0)

    def draw(low: jax.Array, high: jax.Array) -> jax.Array:
        key = jax.random.fold_in(root, low)
        # A key takes 32 bits at a time, and smaller seeds keep the latents they had.
        key = jnp.where(high > 0, jax.random.fold_in(key, high), key)
        return sigma * jax.random.normal(key, shape)

    return jax.vmap(draw)(jnp.asarray(low), jnp.asarray(high))


def _seed_words(seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the lower and the upper 32 bits of seeds, each uint32 ``[seeds]``."""
    numbers = []
    for seed in seeds:
        try:
            number = operator.index(seed)
        except TypeError:
            number = -1
        if not 0 <= number < 2**64:
            raise ValueError(
                f"The seed {seed!r} of latents; expected a whole number from 0 to "
                "2**64 - 1."
            )
        numbers.append(number)
    low = np.array([number % 2**32 for number in numbers], np.uint32)
    return low, np.array([number >> 32 for number in numbers], np.uint32)


def coefficients(
    recurrence: Recurrence, dtype: jnp.dtype, denoise_to_zero: bool = False
) -> dict[str, jax.Array]:
    """Returns a recurrence's coefficients by evaluation, in the state's precision."""
    rows = {
        "time": recurrence.times,
        "scale": recurrence.scale,
        "weights": recurrence.weights,
    }
    if recurrence.correction is not None:
        rows["correction"] = recurrence.correction
    if denoise_to_zero:
        # One more evaluation, of which only the output is used.
        rows = {k: np.concatenate([v, 0 * v[:1]]) for k, v in rows.items()}
        rows["time"][-1] = recurrence.sigmas[-1]
    return {name: jnp.asarray(values, dtype) for name, values in rows.items()}


def last_state(
    denoise: Partial,
    x: jax.Array,
    rows: dict[str, jax.Array],
    *,
    predict: str,
    stages: int,
) -> jax.Array:
    """Runs ``coefficients`` to the end; can be differentiated by them."""
    options = dict.fromkeys(
        ("afs", "denoise_to_zero", "thresholding", "keep_denoised"), False
    )
    states, _, _ = _run(denoise, x, rows, predict=predict, stages=stages, **options)
    return states[-1]


def _as_state(x: jax.Array) -> jax.Array:
    x = jnp.asarray(x)
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"Latents of shape {x.shape} and dtype {x.dtype}; expected floats of "
            "[batch, ...], the batch first even for one sample."
        )
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@partial(
    jax.jit,
    static_argnames=(
        "predict",
        "stages",
        "afs",
        "denoise_to_zero",
        "thresholding",
        "keep_denoised",
    ),
)
def _run(
    denoise: Partial,
    x: jax.Array,
    rows: dict[str, jax.Array],
    *,
    predict: str,
    stages: int,
    afs: bool,
    denoise_to_zero: bool,
    thresholding: bool,
    keep_denoised: bool,
) -> tuple[jax.Array, jax.Array | None, jax.Array]:
    """Returns states and outputs at the sigmas, and which states are finite."""
    advance = partial(_advance, predict=predict, thresholding=thresholding)

    def evaluate(carry, row):
        denoised = _evaluated(denoise, carry[0], row["time"])
        return advance(carry, row, denoised)

    history = (jnp.zeros_like(x),) * rows["weights"].shape[1]
    carry, emitted = (x, history), []
    if afs:
        first = jax.tree.map(lambda a: a[0], rows)
        rows = jax.tree.map(lambda a: a[1:], rows)
        # Data of unit variance: eps = x / sqrt(1 + t^2), and x - t eps follows.
        slope = first["time"] / jnp.sqrt(1 + first["time"] ** 2)
        carry, out = advance(carry, first, x - slope * x)
        emitted.append(jax.tree.map(lambda a: a[None], out))
    carry, out = jax.lax.scan(evaluate, carry, rows)
    emitted.append(out)
    states, denoised = (jnp.concatenate(parts) for parts in zip(*emitted, strict=True))
    last = denoised[-1] if denoise_to_zero else carry[0]
    x = jnp.concatenate([states[::stages], last[None]])
    kept = denoised[: len(denoised) - int(denoise_to_zero) : stages]
    finite = jnp.isfinite(x).all(axis=tuple(range(1, x.ndim)))
    return x, kept if keep_denoised else None, finite


def _evaluated(denoise: Partial, x: jax.Array, sigma: jax.Array) -> jax.Array:
    denoised = denoise(x, sigma)
    if denoised.shape != x.shape:
        raise ValueError(
            f"The denoiser made shape {denoised.shape} of latents of shape {x.shape}; "
            "expected the same shape."
        )
    return denoised.astype(x.dtype)


def _advance(carry, row, denoised, *, predict: str, thresholding: bool):
    """Does one row of the recurrence; returns the carry, and (state, output)."""
    x, history = carry
    if predict == "eps":
        output = (x - denoised) / row["time"]
    else:
        output = _threshold(denoised) if thresholding else denoised
    history = (output, *history[:-1])
    if "correction" in row:
        x = x + _combine(row["correction"], history)
    following = row["scale"] * x + _combine(row["weights"], history)
    return (following, history), (x, denoised)


def _combine(weights: jax.Array, history: tuple[jax.Array, ...]) -> jax.Array:
    # Sums, not a matrix product, which accelerators would do in lower precision.
    terms = [weights[k] * past for k, past in enumerate(history)]
    return sum(terms[1:], terms[0])


def _threshold(denoised: jax.Array, quantile: float = 0.995) -> jax.Array:
    """Clips each sample at its quantile of magnitude, but not below 1, and rescales."""
    flat = jnp.abs(denoised).reshape(len(denoised), -1)
    limit = jnp.maximum(jnp.quantile(flat, quantile, axis=1), 1.0)
    limit = limit.reshape(-1, *(1,) * (denoised.ndim - 1))
    return jnp.clip(denoised, -limit, limit) / limit


def _check_finite(finite: jax.Array, sigmas: np.ndarray) -> None:
    if isinstance(finite, jax.core.Tracer) or bool(finite.all()):
        return
    i = int(np.argmin(np.asarray(finite)))
    if i == 0:
        raise ValueError("The latents hold NaN or infinity before the first step.")
    raise ValueError(
        f"The state is NaN or infinite from sigma {i} of {len(sigmas)} on, after the "
        f"denoiser was evaluated at sigma {sigmas[i - 1]:g}. Check what the denoiser "
        "returns there, and that sigma is in the range it was trained on."
    )
