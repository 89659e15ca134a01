"""Edits an image by branches that go from noise to data side by side.

ParallelEdits (Huang et al., NeurIPS 2024, arXiv 2406.00985); with one branch it is
InfEdit (arXiv 2312.04965). ``edit`` is a pure function of arrays, one scan over the
steps, and serves any edit of as many branches.
"""

from functools import partial
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import SHARE, Range
from jaxkd.diffusion import attention_control as control
from jaxkd.diffusion import consistency, ddcm, ddim, noise_tables
from jaxkd.pipelines import text_to_image
from jaxkd.pipelines.text_to_image import Backbone

_Share = Annotated[float, SHARE]
_NotNegative = Annotated[float, Range()]


class Settings(NamedTuple):
    """Numbers of an edit; by default the paper's, or the demonstration's where it has
    none.

    Attributes:
      steps: of the sampler.
      scale: of guidance, of the targets.
      source_scale: of the source and the mutual rows.
      eta: share of fresh noise in DDCM.
      self_replace: share of the steps with the base's layout.
      cross_replace: share of the steps with the base's cross-attention.
      edit_threshold: of the maps of edited words.
      mutual_threshold: of the maps of words that are kept from the base.
      temperature: raises ``edit_threshold`` while the latents are noisy.
      chain_start: share of the steps after which a branch is calibrated to the branch
        before it, not to the source.
      cross_from: see ``branch_attention``.
      kv_from: see ``branch_attention``'s ``non_rigid``.
      mask_accumulate: whether a branch's mask includes those before it (the paper's
        algorithm 2), else only its own (the code).
      compat: "official" for the published code's slips: every branch takes the source's
        prediction, and the references of chained branches are rotated the wrong way.
    """

    steps: Annotated[int, Range(1, noise_tables.TRAINED_STEPS)] = 15
    scale: _NotNegative = 4.0
    source_scale: _NotNegative = 1.0
    eta: _Share = 1.0
    self_replace: _Share = 0.7
    cross_replace: _Share = 0.7
    edit_threshold: _Share = 0.5
    mutual_threshold: _Share = 0.8
    temperature: _NotNegative = 0.15
    chain_start: _Share = 0.45
    cross_from: Literal["base", "mutual"] = "base"
    kv_from: Literal["late", "always", "never"] = "late"
    mask_accumulate: bool = False
    compat: Literal["", "official"] = ""


DEFAULT = Settings()


class Branches(NamedTuple):
    """What an edit depends on beside the image; arrays.

    Attributes:
      contexts: hidden states of the prompts ``[branches + 1, tokens, width]``, the
        source's first.
      unconditional: ``[tokens, width]``.
      kind: ``[branches]``.
      mapper: ``[branches, tokens]``; see ``BranchState``.
      mapped: ``[branches, tokens]``.
      matrix: ``[branches, tokens, tokens]``.
      replace: ``[branches]``.
      local: ``[branches, tokens]``, 1 for the words that are edited; neither these nor
        ``removed`` for an edit of the whole picture.
      removed: ``[branches, tokens]``, 1 for words of the base that are deleted.
      mutual: ``[branches, tokens]``, 1 for words whose place is kept from the base.
    """

    contexts: jax.Array
    unconditional: jax.Array
    kind: jax.Array
    mapper: jax.Array
    mapped: jax.Array
    matrix: jax.Array
    replace: jax.Array
    local: jax.Array
    removed: jax.Array
    mutual: jax.Array


class Edited(NamedTuple):
    """The result of an edit.

    Attributes:
      latents: of every branch ``[branches, height, width, channels]``; the last is the
        edit with all aspects.
      masks: where each branch was allowed to differ from its base ``[branches, height,
        width]``, of the last blend; all True for edits of the whole picture.
      maps: mean cross-attention ``[branches, maps, h, w, tokens]``; see
        ``attention_control``.
    """

    latents: jax.Array
    masks: jax.Array
    maps: jax.Array


def calls(settings: Settings, branches: int) -> int:
    """Returns the number of rows that the network evaluates for one image (NFE)."""
    return 2 * control.rows(branches) * settings.steps


def table(backbone: Backbone, steps: int) -> noise_tables.Table:
    """Makes the sampler's table: LCM's for a distilled model, else DDIM's from the top.

    DDCM keeps the noise level at the last step, whose prediction is the result.
    """
    if backbone.distilled:
        return consistency.table(steps, alphas=backbone.alphas)
    spaced = ddim.table(steps, alphas=backbone.alphas)
    # As noisy at the start as in training, since the start is pure noise.
    top = len(backbone.alphas) - 1 - spaced.timestep[0]
    times = spaced.timestep + top
    alphas = backbone.alphas[times]
    return noise_tables.Table(times, alphas, np.append(alphas[1:], alphas[-1]))


def check(settings: Settings, backbone: Backbone | None = None) -> None:
    """Checks numbers and words before anything is compiled.

    Args:
      settings: of an edit.
      backbone: the model, whose sampler may have fewer steps; None if it is not known.

    Raises:
      UserError: for an impossible one.
    """
    lookup.check(Settings, settings._asdict(), what="The edit")
    if backbone is not None:
        try:
            table(backbone, settings.steps)
        except ValueError as error:
            raise UserError(f"The edit: {error} Choose other steps.") from error


def edit(
    backbone: Backbone,
    clean: jax.Array,
    branches: Branches,
    key: jax.Array,
    settings: Settings = DEFAULT,
    *,
    noise: jax.Array | None = None,
) -> Edited:
    """Edits one image's latents.

    Args:
      backbone: the model.
      clean: latents of the image ``[height, width, channels]``.
      branches: the edit.
      key: of the first noise and that of every step, which all rows share.
      settings: numbers of the edit.
      noise: in place of the key's, ``[steps + 1, height, width, channels]``, the first
        noise at index 0.

    Raises:
      UserError: for impossible settings.
    """
    check(settings, backbone)
    if noise is None:
        keys = jax.vmap(partial(jax.random.fold_in, key))(
            jnp.arange(settings.steps + 1)
        )
        noise = jax.vmap(lambda k: jax.random.normal(k, clean.shape))(keys)
    return _run(
        text_to_image.Static(backbone),
        settings,
        backbone.params,
        clean,
        branches,
        noise,
    )


def edit_batch(
    backbone: Backbone,
    clean: jax.Array,
    branches: Branches,
    keys: jax.Array,
    settings: Settings = DEFAULT,
) -> Edited:
    """Edits several images with as many branches each; ``edit`` under ``vmap``."""
    check(settings, backbone)
    static = text_to_image.Static(backbone)
    return _run_batch(static, settings, backbone.params, clean, branches, keys)


@partial(jax.jit, static_argnums=(0, 1))
def _run_batch(static, settings, params, clean, branches, keys):
    def one(clean, branches, key):
        numbers = jnp.arange(settings.steps + 1)
        drawn = jax.vmap(partial(jax.random.fold_in, key))(numbers)
        noise = jax.vmap(lambda k: jax.random.normal(k, clean.shape))(drawn)
        return _run(static, settings, params, clean, branches, noise)

    return jax.vmap(one)(clean, branches, keys)


@partial(jax.jit, static_argnums=(0, 1))
def _run(static, settings, params, clean, branches, noise):
    backbone = static.backbone
    height, width = clean.shape[:2]
    count = branches.kind.shape[0]
    resolution = (height // backbone.blend, width // backbone.blend)
    attend = control.branch_attention(
        resolution, cross_from=settings.cross_from, non_rigid=settings.kv_from
    )
    steps = table(backbone, settings.steps)
    context = _contexts(branches)
    scales = _scales(settings, count)

    def advance(carry, row):
        number, timestep, alpha, alpha_next, fresh = row
        share = (number + 1) / settings.steps
        state = control.BranchState(
            branches.kind,
            branches.mapper,
            branches.mapped,
            branches.matrix,
            branches.replace,
            early=share < settings.self_replace,
            cross=share <= settings.cross_replace,
        )
        latents = _rows(carry)
        both = jnp.concatenate([latents, latents])
        eps, aux = backbone.noise(params, both, timestep, context, attend, state)
        without, given = jnp.split(eps, 2)
        eps = without + scales * (given - without)
        maps = carry["maps"] + control.mean_maps(aux)
        chained = number >= int(np.ceil(settings.chain_start * settings.steps))
        moved = _ddcm(settings, carry, eps, clean, fresh, alpha, alpha_next, chained)
        blended, masks = _blend(settings, branches, moved, maps, alpha)
        late = number > 0
        moved["target"] = jnp.where(late, blended, moved["target"])
        return {**moved, "maps": maps, "masks": masks}, None

    tokens = branches.local.shape[-1]
    tiled = jnp.broadcast_to(noise[0], (count, *clean.shape))
    known = jnp.broadcast_to(clean, (count, *clean.shape))
    start = {
        "source": noise[0],
        "target": tiled,
        "mutual": tiled,
        "clean": known,
        "maps": jnp.zeros((count, len(control.MAPS), *resolution, tokens)),
        "masks": jnp.ones((count, height, width), bool),
    }
    rows = (jnp.arange(settings.steps), *map(jnp.asarray, steps), noise[1:])
    end, _ = jax.lax.scan(advance, start, rows)
    return Edited(end["clean"], end["masks"], end["maps"] / settings.steps)


def _contexts(branches: Branches) -> jax.Array:
    """Returns the hidden states of all rows, the unconditional half first."""
    count = branches.kind.shape[0]
    order = [0]
    for n in range(1, count + 1):
        order += [n, n - 1]  # the mutual row has the prompt of the base
    given = branches.contexts[jnp.array(order)]
    return jnp.concatenate(
        [jnp.broadcast_to(branches.unconditional, given.shape), given]
    )


def _scales(settings: Settings, count: int) -> jax.Array:
    scales = np.full(control.rows(count), settings.source_scale, np.float32)
    scales[1::2] = settings.scale
    return jnp.asarray(scales)[:, None, None, None]


def _rows(carry: dict[str, jax.Array]) -> jax.Array:
    pairs = jnp.stack([carry["target"], carry["mutual"]], axis=1)
    return jnp.concatenate(
        [carry["source"][None], pairs.reshape(-1, *carry["source"].shape)]
    )


def _ddcm(settings, carry, eps, clean, fresh, alpha, alpha_next, chained):
    """Moves every row one step; see section 4.4 of the paper."""
    latents = carry["target"]
    targets, mutuals = eps[1::2], eps[2::2]
    if settings.compat == "official":
        # Slips of the code: the references are [t_2 .. t_N, s] in place of
        # [s, t_1 .. t_{N-1}], and the prediction is always the source's.
        bases = jnp.concatenate([latents[1:], carry["source"][None]])
        cleans = jnp.concatenate([carry["clean"][1:], clean[None]])
        predictions = jnp.broadcast_to(eps[0], targets.shape)
    else:
        bases = jnp.concatenate([carry["source"][None], latents[:-1]])
        cleans = jnp.concatenate([clean[None], carry["clean"][:-1]])
        predictions = jnp.concatenate([eps[:1], targets[:-1]])

    def pick(own, source):
        return jnp.where(chained, own, jnp.broadcast_to(source, own.shape))

    bases, cleans = pick(bases, carry["source"]), pick(cleans, clean)
    predictions = pick(predictions, eps[0])
    step = partial(ddcm.step, eta=settings.eta)
    args = (jnp.broadcast_to(fresh, latents.shape), alpha, alpha_next)
    _, target, predicted = step(bases, latents, predictions, targets, cleans, *args)
    advanced, mutual, _ = step(
        bases, carry["mutual"], predictions, mutuals, cleans, *args
    )
    if settings.compat == "official":
        source = advanced[-1]
    else:
        first = (carry["mutual"][0], eps[0], mutuals[0], clean)
        source, _, _ = step(carry["source"], *first, fresh, alpha, alpha_next)
    return {
        "source": source,
        "target": target,
        "mutual": mutual,
        "clean": predicted,
    }


def _blend(settings, branches, moved, maps, alpha):
    """Keeps what no word of a branch attends to; returns the targets and the masks."""
    size = moved["target"].shape[1:3]
    threshold = jnp.maximum(
        settings.edit_threshold, settings.temperature / jnp.sqrt(alpha)
    )
    masks: list[jax.Array] = []
    blended, base = [], moved["source"]
    for n in range(len(maps)):
        local, mutual = branches.local[n], branches.mutual[n]
        removed = branches.removed[n]
        whole = jnp.sum(local) + jnp.sum(removed) == 0
        find = partial(control.word_mask, size=size, threshold=threshold)
        mask = whole | find(maps[n, control.MUTUAL_MAP], local)
        mask = mask | find(maps[n, control.SOURCE_MAP], removed)
        if settings.mask_accumulate and masks:
            mask = mask | masks[-1]
        kept = control.word_mask(
            maps[n, control.BASE_MAP],
            jnp.clip(mutual - local, 0, 1),
            size,
            settings.mutual_threshold,
        )
        target = moved["target"][n]
        out = jnp.where(mask[..., None], target, moved["mutual"][n])
        # Words that are both edited and kept are blended at the last step only, after
        # the result is read: they change nothing.
        blended.append(jnp.where(kept[..., None], base, out))
        masks.append(mask)
        base = target
    return jnp.stack(blended), jnp.stack(masks)
