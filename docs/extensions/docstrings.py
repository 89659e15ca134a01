"""Reads three habits of plain docstrings as reStructuredText.

Docstrings are written to be read in an editor. An indented example after a line that
ends with a colon becomes a literal block, a Markdown table becomes a table, and the
star of a pattern such as configs/*.py is no emphasis.
"""

import re


def literal_blocks(lines: list[str]) -> list[str]:
    """Doubles the colon before a blank line and an indented block."""
    out = list(lines)
    for index in range(len(lines) - 2):
        line, blank, block = lines[index : index + 3]
        if not line.rstrip().endswith(":") or line.rstrip().endswith("::"):
            continue
        if blank.strip() or not block.strip():
            continue
        if _indent(block) > _indent(line):
            out[index] = line.rstrip() + ":"
    return out


def tables(lines: list[str]) -> list[str]:
    """Turns Markdown tables into list tables."""
    out: list[str] = []
    index = 0
    while index < len(lines):
        rule = lines[index + 1].strip() if index + 1 < len(lines) else ""
        if not lines[index].lstrip().startswith("|") or not re.fullmatch(
            r"\|([ :]*-+[ :]*\|)+", rule
        ):
            out.append(lines[index])
            index += 1
            continue
        end = index
        while end < len(lines) and lines[end].lstrip().startswith("|"):
            end += 1
        space = " " * _indent(lines[index])
        rows = [lines[index], *lines[index + 2 : end]]
        out += ["", f"{space}.. list-table::", f"{space}   :header-rows: 1", ""]
        for row in rows:
            cells = row.strip().strip("|").split("|")
            for place, cell in enumerate(cells):
                mark = "-" if place else "* -"
                out.append(f"{space}   {mark:>3} {cell.strip()}")
        out.append("")
        index = end
    return out


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def process(app, what, name, obj, options, lines: list[str]) -> None:
    """Rewrites the lines of one docstring in place."""
    del app, what, name, obj, options
    lines[:] = [
        re.sub(r"(?<=/)\*(?=\.)", r"\\*", line)
        for line in tables(literal_blocks(lines))
    ]


def setup(app) -> dict[str, bool]:
    """Goes before napoleon, which turns sections into field lists."""
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
