"""Anti-aliased shapes that pictures are drawn with: ellipses, strokes, blur.

A shape is its cover of every pixel, in [0, 1]: edges are blended by their distance to
the pixel's centre. Lengths are in half sides of the image.
"""

import jax
import jax.numpy as jnp

STROKE = 6  # straight pieces of a quadratic stroke


def paint(image: jax.Array, cover: jax.Array, colour) -> jax.Array:
    """Covers an image ``[h, w, 3]`` with a colour where ``cover`` is 1."""
    return image + cover[..., None] * (colour - image)


def ellipse(x, y, width, height, pixel: float) -> jax.Array:
    """Covers pixels inside an ellipse of given half axes about the origin.

    The distance to the edge is that of the level's first-order expansion.
    """
    level = (x / width) ** 2 + (y / height) ** 2
    slope = 2 * jnp.sqrt((x / width**2) ** 2 + (y / height**2) ** 2) + 1e-6
    return jnp.clip(0.5 - (level - 1) / slope / pixel, 0, 1)


def stroke(x, y, start, control, end, width, pixel: float) -> jax.Array:
    """Covers pixels within half of ``width`` of a quadratic Bézier curve."""
    time = jnp.linspace(0, 1, STROKE + 1)[:, None]
    points = [
        jnp.stack([jnp.asarray(p, jnp.float32) for p in q])
        for q in (start, control, end)
    ]
    curve = (
        (1 - time) ** 2 * points[0]
        + 2 * time * (1 - time) * points[1]
        + time**2 * points[2]
    )
    # All pieces at once: unrolled, they would take most of the time to compile.
    start, step = curve[:-1, :, None, None], jnp.diff(curve, axis=0)[..., None, None]
    dx, dy = x - start[:, 0], y - start[:, 1]
    part = (dx * step[:, 0] + dy * step[:, 1]) / (jnp.sum(step**2, axis=1) + 1e-9)
    part = jnp.clip(part, 0, 1)
    square = (dx - part * step[:, 0]) ** 2 + (dy - part * step[:, 1]) ** 2
    distance = jnp.sqrt(jnp.min(square, axis=0))
    return jnp.clip(0.5 - (distance - width / 2) / pixel, 0, 1)


def blur(image: jax.Array, sigma) -> jax.Array:
    """Blurs by a Gaussian with seven taps along each axis; edges are replicated."""
    taps = jnp.arange(-3.0, 4.0, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * (taps / jnp.maximum(sigma, 1e-3)) ** 2)
    weights = weights / weights.sum()
    size = image.shape[0]
    padded = jnp.pad(image, ((3, 3), (3, 3), (0, 0)), mode="edge")
    rows = sum(w * padded[i : i + size] for i, w in enumerate(weights))
    return sum(w * rows[:, i : i + size] for i, w in enumerate(weights))
