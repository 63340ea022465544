"""Measure our types and stock ones on the CPU: rounds of one sample each, until the ratios asked for spread little."""

import logging
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measure_speed import bench_command, parse_samples
from phase_twin.active_weights import of_one_token
from phase_twin.engine import ENVIRONMENT
from phase_twin.results import write_result
from phase_twin.rule import run_rule, run_tool
from phase_twin.side_by_side import (
    DECODE,
    DOT,
    IN_PLACE,
    KINDS,
    N_GEN,
    N_PROMPT,
    PROMPT,
    Round,
    missed,
    parse_bandwidth,
    parse_buffers,
    parse_cycles,
    ratio_rows,
    speed_rows,
    tests_of,
    turn,
    unsettled,
)
from prune_dual import Gguf

log = logging.getLogger("phase_twin")

# eight rows of gate or up, which fit the first-level cache with what they are multiplied with
DOT_FLAGS = ("--op", "vec_dot_q", "--size", "16384", "--row-size", "2048", "-i", "50000")
STREAM_MIB, STREAM_PASSES = 1024, 5


class Bench:
    """Runs the programs, all into one log."""

    def __init__(self, snakemake: Any) -> None:
        self.programs = snakemake.input
        self.models = dict(zip(KINDS, snakemake.input.models, strict=True))
        self.threads = snakemake.threads
        self.log = snakemake.log.tool
        Path(self.log).unlink(missing_ok=True)
        self.ran: dict[str, Any] = {}

    def run(self, *command: str) -> str:
        """Run a program and return what it prints."""
        return run_tool(command, self.log, env=ENVIRONMENT, append=True)

    def bench(self, kind: str, n_prompt: int, n_gen: int, *flags: str) -> str:
        """Run llama-bench on mapped weights, as llama.cpp does by itself."""
        case = {"file": self.models[kind], "variant": None}
        command = bench_command(self.programs.bench, case, n_prompt, n_gen, self.threads)
        # elsewhere than in repacked rows planes stay where they are in the file
        return self.run(*command, "-lm", "mmap", "--repack", "0" if kind == IN_PLACE else "1", *flags)

    def buffers(self, kind: str) -> dict[str, float]:
        """MiB of weights per kind of buffer; brings the file into memory, too."""
        return parse_buffers(self.bench(kind, 0, 1, "-v"))

    def round(self, number: int) -> Round:
        """Take one sample of everything."""
        stream = self.run(self.programs.stream, str(self.threads), str(STREAM_MIB), str(STREAM_PASSES))
        samples: dict[str, dict[str, float]] = {DOT: {}, PROMPT: {}, DECODE: {}}
        for kind in turn(list(self.models), number):
            # as the engine calls it: q3_K, iq3_s
            name = kind.lower().replace("_k", "_K")
            if DOT in tests_of(kind):
                samples[DOT][kind] = parse_cycles(self.run(self.programs.kernels, *DOT_FLAGS, "--type", name))
            for sample in parse_samples(self.bench(kind, N_PROMPT, N_GEN)):
                samples[sample["test"]][kind] = sample["t_s"]
                self.ran = {name: sample[name] for name in ("device", "threads")}
        return Round(parse_bandwidth(stream), samples)


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    bench, params = Bench(snakemake), snakemake.params
    buffers = {kind: bench.buffers(kind) for kind in bench.models}
    rounds: list[Round] = []
    wide = ["no round"]
    while wide and len(rounds) < params.max_rounds:
        log.info("round %d, %d at the most", len(rounds) + 1, params.max_rounds)
        rounds.append(bench.round(len(rounds)))
        used = rounds[-params.rounds :]
        wide = unsettled(used, params.spread) if len(used) == params.rounds else ["too few rounds"]
        log.info("spread above %g %%: %s", 100 * params.spread, ", ".join(wide) or "none")
    if wide:
        log.warning("the machine did not come to rest in %d rounds: all of them count", len(rounds))
        used = rounds
    nbytes = {
        kind: int(of_one_token(Gguf.read(model), lambda tensor: tensor.nbytes)) for kind, model in bench.models.items()
    }
    ratios = ratio_rows(used, nbytes)
    for row in ratios:
        compared = (row["type"], row["test"], row["base"])
        log.info("%s %s / %s: %.3f, spread %.1f %%", *compared, row["ratio"], 100 * row["spread"])
    log.info("asked and not reached: %s", ", ".join(missed(ratios)) or "nothing")
    report = {
        "models": snakemake.wildcards.form,
        **bench.ran,
        "spread_limit": params.spread,
        "settled": not wide,
        "rounds_measured": len(rounds),
        "rounds_used": len(used),
        "read_gb_s": statistics.median(one.gb_s for one in used),
        "types": [row | {"buffers_mib": buffers[row["type"]]} for row in speed_rows(used, nbytes)],
        "ratios": ratios,
        "samples": [asdict(one) for one in rounds],
    }
    write_result(snakemake.output.report, report, snakemake)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
