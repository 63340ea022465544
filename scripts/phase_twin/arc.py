"""What `bench_arc` asks of a card and how the answers are read; nothing here runs a program."""

import re
import statistics
from typing import Any

from .errors import UserError

DEVICE = "SYCL0"
# the types of the experts, and those with ESIMD kernels
TYPES = ("iq3_a770", "iq4_a770", "q2_K", "q3_K", "q4_K", "q5_K", "q6_K")
TYPE_FILTER = f"type(_a|_gate_up)?=({'|'.join(TYPES)}),"
# every switch is given a value, so that what the user's shell sets does not matter
LIVE = {
    "GGML_SYCL_ENABLE_OPT": "1",
    "GGML_SYCL_ENABLE_ESIMD": "1",
    "GGML_SYCL_MOE_REORDER": "1",
    "GGML_SYCL_MOE_FUSE": "1",
    "GGML_SYCL_MOE_GROUPED": "1",
    "GGML_SYCL_MAT_VEC_F32": "1",
    "GGML_FUSION_OFF": "",
}
UNFUSED = {"GGML_SYCL_MOE_FUSE": "0", "GGML_FUSION_OFF": "all"}
# as llama.cpp does it by itself
DORMANT = UNFUSED | {"GGML_SYCL_MOE_REORDER": "0", "GGML_SYCL_MAT_VEC_F32": "0"}
MODES = {
    "live": LIVE,
    "unfused": LIVE | UNFUSED,
    "dormant": LIVE | DORMANT,
    "without ESIMD": LIVE | {"GGML_SYCL_ENABLE_ESIMD": "0"},
}
# batches as prompts have them, and one token at a time, which is what the kernels for experts are for
PATHS = {"prompt": ("-b", "2048", "-ub", "512"), "decode": ("-b", "1", "-ub", "1")}
# nats per token between card and CPU: rounding activations to 8 bits makes up to 0.004, a wrong kernel far more
KLD_LIMIT = 0.02
# kernels of the experts and of fused operations, which only the live path runs
KERNELS = (
    "moe_gate_up_swiglu_grouped",
    "moe_mul_mat_grouped",
    "moe_weighted_sum",
    "fused_mat-vecs",
    "fused_experts-up",
    "fused_experts-down",
)


class PartError(UserError):
    """A part that ran and did not pass; `found` is what it found."""

    def __init__(self, message: str, found: dict[str, Any]) -> None:
        super().__init__(message)
        self.found = found


def plain(output: str) -> str:
    """Return a program's output without the colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", output)


# ---------------------------------------------------------------- reading what programs print


def parse_devices(output: str) -> list[dict[str, Any]]:
    """Read llama-bench --list-devices: name, description and MiB of each device."""
    found = re.findall(r"^ +(\w+): (.+) \((\d+) MiB, (\d+) MiB free\)$", plain(output), re.MULTILINE)
    return [
        {"name": name, "description": what, "mib": int(mib), "free_mib": int(free)} for name, what, mib, free in found
    ]


def parse_operations(output: str) -> dict[str, Any]:
    """Count the cases of test-backend-ops; `failing` and `last` name them as it does.

    `complete` is whether the program came to its end; `last` is the last case before it did not.
    """
    text = plain(output)
    ended = re.findall(r"(\d+)/(\d+) tests passed", text)
    # the error of a failing case stands before its name
    cases = re.findall(r"^(.*?) {2,}(\w+\(.*?\)): (.*)$", text, re.MULTILINE)
    passed, total = map(int, ended[-1]) if ended else (sum(how == "OK" for *_, how in cases), len(cases))
    return {
        "complete": bool(ended),
        "passed": passed,
        "total": total,
        "not_supported": sum(how.startswith("not supported") for *_, how in cases),
        "failing": [f"{case}: {error}" for error, case, how in cases if how.endswith("FAIL")],
        "last": None if ended or not cases else cases[-1][1],
    }


def check_operations(found: dict[str, Any]) -> None:
    """Raise a PartError unless all cases passed, and there were some."""
    if not found["complete"]:
        raise PartError(f"ended early, after {found['last']}", found)
    if found["total"] == 0 or found["passed"] != found["total"]:
        raise PartError(f"{found['passed']} of {found['total']} cases passed", found)


def parse_stats(output: str) -> dict[str, dict[str, int]]:
    """Read the lines of GGML_SYCL_STATS: kernel -> type -> calls."""
    counts: dict[str, dict[str, int]] = {}
    for kernel, kind, calls in re.findall(r"^sycl-stats: (\S+) +(\S+) +(\d+) calls", output, re.MULTILINE):
        counts.setdefault(kernel, {})[kind] = int(calls)
    return counts


def check_kernels(mode: str, counts: dict[str, dict[str, int]]) -> None:
    """Raise a PartError unless the kernels of the mode ran, and no others."""
    found = {"kernels": counts}
    if mode == "live" and (unused := [kernel for kernel in KERNELS if kernel not in counts]):
        raise PartError(f"not used: {', '.join(unused)}", found)
    if mode == "dormant" and (used := [kernel for kernel in KERNELS if kernel in counts]):
        raise PartError(f"used, though switched off: {', '.join(used)}", found)


def check_quality(row: dict[str, float]) -> None:
    """Raise a PartError unless card and CPU agree."""
    if not row["kld_mean"] <= KLD_LIMIT:
        raise PartError(f"mean KLD against the CPU is {row['kld_mean']}, more than {KLD_LIMIT}", dict(row))


# ---------------------------------------------------------------- speed

Samples = dict[tuple[int, str, str], list[float]]


def order_of_round(number: int, modes: tuple[str, str] = ("live", "dormant")) -> tuple[str, str]:
    """Both modes, in turns the one and the other first: a card that warms up slows none of them more."""
    return modes if number % 2 == 0 else modes[::-1]


def speed_rows(samples: Samples) -> list[dict[str, Any]]:
    """Mean and standard deviation per phase, mode and test, in tokens per second."""
    return [
        {
            "phase": phase,
            "mode": mode,
            "test": test,
            "rounds": len(speeds),
            "t_s": round(statistics.mean(speeds), 3),
            "stddev": round(statistics.stdev(speeds), 3) if len(speeds) > 1 else None,
            "samples": [round(speed, 3) for speed in speeds],
        }
        for (phase, mode, test), speeds in samples.items()
    ]


def speed_ratios(samples: Samples) -> list[dict[str, Any]]:
    """Live over dormant per phase and test: the ratio of the means, and the spread of the rounds' own ratios."""
    rows = []
    for (phase, mode, test), live in samples.items():
        dormant = samples.get((phase, "dormant", test), [])
        if mode != "live" or not dormant:
            continue
        row: dict[str, Any] = {"phase": phase, "test": test}
        row["ratio"] = round(statistics.mean(live) / statistics.mean(dormant), 4)
        ratios = [a / b for a, b in zip(live, dormant, strict=False)]
        row["stddev"] = round(statistics.stdev(ratios), 4) if len(ratios) > 1 else None
        rows.append(row)
    return rows


# ---------------------------------------------------------------- what leaves the machine

# first folders of paths that say nothing about the user
SYSTEM = ("opt", "usr", "lib", "lib64", "dev", "sys", "proc", "etc", "bin", "sbin")
PATH = re.compile(rf"(?<![^\s'\"=:(,\[])/(?!(?:{'|'.join(SYSTEM)})(?:/|\b))[^\s'\",:;()\[\]]+")
TOKEN = re.compile(r"\b(?:hf|ghp|gho|github_pat|glpat|sk)[-_][A-Za-z0-9_-]{8,}")
# names that many machines have, and words of the report
COMMON = {
    "root",
    "user",
    "admin",
    "intel",
    "arc",
    "gpu",
    "cpu",
    "sycl",
    "ubuntu",
    "debian",
    "fedora",
    "arch",
    "localhost",
}


def _short(match: re.Match[str]) -> str:
    name = match[0].rpartition("/")[2]
    # the name of a file says what it is; that of a folder may be a person's
    return f"(path)/{name}" if "." in name else "(path)"


def scrub(value: Any, paths: dict[str, str], names: dict[str, str]) -> Any:
    """Return plain data without what tells who made it: paths outside the system's folders, names, tokens.

    Parameters
    ----------
    paths
        folder -> what stands for it.
    names
        word -> what stands for it: the user's and the machine's name.
    """
    if isinstance(value, dict):
        return {key: scrub(item, paths, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [scrub(item, paths, names) for item in value]
    if not isinstance(value, str):
        return value
    text = TOKEN.sub("(token)", value)
    for path in sorted(paths, key=len, reverse=True):
        if path.strip("/"):
            text = re.sub(rf"{re.escape(path.rstrip('/'))}(?![\w.-])", paths[path], text)
    text = PATH.sub(_short, text)
    for name in names:
        if name and name.lower() not in COMMON:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", names[name], text)
    return text


# ---------------------------------------------------------------- for people


def summary(report: dict[str, Any]) -> str:
    """Return the report in a page of Markdown."""
    parts = report["parts"]
    by_status = {
        status: [part for part in parts if part["status"] == status] for status in ("passed", "failed", "skipped")
    }
    lines = [f"# {report['model']} on {report.get('device') or 'no device'}", ""]
    lines += [", ".join(f"{len(found)} parts {status}" for status, found in by_status.items()), ""]
    for part in by_status["failed"] + by_status["skipped"]:
        lines.append(f"- {part['status']}: {part['part']}: {part['error'].splitlines()[0]}")
    if report.get("speed"):
        lines += ["", "| phase | test | mode | t/s |", "| --- | --- | --- | --- |"]
        for row in report["speed"]:
            spread = f" ± {row['stddev']:.2f}" if row["stddev"] is not None else ""
            lines.append(f"| {row['phase']} | {row['test']} | {row['mode']} | {row['t_s']:.2f}{spread} |")
    for row in report.get("ratios", []):
        lines.append(f"- phase {row['phase']}, {row['test']}: live is {row['ratio']:.3f} x dormant")
    for part in parts:
        if "kld_mean" in part:
            lines.append(f"- {part['part']}: mean KLD {part['kld_mean']:.5f}, top-1 {part['top1']:.2f} %")
    return "\n".join(lines) + "\n"
