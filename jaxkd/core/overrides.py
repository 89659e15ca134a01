"""Takes ``--config.key=value`` out of a command line; nothing is interpreted here."""

from collections.abc import Sequence
from typing import NamedTuple


class Override(NamedTuple):
    """A key, with dots, and the text that it is set to."""

    key: str
    text: str


def split(arguments: Sequence[str]) -> tuple[list[str], list[Override]]:
    """Takes the overrides out of a command line.

    ``--config.a=1``, ``--config.a 1``, and of switches ``--config.a`` and
    ``--noconfig.a`` are understood.

    Returns:
      The other arguments, and the overrides in their order.
    """
    rest: list[str] = []
    found: list[Override] = []
    given = list(arguments)
    while given:
        argument = given.pop(0)
        flag, equals, text = argument.partition("=")
        name = flag.removeprefix("-").removeprefix("-")
        if argument == "--":
            return [*rest, argument, *given], found
        if not flag.startswith("-") or not name.startswith(("config.", "noconfig.")):
            rest.append(argument)
        elif name.startswith("no"):
            found.append(Override(name.removeprefix("noconfig."), "false"))
        else:
            if not equals:
                alone = not given or given[0].startswith("--")
                text = "true" if alone else given.pop(0)
            found.append(Override(name.removeprefix("config."), text))
    return rest, found
