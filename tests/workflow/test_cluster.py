"""The cluster profiles: dry runs with each, and what the one for Kubernetes says to kubectl."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from small_run import NANO_CONFIG

# how each profile says that a job shares its node with none
PROFILES = {
    "slurm": {"slurm_extra": "'--exclusive'"},
    "cluster-generic": {"place": "'excl'"},
    "kubernetes": {"exclusive": 1},
}
# keeps what it is asked and given, and prints the answer that the test wrote
KUBECTL = '#!/bin/sh\necho "$@" > asked\ncat > given\ncat answer\n'
# keeps all that it is asked, and the process that asks for a state; its Jobs have a name and never end
ENDLESS = """\
#!/bin/sh
echo "$@" >> asked
case $1 in
create) cat > given; printf phase-twin-x7k2q ;;
get) echo '{"status": {"active": 1}}'; echo $PPID > asker.part; mv asker.part asker ;;
esac
"""
# seconds between two rounds of such questions
INTERVAL = 20
SETTINGS = {"PHASE_TWIN_IMAGE": "registry/image:1", "PHASE_TWIN_CLAIM": "project"}
CARD = {"PHASE_TWIN_GPU": "gpu.intel.com/xe"}
SIZE = ("--cpu", "8", "--memory-mb", "29000", "--minutes", "75")
SUBMIT = ("submit", *SIZE, "--gpu", "0", "--exclusive", "0", "job script.sh")


@pytest.mark.parametrize("profile", PROFILES)
def test_dry_run_with_a_profile(snakemake, profile):
    done = snakemake("-n", "--forceall", "--workflow-profile", f"profiles/{profile}", "--configfile", NANO_CONFIG)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^measure_mix +34$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("profile", PROFILES)
def test_what_measures_speed_has_a_node_of_its_own(root, profile):
    settings = yaml.safe_load((root / "profiles" / profile / "config.v9+.yaml").read_text())
    alone = PROFILES[profile]
    assert settings["set-resources"] == dict.fromkeys(("measure_speed", "measure_arc", "measure_cpu"), alone)


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
    manifest = json.loads((tmp_path / "given").read_text())
    # what README.md lists and deletes the Jobs by
    assert manifest["metadata"]["labels"] == {"app.kubernetes.io/name": "phase-twin"}
    spec = manifest["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"] == ["/bin/sh", str(tmp_path / "job script.sh")]
    assert container["resources"]["requests"] == {"cpu": "8", "memory": "29000M"}
    # the project's folder is where it is here, and a failed pod is snakemake's to repeat
    assert container["volumeMounts"] == [{"name": pod["volumes"][0]["name"], "mountPath": str(tmp_path)}]
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "project"}
    assert (pod["activeDeadlineSeconds"], spec["backoffLimit"], pod["restartPolicy"]) == (4500, 0, "Never")
    assert "affinity" not in pod


def test_a_job_that_measures_speed_shares_neither_node_nor_card(job, tmp_path):
    done = job("submit", *SIZE, "--gpu", "1", "--exclusive", "1", "job.sh", settings=SETTINGS | CARD)
    assert done.returncode == 0, done.stderr
    template = json.loads((tmp_path / "given").read_text())["spec"]["template"]
    assert template["spec"]["containers"][0]["resources"]["limits"] == {"memory": "29000M", "gpu.intel.com/xe": "1"}
    ((kind, (rule,)),) = template["spec"]["affinity"]["podAntiAffinity"].items()
    assert kind == "requiredDuringSchedulingIgnoredDuringExecution"
    assert rule["topologyKey"] == "kubernetes.io/hostname"
    # every pod has the label, so each keeps away from it
    assert rule["labelSelector"]["matchLabels"] == template["metadata"]["labels"]
    job(*SUBMIT)
    assert json.loads((tmp_path / "given").read_text())["spec"]["template"]["metadata"] == template["metadata"]


def answered(folder: Path) -> bool:
    """Tell whether one asked there for the state of a Job, and is gone with the answer."""
    asker = folder / "asker"
    return asker.exists() and not Path("/proc", asker.read_text().strip()).exists()


def test_a_job_is_submitted_and_cancelled_by_the_profile(checkout, tmp_path):
    project = checkout(tmp_path / "project")
    (tmp_path / "kubectl").write_text(ENDLESS)
    (tmp_path / "kubectl").chmod(0o755)
    environment = os.environ | SETTINGS | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "profiles/kubernetes"]
    command += ["--seconds-between-status-checks", str(INTERVAL)]
    command += ["--configfile", NANO_CONFIG, "--force", "fetch_engine"]
    with open(tmp_path / "log", "wb") as log:
        run = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=subprocess.STDOUT)
    end = time.monotonic() + 300
    while not answered(project):
        assert run.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
        time.sleep(0.2)
    # jobs are not cancelled while the executor asks how they do, nor before it has noted the answer
    time.sleep(INTERVAL / 10)
    run.send_signal(signal.SIGINT)
    run.wait(60)
    (container,) = json.loads((project / "given").read_text())["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"requests": {"cpu": "1", "memory": "1000M"}, "limits": {"memory": "1000M"}}
    assert (project / "asked").read_text().endswith("delete job --ignore-not-found --wait=false phase-twin-x7k2q\n")


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


def test_a_job_that_somebody_deleted_has_failed(job):
    assert job("status", "phase-twin-x7k2q").stdout == "failed\n"


def test_jobs_outlive_a_cluster_that_does_not_answer(job, tmp_path):
    (tmp_path / "kubectl").write_text("#!/bin/sh\necho 'connection refused' >&2\nexit 1\n")
    done = job("status", "phase-twin-x7k2q")
    assert (done.returncode, done.stdout) == (0, "running\n")
    assert done.stderr == "job.py: kubectl get: connection refused; asked again later\n"
    done = job(*SUBMIT)
    assert (done.returncode, done.stderr) == (1, "job.py: kubectl create: connection refused\n")


@pytest.mark.parametrize("name", ["PHASE_TWIN_IMAGE", "PHASE_TWIN_CLAIM", "PHASE_TWIN_GPU"])
def test_a_setting_that_kubernetes_needs_is_one_sentence(job, name):
    settings = {key: value for key, value in (SETTINGS | CARD).items() if key != name}
    done = job("submit", *SIZE, "--gpu", "1", "--exclusive", "0", "job.sh", settings=settings)
    assert done.returncode == 1
    assert done.stderr == f"job.py: {name} is not set; the head of profiles/kubernetes/job.py says more\n"
