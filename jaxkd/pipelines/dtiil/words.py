"""Stage 4 of D-TIIL: which words of the caption contradict the image."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.pipelines.dtiil.alignment import denoising_loss, draw
from jaxkd.pipelines.text_to_image import Backbone, Static

# English words without content of their own: articles, pronouns, prepositions,
# conjunctions, auxiliaries.
_STOPS = (
    "a an the this that these those some any each every no and or but nor so yet of "
    "in on at by for with from to into onto over under above below between through "
    "during before after about against near behind beside beyond left right up down "
    "out off is are was were be been being am do does did has have had will would "
    "shall should can could may might must i you he she it we they me him her us them "
    "my your his its our their who whom whose which what where when why how not as if "
    "than then there here while because very too just also only"
)
STOP_WORDS = frozenset(_STOPS.split())
TEMPLATE = "A photo of {}"


class Phrase(NamedTuple):
    """A run of words with content.

    Attributes:
      start: number of its first word.
      stop: number after its last word.
      text: the words.
    """

    start: int
    stop: int
    text: str


def phrases(
    caption: str,
    *,
    stop_words: Iterable[str] = STOP_WORDS,
    keep: Callable[[str], bool] | None = None,
    single: bool = False,
) -> list[Phrase]:
    """Splits a caption into maximal runs of words with content.

    Args:
      caption: the text.
      stop_words: words that part phrases.
      keep: decides by a word alone whether it has content, in place of ``stop_words``;
        a tagger can be put in here.
      single: whether every word is a phrase of its own.

    Raises:
      UserError: if no word has content.
    """
    stops = frozenset(stop_words)
    words = caption.split()
    keep = keep or (lambda word: word.lower().strip(".,;:!?\"'()") not in stops)
    found: list[Phrase] = []
    for i, word in enumerate(words):
        if not keep(word):
            continue
        if found and found[-1].stop == i and not single:
            start = found[-1].start
            found[-1] = Phrase(start, i + 1, " ".join(words[start : i + 1]))
        else:
            found.append(Phrase(i, i + 1, word))
    if not found:
        raise UserError(f"No word of the caption {caption!r} has content of its own.")
    return found


def elbo_scores(
    backbone: Backbone,
    latents: jax.Array,
    contexts: jax.Array,
    masks: jax.Array,
    key: jax.Array,
    *,
    draws: int = 32,
) -> np.ndarray:
    """Measures how much the denoising error in a mask falls when a phrase is left out.

    The offending phrase is the one with the largest value: without it the text explains
    the image better.

    Args:
      backbone: the model.
      latents: ``[height, width, channels]``.
      contexts: hidden states ``[1 + phrases, tokens, width]``, of the whole caption
        first, then without each phrase.
      masks: ``[height, width]``, where the error counts; none means everywhere.
      key: of timesteps and noise, the same for all texts.
      draws: of them.

    Returns:
      ``[phrases]``, error with the whole caption minus error without the phrase.
    """
    errors = _errors(
        Static(backbone), draws, backbone.params, latents, contexts, masks, key
    )
    return np.asarray(errors[0] - errors[1:])


def clip_scores(
    similarity: Callable[[np.ndarray, list[str]], np.ndarray],
    image: np.ndarray,
    edited: np.ndarray,
    mask: np.ndarray,
    found: list[Phrase],
) -> tuple[np.ndarray, np.ndarray]:
    """Compares phrases with the region that the text made and with the original.

    Args:
      similarity: ``(image, texts) -> [texts]``, such as CLIP's.
      image: ``[height, width, 3]``.
      edited: the image as the text claims it.
      mask: ``[height, width]``; the crop is the box around its largest part.
      found: phrases of the caption.

    Returns:
      Similarity to the edited crop, whose largest is the offending phrase; and
      similarity to the original minus that to the edited crop.
    """
    texts = [TEMPLATE.format(phrase.text) for phrase in found]
    box = largest_box(mask)
    claimed = np.asarray(similarity(edited[box], texts))
    return claimed, np.asarray(similarity(image[box], texts)) - claimed


def largest_box(mask: np.ndarray) -> tuple[slice, slice]:
    """Returns the box around the largest connected part of a mask; all, if empty."""
    from scipy import ndimage

    parts, count = ndimage.label(mask)
    if not count:
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    sizes = np.bincount(parts.ravel())[1:]
    return ndimage.find_objects(parts)[int(np.argmax(sizes))]


def without(caption: str, phrase: Phrase) -> str:
    """Returns a caption without one of its phrases."""
    words = caption.split()
    return " ".join(words[: phrase.start] + words[phrase.stop :])


@partial(jax.jit, static_argnums=(0, 1))
def _errors(static, draws, params, latents, contexts, masks, key):
    backbone = static.backbone
    timesteps, noise = draw(backbone, latents, key, draws)
    weights = jnp.where(jnp.any(masks), masks, True).astype(jnp.float32)

    def error(context):
        errors = denoising_loss(backbone, params, latents, context, timesteps, noise)
        return jnp.sum(errors * weights) / (draws * jnp.sum(weights))

    return jax.lax.map(error, contexts)
