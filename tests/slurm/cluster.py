"""A Slurm cluster of several nodes on this machine: own folder, own ports, nothing of it is left behind."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo")

# accounting is what a small cluster does without: the profile asks squeue. A dead node is noticed after SlurmdTimeout.
CONFIGURATION = """\
ClusterName=phase-twin
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=15
MinJobAge=86400
MailProg=/bin/true
PartitionName=all Nodes=ALL Default=YES State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=1 RealMemory=8000\n"


@dataclass(frozen=True)
class Job:
    """A line of squeue: state, node (none while it waits), and the plugin's comment, rule and wildcards."""

    id: str
    state: str
    node: str
    comment: str
    exclusive: bool


class Cluster:
    """Use as a context manager; `environment` is what programs need to find the cluster."""

    def __init__(self, folder: Path, nodes: tuple[str, ...]) -> None:
        self.folder, self.nodes = folder, nodes
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        host = socket.gethostname().partition(".")[0]
        ports = iter(free_ports(1 + len(self.nodes)))
        text = CONFIGURATION.format(folder=self.folder, host=host, port=next(ports))
        text += "".join(NODE.format(name=name, host=host, port=next(ports)) for name in self.nodes)
        (self.folder / "slurm.conf").write_text(text)
        # the plugin takes this variable from srun, which elsewhere finds the file in /etc
        srun = self.folder / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(64))
        try:
            own = {"socket": "munge.socket", "key-file": key.name, "pid-file": "munged.pid", "seed-file": "munged.seed"}
            files = [f"--{option}={self.folder / name}" for option, name in (own | {"log-file": "munged.log"}).items()]
            self._start("munged", "munged", "--foreground", "--force", *files)
            self._until((self.folder / "munge.socket").exists, "munged has not made its socket")
            self._start("slurmctld", "slurmctld", "-D")
            for node in self.nodes:
                self.start_node(node)
            self._until(lambda: self._idle() == set(self.nodes), "the nodes have not come up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(self.daemons):
            self.daemons[name].terminate()
        for process in self.daemons.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
        # daemons that did not obey, job steps, and the run that sent them
        kill(self._processes())
        for process in self.daemons.values():
            process.wait()

    def start_node(self, node: str) -> None:
        """Start the daemon of a node, also of one that died."""
        self._start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Let a node die as in a power cut: its daemon and all that runs on it."""
        steps = tuple(f"slurmstepd: [{job.id}." for job in self.jobs() if job.state == "RUNNING" and job.node == node)
        self.daemons[node].kill()
        self.daemons[node].wait()
        name = f"SLURMD_NODENAME={node}"
        kill(pid for pid in self._processes() if name in variables(pid) or command(pid).startswith(steps))

    def jobs(self) -> list[Job]:
        """Return all jobs since the start."""
        lines = self._ask("squeue", "--states=all", "--noheader", "--format=%i|%T|%N|%k|%h").splitlines()
        fields = [line.split("|") for line in lines]
        return [Job(*values[:4], exclusive=values[4] == "NO") for values in fields]

    def _start(self, name: str, *command: str) -> None:
        with open(self.folder / f"{name}.out", "ab") as out:
            self.daemons[name] = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )

    def _ask(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, check=True, text=True, stdout=subprocess.PIPE, timeout=60
        ).stdout

    def _idle(self) -> set[str]:
        with suppress(subprocess.CalledProcessError):
            return set(self._ask("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N").split())
        return set()

    def _until(self, ready, complaint: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not ready():
            logs = [*self.folder.glob("*.out"), *self.folder.glob("*.log")]
            tails = "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1000:]}" for log in logs)
            assert time.monotonic() < end, f"{complaint}\n{tails}"
            time.sleep(0.3)

    def _processes(self) -> Iterator[int]:
        """Return whatever was started for this cluster: its configuration is in no other environment."""
        mark = f"SLURM_CONF={self.environment['SLURM_CONF']}"
        return (int(entry.name) for entry in Path("/proc").glob("[0-9]*") if mark in variables(int(entry.name)))


def variables(pid: int) -> list[str]:
    """Return the environment of a process; nothing where it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    return []


def command(pid: int) -> str:
    """Return the command line of a process, which slurmstepd replaces by the job and step it serves."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""


def kill(pids: Iterator[int]) -> None:
    """Send SIGKILL to all of them."""
    for pid in list(pids):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
