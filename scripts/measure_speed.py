"""Measure prompt and generation speed of every file side by side: rounds over all files, one sample each per round."""

import json
import logging
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from phase_twin.engine import ENVIRONMENT, override
from phase_twin.results import write_result
from phase_twin.rule import run_rule, run_tool
from phase_twin.run_facts import require_card

log = logging.getLogger("phase_twin")


def bench_command(
    program: str, case: dict[str, Any], n_prompt: int, n_gen: int, threads: int, depths: Sequence[int] = (0,)
) -> list[str]:
    """Return the llama-bench call for one sample of each test, with each of `depths` tokens in the context before."""
    command = [program, "-m", case["file"], "-p", str(n_prompt), "-n", str(n_gen), "-t", str(threads)]
    command += ["-d", ",".join(map(str, depths)), "-r", "1", "-o", "jsonl"]
    return command + (override("default", case["variant"]) if case["variant"] is not None else [])


def parse_entries(output: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read llama-bench's lines of JSON among its messages: the test's name (pp512, tg128) and what is said of it."""
    for entry in (json.loads(line) for line in output.splitlines() if line.startswith('{"')):
        yield f"pp{entry['n_prompt']}" if entry["n_prompt"] else f"tg{entry['n_gen']}", entry


def parse_samples(output: str) -> list[dict[str, Any]]:
    """Return test, depth, t/s and device of each of llama-bench's lines."""
    samples = []
    for test, entry in parse_entries(output):
        device = entry["gpu_info"] or entry["cpu_info"]
        sample = {"test": test, "depth": entry["n_depth"], "t_s": entry["avg_ts"], "threads": entry["n_threads"]}
        samples.append(sample | {"device": device, "backend": entry["backends"], "is_card": bool(entry["gpu_info"])})
    return samples


Samples = dict[tuple[str, str, int], list[dict[str, Any]]]


def summarise(samples: Samples, files: dict[str, str]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the rounds, one row per label, test and depth."""
    rows = []
    for (label, test, depth), rounds in samples.items():
        speeds = [sample["t_s"] for sample in rounds]
        rows.append(
            {
                "file": files[label],
                "label": label,
                "backend": rounds[0]["backend"],
                "device": rounds[0]["device"],
                "threads": rounds[0]["threads"],
                "test": test,
                "depth": depth,
                "rounds": len(rounds),
                "t_s": round(statistics.mean(speeds), 3),
                "stddev": round(statistics.stdev(speeds), 3),
            }
        )
    return rows


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    cases = snakemake.params.cases
    params = snakemake.params
    settings = (params.n_prompt, params.n_gen, snakemake.threads, params.depths)
    samples: Samples = {}
    Path(snakemake.log.tool).unlink(missing_ok=True)
    for number in range(params.repetitions):
        for case in cases:
            log.info("round %d of %d: %s", number + 1, params.repetitions, case["label"])
            command = bench_command(snakemake.input.program, case, *settings)
            for sample in parse_samples(run_tool(command, snakemake.log.tool, env=ENVIRONMENT, append=True)):
                require_card(params.backend, sample["device"], sample["is_card"])
                samples.setdefault((case["label"], sample["test"], sample["depth"]), []).append(sample)
    rows = summarise(samples, {case["label"]: case["file"] for case in cases})
    write_result(snakemake.output.speed, rows, snakemake)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
