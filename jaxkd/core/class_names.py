"""Class names: read from lists and files, and compared, since numbers tell nothing.

Two runs number their classes as each pleases. What one has learnt is used by the other
through the names that both give to them.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from jaxkd.core import console
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info

BY_NUMBER = (
    "classes are joined by their numbers, since their names are not known "
    "(config.data.class_names of npz files, --classes of from-torch)"
)


def read(classes: Sequence[str] | str) -> tuple[str, ...]:
    """Returns class names.

    Args:
      classes: the names in order, or the path of a text file with one a line.

    Raises:
      UserError: if the file cannot be read, or a name is empty or there twice.
    """
    where = "The class names"
    if isinstance(classes, str):
        path = Path(classes).expanduser()
        where = str(path)
        try:
            classes = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path} cannot be read: {error}. Expected a text file with one class "
                "name a line, or a list of names."
            ) from error
    names = tuple(str(name).strip() for name in classes)
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if not names or "" in names or twice:
        wrong = f"has {', '.join(twice[:3])} twice" if twice else "has an empty name"
        raise UserError(
            f"{where} {wrong if names else 'is empty'}. Expected each class once."
        )
    return names


def positions(
    expected: Sequence[str], present: Sequence[str], whose: str
) -> tuple[int, ...]:
    """Returns where the classes ``expected`` are among those ``present``.

    Args:
      expected: class names, each of which has to be present.
      present: class names of a network, in the order of its outputs.
      whose: whose they are, for the error message.

    Returns:
      A position for each expected class; empty where both are the same.

    Raises:
      UserError: naming the classes that are missing, or there twice.
    """
    expected, present = tuple(expected), tuple(present)
    if expected == present:
        return ()
    counts = Counter(present)
    missing = [name for name in expected if name not in counts]
    if missing:
        raise UserError(
            f"{whose} does not know {len(missing)} of {len(expected)} classes: "
            f"{_shown(missing)}. It knows {_shown(present)}. Classes are joined by "
            "their names: give the data the names that it was trained with "
            "(config.data.classes of folders, config.data.class_names of npz files), "
            "or another network."
        )
    for counted, owner in ((Counter(expected), "The data"), (counts, whose)):
        twice = [name for name in dict.fromkeys(expected) if counted[name] > 1]
        if twice:
            raise UserError(
                f"{owner} has several classes called {_shown(twice)}, which cannot be "
                "told apart. Give each its own name."
            )
    places = {name: place for place, name in enumerate(present)}
    return tuple(places[name] for name in expected)


def join(data: Info, trained: Info, whose: str) -> tuple[int, ...]:
    """Returns where the classes of data are among those of a trained network.

    They are joined by their names; where these are not known, by their numbers, which
    is announced, unless both descriptions are the same.

    Args:
      data: description of the data.
      trained: that of the data which the network was trained on.
      whose: as in ``positions``.

    Raises:
      UserError: as ``positions``; or if numbers have to do, and there are others.
    """
    if not by_number(data, trained):
        return positions(data.class_names, trained.class_names, whose)
    if data.num_classes != trained.num_classes:
        raise UserError(
            f"{whose} tells {trained.num_classes} classes apart"
            f"{'' if trained.class_names else ', whose names are not known'}, and the "
            f"data have {data.num_classes}"
            f"{', which have no names but numbers' if data.numbered else ''}. If these "
            "are among them, give their names: config.data.class_names of an npz file "
            "(of a network that knows but numbers, these); of a converted network "
            "--classes=NAMES.txt, a class name a line in the order of its outputs. If "
            "they are others, fine-tune it on the data first: a run of its own whose "
            "config.init_from is that folder."
        )
    if data != trained:
        console.announce(f"{data.name}: {whose}: {BY_NUMBER}")
    return ()


def by_number(data: Info, trained: Info) -> bool:
    """Tells whether classes can be joined by nothing but their numbers.

    Args:
      data: description of the data.
      trained: that of the data which a network was trained on.
    """
    if not (data.class_names and trained.class_names):
        return True
    return data.numbered and set(data.class_names) <= set(trained.class_names)


def _shown(names: Sequence[str]) -> str:
    rest = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + rest
