"""Measure our types beside stock ones on a card, on models of full size: prompts and generation.

usage: dev/run bench_gpu --bin DIR --device NAME --template MODEL.gguf [--folder DIR] [--types T,...] [--rounds N]
                         [--set NAME=VALUE]... [--keep] [--out FILE.json]

DIR holds llama-bench, built with the card's backend; NAME is how `llama-bench --list-devices` calls the card; any model
of the architecture, such as that of config/nano.yaml, is the template. Models of 40 layers with random weights, experts
of the type and the rest Q6_K, are written to --folder (a RAM disk is fastest) one at a time, 14 to 19 GB; --keep keeps
them, and takes those that are there. Each round measures all types, each in a turn of its own; a row has the median
over all repeats, and how far apart the middle half of them is. --set puts a variable into the program's environment,
such as GGML_VK_DISABLE_COOPMAT=1. The samples are in --out after each type; a table for docs/gpu.md is printed.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
from datetime import date
from pathlib import Path

from markdown_table import markdown
from measure_speed import parse_entries
from phase_twin.errors import UserError
from phase_twin.files import write_text
from phase_twin.side_by_side import STOCK, spread, turn
from prune_dual import BLOCK_SIZES
from shape_model import LAYERS, TYPES, write_shape_model

log = logging.getLogger("bench_gpu")

KINDS = ("IQ3_A770", "IQ4_A770", *STOCK)
N_PROMPT, N_GEN, REPEATS = 512, 128, 10
TESTS = (f"pp{N_PROMPT}", f"tg{N_GEN}")

# tokens per second of all repeats, by type and test
Samples = dict[str, dict[str, list[float]]]


def run_bench(program: Path, device: str, model: Path, settings: dict[str, str]) -> str:
    """Return what llama-bench says of a model.

    Raises
    ------
    UserError
        if it cannot be started, or fails, with the end of its messages.
    """
    command = [program, "-m", model, "-p", N_PROMPT, "-n", N_GEN, "-r", REPEATS, "-ngl", 99, "-fa", 0, "-dev", device]
    words = [*map(str, command), "-o", "jsonl"]
    try:
        done = subprocess.run(words, env=os.environ | settings, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise UserError(f"cannot start {program}: {error.strerror}") from error
    if done.returncode:
        raise UserError(f"{program} failed (exit code {done.returncode}): {(done.stdout + done.stderr)[-500:]}")
    return done.stdout


def table(samples: Samples) -> str:
    """A row for each type."""
    rows = []
    for kind, of_tests in samples.items():
        weights, nbytes = BLOCK_SIZES[TYPES[kind]]
        speeds = [of_tests[test] for test in TESTS]
        row = [kind, f"{8 * nbytes / weights:.4g}"]
        rows.append(row + [f"{statistics.median(one):.0f} ± {50 * spread(one):.1f} %" for one in speeds])
    return markdown(["experts", "bits per weight", *TESTS], rows)


def parse_setting(text: str) -> tuple[str, str]:
    """Read NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text}: NAME=VALUE was expected")
    return name, value


def parse_types(text: str) -> list[str]:
    """Read names of types, separated by commas."""
    kinds = text.split(",")
    if unknown := sorted(set(kinds) - TYPES.keys()):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(TYPES)}")
    return kinds


def measure(arguments: argparse.Namespace) -> Samples:
    """Run all rounds."""
    settings = dict(arguments.set)
    samples: Samples = {kind: {} for kind in arguments.types}
    for number in range(arguments.rounds):
        for kind in turn(arguments.types, number):
            log.info("round %d of %d: %s", number + 1, arguments.rounds, kind)
            model = arguments.folder / f"bench-gpu-{kind}.gguf"
            try:
                if not model.exists():
                    write_shape_model(arguments.template, LAYERS, TYPES[kind], model, whole_vocabulary=True)
                output = run_bench(arguments.bin / "llama-bench", arguments.device, model, settings)
                for test, entry in parse_entries(output):
                    samples[kind].setdefault(test, []).extend(entry["samples_ts"])
            finally:
                if not arguments.keep:
                    model.unlink(missing_ok=True)
            if arguments.out:
                write_text(arguments.out, json.dumps({"settings": settings, "samples": samples}) + "\n")
    return samples


def main() -> None:
    """Map the command line to the functions above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--template", type=Path, required=True)
    parser.add_argument("--folder", type=Path, default=Path("."))
    parser.add_argument("--types", type=parse_types, default=list(KINDS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--set", type=parse_setting, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        samples = measure(arguments)
    except UserError as error:
        raise SystemExit(f"bench_gpu: {error}") from None
    set_to = "".join(f", {name}={value}" for name, value in arguments.set)
    print(f"{arguments.device}{set_to}, {date.today()}\n\n{table(samples)}")


if __name__ == "__main__":
    main()
