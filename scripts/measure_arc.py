"""Put a card to the test: operations, kernels used, speed, agreement with the CPU, all in one file to send back."""

import json
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from measure_quality import parse_summary, weight_facts
from measure_speed import bench_command, parse_samples
from phase_twin import arc
from phase_twin.backend_ops import OPERATIONS
from phase_twin.engine import BATCH, ENVIRONMENT, override
from phase_twin.errors import UserError
from phase_twin.files import write_text
from phase_twin.machine import describe_machine, hidden
from phase_twin.rule import run_rule, run_tool
from phase_twin.run_facts import TELL_DEVICES, chunks_taken, devices_and_threads, refuse_short, require_card
from prune_dual import Card, choose

log = logging.getLogger("phase_twin")

PHASES = (0, 1)
# a card that hangs must not keep the report from being finished
SECONDS = 1800
ON_CARD = ("-dev", arc.DEVICE, "-ngl", "999")
# what tells of drivers, and the lines that do
SYSTEM_PROGRAMS = {
    "sycl-ls": r"\[",
    "clinfo": r" *(Device (Name|Version)|Driver Version|Max compute units|Global memory size) ",
}


class Tool:
    """Runs programs, all into one log, and keeps what the last one printed, also if it failed."""

    def __init__(self, tool_log: str) -> None:
        self.log = Path(tool_log)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        self.output = ""

    def run(self, *command: str | Path, env: dict[str, str] | None = None) -> str:
        """Run a program and return its output; raise a UserError if it fails."""
        before = self.log.stat().st_size
        try:
            return run_tool(command, self.log, env=ENVIRONMENT | (env or {}), append=True, seconds=SECONDS)
        finally:
            self.output = self.log.read_bytes()[before:].decode("utf-8", "replace")


class Report:
    """The report, written anew after each part: a card may take the machine down with it."""

    def __init__(self, path: str, facts: dict[str, Any], hide: dict[str, dict[str, str]]) -> None:
        self.path, self.hide = path, hide
        self.data: dict[str, Any] = {**facts, "parts": []}
        self.write()

    def write(self) -> None:
        """Write it, without what tells who made it."""
        write_text(self.path, json.dumps(arc.scrub(self.data, **self.hide), indent=2) + "\n")

    def add(self, part: str, status: str, **found: Any) -> None:
        """Record what a part came to."""
        self.data["parts"].append({"part": part, "status": status, **found})
        self.write()

    def attempt(self, part: str, action: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        """Do a part and record what it found, or what it raised: the next part has its turn all the same."""
        log.info("%s", part)
        start = time.monotonic()
        try:
            found = action() or {}
        except Exception as error:
            told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            log.error("%s: %s", part, told)
            found = error.found if isinstance(error, arc.PartError) else {}
            self.add(part, "failed", seconds=round(time.monotonic() - start, 1), error=told, **found)
            return None
        self.add(part, "passed", seconds=round(time.monotonic() - start, 1), **found)
        return found

    def failed(self) -> list[str]:
        """Names of the parts that failed."""
        return [part["part"] for part in self.data["parts"] if part["status"] == "failed"]


# ---------------------------------------------------------------- the parts


def ask(tool: Tool, command: list[str], wanted: str) -> dict[str, Any]:
    """Return the lines that a program prints and that match."""
    lines = tool.run(*command).splitlines()
    return {"lines": [" ".join(line.split()) for line in lines if re.match(wanted, line)]}


def list_devices(tool: Tool, bench: str) -> dict[str, Any]:
    """Return the devices that the engine sees; the first one is put to the test."""
    devices = arc.parse_devices(tool.run(bench, "--list-devices"))
    if arc.DEVICE not in {device["name"] for device in devices}:
        raise arc.PartError(f"the engine sees no {arc.DEVICE}; is the card listed by sycl-ls?", {"devices": devices})
    cards = [card.device for card in choose([Card(it["description"], None, device=it["name"]) for it in devices])]
    if arc.DEVICE not in cards and cards:
        told = f"{arc.DEVICE} is integrated graphics beside {cards[0]}; hide it with ONEAPI_DEVICE_SELECTOR"
        raise arc.PartError(told, {"devices": devices})
    return {"devices": devices}


def compare_operation(tool: Tool, program: str, operation: str, mode: str) -> dict[str, Any]:
    """Compare one operation with the CPU's reference."""
    command = [program, "test", "-b", arc.DEVICE, "-o", operation, "-p", arc.TYPE_FILTER]
    told = None
    try:
        tool.run(*command, env=arc.MODES[mode])
    except UserError as error:
        told = str(error)
    found = arc.parse_operations(tool.output)
    if told:
        found["output"] = told.splitlines()
    arc.check_operations(found)
    if told:
        raise arc.PartError(told, found)
    return found


def count_kernels(tool: Tool, bench: str, twin: str, phase: int, mode: str, threads: int) -> dict[str, Any]:
    """Count which kernels a short run uses."""
    command = bench_command(bench, {"file": twin, "variant": phase}, 16, 16, threads)
    tool.run(*command, *ON_CARD, env=arc.MODES[mode] | {"GGML_SYCL_STATS": "1"})
    counts = arc.parse_stats(tool.output)
    arc.check_kernels(mode, counts)
    return {"kernels": counts}


def measure_round(tool: Tool, samples: arc.Samples, command: list[str], phase: int, mode: str) -> dict[str, Any]:
    """Take one sample of each test."""
    taken = {}
    ran: dict[str, Any] = {}
    for sample in parse_samples(tool.run(*command, *ON_CARD, env=arc.MODES[mode])):
        require_card("sycl", sample["device"], sample["is_card"])
        samples.setdefault((phase, mode, sample["test"]), []).append(sample["t_s"])
        taken[sample["test"]] = sample["t_s"]
        ran = {name: sample[name] for name in ("device", "threads")}
    if not taken:
        raise UserError("llama-bench printed no samples")
    return {"t_s": taken, **ran}


def write_logits(
    tool: Tool, program: str, twin: str, phase: int, logits: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """Write the CPU's logits of a phase; return how many chunks of the text they are over."""
    command = [program, "-m", twin, "-f", settings["corpus"], "-c", settings["n_ctx"], "--chunks", settings["chunks"]]
    command += [*BATCH, "-t", settings["threads"], "--kl-divergence-base", logits, *override("default", phase)]
    output = tool.run(*map(str, command))
    refuse_short(output, settings["corpus"], settings["n_ctx"], "bench.arc.chunks")
    return {"chunks": chunks_taken(output)}


def compare_logits(
    tool: Tool, program: str, twin: str, phase: int, path: str, logits: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """Compare the card's logits of a phase with the CPU's of the same phase."""
    command = [program, "-m", twin, "-c", settings["n_ctx"], *arc.PATHS[path], "-t", settings["threads"], *ON_CARD]
    command += [*TELL_DEVICES, "--kl-divergence", "--kl-divergence-base", logits, *override("default", phase)]
    output = tool.run(*map(str, command), env=arc.MODES["live"])
    facts = {"chunks": chunks_taken(output), **devices_and_threads(output)}
    row = parse_summary(output)
    arc.check_quality(row)
    return facts | row


def measure(report: Report, tool: Tool, programs: dict[str, str], twin: str, settings: dict[str, Any]) -> None:
    """Go through all parts."""
    attempt, threads = report.attempt, settings["threads"]
    for program, wanted in SYSTEM_PROGRAMS.items():
        if shutil.which(program):
            attempt(program, partial(ask, tool, [program], wanted))
        else:
            report.add(program, "skipped", error="not on the PATH")
    devices = attempt("devices", partial(list_devices, tool, programs["bench"]))
    if devices is None:
        report.add("all that needs the card", "skipped", error="no device")
        return
    device = next(device for device in devices["devices"] if device["name"] == arc.DEVICE)
    report.data["device"] = device["description"]
    # the backend prints its settings and the driver's version at its start
    command = [programs["test"], "test", "-b", arc.DEVICE, "-o", "NONE", "-p", "NONE"]
    attempt("backend", partial(ask, tool, command, r"\||  GGML_SYCL_\w+: "))
    for mode in arc.MODES:
        for operation in OPERATIONS:
            attempt(f"{operation}, {mode}", partial(compare_operation, tool, programs["test"], operation, mode))
    phases = []
    for phase in PHASES:
        facts = attempt(f"weights, phase {phase}", partial(weight_facts, twin, phase))
        if facts is None:
            continue
        if facts["bytes"] > device["mib"] * 2**20 > 0:
            told = f"{facts['bytes'] / 2**20:.0f} MiB of weights, {device['mib']} MiB of memory"
            report.add(f"phase {phase}", "skipped", error=told)
        else:
            phases.append(phase)
    for phase in phases:
        for mode in ("live", "dormant"):
            action = partial(count_kernels, tool, programs["bench"], twin, phase, mode, threads)
            attempt(f"kernels, phase {phase}, {mode}", action)
    measure_speeds(report, tool, programs["bench"], twin, phases, settings)
    with tempfile.TemporaryDirectory(dir=Path(report.path).parent, prefix=".logits-") as folder:
        for phase in phases:
            logits = Path(folder) / "logits"
            done = attempt(
                f"logits of the CPU, phase {phase}",
                partial(write_logits, tool, programs["cpu"], twin, phase, logits, settings),
            )
            for path in arc.PATHS if done is not None else ():
                action = partial(compare_logits, tool, programs["card"], twin, phase, path, logits, settings)
                attempt(f"card against CPU, phase {phase}, {path}", action)


def measure_speeds(
    report: Report, tool: Tool, bench: str, twin: str, phases: list[int], settings: dict[str, Any]
) -> None:
    """Measure live and dormant in turns; what fails once is left out of later rounds."""
    samples: arc.Samples = {}
    broken = set()
    for number in range(settings["repetitions"]):
        for phase in phases:
            for mode in arc.order_of_round(number):
                if (phase, mode) in broken:
                    continue
                tests = (settings["n_prompt"], settings["n_gen"], settings["threads"])
                command = bench_command(bench, {"file": twin, "variant": phase}, *tests)
                action = partial(measure_round, tool, samples, command, phase, mode)
                if report.attempt(f"speed, phase {phase}, {mode}, round {number + 1}", action) is None:
                    broken.add((phase, mode))
    report.data["speed"], report.data["ratios"] = arc.speed_rows(samples), arc.speed_ratios(samples)
    report.write()


def main(snakemake: Any) -> None:
    """Map the rule to the functions above.

    Raises
    ------
    UserError
        if a part failed: the report, which is among the rule's logs, is kept.
    """
    engine = json.loads(Path(snakemake.input.facts).read_text())
    twin = str(snakemake.input.twin)
    facts = {
        "format": 1,
        "phase_twin": snakemake.params.version,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": snakemake.params.title,
        "twin": {"file": Path(twin).name, "bytes": Path(twin).stat().st_size},
        "machine": describe_machine(),
        "engine": {key: engine[key] for key in ("tag", "commit", "patch_sha256", "backend", "compiler", "flags")},
    }
    report = Report(snakemake.log.report, facts, hidden())
    programs = {name: snakemake.input[name] for name in ("bench", "test", "card", "cpu")}
    settings = {
        "corpus": snakemake.input.corpus,
        "threads": snakemake.threads,
        **{name: snakemake.params[name] for name in ("n_ctx", "chunks", "n_prompt", "n_gen", "repetitions")},
    }
    report.data["settings"] = {name: value for name, value in settings.items() if name != "corpus"}
    measure(report, Tool(snakemake.log.tool), programs, twin, settings)
    text = arc.scrub(arc.summary(report.data), **report.hide)
    log.info("%s", text)
    if failed := report.failed():
        raise UserError(
            f"{len(failed)} of {len(report.data['parts'])} parts failed; {report.path} says how: send it back"
        )
    write_text(snakemake.output.summary, text)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
