"""Launch scripts, as far as they can be checked without a cloud.

The clouds' tools are stood in for by small scripts on PATH. tests/launch/*.txt hold
what --dry-run prints.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"
STORED = Path(__file__).parent / "launch"
SHELL = sorted(p for p in LAUNCH.iterdir() if p.suffix in (".sh", ".sbatch"))
# With a comma, brackets, a quote and a space: quoting has to survive two shells.
RUN = ["--config=configs/rld.py:cifar100,resnet56,resnet20", "--config.seeds=(1,2)"]
ODD = [*RUN, "--workdir=/mnt/jaxkd/it's a run"]
VM = {"NAME": "kd", "ZONE": "z1", "PROJECT": "p1", "BUCKET": "b1"}
XPK = {"CLUSTER": "c1", "WORKLOAD": "w1", "IMAGE": "i1", "ZONE": "z1"}


def call(script, *arguments, path="", code=0, cwd=None, **variables):
    """Runs a script, without whatever variables the caller of the tests has set."""
    kept = {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}", "HOME": "/nowhere"}
    done = subprocess.run(
        ["bash", str(script), *arguments],
        env=kept | variables,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def fakes(folder: Path, **scripts: str) -> str:
    """Puts commands on a PATH; each notes its arguments in the file "log" first."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    for name, text in scripts.items():
        tool = bin_folder / name
        log = f'printf "%s|" {name} "$@" >> "{folder}/log"; echo >> "{folder}/log"\n'
        tool.write_text(f"#!/usr/bin/env bash\n{log}{text}\n")
        tool.chmod(0o755)
    return str(bin_folder)


def logged(folder: Path) -> list[list[str]]:
    log = folder / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [line.split("|")[:-1] for line in lines]


@pytest.fixture
def copy(tmp_path):
    """A checkout whose build/ and data/ may be written to."""
    shutil.copytree(LAUNCH, tmp_path / "launch")
    return tmp_path


# Every script


@pytest.mark.parametrize("script", SHELL, ids=lambda p: p.name)
def test_help_tells_the_usage_and_does_nothing(script, tmp_path):
    # No tool on PATH but those every system has.
    done = call(script, "--help", path=fakes(tmp_path, gcloud="", xpk="", srun=""))
    assert done.stdout.startswith("Usage: ")
    assert "ARGUMENTS OF jaxkd.main" in done.stdout
    assert "--dry-run" in done.stdout
    assert logged(tmp_path) == []


@pytest.mark.parametrize("script", SHELL, ids=lambda p: p.name)
def test_scripts_stop_at_errors_and_can_be_executed(script):
    assert "\nset -euo pipefail\n" in script.read_text()
    assert os.access(script, os.X_OK)
    call("-n", str(script))


def shellcheck(*arguments, **options):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    tool = shutil.which("shellcheck", path=path)
    if tool is None:
        pytest.skip("shellcheck is missing: pip install -e '.[test]'")
    command = [tool, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr


def test_shellcheck_finds_nothing():
    shellcheck("--external-sources", *SHELL, *LAUNCH.glob("*.bash"), ROOT / ".ci/run")


def test_shellcheck_finds_nothing_in_sky():
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    for part in ("setup", "run"):
        shellcheck("--shell=bash", "-", input=task[part])


DRY_RUNS = {
    "tpu_vm": ("tpu_vm.sh", ODD, VM | {"SPOT": "yes"}),
    "tpu_queued": ("tpu_queued.sh", ODD, VM | {"WHEN_DONE": "delete"}),
    "xpk_tpu": ("xpk.sh", ODD, XPK | {"SLICES": "2"}),
    "xpk_gpu": ("xpk.sh", ODD, XPK | {"GPU": "h100-80gb-8", "NODES": "2"}),
    "xpk_build": ("xpk.sh", ["--build"], {"IMAGE": "i1"}),
    "xpk_list": ("xpk.sh", ["--list"], {"CLUSTER": "c1"}),
    "gpu": ("gpu.sh", ODD, {"EXTRA": "cuda12", "DATA": "/d 1", "VENV": "no-such"}),
    "slurm": ("slurm.sbatch", ODD, {}),
}


@pytest.mark.parametrize("name", DRY_RUNS)
def test_dry_run_prints_what_is_stored(name, copy):
    script, arguments, variables = DRY_RUNS[name]
    tools = fakes(copy, gcloud="", xpk="", git="", docker="", srun="")
    done = call(
        copy / "launch" / script, "--dry-run", *arguments, path=tools, **variables
    )
    assert logged(copy) == []
    stored = (STORED / f"{name}.txt").read_text()
    assert done.stdout.replace(str(copy), "CHECKOUT") == stored


@pytest.mark.parametrize("name", ["tpu_vm", "xpk_tpu", "xpk_gpu", "xpk_build"])
def test_what_dry_run_prints_is_what_runs(name, copy):
    script, arguments, variables = DRY_RUNS[name]
    gcloud = '[[ " $* " != *" describe "* ]]'
    tools = fakes(copy, gcloud=gcloud, xpk="", git="", docker="")
    script = copy / "launch" / script
    printed = call(script, "--dry-run", *arguments, path=tools, **variables).stdout
    call("-c", f"set -e\n{printed}", path=tools)
    pasted = logged(copy)
    call(script, *arguments, path=tools, **variables)
    assert [words for words in logged(copy) if "describe" not in words] == pasted
    assert pasted


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "missing"),
    [
        ("tpu_vm.sh", RUN, {"ZONE": "z"}, "NAME"),
        ("tpu_vm.sh", RUN, {"NAME": "n"}, "ZONE"),
        ("tpu_vm.sh", ["--delete"], {"NAME": "", "ZONE": "z"}, "NAME"),
        ("tpu_vm.sh", ["--delete", "n"], VM, "takes no argument"),
        ("tpu_vm.sh", [*RUN, "--workdir=gs://b/x"], VM, "/mnt/jaxkd"),
        ("tpu_vm.sh", [*RUN, "--workdir", "gs://b/x"], VM, "/mnt/jaxkd"),
        ("tpu_queued.sh", ["--delete"], {"NAME": "", "ZONE": "z"}, "NAME"),
        ("tpu_queued.sh", ODD, VM | {"BUCKET": ""}, "BUCKET"),
        ("tpu_queued.sh", [*RUN, "--workdir=here"], VM, "/mnt/jaxkd"),
        ("xpk.sh", ["--delete"], {"CLUSTER": "c"}, "WORKLOAD"),
        ("xpk.sh", ["--list"], {}, "CLUSTER"),
        ("xpk.sh", RUN, XPK | {"IMAGE": ""}, "IMAGE"),
        ("xpk.sh", ["--build"], {}, "IMAGE"),
        ("gpu.sh", [], {}, "arguments of jaxkd.main"),
        ("slurm.sbatch", RUN, {}, "sbatch"),
    ],
)
def test_what_is_missing_or_impossible_is_refused(
    script, arguments, variables, missing, tmp_path
):
    tools = fakes(tmp_path, gcloud="", xpk="", docker="", srun="", git="")
    done = call(LAUNCH / script, *arguments, path=tools, code=2, **variables)
    assert missing in done.stderr
    assert logged(tmp_path) == []


@pytest.mark.parametrize(
    ("script", "variables", "command"),
    [
        ("tpu_vm.sh", VM, "gcloud compute tpus tpu-vm delete kd --zone z1"),
        ("tpu_queued.sh", VM, "gcloud compute tpus queued-resources delete kd"),
        ("xpk.sh", XPK, "xpk workload delete --cluster c1 --zone z1 --workload w1"),
    ],
)
def test_delete_deletes_what_is_named(script, variables, command, tmp_path):
    call(
        LAUNCH / script,
        "--delete",
        path=fakes(tmp_path, gcloud="", xpk=""),
        **variables,
    )
    [words] = logged(tmp_path)
    assert " ".join(words).startswith(command)
    assert ("--force" in words) == (script == "tpu_queued.sh")


def test_gpu_runs_in_its_environment_and_passes_the_exit_code_on(copy):
    (copy / "venv").mkdir()
    tools = fakes(
        copy, pip="", python='echo "$XLA_PYTHON_CLIENT_MEM_FRACTION"; exit 75'
    )
    shutil.copytree(tools, copy / "venv" / "bin")
    (copy / "sets").mkdir()
    variables = {"VENV": "venv", "MEMORY": "0.4", "DATA": str(copy / "sets")}
    for _ in range(2):  # running it again changes nothing
        done = call(copy / "launch/gpu.sh", *ODD, code=75, **variables)
        assert done.stdout == "0.4\n"
        assert logged(copy) == [
            ["pip", "install", "--quiet", "-e", ".[cuda13]"],
            ["python", "-m", "jaxkd.main", *ODD],
        ]
    assert (copy / "data").resolve() == copy / "sets"


# Queued resources: a gcloud that answers "describe" with one state after the other, and
# lets the runs end with one code after the other

GCLOUD = """
next() { line=$(head -n 1 "$1"); sed -i 1d "$1"; printf '%s' "$line"; }
case " $* " in
  *" describe "*)
    state=$(next states)
    case $state in
      NOT_FOUND | PERMISSION_DENIED) echo "ERROR: $state: no" >&2; exit 1 ;;
      *) echo "$state" ;;
    esac ;;
  *" scp "*) exit "${SCP:-0}" ;;
  *jaxkd.main*) exit "$(next codes)" ;;
esac
"""


def queued(copy, states, codes, code=0, **variables):
    """Returns what the babysitter did: created, deleted, ran."""
    (copy / "states").write_text("".join(f"{state}\n" for state in states))
    (copy / "codes").write_text("".join(f"{number}\n" for number in codes))
    tools = fakes(copy, gcloud=GCLOUD, git="")
    script = copy / "launch/tpu_queued.sh"
    variables = VM | {"POLL": "0"} | variables
    done = call(script, *ODD, path=tools, code=code, **variables)
    did = []
    for words in logged(copy):
        if words[:4] == ["gcloud", "compute", "tpus", "queued-resources"]:
            did += [words[4]] if words[4] != "describe" else []
        elif "jaxkd.main" in words[-1]:
            did.append("run")
    assert (copy / "states").read_text() == (copy / "codes").read_text() == ""
    return did, done.stderr


def test_queued_creates_waits_runs_and_creates_again_when_preempted(copy):
    states = ["NOT_FOUND", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    states += ["SUSPENDING", "SUSPENDED", "NOT_FOUND", "ACTIVE"]
    did, said = queued(copy, states, [134, 0])
    assert did == ["create", "run", "delete", "create", "run"]
    assert "kd is SUSPENDED; beginning again (1 of 20)" in said
    assert (
        "to give the TPU back: gcloud compute tpus queued-resources delete kd" in said
    )


def test_queued_takes_up_what_it_finds_and_gives_it_back_if_asked(copy):
    did, _ = queued(copy, ["ACTIVE"], [0], WHEN_DONE="delete")
    assert did == ["run", "delete"]


@pytest.mark.parametrize("code", [75, 255])
def test_queued_runs_again_after_a_stop_or_a_lost_connection(copy, code):
    did, said = queued(copy, ["ACTIVE", "ACTIVE", "ACTIVE"], [code, 0])
    assert did == ["run", "run"]
    assert f"({code}); beginning again (1 of 20)" in said


def test_queued_asks_again_after_a_request_that_failed(copy):
    did, _ = queued(copy, ["FAILED", "NOT_FOUND", "ACTIVE"], [0])
    assert did == ["delete", "create", "run"]


def test_queued_gives_up_in_the_end(copy):
    states = ["SUSPENDED", "NOT_FOUND", "SUSPENDED", "NOT_FOUND", "SUSPENDED"]
    did, said = queued(copy, states, [], code=75, RETRIES="2")
    assert did == ["delete", "create", "delete", "create"]
    assert "giving up after 2 retries" in said


@pytest.mark.parametrize(("code", "states"), [(1, ["ACTIVE"] * 2), (2, ["ACTIVE"])])
def test_queued_does_not_repeat_a_mistake(copy, code, states):
    did, _ = queued(copy, states, [code], code=code)
    assert did == ["run"]


def test_queued_starts_nothing_where_copying_failed(copy):
    did, said = queued(copy, ["ACTIVE", "ACTIVE"], [], code=3, SCP="3")
    assert did == []
    assert "failed with code 3" in said


def test_queued_does_not_take_an_error_for_a_missing_request(copy):
    did, said = queued(copy, ["PERMISSION_DENIED"] * 3, [], code=1, RETRIES="2")
    assert did == []
    assert "ERROR: PERMISSION_DENIED" in said


# SLURM: an srun that runs the tasks one after the other

SRUN = """
code=0
for ((task = 0; task < SLURM_NTASKS; task++)); do
  local_id=$((task % SLURM_NTASKS_PER_NODE))
  if [ "${BIND:-no}" = yes ]; then CUDA_VISIBLE_DEVICES=$local_id; fi
  SLURM_PROCID=$task SLURM_LOCALID=$local_id "${@:2}" || code=$?
done
if [ "${CANCEL:-no}" = yes ]; then kill -TERM "$PPID"; fi
exit "$code"
"""
SCONTROL = 'if [ "$1" = show ]; then printf "node07\\nnode08\\n"; fi'
PYTHON = 'echo "${SLURM_LOCALID-all} $*"; exit "${CODE:-0}"'


def sbatch(tmp_path, per_node=1, code=0, **variables):
    tools = fakes(tmp_path, srun=SRUN, scontrol=SCONTROL, mypython=PYTHON)
    job = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NODELIST": "node[07-08]"}
    job |= {"SLURM_NTASKS": str(2 * per_node), "SLURM_NTASKS_PER_NODE": str(per_node)}
    job |= {"CUDA_VISIBLE_DEVICES": "0,1", "PYTHON": "mypython", "CODE": str(code)}
    script = LAUNCH / "slurm.sbatch"
    done = call(script, *ODD, path=tools, code=code, **(job | variables))
    requeued = ["scontrol", "requeue", "12345"] in logged(tmp_path)
    return [line.split(" ", 1) for line in done.stdout.splitlines()], requeued


@pytest.mark.parametrize(
    ("per_node", "variables", "gpus"),
    [
        (1, {}, ["all", "all"]),
        (2, {}, ["0", "1", "0", "1"]),
        # SLURM has given each process its own GPU already.
        (2, {"BIND": "yes"}, ["all"] * 4),
    ],
)
def test_slurm_tells_every_process_its_place(tmp_path, per_node, variables, gpus):
    lines, requeued = sbatch(tmp_path, per_node, **variables)
    assert [gpu for gpu, _ in lines] == gpus
    assert [arguments for _, arguments in lines] == [
        f"-m jaxkd.main --distributed --coordinator=node07:{20000 + 12345 % 12000} "
        f"--num_processes={len(gpus)} --process_id={task} " + " ".join(ODD)
        for task in range(len(gpus))
    ]
    assert not requeued


def test_slurm_takes_a_coordinator_that_is_given(tmp_path):
    lines, _ = sbatch(tmp_path, COORDINATOR="head:99")
    assert all(" --coordinator=head:99 " in arguments for _, arguments in lines)


@pytest.mark.parametrize(
    ("code", "variables", "expected"),
    [
        (75, {}, True),
        (1, {}, False),
        (75, {"CANCEL": "yes"}, False),
        (75, {"SLURM_RESTART_COUNT": "3", "REQUEUES": "3"}, False),
    ],
)
def test_slurm_requeues_what_was_stopped_and_saved(tmp_path, code, variables, expected):
    _, requeued = sbatch(tmp_path, code=code, **variables)
    assert requeued == expected


def test_slurm_warns_the_processes_in_time_and_may_requeue():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    assert {"#SBATCH --signal=TERM@300", "#SBATCH --requeue"} <= set(lines)
