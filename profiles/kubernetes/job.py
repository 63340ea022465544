#!/usr/bin/env python3
"""Submit a job script as a Kubernetes Job, or ask how it does, with kubectl; cancel.sh beside it cancels.

usage: job.py submit --cpu N --memory-mb N --minutes N --gpu N --exclusive 0|1 SCRIPT   (prints the job's name)
       job.py status NAME                                        (prints running, success or failed)

PHASE_TWIN_IMAGE   image with the Python that made .venv, and a compiler for the engine
PHASE_TWIN_CLAIM   PersistentVolumeClaim (ReadWriteMany) that holds the project's folder, mounted at the same path
PHASE_TWIN_GPU     where engine.backend is not cpu: what the device plugin calls a card, for example gpu.intel.com/xe
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# on every Job, to find them all by, and on every pod, for those that must not share a node with another
LABELS = {"app.kubernetes.io/name": "phase-twin"}


def manifest(script: Path, cpu: int, memory_mb: int, minutes: int, gpu: int, exclusive: bool) -> dict[str, Any]:
    """Return the Job that runs a script of the project's folder; snakemake repeats what fails, not Kubernetes.

    An exclusive pod gets a node where no other of this pipeline is, and keeps others away while it runs.
    """
    folder = str(Path.cwd())
    size = {"cpu": str(cpu), "memory": f"{memory_mb}M"}
    cards = {setting("PHASE_TWIN_GPU"): str(gpu)} if gpu else {}
    container = {
        "name": "job",
        "image": setting("PHASE_TWIN_IMAGE"),
        "command": ["/bin/sh", str(script.resolve())],
        "workingDir": folder,
        # memory is a limit too: without one a job can take down its node
        "resources": {"requests": size, "limits": {"memory": size["memory"]} | cards},
        "volumeMounts": [{"name": "project", "mountPath": folder}],
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        # of the pod, not of the Job: that would count the time in which it waits for a node
        "activeDeadlineSeconds": 60 * minutes,
        "containers": [container],
        "volumes": [{"name": "project", "persistentVolumeClaim": {"claimName": setting("PHASE_TWIN_CLAIM")}}],
    }
    if exclusive:
        beside = {"labelSelector": {"matchLabels": LABELS}, "topologyKey": "kubernetes.io/hostname"}
        pod["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [beside]}}
    template = {"metadata": {"labels": LABELS}, "spec": pod}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": "phase-twin-", "labels": LABELS},
        "spec": {"backoffLimit": 0, "template": template},
    }


def state(job: dict[str, Any] | None) -> str:
    """Return what snakemake calls the state of a Job; None: somebody has deleted it."""
    if job is None:
        return "failed"
    conditions = job.get("status", {}).get("conditions", [])
    ended = {condition["type"] for condition in conditions if condition["status"] == "True"}
    if "Complete" in ended:
        return "success"
    return "failed" if "Failed" in ended else "running"


class NoAnswerError(Exception):
    """kubectl has failed; its message."""


def kubectl(*arguments: str, stdin: str = "") -> str:
    """Run kubectl and return what it prints.

    Raises
    ------
    NoAnswerError
        if it fails.
    """
    try:
        done = subprocess.run(["kubectl", *arguments], input=stdin, text=True, capture_output=True)
    except FileNotFoundError:
        sys.exit("job.py: kubectl is not on the PATH")
    if done.returncode:
        raise NoAnswerError(f"job.py: kubectl {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def submit(job: dict[str, Any]) -> str:
    """Return the name of the new Job; exit with kubectl's message where there is none."""
    try:
        return kubectl("create", "-f", "-", "-o", "jsonpath={.metadata.name}", stdin=json.dumps(job))
    except NoAnswerError as error:
        sys.exit(str(error))


def ask(name: str) -> str:
    """Return the state of a Job, which goes on running while the cluster does not answer.

    An error here would end the whole run of snakemake and leave all its Jobs behind.
    """
    try:
        answer = kubectl("get", "job", name, "--ignore-not-found", "-o", "json")
    except NoAnswerError as error:
        print(f"{error}; asked again later", file=sys.stderr)
        return "running"
    return state(json.loads(answer) if answer.strip() else None)


def setting(name: str) -> str:
    """Return a variable that must be set."""
    return os.environ.get(name) or sys.exit(
        f"job.py: {name} is not set; the head of profiles/kubernetes/job.py says more"
    )


def main() -> None:
    """Map the command line to the functions above."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    submission = commands.add_parser("submit")
    for option in ("--cpu", "--memory-mb", "--minutes", "--gpu", "--exclusive"):
        submission.add_argument(option, type=int, required=True)
    submission.add_argument("script", type=Path)
    commands.add_parser("status").add_argument("name")
    args = parser.parse_args()
    if args.command == "submit":
        print(submit(manifest(args.script, args.cpu, args.memory_mb, args.minutes, args.gpu, bool(args.exclusive))))
    else:
        print(ask(args.name))


if __name__ == "__main__":
    main()
