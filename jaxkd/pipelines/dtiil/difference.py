"""Stage 2 of D-TIIL: where two texts ask for different things in one image."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from jaxkd.core.errors import UserError
from jaxkd.diffusion import ddim, lms, noise_tables
from jaxkd.models.stable_diffusion import plain_attention
from jaxkd.pipelines import text_to_image
from jaxkd.pipelines.text_to_image import Backbone, Static

SOLVERS = ("ddim", "lms", "single_step")


def difference(
    backbone: Backbone,
    latents: jax.Array,
    first: jax.Array,
    second: jax.Array,
    unconditional: jax.Array,
    key: jax.Array,
    *,
    samples: int = 8,
    steps: int = 10,
    strength: float = 0.5,
    scale: float = 7.0,
    solver: str = "ddim",
) -> jax.Array:
    """Measures how the predicted noise differs under two hidden states.

    The image is noised to ``strength`` and denoised again under either text, from the
    same noise and with guidance; the guided predictions of the last step are compared
    by their Euclidean distance over channels, averaged over samples of the noise. The
    order of the texts does not matter, and equal texts give zero.

    Args:
      backbone: the model.
      latents: ``[images, height, width, channels]``.
      first: hidden states ``[images, tokens, width]``.
      second: likewise.
      unconditional: ``[tokens, width]``.
      key: of the noise, folded with the image and the sample.
      samples: of the noise.
      steps: of the whole schedule.
      strength: share of the schedule that is run.
      scale: of guidance.
      solver: "ddim"; "lms", as in the published code; or "single_step", the original
        DiffEdit (arXiv 2210.11427): one prediction at that noise, without guidance.

    Returns:
      ``[images, height, width]``, not normalised.

    Raises:
      UserError: for an unknown solver, no samples, or steps of which none is run.
    """
    if solver not in SOLVERS or samples < 1:
        raise UserError(
            f"solver {solver!r} and {samples} samples; expected one of "
            f"{', '.join(SOLVERS)} and at least 1."
        )
    check_steps(steps, strength, solver)
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(latents)))
    plan = (samples, steps, strength, solver)
    texts = jnp.stack([first, second], axis=1)
    return _difference(
        Static(backbone),
        plan,
        backbone.params,
        latents,
        texts,
        unconditional,
        keys,
        scale,
    )


def check_steps(steps: int, strength: float, solver: str) -> None:
    """Checks that a share of a schedule is at least one step.

    Raises:
      UserError: if it is not.
    """
    if not (0 < strength <= 1 and 1 <= steps <= noise_tables.TRAINED_STEPS):
        raise UserError(
            f"{steps} steps of a difference and strength {strength}; expected 1 to "
            f"{noise_tables.TRAINED_STEPS} and a share above 0, at most 1."
        )
    if solver == "ddim" and int(steps * strength) < 1:
        raise UserError(
            f"Strength {strength} of {steps} steps of a difference leaves none; "
            "expected more of either."
        )


def normalise(values: np.ndarray) -> np.ndarray:
    """Scales a map to whole numbers of 0..255; a map without differences to zeros.

    Raises:
      UserError: if a number is not finite.
    """
    values = np.asarray(values, np.float64)
    text_to_image.check_finite(values, "A difference of predicted noise")
    low, high = values.min(), values.max()
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.floor(255 * (values - low) / (high - low)).astype(np.uint8)


def smooth(values: np.ndarray) -> np.ndarray:
    """Blurs a map by a 5 x 5 Gaussian of deviation 1, mirrored at the border."""
    taps = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    taps /= taps.sum()
    for axis in (0, 1):
        values = ndimage.correlate1d(
            np.asarray(values, np.float64), taps, axis=axis, mode="mirror"
        )
    return values


def mask(values: np.ndarray, threshold: float | str) -> np.ndarray:
    """Binarises a difference.

    Args:
      values: ``[height, width]``, not normalised.
      threshold: 0 to 1 of its range, or "otsu" for the one that parts it best.

    Raises:
      UserError: for another threshold.
    """
    level = smooth(normalise(values))
    if threshold == "otsu":
        return level > otsu(level)
    if isinstance(threshold, str) or not 0 <= threshold <= 1:
        raise UserError(f"The threshold is {threshold!r}; expected 0 to 1, or 'otsu'.")
    return level > 255 * threshold


def otsu(values: np.ndarray) -> float:
    """Finds the threshold of 0..255 between two classes of the largest variance."""
    counts, edges = np.histogram(values, bins=256, range=(0, 256))
    middle = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middle)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = sums / below - (sums[-1] - sums) / above
        between = np.nan_to_num(below * above * gap**2)
    return float(edges[int(np.argmax(between)) + 1])


def enlarge(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Enlarges a mask to whole multiples of its sides by repeating pixels.

    Raises:
      UserError: if the size is not such a multiple.
    """
    factors = [side / own for side, own in zip(size, mask.shape, strict=True)]
    if any(factor != int(factor) or factor < 1 for factor in factors):
        raise UserError(
            f"A mask of {mask.shape} for an image of {tuple(size)}; expected an image "
            "whose sides are multiples of the mask's."
        )
    return np.kron(mask, np.ones([int(f) for f in factors], mask.dtype)).astype(
        mask.dtype
    )


@partial(jax.jit, static_argnums=(0, 1))
def _difference(static, plan, params, latents, texts, unconditional, keys, scale):
    samples, steps, strength, solver = plan
    backbone = static.backbone

    def call(x, timestep, context):
        return backbone.noise(params, x, timestep, context, plain_attention, None)[0]

    def one(latents, pair, key):
        def sample(number):
            noise = jax.random.normal(jax.random.fold_in(key, number), latents.shape)
            start = jnp.broadcast_to(noise, (2, *latents.shape))
            clean = jnp.broadcast_to(latents, start.shape)
            last = _last_noise(
                backbone,
                call,
                clean,
                start,
                pair,
                unconditional,
                scale,
                steps,
                strength,
                solver,
            )
            return jnp.linalg.norm(last[0] - last[1], axis=-1)

        return jnp.mean(jax.vmap(sample)(jnp.arange(samples)), axis=0)

    # Images in turn: each is already a batch of samples and texts.
    return jax.lax.map(lambda row: one(*row), (latents, texts, keys))


def _last_noise(
    backbone, call, clean, noise, pair, unconditional, scale, steps, strength, solver
):
    alphas = backbone.alphas
    guided = ddim.guided(call, pair, unconditional, scale)
    if solver == "single_step":
        time = max(int(strength * len(alphas)) - 1, 0)
        noisy = noise_tables.add_noise(clean, noise, alphas[time])
        return call(noisy, jnp.asarray(time), pair)
    if solver == "lms":
        count = max(1, int(steps * strength))
        multistep = lms.table(steps, last=count, alphas=alphas)
        noisy = noise_tables.add_noise(clean, noise, multistep.alpha[0])
        return lms.sample(guided, noisy, multistep)[1]
    schedule = ddim.part(ddim.table(steps, alphas=alphas), strength)
    noisy = noise_tables.add_noise(clean, noise, schedule.alpha[0])

    def advance(carry, row):
        x, _ = carry
        timestep, alpha, alpha_next = row
        eps = guided(x, timestep)
        return (ddim.step(x, eps, alpha, alpha_next)[0], eps), None

    rows = tuple(map(jnp.asarray, schedule))
    return jax.lax.scan(advance, (noisy, noise), rows)[0][1]
