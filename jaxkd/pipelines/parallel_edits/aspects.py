"""Aspects of an edit: spans of words that are swapped, added or deleted.

All positions are those of the source prompt, so that any selection of aspects can be
applied to it in any order.
"""

import difflib
import itertools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxkd.core.errors import UserError

SWAP, ADD, DELETE = "swap", "add", "delete"
# Numbers of PIE-Bench++.
EDIT_TYPES = {
    1: "object",
    2: "add",
    3: "delete",
    4: "content",
    5: "pose",
    6: "colour",
    7: "material",
    8: "background",
    9: "style",
}
_WHOLE_PICTURE = (8, 9)
NONE = -1


class Aspect(NamedTuple):
    """One edit.

    Attributes:
      action: ``SWAP``, ``ADD`` or ``DELETE``.
      position: first word of the source that it concerns; what is added stands before
        that word.
      old: words of the source, none where something is added.
      new: words of the target, none where something is deleted.
      edit_type: a key of ``EDIT_TYPES``, 0 if it is not known.
      whole: whether the whole picture is concerned, as by its background or style.
    """

    action: str
    position: int
    old: tuple[str, ...]
    new: tuple[str, ...]
    edit_type: int = 0
    whole: bool = False

    def __str__(self) -> str:
        """Describes it, such as ``red -> blue``."""
        left, right = " ".join(self.old) or "+", " ".join(self.new) or "-"
        return f"{left} -> {right}"


class Prompt(NamedTuple):
    """A prompt, and where its words are from.

    Attributes:
      words: of the prompt.
      aspect: for each word the number of the aspect that made it; ``NONE`` for words of
        the source.
      position: for each word its place in the source; ``NONE`` for words that an aspect
        made.
    """

    words: tuple[str, ...]
    aspect: tuple[int, ...]
    position: tuple[int, ...]

    @property
    def text(self) -> str:
        """The words, joined."""
        return " ".join(self.words)


def strip_marks(prompt: str) -> str:
    """Removes the square brackets with which PIE-Bench marks words."""
    return " ".join(prompt.replace("[", " ").replace("]", " ").split())


def between(source: str, target: str, whole: Iterable[str] = ()) -> list[Aspect]:
    """Derives aspects from two prompts, by aligning their words.

    Runs of equally many words are taken word by word: "red circle" to "blue square" is
    two aspects.

    Args:
      source: prompt of the given image.
      target: prompt of the image to make.
      whole: words that concern the whole picture, such as names of backgrounds.

    Raises:
      UserError: if the prompts do not differ, or the target has no words.
    """
    old, new = strip_marks(source).split(), strip_marks(target).split()
    if not new:
        raise UserError(
            f"The target prompt is {target!r}. Expected the prompt of the picture to "
            "make, or actions in its place."
        )
    wide = set(whole)
    found = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag == "replace" and b - a == d - c:
            found += [
                _swap(a + i, (old[a + i],), (new[c + i],), wide) for i in range(b - a)
            ]
        elif tag == "replace":
            found.append(_swap(a, tuple(old[a:b]), tuple(new[c:d]), wide))
        elif tag == "insert":
            found.append(Aspect(ADD, a, (), tuple(new[c:d])))
        elif tag == "delete":
            found.append(Aspect(DELETE, a, tuple(old[a:b]), ()))
    if not found:
        raise UserError(f"The prompts are the same: {source!r}. There is no edit.")
    return found


def from_actions(source: str, actions: Mapping[str, Mapping[str, Any]]) -> list[Aspect]:
    """Reads aspects in the format of PIE-Bench++.

    Entries that contradict the prompt are left out with a warning: the published file
    has a few. What is added beyond the last word is added after it.

    Args:
      source: prompt of the given image.
      actions: new words -> ``{"position": .., "edit_type": .., "action": ..}``, the
        action "+", "-" or the old words; for "-" the key is what is deleted.

    Raises:
      UserError: if an entry lacks one of these or is of another form, or none is left.
    """
    if not isinstance(actions, Mapping):
        raise UserError(
            f"The actions are {actions!r}; expected an object with an entry for each "
            "edit, as in PIE-Bench++."
        )
    words = strip_marks(source).split()
    found = []
    for name, entry in actions.items():
        aspect = _from_entry(name, entry, words)
        if aspect.position < 0:
            warnings.warn(
                f"{aspect} left out: there is no word {aspect.position} in {source!r}.",
                stacklevel=2,
            )
        elif tuple(words[aspect.position :][: len(aspect.old)]) != aspect.old:
            warnings.warn(
                f"{aspect} left out: word {aspect.position} of {source!r} is not "
                f"{' '.join(aspect.old)!r}.",
                stacklevel=2,
            )
        else:
            found.append(aspect)
    if not found:
        raise UserError(f"No action fits the prompt {source!r}: {dict(actions)}.")
    return sorted(found, key=lambda aspect: aspect.position)


def apply(source: str, aspects: Sequence[Aspect], chosen: Iterable[int]) -> Prompt:
    """Applies some of the aspects to the source's prompt.

    Args:
      source: the prompt.
      aspects: all of them.
      chosen: numbers of those to apply, in any order.

    Raises:
      UserError: if two of them concern the same word.
    """
    words = [(w, NONE, place) for place, w in enumerate(strip_marks(source).split())]
    picked = sorted(
        set(chosen), key=lambda i: (aspects[i].position, len(aspects[i].old))
    )
    for first, second in itertools.pairwise(picked):
        end = aspects[first].position + len(aspects[first].old)
        if end > aspects[second].position:
            raise UserError(
                f"The aspects {aspects[first]} and {aspects[second]} concern the same "
                "word of the source. Join them to one."
            )
    for i in reversed(picked):
        start, stop = aspects[i].position, aspects[i].position + len(aspects[i].old)
        words[start:stop] = [(word, i, NONE) for word in aspects[i].new]
    columns = zip(*words, strict=True) if words else ((), (), ())
    return Prompt(*(tuple(column) for column in columns))


def source_positions(aspect: Aspect) -> range:
    """Returns the words of the source that an aspect concerns."""
    return range(aspect.position, aspect.position + len(aspect.old))


def _swap(position: int, old: tuple, new: tuple, wide: set[str]) -> Aspect:
    whole = bool(wide & {*old, *new})
    return Aspect(SWAP, position, old, new, 8 if whole else 0, whole)


def _from_entry(name: str, entry: Mapping[str, Any], words: list[str]) -> Aspect:
    known = entry if isinstance(entry, Mapping) else {}
    missing = {"position", "action"} - set(known)
    if missing:
        raise UserError(
            f"The action for {name!r} lacks {', '.join(sorted(missing))}: {entry!r}. "
            "Expected position, edit_type and action."
        )
    try:
        position, kind = int(entry["position"]), int(entry.get("edit_type", 0))
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"The action for {name!r} is {entry!r}; expected whole numbers as position "
            "and edit_type."
        ) from error
    action = strip_marks(str(entry["action"]))
    new = tuple(strip_marks(str(name)).split())
    if not new or not action:
        raise UserError(
            f"The action for {name!r} is {entry['action']!r}; expected words, and for "
            "them '+', '-' or the words that they replace."
        )
    whole = kind in _WHOLE_PICTURE
    if action == "+":
        return Aspect(ADD, min(position, len(words)), (), new, kind, whole)
    if action == "-":
        return Aspect(DELETE, position, new, (), kind, whole)
    return Aspect(SWAP, position, tuple(action.split()), new, kind, whole)
