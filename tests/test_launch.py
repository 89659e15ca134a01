"""Launch scripts, as far as they can be checked without a cloud."""

import os
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "launch"
RUN = "--config=configs/rld.py:cifar100,resnet56,resnet20"


def call(script: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        ["bash", str(FOLDER / script), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("script", sorted(p.name for p in FOLDER.glob("*.sh")))
def test_help_tells_the_usage_and_does_nothing(script):
    assert call(script, "--help").startswith("Usage: ")


def test_gpu_installs_and_runs(tmp_path):
    lines = call("gpu.sh", "--dry-run", RUN, EXTRA="cuda12", VENV=str(tmp_path))
    assert lines.splitlines() == [
        f"+ {tmp_path}/bin/pip install --quiet -e .[cuda12]",
        f"+ {tmp_path}/bin/python -m jaxkd.main {RUN}",
    ]


def test_tpu_vm_creates_copies_installs_and_runs():
    here = {"NAME": "kd", "ZONE": "z1", "SPOT": "yes"}
    lines = call("tpu_vm.sh", "--dry-run", RUN, "--workdir=a b", **here).splitlines()
    vm = "+ gcloud compute tpus tpu-vm"
    assert lines[0] == (
        f"{vm} create kd --zone z1 --accelerator-type v5litepod-8 "
        "--version v2-alpha-tpuv5-lite --spot"
    )
    assert lines[2].startswith(f"{vm} scp ")
    assert lines[2].endswith(" kd:jaxkd.tar.gz --zone z1 --worker=all")
    assert lines[4] == (
        f"{vm} ssh kd --zone z1 --worker=all --command cd jaxkd && python3 -m "
        "jaxkd.main --distributed "
        r"--config=configs/rld.py:cifar100\,resnet56\,resnet20 --workdir=a\ b"
    )


def test_tpu_vm_deletes_only_what_is_named():
    line = call("tpu_vm.sh", "--dry-run", "--delete", NAME="kd", ZONE="z1")
    assert line == "+ gcloud compute tpus tpu-vm delete kd --zone z1 --quiet\n"
    with pytest.raises(subprocess.CalledProcessError):
        call("tpu_vm.sh", "--dry-run", "--delete", NAME="", ZONE="z1")
