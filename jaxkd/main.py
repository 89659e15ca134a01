"""Train, evaluate, use and export the systems of jaxkd.

Train what a configuration describes (needed teachers first), and write a report:

    jaxkd --config=rld
    jaxkd --config=configs/rld.py --config.seeds='(1,2)' --workdir=/tmp/a

``jaxkd`` is short for ``python -m jaxkd.main``, and ``--config=rld:digits`` for the
shipped ``configs/rld.py:digits``. The same command again resumes an interrupted run, or
shows a finished one. Afterwards:

    jaxkd --mode=eval --workdir=runs/rld
    jaxkd --mode=predict --workdir=runs/rld --student=rld --inputs=photos/
    jaxkd --mode=predict --workdir=runs/defi --inputs=photos/ --output=found/
    jaxkd --mode=export --workdir=runs/rld --student=rld --format=onnx \\
        --output=student.onnx

A study of several students has to be told which one; --seed and --use have defaults,
which are printed.

Compare finished runs on one page: their tables, curves and configurations.

    jaxkd --mode=compare --inputs runs/a runs/b --output=compare.html

A run that is sent SIGTERM, or Ctrl-C, saves and ends with exit status 75; the same
command resumes it. Mistakes on the command line or in the configuration end with 2.

What the training step would take on a TPU (pip install -e '.[tpu_aot]'):

    jaxkd --mode=compile --topology=v5e:2x4 --config=...

configs/*.py say on top what they train, their variants (configs/rld.py:wrong_teacher)
and how long it takes. Any key can be overridden, and every option of what the
configuration chooses: --config.batch_size=64, --config.students.kd.loss.temperature=2.
--students=kd,rld trains these rows alone; --students+=kd2:kd adds a copy of one.
"""

import glob
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import ConfigDict

from jaxkd import __version__
from jaxkd.core import command_line as cli
from jaxkd.core import config_file
from jaxkd.core.errors import INTERRUPTED, Interrupted, UserError


def main(argv: list[str]) -> None:
    """Dispatches to a mode; mistakes of the user end with a message and status 2."""
    if len(argv) > 1:
        _exit(f"unexpected argument {argv[1]!r}. See --help.")
    # Orbax tells of every file it writes and, when one fails, of every part of it.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    from jaxkd.core import compile_cache, console, disk, namesake

    disk.quiet_threads()
    if message := namesake.warning():
        print(f"jaxkd: {message}", file=sys.stderr)
    compile_cache.enable()
    console.set_quiet(cli.QUIET.value)
    try:
        _run()
    except UserError as error:
        _exit(str(error), last=disk.os_error(error) is not None)
    except Interrupted as error:
        _exit(str(error), INTERRUPTED)
    except BrokenPipeError:
        # As ``| head`` ends: nobody reads the rest, and closing must not try again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if code := disk.os_error(error):
            place = getattr(error, "filename", None) or cli.WORKDIR.value or "the disk"
            _exit(disk.refused(place, code), last=True)
        if not cli.DISTRIBUTED.value:
            raise
        traceback.print_exc()
        _exit(
            "this process cannot go on; if the error above is of a connection, another "
            "one has died. All end; the same command resumes them.",
            code=1,
        )


def _run() -> None:
    if cli.DISTRIBUTED.value:
        from jaxkd.core import distributed

        distributed.start(
            cli.COORDINATOR.value, cli.NUM_PROCESSES.value, cli.PROCESS_ID.value
        )
    if cli.MODE.value == "train":
        _train()
    elif cli.MODE.value == "sample":
        _sample()
    elif cli.MODE.value == "compile":
        _compile()
    elif cli.MODE.value == "export":
        _export()
    elif cli.MODE.value == "compare":
        from jaxkd.report import compare

        print(compare.write_comparison(_inputs(), cli.OUTPUT.value or "compare.html"))
    elif cli.MODE.value == "eval":
        from jaxkd.evaluate import evaluate_run

        print(evaluate_run(_given_workdir(), _load_config(), cli.USE.value))
    else:
        _predict()


def _train() -> None:
    config = _given_config()
    source = config_file.locate(cli.CONFIG.value or "")
    workdir = Path(cli.WORKDIR.value or Path("runs") / config_file.stem(source))
    import jax

    from jaxkd.core import preemption
    from jaxkd.training import workdir_lock

    if cli.BREAK_LOCK.value:
        workdir_lock.break_locks()
    if not cli.QUIET.value:
        begins = f"jaxkd {__version__}: {source} -> {workdir}"
        print(begins, file=sys.stderr, flush=True)
    run, format_table = _system(config)
    with preemption.catch_signals() as stop_requested:
        results = run(config, workdir, stop_requested)
    if jax.process_index() == 0:
        print(format_table(results))
        if (report := workdir / "report.html").is_file():
            print(f"Report: {report}")


def _system(config: ConfigDict) -> tuple[Callable[..., Any], Callable[..., str]]:
    """Returns what runs a configuration, and what shows its results."""
    if "pipeline" in config:
        from jaxkd import pipelines

        return pipelines.run, pipelines.format_table
    from jaxkd.core import distributed
    from jaxkd.report import study_table
    from jaxkd.train import train

    if not cli.DISTRIBUTED.value:
        distributed.split_cpu(*_sizes(config))
    return train, study_table.format_table


def _predict() -> None:
    from jaxkd import predictors

    workdir, inputs, output = _given_workdir(), _inputs(), cli.OUTPUT.value
    chosen: dict[str, Any]
    chosen = {
        "student": cli.STUDENT.value,
        "seed": cli.SEED.value,
        "use": cli.USE.value,
    }
    options = predictors.parse_options(cli.OPTIONS.value)
    name = cli.PREDICTOR.value or predictors.name_of(workdir, cli.STUDENT.value)
    if name != predictors.CLASSES:
        print(predictors.predict(name, workdir, inputs, output, chosen | options))
        return
    if options:
        raise UserError("--option is for predictors other than the one of classes.")
    from jaxkd.predictors.classification import predict_files

    predict_files(workdir, inputs, output, topk=cli.TOPK.value, **chosen)


def _inputs() -> list[str]:
    """Returns the files and folders of --inputs; patterns stand for what fits them."""
    found: list[str] = []
    for given in cli.INPUTS.value:
        fitting = sorted(glob.glob(given, recursive=True))
        found += [given] if Path(given).exists() or not fitting else fitting
    return found


def _sample() -> None:
    config, workdir = _given_config(), _given_workdir()
    if "pipeline" not in config:
        raise UserError("--mode=sample wants a pipeline, such as configs/gits.py.")
    found = re.fullmatch(r"(\d+)-(\d+)", cli.SAMPLES.value)
    if not found or int(found[2]) < int(found[1]):
        raise UserError(
            f"--seeds is {cli.SAMPLES.value!r}, expected a range such as 0-63."
        )
    from jaxkd import pipelines

    seeds = range(int(found[1]), int(found[2]) + 1)
    print(pipelines.sample(config, workdir, seeds, cli.OUTPUT.value))


def _compile() -> None:
    config = _given_config()
    if "pipeline" in config:
        raise UserError("--mode=compile wants a training run, such as configs/rld.py.")
    from jaxkd.aot import plan as aot
    from jaxkd.core.writers import write_json

    plan = aot.plan(config, cli.TOPOLOGY.value)
    print(aot.format_plan(plan))
    if cli.OUTPUT.value:
        write_json(Path(cli.OUTPUT.value), plan)


def _export() -> None:
    from jaxkd import api

    workdir = _given_workdir()
    if not cli.OUTPUT.value:
        raise UserError("--mode=export needs --output, the file to write.")
    text = api.export(
        workdir,
        cli.OUTPUT.value or "",
        format=cli.FORMAT.value,
        student=cli.STUDENT.value,
        seed=cli.SEED.value,
        use=cli.USE.value,
    )
    print(text)


def _sizes(config: ConfigDict) -> list[int]:
    """Lists what the devices have to divide: members and batches, of needs too."""
    members = len(config.students or [None]) * len(config.seeds)
    runs = [config, *config.needs.values()]
    micro = [run.batch_size // max(run.accumulate, 1) for run in runs]
    return [members, *micro]


def _given_config() -> ConfigDict:
    config = _load_config()
    if config is None:
        raise UserError("--config is missing, expected a file such as configs/rld.py.")
    return config


def _given_workdir() -> Path:
    if not cli.WORKDIR.value:
        raise UserError(
            f"--mode={cli.MODE.value} needs --workdir, the folder of a run."
        )
    return Path(cli.WORKDIR.value)


def _load_config() -> ConfigDict | None:
    """Loads the configuration and overrides its keys; None if none is given."""
    changes = [f"--config.{one.key}" for one in cli.overrides]
    changes += [f"--students+={name}" for name in cli.added_students]
    changes += [f"--students={cli.STUDENTS.value}"] * (cli.STUDENTS.value is not None)
    if cli.CONFIG.value is None:
        if changes:
            raise UserError(f"{changes[0]} needs --config, which it changes.")
        return None
    try:
        config = config_file.load(cli.CONFIG.value)
    except OSError as error:
        raise UserError(f"--config cannot be loaded: {error}") from error
    if changes:
        from jaxkd.training import overrides

        for name in cli.added_students:
            overrides.add_student(config, name)
        said = overrides.apply(config, cli.overrides)
        if cli.STUDENTS.value is not None:
            said += overrides.choose_students(config, cli.STUDENTS.value)
        for text in said:
            print(f"jaxkd: {text}", file=sys.stderr)
        config_file.prepare(config, config_file.locate(cli.CONFIG.value))
    return config


def _exit(message: str, code: int = 2, last: bool = False) -> NoReturn:
    """Ends with a message.

    Args:
      message: for standard error.
      code: exit status.
      last: whether nothing may come after the message. An orderly end closes files,
        which on a full disk fails once more, each with words of its own.
    """
    print(f"\njaxkd: {message}", file=sys.stderr, flush=True)
    distributed = flags.FLAGS.is_parsed() and cli.DISTRIBUTED.value
    if last or (distributed and code != INTERRUPTED):
        # An orderly end would also wait for other processes, who may wait for this one.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _parse(argv: list[str]) -> list[str]:
    """Parses the command line; mistakes end with one line and status 2."""
    try:
        return cli.parse(argv)
    except UserError as error:
        _exit(str(error))


def run() -> None:
    """Entry point of ``python -m jaxkd.main`` and of the command ``jaxkd``."""
    # --help shows the text and the flags of the program, which the command is not.
    sys.modules["__main__"].__doc__ = __doc__
    for flag in flags.FLAGS.get_flags_for_module(cli.__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(main, flags_parser=_parse)


if __name__ == "__main__":
    run()
