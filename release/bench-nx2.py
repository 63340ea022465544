#!/usr/bin/env python3
"""Take samples of a twin's speed in turns and write them as a row: what bench-nx2.sh starts.

Backend, device, file and phase are chosen by run-nx2.sh, which starts the engine's programs. The row says what was
measured and on what, and nothing that tells who or where: docs/speed.md of the project describes it.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# not where a link leads: the hub's cache is made of links
HERE = Path(__file__).absolute().parent
FORMAT = 1
PHASES = {"off": "small phase", "on": "large phase"}
# per backend, how experts are computed: as the engine does it, and with experts as they are in the file. Every switch
# is given, so that what the user's shell sets does not matter. Other backends have one way.
SYCL_SWITCHES = (
    "GGML_SYCL_MOE_REORDER",
    "GGML_SYCL_MOE_FUSE",
    "GGML_SYCL_MOE_GROUPED",
    "GGML_SYCL_MAT_VEC_F32",
    "GGML_FUSION_OFF",
)
PATHS: dict[str, dict[str, tuple[dict[str, str], list[str]]]] = {
    "SYCL": {
        path: (dict(zip(SYCL_SWITCHES, values, strict=True)), [])
        for path, values in (("live", ("1", "1", "1", "1", "")), ("dormant", ("0", "0", "1", "0", "all")))
    },
    "CPU": {path: ({}, ["--repack", on]) for path, on in (("live", "1"), ("dormant", "0"))},
}
# OpenMP threads that spin on a core which something else uses slow everything 20 x; without that, this changes nothing
CALM = {"GOMP_SPINCOUNT": "5000"}
# a device that hangs must not keep the row from being written
LIMIT_S = 7200
# what a program says of its end -> what the row says of it
REASONS = {
    "failed to load model": "the weights did not load",
    "failed to create context": "the context could not be made",
}
FAILED, SLOW, DEEPER = "the program failed", "two hours were not enough", "a smaller depth failed"
# the start of a path, and addresses: of those nothing goes into the row
PLACE = re.compile(r"(?:^|[\s'\"(=:,])(?:~|/|\\\\|[A-Za-z]:[\\/])\S|://|@\w+\.")


class BenchError(Exception):
    """What keeps the row from being made, in one line."""


def harmless(text: str) -> str | None:
    """Text of a device or a file, in one line; None if it may tell a place."""
    text = " ".join(re.sub(r"[\x00-\x1f\x7f|]", " ", text).split())[:120]
    return None if not text or PLACE.search(text) else text


@dataclass
class Result:
    """What a program came to; `code` is None where it was ended."""

    code: int | None
    out: str
    err: str

    @property
    def tail(self) -> str:
        """The last line, for an error."""
        return (self.err.strip() or self.out.strip() or "it said nothing").splitlines()[-1]


def start(tool: str, sm: str, *words: str, env: dict[str, str] | None = None) -> Result:
    """Run a program of the engine on the phase `sm` through run-nx2.sh."""
    # a download may have lost the right to be run
    command = ["bash", str(HERE / "run-nx2.sh"), "--sm", sm, *words]
    surroundings = CALM | os.environ | {"NX2_TOOL": tool} | (env or {})
    try:
        done = subprocess.run(
            command, env=surroundings, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as ended:
        code, out, err = None, ended.stdout or b"", ended.stderr or b""
    else:
        code, out, err = done.returncode, done.stdout, done.stderr
    return Result(code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


def described(engine: list[str]) -> dict[str, list[str]]:
    """What run-nx2.sh says of engine, cards and driver: word -> values."""
    done = start("llama-bench", "off", "--describe", "--", *engine)
    if done.code != 0:
        raise BenchError(done.tail)
    facts: dict[str, list[str]] = {}
    for line in done.out.splitlines():
        word, _, value = line.partition(": ")
        facts.setdefault(word, []).append(value)
    return facts


def version(text: str) -> str | None:
    """The numbers of a version, which may be followed by names; None where there are none."""
    found = re.match(r"(kernel )?[0-9]+(\.[0-9]+)*", text)
    return found[0] if found else None


def engine_facts(told: str) -> dict[str, str | None]:
    """The base's commit and the patches' hash of a version such as 0c1e57098-9d1dcaf8, as far as it tells."""
    base, _, patch = told.partition("-")
    known = re.fullmatch(r"[0-9a-f]{7,40}", base)
    return {"base": base if known else None, "patch": patch if known and patch else None}


def entries(out: str) -> list[dict[str, Any]]:
    """Lines of JSON among a program's messages; the last may be cut."""
    found = []
    for line in out.splitlines():
        if line.startswith('{"'):
            with suppress(ValueError):
                found.append(json.loads(line))
    return found


def look_at(sm: str) -> tuple[Path, str | None, dict[str, Any]]:
    """The file, the model's name, and what of the file the phase is; read off its head."""
    done = start("llama-variant-info", sm, "--", "-v")
    told = next(iter(entries(done.out)), None)
    if told is None:
        raise BenchError(done.tail)
    if "error" in told:
        raise BenchError(told["error"])
    named = re.search(r"general\.name +str += (.*)", done.err)
    variant = None if not told["groups"] else [*PHASES].index(sm)
    phase = {"variant": variant, "groups": told["groups"], "promoted": len(told["promoted"])}
    return Path(told["file"]), harmless(named[1]) if named else None, phase | {"bytes": told["selected_bytes"]}


def file_facts(path: Path, name: str | None) -> dict[str, Any]:
    """Name, size and SHA-256; the latter as released where the file has the size that manifest.json says."""
    facts = {"name": name, "bytes": path.stat().st_size}
    try:
        files = json.loads((path.parent / "manifest.json").read_bytes())["files"]
        listed = next(file["sha256"] for file in files if (file["name"], file["bytes"]) == (path.name, facts["bytes"]))
    except (OSError, ValueError, TypeError, KeyError, StopIteration):
        print("SHA-256 of the file: it is read once", file=sys.stderr)
        with open(path, "rb") as file:
            return facts | {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "sha256_from": "file"}
    return facts | {"sha256": listed, "sha256_from": "manifest.json"}


@dataclass
class Bench:
    """The samples so far, and what failed."""

    depths: list[int]
    rounds: int
    prompt: int
    gen: int
    engine: list[str]
    paths: dict[str, tuple[dict[str, str], list[str]]]
    samples: dict[tuple[str, str, int, str], list[float]] = field(default_factory=dict)
    failed: dict[tuple[str, str, int], str] = field(default_factory=dict)
    # an entry of llama-bench for each phase: what it ran with
    told: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def tests(self) -> list[str]:
        """Names of the tests, as llama-bench has them."""
        return [f"pp{self.prompt}", f"tg{self.gen}"]

    def take(self, sm: str, path: str) -> None:
        """Take one sample of each test at the depths that did not fail yet; those are behind all others."""
        depths = [depth for depth in self.depths if (sm, path, depth) not in self.failed]
        if not depths:
            return
        env, switches = self.paths[path]
        words = ["-p", str(self.prompt), "-n", str(self.gen), "-d", ",".join(map(str, depths)), "-r", "1"]
        done = start("llama-bench", sm, "--", *words, "-o", "jsonl", *switches, *self.engine, env=env)
        found: dict[int, dict[str, float]] = {}
        for entry in entries(done.out):
            self.told[sm] = entry
            test = f"pp{entry['n_prompt']}" if entry["n_prompt"] else f"tg{entry['n_gen']}"
            found.setdefault(entry["n_depth"], {})[test] = round(entry["avg_ts"], 4)
        for depth in depths:
            speeds = found.get(depth, {})
            if any(speeds.get(test, 0) <= 0 for test in self.tests):
                self.give_up(sm, path, depth, done)
                return
            for test in self.tests:
                self.samples.setdefault((sm, path, depth, test), []).append(speeds[test])
            shown = ", ".join(f"{test} {speeds[test]:.2f}" for test in self.tests)
            print(f"  depth {depth}: {shown} tokens per second", file=sys.stderr)

    def give_up(self, sm: str, path: str, depth: int, done: Result) -> None:
        """Keep why there is no figure at `depth` and beyond."""
        told = next((reason for words, reason in REASONS.items() if words in done.out + done.err), FAILED)
        reason = SLOW if done.code is None else told
        for other in self.depths[self.depths.index(depth) :]:
            self.failed[sm, path, other] = reason if other == depth else DEEPER
        print(f"  depth {depth}: {reason} ({done.tail})", file=sys.stderr)

    def run(self, phases: list[str]) -> None:
        """Go through all rounds; in each, live and dormant stand beside each other, the one or the other first."""
        for number in range(self.rounds):
            for sm in phases:
                for path in [*self.paths] if number % 2 == 0 else [*self.paths][::-1]:
                    print(f"round {number + 1} of {self.rounds}, {PHASES[sm]}, {path}", file=sys.stderr)
                    self.take(sm, path)

    def figures(self, variants: dict[str, int | None]) -> list[dict[str, Any]]:
        """Medians with their samples, or why there are none."""
        figures = []
        for sm, variant in variants.items():
            for path in self.paths:
                for depth in self.depths:
                    for test in self.tests:
                        figure = {"variant": variant, "path": path, "depth": depth, "test": test}
                        if reason := self.failed.get((sm, path, depth)):
                            figures.append(figure | {"error": reason})
                        else:
                            samples = self.samples[sm, path, depth, test]
                            figures.append(figure | {"t_s": statistics.median(samples), "samples": samples})
        return figures


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return the row."""
    machine = described(args.engine)
    cards = [card.partition(" ") for card in machine.get("card", [])]
    backend = re.sub(r"[0-9]+$", "", cards[0][0]) if cards else "CPU"
    looked = {sm: look_at(sm) for sm in args.phases}
    # a plain file has no phases
    if all(phase["variant"] is None for _, _, phase in looked.values()):
        looked = {sm: looked[sm] for sm in args.phases[:1]}
    path, name, _ = next(iter(looked.values()))
    file = file_facts(path, name)
    bench = Bench(args.depths, args.rounds, args.prompt, args.gen, args.engine, PATHS.get(backend, {"live": ({}, [])}))
    bench.run([*looked])
    figures = bench.figures({sm: phase["variant"] for sm, (_, _, phase) in looked.items()})
    if not any("t_s" in figure for figure in figures):
        raise BenchError("nothing could be measured; the lines above tell why")
    ran = next(iter(bench.told.values()))
    # the small phase has one card
    devices = {sm: [card[2] for card in (cards[:1] if sm == "off" else cards)] or [ran["cpu_info"]] for sm in looked}
    phases = [
        {
            "variant": phase["variant"],
            **{key: phase[key] for key in ("groups", "promoted", "bytes")},
            "devices": [harmless(device) or "unknown" for device in devices[sm]],
        }
        for sm, (_, _, phase) in looked.items()
    ]
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).date().isoformat(),
        "file": file,
        "engine": engine_facts(machine.get("engine", [""])[0]),
        "machine": {
            "backend": backend,
            "driver": version(machine.get("driver", [""])[0]),
            "system": re.sub(r"[^A-Za-z].*", "", platform.system()) or "unknown",
            "kernel": version(platform.release()),
            "cpu": harmless(ran["cpu_info"]),
            "self_test": machine.get("self-test", ["not run"])[0],
        },
        "settings": {
            "rounds": bench.rounds,
            "depths": bench.depths,
            "tests": bench.tests,
            "paths": [*bench.paths],
            **{key: ran[key] for key in ("n_threads", "n_batch", "n_ubatch", "n_gpu_layers", "type_k", "type_v")},
        },
        "phases": phases,
        "figures": figures,
    }


def words(text: str) -> list[str]:
    """A list with commas between."""
    return text.split(",")


def numbers(text: str) -> list[int]:
    """A list of numbers with commas between."""
    return [int(word) for word in words(text)]


def main() -> None:
    """Measure and write the row."""
    parser = argparse.ArgumentParser(description="What bench-nx2.sh starts; use that, its --help explains.")
    parser.add_argument("--phases", type=words, required=True)
    parser.add_argument("--depths", type=numbers, required=True)
    for name in ("rounds", "prompt", "gen"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("engine", nargs="*")
    args = parser.parse_args()
    partial = args.out.with_name(f".{args.out.name}.partial")
    try:
        row = measure(args)
        partial.write_text(json.dumps(row, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(args.out)
    except (BenchError, OSError) as error:
        sys.exit(f"bench-nx2.sh: {error}")
    except KeyboardInterrupt:
        print("bench-nx2.sh: interrupted, nothing was written", file=sys.stderr)
        sys.exit(130)
    lacking = sum("error" in figure for figure in row["figures"])
    print(f"{args.out}: {len(row['figures']) - lacking} figures, {lacking} that could not be had")


if __name__ == "__main__":
    main()
