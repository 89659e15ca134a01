"""Files that a cluster reads: JobSet, SkyPilot, Docker; and the table of launchers."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"


@pytest.fixture
def jobset():
    return yaml.safe_load((LAUNCH / "k8s" / "jobset.yaml").read_text())


@pytest.fixture
def job(jobset):
    [replicated] = jobset["spec"]["replicatedJobs"]
    assert replicated["name"] == jobset["spec"]["coordinator"]["replicatedJob"]
    assert replicated["replicas"] == 1
    return replicated["template"]["spec"]


@pytest.fixture
def container(job):
    [container] = job["template"]["spec"]["containers"]
    return container


def test_jobset_has_a_service_and_a_place_for_every_process(jobset, job, container):
    assert (jobset["apiVersion"], jobset["kind"]) == (
        "jobset.x-k8s.io/v1alpha2",
        "JobSet",
    )
    network = jobset["spec"]["network"]
    assert network["enableDNSHostnames"] is True
    assert network["subdomain"] == jobset["metadata"]["name"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"]
    port = container["ports"][0]["containerPort"]
    assert container["command"] == ["python", "-m", "jaxkd.main"]
    assert container["args"][:4] == [
        "--distributed",
        f"--coordinator=$(COORDINATOR):{port}",
        f"--num_processes={job['parallelism']}",
        "--process_id=$(JOB_COMPLETION_INDEX)",
    ]
    [variable] = container["env"]
    assert variable["name"] == "COORDINATOR"
    field = variable["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.annotations['jobset.sigs.k8s.io/coordinator']"


def test_jobset_asks_for_all_chips_of_its_slice(job, container):
    selector = job["template"]["spec"]["nodeSelector"]
    assert selector["cloud.google.com/gke-tpu-accelerator"] == "tpu-v5-lite-podslice"
    rows, columns = map(int, selector["cloud.google.com/gke-tpu-topology"].split("x"))
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert chips * job["parallelism"] == rows * columns


def test_jobset_restarts_what_has_saved_without_counting_it(jobset, job, container):
    failure = jobset["spec"]["failurePolicy"]
    assert failure["maxRestarts"] > 0
    [rule] = failure["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    saved, disrupted = job["podFailurePolicy"]["rules"]
    assert saved["action"] == disrupted["action"] == "FailJob"
    assert saved["onExitCodes"]["values"] == [75]
    assert saved["onExitCodes"]["containerName"] == container["name"]
    assert disrupted["onPodConditions"][0]["type"] == "DisruptionTarget"
    pod = job["template"]["spec"]
    # A pod failure policy is refused by Kubernetes with any other restart policy.
    assert pod["restartPolicy"] == "Never"
    assert job["backoffLimit"] == 0
    assert pod["terminationGracePeriodSeconds"] >= 120


def test_jobset_keeps_the_workdir_in_a_volume(job, container):
    [mount] = container["volumeMounts"]
    [volume] = job["template"]["spec"]["volumes"]
    assert mount["name"] == volume["name"]
    [workdir] = [word for word in container["args"] if word.startswith("--workdir=")]
    assert workdir.startswith(f"--workdir={mount['mountPath']}/")
    assert "rename-dir-limit" in volume["csi"]["volumeAttributes"]["mountOptions"]


@pytest.fixture
def sky():
    return yaml.safe_load((LAUNCH / "sky.yaml").read_text())


def test_sky_recovers_and_keeps_the_workdir(sky):
    resources = sky["resources"]
    assert resources["use_spot"] is True
    assert resources["job_recovery"]["recover_on_exit_codes"] == [75]
    assert sky["file_mounts"]["/mnt/jaxkd"] == {"source": "${BUCKET}", "mode": "MOUNT"}
    # Without a value, SkyPilot asks for it.
    assert sky["envs"]["BUCKET"] is sky["envs"]["ARGUMENTS"] is None


def test_sky_tells_every_node_its_place(sky, tmp_path):
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\nexit 75\n')
    python.chmod(0o755)
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2"}
    nodes |= {"SKYPILOT_NODE_RANK": "1", "ARGUMENTS": "--config=c --workdir='a b'"}
    done = subprocess.run(
        ["bash", "-c", sky["run"]],
        env={"PATH": os.environ["PATH"]} | nodes,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 75, done.stderr
    assert done.stdout.splitlines() == [
        "-m",
        "jaxkd.main",
        "--distributed",
        "--coordinator=10.0.0.1:8476",
        "--num_processes=2",
        "--process_id=1",
        "--config=c",
        "--workdir=a b",
    ]


def test_image_is_slim_without_root_and_made_of_what_exists():
    lines = (LAUNCH / "Dockerfile").read_text().replace("\\\n", "").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    assert re.fullmatch(r"python:3\.\d+-slim", words[0][1])
    assert "RUN_AS=jaxkd" in [w[1] for w in words if w[0] == "ARG"]
    assert ["USER", "${RUN_AS}"] in words
    copied = [name for w in words if w[0] == "COPY" for name in w[1:-1]]
    assert copied
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert 'ENTRYPOINT ["python", "-m", "jaxkd.main"]' in lines


def test_the_table_names_every_launcher():
    readme = (LAUNCH / "README.md").read_text()
    files = {p.relative_to(LAUNCH).as_posix() for p in LAUNCH.rglob("*") if p.is_file()}
    files = {name for name in files if "__pycache__" not in name}
    named = {name for name in files if f"launch/{name}" in readme}
    assert files - named == {"README.md", "common.bash", "tpu.bash"}
    mentioned = re.findall(
        r"launch/[\w./]+\.\w+", readme + (ROOT / "README.md").read_text()
    )
    assert [name for name in mentioned if not (ROOT / name).exists()] == []
