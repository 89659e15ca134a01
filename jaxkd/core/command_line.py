"""The command line: its flags, the keys of a configuration and the rows of a study.

Beside flags it has ``--config.KEY=VALUE`` and ``--students+=ROW``, which are kept in
their order, and ``--inputs`` before several files.
"""

import os

from absl import flags

from jaxkd.core.errors import UserError
from jaxkd.core.overrides import Override, split

CONFIG = flags.DEFINE_string(
    "config",
    None,
    "Configuration: a file, mine.py or mine.py:arg, or a shipped one, rld:digits. "
    "--config.KEY=VALUE, any number of times, overrides a key.",
)
QUIET = flags.DEFINE_bool(
    "quiet", False, "Show results and mistakes alone: no progress, no announcements."
)
STUDENTS = flags.DEFINE_string(
    "students",
    None,
    "The rows of the configuration to train, such as kd,rld; default: all. "
    "--students+=NAME adds one, --students+=NAME:OF a copy of another.",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run. Default: runs/ and the configuration's name."
)
BREAK_LOCK = flags.DEFINE_bool(
    "break_lock",
    False,
    "train: take over a workdir that another host has left locked, once that run is "
    "known to have ended.",
)
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "eval", "predict", "sample", "compile", "export", "compare"],
    "train: train or resume what --config describes, or run the pipeline that it is. "
    "eval: evaluate a trained run on its data set, or on the "
    "one of --config. predict: classify image files. sample: draw images, "
    "one a seed, with what a pipeline has found. compile: tell what the training "
    "step takes on the TPU of --topology, without one. export: write a trained "
    "network as a file of --format that is used without jaxkd. compare: write one page "
    "on several finished runs, the folders of --inputs.",
)
FORMAT = flags.DEFINE_enum(
    "format",
    "stablehlo",
    ["stablehlo", "torch", "onnx"],
    "export: stablehlo (.stablehlo, for jax.export), torch (weights, .pth or "
    ".safetensors) or onnx (.onnx).",
)
TOPOLOGY = flags.DEFINE_string(
    "topology", "v5e:2x4", "compile: kind of TPU and its chips, such as v5p:2x2x1."
)
INPUTS = flags.DEFINE_multi_string(
    "inputs",
    [],
    "predict: image files or folders, --inputs photos/*.png. compare: workdirs.",
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "predict: a .csv or .json file; default: print CSV; a folder for predictors that "
    "write more. compile: a .json file. export: the file; a .json is put beside it. "
    "sample: a .png file; default: one in the workdir. compare: default compare.html.",
)
TOPK = flags.DEFINE_integer(
    "topk", None, "predict: classes to name per image; default: five at most."
)
PREDICTOR = flags.DEFINE_string(
    "predictor",
    None,
    "predict: what to make of the files, a file of jaxkd/predictors, such as "
    "embeddings; default: what the run's method names, or classes.",
)
OPTIONS = flags.DEFINE_multi_string(
    "option", [], "predict: name=value, of the predictor; may be given several times."
)
STUDENT = flags.DEFINE_string(
    "student", None, "predict, export: which, of a study of several."
)
SEED = flags.DEFINE_integer("seed", None, "predict, export: which; default: the first.")
SAMPLES = flags.DEFINE_string("seeds", "0-63", "sample: from the first to the last.")
USE = flags.DEFINE_enum(
    "use", "last", ["last", "best"], "eval, predict, export: the last or best."
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "This is one of several processes of a run (TPU pod, SLURM, Kubernetes).",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "With --distributed, where the cluster is not detected: HOST:PORT of process 0.",
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Likewise, their number.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Likewise, this one's number.")


# What stands on the command line as --config.KEY=VALUE, and as --students+=ROW.
overrides: list[Override] = []
added_students: list[str] = []


def parse(argv: list[str]) -> list[str]:
    """Parses the command line: flags, and what stands beside them.

    Args:
      argv: of the program, its name first.

    Returns:
      What is no flag.

    Raises:
      UserError: for a flag that does not exist, or a wrong value.
    """
    rest, overrides[:] = split(argv)
    added_students[:] = [one[13:] for one in rest if one.startswith("--students+=")]
    rest = [one for one in rest if not one.startswith("--students+=")]
    rest = _join_inputs(rest)
    try:
        rest = flags.FLAGS(rest)
    except flags.Error as error:
        raise UserError(f"wrong command line: {error} (see --help).") from error
    for flag in (WORKDIR, OUTPUT):  # A shell leaves --workdir=~/runs as it is.
        if flag.value:
            flags.FLAGS[flag.name].value = os.path.expanduser(flag.value)
    flags.FLAGS[INPUTS.name].value = [os.path.expanduser(p) for p in INPUTS.value]
    return rest


def _join_inputs(argv: list[str]) -> list[str]:
    """Repeats --inputs before each of several files, as a shell leaves ``*.png``."""
    joined: list[str] = []
    several = False
    for argument in argv:
        if argument.startswith("-"):
            several = argument.lstrip("-").partition("=")[0] == "inputs"
            joined += [argument] * (argument.lstrip("-") != "inputs")
        else:
            joined.append(f"--inputs={argument}" if several else argument)
    return joined
