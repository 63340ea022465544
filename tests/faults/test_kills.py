"""SIGKILL at random points of a whole run, which then goes on as if nothing had been."""

import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from small_run import KILLS, MODELS, MORE_KILLS, RESULTS, RUN, leftovers, made_models, new_project

SEED = 7


class Run:
    """A run of the pipeline in a session of its own."""

    def __init__(self, project: Path) -> None:
        self.log = project / "run.log"
        with open(self.log, "wb") as log:
            command = [sys.executable, "-m", "snakemake", *RUN]
            self.process = subprocess.Popen(command, cwd=project, stdout=log, stderr=log, start_new_session=True)

    def jobs(self) -> list[psutil.Process]:
        """The shells that Snakemake started, one per running job."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children()
        return []

    def wait_for(self, finished: int) -> bool:
        """Wait until so many jobs have finished and one runs; False if the run ended before."""
        while self.process.poll() is None:
            if self.log.read_bytes().count(b"Finished jobid") >= finished and self.jobs():
                return True
            time.sleep(0.05)
        return False

    def kill(self, what: str, chance: random.Random) -> str | None:
        """Kill the whole pipeline, a rule with all it started, or only its tool; return the rule, if one was hit."""
        hit = [job for job in self.jobs() if what != "pipeline"]
        if not hit:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            return None
        job = chance.choice(hit)
        with suppress(psutil.NoSuchProcess):
            family = [job, *job.children(recursive=True)]
            name = re.search(r"(\w+)\.py", " ".join(word for one in family for word in one.cmdline()))
            for one in family[-1:] if what == "tool" else family:
                one.kill()
            return name[1] if name else "a shell"
        return None


def test_a_whole_run_in_odd_surroundings(undisturbed):
    """See `run_in_an_odd_place`."""
    assert len(made_models(undisturbed)) == 9
    assert leftovers(undisturbed) == []


def test_kills_change_nothing(undisturbed, tmp_path):
    """The same files as without any, and nothing half done beside them."""
    kills = int(os.environ.get(MORE_KILLS, KILLS))
    project, chance = new_project(tmp_path / "project"), random.Random(SEED)
    hits: Counter[str] = Counter()
    for number in itertools.count():
        if hits.total() >= kills:
            break
        run = Run(project)
        # one in five may be hit while it starts
        if number % 5 and not run.wait_for(number % 4 == 3):
            assert run.process.returncode == 0, run.log.read_text()[-3000:]
            for folder in (RESULTS, MODELS):  # all is made: from the start again
                shutil.rmtree(project / folder)
            continue
        time.sleep(chance.uniform(0, 2))
        if run.process.poll() is None:
            hits[run.kill(("pipeline", "rule", "tool")[number % 3], chance) or "pipeline"] += 1
        run.process.wait(120)
        assert "cannot be locked" not in run.log.read_text()
    run = Run(project)
    assert run.process.wait(240) == 0, run.log.read_text()[-3000:]
    assert len(hits) >= 5, hits
    assert made_models(project) == made_models(undisturbed)
    assert leftovers(project) == []
