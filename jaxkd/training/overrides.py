"""Overrides of a configuration: what stands on the command line as ``--config.key=``.

Every key of the configuration can be overridden, and every option of the method, the
data set, the view and the network that it chooses, whether its file lists them or not;
likewise those of a student and of a needed run:

    --config.optim.lr=0.05 --config.data.root=photos --config.seeds=1,2
    --config.students.kd.loss.temperature=2 --config.needs.teacher.duration=3

Where the data lie, and how a folder is divided, holds for needed runs of the same data
too: a teacher of other examples than its students is wanted by nobody who does not say
so.
"""

import ast
import contextlib
from collections.abc import Callable, Mapping, Sequence
from types import NoneType
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.overrides import Override
from jaxkd.training import options
from jaxkd.training.components import student_config

# Keys whose values decide which other keys there are.
_CHOOSING = ("pipeline", "method", "name")
# Options of a data set that say which examples there are, and on which side.
_SHARED = (
    *("root", "split", "test_share", "order", "hold_out", "drop_single"),
    *("train_table", "test_table"),
)
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "values such as 1,2",
    dict: "a dictionary such as {'a': 1}",
    NoneType: "none",
}


def apply(config: ConfigDict, overrides: Sequence[Override]) -> list[str]:
    """Changes a configuration in place.

    Names of methods, data sets, views and networks come first, since they decide which
    other keys there are. An option that the newly named one does not have is dropped.

    Args:
      config: of a run or a pipeline.
      overrides: see ``jaxkd.core.overrides``; of one key the last counts.

    Returns:
      What was dropped, or changed in needed runs too, a sentence each.

    Raises:
      UserError: for a key that does not exist, with those that do, or a value of
        another type.
    """
    latest = {one.key: one for one in overrides}.values()
    before = dict(config.get("data", {}))

    def late(one: Override) -> bool:
        return one.key.rpartition(".")[2] not in _CHOOSING

    dropped: list[str] = []
    for one in sorted(latest, key=late):
        dropped += _apply(config, one)
    given = {one.key for one in latest}
    return dropped + [
        note
        for key in _SHARED
        if f"data.{key}" in given
        for note in _share(config, key, before.get(key), given)
    ]


def _share(config: ConfigDict, key: str, before: Any, given: set[str]) -> list[str]:
    """Gives needed runs of the same data the run's new value of an option of theirs."""
    changed = []
    for path, need in _needed(config, "needs"):
        same = (need.data.get("name"), need.data.get(key)) == (
            config.data.get("name"),
            before,
        )
        if same and not need.init_from and f"{path}.data.{key}" not in given:
            with need.data.unlocked(), need.data.ignore_type():
                need.data[key] = config.data[key]
            changed.append(path)
    if not changed or config.data[key] == before:
        return []
    return [
        f"data.{key}={config.data[key]!r} holds for {', '.join(changed)} too, of the "
        f"same data; --config.{changed[0]}.data.{key} gives another."
    ]


def _needed(config: ConfigDict, path: str) -> list[tuple[str, ConfigDict]]:
    """Lists needed runs, also of needed runs, with their keys."""
    found = []
    for name, need in config.get("needs", {}).items():
        found += [(f"{path}.{name}", need), *_needed(need, f"{path}.{name}.needs")]
    return found


def choose_students(config: ConfigDict, chosen: str) -> list[str]:
    """Keeps the named rows of a study, in its order.

    Args:
      config: of a run; changed in place.
      chosen: names with commas between.

    Returns:
      What else changed, a sentence each.

    Raises:
      UserError: if there is no such student.
    """
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    rows = config.get("students", {})
    if not names or not rows:
        there = f"choose from {', '.join(rows)}" if rows else "but there are no rows"
        raise UserError(f"--students is {chosen!r}, {there}.")
    for name in names:
        lookup.choose(name, rows, what="--students: the student")
    with config.unlocked():
        config.students = configs.students(
            {name: row for name, row in rows.items() if name in names}
        )
    if not config.reference or config.reference in names:
        return []
    lost, config.reference = config.reference, ""
    return [f"--students leaves out the reference {lost!r}: no differences from it."]


def add_student(config: ConfigDict, added: str) -> None:
    """Adds a row to a study: ``name``, or ``name:of`` to begin as a copy of another.

    Raises:
      UserError: if there is such a student already, or none to copy.
    """
    name, colon, source = added.partition(":")
    if "students" not in config or not name or name in config.students:
        raise UserError(
            f"--students+={added}: expected the name of a new student, or name:of for "
            f"a copy. There are: {', '.join(config.get('students', {})) or 'none'}."
        )
    row = ConfigDict()
    if colon:
        row = lookup.choose(source, config.students, what=f"--students+={added}: of")
        row = row.copy_and_resolve_references()
    with config.unlocked():
        config.students = configs.students({**config.students, name: row})


def _apply(config: ConfigDict, override: Override) -> list[str]:
    place = _find(config, override.key.split("."), override.key)
    before = place.section.get(place.key)
    value = convert(override.text, place.types, f"--config.{override.key}")
    with contextlib.ExitStack() as stack:
        for one in (place.section.unlocked, place.section.ignore_type):
            stack.enter_context(one())
        place.section[place.key] = value
    if place.key not in ("method", "name") or value == before or not place.renamed:
        return []
    return place.renamed(value)


class _Place(NamedTuple):
    """Where a value belongs; ``renamed`` drops what another name does not have."""

    section: ConfigDict
    key: str
    types: frozenset[type]
    renamed: Callable[[str], list[str]] | None = None


def _find(config: ConfigDict, path: list[str], whole: str) -> _Place:
    """Finds the place of a key in a run's or a pipeline's configuration."""
    first, rest = path[0], path[1:]
    _choose(first, config, whole, path)
    if first == "needs" and rest:
        _choose(rest[0], config.needs, whole, rest)
        if len(rest) > 1:
            return _find(config.needs[rest[0]], rest[1:], whole)
    elif first == "students" and rest:
        _choose(rest[0], config.students, whole, rest)
        if len(rest) > 1:
            return _find_student(config, rest[0], rest[1:], whole)
    elif "pipeline" not in config and first in ("loss", "model", "data", "view"):
        if rest:
            return _find_option(config[first], first, config, rest, whole)
    elif first == "optimizers" and len(rest) == 2 and "optim" in config:
        return _find_optimizer(config.optimizers, config, rest, whole)
    if first == "method" and "pipeline" not in config:
        return _Place(config, first, frozenset({str}), _dropper(config.loss, "loss"))
    return _find_plain(config, path, whole)


def _find_student(config: ConfigDict, name: str, path: list[str], whole: str) -> _Place:
    """Finds the place of a student's key among its overrides, made if need be."""
    row, merged = config.students[name], student_config(config, name)
    first, rest = path[0], path[1:]
    lookup.choose(
        first, dict.fromkeys(configs.STUDENT_KEYS), what=f"--config.{whole}: the key"
    )
    if not rest:
        renamed = _dropper(row.get("loss"), "loss") if first == "method" else None
        return _Place(row, first, options.types_of(merged[first]), renamed)
    if first not in ("loss", "model", "optim", "optimizers"):
        raise UserError(f"--config.{whole}: {first} has no keys of its own.")
    section = row.get(first)
    if section is None:
        # A student's own network starts from nothing: what the run's has is repeated.
        section = merged.model.copy_and_resolve_references()
        section = section if first == "model" else ConfigDict()
    if first == "optim":
        place = _find_plain(merged.optim, rest, whole)
    elif first == "optimizers":
        place = _find_optimizer(section, merged, rest, whole)
    else:
        place = _find_option(section, first, merged, rest, whole)
    with row.unlocked():
        row[first] = section
    return place._replace(section=section) if first == "optim" else place


def _find_option(
    section: ConfigDict, which: str, config: ConfigDict, path: list[str], whole: str
) -> _Place:
    """Finds the place of an option of a method, data set, view or network.

    Args:
      section: that holds the options.
      which: "loss", "model", "data" or "view".
      config: whose method, or name in ``config[which]``, has the options.
      path: of the option, within the section.
      whole: the key.
    """
    chosen = config.method if which == "loss" else str(config[which].get("name", ""))
    known: dict[str, Any] = dict(_ROOMS[which](chosen))
    if which != "loss":
        known = {"name": options.Option("", frozenset({str})), **known}
    first, *rest = path
    _choose(first, known, whole, path)
    if not rest:
        named = which != "loss" and first == "name"
        renamed = _dropper(section, which) if named else None
        return _Place(section, first, known[first].types, renamed)
    if not isinstance(section.get(first), ConfigDict):
        default = known[first].default
        with section.unlocked():
            section[first] = ConfigDict(default if isinstance(default, Mapping) else {})
    # What a dictionary may hold is known to the option that takes it.
    for step in path[:-1]:
        section = section[step]
    return _Place(section, path[-1], options.types_of(section.get(path[-1])))


_ROOMS: dict[str, Callable[[str], dict[str, options.Option]]] = {
    "loss": options.of_method,
    "data": options.of_data,
    "view": options.of_view,
    "model": options.of_model,
}


def _dropper(section: ConfigDict | None, which: str) -> Callable[[str], list[str]]:
    """Returns what drops, from a section, keys that another choice does not have."""

    def drop(choice: str) -> list[str]:
        if section is None:
            return []
        lost = sorted(set(section) - {"name", *_ROOMS[which](choice)})
        with section.unlocked():
            for key in lost:
                del section[key]
        text = f"{choice} has no {', '.join(lost)}: left out of its {which}."
        return [text] if lost else []

    return drop


def _find_optimizer(
    section: ConfigDict, config: ConfigDict, path: list[str], whole: str
) -> _Place:
    """Finds the place of ``optimizers.<label>.<key>``: a key of ``optim``."""
    if len(path) != 2:
        raise UserError(f"--config.{whole}: expected optimizers.<label>.<key>.")
    place = _find_plain(config.optim, path[1:], whole)
    if path[0] not in section:
        with section.unlocked():
            section[path[0]] = ConfigDict()
    return place._replace(section=section[path[0]])


def _find_plain(config: ConfigDict, path: list[str], whole: str) -> _Place:
    """Finds the place of a key that is there."""
    for depth, name in enumerate(path):
        _choose(name, config, whole, path[depth:])
        if depth == len(path) - 1:
            return _Place(config, name, options.types_of(config[name]))
        if not isinstance(config[name], ConfigDict):
            raise UserError(f"--config.{whole}: {name} has no keys of its own.")
        config = config[name]
    raise AssertionError("a path is never empty")


def _choose(name: str, known: Any, whole: str, left: list[str]) -> None:
    """Checks a part of a key; mistakes name those that there are."""
    at = ".".join(["config", *whole.split(".")][: -len(left)])
    if not len(known):
        raise UserError(f"--config.{whole}: {at} has no keys.")
    lookup.choose(name, dict.fromkeys(known), what=f"--config.{whole}: the key of {at}")


def convert(text: str, types: frozenset[type], what: str) -> Any:
    """Converts text to a value of one of several types.

    Args:
      text: as it was given.
      types: see ``options.Option``.
      what: names the value in the error message.

    Raises:
      UserError: if it is of none of them.
    """
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = None if text.lower() in ("none", "null") else text
    if not types:
        return ConfigDict(value) if isinstance(value, dict) else value
    for fits, converted in _conversions(text, value, types):
        if fits:
            return converted
    kinds = " or ".join(kind for one, kind in _KINDS.items() if one in types)
    raise UserError(f"{what} is {text!r}, expected {kinds}.")


def _conversions(text: str, value: Any, types: frozenset[type]):
    """Yields whether the text is of a type, and its value, the narrowest type first."""
    truth = _WORDS.get(text.lower())
    number = isinstance(value, int | float) and not isinstance(value, bool)
    yield value is None and NoneType in types, None
    yield truth is not None and bool in types, truth
    yield int in types and number and isinstance(value, int), value
    yield float in types and number, float(value) if number else None
    yield dict in types and isinstance(value, dict), value
    several = isinstance(value, list | tuple)
    yield tuple in types and several, tuple(value) if several else None
    yield str in types, text
    parts = tuple(text.split(",")) if isinstance(value, str) else (value,)
    yield tuple in types, parts
