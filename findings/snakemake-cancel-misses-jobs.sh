#!/usr/bin/env bash
# snakemake-interface-executor-plugins 9.4.0 (PyPI), what snakemake 9.27.1 cancels on a cluster after Ctrl-C.
#
# RemoteExecutor takes all jobs off its list while it asks how they do, and puts back what still runs after the last.
# cancel() reads that list: in between no cancel command is run, nothing says so, and all jobs go on. With many jobs
# that is most of the time, where they are asked one by one (cluster-generic does, 10 in a second at most). Who starts
# again with --rerun-incomplete has two jobs that write the same files.
#
# Seen, cluster-generic 1.0.9, 6 jobs: SIGINT between two checks: 6 cancelled; during a check: 0 cancelled
# Way out: after Ctrl-C look in the scheduler for what is left. Exits with 1 once that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check snakemake==9.27.1 snakemake-executor-plugin-cluster-generic==1.0.9 snakemake-interface-executor-plugins==9.4.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import signal
import subprocess
import sys
import time
from pathlib import Path

# a cluster whose jobs never end; how they do it tells once there is a file `answer`
CLUSTER = {"submit": "echo >>submitted; wc -l <submitted", "cancel": 'printf "%s\\n" "$@" >>cancelled'}
CLUSTER |= {"status": "echo >>asked; until [ -e answer ]; do sleep 0.1; done; echo running"}
RULES = 'rule:\n    output: "{x}"\n    shell: "touch {output}"\n'
COMMAND = [f"{sys.prefix}/bin/snakemake", *"abcdef", "--jobs", "6", "--seconds-between-status-checks", "20"]
COMMAND += ["--executor", "cluster-generic", *(f"--cluster-generic-{name}-cmd=./{name}" for name in CLUSTER)]
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell has it ignored by what runs in the background


def cancelled(folder, asked, answer):
    texts = {name: f"#!/bin/sh\n{line}\n" for name, line in CLUSTER.items()} | {"Snakefile": RULES}
    texts |= dict.fromkeys(["submitted", "asked", "cancelled", "log"] + ["answer"] * answer, "")
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    run = subprocess.Popen(COMMAND, cwd=folder, stderr=(folder / "log").open("w"))
    count = lambda name, text="\n": (folder / name).read_text().count(text)
    while count("asked") < asked or count("submitted") < 6:
        assert run.poll() is None, (folder / "log").read_text()
        time.sleep(0.1)
    time.sleep(2)
    run.send_signal(signal.SIGINT)
    while not count("log", "Terminating processes on user request"):
        time.sleep(0.1)
    time.sleep(2)
    (folder / "answer").touch()
    run.wait()
    return count("cancelled")


found = [cancelled(Path("between"), asked=6, answer=True), cancelled(Path("during"), asked=1, answer=False)]
print("SIGINT between two checks: {} cancelled; during a check: {} cancelled".format(*found))
sys.exit(0 if found == [6, 0] else "it behaves otherwise now")
PYTHON
