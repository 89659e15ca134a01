"""The first law: two kinds of lesions, told apart by texture and mostly by place.

Three classes: ``NCP`` (fine-grained lesions, mostly at the lungs' shell), ``CP``
(smooth lesions, mostly central) and ``Normal``. Number, size and density of the lesions
have one law in both; normal lungs hold more of the harmless bands that every lung
holds, so that the amount of dense tissue does not tell the class.
"""

import numpy as np

from jaxkd.drawing.ct import parts

CLASSES = ("NCP", "CP", "Normal")
SHAPE = (24, 48, 48)
SPACING = (10.0, 7.5, 7.5)  # mm, so that the drawn body has the size of a real one


def draw(
    label: int, body_rng: np.random.Generator, rng: np.random.Generator
) -> parts.Scan:
    """Draws one scan.

    Args:
      label: index into ``CLASSES``.
      body_rng: draws the body.
      rng: draws everything else.
    """
    image, lungs = parts.body(body_rng, SHAPE)
    parts.add_vessels(image, lungs, rng)
    lesion = np.zeros(SHAPE, bool)
    if CLASSES[label] != "Normal":
        lesion = _add_lesions(image, lungs, rng, fine=CLASSES[label] == "NCP")
    bands = rng.integers(3, 8) if CLASSES[label] == "Normal" else rng.integers(0, 4)
    for _ in range(bands):
        parts.add_band(image, lungs, rng)
    return parts.Scan(
        parts.finish(image, rng), lesion.astype(np.uint8), lungs.inside.astype(np.uint8)
    )


def _add_lesions(
    image: np.ndarray, lungs: parts.Lungs, rng: np.random.Generator, fine: bool
) -> np.ndarray:
    """Adds three to six foci and returns where they are."""
    texture = parts.smooth_noise(rng, 2.5, SHAPE)
    if fine:
        from scipy.ndimage import gaussian_filter

        noise = rng.standard_normal(SHAPE, np.float32)
        texture = gaussian_filter(noise, 0.6) - gaussian_filter(noise, 1.4)
        texture = (texture - texture.mean()) / texture.std()
    place = lungs.radius > 0.72 if fine else lungs.radius < 0.55
    ragged = parts.smooth_noise(rng, 1.0, SHAPE)
    amount = np.zeros(SHAPE, np.float32)
    for _ in range(rng.integers(3, 7)):
        anywhere = rng.random() < 0.3
        centre = parts.pick(lungs.inside & (place | anywhere), rng)
        z, y, x = parts.way(centre, SHAPE)
        border = 0.8 * np.roll(ragged, rng.integers(SHAPE), (0, 1, 2))
        edge = np.sqrt(z**2 + y**2 + x**2) + border - rng.uniform(3, 5.5)
        focus = 1 / (1 + np.exp(np.clip(edge / 0.5, -30, 30)))
        amount = np.maximum(amount, focus)
    free = lungs.inside & (image < parts.DENSE)
    density = rng.uniform(200, 420) * (1 + 0.55 * texture)
    image[free] += (amount * density)[free]
    return (amount > 0.5) & lungs.inside
