"""The command without a name: a twin cut down to one plain GGUF."""

import argparse
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from ..container.layout import Layout, same_head
from ..container.statements import about_bytes
from ..errors import MIB, GgufError, amount
from ..files import check_output, check_space
from ..memory.cards import Plan
from ..progress import live_progress
from ..transport.http import is_remote
from ..transport.source import Output, Source
from ..transport.sources import find_manifest, open_source
from ..twin.groups import KEY_BUDGET_MB, KEY_DEFAULT
from ..twin.plain import plain_layout
from ..twin.selection import Selection, select
from .arguments import Parser, location, output_path
from .options import account_json, account_text, add_options, card_fits, check_options, plan_for, vram
from .output import OutputError, one_line, say
from .table import card_table

log = logging.getLogger("prune-dual")


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser(
        prog="prune-dual",
        description="Cut a phase twin down to one plain GGUF.",
        epilog="prune-dual verify --help tells how to check a downloaded release.",
    )
    parser.add_argument(
        "--dual",
        required=True,
        type=location,
        metavar="IN.gguf",
        help="the twin; never changed. A path, URL, hf://REPO/FILE@REVISION or hf://REPO@REVISION/FILE",
    )
    parser.add_argument("--out", type=output_path, metavar="OUT.gguf", help="the file to write")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--budget-mb", type=_u32, metavar="N", help="MiB of weights to fit; 0: the twin's default")
    what.add_argument(
        "--vram-gib", type=vram, metavar="V", help="GiB of the card, or of each: 16,12; auto: ask the engine or drivers"
    )
    what.add_argument("--variant", type=_u32, metavar="N", help="one variant for all: 0 the small, 1 the large")
    parser.add_argument("--dry-run", action="store_true", help="show what fits which card, write nothing")
    parser.add_argument("--json", action="store_true", help="print the selection as JSON on stdout")
    parser.add_argument(
        "--engine-flags",
        action="store_true",
        help="print the options with which the engine loads this selection from the twin itself, write nothing",
    )
    parser.add_argument("--verify", action="store_true", help="read OUT.gguf back and compare it with its source")
    parser.add_argument(
        "--manifest",
        type=location,
        metavar="PATH|URL",
        help="SHA-256 of the twin's tensors (manifest.json beside it); none: do without",
    )
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--force", action="store_true", help="replace OUT.gguf if it exists")
    there.add_argument(
        "--resume", action="store_true", help="if OUT.gguf exists as it would be written, take it for written"
    )
    parser.add_argument("--legacy-type-42", action="store_true", help="take tensor type 42 for IQ3_A770")
    parser.add_argument("--mtp", action="store_true", help="count an MTP head's blocks, loaded only to speculate with")
    add_options(parser)
    args = parser.parse_args(argv)
    args.dry_run |= args.engine_flags
    if not args.out and not args.dry_run:
        parser.error("--out is needed, or --dry-run")
    if not args.dry_run and (args.budget_mb, args.vram_gib, args.variant) == (None, None, None):
        parser.error("one of --vram-gib, --budget-mb and --variant is needed; --dry-run shows what there is")
    check_options(parser, args)
    return args


def _u32(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII) or int(text) >= 1 << 32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {(1 << 32) - 1}")
    return int(text)


def run_prune(argv: Sequence[str]) -> None:
    """Run `prune-dual`; raises GgufError if there is nothing to be had from the twin as asked."""
    args = _arguments(argv)
    with open_source(args.dual, None if args.dry_run else args.out, legacy_type_42=args.legacy_type_42) as source:
        if args.mtp and source.twin.n_loaded_blocks is None:
            raise GgufError(f"{source.where}: has no MTP head, which --mtp counts; leave it out")
        if args.mtp:
            source.twin = source.twin.with_mtp()
        twin = source.twin
        plan = plan_for(twin, args) if args.vram_gib else None
        budget_bytes = (args.budget_mb or 0) * MIB
        selection = plan.selection if plan else select(twin, budget_bytes=budget_bytes, variant=args.variant)
        if args.out and (left := about_bytes(twin.gguf)):
            log.warning("%s: %s: of that file's bytes, so not in %s", source.where, ", ".join(left), args.out)
        if not args.dry_run:
            size = _write(args, source, selection)
        elif args.out:
            outlook = _outlook(args, source, plain_layout(twin, selection))
        if args.engine_flags:
            lines = [" ".join(_engine_flags(args, selection, plan))]
        elif args.json:
            lines = [account_json(plan) if plan else selection.json()]
        else:
            where, groups = one_line(source.where), len(twin.groups)
            limit = f" within {args.budget_mb} MiB" if args.budget_mb else ""
            lines = [
                f"{where}: {groups} groups, {amount(selection.variant0_bytes)} with all at variant 0",
                f"promoted {len(selection.promoted)} of {groups}: {amount(selection.selected_bytes)}{limit}",
            ]
            lines += [card_table(source, card_fits(twin, args), selection)] if args.dry_run else []
            lines += [account_text(plan)] if plan else []
            lines += [one_line(outlook)] if args.dry_run and args.out else []
            lines.append("dry run: nothing written" if args.dry_run else one_line(f"wrote {args.out} ({amount(size)})"))
        try:
            say("\n".join(lines))
        except OutputError as error:
            raise error if args.dry_run else OutputError(f"{error}, but {args.out} is written", error.code) from None


def _engine_flags(args: argparse.Namespace, selection: Selection, plan: Plan | None) -> list[str]:
    """How the engine makes the selection of the twin; no flag for what it does by itself."""
    if args.variant is not None:
        key, value = KEY_DEFAULT, args.variant
    elif selection.budget_bytes:
        key, value = KEY_BUDGET_MB, selection.budget_bytes // MIB
    else:
        return []
    return ["--override-kv", f"{key}=int:{value}", *(plan.flags if plan else [])]


def _taken(args: argparse.Namespace, layout: Layout) -> bool:
    """Whether OUT.gguf is to be taken for written; raises a GgufError if something else has its name.

    A file gets its name only when it is complete, so the head and the size tell.
    """
    if not (args.resume and args.out.exists()):
        return False
    if not same_head(args.out, layout):
        raise GgufError(f"{args.out}: exists already and is not what would be written; remove it or name another file")
    return True


def _outlook(args: argparse.Namespace, source: Source, layout: Layout) -> str:
    """Say that OUT.gguf is there or what it takes of the disk; raises a GgufError if it could not be written."""
    if _taken(args, layout):
        return f"{args.out}: is there already as it would be written"
    check_output(args.out, [] if is_remote(args.dual) else [Path(args.dual)], args.force)
    return check_space(args.out, layout.nbytes, source.begun(args.out))


def _write(args: argparse.Namespace, source: Source, selection: Selection) -> int:
    """Write the selection and return the file's size; local files are compared with a manifest on request only."""
    remote, manifest = is_remote(args.dual), None
    if remote or args.verify or args.manifest:
        manifest = find_manifest(source, args.manifest)
    if manifest is None and (remote or args.verify):
        log.warning(
            "%s: no manifest.json: %s", source.where, "not verified" if remote else "compared with the twin only"
        )
    layout = plain_layout(source.twin, selection)
    taken, verify = _taken(args, layout), args.verify or args.manifest not in (None, "none")
    with live_progress() as progress:
        output = Output(selection, args.out, args.force, manifest, verify, progress)
        if not taken:
            return source.write(output)
        if manifest or args.verify:
            source.verify(output, layout, args.out)
    return layout.nbytes
