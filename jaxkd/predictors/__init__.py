"""Predictors: what a trained system makes of people's own files.

A file that defines ``predict(workdir, inputs, output, *, student, seed, use,
**options) -> str`` is a predictor. A method names the one that suits it in
``PREDICTOR``; those that do not are classified by ``jaxkd.predictors.classification``.
"""

import ast
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.training import choice
from jaxkd.training import workdir as workdirs

CLASSES = "classes"


def name_of(workdir: Path, student: str | None = None) -> str:
    """Returns the predictor of a run: its student's method names it.

    Args:
      workdir: folder of the run.
      student: row of its study; None where all are for one predictor.

    Raises:
      UserError: if there is no such run or student, or the students' predictors differ.
    """
    described = workdirs.read_results(workdir)["students"]
    if student is not None:
        config = workdirs.read_config(workdir)
        student, _ = choice.choose(config, workdir, student)
    names = list(described) if student is None else [student]
    found = {name: _predictor(described[name]["method"], workdir) for name in names}
    if len(set(found.values())) > 1:
        raise UserError(
            f"The students of {workdir} are for different predictors: {found}. Choose "
            "one with --student."
        )
    return next(iter(found.values()))


def _predictor(method: str, workdir: Path) -> str:
    method = method.partition("+")[0]
    if lookup.is_own_code(method):
        config = workdirs.read_config(workdir)  # which finds own code
        module = lookup.own_module(method, what=f"the method of {config.name}")
    else:
        module = importlib.import_module(f"jaxkd.methods.{method}")
    return getattr(module, "PREDICTOR", CLASSES)


def predict(
    name: str,
    workdir: Path,
    inputs: Sequence[str],
    output: str | None,
    options: Mapping[str, Any],
) -> str:
    """Lets the predictor ``name`` look at files and write what it finds.

    Args:
      name: of a file of this package.
      workdir: folder of a finished run.
      inputs: files and folders.
      output: folder to write into.
      options: of the predictor.

    Returns:
      A text for the terminal.

    Raises:
      UserError: if there is no such predictor or option, an input or the output is
        missing, or the predictor refuses.
    """
    module = lookup.module(__name__, name, "predict")
    if not inputs:
        raise UserError("--mode=predict needs --inputs, files or folders.")
    missing = [path for path in inputs if not Path(path).exists()]
    if missing:
        raise UserError(f"--inputs: {missing[0]} does not exist.")
    if output is None:
        raise UserError(f"--mode=predict with {name!r} needs --output, a folder.")
    fixed = {
        "workdir": workdir,
        "inputs": [Path(path) for path in inputs],
        "output": Path(output),
    }
    return lookup.call(module.predict, options, what=f"predictor {name!r}", **fixed)


def parse_options(given: Sequence[str]) -> dict[str, Any]:
    """Parses ``name=value``; values are Python literals, or text.

    Raises:
      UserError: if there is no ``=``.
    """
    options = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--option is {one!r}, expected name=value.")
        try:
            options[name] = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            options[name] = text
    return options
