"""Tables of configuration keys and networks, read from the code at every build.

``{config-keys}`` tabulates ``jaxkd.core.config.default``: each key, its default,
and the comment beside or above its assignment. ``{option-tables} methods`` (or
``datasets``, ``views``, ``models``) tabulates the options of all that a room offers by
name: the keyword arguments of one function each. Nothing is pasted, so that the tables
cannot be older than the code.
"""

import ast
import importlib
import inspect
import io
import pkgutil
import textwrap
import tokenize
from collections.abc import Iterator
from typing import Any, NamedTuple

from docutils.statemachine import StringList
from ml_collections import ConfigDict
from sphinx.util.docutils import SphinxDirective

from jaxkd import models
from jaxkd.core import config as configs


class Key(NamedTuple):
    """One row: a dotted key, its default, and what the code's comment says of it."""

    name: str
    default: Any
    comment: str


class Block(NamedTuple):
    """Keys between two blank lines, and the comment above the first of them."""

    text: str
    keys: list[Key]


def blocks(function: Any = configs.default) -> list[Block]:
    """Reads the blocks of keys that a function assigns to ``config``.

    Args:
      function: assigns ``config.<key> = <default>`` and returns the ``ConfigDict``.

    Raises:
      ValueError: if a key of the result is missing from the tables, so that a change of
        how the function is written cannot lose it silently.
    """
    source = textwrap.dedent(inspect.getsource(function))
    config = function()
    lines = source.splitlines()
    comments = _comments(source)
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    found: list[Block] = []
    previous = 0
    for statement in body:
        targets = list(_assigned(statement))
        if not targets:
            continue
        first, above = statement.lineno, []
        while lines[first - 2].strip().startswith("#"):
            first -= 1
            above.insert(0, comments[first])
        blank = not lines[first - 2].strip() or not found
        if blank or first > previous + 1:
            found.append(Block(" ".join(above), []))
            above = []
        for name, node in targets:
            comment = _beside(node, comments) or " ".join(above)
            found[-1].keys.append(Key(name, _value(config, name), comment))
        previous = statement.end_lineno
    listed = {key.name for block in found for key in block.keys}
    lost = [name for name in _leaves(config) if not _is_listed(name, listed)]
    if lost:
        raise ValueError(f"no row for the configuration keys {', '.join(lost)}")
    return found


def _is_listed(name: str, listed: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:n]) in listed for n in range(1, len(parts) + 1))


def _comments(source: str) -> dict[int, str]:
    """Returns the comments of a function by line, without their marks."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _beside(node: ast.AST, comments: dict[int, str]) -> str:
    """Returns the comment on a node's lines: after it, or within its brackets."""
    lines = range(node.lineno, node.end_lineno + 1)  # type: ignore[attr-defined]
    return " ".join(comments[line] for line in lines if line in comments)


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """Lists the keys that a statement assigns, with those of a literal ConfigDict."""
    if not isinstance(statement, ast.Assign):
        return
    for target in statement.targets:
        name = ast.unparse(target)
        if not name.startswith("config."):
            continue
        name = name.removeprefix("config.")
        literal = _literal(statement.value)
        one_line = statement.lineno == statement.end_lineno
        if literal is None or not literal.keys or (one_line and name in _WHOLE):
            yield name, statement
            continue
        for key, value in zip(literal.keys, literal.values, strict=True):
            node = statement if one_line else value
            yield f"{name}.{ast.literal_eval(key)}", node  # type: ignore[arg-type]


# Dictionaries whose further keys belong to what they name.
_WHOLE = ("data", "model", "view")


def _literal(value: ast.expr) -> ast.Dict | None:
    arguments = value.args if isinstance(value, ast.Call) else []
    only = arguments[0] if len(arguments) == 1 else None
    return only if isinstance(only, ast.Dict) else None


def _value(config: ConfigDict, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = value[part]
    return value.to_dict() if isinstance(value, ConfigDict) else value


def _leaves(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def option_functions(room: str) -> dict[str, Any]:
    """Returns the functions whose keyword arguments are options, by name in a config.

    Args:
      room: ``"methods"``, ``"datasets"``, ``"views"`` or ``"models"``, whose networks
        are listed by their class, with all its names.
    """
    if room == "models":
        by_class: dict[Any, list[str]] = {}
        for name, (kind, _) in models.variants().items():
            by_class.setdefault(kind, []).append(name)
        return {", ".join(names): kind for kind, names in by_class.items()}
    package = importlib.import_module(f"jaxkd.{room}")
    if room == "views":
        named = {}
        for name, place in package.VIEWS.items():
            module, _, function = place.partition(":")
            named[name] = getattr(importlib.import_module(module), function)
        return named
    maker = {"methods": "make", "datasets": "load"}[room]
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        if info.name[0] != "_" and hasattr(module, maker):
            found[info.name] = getattr(module, maker)
    return found


# Arguments that the program fills in, or another key of the configuration.
_NO_OPTIONS = ("spec", "info", "num_classes", "parent", "name", "dtype")


def options(function: Any) -> list[tuple[str, Any]]:
    """Lists a function's options and their defaults."""
    return [
        (name, parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in _NO_OPTIONS and parameter.kind is not parameter.VAR_KEYWORD
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "required"
    # Functions and classes by name: their representation has an address.
    return f"`{getattr(value, '__name__', None) or repr(value)}`"


class ConfigKeys(SphinxDirective):
    """``{config-keys}``: the keys of every configuration, block by block."""

    def run(self) -> list[Any]:
        """Returns a paragraph and a table for each block."""
        text: list[str] = []
        for block in blocks():
            text += [block.text, "", "| key | default | |", "|---|---|---|"]
            text += [
                f"| `{key.name}` | {_default(key.default)} | {_cell(key.comment)} |"
                for key in block.keys
            ]
            text.append("")
        return self.parse_text_to_nodes(StringList(text, source="core/config.py"))


class OptionTables(SphinxDirective):
    """``{option-tables} room``: the options of all that a room offers by name."""

    required_arguments = 1

    def run(self) -> list[Any]:
        """Returns one table: name, first line of the docstring, options."""
        unset = "by name" if self.arguments[0] == "models" else "required"
        text = ["| name | | options and their defaults |", "|---|---|---|"]
        for name, function in sorted(option_functions(self.arguments[0]).items()):
            module = importlib.import_module(function.__module__)
            own = self.arguments[0] in ("views", "models")
            about = inspect.getdoc(function if own else module) or ""
            about = about.split("\n\n")[0]
            listed = ", ".join(
                f"`{option}` = {_default(value)}"
                if value is not inspect.Parameter.empty
                else f"`{option}` ({unset})"
                for option, value in options(function)
            )
            text.append(f"| `{name}` | {_cell(about)} | {_cell(listed)} |")
        return self.parse_text_to_nodes(StringList(text, source="options"))


class NetworkTable(SphinxDirective):
    """``{network-table}``: the names of ``jaxkd.models.build``, file by file."""

    def run(self) -> list[Any]:
        """Returns one table."""
        by_file: dict[str, list[str]] = {}
        for name, (module, _) in models.variants().items():
            by_file.setdefault(module.__module__, []).append(f"`{name}`")
        text = ["| file | names |", "|---|---|"]
        for file, names in sorted(by_file.items()):
            path = file.replace(".", "/")
            text.append(f"| `{path}` | {', '.join(names)} |")
        return self.parse_text_to_nodes(StringList(text, source="models"))


def setup(app) -> dict[str, bool]:
    """Adds the directives to Sphinx."""
    app.add_directive("config-keys", ConfigKeys)
    app.add_directive("option-tables", OptionTables)
    app.add_directive("network-table", NetworkTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
