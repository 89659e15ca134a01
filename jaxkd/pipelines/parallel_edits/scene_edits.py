"""The scene benchmark of ParallelEdits: edits whose result is known exactly."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.diffusion import attention_control as control
from jaxkd.diffusion import ddim, noise_tables
from jaxkd.drawing import scenes
from jaxkd.models.stable_diffusion import plain_attention
from jaxkd.pipelines import text_to_image
from jaxkd.pipelines.parallel_edits import aspects, edit, plan
from jaxkd.pipelines.parallel_edits.edit import Settings
from jaxkd.pipelines.parallel_edits.grouping import Group
from jaxkd.pipelines.text_to_image import Backbone, Static

# What may be edited: the colour of the left object, the shape of the right one, the
# background, the presence of the right one.
TASKS = ("colour", "shape", "background", "delete")
COMBINATIONS = {
    1: (("colour",), ("shape",), ("background",), ("delete",)),
    2: (("colour", "shape"), ("colour", "background"), ("colour", "delete")),
    3: (("colour", "shape", "background"), ("colour", "delete", "background")),
}
METHODS = (
    "copy source",
    "regeneration",
    "SDEdit",
    "single branch",
    "sequential",
    "parallel",
    "parallel, no types",
    "parallel, no grouping",
)
_SDEDIT_STRENGTH = 0.6
# Where the words are in "a red circle left of a blue square on white background".
_COLOUR, _RIGHT, _SHAPE, _GROUND = 1, slice(3, 8), 7, 9


class Task(NamedTuple):
    """Edits of scenes.

    Attributes:
      before: the scenes.
      after: the scenes as they should become.
      tasks: of each scene, names in ``TASKS``.
    """

    before: scenes.Scenes
    after: scenes.Scenes
    tasks: tuple[tuple[str, ...], ...]


def draw_tasks(rng: np.random.Generator, count: int, edits: int) -> Task:
    """Draws scenes and as many edits for each; the combinations take turns."""
    if edits not in COMBINATIONS:
        raise UserError(
            f"{edits} edits; expected one of {', '.join(map(str, COMBINATIONS))}."
        )
    before = scenes.draw_scenes(rng, count)
    tasks = tuple(
        COMBINATIONS[edits][i % len(COMBINATIONS[edits])] for i in range(count)
    )
    named = {name: np.array([name in row for row in tasks]) for name in TASKS}
    colour, shape = before.colour.copy(), before.shape.copy()
    present = before.present.copy()
    # A step of 1 to n - 1 around the circle is never the value itself.
    colour[:, 0] = _other(rng, colour[:, 0], len(scenes.COLOURS), named["colour"])
    shape[:, 1] = _other(rng, shape[:, 1], len(scenes.SHAPES), named["shape"])
    ground = _other(
        rng, before.background, len(scenes.BACKGROUNDS), named["background"]
    )
    present[:, 1] &= ~named["delete"]
    after = before.change(
        colour=colour, shape=shape, background=ground, present=present
    )
    return Task(before, after, tasks)


def asked(task: Task) -> list[list[aspects.Aspect]]:
    """Returns the edits of each scene as aspects of its caption.

    They are told by their places: the two captions alone do not tell which of two
    objects is left out where words of both are the same.
    """

    def swap(place: int, name: str, whole: bool = False) -> aspects.Aspect:
        return aspects.Aspect(
            aspects.SWAP, place, (words[place],), (name,), whole=whole
        )

    found = []
    texts, after = scenes.captions(task.before), task.after
    for i, row in enumerate(task.tasks):
        words = tuple(texts[i].split())
        known = {
            "colour": swap(_COLOUR, scenes.COLOUR_NAMES[after.colour[i, 0]]),
            "shape": swap(_SHAPE, scenes.SHAPES[after.shape[i, 1]]),
            "background": swap(
                _GROUND, scenes.BACKGROUND_NAMES[after.background[i]], whole=True
            ),
            "delete": aspects.Aspect(aspects.DELETE, _RIGHT.start, words[_RIGHT], ()),
        }
        found.append(sorted((known[name] for name in row), key=lambda e: e.position))
    return found


def measure(task: Task, images: np.ndarray) -> dict[str, np.ndarray]:
    """Measures edited images ``[n, 32, 32, 3]`` of [0, 1] exactly.

    Returns:
      ``aspects``, the share of the edits that succeeded; ``unedited``, the mean squared
      difference from the source where nothing should change; ``full``, that from the
      scene as it should become. One value per scene.
    """
    source, masks = scenes.draw(task.before)
    truth, new_masks = scenes.draw(task.after)
    match = scenes.attributes_match(scenes.read(images), task.after)
    hit = {
        "colour": match["colour"][:, 0],
        "shape": match["shape"][:, 1],
        "background": match["background"],
        "delete": match["present"][:, 1],
    }
    shares = [np.mean([hit[t][i] for t in row]) for i, row in enumerate(task.tasks)]
    # A pixel that objects cover in part shows the background too.
    covered = np.minimum(masks.sum(1), new_masks.sum(1))
    edited = np.zeros_like(covered)
    for i, row in enumerate(task.tasks):
        if "colour" in row:
            edited[i] = np.maximum(edited[i], masks[i, 0])
        if "shape" in row or "delete" in row:
            edited[i] = np.maximum(edited[i], np.maximum(masks[i, 1], new_masks[i, 1]))
        if "background" in row:
            edited[i] = np.maximum(edited[i], 1 - covered[i])
    keep = (edited == 0).astype(np.float64)
    squared = np.mean((images - source) ** 2, axis=-1)
    area = np.maximum(keep.sum((1, 2)), 1)
    return {
        "aspects": np.array(shares),
        "unedited": (keep * squared).sum((1, 2)) / area,
        "full": np.mean((images - truth) ** 2, axis=(1, 2, 3)),
    }


def run_method(
    backbone: Backbone,
    method: str,
    task: Task,
    key: jax.Array,
    settings: Settings,
    *,
    types: str = "attention",
    batch: int = 8,
) -> tuple[np.ndarray, float]:
    """Edits all scenes by one method.

    Args:
      backbone: the model.
      method: a name in ``METHODS``.
      task: scenes and edits.
      key: of all noise; the same for every method.
      settings: of the edit.
      types: "attention", found as in ``plan.make``; or "known", a colour is rigid, a
        shape or deletion is not, a background is global.
      batch: scenes edited at once.

    Returns:
      Images ``[n, 32, 32, 3]`` of [0, 1], and network evaluations an image.

    Raises:
      UserError: for an unknown method.
    """
    source = scenes.draw(task.before)[0]
    if method == "copy source":
        return source, 0.0
    latents = text_to_image.to_signed(source)
    if method in ("regeneration", "SDEdit"):
        strength = 1.0 if method == "regeneration" else _SDEDIT_STRENGTH
        texts = scenes.captions(task.after)
        images, calls = _redraw(backbone, latents, texts, key, settings, strength)
        return text_to_image.to_unit(images), calls
    if method == "sequential":
        return _sequential(backbone, task, latents, key, settings, batch)
    if method not in METHODS:
        raise UserError(f"There is no method {method!r}: {', '.join(METHODS)}.")
    plans = [
        _plan(backbone, method, latents[i], text, edits, i, key, types)
        for i, (text, edits) in enumerate(
            zip(scenes.captions(task.before), asked(task), strict=True)
        )
    ]
    images, calls = _edit_all(backbone, plans, latents, key, settings, batch)
    if types == "attention" and method != "single branch":
        calls += edit.calls(plan.ATTENTION, 2)  # the pass that finds the groups
    return images, calls


def _plan(backbone, method, latents, source, edits, number, key, types):
    if method == "single branch":
        everything = tuple(range(len(edits)))
        # InfEdit has one branch, which may change shapes.
        kind = control.GLOBAL if all(e.whole for e in edits) else control.NON_RIGID
        return plan.of_groups(backbone, source, edits, [Group(kind, everything)])
    if types == "known":
        return plan.of_groups(backbone, source, edits, _known(edits, method))
    options = plan.Grouping(
        types=method != "parallel, no types",
        groups=method != "parallel, no grouping",
    )
    own = jax.random.fold_in(key, number)
    return plan.make(backbone, latents, source, edits, own, options)


def _known(edits, method) -> list[Group]:
    kinds = [_kind(aspect) for aspect in edits]
    if method == "parallel, no types":
        kinds = [control.NON_RIGID] * len(edits)
    groups = []
    for kind in (control.RIGID, control.NON_RIGID, control.GLOBAL):
        own = [i for i, k in enumerate(kinds) if k == kind]
        if kind == control.GLOBAL or method == "parallel, no grouping":
            groups += [Group(kind, tuple(own))] if own else []
        else:
            groups += [Group(kind, (i,)) for i in own]
    return groups


def _kind(aspect: aspects.Aspect) -> int:
    if aspect.whole:
        return control.GLOBAL
    colour = set(aspect.new) & set(scenes.COLOUR_NAMES)
    return control.RIGID if colour else control.NON_RIGID


def _edit_all(backbone, plans, latents, key, settings, batch):
    """Edits scenes with as many branches together."""
    images = np.array(text_to_image.to_unit(latents))
    calls = np.zeros(len(plans))
    sizes = np.array([len(one.groups) for one in plans])
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        calls[rows] = edit.calls(settings, int(size))
        for start in range(0, len(rows), batch):
            some = rows[start : start + batch]
            # Filled up, so that one program serves all.
            full = np.resize(some, batch)
            branches = jax.tree.map(
                lambda *x: jnp.stack(x), *(plans[i].branches for i in full)
            )
            keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.asarray(full))
            out = edit.edit_batch(backbone, latents[full], branches, keys, settings)
            images[some] = text_to_image.to_unit(out.latents[: len(some), -1])
    return images, float(calls.mean())


def _sequential(backbone, task, latents, key, settings, batch):
    """Edits one aspect after the other, each from the image before it."""
    total, texts = 0.0, scenes.captions(task.before)
    # From the last word to the first, so that places of words stay what they are.
    backwards = [sorted(edits, key=lambda e: -e.position) for edits in asked(task)]
    for number, step in enumerate(zip(*backwards, strict=True)):
        plans = [
            plan.of_groups(backbone, text, [one], [Group(_kind(one), (0,))])
            for text, one in zip(texts, step, strict=True)
        ]
        texts = [made.prompts[-1].text for made in plans]
        own = jax.random.fold_in(key, 1000 + number)
        images, calls = _edit_all(backbone, plans, latents, own, settings, batch)
        latents, total = text_to_image.to_signed(images), total + calls
    return images, total


def _redraw(backbone, latents, captions, key, settings, strength):
    table = edit.table(backbone, settings.steps)
    if strength < 1:
        table = ddim.part(table, strength)
    contexts = backbone.contexts([*captions, ""])
    images = _sample(
        Static(backbone), backbone.params, latents, contexts, table, key, settings.scale
    )
    return images, 2.0 * len(table.timestep)


@partial(jax.jit, static_argnums=0)
def _sample(static, params, latents, contexts, table, key, scale):
    def call(x, timestep, context):
        return static.backbone.noise(
            params, x, timestep, context, plain_attention, None
        )[0]

    noise = jax.random.normal(key, latents.shape)
    start = noise_tables.add_noise(latents, noise, table.alpha[0])
    # A whole schedule starts from pure noise.
    start = jnp.where(table.alpha[0] < 0.01, noise, start)
    predict = ddim.guided(call, contexts[:-1], contexts[-1], scale)
    return ddim.sample(predict, start, table)


def _other(rng, values, count, chosen) -> np.ndarray:
    moved = (values + rng.integers(1, count, size=values.shape)) % count
    return np.where(chosen, moved, values)


def summary(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Averages what ``measure`` returned over scenes."""
    return {k: float(np.mean([np.mean(one[k]) for one in found])) for k in found[0]}
