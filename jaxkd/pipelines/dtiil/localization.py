"""D-TIIL: finds where an image and its caption contradict each other.

Huang et al., "Exposing Text-Image Inconsistency Using Diffusion Models", ICLR 2024
(arXiv 2404.18033). The method's text and figures were not accessible; the stages follow
the published code, with its slips mended: no weights are changed for good, and the key
decides everything.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import POSITIVE, SHARE, Range
from jaxkd.diffusion.noise_tables import TRAINED_STEPS
from jaxkd.pipelines import text_to_image
from jaxkd.pipelines.dtiil import alignment, difference, inpainting, words
from jaxkd.pipelines.dtiil.words import Phrase
from jaxkd.pipelines.text_to_image import Backbone

_Count = Annotated[int, Range(1)]
_Steps = Annotated[int, Range(1, TRAINED_STEPS)]
_NotNegative = Annotated[float, Range()]
_Threshold = Annotated[float | Literal["otsu"], SHARE]
Similarity = Callable[[np.ndarray, list[str]], np.ndarray]


class Settings(NamedTuple):
    """Numbers of the four stages; by default the published code's.

    Attributes:
      align_steps: of Adam, in stages 1 and 3.
      align_lr: its rate.
      align_batch: draws of timestep and noise a step.
      samples: of the noise, for a difference.
      mask_steps: of the schedule of a difference.
      mask_strength: share of it that is run.
      mask_scale: of its guidance.
      solver: of a difference; see ``difference.SOLVERS``.
      first_threshold: of the mask that is redrawn; or "otsu".
      threshold: of the final mask; or "otsu".
      edit_steps: of inpainting.
      edit_scale: of its guidance.
      latents: on which the final difference is measured: "original", or "edited" as in
        the published code.
      draws: of timestep and noise, for the scores of phrases.
      single_words: whether each word with content is a phrase of its own.
    """

    align_steps: Annotated[int, Range(0)] = 500
    align_lr: Annotated[float, POSITIVE] = 1e-3
    align_batch: _Count = 1
    samples: _Count = 8
    mask_steps: _Steps = 10
    mask_strength: Annotated[float, Range(0, 1, above=True)] = 0.5
    mask_scale: _NotNegative = 7.0
    solver: Literal["ddim", "lms", "single_step"] = "ddim"
    first_threshold: _Threshold = 0.15
    threshold: _Threshold = 0.30
    edit_steps: _Steps = 200
    edit_scale: _NotNegative = 7.5
    latents: Literal["original", "edited"] = "original"
    draws: _Count = 32
    single_words: bool = False


DEFAULT = Settings()


def check(settings: Settings) -> None:
    """Checks numbers and words before anything is compiled.

    Raises:
      UserError: for an impossible one.
    """
    lookup.check(Settings, settings._asdict(), what="The localisation")
    difference.check_steps(settings.mask_steps, settings.mask_strength, settings.solver)


class Finding(NamedTuple):
    """What is found in one image and its caption.

    Attributes:
      mask: ``[height, width]`` in pixels of the image, where they contradict.
      difference: ``[h, w]`` in pixels of the latents, not normalised; its scale tells
        how large the contradiction is.
      first_mask: ``[h, w]``, of stage 2, which was redrawn.
      first_difference: ``[h, w]``.
      edited: the image as the caption claims it, of [0, 1].
      phrases: of the caption.
      phrase_scores: ``[phrases]``; the largest offends most.
      score: 0 to 100, how well the image fits the caption inside the mask, or as a
        whole where the mask is empty; None without a ``similarity``.
      phrase: the offending one.
      embedding_similarity: cosine of the hidden states that describe the image and of
        those that keep the claim, averaged over the caption's tokens.
      mean_difference: mean of ``difference``.
    """

    mask: np.ndarray
    difference: np.ndarray
    first_mask: np.ndarray
    first_difference: np.ndarray
    edited: np.ndarray
    phrases: list[Phrase]
    phrase_scores: np.ndarray
    phrase: Phrase
    embedding_similarity: float
    mean_difference: float
    score: float | None = None


def localise(
    backbone: Backbone,
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    key: jax.Array,
    settings: Settings = DEFAULT,
    *,
    similarity: Similarity | None = None,
) -> list[Finding]:
    """Runs the four stages on images of one size.

    Args:
      backbone: the model; its parameters are not changed.
      images: ``[height, width, 3]``, uint8 or floats of [0, 1].
      captions: one for each.
      key: of all randomness.
      settings: numbers of the stages.
      similarity: ``(image of [0, 1], texts) -> cosines``, such as CLIP's; finds the
        offending phrase as published, by the edited image, and the score. Without it
        the phrase is found by the denoising error (``words.elbo_scores``).

    Raises:
      UserError: for images and captions that do not fit, before anything is compiled.
    """
    images = [np.asarray(image) for image in images]
    found = _check(backbone, images, captions, settings)
    params = backbone.params
    # Each by its own type, since a batch may mix whole numbers and floats.
    pixels = jnp.stack([text_to_image.to_signed(image) for image in images])
    latents = backbone.encode_image(params, pixels)
    texts = backbone.contexts([*captions, ""])
    given, empty = texts[:-1], texts[-1]
    keys = jax.random.split(key, 6)

    def fit(latents, key):
        return alignment.align(
            backbone,
            latents,
            given,
            key,
            steps=settings.align_steps,
            lr=settings.align_lr,
            batch=settings.align_batch,
        )[0]

    def compare(latents, first, second, key):
        return np.asarray(
            difference.difference(
                backbone,
                latents,
                first,
                second,
                empty,
                key,
                samples=settings.samples,
                steps=settings.mask_steps,
                strength=settings.mask_strength,
                scale=settings.mask_scale,
                solver=settings.solver,
            )
        )

    aligned = fit(latents, keys[0])
    first = compare(latents, aligned, given, keys[1])
    masks = np.stack([difference.mask(d, settings.first_threshold) for d in first])
    redrawn = inpainting.inpaint(
        backbone,
        latents,
        jnp.asarray(masks),
        given,
        empty,
        keys[2],
        steps=settings.edit_steps,
        scale=settings.edit_scale,
    )
    claimed = fit(redrawn, keys[3])
    shown = latents if settings.latents == "original" else redrawn
    final = compare(shown, aligned, claimed, keys[4])
    edited = text_to_image.to_unit(backbone.decode_image(params, redrawn))
    return [
        _finding(
            backbone,
            latents[i],
            captions[i],
            found[i],
            (aligned[i], claimed[i]),
            (first[i], masks[i], final[i], edited[i]),
            jax.random.fold_in(keys[5], i),
            settings,
            (similarity, text_to_image.to_unit(pixels[i])),
        )
        for i in range(len(images))
    ]


def _finding(backbone, latents, caption, phrases, hidden, maps, key, settings, judged):
    similarity, image = judged
    first, first_mask, final, edited = maps
    small = difference.mask(final, settings.threshold)
    mask, score = difference.enlarge(small, edited.shape[:2]), None
    if similarity is None:
        texts = [caption, *(words.without(caption, phrase) for phrase in phrases)]
        scores = words.elbo_scores(
            backbone,
            latents,
            backbone.contexts(texts),
            jnp.asarray(small),
            key,
            draws=settings.draws,
        )
    else:
        scores, _ = words.clip_scores(similarity, image, edited, mask, phrases)
        shown = image[words.largest_box(mask)]
        score = 100 * float(np.clip(similarity(shown, [caption])[0], 0, 1))
    tokens = backbone.tokenizer.words(caption) >= 0
    return Finding(
        mask=mask,
        difference=final,
        first_mask=first_mask,
        first_difference=first,
        edited=edited,
        phrases=phrases,
        phrase_scores=scores,
        phrase=phrases[int(np.argmax(scores))],
        embedding_similarity=_cosine(hidden[0], hidden[1], tokens),
        mean_difference=float(np.mean(final)),
        score=score,
    )


def _cosine(first: jax.Array, second: jax.Array, tokens: np.ndarray) -> float:
    a, b = (np.asarray(x, np.float64)[tokens] for x in (first, second))
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(np.mean(np.sum(a * b, axis=-1) / np.maximum(norms, 1e-12)))


def _check(backbone, images, captions, settings) -> list[list[Phrase]]:
    check(settings)
    if isinstance(captions, str):
        raise UserError(
            f"The captions are one text, {captions!r}; expected a list of them."
        )
    if len(images) != len(captions) or not images:
        raise UserError(
            f"{len(images)} images and {len(captions)} captions; expected as many, and "
            "at least one."
        )
    for image in images:
        backbone.check_image(image)
        if image.shape != images[0].shape:
            raise UserError(
                f"Images of {images[0].shape} and {image.shape}; expected one size. "
                "Resize them, or run them apart."
            )
    backbone.tokenizer.encode(list(captions))  # finds prompts that are too long
    return [words.phrases(c, single=settings.single_words) for c in captions]
