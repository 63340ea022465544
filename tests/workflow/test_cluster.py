"""The cluster profiles: dry runs with each, and what the one for Kubernetes says to kubectl."""

import json
import os
import re
import subprocess
import sys

import pytest

from conftest import NANO_CONFIG

# keeps what it is asked and given, and prints the answer that the test wrote
KUBECTL = '#!/bin/sh\necho "$@" > asked\ncat > given\ncat answer\n'
SETTINGS = {"PHASE_TWIN_IMAGE": "registry/image:1", "PHASE_TWIN_CLAIM": "project"}
SUBMIT = ("submit", "--cpu", "8", "--memory-mb", "29000", "--minutes", "75", "job script.sh")


@pytest.mark.parametrize("profile", ["slurm", "cluster-generic", "kubernetes"])
def test_dry_run_with_a_profile(snakemake, profile):
    done = snakemake("-n", "--forceall", "--workflow-profile", f"profiles/{profile}", "--configfile", NANO_CONFIG)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^measure_mix +34$", done.stdout, re.MULTILINE)


@pytest.fixture
def job(root, tmp_path):
    """Run job.py in a project's folder where kubectl gives a certain answer."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)

    def run(*arguments: str, answer: str = "", settings=SETTINGS) -> subprocess.CompletedProcess[str]:
        (tmp_path / "answer").write_text(answer)
        environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"} | settings
        command = [sys.executable, root / "profiles/kubernetes/job.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_a_job_is_submitted_to_kubernetes(job, tmp_path):
    done = job(*SUBMIT, answer="phase-twin-x7k2q")
    assert done.stdout == "phase-twin-x7k2q\n", done.stderr
    assert (tmp_path / "asked").read_text().startswith("create -f -")
    spec = json.loads((tmp_path / "given").read_text())["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["/bin/sh", str(tmp_path / "job script.sh")]
    assert container["resources"]["requests"] == {"cpu": "8", "memory": "29000M"}
    # the project's folder is where it is here, and a failed pod is snakemake's to repeat
    assert container["volumeMounts"] == [{"name": pod["volumes"][0]["name"], "mountPath": str(tmp_path)}]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "project"}
    assert (spec["activeDeadlineSeconds"], spec["backoffLimit"], pod["restartPolicy"]) == (4500, 0, "Never")


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ({"active": 1}, "running"),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, "success"),
        ({"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}, "failed"),
    ],
)
def test_the_state_of_a_job_in_kubernetes(job, status, word):
    assert job("status", "phase-twin-x7k2q", answer=json.dumps({"status": status})).stdout == f"{word}\n"


def test_a_setting_that_kubernetes_needs_is_one_sentence(job):
    done = job(*SUBMIT, settings={})
    assert done.returncode == 1
    assert done.stderr == "job.py: PHASE_TWIN_IMAGE is not set; the head of profiles/kubernetes/job.py says more\n"
