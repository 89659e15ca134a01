"""The scene benchmark of D-TIIL: captions that contradict a scene in a known place."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import metrics

from jaxkd.diffusion import noise_tables
from jaxkd.diffusion.attention import plain_attention, probabilities
from jaxkd.drawing import scenes
from jaxkd.pipelines import text_to_image
from jaxkd.pipelines.dtiil import difference, words
from jaxkd.pipelines.dtiil.localization import Finding
from jaxkd.pipelines.text_to_image import Backbone, Static

KINDS = ("colour of A", "colour of B", "shape of A", "shape of B", "background")
# The word of each kind in "a COLOUR SHAPE left of a COLOUR SHAPE on GROUND background".
PLACES = {
    "colour of A": 1,
    "shape of A": 2,
    "colour of B": 6,
    "shape of B": 7,
    "background": 9,
}
BASELINES = ("one stage", "cross-attention", "centre box", "random box")


class Pairs(NamedTuple):
    """Scenes and captions.

    Attributes:
      images: ``[n, 32, 32, 3]``, of [0, 1].
      captions: of which some contradict the image.
      masks: ``[n, 32, 32]``, where they do; empty for the others.
      changed: of each caption the numbers of its wrong words.
      kinds: of each caption, names in ``KINDS``.
    """

    images: np.ndarray
    captions: list[str]
    masks: np.ndarray
    changed: list[tuple[int, ...]]
    kinds: list[tuple[str, ...]]

    @property
    def inconsistent(self) -> np.ndarray:
        """Which captions contradict their image."""
        return np.array([len(one) > 0 for one in self.changed])


def draw_pairs(
    rng: np.random.Generator, count: int, *, wrong: int = 1, consistent: float = 0.5
) -> Pairs:
    """Draws scenes; captions have ``wrong`` wrong words, or none.

    Args:
      rng: source of randomness.
      count: of pairs.
      wrong: words, 1 to 5; 5 is a completely wrong caption.
      consistent: share of the captions without a wrong word.
    """
    shown = scenes.draw_scenes(rng, count)
    colour, shape = shown.colour.copy(), shown.shape.copy()
    ground, kinds = shown.background.copy(), []
    agree = round(count * consistent)
    for i in range(count):
        own = () if i < agree else tuple(rng.permutation(KINDS)[:wrong].tolist())
        kinds.append(own)
        for kind in own:
            j = int(kind.endswith("B"))
            if kind == "background":
                ground[i] = _other(rng, ground[i], len(scenes.BACKGROUNDS))
            elif kind.startswith("colour"):
                colour[i, j] = _other(rng, colour[i, j], len(scenes.COLOURS))
            else:
                shape[i, j] = _other(rng, shape[i, j], len(scenes.SHAPES))
    claimed = shown.change(colour=colour, shape=shape, background=ground)
    images, masks = scenes.draw(shown)
    _, claimed_masks = scenes.draw(claimed)
    truth = np.zeros(masks.shape[:1] + masks.shape[2:], bool)
    for i, own in enumerate(kinds):
        for kind in own:
            truth[i] |= _region(kind, masks[i], claimed_masks[i])
    changed = [tuple(sorted(PLACES[kind] for kind in own)) for own in kinds]
    return Pairs(images, scenes.captions(claimed), truth, changed, kinds)


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Computes intersection over union of two masks; 1 if both are empty."""
    union = np.sum(found | truth)
    return float(np.sum(found & truth) / union) if union else 1.0


def f1(found: np.ndarray, truth: np.ndarray) -> float:
    """Computes the F1 of the pixels of two masks; 1 if both are empty."""
    total = np.sum(found) + np.sum(truth)
    return float(2 * np.sum(found & truth) / total) if total else 1.0


def measure(pairs: Pairs, found: Sequence[Finding]) -> dict[str, float]:
    """Measures findings: masks and words of wrong captions, and telling them apart.

    Returns:
      ``iou`` and ``f1``, means over the wrong captions; ``word``, the share of them
      whose offending phrase holds a changed word; ``auc``, ``average precision`` of the
      mean difference as a score of contradiction, and ``auc of similarity`` of the
      fall of the embeddings' cosine.
    """
    wrong = np.flatnonzero(pairs.inconsistent).tolist()
    hits = [
        any(found[i].phrase.start <= w < found[i].phrase.stop for w in pairs.changed[i])
        for i in wrong
    ]
    results = {
        "iou": float(np.mean([iou(found[i].mask, pairs.masks[i]) for i in wrong])),
        "f1": float(np.mean([f1(found[i].mask, pairs.masks[i]) for i in wrong])),
        "word": float(np.mean(hits)),
    }
    return results | detection(
        pairs.inconsistent,
        np.array([one.mean_difference for one in found]),
        1 - np.array([one.embedding_similarity for one in found]),
    )


def detection(
    labels: np.ndarray, scores: np.ndarray, other: np.ndarray
) -> dict[str, float]:
    """Computes areas under curves; nothing if all labels agree."""
    if labels.all() or not labels.any():
        return {}
    return {
        "auc": float(metrics.roc_auc_score(labels, scores)),
        "average precision": float(metrics.average_precision_score(labels, scores)),
        "auc of similarity": float(metrics.roc_auc_score(labels, other)),
    }


def sweep(
    pairs: Pairs, maps: Sequence[np.ndarray], thresholds: Sequence[float | str]
) -> dict[float | str, float]:
    """Computes the mean IoU of wrong captions for each threshold of their maps."""
    wrong = np.flatnonzero(pairs.inconsistent).tolist()
    return {
        threshold: float(
            np.mean(
                [
                    iou(difference.mask(maps[i], threshold), pairs.masks[i])
                    for i in wrong
                ]
            )
        )
        for threshold in thresholds
    }


def box_masks(pairs: Pairs, rng: np.random.Generator | None) -> np.ndarray:
    """Makes boxes of a quarter of the picture, in its centre or at random places."""
    side = scenes.SIDE // 2
    masks = np.zeros(pairs.masks.shape, bool)
    for mask in masks:
        corner = (side // 2, side // 2)
        if rng is not None:
            corner = tuple(rng.integers(0, side + 1, size=2))
        mask[corner[0] : corner[0] + side, corner[1] : corner[1] + side] = True
    return masks


def attention_maps(
    backbone: Backbone,
    pairs: Pairs,
    found: Sequence[Finding],
    key: jax.Array,
    *,
    timestep: int = 300,
) -> np.ndarray:
    """Computes where the offending phrase of each finding is attended to, in one pass.

    Returns:
      ``[n, 32, 32]``, the mean over heads and layers of the finest cross-attention.
    """
    selectors = [
        np.isin(
            backbone.tokenizer.words(caption), range(one.phrase.start, one.phrase.stop)
        )
        for caption, one in zip(pairs.captions, found, strict=True)
    ]
    maps = _attention(
        Static(backbone),
        backbone.params,
        text_to_image.to_signed(pairs.images),
        backbone.contexts(pairs.captions),
        jnp.asarray(np.stack(selectors), jnp.float32),
        key,
        jnp.asarray(timestep),
    )
    zoom = pairs.images.shape[1] // maps.shape[1]
    return np.stack([np.kron(one, np.ones((zoom, zoom))) for one in np.asarray(maps)])


def whole_caption_errors(
    backbone: Backbone, pairs: Pairs, key: jax.Array, *, draws: int = 32
) -> np.ndarray:
    """Computes the denoising error with each caption less that without text, ``[n]``.

    A simple score of contradiction: a wrong caption explains its image worse.
    """
    latents = backbone.encode_image(
        backbone.params, text_to_image.to_signed(pairs.images)
    )
    texts = backbone.contexts([*pairs.captions, ""])
    everywhere = jnp.zeros(pairs.masks.shape[1:], bool)
    return np.array(
        [
            -words.elbo_scores(
                backbone,
                latents[i],
                jnp.stack([texts[-1], texts[i]]),
                everywhere,
                key,
                draws=draws,
            )[0]
            for i in range(len(pairs.captions))
        ]
    )


def _region(kind: str, masks: np.ndarray, claimed: np.ndarray) -> np.ndarray:
    if kind == "background":
        return masks.sum(0) < 0.5
    j = int(kind.endswith("B"))
    if kind.startswith("colour"):
        return masks[j] >= 0.5
    return np.maximum(masks[j], claimed[j]) >= 0.5


def _other(rng: np.random.Generator, value: int, count: int) -> int:
    return int((value + rng.integers(1, count)) % count)


@partial(jax.jit, static_argnums=0)
def _attention(static, params, images, contexts, selectors, key, timestep):
    backbone = static.backbone
    finest = (images.shape[1] // backbone.blend, images.shape[2] // backbone.blend)

    def attend(site, q, k, v, scale, state):
        out, _ = plain_attention(site, q, k, v, scale)
        if site.kind == "self" or (site.height, site.width) != finest:
            return out, None
        maps = jnp.mean(probabilities(q, k, scale), axis=1)
        return out, jnp.einsum("bnm,bm->bn", maps, state).reshape(-1, *finest)

    noise = jax.random.normal(key, images.shape)
    alpha = jnp.asarray(backbone.alphas)[timestep]
    noisy = noise_tables.add_noise(images, noise, alpha)
    _, aux = backbone.noise(params, noisy, timestep, contexts, attend, selectors)
    return sum(aux.values()) / len(aux)
