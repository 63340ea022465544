#!/usr/bin/env python3
"""Submit a job script as a Kubernetes Job, ask how it does, or cancel it, with kubectl.

usage: job.py submit --cpu N --memory-mb N --minutes N SCRIPT   (prints the job's name)
       job.py status NAME                                       (prints running, success or failed)
       job.py cancel NAME...

PHASE_TWIN_IMAGE   image with the Python that made .venv, and a compiler for the engine
PHASE_TWIN_CLAIM   PersistentVolumeClaim (ReadWriteMany) that holds the project's folder, mounted at the same path
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def manifest(script: Path, image: str, claim: str, cpu: int, memory_mb: int, minutes: int) -> dict[str, Any]:
    """Return the Job that runs a script of the project's folder; snakemake repeats what fails, not Kubernetes."""
    folder = str(Path.cwd())
    size = {"cpu": str(cpu), "memory": f"{memory_mb}M"}
    container = {
        "name": "job",
        "image": image,
        "command": ["/bin/sh", str(script.resolve())],
        "workingDir": folder,
        # memory is a limit too: without one a job can take down its node
        "resources": {"requests": size, "limits": {"memory": size["memory"]}},
        "volumeMounts": [{"name": "project", "mountPath": folder}],
    }
    pod = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "project", "persistentVolumeClaim": {"claimName": claim}}],
    }
    spec = {"backoffLimit": 0, "activeDeadlineSeconds": 60 * minutes, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"generateName": "phase-twin-"}, "spec": spec}


def state(job: dict[str, Any]) -> str:
    """Return what snakemake calls the state of a Job."""
    conditions = job.get("status", {}).get("conditions", [])
    ended = {condition["type"] for condition in conditions if condition["status"] == "True"}
    if "Complete" in ended:
        return "success"
    return "failed" if "Failed" in ended else "running"


def kubectl(*arguments: str, stdin: str = "") -> str:
    """Run kubectl and return what it prints; exit with its message where it fails."""
    try:
        done = subprocess.run(["kubectl", *arguments], input=stdin, text=True, capture_output=True)
    except FileNotFoundError:
        sys.exit("job.py: kubectl is not on the PATH")
    if done.returncode:
        sys.exit(f"job.py: kubectl {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def setting(name: str) -> str:
    """Return a variable that must be set."""
    return os.environ.get(name) or sys.exit(
        f"job.py: {name} is not set; the head of profiles/kubernetes/job.py says more"
    )


def main() -> None:
    """Map the command line to the functions above."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    submit = commands.add_parser("submit")
    for option in ("--cpu", "--memory-mb", "--minutes"):
        submit.add_argument(option, type=int, required=True)
    submit.add_argument("script", type=Path)
    commands.add_parser("status").add_argument("name")
    commands.add_parser("cancel").add_argument("name", nargs="+")
    args = parser.parse_args()
    if args.command == "submit":
        image, claim = setting("PHASE_TWIN_IMAGE"), setting("PHASE_TWIN_CLAIM")
        job = manifest(args.script, image, claim, args.cpu, args.memory_mb, args.minutes)
        print(kubectl("create", "-f", "-", "-o", "jsonpath={.metadata.name}", stdin=json.dumps(job)))
    elif args.command == "status":
        print(state(json.loads(kubectl("get", "job", args.name, "-o", "json"))))
    else:
        kubectl("delete", "job", "--ignore-not-found", *args.name)


if __name__ == "__main__":
    main()
