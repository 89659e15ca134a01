"""Draws words of a few characters on textured backgrounds, as lines of text.

Characters come from the bank of ``jaxkd.drawing.glyphs``, digits and capitals alone,
one font for a word; each moves, turns and grows a little.
"""

import functools

import numpy as np

from jaxkd.drawing import glyphs

ALPHABET = tuple(
    c for c in glyphs.CLASSES if c.isascii() and (c.isdigit() or c.isupper())
)
_INK = 46  # pixels of a cell's font


def draw_words(
    words: np.ndarray, *, height: int, width: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws one line per word.

    Args:
      words: integers ``[n, slots]``, places in ``ALPHABET``; negative ones are blank,
        and follow the word.
      height: of the images.
      width: likewise; characters share it.
      rng: of all that is random.

    Returns:
      uint8 ``[n, height, width, 3]``.
    """
    bank = _bank()
    return np.stack([_draw(bank, word, height, width, rng) for word in words])


@functools.cache
def _bank() -> np.ndarray:
    """Returns grey cells of every character in every font, in [0, 1]."""
    places = [glyphs.CLASSES.index(c) for c in ALPHABET]
    return glyphs.glyph_bank(32)[places] / 255.0


def _draw(bank, word, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import affine_transform, gaussian_filter

    tokens = word[word >= 0]
    ink = np.zeros((height, width))
    font, cell = rng.integers(bank.shape[1]), bank.shape[-1]
    slot = width / max(len(tokens), 1)
    size = min(0.95 * height, 1.5 * slot)  # of a character's font
    for place, token in enumerate(tokens):
        scale = _INK / (size * rng.uniform(0.85, 1.1))
        angle = np.deg2rad(rng.uniform(-8, 8))
        turn = scale * np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        centre = np.array(
            [
                (height - 1) / 2 + rng.uniform(-0.07, 0.07) * height,
                (place + 0.5) * slot - 0.5 + rng.uniform(-0.06, 0.06) * slot,
            ]
        )
        offset = (cell - 1) / 2 - turn @ centre
        # Averages what a pixel covers: the cells are several times finer.
        source = gaussian_filter(bank[token, font], 0.4 * scale)
        drawn = affine_transform(source, turn, offset, (height, width), order=1)
        ink = np.maximum(ink, np.clip(drawn, 0, 1))
    background = rng.uniform(0, 1, 3)
    texture = gaussian_filter(rng.normal(size=(height, width)), 3, mode="wrap")
    texture = 0.08 * texture / texture.std()
    sign = -1 if background.mean() > 0.5 else 1
    colour = background + sign * rng.uniform(0.35, 0.8) + 0.1 * rng.normal(size=3)
    image = background + texture[..., None]
    image = image + ink[..., None] * (np.clip(colour, 0, 1) - image)
    image = image + rng.uniform(0.0, 0.05) * rng.normal(size=image.shape)
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
