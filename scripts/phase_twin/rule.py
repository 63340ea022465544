"""How a rule script starts, logs, calls tools and ends."""

import logging
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prune_dual import GgufError

from .errors import UserError
from .files import KEPT, as_user_error, write_text

log = logging.getLogger("phase_twin")

TAIL_LINES = 15
# what a signal that ends a tool mostly means
SIGNALS = {
    signal.SIGKILL: f"; most likely memory ran out: free some, or lower --cores, and {KEPT}",
    signal.SIGBUS: "; an input became shorter while it was read, or the disk fails",
}


def setup_logging(log_file: str | None) -> None:
    """Send records to stderr and, if given, to `log_file` (truncated first)."""
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_file:
        Path(log_file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, mode="w", encoding="utf-8"))
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        handlers=handlers,
        force=True,
    )


def run_rule(main: Callable[[Any], None], snakemake: Any) -> None:
    """Run `main(snakemake)` with logging; exit 1 with one line on a UserError or a GGUF file that cannot be read.

    An input that changes meanwhile, or a fault of the machine such as a full disk, is one line too. Any other exception
    is a defect of ours: its traceback goes to the log and to stderr.
    """
    setup_logging(snakemake.log[0] if len(snakemake.log) else None)
    started = time.monotonic()
    try:
        before = _states(snakemake.input)
        main(snakemake)
        for path, state in _states(snakemake.input).items():
            if state != before[path]:
                raise UserError(f"{path}: changed while it was read; run again when nothing writes to it")
        if path := snakemake.params.get("benchmark"):
            write_benchmark(path, time.monotonic() - started)
    except (UserError, GgufError) as error:
        log.error("%s: %s", snakemake.rule, error)
        sys.exit(1)
    except Exception as error:
        if isinstance(error, OSError) and (told := as_user_error(error, "a file that it writes")):
            log.error("%s: %s", snakemake.rule, told)
            sys.exit(1)
        log.exception("%s: unexpected error", snakemake.rule)
        sys.exit(1)


def write_benchmark(path: str, seconds: float) -> None:
    """Write what Snakemake's benchmark files say, of this process and the tools it ran: s, MiB, seconds of CPU time."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak = max(usage.ru_maxrss for usage in usages) / 1024
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    write_text(path, f"s\tmax_rss\tcpu_time\n{seconds:.4f}\t{peak:.2f}\t{cpu:.2f}\n")


def _states(paths: Iterable[str]) -> dict[str, tuple[int, int] | None]:
    """Size and time of each file, None for what is not there."""
    stats = {path: os.stat(path) if os.path.exists(path) else None for path in paths}
    return {path: stat and (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def run_tool(
    command: Sequence[str | Path],
    tool_log: str | Path,
    *,
    progress: str | None = None,
    total: int | None = None,
    label: str | None = None,
    env: dict[str, str] | None = None,
    append: bool = False,
    seconds: float | None = None,
) -> str:
    """Run a program with its output, stdout and stderr, in `tool_log` and return that output.

    Parameters
    ----------
    progress
        pattern whose group `done` (and `total`, if not given here) is shown as a bar while the program runs.
    label
        what the bar calls the step; the program's name by default.
    env
        variables to set beside the inherited ones.
    append
        keep what `tool_log` already holds.
    seconds
        after which the program is killed.

    Raises
    ------
    UserError
        if the program is missing or fails; carries the last lines of its output.
    """
    argv = [str(part) for part in command]
    name = Path(argv[0]).name
    log.info("run: %s", shlex.join(argv))
    Path(tool_log).parent.mkdir(parents=True, exist_ok=True)
    output = bytearray()
    pattern = re.compile(progress) if progress else None
    with open(tool_log, "ab" if append else "wb") as sink, Progress(label or name) as bar:
        try:
            process = subprocess.Popen(
                argv,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise UserError(f"cannot start {argv[0]}: {error.strerror}") from error
        assert process.stdout is not None
        timer = threading.Timer(seconds or 0, process.kill)
        if seconds is not None:
            timer.start()
        while chunk := process.stdout.read1(1 << 16):
            sink.write(chunk)
            sink.flush()
            output += chunk
            # a number may be cut by the end of the chunk before
            matches = list(pattern.finditer(output[-len(chunk) - 100 :].decode("utf-8", "replace"))) if pattern else []
            if matches:
                found = matches[-1].groupdict()
                bar.show(int(found["done"]), int(found["total"]) if "total" in found else total)
        code = process.wait()
        late = seconds is not None and not timer.is_alive()
        timer.cancel()
    text = output.decode("utf-8", "replace")
    if code != 0:
        how = f"killed by signal {-code}{SIGNALS.get(-code, '')}" if code < 0 else f"exit code {code}"
        how = f"killed after {seconds:g} seconds" if late else how
        tail = "\n  ".join(re.split(r"[\r\n]+", text.strip())[-TAIL_LINES:])
        raise UserError(f"{name} failed ({how}); its log is {tool_log} and ends:\n  {tail}")
    return text


class Progress:
    """How much is done of how much: a bar on a terminal, a line of the log now and then elsewhere."""

    SECONDS = 20  # between two lines

    def __init__(self, name: str) -> None:
        self.name = name
        self.bar: tqdm | None = None
        self.told = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, done: int, total: int | None) -> None:
        """Move to `done`."""
        if sys.stderr.isatty():
            self.bar = self.bar or tqdm(desc=self.name, unit_scale=True, file=sys.stderr)
            self.bar.total = total
            self.bar.update(max(0, done - self.bar.n))
        elif time.monotonic() - self.told > self.SECONDS:
            self.told = time.monotonic()
            log.info("%s: %s", self.name, f"{done} of {total}" if total else done)
