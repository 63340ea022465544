"""Make a nested twin of one with siblings: what it has stays byte for byte, and planes take the place of variant 1."""

import argparse
import logging
import tempfile
from pathlib import Path

from pack_twin import variant_kv
from phase_twin.engine import ENVIRONMENT
from phase_twin.errors import UserError
from phase_twin.nested import find_refined, planes_of
from phase_twin.rule import Progress, run_tool
from prune_dual import (
    IQ3_A770,
    NESTED,
    SIBLINGS,
    TYPE_KEYS,
    VARIANT_PREFIX,
    Gguf,
    GgufError,
    Twin,
    type_kv,
    write_gguf,
)
from prune_dual.files import check_output

ROOT = Path(__file__).resolve().parent.parent


def check(twin: Twin) -> None:
    """Raise a UserError where not every group can be refined."""
    if twin.kind != SIBLINGS:
        raise UserError(f"{twin.gguf.path}: is nested already")
    for name, variants in twin.groups.items():
        if variants[0].type != IQ3_A770:
            raise UserError(f"{twin.gguf.path}: tensor {name} is {variants[0].type_name}; a plane refines IQ3_A770")


def nest(twin: Twin, refined: Gguf, out: Path, force: bool) -> None:
    """Write the nested twin.

    Parameters
    ----------
    twin
        with siblings; keys, shared tensors and variant 0 are taken from it.
    refined
        a model whose tensors of IQ4_A770 were encoded on variant 0 of the twin; the planes are taken from it.
    """
    if missing := twin.groups.keys() ^ {*find_refined(refined)}:
        raise UserError(f"{refined.path}: its refined tensors are not the groups of {twin.gguf.path}: {min(missing)}")
    kept = [*twin.phase(0), *planes_of(refined, twin.promote_order)]
    kv = [kv for kv in twin.gguf.kv.values() if not kv.name.startswith(VARIANT_PREFIX) and kv.name not in TYPE_KEYS]
    kv += type_kv(tensor.type for tensor in kept)
    kv += variant_kv(NESTED, 2, twin.default, twin.budget_mb, twin.promote_order, twin.promote_tie)
    with Progress("nest") as bar:
        write_gguf(out, kv, kept, alignment=twin.gguf.alignment, force=force, progress=bar.show)


def main() -> None:
    """Encode the planes with llama-quantize, then write the twin."""
    parser = argparse.ArgumentParser(prog="dev/run nest_twin", description=__doc__)
    parser.add_argument("twin", type=Path, metavar="TWIN.gguf", help="with siblings, variant 0 of its groups IQ3_A770")
    parser.add_argument("--model", type=Path, required=True, metavar="BF16.gguf", help="what it was made of")
    parser.add_argument("--imatrix", type=Path, required=True, metavar="FILE.gguf")
    parser.add_argument("--covariance", type=Path, metavar="FILE.gguf", help="for error feedback: better, and slower")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.gguf")
    parser.add_argument(
        "--engine", type=Path, default=ROOT / "resources/engine/cpu/bin", help="folder of llama-quantize"
    )
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--force", action="store_true", help="replace OUT.gguf if it exists")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        twin = Twin.read(args.twin)
        check(twin)
        check_output(args.out, [args.twin], args.force)
        with tempfile.TemporaryDirectory(dir=args.out.parent) as folder:
            refined = Path(folder) / "refined.gguf"
            command = [args.engine / "llama-quantize", "--imatrix", args.imatrix, "--base", args.twin]
            if args.covariance:
                command += ["--covariance", args.covariance]
            command += [args.model, refined, "IQ4_A770", args.threads]
            bar = r"\[ *(?P<done>\d+)/ *(?P<total>\d+)\]"
            run_tool(command, Path(folder) / "llama-quantize.log", env=ENVIRONMENT, progress=bar)
            nest(twin, Gguf.read(refined), args.out, args.force)
    except (GgufError, UserError) as error:
        raise SystemExit(f"nest_twin: {error}") from None


if __name__ == "__main__":
    main()
