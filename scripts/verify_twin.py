"""Prove that the twin holds what went in."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from phase_twin.engine import ENVIRONMENT, override
from phase_twin.errors import UserError
from phase_twin.experts import CLASSES, layer_and_class, routed_experts
from phase_twin.nested import base_file_type
from phase_twin.results import write_result
from phase_twin.rule import Progress, run_rule, run_tool
from prune_dual import (
    KEY_ALIGNMENT,
    KEY_FILE_TYPE,
    MIB,
    NESTED,
    TYPE_KEYS,
    Gguf,
    GgufError,
    Selection,
    Tensor,
    Twin,
    about_bytes,
    select,
    sha256_span,
)

log = logging.getLogger("phase_twin")


def verify_bytes(twin_path: Path, variant_paths: Sequence[Path]) -> dict[str, Any]:
    """Read the twin back and compare every tensor and key with the files it was packed from: one for a nested twin.

    Returns
    -------
    dict
        `groups` (number), `bytes` of all tensors, `tensors`: name in the twin -> type, bytes, SHA-256, and `types`: for
        each variant, class ("gate", "up", "down", "rest") -> type -> number of tensors.

    Raises
    ------
    UserError
        naming the first tensor or key that is not as it was.
    """
    try:
        twin = Twin.read(twin_path)
        models = [Gguf.read(path) for path in variant_paths]
        # a nested twin is split from its last variant
        numbers = [twin.count - 1] if twin.kind == NESTED else [*range(twin.count)]
        if len(numbers) != len(models):
            raise UserError(f"{twin_path}: is made of {len(numbers)} files, packed were {len(models)}")
        _compare_keys(twin, models[0])
        return {
            "groups": len(twin.groups),
            "bytes": sum(tensor.nbytes for tensor in twin.gguf.tensors),
            "tensors": _compare_tensors(twin, dict(zip(numbers, models, strict=True))),
            "types": [count_types(twin.gguf, twin.phase(number)) for number in range(twin.count)],
        }
    except GgufError as error:
        raise UserError(str(error)) from error


def count_types(model: Gguf, tensors: Sequence[Tensor]) -> dict[str, dict[str, int]]:
    """Tensors of each type in each class of one variant of `model`, most first."""
    found = {name: Counter[str]() for name in (*CLASSES, "rest")}
    experts = {tensor.name for tensor in routed_experts(model, tensors)}
    for tensor in tensors:
        found[layer_and_class(tensor.name)[1] if tensor.name in experts else "rest"][tensor.type_name] += 1
    return {name: dict(counts.most_common()) for name, counts in found.items()}


def _compare_keys(twin: Twin, model: Gguf) -> None:
    # a source of before the type's keys may lack them; Twin.read has checked the twin's, and its alignment
    own = {*TYPE_KEYS, KEY_ALIGNMENT, *about_bytes(model)}
    if twin.kind == NESTED:
        own.add(KEY_FILE_TYPE)
        if twin.gguf.get(KEY_FILE_TYPE, "u32") != (file_type := base_file_type(model)):
            raise UserError(f"{twin.gguf.path}: {KEY_FILE_TYPE} is not {file_type}, that of variant 0")
    for name in model.kv.keys() - own:
        entry = twin.gguf.kv.get(name)
        if entry is None or sha256_span(entry.raw) != sha256_span(model.kv[name].raw):
            raise UserError(f"{twin.gguf.path}: key {name} is not as in {model.path}")


def _compare_tensors(twin: Twin, models: dict[int, Gguf]) -> dict[str, dict[str, Any]]:
    """Compare each phase with the file it came from, and what is woven with each part of it."""
    report: dict[str, dict[str, Any]] = {}
    stored = {tensor.data: tensor for tensor in twin.gguf.tensors}
    total = sum(len(model.tensors) for model in models.values())
    done = 0
    with Progress("verify") as bar:
        for number, model in models.items():
            phase = twin.phase(number)
            _compare_lists(twin, phase, model)
            theirs = {tensor.name: tensor.data for tensor in model.tensors}
            for ours in phase:
                whole = theirs[ours.name]
                for span, part in zip(ours.sources, ours.within(whole.path, whole.offset), strict=True):
                    held = stored[span]
                    if held.name not in report:
                        facts = {"type": held.type_name, "bytes": held.nbytes, "sha256": sha256_span(span)}
                        report[held.name] = facts
                    if sha256_span(part) != report[held.name]["sha256"]:
                        raise UserError(
                            f"{twin.gguf.path}: tensor {held.name} does not have the bytes it has in {model.path}"
                        )
                done += 1
                bar.show(done, total)
    if unused := {tensor.name for tensor in twin.gguf.tensors} - report.keys():
        raise UserError(f"{twin.gguf.path}: tensor {min(unused)} comes from none of the variants")
    return report


def _compare_lists(twin: Twin, phase: list[Tensor], model: Gguf) -> None:
    """Names, shapes and types of one phase against the file of that variant."""
    ours, theirs = ({(t.name, t.shape, t.type_name) for t in tensors} for tensors in (phase, model.tensors))
    if odd := ours ^ theirs:
        name, shape, kind = min(odd)
        where = "is in the twin only" if (name, shape, kind) in ours else f"is in {model.path} only"
        raise UserError(f"{twin.gguf.path}: tensor {name} {list(shape)} {kind} {where}")


def load_modes(twin: Twin) -> dict[str, tuple[list[str], Selection]]:
    """Every way to load a twin: name -> (engine flags, what the tool selects)."""
    low, high = select(twin, variant=0), select(twin, variant=1)
    # half way between the phases, rounded up to a whole MiB so that variant 0 fits in any case
    budget_mb = -(-(low.selected_bytes + high.selected_bytes) // (2 * MIB))
    return {
        "default": ([], select(twin)),
        "variant 1": (override("default", 1), high),
        "budget": (override("budget_mb", budget_mb), select(twin, budget_bytes=budget_mb * MIB)),
        "promote": (override("promote", "0"), select(twin, promote="0")),
    }


def verify_engine(twin_path: str, completion: str, variant_info: str, threads: int, tool_log: str) -> dict[str, Any]:
    """Load the twin in every way: the engine must select what the tool does, and generate.

    Returns
    -------
    dict
        mode -> selected bytes and number of promoted groups.

    Raises
    ------
    UserError
        if the engine's selection differs from the tool's, or the model does not load.
    """
    report = {}
    for mode, (flags, expected) in load_modes(Twin.read(twin_path)).items():
        output = run_tool([variant_info, *flags, twin_path], tool_log, append=True)
        found = json.loads(next(line for line in reversed(output.splitlines()) if line.startswith("{")))
        if found["selected_bytes"] != expected.selected_bytes or set(found["promoted"]) != set(expected.promoted):
            raise UserError(
                f"{twin_path}: by {mode} the engine selects {found['selected_bytes']} bytes, "
                f"the tool {expected.selected_bytes}; see {tool_log}"
            )
        generate = ["-p", "The", "-n", "4", "--temp", "0", "-no-cnv", "-c", "64", "-t", str(threads)]
        run_tool([completion, "-m", twin_path, *flags, *generate], tool_log, env=ENVIRONMENT, append=True)
        log.info("loads by %s: %d groups promoted", mode, len(expected.promoted))
        report[mode] = {"selected_bytes": expected.selected_bytes, "promoted": len(expected.promoted)}
    return report


def main(snakemake: Any) -> None:
    """Map the rule to the checks."""
    report = verify_bytes(Path(snakemake.input.twin), [Path(path) for path in snakemake.input.variants])
    log.info("%d tensors of %s are as they were", len(report["tensors"]), snakemake.input.twin)
    programs = (snakemake.input.completion, snakemake.input.variant_info)
    Path(snakemake.log.tool).unlink(missing_ok=True)
    report["engine"] = verify_engine(snakemake.input.twin, *programs, snakemake.threads, snakemake.log.tool)
    write_result(snakemake.output.report, report, snakemake)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
