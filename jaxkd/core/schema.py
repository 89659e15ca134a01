"""Checks JSON that the library reads back against the shape that it wrote.

A schema is plain data: a type, or a tuple of them; ``[schema]`` for a list; a
dictionary for an object, whose keys must be there unless they end with ``?``, and where
the key ``...`` stands for all others. Keys that it does not name are allowed.
"""

from typing import Any

NUMBER = (int, float)
NULL = type(None)


def check(tree: Any, schema: Any, where: str) -> None:
    """Checks a tree of JSON types.

    Args:
      tree: the content.
      schema: as described above.
      where: what the tree is called in the error.

    Raises:
      ValueError: naming the first place that differs, what is there and what is
        expected.
    """
    if isinstance(schema, list):
        _expect(tree, list, where)
        for number, item in enumerate(tree):
            check(item, schema[0], f"{where}[{number}]")
    elif isinstance(schema, dict):
        _expect(tree, dict, where)
        for key, inner in schema.items():
            if key is ...:
                continue
            name = key.removesuffix("?")
            if name in tree:
                check(tree[name], inner, f"{where}.{name}")
            elif name == key:
                raise ValueError(f"{where} lacks {name!r}")
        named = {key.removesuffix("?") for key in schema if key is not ...}
        if ... in schema:
            for key in tree.keys() - named:
                check(tree[key], schema[...], f"{where}.{key}")
    else:
        _expect(tree, schema, where)


def _expect(value: Any, types: Any, where: str) -> None:
    kinds = types if isinstance(types, tuple) else (types,)
    # To Python a truth value is a number, to JSON it is none.
    wrong_bool = isinstance(value, bool) and bool not in kinds
    if wrong_bool or not isinstance(value, kinds):
        names = " or ".join(_NAMES[kind] for kind in kinds)
        shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:37] + "..."
        raise ValueError(f"{where} is {shown}, expected {names}")


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    NULL: "null",
}
