"""Measure prompt and generation speed of every file side by side: rounds over all files, one sample each per round."""

import json
import logging
import statistics
from pathlib import Path
from typing import Any

from phase_twin.engine import ENVIRONMENT, override
from phase_twin.files import write_text
from phase_twin.rule import run_rule, run_tool

log = logging.getLogger("phase_twin")


def bench_command(program: str, case: dict[str, Any], n_prompt: int, n_gen: int, threads: int) -> list[str]:
    """Return the llama-bench call for one sample of each test."""
    command = [program, "-m", case["file"], "-p", str(n_prompt), "-n", str(n_gen), "-t", str(threads)]
    command += ["-r", "1", "-o", "jsonl"]
    return command + (override("default", case["variant"]) if case["variant"] is not None else [])


def parse_samples(output: str) -> list[dict[str, Any]]:
    """Read llama-bench's lines of JSON among its messages: per test its name (pp512, tg128), t/s and device."""
    samples = []
    for entry in (json.loads(line) for line in output.splitlines() if line.startswith('{"')):
        test = f"pp{entry['n_prompt']}" if entry["n_prompt"] else f"tg{entry['n_gen']}"
        device = entry["gpu_info"] or entry["cpu_info"]
        samples.append({"test": test, "t_s": entry["avg_ts"], "device": device, "backend": entry["backends"]})
    return samples


def summarise(samples: dict[tuple[str, str], list[dict[str, Any]]], files: dict[str, str]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the rounds, one row per label and test."""
    rows = []
    for (label, test), rounds in samples.items():
        speeds = [sample["t_s"] for sample in rounds]
        rows.append(
            {
                "file": files[label],
                "label": label,
                "backend": rounds[0]["backend"],
                "device": rounds[0]["device"],
                "test": test,
                "t_s": round(statistics.mean(speeds), 3),
                "stddev": round(statistics.stdev(speeds), 3),
            }
        )
    return rows


def main(snakemake: Any) -> None:
    """Map the rule to the functions above."""
    cases = snakemake.params.cases
    settings = (snakemake.params.n_prompt, snakemake.params.n_gen, snakemake.threads)
    samples: dict[tuple[str, str], list[dict[str, Any]]] = {}
    Path(snakemake.log.tool).unlink(missing_ok=True)
    for number in range(snakemake.params.repetitions):
        for case in cases:
            log.info("round %d of %d: %s", number + 1, snakemake.params.repetitions, case["label"])
            command = bench_command(snakemake.input.program, case, *settings)
            for sample in parse_samples(run_tool(command, snakemake.log.tool, env=ENVIRONMENT, append=True)):
                samples.setdefault((case["label"], sample["test"]), []).append(sample)
    rows = summarise(samples, {case["label"]: case["file"] for case in cases})
    write_text(snakemake.output.speed, json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
