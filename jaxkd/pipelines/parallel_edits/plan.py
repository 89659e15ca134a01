"""From two prompts to the branches of an edit: attention pass, grouping, prompts."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import SHARE
from jaxkd.diffusion import attention_control as control
from jaxkd.pipelines.parallel_edits import aligner, aspects, edit, grouping
from jaxkd.pipelines.parallel_edits.aspects import Aspect, Prompt
from jaxkd.pipelines.parallel_edits.edit import Branches, Settings
from jaxkd.pipelines.parallel_edits.grouping import Group
from jaxkd.pipelines.text_to_image import Backbone

# The pass that only looks at the attention, as in the official demonstration.
ATTENTION = Settings(steps=5, scale=3.0, chain_start=1.0)
# Word maps are compared at this multiple of their resolution.
_ENLARGE = 16


class Grouping(NamedTuple):
    """Numbers of the grouping.

    Attributes:
      theta: least overlap of the words of a rigid edit, and of aspects in one group.
      beta: least share of the pixels of a global edit.
      union: whether overlap is over the union (the paper) or the smaller map (the
        code).
      merge_any: whether any overlap joins two aspects, as in the official code.
      rigid_first: whether rigid groups come first.
      types: whether aspects have types; else all are non-rigid (ablation).
      groups: whether aspects are clustered; else each type is one branch (ablation).
    """

    theta: Annotated[float, SHARE] = 0.9
    beta: Annotated[float, SHARE] = 0.8
    union: bool = False
    merge_any: bool = False
    rigid_first: bool = True
    types: bool = True
    groups: bool = True


DEFAULT = Grouping()


def check(options: Grouping) -> None:
    """Checks the numbers of a grouping.

    Raises:
      UserError: for an impossible one.
    """
    lookup.check(Grouping, options._asdict(), what="The grouping")


def check_words(source: str, target: str) -> None:
    """Checks that there is attention to measure in either prompt.

    Raises:
      UserError: for a prompt without words.
    """
    for name, prompt in (("given picture", source), ("picture to make", target)):
        if not prompt.split():
            raise UserError(
                f"The prompt of the {name} has no words: {prompt!r}. Describe it in a "
                "few, since edits are found by where words are attended to."
            )


class Plan(NamedTuple):
    """The branches of an edit, for people and for ``edit``.

    Attributes:
      prompts: of the source and of each branch.
      groups: of aspects, one for each branch.
      branches: the arrays.
    """

    prompts: tuple[Prompt, ...]
    groups: tuple[Group, ...]
    branches: Branches


def make(
    backbone: Backbone,
    clean: jax.Array,
    source: str,
    edits: Sequence[Aspect],
    key: jax.Array,
    options: Grouping = DEFAULT,
    *,
    compat: str = "",
) -> Plan:
    """Groups the aspects of an edit by their attention and makes its branches.

    Args:
      backbone: the model.
      clean: latents of the image ``[height, width, channels]``.
      source: prompt of the image.
      edits: aspects; see ``aspects.between`` and ``aspects.from_actions``.
      key: of the noise of the attention pass.
      options: numbers of the grouping.
      compat: "official" for the published code's exchanged indices in the aligner and
        for its grouping of all that overlaps.

    Raises:
      UserError: if a prompt is too long or has no words, or two aspects concern the
        same word.
    """
    check(options)
    whole = range(len(edits))
    target = aspects.apply(source, edits, whole)
    maps = word_maps(backbone, clean, source, target.text, key)
    pairs = [_maps_of(i, aspect, target, maps) for i, aspect in enumerate(edits)]
    official = compat == "official"
    if options.types:
        kinds = [
            grouping.kind_of(
                aspect,
                *pair,
                theta=options.theta,
                beta=options.beta,
                union=options.union,
            )
            for aspect, pair in zip(edits, pairs, strict=True)
        ]
    else:
        kinds = [control.NON_RIGID] * len(edits)
    groups = grouping.group(
        kinds,
        [_either(pair) for pair in pairs],
        # Every overlap is at least zero: one group for each type.
        theta=options.theta if options.groups else 0.0,
        merge_any=options.groups and (options.merge_any or official),
        rigid_first=options.rigid_first,
        union=options.union,
    )
    return of_groups(backbone, source, edits, groups, compat=compat)


def of_groups(
    backbone: Backbone,
    source: str,
    edits: Sequence[Aspect],
    groups: Sequence[Group],
    *,
    compat: str = "",
    mutual: str = "",
) -> Plan:
    """Makes the branches of given groups; each prompt includes the edits before it.

    Args:
      backbone: the model.
      source: prompt of the image.
      edits: all aspects.
      groups: of their numbers, in the order of the branches.
      compat: see ``make``.
      mutual: words whose place is kept from the base.

    Raises:
      UserError: for impossible groups, a prompt that is too long, or a word that is
        not in it.
    """
    if not groups:
        raise UserError("There are no aspects to edit. Give a prompt that differs.")
    prompts = [aspects.apply(source, edits, ())]
    done: list[int] = []
    for one in groups:
        done += one.aspects
        prompts.append(aspects.apply(source, edits, done))
    texts = [prompt.text for prompt in prompts]
    ids = backbone.tokenizer.encode([*texts, ""])
    hidden = backbone.encode_text(backbone.params, jnp.asarray(ids))
    columns = [
        _branch(backbone, prompts, ids, hidden, n, one, edits, compat, mutual)
        for n, one in enumerate(groups)
    ]
    stacked = {name: np.stack([c[name] for c in columns]) for name in columns[0]}
    branches = Branches(
        contexts=hidden[:-1],
        unconditional=hidden[-1],
        **{name: jnp.asarray(value) for name, value in stacked.items()},
    )
    return Plan(tuple(prompts), tuple(groups), branches)


def word_maps(
    backbone: Backbone,
    clean: jax.Array,
    source: str,
    target: str,
    key: jax.Array,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns where each word of either prompt is attended to, in an uncontrolled pass.

    Pieces of a word are averaged; each map is scaled to 0..255 by its own maximum and
    enlarged.

    Returns:
      ``[words, height, width]`` of the source and of the target.

    Raises:
      UserError: for a prompt without words, or one that is too long.
    """
    check_words(source, target)
    ids = backbone.tokenizer.encode([source, source, target, ""])
    hidden = backbone.encode_text(backbone.params, jnp.asarray(ids))
    length = ids.shape[1]
    free = Branches(
        contexts=hidden[:-1],
        unconditional=hidden[-1],
        kind=jnp.full(2, control.GLOBAL),
        mapper=jnp.zeros((2, length), jnp.int32),
        mapped=jnp.zeros((2, length)),
        matrix=jnp.zeros((2, length, length)),
        replace=jnp.zeros(2, bool),
        local=jnp.zeros((2, length)),
        removed=jnp.zeros((2, length)),
        mutual=jnp.zeros((2, length)),
    )
    found = edit.edit(backbone, clean, free, key, ATTENTION).maps[:, control.OWN_MAP]
    first, second = (
        _by_word(np.asarray(one), backbone.tokenizer.words(text))
        for one, text in zip(found, (source, target), strict=True)
    )
    return first, second


def pad(plan: Plan, sizes: Sequence[int] = (1, 2, 3, 5)) -> Branches:
    """Repeats the last prompt in idle branches, up to the next of a few sizes.

    Fewer programs are compiled then. The result of the edit is that of branch
    ``len(plan.groups)``.

    Raises:
      UserError: for more branches than the largest size.
    """
    count = len(plan.groups)
    size = next((size for size in sizes if size >= count), None)
    if size is None:
        raise UserError(f"{count} branches; expected at most {max(sizes)}.")
    rows = np.minimum(np.arange(size + 1), count)
    branches = plan.branches
    padded = jax.tree.map(
        lambda x: x[rows[1:] - 1], branches._replace(unconditional=branches.kind)
    )
    idle = jnp.arange(size) >= count
    return padded._replace(
        contexts=branches.contexts[rows],
        unconditional=branches.unconditional,
        kind=jnp.where(idle, control.GLOBAL, padded.kind),
    )


def _branch(backbone, prompts, ids, hidden, n, one, edits, compat, mutual):
    """Returns the arrays of branch n, which edits prompt n into prompt n + 1."""
    base, target = prompts[n], prompts[n + 1]
    words = [backbone.tokenizer.words(prompt.text) for prompt in (base, target)]
    mapper, mapped, paired = aligner.refinement(
        ids[n],
        ids[n + 1],
        similarity=aligner.cosine(hidden[n + 1], hidden[n]),
        swapped=compat == "official",
    )
    changed = [i for i, aspect in enumerate(target.aspect) if aspect in one.aspects]
    gone = [i for i in one.aspects if edits[i].action == aspects.DELETE]
    removed = _words_at(base, edits, gone)
    local = aligner.select(words[1], changed)
    old = aligner.select(words[0], _words_at(base, edits, one.aspects))
    # An inserted token that stands for an edited word of the base is edited too.
    local = np.maximum(local, paired * old[mapper])
    length = ids.shape[1]
    same = len(base.words) == len(target.words)
    rigid = one.kind == control.RIGID and same
    matrix = np.eye(length, dtype=np.float32)
    if rigid:
        matrix = aligner.replacement(words[0], words[1], changed)
    whole = one.kind == control.GLOBAL
    kept = aligner.find_words(target.text, mutual) if mutual else []
    return {
        "kind": np.int32(one.kind),
        "mapper": mapper,
        "mapped": mapped,
        "matrix": matrix,
        "replace": np.bool_(rigid),
        "local": 0 * local if whole else local,
        "removed": aligner.select(words[0], [] if whole else removed),
        "mutual": aligner.select(words[1], kept),
    }


def _words_at(
    base: Prompt, edits: Sequence[Aspect], chosen: Sequence[int]
) -> list[int]:
    """Returns the words of a prompt that aspects yet to come concern."""
    concerned = {p for i in chosen for p in aspects.source_positions(edits[i])}
    return [i for i, position in enumerate(base.position) if position in concerned]


def _by_word(maps: np.ndarray, words: np.ndarray) -> np.ndarray:
    height, width, _ = maps.shape
    enlarge = partial(
        jax.image.resize, shape=(height * _ENLARGE, width * _ENLARGE), method="linear"
    )
    means = [maps[..., words == word].mean(-1) for word in range(words.max() + 1)]
    return np.stack([grouping.scale_map(np.asarray(enlarge(m))) for m in means])


def _maps_of(
    number: int, aspect: Aspect, target: Prompt, maps: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    new = [i for i, made_by in enumerate(target.aspect) if made_by == number]
    sides = (list(aspects.source_positions(aspect)), new)
    old_map, new_map = (
        grouping.scale_map(one[places].mean(0)) if places else None
        for one, places in zip(maps, sides, strict=True)
    )
    return old_map, new_map


def _either(pair: tuple[np.ndarray | None, np.ndarray | None]) -> np.ndarray:
    first, second = pair
    found = second if second is not None else first
    if found is None:
        raise UserError("An aspect has neither old nor new words.")
    return found
