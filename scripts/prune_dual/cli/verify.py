"""The command `verify`: whether a downloaded release is what its manifest says, and who signed that."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import GgufError, amount
from ..manifest.release import find_faults, read_manifest
from ..manifest.signature import check_signature
from ..progress import live_progress
from .arguments import Parser, folder_path
from .output import complain, one_line, say


def run_verify(argv: Sequence[str]) -> None:
    """Run `prune-dual verify`; raises GgufError if something is not as released."""
    parser = Parser(
        prog="prune-dual verify", description="Check a downloaded release: every file against manifest.json."
    )
    parser.add_argument(
        "folder", nargs="?", type=folder_path, metavar="FOLDER", help="the release (beside this program)"
    )
    parser.add_argument("--present", action="store_true", help="check the files that are there; none is missed")
    parser.add_argument(
        "--key", help="who must have signed it: a minisign public key or its file, or a GPG fingerprint"
    )
    args = parser.parse_args(argv)
    folder = args.folder or Path(sys.argv[0]).resolve().parent
    manifest = read_manifest(folder)
    signed = check_signature(folder, args.key)
    with live_progress() as progress:
        faults = find_faults(folder, manifest, present=args.present, progress=progress)
    for fault in faults:
        complain(fault)
    if faults:
        raise GgufError(f"{folder}: {len(faults)} of {len(manifest.files)} files are not as released")
    checked = [entry for entry in manifest.files if (folder / entry.name).is_file()]
    if not checked:
        raise GgufError(
            f"{folder}: of the {len(manifest.files)} files of the manifest none is there, so none was checked"
        )
    size = amount(sum(entry.bytes for entry in checked))
    lines = [one_line(f"{folder}: {len(checked)} of {len(manifest.files)} files are as released, {size}")]
    say("\n".join(lines + ([one_line(signed)] if signed else [])))
