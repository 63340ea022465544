"""What Nex-N2-mini costs on 1, 8 and 64 nodes: nano's CPU time, scaled by the weights that a token passes through."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NODES = (1, 8, 64)
GIB = 2**30

# the model and config/config.yaml
ACTIVE_WEIGHTS = 3e9  # "3B active"
EXPERT_WEIGHTS = 32.2e9  # 120 tensors of 268,435,456
BF16_GIB = 65
LAYERS = 40
N_CTX = 512
# the text is not part of the project, so its length is not known before the download
CALIBRATION_CHUNKS = 140
COMPARED = ("IQ3_XXS",)  # bench.compare
TWIN_CASES = 4  # both phases, two pruned files
LOGITS_GIB = 126.6e6 / GIB  # of a chunk, at 248,320 words

# of one job on nano: config/nano.yaml, and the length of its calibration text
NANO_CHUNKS = {
    "compute_imatrix": 162,
    "write_reference_logits": 100,
    "measure_mix": 25,
    "measure_order": 100,
    "measure_quality": 100,
}

# the machine: assumed
NODE_CORES = 32
NODE_GIB = 128
THREADS = 8  # of a job
EFFICIENCY = 0.8  # of THREADS threads, beside one
STORAGE_GIB_S = 2.5  # what the file system gives to all nodes together
INTERNET_GIB_S = 0.1

# MB of F32 per second and thread: docs/iq3_a770.md for IQ3_A770 with feedback at 2048 columns, measured at 2048 for
# the others
QUANTIZE_MB_S = {"IQ3_A770": 3.0, "Q4_K": 30, "IQ3_XXS": 7.2, "Q3_K": 107, "IQ3_S": 10.4, "IQ4_XS": 19}
EXPERT_BITS = {"IQ3_A770": 3.1875, "Q4_K": 4.5, "IQ3_XXS": 3.0625, "Q3_K": 3.4375, "IQ3_S": 3.4375, "IQ4_XS": 4.25}
REST_GIB = 1.9  # Q6_K, stored once
COVARIANCE_GIB = 5.7e9 / GIB  # docs/iq3_a770.md
MMPROJ_GIB = 0.9


@dataclass(frozen=True)
class Step:
    """All jobs of a rule: CPU seconds and GiB read of one job, GiB that all write."""

    rule: str
    what: str
    jobs: int
    cpu_seconds: float
    reads: float
    writes: float
    gib_s: float = STORAGE_GIB_S

    def traffic(self, nodes: int) -> float:
        """GiB over the network: a node keeps what its jobs read."""
        return min(self.jobs, nodes) * self.reads + self.writes

    def job_hours(self) -> float:
        """Of one job alone, from the file system alone."""
        return max(self.cpu_seconds / (THREADS * EFFICIENCY), self.reads / self.gib_s) / 3600

    def hours(self, nodes: int, mem_mb: int) -> float:
        """From the first job's start to the last one's end."""
        at_once = nodes * max(1, min(NODE_CORES // THREADS, int(NODE_GIB * 1024 / mem_mb)))
        compute = math.ceil(self.jobs / at_once) * self.job_hours()
        return max(compute, self.traffic(nodes) / self.gib_s / 3600)


def file_gib(kind: str) -> float:
    """Size of a model whose experts are of one type."""
    return REST_GIB + EXPERT_WEIGHTS * EXPERT_BITS[kind] / 8 / GIB


def rates(timing: list[dict[str, Any]], active: float) -> dict[str, float]:
    """Rule -> multiplications per CPU second, from its CPU time on nano."""
    spent = {row["rule"]: row["cpu_seconds"] / row["jobs"] for row in timing}
    return {rule: chunks * N_CTX * active / spent[rule] for rule, chunks in NANO_CHUNKS.items()}


def requested(rule: str, rules: str) -> tuple[int, float]:
    """Megabytes of memory and hours that a rule asks for at this size, from the text of the rules."""
    amount = r"(?:\w+\(([\d.]+)(?:, (\d+))?\)|(\d+))"
    pattern = rf"^ *rule {rule}:.*?mem_mb={amount}.*?runtime={amount}"
    found = re.search(pattern, rules, re.MULTILINE | re.DOTALL)
    assert found, f"{rule}: no such rule, or its resources are written in another way"
    size, size_base, size_fixed, time, time_base, time_fixed = found.groups()
    memory = size_fixed or float(size_base or 1000) + float(size) * BF16_GIB * 1024
    minutes = time_fixed or float(time_base or 10) + float(time) * BF16_GIB
    return int(memory), float(minutes) / 60


def steps(rate: Mapping[str, float]) -> list[Step]:
    """What the release of config/config.yaml runs; steps of seconds are left out."""

    def passes(rule: str, chunks: float) -> float:
        return chunks * N_CTX * ACTIVE_WEIGHTS / rate[rule]

    def encode(kind: str) -> float:
        return EXPERT_WEIGHTS * 4 / 1e6 / QUANTIZE_MB_S[kind]

    low, high = file_gib("IQ3_A770"), file_gib("Q4_K")
    slowest = min(COMPARED, key=QUANTIZE_MB_S.__getitem__)
    stock = sum(map(file_gib, COMPARED))
    twin = low + high - REST_GIB
    cases = TWIN_CASES + len(COMPARED)
    # two tests at each depth, which is filled before; five rounds over all files
    speed = 5 * cases * (2 * (512 + 128) + 2 * 4096)
    reference, ranked = 100 * LOGITS_GIB, 16 * LOGITS_GIB
    return [
        Step("retrieve_checkpoint", "", 1, 0, BF16_GIB, BF16_GIB, INTERNET_GIB_S),
        Step("convert_checkpoint", "", 1, 0, BF16_GIB, BF16_GIB),
        Step("compute_imatrix", "", 1, passes("compute_imatrix", CALIBRATION_CHUNKS), BF16_GIB, COVARIANCE_GIB),
        Step("quantize_recipe", "variant 0", 1, encode("IQ3_A770"), BF16_GIB, low),
        Step("quantize_recipe", "variant 1", 1, encode("Q4_K"), BF16_GIB, high),
        Step("quantize_recipe", "stock", len(COMPARED), encode(slowest), BF16_GIB, stock),
        Step("write_rank_logits", "", 1, passes("write_reference_logits", 16), BF16_GIB, ranked),
        Step("write_reference_logits", "", 1, passes("write_reference_logits", 100), BF16_GIB, reference),
        Step("pack_draft", "", 1, 0, low + high, twin),
        Step("measure_mix", "", 2 + 4 * LAYERS, passes("measure_mix", 16), high + ranked, 0),
        Step("pack_twin", "", 1, 0, low + high, twin),
        Step("verify_twin", "", 1, 0, 2 * (low + high), 0),
        Step("prune", "", 2, 0, high, low + high),
        Step("measure_order", "", 6, passes("measure_order", 100), high + reference, 0),
        Step("measure_quality", "", cases, passes("measure_quality", 100), high + reference, 0),
        Step("measure_speed", "", 1, passes("measure_quality", speed / N_CTX), low + high + stock, 0),
    ]


def disk(lean: bool) -> list[tuple[str, dict[str, float]]]:
    """Each stage, and the GiB of what is on the disk at its end, if all its files are there at once.

    Parameters
    ----------
    lean
        as `disk.lean` of the configuration: what is not used later is gone.
    """
    low, high = file_gib("IQ3_A770"), file_gib("Q4_K")
    twin = low + high - REST_GIB
    logits, ranked = 100 * LOGITS_GIB, 16 * LOGITS_GIB
    made = {
        "checkpoint": BF16_GIB,
        "vision tower": MMPROJ_GIB,
        "BF16": BF16_GIB,
        "covariances": COVARIANCE_GIB,
        "variants": low + high,
        "other types": sum(map(file_gib, COMPARED)),
        "logits for the evaluation": logits,
        "logits for the order": ranked,
        "draft twin": twin,
        "twin": twin,
        "pruned files": low + high,
    }
    # stage -> what is made in it, and what is used in it for the last time
    stages = {
        "conversion": (("checkpoint", "vision tower", "BF16"), ("checkpoint",)),
        "imatrix": (("covariances",), ()),
        "quantization, logits": (
            ("variants", "other types", "logits for the evaluation", "logits for the order"),
            ("BF16", "covariances"),
        ),
        "measuring groups": (("draft twin",), ("draft twin", "logits for the order")),
        "twin": (("twin",), ("variants",)),
        "pruning, quality, speed": (("pruned files",), ()),
    }
    temporary = {"draft twin", "logits for the order", "logits for the evaluation"}
    there: dict[str, float] = {}
    found = []
    for stage, (added, used) in stages.items():
        there |= {name: made[name] for name in added}
        found.append((stage, dict(there)))
        for name in used:
            if lean or name in temporary:
                del there[name]
    return found


def steps_table(rate: Mapping[str, float], rules: str) -> tuple[list[str], list[list[str]]]:
    """Return head and rows: a step each, and their sum, one after the other."""
    head = ["step", "jobs", "GB of memory, one job", "GiB written"]
    head += [f"{unit}, {count} {'node' if count == 1 else 'nodes'}" for unit in ("h", "GiB moved") for count in NODES]
    rows, total = [], [0.0] * (1 + 2 * len(NODES))
    for step in steps(rate):
        memory, _ = requested(step.rule, rules)
        hours = [step.hours(count, memory) for count in NODES]
        traffic = [step.traffic(count) for count in NODES]
        total = [one + more for one, more in zip(total, [step.writes, *hours, *traffic], strict=True)]
        name = f"`{step.rule}`" + (f", {step.what}" if step.what else "")
        numbers = [f"{step.writes:.0f}", *(f"{one:.2f}" for one in hours), *(f"{one:.0f}" for one in traffic)]
        rows.append([name, str(step.jobs), f"{memory / 1000:.0f}", *numbers])
    written, *rest = total
    numbers = [f"{one:.1f}" for one in rest[: len(NODES)]] + [f"{one:,.0f}" for one in rest[len(NODES) :]]
    rows.append(["all, one after the other", "", "", f"{written:.0f}", *numbers])
    return head, rows


def disk_table() -> tuple[list[str], list[list[str]]]:
    """Return head and rows: at the end of each stage what is on the disk, and the same if all is kept."""
    rows = []
    for (stage, lean), (_, kept) in zip(disk(True), disk(False), strict=True):
        sizes = [sum(there.values()) for there in (lean, kept)]
        numbers = [text for size in sizes for text in (f"{size:.0f}", f"{size / BF16_GIB:.2f}")]
        rows.append([stage, ", ".join(f"{name} {size:.0f}" for name, size in lean.items()), *numbers])
    return ["at the end of", "on the disk, GiB", "GiB", "of BF16", "GiB, `lean: false`", "of BF16"], rows
