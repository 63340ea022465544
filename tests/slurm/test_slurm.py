"""The nano model through a real Slurm of two nodes, one of which dies under a measurement."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from cluster import PROGRAMS, Cluster, Job

from phase_twin.results import read_result
from small_run import NANO_CONFIG

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.nano,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.getuid() != 0, reason="Slurm's and munge's daemons are started by root"),
    pytest.mark.skipif(
        not all(map(shutil.which, PROGRAMS)),
        reason="needs Slurm (Debian: apt install slurmctld slurmd slurm-client munge)",
    ),
]

NODES = ("node1", "node2")
VICTIM = "node2"
QUICK_CONFIG = "tests/slurm/quick.yaml"
# jobs of each node, at the least
FAIR_SHARE = 4
SECONDS = 3000


@pytest.fixture(scope="module")
def working_copy(nano, checkout, tmp_path_factory) -> Path:
    """The project with the engine and nothing else that was made."""
    return checkout(tmp_path_factory.mktemp("working-copy"))


@pytest.fixture(scope="module")
def finished(working_copy, tmp_path_factory) -> list[Job]:
    """All jobs of a run in which the victim died once."""
    with Cluster(tmp_path_factory.mktemp("cluster"), NODES) as cluster:
        log = working_copy / "snakemake.log"
        command = [sys.executable, "-m", "snakemake", "--workflow-profile", "profiles/slurm"]
        command += ["--configfile", NANO_CONFIG, QUICK_CONFIG]
        # nodes of one CPU; status checks as fast as their jobs, on one file system
        command += ["--cores", "1", "--max-threads", "1"]
        command += ["--slurm-init-seconds-before-status-checks", "3", "--latency-wait", "10"]
        with open(log, "wb") as out:
            run = subprocess.Popen(
                command, cwd=working_copy, env=cluster.environment, stdout=out, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + SECONDS

        def wait_for(event):
            while not event():
                assert run.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < end, f"late\n{log.read_text()[-4000:]}\n{cluster.jobs()}"
                time.sleep(1)

        wait_for(lambda: measures_after_fair_share(cluster.jobs()))
        cluster.kill_node(VICTIM)
        wait_for(lambda: any(job.state == "NODE_FAIL" for job in cluster.jobs()))
        cluster.start_node(VICTIM)
        code = run.wait(end - time.monotonic())
        assert code == 0, log.read_text()[-4000:]
        return cluster.jobs()


def measures_after_fair_share(jobs: list[Job]) -> bool:
    """Tell whether the victim has done its share and now measures."""
    there = [job for job in jobs if job.node == VICTIM]
    done = [job for job in there if job.state == "COMPLETED"]
    return len(done) >= FAIR_SHARE and any(
        job.state == "RUNNING" and job.comment.startswith("rule_measure_") for job in there
    )


def test_a_job_of_the_dead_node_is_done_again(finished):
    lost = [job for job in finished if job.state != "COMPLETED"]
    assert [(job.state, job.node) for job in lost] == [("NODE_FAIL", VICTIM)]
    assert lost[0].comment.startswith("rule_measure_")
    assert [job.state for job in finished if job.comment == lost[0].comment] == ["COMPLETED", "NODE_FAIL"]


def test_both_nodes_work(finished):
    share = Counter(job.node for job in finished if job.state == "COMPLETED")
    assert set(share) == set(NODES)
    assert min(share.values()) >= FAIR_SHARE


def test_speed_is_measured_on_a_node_of_its_own(finished):
    assert [job.comment for job in finished if job.exclusive] == ["rule_measure_speed"]


def test_small_rules_share_jobs(finished):
    comments = [job.comment for job in finished]
    for group in ("report", "tables"):
        assert len([one for one in comments if one.startswith(f"rule_{group}_")]) == 1, group
    assert not [one for one in comments if one.startswith(("rule_draw", "rule_gather", "rule_rank"))]


@pytest.mark.parametrize(
    "name",
    [
        *(f"resources/models/nex-n2-nano/Nex-N2-nano-{part}.gguf" for part in ("BF16", "variant0", "variant1")),
        "results/nex-n2-nano/Nex-N2-nano-mmproj-F16.gguf",
        "results/nex-n2-nano/imatrix.gguf",
    ],
)
def test_bytes_are_those_of_a_run_without_a_cluster(finished, working_copy, root, name):
    ours, local = (hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (working_copy, root))
    assert ours == local


def test_the_twin_holds_the_tensors_of_a_run_without_a_cluster(finished, working_copy, root):
    ours, local = (read_result(folder / "results/nex-n2-nano/verify.json") for folder in (working_copy, root))
    assert ours["tensors"] == local["tensors"]
