"""Pack the quantized variants of a model into one twin GGUF, or split one of IQ4_A770 into a nested twin."""

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from phase_twin.errors import UserError
from phase_twin.experts import EXPERTS
from phase_twin.files import check_digest, write_digest
from phase_twin.nested import base_file_type, bases_of, find_refined, planes_of
from phase_twin.origin import origin_kv
from phase_twin.results import read_result
from phase_twin.rule import Progress, run_rule
from prune_dual import (
    CHUNK,
    KEY_BUDGET_MB,
    KEY_COUNT,
    KEY_DEFAULT,
    KEY_FILE_TYPE,
    KEY_KIND,
    KEY_PROMOTE_ORDER,
    KEY_PROMOTE_TIE,
    KEY_VERSION,
    NESTED,
    PROVENANCE_PREFIX,
    SIBLINGS,
    TYPE_KEYS,
    VARIANT_PREFIX,
    VERSIONS,
    Gguf,
    GgufError,
    Kv,
    Span,
    Tensor,
    about_bytes,
    check_types,
    encode_kv,
    split_variant,
    type_kv,
    variant_name,
    write_gguf,
)

log = logging.getLogger("phase_twin")


def pack(
    variant_paths: Sequence[Path],
    out: Path,
    promote_order: list[str],
    promote_tie: list[int] | None,
    default: int = 0,
    budget_mb: int = 0,
    provenance: dict[str, str | int] | None = None,
    license: str | None = None,
    repo: str | None = None,
) -> list[str]:
    """Write the twin of the given quantized files to `out` and return the names of its groups.

    Several files become siblings; one file, whose experts are IQ4_A770, a nested twin. All keys are those of variant 0.
    The shared tensors and variant 0 come first, in the order of their file. Further variants come one after the other:
    each phase is then a contiguous range (variant 0) or two (variant 1) of the file, to be fetched or read ahead as
    such. Planes come in promotion order: what a budget takes is the begin of the file, but for planes that it skips.
    Memory use does not depend on the size of the files.

    Parameters
    ----------
    variant_paths
        variant 0 first, or the one file.
    promote_order, promote_tie
        the values of the keys; names that turn out to be the same in all variants are left out.
    default, budget_mb
        what an engine takes when nothing else is said; no budget is 0.
    provenance
        keys that are stored with the prefix `phase_twin.`
    license, repo
        SPDX id, and OWNER/NAME on the hub, of the original weights; without the first nothing is said of either.

    Raises
    ------
    UserError
        if the files are not variants of one model, or the order does not fit them.
    """
    try:
        models = [Gguf.read(path) for path in variant_paths]
        for model in models:
            check_types(model)
        kind = SIBLINGS if len(models) > 1 else NESTED
        refuse_variants(models[0])
        groups = find_groups(models) if kind == SIBLINGS else find_refined(models[0])
        order, tie = restrict_order(models[0], groups, promote_order, promote_tie)
        count = max(2, len(models))
        if default >= count:
            raise UserError(f"default variant {default} of {count}")
        if kind == SIBLINGS:
            tensors = sibling_tensors(models, groups)
        else:
            tensors = [*bases_of(models[0]), *planes_of(models[0], order)]
        kv = _twin_kv(kind, models[0], tensors, provenance or {})
        if license is not None:
            kv += origin_kv(models[0], license, repo)
        kv += variant_kv(kind, count, default, budget_mb, order, tie)
        # write_gguf writes beside `out` and renames; an older twin, which snakemake would have removed, is replaced
        out.parent.mkdir(parents=True, exist_ok=True)
        with Progress("pack") as bar:
            write_gguf(out, kv, tensors, alignment=models[0].alignment, force=True, progress=bar.show)
    except GgufError as error:
        raise UserError(str(error)) from error
    return groups


def find_groups(models: Sequence[Gguf]) -> list[str]:
    """Names of the tensors that are stored once per variant, in file order.

    A group is a tensor whose type differs, or an expert tensor that is not the same bytes everywhere.

    Raises
    ------
    UserError
        if names or shapes differ, or another tensor's bytes do.
    """
    first, groups = models[0], []
    others = [{tensor.name: tensor for tensor in model.tensors} for model in models[1:]]
    for model, tensors in zip(models[1:], others, strict=True):
        if odd := {tensor.name for tensor in first.tensors} ^ tensors.keys():
            raise UserError(f"{model.path} and {first.path} differ in tensor {min(odd)}: only one of them has it")
    with Progress("compare") as bar:
        for done, tensor in enumerate(first.tensors, 1):
            if not all(_same(tensor, tensors[tensor.name]) for tensors in others):
                groups.append(tensor.name)
            bar.show(done, len(first.tensors))
    if not groups:
        raise UserError(f"{', '.join(str(model.path) for model in models)}: no tensor differs, nothing to pack")
    return groups


def sibling_tensors(models: Sequence[Gguf], groups: list[str]) -> list[Tensor]:
    """The tensors of a twin of siblings, in the order of the file."""
    tensors = [*models[0].tensors]
    for number, model in enumerate(models[1:], 1):
        tensors += [replace(t, name=variant_name(t.name, number)) for t in model.tensors if t.name in groups]
    return tensors


def refuse_variants(model: Gguf) -> None:
    """Raise a UserError if a file that is to be packed is a twin itself."""
    for tensor in model.tensors:
        if any(split_variant(tensor.name, kind) != (tensor.name, 0) for kind in VERSIONS):
            raise UserError(f"{model.path}: tensor {tensor.name} is a variant already; pack plain files")


def _same(tensor: Tensor, other: Tensor) -> bool:
    """Whether one copy serves both; raises UserError where two that should be the same are not."""
    if other.shape != tensor.shape:
        raise UserError(
            f"{other.data.path}: tensor {tensor.name} has shape {list(other.shape)}, "
            f"in {tensor.data.path} {list(tensor.shape)}"
        )
    if other.type != tensor.type:
        return False
    if same_bytes(tensor.data, other.data):
        return True
    if EXPERTS.fullmatch(tensor.name):
        return False
    raise UserError(
        f"{other.data.path}: tensor {tensor.name} has other bytes than in {tensor.data.path}, but the same type; "
        "only expert tensors may differ: quantize all variants from the same model with the same imatrix"
    )


def same_bytes(a: Span, b: Span) -> bool:
    """Compare two ranges of bytes in constant memory."""
    if a.nbytes != b.nbytes:
        return False
    with ExitStack() as stack:
        files = [stack.enter_context(open(span.path, "rb", buffering=0)) for span in (a, b)]
        for file, span in zip(files, (a, b), strict=True):
            file.seek(span.offset)
        for at in range(0, a.nbytes, CHUNK):
            want = min(CHUNK, a.nbytes - at)
            if _read(files[0], want, a) != _read(files[1], want, b):
                return False
    return True


def _read(file: BinaryIO, nbytes: int, span: Span) -> bytes:
    data = file.read(nbytes)
    while len(data) < nbytes:
        more = file.read(nbytes - len(data))
        if not more:
            raise UserError(f"{span.path}: became shorter while it was read")
        data += more
    return data


def restrict_order(
    model: Gguf, groups: list[str], order: list[str], tie: list[int] | None
) -> tuple[list[str], list[int] | None]:
    """Leave out of an order (and its ties) the tensors that turned out the same in all variants.

    Raises
    ------
    UserError
        if a name is no tensor of the model, or the ties do not fit the order.
    """
    if tie is not None and len(tie) != len(order):
        raise UserError(f"promote_tie has {len(tie)} entries, promote_order {len(order)}")
    if unknown := set(order) - {tensor.name for tensor in model.tensors}:
        raise UserError(f"promote_order names {min(unknown)}, which {model.path} does not have")
    if missing := [name for name in groups if name not in order]:
        # legal: such a group is never promoted by a budget; but hardly what was meant
        log.warning("promote_order lacks %d groups, first %s", len(missing), missing[0])
    kept = [index for index, name in enumerate(order) if name in groups]
    if len(kept) < len(order):
        log.info("%d tensors of promote_order are the same in all variants: stored once", len(order) - len(kept))
    return [order[index] for index in kept], tie and [tie[index] for index in kept]


def _twin_kv(kind: str, model: Gguf, tensors: list[Tensor], provenance: dict[str, str | int]) -> list[Kv]:
    ours = [encode_kv(PROVENANCE_PREFIX + k, "str" if isinstance(v, str) else "u32", v) for k, v in provenance.items()]
    ours += type_kv(tensor.type for tensor in tensors)
    if kind == NESTED and (file_type := base_file_type(model)) is not None:
        ours.append(encode_kv(KEY_FILE_TYPE, "u32", file_type))
    replaced = {entry.name for entry in ours} | {*TYPE_KEYS}
    if untrue := about_bytes(model):
        log.warning("%s: %s: of that file's bytes, so not in the twin", model.path, ", ".join(untrue))
    replaced |= set(untrue)
    kept = [e for e in model.kv.values() if e.name not in replaced and not e.name.startswith(VARIANT_PREFIX)]
    return kept + ours


def variant_kv(
    kind: str, count: int, default: int, budget_mb: int, order: list[str], tie: list[int] | None
) -> list[Kv]:
    """The general.tensor_variant.* entries of a twin; optional ones are left out where they say nothing."""
    kv = [
        encode_kv(KEY_VERSION, "u32", VERSIONS[kind]),
        encode_kv(KEY_COUNT, "u32", count),
        encode_kv(KEY_DEFAULT, "u32", default),
        encode_kv(KEY_PROMOTE_ORDER, "[str]", order),
    ]
    if kind != SIBLINGS:
        kv.append(encode_kv(KEY_KIND, "str", kind))
    if budget_mb:
        kv.append(encode_kv(KEY_BUDGET_MB, "u32", budget_mb))
    if tie is not None:
        kv.append(encode_kv(KEY_PROMOTE_TIE, "[u32]", tie))
    return kv


def main(snakemake: Any) -> None:
    """Map the rule to `pack`."""
    for path, digest in zip(snakemake.input.variants, snakemake.input.digests, strict=True):
        check_digest(path, digest)
    provenance = snakemake.input.provenance
    order = read_result(snakemake.input.order)
    groups = pack(
        [Path(path) for path in snakemake.input.variants],
        Path(snakemake.output.twin),
        order["promote_order"],
        order["promote_tie"],
        provenance=json.loads(Path(provenance).read_text(encoding="utf-8")) if provenance else None,
        license=snakemake.params.license,
        repo=snakemake.params.repo,
    )
    write_digest(snakemake.output.twin, snakemake.output.digest)
    log.info("packed %d groups into %s", len(groups), snakemake.output.twin)


if __name__ == "__main__":
    run_rule(main, snakemake)  # noqa: F821
